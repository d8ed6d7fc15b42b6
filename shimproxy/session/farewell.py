"""Taking leave of a receiver that has spoken in mail data, has gone, or is out of step.

Invariants:

1. Nothing more is written to the leg (guarantee 6).
2. A receiver that may be in the midst of a mail which it has not refused is never sent FIN, which a lax one takes
   for the mail's end: it is heard out and reset (guarantee 5). Any other has a half-close, a bounded linger, a reset.
3. The verdict is the first 4yz or 5yz; a 2yz never becomes one (guarantees 2 and 3).
4. A later reply is dropped; of those, a 421 is kept for the sender's next command.

It runs beside the session, which drains the sender meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.net.leg import Parted
from shimproxy.session.record import FurtherReplies
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.net.watch import Watch
    from shimproxy.session.limits import Deadlines
    from shimproxy.session.record import Tell
    from shimproxy.smtp.reply import Reply, ReplyReader


@attrs.define(eq=False)
class Farewell:
    """One receiver leg on its way out, and what it still says."""

    leg: Leg
    _replies: ReplyReader
    _deadlines: Deadlines
    _repaired: Tell
    _in_mail: bool
    """Whether the receiver may be in the midst of a mail."""
    decided: Reply | None = None
    """The first 4yz or 5yz; before there is one, the first 2yz."""
    last_421: Reply | None = None
    _further: FurtherReplies = attrs.field(factory=FurtherReplies)
    _settled: trio.Event = attrs.field(factory=trio.Event)
    _over: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, watch: Watch) -> None:
        """Take leave; ends within the linger deadlines."""
        leg, idle_seconds, total_seconds = self.leg, self._deadlines.linger_idle, self._deadlines.linger_total
        leg.watch = watch
        try:
            self._hear(b"")
            if not self._harmless:
                await leg.linger(idle_seconds, total_seconds, self._hear, lambda: self._harmless)
                self._hear_cut_off()
            if self._harmless:
                parted = await leg.part(idle_seconds, total_seconds, self._hear)
                self._hear_cut_off()
                if parted is Parted.LINGERED_OUT:
                    self._repaired(Violation.NO_CLOSE, leg="receiver")
            self._further.tell(self._repaired)
        finally:
            leg.reset()
            watch.close()
            self._settled.set()
            self._over.set()

    def hear_reply(self, reply: Reply) -> None:
        """Take a reply of the receiver into account."""
        for violation in reply.violations:
            self._repaired(violation, reply=reply.octets)
        if reply.code == 421:
            self.last_421 = reply
        decided = self.decided
        if (reply.refuses and not (decided and decided.refuses)) or (reply.severity == 2 and decided is None):
            self.decided = reply
            self._settled.set()
        else:
            self._further.count(reply)

    async def verdict(self) -> Reply | None:
        """The reply that decided, as soon as there is one; None if the receiver ended without."""
        await self._settled.wait()
        return self.decided

    async def over(self) -> None:
        """Return when the leg is closed; nobody needs a verdict any more."""
        if not self._harmless:
            self.leg.watch.interrupt()
        await self._over.wait()

    @property
    def _harmless(self) -> bool:
        """Whether no mail can come of a FIN."""
        return not self._in_mail or (self.decided is not None and self.decided.refuses)

    def _hear(self, octets: bytes) -> None:
        self._replies.feed(octets)
        while reply := self._replies.next_reply():
            self.hear_reply(reply)

    def _hear_cut_off(self) -> None:
        if cut_off := self._replies.cut_off():
            self.hear_reply(cut_off)
