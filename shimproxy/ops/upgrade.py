"""What a supervisor leaves to the program that takes its place in the same process: sockets, workers and figures."""

from __future__ import annotations

import json
import os
import socket
from typing import Final

import attrs

from shimproxy.ops.child import Worker
from shimproxy.ops.status import History

_LEFT: Final = "_SHIMPROXY_LEFT_TO_THE_UPGRADE"


@attrs.define
class Left:
    """What a supervisor leaves to the one that takes its place in the same process."""

    listening: dict[str, list[socket.socket]] = attrs.field(factory=dict)
    workers: list[Worker] = attrs.field(factory=list)
    history: History | None = None

    @classmethod
    def take_over(cls) -> Left:
        """What was left, if this is such a one."""
        if _LEFT not in os.environ:
            return cls()
        with open(int(os.environ.pop(_LEFT)), encoding="utf-8") as file:
            file.seek(0)
            left = json.load(file)
        listening = {
            name: [socket.socket(fileno=fileno) for fileno in filenos] for name, filenos in left["listening"].items()
        }
        workers = [Worker(pid, socket.socket(fileno=fileno), serves=True) for pid, fileno in left["workers"]]
        for sock in (
            *(sock for sockets in listening.values() for sock in sockets),
            *(each.control for each in workers),
        ):
            sock.set_inheritable(False)
        return cls(listening, workers, History.of_json(left["history"]))

    def leave(self) -> None:
        """See to it that the program to be executed finds it."""
        sockets = [sock for sockets in self.listening.values() for sock in sockets]
        for sock in (*sockets, *(worker.control for worker in self.workers)):
            sock.set_inheritable(True)
        left = {
            "listening": {name: [sock.fileno() for sock in socks] for name, socks in self.listening.items()},
            "workers": [(worker.pid, worker.control.fileno()) for worker in self.workers],
            "history": (self.history or History()).as_json(),
        }
        # The environment has no room for everything.
        descriptor = os.memfd_create("shimproxy", 0)
        os.write(descriptor, json.dumps(left).encode())
        os.environ[_LEFT] = str(descriptor)
