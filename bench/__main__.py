"""The command line of the benchmark: arguments in, report out.

Exit status: 0; 1 where `--check` finds a target missed; 2 where the run can't be made, with one line that says why.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from bench import programs
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
    Samples,
    Setup,
)
from bench.programs import BenchError
from bench.rounds import raise_file_limit, run_measure

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS: Final = 7
EXIT_MISSED: Final = 1
EXIT_UNUSABLE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark with these arguments (those of the process by default); the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that processes are ended
    try:
        with tempfile.TemporaryDirectory(prefix="shimproxy-bench-") as folder:
            return _run(options, Path(folder))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace, folder: Path) -> int:
    try:
        from bench import report  # here, as it imports shimproxy, which may not be there
    except ImportError as error:
        raise BenchError(
            f"shimproxy can't be imported: {error}; run this where the package is, or install it"
        ) from None
    setup = _setup(options, folder)
    if options.json:
        _write(options.json, "")  # now, as later all the rounds would be lost
    machine = report.machine_lines(setup)
    for name, value in machine.items():
        print(f"{name:12} {value}")
    print(f"{'rounds':12} {setup.rounds}", flush=True)
    samples: Samples = {}
    for measure in _chosen(options):
        samples.update(run_measure(measure, setup))
    print("\nmedian (min..max); ratios are the medians of the rounds' own\n")
    print("\n".join(report.table(samples, setup)))
    if options.json:
        _write(options.json, json.dumps(report.as_json(samples, machine, setup), indent=2) + "\n")
    if options.check:
        print("\n" + "\n".join(report.check_lines(samples)))
        if any(met is False for _, _, met in report.verdicts(samples)):
            return EXIT_MISSED
    return 0


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
        print(f"bench: the limit of open files allows {idle_sessions} idle sessions only", file=sys.stderr)
        sizes = attrs.evolve(sizes, idle_sessions=idle_sessions)
    if options.before and not (options.before / "shimproxy").is_dir():
        raise BenchError(f"--before {options.before}: there is no folder shimproxy in it")
    return Setup(
        folder=folder,
        rounds=options.rounds,
        sizes=sizes,
        paths=tuple(paths),
        certificate=programs.make_certificate(folder) if any(measure.tls for measure in _chosen(options)) else None,
        before=options.before.resolve() if options.before else None,
        told=lambda line: print(f"bench: {line}", file=sys.stderr, flush=True),
    )


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise BenchError(f"--json {file}: {error.strerror}") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Direct, shimproxy and, where installed, HAProxy side by side in one run, round by round.",
        epilog="Measures: " + "; ".join(f"{measure.name}: {measure.about}" for measure in MEASURES) + ".",
    )
    parser.add_argument("--rounds", type=_positive, default=ROUNDS, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="smaller rounds: for a look, not for a figure")
    parser.add_argument(
        "--only",
        action="append",
        choices=[measure.name for measure in MEASURES],
        metavar="NAME",
        help="only this measure; may be repeated",
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if a median misses its target")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="measure another copy of shimproxy too, that in DIR/shimproxy"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
