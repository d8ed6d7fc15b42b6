"""The sender leg: the commands that come from it, and the replies that go to it.

Replies that follow one another at once are written together, before anything is waited for. It does not know what a
reply answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.session.notes import AFTER_421
from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.session.limits import Deadlines
    from shimproxy.session.notes import Notes
    from shimproxy.smtp.command import CommandReader
    from shimproxy.smtp.reply import Own


@attrs.define(eq=False)
class Sender:
    """The sender's side of a session."""

    leg: Leg
    commands: CommandReader
    notes: Notes
    _deadlines: Deadlines
    enhanced_codes: bool = False
    """Whether the EHLO reply that it was given offers enhanced status codes (RFC 2034)."""
    told_421: bool = False
    """Whether it was told that the session ends."""
    _unsaid: bytes = b""

    def __attrs_post_init__(self) -> None:
        if self.notes.tracer:
            self.notes.tracer.follow_sender(self.leg, lambda: len(self.commands.ahead))

    def put(self, reply: Reply | Own) -> None:
        """Relay a reply octet for octet, or give one of the shim's own, with those that follow at once; see `pour`."""
        notes = self.notes
        given = reply if isinstance(reply, Reply) else reply.enhanced if self.enhanced_codes else reply.plain
        if notes.telling:
            notes.answers(given, own=given is not reply)
        notes.record.replies[given.code // 100] += 1
        if given.code == 421:
            notes.phase = AFTER_421
            self.told_421 = True
        self._unsaid = self._unsaid + given.octets if self._unsaid else given.octets

    @property
    def unsaid_octets(self) -> int:
        """How much was put and is not written."""
        return len(self._unsaid)

    def pour_now(self) -> bool:
        """Write what was put, as far as it is taken at once; whether that was all. Raises LegBroken."""
        octets = self._unsaid
        if octets:
            self._unsaid = octets[self.leg.send_now(octets) :]
        return not self._unsaid

    async def pour(self) -> None:
        """Write what was put. Raises LegBroken, DeadlinePassed, Interrupted."""
        if not self.pour_now():
            octets, self._unsaid = self._unsaid, b""
            self.leg.watch.allow(self._deadlines.command, "the sender taking a reply")
            await self.leg.write_on(octets, 0)

    async def say(self, reply: Reply | Own) -> None:
        """Give a reply now. Raises LegBroken, DeadlinePassed, Interrupted."""
        self.put(reply)
        await self.pour()
