"""Mail data, or a chunk, that pass as they come: how far they are, and what is stray in them.

It alters nothing, and does not know what becomes of them.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from shimproxy.session.trace import Kind
from shimproxy.smtp.mail_data import EndOfChunk, EndOfData
from shimproxy.smtp.newlines import Newlines, Normaliser

_FALSE_END: Final = re.compile(rb"\r\n\.(?:\n|\0|\r[^\n])|(?:(?<!\r)\n|\r|\0)\.[\r\n\0]", re.DOTALL).search
"""A dot alone on its line for whoever takes something stray for a line end: an SMTP smuggler's end of a mail."""
_TAIL_OCTETS: Final = 4


@attrs.define(eq=False)
class ObservedMail:
    """Mail data, or a chunk, on their way."""

    newlines: Newlines
    chunk_octets: int | None = None
    """How long the chunk is, if it is one."""
    last: bool = True
    due: int = 1
    """How many replies are still to come."""
    octets: int = 0
    ends_at: int | None = None
    """Where in what the sender has said, once its end has come."""
    answered_early: bool = False
    accepted: bool = False
    """Whether one of its replies was a 2yz."""
    has_false_end: bool = False
    """Whether a lax receiver would take something in it for its end."""
    _end: EndOfData | EndOfChunk = attrs.field(init=False)
    _normaliser: Normaliser = attrs.field(factory=Normaliser)
    _tail: bytes = b"\r\n"

    def __attrs_post_init__(self) -> None:
        self._end = EndOfData() if self.chunk_octets is None else EndOfChunk(self.chunk_octets)

    def __str__(self) -> str:
        return "the end of mail data" if self.chunk_octets is None else "the chunk"

    @property
    def kind(self) -> Kind:
        """What a trace calls it."""
        return Kind.MAIL_DATA if self.chunk_octets is None else Kind.CHUNK

    @property
    def undecided_octets(self) -> int:
        """How many of its last octets are its end, or that of a smuggler, by what comes next."""
        return int(self._tail == b"\r\n.\r" and self.newlines is not Newlines.PASS)

    def take(self, octets: bytes) -> int | None:
        """Look through more of it; where it ends, if it does."""
        end = self._end.feed(octets, 0, len(octets))
        part = octets if end is None else octets[:end]
        self.octets += len(part)
        if self.chunk_octets is None:
            block = bytearray(_TAIL_OCTETS) + part
            self._normaliser.feed(block, _TAIL_OCTETS, len(block), ended=end is not None)
            text = self._tail + part
            self.has_false_end = self.has_false_end or bool(_FALSE_END(text))
            self._tail = text[-_TAIL_OCTETS:]
        return end

    @property
    def is_refused(self) -> bool:
        """Whether it is not to be let through, by the operator's decision about newlines."""
        match self.newlines:
            case Newlines.PASS:
                return False
            case Newlines.REJECT:
                return bool(self._normaliser.stray_count) or self.has_false_end
            case _:
                return self.has_false_end

    @property
    def stray_seen(self) -> dict[str, int | str]:
        """What was stray, and where the first one stands; empty if nothing was, or if that is as it should be."""
        if not self._normaliser.stray_count or self.newlines is Newlines.PASS:
            return {}
        seen = attrs.asdict(self._normaliser.seen) if self._normaliser.seen else {}
        figures = {name: figure for name, figure in seen.items() if figure is not None}
        return {"count": self._normaliser.stray_count, "newlines": self.newlines.value, **figures}
