"""A process that serves on the supervisor's sockets, and is told what to do by lines on a control socket.

The first line has the settings, what was read of files that they name, and the sockets; then `{"do": "retire"}` lets
its sessions come to their end, `stop` ends them in good order, `stop` again at once, `drain` says which receivers get
no new sessions, and `report` asks for its figures.
It says `{"ready": true}` once it accepts, and `{"let_go": true}` once it listens no more; its figures when asked, once
a second and at its end; and each session in which something was repaired. When the control socket ends, the supervisor
has gone, and it stops. Signals are the supervisor's: a terminal sends them to both.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from shimproxy.config.sources import Sources
from shimproxy.daemon.garbage import collect_what_is_new, give_back_memory
from shimproxy.net.receiver_state import ReceiverStates
from shimproxy.observe import log_output
from shimproxy.observe.metrics import Metrics
from shimproxy.service.serve import Stop, serve_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shimproxy.session.record import SessionRecord

_REPORT_SECONDS: Final = 1.0
_MOST_UNSAID: Final = 100
_LAST_SECONDS: Final = 5.0


@attrs.define(eq=False)
class Reports:
    """What the supervisor is told; what it does not take soon enough is left out."""

    control: trio.SocketStream
    metrics: Metrics = attrs.field(factory=Metrics)
    _repaired: int = 0
    """How many sessions were told since the figures were: more than are kept are not asked for."""
    _unwritten: bytes = b""
    """What is left of the lines that are being written."""
    _unsaid: trio.MemorySendChannel[dict[str, Any]] = attrs.field(init=False)
    _to_say: trio.MemoryReceiveChannel[dict[str, Any]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._unsaid, self._to_say = trio.open_memory_channel(_MOST_UNSAID)

    def ended(self, record: SessionRecord) -> None:
        """A session is over."""
        self.metrics.ended(record)
        if record.is_remarkable:
            self._say_repaired(record)

    def _say_repaired(self, record: SessionRecord) -> None:
        # What is seldom used takes no memory before it is.
        from shimproxy.admin.repaired import repaired_session
        from shimproxy.admin.status import MOST_RECENT

        if self._repaired < MOST_RECENT:
            self._repaired += 1
            self.say(repaired=attrs.asdict(repaired_session(record)))

    def say(self, **what: object) -> None:
        """Say that presently."""
        with suppress(trio.WouldBlock):
            self._unsaid.send_nowait(what)

    def figures(self, **more: object) -> None:
        """Say the figures."""
        self.say(counted=self.metrics.totals(), gauges=self.metrics.gauges(), **more)

    async def run(self) -> None:
        """Say what is to be said, until cancelled or until nobody is there to hear it."""
        async for each in self._to_say:
            await self._write(each)

    async def _write(self, what: dict[str, Any]) -> None:
        """Write a line, after what was left of the one before it; cancelled, it leaves the rest to the next."""
        self._unwritten += json.dumps(what).encode() + b"\n"
        with suppress(OSError):  # the supervisor has gone, and the lines have nowhere to go
            while self._unwritten:
                taken = await self.control.socket.send(self._unwritten)
                self._unwritten = self._unwritten[taken:]
        self._unwritten = b""

    async def run_regularly(self) -> None:
        """Say the figures once a second, so that little is lost with a worker that is killed."""
        while True:
            await trio.sleep(_REPORT_SECONDS)
            self._repaired = 0
            self.figures()

    async def say_the_last(self) -> None:
        """Say the figures of a worker that is about to end."""
        with trio.move_on_after(_LAST_SECONDS):
            await self._write({"counted": self.metrics.totals(), "gauges": {}})


async def work(control: trio.SocketStream) -> None:
    """Serve as the supervisor says, until it says stop or has gone."""
    orders = _orders(control)
    first = await anext(orders)
    settings = Sources.of_json(first).settings().of_one_worker()
    sockets = {socket.socket(fileno=fileno): settings.listen[index] for index, fileno in first["sockets"]}
    log_output.set_up(settings.log_level.upper(), settings.log_format, settings.log_to)
    stop, reports, states = Stop(), Reports(control), ReceiverStates(frozenset(first.get("drained", ())))
    counted = bool(settings.admin)
    settings = attrs.evolve(settings, trace=settings.trace or counted)
    async with trio.open_nursery() as nursery:

        async def obey() -> None:
            stopping = False
            async for order in orders:
                match order["do"]:
                    case "retire":
                        stop.retire()
                    case "drain":
                        states.drain(frozenset(order["drained"]))
                    case "report":
                        reports.figures(report=order["report"])
                    case _:
                        stop.ask()
                        stopping = True
            if not stopping:
                stop.ask()

        async def serve_to_the_end(task_status: trio.TaskStatus[list[str]]) -> None:
            await serve_on(
                settings,
                sockets,
                stop=stop,
                on_session=reports.ended if counted else None,
                metrics=reports.metrics,
                states=states,
                task_status=task_status,
            )
            nursery.cancel_scope.cancel()

        async def say_once_closed() -> None:
            await stop.closed()
            reports.say(let_go=True)

        nursery.start_soon(obey)
        await nursery.start(serve_to_the_end)
        nursery.start_soon(reports.run)
        give_back_memory()
        nursery.start_soon(collect_what_is_new)
        reports.say(ready=True)
        nursery.start_soon(say_once_closed)
        if counted:
            nursery.start_soon(reports.run_regularly)
    await reports.say_the_last()


async def _orders(control: trio.SocketStream) -> AsyncIterator[dict[str, Any]]:
    unread = b""
    with suppress(trio.BrokenResourceError):  # the supervisor was killed
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
