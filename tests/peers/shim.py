"""The shim between the peers: in this process, where it is watched, or in one of its own, where it is weighed.

1. In this process it tells a `Watcher` of every session; a bug of its own comes out as an AssertionError.
2. A subprocess is ended by its pid and must have logged no traceback.
"""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

import shimproxy
from shimproxy import Deadlines, Repair, SessionRecord, Settings
from shimproxy.faulty.receiving import HOST
from tests.peers.processes import end, wait_for_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@attrs.define(eq=False)
class Watcher:
    """An observer that remembers."""

    ended_sessions: list[SessionRecord] = attrs.field(factory=list)
    repairs: list[Repair] = attrs.field(factory=list)
    failures: list[BaseException] = attrs.field(factory=list)
    _changed: trio.Event = attrs.field(factory=trio.Event)

    @property
    def wants_dialogue(self) -> bool:
        return False

    def said(self, record: SessionRecord, who: str, octets: bytes) -> None:
        pass

    def repaired(self, record: SessionRecord, repair: Repair) -> None:
        self.repairs.append(repair)

    def ended(self, record: SessionRecord) -> None:
        self.ended_sessions.append(record)
        self._changed.set()

    def failed(self, record: SessionRecord, error: BaseException) -> None:
        self.failures.append(error)

    async def sessions_ended(self, count: int = 1) -> None:
        """Return when that many sessions are over."""
        while len(self.ended_sessions) < count:
            self._changed = trio.Event()
            await self._changed.wait()


@attrs.frozen
class Shim:
    """A shim that accepts connections."""

    port: int
    watcher: Watcher


@contextlib.asynccontextmanager
async def shim(receiver_port: int, deadlines: Deadlines | None = None, **more: Any) -> AsyncIterator[Shim]:
    """The shim in this process, with `more` settings; a bug of its own is raised at the end."""
    given: dict[str, Any] = {"receiver": f"{HOST}:{receiver_port}", "listen": f"{HOST}:0", "grace_seconds": 0} | more
    async with served(Settings(deadlines=deadlines or Deadlines(), **given)) as ((port,), watcher):
        yield Shim(port, watcher)


@contextlib.asynccontextmanager
async def served(settings: Settings, **more: Any) -> AsyncIterator[tuple[list[int], Watcher]]:
    """The ports of `serve`, with `more` arguments, and who watches it; a bug of its own is raised at the end."""
    watcher = Watcher()
    async with trio.open_nursery() as nursery:
        arguments = {"observer": watcher} | more
        addresses = await nursery.start(functools.partial(shimproxy.serve, settings, **arguments))
        ports = (address.rpartition(":")[2] for address in addresses)
        yield [int(port) for port in ports if port.isdigit()], watcher
        nursery.cancel_scope.cancel()
    for failure in watcher.failures:
        raise AssertionError("the shim has a bug") from failure


@attrs.frozen
class ShimProcess:
    """A shim in a process of its own."""

    port: int
    process: subprocess.Popen[bytes]

    def memory_kib(self, field: str) -> int:
        """VmRSS (now) or VmHWM (at most so far) from /proc, of its workers together."""
        total_kib = 0
        for pid in self.workers:
            found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            assert found, f"no {field} in /proc"
            total_kib += int(found[1])
        return total_kib

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def shim_process(receiver_port: int, log: Path, *arguments: str) -> Iterator[ShimProcess]:
    """`python -m shimproxy run`, which has to end without a traceback in its log."""
    command = [
        sys.executable,
        "-m",
        "shimproxy",
        "run",
        "--listen",
        f"{HOST}:0",
        "--receiver",
        f"{HOST}:{receiver_port}",
    ]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--log-level", "warning", "--grace", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=Path(shimproxy.__file__).parent.parent,
            start_new_session=True,
        )
    try:
        line = wait_for_line(process, log)
        found = re.match(rf"shimproxy ready: listening on {re.escape(HOST)}:(\d+), receiver ", line)
        assert found, f"no ready line: {line!r}"
        yield ShimProcess(int(found[1]), process)
    finally:
        end(process)
    assert "Traceback" not in log.read_text(), log.read_text()
