"""What a supervisor leaves to the program that takes its place in the same process: sockets, workers and figures."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from itertools import chain
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.address import UNIX
from shimproxy.net.listen import UnixListener, taken_over
from shimproxy.ops import systemd
from shimproxy.ops.child import Worker, waited_for
from shimproxy.ops.listener import SettingsError
from shimproxy.ops.sources import Sources
from shimproxy.ops.status import History

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHECK_SECONDS: Final = 30.0
_MOST_OCTETS: Final = 64 * 1024
_LEFT: Final = "_SHIMPROXY_LEFT_TO_THE_UPGRADE"


async def check_first(program: Sequence[str], arguments: Sequence[str], children: dict[int, trio.Event]) -> None:
    """Have the program that is installed now say whether it can use these settings, for which it has its time.

    It stands among the `children` while it runs. Raises SettingsError, OSError.
    """
    errors = os.memfd_create("shimproxy")
    try:
        status = await _status_of(_begin_check(program, arguments, errors), children)
        said = os.pread(errors, _MOST_OCTETS, 0).decode(errors="replace").splitlines() or ["it says nothing"]
    finally:
        os.close(errors)
    if status is None:
        raise SettingsError(f"the check by the code that is installed now took over {_CHECK_SECONDS:g} s; it is killed")
    if status:
        raise SettingsError(*(line.removeprefix("shimproxy: ") for line in said))


def _begin_check(program: Sequence[str], arguments: Sequence[str], errors: int) -> int:
    """Start it; its pid. Raises OSError."""
    variables, descriptors = systemd.for_a_check()
    process = subprocess.Popen(
        [*program, "check", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=os.environ | variables,
        pass_fds=descriptors,
        process_group=0,  # what a terminal sends is for the supervisor
    )
    process.returncode = 0  # it is waited for elsewhere, not by its destructor
    return process.pid


async def _status_of(pid: int, children: dict[int, trio.Event]) -> int | None:
    """The wait status of a check; None if it had to be killed, with all that it had started."""
    over = children[pid] = trio.Event()
    status = None
    try:
        with trio.move_on_after(_CHECK_SECONDS):
            status = await waited_for(pid)
    finally:
        if status is None:
            os.killpg(pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await waited_for(pid)
        del children[pid]
        over.set()
    return status


@attrs.define
class Left:
    """What goes over from one program to the next."""

    sources: Sources
    """The settings that the workers go by."""
    listening: dict[str, list[socket.socket]]
    workers: list[Worker]
    history: History

    @classmethod
    def take_over(cls) -> Left | None:
        """What was left, if this is such a program."""
        if _LEFT not in os.environ:
            return None
        with open(int(os.environ.pop(_LEFT)), encoding="utf-8") as file:
            file.seek(0)
            left = json.load(file)
        bound = left.get("bound", {})
        listening = {
            name: [_listener(name, fileno, bound.get(str(fileno))) for fileno in filenos]
            for name, filenos in left["listening"].items()
        }
        workers = [
            Worker(
                each["pid"],
                socket.socket(fileno=each["control"]),
                retiring=each["retiring"],
                serves=True,
                counted=each["counted"],
                unread=bytes.fromhex(each["unread"]),
            )
            for each in left["workers"]
        ]
        taken = cls(Sources.of_json(left), listening, workers, History.of_json(left["history"]))
        taken._set_inheritable(False)
        return taken

    def leave(self) -> int:
        """See to it that the program to be executed finds it; the descriptor where it stands."""
        self._set_inheritable(True)
        left = {
            **self.sources.as_json(),
            "listening": {name: [sock.fileno() for sock in socks] for name, socks in self.listening.items()},
            "bound": {
                sock.fileno(): sock.file for sock in chain(*self.listening.values()) if isinstance(sock, UnixListener)
            },
            "workers": [
                {
                    "pid": worker.pid,
                    "control": worker.control.fileno(),
                    "retiring": worker.retiring,
                    "counted": worker.counted,
                    "unread": worker.unread.hex(),
                }
                for worker in self.workers
            ],
            "history": self.history.as_json(),
        }
        # The environment has no room for everything.
        descriptor = os.memfd_create("shimproxy", 0)
        with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
            json.dump(left, file)
        os.environ[_LEFT] = str(descriptor)
        systemd.leave()
        return descriptor

    def stay(self, descriptor: int) -> None:
        """It is not left after all."""
        os.close(descriptor)
        del os.environ[_LEFT]
        systemd.stay()
        self._set_inheritable(False)

    def _set_inheritable(self, inheritable: bool) -> None:
        for sock in self._sockets():
            sock.set_inheritable(inheritable)

    def _sockets(self) -> Iterator[socket.socket]:
        for sockets in self.listening.values():
            yield from sockets
        for worker in self.workers:
            yield worker.control


def _listener(name: str, fileno: int, file: Sequence[int] | None) -> socket.socket:
    """A listening socket that was left; one that was made in the file system, and not by systemd, as such."""
    if not name.startswith(UNIX):
        return socket.socket(fileno=fileno)
    return taken_over(fileno, (file[0], file[1]) if file else None)
