"""The sender leg: the commands that come from it, and the replies that go to it.

It does not know what a reply answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.session.notes import AFTER_421
from shimproxy.smtp.reply import Own

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.session.limits import Deadlines
    from shimproxy.session.notes import Notes
    from shimproxy.smtp.command import CommandReader
    from shimproxy.smtp.reply import Reply


@attrs.define(eq=False)
class Sender:
    """The sender's side of a session."""

    leg: Leg
    commands: CommandReader
    notes: Notes
    _deadlines: Deadlines

    async def say(self, reply: Reply | Own) -> None:
        """Relay a reply octet for octet, or give one of the shim's own.

        Raises LegBroken, DeadlinePassed, Interrupted.
        """
        notes = self.notes
        if isinstance(reply, Own):
            reply = reply.reply
            if notes.telling:
                notes.said("shim", reply)
        if reply.code == 421:
            notes.phase = AFTER_421
        leg, octets = self.leg, reply.octets
        taken_octets = leg.send_now(octets)
        if taken_octets < len(octets):
            leg.watch.allow(self._deadlines.command, "the sender taking a reply")
            await leg.write_on(octets, taken_octets)
