"""Mail data of the two kinds that cost a proxy unlike much: base64, which has no dots, and prose, which has.

The same octets in each run.
"""

from __future__ import annotations

import base64
import random
from typing import Final

BLOCK_OCTETS: Final = 1024 * 1024
LINE_OCTETS: Final = 76
END_OF_DATA: Final = b"\r\n.\r\n"


def base64_block(size_octets: int = BLOCK_OCTETS) -> bytes:
    """Whole lines of base64, about `size_octets`: no dot in them."""
    lines = max(1, size_octets // (LINE_OCTETS + 2))
    raw_octets = lines * LINE_OCTETS * 3 // 4
    return base64.encodebytes(random.Random(1).randbytes(raw_octets)).replace(b"\n", b"\r\n")


def prose_block(size_octets: int = BLOCK_OCTETS) -> bytes:
    """Whole lines of words, about `size_octets`: a dot after some ten words, and a dot-stuffed line now and then."""
    dice = random.Random(1)
    lines: list[str] = []
    made_octets = 0
    line = ""
    while made_octets < size_octets:
        word = "".join(dice.choices("etaoinshrdlu", k=dice.randrange(2, 9))) + ("." if dice.random() < 0.1 else "")
        if len(line) + 1 + len(word) > LINE_OCTETS:
            lines.append(f"..{line[1:]}" if dice.random() < 0.01 else line)
            made_octets += len(line) + 2
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "\r\n".join([*lines, ""]).encode()


BLOCKS: Final = {"base64": base64_block, "prose": prose_block}


def small_mail(size_octets: int) -> bytes:
    """Mail data of about `size_octets`, with its end."""
    return b"Subject: bench\r\n\r\n" + base64_block(size_octets)[:-2] + END_OF_DATA
