"""Well-behaved mails beside hostile peers: what each attack does to them, as a table.

`python -m bench.hostile`. For each attack two fresh workers serve two listeners: one for mails at a steady pace, to a
good receiver, and one for the hostile peers. The mails never pause: they are counted before, during and after the
attack. All mails are in a ledger, also those between two phases.

Exit status: 0; 1 where `--check` finds that a row does not hold; 2 where the run can't be made, with one line that
says why.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from bench import programs, report
from bench.arguments import number_up_to, positive, put, write_file
from bench.hostile_attacks import ATTACKS, doing, settings
from bench.hostile_mails import EVERY_SECONDS, MAIL_OCTETS, Books, mails_in, taken_in
from bench.hostile_table import BOUND, MOST_COLUMNS, PHASES, Phase, Row, check_lines, legend, lost_lines, middle, table
from bench.mail_data import small_mail
from bench.peers import HOST
from bench.programs import BenchError, cpu_seconds_of, whole_lines
from bench.progress import Progress, Reckoning, Step
from bench.rounds import raise_file_limit
from bench.soak_log import read_log
from shimproxy.program.terminal import Screen, Style

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.hostile_attacks import Attack
    from bench.programs import Running

SECONDS: Final = 8.0
MOST_SECONDS: Final = 300.0
"""Of a phase: the hostile peers end by themselves after four times as long."""
WARM_UP_MAILS: Final = 30
QUICK_MAILS: Final = 60
REST_SECONDS: Final = 1.0
"""Between an attack and the phase after it: connections end then."""
PATIENCE_SECONDS: Final = 90.0
"""No mail takes longer: its sender waits for 60 s at most."""
LOOK_SECONDS: Final = 0.05
MOST_SENDERS: Final = 1000
EXIT_MISSED: Final = 1
EXIT_UNUSABLE: Final = 2


@attrs.frozen
class Amount:
    """How much is sent: a phase in seconds, or in mails."""

    seconds: float = 0.0
    mails: int = 0
    quick: bool = False
    """Whether hostile peers are few."""


@attrs.define(eq=False)
class Use:
    """What the processes of shimproxy use of the machine, those too that have ended since."""

    running: Running
    _cpu_seconds: dict[int, float] = attrs.field(factory=dict)
    _peak_kib: int = 0

    def _keep_workers_apart(self) -> None:
        """Give each worker a CPU of its own, as far as there are enough.

        Linux leaves two workers on one CPU for as long as 4 ms where a hostile peer, which has the CPU last, holds
        another one: seen in the kernel's own trace. Peers on other machines hold none.
        """
        for pid, cpu in zip(self.running.children(), itertools.cycle(sorted(os.sched_getaffinity(0)))):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(pid, {cpu})

    def begin_phase(self) -> None:
        """Forget the peak of memory, where the kernel lets one (proc(5), clear_refs)."""
        self._peak_kib = 0
        for pid in self.running.pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def look(self) -> None:
        """Take note of what is so now, and see to new workers. Raises BenchError if shimproxy has ended."""
        self._keep_workers_apart()
        for pid in self.running.pids():
            cpu_seconds = cpu_seconds_of(pid)
            if cpu_seconds is not None:
                self._cpu_seconds[pid] = cpu_seconds
        self._peak_kib = max(self._peak_kib, self.running.memory_kib("VmHWM"))

    @property
    def cpu_seconds(self) -> float:
        """Of all processes so far."""
        return sum(self._cpu_seconds.values())

    @property
    def peak_mib(self) -> float:
        """Of the largest process, since the phase began."""
        return self._peak_kib / 1024


@attrs.define(eq=False)
class Run:
    """One attack on a shimproxy that serves."""

    amount: Amount
    mails: Path
    """Where the well-behaved sender says what became of them."""
    running: Running
    progress: Progress
    use: Use
    spans: dict[str, tuple[float, float]] = attrs.field(factory=dict)
    """When each phase began and ended."""
    used: dict[str, tuple[float, float]] = attrs.field(factory=dict)
    """Peak memory in MiB and CPU seconds a second, of each phase."""

    def wait_for_mails(self, count: int, since: float) -> None:
        """Wait until so many mails that were due since then have their verdicts, or had the time for it."""
        end = time.monotonic() + PATIENCE_SECONDS
        while sum(mail.due >= since for mail in mails_in(self.mails)) < count and time.monotonic() < end:
            self.running.check_runs()
            self.use.look()
            time.sleep(LOOK_SECONDS)

    def phase(self, name: str) -> None:
        """Let mails pass, and take note of what is used meanwhile."""
        self.progress.doing(name)
        self.use.begin_phase()
        self.use.look()
        began, cpu_seconds = time.monotonic(), self.use.cpu_seconds
        if self.amount.mails:
            self.wait_for_mails(self.amount.mails, began)
        else:
            while time.monotonic() < began + self.amount.seconds:
                self.running.check_runs()
                self.use.look()
                time.sleep(LOOK_SECONDS)
        self.use.look()
        ended = time.monotonic()
        self.spans[name] = began, ended
        self.used[name] = self.use.peak_mib, (self.use.cpu_seconds - cpu_seconds) / (ended - began)
        self.progress.end_turn()


@contextlib.contextmanager
def attacked(attack: Attack, running: Running, port: int, folder: Path, *, quick: bool) -> Iterator[list[int]]:
    """Meanwhile shimproxy is attacked; how often, once that is over. Raises BenchError."""
    acts: list[int] = []
    with contextlib.ExitStack() as stack:
        if attack.senders:
            count = str(attack.peers(quick=quick))
            arguments = ("bench.hostile_peers", "send", attack.senders, str(port), count)
            peers = stack.enter_context(programs.own_peer(folder, "hostile-senders", *arguments))
            stack.callback(lambda: acts.append(_acts(peers)))
        if attack.deed:
            done = stack.enter_context(doing(attack.deed, running))
            stack.callback(lambda: acts.append(done.times))
        yield acts


def _acts(peers: Running) -> int:
    """End hostile senders; how often they have begun. Raises BenchError."""
    peers.process.terminate()
    try:
        said, _ = peers.process.communicate(timeout=PATIENCE_SECONDS)
        return int(said)
    except (subprocess.TimeoutExpired, ValueError):
        raise peers.failed("did not say what they have done") from None


def run_attack(attack: Attack, amount: Amount, folder: Path, certificate: Path | None, progress: Progress) -> Row:
    """One round of a row of the table. Raises BenchError."""
    folder.mkdir()
    mails, taken = folder / "mails", folder / "taken"
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(programs.own_peer(folder, "receiver", "bench.hostile_mails", "receive", str(taken)))
        hostile = stack.enter_context(
            programs.own_peer(folder, "hostile-receiver", "bench.hostile_peers", "receive", attack.receiver)
        )
        file = folder / "shimproxy.toml"
        file.write_text(settings(attack, good.port, hostile.port, HOST, certificate, folder))
        files = attack.files(quick=amount.quick)
        running, (port, hostile_port), _ = stack.enter_context(programs.shimproxy_of(folder, file, files))
        figures = str(EVERY_SECONDS), str(attack.most_mails(quick=amount.quick))
        command = [sys.executable, "-m", "bench.hostile_mails", "send", str(port), str(mails), *figures]
        sender, _ = stack.enter_context(programs.started("sender", command, folder))
        run = Run(amount, mails, running, progress, Use(running))
        progress.doing("the first mails")
        run.wait_for_mails(WARM_UP_MAILS, 0.0)
        before, during, after = PHASES
        run.phase(before)
        with attacked(attack, running, hostile_port, folder, quick=amount.quick) as acts:
            run.phase(during)
        time.sleep(0 if amount.mails else REST_SECONDS)
        run.phase(after)
        progress.doing("waiting for the last verdicts")
        sender.terminate()
        try:
            sender.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{attack.name}: the sender of the mails did not end") from None
        running.check_runs()
        sent = mails_in(mails)
        books = Books(sent, taken_in(taken), len(small_mail(MAIL_OCTETS)))
        phases: list[Phase] = []
        for name in PHASES:
            began, ended = run.spans[name]
            milliseconds = [1000 * mail.seconds for mail in sent if began <= mail.due < ended]
            if not milliseconds:
                raise BenchError(f"{attack.name}: no mail was due {name} the attack; let a phase be longer")
            phases.append(Phase(milliseconds, *run.used[name]))
        troubles = [] if "record" in attack.settings else read_log(whole_lines(running.log)).reasons
        return Row(attack.name, phases, sum(acts), len(sent), books.broken, books.lost(), troubles)


# -- the command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the attacks with these arguments (those of the process by default); the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that processes are ended
    try:
        with tempfile.TemporaryDirectory(prefix="shimproxy-hostile-") as folder:
            return _run(options, Path(folder))
    except BenchError as error:
        put(f"hostile: {error}\n")
        return EXIT_UNUSABLE
    except KeyboardInterrupt:
        put("hostile: interrupted\n")
        return 130


def _run(options: argparse.Namespace, folder: Path) -> int:
    if options.json:
        write_file(options.json, "")  # now, as later all would be lost
    raise_file_limit(MOST_SENDERS)
    mails = options.mails or (QUICK_MAILS if options.quick and not options.seconds else 0)
    amount = Amount(0.0 if mails else options.seconds or SECONDS, mails, options.quick)
    attacks = [attack for attack in ATTACKS if not options.only or attack.name in options.only]
    machine = report.host_lines()
    print("\n".join(f"{name:12} {value}" for name, value in machine.items()), flush=True)
    certificate = programs.make_certificate(folder) if any("cert" in attack.listener for attack in attacks) else None
    phase_seconds = amount.seconds or amount.mails * EVERY_SECONDS
    turns = len(PHASES) * options.rounds
    plan = [Step(attack.name, attack.words(quick=options.quick), turns, phase_seconds + 1.0) for attack in attacks]
    progress = Progress(Reckoning(plan), Screen.on(sys.stderr, put, os.environ))
    rows: list[Row] = []
    with progress.shown():
        for attack in attacks:
            progress.begin_step()
            folders = [folder / f"{attack.name}-{number}" for number in range(options.rounds)]
            rows.append(middle([run_attack(attack, amount, each, certificate, progress) for each in folders]))

    screen = Screen.on(sys.stdout, print, os.environ)
    columns = min(screen.columns, MOST_COLUMNS) if screen.live else MOST_COLUMNS
    first, second, *lines = table(rows, columns)
    words = textwrap.wrap(legend(amount.seconds, amount.mails), columns)
    print("\n".join(["", *words, "", *(screen.paint(line, Style.BOLD) for line in (first, second)), *lines]))
    if lost := [*lost_lines(rows)]:
        print("\n" + "\n".join(lost))
    if options.json:
        found = {
            "machine": machine,
            **attrs.asdict(amount),
            "rounds": options.rounds,
            "bound": BOUND,
            "attacks": {row.name: row.as_json() for row in rows},
        }
        write_file(options.json, json.dumps(found, indent=2) + "\n")
    if options.check:
        print("\n" + "\n".join(check_lines(rows)))
        if not all(row.holds for row in rows):
            return EXIT_MISSED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hostile",
        description="What hostile peers do to well-behaved mails at another listener of the same workers: their time "
        "before, during and after each attack, and a ledger of all of them. How to read it: shimproxy help benchmark.",
        epilog="Attacks: " + "; ".join(f"{attack.name}: {attack.words(quick=False)}" for attack in ATTACKS) + ".",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds",
        type=number_up_to(MOST_SECONDS, "seconds"),
        metavar="N",
        help=f"how long each phase of an attack is (default: {SECONDS:g})",
    )
    length.add_argument("--mails", type=positive, metavar="N", help="end each phase after N mails instead")
    parser.add_argument(
        "--rounds",
        type=positive,
        default=1,
        metavar="N",
        help="make each attack N times, and show the round in the middle (default: 1)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer peers and mails: for a look, not for a figure")
    parser.add_argument(
        "--only",
        action="append",
        choices=[attack.name for attack in ATTACKS],
        metavar="NAME",
        help="only this attack; may be repeated",
    )
    parser.add_argument(
        "--check", action="store_true", help=f"exit 1 if mails take longer than {BOUND:g} times, or one is lost"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
