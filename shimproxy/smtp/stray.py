"""Whether some mail data have a stray octet: a CR without LF, an LF without CR, or a NUL (RFC 5321 2.3.8).

The answer is exact. One way gives it for all mail data: Python's newline decoder, which looks at every octet. Two
others are several times faster. They can show that nothing is stray, and where they can't, the decoder decides:

1. A run, lines of one length as in base64: without the line ends, which stand in two columns, a search for CR, LF and
   NUL finds nothing.
2. Long lines: a copy without CR, in which LF then becomes CRLF, is the same again.

A mail has runs with other lines between them. So the block is taken in portions: a run, or some octets of what lies
between runs. Those are few at first, and each time four times as many, until there is a run again. So what is tried in
vain costs little, whatever the mail data are. No portion ends between CR and LF.
"""

from __future__ import annotations

import io
from typing import Final

_CR: Final = ord("\r")
_LEAST_OCTETS: Final = 1024
"""The first portion between two runs."""
_MOST_OCTETS: Final = 64 * 1024
"""The largest portion: a copy of it stays in the processor's cache."""
_MOST_COPIED_OCTETS: Final = 32 * 1024
"""The largest portion of long lines, of which there are three copies at a time."""
_RUN_OCTETS: Final = 16 * 1024
"""A run that is shorter, and does not go on to the end of the block, is none."""
_FEW_OCTETS: Final = 8 * 1024
"""What is no more goes to the decoder at once: for that the other ways cost more than they save."""
_LEAST_LINE_OCTETS: Final = 40
"""In a run; the columns of shorter lines cost more than the decoder."""
_MOST_LINE_OCTETS: Final = 1000
"""In a run (RFC 5321 4.5.3.1.6); two such lines are fewer than few octets."""
_LONG_LINES_OCTETS: Final = 512
"""Two lines that are as long together are long ones."""
_OCTETS_A_LINE: Final = 128
"""Copies are made of portions with no more lines than one in so many octets, as each line costs."""


def has_stray(block: bytearray, start: int, stop: int) -> bool:
    """Whether there is a CR without LF, an LF without CR, or a NUL in `block` from `start` to `stop`."""
    view = memoryview(block)
    if stop - start <= _FEW_OCTETS:
        return _has_stray_by_decoder(view[start:stop])
    at, portion_octets = start, _LEAST_OCTETS
    while at < stop:
        end, long_lines = stop, False
        if stop - at > _FEW_OCTETS:
            first = block.find(b"\n", at, at + _MOST_LINE_OCTETS)
            second = block.find(b"\n", first + 1, first + 1 + _MOST_LINE_OCTETS) if first >= 0 else -1
            if first > at and second - first >= _LEAST_LINE_OCTETS:
                behind_run = _end_of_run(block, at, first, second - first, stop)
                if behind_run > at:
                    at, portion_octets = behind_run, _LEAST_OCTETS
            long_lines = second < 0 or second - at >= _LONG_LINES_OCTETS
            most_octets = _MOST_COPIED_OCTETS if long_lines else _MOST_OCTETS
            end = min(at + min(portion_octets, most_octets), stop)
            if end < stop and block[end - 1] == _CR:
                end += 1
            portion_octets = min(4 * portion_octets, _MOST_OCTETS)
        octets = view[at:end]
        if not (long_lines and _is_clean_by_copy(bytes(octets))) and _has_stray_by_decoder(octets):
            return True
        at = end
    return False


def _end_of_run(block: bytearray, at: int, first: int, line_octets: int, stop: int) -> int:
    """The index behind the last line end of a run that begins at `at` and is clean; `at` itself if there is none.

    Args:
        block: the mail data.
        at: where the first line, or the rest of one, begins.
        first: its LF.
        line_octets: how long the lines are, with their ends.
        stop: where the mail data end in the block.
    """
    column = block[first : min(at + _RUN_OCTETS, stop) : line_octets]
    if column != b"\n" * len(column):
        return at
    whole = True
    while whole and first < stop:
        column = block[first : min(at + _MOST_OCTETS, stop) : line_octets]
        count = len(column)
        whole = column == b"\n" * count
        if not whole:
            count -= len(column.lstrip(b"\n"))
        end = first + (count - 1) * line_octets + 1
        if not count or block[first - 1 : end - 1 : line_octets] != b"\r" * count:
            break
        # Without the line ends, whatever is found is stray; looking for one octet is many times faster than that.
        octets = block[at:end]
        octets[first - at :: line_octets] = octets[first - at - 1 :: line_octets] = bytearray(count * b"x")
        if octets.find(b"\r") >= 0 or octets.find(b"\n") >= 0 or octets.find(b"\0") >= 0:
            break
        at, first = end, end - 1 + line_octets
    return at


def _is_clean_by_copy(octets: bytes) -> bool:
    """Whether nothing is stray; a False may be wrong."""
    without = octets.replace(b"\r", b"", len(octets) // _OCTETS_A_LINE)
    return without.find(b"\r") < 0 and without.replace(b"\n", b"\r\n") == octets and octets.find(b"\0") < 0


def _has_stray_by_decoder(octets: memoryview) -> bool:
    text = str(octets, "latin-1")
    # It tells which of CR, LF and CRLF it has seen, in one pass.
    decoder = io.IncrementalNewlineDecoder(None, translate=False)
    decoder.decode(text, final=True)
    return decoder.newlines not in (None, "\r\n") or "\0" in text
