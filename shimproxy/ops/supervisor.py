"""`shimproxy run`: holds the listening sockets, and keeps workers running that serve on them.

Invariants:

1. A listening socket stays open as long as the settings name it: no reload, upgrade or crash refuses a connection.
2. New settings change nothing before all of them can be used and their workers serve.
3. A worker that a reload or an upgrade has replaced lets its sessions come to their end.
4. Signals are obeyed here, one after the other; workers are told by a line (worker.py).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from shimproxy.net.address import written
from shimproxy.net.errors import DialFailed, ListenFailed, TlsUnusable
from shimproxy.net.listen import open_listeners
from shimproxy.ops import log_output
from shimproxy.ops.admin import Admin
from shimproxy.ops.check import check_receiver, check_records, check_tls
from shimproxy.ops.child import Worker, how_it_ended, kill, waited_for
from shimproxy.ops.journal import Journal
from shimproxy.ops.log_output import LogUnusable
from shimproxy.ops.run import allow_many_files, say
from shimproxy.ops.settings import SettingsError
from shimproxy.ops.status import History, Repaired, Status
from shimproxy.ops.upgrade import Left

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.ops.settings import Listener, Settings
    from shimproxy.ops.sources import Sources

_START_SECONDS: Final = 30.0
_LEAST_BACK_OFF_SECONDS: Final = 0.1
_LONGEST_BACK_OFF_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 1.0
"""Between attempts to start a worker for which there are no means."""
_STEADY_SECONDS: Final = 10.0
"""A worker that has lived so long has not failed to start."""
_REPORT_SECONDS: Final = 1.0
_GREETING_SECONDS: Final = 5.0
_UNUSABLE: Final = (SettingsError, ListenFailed, DialFailed, TlsUnusable, LogUnusable)


@attrs.define(eq=False)
class Supervisor:
    """The listening sockets and the workers of one `shimproxy run`."""

    gather: Callable[[], Sources]
    """Reads the settings anew."""
    version: str
    nursery: trio.Nursery
    _settings: Settings = attrs.field(init=False)
    _sources: Sources = attrs.field(init=False)
    _listening: dict[str, list[socket.socket]] = attrs.field(factory=dict)
    """Address as in the settings -> its sockets."""
    _current: list[Worker] = attrs.field(factory=list)
    _all: set[Worker] = attrs.field(factory=set)
    _stopping: bool = False
    _failures: int = 0
    _admin: Admin | None = None
    _history: History = attrs.field(factory=History)
    _questions: int = 0
    _answered: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _journal: Journal = attrs.field(factory=Journal)

    # -- starting

    async def start(self) -> None:
        """Listen and serve. Raises SettingsError, ListenFailed, DialFailed, TlsUnusable."""
        left = Left.take_over()
        self._listening = left.listening
        self._history = left.history or self._history
        await self._adopt(self.gather())
        for worker in left.workers:
            self._tend(worker)
            worker.tell(do="retire")
        admin = f", admin {', '.join(self._admin.addresses)}" if self._admin else ""
        say(f"shimproxy ready: listening on {', '.join(self._addresses)}, receiver {self._settings.receiver}{admin}")

    @property
    def _addresses(self) -> list[str]:
        return [written(sock.getsockname()) for _, sock in self._sockets(self._settings)]

    async def _adopt(self, sources: Sources) -> None:
        """Go over to these settings. Raises what makes them unusable, and changes nothing then."""
        settings = sources.settings()
        check_tls(settings)
        log_output.check(settings.log_to)
        check_records(settings)
        await check_receiver(settings)
        opened = {
            name: await open_listeners(each.address) for name, each in _named(settings) if name not in self._listening
        }
        admin, before = self._admin, self._listening
        self._listening = {name: before.get(name) or opened[name] for name, _ in _named(settings)}
        try:
            if settings.admin != (admin.where if admin else ""):
                admin = await Admin.open(settings.admin) if settings.admin else None
            workers = await self._started(sources, settings)
        except BaseException:
            self._listening = before
            if admin and admin is not self._admin:
                await admin.close()
            for sock in (sock for sockets in opened.values() for sock in sockets):
                sock.close()
            raise
        for name, sockets in before.items():
            if name not in self._listening:
                for sock in sockets:
                    sock.close()
        self._sources, self._settings = sources, settings
        log_output.set_up(settings.log_level.upper(), settings.log_format, settings.log_to)
        self._journal.sender_tls(settings.sender_tls_used)
        if admin is not self._admin:
            if self._admin:
                await self._admin.close()
            self._admin = admin
            if admin:
                admin.answer(self)
        replaced, self._current = self._current, workers
        self._failures = 0
        for worker in replaced:
            worker.tell(do="retire")

    async def _started(self, sources: Sources, settings: Settings) -> list[Worker]:
        """Workers that serve. Raises SettingsError if there can't be as many as there should be: then there is none."""
        workers: list[Worker] = []
        try:
            for _ in range(settings.workers_used):
                workers.append(self._spawn(sources, settings))
            problem = "a worker did not start; what it says stands above"
        except OSError as error:
            problem = f"a worker could not be started: {error.strerror}"
        for worker in workers:
            with trio.move_on_after(_START_SECONDS):
                await worker.ready.wait()
        if len(workers) < settings.workers_used or not all(worker.serves for worker in workers):
            for worker in workers:
                kill(worker)
            raise SettingsError(problem)
        return workers

    def _sockets(self, settings: Settings) -> list[tuple[int, socket.socket]]:
        """Every listening socket, with the index of its listener in the settings."""
        return [(index, sock) for index, (name, _) in enumerate(_named(settings)) for sock in self._listening[name]]

    def _spawn(self, sources: Sources, settings: Settings) -> Worker:
        """Start a worker. Raises OSError."""
        ours, theirs = socket.socketpair()
        sockets = self._sockets(settings)
        with theirs:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "shimproxy.ops.worker", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), *(sock.fileno() for _, sock in sockets)],
                )
            except OSError:
                ours.close()
                raise
        process.returncode = 0  # it is waited for here, not by its destructor
        worker = Worker(process.pid, ours)
        worker.tell(options=sources.as_texts(), sockets=[(index, sock.fileno()) for index, sock in sockets])
        self._tend(worker)
        return worker

    # -- workers

    def _tend(self, worker: Worker) -> None:
        self._all.add(worker)
        self.nursery.start_soon(self._tend_to_its_end, worker, name=f"worker {worker.pid}")

    async def _tend_to_its_end(self, worker: Worker) -> None:
        worker.control.setblocking(False)
        await self._listen_to(worker)
        worker.control.close()  # which leaves a descriptor to wait with, should there be no other
        status = await waited_for(worker.pid)
        worker.ready.set()
        worker.ended.set()
        self._all.discard(worker)
        self._history.over(worker.counted)
        self._answered.unpark_all()
        if worker in self._current and not self._stopping:
            self._current.remove(worker)
            await self._replace(worker, status)

    async def _listen_to(self, worker: Worker) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(worker.control))
        unread = b""
        try:
            while octets := await stream.receive_some():
                *lines, unread = (unread + octets).split(b"\n")
                for line in lines:
                    self._hear(worker, json.loads(line))
        except trio.BrokenResourceError:
            pass  # it was killed

    def _hear(self, worker: Worker, what: dict[str, Any]) -> None:
        if "ready" in what:
            worker.serves = True
            worker.ready.set()
        if "counted" in what:
            worker.counted, worker.gauges = what["counted"], what["gauges"]
            worker.reported = what.get("report", worker.reported)
            self._answered.unpark_all()
        if "repaired" in what:
            self._history.repaired(Repaired(**what["repaired"]))

    # -- what the admin address is told

    async def status(self) -> Status:
        """What is so, and what was done."""
        self._questions += 1
        question = self._questions
        asked = [worker for worker in self._all if worker.serves]
        for worker in asked:
            worker.tell(do="report", report=question)
        with trio.move_on_after(_REPORT_SECONDS):  # a worker that is too busy to answer has said it not long ago
            while any(worker in self._all and worker.reported < question for worker in asked):
                await self._answered.park()
        figures = self._history.figures(figures for worker in self._all for figures in (worker.counted, worker.gauges))
        figures["workers"] = len(self._all)
        return Status(
            version=self.version,
            receiver=str(self._settings.receiver),
            listening=[] if self._stopping else self._addresses,
            started_at=self._history.started_at,
            serves=any(worker.serves for worker in self._current) and not self._stopping,
            stopping=self._stopping,
            workers=len(self._all),
            figures=figures,
            recent=[*self._history.recent],
            habits=self._history.habits(figures),
        )

    async def receiver_greets(self) -> str:
        """Why the receiver can't be said to be there, or nothing; it is told QUIT, so that its log has no complaint."""
        receiver = self._settings.receiver
        try:
            with trio.fail_after(_GREETING_SECONDS):
                stream = await trio.open_tcp_stream(receiver.host, receiver.port)
                async with stream:
                    greeting = await stream.receive_some()
                    await stream.send_all(b"QUIT\r\n")
                    await stream.receive_some()
        except trio.TooSlowError:
            return "no greeting in time"
        except (OSError, trio.BrokenResourceError) as error:
            return f"the receiver cannot be reached: {error}"
        return "" if greeting.startswith(b"220") else "the receiver does not greet"

    async def _replace(self, worker: Worker, status: int) -> None:
        lived_seconds = trio.current_time() - worker.started_at
        self._failures = 0 if lived_seconds > _STEADY_SECONDS else self._failures + 1
        pause_seconds = min(_LONGEST_BACK_OFF_SECONDS, _LEAST_BACK_OFF_SECONDS * 2 ** max(0, self._failures - 1))
        self._journal.trouble_with_workers(
            "a worker has ended; another starts",
            pid=worker.pid,
            how=how_it_ended(status),
            after_seconds=round(lived_seconds, 3),
            pause_seconds=pause_seconds,
        )
        await trio.sleep(pause_seconds)
        while not self._stopping and len(self._current) < self._settings.workers_used:
            try:
                self._current.append(self._spawn(self._sources, self._settings))
            except OSError as error:
                self._journal.trouble_with_workers(
                    "a worker could not be started; another attempt follows",
                    problem=error.strerror or str(error),
                    pause_seconds=_PAUSE_SECONDS,
                )
                await trio.sleep(_PAUSE_SECONDS)

    # -- signals

    async def reload(self) -> None:
        """SIGHUP: settings and certificates read anew, by new workers."""
        try:
            await self._adopt(self.gather())
        except _UNUSABLE as error:
            for problem in str(error).splitlines():
                self._journal.trouble_with_workers("not reloaded: nothing has changed", problem=problem)
        else:
            self._journal.supervised(
                "reloaded", workers=len(self._current), retiring=len(self._all) - len(self._current)
            )

    async def upgrade(self) -> None:
        """SIGUSR2: the same with the code that is installed now, in this process."""
        command = [sys.executable, "-m", "shimproxy", *sys.argv[1:]]
        try:
            tried = await trio.run_process(
                [*command[:3], "check", *command[4:]], capture_stdout=True, capture_stderr=True, check=False
            )
        except OSError as error:
            self._journal.trouble_with_workers(
                "not upgraded: nothing has changed", problem=error.strerror or str(error)
            )
            return
        if tried.returncode:
            problem = tried.stderr.decode(errors="replace").strip().splitlines()[-1:]
            self._journal.trouble_with_workers("not upgraded: nothing has changed", problem=" ".join(problem))
            return
        self._journal.supervised("upgrading")
        Left(self._listening, list(self._all), self._history).leave()
        for each in (signal.SIGHUP, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)  # which lasts until the new code is there to obey
        os.execv(command[0], command)

    async def stop(self) -> None:
        """SIGTERM, SIGINT: accept no more, and end in good order; asked again, at once."""
        self._stopping = True
        for sock in (sock for sockets in self._listening.values() for sock in sockets):
            sock.close()
        for worker in self._all:
            worker.tell(do="stop")

    async def stopped(self) -> None:
        """Return when every worker has ended."""
        while self._all:
            await next(iter(self._all)).ended.wait()
        if self._admin:
            await self._admin.close()


async def supervise(gather: Callable[[], Sources], version: str) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. Says on standard output where it listens.

    Raises SettingsError, ListenFailed, DialFailed, TlsUnusable.
    """
    allow_many_files()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2) as signals:
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(gather, version, nursery)
            await supervisor.start()

            async def obey() -> None:
                async for each in signals:
                    match each:
                        case signal.SIGHUP:
                            await supervisor.reload()
                        case signal.SIGUSR2:
                            await supervisor.upgrade()
                        case _:
                            await supervisor.stop()
                            nursery.start_soon(end)

            async def end() -> None:
                await supervisor.stopped()
                nursery.cancel_scope.cancel()

            nursery.start_soon(obey)


def _named(settings: Settings) -> list[tuple[str, Listener]]:
    """Each listener with a name for its sockets: its address, told apart from another with the same, as of port 0."""
    seen: Counter[str] = Counter()
    named: list[tuple[str, Listener]] = []
    for listener in settings.listen:
        address = str(listener.address)
        named.append((f"{address} {seen[address]}", listener))
        seen[address] += 1
    return named
