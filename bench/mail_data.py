"""Mail data of the kinds that cost a proxy unlike much: by the length of lines, and with dots or without.

The same octets in each run.
"""

from __future__ import annotations

import base64
import quopri
import random
import re
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK_OCTETS: Final = 1024 * 1024
LINE_OCTETS: Final = 76
END_OF_DATA: Final = b"\r\n.\r\n"
_SAMPLE_OCTETS: Final = 256 * 1024
_LONG_LINE_OCTETS: Final = (400, 2400)
_ATTACHMENT_OCTETS: Final = (8_000, 90_000)
_BOUNDARY: Final = "=_bench"


def base64_block(size_octets: int = BLOCK_OCTETS) -> bytes:
    """Whole lines of base64, about `size_octets`: no dot in them, and all of one length."""
    lines = max(1, size_octets // (LINE_OCTETS + 2))
    return _base64(random.Random(1).randbytes(lines * LINE_OCTETS * 3 // 4))


def prose_block(size_octets: int = BLOCK_OCTETS) -> bytes:
    """Whole lines of words, about `size_octets`: a dot after some ten words, and a dot-stuffed line now and then."""
    return _repeated(partial(_prose, random.Random(1)), size_octets)


def quoted_printable_block(size_octets: int = BLOCK_OCTETS) -> bytes:
    """Words in quoted-printable, about `size_octets`: lines that are nearly of one length."""
    return _repeated(partial(_quoted_printable, random.Random(1)), size_octets)


def long_lines_block(size_octets: int = BLOCK_OCTETS) -> bytes:
    """HTML in lines of 400 to 2,400 octets, about `size_octets`."""
    return _repeated(partial(_long_lines, random.Random(1)), size_octets)


def mixed_block(size_octets: int = BLOCK_OCTETS) -> bytes:
    """Whole mails, about `size_octets`, as most are: headers, text, quoted-printable, three attachments in base64."""
    dice = random.Random(1)
    made = bytearray()
    while len(made) < size_octets:
        made += b"".join(_mixed_mail(dice))
    return bytes(made)


def _mixed_mail(dice: random.Random) -> Iterator[bytes]:
    for hop in range(4):
        yield (
            f"Received: from {_word(dice)}.example (relay{hop}.{_word(dice)}.example [192.0.2.{hop + 1}])\r\n"
            f"\tby mx.{_word(dice)}.example (Postfix) with ESMTPS id {dice.getrandbits(44):011X}\r\n"
            f"\tfor <{_word(dice)}@bench.example>; Mon, {hop + 2} Feb 2026 10:0{hop}:17 +0000 (UTC)\r\n"
        ).encode()
    yield (
        f"From: {_word(dice)} <{_word(dice)}@bench.example>\r\nTo: {_word(dice)}@bench.example\r\n"
        f"Subject: {_word(dice)} {_word(dice)}\r\nMessage-ID: <{dice.getrandbits(64):x}@bench.example>\r\n"
        f'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="{_BOUNDARY}"\r\n\r\n'
    ).encode()
    for kind, encoding, made in (
        ("text/plain; charset=us-ascii", "7bit", _prose(dice, 1000)),
        ("text/html; charset=utf-8", "quoted-printable", _quoted_printable(dice, 3000)),
        *(
            (
                f"application/pdf; name={_word(dice)}.pdf",
                "base64",
                _base64(dice.randbytes(dice.randrange(*_ATTACHMENT_OCTETS))),
            )
            for _ in range(3)
        ),
    ):
        head = f"--{_BOUNDARY}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        yield head.encode() + made + b"\r\n"
    yield f"--{_BOUNDARY}--\r\n\r\n".encode()


def _repeated(make: Callable[[int], bytes], size_octets: int) -> bytes:
    """About so many octets, of which `make` has to make only the first: words are slow to make."""
    sample = make(min(size_octets, _SAMPLE_OCTETS))
    return sample * max(1, round(size_octets / len(sample)))


def _base64(octets: bytes) -> bytes:
    return base64.encodebytes(octets).replace(b"\n", b"\r\n")


def _quoted_printable(dice: random.Random, size_octets: int) -> bytes:
    paragraphs: list[str] = []
    made_octets = 0
    while made_octets < size_octets:
        words = [_word(dice, 3 * "etaoinshrdlu" + "äöü") for _ in range(dice.randrange(20, 120))]
        paragraphs.append(" ".join(words) + ".")
        made_octets += len(quopri.encodestring(paragraphs[-1].encode()))
    encoded = quopri.encodestring("\n".join([*paragraphs, ""]).encode()).replace(b"\n", b"\r\n")
    return re.sub(rb"(?m)^\.", b"..", encoded)


def _prose(dice: random.Random, size_octets: int) -> bytes:
    lines: list[str] = []
    made_octets = 0
    line = ""
    while made_octets < size_octets:
        word = _word(dice) + ("." if dice.random() < 0.1 else "")
        if len(line) + 1 + len(word) > LINE_OCTETS:
            lines.append(f"..{line[1:]}" if dice.random() < 0.01 else line)
            made_octets += len(line) + 2
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "\r\n".join([*lines, ""]).encode()


def _long_lines(dice: random.Random, size_octets: int) -> bytes:
    lines: list[str] = []
    made_octets = 0
    while made_octets < size_octets:
        line, most_octets = "", dice.randrange(*_LONG_LINE_OCTETS)
        while len(line) < most_octets:
            words = " ".join(_word(dice) for _ in range(dice.randrange(1, 12)))
            line += f'<td class="{_word(dice)}" style="padding:0 .5em">{words}</td>'
        lines.append(line)
        made_octets += len(line) + 2
    return "\r\n".join([*lines, ""]).encode()


def _word(dice: random.Random, letters: str = "etaoinshrdlu") -> str:
    return "".join(dice.choices(letters, k=dice.randrange(2, 9)))


BLOCKS: Final[dict[str, Callable[[int], bytes]]] = {
    "mixed": mixed_block,
    "base64": base64_block,
    "prose": prose_block,
    "quoted-printable": quoted_printable_block,
    "long-lines": long_lines_block,
}


def small_mail(size_octets: int) -> bytes:
    """Mail data of about `size_octets`, with its end."""
    return b"Subject: bench\r\n\r\n" + base64_block(size_octets)[:-2] + END_OF_DATA
