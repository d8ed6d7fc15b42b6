"""Makes inputs for a target, keeps those that visit new places, and makes what fails small.

In rounds: in each, Hypothesis draws walks. A walk begins with an input that was kept, and each of its steps edits that,
or the input before. Inputs that visit places which no other has visited are kept for the next round. Of what fails,
Hypothesis finds a simpler walk, and what can still be left out of its last input is left out.
"""

from __future__ import annotations

import itertools
import shlex
import time
from typing import TYPE_CHECKING, Final

import attrs
import hypothesis
from hypothesis import strategies as st

from tests.fuzz import steps
from tests.fuzz.target import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypothesis.strategies import SearchStrategy

    from tests.fuzz.target import Target

_WALKS_A_ROUND: Final = 20
_MOST_EDITS: Final = 40
_MOST_CUTS: Final = 3
_MOST_CUT_OUT: Final = 30
_PUMPED: Final = 24
"""The kind of the inputs that are about steps: what was inserted is what is repeated."""


@attrs.define(eq=False)
class Findings:
    """What was tried on a target, what was visited, and what is wrong."""

    target: Target
    inputs: int = 0
    seconds: float = 0.0
    """Of the processor."""
    places: set[steps.Place] = attrs.field(factory=set)
    kept: list[Case] = attrs.field(factory=list)
    """The inputs that visited new places."""
    fault: tuple[Case, str] | None = None
    """The smallest input that fails, and how."""

    def __str__(self) -> str:
        every = steps.lines_of(self.target.parsers)
        lines = {(file, line) for file, _, line in self.places} & every
        text = (
            f"{self.target.name:<14} {self.inputs:>8} inputs {self.seconds:>6.1f} s  {len(lines):>4} of "
            f"{len(every):>4} lines {len(self.places):>5} branches  {len(self.kept):>4} kept  "
        )
        if self.fault is None:
            return text + "no fault"
        case, what = self.fault
        return f"{text}1 fault\n\n{what}\n--target {self.target.name} --replay {shlex.quote(str(case))}\n"


def fuzz(target: Target, seed: int, *, seconds: float = float("inf"), inputs: int | None = None) -> Findings:
    """Try inputs until the processor time is over, so many are tried, or one fails.

    With a number of inputs and no time, the same seed tries the same inputs.
    """
    found = Findings(target)
    began = time.process_time()
    try:
        for seed_case in target.seeds:
            _try(found, Case(seed_case))
    except Exception:
        _make_small(found)
    for number in itertools.count():
        found.seconds = time.process_time() - began
        if found.fault or found.seconds > seconds or (inputs is not None and found.inputs >= inputs):
            return found
        _round(found, seed * 100_003 + number)
    raise AssertionError


def _try(found: Findings, case: Case) -> None:
    """Try one input, which is kept if it visits new places. Raises whatever is a fault."""
    found.inputs += 1
    known = len(found.places)
    try:
        found.target.hold(case, found.places)
    except Exception as error:
        found.fault = case, f"{type(error).__name__}: {error}"
        raise
    if len(found.places) > known:
        found.kept.append(case)


def _round(found: Findings, seed: int) -> None:
    kept = [each.octets for each in found.kept]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_WALKS_A_ROUND,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    @hypothesis.given(st.sampled_from([b"", *kept]), _edits(found.target, kept))
    def walk(first: bytes, edits: list[Edit]) -> None:
        octets = first
        for edit in edits:
            octets = edit.made_of(octets if edit.further else first)[: found.target.most_octets]
            if edit.kind < _PUMPED:
                _try(found, _case(octets, edit.cuts))
            else:
                at = edit.at % (len(octets) + 1)
                grown = octets[:at] + edit.inserted + octets[at:]
                _try(found, Case(grown, (at, at + len(edit.inserted)), pumped=True))

    try:
        walk()
    except Exception:
        if found.fault is None:
            raise
        _make_small(found)


@attrs.frozen
class Edit:
    """One step from an input to another."""

    further: bool
    """Whether it goes on from the input before; else from the first one."""
    kind: int
    at: int
    octets: int
    inserted: bytes
    cuts: list[int]

    def made_of(self, octets: bytes) -> bytes:
        """The other input."""
        at = self.at % (len(octets) + 1)
        line, end = octets.rfind(b"\n", 0, at) + 1, octets.find(b"\n", at) + 1 or len(octets)
        match self.kind:
            case 0:
                return octets + self.inserted
            case 1:
                return octets[:at] + self.inserted + octets[at + self.octets :]
            case 2:
                return octets[:at] + octets[at + self.octets :]
            case 3:
                return octets[:end] + octets[line:end] + octets[end:]
            case 4:
                return octets[:line] + octets[end:]
            case 5:
                return octets[:line] + self.inserted + octets[line:]
            case 6:
                return octets[:at] + octets[max(at, end - 2) :]
            case 7:
                return octets + octets[line:at]
            case _ if self.kind < _PUMPED:
                return octets[:at] + self.inserted + octets[at:]
            case _:
                return octets


def _edits(target: Target, kept: list[bytes]) -> SearchStrategy[list[Edit]]:
    """Steps of all kinds for a target; simple ones first, for what fails to become that."""
    lines = [line for octets in kept for line in octets.splitlines(keepends=True)]
    places = st.integers(0, target.most_octets)
    inserted = st.one_of(st.sampled_from(target.words), st.sampled_from([*target.words, *lines]), st.binary(max_size=3))
    cuts = st.lists(places, max_size=_MOST_CUTS)
    return st.lists(
        st.builds(Edit, st.booleans(), st.integers(0, _PUMPED), places, st.integers(0, _MOST_CUT_OUT), inserted, cuts),
        max_size=_MOST_EDITS,
    )


def _case(octets: bytes, places: list[int], *, pumped: bool = False) -> Case:
    if pumped:
        return Case(octets, tuple(min(place, len(octets)) for place in places), pumped)
    cuts = {place % len(octets) for place in places} - {0} if octets else set()
    return Case(octets, tuple(sorted(cuts)), pumped)


# -- small


def _make_small(found: Findings) -> None:
    """Leave out what can be left out of the input that fails, as long as it fails in the same way."""
    assert found.fault
    kind = found.fault[1].partition(":")[0]
    again = True
    while again:
        again = False
        for case in _smaller(found.fault[0]):
            try:
                found.target.hold(case, set())
            except Exception as error:
                if type(error).__name__ == kind:
                    found.fault = case, f"{kind}: {error}"
                    again = True
                    break


def _smaller(case: Case) -> Iterator[Case]:
    octets, cuts = case.octets, list(case.cuts)
    for size in (len(octets) // 2, len(octets) // 4, 8, 4, 2, 1):
        for at in range(0, len(octets) if size else 0, max(size, 1)):
            moved = [cut if cut <= at else max(at, cut - size) for cut in cuts]
            if (rest := octets[:at] + octets[at + size :]) != octets:
                yield _case(rest, moved, pumped=case.pumped)
    for cut in () if case.pumped else cuts:
        yield _case(octets, [each for each in cuts if each != cut], pumped=case.pumped)
    for at in range(len(octets)):
        if octets[at : at + 1] not in b"x\r\n. 0-" or octets[at : at + 1].isupper():
            yield _case(octets[:at] + b"x" + octets[at + 1 :], cuts, pumped=case.pumped)
