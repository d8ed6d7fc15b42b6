"""The worker processes of one supervisor: they are started, listened to, asked, replaced and ended.

Invariants:

1. A worker that ends while it is among the current ones is replaced, with the settings and sockets of the others, and
   with what was read of files when these settings were adopted: it needs none of them.
2. New workers serve before the old ones are told to retire; if one of them does not, none of them stays.
3. A worker that does not start in time, or no longer answers, is killed.
4. No child is waited for by two tasks: `children` has those that a task waits for, and the rest are orphans.

What a worker is told and says is worker_handle.py's; when there are to be others is the supervisor's to know.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from shimproxy.admin.status import RepairedSession, Totals
from shimproxy.config.listener import SettingsError
from shimproxy.daemon.worker_handle import Worker
from shimproxy.observe.events import Event
from shimproxy.observe.journal import error_name
from shimproxy.observe.series import series
from shimproxy.service.sockets import ListeningSockets, sockets_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from shimproxy.config.settings import Settings
    from shimproxy.config.sources import Sources
    from shimproxy.observe.journal import Journal
    from shimproxy.observe.series import Series

_START_SECONDS: Final = 30.0
_LEAST_BACK_OFF_SECONDS: Final = 0.1
_LONGEST_BACK_OFF_SECONDS: Final = 30.0
_BACK_OFF_ONCE_SERVED_SECONDS: Final = 0.5
"""Of a worker that has served, the longest: what kills one may soon kill the others, and then nobody would serve."""
_PAUSE_SECONDS: Final = 1.0
"""Between attempts to start a worker for which there are no means."""
_STEADY_SECONDS: Final = 10.0
"""A worker that has lived so long has not failed to start."""
_LET_GO_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 3.0
_MOST_UNANSWERED: Final = 3
"""Questions in a row, each of which has its time: where everything stood still, as when a machine is suspended, that
was one of them."""
_REPORT_SECONDS: Final = 1.0
_SILENT_SECONDS: Final = 10.0
"""A worker that reports once a second and has not for so long serves nobody."""
_CODE: Final = Path(__file__).parents[2]


@attrs.frozen
class Service:
    """What workers serve with."""

    sources: Sources
    settings: Settings
    listening: ListeningSockets


@attrs.define(eq=False)
class Workers:
    """The worker processes of one supervisor."""

    nursery: trio.Nursery
    journal: Journal
    history: Totals = attrs.field(factory=Totals)
    """What those that have ended did."""
    current: list[Worker] = attrs.field(factory=list)
    """Those that take new sessions."""
    all: set[Worker] = attrs.field(factory=set)
    """And those that let theirs come to their end."""
    children: dict[int, trio.Event] = attrs.field(factory=dict)
    """The processes that a task waits for, workers and others, each with what is set when it is over."""
    _service: Service | None = None
    """What the current ones serve with."""
    _stopping: bool = False
    _failures: int = 0
    _answered: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    # -- starting

    async def started(self, service: Service) -> list[Worker]:
        """Workers that serve. Raises SettingsError if there can't be as many as there should be: then there is none.

        Beside workers that serve, they take half of the CPUs to start on: mails under way would wait for a CPU.
        """
        workers: list[Worker] = []
        problem = "a worker did not start; the lines before this one say why"
        count = service.settings.workers_used
        at_a_time = max(1, len(os.sched_getaffinity(0)) // 2) if self.current else count
        try:
            while len(workers) < count and all(worker.serves for worker in workers):
                for _ in range(min(at_a_time, count - len(workers))):
                    workers.append(self._spawn(service))
                with trio.move_on_after(_START_SECONDS) as waiting:
                    for worker in workers:
                        await worker.ready.wait()
                if waiting.cancelled_caught:
                    problem = f"a worker did not start within {_START_SECONDS:g} s"
        except OSError as error:
            problem = f"cannot start a worker: {error.strerror}"
        except BaseException:
            for worker in workers:
                worker.kill()
            raise
        if len(workers) < count or not all(worker.serves for worker in workers):
            for worker in workers:
                worker.kill()
            raise SettingsError(problem)
        return workers

    def _spawn(self, service: Service) -> Worker:
        """Start a worker. Raises OSError."""
        worker = _begun(service, self.history.drained)
        self.tend(worker)
        return worker

    def go_over_to(self, service: Service, workers: list[Worker]) -> None:
        """These take new sessions from now on, and the others retire."""
        self._service = service
        replaced, self.current = self.current, workers
        self._failures = 0
        for worker in replaced:
            worker.retire()
        for worker in workers:
            if worker.ended.is_set():  # since it was ready
                self.nursery.start_soon(self._replace, worker)

    def take_over(self, workers: Iterable[Worker], service: Service | None) -> None:
        """Go on with workers that another program has started in this process, and with what they serve with."""
        self._service = service
        for worker in workers:
            worker.has_served = worker.serves
            self.tend(worker)
            if worker.retiring:
                worker.let_go.set()  # the version before this one has heard it
            else:
                self.current.append(worker)

    async def let_go(self) -> None:
        """Return when those that retire listen no more, so that an address which was theirs can be listened on anew."""
        with trio.move_on_after(_LET_GO_SECONDS):
            for worker in [each for each in self.all if each.retiring]:
                await worker.let_go.wait()

    # -- their lives

    def tend(self, worker: Worker) -> None:
        """Listen to it until it has ended."""
        self.all.add(worker)
        self.children[worker.pid] = worker.ended
        self.nursery.start_soon(self._tend_to_its_end, worker, name=f"worker {worker.pid}")

    async def _tend_to_its_end(self, worker: Worker) -> None:
        worker.control.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, worker)
            await worker.run(partial(self._hear, worker), partial(self._complain, worker))
            nursery.cancel_scope.cancel()
        self.all.discard(worker)
        del self.children[worker.pid]
        reason = "killed" if worker.killed else "retired" if worker.retiring else "stopped"
        if not (worker.killed or worker.retiring or self._stopping):
            reason = "crashed"
        self.history.over(worker.counted)
        self.history.over({series("worker_exits_total", reason=reason): 1})
        self._answered.unpark_all()
        if worker in self.current:
            await self._replace(worker)

    async def _watch(self, worker: Worker) -> None:
        """Kill it once it has had its time to start, or no longer says anything when it is asked."""
        with trio.move_on_after(_START_SECONDS):
            await worker.ready.wait()
        unanswered = 0
        while worker.serves and unanswered < _MOST_UNANSWERED:
            asked_at = trio.current_time()
            worker.ask(time.monotonic_ns())
            await trio.sleep(_ANSWER_SECONDS)
            unanswered = 0 if worker.heard_at > asked_at else unanswered + 1
        if worker.ended.is_set():
            return
        if worker.serves:
            reason, message = "no_answer", "a worker no longer answers the supervisor"
        else:
            reason, message = "not_started", f"a worker did not start within {_START_SECONDS:g} s"
        silent_seconds = round(trio.current_time() - worker.heard_at, 3)
        self.journal.tell(
            Event.WORKER_KILLED, reason=reason, pid=worker.pid, silent_seconds=silent_seconds, message=message
        )
        worker.kill()

    def _complain(self, worker: Worker, octets: int) -> None:
        self.journal.tell(Event.WORKER_UNREADABLE, pid=worker.pid, octets=octets)

    def _hear(self, worker: Worker, what: dict[str, Any]) -> None:
        """Take a line of a worker's. Raises ValueError, TypeError, KeyError for one that is not as workers say it."""
        worker.note(what)
        if "counted" in what:
            self._answered.unpark_all()
        if "repaired" in what:
            self.history.repaired(RepairedSession(**what["repaired"]))

    # -- what they are asked

    def ask(self) -> tuple[int, list[Worker]]:
        """Ask workers for their figures: the question, and whom it was put to."""
        question = time.monotonic_ns()  # an answer to a program before this one answers an earlier question
        asked = [worker for worker in self.all if worker.serves]
        for worker in asked:
            worker.ask(question)
        return question, asked

    async def answered(self) -> None:
        """Return when a worker that takes new sessions has answered a question put to it now."""
        question, _ = self.ask()
        while self._stopping or all(worker.reported < question for worker in self.current):
            await self._answered.park()

    async def heard(self) -> None:
        """Return when all have answered a question put to them now, or have had their time to."""
        question, asked = self.ask()
        with trio.move_on_after(_REPORT_SECONDS):  # a worker that is too busy to answer has said it not long ago
            while any(worker in self.all and worker.reported < question for worker in asked):
                await self._answered.park()

    async def told(self) -> None:
        """Return when every order was written whole, or there was time enough for it."""
        with trio.move_on_after(_REPORT_SECONDS):
            while not all(worker.told for worker in self.all):  # noqa: ASYNC110 - once, and soon so
                await trio.sleep(_REPORT_SECONDS / 100)

    async def reaped(self) -> None:
        """Return when each one that says no more was waited for, or there was time enough for it.

        There is no wait between the last look and the return.
        """
        with trio.move_on_after(_REPORT_SECONDS):
            while ending := next((worker for worker in self.all if worker.control.fileno() < 0), None):
                await ending.ended.wait()

    def figures(self) -> Series:
        """The figures of all of them, of those too that have ended."""
        figures = self.history.figures(figures for worker in self.all for figures in (worker.counted, worker.gauges))
        figures["workers"] = len(self.all)
        return figures

    @property
    def serve(self) -> bool:
        """Whether one of them takes new sessions."""
        silent = trio.current_time() - _SILENT_SECONDS
        return any(worker.serves and worker.heard_at > silent for worker in self.current)

    # -- the replacement

    async def _replace(self, worker: Worker) -> None:
        self.current.remove(worker)
        if self._stopping:
            return
        lived_seconds = trio.current_time() - worker.started_at
        self._failures = 0 if lived_seconds > _STEADY_SECONDS else self._failures + 1
        longest_seconds = _BACK_OFF_ONCE_SERVED_SECONDS if worker.has_served else _LONGEST_BACK_OFF_SECONDS
        pause_seconds = min(longest_seconds, _LEAST_BACK_OFF_SECONDS * 2 ** max(0, self._failures - 1))
        self.journal.tell(
            Event.WORKER_ENDED,
            pid=worker.pid,
            how=worker.how_it_ended,
            after_seconds=round(lived_seconds, 3),
            pause_seconds=pause_seconds,
        )
        await trio.sleep(pause_seconds)
        while not self._stopping and self._service and len(self.current) < self._service.settings.workers_used:
            try:
                self.current.append(self._spawn(self._service))
            except OSError as error:
                self.journal.tell(
                    Event.WORKER_NOT_STARTED,
                    reason=error_name(error),
                    pause_seconds=_PAUSE_SECONDS,
                    message=f"cannot start a worker, shimproxy will try again: {error.strerror or error}",
                )
                await trio.sleep(_PAUSE_SECONDS)

    # -- the end

    def stop(self, kill_after_seconds: float) -> None:
        """Have all end in good order, or at once if that was asked before; what has not ended by then is killed."""
        self._stopping = True
        for worker in self.all:
            worker.tell(do="stop")
        self.nursery.start_soon(self._kill_after, kill_after_seconds)

    async def _kill_after(self, seconds: float) -> None:
        await trio.sleep(seconds)
        for worker in self.all:
            self.journal.tell(
                Event.WORKER_KILLED,
                reason="grace_exceeded",
                pid=worker.pid,
                message="a worker did not finish its sessions within the grace period",
            )
            worker.kill()

    async def ended(self) -> None:
        """Return when every one has ended."""
        while self.all:
            await next(iter(self.all)).ended.wait()
            await trio.lowlevel.checkpoint()


async def drain_receiver(workers: Workers, name: str, names: Collection[str], *, ready: bool) -> str:
    """Give a receiver no new sessions, or `ready` again, if it is one of those `names`; else why not.

    Returns when the workers do so, or had their time to.
    """
    if name not in names:
        return f"there is no receiver {name}: choose {', '.join(names)}"
    drained = workers.history.drained
    if ready:
        drained.discard(name)
    else:
        drained.add(name)
    for worker in workers.all:
        worker.tell(do="drain", drained=[*drained])
    await workers.heard()
    workers.journal.tell(Event.RECEIVER_READY if ready else Event.RECEIVER_DRAINED, receiver=name)
    return ""


def _begun(service: Service, drained: Iterable[str]) -> Worker:
    """A process that is to serve so, and has its orders; nobody waits for it yet. Raises OSError."""
    ours, theirs = socket.socketpair()
    sockets = sockets_of(service.settings.listen, service.listening)
    # The code is this program's, whatever stands in the directory where it was started.
    code = os.pathsep.join(filter(None, (str(_CODE), os.environ.get("PYTHONPATH"))))
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "shimproxy.daemon.worker", str(theirs.fileno())],
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
    numbers = [(index, sock.fileno()) for index, sock in sockets]
    worker.tell(**service.sources.as_json(), sockets=numbers, drained=[*drained])
    return worker
