"""Replies as the receiver sends them, and as they are relayed (RFC 5321 4.2).

What must hold: no violation, not an octet changed; a violation, and the sender still sees CRLF lines of at most 512
octets under one code, which is the receiver's; and the pieces in which the octets came decide nothing.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import TYPE_CHECKING

import attrs
import pytest

from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.reply import (
    CHALLENGE_LIMIT_OCTETS,
    LINE_LIMIT_OCTETS,
    REPLY_LIMIT_OCTETS,
    LocalReply,
    Reply,
    ReplyReader,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

NEXT = b"221 2.0.0 next\r\n"
BARE, MISSING, LONG, MIXED, CUT, NO_REPLY = (
    Violation.REPLY_BARE_NEWLINE,
    Violation.MISSING_TEXT,
    Violation.REPLY_LONG_LINE,
    Violation.MIXED_CODES,
    Violation.CUT_OFF,
    Violation.NOT_A_REPLY,
)


def read(blocks: Iterable[bytes], limit_octets: int = REPLY_LIMIT_OCTETS) -> list[Reply]:
    """Every whole reply in the blocks, each asked for as soon as it may be there."""
    reader = ReplyReader(limit_octets)
    replies = []
    for block in blocks:
        reader.feed(block)
        while reply := reader.next_reply():
            replies.append(reply)
    return replies


def read_to_the_end(blocks: Iterable[bytes], limit_octets: int = REPLY_LIMIT_OCTETS) -> list[Reply]:
    """The same for a receiver that ends its connection behind the last block."""
    reader = ReplyReader(limit_octets)
    replies = []
    for block in blocks:
        reader.feed(block)
        while reply := reader.next_reply():
            replies.append(reply)
    if reply := reader.cut_off():
        replies.append(reply)
    assert reader.empty
    return replies


def segmentations(stream: bytes) -> Iterator[list[bytes]]:
    """Whole, octet by octet, and every cut in two."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    for at in range(1, len(stream)):
        yield [stream[:at], stream[at:]]


def some_segmentations(stream: bytes) -> Iterator[list[bytes]]:
    """For long streams: whole, octet by octet, in blocks of several sizes."""
    for size in (len(stream), 1, 3, 100, 512, 513, 1000, 1448):
        yield [stream[at : at + size] for at in range(0, len(stream), size)]


def shape_of(code: int) -> re.Pattern[bytes]:
    """CRLF lines under one code, hyphens up to the last one, which has a blank; no CR, LF or NUL within a line."""
    return re.compile(rb"(?:%d-[^\r\n\0]*\r\n)*%d [^\r\n\0]*\r\n" % (code, code))


def canonical(reply: Reply) -> bool:
    lines = reply.octets.splitlines(keepends=True)
    return bool(shape_of(reply.code).fullmatch(reply.octets)) and max(map(len, lines)) <= LINE_LIMIT_OCTETS


def texts_of(octets: bytes) -> bytes:
    """The texts of a canonical reply's lines, joined."""
    return b"".join(line[4:] for line in octets.removesuffix(b"\r\n").split(b"\r\n"))


# -- well-formed replies

WELL_FORMED = {
    "one line": (250, b"250 2.1.0 Ok\r\n"),
    "greeting": (220, b"220 mail.example ESMTP\r\n"),
    "354": (354, b"354 End data with <CR><LF>.<CR><LF>\r\n"),
    "334 challenge": (334, b"334 VXNlcm5hbWU6\r\n"),
    "334 empty challenge": (334, b"334 \r\n"),
    "lowest code": (200, b"200 x\r\n"),
    "highest code": (599, b"599 x\r\n"),
    "code in the text": (550, b"550 250 ok it is not\r\n"),
    "two lines": (250, b"250-mail.example\r\n250 SIZE 1000\r\n"),
    "many lines": (250, b"250-mail.example\r\n" + b"250-KEYWORD\r\n" * 40 + b"250 SIZE\r\n"),
    "empty lines before the last": (250, b"250-\r\n250-\r\n250 ok\r\n"),
    "334 challenge of 600 octets": (334, b"334 " + b"QUJD" * 150 + b"\r\n"),
    "334 challenge at the limit": (334, b"334 " + b"x" * (CHALLENGE_LIMIT_OCTETS - 6) + b"\r\n"),
    "hyphens in the text": (250, b"250---\r\n250 -\r\n"),
    "8-bit text": (550, "550 5.1.1 unbekannter Empfänger\r\n".encode()),
    "tab in the text": (550, b"550 no\tsuch\tuser\r\n"),
    "ESC in the text": (550, b"550 \x1b[31mno\r\n"),
    "line at the limit": (552, b"552 " + b"x" * (LINE_LIMIT_OCTETS - 6) + b"\r\n"),
    "lines at the limit": (552, b"552-" + b"x" * 506 + b"\r\n552 " + b"y" * 506 + b"\r\n"),
}


@pytest.mark.parametrize(("code", "octets"), [*WELL_FORMED.values()], ids=[*WELL_FORMED])
def test_a_well_formed_reply_comes_out_octet_for_octet(code: int, octets: bytes) -> None:
    """No violation, no trace (guarantee 9), alone or with the next reply behind it, at every segmentation."""
    reply, following = Reply(code, octets), Reply(221, NEXT)
    cut = segmentations if len(octets) < 2 * LINE_LIMIT_OCTETS else some_segmentations
    for blocks in cut(octets):
        assert [reply] == read(blocks)
    for blocks in cut(octets + NEXT):
        assert [reply, following] == read(blocks)


# -- malformed replies: what came -> (code, what is relayed, violations)

NO_TEXT = b"(the receiver gave no text)"

MALFORMED: dict[str, tuple[bytes, int, bytes, set[Violation]]] = {
    # reply-bare-newline
    "bare LF": (b"250 ok\n", 250, b"250 ok\r\n", {BARE}),
    "bare LF within": (b"250-a\n250 b\r\n", 250, b"250-a\r\n250 b\r\n", {BARE}),
    "bare LF at the end": (b"250-a\r\n250 b\n", 250, b"250-a\r\n250 b\r\n", {BARE}),
    "bare LF everywhere": (b"550-a\n550-b\n550 c\n", 550, b"550-a\r\n550-b\r\n550 c\r\n", {BARE}),
    "CR in the text": (b"550 a\rb\r\n", 550, b"550 a b\r\n", {BARE}),
    "CR instead of the blank": (b"550\rno\r\n", 550, b"550 no\r\n", {BARE}),
    "CR CRLF": (b"550 no\r\r\n", 550, b"550 no\r\n", {BARE}),
    "NUL in the text": (b"550 a\0b\r\n", 550, b"550 a b\r\n", {BARE}),
    "NUL in a line of several": (b"550-a\0\r\n550 b\r\n", 550, b"550-a \r\n550 b\r\n", {BARE}),
    "a code behind a bare CR is text": (b"550 no\r250 ok\r\n", 550, b"550 no 250 ok\r\n", {BARE}),
    # missing-text
    "code alone": (b"250\r\n", 250, b"250 " + NO_TEXT + b"\r\n", {MISSING}),
    "code alone, bare LF": (b"354\n", 354, b"354 " + NO_TEXT + b"\r\n", {MISSING, BARE}),
    "code and blank": (b"250 \r\n", 250, b"250 " + NO_TEXT + b"\r\n", {MISSING}),
    "code and tab": (b"250\t\r\n", 250, b"250 " + NO_TEXT + b"\r\n", {MISSING, NO_REPLY}),
    "code, blank and CR": (b"250 \r\r\n", 250, b"250 " + NO_TEXT + b"\r\n", {MISSING, BARE}),
    "code alone after lines": (b"550-no\r\n550\r\n", 550, b"550 no\r\n", {MISSING}),
    "code and blank after lines": (b"550-a\r\n550-b\r\n550 \r\n", 550, b"550-a\r\n550 b\r\n", {MISSING}),
    "empty lines at the end": (b"220-a\r\n220-\r\n220-\r\n220 \r\n", 220, b"220 a\r\n", {MISSING}),
    "empty lines only": (b"250-\r\n250-\r\n250 \r\n", 250, b"250 " + NO_TEXT + b"\r\n", {MISSING}),
    "another code alone": (b"550-a\r\n554\r\n", 554, b"554 a\r\n", {MISSING, MIXED}),
    "334 alone, an empty challenge": (b"334\r\n", 334, b"334 \r\n", {MISSING}),
    "334 alone, bare LF": (b"334\n", 334, b"334 \r\n", {MISSING, BARE}),
    "334 and tab": (b"334\t\r\n", 334, b"334 \r\n", {MISSING, NO_REPLY}),
    "334 and blank, bare LF": (b"334 \n", 334, b"334 \r\n", {BARE}),
    # not-a-reply: a code that another octet than a blank follows
    "tab": (b"550\tno such user\r\n", 550, b"550 no such user\r\n", {NO_REPLY}),
    "letter": (b"250OK\r\n", 250, b"250 OK\r\n", {NO_REPLY}),
    "letter, a refusal": (b"550No such user\r\n", 550, b"550 No such user\r\n", {NO_REPLY}),
    "letter, 354": (b"354go\r\n", 354, b"354 go\r\n", {NO_REPLY}),
    "letter, a challenge": (b"334VXNlcm5hbWU6\r\n", 334, b"334 VXNlcm5hbWU6\r\n", {NO_REPLY}),
    "letter and hyphen": (b"250ok-fine\r\n", 250, b"250 ok-fine\r\n", {NO_REPLY}),
    "letter and bare LF": (b"250OK\n", 250, b"250 OK\r\n", {NO_REPLY, BARE}),
    "colon": (b"250: ok\r\n", 250, b"250 : ok\r\n", {NO_REPLY}),
    "comma": (b"250,ok\r\n", 250, b"250 ,ok\r\n", {NO_REPLY}),
    "point": (b"250.\r\n", 250, b"250 .\r\n", {NO_REPLY}),
    "underscore": (b"250_ok\r\n", 250, b"250 _ok\r\n", {NO_REPLY}),
    "plus": (b"250+ok\r\n", 250, b"250 +ok\r\n", {NO_REPLY}),
    "NUL": (b"250\0ok\r\n", 250, b"250 ok\r\n", {BARE}),
    "vertical tab": (b"250\x0bok\r\n", 250, b"250 \x0bok\r\n", {NO_REPLY}),
    "8-bit octet": (b"250\xa0ok\r\n", 250, b"250 \xa0ok\r\n", {NO_REPLY}),
    "other digits": ("250\uff12 ok\r\n".encode(), 250, "250 \uff12 ok\r\n".encode(), {NO_REPLY}),
    "the last keyword": (b"250-a\r\n250SIZE 1000\r\n", 250, b"250-a\r\n250 SIZE 1000\r\n", {NO_REPLY}),
    "the last keyword after a tab": (b"250-a\r\n250\tSIZE 1\r\n", 250, b"250-a\r\n250 SIZE 1\r\n", {NO_REPLY}),
    "the second of the codes so far": (
        b"550-a\r\n554-b\r\n550c\r\n",
        550,
        b"550-a\r\n550-b\r\n550 c\r\n",
        {MIXED, NO_REPLY},
    ),
    "another code and a tab": (b"250-a\r\n251\tb\r\n", 251, b"251-a\r\n251 b\r\n", {MIXED, NO_REPLY}),
    # and text that begins with a number
    "a size within": (
        b"552-too big\r\n500MB at most\r\n552 sorry\r\n",
        552,
        b"552-too big\r\n552-500MB at most\r\n552 sorry\r\n",
        {NO_REPLY},
    ),
    "a success within": (
        b"550-a\r\n250OK it is not\r\n550 b\r\n",
        550,
        b"550-a\r\n550-250OK it is not\r\n550 b\r\n",
        {NO_REPLY},
    ),
    "thousands within": (
        b"250-a\r\n250,000 octets\r\n250.000 octets\r\n250 b\r\n",
        250,
        b"250-a\r\n250-250,000 octets\r\n250-250.000 octets\r\n250 b\r\n",
        {NO_REPLY},
    ),
    "noise, then the last keyword": (
        b"250-a\r\nnoise\r\n25000 octets\r\n250SIZE\r\n",
        250,
        b"250-a\r\n250-noise\r\n250-25000 octets\r\n250 SIZE\r\n",
        {NO_REPLY},
    ),
    # mixed-codes
    "the last code, same class": (b"550-a\r\n554 b\r\n", 554, b"554-a\r\n554 b\r\n", {MIXED}),
    "the last success, same class": (b"250-a\r\n251 b\r\n", 251, b"251-a\r\n251 b\r\n", {MIXED}),
    "a refusal behind a success": (b"250-a\r\n550 b\r\n", 550, b"550-a\r\n550 b\r\n", {MIXED}),
    "a 4yz behind a 5yz": (b"550-a\r\n451 b\r\n", 451, b"451-a\r\n451 b\r\n", {MIXED}),
    "a refusal behind a 354": (b"354-a\r\n452 b\r\n", 452, b"452-a\r\n452 b\r\n", {MIXED}),
    # not-a-reply within a reply
    "noise within": (b"550-a\r\nnoise\r\n550 b\r\n", 550, b"550-a\r\n550-noise\r\n550 b\r\n", {NO_REPLY}),
    "empty line within": (b"550-a\r\n\r\n550 b\r\n", 550, b"550-a\r\n550-\r\n550 b\r\n", {NO_REPLY}),
    "a longer number within": (
        b"250-a\r\n25000 octets free\r\n250 b\r\n",
        250,
        b"250-a\r\n250-25000 octets free\r\n250 b\r\n",
        {NO_REPLY},
    ),
    "1yz within": (b"550-a\r\n150 b\r\n550 c\r\n", 550, b"550-a\r\n550-150 b\r\n550 c\r\n", {NO_REPLY}),
    # several at once
    "noise, bare LF and no text": (
        b"550-a\nnoise\n550\n",
        550,
        b"550-a\r\n550 noise\r\n",
        {NO_REPLY, BARE, MISSING},
    ),
    "mixed and bare LF": (b"550-a\n554 b\r\n", 554, b"554-a\r\n554 b\r\n", {MIXED, BARE}),
}


@pytest.mark.parametrize(("came", "code", "relayed", "violations"), [*MALFORMED.values()], ids=[*MALFORMED])
def test_a_malformed_reply_is_made_canonical(
    came: bytes, code: int, relayed: bytes, violations: set[Violation]
) -> None:
    """The receiver's code, every word of its text, and each violation under its name, at every segmentation."""
    for blocks in segmentations(came + NEXT):
        first, following = read(blocks)

        assert (code, relayed, violations) == (first.code, first.octets, set(first.violations))
        assert Reply(221, NEXT) == following
    for blocks in segmentations(came):
        assert [relayed] == [reply.octets for reply in read(blocks)]
    assert canonical(first)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_repaired_reply_needs_no_second_repair(name: str) -> None:
    """What comes out is well-formed to a second shim."""
    _, code, relayed, _ = MALFORMED[name]

    assert [Reply(code, relayed)] == read([relayed])


# -- what has no usable code

NO_CODE = {
    "25000 octets free": b"25000 octets free\r\n",
    "words": b"hello there\r\n",
    "empty line": b"\r\n",
    "LF": b"\n",
    "1yz": b"150 opening\r\n",
    "100": b"100 continue\r\n",
    "199": b"199 x\r\n",
    "600": b"600 x\r\n",
    "650": b"650 event\r\n",
    "999": b"999 x\r\n",
    "000": b"000 x\r\n",
    "two digits": b"25 ok\r\n",
    "digit and letters": b"2xx ok\r\n",
    "blank first": b" 250 ok\r\n",
    "signed": b"+25 ok\r\n",
    "underscore": b"2_5 ok\r\n",
    "other digits": "\uff12\uff15\uff10 ok\r\n".encode(),
    "thousands": b"250,000 octets free\r\n",
    "a fraction": b"250.5 MB free\r\n",
    "1yz and a letter": b"150ok\r\n",
    "600 and a letter": b"600ok\r\n",
    "a 1yz of several lines, first": b"150-a\r\n",
}


@pytest.mark.parametrize("line", [*NO_CODE.values()], ids=[*NO_CODE])
def test_a_line_without_a_code_is_no_reply(line: bytes) -> None:
    """It comes out at once, without a code and under its name, and the reply behind it is unharmed."""
    for blocks in segmentations(line + NEXT):
        noise, following = read(blocks)

        assert (noise.code, noise.violations) == (0, (NO_REPLY,))
        assert (noise.severity, noise.kind, noise.refuses) == (0, 0, False)
        assert Reply(221, NEXT) == following


CONTRADICTIONS = {
    "550 250": b"550-a\r\n250 b\r\n",
    "450 250": b"450-a\r\n250 b\r\n",
    "550 354": b"550-a\r\n354 b\r\n",
    "250 354": b"250-a\r\n354 b\r\n",
    "354 250": b"354-a\r\n250 b\r\n",
    "250 550 250": b"250-a\r\n550-b\r\n250 c\r\n",
    "220 421 220": b"220-a\r\n421-b\r\n220 c\r\n",
}


@pytest.mark.parametrize("came", [*CONTRADICTIONS.values()], ids=[*CONTRADICTIONS])
def test_a_success_among_other_classes_is_no_usable_code(came: bytes) -> None:
    """No acceptance is made of lines that do not all say so (guarantee 3)."""
    for blocks in segmentations(came + NEXT):
        first, following = read(blocks)

        assert first.code == 0
        assert MIXED in first.violations
        assert Reply(221, NEXT) == following


CODES = (220, 250, 251, 334, 354, 421, 450, 550, 554)


@pytest.mark.parametrize("codes", [*itertools.product(CODES, repeat=3)], ids=str)
def test_the_code_of_three_lines(codes: tuple[int, int, int]) -> None:
    """The last line's code, except where it is a success or a 3yz and any line is of another class."""
    came = b"%d-a\r\n%d-b\r\n%d c\r\n" % codes
    classes = {code // 100 for code in codes}
    expected = 0 if codes[2] < 400 and len(classes) > 1 else codes[2]

    (reply,) = read([came])

    assert expected == reply.code
    assert (MIXED in reply.violations) == (len(set(codes)) > 1)
    if expected:
        assert b"%d-a\r\n%d-b\r\n%d c\r\n" % (expected, expected, expected) == reply.octets


# -- lines and replies over a limit


@pytest.mark.parametrize("text_octets", [507, 508, 511, 512, 1012, 1013, 1014, 5000, 60_000])
@pytest.mark.parametrize("before", [b"", b"552-first\r\n"], ids=["one line", "two lines"])
def test_a_long_line_is_folded(text_octets: int, before: bytes) -> None:
    """Lines of at most 512 octets under the code; their texts, joined, are the text that came."""
    text = b"".join(b"%07d " % number for number in range(text_octets // 8 + 1))[:text_octets]
    came = before + b"552 " + text + b"\r\n"
    for blocks in some_segmentations(came):
        (reply,) = read(blocks)

        assert (reply.code, reply.violations) == (552, (LONG,))
        assert canonical(reply)
        assert texts_of(before) + text == texts_of(reply.octets)


@pytest.mark.parametrize("over_octets", [1, 500, 20_000])
def test_a_challenge_over_its_limit_is_said_aloud(over_octets: int) -> None:
    """RFC 4954 section 4: as long as a line of AUTH may be, and no longer."""
    text = b"x" * (CHALLENGE_LIMIT_OCTETS - 6 + over_octets)
    for blocks in some_segmentations(b"334 " + text + b"\r\n"):
        (reply,) = read(blocks)

        assert (reply.code, reply.violations) == (334, (LONG,))
        assert shape_of(334).fullmatch(reply.octets)
        assert text == texts_of(reply.octets)


def test_a_long_line_within_several_keeps_them_all() -> None:
    """Folding one line leaves the others as they are."""
    came = b"250-a\r\n250-" + b"x" * 600 + b"\r\n250 c\r\n"
    folded = b"250-a\r\n250-" + b"x" * 506 + b"\r\n250-" + b"x" * 94 + b"\r\n250 c\r\n"

    for blocks in some_segmentations(came):
        assert [Reply(250, folded, (LONG,))] == read(blocks)


def held_octets(held: object) -> int:
    """How many octets lie in an object's attributes, whatever they are called."""
    match held:
        case bytes() | bytearray():
            return len(held)
        case tuple() | list():
            return held_octets_of(tuple(held))
        case ReplyReader():
            return sum(map(held_octets, attrs.astuple(held, recurse=False)))
        case _:
            return 0


@functools.lru_cache(maxsize=1024)
def held_octets_of(held: tuple[object, ...]) -> int:
    """Measured once for the same: it is asked for after each of thousands of blocks."""
    return sum(map(held_octets, held))


UP_TO_THE_END = 4


def read_without_end(reader: ReplyReader, block: bytes) -> tuple[Reply, int]:
    """Feed the block again and again; the reply that comes of it, and after how many octets."""
    fed_octets = 0
    while fed_octets < 100 * reader.limit_octets:
        reader.feed(block)
        fed_octets += len(block)
        if reply := reader.next_reply():
            return reply, fed_octets
        assert held_octets(reader) <= reader.limit_octets + 1000
    raise AssertionError("it is waited for without end")


@pytest.mark.parametrize(
    ("first", "block"),
    [
        (b"552 ", b"x" * 448),
        (b"552-first\r\n552-", b"x" * 448),
        (b"552-first\r\n", b"552-more\r\n"),
        (b"552-first\r\n", b"552-" + b"x" * 700 + b"\r\n"),
        (b"552-first\r\n", b"noise\r\n"),
        (b"552-first\r\n", b"\n"),
        (b"552-first\r\n", b"25\r\n"),
    ],
)
@pytest.mark.parametrize("limit_octets", [512, 1000, 4096])
def test_a_refusal_without_end_ends_at_four_times_its_limit(first: bytes, block: bytes, limit_octets: int) -> None:
    """What is waited for is bounded, as what is held is (guarantee 10); its code is the receiver's verdict."""
    reader = ReplyReader(limit_octets)
    reader.feed(first)

    reply, fed_octets = read_without_end(reader, block)

    # An empty line counts as the 6 octets that it becomes, and what is cut of a line as what is dropped.
    assert (UP_TO_THE_END - 1) * limit_octets < fed_octets <= UP_TO_THE_END * limit_octets + 2 * len(block)
    assert reply.code == 552
    assert LONG in reply.violations
    assert CUT not in reply.violations
    assert canonical(reply)
    assert len(reply.octets) <= 2 * limit_octets
    assert reader.empty


@pytest.mark.parametrize("first", [b"250-first\r\n", b"354-first\r\n", b"", b"25", b"550-a\r\n250-b\r\n"])
@pytest.mark.parametrize("block", [b"250-more\r\n", b"354-" + b"x" * 700 + b"\r\n", b"250-" + b"x" * 700])
def test_any_other_reply_without_end_accepts_nothing(first: bytes, block: bytes) -> None:
    """Guarantee 3: lines of it may be missing."""
    reader = ReplyReader(512)
    reader.feed(first)

    reply, _ = read_without_end(reader, block)

    assert reply.code == 0


@pytest.mark.parametrize("line", [b"552-more\r\n", b"552-" + b"x" * 700 + b"\r\n", b"noise\r\n"])
@pytest.mark.parametrize("limit_octets", [512, 1000, 4096])
def test_a_reply_over_its_limit_that_ends_is_followed_by_the_next(line: bytes, limit_octets: int) -> None:
    """Its text is cut, and what is relayed is still canonical."""
    reader = ReplyReader(limit_octets)
    reader.feed(b"552-first\r\n")
    for _ in range(2 * limit_octets // len(line) + 1):
        reader.feed(line)
        assert reader.next_reply() is None
        assert held_octets(reader) <= limit_octets + 1000
    reader.feed(b"552 last\r\n" + NEXT)

    reply = reader.next_reply()
    assert reply is not None
    assert reply.code == 552
    assert LONG in reply.violations
    assert texts_of(reply.octets).startswith(b"first")
    assert canonical(reply)
    assert Reply(221, NEXT) == reader.next_reply()


OVER_LIMIT = {
    "one line": b"552 " + b"0123456789" * 100 + b"\r\n",
    "a long last line": b"552-a\r\n552 " + b"0123456789" * 100 + b"\r\n",
    "many lines": b"552-0123456789\r\n" * 60 + b"552 last\r\n",
    "many lines, noise between": b"552-0123456789\r\nnoise\r\n\r\n" * 40 + b"552 last\r\n",
    "just over": b"552-" + b"x" * 500 + b"\r\n552 last\r\n",
    "a bare LF beyond": b"552-" + b"x" * 500 + b"\r\n552 last\n",
}


@pytest.mark.parametrize("came", [*OVER_LIMIT.values()], ids=[*OVER_LIMIT])
def test_a_reply_over_the_limit_keeps_its_code(came: bytes) -> None:
    """Canonical, said aloud, under the receiver's code, and the next reply is unharmed, in whatever pieces it came."""
    for blocks in some_segmentations(came + NEXT):
        first, following = read(blocks, 512)

        assert first.code == 552
        assert canonical(first)
        assert LONG in first.violations
        assert Reply(221, NEXT) == following


@pytest.mark.parametrize("came", [*OVER_LIMIT.values()], ids=[*OVER_LIMIT])
def test_a_reply_over_the_limit_is_the_same_at_every_segmentation(came: bytes) -> None:
    """Where the text is cut does not depend on the pieces in which it came."""
    outcomes = {
        tuple((reply.code, reply.octets, reply.violations) for reply in read(blocks, 512))
        for blocks in some_segmentations(came)
    }

    assert len(outcomes) == 1


@pytest.mark.parametrize(
    "came", [OVER_LIMIT["one line"], OVER_LIMIT["a long last line"]], ids=["one line", "last line"]
)
def test_the_text_of_a_cut_line_is_what_came_first(came: bytes) -> None:
    """The text up to the limit stays, the rest is dropped: never the beginning and the end with a hole between."""
    for blocks in some_segmentations(came):
        (reply,) = read(blocks, 512)
        text = texts_of(reply.octets).removesuffix(b"...")

        assert (b"a" * came.startswith(b"552-a") + b"0123456789" * 100).startswith(text)


@pytest.mark.parametrize("refusal", [b"550-no\r\n", b"421-no\r\n", b"354-go\r\n"])
def test_a_contradiction_beyond_the_limit_is_still_one(refusal: bytes) -> None:
    """Lines that are dropped for their length are still heard: no acceptance among refusals (guarantee 3)."""
    came = b"250-" + b"x" * 500 + b"\r\n" + refusal + b"250-more\r\n250 accepted\r\n"
    for blocks in some_segmentations(came):
        (reply,) = read(blocks, 512)

        assert reply.code == 0
        assert MIXED in reply.violations


@pytest.mark.parametrize("limit_octets", [20, 40, 64, REPLY_LIMIT_OCTETS])
@pytest.mark.parametrize(
    "end", [b"250 HELP\r\n", b"250 \r\n", b"550 no\r\n", b"250-HELP\r\n", b"250 HELP\r\n220 again\r\n"]
)
def test_a_reply_of_several_lines_that_comes_whole_is_read_as_in_pieces(end: bytes, limit_octets: int) -> None:
    """The first time and the second: those that come whole are kept as they were read."""
    came = b"250-receiver.example\r\n250-SIZE 1000\r\n250-8BITMIME\r\n" + end
    in_pieces = read_to_the_end((bytes([octet]) for octet in came), limit_octets)
    for _ in range(2):
        assert read_to_the_end([came], limit_octets) == in_pieces
        assert read_to_the_end([came, came], limit_octets) == read_to_the_end([came + came], limit_octets)


def test_a_reply_at_the_limit_is_whole() -> None:
    """The limit is what a reply may have, not what it must stay under."""
    came = b"250-" + b"x" * 400 + b"\r\n250 " + b"y" * 100 + b"\r\n"
    for blocks in some_segmentations(came):
        assert [Reply(250, came)] == read(blocks, len(came))


# -- a receiver that ends in the middle

CUT_OFF: dict[str, tuple[bytes, int, bytes | None]] = {
    "no CRLF": (b"550 no", 550, b"550 no\r\n"),
    "CR only": (b"550 no\r", 550, b"550 no\r\n"),
    "a line of several": (b"550-a\r\n", 550, b"550 a\r\n"),
    "in the second line": (b"550-a\r\n550-b", 550, b"550-a\r\n550 b\r\n"),
    "in the last line": (b"550-a\r\n550 b", 550, b"550-a\r\n550 b\r\n"),
    "code and hyphen": (b"550-", 550, b"550 " + NO_TEXT + b"\r\n"),
    "code and blank": (b"550 ", 550, b"550 " + NO_TEXT + b"\r\n"),
    "code and letter": (b"550n", 550, b"550 n\r\n"),
    "code and letter after a line": (b"550-a\r\n550b", 550, b"550-a\r\n550 b\r\n"),
    "code and point": (b"550.", 550, b"550 .\r\n"),
    "a longer number after a line": (b"550-a\r\n5500", 550, b"550-a\r\n550 5500\r\n"),
    "code alone": (b"550", 550, b"550 " + NO_TEXT + b"\r\n"),
    "two digits": (b"55", 0, None),
    "words": (b"no", 0, None),
    "a longer number": (b"5500", 0, None),
}


@pytest.mark.parametrize(("came", "code", "relayed"), [*CUT_OFF.values()], ids=[*CUT_OFF])
def test_a_reply_that_is_cut_off_is_completed_under_its_code(came: bytes, code: int, relayed: bytes | None) -> None:
    """The verdict that can be read is relayed; what has no code is given none."""
    for blocks in segmentations(came):
        assert read(blocks) == []
        (reply,) = read_to_the_end(blocks)

        assert code == reply.code
        assert CUT in reply.violations
        if relayed is None:
            assert NO_REPLY in reply.violations
        else:
            assert relayed == reply.octets
            assert canonical(reply)


def test_a_beginning_of_a_code_behind_a_line_does_not_change_the_code() -> None:
    """ "55" may have become 550 or 554: the code is that of the lines before it."""
    for blocks in segmentations(b"550-a\r\n55"):
        (reply,) = read_to_the_end(blocks)

        assert reply.code == 550
        assert canonical(reply)


@pytest.mark.parametrize("code", [250, 354])
def test_cut_off_in_a_line_with_the_opposite_code_is_no_success(code: int) -> None:
    """550- and then a success without its CRLF accepts nothing (guarantee 3)."""
    (reply,) = read_to_the_end([b"550-a\r\n%d b" % code])

    assert reply.code == 0


@pytest.mark.parametrize("came", [b"250", b"250-", b"250O", b"250.", b"250-a\r\n250", b"250-a\r\n250S", b"354g"])
def test_cut_off_where_the_line_may_have_said_something_else_is_no_success(came: bytes) -> None:
    """It may have gone on, and "250." may have become a longer number: only a line with its blank accepts."""
    for blocks in segmentations(came):
        (reply,) = read_to_the_end(blocks)

        assert reply.code == 0
        assert CUT in reply.violations


def test_nothing_is_cut_off_where_nothing_lies() -> None:
    """A receiver that ends between replies cuts none off."""
    reader = ReplyReader()
    assert reader.empty
    assert reader.cut_off() is None
    reader.feed(NEXT)
    assert not reader.empty
    assert Reply(221, NEXT) == reader.next_reply()
    assert reader.empty
    assert reader.cut_off() is None
    reader.feed(b"250-a\r\n")
    assert reader.next_reply() is None
    assert not reader.empty
    assert reader.cut_off() is not None
    assert reader.empty
    assert reader.cut_off() is None


def test_a_cut_off_endless_line_keeps_its_code() -> None:
    """Over the limit and then gone: still the receiver's verdict, canonical."""
    for blocks in some_segmentations(b"552 " + b"x" * 1500):
        (reply,) = read_to_the_end(blocks, 512)

        assert reply.code == 552
        assert {CUT, LONG} <= set(reply.violations)
        assert canonical(reply)


NOISE = (b"x\n", b"x\r\n", b"\n", b"\r\n", b"55\n", b"55\r\n", b"noise\n", b"x\0y\r\n", b"\r")


@pytest.mark.parametrize("noise", NOISE)
def test_a_cut_off_endless_reply_is_canonical(noise: bytes) -> None:
    """Whatever line was the last to be cut, no CR, LF or NUL of it gets into a line that is relayed."""
    for blocks in some_segmentations(b"552-" + b"x" * 500 + b"\r\n" + noise * 20):
        (reply,) = read_to_the_end(blocks, 512)

        assert reply.code == 552
        assert canonical(reply)


# -- several replies


def test_replies_in_one_feed_come_out_one_by_one() -> None:
    """A repeated 354, the 552 and the 421 in one segment are three replies."""
    came = [b"354 go on\r\n", b"552-5.3.4 too\r\n552 5.3.4 big\r\n", b"421 bye\r\n"]
    for blocks in segmentations(b"".join(came)):
        assert came == [reply.octets for reply in read(blocks)]


@pytest.mark.parametrize(
    "before",
    [
        b"250-a\n251\n",
        b"noise\r\n",
        b"550-a\r\n250 b\r\n",
        b"552 " + b"x" * 600 + b"\r\n",
        b"552-0123456789\r\n" * 60 + b"552 last\r\n",
    ],
    ids=["mixed", "noise", "contradiction", "long line", "over the limit"],
)
def test_no_violation_is_carried_to_the_next_reply(before: bytes) -> None:
    """What one reply had wrong is not held against the one behind it."""
    for blocks in segmentations(before + b"250-a\r\n250 b\r\n"):
        *_, last = read(blocks, 512)

        assert Reply(250, b"250-a\r\n250 b\r\n") == last


# -- all short streams

PIECES = (b"250", b"550", b"-", b" ", b"ok", b"\r", b"\n", b"0")


def outcome(replies: list[Reply]) -> list[tuple[int, bytes, frozenset[Violation]]]:
    return [(reply.code, reply.octets, frozenset(reply.violations)) for reply in replies]


def short_streams(count: int) -> Iterator[bytes]:
    for length in range(1, count + 1):
        for pieces in itertools.product(PIECES, repeat=length):
            yield b"".join(pieces)


@pytest.mark.once
def test_the_pieces_in_which_replies_come_decide_nothing() -> None:
    """All streams of up to five pieces: the same replies whole, octet by octet, and cut in two everywhere."""
    wrong = []
    for stream in short_streams(5):
        expected = outcome(read_to_the_end([stream]))
        octet_by_octet = [stream[at : at + 1] for at in range(len(stream))]
        cuts = ([stream[:at], stream[at:]] for at in range(1, len(stream)))
        wrong += [blocks for blocks in (octet_by_octet, *cuts) if expected != outcome(read_to_the_end(blocks))]

    assert wrong == []


@pytest.mark.parametrize("before", [b"", b"250-a\r\n", b"550-a\r\n250-", b"250 "])
def test_whatever_comes_a_reply_with_a_code_is_canonical(before: bytes) -> None:
    """CRLF lines under one code, 512 octets at most, whatever the receiver sent; so says a second reader too."""
    wrong = []
    for stream in short_streams(4):
        for reply in read_to_the_end([before + stream]):
            if reply.code and not (canonical(reply) and [Reply(reply.code, reply.octets)] == read([reply.octets])):
                wrong.append((before + stream, reply))

    assert wrong == []


@pytest.mark.parametrize("before", [b"", b"250-a\r\n", b"550-a\r\n"])
def test_whatever_comes_no_success_is_made_of_a_refusal(before: bytes) -> None:
    """A reply with 250 has no line that said 550 (guarantee 3), a reply with 550 has one that did (guarantee 4)."""
    wrong = []
    for stream in short_streams(4):
        came = before + stream
        for reply in read_to_the_end([came]):
            said = {line[:3] for line in came.splitlines()}
            if reply.code and b"%d" % reply.code not in said:
                wrong.append((came, reply))
        replies = read_to_the_end([came])
        if len(replies) == 1 and replies[0].code == 250 and b"550" in {line[:3] for line in came.split(b"\n")}:
            line = next(line for line in came.split(b"\n") if line[:3] == b"550")
            if line[3:4] in (b"", b" ", b"-", b"\r"):
                wrong.append((came, replies[0]))

    assert wrong == []


# -- where a reply ends, and under which code


def naive_code(line: bytes, before: Collection[int]) -> int:
    """The code of a line that follows lines with those codes, or 0: RFC 5321 4.2, and what is taken for it."""
    if not re.match(rb"[2-5][0-9][0-9]", line):
        return 0
    code = int(line[:3])
    if re.match(rb"...(?:[ \t\r\n-]|$)", line, re.DOTALL):
        return code
    if re.match(rb"...[.,]?[0-9]", line):
        return 0
    return code if not before or code in before else 0


def naive_replies(stream: bytes) -> list[tuple[int, bytes]]:
    """The replies in whole lines, as (code, what came): one line after the other, with nothing remembered but codes."""
    replies = []
    came, codes = b"", list[int]()
    for line in re.findall(rb"[^\n]*\n", stream):
        code = naive_code(line, codes)
        came += line
        codes.append(code)
        if line[3:4] != b"-" if code else len(codes) == 1:
            classes = {each // 100 for each in codes if each}
            *_, last = [each for each in codes if each] or [0]
            replies.append((0 if len(classes) > 1 and last < 400 else last, came))
            came, codes = b"", []
    return replies


def octets_read(blocks: Iterable[bytes]) -> list[tuple[int, int]]:
    """The code of each reply, and how many octets had been fed when it was whole."""
    reader, fed, found = ReplyReader(), 0, []
    for block in blocks:
        reader.feed(block)
        while reply := reader.next_reply():
            found.append((reply.code, fed + len(block) - len(reader.unread)))
        fed += len(block)
    return found


AFTER_A_CODE = (b" ", b"-", b"\t", b"x", b"0", b".", b".0", b",0x", b"", b"\r", b"\0", b"\xb2")
LINES = [b"250" + after + b"\r\n" for after in AFTER_A_CODE]
LINES += [b"251-\r\n", b"251x\n", b"550 \r\n", b"550-\r\n", b"550x\r\n", b"5500\r\n", b"25x\r\n", b"150 \r\n", b"\r\n"]


@pytest.mark.once
def test_where_a_reply_ends_is_as_the_naive_definition_has_it() -> None:
    """All streams of up to three lines with every octet after a code: ended at once, whole and octet by octet."""
    wrong = []
    for count in (1, 2, 3):
        for lines in itertools.product(LINES, repeat=count):
            stream = b"".join(lines)
            ends = itertools.accumulate(len(came) for _, came in naive_replies(stream))
            expected = [(code, end) for (code, _), end in zip(naive_replies(stream), ends, strict=True)]
            if not octets_read([stream]) == octets_read(stream[at : at + 1] for at in range(len(stream))) == expected:
                wrong.append(stream)

    assert wrong == []


# -- Reply


@pytest.mark.parametrize(
    ("code", "severity", "kind", "refuses"),
    [
        (0, 0, 0, False),
        (220, 2, 2, False),
        (250, 2, 2, False),
        (299, 2, 2, False),
        (300, 3, 300, False),
        (334, 3, 334, False),
        (354, 3, 354, False),
        (399, 3, 399, False),
        (400, 4, 4, True),
        (421, 4, 4, True),
        (550, 5, 5, True),
        (599, 5, 5, True),
    ],
)
def test_what_a_code_means(code: int, severity: int, kind: int, refuses: bool) -> None:
    """The first digit decides, except that each 3yz means something of its own."""
    reply = Reply(code, b"")

    assert (severity, kind, refuses) == (reply.severity, reply.kind, reply.refuses)


@pytest.mark.parametrize(
    ("own", "octets"),
    [
        (LocalReply.make(451, "4.4.2", "try again later"), b"451 4.4.2 try again later\r\n"),
        (LocalReply.make(221, "2.0.0", "closing connection"), b"221 2.0.0 closing connection\r\n"),
    ],
    ids=["451", "221"],
)
def test_a_reply_of_the_shims_own_is_well_formed(own: LocalReply, octets: bytes) -> None:
    """Code and text in one CRLF line, with an enhanced status code or without, and no violation."""
    assert octets == own.enhanced.octets
    assert [own.enhanced] == read([octets])
    assert own.plain.octets.split(b" ", 1) == [octets[:3], octets.split(b" ", 2)[2]]
    assert [own.plain] == read([own.plain.octets])


@pytest.mark.parametrize(
    ("text", "enhanced", "plain"),
    [
        ("451 4.3.0 try again", b"451 4.3.0 try again\r\n", b"451 try again\r\n"),
        ("451 try again", b"451 try again\r\n", b"451 try again\r\n"),
        ("451 4.3 is no code", b"451 4.3 is no code\r\n", b"451 4.3 is no code\r\n"),
    ],
)
def test_an_operators_reply_is_read(text: str, enhanced: bytes, plain: bytes) -> None:
    """With an enhanced status code, which it loses for a sender that was offered none, or without."""
    own = LocalReply.parse(text)
    assert (own.enhanced.octets, own.plain.octets) == (enhanced, plain)


def test_noise_within_a_reply_beyond_the_limit_does_not_end_it() -> None:
    """The last line decides, also when no more of the text is kept."""
    reader = ReplyReader(512)
    reader.feed(b"250-" + b"x" * 700 + b"\r\nnoise\r\n550 refused\r\n")
    reply = reader.next_reply()
    assert reply
    assert reply.code == 550
    assert reader.empty
