"""A ladder as SVG, as svg.py has it.

Styles are the same in each, so that a page's content security policy can name them by their hash. It is as legible on
a phone as on a wide screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.records.ladder import rows, wrapped
from shimproxy.records.session_ladder import ladder_of
from shimproxy.records.svg import (
    CHARACTER_PER_FONT,
    MARGIN,
    SMALL_FONT,
    WIDTH,
    columns_in,
    line_of_text,
    picture,
    style,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.records.ladder import Arrow, Ladder, Row
    from shimproxy.session.record import SessionRecord

_LINE: Final = 13.5
_HEAD: Final = 5
_NAME: Final = "shimproxy-ladder"
_STYLE: Final = style(
    _NAME,
    """
.NAME .note { fill: var(--accent); font-weight: bold }
.NAME path { fill: none; stroke: var(--ink); stroke-width: 1.1 }
.NAME .party { stroke: var(--faint) }
.NAME .dot { fill: var(--accent); stroke: none }
""",
)


def svg(record: SessionRecord) -> str:
    """The ladder of a session's trace: an `<svg>` element in a line or more of text, all ASCII."""
    return svg_of(ladder_of(record))


def svg_of(*ladders: Ladder) -> str:
    """The same of any ladders, one below the other."""
    body: list[str] = []
    end = 0.0
    for ladder in ladders:
        drawing = _Drawing(ladder, height=end + MARGIN)
        body += drawing.elements()
        end = drawing.height
    return picture(_NAME, "; ".join(ladder.title for ladder in ladders), _STYLE, end, body)


@attrs.define(eq=False)
class _Drawing:
    """Draws from top to bottom."""

    _ladder: Ladder
    _rows: list[Row] = attrs.field(init=False)
    _lane: float = attrs.field(init=False)
    """How wide one is."""
    _parties: list[float] = attrs.field(init=False)
    """Where their lines are."""
    height: float = MARGIN
    """How far it has come."""

    def __attrs_post_init__(self) -> None:
        parties = len(self._ladder.parties)
        self._rows = rows(self._ladder)
        mark_columns = max((len(row.mark) for row in self._rows), default=0)
        left = MARGIN + mark_columns * SMALL_FONT * CHARACTER_PER_FONT + 5
        self._lane = (WIDTH - left - MARGIN) / (parties - 1)
        self._parties = [left + place * self._lane for place in range(parties)]

    def elements(self) -> Iterator[str]:
        """All of it."""
        if len(self._ladder.title) <= columns_in(WIDTH - 2 * MARGIN):
            self.height += _LINE
            yield line_of_text(MARGIN, self.height, self._ladder.title, "title")
        else:
            for line in wrapped(self._ladder.title, columns_in(WIDTH - 2 * MARGIN, SMALL_FONT)):
                self.height += _LINE
                yield line_of_text(MARGIN, self.height, line, "faint", size=SMALL_FONT)
        self.height += 1.7 * _LINE
        anchors = ["start", *["middle"] * (len(self._parties) - 2), "end"]
        for x, party, anchor in zip(self._parties, self._ladder.parties, anchors, strict=True):
            yield line_of_text(x, self.height, party, anchor=anchor)
        self.height += 5
        top = self.height
        drawn = [element for row in self._rows for element in self._row(row)]
        self.height += _LINE
        yield from (f'<path class="party" d="M{x:.1f} {top:.1f}V{self.height:.1f}"/>' for x in self._parties)
        yield from drawn
        self.height += MARGIN

    def _row(self, row: Row) -> Iterator[str]:
        top = bottom = self.height
        if row.mark:
            yield line_of_text(MARGIN, top + _LINE, row.mark, "faint", size=SMALL_FONT)
        for arrow in row.arrows.values():
            self.height = top
            yield from self._note(arrow) if arrow.at is not None else self._lines(arrow, self._left(arrow) + 6)
            bottom = max(bottom, self.height)
        self.height = bottom + 5
        for arrow in row.arrows.values():
            if arrow.at is None:
                yield from self._shaft(arrow)
        self.height += 3

    def _left(self, arrow: Arrow) -> float:
        return self._parties[arrow.lane]

    def _lines(self, arrow: Arrow, x: float, anchor: str = "start", css: str = "") -> Iterator[str]:
        """What is written on an arrow, from here down."""
        columns = columns_in(self._lane - 10)
        for text, name in ((arrow.text, css), (arrow.remark, "faint")):
            for line in wrapped(text, columns) if text else ():
                self.height += _LINE
                yield line_of_text(x, self.height, line, name, anchor=anchor)

    def _shaft(self, arrow: Arrow) -> Iterator[str]:
        left = self._left(arrow)
        right = left + self._lane
        tip, back = (right, -_HEAD) if arrow.rightward else (left, _HEAD)
        y = self.height
        dashes = ' stroke-dasharray="2 3"' if arrow.folded else ""
        yield f'<path d="M{left:.1f} {y:.1f}H{right:.1f}"{dashes}/>'
        yield f'<path d="M{tip + back:.1f} {y - 3:.1f}L{tip:.1f} {y:.1f}L{tip + back:.1f} {y + 3:.1f}"/>'

    def _note(self, arrow: Arrow) -> Iterator[str]:
        x = self._parties[arrow.at or 0]
        yield f'<path class="dot" d="M{x - 4:.1f} {self.height + _LINE - 4:.1f}l4 -4 4 4 -4 4z"/>'
        last = arrow.at == arrow.lane + 1
        yield from self._lines(arrow, x - 8 if last else x + 8, "end" if last else "start", "note")
