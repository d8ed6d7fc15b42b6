"""What is fuzzed: a parser, what is known of it, and one input for it."""

from __future__ import annotations

import ast
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import attrs

from tests.fuzz import regex, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType

BLOCK_OCTETS: Final = 4096
"""What a leg reads at once, so that a longer input comes in such pieces."""
_PUMPED_OCTETS: Final = (128, 512, 4096, 16384)
_SUSPICIOUS: Final = 1.2
_KILLER: Final = b"\0"
"""Behind what is repeated: most patterns cannot match it, and go back to try again."""
_MOST_SINGLE_OCTETS: Final = 200
"""A longer input is not taken octet by octet."""
_STEPS_FOR_NOTHING: Final = 4000
"""What an input may cost, however short it is."""


@attrs.frozen
class Case:
    """One input: octets, and where they are cut."""

    octets: bytes
    cuts: tuple[int, ...] = ()
    """In order, each from 1 to the number of octets, less one."""
    pumped: bool = False
    """Whether it is about steps: what stands between the first two cuts is repeated, up to thousands of octets."""

    def __str__(self) -> str:
        return repr((self.octets, self.cuts, self.pumped))

    @classmethod
    def parse(cls, literal: str) -> Case:
        """The one that `str` has written. Raises ValueError, SyntaxError."""
        octets, cuts, pumped = ast.literal_eval(literal)
        return cls(octets, cuts, pumped)

    @property
    def pieces(self) -> list[bytes]:
        """The octets, cut."""
        return [self.octets[start:stop] for start, stop in pairwise((0, *self.cuts, len(self.octets)))]

    def pumped_to(self, size_octets: int, killer: bytes = b"") -> bytes:
        """About so many octets, by repetition, and then the killer; two cuts are made where there are none."""
        first, last = (*self.cuts, len(self.octets), len(self.octets))[:2] if self.cuts else (0, len(self.octets))
        pump = self.octets[first:last] or self.octets or b"\0"
        return self.octets[:first] + pump * max(1, size_octets // len(pump)) + killer + self.octets[last:]


@attrs.frozen(kw_only=True, eq=False)
class Target:
    """A parser, and what is known of it."""

    name: str
    parsers: tuple[ModuleType, ...]
    """Whose lines and branches are the places that an input may visit."""
    check: Callable[[bytes, Sequence[bytes]], None]
    """Hold an input, whole and cut, against the naive implementation.

    Any exception is a fault; the documented ones are caught there.
    """
    run: Callable[[Sequence[bytes]], object]
    """Have what comes in pieces parsed, for places and steps to be seen; the documented errors are caught."""
    words: tuple[bytes, ...]
    """What inputs are made of, beside octets of all kinds."""
    seeds: tuple[bytes, ...]
    """The first inputs."""
    most_octets: int = 600
    most_steps: int = 120
    """How many an octet of a long input may cost."""

    def hold(self, case: Case, places: set[steps.Place]) -> None:
        """Try an input; the places that it visits are added. Any exception is a fault."""
        if case.pumped:
            self._hold_steps(case)
            return
        with steps.placed(self.parsers, places):
            self.run(case.pieces)
        self.check(case.octets, case.pieces)

    def _hold_steps(self, case: Case) -> None:
        """Assert that no octet costs more than it may; long inputs are tried where more of them cost more each."""
        for killer in (b"", _KILLER):
            self._hold_steps_of(case, killer)

    def _hold_steps_of(self, case: Case, killer: bytes) -> None:
        costs: list[float] = []
        for size_octets in _PUMPED_OCTETS:
            octets = case.pumped_to(size_octets, killer)
            counter = steps.Counter(_STEPS_FOR_NOTHING + self.most_steps * len(octets))
            pieces = [octets[start : start + BLOCK_OCTETS] for start in range(0, len(octets), BLOCK_OCTETS)]
            with regex.counted(self.parsers, counter), steps.counted(counter):
                self.run([steps.Octets(piece).counted_by(counter) for piece in pieces])
            costs.append(counter.steps / len(octets))
            if costs[-1] <= _SUSPICIOUS * costs[0] and len(costs) > 1:
                return


def joined(pieces: Sequence[bytes]) -> bytes:
    """The octets of all pieces, which still count if they do."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def all_alike(read: Callable[[Iterable[bytes]], object], octets: bytes, pieces: Sequence[bytes]) -> None:
    """Assert that the same is read of the octets cut, and one by one, as of all at once."""
    whole = read([octets])
    cut = read(pieces)
    assert cut == whole, f"in pieces {cut}, at once {whole}"
    if len(octets) <= _MOST_SINGLE_OCTETS:
        single = read([octets[at : at + 1] for at in range(len(octets))])
        assert single == whole, f"octet by octet {single}, at once {whole}"
