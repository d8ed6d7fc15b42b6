"""Ladders: rows, notes, folding, wrapping, and where a narrow terminal puts them."""

from __future__ import annotations

import pytest

from shimproxy.ops.ladder import MAIL_DATA_FRAMES_DRAWN, Frame, Ladder, drawn


def direct(*more: Frame) -> Ladder:
    return Ladder(
        "WITHOUT",
        ("Sender", "Receiver"),
        [
            Frame("1", "Sender", "Receiver", "DATA"),
            Frame("2", "Receiver", "Sender", "354 go on"),
            *(Frame(str(3 + n), "Sender", "Receiver", mail_octets=536) for n in range(5)),
            Frame("8", "Receiver", "Sender", "552 Requested mail action aborted: exceeded storage allocation"),
            Frame("", "Receiver", "Receiver", "reads no more"),
            *more,
        ],
    )


def through() -> Ladder:
    return Ladder(
        "WITH",
        ("Sender", "Shim", "Receiver"),
        [
            Frame("1", "Sender", "Shim", "DATA"),
            Frame("2", "Shim", "Receiver", "DATA"),
            Frame("3", "Receiver", "Shim", "354 go on"),
            Frame("4", "Shim", "Sender", "354 go on"),
            Frame("5", "Sender", "Shim", mail_octets=536),
            Frame("6", "Sender", "Shim", mail_octets=536),
            Frame("7", "Shim", "Receiver", mail_octets=536),
            Frame("8", "Receiver", "Shim", "552 no"),
            Frame("", "Shim", "Shim", "repairs: early-reply"),
            Frame("9", "Shim", "Sender", "552 no"),
        ],
    )


def test_two_runs_side_by_side() -> None:
    expected = """\
  WITHOUT                        WITH

  Sender              Receiver   Sender                   Shim                  Receiver
  |                          |   |                          |                          |
1 |- DATA ------------------>| 1 |- DATA ------------------>|- DATA ------------------>|
2 |<- 354 go on -------------| 3 |<- 354 go on -------------|<- 354 go on -------------|
3 |- mail data, 536 octets ->| 5 |- mail data, 536 octets ->|- mail data, 536 octets ->|
4 |- mail data, 536 octets ->| 6 |- mail data, 536 octets ->|                          |
5 |- mail data, 536 octets ->| 8 |                          |<- 552 no ----------------|
6 |. 2 more of 536 octets ..>|   |                          * repairs: early-reply     |
8 |<- 552 Requested mail ----| 9 |<- 552 no ----------------|                          |
  |   action aborted:        |   |                          |                          |
  |   exceeded storage       |
  |   allocation             |
  |            reads no more *
  |                          |
"""

    assert expected.splitlines() == drawn([direct(), through()], 88)


def test_a_narrow_terminal_has_them_one_below_the_other() -> None:
    lines = drawn([direct(), through()], 80)

    assert lines.index("  WITHOUT") < lines.index("") < lines.index("  WITH")
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("columns", [1, 40, 60, 87, 88, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_where_lanes_are_readable(columns: int) -> None:
    lines = drawn([direct(), through()], columns)

    assert max(map(len, lines)) <= max(columns, 37)
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("columns", [1, 80, 100, 200])
def test_nothing_of_a_text_is_lost(columns: int) -> None:
    long_word = "#" * 300
    lines = drawn([direct(Frame("9", "Sender", "Receiver", f"a {long_word} b"))], columns)

    assert sum(line.count("#") for line in lines) == 300
    text = "".join("".join(lines).replace("|", "").replace("-", " ").split())
    assert "552Requestedmailactionaborted:exceededstorageallocation" in text


def test_what_is_folded_is_counted_between_other_frames() -> None:
    frames = [Frame(str(n), "Sender", "Receiver", mail_octets=536) for n in range(1, 11)]
    frames.insert(5, Frame("", "Receiver", "Receiver", "reads no more"))
    lines = "\n".join(drawn([Ladder("", ("Sender", "Receiver"), frames)], 40))

    assert lines.count("mail data, 536 octets") == MAIL_DATA_FRAMES_DRAWN
    assert lines.index("2 more of 536 octets") < lines.index("reads no more") < lines.index("5 more of 536 octets")


def test_a_frame_that_was_changed_on_its_way_has_its_own_row() -> None:
    frames = [Frame("1", "Sender", "Shim", "EHLO a"), Frame("2", "Shim", "Receiver", "EHLO b")]
    lines = drawn([Ladder("", ("Sender", "Shim", "Receiver"), frames)], 80)

    assert not any("EHLO a" in line and "EHLO b" in line for line in lines)
