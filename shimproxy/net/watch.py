"""Waits with coarse deadlines: one watchdog for the process instead of a cancel scope for each wait.

A `Watch` belongs to one task, or to one coroutine that has none (coroutines.py). That waits through it for whatever
will wake it: a leg that its driver has found ready, the `Watchdog` that goes round once a tick and wakes those whose
deadline has passed, or an interruption. It is built so because a cancel scope for each wait costs half as much again as
everything else a session does.

Invariants:

1. A wait never ends before its deadline; it may end up to two ticks after it.
2. A watch that is interrupted raises Interrupted from the wait it is in, or else from its next one, once.
3. A task that always finds something to do, so that it never waits, pauses instead: the others get their turn, and
   its own deadline and interruption reach it there.
4. A task that has had many turns is busy: until it rests, or is renewed, it waits for each at the turnstile
   (turnstile.py). An interruption reaches it there, too. What it waited for has come by then, so no deadline does.
"""

from __future__ import annotations

import math
import types
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import attrs
import trio

from shimproxy.net.coroutines import WOKEN
from shimproxy.net.errors import DeadlinePassed, Interrupted
from shimproxy.net.turnstile import Turnstile

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from shimproxy.net.coroutines import CoroutineRunner, RunningCoroutine

_STRETCH_STEPS: Final = 8
_SWIFT_TURNS: Final = 32
"""With so many turns a session is not busy yet: a mail to ten recipients has fewer. A pause counts as its steps do."""
_wait_task_rescheduled = trio.lowlevel.wait_task_rescheduled
_reschedule = trio.lowlevel.reschedule


def _message_of_waiting(watch: Watch) -> object:
    """What trio's loop is told by a task that waits through `watch`.

    It is the same at each wait. To have it made anew each time, with two coroutines on the way, was 3 % of a mail.
    """
    waiting = _wait_task_rescheduled(watch._abandon)
    message: object = waiting.send(None)
    waiting.close()
    return message


@attrs.define(eq=False)
class Watch:
    """The waits of one task, or of one coroutine that has none, and their deadline."""

    _dog: Watchdog
    doing: str = "starting"
    """What the deadline was allowed for: named when it passes."""
    deadline: float = math.inf
    _coroutine: RunningCoroutine | None = None
    """What waits, where that has no task of its own."""
    _resume: Callable[[], None] | None = None
    """Has what waits go on; found out with the first wait."""
    _message: Any = None
    """What is yielded to wait."""
    _turnstile: Turnstile = attrs.field(init=False)
    _steps_at_a_stretch: int = 0
    _turns: int = 0
    """How many it has had since it was renewed."""
    _last_busy: float = -math.inf
    """When it has had a turn as a busy one; as `now`."""
    _waiting: Callable[[], None] | None = None
    """Ends the wait in progress."""
    _cut_short: DeadlinePassed | Interrupted | None = None
    """What the wait in progress, or the next one, is to raise."""

    def __attrs_post_init__(self) -> None:
        self._turnstile = self._dog.turnstile

    @property
    def now(self) -> float:
        """The time as of which deadlines count, in seconds."""
        return self._dog.now

    def allow(self, seconds: float, doing: str) -> None:
        """Give the waits from now on `seconds` together, for what `doing` names."""
        self.deadline = self._dog.now + seconds
        self.doing = doing

    @types.coroutine
    def wait(self) -> Generator[Any, Any, None]:
        """Wait until woken. Raises DeadlinePassed, Interrupted."""
        if self._cut_short is None:
            if self._resume is None:
                self._find_out_what_waits()
            self._waiting = self._resume
            self._steps_at_a_stretch = 0
            outcome = yield self._message
            if outcome is not WOKEN:
                outcome.unwrap()  # which raises Cancelled
            if self._cut_short is None:
                return
        cut_short, self._cut_short = self._cut_short, None
        raise cut_short

    def _find_out_what_waits(self) -> None:
        if self._coroutine and not self._coroutine.in_task:
            self._resume, self._message = self._coroutine.resume, None
        else:
            self._resume = partial(self._wake_task, trio.lowlevel.current_task())
            self._message = _message_of_waiting(self)

    def _wake_task(self, task: trio.lowlevel.Task) -> None:
        self._turnstile.turn.due = True
        _reschedule(task, WOKEN)

    def run(self, coroutine: Coroutine[Any, Any, None], runner: CoroutineRunner, name: str) -> None:
        """Start a coroutine that waits by this watch alone; it has no task."""
        self._coroutine = runner.start(coroutine, name)
        self._coroutine.resume()

    def in_task(self) -> _InTask:
        """For as long as this context lasts, operations of trio's can be awaited."""
        return _InTask(self)

    async def enter_task(self) -> None:
        """See `in_task`."""
        if self._coroutine:
            assert not self._coroutine.in_task, "the end of the inner context would end the task of the outer one"
            await self._coroutine.enter_task()
            self._resume = None

    def leave_task(self) -> None:
        """See `in_task`."""
        if self._coroutine:
            self._coroutine.leave_task()
            self._resume = None

    def stretched(self, steps: int = 1) -> bool:
        """Count steps that were made without waiting; whether it is time for a pause."""
        self._steps_at_a_stretch += steps
        return self._steps_at_a_stretch > _STRETCH_STEPS

    @property
    def has_company(self) -> bool:
        """Whether sessions that are not busy have something to do, too."""
        return self._turnstile.has_company

    def renew(self) -> None:
        """Have it count as not busy: it has done what it is there for."""
        self._turns = 0

    async def pause(self) -> None:
        """Let the other tasks run. Raises DeadlinePassed, Interrupted."""
        self._turns += self._steps_at_a_stretch
        self._steps_at_a_stretch = 0
        if self._turns < _SWIFT_TURNS:
            await self._let_others_go_on()
        elif self._turnstile.admits(self):
            self._turnstile.look()
            await self._let_others_go_on()
        else:
            self._last_busy = self._dog.now
            if self._cut_short is None:
                self._turnstile.enter(self)
            await self.wait()
        if self._cut_short:
            cut_short, self._cut_short = self._cut_short, None
            raise cut_short
        if self._dog.has_passed(self.deadline):
            raise DeadlinePassed(self.doing)

    async def _let_others_go_on(self) -> None:
        if self._coroutine and not self._coroutine.in_task:
            await self._coroutine.pause()
        else:
            await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        """End the wait in progress, if there is one: what it waited for has come."""
        resume = self._waiting
        if resume is not None:
            turns = self._turns = self._turns + 1
            if turns < _SWIFT_TURNS:
                self._waiting = None
                turnstile = self._turnstile
                turnstile.turns_alone = 0
                turnstile.turns_of_others += 1
                resume()
            else:
                self._wake_in_turn()

    def _wake_in_turn(self) -> None:
        now = self._dog.now
        if self._dog.has_passed(self._last_busy + self._dog.tick_seconds) and now > 0:
            self.renew()  # it was at rest
            self._turnstile.turns_alone = 0
            self.let_in()
        elif self not in self._turnstile.queue and self._turnstile.admits(self):
            self.let_in()
        else:
            self._turnstile.enter(self)
        self._last_busy = now

    def let_in(self) -> None:
        """End the wait in progress, if there is one, now."""
        resume = self._waiting
        if resume is not None:
            self._waiting = None
            resume()

    def interrupt(self) -> None:
        """Make the wait in progress, or else the next one, raise Interrupted."""
        self._cut_short = Interrupted()
        self._turnstile.leave(self)
        self.let_in()

    def expire(self) -> None:
        """Make the wait in progress raise DeadlinePassed."""
        if self._waiting and self not in self._turnstile.queue:
            self._cut_short = DeadlinePassed(self.doing)
            self.let_in()

    def close(self) -> None:
        """Forget this watch; it has no deadline any more."""
        self._turnstile.leave(self)
        self._waiting = self._resume = self._message = None  # the message refers to the watch
        self._dog.watches.pop(self, None)

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        self._turnstile.leave(self)
        return trio.lowlevel.Abort.SUCCEEDED


@attrs.frozen
class _InTask:
    """An async context in which operations of trio's can be awaited."""

    _watch: Watch

    async def __aenter__(self) -> Self:
        await self._watch.enter_task()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watch.leave_task()


@attrs.define(eq=False)
class Watchdog:
    """Goes round the watches of a process; `run` is its one task."""

    tick_seconds: float = 1.0
    now: float = 0.0
    """The time as of which deadlines count: never behind the clock, at most one tick before it."""
    watches: dict[Watch, None] = attrs.field(factory=dict)
    """Those that are not closed, in the order in which they were made: it is the order in which they expire."""
    turnstile: Turnstile = attrs.field(factory=Turnstile)
    """Where the busy ones wait for a turn."""
    _clock: Callable[[], float] = trio.current_time
    """What trio.current_time asks, once this is at work: that asks it by way of two others."""

    def has_passed(self, deadline: float) -> bool:
        """Whether `deadline` has passed for certain."""
        return deadline < self.now - self.tick_seconds

    def watch(self) -> Watch:
        """A new watch, to be closed by its owner."""
        watch = Watch(self)
        self.watches[watch] = None
        return watch

    def catch_up(self) -> None:
        """Take note of the time, if this process has stood still for longer than a tick."""
        now = self._clock()
        if now > self.now:
            self.now = now + self.tick_seconds

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Expire what is late, once a tick, and let in who is busy, until cancelled."""
        self._clock = trio.lowlevel.current_clock().current_time
        self.now = self._clock() + self.tick_seconds
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.turnstile.run)
            task_status.started()
            while True:
                await trio.sleep(self.tick_seconds)
                self.now = self._clock() + self.tick_seconds
                for watch in list(self.watches):
                    if self.has_passed(watch.deadline):
                        watch.expire()
