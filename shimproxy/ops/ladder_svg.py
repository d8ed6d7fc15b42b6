"""A ladder as SVG: one element that needs nothing else, to be looked at on its own or to stand in a page.

Invariants:

1. No script, no link, no name that could clash with a page's: styles hold for what is in the element only, and are
   the same in each, so that a page's content security policy can name them by their hash.
2. Every text is escaped, and printable ASCII: XML 1.0 forbids most control characters, however written.
3. It follows the reader's dark or light preference, and is as legible on a phone as on a wide screen: it is laid out
   for 400 pixels or so, and grows with its place up to half as much again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

import attrs

from shimproxy.ops.ladder import rows, wrapped
from shimproxy.ops.record_ladder import ladder_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.ops.ladder import Arrow, Ladder, Row
    from shimproxy.session.record import SessionRecord

# All in pixels, as on a phone.
_WIDTH: Final = 440
_SHOWN_WIDTH: Final = 680
"""How wide it is where there is room."""
_MARGIN: Final = 8
_FONT, _SMALL_FONT = 11.0, 10.0
_CHARACTER_PER_FONT: Final = 0.61
"""How wide a character of a monospaced font is: 0.60 with most, 0.61 with some."""
_LINE: Final = 13.5
_HEAD: Final = 5
_STYLE: Final = """
.shimproxy-ladder { --ink: #1b1f24; --faint: #5c646d; --paper: #ffffff; --repair: #a8430a; color-scheme: light dark;
 display: block; max-width: 100%; height: auto; margin: 0 auto;
 font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace }
@media (prefers-color-scheme: dark) {
 .shimproxy-ladder { --ink: #e6edf3; --faint: #949da7; --paper: #12161c; --repair: #ffa657 } }
.shimproxy-ladder rect { fill: var(--paper) }
.shimproxy-ladder text { fill: var(--ink); white-space: pre }
.shimproxy-ladder .mark, .shimproxy-ladder .remark { fill: var(--faint) }
.shimproxy-ladder .note { fill: var(--repair); font-weight: bold }
.shimproxy-ladder path { fill: none; stroke: var(--ink); stroke-width: 1.1 }
.shimproxy-ladder .party { stroke: var(--faint) }
.shimproxy-ladder .dot { fill: var(--repair); stroke: none }
"""


def svg(record: SessionRecord) -> str:
    """The ladder of a session's trace: an `<svg>` element in a line or more of text, all ASCII."""
    return svg_of(ladder_of(record))


def svg_of(ladder: Ladder) -> str:
    """The same of any ladder."""
    drawing = _Drawing(ladder)
    body = "\n".join(drawing.elements())
    height = f"{drawing.height:.0f}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" class="shimproxy-ladder" role="img" '
        f'width="{_SHOWN_WIDTH}" height="{drawing.height * _SHOWN_WIDTH / _WIDTH:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-size="{_FONT:g}">\n'
        f"<title>{_text(ladder.title)}</title>\n<style>{_STYLE}</style>\n"
        f'<rect width="{_WIDTH}" height="{height}"/>\n{body}\n</svg>\n'
    )


def _text(text: str) -> str:
    return escape("".join(each if " " <= each <= "~" else each.encode("unicode_escape").decode() for each in text))


@attrs.define(eq=False)
class _Drawing:
    """Draws from top to bottom."""

    _ladder: Ladder
    _rows: list[Row] = attrs.field(init=False)
    _lane: float = attrs.field(init=False)
    """How wide one is."""
    _parties: list[float] = attrs.field(init=False)
    """Where their lines are."""
    height: float = _MARGIN
    """How far it has come."""

    def __attrs_post_init__(self) -> None:
        parties = len(self._ladder.parties)
        self._rows = rows(self._ladder)
        mark_columns = max((len(row.mark) for row in self._rows), default=0)
        left = _MARGIN + mark_columns * _SMALL_FONT * _CHARACTER_PER_FONT + 5
        self._lane = (_WIDTH - left - _MARGIN) / (parties - 1)
        self._parties = [left + place * self._lane for place in range(parties)]

    def elements(self) -> Iterator[str]:
        """All of it."""
        columns = int((_WIDTH - 2 * _MARGIN) / (_SMALL_FONT * _CHARACTER_PER_FONT))
        for line in wrapped(self._ladder.title, columns):
            self.height += _LINE
            yield _words(_MARGIN, self.height, line, "remark", size=_SMALL_FONT)
        self.height += 1.7 * _LINE
        anchors = ["start", *["middle"] * (len(self._parties) - 2), "end"]
        for x, party, anchor in zip(self._parties, self._ladder.parties, anchors, strict=True):
            yield _words(x, self.height, party, anchor=anchor)
        self.height += 5
        top = self.height
        drawn = [element for row in self._rows for element in self._row(row)]
        self.height += _LINE
        yield from (f'<path class="party" d="M{x:.1f} {top:.1f}V{self.height:.1f}"/>' for x in self._parties)
        yield from drawn
        self.height += _MARGIN

    def _row(self, row: Row) -> Iterator[str]:
        top = bottom = self.height
        if row.mark:
            yield _words(_MARGIN, top + _LINE, row.mark, "mark", size=_SMALL_FONT)
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
        columns = int((self._lane - 10) / (_FONT * _CHARACTER_PER_FONT))
        for text, name in ((arrow.text, css), (arrow.remark, "remark")):
            for line in wrapped(text, columns) if text else ():
                self.height += _LINE
                yield _words(x, self.height, line, name, anchor=anchor)

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


def _words(x: float, y: float, text: str, css: str = "", *, anchor: str = "start", size: float = _FONT) -> str:
    attributes = f' class="{css}"' if css else ""
    if anchor != "start":
        attributes += f' text-anchor="{anchor}"'
    if size != _FONT:
        attributes += f' font-size="{size:g}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{_text(text)}</text>'
