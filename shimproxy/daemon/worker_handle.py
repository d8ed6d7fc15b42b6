"""A worker as its supervisor knows it: a process, its control socket, and what it has said.

Invariants:

1. Orders are told in their order; only questions may be left out, where a worker does not take them.
2. A line that can't be read is that worker's trouble and nobody else's.

Its own side is worker.py. What an upgrade leaves of it to the new program is upgrade.py's.
"""

from __future__ import annotations

import json
import math
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from shimproxy.observe.series import Series

_MOST_QUESTIONS: Final = 10


@attrs.define(eq=False)
class Worker:
    """A process that serves."""

    pid: int
    control: socket.socket
    retiring: bool = False
    """Whether it was told to let its sessions come to their end."""
    serves: bool = False
    """Whether it has said that it accepts, and has not ended."""
    has_served: bool = False
    """Whether it has said so at all."""
    counted: Series = attrs.field(factory=dict)
    """Its figures, as of its last report."""
    gauges: Series = attrs.field(factory=dict)
    unread: bytes = b""
    """The beginning of a line that it has not said to its end."""
    heard_at: float = attrs.field(factory=trio.current_time)
    """When it said something last."""
    killed: bool = False
    """Whether its supervisor has killed it."""
    reported: int = 0
    """Which question it has answered last."""
    status: int = 0
    """Its wait status, once it has ended."""
    started_at: float = attrs.field(factory=trio.current_time)
    ready: trio.Event = attrs.field(factory=trio.Event)
    """Set once it accepts, or has ended without."""
    let_go: trio.Event = attrs.field(factory=trio.Event)
    """Set once it has closed its listening sockets, or has ended."""
    ended: trio.Event = attrs.field(factory=trio.Event)
    _orders: trio.MemorySendChannel[bytes] = attrs.field(init=False)
    _unsent: trio.MemoryReceiveChannel[bytes] = attrs.field(init=False)
    _sending: bool = False

    def __attrs_post_init__(self) -> None:
        self._orders, self._unsent = trio.open_memory_channel(math.inf)

    def tell(self, **order: object) -> None:
        """Give it an order."""
        self._orders.send_nowait(json.dumps(order).encode() + b"\n")

    def ask(self, question: int) -> None:
        """Ask for its figures, unless it has many such questions to answer."""
        if self._unsent.statistics().current_buffer_used < _MOST_QUESTIONS:
            self.tell(do="report", report=question)

    def retire(self) -> None:
        """Have it let its sessions come to their end."""
        self.retiring = True
        self.tell(do="retire")

    @property
    def told(self) -> bool:
        """Whether every order was written whole."""
        return not (self._sending or self._unsent.statistics().current_buffer_used)

    def kill(self) -> None:
        """End it at once."""
        self.killed = True
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    async def run(self, hear: Callable[[dict[str, Any]], None], complain: Callable[[int], None]) -> None:
        """Write to it, and `hear` what it says, until it has ended; see `take`."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(self.control))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, stream)
            with suppress(trio.BrokenResourceError):  # it was killed
                while octets := await stream.receive_some():
                    self.take(octets, hear, complain)
            nursery.cancel_scope.cancel()
        self.control.close()  # which leaves a descriptor to wait with, should there be no other
        self.status = await waited_for(self.pid)
        self.serves = False
        self.ready.set()
        self.let_go.set()
        self.ended.set()

    def take(self, octets: bytes, hear: Callable[[dict[str, Any]], None], complain: Callable[[int], None]) -> None:
        """Take what it has said, in whatever pieces: `hear` is given each line.

        `complain` is given the octets of each one that is not an object of JSON, or that `hear` cannot take: it raises
        ValueError, TypeError or KeyError. A worker of another version may say such, and the others are served on.
        """
        *lines, self.unread = (self.unread + octets).split(b"\n")
        for line in lines:
            try:
                what = json.loads(line)
                if not isinstance(what, dict):
                    raise TypeError(line)
                self.heard_at = trio.current_time()
                hear(what)
            except (ValueError, TypeError, KeyError, RecursionError):
                complain(len(line))

    def note(self, what: dict[str, Any]) -> None:
        """Take what it has said of itself. Raises ValueError, TypeError, KeyError for what is not as workers say it."""
        if "ready" in what:
            self.serves = self.has_served = True
            self.ready.set()
        if "let_go" in what:
            self.let_go.set()
        if "counted" in what:
            counted, gauges = _series(what["counted"]), _series(what["gauges"])
            self.reported = int(what.get("report", self.reported))
            self.counted, self.gauges = counted, gauges

    async def _write(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # it is about to end, or has
            async for line in self._unsent:
                self._sending = True
                await stream.send_all(line)
                self._sending = False

    @property
    def how_it_ended(self) -> str:
        """Its wait status in words."""
        code = os.waitstatus_to_exitcode(self.status)
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


async def waited_for(pid: int) -> int:
    """The wait status of a child, once it has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    return os.waitpid(pid, 0)[1]  # noqa: ASYNC222 - it has ended


async def reap_orphans(awaited: Mapping[int, trio.Event]) -> None:
    """Wait for the children that nobody else waits for: as PID 1, those whose parents have ended.

    `awaited` has those that a task waits for, each with what is set when it is over.
    """
    with suppress(ChildProcessError):  # there are no children at all
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):  # noqa: ASYNC222
            if ended.si_pid in awaited:
                await awaited[ended.si_pid].wait()
            else:
                os.waitpid(ended.si_pid, 0)  # noqa: ASYNC222 - it has ended


def _series(told: object) -> Series:
    """What a worker has said as figures. Raises TypeError if it is something else."""
    if not (isinstance(told, dict) and all(isinstance(figure, int | float) for figure in told.values())):
        raise TypeError(told)
    return told
