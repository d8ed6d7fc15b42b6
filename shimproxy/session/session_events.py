"""What is noted of a session while it goes on, told to its observer, and written into its trace.

Invariants:

1. What a peer said, and every repair, is told from here and from nowhere else.
2. What belongs to AUTH is never told, nor what may: a line that no receiver may see, an unknown command behind that
   or behind AUTH, and what a receiver says to these.
3. Mail data are told as counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.session.advice import AdviceObserver
from shimproxy.session.phase import SessionPhase
from shimproxy.session.record import LoginObserver, Repair
from shimproxy.session.trace import OWN
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Command, Verb

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.session.advice import Advice
    from shimproxy.session.closing import Closing
    from shimproxy.session.mail_account import MailAccount
    from shimproxy.session.phase import Phase
    from shimproxy.session.record import Observer, SessionRecord
    from shimproxy.session.reply_times import SessionReplyTimes
    from shimproxy.session.tracer import Tracer
    from shimproxy.smtp.reply import Reply

# From their classes these take ten times as long, in Python 3.11.
_WITHHELD: Final = SessionPhase.WITHHELD
_AUTH: Final = Verb.AUTH
_OTHER: Final = Verb.OTHER
_OF_SECRETS: Final = (_AUTH, _OTHER)
_MECHANISM: Final = re.compile(rb"AUTH[ \t]+([A-Z0-9_-]{1,20})[ \t\r]", re.IGNORECASE).match
_MECHANISMS: Final = frozenset(
    [
        "ANONYMOUS",
        "CRAM-MD5",
        "DIGEST-MD5",
        "EXTERNAL",
        "GS2-KRB5",
        "GSSAPI",
        "LOGIN",
        "NTLM",
        "OAUTHBEARER",
        "PLAIN",
        "SCRAM-SHA-1",
        "SCRAM-SHA-1-PLUS",
        "SCRAM-SHA-256",
        "SCRAM-SHA-256-PLUS",
        "XOAUTH2",
    ]
)
"""What may stand in a log: any other word may be a secret in the wrong place."""


@attrs.define(eq=False)
class SessionEvents:
    """What happens in one session, for its observer, its trace and its record."""

    record: SessionRecord
    observer: Observer
    phase: Phase = SessionPhase.GREETING
    """What the session is doing."""
    _withheld: str = ""
    """The word of the command that was withheld last."""
    tracer: Tracer | None = None
    """Who writes the session's trace, if it has one."""
    reply_times: SessionReplyTimes | None = None
    """How long receivers take, if that is wanted."""
    mails: MailAccount | None = None
    """What became of each mail, if that is wanted."""
    telling: bool = attrs.field(init=False)
    """Whether the dialogue is wanted: by the observer, or for a trace."""
    _observed: bool = attrs.field(init=False)
    _mechanism: str = ""
    """That of the last AUTH."""
    secret: bool = False
    """Whether what is said may belong to AUTH."""
    observes: bool = False
    """Whether violations are only seen, as octets pass as they come."""

    def __attrs_post_init__(self) -> None:
        self._observed = self.observer.wants_dialogue
        self.telling = self._observed or self.tracer is not None
        if self.tracer:
            self.record.trace = self.tracer.notes

    def heard(self, command: Command) -> None:
        """The sender gave a command."""
        verb = command.verb
        hidden = command.refused or not command.forwardable
        if verb is _AUTH or (hidden and verb is _OTHER):
            self.secret = True
            if verb is _AUTH:
                self._mechanism = _mechanism(command.line)
        hidden = hidden or (self.secret and verb in _OF_SECRETS)
        if self.tracer:
            line = command.line
            octets = None if command.violation else len(line)
            self.tracer.sender.heard(_in_short(command) if hidden or verb is _AUTH else line, octets)
        if command.violation:
            self.repaired(command.violation, **command.fault)
        if self.telling and self._observed:
            line = b"%s (%d octets)" % (command.word.encode(), command.octets) if hidden else command.line
            self.observer.said(self.record, "sender", line)

    def turn_begins(self, line: bytes) -> None:
        """The sender gave a command, and the receiver is to be given it; nothing about it is secret or repaired."""
        if self._observed:
            self.observer.said(self.record, "sender", line)
        if tracer := self.tracer:
            octets = len(line)
            tracer.sender.heard(line, octets)
            tracer.receiver.to_be_sent.append((line, octets, ""))

    def turn_ends(self, reply: bytes, remark: str) -> None:
        """The receiver gave a reply, and the sender is to be given it; as `turn_begins`, and `heard_reply`."""
        if self._observed:
            self.observer.said(self.record, "receiver", reply)
        if tracer := self.tracer:
            octets = len(reply)
            tracer.receiver.heard(reply, octets, remark)
            tracer.sender.to_be_sent.append((reply, octets, ""))

    def heard_response(self, response: Command) -> None:
        """The sender gave a response within AUTH, which nobody is told, but for what was wrong with it."""
        if self.tracer:
            self.tracer.sender.heard(_in_short(response), None)
        if response.violation:
            self.repaired(response.violation, verb="AUTH response", octets=response.octets)

    def forwarded(self, verb: Verb) -> None:
        """The receiver is given a command: what it says from now on may belong to that, and to no earlier one."""
        if verb not in _OF_SECRETS:
            self.secret = False

    def gives(self, command: Command) -> None:
        """The receiver is to be given a command, the sender's or the shim's own."""
        if self.tracer:
            line, verb = command.line, command.verb
            hidden = verb is _AUTH or (self.secret and verb is _OTHER)
            self.tracer.receiver.to_be_sent.append((_in_short(command) if hidden else line, len(line), ""))

    def heard_mail_data(self, octets: int) -> None:
        """The sender gave mail data."""
        if self.telling and self._observed:
            self.observer.said(self.record, "sender", b"(%d octets of mail data)" % octets)

    def heard_reply(self, leg: Leg, reply: Reply, remark: str) -> None:
        """A receiver gave a reply; `remark` says what it answers. Called while `telling` alone."""
        text = self._shown(reply) if self.secret else reply.octets
        if self._observed:
            self.observer.said(self.record, "receiver", text)
        if self.tracer:
            octets = None if reply.violations else len(reply.octets)
            self.tracer.receivers[leg].heard(text, octets, remark)

    def heard_dropped(self, leg: Leg, reply: Reply, remark: str) -> None:
        """A receiver gave a reply that is dropped; those are told to the observer together, as a repair."""
        if self.tracer:
            octets = None if reply.violations else len(reply.octets)
            self.tracer.receivers[leg].heard(self._shown(reply), octets, remark)

    def said(self, reply: Reply) -> None:
        """The shim made a reply of its own, or of the receiver's."""
        if self.telling and self._observed:
            self.observer.said(self.record, "shim", reply.octets)

    def answers(self, reply: Reply, *, own: bool) -> None:
        """The sender is to be given a reply, the receiver's or the shim's own."""
        if own:
            self.said(reply)
        if self.tracer:
            text = self._shown(reply) if self.secret and not own else reply.octets
            self.tracer.sender.to_be_sent.append((text, len(reply.as_came or reply.octets), OWN if own else ""))

    def _shown(self, reply: Reply) -> bytes:
        return b"%d ..." % reply.code if self.secret else reply.octets

    def repaired(self, violation: Violation, **detail: int | str | bytes) -> None:
        """Count a repair and tell of it."""
        self._tell(Repair(violation, self._label, self._without_secrets(detail), observed=self.observes))

    def seen(self, violation: Violation, **detail: int | str | bytes) -> None:
        """Count a violation that is passed on as it came, and tell of it."""
        self._tell(Repair(violation, self._label, self._without_secrets(detail), observed=True))

    def _without_secrets(self, detail: dict[str, int | str | bytes]) -> dict[str, int | str | bytes]:
        if not self.secret:
            return detail
        return {name: b"..." if isinstance(value, bytes) else value for name, value in detail.items()}

    def tell_form(self, reply: Reply) -> None:
        """Tell of what is wrong with the form of a reply that is relayed."""
        tell = self.seen if reply.as_came else self.repaired
        for violation in reply.violations:
            tell(violation, reply=reply.octets)

    def repaired_a_habit(self, violation: Violation, **detail: int | str) -> None:
        """Count a minor repair and tell of it."""
        self._tell(Repair(violation, self._label, {**detail}, minor=True, observed=self.observes))

    def _tell(self, repair: Repair) -> None:
        record = self.record
        if self.mails is not None:
            self.mails.follow()
        record.count(repair)
        if self.tracer:
            self.tracer.repaired(repair)
        self.observer.repaired(record, repair)

    def login_refused(self, reply: Reply) -> None:
        """Tell an observer that wants to know of it that the receiver has refused AUTH."""
        if isinstance(self.observer, LoginObserver):
            self.observer.login_refused(self.record, self._mechanism, reply)

    def advised(self, advice: Advice | None) -> None:
        """The receiver may be set up for something else, if there is any advice; the observer may not want to know."""
        if advice and isinstance(self.observer, AdviceObserver):
            self.observer.advised(self.record, advice)

    def withheld(self, verb: str) -> None:
        """A command is for no receiver, although nothing is wrong with it."""
        self.phase, self._withheld = _WITHHELD, verb
        self.repaired(Violation.WITHHELD_COMMAND, verb=verb)

    @property
    def _label(self) -> str:
        """The word for the phase in the log."""
        return self._withheld if self.phase is _WITHHELD else self.phase

    def ended(self, by: Closing) -> None:
        """`by` has ended the session; only the first time counts."""
        if self.record.ended_by == "-":
            self.record.ended_by, self.record.ended_in = by, self._label


def _in_short(command: Command) -> bytes:
    """What a trace says of a command that is hidden, whose octets it counts beside that."""
    return command.word.encode() + b" ..."


def _mechanism(line: bytes) -> str:
    """The mechanism that AUTH names, if it is a known one; else "other"."""
    found = _MECHANISM(line)
    name = found[1].decode().upper() if found else ""
    return name if name in _MECHANISMS else "other"
