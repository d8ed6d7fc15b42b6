"""The explorer's command line: how long, with which seed, which cases; what was visited, and what is broken."""

from __future__ import annotations

import argparse
import gc
import itertools
import re
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import attrs

from tests.explore import stepper, transcript
from tests.explore.oracle import Oracle
from tests.explore.sweep import CASES, Dialogue, Sweep
from tests.explore.world import MODES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TRACED_EVERY: Final = 16
"""Of so many dialogues one is traced, and its trace and log are looked at too."""
_VARIED = re.compile(r"b'.*?(?<!\\)'|b\".*?\"|\d+").sub


@attrs.define(eq=False)
class Findings:
    """What was explored, and what is broken."""

    dialogues: int = 0
    seconds: float = 0.0
    singles: int = 0
    pairs: int = 0
    visited: set[tuple[str, str]] = attrs.field(factory=set)
    """Cases and faults at places, whatever the segmentation."""
    broken: dict[str, tuple[int, Dialogue, list[str]]] = attrs.field(factory=dict)
    """A kind of failure -> the length of the shortest dialogue that shows it, that, and what is wrong in it."""
    counts: Counter[str] = attrs.field(factory=Counter)

    def explore(self, dialogues: Iterable[Dialogue], seconds: float, most_broken: int) -> None:
        """Hold dialogues until the processor time is over, or that many are broken."""
        began = time.process_time()
        for dialogue in dialogues:
            self.dialogues += 1
            self.singles += len(dialogue.faults) == 1
            self.pairs += len(dialogue.faults) == 2
            if len(dialogue.faults) == 1:
                self.visited.add((dialogue.case.name, str(dialogue.faults[0])))
            world = dialogue.held(tracing=self.dialogues % _TRACED_EVERY == 0)
            if wrong := Oracle(world).check():
                self.note(dialogue, len(world.log), wrong)
                if sum(self.counts.values()) >= most_broken:
                    break
            self.seconds = time.process_time() - began
            if self.seconds > seconds:
                break

    def note(self, dialogue: Dialogue, length: int, wrong: list[str]) -> None:
        """Keep the shortest of each kind."""
        kind = _VARIED("_", wrong[0])
        self.counts[kind] += 1
        if kind not in self.broken or length < self.broken[kind][0]:
            self.broken[kind] = (length, dialogue, wrong)

    def shrink(self) -> None:
        """Look for shorter dialogues of the same kinds: with fewer faults, in simpler segments."""
        for kind, (_, dialogue, _) in list(self.broken.items()):
            for shorter in _simpler(dialogue):
                world = shorter.held()
                wrong = Oracle(world).check()
                if wrong and _VARIED("_", wrong[0]) == kind and len(world.log) < self.broken[kind][0]:
                    self.broken[kind] = (len(world.log), shorter, wrong)


def _simpler(dialogue: Dialogue) -> Iterator[Dialogue]:
    subsets = [dialogue.faults, *((fault,) for fault in dialogue.faults if len(dialogue.faults) > 1), ()]
    for faults, mode in itertools.product(reversed(subsets), MODES):
        yield attrs.evolve(dialogue, faults=faults, mode=mode)


def _report(found: Findings, sweep: Sweep) -> None:
    rate = found.dialogues / found.seconds if found.seconds else 0
    planned = sum(map(len, sweep.planned.values()))
    print(
        f"{found.dialogues} dialogues in {found.seconds:.0f} s of one core, {rate:.0f} a second: {found.singles} with "
        f"one fault, {found.pairs} with two"
    )
    print(
        f"places x faults: {len(found.visited)} of {planned} visited ({len(found.visited) / planned:.1%}); "
        f"x segmentations: {found.singles} of {sweep.singles} ({found.singles / sweep.singles:.1%})"
    )
    found.shrink()
    for kind, (_, dialogue, wrong) in sorted(found.broken.items(), key=lambda each: each[1][0]):
        print(f"\nbroken {found.counts[kind]} times; `--replay '{dialogue}'` shows the shortest:\n")
        print(transcript.written(dialogue, dialogue.held(), wrong), end="")
    print("no guarantee broken" if not found.broken else f"\n{sum(found.counts.values())} dialogues broken")


def main(arguments: list[str] | None = None) -> int:
    """Explore; 1 if anything is broken."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="python -m tests.explore", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of one core; 0 for every dialogue with one fault")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which they are taken")
    parser.add_argument("--case", action="append", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--replay", metavar="DIALOGUE", help="hold this dialogue alone, and print its transcript")
    parser.add_argument("--most-broken", type=int, default=1000, metavar="N", help="stop when so many are broken")
    options = parser.parse_args(arguments)
    with stepper.installed():
        if options.replay:
            dialogue = Dialogue.parse(options.replay)
            world = dialogue.held(tracing=True)
            wrong = Oracle(world).check()
            print(transcript.written(dialogue, world, wrong), end="")
            return bool(wrong)
        sweep = Sweep(tuple(case for case in CASES if case.name in (options.case or names)), seed=options.seed)
        found = Findings()
        gc.freeze()
        gc.set_threshold(50_000)  # a dialogue is a circle of objects, and soon over
        dialogues: Iterable[Dialogue] = itertools.chain(sweep.clean(), sweep.dialogues())
        if not options.seconds:
            dialogues = itertools.islice(dialogues, sweep.singles + sweep.singles // 4)
        found.explore(dialogues, options.seconds or float("inf"), options.most_broken)
        _report(found, sweep)
    return bool(found.broken)


if __name__ == "__main__":
    sys.exit(main())
