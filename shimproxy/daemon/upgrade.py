"""What a supervisor leaves to the program that takes its place in the same process: sockets, workers and figures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from itertools import chain
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.admin.status import Totals
from shimproxy.config.listener import SettingsError
from shimproxy.config.sources import Sources
from shimproxy.daemon.worker_handle import Worker, waited_for
from shimproxy.net import activation
from shimproxy.net.address import UNIX
from shimproxy.net.listen import UnixListener, taken_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_CHECK_SECONDS: Final = 30.0
_MOST_OCTETS: Final = 64 * 1024
_REHEARSED: Final = "_SHIMPROXY_LEFT_TO_THE_CHECK"
_LEFT: Final = "_SHIMPROXY_LEFT_TO_THE_UPGRADE"


async def check_first(
    program: Sequence[str], arguments: Sequence[str], left: HandoverState, children: dict[int, trio.Event]
) -> None:
    """Have the program that is installed now say whether it can use these settings and take over what is left to it.

    It has its time for that, and stands among the `children` while it runs. Raises SettingsError, OSError.
    """
    errors = os.memfd_create("shimproxy")
    try:
        with left.rehearsed() as (variables, descriptors):
            pid = _begin_check(program, arguments, errors, variables, descriptors)
        status = await _status_of(pid, children)
        said = os.pread(errors, _MOST_OCTETS, 0).decode(errors="replace").splitlines() or ["it gave no reason"]
    finally:
        os.close(errors)
    if status is None:
        raise SettingsError(
            f"the check by the code that is installed now took over {_CHECK_SECONDS:g} s; shimproxy stopped it"
        )
    if status:
        raise SettingsError(*(line.removeprefix("shimproxy: ") for line in said))


def _begin_check(
    program: Sequence[str], arguments: Sequence[str], errors: int, rehearsed: dict[str, str], left: Sequence[int]
) -> int:
    """Start it; its pid. Raises OSError."""
    variables, descriptors = activation.for_a_check()
    process = subprocess.Popen(
        [*program, "check", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=os.environ | variables | rehearsed,
        pass_fds=[*descriptors, *left],
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
class HandoverState:
    """What goes over from one program to the next."""

    sources: Sources
    """The settings that the workers go by."""
    listening: dict[str, list[socket.socket]]
    workers: list[Worker]
    history: Totals

    @classmethod
    def take_over(cls) -> HandoverState | None:
        """What was left, if this is such a program."""
        return cls._found_by(_LEFT)

    @classmethod
    def rehearse(cls) -> None:
        """Try what `take_over` will do, if this is the check before an upgrade. Raises SettingsError if it fails."""
        try:
            cls._found_by(_REHEARSED)
        except Exception as error:
            raise SettingsError(
                f"the code that is installed now cannot take over from the one that runs ({type(error).__name__}: "
                f"{error}); restart shimproxy instead"
            ) from error

    @classmethod
    def _found_by(cls, variable: str) -> HandoverState | None:
        if variable not in os.environ:
            return None
        with open(int(os.environ.pop(variable)), encoding="utf-8") as file:
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
        taken = cls(Sources.of_json(left), listening, workers, Totals.of_json(left["history"]))
        taken._set_inheritable(False)
        return taken

    def leave(self) -> int:
        """See to it that the program to be executed finds it; the descriptor where it stands."""
        self._set_inheritable(True)
        descriptor = self._written(lambda sock: sock.fileno())
        os.set_inheritable(descriptor, True)
        os.environ[_LEFT] = str(descriptor)
        activation.leave()
        return descriptor

    @contextlib.contextmanager
    def rehearsed(self) -> Iterator[tuple[dict[str, str], list[int]]]:
        """What a check needs, as variables and descriptors, to try to take over.

        The sockets are others: with the workers' own, a check that hangs would keep them from being told of an end.
        """
        with contextlib.ExitStack() as stack:
            descriptors: list[int] = []

            def stand_in(_: socket.socket) -> int:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                descriptors.append(sock.fileno())
                return sock.fileno()

            descriptor = self._written(stand_in)
            stack.callback(os.close, descriptor)
            yield {_REHEARSED: str(descriptor)}, [descriptor, *descriptors]

    def _written(self, descriptor_of: Callable[[socket.socket], int]) -> int:
        """A descriptor from which it can be read."""
        left = {
            **self.sources.as_json(),
            "listening": {name: [descriptor_of(sock) for sock in socks] for name, socks in self.listening.items()},
            "bound": {
                sock.fileno(): sock.file for sock in chain(*self.listening.values()) if isinstance(sock, UnixListener)
            },
            "workers": [
                {
                    "pid": worker.pid,
                    "control": descriptor_of(worker.control),
                    "retiring": worker.retiring,
                    "counted": worker.counted,
                    "unread": worker.unread.hex(),
                }
                for worker in self.workers
            ],
            "history": self.history.as_json(),
        }
        # The environment has no room for everything.
        descriptor = os.memfd_create("shimproxy")
        with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
            json.dump(left, file)
        return descriptor

    def stay(self, descriptor: int) -> None:
        """It is not left after all."""
        os.close(descriptor)
        del os.environ[_LEFT]
        activation.stay()
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
