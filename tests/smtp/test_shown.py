"""Octets from the wire as text of one line."""

from __future__ import annotations

import pytest

from shimproxy.smtp.shown import on_one_line, shortened


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"250-a\r\n250 b\r\n", "250-a / 250 b"),
        (b"552 too big\r\n421 b", "552 too big / 421 b"),
        (b"a\0\xff\x1b[31m\r\n", "a\\x00\\xff\\x1b[31m"),
        (b"", ""),
    ],
)
def test_lines_stand_beside_each_other_and_drive_no_terminal(octets: bytes, text: str) -> None:
    assert on_one_line(octets) == text


def test_of_many_octets_the_beginning_is_shown_and_how_many_they_are() -> None:
    assert shortened(b"x" * 10, 10) == "x" * 10
    assert shortened(b"x" * 11, 10) == "x" * 10 + "... (11 octets)"
