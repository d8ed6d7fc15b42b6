"""The command line of the benchmark: arguments in, report out.

Exit status: 0; 1 where `--check` finds a target missed; 2 where the run can't be made, with one line that says why.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from bench import programs
from bench.arguments import positive, put, write_file
from bench.measures import (
    BEFORE,
    DIRECT,
    FULL,
    HAPROXY,
    MEASURES,
    PASSING,
    QUICK,
    SHIMPROXY,
    Measure,
    Setup,
)
from bench.programs import BenchError
from bench.progress import Progress, Reckoning
from bench.rounds import raise_file_limit, run_measure, step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import Samples

ROUNDS: Final = 7
QUICK_ROUNDS: Final = 3
BUSY_SHARE: Final = 0.5
"""A machine that was busier than this, for each of its CPUs, is said to be."""
EXIT_MISSED: Final = 1
EXIT_UNUSABLE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark with these arguments (those of the process by default); the exit status."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of a terminal that has no ±, say
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that processes are ended
    try:
        with tempfile.TemporaryDirectory(prefix="shimproxy-bench-") as folder:
            return _run(options, Path(folder))
    except BenchError as error:
        _remark(str(error))
        return EXIT_UNUSABLE
    except KeyboardInterrupt:
        _remark("interrupted")
        return 130


def _run(options: argparse.Namespace, folder: Path) -> int:
    try:
        from bench import picture, report  # here, as they import shimproxy, which may not be there
        from shimproxy.program.terminal import Screen, Style
    except ImportError as error:
        raise BenchError(
            f"shimproxy can't be imported: {error}; run this where the package is, or install it"
        ) from None
    setup = _setup(options, folder)
    for file in filter(None, (options.json, options.picture)):
        write_file(file, "")  # now, as later all the rounds would be lost
    machine = report.machine_lines(setup)
    for name, value in machine.items():
        print(f"{name:12} {value}")
    print(f"{'rounds':12} {setup.rounds}", flush=True)
    if os.getloadavg()[0] > BUSY_SHARE * len(os.sched_getaffinity(0)):
        _remark("this machine does other work too (see load), which changes the figures")

    measures = _chosen(options)
    plan = [step(measure, setup, quick=options.quick) for measure in measures]
    progress = Progress(Reckoning(plan), Screen.on(sys.stderr, put, os.environ))
    samples: Samples = {}
    with progress.shown():
        for measure in measures:
            samples.update(run_measure(measure, setup, progress))

    screen = Screen.on(sys.stdout, print, os.environ)
    heading, *rows = report.table(samples, setup, screen.columns)
    legend = textwrap.wrap(report.legend(rows), min(screen.columns, report.MOST_COLUMNS))
    print("\n".join(["", *legend, "", screen.paint(heading, Style.BOLD), *rows]))
    if options.json:
        write_file(options.json, json.dumps(report.as_json(samples, machine, setup), indent=2) + "\n")
    if options.picture:
        write_file(options.picture, picture.drawn(samples, machine, setup.paths, setup.rounds))
    if options.check:
        print("\n" + "\n".join(report.check_lines(samples)))
        if any(met is False for _, _, met in report.verdicts(samples)):
            return EXIT_MISSED
    return 0


def _remark(text: str) -> None:
    put(f"bench: {text}\n")


def _chosen(options: argparse.Namespace) -> list[Measure]:
    return [measure for measure in MEASURES if not options.only or measure.name in options.only]


def _setup(options: argparse.Namespace, folder: Path) -> Setup:
    paths = [DIRECT, SHIMPROXY, PASSING, *([BEFORE] if options.before else [])]
    if programs.find("haproxy"):
        paths.append(HAPROXY)
    elif options.check:
        programs.need("haproxy")
    sizes = QUICK if options.quick else FULL
    idle_sessions = raise_file_limit(sizes.idle_sessions)
    if idle_sessions < sizes.idle_sessions:
        _remark(f"the limit of open files allows {idle_sessions} idle sessions only")
        sizes = attrs.evolve(sizes, idle_sessions=idle_sessions)
    if options.before and not (options.before / "shimproxy").is_dir():
        raise BenchError(f"--before {options.before}: there is no folder shimproxy in it")
    return Setup(
        folder=folder,
        rounds=options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
        sizes=sizes,
        paths=tuple(paths),
        certificate=programs.make_certificate(folder) if any(measure.tls for measure in _chosen(options)) else None,
        before=options.before.resolve() if options.before else None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Direct, shimproxy and, where installed, HAProxy side by side in one run, round by round. How to "
        "read it: shimproxy help benchmark.",
        epilog="Measures: " + "; ".join(f"{measure.name}: {measure.about}" for measure in MEASURES) + ".",
    )
    parser.add_argument(
        "--rounds", type=positive, metavar="N", help=f"(default: {ROUNDS}, with --quick {QUICK_ROUNDS})"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds: for a look, not for a figure")
    parser.add_argument(
        "--only",
        action="append",
        choices=[measure.name for measure in MEASURES],
        metavar="NAME",
        help="only this measure; may be repeated",
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if a median misses its target")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the figures into FILE too, as SVG")
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="measure another copy of shimproxy too, that in DIR/shimproxy"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
