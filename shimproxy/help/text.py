"""A page as text for a terminal: filled to its width, with what is set off in bold where the terminal has it."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.help.markdown import Code, Heading, Item, Paragraph, Span, SpanStyle, Table, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shimproxy.help.markdown import PageBlock, Text

_BOLD, _UNDERLINED, _RESET = "\x1b[1m", "\x1b[4m", "\x1b[0m"
_STYLES: Final = {SpanStyle.CODE: _BOLD, SpanStyle.STRONG: _BOLD, SpanStyle.STRESSED: _UNDERLINED}
_GAP: Final = 2
"""Blanks between two columns of a table."""
_MOST_LINES: Final = 4
"""Of a row of a table: where one needs more, the table becomes a list."""
_LEAST_COLUMNS: Final = 20


@attrs.frozen
class _Word:
    """What is not broken at a line's end: pieces of text in their styles."""

    pieces: tuple[Span, ...]

    @property
    def columns(self) -> int:
        return sum(len(piece.text) for piece in self.pieces)


@attrs.frozen(kw_only=True)
class Layout:
    """How pages are drawn."""

    columns: int
    styled: bool = False
    """Whether what is set off is in bold, by escape sequences."""

    def drawn(self, blocks: Sequence[PageBlock]) -> list[str]:
        """The lines of a page, without line ends; none is wider than its columns, but for code and long words."""
        return list(self._blocks(blocks, max(self.columns, _LEAST_COLUMNS)))

    def _blocks(self, blocks: Sequence[PageBlock], columns: int) -> Iterator[str]:
        before: PageBlock | None = None
        for block in blocks:
            if before is not None and not (isinstance(before, Item) and isinstance(block, Item) and _is_short(before)):
                yield ""
            yield from self._block(block, columns)
            before = block

    def _block(self, block: PageBlock, columns: int) -> Iterator[str]:
        match block:
            case Heading(level, text):
                title = plain(text).upper() if level <= 2 else plain(text)
                yield from self._filled((Span(title, SpanStyle.STRONG),), columns)
            case Paragraph(text):
                yield from self._filled(text, columns)
            case Code(lines):
                yield from (f"    {line}" if line else "" for line in lines)
            case Item(mark, inside):
                indent = len(mark) + 1
                for first, line in enumerate(self._blocks(inside, columns - indent)):
                    yield (" " * indent if first else f"{mark} ") + line if line else ""
            case Table():
                yield from self._table(block, columns)

    # -- text

    def _filled(self, text: Text, columns: int) -> list[str]:
        return [self._line(words) for words in _lines(text, columns)] or [""]

    def _line(self, words: Iterable[_Word]) -> str:
        """Words with blanks between them; a blank within a style has it, too."""
        pieces: list[Span] = []
        for number, word in enumerate(words):
            for part, piece in enumerate(word.pieces):
                blank = " " if number and not part else ""
                if pieces and pieces[-1].style is piece.style:
                    pieces[-1] = Span(pieces[-1].text + blank + piece.text, piece.style)
                else:
                    pieces += [Span(blank), piece] if blank else [piece]
        return "".join(self._piece(piece) for piece in pieces)

    def _piece(self, piece: Span) -> str:
        style = _STYLES.get(piece.style)
        return f"{style}{piece.text}{_RESET}" if style and self.styled else piece.text

    # -- tables

    def _table(self, table: Table, columns: int) -> Iterator[str]:
        widths = _widths(table, columns)
        if widths is None:
            yield from self._as_list(table, columns)
            return
        yield from self._row([_strong(cell) for cell in table.head], widths)
        yield "  ".join("-" * width for width in widths)
        for row in table.rows:
            yield from self._row(row, widths)

    def _row(self, cells: Sequence[Text], widths: Sequence[int]) -> Iterator[str]:
        filled = [_lines(cell, width) for cell, width in zip(cells, widths, strict=True)]
        for lines in zip_longest(*filled, fillvalue=[]):
            yield "".join(
                self._line(words) + " " * (width + _GAP - _columns(words))
                for words, width in zip(lines, widths, strict=True)
            ).rstrip()

    def _as_list(self, table: Table, columns: int) -> Iterator[str]:
        """A table that is too wide: each row its first cell, and the others below, each after its head."""
        for number, row in enumerate(table.rows):
            if number:
                yield ""
            yield from self._filled(_strong(row[0]), columns)
            for text in table.below(row):
                yield from (f"    {line}" for line in self._filled(text, columns - 4))


def _is_short(item: Item) -> bool:
    """Whether no empty line is needed after it."""
    return len(item.blocks) <= 1


def _strong(text: Text) -> Text:
    return tuple(Span(span.text, SpanStyle.STRONG) for span in text)


def _columns(words: Sequence[_Word]) -> int:
    return sum(word.columns for word in words) + max(len(words) - 1, 0)


def _lines(text: Text, columns: int) -> list[list[_Word]]:
    """The words of each line."""
    lines: list[list[_Word]] = []
    room = 0
    for word in _words(text):
        if not lines or word.columns + 1 > room:
            lines.append([])
            room = columns + 1
        lines[-1].append(word)
        room -= word.columns + 1
    return lines


def _words(text: Text) -> Iterator[_Word]:
    pieces: list[Span] = []
    for span in text:
        for number, part in enumerate(span.text.split(" ")):
            if number and pieces:
                yield _Word(tuple(pieces))
                pieces = []
            if part:
                pieces.append(Span(part, span.style))
    if pieces:
        yield _Word(tuple(pieces))


def _widths(table: Table, columns: int) -> list[int] | None:
    """How wide each column is; None where some row would be too high, or some word has no room."""
    cells = list(zip(table.head, *table.rows, strict=True))
    whole = [max(1, *(len(plain(cell)) for cell in column)) for column in cells]
    least = [max(1, *(word.columns for cell in column for word in _words(cell))) for column in cells]
    room = columns - _GAP * (len(cells) - 1)
    if sum(whole) <= room:
        return whole
    spare = room - sum(least)
    if spare < 0:
        return None
    wanted = [most - few for most, few in zip(whole, least, strict=True)]
    widths = [few + spare * more // sum(wanted) for few, more in zip(least, wanted, strict=True)]
    rows = (max(len(_lines(cell, width)) for cell, width in zip(row, widths, strict=True)) for row in table.rows)
    return widths if max(rows, default=0) <= _MOST_LINES else None
