"""What a supervisor leaves to the program that takes its place in the same process: sockets, workers and figures."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.ops import systemd
from shimproxy.ops.child import Worker
from shimproxy.ops.listener import SettingsError
from shimproxy.ops.sources import Sources
from shimproxy.ops.status import History

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LEFT: Final = "_SHIMPROXY_LEFT_TO_THE_UPGRADE"


async def check_first(program: Sequence[str], arguments: Sequence[str]) -> None:
    """Have the program that is installed now say whether it can use these settings. Raises SettingsError."""
    variables, descriptors = systemd.for_a_check()
    tried = await trio.run_process(
        [*program, "check", *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=os.environ | variables,
        pass_fds=descriptors,
    )
    if tried.returncode:
        said = tried.stderr.decode(errors="replace").splitlines() or ["it says nothing"]
        raise SettingsError(*(line.removeprefix("shimproxy: ") for line in said))


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
        listening = {
            name: [socket.socket(fileno=fileno) for fileno in filenos] for name, filenos in left["listening"].items()
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
