"""A sender's claim to be somebody else, XCLIENT and the like: where octets may be one that a receiver would obey.

It does not know whether they are commands; that depends on the receiver.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from shimproxy.smtp.command import NEVER_LET_THROUGH

claim_in: Final = re.compile(
    rb"(?:\A|(?<=[\r\n]))[^\S\r\n]*(?:(?:%s)\s|(?:%s)\Z)"
    % (
        b"|".join(sorted(NEVER_LET_THROUGH)),
        b"|".join(sorted({word[:end] for word in NEVER_LET_THROUGH for end in range(1, len(word) + 1)}, reverse=True)),
    ),
    re.IGNORECASE,
).search
"""A line that begins as a command which is never let through, or may do so once more of it is there."""
_MOST_OF_LINE: Final = 64


@attrs.define(eq=False)
class ClaimInChunk:
    """Looks for one in a chunk, as a receiver that knows no chunks reads it: as commands."""

    _line: bytes = b""
    """The last line, as far as it is there; of a long one only whether it is blank."""

    @property
    def undecided_octets(self) -> int:
        """How many of the last octets may be the beginning of one."""
        return len(self._line) if self._line and claim_in(self._line) else 0

    def take(self, part: bytes, *, ended: bool) -> str:
        """Look through more of the chunk; the word of a claim, or of what may become one behind its end."""
        text = self._line + part
        found = claim_in(text)
        if found and (ended or found[0][-1:].isspace()):
            return found[0].split()[0].decode("ascii").upper()
        line = text[max(text.rfind(b"\n"), text.rfind(b"\r")) + 1 :]
        if len(line) > _MOST_OF_LINE:
            line = b"..." if line.strip() else b" "
        self._line = line
        return ""
