"""A worker as its supervisor knows it: a process, its control socket, and what it has said.

Its own side is worker.py. What an upgrade leaves of it to the new program is upgrade.py's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    import socket

    from shimproxy.ops.metrics import Series


@attrs.define(eq=False)
class Worker:
    """A process that serves."""

    pid: int
    control: socket.socket
    started_at: float = attrs.field(factory=trio.current_time)
    ready: trio.Event = attrs.field(factory=trio.Event)
    """Set once it accepts, or has ended without."""
    ended: trio.Event = attrs.field(factory=trio.Event)
    serves: bool = False
    counted: Series = attrs.field(factory=dict)
    """Its figures, as of its last report."""
    gauges: Series = attrs.field(factory=dict)
    reported: int = 0
    """Which question it has answered last."""

    def tell(self, **order: object) -> None:
        """Give it an order, if it is there to take one."""
        line = json.dumps(order).encode() + b"\n"
        with contextlib.suppress(OSError):  # or it is about to end, or has
            self.control.sendall(line)


def kill(worker: Worker) -> None:
    """End it at once."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGKILL)


async def waited_for(pid: int) -> int:
    """The wait status of a child, once it has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    return os.waitpid(pid, 0)[1]  # noqa: ASYNC222 - it has ended


def how_it_ended(status: int) -> str:
    """A wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
