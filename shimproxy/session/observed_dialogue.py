"""What two peers say to each other while shimproxy passes it on unchanged: read from copies, and told as it is seen.

Invariants:

1. It alters nothing and answers nothing. What is never let through ends the session before it is passed on.
2. Replies are paired with what they answer by count, in order, as a sender pairs them.
3. It reads as the sender must be read: behind DATA, AUTH and STARTTLS only once it is known what they were answered.

It does not wait. What it cannot see is what depends on time, on a receiver that has got more than it was sent, or on
what either peer makes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.net.tap import Ended
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.observed_mail import ObservedMail
from shimproxy.session.observed_sender import ObservedSender, SenderReads
from shimproxy.session.phase import SessionPhase, conduct
from shimproxy.session.replies import NOT_LET_THROUGH
from shimproxy.session.trace import EARLY, UNASKED
from shimproxy.session.tracer import IN_PART
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import DATA, HELLOS, Verb, command_from_line
from shimproxy.smtp.dialogue import (
    ANSWERS,
    OUT_OF_STEP,
    NextRead,
    ReplyTo,
    Verdict,
    about_mail_data,
    is_greeting_again,
    ruling,
)
from shimproxy.smtp.ehlo import keywords

if TYPE_CHECKING:
    from shimproxy.smtp.reply import Reply


@attrs.define(eq=False)
class ObservedDialogue(ObservedSender):
    """The dialogue of one session, as far as it can be told from both directions."""

    def receiver_said(self, octets: bytes) -> None:
        """Take what the receiver said."""
        self._receiver_octets += len(octets)
        if self._is_opaque:
            return
        self.replies.feed(octets)
        while reply := self.replies.next_reply():  # behind the one to STARTTLS there is none, or it ends the session
            self._hear_reply(reply)
        if not self._is_opaque:
            self._trace_reply(b"", self._receiver_octets, IN_PART)

    def _hear_reply(self, reply: Reply) -> None:
        events, outstanding = self.events, self._outstanding
        answered: Verb | ObservedMail | None = outstanding[0] if outstanding else None
        is_early = isinstance(answered, ObservedMail) and not self._has_arrived(answered)
        if events.telling:
            what = f"answers {answered or ReplyTo.GREETING}"
            again = self._greeted and answered is None
            remark = EARLY if is_early or (again and self.in_mail_data) else UNASKED if again else what
            events.heard_reply(self.receiver, reply, remark)
            text = b"%d ..." % reply.code if events.secret else reply.octets
            self._trace_reply(text, self._receiver_octets - len(self.replies.unread))
        for violation in reply.violations:
            events.repaired(violation, reply=reply.octets)
        events.record.replies[reply.code // 100] += 1
        if reply.code == 421:
            self._is_over = True
        if not self._greeted:
            self._hear_greeting(reply)
        elif answered is None or is_greeting_again(answered, reply):
            self._hear_unasked(reply)
        elif isinstance(answered, ObservedMail):
            self._hear_verdict(answered, reply, is_early=is_early)
        else:
            if events.mails:
                events.mails.answered(reply, own=False)
            self._hear_answer(answered, reply)
        self._read()

    def _hear_greeting(self, reply: Reply) -> None:
        self._greeted = True
        if ruling(ReplyTo.GREETING, reply) is OUT_OF_STEP:
            self.events.repaired(Violation.NO_GREETING, said=reply.octets, waited_for="")
        if not self._has_talked_early:
            self.events.phase = SessionPhase.FIRST_COMMAND

    def _hear_unasked(self, reply: Reply) -> None:
        if self.in_mail_data:
            self.events.repaired(Violation.FURTHER_REPLY, count=1, first=reply.octets)
        elif reply.code != 421:
            self.events.repaired(Violation.EXTRA_REPLY, count=1, first=reply.octets)

    def _has_arrived(self, mail: ObservedMail) -> bool:
        """Whether the receiver's host has acknowledged the end of these mail data."""
        if mail.ends_at is None:
            return False
        arrived_octets = self.receiver.octets_out - self.receiver.unacknowledged_octets
        return about_mail_data(ended=True, unacknowledged_octets=max(0, mail.ends_at - arrived_octets)) is (
            ReplyTo.END_OF_DATA
        )

    def _hear_verdict(self, mail: ObservedMail, reply: Reply, *, is_early: bool) -> None:
        events = self.events
        what = ReplyTo.IN_MAIL_DATA if is_early else ReplyTo.END_OF_DATA
        verdict, _ = ruling(what, reply)
        if verdict is Verdict.DROP:
            events.repaired(Violation.FURTHER_REPLY, count=1, first=reply.octets)
            return
        if verdict is Verdict.OUT_OF_STEP:
            events.repaired(Violation.IMPLAUSIBLE_REPLY, reply=reply.octets)
        elif is_early:
            name = Violation.EARLY_REPLY if reply.refuses else Violation.EARLY_SUCCESS
            events.repaired(name, code=reply.code, reply=reply.octets, octets_forwarded=self.receiver.octets_out)
        if self._gone:
            events.repaired(Violation.VERDICT_UNREAD, code=reply.code, how=self._gone.value)
            self._gone = None
        if events.mails:
            events.mails.answered(reply, own=False)
        mail.accepted = mail.accepted or reply.kind == 2
        mail.due -= 1
        if mail.due:
            return
        self._outstanding.popleft()
        mail.answered_early = mail.ends_at is None
        if mail.last:
            events.record.transactions += 1
            events.record.accepted += mail.accepted
            self._recipients = 0
        if not mail.answered_early:
            events.phase = SessionPhase.BETWEEN_MAILS if mail.last else SessionPhase.BETWEEN_CHUNKS

    def _hear_answer(self, verb: Verb, reply: Reply) -> None:
        events = self.events
        verdict, then = ruling(ANSWERS[verb], reply)
        if verdict is Verdict.OUT_OF_STEP:
            events.repaired(Violation.IMPLAUSIBLE_REPLY, reply=reply.octets)
        self._outstanding.popleft()
        accepted = reply.kind == 2
        if verb in (Verb.MAIL, Verb.RSET) and accepted:
            self._recipients = 0
        elif verb is Verb.RCPT:
            self._recipients += accepted
        if verb in HELLOS and accepted and b"CHUNKING" in keywords(reply):
            self._takes_chunks = True
        if verb is Verb.AUTH and reply.refuses:
            events.login_refused(reply)
        self._is_over = self._is_over or (verb is Verb.QUIT and reply.severity == 2)
        if self._outstanding or self._reads is not SenderReads.UNDECIDED:
            return
        match then:
            case NextRead.MAIL_DATA:
                self._begin(ObservedMail(self.policy.newlines))
            case NextRead.AUTH_RESPONSE:
                self._reads = SenderReads.RESPONSE
            case NextRead.TLS:
                self._pass_unread()
            case _:
                self._reads = SenderReads.COMMANDS
                if verb is DATA and self.commands.ahead:
                    self._look_for_mail_data()

    def _look_for_mail_data(self) -> None:
        """DATA was refused, and the sender has said more already: see whether that is its next command."""
        octets = self.commands.ahead
        if b"\n" in octets and not command_from_line(octets[: octets.index(b"\n") + 1]).known:
            self.events.repaired(Violation.DATA_WITHOUT_354, octets=len(octets))

    def _pass_unread(self) -> None:
        """The peers speak TLS with each other from here on."""
        events = self.events
        self._reads = SenderReads.NOTHING
        if self.replies.unread:
            octets = len(self.replies.unread)
            events.repaired(Violation.PLAINTEXT_BEHIND_STARTTLS, leg="receiver", octets=octets)
            raise SessionEnded(Closing.BY_SHIM, NOT_LET_THROUGH)
        events.phase = SessionPhase.OPAQUE
        events.record.sender_tls = events.record.receiver_tls = "opaque"
        if events.tracer:
            events.tracer.passes_unread()

    def receiver_ended(self, how: Ended) -> None:
        """The receiver has closed or reset its connection.

        Raises SessionEnded if it was to say how something is to be read that may not be let through.
        """
        events = self.events
        self._receiver_has_ended = True
        if cut_off := self.replies.cut_off():
            self._hear_reply(cut_off)
        first = self._outstanding[0] if self._outstanding else None
        mail = self._mail if self.in_mail_data else first
        if not self._greeted:
            events.repaired(Violation.NO_GREETING, said=b"", waited_for="")
        elif isinstance(mail, ObservedMail):
            name = Violation.RESET_IN_DATA if how is Ended.RST else Violation.CLOSED_IN_DATA
            events.repaired(name, octets_forwarded=self.receiver.octets_out)
        elif first is Verb.QUIT:
            events.repaired(Violation.NO_221, to=str(first))
        elif first:
            events.repaired(Violation.CLOSED_WITH_COMMANDS_OPEN, to=str(first), commands=len(self._outstanding))
        elif not (self._is_over or self._reads is SenderReads.NOTHING) and (
            violation := conduct(events.phase).receiver_disconnects
        ):
            events.repaired(violation, how=how.value)
        events.ended(Closing.BY_SENDER if self._is_over and events.phase is Verb.QUIT else Closing.BY_RECEIVER)
        if self._reads is SenderReads.UNDECIDED:
            if self.undecided_octets:
                raise SessionEnded(Closing.BY_SHIM, NOT_LET_THROUGH)
            self._reads = SenderReads.NOTHING
