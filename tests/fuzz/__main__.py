"""The fuzzer's command line: how long, with which seed, which targets; what was visited, and what is wrong."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.engine import fuzz
from tests.fuzz.target import Case
from tests.fuzz.targets import TARGETS


def main(arguments: list[str] | None = None) -> int:
    """Fuzz; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of one core, for all targets together")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument(
        "--target", action="append", choices=TARGETS, metavar="NAME", help=f"of {', '.join(TARGETS)}; all if not given"
    )
    parser.add_argument("--replay", metavar="INPUT", help="try this input alone, a literal as it was printed")
    options = parser.parse_args(arguments)
    targets = [TARGETS[name] for name in options.target or TARGETS]
    if options.replay:
        for target in targets:
            target.hold(Case.parse(options.replay), set())
        print("no fault")
        return 0
    faults = 0
    for target in targets:
        found = fuzz(target, options.seed, seconds=options.seconds / len(targets))
        print(found, flush=True)
        faults += found.fault is not None
    print(f"{faults} targets have a fault" if faults else "no fault")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
