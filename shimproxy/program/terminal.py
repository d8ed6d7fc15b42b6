"""What is shown to a person while it happens: lines that stay, lines that are drawn anew below them, and colours.

1. Where the cursor can't be moved (a file, a pipe, TERM=dumb) only the lines that stay are written.
2. Colours: NO_COLOR forbids them, else FORCE_COLOR or CLICOLOR_FORCE demands them, else a terminal that is not dumb
   has them. A variable that is empty counts as not set, a demand of 0 as none.
3. A line that is drawn anew must fit into the terminal's width: whoever shows it sees to that.

It draws on what it is given, and knows nothing of what the lines say.
"""

from __future__ import annotations

import os
import re
from enum import Enum
from typing import TYPE_CHECKING, Final, TextIO

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

USUAL_SIZE: Final = os.terminal_size((100, 24))
"""Taken where there is no terminal to ask."""
_UP_AND_CLEAR: Final = "\x1b[{}A\r\x1b[J"
_UNTIL_HERE: Final = "\x1b[0m"


class Style(Enum):
    """How a text is set off; the value is the number of ECMA-48's Select Graphic Rendition."""

    BOLD = "1"
    FAINT = "2"
    BAD = "31"
    GOOD = "32"
    REPAIR = "35"


def is_live(stream: TextIO | None, environment: Mapping[str, str]) -> bool:
    """Whether the cursor can be moved on what the stream writes to."""
    if stream is None or environment.get("TERM", "") in ("", "dumb"):
        return False
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def has_colours(stream: TextIO | None, environment: Mapping[str, str]) -> bool:
    """Whether texts are to be coloured there."""
    if environment.get("NO_COLOR"):
        return False
    if any(environment.get(name, "") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return is_live(stream, environment)


def size_of(stream: TextIO | None, environment: Mapping[str, str]) -> os.terminal_size:
    """Columns and lines of the terminal that the stream writes to; COLUMNS and LINES overrule it."""
    size = USUAL_SIZE
    if stream is not None:
        try:
            found = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError):
            pass
        else:
            size = os.terminal_size((found.columns or size.columns, found.lines or size.lines))

    def chosen(name: str, otherwise: int) -> int:
        text = environment.get(name, "")
        return int(text) if re.fullmatch("[1-9][0-9]{0,3}", text) else otherwise

    return os.terminal_size((chosen("COLUMNS", size.columns), chosen("LINES", size.lines)))


@attrs.define(eq=False)
class Screen:
    """Where lines are told, and some shown that may still change."""

    write: Callable[[str], None]
    """Takes a text with its line ends, and sees to it that it is seen at once."""
    columns: int = USUAL_SIZE.columns
    live: bool = False
    """Whether the cursor can be moved."""
    colours: bool = False
    _shown: int = 0
    """So many lines, just above the cursor, are drawn anew."""

    @classmethod
    def on(cls, stream: TextIO | None, write: Callable[[str], None], environment: Mapping[str, str]) -> Screen:
        """The screen that `stream` is, written to by `write`."""
        columns = size_of(stream, environment).columns
        return cls(write, columns, is_live(stream, environment), has_colours(stream, environment))

    def tell(self, *lines: str) -> None:
        """Write lines that stay, in place of those that are shown."""
        self._replace(lines)
        self._shown = 0

    def show(self, *lines: str) -> None:
        """Show these in place of those that are shown, until the next call; nothing where the cursor can't be moved."""
        if self.live:
            self._replace(lines)
            self._shown = len(lines)

    def paint(self, text: str, *styles: Style) -> str:
        """The text, set off by these if there are colours."""
        if not self.colours or not styles:
            return text
        return f"\x1b[{';'.join(style.value for style in styles)}m{text}{_UNTIL_HERE}"

    def _replace(self, lines: Sequence[str]) -> None:
        up = _UP_AND_CLEAR.format(self._shown) if self._shown else ""
        if up or lines:
            self.write(up + "".join(f"{line}\n" for line in lines))
