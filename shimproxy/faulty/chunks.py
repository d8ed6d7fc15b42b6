"""A receiver that offers CHUNKING and takes mail data in chunks (RFC 3030), for the fault receivers of the table.

1. A chunk is counted: its octets are lines or commands only to a receiver whose fault that is.
2. Each chunk has one reply: 250 where others follow; to the last, what the fault receiver says. One that was early is
   that of its chunk, and is said again to each chunk behind it that still comes.
3. DATA is not taken: whoever was offered chunks and sends none does not get its mail through.
"""

from __future__ import annotations

from typing import ClassVar, Final

import attrs

from shimproxy.faulty.talk import EHLO, Talk, Unfinished

_MORE: Final = b"250 2.0.0 Ok: go on\r\n"


@attrs.define(eq=False)
class ChunkTalk(Talk):
    """A receiver's side of one connection, on which mail data come in chunks."""

    OFFERED: ClassVar = EHLO.replace(b"250-SIZE", b"250-CHUNKING\r\n250-SIZE")
    MAIL_DATA: ClassVar = b"BDAT"

    _left_octets: int = 0
    """What is still to be read of the chunk."""
    _last: bool = False
    _answered: bool = False
    """Whether the chunk has its reply."""
    _early: bytes = b""
    """The early reply to the mail."""

    def begin(self, line: bytes) -> None:
        """Take note of BDAT, the first of a mail."""
        super().begin(line)
        self._early = b""
        self._begin_chunk(line)

    def _begin_chunk(self, line: bytes) -> None:
        _, size, *last = line.split()
        self._left_octets, self._last, self._answered = int(size), bool(last), False
        self.ended = self._last and not self._left_octets

    def go_on(self) -> None:
        """Nothing: chunks are not waiting to be asked for."""

    def part(self, octets: int) -> bytes:
        """Read exactly that much of the mail data, or all; raises Unfinished if the sender stops between chunks."""
        data = bytearray()
        while octets and not self.ended:
            if not self._left_octets:
                self._next_chunk()
            elif not self._unread:
                self._more(min(octets, self._left_octets))
            piece = self._unread[: min(octets, self._left_octets)]
            del self._unread[: len(piece)]
            self._left_octets -= len(piece)
            self.ended = self._last and not self._left_octets
            octets -= len(piece)
            data += piece
        return bytes(data)

    def whole(self) -> bytes:
        """Read mail data to the end of their last chunk; raises Gone or Unfinished if there is none."""
        data = bytearray(self.part(self._left_octets))
        while not self._last:
            self._next_chunk()
            data += self.part(self._left_octets)
        if self._early and not self._answered:
            self.say(self._early)
        return bytes(data)

    def _next_chunk(self) -> None:
        """Answer the chunk that was read, and begin with the one behind it."""
        if not self._answered:
            self.say(self._early or _MORE)
        line = self.line(most_octets=1)
        if line[:4].upper() != self.MAIL_DATA:
            self._unread[:0] = line + b"\r\n"
            raise Unfinished
        self._begin_chunk(line)

    def early(self, octets: bytes, *, in_pieces: bool = False) -> None:
        """Reply before the end of the chunk."""
        self._early, self._answered = octets, True
        super().early(octets, in_pieces=in_pieces)
