"""What a run beside hostile peers has found, row by row: the table, JSON, and whether the bound was held.

1. A phase has the mails that were due in it, however late their verdicts came.
2. A row holds if its mails were late by no more than BOUND in the attack, and if no mail was lost in all of it.

It knows no processes: it is given what was seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from bench.figures import percentile
from bench.hostile_mails import MOST_NAMED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BOUND: Final = 3.0
"""A mail beside hostile peers may take so many times what it takes without them, each at the 99th percentile."""
MOST_COLUMNS: Final = 109
PHASES: Final = ("before", "during", "after")


@attrs.frozen
class Phase:
    """What was so before, during or after an attack."""

    milliseconds: Sequence[float]
    """Of each mail, from when it was due to its verdict."""
    peak_mib: float
    """Of the largest process of shimproxy."""
    cpu: float
    """Seconds of CPU a second, of all processes of shimproxy."""

    @property
    def p50(self) -> float:
        """Half of the mails took no longer."""
        return percentile(self.milliseconds, 50)

    @property
    def p99(self) -> float:
        """99 of 100 mails took no longer."""
        return percentile(self.milliseconds, 99)


@attrs.frozen
class Row:
    """An attack, and what it did."""

    name: str
    phases: Sequence[Phase]
    """In the order of PHASES."""
    acts: int
    """How often a hostile sender has begun, or something was done."""
    mails: int
    """In all, with those between two phases."""
    broken: int
    """Connections that ended before a verdict; their mails were sent again."""
    lost: Sequence[str]
    """A line for each mail that was lost, doubled, changed or refused."""
    troubles: Sequence[str]
    """What shimproxy logged that it should not."""

    @property
    def ratio(self) -> float:
        """How much longer a mail took in the attack, at the 99th percentile."""
        before, during, _ = self.phases
        return during.p99 / before.p99

    @property
    def in_time(self) -> bool:
        """Whether the bound was held."""
        return self.ratio <= BOUND

    @property
    def holds(self) -> bool:
        """Whether the bound was held, no mail was lost, and shimproxy logged nothing that it should not."""
        return self.in_time and not self.lost and not self.troubles

    def as_json(self) -> dict[str, Any]:
        """Everything of it, for other programs; times in milliseconds."""
        phases = {
            name: {
                "mails": len(phase.milliseconds),
                "p50_ms": phase.p50,
                "p99_ms": phase.p99,
                "max_ms": max(phase.milliseconds),
                "peak_mib": phase.peak_mib,
                "cpu": phase.cpu,
            }
            for name, phase in zip(PHASES, self.phases, strict=True)
        }
        counts = {"acts": self.acts, "mails": self.mails, "broken": self.broken}
        return {
            **phases,
            **counts,
            "ratio": self.ratio,
            "lost": [*self.lost],
            "troubles": [*self.troubles],
            "holds": self.holds,
        }


def middle(rounds: Sequence[Row]) -> Row:
    """The round of an attack whose ratio is in the middle, with the mails of all of them. Raises IndexError."""
    return attrs.evolve(
        sorted(rounds, key=lambda row: row.ratio)[len(rounds) // 2],
        acts=sum(row.acts for row in rounds),
        mails=sum(row.mails for row in rounds),
        broken=sum(row.broken for row in rounds),
        lost=[each for row in rounds for each in row.lost],
        troubles=[each for row in rounds for each in row.troubles],
    )


def _few_digits(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


_GAP: Final = "  "


@attrs.frozen
class _Column:
    heading: str
    cell: Callable[[Row], str]


_Groups = dict[str, list[_Column]]
"""Columns that have a heading in common."""
_FIGURES: Final[dict[str, Callable[[Phase], str]]] = {
    "p50": lambda phase: _few_digits(phase.p50),
    "p99": lambda phase: _few_digits(phase.p99),
    "MiB": lambda phase: f"{phase.peak_mib:.0f}",
    "CPU": lambda phase: f"{phase.cpu:.1f}",
}


def _column(heading: str, figure: str, phase: str) -> _Column:
    return _Column(heading, lambda row: _FIGURES[figure](row.phases[PHASES.index(phase)]))


def _by_phase(figure: str, *phases: str) -> list[_Column]:
    return [_column(phase, figure, phase) for phase in phases]


_NAME: Final[_Groups] = {"": [_Column("attack", lambda row: row.name)]}
_VERDICT: Final[_Groups] = {
    f"p99 <= {BOUND:g} x": [
        _Column("ratio", lambda row: _few_digits(row.ratio)),
        _Column("held", lambda row: "yes" if row.in_time else "NO"),
    ],
    "mails": [_Column("cut", lambda row: str(row.broken)), _Column("lost", lambda row: str(len(row.lost)))],
}
_BEFORE, _DURING, _AFTER = PHASES
_WIDE: Final[_Groups] = {
    **_NAME,
    "p50 ms": _by_phase("p50", *PHASES),
    "p99 ms": _by_phase("p99", *PHASES),
    "MiB": _by_phase("MiB", _BEFORE, _DURING),
    "CPU": _by_phase("CPU", _DURING),
    **_VERDICT,
}
_NARROW: Final[_Groups] = {
    **_NAME,
    "p99 ms": _by_phase("p99", *PHASES),
    _DURING: [_column(figure, figure, _DURING) for figure in ("p50", "MiB", "CPU")],
    **_VERDICT,
}


def table(rows: Sequence[Row], columns: int = MOST_COLUMNS) -> list[str]:
    """Two lines of heading, then a line a row; fewer figures where columns are few."""
    lines = _table(rows, _WIDE)
    return lines if max(map(len, lines)) <= min(columns, MOST_COLUMNS) else _table(rows, _NARROW)


def _table(rows: Sequence[Row], groups: _Groups) -> list[str]:
    first, lines = "", [""] * (1 + len(rows))
    for group, shown in groups.items():
        cells = [[column.heading, *map(column.cell, rows)] for column in shown]
        padded = [[_padded(cell, each, to_left=not group) for cell in each] for each in cells]
        parts = [_GAP.join(line) for line in zip(*padded, strict=True)]
        width = max(len(group), len(parts[0]))
        first += f"{_GAP}{group:<{width}}"
        lines = [f"{line}{_GAP}{part:>{width}}" for line, part in zip(lines, parts, strict=True)]
    return [line.removeprefix(_GAP).rstrip() for line in (first, *lines)]


def _padded(cell: str, column: Sequence[str], *, to_left: bool) -> str:
    width = max(map(len, column))
    return cell.ljust(width) if to_left else cell.rjust(width)


def legend(seconds: float, mails: int) -> str:
    """What the cells of a table say."""
    amount = f"{mails} mails" if mails else f"{seconds:g} s"
    return (
        f"A phase has {amount}: before, during and after the attack. p50, p99: milliseconds from when a mail was due "
        "to its verdict. MiB: the largest process. CPU: seconds a second, all processes of shimproxy. cut: connections "
        "that ended before the verdict, whose mails were sent again. lost: mails that were lost, doubled or refused."
    )


def lost_lines(rows: Sequence[Row]) -> Iterator[str]:
    """The first mails that were lost in each row, and what shimproxy should not have logged."""
    for row in rows:
        for what in (row.lost, row.troubles):
            yield from (f"{row.name}: {each}" for each in what[:MOST_NAMED])
            if len(what) > MOST_NAMED:
                yield f"{row.name}: and {len(what) - MOST_NAMED:,} others"


def check_lines(rows: Sequence[Row]) -> list[str]:
    """One line for each row: whether it holds, and how far the bound was kept."""
    return [f"{'holds' if row.holds else 'FAILS':>8}  {row.name}: {_few_digits(row.ratio)} x" for row in rows]
