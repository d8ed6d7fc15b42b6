"""Newlines: what is forwarded has one end of mail data, whatever the receiver takes for a line end (RFC 5321 2.3.8).

The oracle looks at one octet after the other and knows nothing of blocks.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import attrs
import pytest

from shimproxy.net.block import BLOCK_START
from shimproxy.smtp.mail_data import EndOfData, EndOfDeviceData
from shimproxy.smtp.newlines import Normaliser, StraySeen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST = 6
ALPHABET = (b"\r", b"\n", b".", b"x", b"\0")


# -- the canonical form


def short_streams(longest: int) -> Iterator[bytes]:
    for length in range(longest + 1):
        for pieces in itertools.product(ALPHABET, repeat=length):
            yield b"".join(pieces)


def canonical_by_definition(stream: bytes) -> tuple[bytes, bool]:
    """The canonical form of the mail data in `stream`, and whether they end there."""
    end = (b"\r\n" + stream).find(b"\r\n.\r\n")
    ended = end >= 0
    content = stream[:end] if ended else stream
    out = bytearray()
    line_end = "true"  # that before the next octet
    at = 0
    while at < len(content):
        octet = content[at : at + 1]
        if content[at : at + 2] == b"\r\n":
            out += b"\r\n"
            line_end = "true"
            at += 2
            continue
        if octet == b"\n":
            out += b"\r\n"
        elif octet in (b"\r", b"\0"):
            out += b" "
        elif octet == b".":
            behind = content[at + 1 : at + 3]
            alone = behind[:1] in (b"\n", b"\0") or (behind[:1] == b"\r" and behind != b"\r\n")
            out += b".." if line_end == "made" or (line_end == "true" and alone) else b"."
        else:
            out += octet
        line_end = "made" if octet == b"\n" else ""
        at += 1
    return bytes(out) + (b".\r\n" if ended else b""), ended


def canonical(
    blocks: Iterable[bytes], sut: Normaliser | None = None, end: EndOfData | EndOfDeviceData | None = None
) -> tuple[bytes, bool]:
    """What a normaliser makes of these blocks, and whether they end."""
    sut, end = sut or Normaliser(), end or EndOfData()
    out = bytearray()
    for block in blocks:
        buffer = bytearray(BLOCK_START) + block
        stop = end.feed(buffer, BLOCK_START, len(buffer))
        out += sut.feed(buffer, BLOCK_START, len(buffer) if stop is None else stop, ended=stop is not None)
        if stop is not None:
            return bytes(out), True
    return bytes(out), False


def segmentations(stream: bytes) -> Iterator[list[bytes]]:
    yield [stream[at : at + 1] for at in range(len(stream))]
    for at in range(1, len(stream) + 1):
        yield [part for part in (stream[:at], stream[at:]) if part]


def test_every_short_stream_becomes_canonical() -> None:
    """All streams over CR, LF, dot, NUL and x, whole, octet by octet, and cut in two everywhere."""
    wrong = [
        (stream, blocks)
        for short in short_streams(LONGEST - 1)
        for stream in [short + b"xyz" if b"\r\n.\r\n" not in b"\r\n" + short else short]
        for blocks in segmentations(stream)
        if canonical(blocks) != canonical_by_definition(stream)
    ]

    assert wrong == []


def test_streams_that_end_become_canonical() -> None:
    """The same before a true end of mail data, which may follow anything."""
    wrong = [
        (stream, blocks)
        for short in short_streams(LONGEST - 1)
        for stream in [short + b"\r\n.\r\n"]
        for blocks in segmentations(stream)
        if canonical(blocks) != canonical_by_definition(stream)
    ]

    assert wrong == []


# Whoever is lax about lines takes one of these for the end of mail data.
LAX_END = re.compile(rb"(?:^|[\r\n]\0?)\.[\0\r]*[\r\n]")


def test_no_receiver_however_lax_sees_an_end_before_the_true_one() -> None:
    """In what comes out, the first thing that anybody could take for the end is the end, and is the last."""
    wrong = []
    for short in short_streams(LONGEST):
        out, ended = canonical([short + b"\r\n.\r\n"])
        found = LAX_END.search(out)
        assert ended
        assert found
        if found.end() < len(out) - 1 or out.find(b"\r\n.\r\n") not in (-1, len(out) - 5):
            wrong.append((short, out))

    assert wrong == []


def test_canonical_mail_data_come_out_as_they_are() -> None:
    """With dots and eight bits, at every cut (guarantee 9)."""
    data = b"a\r\n..b\r\n.c\r\n\r\n..\r\n\xe4\xff\r\n.\r\n"
    for blocks in segmentations(data):
        sut = Normaliser()
        assert canonical(blocks, sut) == (data, True)
        assert sut.stray_count == 0


@pytest.mark.parametrize(
    ("data", "count"),
    [(b"a\nb\n", 2), (b"a\rb", 1), (b"\0\0", 2), (b"a\n.b", 1), (b"a\n\n.b\r", 3), (b"a\r\nb", 0)],
    ids=repr,
)
def test_stray_octets_are_counted(data: bytes, count: int) -> None:
    """Once each, at every cut."""
    for blocks in segmentations(data + b"\r\n.\r\n"):
        sut = Normaliser()
        canonical(blocks, sut)
        assert sut.stray_count == count


def test_what_is_counted_is_what_is_stray_by_definition() -> None:
    """Also beside a dot that stands alone on its line, which is stuffed for it and no octet more."""
    wrong = []
    for short in short_streams(LONGEST - 1):
        stream = short + b"\r\n.\r\n"
        mail_data = stream[: (b"\r\n" + stream).find(b"\r\n.\r\n") + 3]
        for blocks in segmentations(stream):
            sut = Normaliser()
            canonical(blocks, sut)
            if sut.stray_count != len(re.findall(rb"\r(?!\n)|(?<!\r)\n|\0", mail_data)):
                wrong.append((blocks, sut.stray_count))

    assert wrong == []


# -- devices


@pytest.mark.parametrize(
    ("data", "expected", "stray"),
    [
        (b"a\nb\n.\n", b"a\r\nb\r\n.\r\n", 0),
        (b"a\n..b\n.\n", b"a\r\n..b\r\n.\r\n", 0),
        (b"a\n.b\n.\n", b"a\r\n.b\r\n.\r\n", 0),
        (b".\n", b".\r\n", 0),
        (b"a\r\n.\r\n", b"a\r\n.\r\n", 0),
        (b"a\rb\n.\r\n", b"a b\r\n.\r\n", 1),
        (b"a\r\n.\n", b"a\r\n.\r\n", 0),
        (b"a\n.\rb\n.\n", b"a\r\n. b\r\n.\r\n", 1),
        (b"a\n.\0\n.\n", b"a\r\n. \r\n.\r\n", 1),
        (b"\ra\r\n\0\nb\r\r\n.\n", b" a\r\n \r\nb \r\n.\r\n", 3),
    ],
    ids=repr,
)
def test_what_a_device_sends_becomes_canonical(data: bytes, expected: bytes, stray: int) -> None:
    """Its lines end in LF, its dots are stuffed by itself, and a dot alone on such a line is the end.

    What it has no excuse for, and is changed, is counted.
    """
    for blocks in segmentations(data):
        sut = Normaliser(lf_ends_lines=True)
        assert canonical(blocks, sut, EndOfDeviceData()) == (expected, True)
        assert sut.stray_count == stray, blocks


# -- what was stray, and where


def seen(octets: bytes, cuts: int, *, lf_ends_lines: bool = False) -> StraySeen | None:
    """What is noted of mail data that come in so many octets at a time."""
    sut = Normaliser(lf_ends_lines)
    for start in range(0, len(octets), cuts):
        part = octets[start : start + cuts]
        block = bytearray(BLOCK_START) + part
        sut.feed(block, BLOCK_START, len(block), ended=start + cuts >= len(octets))
    return sut.seen


@pytest.mark.parametrize("cuts", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"a\r\nb\r\n.\r\n", None),
        (b"a\r\nb\nc\r\n.\r\n", StraySeen(bare_lf=1, first_octet=4, first_line=2)),
        (b"a\nb\rc\0d\r\n.\r\n", StraySeen(bare_lf=1, bare_cr=1, nul=1, first_octet=1, first_line=1)),
        (b"a\r\nb\r\nc\r\r\n\0\r\n.\r\n", StraySeen(bare_cr=1, nul=1, first_octet=7, first_line=3)),
        (b"x\r\n.\ny\r\n.\r\n", StraySeen(bare_lf=1, first_octet=4, first_line=2)),
        (b"\n\n\n\r\n.\r\n", StraySeen(bare_lf=3, first_octet=0, first_line=1)),
    ],
)
def test_what_is_stray_is_told_by_its_kind_and_place_at_every_segmentation(
    octets: bytes, expected: StraySeen | None, cuts: int
) -> None:
    found = seen(octets, cuts)

    assert (found and attrs.asdict(found)) == (expected and attrs.asdict(expected))


def test_where_a_line_ends_in_lf_none_is_stray() -> None:
    found = seen(b"a\nb\rc\n.\n", 4, lf_ends_lines=True)

    assert found
    assert (found.bare_lf, found.bare_cr, found.first_line) == (0, 1, 2)


def test_far_behind_the_beginning_there_is_an_octet_but_no_line() -> None:
    """Lines are counted in the first 64 KiB only, as to count them costs more than to judge them."""
    clean = b"x" * 98 + b"\r\n"
    near, far = (seen(clean * count + b"\0\r\n.\r\n", 10_000) for count in (100, 1000))

    assert near
    assert (near.first_line, near.first_octet) == (101, 10_000)
    assert far
    assert (far.first_line, far.first_octet) == (None, 100_000)
