"""Runs the coroutines of a session one step at a time, in virtual time, without trio's loop.

The session waits in few ways only: a Watch parks its task and is woken by a leg or by the watchdog; a LingeringClose
has events. `Loop` provides these under the names that shimproxy calls them by (`Loop.installed`). All else is
shimproxy's own code, the watchdog's round included. trio's own loop plays about 200 dialogues a second, this one over
1,000.
"""

from __future__ import annotations

import contextlib
import types
from collections import deque
from typing import TYPE_CHECKING, Any
from unittest import mock

import attrs

from shimproxy.net import watch as watch_module
from shimproxy.session import receiver as receiver_module
from shimproxy.session import session as session_module
from shimproxy.session.lingering_close import LingeringClose

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator

    from shimproxy.net.watch import Watchdog


@types.coroutine
def _park(_abandon: object = None) -> Generator[None, Any, Any]:
    return (yield)


class Task:
    """One coroutine on its way."""

    __slots__ = ("coroutine", "name", "value", "woken")

    def __init__(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        self.coroutine = coroutine
        self.name = name
        self.value: object = None
        """What the wait that it was woken from ends with."""
        self.woken = False


class Loop:
    """The tasks of one dialogue, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.current: Task | None = None
        self.tasks: dict[Task, None] = {}
        self.steps = 0
        self._ready: deque[Task] = deque()

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
        self._ready.append(task)

    def run(self, poll: Callable[[], None]) -> None:
        """Run all tasks until each of them is parked; `poll` tells the legs of their events between two steps."""
        ready = self._ready
        poll()
        while ready:
            task = self.current = ready.popleft()
            task.woken = False
            self.steps += 1
            try:
                task.coroutine.send(task.value)
            except StopIteration:
                self.tasks.pop(task, None)
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
        for task in self.tasks:
            with contextlib.suppress(RuntimeError):
                task.coroutine.close()
        self.tasks.clear()


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


def _current_task() -> Task | None:
    return _loop().current


def _reschedule(task: Task, value: object = None) -> None:
    _loop().wake(task, value)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """While this holds, sessions of this process run on the loop that `use` was given."""
    lowlevel = types.SimpleNamespace(current_task=_current_task, checkpoint=_checkpoint)
    trio = types.SimpleNamespace(lowlevel=lowlevel, current_time=now)
    with (
        mock.patch.object(watch_module, "trio", trio),
        mock.patch.object(watch_module, "_wait_task_rescheduled", _park),
        mock.patch.object(watch_module, "_reschedule", _reschedule),
        mock.patch.object(session_module, "trio", trio),
        mock.patch.object(receiver_module, "LingeringClose", SteppedClose),
    ):
        yield
