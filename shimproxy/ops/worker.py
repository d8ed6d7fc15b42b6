"""A process that serves on the supervisor's sockets, and is told what to do by lines on a control socket.

The first line has the settings and the sockets; then `{"do": "retire"}` lets its sessions come to their end, `stop`
ends them in good order, and `stop` again at once. It says `{"ready": true}` once it accepts. When the control socket
ends, the supervisor has gone, and it stops. Signals are the supervisor's: a terminal sends them to both.
"""

from __future__ import annotations

import json
import math
import signal
import socket
import sys
from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.ops import journal
from shimproxy.ops.serve import Stop, serve_on
from shimproxy.ops.sources import Sources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any


async def work(control: trio.SocketStream) -> None:
    """Serve as the supervisor says, until it says stop or has gone."""
    orders = _orders(control)
    first = await anext(orders)
    settings = Sources.of_texts(first["options"]).settings()
    settings = attrs.evolve(settings, sessions=math.ceil(settings.sessions / settings.workers_used))
    sockets = {socket.socket(fileno=fileno): settings.listen[index] for index, fileno in first["sockets"]}
    journal.set_up(settings.log_level.upper(), settings.log_format)
    stop = Stop()
    async with trio.open_nursery() as nursery:

        async def obey() -> None:
            async for order in orders:
                if order["do"] == "retire":
                    stop.retire()
                else:
                    stop.ask()
            stop.ask()

        async def serve_to_the_end(task_status: trio.TaskStatus[list[str]]) -> None:
            await serve_on(settings, sockets, stop=stop, task_status=task_status)
            nursery.cancel_scope.cancel()

        nursery.start_soon(obey)
        await nursery.start(serve_to_the_end)
        await control.send_all(b'{"ready": true}\n')


async def _orders(control: trio.SocketStream) -> AsyncIterator[dict[str, Any]]:
    unread = b""
    while octets := await control.receive_some():
        *lines, unread = (unread + octets).split(b"\n")
        for line in lines:
            yield json.loads(line)


async def _main(fileno: int) -> None:
    await work(trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fileno))))


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)
    trio.run(_main, int(sys.argv[1]))
