"""`shimproxy run`: holds the listening sockets, and keeps workers running that serve on them.

Invariants:

1. A listening socket stays open as long as the settings name it: no reload, upgrade or crash refuses a connection.
2. New settings change nothing before all of them can be used and their workers serve.
3. A worker that a reload or an upgrade has replaced lets its sessions come to their end.
4. Signals are obeyed here, one after the other; workers are told by a line (worker.py).
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from shimproxy.net.address import written
from shimproxy.net.errors import DialFailed, ListenFailed, TlsUnusable
from shimproxy.ops import log_output
from shimproxy.ops.admin import Admin
from shimproxy.ops.check import check_capabilities, check_loops, check_receivers, check_records, check_tls
from shimproxy.ops.child import Worker
from shimproxy.ops.greeting import GREETING_SECONDS, why_no_greeting
from shimproxy.ops.journal import Journal
from shimproxy.ops.listener import (
    Listening,
    SettingsError,
    check_passed,
    close_sockets,
    make_all_transparent,
    named,
    open_sockets,
    sockets_of,
)
from shimproxy.ops.log_output import LogUnusable
from shimproxy.ops.run import allow_many_files, say
from shimproxy.ops.status import History, Repaired, Status
from shimproxy.ops.systemd import keep_watch, notify, notify_reloading
from shimproxy.ops.upgrade import Left, check_first

if TYPE_CHECKING:
    from shimproxy.ops.settings import Settings
    from shimproxy.ops.sources import Sources

_START_SECONDS: Final = 30.0
_LEAST_BACK_OFF_SECONDS: Final = 0.1
_LONGEST_BACK_OFF_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 1.0
"""Between attempts to start a worker for which there are no means."""
_STEADY_SECONDS: Final = 10.0
"""A worker that has lived so long has not failed to start."""
_REPORT_SECONDS: Final = 1.0
_SILENT_SECONDS: Final = 10.0
"""A worker that reports once a second and has not for so long serves nobody."""
_MARGIN_SECONDS: Final = 2.0
_CODE: Final = Path(__file__).parents[2]
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
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
    _listening: Listening = attrs.field(factory=dict)
    _current: list[Worker] = attrs.field(factory=list)
    _all: set[Worker] = attrs.field(factory=set)
    _stopping: bool = False
    _changing: trio.CancelScope | None = None
    _greeted: tuple[float, str] = (-math.inf, "")
    """When the receiver was asked last, and why it can't be said to be there."""
    _failures: int = 0
    _admin: Admin | None = None
    _history: History = attrs.field(factory=History)
    _answered: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _journal: Journal = attrs.field(factory=Journal)
    _trouble: str = ""
    """What kept the last change from being made."""

    # -- starting

    async def start(self) -> None:
        """Listen and serve. Raises SettingsError, ListenFailed, DialFailed, TlsUnusable, LogUnusable."""
        left = Left.take_over()
        if left is None:
            await self._adopt(self.gather())
            self.nursery.start_soon(keep_watch, self.answered)
        else:
            await self._take_over(left)
            try:
                await self._adopt(self.gather())
            except _UNUSABLE as error:
                self._complain("not upgraded: the workers go on", str(error))
        admin = f", admin {', '.join(self._admin.addresses)}" if self._admin else ""
        say(f"shimproxy ready: {self._what_is_so}{admin}")
        self._notify_ready()

    @property
    def _what_is_so(self) -> str:
        return f"listening on {', '.join(self._addresses)}, receiver {_in_words(self._settings)}"

    def _notify_ready(self) -> None:
        notify(READY=1, STATUS=f"{self._what_is_so}; {self._trouble}".removesuffix("; "))
        self._trouble = ""

    async def _take_over(self, left: Left) -> None:
        """Go on as the program before this one did."""
        self.nursery.start_soon(keep_watch, self.answered)
        self._sources, self._settings = left.sources, left.sources.settings()
        self._listening, self._history = left.listening, left.history
        log_output.set_up(self._settings.log_level.upper(), self._settings.log_format, self._settings.log_to)
        for worker in left.workers:
            self._tend(worker)
        self._current = [worker for worker in left.workers if not worker.retiring]
        if self._settings.admin:
            with suppress(ListenFailed):
                self._admin = await Admin.open(self._settings.admin)
                self._admin.answer(self)

    @property
    def _addresses(self) -> list[str]:
        return [written(sock.getsockname()) for _, sock in sockets_of(self._settings.listen, self._listening)]

    async def _adopt(self, sources: Sources) -> None:
        """Go over to these settings. Raises what makes them unusable, and changes nothing then."""
        settings = sources.settings()
        check_tls(settings)
        log_output.check(settings.log_to)
        check_records(settings)
        check_capabilities(settings)
        check_passed(settings.listen)
        found = await check_receivers(settings)
        admin = self._admin
        opened: list[socket.socket] = []
        listening: Listening = {}
        try:
            for name, listener in named(settings.listen):
                listening[name] = self._listening.get(name) or await open_sockets(listener)
                opened += listening[name] if name not in self._listening else []
                make_all_transparent(listener, listening[name])  # it may have been there without
            check_loops(settings, chain.from_iterable(listening.values()), found)
            if settings.admin != (admin.where if admin else ""):
                admin = await Admin.open(settings.admin) if settings.admin else None
            workers = await self._started(sources, settings, listening)
            log_output.set_up(settings.log_level.upper(), settings.log_format, settings.log_to)
        except BaseException:
            if admin and admin is not self._admin:
                admin.close_soon(self.nursery)
            close_sockets(opened)
            raise
        # From here on there is no way back, and no wait.
        self._journal.sender_tls(settings.sender_tls_of_all)
        for name, sockets in self._listening.items():
            if name not in listening:
                close_sockets(sockets)
        self._sources, self._settings, self._listening = sources, settings, listening
        if admin is not self._admin:
            if self._admin:
                self._admin.close_soon(self.nursery)
            self._admin = admin
            if admin:
                admin.answer(self)
        replaced, self._current = self._current, workers
        self._failures = 0
        for worker in replaced:
            worker.retire()
        for worker in workers:
            if worker.ended.is_set():  # since it was ready
                self.nursery.start_soon(self._replace, worker)

    async def _started(self, sources: Sources, settings: Settings, listening: Listening) -> list[Worker]:
        """Workers that serve. Raises SettingsError if there can't be as many as there should be: then there is none."""
        workers: list[Worker] = []
        problem = "a worker did not start; what it says stands above"
        try:
            for _ in range(settings.workers_used):
                workers.append(self._spawn(sources, settings, listening))
            for worker in workers:
                with trio.move_on_after(_START_SECONDS):
                    await worker.ready.wait()
        except OSError as error:
            problem = f"a worker could not be started: {error.strerror}"
        except BaseException:
            for worker in workers:
                worker.kill()
            raise
        if len(workers) < settings.workers_used or not all(worker.serves for worker in workers):
            for worker in workers:
                worker.kill()
            raise SettingsError(problem)
        return workers

    def _spawn(self, sources: Sources, settings: Settings, listening: Listening) -> Worker:
        """Start a worker. Raises OSError."""
        ours, theirs = socket.socketpair()
        sockets = sockets_of(settings.listen, listening)
        # The code is this program's, whatever stands in the directory where it was started.
        code = os.pathsep.join(filter(None, (str(_CODE), os.environ.get("PYTHONPATH"))))
        with theirs:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "shimproxy.ops.worker", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), *(sock.fileno() for _, sock in sockets)],
                    env=os.environ | {"PYTHONPATH": code},
                    process_group=0,  # what a terminal sends is for the supervisor
                )
            except OSError:
                ours.close()
                raise
        process.returncode = 0  # it is waited for here, not by its destructor
        ours.setblocking(False)
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
        await worker.run(partial(self._hear, worker), partial(self._journal.trouble_with_workers, pid=worker.pid))
        self._all.discard(worker)
        self._history.over(worker.counted)
        self._answered.unpark_all()
        if worker in self._current:
            await self._replace(worker)

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

    # -- what the admin address is told, and systemd

    def _ask(self) -> tuple[int, list[Worker]]:
        """Ask workers for their figures: the question, and whom it was put to."""
        question = time.monotonic_ns()  # an answer to a program before this one answers an earlier question
        asked = [worker for worker in self._all if worker.serves]
        for worker in asked:
            worker.ask(question)
        return question, asked

    async def answered(self) -> None:
        """Return when a worker that takes new sessions has answered a question put to it now."""
        question, _ = self._ask()
        while self._stopping or all(worker.reported < question for worker in self._current):
            await self._answered.park()

    async def status(self) -> Status:
        """What is so, and what was done."""
        question, asked = self._ask()
        with trio.move_on_after(_REPORT_SECONDS):  # a worker that is too busy to answer has said it not long ago
            while any(worker in self._all and worker.reported < question for worker in asked):
                await self._answered.park()
        figures = self._history.figures(figures for worker in self._all for figures in (worker.counted, worker.gauges))
        figures["workers"] = len(self._all)
        silent = trio.current_time() - _SILENT_SECONDS
        return Status(
            version=self.version,
            receiver=_in_words(self._settings),
            listening=[] if self._stopping else self._addresses,
            started_at=self._history.started_at,
            serves=not self._stopping and any(worker.serves and worker.heard_at > silent for worker in self._current),
            stopping=self._stopping,
            workers=len(self._all),
            figures=figures,
            recent=[*self._history.recent],
            habits=self._history.habits(figures),
        )

    async def receiver_greets(self) -> str:
        """Why the receiver can't be said to be there, or nothing; asked at most once in a few seconds."""
        asked_at, why_not = self._greeted
        if trio.current_time() - asked_at > GREETING_SECONDS:
            why_not = await why_no_greeting(self._settings)
            self._greeted = trio.current_time(), why_not
        return why_not

    async def _replace(self, worker: Worker) -> None:
        self._current.remove(worker)
        if self._stopping:
            return
        lived_seconds = trio.current_time() - worker.started_at
        self._failures = 0 if lived_seconds > _STEADY_SECONDS else self._failures + 1
        pause_seconds = min(_LONGEST_BACK_OFF_SECONDS, _LEAST_BACK_OFF_SECONDS * 2 ** max(0, self._failures - 1))
        self._journal.trouble_with_workers(
            "a worker has ended; another starts",
            pid=worker.pid,
            how=worker.how_it_ended,
            after_seconds=round(lived_seconds, 3),
            pause_seconds=pause_seconds,
        )
        await trio.sleep(pause_seconds)
        while not self._stopping and len(self._current) < self._settings.workers_used:
            try:
                self._current.append(self._spawn(self._sources, self._settings, self._listening))
            except OSError as error:
                self._journal.trouble_with_workers(
                    "a worker could not be started; another attempt follows",
                    problem=error.strerror or str(error),
                    pause_seconds=_PAUSE_SECONDS,
                )
                await trio.sleep(_PAUSE_SECONDS)

    # -- signals

    async def change(self, what: Callable[[], Awaitable[None]]) -> None:
        """Reload or upgrade, unless a stop comes first; whatever goes wrong changes nothing."""
        if self._stopping:
            return
        notify_reloading(f"{what.__name__}: {self._what_is_so}")
        with trio.CancelScope() as self._changing:
            try:
                await what()
            except _UNUSABLE as error:
                self._complain(f"no {what.__name__}: nothing has changed", str(error))
            except Exception as error:
                self._trouble = f"no {what.__name__}: a bug, which is in the log"
                self._journal.supervisor_failed(what.__name__, error)
        if not self._stopping:
            self._notify_ready()

    def _complain(self, what: str, problems: str) -> None:
        self._trouble = f"{what}: {problems}"
        for problem in problems.splitlines():
            self._journal.trouble_with_workers(what, problem=problem)

    async def reload(self) -> None:
        """SIGHUP: settings and certificates read anew, by new workers."""
        await self._adopt(self.gather())
        self._journal.supervised("reloaded", workers=len(self._current), retiring=len(self._all) - len(self._current))

    async def upgrade(self) -> None:
        """SIGUSR2: the same with the code that is installed now, in this process."""
        words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
        program = [sys.executable, *words[1:]]
        await check_first(program, sys.argv[2:])
        with trio.move_on_after(_REPORT_SECONDS):
            while not all(worker.told for worker in self._all):  # noqa: ASYNC110 - once, and soon so
                await trio.sleep(_REPORT_SECONDS / 100)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the new program obeys them; they wait till then
        try:
            await trio.lowlevel.checkpoint()  # those that have come before may want a stop
            await trio.lowlevel.checkpoint()
            self._journal.supervised("upgrading")
            left = Left(self._sources, self._listening, list(self._all), self._history)
            descriptor = left.leave()
            try:
                os.execv(sys.executable, [*program, *sys.argv[1:]])
            except OSError:
                left.stay(descriptor)
                raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def stop(self) -> None:
        """SIGTERM, SIGINT: accept no more, and end in good order; asked again, at once."""
        deadlines, grace_seconds = self._settings.deadlines, 0.0 if self._stopping else self._settings.grace_seconds
        self._stopping = True
        notify(STOPPING=1, STATUS=f"sessions come to their end within {grace_seconds:g} s")
        self._journal.supervised("stopping", workers=len(self._all), grace_seconds=grace_seconds)
        if self._changing:
            self._changing.cancel()
        close_sockets(chain.from_iterable(self._listening.values()))
        for worker in self._all:
            worker.tell(do="stop")
        self.nursery.start_soon(self._kill_after, grace_seconds + deadlines.linger_idle + _MARGIN_SECONDS)

    async def _kill_after(self, seconds: float) -> None:
        await trio.sleep(seconds)
        for worker in self._all:
            self._journal.trouble_with_workers("a worker does not end; it is killed", pid=worker.pid)
            worker.kill()

    async def stopped(self) -> None:
        """Return when every worker has ended."""
        while self._all:
            await next(iter(self._all)).ended.wait()
            await trio.lowlevel.checkpoint()
        if self._admin:
            await self._admin.close()


async def supervise(gather: Callable[[], Sources], version: str) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. Says on standard output where it listens.

    Raises SettingsError, ListenFailed, DialFailed, TlsUnusable.
    """
    allow_many_files()
    with trio.open_signal_receiver(*SIGNALS) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # an upgrade has blocked them
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(gather, version, nursery)
            changes, to_be_made = trio.open_memory_channel[Callable[[], Awaitable[None]]](1)

            async def make_changes() -> None:
                async for each in to_be_made:
                    await supervisor.change(each)

            async def end() -> None:
                await supervisor.stopped()
                nursery.cancel_scope.cancel()

            await supervisor.start()
            nursery.start_soon(make_changes)
            async for each in signals:
                if each in (signal.SIGHUP, signal.SIGUSR2):
                    with suppress(trio.WouldBlock):  # one that is to be made already will read what is there then
                        changes.send_nowait(supervisor.reload if each == signal.SIGHUP else supervisor.upgrade)
                else:
                    supervisor.stop()
                    nursery.start_soon(end)


def _in_words(settings: Settings) -> str:
    """The receivers."""
    return ", ".join(map(str, settings.receivers_of_all))
