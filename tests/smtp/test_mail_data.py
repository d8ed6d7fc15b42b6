"""Where mail data ends: CRLF "." CRLF and nothing else, at every segmentation (RFC 5321 4.1.1.4).

The oracle is the definition itself: the first CRLF.CRLF in the stream, with the CRLF of the DATA command before it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from shimproxy.smtp import mail_data
from shimproxy.smtp.mail_data import END_OF_DATA, EndOfData, EndOfDeviceData
from tests.vectors import BEFORE, BEHIND, LAST_LINE, NO_END

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LONGEST = 7
ALPHABET = (b"\r", b"\n", b".", b"x")


def end_by_definition(stream: bytes) -> int | None:
    """The index behind the final CRLF, as RFC 5321 has it."""
    found = (b"\r\n" + stream).find(b"\r\n.\r\n")
    return found + 5 - 2 if found >= 0 else None


def end_found(blocks: Iterable[bytes], kind: type[EndOfData | EndOfDeviceData] = EndOfData) -> int | None:
    """The index in the whole stream at which a reader, fed `blocks`, says that mail data ends."""
    reader = kind()
    before = 0
    for block in blocks:
        end = reader.feed(block, 0, len(block))
        if end is not None:
            return before + end
        before += len(block)
    return None


def octet_by_octet(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def two_way_splits(stream: bytes) -> Iterator[list[bytes]]:
    """Every cut in two; the first has an empty block, which no reader should stumble over."""
    for at in range(len(stream) + 1):
        yield [stream[:at], stream[at:]]


def all_segmentations(stream: bytes) -> Iterator[list[bytes]]:
    for cuts in itertools.product((False, True), repeat=max(len(stream) - 1, 0)):
        at = [0, *(index for index, cut in enumerate(cuts, 1) if cut), len(stream)]
        yield [stream[start:stop] for start, stop in itertools.pairwise(at)]


def some_segmentations(stream: bytes) -> Iterator[list[bytes]]:
    """Whole, octet by octet, and every cut in two."""
    yield octet_by_octet(stream)
    yield from two_way_splits(stream)


def streams(longest: int, alphabet: Sequence[bytes] = ALPHABET) -> Iterator[bytes]:
    for length in range(longest + 1):
        for pieces in itertools.product(alphabet, repeat=length):
            yield b"".join(pieces)


# -- all short streams


def test_every_short_stream_ends_where_the_rfc_says() -> None:
    """All streams over CR, LF, dot and x, whole, octet by octet, and cut in two everywhere."""
    wrong = [
        (stream, blocks)
        for stream in streams(LONGEST)
        for blocks in some_segmentations(stream)
        if end_by_definition(stream) != end_found(blocks)
    ]

    assert wrong == []


def test_every_segmentation_of_a_short_stream_ends_where_the_rfc_says() -> None:
    """A reader that keeps four octets must be right for any number of cuts, not just one."""
    wrong = [
        (stream, blocks)
        for stream in streams(LONGEST - 2)
        for blocks in all_segmentations(stream)
        if end_by_definition(stream) != end_found(blocks)
    ]

    assert wrong == []


def test_every_short_stream_behind_a_line_ends_where_the_rfc_says() -> None:
    """The same away from the beginning, where the CRLF of DATA does not help."""
    wrong = [
        (stream, blocks)
        for tail in streams(5)
        for stream in [b"xxxx" + tail]
        for blocks in some_segmentations(stream)
        if end_by_definition(stream) != end_found(blocks)
    ]

    assert wrong == []


# -- the vectors


@pytest.mark.parametrize("vector", [*NO_END.values()], ids=[*NO_END])
def test_what_only_resembles_the_end_goes_on(vector: bytes) -> None:
    """The mail goes on through the vector and the commands behind it, up to the real end."""
    stream = BEFORE + vector + BEHIND
    whole = stream + LAST_LINE + b"QUIT\r\n"

    assert {None} == {end_found(blocks) for blocks in some_segmentations(stream)}
    assert {len(stream + LAST_LINE)} == {end_found(blocks) for blocks in some_segmentations(whole)}


# The row -> (the first octets after the 354, where mail data ends in them)
FROM_THE_START: dict[str, tuple[bytes, int | None]] = {
    "8: CRLF . CR and CRLF . CRLF": (b"x\r\n.\r\r\n.\r\n", 10),
    "12: CR before CRLF . CRLF is text": (b"x\r\r\n.\r\n", 7),
    "14: LF LF and the real end": (b"x\n\n.\r\n.\r\n", 9),
    "16: CRLF . and no more": (b"x\r\n.", None),
    "16: CRLF . CR and no more": (b"x\r\n.\r", None),
    "17: . LF first": (b".\nQUIT\r\n", None),
    "17: . CR first": (b".\rQUIT\r\n", None),
    "17: . CRLF first, the empty mail": (b".\r\nQUIT\r\n", 3),
    "17: .. CRLF first": (b"..\r\nx", None),
    "17: LF first": (b"\n.\r\nQUIT\r\n", None),
    "17: CR first": (b"\r.\r\nQUIT\r\n", None),
    "17: LF CRLF first": (b"\n\r\n.\r\nQUIT\r\n", 6),
    "17: CRLF first, the empty line": (b"\r\n.\r\nQUIT\r\n", 5),
    "19: two mails in one go end one by one": (b"x\r\n.\r\n" + BEHIND + b"y\r\n.\r\n", 6),
    "21: a stuffed dot, then the end": (b"x\r\n..\r\n.\r\nQUIT\r\n", 10),
    "21: the end at once behind a dot-line": (b"x\r\n.x\r\n.\r\n", 10),
    "21: the end twice": (b"x\r\n.\r\n.\r\n", 6),
    "24: a long line across blocks, a dot within": (b"x" * 3000 + b".\r\n", None),
    "24: a long line and the end": (b"x" * 3000 + b"\r\n.\r\n", 3005),
}


@pytest.mark.parametrize(("stream", "end"), [*FROM_THE_START.values()], ids=[*FROM_THE_START])
def test_the_end_of_a_vector_from_the_start(stream: bytes, end: int | None) -> None:
    """The end is where the table says, which is where the definition has it, at every segmentation."""
    assert end == end_by_definition(stream)
    assert {end} == {end_found(blocks) for blocks in some_segmentations(stream)}


def test_every_cut_of_the_end_itself() -> None:
    """CRLF.CRLF in two to five blocks behind a mail that went before it (row 21)."""
    found = {end_found([BEFORE, *blocks, BEHIND]) for blocks in all_segmentations(END_OF_DATA)}

    assert {len(BEFORE) + 5} == found


def test_each_mail_of_a_session_has_its_own_end() -> None:
    """What lies at the index found is the next command, and a new reader starts afresh (row 19)."""
    stream = b"x\r\n.\r\n" + BEHIND + b".\r\nQUIT\r\n"

    first = EndOfData().feed(stream, 0, len(stream))
    assert first == 6
    assert stream[first:].startswith(BEHIND)
    second = stream[first + len(BEHIND) :]
    end = EndOfData().feed(second, 0, len(second))
    assert end == 3
    assert second[end:] == b"QUIT\r\n"


# -- long blocks

DOTTED = {
    "no dots at all": b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "a dot in each line": b"text.\r\n",
    "stuffed dots": b"..\r\n",
    "dots only": b".",
    "dots before LF": b".\n",
    "LF . CRLF": b"\n.\r\n",
    "CRLF . CR": b"\r\n.\r",
    "CR LF": b"\r\n",
}


@pytest.mark.parametrize("line", [*DOTTED.values()], ids=[*DOTTED])
@pytest.mark.parametrize("count", [*range(20), 100, 1000])
def test_the_end_behind_any_number_of_dots(line: bytes, count: int) -> None:
    """How many dots come before it changes neither the end nor its absence, whatever way it is looked for."""
    for last in (b"", b"x", b".", LAST_LINE, LAST_LINE + LAST_LINE, b"x" + LAST_LINE + b"....", b"\n.\r\n", b"\r\n.\r"):
        stream = line * count + last
        expected = end_by_definition(stream)

        assert expected == end_found([stream])
        assert expected == end_found([stream[: len(stream) // 2], stream[len(stream) // 2 :]])


@pytest.mark.parametrize("dots", [0, 1, 7, 8, 9, 10, 30])
@pytest.mark.parametrize("into_the_end", range(6))
def test_a_block_border_within_the_end_behind_dots(dots: int, into_the_end: int) -> None:
    """The block stops in the end of mail data, and dots stand right before and after the border."""
    mail = b"x." * dots + b"\r\n..x"
    stream = mail + LAST_LINE + b"." * 12
    border = len(mail) + into_the_end

    assert len(mail) + 5 == end_found([stream[:border], stream[border:]])


@pytest.mark.parametrize("dots", [1, 2, 3, 4, 7, 8, 9, 17])
def test_blocks_that_end_in_dots(dots: int) -> None:
    """Dots at the end of one block and the beginning of the next are text, unless one stands alone on its line."""
    for last, first in itertools.product((b"", b"\r\n", b"\r", b"\n"), (b"\r\n", b"\n", b".\r\n", b"x\r\n.\r\n")):
        blocks = [b"text" + last + b"." * dots, first + b"more\r\n", b".", b"\r\n"]

        assert end_by_definition(b"".join(blocks)) == end_found(blocks)


# -- portions of a block

SMALL = [(1, 4, 3), (2, 2, 2), (1, 8, 5), (3, 6, 1)]
"""The least and the most octets behind a dot that are searched at once, and after how many without a dot anew."""


@pytest.mark.parametrize(("least", "most", "far"), SMALL)
def test_every_short_stream_ends_where_the_rfc_says_in_small_portions(
    least: int, most: int, far: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every bound of a portion is met by every part of an end."""
    for name, octets in (("_LEAST_OCTETS", least), ("_MOST_OCTETS", most), ("_FAR_OCTETS", far)):
        monkeypatch.setattr(mail_data, name, octets)
    words = (END_OF_DATA, b"\r\n", b".", b"x", b"xxxx", b"..")
    wrong = [
        stream
        for pieces in itertools.chain.from_iterable(itertools.product(words, repeat=size) for size in range(7))
        for stream in [b"".join(pieces)]
        if end_by_definition(stream) != end_found([stream])
    ]

    assert wrong == []


@pytest.mark.parametrize("apart", [1, 5, 300, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("last", [LAST_LINE, LAST_LINE * 2, b"\r\n.\r", b"\n.\r\n"], ids=repr)
def test_the_end_at_each_place_of_a_portion(apart: int, last: bytes) -> None:
    """Behind dots that are so far from each other, and before more of them."""
    text = (b"x" * (apart - 1) + b".") * (4000 // apart + 1)
    wrong = [
        before
        for before in range(0, 3000, 1 if apart <= 5 else 3)
        for stream in [text[-before:] * (before > 0) + last + text]
        if end_by_definition(stream) != end_found([stream])
    ]

    assert wrong == []


# -- a buffer that is larger than what was read into it

GARBAGE = (b"", b"\r\n.\r\n", b".\r\n", b"\r\n", b"\n", b"\n.\r\n", b"..........\r\n.\r\n")


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_lies_beyond_the_size_does_not_matter(kind: type[bytes] | type[bytearray], garbage: bytes) -> None:
    """An earlier block's octets behind the size, even an end that lies across it, are never seen."""
    wrong = []
    for stream in streams(5):
        for blocks in ([stream], [stream[:1], stream[1:]], [stream[:-2], stream[-2:]]):
            reader = EndOfData()
            before, found = 0, None
            for block in blocks:
                end = reader.feed(kind(block + garbage), 0, len(block))
                if end is not None:
                    found = before + end
                    break
                before += len(block)
            if end_by_definition(stream) != found:
                wrong.append((stream, blocks))

    assert wrong == []


@pytest.mark.parametrize("dots", [0, 7, 8, 9, 20])
@pytest.mark.parametrize("beyond", range(1, 6))
def test_an_end_across_the_size_is_not_yet_there(dots: int, beyond: int) -> None:
    """The end counts only when its last octet was read, and then at once."""
    block = bytearray(b"text.\r\n" * dots + b"text\r\n.\r\n" + b"." * 20)
    end = block.index(b"text\r\n.\r\n") + 9
    size_octets = end - beyond
    reader = EndOfData()

    assert reader.feed(block, 0, size_octets) is None
    assert beyond == reader.feed(bytes(block[size_octets:end]) + b"QUIT\r\n", 0, beyond + 6)


def test_one_buffer_used_again_and_again() -> None:
    """The reader keeps nothing that changes with the buffer: its next block overwrites the one before."""
    buffer = bytearray(64)
    reader = EndOfData()
    for block in (b"text\r\n", b".", b"\r"):
        buffer[: len(block)] = block
        assert reader.feed(buffer, 0, len(block)) is None
        buffer[:] = b"x" * 64
    buffer[:1] = b"\n"

    assert reader.feed(buffer, 0, 1) == 1


# -- devices that know LF alone


def device_end_by_definition(stream: bytes) -> int | None:
    """Behind the first line that is a dot, where lines end in LF and a CR before it does not count."""
    at = 0
    for line in lines_by_lf(stream):
        at += len(line)
        if line in (b".\n", b".\r\n"):
            return at
    return None


def lines_by_lf(stream: bytes) -> list[bytes]:
    lines = stream.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + lines[-1:]


def test_every_short_stream_of_a_device_ends_at_a_line_with_a_dot() -> None:
    """All streams over CR, LF, dot and x, whole, octet by octet, and cut in two everywhere."""
    wrong = [
        (stream, blocks)
        for stream in streams(LONGEST - 1)
        for blocks in some_segmentations(stream)
        if device_end_by_definition(stream) != end_found(blocks, EndOfDeviceData)
    ]

    assert wrong == []
