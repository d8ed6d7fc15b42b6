"""Taking leave of a receiver that has spoken in mail data, has gone, or is out of step.

Invariants:

1. Nothing more is written to the leg (guarantee 6).
2. A receiver that has given its verdict before it had all of the mail data is reset at once, so that what is queued for
   it is discarded: it may read that as commands (guarantee 6). Only one that is leaving by itself, as its FIN or a 421
   lies there, and has refused the mail, has a half-close. What it has said is read before.
3. Any other receiver that may be in the midst of a mail is heard out, as long as the linger lasts, and never sent FIN,
   which a lax one takes for the mail's end (guarantee 5). What lies unread is heard first: a 354 may be in it.
4. The verdict is the first 4yz or 5yz; a 2yz never becomes one (guarantees 2 and 3). With LMTP there are as many as
   recipients, as far as nothing is under way to the receiver any more.
5. A later reply is dropped; of those, a 421 is kept for the sender's next command. From the shim's FIN on, which
   comes at once outside mail data, it is no violation.

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
MOST_LOOKS: Final = 16
"""So much is read before a reset or a half-close, in reads: as much as a reply may have by default."""


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
    _half_closed: bool = False
    """Whether the shim has sent FIN, so that what is said may answer that."""
    _further: Dropped = attrs.field(factory=lambda: Dropped(Violation.FURTHER_REPLY))
    _settled: trio.Event = attrs.field(factory=trio.Event)
    _over: trio.Event = attrs.field(factory=trio.Event)

    def begin(self, early: Reply | None, *, noted: bool) -> bool:
        """Hear what the receiver has said so far; whether that was all, as the leg is closed.

        Args:
            early: what it said before it had all of the mail data, if that is why it is left.
            noted: whether that is in the notes already.
        """
        if early and early.severity in _DECIDE:
            self._hear_reply(early, noted=noted)
        elif early:
            self.notes.heard_reply(self.leg, early, EARLY)
        self._hear(b"")
        if early:
            self._hear_what_lies_there()
        if self._in_mail and self._has_its_verdict and not self._leaves_politely:
            self._end()
            return True
        return False

    async def run(self) -> None:
        """Take leave; ends within the linger deadlines."""
        leg, deadlines = self.leg, self._deadlines
        try:
            if not self._in_mail:
                self._hear_what_lies_there()
            if self._in_mail and not self._has_its_verdict:
                with suppress(Interrupted):
                    await leg.linger(
                        deadlines.linger_idle, deadlines.linger_total, self._hear, lambda: self._has_its_verdict
                    )
                self._hear_what_lies_there()
                self._hear_cut_off()
            if self._leaves_politely and not self._replies.may_ask_for_data:
                self._half_closed = True
                await see_off(leg, deadlines, self.notes, self._hear)
                self._hear_cut_off()
        finally:
            leg.watch.close()
            self._end()

    def _end(self) -> None:
        self._further.tell(self.notes.repaired)
        self.leg.reset()
        self._settled.set()
        self._over.set()

    async def verdicts(self) -> list[Reply]:
        """What was decided, as soon as it is; less than was due if the receiver ended without."""
        await self._settled.wait()
        return self.decided

    def hurry(self) -> None:
        """Nobody needs a verdict any more."""
        if self._in_mail and not (self._leaves_politely or self._over.is_set()):
            self.leg.watch.interrupt()

    async def over(self) -> None:
        """Return when the leg is closed."""
        await self._over.wait()

    @property
    def _has_its_verdict(self) -> bool:
        """Whether nothing more is to be waited for.

        With LMTP the first of several verdicts has to do where anything is still under way to the receiver.
        """
        if not self.decided:
            return False
        there = len(self.decided) == self._verdicts_due or self.last_421 is not None
        return there or self.leg.unacknowledged_octets > 0

    @property
    def _leaves_politely(self) -> bool:
        """Whether the leg is half-closed: no mail can come of a FIN, nor a command of what is queued before it."""
        if not self._in_mail:
            return True
        leaving = self.leg.ended is not None or self.last_421 is not None
        return leaving and len(self.decided) == self._verdicts_due and all(reply.refuses for reply in self.decided)

    def _hear(self, octets: bytes) -> None:
        self._replies.feed(octets)
        while reply := self._replies.next_reply():
            self._hear_reply(reply)

    def _hear_what_lies_there(self) -> None:
        for _ in range(MOST_LOOKS):
            octets = self.leg.look()
            if not octets:
                return
            self._hear(octets)

    def _hear_cut_off(self) -> None:
        if cut_off := self._replies.cut_off():
            self._hear_reply(cut_off)

    def _hear_reply(self, reply: Reply, *, noted: bool = False) -> None:
        if not noted:
            self.notes.heard_reply(self.leg, reply, EARLY if self._in_mail else LATE)
        if reply.code == 421:
            self.last_421 = reply
        elif reply.asks_for_data and not self._in_mail:
            self._in_mail = True
            self.decided.clear()  # what was said before is no verdict on what it asks for now
        if self._decides and self._decide(reply):
            if not noted:
                for violation in reply.violations:
                    self.notes.repaired(violation, reply=reply.octets)
        elif self._in_mail and not self._half_closed:
            self._further.count(reply)
        if self._has_its_verdict:
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
