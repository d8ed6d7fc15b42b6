"""What is noted of a session while it goes on, and told to its observer.

Invariants:

1. What a peer said, and every repair, is told from here and from nowhere else.
2. What belongs to AUTH is never told, nor what may: a line that no receiver may see, an unknown command behind that
   or behind AUTH, and what a receiver says to these.
3. Mail data are told as counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.session.record import MOST_REPAIRS_KEPT, Repair
from shimproxy.smtp.command import Command, Verb

if TYPE_CHECKING:
    from shimproxy.session.record import Observer, SessionRecord
    from shimproxy.smtp.catalogue import Violation
    from shimproxy.smtp.reply import Reply

FIRST_COMMAND = "first command"
AFTER_421 = "after 421"
_OF_SECRETS = (Verb.AUTH, Verb.OTHER)


@attrs.define(eq=False)
class Notes:
    """The notes of one session."""

    record: SessionRecord
    observer: Observer
    phase: str = "greeting"
    """What the session is doing, for the record."""
    telling: bool = attrs.field(init=False)
    """Whether the observer wants the dialogue."""
    secret: bool = False
    """Whether what is said may belong to AUTH."""

    def __attrs_post_init__(self) -> None:
        self.telling = self.observer.wants_dialogue

    def heard(self, command: Command) -> None:
        """The sender gave a command."""
        verb = command.verb
        hidden = command.refused or not command.forwardable
        if verb is Verb.AUTH or (hidden and verb is Verb.OTHER):
            self.secret = True
        if command.violation:
            self.repaired(command.violation, verb=verb.value, octets=len(command.line))
        if self.telling:
            hidden = hidden or (self.secret and verb in _OF_SECRETS)
            line = b"%s (%d octets)" % (verb.value.encode(), len(command.line)) if hidden else command.line
            self.observer.said(self.record, "sender", line)

    def forwarded(self, verb: Verb) -> None:
        """The receiver is given a command: what it says from now on may belong to that, and to no earlier one."""
        if verb not in _OF_SECRETS:
            self.secret = False

    def heard_mail_data(self, octets: int) -> None:
        """The sender gave mail data."""
        if self.telling:
            self.observer.said(self.record, "sender", b"(%d octets of mail data)" % octets)

    def said(self, who: str, reply: Reply) -> None:
        """`who` gave a reply."""
        if self.telling:
            hidden = self.secret and who == "receiver"
            self.observer.said(self.record, who, b"%d ..." % reply.code if hidden else reply.octets)

    def repaired(self, violation: Violation, **detail: int | str | bytes) -> None:
        """Count a repair and tell of it."""
        if self.secret:
            detail = {name: b"..." if isinstance(value, bytes) else value for name, value in detail.items()}
        record, repair = self.record, Repair(violation, self.phase, detail)
        record.repairs[violation] += 1
        if len(record.first_repairs) < MOST_REPAIRS_KEPT:
            record.first_repairs.append(repair)
        self.observer.repaired(record, repair)

    def ended(self, who: str) -> None:
        """`who` has ended the session; only the first time counts."""
        if self.record.ended_by == "-":
            self.record.ended_by, self.record.ended_in = who, self.phase
