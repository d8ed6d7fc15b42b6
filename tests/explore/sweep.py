"""Every fault at every place of every case, under every segmentation: which there are, which were visited, what fails.

A place is an octet of a clean run of a case: one that a peer's program has read, or written. A dialogue is a case, a
mode, and a fault at a place; for short cases also two faults. They are taken in an order that a seed decides, so that
a run of any length visits all kinds of them; a run without a time limit visits each one once.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar, overload

import attrs

from shimproxy.net.tls import ReceiverSecurity
from tests.explore import scripts
from tests.explore.cases import CASES as WRITTEN
from tests.explore.faults import OF_RECEIVERS, OF_SENDERS, Fault
from tests.explore.oracle import Oracle
from tests.explore.peers import Plan
from tests.explore.world import MODES, Mode, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.explore.cases import Case

_Named = TypeVar("_Named", "Case", Mode, Fault)
CASES: Final = (*WRITTEN, *scripts.cases())
SENDER: Final = -1
"""Whose place it is, where it is not a receiver's number."""


@attrs.frozen
class Place:
    """An octet of one peer."""

    peer: int
    direction: str
    octets: int

    def __str__(self) -> str:
        who = "S" if self.peer == SENDER else f"R{self.peer}"
        return f"{who}.{self.direction}.{self.octets}"


@attrs.frozen
class Planned:
    """A fault at a place."""

    place: Place
    fault: Fault

    def __str__(self) -> str:
        return f"{self.fault.name}@{self.place}"


@attrs.frozen
class Dialogue:
    """A case, a mode and the faults that come in it."""

    case: Case
    mode: Mode
    faults: tuple[Planned, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.case.name, self.mode.name, *map(str, self.faults)))

    @classmethod
    def parse(cls, text: str) -> Dialogue:
        """As `str` writes it. Raises ValueError."""
        name, mode, *faults = text.split()
        planned = []
        for each in faults:
            fault, _, place = each.partition("@")
            who, direction, octets = place.split(".")
            peer = SENDER if who == "S" else int(who[1:])
            planned.append(Planned(Place(peer, direction, int(octets)), _named(fault, faults_of(peer))))
        return cls(_named(name, CASES), _named(mode, MODES), tuple(planned))

    def held(self, *, tracing: bool = False) -> World:
        """The dialogue, when it is over."""
        sender: list[Plan] = []
        receivers: dict[int, list[Plan]] = {}
        for planned in self.faults:
            place = planned.place
            plans = sender if place.peer == SENDER else receivers.setdefault(place.peer, [])
            plans.append(Plan(place.direction, place.octets, planned.fault))
        world = World(self.case, self.mode, sender, receivers, self._focus, tracing=tracing)
        world.run()
        return world

    @property
    def _focus(self) -> tuple[int | None, int | None]:
        """Around which octets the sender and the receiver write in pieces: those of the first fault."""
        if not self.faults:
            return None, None
        place = self.faults[0].place
        if (place.peer == SENDER) == (place.direction == "out"):  # what the receiver has read the sender has written
            return place.octets, 0
        return 0, place.octets

    def wrong(self, *, tracing: bool = False) -> list[str]:
        """What is broken in it."""
        return Oracle(self.held(tracing=tracing)).check()


def _named(name: str, among: tuple[_Named, ...]) -> _Named:
    found = next((each for each in among if each.name == name), None)
    if found is None:
        raise ValueError(f"{name!r} is none of {', '.join(each.name for each in among)}")
    return found


def faults_of(peer: int) -> tuple[Fault, ...]:
    """What that peer may do."""
    return OF_SENDERS if peer == SENDER else OF_RECEIVERS


@attrs.frozen
class Row:
    """All octets that one peer reads, or writes, in a clean run of a case; each with what it may do there."""

    peer: int
    direction: str
    octets: int
    faults: tuple[Fault, ...]


@attrs.define(eq=False)
class PlannedFaults(Sequence[Planned]):
    """Every fault at every place of a case: millions, so that each is made when it is asked for."""

    _rows: list[Row]
    _starts: list[int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._starts = [0, *itertools.accumulate(row.octets * len(row.faults) for row in self._rows)]

    @classmethod
    def of(cls, case: Case) -> PlannedFaults:
        """Those of a case."""
        world = Dialogue(case, MODES[0]).held()
        has_tls = case.policy.sender_context is not None or isinstance(case.policy.receiver_security, ReceiverSecurity)
        rows = []
        for number, peer in ((SENDER, world.sender), *enumerate(world.receivers)):
            faults = tuple(fault for fault in faults_of(number) if has_tls or not fault.tls_only)
            rows += [Row(number, "in", peer.in_octets + 1, faults), Row(number, "out", peer.out_octets, faults)]
        return cls(rows)

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Planned: ...
    @overload
    def __getitem__(self, index: slice) -> list[Planned]: ...
    def __getitem__(self, index: int | slice) -> Planned | list[Planned]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        number = bisect.bisect_right(self._starts, index) - 1
        row = self._rows[number]
        octets, fault = divmod(index - self._starts[number], len(row.faults))
        return Planned(Place(row.peer, row.direction, octets), row.faults[fault])


def _permuted(count: int, source: random.Random) -> Iterator[int]:
    """The numbers below `count`, each once, in an order that is held nowhere."""
    step = source.randrange(count // 3, count) | 1
    while math.gcd(step, count) > 1:
        step += 2
    place = source.randrange(count)
    for _ in range(count):
        place = (place + step) % count
        yield place


@attrs.define(eq=False)
class Sweep:
    """Dialogues in the order of a seed."""

    cases: tuple[Case, ...] = CASES
    modes: tuple[Mode, ...] = MODES
    seed: int = 0
    planned: dict[str, PlannedFaults] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.planned = {case.name: PlannedFaults.of(case) for case in self.cases}

    @property
    def singles(self) -> int:
        """How many dialogues with one fault there are, in all modes."""
        return sum(map(len, self.planned.values())) * len(self.modes)

    def clean(self) -> Iterator[Dialogue]:
        """Each case without a fault, in each mode."""
        return (Dialogue(case, mode) for case, mode in itertools.product(self.cases, self.modes))

    def dialogues(self) -> Iterator[Dialogue]:
        """Each dialogue with one fault once, one with two between each four of them; then pairs without an end."""
        source = random.Random(self.seed)
        starts = [0, *itertools.accumulate(len(self.planned[case.name]) * len(self.modes) for case in self.cases)]
        pairs = self._pairs(source)
        for number, place in enumerate(_permuted(starts[-1], source)):
            index = bisect.bisect_right(starts, place) - 1
            case = self.cases[index]
            fault, mode = divmod(place - starts[index], len(self.modes))
            yield Dialogue(case, self.modes[mode], (self.planned[case.name][fault],))
            if number % 4 == 0:
                yield next(pairs)
        yield from pairs

    def _pairs(self, source: random.Random) -> Iterator[Dialogue]:
        cases = [case for case in self.cases if case.short] or list(self.cases)
        while True:
            case = source.choice(cases)
            planned = self.planned[case.name]
            first, second = source.sample(range(len(planned)), 2)
            yield Dialogue(case, source.choice(self.modes), (planned[first], planned[second]))
