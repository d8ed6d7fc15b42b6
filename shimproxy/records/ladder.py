"""Ladders: who said what to whom, drawn frame by frame for a terminal.

A party is a vertical line, a frame an arrow between two neighbours, a note a `*` on a party's line. Rules:

1. Frames keep their order; what stands at the left is the mark of the first frame on its row.
2. A frame that is passed on unchanged shares a row with the frame that it came from.
3. The first frames of mail data in each direction are drawn, what follows between two other frames is counted.
4. Plain ASCII; lanes of one width, as wide as the columns allow; what is longer is wrapped, never cut.
5. A ladder can grow while it is drawn: a row is given once no later frame can change it.

Pure: it draws what it is given, and knows no sockets and no terminal. The rows are ladder_svg.py's, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAIL_DATA_FRAMES_DRAWN: Final = 3
_LEAST_LANE_COLUMNS, _MOST_LANE_COLUMNS = 16, 40


@attrs.frozen
class Frame:
    """What one party said to another; a note of what befell a party, if `who` is `whom`."""

    mark: str
    """What stands at its left: a number, or a time; a note may have none."""
    who: str
    whom: str
    what: str = ""
    mail_octets: int = 0
    """Instead of `what`: so many octets of mail data."""
    remark: str = ""
    """What is to be said of it, behind it: as to this rule 2 does not ask whether it is the same."""

    @property
    def text(self) -> str:
        """What is written on the arrow."""
        return f"mail data, {self.mail_octets} octets" if self.mail_octets else self.what


@attrs.frozen
class Ladder:
    """One run: its title, its parties from left to right, and its frames."""

    title: str
    parties: tuple[str, ...]
    frames: Sequence[Frame]


@attrs.define
class Arrow:
    """A frame, or a count of frames, in its lane."""

    mark: str
    lane: int
    rightward: bool
    text: str
    remark: str = ""
    mail_octets: int = 0
    folded: int = 0
    """So many more of the same; 0 for a single frame."""
    at: int | None = None
    """A note: the party that it is about."""

    @property
    def words(self) -> str:
        """All that is written on it."""
        return f"{self.text}, {self.remark}" if self.remark else self.text


@attrs.define
class Row:
    """What is drawn at one height: an arrow or a note in each lane."""

    arrows: dict[int, Arrow]

    @property
    def mark(self) -> str:
        """That of its first frame."""
        return next(iter(self.arrows.values())).mark

    def takes(self, arrow: Arrow) -> bool:
        """Whether `arrow` is one of this row's passed on unchanged."""
        return arrow.lane not in self.arrows and any(
            other.at is None and (other.text, other.rightward, other.folded) == (arrow.text, arrow.rightward, 0)
            for other in self.arrows.values()
        )


def drawn(ladder: Ladder, columns: int) -> list[str]:
    """The lines of a whole ladder, its title above them, at most `columns` wide where lanes are readable."""
    mark_columns = max((len(frame.mark) for frame in ladder.frames), default=1)
    drawing = Drawing(ladder.parties, mark_columns, columns)
    lines = [*drawing.title(ladder.title), *drawing.head()]
    for frame in ladder.frames:
        lines += drawing.feed(frame)
    return [*lines, *drawing.finish()]


# -- from frames to rows


@attrs.define(eq=False)
class Rows:
    """The rows of a ladder that grows; whoever feeds it gets each row once it is complete."""

    parties: tuple[str, ...]
    _open: list[Row] = attrs.field(factory=list)
    """A frame to come may still share these: the last row, or all of the mail data that are being passed on."""
    _folds: dict[tuple[str, str, int], Arrow] = attrs.field(factory=dict)
    _seen: dict[tuple[str, str], int] = attrs.field(factory=dict)
    """Frames of mail data so far, by direction."""
    _in_mail_data: bool = False

    @property
    def pending(self) -> list[Row]:
        """The rows that are not complete, as they are by now."""
        return [*self._open, *(Row({fold.lane: fold}) for fold in self._folds.values())]

    def feed(self, frame: Frame) -> list[Row]:
        """Take the next frame; the rows that are complete by it."""
        arrow = self._arrow(frame)
        complete: list[Row] = []
        if bool(frame.mail_octets) is not self._in_mail_data:
            complete = self.finish()
            self._in_mail_data = not self._in_mail_data
        if frame.mail_octets and self._fold(frame, arrow):
            return complete
        row = next((row for row in self._open if row.takes(arrow)), None) if arrow.at is None else None
        if row is not None:
            row.arrows[arrow.lane] = arrow
            return complete
        if not frame.mail_octets:
            complete += self._open
            self._open = []
        self._open.append(Row({arrow.lane: arrow}))
        return complete

    def finish(self) -> list[Row]:
        """The rows that were not complete, as nothing follows them."""
        rows = self.pending
        self._open, self._folds = [], {}
        return rows

    def _arrow(self, frame: Frame) -> Arrow:
        here, there = self.parties.index(frame.who), self.parties.index(frame.whom)
        if here == there:
            lane = here - 1 if here == len(self.parties) - 1 else here
            return Arrow(frame.mark, lane, False, frame.text, frame.remark, at=here)
        return Arrow(frame.mark, min(here, there), here < there, frame.text, frame.remark, frame.mail_octets)

    def _fold(self, frame: Frame, arrow: Arrow) -> bool:
        """Whether these mail data are counted, not drawn."""
        direction = (frame.who, frame.whom)
        self._seen[direction] = self._seen.get(direction, 0) + 1
        if self._seen[direction] <= MAIL_DATA_FRAMES_DRAWN:
            return False
        fold = self._folds.setdefault((*direction, frame.mail_octets), arrow)
        fold.folded += 1
        fold.text = f"{fold.folded} more of {frame.mail_octets} octets"
        return True


def rows(ladder: Ladder) -> list[Row]:
    """The rows of a whole ladder, from top to bottom."""
    growing = Rows(ladder.parties)
    complete = [row for frame in ladder.frames for row in growing.feed(frame)]
    return [*complete, *growing.finish()]


# -- from rows to lines


@attrs.define(eq=False)
class Drawing:
    """A ladder drawn while it grows: a line stays as it is once it is given."""

    parties: tuple[str, ...]
    _mark_columns: int
    columns: int
    """How wide it may be; it is wider where lanes would be too narrow to read."""
    _paint: Callable[[Arrow, str], str] = lambda _, text: text
    """Adds to one line of an arrow what does not take a column, as a colour."""
    _rows: Rows = attrs.field(init=False)
    _lane_columns: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._rows = Rows(self.parties)
        lanes = len(self.parties) - 1
        # A ladder is its mark, a blank, and lanes between one more line than there are lanes.
        lane_columns = (self.columns - self._mark_columns - 2 - lanes) // lanes
        self._lane_columns = max(_LEAST_LANE_COLUMNS, min(lane_columns, _MOST_LANE_COLUMNS))

    @property
    def width(self) -> int:
        """How many columns it takes."""
        return self._mark_columns + 2 + (len(self.parties) - 1) * (self._lane_columns + 1)

    def title(self, text: str) -> list[str]:
        """The lines of its title."""
        return [(self._margin + line).rstrip() for line in wrapped(text, self.width - len(self._margin))]

    def head(self) -> list[str]:
        """The names over their lines: the first begins at its line, the last ends at it, others are centred."""
        width = self.width - len(self._margin)
        line = [" "] * width
        for place, party in enumerate(self.parties):
            start = place * (self._lane_columns + 1) - len(party) // 2
            start = max(0, min(start, width - len(party)))
            line[start : start + len(party)] = party
        return ["", (self._margin + "".join(line)).rstrip(), self._bare]

    def feed(self, frame: Frame) -> list[str]:
        """Take the next frame; the lines that are complete by it."""
        return self._lines(self._rows.feed(frame))

    def pending(self) -> list[str]:
        """The lines that a frame to come may change, as they are by now."""
        return self._lines(self._rows.pending)

    def finish(self) -> list[str]:
        """All that is left to be drawn, as no frame is to come."""
        return [*self._lines(self._rows.finish()), self._bare]

    @property
    def _margin(self) -> str:
        return " " * (self._mark_columns + 1)

    @property
    def _bare(self) -> str:
        return self._margin + "|".join([""] + [" " * self._lane_columns] * (len(self.parties) - 1) + [""])

    def _lines(self, rows: Sequence[Row]) -> list[str]:
        return [line for row in rows for line in self._row(row)]

    def _row(self, row: Row) -> Iterator[str]:
        blank = " " * self._lane_columns
        cells = {
            lane: [self._paint(arrow, text) for text in _cell(arrow, self._lane_columns)]
            for lane, arrow in row.arrows.items()
        }
        starred = {arrow.at: self._paint(arrow, "*") for arrow in row.arrows.values() if arrow.at is not None}
        for height in range(max(len(cell) for cell in cells.values())):
            line = f"{row.mark if height == 0 else '':>{self._mark_columns}} "
            for party in range(len(self.parties)):
                line += starred.get(party, "|") if height == 0 else "|"
                if party < len(self.parties) - 1:
                    cell = cells.get(party, [])
                    line += cell[height] if height < len(cell) else blank
            yield line


def _cell(arrow: Arrow, lane_columns: int) -> list[str]:
    """The lines of one lane: the arrow with its text, and the rest of the text below."""
    if arrow.at is not None:
        pad = str.rjust if arrow.at == arrow.lane + 1 else str.ljust
        return [pad(f" {text} ", lane_columns) for text in wrapped(arrow.words, lane_columns - 2)]
    indent_columns = 2 if arrow.rightward else 3
    first, *rest = wrapped(arrow.words, lane_columns - indent_columns, 4 - indent_columns)
    shaft = "." if arrow.folded else "-"
    if arrow.rightward:
        head = f"{shaft} {first} ".ljust(lane_columns - 1, shaft) + ">"
    else:
        head = f"<{shaft} {first} ".ljust(lane_columns, shaft)
    return [head, *(f"{' ' * indent_columns}{text}".ljust(lane_columns) for text in rest)]


def wrapped(text: str, columns: int, less_at_first_columns: int = 0) -> list[str]:
    """The text in lines of at most `columns`, its first one shorter; only a word longer than a line is broken."""
    lines = [""]
    room_columns = columns - less_at_first_columns
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > room_columns:
            lines.append("")
            room_columns = columns
        lines[-1] += f" {word}" if lines[-1] else word
        while len(lines[-1]) > room_columns:
            lines[-1:] = [lines[-1][:room_columns], lines[-1][room_columns:]]
            room_columns = columns
    return lines
