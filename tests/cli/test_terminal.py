"""What a person is shown: where the cursor can be moved, where there are colours, and what stays on the screen."""

from __future__ import annotations

import os
import pty
import struct
from fcntl import ioctl
from termios import TIOCSWINSZ
from typing import TYPE_CHECKING, TextIO

import pytest

from shimproxy.program.terminal import USUAL_SIZE, Screen, Style, has_colours, is_live, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

XTERM = {"TERM": "xterm"}


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    above, below = pty.openpty()
    ioctl(below, TIOCSWINSZ, struct.pack("HHHH", 24, 72, 0, 0))
    with open(below, "w") as stream:
        yield stream
    os.close(above)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[TextIO]:
    with (tmp_path / "output").open("w") as stream:
        yield stream


@pytest.mark.parametrize(
    ("environment", "live", "coloured"),
    [
        (XTERM, True, True),
        ({}, False, False),
        ({"TERM": "dumb"}, False, False),
        (XTERM | {"NO_COLOR": "1"}, True, False),
        (XTERM | {"NO_COLOR": "0"}, True, False),
        (XTERM | {"NO_COLOR": ""}, True, True),
        (XTERM | {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, False, True),
    ],
)
def test_a_terminal(terminal: TextIO, environment: dict[str, str], live: bool, coloured: bool) -> None:
    assert (is_live(terminal, environment), has_colours(terminal, environment)) == (live, coloured)


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        (XTERM, False),
        (XTERM | {"FORCE_COLOR": "1"}, True),
        (XTERM | {"CLICOLOR_FORCE": "1"}, True),
        (XTERM | {"CLICOLOR_FORCE": "0"}, False),
        (XTERM | {"FORCE_COLOR": ""}, False),
        ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_a_file(file: TextIO, environment: dict[str, str], coloured: bool) -> None:
    assert (is_live(file, environment), has_colours(file, environment)) == (False, coloured)


def test_what_is_closed_or_not_there_is_no_terminal(file: TextIO) -> None:
    file.close()

    for stream in (file, None):
        assert not is_live(stream, XTERM)
        assert size_of(stream, {}) == USUAL_SIZE


@pytest.mark.parametrize(
    ("environment", "size"),
    [
        ({}, (72, 24)),
        ({"COLUMNS": "60", "LINES": "9"}, (60, 9)),
        ({"COLUMNS": "", "LINES": "0"}, (72, 24)),
        ({"COLUMNS": "-5", "LINES": "many"}, (72, 24)),
        ({"COLUMNS": "9" * 5000}, (72, 24)),
    ],
)
def test_its_size_is_its_own_unless_told_otherwise(
    terminal: TextIO, environment: dict[str, str], size: tuple[int, int]
) -> None:
    assert size_of(terminal, environment) == size


def test_what_is_told_stays_and_what_is_shown_is_replaced() -> None:
    writes: list[str] = []
    screen = Screen(writes.append, live=True)

    screen.tell("one")
    screen.show("two", "three")
    screen.show("four")
    screen.tell("five")
    screen.show()
    screen.tell("six", "seven")

    up = "\x1b[{}A\r\x1b[J".format
    assert writes == ["one\n", "two\nthree\n", f"{up(2)}four\n", f"{up(1)}five\n", "six\nseven\n"]


def test_nothing_is_shown_where_the_cursor_cannot_be_moved() -> None:
    writes: list[str] = []
    screen = Screen(writes.append)

    screen.tell("one")
    screen.show("two", "three")
    screen.tell("four")

    assert writes == ["one\n", "four\n"]


@pytest.mark.parametrize(
    ("colours", "styles", "painted"),
    [
        (True, (Style.BAD,), "\x1b[31mno\x1b[0m"),
        (True, (Style.BOLD, Style.REPAIR), "\x1b[1;35mno\x1b[0m"),
        (True, (), "no"),
        (False, (Style.BAD,), "no"),
    ],
)
def test_paint(colours: bool, styles: tuple[Style, ...], painted: str) -> None:
    assert Screen(print, colours=colours).paint("no", *styles) == painted
