"""A soak: two workers under good and faulty senders and receivers for minutes, with a ledger at its end.

`python -m bench.soak --minutes 10`. Settings are reloaded (SIGHUP) and workers killed (SIGKILL) meanwhile, until three
quarters are over: the last workers bear the rest, and are compared with those of the beginning.

Exit status: 0; 1 where the ledger is uneven; 2 where the run can't be made, with one line that says why.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from bench import programs
from bench.arguments import number_up_to, positive, put
from bench.ledger import Ledger, Process, State, written
from bench.programs import BenchError
from bench.progress import Progress, Reckoning, Step
from bench.rounds import raise_file_limit
from bench.soak_log import read_log
from bench.soak_routes import WORKERS, Route, routes, settings
from bench.soak_senders import Call
from shimproxy.program.terminal import Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.programs import Running
    from bench.soak_senders import Kind

SENDERS: Final = 24
MINUTES: Final = 10.0
MOST_MINUTES: Final = 10_000
CHANGING_SHARE: Final = 0.75
"""Reloads and kills end then."""
RELOAD_SECONDS: Final = 20.0
KILL_SECONDS: Final = 25.0
WARM_UP_MAILS: Final = 150
SETTLE_SECONDS: Final = 90.0
"""Longer than any session lasts without its sender, and the time after which an unused thread ends."""
THREAD_SECONDS: Final = 11.0
"""trio ends a thread that was not used for 10 s."""
STOP_SECONDS: Final = 45.0
EXIT_UNEVEN: Final = 1
EXIT_UNUSABLE: Final = 2


@attrs.define(eq=False)
class Soak:
    """A run against a shimproxy that serves."""

    ledger: Ledger
    running: Running
    admin: str
    """HOST:PORT."""
    routes: Sequence[Route]
    ports: Sequence[int]
    """Where shimproxy listens for each of them."""
    dice: random.Random
    trusting: ssl.SSLContext
    _over: threading.Event = attrs.field(factory=threading.Event)

    # -- load

    @contextlib.contextmanager
    def load(self, senders: int) -> Iterator[None]:
        """Meanwhile so many senders make one connection after the other."""
        self._over.clear()
        threads = [
            threading.Thread(target=self._send, args=(random.Random(self.dice.random()),), daemon=True)
            for _ in range(senders)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(SETTLE_SECONDS)
            if any(thread.is_alive() for thread in threads):
                self.ledger.troubles.append("a sender does not end")

    def _send(self, dice: random.Random) -> None:
        while not self._over.is_set():
            route, port = dice.choice([*zip(self.routes, self.ports, strict=True)])
            self.call(route, port, dice.choice(route.kinds), dice)

    def call(self, route: Route, port: int, kind: Kind, dice: random.Random) -> None:
        """One connection of one sender."""
        tls = self.trusting if route.tls else None
        host = f"127.0.1.{1 + self.routes.index(route)}"
        call = Call(self.ledger, port, host, route.name, route.strict, kind, dice, tls, self.trusting)
        try:
            call.play()
        except Exception as error:
            self.ledger.troubles.append(f"{kind.name} on {route.name} fails: {error!r}")

    # -- changes

    def workers(self) -> list[int]:
        """The process ids of all workers, those too that only finish their sessions."""
        return self.running.children()

    def reload(self) -> None:
        """Have the settings read anew, and wait until they are served by."""
        self.ledger.reloads += 1
        self.running.process.send_signal(signal.SIGHUP)
        self._wait_for(lambda: self._count_of("reload") >= self.ledger.reloads, "a reload")

    def kill(self) -> None:
        """Kill a worker, and wait until another one serves in its place."""
        pid = self.dice.choice(self.workers())
        self.ledger.kills.append(time.time())
        os.kill(pid, signal.SIGKILL)
        self._wait_for(lambda: pid not in self.workers() and len(self.workers()) >= WORKERS, "another worker")

    def _count_of(self, event: str) -> int:
        """How many lines of the log report events whose name begins so: of a reload that failed, too."""
        return self.running.log.read_bytes().count(b'"event": "%s' % event.encode())

    def _wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + SETTLE_SECONDS
        while not is_so():
            self.running.check_runs()
            if time.monotonic() > end:
                raise BenchError(f"{what} did not come within {SETTLE_SECONDS:g} s")
            time.sleep(0.05)

    # -- rest

    def settle(self) -> State:
        """What is so once all sessions and replaced workers have ended, or have had their time to."""
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end and (self._figures()["sessions_open"] or len(self.workers()) != WORKERS):
            time.sleep(0.2)
        figures = self._figures()
        time.sleep(THREAD_SECONDS)
        processes = [_process("supervisor", self.running.process.pid)]
        processes += [_process("worker", pid) for pid in self.workers()]
        return State(processes, figures)

    def _figures(self) -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=SETTLE_SECONDS) as answer:
                lines = answer.read().decode().splitlines()
        except OSError as error:
            raise self.running.failed(f"does not answer at its admin address: {error}") from None
        pairs = (line.removeprefix("shimproxy_").rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self) -> None:
        """End shimproxy in good order, and read its log."""
        process = self.running.process
        process.terminate()
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.ledger.troubles.append(f"shimproxy does not end within {STOP_SECONDS:g} s of SIGTERM")
        else:
            if status:
                self.ledger.troubles.append(f"shimproxy ended with status {status}")
        self.ledger.log = read_log(self.running.log.read_text(errors="backslashreplace").splitlines())


def _process(name: str, pid: int) -> Process:
    """A process as /proc has it."""
    folder = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        descriptors = len([*(folder / "fd").iterdir()])
    except OSError as error:
        raise BenchError(f"{name} {pid} can't be looked at: {error.strerror}") from None
    return Process(name, descriptors, int(status["Threads"]), int(status["VmRSS"].split()[0]))


# -- a run


@attrs.frozen
class Amount:
    """How long a run is: in seconds, or in mails."""

    seconds: float = 0.0
    mails: int = 0

    @property
    def steps(self) -> int:
        """Into how many turns its progress is divided."""
        return max(1, round(self.seconds)) if self.seconds else self.mails

    def changes(self, every_seconds: float) -> int:
        """How many changes of a kind there are."""
        return max(1, int(self.seconds * CHANGING_SHARE / every_seconds))


def soak(
    folder: Path, amount: Amount, made: Sequence[Route], certificate: Path, seed: int, senders: int, progress: Progress
) -> Ledger:
    """Run it; the ledger. Raises BenchError."""
    ledger = made[0].ledger
    records = folder / "records"
    file = folder / "shimproxy.toml"
    file.write_text(settings(made, records))
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.check_hostname = False
    with programs.shimproxy_of(folder, file) as (running, ports, admin):
        run = Soak(ledger, running, admin, made, ports, random.Random(seed), trusting)
        progress.begin_step()
        with run.load(senders):
            _until(run, lambda: len(ledger.posted) / WARM_UP_MAILS, lambda _: progress.doing("the first mails"))
        progress.doing("waiting until all sessions have ended")
        ledger.before = run.settle()
        progress.end_turn()

        progress.begin_step()
        with run.load(senders):
            _load(run, amount, progress)

        progress.begin_step()
        progress.doing("waiting until all sessions have ended")
        ledger.after = run.settle()
        run.stop()
        progress.end_turn()
    ledger.records = {path.name.split("Z-", 1)[1].partition(".")[0] for path in records.glob("*.session.txt")}
    return ledger


def _until(run: Soak, share: Callable[[], float], meanwhile: Callable[[float], None]) -> None:
    while (done := share()) < 1:
        run.running.check_runs()
        meanwhile(done)
        time.sleep(0.05)


def _load(run: Soak, amount: Amount, progress: Progress) -> None:
    """Let it go on for that long, with the changes on the way."""
    ledger = run.ledger
    changes: list[tuple[float, Callable[[], None]]] = []
    for every_seconds, change in ((RELOAD_SECONDS, run.reload), (KILL_SECONDS, run.kill)):
        count = amount.changes(every_seconds)
        changes += [(CHANGING_SHARE * (number + 1) / (count + 1), change) for number in range(count)]
    changes.sort(key=lambda each: each[0])
    began, mails_before, turns, minutes = time.monotonic(), len(ledger.posted), 0, 0

    def share() -> float:
        if amount.seconds:
            return (time.monotonic() - began) / amount.seconds
        return (len(ledger.posted) - mails_before) / amount.mails

    def meanwhile(done: float) -> None:
        nonlocal turns, minutes
        while changes and changes[0][0] <= done:
            changes.pop(0)[1]()
        while turns < int(done * amount.steps):
            turns += 1
            progress.end_turn()
        so_far = (
            f"{len(ledger.posted):,} mails, {len(ledger.visits):,} connections, {ledger.reloads} reloads, "
            f"{len(ledger.kills)} workers killed"
        )
        progress.doing(so_far)
        if not progress.screen.live and time.monotonic() - began > 60 * (minutes + 1):
            minutes += 1
            progress.remark(f"soak: {minutes} min: {so_far}")

    _until(run, share, meanwhile)
    for _, change in changes:  # a few mails are over before their turn
        change()


def plan(amount: Amount) -> list[Step]:
    """The run as a plan."""
    return [
        Step("warm-up", "a few mails of all kinds, then rest", 1, 35.0),
        Step("load", "peers of all kinds", amount.steps, 1.0 if amount.seconds else 0.05),
        Step("rest", "until all sessions have ended", 1, 25.0),
    ]


# -- the command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak with these arguments (those of the process by default); the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that processes are ended
    amount = Amount(mails=options.mails) if options.mails else Amount(seconds=60 * options.minutes)
    try:
        if options.keep:  # now, as later the run would be lost
            _keep(options.keep, lambda place: place.mkdir(parents=True, exist_ok=True))
        with tempfile.TemporaryDirectory(prefix="shimproxy-soak-") as name:
            try:
                return _run(Path(name), amount, options)
            finally:
                if options.keep:
                    _keep(options.keep, lambda place: shutil.copytree(name, place, dirs_exist_ok=True))
    except BenchError as error:
        put(f"soak: {error}\n")
        return EXIT_UNUSABLE
    except KeyboardInterrupt:
        put("soak: interrupted\n")
        return 130


def _run(folder: Path, amount: Amount, options: argparse.Namespace) -> int:
    raise_file_limit(options.senders)
    certificate = programs.make_certificate(folder)
    progress = Progress(Reckoning(plan(amount)), Screen.on(sys.stderr, put, os.environ))
    with routes(folder, certificate, options.seed) as made, progress.shown():
        ledger = soak(folder, amount, made, certificate, options.seed, options.senders, progress)
    differences = ledger.differences()
    print("\n".join(written(ledger, differences)), flush=True)
    return EXIT_UNEVEN if differences else 0


def _keep(place: Path, do: Callable[[Path], object]) -> None:
    try:
        do(place)
    except OSError as error:
        raise BenchError(f"--keep {place}: {error.strerror or error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description="Two workers of shimproxy under good and faulty senders and receivers, with reloads and killed "
        "workers. At the end a ledger says whether anything was lost, doubled or left over. How to read it: shimproxy "
        "help benchmark.",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=number_up_to(MOST_MINUTES, "minutes"),
        default=MINUTES,
        metavar="N",
        help=f"(default: {MINUTES:g})",
    )
    length.add_argument("--mails", type=positive, metavar="N", help="end after N mails instead")
    parser.add_argument(
        "--senders", type=positive, default=SENDERS, metavar="N", help=f"how many send at a time (default: {SENDERS})"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what the peers' dice begin with (default: 1)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the log and the records of sessions in DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
