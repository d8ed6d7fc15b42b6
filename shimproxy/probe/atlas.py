"""The atlas: real receivers and senders with their habits, and which receiver of it a probe has met.

The data lie beside the pages (docs/atlas.json) and are made by `python -m tests.atlas`.

1. A receiver is named only if most of what was tried agrees, weighed by how few others have that habit.
2. Several that fit alike are all named, and none where none fits: settings change habits, and the atlas is small.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Final

import attrs

DATA: Final = Path(__file__).parents[1] / "docs" / "atlas.json"
LIKE: Final = 0.7
"""The likeness from which on a receiver is named."""
_AS_LIKE: Final = 0.03
"""Who is less like it than the best by no more than this is named too."""
_SAME_CODE: Final = 0.3
"""What the same reply code in other words is worth of the same reply."""
_LEAST_TRIED: Final = 6
_MOST_NAMED: Final = 4


@attrs.frozen(kw_only=True)
class AtlasEntry:
    """A program of the atlas."""

    name: str
    version: str
    package: str
    """Its registry and its name there, as in `PyPI aiosmtpd`."""
    released: str
    """The day of its release, as in 2026-11-20; empty if that is not known."""
    seen: str
    """The day on which its habits were seen."""
    settings: str = ""
    """What was set for it, if that matters."""
    base: str = ""
    """The program of the atlas that speaks SMTP in it, if that is another one."""
    habits: dict[str, str]
    """Name -> text: of a receiver as habits.py has them; of a sender as tests/atlas has them."""
    mail: dict[str, str] = attrs.field(factory=dict)
    """Of a receiver: what it does with whole mails, which no probe sends. As tests/atlas has them."""
    violations: list[str] = attrs.field(factory=list)
    """Names of the catalogue that were seen."""

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


@attrs.frozen(kw_only=True)
class Atlas:
    """All of it."""

    receivers: tuple[AtlasEntry, ...]
    senders: tuple[AtlasEntry, ...]

    @classmethod
    def of(cls, data: dict[str, Any]) -> Atlas:
        """From what JSON has."""
        return cls(**{kind: tuple(AtlasEntry(**each) for each in entries) for kind, entries in data.items()})


@functools.cache
def atlas() -> Atlas:
    """The atlas that shimproxy comes with."""
    return Atlas.of(json.loads(DATA.read_text(encoding="utf-8")))


# -- who is it?


@attrs.frozen(kw_only=True)
class Likeness:
    """How far a receiver has the habits of one in the atlas."""

    name: str
    version: str
    base: str
    """What speaks SMTP in it."""
    likeness: float
    """From 0, nothing agrees, to 1, all of it."""
    agreeing: int
    tried: int
    differing: list[str]
    """The names of the habits that differ."""


def likenesses(seen: dict[str, str], among: tuple[AtlasEntry, ...]) -> list[Likeness]:
    """Those that have these habits, the best first: none if none fits, several if no more can be told."""
    weights = _weights(among)
    likes = sorted((_likeness(seen, each, weights) for each in among), key=lambda each: -each.likeness)
    fitting = [each for each in likes if each.tried >= _LEAST_TRIED and each.likeness >= LIKE]
    return [each for each in fitting if each.likeness >= fitting[0].likeness - _AS_LIKE][:_MOST_NAMED]


def _weights(among: tuple[AtlasEntry, ...]) -> dict[tuple[str, str], float]:
    """What a habit says, in bits: little if everybody has it."""
    have = Counter(habit for each in among for habit in each.habits.items())
    tried = Counter(name for each in among for name in each.habits)
    return {(name, text): math.log2((tried[name] + 1) / count) for (name, text), count in have.items()}


def _likeness(seen: dict[str, str], entry: AtlasEntry, weights: dict[tuple[str, str], float]) -> Likeness:
    tried = [name for name in entry.habits if name in seen]
    agreements = {name: _agreement(name, seen[name], entry.habits[name]) for name in tried}
    weight = {name: weights[name, entry.habits[name]] for name in tried}
    whole = sum(weight.values())
    return Likeness(
        name=entry.name,
        version=entry.version,
        base=entry.base or entry.name,
        likeness=round(sum(agreements[name] * weight[name] for name in tried) / whole, 3) if whole else 0.0,
        agreeing=sum(each == 1 for each in agreements.values()),
        tried=len(tried),
        differing=[name for name, each in agreements.items() if each < 1],
    )


def _agreement(name: str, seen: str, known: str) -> float:
    if seen == known:
        return 1.0
    if name == "keywords":
        ours, theirs = set(seen.split()), set(known.split())
        return len(ours & theirs) / len(ours | theirs)
    return _SAME_CODE if seen[:3] == known[:3] and seen[:3].isdigit() else 0.0
