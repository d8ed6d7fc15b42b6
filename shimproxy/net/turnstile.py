"""The turnstile: busy sessions pass it one after another, so that those with little to do need not wait for them.

A session that has had more turns than a small mail needs is busy. Of those that want another turn at once, one a round
gets it, in the order in which they came. A round is a turn of trio's loop: in it run all that are not busy.

Invariants:

1. However many are busy, what a round costs is bounded by those that are not: busy ones have one turn in it, two where
   only one was busy until then, or one for each eight of theirs.
2. When one is let in, the driver is looked at. If anybody else has something to do, that is done first, or beside it.
3. Nobody is passed over more than a few times: those who are busy go on beside any number of others, and have a ninth
   of all turns at least, so that large mails come to their end where small ones alone would fill the day.

It does not know what a session is, but that it waits under a watch.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from shimproxy.net.trio_turn import TrioTurn

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_PASSED_OVER: Final = 4
_TURNS_OF_OTHERS_FOR_ONE: Final = 8
"""Where those that are not busy have many turns a round, busy ones have one for so many of them."""
_LONG_ALONE: Final = 64
"""So many turns of busy sessions without one of any other: the others are at rest."""


class Busy(Protocol):
    """What may have to wait for a turn: a Watch."""

    def let_in(self) -> None:
        """Have the turn."""


def _nothing_new() -> None:
    """There is no driver to look at."""


@attrs.define(eq=False)
class Turnstile:
    """The queue of the busy watches of a process; `run` is its one task."""

    look: Callable[[], None] = _nothing_new
    """Has the driver wake those for whom there is something."""
    turn: TrioTurn = attrs.field(factory=TrioTurn)
    has_room: bool = True
    """Whether a busy one may have its turn at once in this round, if none waits."""
    turns_alone: int = _LONG_ALONE
    """How many turns busy ones have had since one that is not had its last."""
    turns_of_others: int = 0
    """How many turns those that are not busy have had since a busy one had its last."""
    queue: OrderedDict[Busy, None] = attrs.field(factory=OrderedDict)
    """Those that wait for a turn, in the order in which they have one."""
    _last_in: Busy | None = None
    """Who had its turn at once the last time. Nobody has two in a round: alone, it has the next one at once too, and
    the task need not run for that."""
    _resting: trio.lowlevel.Task | None = None

    @property
    def has_company(self) -> bool:
        """Whether others than busy sessions have had a turn of late."""
        return self.turns_alone < _LONG_ALONE

    def admits(self, watch: Busy) -> bool:
        """Whether a busy one may have its turn at once; then it has taken it."""
        if self.queue:
            return False
        if watch is not self._last_in:
            if not self.has_room:
                return False
            self.has_room = False
            self._last_in = watch
            self._go_on()
        self.turns_alone += 1
        return True

    def enter(self, watch: Busy) -> None:
        """Queue for a turn; who is in the queue stays at its place."""
        self.queue[watch] = None
        self._go_on()

    def _go_on(self) -> None:
        task = self._resting
        if task is not None:
            self._resting = None
            self.turn.due = True
            trio.lowlevel.reschedule(task)

    def leave(self, watch: Busy) -> bool:
        """Give up the place in the queue; whether there was one."""
        return self.queue.pop(watch, self) is None

    async def run(self) -> None:
        """Let them in, until cancelled."""
        queue = self.queue
        passed_over = 0
        while True:
            if not queue and self.has_room:
                self._resting = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abandon)
                self.turns_of_others = 0
            if not self.has_room:
                # Who has had its turn at once was woken in this round: the next one is another's.
                self.turn.due = True
                await trio.lowlevel.cancel_shielded_checkpoint()
                self.has_room = True
                self.look()
                continue
            self.turns_alone += 1
            turns_alone = self.turns_alone
            self.look()
            due = self.turns_of_others // _TURNS_OF_OTHERS_FOR_ONE
            if self.turns_alone < turns_alone and not due and passed_over < _MOST_PASSED_OVER:
                passed_over += 1
            elif queue:
                passed_over = self.turns_of_others = 0
                for _ in range(due or 1):
                    if not queue:
                        break  # who was let in may have made another leave
                    watch, _ = queue.popitem(last=False)
                    watch.let_in()
            # Those who wait here end it when they are cancelled: see Driver.run.
            self.turn.due = True
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._resting = None
        return trio.lowlevel.Abort.SUCCEEDED
