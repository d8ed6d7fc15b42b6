"""Mail data: their end, their size and their newlines (smtp/mail_data.py, newlines.py, stray.py); chunks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from shimproxy.net.block import BLOCK_START
from shimproxy.smtp import mail_data, newlines, stray
from shimproxy.smtp.command import CommandReader, Verb, chunk_of
from shimproxy.smtp.mail_data import EndOfChunk, EndOfData, EndOfDeviceData, Size
from shimproxy.smtp.newlines import Normaliser
from shimproxy.smtp.stray import has_stray
from tests.fuzz.target import Target, all_alike, joined
from tests.smtp.test_mail_data import device_end_by_definition, end_by_definition
from tests.smtp.test_newlines import canonical_by_definition
from tests.smtp.test_stray import stray_by_definition

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_REGULAR: Final = 20 * 1024
"""So many octets of regular lines `has_stray` takes as a run."""
_MOST_OCTETS: Final = 64 * 1024
_RUN: Final = (b"x" * 76 + b"\r\n") * (_REGULAR // 78)
_LONG_LINES: Final = (b"x" * 900 + b"\r\n") * 8
_WORDS = (
    *(
        b"\r\n.\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b".",
        b"\0",
        b"..",
        b".\r",
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"x",
    ),
    *(b"." * 9, b"x.y." * 5, b"QUIT\r\n", b"BDAT 3\r\n", b"BDAT 0 LAST\r\n", b"BDAT 12 LAST\r\n", b"x" * 78 + b"\r\n"),
)
_SEEDS = (
    b"Subject: a mail\r\n\r\n..stuffed\r\n.\r\nQUIT\r\n",
    b"line\n.\nMAIL FROM:<>\r\n.\r\n",
    b"a.b.c.d.e.f.g.h.i.j.k\r\n.\r\n",
    b".\r\n",
    b"BDAT 3\r\nabcBDAT 4 LAST\r\n\r\n.\nQUIT\r\n",
)


def read(pieces: Iterable[bytes], *, lf: bool) -> tuple[bytes, int | None, int, int]:
    """What comes out of the data in these pieces, where their end is, their size, and how many octets were stray."""
    end: EndOfData | EndOfDeviceData = EndOfDeviceData() if lf else EndOfData()
    normaliser, size, out, came = Normaliser(lf_ends_lines=lf), Size(), bytearray(), 0
    for piece in pieces:
        buffer = bytearray(b"".join((bytes(BLOCK_START), piece)))
        found = end.feed(buffer, BLOCK_START, len(buffer))
        stop = len(buffer) if found is None else found
        portion = bytes(normaliser.feed(buffer, BLOCK_START, stop, ended=found is not None))
        size.count(portion, ended=found is not None)
        out += portion
        if found is not None:
            return bytes(out), came + found - BLOCK_START, size.octets, normaliser.stray_count
        came += len(piece)
    return bytes(out), None, size.octets, normaliser.stray_count


def _naive_size(canonical: bytes) -> int:
    """Of mail data with their end: without that, and without the dots of transparency."""
    assert canonical.endswith(b".\r\n")
    return sum(len(line.removeprefix(b".")) for line in re.findall(rb"[^\n]*\n|[^\n]+", canonical[:-3]))


def check_mail_data(octets: bytes, pieces: Sequence[bytes]) -> None:
    out, end, size, stray = read([octets], lf=False)
    assert end == end_by_definition(octets), f"the end is at {end}, naively {end_by_definition(octets)}"
    canonical, _ = canonical_by_definition(octets)
    if end is None:
        assert canonical.startswith(out), f"{out!r}, naively {canonical!r}"
        assert len(canonical) - len(out) <= 4, f"{len(canonical) - len(out)} octets are held"
    else:
        assert out == canonical, f"{out!r}, naively {canonical!r}"
        assert size == _naive_size(canonical), f"size {size}, naively {_naive_size(canonical)}"
        assert (stray > 0) is stray_by_definition(octets[:end]), f"{stray} stray"
    all_alike(lambda each: _at_the_end(read(each, lf=False)), octets, pieces)


def check_device_data(octets: bytes, pieces: Sequence[bytes]) -> None:
    out, end, size, stray = read([octets], lf=True)
    assert end == device_end_by_definition(octets), f"the end is at {end}, naively {device_end_by_definition(octets)}"
    canonical = re.sub(rb"\r?\n", b"\r\n", octets[:end])
    canonical = re.sub(rb"\r(?!\n)|\0", b" ", canonical)
    if end is None:
        assert canonical.startswith(out), f"{out!r}, naively {canonical!r}"
    else:
        assert out == canonical, f"{out!r}, naively {canonical!r}"
        assert size == _naive_size(canonical)
        assert (stray > 0) is bool(re.search(rb"\r(?!\n)|\0", octets[:end]))
    all_alike(lambda each: _at_the_end(read(each, lf=True)), octets, pieces)


def _at_the_end(found: tuple[bytes, int | None, int, int]) -> object:
    """All of it if the end has come; before that, what is held may be of another length."""
    return found if found[1] is not None else found[0]


def check_stray(octets: bytes, pieces: Sequence[bytes]) -> None:
    """Alone, and among many lines: those of one length are taken in another way, and so are long ones."""
    first, *_ = pieces
    line = first.replace(b"\n", b"x") + b"\r\n"
    many = line * (_REGULAR // len(line))
    for each in (
        *(octets, many, many + octets, octets + many, many + octets.ljust(len(line), b"x") + many),
        *(_LONG_LINES + octets + _LONG_LINES, _RUN + octets + _LONG_LINES + many),
    ):
        if len(each) <= _MOST_OCTETS:
            found = _has_stray(each)
            assert found is stray_by_definition(each), f"{found} for {each[:200]!r} and so on"


def _has_stray(octets: bytes) -> bool:
    return has_stray(bytearray(octets), 0, len(octets))


# -- chunks


def read_chunks(pieces: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """The commands, each with the octets of its chunk, as far as they came."""
    reader, found, open_chunk = CommandReader(512), list[tuple[bytes, bytes]](), None
    for piece in pieces:
        reader.feed(piece)
        while True:
            if open_chunk is not None:
                ahead = reader.take_ahead()
                end = open_chunk.feed(ahead, 0, len(ahead))
                found[-1] = found[-1][0], found[-1][1] + ahead[:end]
                if end is None:
                    break
                reader.feed(ahead[end:])
                open_chunk = None
            elif each := reader.next_command():
                found.append((each.line, b""))
                chunk = chunk_of(each.line) if each.verb is Verb.BDAT else None
                open_chunk = EndOfChunk(chunk.size_octets) if chunk and chunk.size_octets else None
                if each.foreign:
                    return found[:-1]
            else:
                break
    return found


def naive_chunks(stream: bytes) -> list[tuple[bytes, bytes]]:
    """The same, of the whole stream."""
    found, at = list[tuple[bytes, bytes]](), 0
    while (end := stream.find(b"\n", at) + 1) > 0:
        line = stream[at:end]
        size = re.fullmatch(rb"(?i)[ \t]*BDAT[ \t]+([0-9]{1,10})([ \t]+LAST)?[ \t]*\r?\n", line)
        octets = int(size[1]) if size and not line.startswith((b" ", b"\t")) else 0
        octets = octets if octets < 2**31 else 0
        found.append((line, stream[end : end + octets]))
        at = end + octets
    return found


def check_chunks(octets: bytes, pieces: Sequence[bytes]) -> None:
    found, expected = read_chunks([octets]), naive_chunks(octets)
    lengths = [len(chunk) for _, chunk in found]
    naively = [len(chunk) for _, chunk in expected]
    assert lengths == naively[: len(lengths)], f"{lengths}, naively {naively}"
    all_alike(read_chunks, octets, pieces)


def _run(pieces: Sequence[bytes]) -> None:
    for lf in (False, True):
        read(pieces, lf=lf)
    end = EndOfData()
    for piece in pieces:
        if end.feed(piece, 0, len(piece)) is not None:
            break


TARGETS = (
    Target(
        name="mail-data",
        parsers=(mail_data, newlines, stray),
        check=check_mail_data,
        run=_run,
        words=_WORDS,
        seeds=_SEEDS,
    ),
    Target(
        name="device-data",
        parsers=(mail_data, newlines, stray),
        check=check_device_data,
        run=_run,
        words=_WORDS,
        seeds=_SEEDS,
    ),
    Target(
        name="stray",
        parsers=(stray,),
        check=check_stray,
        run=lambda pieces: _has_stray(_RUN + joined(pieces) + _RUN + _LONG_LINES),
        words=_WORDS,
        seeds=_SEEDS,
    ),
    Target(
        name="chunks",
        parsers=(mail_data,),
        check=check_chunks,
        run=read_chunks,
        words=_WORDS,
        seeds=_SEEDS,
        most_steps=400,
    ),
)
