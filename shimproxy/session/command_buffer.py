"""Commands on their way to a receiver: those that follow each other at once are written together (RFC 2920).

Invariants:

1. While the receiver takes no more commands, what it says is read: it may wait for that (RFC 2920 section 3.1).
2. What a receiver that has ended, or whose leg is broken, has not taken is forgotten: it answers nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import LegBroken

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.smtp.reply import ReplyReader


@attrs.define(eq=False)
class CommandBuffer:
    """What one receiver leg has not taken yet of its commands."""

    leg: Leg
    replies: ReplyReader
    """Where what is read goes meanwhile."""
    unwritten: bytes = b""
    """Whole lines, but for the first one."""

    def flush_now(self) -> bool:
        """Write what was queued, as far as it is taken at once; whether that was all.

        A receiver that takes no more may have left last words, which are still to be read.
        """
        octets = self.unwritten
        if octets:
            try:
                self.unwritten = octets[self.leg.send_now(octets) :]
            except LegBroken:
                self.unwritten = b""
        return not self.unwritten

    async def flush(self) -> None:
        """Write what was queued; as `flush_now`. Raises DeadlinePassed, Interrupted."""
        while not self.flush_now():
            await self.wait()

    async def wait(self) -> None:
        """Wait until more may be taken; what is said meanwhile is at hand. Raises DeadlinePassed, Interrupted."""
        leg, replies = self.leg, self.replies
        if leg.ended:
            self.unwritten = b""  # it answers nothing more
        elif len(replies.unread) >= replies.limit_octets:
            await leg.takes()
        else:
            # A receiver may take no more commands before its replies to the first of them are read.
            await leg.takes_or_speaks()
            if octets := leg.look():
                replies.feed(octets)

    @property
    def waiting(self) -> int:
        """How many commands have not been written to their end."""
        return self.unwritten.count(b"\n")
