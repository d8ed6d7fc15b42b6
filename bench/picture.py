"""The figures of a run as one SVG: a group of bars for each, from 0, with the median at its end.

A line over a bar goes from the lowest round to the highest. It needs nothing else, follows the reader's dark or light
preference, and can be read on a phone, as shimproxy.records.svg has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.figures import groups, median, number
from bench.measures import SHIMPROXY
from shimproxy.records.ladder import wrapped
from shimproxy.records.svg import (
    CHARACTER_PER_FONT,
    FONT,
    MARGIN,
    SMALL_FONT,
    WIDTH,
    columns_in,
    line_of_text,
    picture,
    style,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.figures import Figure, Samples

_LINE: Final = 14.5
_BAR: Final = 10.0
_HEADING_FONT: Final = 12.0
_BARS_AT: Final = MARGIN + 70.0
_BARS_WIDTH: Final = WIDTH - _BARS_AT - MARGIN - 50
_NAME: Final = "shimproxy-bench"
_STYLE: Final = style(
    _NAME,
    """
.NAME .bar { fill: var(--bar) }
.NAME .own { fill: var(--accent) }
.NAME path { fill: none; stroke: var(--ink); stroke-width: 1 }
.NAME .rule { stroke: var(--bar) }
""",
)


def drawn(samples: Samples, machine: Mapping[str, str], paths: Sequence[str], rounds: int) -> str:
    """The picture; `paths` are in the order in which they are drawn."""
    body: list[str] = []
    height = MARGIN + 1.2 * _LINE
    title = "shimproxy beside the direct path" + (" and HAProxy" if "haproxy" in paths else "")
    body.append(line_of_text(MARGIN, height, title, "title", size=14))
    of_rounds = f"{rounds} rounds; bar: median; line: lowest to highest round" if rounds > 1 else "1 round"
    for text in (f"{machine['machine']}; Python {machine['Python']}", of_rounds):
        for line in wrapped(text, columns_in(WIDTH - 2 * MARGIN, SMALL_FONT)):
            height += _LINE
            body.append(line_of_text(MARGIN, height, line, "faint", size=SMALL_FONT))
    for group, figures in groups(samples):
        height += 2 * _LINE
        body += [
            line_of_text(MARGIN, height, group, "title", size=13),
            f'<path class="rule" d="M{MARGIN} {height + 5:.1f}H{WIDTH - MARGIN}"/>',
        ]
        height += 6
        for figure in figures:
            height += 1.4 * _LINE
            body += _heading(figure, height)
            height += 5
            for path in paths:
                if values := samples[figure.name].get(path):
                    body += _bar(path, values, _highest(samples[figure.name]), height)
                    height += _LINE
    return picture(_NAME, title, _STYLE, height + MARGIN, body)


def _heading(figure: Figure, y: float) -> Iterator[str]:
    yield line_of_text(MARGIN, y, figure.name, size=_HEADING_FONT)
    yield line_of_text(WIDTH - MARGIN, y, f"{figure.better.value} is better", "faint", anchor="end")


def _highest(paths: Mapping[str, Sequence[float]]) -> float:
    return max(value for values in paths.values() for value in values)


def _bar(path: str, values: Sequence[float], highest: float, y: float) -> Iterator[str]:
    def width(value: float) -> float:
        return max(0.0, value) / highest * _BARS_WIDTH if highest > 0 else 0.0

    middle = median(values) or 0.0
    low, high = width(min(values)), width(max(values))
    own = path == SHIMPROXY
    yield line_of_text(MARGIN, y + _BAR, path, "" if own else "faint")
    yield (
        f'<rect class="{"own" if own else "bar"}" x="{_BARS_AT}" y="{y + 1:.1f}" width="{max(1.0, width(middle)):.1f}" '
        f'height="{_BAR}" rx="1.5"/>'
    )
    if high - low >= 1:
        at = y + 1 + _BAR / 2
        ends = "".join(f"M{_BARS_AT + x:.1f} {at - 2.5:.1f}v5" for x in (low, high))
        yield f'<path d="M{_BARS_AT + low:.1f} {at:.1f}H{_BARS_AT + high:.1f}{ends}"/>'
    text_at = _BARS_AT + max(width(middle), high) + FONT * CHARACTER_PER_FONT
    yield line_of_text(text_at, y + _BAR, number(middle), "" if own else "faint")
