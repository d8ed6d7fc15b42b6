"""Ladders: rows, notes, folding, wrapping, how they grow, and as SVG."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import attrs
import pytest

from shimproxy import SessionRecord
from shimproxy.records.ladder import MAIL_DATA_FRAMES_DRAWN, Drawing, Frame, Ladder, drawn
from shimproxy.records.ladder_svg import svg, svg_of
from shimproxy.records.session_ladder import ladder_of
from tests.records.test_record_files import everything


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


def test_a_run_over_two_legs() -> None:
    expected = """\
  WITH

  Sender                   Shim                  Receiver
  |                          |                          |
1 |- DATA ------------------>|- DATA ------------------>|
3 |<- 354 go on -------------|<- 354 go on -------------|
5 |- mail data, 536 octets ->|- mail data, 536 octets ->|
6 |- mail data, 536 octets ->|                          |
8 |                          |<- 552 no ----------------|
  |                          * repairs: early-reply     |
9 |<- 552 no ----------------|                          |
  |                          |                          |
"""

    assert expected.splitlines() == drawn(through(), 58)


def test_a_run_over_one_leg_with_words_that_are_wrapped() -> None:
    expected = """\
  WITHOUT

  Sender              Receiver
  |                          |
1 |- DATA ------------------>|
2 |<- 354 go on -------------|
3 |- mail data, 536 octets ->|
4 |- mail data, 536 octets ->|
5 |- mail data, 536 octets ->|
6 |. 2 more of 536 octets ..>|
8 |<- 552 Requested mail ----|
  |   action aborted:        |
  |   exceeded storage       |
  |   allocation             |
  |            reads no more *
  |                          |
"""

    assert expected.splitlines() == drawn(direct(), 30)


@pytest.mark.parametrize("ladder", [direct(), through(), ladder_of(everything())], ids=["direct", "through", "record"])
def test_what_is_drawn_while_it_grows_is_what_is_drawn_at_the_end(ladder: Ladder) -> None:
    """What is given stays, and what is pending is the rest of what would be drawn if nothing followed."""
    marks = max(len(frame.mark) for frame in ladder.frames)
    drawing = Drawing(ladder.parties, marks, 80)
    given = [*drawing.title(ladder.title), *drawing.head()]
    for count, frame in enumerate(ladder.frames, 1):
        given += drawing.feed(frame)
        so_far = attrs.evolve(ladder, frames=ladder.frames[:count])
        assert [*given, *drawing.pending()] == _drawn_with(so_far, marks)[:-1]

    assert [*given, *drawing.finish()] == drawn(ladder, 80)


def _drawn_with(ladder: Ladder, mark_columns: int) -> list[str]:
    drawing = Drawing(ladder.parties, mark_columns, 80)
    lines = [*drawing.title(ladder.title), *drawing.head()]
    for frame in ladder.frames:
        lines += drawing.feed(frame)
    return [*lines, *drawing.finish()]


def test_paint_takes_no_column_and_leaves_the_lines_of_the_parties_alone() -> None:
    drawing = Drawing(through().parties, 1, 80, lambda arrow, text: f"<{arrow.lane}>{text}</>")
    lines = [line for frame in through().frames for line in drawing.feed(frame)] + drawing.finish()
    plain = [re.sub("<[0-9/]+>", "", line) for line in lines]

    assert plain == drawn(through(), 80)[4:]
    assert lines[0].startswith("1 |<0>- DATA ")
    assert any("|<1>" not in line and "<1>*</><1> repairs: early-reply" in line for line in lines)


@pytest.mark.parametrize("columns", [1, 40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_where_lanes_are_readable(columns: int) -> None:
    lines = drawn(through(), columns)

    assert max(map(len, lines)) <= max(columns, 37)
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("columns", [1, 80, 100, 200])
def test_nothing_of_a_text_is_lost(columns: int) -> None:
    long_word = "#" * 300
    lines = drawn(direct(Frame("9", "Sender", "Receiver", f"a {long_word} b")), columns)

    assert sum(line.count("#") for line in lines) == 300
    text = "".join("".join(lines).replace("|", "").replace("-", " ").split())
    assert "552Requestedmailactionaborted:exceededstorageallocation" in text


def test_what_is_folded_is_counted_between_other_frames() -> None:
    frames = [Frame(str(n), "Sender", "Receiver", mail_octets=536) for n in range(1, 11)]
    frames.insert(5, Frame("", "Receiver", "Receiver", "reads no more"))
    lines = "\n".join(drawn(Ladder("", ("Sender", "Receiver"), frames), 40))

    assert lines.count("mail data, 536 octets") == MAIL_DATA_FRAMES_DRAWN
    assert lines.index("2 more of 536 octets") < lines.index("reads no more") < lines.index("5 more of 536 octets")


def test_a_frame_that_was_changed_on_its_way_has_its_own_row() -> None:
    frames = [Frame("1", "Sender", "Shim", "EHLO a"), Frame("2", "Shim", "Receiver", "EHLO b")]
    lines = drawn(Ladder("", ("Sender", "Shim", "Receiver"), frames), 80)

    assert not any("EHLO a" in line and "EHLO b" in line for line in lines)


def test_a_remark_stands_behind_a_frame_and_does_not_keep_it_from_sharing_a_row() -> None:
    frames = [
        Frame("0.001", "Receiver", "Shim", "250 OK", remark="answers RCPT"),
        Frame("0.001", "Shim", "Sender", "250 OK"),
        Frame("12.345", "Shim", "Shim", "repair: early-reply", remark="code=552"),
    ]
    assert drawn(Ladder("A title", ("Sender", "Shim", "Receiver"), frames), 80)[4:] == [
        " 0.001 |<- 250 OK -------------------------|<- 250 OK, answers RCPT -----------|",
        "12.345 |                                   * repair: early-reply, code=552     |",
        "       |                                   |                                   |",
    ]


def test_a_long_title_is_wrapped() -> None:
    lines = drawn(Ladder("word " * 40, ("Sender", "Receiver"), [Frame("1", "Sender", "Receiver", "HELO")]), 40)

    assert max(map(len, lines)) <= 40
    assert "\n".join(lines).count("word") == 40


# -- as SVG


def elements(text: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(text).iter())


def texts(text: str) -> list[str]:
    return [element.text or "" for element in elements(text) if element.tag.endswith("}text")]


@pytest.mark.parametrize(
    "ladder", [ladder_of(everything()), direct(), through()], ids=["everything", "direct", "through"]
)
def test_an_svg_is_well_formed_and_needs_and_runs_nothing(ladder: Ladder) -> None:
    """Whatever a peer has sent: `everything` has hostile text in each place."""
    found = svg_of(ladder)

    assert {element.tag for element in elements(found)} == {
        f"{{http://www.w3.org/2000/svg}}{name}" for name in ("svg", "title", "style", "rect", "text", "path")
    }
    names = {name for element in elements(found) for name in element.attrib}
    assert names <= {"class", "role", "viewBox", "width", "height", "x", "y", "d"} | {
        "font-size",
        "text-anchor",
        "stroke-dasharray",
    }
    assert found.count("http") == 1
    assert "url(" not in found
    assert "@import" not in found
    assert found.isascii()
    assert all(character.isprintable() or character == "\n" for character in found)


def test_hostile_text_is_text_in_an_svg() -> None:
    nasty = "<script>alert(1)</script> ]]> &amp; <!-- \"'"
    frames = [Frame(nasty, "Sender", "Receiver", nasty, remark=nasty), Frame("", "Sender", "Sender", nasty)]
    found = svg_of(Ladder(nasty, ("Sender", "Receiver"), frames))

    assert "<script" not in found
    assert "".join("".join(texts(found)).split()).count("<script>alert(1)</script>]]>&amp;<!--\"'") == 5
    assert elements(found)[1].text == nasty


def test_text_that_nobody_has_escaped_is_no_danger_to_an_svg() -> None:
    found = svg_of(
        Ladder("\0\x1b\ufffe\u2028", ("Sender", "Receiver"), [Frame("\0", "Sender", "Receiver", "\x9b\x07")])
    )

    assert texts(found)
    assert not set(found) & set("\0\x1b\x9b\x07\ufffe\u2028")


def test_an_svg_shows_all_that_the_terminal_does() -> None:
    ladder = ladder_of(everything())
    shown = "".join("".join(texts(svg_of(ladder))).split())

    for frame in ladder.frames:
        for words in (frame.mark, frame.text, frame.remark):
            assert "".join(words.split()) in shown


def test_styles_are_the_same_in_every_svg_and_hold_for_nothing_else_in_a_page() -> None:
    styles = {element.text for ladder in (direct(), through()) for element in elements(svg_of(ladder))[2:3]}
    (style,) = styles

    assert style
    assert "prefers-color-scheme: dark" in style
    selectors = re.findall(r"([^{};]+)\{", re.sub(r"@media[^{]*\{", "", style))
    assert all(each.strip().startswith(".shimproxy-ladder") for part in selectors for each in part.split(","))


def test_a_record_without_a_trace_is_drawn_as_its_parties() -> None:
    assert svg(SessionRecord("1a2b-1", "192.0.2.1:1")).count("<path") == 3


def test_hostile_text_is_text_in_a_terminal() -> None:
    lines = drawn(ladder_of(everything()), 80)

    assert all(line.isascii() and (line.isprintable() or not line) for line in lines)
    assert max(map(len, lines)) <= 80


def test_what_was_left_out_is_counted_where_it_was() -> None:
    lines = "\n".join(drawn(ladder_of(everything()), 120))

    assert "... 1,234 frames of 56,789 octets" in lines
