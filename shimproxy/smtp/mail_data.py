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

import attrs

_END_OF_DEVICE_DATA = re.compile(rb"\n\.\r?\n").search
END_OF_DATA = b"\r\n.\r\n"

# A block with more dots than this before its end is searched for the whole sequence instead. Base64 has no
# dots at all, so that looking for a dot first is the cheaper half of the world's mail data.
_DOTS_TRIED = 8


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
        dot = start - 1
        for _ in range(_DOTS_TRIED):
            dot = block.find(b".", dot + 1, stop)
            if dot < 0:
                return None
            # Three octets before and after the bounds can't match: find() gives -1 for those.
            if dot >= start + 2 and block.find(END_OF_DATA, dot - 2, min(dot + 3, stop)) >= 0:
                return dot + 3
        found = block.find(END_OF_DATA, max(dot - 1, start), stop)
        return found + 5 if found >= 0 else None


@attrs.define(eq=False)
class EndOfDeviceData:
    """Finds the end of mail data where LF alone ends a line: a dot between two of them, with CR or without."""

    _tail: bytes = b"\n"

    def feed(self, block: bytes | bytearray, start: int, stop: int) -> int | None:
        """As EndOfData.feed."""
        octets = self._tail + block[start:stop]
        found = _END_OF_DEVICE_DATA(octets)
        if found:
            return start + found.end() - len(self._tail)
        self._tail = octets[-3:]
        return None


@attrs.define(eq=False)
class Counted:
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
    _at_line_start: bool = True
    _held: bytes = b""
    """What may be the beginning of the last line."""

    def count(self, block: memoryview | bytes, *, ended: bool) -> None:
        """Take more mail data into account, which `ended` says are the last, with the dot and its CRLF."""
        octets = self._held + bytes(block)
        if ended:
            octets = octets.removesuffix(b".\r\n")
        else:
            self._held = self._beginning_of_an_end(octets)
            octets = octets[: len(octets) - len(self._held)]
        if not octets:
            return
        # Most blocks have no dot that could be one, and that is seen at once.
        dots = octets.count(b"\n.") if b"." in octets else 0
        dots += self._at_line_start and octets.startswith(b".")
        self.octets += len(octets) - dots
        self._at_line_start = octets.endswith(b"\n")

    def _beginning_of_an_end(self, octets: bytes) -> bytes:
        for tail in (b".", b".\r"):
            if octets.endswith(b"\n" + tail) or (octets == tail and self._at_line_start):
                return tail
        return b""
