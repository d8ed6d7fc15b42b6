"""Runs the coroutines of a session one step at a time, in virtual time, without trio's loop.

The session waits in few ways only: a Watch yields and is woken by a leg or by the watchdog; a LingeringClose has
events, for which the session has a task. `Loop` provides these under the names that shimproxy calls them by
(`installed`). All else is shimproxy's own code, the watchdog's round included. trio's own loop plays about 200
dialogues a second, this one over 1,000.
"""

from __future__ import annotations

import contextlib
import types
from collections import deque
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import attrs

from shimproxy.net import coroutines as coroutines_module
from shimproxy.net import watch as watch_module
from shimproxy.net.coroutines import CoroutineRunner, RunningCoroutine
from shimproxy.session import receiver as receiver_module
from shimproxy.session import session as session_module
from shimproxy.session.lingering_close import LingeringClose

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator

    import trio

    from shimproxy.net.watch import Watchdog

_PARKED = object()


@types.coroutine
def _park(_abandon: object = None) -> Generator[object, Any, Any]:
    return (yield _PARKED)


class Task:
    """One coroutine on its way."""

    __slots__ = ("coroutine", "name", "value", "woken")

    def __init__(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        self.coroutine = coroutine
        self.name = name
        self.value: object = None
        """What the wait that it was woken from ends with."""
        self.woken = False

    def step(self) -> None:
        """Go on to the next wait."""
        loop = _loop()
        loop.current = self
        self.woken = False
        try:
            self.coroutine.send(self.value)
        except StopIteration:
            loop.tasks.pop(self, None)


@attrs.define(eq=False)
class Loop(CoroutineRunner):
    """The session and the tasks of one dialogue, and its clock."""

    held: bool = True
    """Always: `run` steps those that were woken, one after the other."""
    woken: deque[Any] = attrs.field(factory=deque)
    """Tasks, and the session where that has none."""
    now: float = 0.0
    current: Task | None = None
    tasks: dict[Task, None] = attrs.field(factory=dict)
    steps: int = 0

    def __attrs_post_init__(self) -> None:
        self.nursery = cast("trio.Nursery", self)

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: object, name: str = "") -> None:
        """Start a task; as trio.Nursery.start_soon."""
        task = Task(function(*args), name)
        self.tasks[task] = None
        self.wake(task)

    start_soon = spawn

    def wake(self, task: Task, value: object = None) -> None:
        """Let a parked task go on; as trio.lowlevel.reschedule."""
        assert not task.woken, "woken twice"
        task.woken = True
        task.value = value
        self.woken.append(task)

    def pause(self, running: RunningCoroutine) -> None:
        """As CoroutineRunner has it."""
        self.woken.append(running)

    def run_until_parked(self, poll: Callable[[], None]) -> None:
        """Step all until each of them waits; `poll` tells the legs of their events between two steps."""
        woken = self.woken
        poll()
        while woken:
            self.steps += 1
            woken.popleft().step()
            poll()

    def pass_time(self, dog: Watchdog, until: float) -> None:
        """Let the clock advance; what expires by then is woken, as by the watchdog's rounds."""
        self.now = until
        dog.now = self.now + dog.tick_seconds
        for watch in list(dog.watches):
            if dog.has_passed(watch.deadline):
                watch.expire()

    def close(self) -> None:
        """Abandon what is left."""
        for each in self._not_over:
            with contextlib.suppress(RuntimeError):
                each.coroutine.close()
        self.tasks.clear()
        self.running.clear()

    @property
    def names(self) -> list[str]:
        """What is not over."""
        return sorted({each.name for each in self._not_over})

    @property
    def _not_over(self) -> list[Task | RunningCoroutine]:
        return [*self.tasks, *self.running]


class Event:
    """As trio.Event."""

    __slots__ = ("_flag", "_waiting")

    def __init__(self) -> None:
        self._flag = False
        self._waiting: list[Task] = []

    def set(self) -> None:
        self._flag = True
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            _loop().wake(task)

    def is_set(self) -> bool:
        return self._flag

    async def wait(self) -> None:
        if self._flag:
            await _checkpoint()
        else:
            task = _loop().current
            assert task
            self._waiting.append(task)
            await _park()


@attrs.define(eq=False)
class SteppedClose(LingeringClose):
    """A lingering close whose events are the loop's."""

    _settled: Any = attrs.field(factory=Event)
    _over: Any = attrs.field(factory=Event)


_loops: list[Loop] = []


def _loop() -> Loop:
    return _loops[-1]


def use(loop: Loop) -> None:
    """From now on this is the loop."""
    _loops[:] = [loop]


def now() -> float:
    """The loop's clock; as trio.current_time."""
    return _loops[-1].now


async def _checkpoint() -> None:
    loop = _loop()
    assert loop.current
    loop.wake(loop.current)
    await _park()


async def _checkpoint_if_cancelled() -> None:
    """Nothing is cancelled here."""


def _current_task() -> Task | None:
    return _loop().current


def _reschedule(task: Task, value: object = None) -> None:
    _loop().wake(task, value)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """While this holds, sessions of this process run on the loop that `use` was given."""
    lowlevel = types.SimpleNamespace(
        current_task=_current_task, checkpoint=_checkpoint, checkpoint_if_cancelled=_checkpoint_if_cancelled
    )
    trio = types.SimpleNamespace(lowlevel=lowlevel, current_time=now)
    with (
        mock.patch.object(coroutines_module, "trio", trio),
        mock.patch.object(watch_module, "trio", trio),
        mock.patch.object(watch_module, "_wait_task_rescheduled", _park),
        mock.patch.object(watch_module, "_reschedule", _reschedule),
        mock.patch.object(session_module, "trio", trio),
        mock.patch.object(receiver_module, "LingeringClose", SteppedClose),
    ):
        yield
