"""Waits with coarse deadlines: one watchdog for the process instead of a cancel scope for each wait.

A `Watch` belongs to one task, which waits through it for whatever will wake it: a leg that its driver has found
ready, the `Watchdog` that goes round once a tick and wakes those whose deadline has passed, or an interruption.
It is built so because a cancel scope for each wait costs half as much again as everything else a session does.

Invariants:

1. A wait never ends before its deadline; it may end up to two ticks after it.
2. A watch that is interrupted raises Interrupted from the wait it is in, or else from its next one, once.
3. A task that always finds something to do, so that it never waits, pauses instead: the others get their turn, and
   its own deadline and interruption reach it there.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

import attrs
import trio

from shimproxy.net.errors import DeadlinePassed, Interrupted

_STRETCH_STEPS: Final = 8
_wait_task_rescheduled = trio.lowlevel.wait_task_rescheduled
_reschedule = trio.lowlevel.reschedule


class _Woken:
    """What a wait ends with, in place of trio's outcome of None: that is an object for each, and 3 % of a session."""

    def unwrap(self) -> None:
        """As outcome.Outcome has it."""


_WOKEN: Final = cast("Any", _Woken())


@attrs.define(eq=False)
class Watch:
    """The waits of one task, and their deadline."""

    _dog: Watchdog
    doing: str = "starting"
    """What the deadline was allowed for: named when it passes."""
    deadline: float = math.inf
    _task: trio.lowlevel.Task | None = None
    _steps_at_a_stretch: int = 0
    _waiting: trio.lowlevel.Task | None = None
    """The task, while it waits."""
    _cut_short: DeadlinePassed | Interrupted | None = None
    """What the wait in progress, or the next one, is to raise."""

    @property
    def now(self) -> float:
        """The time as of which deadlines count, in seconds."""
        return self._dog.now

    def allow(self, seconds: float, doing: str) -> None:
        """Give the waits from now on `seconds` together, for what `doing` names."""
        self.deadline = self._dog.now + seconds
        self.doing = doing

    async def wait(self) -> None:
        """Wait until woken. Raises DeadlinePassed, Interrupted."""
        if self._cut_short is None:
            if self._task is None:
                self._task = trio.lowlevel.current_task()
            self._waiting = self._task
            self._steps_at_a_stretch = 0
            await _wait_task_rescheduled(self._abandon)
            if self._cut_short is None:
                return
        cut_short, self._cut_short = self._cut_short, None
        raise cut_short

    def stretched(self) -> bool:
        """Count a step that was made without waiting; whether it is time for a pause."""
        self._steps_at_a_stretch += 1
        return self._steps_at_a_stretch > _STRETCH_STEPS

    async def pause(self) -> None:
        """Let the other tasks run. Raises DeadlinePassed, Interrupted."""
        self._steps_at_a_stretch = 0
        await trio.lowlevel.checkpoint()
        if self._cut_short:
            cut_short, self._cut_short = self._cut_short, None
            raise cut_short
        if self._dog.has_passed(self.deadline):
            raise DeadlinePassed(self.doing)

    def wake(self) -> None:
        """End the wait in progress, if there is one: what it waited for has come."""
        task = self._waiting
        if task is not None:
            self._waiting = None
            _reschedule(task, _WOKEN)

    def interrupt(self) -> None:
        """Make the wait in progress, or else the next one, raise Interrupted."""
        self._cut_short = Interrupted()
        self.wake()

    def expire(self) -> None:
        """Make the wait in progress raise DeadlinePassed."""
        if self._waiting:
            self._cut_short = DeadlinePassed(self.doing)
            self.wake()

    def close(self) -> None:
        """Forget this watch; it has no deadline any more."""
        self._dog.watches.discard(self)

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


@attrs.define(eq=False)
class Watchdog:
    """Goes round the watches of a process; `run` is its one task."""

    tick_seconds: float = 1.0
    now: float = 0.0
    """The time as of which deadlines count: never behind the clock, at most one tick before it."""
    watches: set[Watch] = attrs.field(factory=set)

    def has_passed(self, deadline: float) -> bool:
        """Whether `deadline` has passed for certain."""
        return deadline < self.now - self.tick_seconds

    def watch(self) -> Watch:
        """A new watch, to be closed by its owner."""
        watch = Watch(self)
        self.watches.add(watch)
        return watch

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Expire what is late, once a tick, until cancelled."""
        self.now = trio.current_time() + self.tick_seconds
        task_status.started()
        while True:
            await trio.sleep(self.tick_seconds)
            self.now = trio.current_time() + self.tick_seconds
            for watch in list(self.watches):
                if self.has_passed(watch.deadline):
                    watch.expire()
