"""Sessions without a task of trio's own: each goes on at once where it is woken, most often in the driver's round.

A task for each wake-up costs a fifth of all that a mail costs, and its memory for as long as a session is idle. So a
session is a coroutine that `CoroutineRunner` steps. It waits by its Watch alone (watch.py). For an operation of trio's
it has a task for as long as that lasts: see `Watch.in_task`.

Invariants:

1. No coroutine is stepped within the step of another, nor before all legs have been told of their events: a descriptor
   that one of them closes may be another's before the round is over.
2. What leaves a coroutine as an exception leaves through the nursery, as from a task.
3. When the runner is cancelled, so is each coroutine that has no task at that moment.
"""

from __future__ import annotations

import types
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio

from shimproxy.net.trio_turn import TrioTurn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

WOKEN: Final = cast("Any", object())
"""What a wait ends with, in place of trio's outcome of None: that is an object for each, and 3 % of a session."""
_TASK: Final = object()
"""What a coroutine yields to have a task; where it waits, it yields None."""


@attrs.define(eq=False)
class RunningCoroutine:
    """One coroutine, and where it stands."""

    _runner: CoroutineRunner
    coroutine: Coroutine[Any, Any, None]
    name: str
    in_task: bool = False
    """Whether it has a task of trio's for now."""
    _value: Any = None
    """What its wait ends with; None starts it."""
    _is_over: bool = False

    def resume(self) -> None:
        """Have it go on from its wait: now, or when the step or the round that is on its way is over."""
        runner = self._runner
        runner.woken.append(self)
        if not runner.held:
            runner.held = True
            runner.release()

    def step(self) -> None:
        """Run it up to its next wait."""
        if self._is_over:
            return  # it was woken, and cancelled then
        value, self._value = self._value, WOKEN
        try:
            wants = self.coroutine.send(value)
            while wants is not None:
                if wants is _TASK:
                    self.in_task = True
                    self._runner.start_task(self._run_in_task, self.name)
                    return
                wants = self.coroutine.throw(AssertionError("an operation of trio's outside of Watch.in_task()"))
        except StopIteration:
            self._end()
        except BaseException as error:
            self._end()
            self._runner.start_task(partial(_raise, error), self.name)

    def _end(self) -> None:
        self._is_over = True
        del self._runner.running[self]

    @types.coroutine
    def pause(self) -> Generator[Any, Any, None]:
        """Let all others go on before it does."""
        self._runner.pause(self)
        yield None

    @types.coroutine
    def enter_task(self) -> Generator[Any, Any, None]:
        """Go on in a task, where trio's operations can be awaited."""
        yield _TASK

    def leave_task(self) -> None:
        """Have the task end with the next wait."""
        self.in_task = False

    async def _run_in_task(self) -> None:
        try:
            await self._steps_in_task()
        except BaseException:
            self._end()
            raise
        try:
            # The runner may have cancelled the others while this task was about to run.
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled as cancelled:
            self.cancel(cancelled)
            raise

    @types.coroutine
    def _steps_in_task(self) -> Generator[Any, Any, None]:
        """Pass what the coroutine awaits on to trio, up to the first wait of its own."""
        runner, value = self._runner, WOKEN
        while True:
            held, runner.held = runner.held, True
            try:
                wants = self.coroutine.send(value)
            except StopIteration:
                self._end()
                return
            finally:
                if not held:
                    runner.release_later()
            if wants is None:
                return
            if wants is _TASK:
                self.in_task = True
                value = WOKEN
            else:
                value = yield wants

    def cancel(self, cancelled: BaseException) -> None:
        """End it by trio's Cancelled, if it has no task: where it has one, trio does that."""
        if self.in_task or self._is_over:
            return
        self._end()
        try:
            self.coroutine.throw(cancelled)
            self.coroutine.close()  # it awaits something on its way out
        except (StopIteration, trio.Cancelled):
            pass
        except BaseException as error:
            self._runner.start_task(partial(_raise, error), self.name)


async def _raise(error: BaseException) -> None:
    raise error


@attrs.define(eq=False)
class CoroutineRunner:
    """Steps the sessions of a process; `run` is its one task."""

    turn: TrioTurn = attrs.field(factory=TrioTurn)
    held: bool = False
    """Whether those that are woken wait for `release`."""
    woken: deque[RunningCoroutine] = attrs.field(factory=deque)
    running: dict[RunningCoroutine, None] = attrs.field(factory=dict)
    """All that are not over."""
    nursery: trio.Nursery = attrs.field(init=False)
    """For tasks that they have for a while. Set once `run` has started."""
    _paused: list[RunningCoroutine] = attrs.field(factory=list)
    _resting: trio.lowlevel.Task | None = None

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> RunningCoroutine:
        """Take a coroutine on; it starts with `resume`."""
        running = RunningCoroutine(self, coroutine, name)
        self.running[running] = None
        return running

    def start_task(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Start a task of trio's."""
        self.turn.due = True
        self.nursery.start_soon(run, name=name)

    def release(self) -> None:
        """Step those that were woken while they were held; from now on each is stepped as soon as it is woken."""
        woken = self.woken
        try:
            while woken:
                woken.popleft().step()
        finally:
            self.held = False

    def release_later(self) -> None:
        """As `release`, after a turn of trio's loop: the task that has stepped one is not at its own wait yet."""
        self.held = False
        while self.woken:
            self.pause(self.woken.popleft())

    def pause(self, running: RunningCoroutine) -> None:
        """Resume it after a turn of trio's loop."""
        self._paused.append(running)
        self.turn.due = True
        task = self._resting
        if task is not None:
            self._resting = None
            trio.lowlevel.reschedule(task)

    async def run(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Resume those that pause, until cancelled.

        The nursery is that of whoever starts sessions, so that none is started after this was cancelled.
        """
        self.nursery = nursery
        task_status.started()
        try:
            while True:
                if not self._paused:
                    self._resting = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._abandon)
                self.turn.due = True
                await trio.lowlevel.checkpoint()
                paused, self._paused = self._paused, []
                for running in paused:
                    running.resume()
        except trio.Cancelled as cancelled:
            for running in list(self.running):
                running.cancel(cancelled)
            raise

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._resting = None
        return trio.lowlevel.Abort.SUCCEEDED
