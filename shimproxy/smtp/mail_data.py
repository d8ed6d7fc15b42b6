"""Where mail data ends (RFC 5321 4.1.1.4 and 4.5.2).

Invariants:

1. Only CRLF "." CRLF ends mail data; the CRLF before the dot may be the one that ended the DATA command. Devices that
   know no CR have an end of their own, which no other sender gets.
2. The answer is the same at every segmentation.
3. Nothing is kept of the mail but its last four octets.

A chunk (RFC 3030) ends by count instead, whatever is in it. Neither knows what a block is for: forwarded or drained,
the end is the same.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

_END_OF_DEVICE_DATA = re.compile(rb"\n\.\r?\n").search
END_OF_DATA = b"\r\n.\r\n"

_LEAST_OCTETS: Final = 256
"""How many octets behind a dot are searched for the end: twice as many each time, while dots are near each other."""
_MOST_OCTETS: Final = 32 * 1024
_FAR_OCTETS: Final = 1024
"""A dot that comes after so many octets without one is not near to those before it."""
_PIECE_OCTETS: Final = 64 * 1024
"""What is copied at once, to be counted in."""


@attrs.define(eq=False)
class EndOfData:
    """Finds the end of one mail's data in the blocks that it is fed."""

    _tail: bytes = b"\r\n"  # the end of the DATA command counts as the line end before the first line

    def feed(self, block: bytes | bytearray, start: int, stop: int) -> int | None:
        """Look through `block` from `start` to `stop`.

        Returns the index just behind the final CRLF, or None while mail data goes on. What lies at that
        index is the sender's next command.
        """
        border = self._tail + block[start : min(start + 4, stop)]
        found = border.find(END_OF_DATA)
        if found >= 0:
            return start + found + 5 - len(self._tail)
        end = self._find(block, start, stop)
        if end is None:
            self._tail = bytes(block[stop - 4 : stop]) if stop - start >= 4 else bytes(border[-4:])
        return end

    @staticmethod
    def _find(block: bytes | bytearray, start: int, stop: int) -> int | None:
        """The index behind the first end that lies in the block as a whole.

        Whatever has no dot is left out: looking for one octet is many times faster than for five, and base64 has none.
        """
        at, octets = start, _LEAST_OCTETS
        while (dot := block.find(b".", at, stop)) >= 0:
            if dot - at >= _FAR_OCTETS:
                octets = _LEAST_OCTETS
            elif octets < _MOST_OCTETS:
                octets *= 2
            at = dot + octets
            # Most often there is none, and rfind() says that in half the time of find().
            begin, end = max(dot - 2, start), min(at + 2, stop)
            if block.rfind(END_OF_DATA, begin, end) >= 0:
                return block.find(END_OF_DATA, begin, end) + len(END_OF_DATA)
        return None


@attrs.define(eq=False)
class EndOfDeviceData:
    """Finds the end of mail data where LF alone ends a line: a dot between two of them, with CR or without."""

    _tail: bytes = b"\n"

    def feed(self, block: bytes | bytearray, start: int, stop: int) -> int | None:
        """As EndOfData.feed."""
        border = self._tail + block[start : min(start + 3, stop)]
        if found := _END_OF_DEVICE_DATA(border):
            return start + found.end() - len(self._tail)
        if found := _END_OF_DEVICE_DATA(block, start, stop):
            return found.end()
        self._tail = bytes(block[stop - 3 : stop]) if stop - start >= 3 else bytes(border[-3:])
        return None


@attrs.define(eq=False)
class EndOfChunk:
    """Finds the end of one chunk by its size (RFC 3030 section 2)."""

    left_octets: int
    """How many are still to come."""

    def feed(self, _block: bytes | bytearray, start: int, stop: int) -> int | None:
        """As EndOfData.feed."""
        end = start + self.left_octets
        self.left_octets -= min(stop - start, self.left_octets)
        return end if end <= stop else None


@attrs.define(eq=False)
class Size:
    """Counts one mail's octets as RFC 1870 section 6 has it: CRLF counts, the dots of transparency don't."""

    octets: int = 0
    _tail: bytes = b"\n"
    """The last three octets; the end of the DATA command counts as the line end before the first line."""
    _unjudged_octets: int = 0
    """1 if the last of them is a CR that may belong to the end of mail data."""

    def count(self, block: memoryview | bytes, *, ended: bool) -> None:
        """Take more mail data into account, which `ended` says are the last, with the dot and its CRLF."""
        self.octets += self._unjudged_octets + len(block) - _count_dots(self._tail, block)
        self._tail = (self._tail + bytes(block[-3:]))[-3:]
        self._unjudged_octets = int(self._tail == b"\n.\r")
        # The dot of the end is one of transparency, too.
        self.octets -= 2 if ended else self._unjudged_octets


def _count_dots(before: bytes, block: memoryview | bytes) -> int:
    """How many dots are the first octet of a line in `block`, which comes after the octets `before`."""
    count = int(before.endswith(b"\n") and bytes(block[:1]) == b".")
    for at in range(0, len(block), _PIECE_OCTETS):
        octets = bytes(block[max(at - 1, 0) : at + _PIECE_OCTETS])
        # Most pieces have no dot that could be one, and that is seen at once.
        if b"." in octets:
            count += octets.count(b"\n.")
    return count
