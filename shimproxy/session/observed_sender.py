"""The sender of a session that is only observed: its commands and mail data, read from copies.

It reads as the sender must be read: behind DATA, AUTH and STARTTLS only once it is known what they were answered, which
observed_dialogue.py knows. What is never let through ends the session before it is passed on.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.session.claim import ClaimInChunk, claim_in
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.observed_mail import ObservedMail
from shimproxy.session.phase import SessionPhase, conduct
from shimproxy.session.replies import BAD_NEWLINES, NOT_LET_THROUGH, NOT_SMTP
from shimproxy.session.trace import Kind
from shimproxy.session.tracer import IN_PART
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import DATA, NEVER_LET_THROUGH, Command, Verb, chunk_of, command_from_line
from shimproxy.smtp.newlines import Newlines

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.net.tap import Ended
    from shimproxy.session.policy import Policy
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.command import CommandReader
    from shimproxy.smtp.reply import ReplyReader

_STRAY: Final = (Violation.BARE_NEWLINE, Violation.UNKNOWN_OCTETS)


class SenderReads(enum.Enum):
    """How the sender is read next."""

    COMMANDS = enum.auto()
    RESPONSE = enum.auto()
    """Within AUTH."""
    MAIL_DATA = enum.auto()
    UNDECIDED = enum.auto()
    """It depends on a reply that has not come."""
    NOTHING = enum.auto()
    """TLS, or what nobody can tell any more."""


@attrs.define(eq=False)
class ObservedSender:
    """What one sender says, and what is outstanding of it."""

    commands: CommandReader
    replies: ReplyReader
    events: SessionEvents
    policy: Policy
    receiver: Leg
    sender_octets: int = 0
    """What the sender has said."""
    _receiver_octets: int = 0
    _traced_from_sender: int = 0
    """How much of that the trace is told of, as something that the other peer is to be given."""
    _traced_from_receiver: int = 0
    _reads: SenderReads = SenderReads.COMMANDS
    _outstanding: deque[Verb | ObservedMail] = attrs.field(factory=deque)
    _mail: ObservedMail | None = None
    """The last mail data that have begun."""
    _recipients: int = 0
    _takes_chunks: bool = False
    """Whether the receiver has offered CHUNKING."""
    _claim: ClaimInChunk = attrs.field(factory=ClaimInChunk)
    """What is looked for in a chunk that it has not offered to take."""
    _greeted: bool = False
    _has_talked_early: bool = False
    _is_over: bool = False
    """Whether it was said that the session ends: by QUIT and its reply, or by 421."""
    _gone: Ended | None = None
    """How the sender has gone while a verdict was outstanding."""
    _receiver_has_ended: bool = False

    @property
    def in_mail_data(self) -> bool:
        """Whether the sender is in the midst of mail data."""
        return self._reads is SenderReads.MAIL_DATA

    @property
    def undecided_octets(self) -> int:
        """How many of the last octets of the sender may not be passed on before the next is known.

        A CR behind a dot alone on its line is part of the end of mail data, or that of a smuggler; and a command that
        is never let through may be on its way. What comes behind DATA and AUTH is such a command if that is refused.
        """
        ahead = self.commands.ahead
        if ahead and self._reads is SenderReads.COMMANDS:
            word, *more = ahead.upper().split(None, 1) or (b"",)
            is_whole = bool(more) or ahead[-1:].isspace()
            may_be = word in NEVER_LET_THROUGH if is_whole else any(each.startswith(word) for each in NEVER_LET_THROUGH)
            return len(ahead) if may_be else 0
        if ahead and self._reads is SenderReads.UNDECIDED:
            found = claim_in(ahead)
            return len(ahead) - found.start() if found else 0
        if not (self.in_mail_data and self._mail):
            return 0
        return self._mail.undecided_octets if self._mail.kind is Kind.MAIL_DATA else self._claim.undecided_octets

    @property
    def takes_no_more(self) -> bool:
        """Whether the receiver is to reply before more of the sender is read."""
        limits = self.policy.limits
        if len(self._outstanding) >= limits.outstanding_commands:
            return not self._receiver_has_ended
        if self._reads is not SenderReads.UNDECIDED:
            return False
        return len(self.commands.ahead) >= limits.held_octets or self.undecided_octets > 0

    @property
    def at_rest(self) -> bool:
        """Whether nothing is outstanding or half said."""
        rests = self.events.phase in (SessionPhase.BETWEEN_MAILS, SessionPhase.FIRST_COMMAND)
        return rests and not self._outstanding and not self.commands.ahead and self._reads is SenderReads.COMMANDS

    @property
    def waits_for_receiver(self) -> bool:
        """Whether the receiver owes a reply."""
        return bool(self._outstanding) or not self._greeted

    @property
    def _is_opaque(self) -> bool:
        """Whether the peers speak TLS with each other."""
        return self.events.phase is SessionPhase.OPAQUE

    # -- the sender

    def sender_said(self, octets: bytes) -> None:
        """Take what the sender said. Raises SessionEnded if it is not to be let through."""
        self.sender_octets += len(octets)
        if not (self._greeted or self._has_talked_early):
            self._has_talked_early = True
            self.events.repaired(Violation.EARLY_TALK, octets=len(octets), early_talk=self.policy.early_talk.value)
        self.commands.feed(octets)
        self._read()
        self._trace_command(b"", self.sender_octets, IN_PART)

    def _trace_command(self, text: bytes | None, until: int, remark: str = "") -> None:
        """Tell the trace what the receiver is to be given next; mail data without a text."""
        octets, self._traced_from_sender = until - self._traced_from_sender, until
        tracer = self.events.tracer
        if tracer and octets and self._reads is not SenderReads.NOTHING:
            tracer.receiver.passes(octets) if text is None else tracer.receiver.gives(text, octets, remark)

    def _trace_reply(self, text: bytes, until: int, remark: str = "") -> None:
        """Tell the trace what the sender is to be given next."""
        octets, self._traced_from_receiver = until - self._traced_from_receiver, until
        if self.events.tracer and octets:
            self.events.tracer.sender.gives(text, octets, remark)

    def discard(self, octets: bytes) -> None:
        """Take mail data of which nothing is passed on any more, up to their end."""
        self.sender_octets += len(octets)
        assert self._mail is not None
        end = self._mail.take(octets)
        if self.events.tracer:
            self.events.tracer.takes(self._mail.kind, octets[:end], ended=end is not None)
        if end is not None:
            self._reads = SenderReads.NOTHING

    def _read(self) -> None:
        while True:
            match self._reads:
                case SenderReads.COMMANDS:
                    command = self.commands.next_command()
                    if command is None:
                        return
                    self._hear(command)
                case SenderReads.RESPONSE:
                    response = self.commands.next_response()
                    if response is None:
                        return
                    self.events.heard_response(response)
                    self._trace_command(b"AUTH ...", self.sender_octets - len(self.commands.ahead))
                    self._outstanding.append(Verb.AUTH)
                    self._reads = SenderReads.UNDECIDED
                case SenderReads.MAIL_DATA:
                    if not self.commands.ahead:
                        return
                    self._take(self.commands.take_ahead())
                case SenderReads.UNDECIDED:
                    if self.commands.ahead and self._outstanding and self._outstanding[-1] is Verb.STARTTLS:
                        octets = len(self.commands.ahead)
                        self.events.repaired(Violation.PLAINTEXT_BEHIND_STARTTLS, leg="sender", octets=octets)
                        raise SessionEnded(Closing.BY_SHIM, NOT_LET_THROUGH)
                    return
                case _:
                    self.commands.take_ahead()
                    return

    def _hear(self, command: Command) -> None:
        events, verb = self.events, command.verb
        line = command.line
        if command.violation is None and (line[-2:] != b"\r\n" or b"\r" in line[:-2] or b"\0" in line):
            judged = command_from_line(command.line, self.policy.newlines)
            command = attrs.evolve(command, violation=judged.violation, forwardable=judged.forwardable)
        events.heard(command)
        if events.mails:
            events.mails.heard(command)
            events.mails.follow()  # what the receiver has said by now is counted elsewhere
        if command.foreign:
            raise SessionEnded(Closing.BY_SHIM, NOT_SMTP)
        if command.refused:
            events.withheld(command.word)
            raise SessionEnded(Closing.BY_SHIM, NOT_LET_THROUGH)
        if command.violation in _STRAY and self.policy.newlines is Newlines.REJECT:
            raise SessionEnded(Closing.BY_SHIM, NOT_LET_THROUGH)
        events.phase = verb
        events.forwarded(verb)
        if events.tracer:
            hidden = verb is Verb.AUTH or (events.secret and verb is Verb.OTHER)
            text = command.word.encode() + b" ..." if hidden else command.line
            self._trace_command(text, self.sender_octets - len(self.commands.ahead))
        if verb is Verb.BDAT:
            self._begin_chunk(command)
            return
        if self._receiver_has_ended:
            return  # there are no replies any more
        self._outstanding.append(verb)
        if verb in (DATA, Verb.AUTH, Verb.STARTTLS):
            self._reads = SenderReads.UNDECIDED

    def _begin_chunk(self, command: Command) -> None:
        chunk = chunk_of(command.line)
        if chunk is None:
            self.events.repaired(Violation.CHUNK_OF_NO_SIZE, said=command.line)
            self._outstanding.append(Verb.BDAT)
            self._reads = SenderReads.NOTHING
            return
        self._claim = ClaimInChunk()
        self._begin(ObservedMail(self.policy.newlines, chunk.size_octets, chunk.last))
        if not chunk.size_octets:
            self._take(b"")

    def _begin(self, mail: ObservedMail) -> None:
        self._mail = mail
        if self.policy.lmtp and mail.last:
            mail.due = max(1, self._recipients)
        if not self._receiver_has_ended:
            self._outstanding.append(mail)
        self._reads = SenderReads.MAIL_DATA
        self.events.phase = SessionPhase.MAIL_DATA

    def _take(self, octets: bytes) -> None:
        """Mail data, and what may come after them. Raises SessionEnded if they are not to be let through."""
        mail, events = self._mail, self.events
        assert mail is not None
        end = mail.take(octets)
        part = octets if end is None else octets[:end]
        if mail.kind is Kind.CHUNK and not self._takes_chunks:
            self._refuse_claim(self._claim.take(part, ended=end is not None))
        if events.mails and mail.kind is Kind.MAIL_DATA:
            events.mails.took(len(part) - (len(b".\r\n") if end is not None else 0))
        if events.tracer:
            events.tracer.takes(mail.kind, part, ended=end is not None)
        self._trace_command(None, self.sender_octets - (len(octets) - len(part)))
        if end is not None:
            mail.ends_at = self.sender_octets - (len(octets) - end)
            self._reads = SenderReads.COMMANDS
            events.phase = SessionPhase.END_OF_MAIL_DATA
            events.heard_mail_data(mail.octets)
        if (end is not None or mail.is_refused) and (seen := mail.stray_seen):
            events.repaired(Violation.BARE_NEWLINE, **seen)
        if mail.is_refused:
            raise SessionEnded(Closing.BY_SHIM, BAD_NEWLINES)
        if end is not None:
            if mail.answered_early:
                events.phase = SessionPhase.BETWEEN_MAILS
            self.commands.feed(octets[end:])

    def _refuse_claim(self, word: str) -> None:
        """Raise SessionEnded for what a receiver that knows no chunks would take for such a command."""
        if word:
            self._reads = SenderReads.NOTHING
            self.events.withheld(word)
            raise SessionEnded(Closing.BY_SHIM, NOT_LET_THROUGH)

    def sender_ended(self, how: Ended) -> None:
        """The sender has closed or reset its connection."""
        events, mail = self.events, self._mail
        events.ended(Closing.BY_SENDER)
        over = self._is_over or self._receiver_has_ended or self._reads is SenderReads.NOTHING
        if over or conduct(events.phase).closing:
            return
        if self.in_mail_data and mail:
            events.repaired(Violation.VANISHED_IN_DATA, how=how.value, octets=mail.octets)
        elif self._outstanding and isinstance(self._outstanding[0], ObservedMail):
            self._gone = how
        elif events.phase is SessionPhase.BETWEEN_MAILS:
            events.repaired_a_habit(Violation.CLOSED_WITHOUT_QUIT, how=how.value)
        else:
            events.repaired(Violation.CLOSED_WITHOUT_QUIT, how=how.value)
