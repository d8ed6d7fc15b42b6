"""Taking leave of a receiver that has spoken in mail data, or has gone.

Invariants:

1. Nothing more is written to the leg: a half-close, a bounded linger, a reset (guarantees 6 and 8).
2. The verdict is the first reply that decides: a 4yz or 5yz is relayed, a 2yz never (guarantees 2 and 3).
3. A later reply is dropped; of those, a 421 is kept for the sender's next command.

It runs beside the session, which drains the sender meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.net.leg import Parted
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.leg import Leg
    from shimproxy.net.watch import Watch
    from shimproxy.session.limits import Deadlines
    from shimproxy.smtp.reply import Reply, ReplyReader


@attrs.define(eq=False)
class Farewell:
    """One receiver leg on its way out, and what it still says."""

    leg: Leg
    _replies: ReplyReader
    _deadlines: Deadlines
    _repaired: Callable[..., None]
    decided: Reply | None = None
    """The first 2yz, 4yz or 5yz."""
    last_421: Reply | None = None
    _further_count: int = 0
    _first_further: bytes = b""
    parted: Parted | None = None
    _settled: trio.Event = attrs.field(factory=trio.Event)
    _over: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, watch: Watch) -> None:
        """Take leave; ends within the linger deadlines."""
        self.leg.watch = watch
        try:
            self._hear(b"")
            self.parted = await self.leg.part(self._deadlines.linger_idle, self._deadlines.linger_total, self._hear)
            if cut_off := self._replies.cut_off():
                self.hear_reply(cut_off)
            if self._further_count:
                self._repaired(Violation.FURTHER_REPLY, count=self._further_count, first=self._first_further)
            if self.parted is Parted.LINGERED_OUT:
                self._repaired(Violation.NO_CLOSE, leg="receiver")
        finally:
            self.leg.reset()
            watch.close()
            self._settled.set()
            self._over.set()

    def hear_reply(self, reply: Reply) -> None:
        """Take a reply of the receiver into account."""
        for violation in reply.violations:
            self._repaired(violation, reply=reply.octets)
        if reply.code == 421:
            self.last_421 = reply
        if self.decided is None and reply.severity in (2, 4, 5):
            self.decided = reply
            self._settled.set()
        else:
            # Some receivers send a 500 for each line that is left: one repair for all of them.
            self._further_count += 1
            self._first_further = self._first_further or reply.octets

    async def verdict(self) -> Reply | None:
        """The reply that decided, as soon as there is one; None if the receiver ended without."""
        await self._settled.wait()
        return self.decided

    async def over(self) -> None:
        """Return when the leg is closed."""
        await self._over.wait()

    def _hear(self, octets: bytes) -> None:
        self._replies.feed(octets)
        while reply := self._replies.next_reply():
            self.hear_reply(reply)
