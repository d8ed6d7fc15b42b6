"""Ladders: who said what to whom, drawn frame by frame for a terminal, several runs side by side.

A party is a vertical line, a frame an arrow between two neighbours, a note a `*` on a party's line. Rules:

1. Frames keep their order; what stands at the left is the mark of the first frame on its row.
2. A frame that is passed on unchanged shares a row with the frame that it came from.
3. The first frames of mail data in each direction are drawn, what follows between two other frames is counted.
4. Plain ASCII; lanes of one width, as wide as the columns allow; what is longer is wrapped, never cut.

Pure: it draws what it is given, and knows no sockets and no terminal. The rows are ladder_svg.py's, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAIL_DATA_FRAMES_DRAWN: Final = 3
_LEAST_LANE_COLUMNS, _MOST_LANE_COLUMNS = 16, 40
_LEAST_LANE_COLUMNS_BESIDE: Final = 25
"""Narrower than this, ladders stand one below the other."""
_GAP_COLUMNS: Final = 1


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


def drawn(ladders: Sequence[Ladder], columns: int) -> list[str]:
    """The lines of the ladders, side by side where `columns` are enough, else one below the other."""
    mark_columns = max((len(frame.mark) for ladder in ladders for frame in ladder.frames), default=1)
    lanes = sum(len(ladder.parties) - 1 for ladder in ladders)
    # A ladder is its mark, a blank, and lanes between one more line than there are lanes.
    taken_columns = len(ladders) * (mark_columns + 2) + lanes + _GAP_COLUMNS * (len(ladders) - 1)
    lane_columns = (columns - taken_columns) // lanes
    if len(ladders) > 1 and lane_columns >= _LEAST_LANE_COLUMNS_BESIDE:
        return _beside([_ladder(each, mark_columns, min(lane_columns, _MOST_LANE_COLUMNS)) for each in ladders])
    most_lanes = max(len(ladder.parties) - 1 for ladder in ladders)
    lane_columns = (columns - mark_columns - 2 - most_lanes) // most_lanes
    lane_columns = max(_LEAST_LANE_COLUMNS, min(lane_columns, _MOST_LANE_COLUMNS))
    lines: list[str] = []
    for ladder in ladders:
        lines += [*([""] if lines else []), *(line.rstrip() for line in _ladder(ladder, mark_columns, lane_columns))]
    return lines


def _beside(blocks: Sequence[list[str]]) -> list[str]:
    height = max(len(block) for block in blocks)
    widths = [max(len(line) for line in block) for block in blocks]
    gap = " " * _GAP_COLUMNS
    return [
        gap.join(
            (block[row] if row < len(block) else "").ljust(width) for block, width in zip(blocks, widths, strict=True)
        ).rstrip()
        for row in range(height)
    ]


def _ladder(ladder: Ladder, mark_columns: int, lane_columns: int) -> list[str]:
    """One ladder: title, names over their lines, rows."""
    margin = " " * (mark_columns + 1)
    width = (len(ladder.parties) - 1) * (lane_columns + 1) + 1
    lines_drawn = [margin + line for line in wrapped(ladder.title, width)]
    lines_drawn += ["", margin + _names(ladder.parties, lane_columns)]
    bare = "|".join([""] + [" " * lane_columns] * (len(ladder.parties) - 1) + [""])
    lines_drawn.append(margin + bare)
    for row in rows(ladder):
        lines_drawn += _row(row, mark_columns, lane_columns, len(ladder.parties))
    lines_drawn.append(margin + bare)
    return lines_drawn


def _names(parties: Sequence[str], lane_columns: int) -> str:
    """The names over their lines: the first begins at its line, the last ends at it, others are centred."""
    width = (len(parties) - 1) * (lane_columns + 1) + 1
    line = [" "] * width
    for place, party in enumerate(parties):
        start = place * (lane_columns + 1) - len(party) // 2
        start = max(0, min(start, width - len(party)))
        line[start : start + len(party)] = party
    return "".join(line)


# -- from frames to rows


def rows(ladder: Ladder) -> list[Row]:
    """The rows of a ladder, from top to bottom."""
    rows: list[Row] = []
    stretch: list[Row] = []
    """The rows of the mail data that is being passed on: it shares rows though other mail data came between."""
    for arrow in _arrows(ladder):
        candidates = stretch if arrow.mail_octets else rows[-1:]
        if not arrow.mail_octets:
            stretch = []
        row = (
            None
            if arrow.folded or arrow.at is not None
            else next((row for row in candidates if row.takes(arrow)), None)
        )
        if row is not None:
            row.arrows[arrow.lane] = arrow
            continue
        row = Row({arrow.lane: arrow})
        rows.append(row)
        if arrow.mail_octets:
            stretch.append(row)
    return rows


def _arrows(ladder: Ladder) -> Iterator[Arrow]:
    """Frames and notes in order, mail data folded."""
    place = {party: index for index, party in enumerate(ladder.parties)}
    seen: dict[tuple[str, str], int] = {}
    folds: dict[tuple[str, str, int], Arrow] = {}
    last = len(ladder.parties) - 1
    for frame in ladder.frames:
        here, there = place[frame.who], place[frame.whom]
        if not frame.mail_octets:
            yield from folds.values()
            folds = {}
        if here == there:
            lane = here - 1 if here == last else here
            yield Arrow(frame.mark, lane, False, frame.text, frame.remark, at=here)
            continue
        arrow = Arrow(frame.mark, min(here, there), here < there, frame.text, frame.remark, frame.mail_octets)
        if not frame.mail_octets:
            yield arrow
            continue
        direction = (frame.who, frame.whom)
        seen[direction] = seen.get(direction, 0) + 1
        if seen[direction] <= MAIL_DATA_FRAMES_DRAWN:
            yield arrow
            continue
        fold = folds.setdefault((*direction, frame.mail_octets), arrow)
        fold.folded += 1
        fold.text = f"{fold.folded} more of {frame.mail_octets} octets"
    yield from folds.values()


# -- from rows to lines


def _row(row: Row, mark_columns: int, lane_columns: int, parties: int) -> list[str]:
    blank = " " * lane_columns
    cells = {lane: _cell(arrow, lane_columns) for lane, arrow in row.arrows.items()}
    starred = {arrow.at for arrow in row.arrows.values()}
    lines_drawn = []
    for height in range(max(len(cell) for cell in cells.values())):
        line = f"{row.mark if height == 0 else '':>{mark_columns}} "
        for party in range(parties):
            line += "*" if height == 0 and party in starred else "|"
            if party < parties - 1:
                cell = cells.get(party, [])
                line += cell[height] if height < len(cell) else blank
        lines_drawn.append(line)
    return lines_drawn


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
