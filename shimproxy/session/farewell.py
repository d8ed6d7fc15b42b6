"""Taking leave of a receiver that has spoken in mail data, has gone, or is out of step.

Invariants:

1. Nothing more is written to the leg (guarantee 6).
2. A receiver that may be in the midst of a mail which it has not refused is never sent FIN, which a lax one takes
   for the mail's end: it is heard out and reset (guarantee 5). Any other has a half-close, a bounded linger, a reset.
3. The verdict is the first 4yz or 5yz; a 2yz never becomes one (guarantees 2 and 3). With LMTP there are as many as
   recipients.
4. A later reply is dropped; of those, a 421 is kept for the sender's next command. Outside mail data, where
   the shim's FIN comes first, it is no violation.

It runs beside the session, which drains the sender meanwhile.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.errors import Interrupted
from shimproxy.net.leg import Parted
from shimproxy.session.record import Dropped
from shimproxy.session.trace import EARLY, LATE
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.leg import Leg
    from shimproxy.net.watch import Watchdog
    from shimproxy.session.limits import Deadlines
    from shimproxy.session.notes import Notes
    from shimproxy.smtp.reply import Reply, ReplyReader


_DECIDE: Final = (2, 4, 5)
"""The severity of replies that say what has become of a mail."""


async def see_off(leg: Leg, deadlines: Deadlines, notes: Notes, heard: Callable[[bytes], None] | None = None) -> None:
    """Half-close a leg with a bounded linger, and note a peer that stays."""
    if await leg.part(deadlines.linger_idle, deadlines.linger_total, heard) is Parted.LINGERED_OUT:
        notes.repaired(Violation.NO_CLOSE, leg=leg.name)


@attrs.define(eq=False)
class Farewell:
    """One receiver leg on its way out, and what it still says."""

    leg: Leg
    _replies: ReplyReader
    _deadlines: Deadlines
    notes: Notes
    _in_mail: bool
    """Whether the receiver may be in the midst of a mail."""
    _decides: bool = True
    """Whether what it says can be the verdict on that."""
    _verdicts_due: int = 1
    decided: list[Reply] = attrs.field(factory=list)
    """The verdicts so far: a 4yz or 5yz, which takes the place of a 2yz; with LMTP one for each recipient, in order."""
    last_421: Reply | None = None
    _further: Dropped = attrs.field(factory=lambda: Dropped(Violation.FURTHER_REPLY))
    _settled: trio.Event = attrs.field(factory=trio.Event)
    _over: trio.Event = attrs.field(factory=trio.Event)

    def begin(self, early: Reply | None) -> None:
        """Hear what the receiver has said so far, `early` first, if that is a verdict."""
        if early and early.severity in _DECIDE:
            self._hear_reply(early)
        elif early:
            self.notes.heard_reply(self.leg, early, EARLY)
        self._hear(b"")

    async def run(self) -> None:
        """Take leave; ends within the linger deadlines."""
        leg, deadlines = self.leg, self._deadlines
        try:
            if not self._harmless:
                with suppress(Interrupted):
                    await leg.linger(deadlines.linger_idle, deadlines.linger_total, self._hear, lambda: self._harmless)
                self._hear_cut_off()
            if self._harmless:
                await see_off(leg, deadlines, self.notes, self._hear)
                self._hear_cut_off()
        finally:
            self._further.tell(self.notes.repaired)
            leg.reset()
            leg.watch.close()
            self._settled.set()
            self._over.set()

    async def verdicts(self) -> list[Reply]:
        """What was decided, as soon as it is; less than was due if the receiver ended without."""
        await self._settled.wait()
        return self.decided

    def hurry(self) -> None:
        """Nobody needs a verdict any more."""
        if not self._harmless:
            self.leg.watch.interrupt()

    async def over(self) -> None:
        """Return when the leg is closed."""
        await self._over.wait()

    @property
    def _harmless(self) -> bool:
        """Whether no mail can come of a FIN."""
        if not self._in_mail:
            return True
        return len(self.decided) == self._verdicts_due and all(reply.refuses for reply in self.decided)

    def _hear(self, octets: bytes) -> None:
        self._replies.feed(octets)
        while reply := self._replies.next_reply():
            self._hear_reply(reply)

    def _hear_cut_off(self) -> None:
        if cut_off := self._replies.cut_off():
            self._hear_reply(cut_off)

    def _hear_reply(self, reply: Reply) -> None:
        self.notes.heard_reply(self.leg, reply, EARLY if self._in_mail else LATE)
        if reply.code == 421:
            self.last_421 = reply
        elif reply.asks_for_data:
            self._in_mail = True
        if self._decides and self._decide(reply):
            for violation in reply.violations:
                self.notes.repaired(violation, reply=reply.octets)
        elif self._in_mail:
            self._further.count(reply)
        if len(self.decided) == self._verdicts_due or (self.decided and reply.code == 421):
            self._settled.set()

    def _decide(self, reply: Reply) -> bool:
        """Whether that is a verdict."""
        decided = self.decided
        if decided and reply.code == 421:
            return False  # it speaks of the connection
        if len(decided) < self._verdicts_due:
            if reply.severity in _DECIDE:
                decided.append(reply)
                return True
        elif reply.refuses:
            for index, earlier in enumerate(decided):
                if not earlier.refuses:
                    decided[index] = reply
                    return True
        return False


@attrs.frozen
class Beside:
    """Where farewells run: beside the sessions, each with a watch of its own."""

    nursery: trio.Nursery
    watchdog: Watchdog

    def start(self, farewell: Farewell) -> None:
        """Begin a farewell."""
        farewell.leg.watch = self.watchdog.watch()
        self.nursery.start_soon(farewell.run, name=f"{farewell.notes.record.id} farewell")
