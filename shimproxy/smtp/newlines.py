"""Whether every line of some mail data ends in CRLF, and what becomes of what does not (RFC 5321 2.3.8).

A bare LF, a bare CR and a NUL are stray: a lax receiver may see in them the end of a line, of a mail, or of a string,
where a strict one sees nothing, and between the two there is room for a smuggled mail.

Whether there is anything stray is asked in stray.py.
"""

from __future__ import annotations

import enum
import re

import attrs

from shimproxy.smtp.stray import has_stray

_DOT = ord(".")
# A dot alone on its line but for something stray; an LF with the dot behind it; a CR; a NUL.
_STRAY = re.compile(rb"(?<=\r\n)\.(?=\n|\0|\r(?!\n))|(?<!\r)\n\.?|\r(?!\n)|\0")
_DOT_ALONE = re.compile(rb"(?<=\r\n)\.(?=\n|\0|\r(?!\n))")  # which is not stray, but the octet behind it
_STRAY_OF_DEVICES = re.compile(rb"(?<!\r)\n|\r(?!\n)|\0")

_FIRST = re.compile(rb"(?<!\r)\n|\r(?!\n)|\0").search
_FIRST_OF_DEVICES = re.compile(rb"\r(?!\n)|\0").search
_COUNTED_OCTETS = 64 * 1024
"""In how much of clean mail data lines are counted: to count them in all would cost more than to judge them."""


class Newlines(enum.StrEnum):
    """What is done about stray octets, in commands and mail data."""

    NORMALISE = "normalise"
    """Mail data: LF becomes CRLF, CR and NUL become a blank. Commands: LF becomes CRLF, CR and NUL are refused."""
    REJECT = "reject"
    """The mail is drained and refused, the command is refused."""
    PASS = "pass"
    """Octet for octet."""


@attrs.define(eq=False)
class StraySeen:
    """What the stray octets of one mail's data are, and where the first one stands."""

    bare_lf: int = 0
    bare_cr: int = 0
    nul: int = 0
    first_octet: int = 0
    """Its place in the mail data, from 0."""
    first_line: int | None = None
    """Its line, from 1; None where it stands too far behind the beginning for lines to have been counted."""

    def count(self, octets: bytes, *, lf_ends_lines: bool) -> None:
        """Take octets into account that are not parted within a line end."""
        pairs = octets.count(b"\r\n")
        self.bare_cr += octets.count(b"\r") - pairs
        self.nul += octets.count(b"\0")
        if not lf_ends_lines:
            self.bare_lf += octets.count(b"\n") - pairs


@attrs.define(eq=False)
class Normaliser:
    """Makes one mail's data canonical, block by block, so that no receiver however lax sees an end but the true one.

    1. What is canonical comes out octet for octet, at every segmentation.
    2. A bare LF becomes CRLF; a bare CR or a NUL becomes a blank, as Postfix has it for the CR.
    3. A dot behind a line end that was made here is stuffed (RFC 5321 4.5.2): to the sender it was no first octet of
       a line. So is one that stands alone on its line but for a stray octet.
    4. What can't be judged before more is known, two octets at most, is held until then.

    Where `lf_ends_lines`, a sender means a line end by LF, and has stuffed the dots behind it itself.
    """

    lf_ends_lines: bool = False
    stray_count: int = 0
    """How many octets were stray; where `lf_ends_lines`, an LF alone is none."""
    seen: StraySeen | None = None
    """What they were, if there were any."""
    _octets_before: int = 0
    """What was judged before, of the mail data as they came."""
    _lines_before: int = 0
    """Their lines, of those octets in which they are counted."""
    _before: bytes = b"\r\n"
    """The line end before the next octet, if there is one; the end of the DATA command counts."""
    _held: bytes = b""

    def feed(self, block: bytearray, start: int, stop: int, *, ended: bool) -> memoryview | bytes:
        """What is to be forwarded for the mail data at `start` to `stop` of `block`.

        Args:
            block: two octets before `start` are overwritten.
            start: where the octets begin.
            stop: where they end.
            ended: whether the last of them are the end of mail data.
        """
        if self._held:
            start -= len(self._held)
            block[start : start + len(self._held)] = self._held
            self._held = b""
        before = self._before
        if not ended:
            stop = self._look_ahead(block, start, stop)
            if start == stop:
                return b""
        if has_stray(block, start, stop) or (before == b"\n" and block[start] == _DOT):
            octets = bytes(memoryview(block)[start:stop])
            self._see(octets)
            return self._without_stray(before, octets, ended)
        if not (ended or self.seen):
            self._count_lines(block, start, stop)
        return memoryview(block)[start:stop]

    def _count_lines(self, block: bytearray, start: int, stop: int) -> None:
        """Count clean octets that others follow."""
        self._octets_before += stop - start
        if self._octets_before <= _COUNTED_OCTETS:
            self._lines_before += block.count(b"\n", start, stop)

    def _see(self, octets: bytes) -> None:
        """Note what is stray in these, of which something may be."""
        seen = self.seen
        if seen is None and (first := (_FIRST_OF_DEVICES if self.lf_ends_lines else _FIRST)(octets)):
            line = None
            if self._octets_before <= _COUNTED_OCTETS:
                line = self._lines_before + octets.count(b"\n", 0, first.start()) + 1
            seen = self.seen = StraySeen(first_octet=self._octets_before + first.start(), first_line=line)
        if seen:
            seen.count(octets, lf_ends_lines=self.lf_ends_lines)
        else:
            self._count_lines(bytearray(octets), 0, len(octets))

    def _look_ahead(self, block: bytearray, start: int, stop: int) -> int:
        """Hold what can't be judged yet; up to where there is something to be judged now."""
        line_end = b"\n" if self.lf_ends_lines else b"\r\n"
        self._held = _unjudged((self._before + block[max(start, stop - 4) : stop])[-4:], line_end)
        stop -= len(self._held)
        if start < stop:
            last = bytes(block[max(start, stop - 2) : stop])
            self._before = b"\r\n" if last.endswith(line_end) else last[-1:] if last.endswith(b"\n") else b""
        return stop

    def _without_stray(self, before: bytes, octets: bytes, ended: bool) -> bytes:
        pattern = _STRAY_OF_DEVICES if self.lf_ends_lines else _STRAY
        octets = before + octets
        end = b""
        if ended:
            octets = octets[: octets.rindex(b".")]
            end = b".\r\n"
        made_canonical, count = pattern.subn(_replacement, octets)
        if self.lf_ends_lines:
            count -= octets.count(b"\n") - octets.count(b"\r\n")
        else:
            count -= len(_DOT_ALONE.findall(octets)) + (before == b"\n")
        self.stray_count += count
        return made_canonical[2 if before else 0 :] + end


def _unjudged(tail: bytes, line_end: bytes) -> bytes:
    """The octets at the end of `tail` that mean one thing or another by what comes next."""
    for octets in (b".\r", b"."):
        if tail.endswith(line_end + octets):
            return octets
    return b"\r" if tail.endswith(b"\r") else b""


def _replacement(stray: re.Match[bytes]) -> bytes:
    match stray[0]:
        case b"\n":
            return b"\r\n"
        case b"\n.":
            return b"\r\n.."
        case b".":
            return b".."
        case _:
            return b" "
