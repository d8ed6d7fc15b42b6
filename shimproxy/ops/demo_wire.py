"""What both peers of the demo use: the trace of a run, the mail that is sent, and a plain connection.

No deadlines here: whoever waits brings one.
"""

from __future__ import annotations

import contextlib
import os
import socket
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.ops.journal import escaped
from shimproxy.ops.ladder import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_OCTETS: Final = 536
"""What the sender of the article wrote at a time."""
_LONGEST_LINE_OCTETS = 64 * 1024
_FILLER = b"This line is one of many that are in a mail of considerable size\r\n".rjust(67, b">")


@attrs.define(eq=False)
class Trace:
    """The frames of a run, numbered as they come; the window of a network monitor."""

    frames: list[Frame] = attrs.field(factory=list)
    _count: int = 0

    def add(self, who: str, whom: str, what: str = "", mail_octets: int = 0) -> None:
        """Write down a frame."""
        self._count += 1
        self.frames.append(Frame(str(self._count), who, whom, what, mail_octets))

    def note(self, party: str, what: str) -> None:
        """Write down what befell a party."""
        self.frames.append(Frame("", party, party, what))


@attrs.frozen
class Mail:
    """An envelope, and mail data of at least `octets` in whole pieces, without the final dot."""

    octets: int
    reverse_path: str = "<sender@example.com>"
    recipient: str = "<recipient@example.com>"
    date: str = attrs.field(factory=lambda: formatdate(localtime=True))

    def pieces(self) -> Iterator[bytes]:
        """The mail data, PIECE_OCTETS at a time; it ends in CRLF and no line of it begins with a dot."""
        head = (
            f"From: {self.reverse_path}\r\nTo: {self.recipient}\r\nDate: {self.date}\r\n"
            "Subject: shimproxy demo\r\nX-Filler: "
        ).encode()
        head += b"-" * (-(len(head) + 4) % PIECE_OCTETS) + b"\r\n\r\n"
        for start in range(0, len(head), PIECE_OCTETS):
            yield head[start : start + PIECE_OCTETS]
        filler = _FILLER * (PIECE_OCTETS // len(_FILLER))
        for _ in range(-((len(head) - self.octets) // PIECE_OCTETS)):
            yield filler

    def begins_with(self, octets: bytes) -> bool:
        """Whether `octets` are the beginning of the mail data."""
        for piece in self.pieces():
            if len(octets) <= PIECE_OCTETS:
                return piece.startswith(octets)
            if not octets.startswith(piece):
                return False
            octets = octets[PIECE_OCTETS:]
        return not octets


@attrs.define(eq=False)
class Line:
    """A non-blocking connection on trio's plain waits, no more than the demo needs."""

    sock: socket.socket
    ended: str = ""
    """FIN or RST, once a read has met it."""
    _held: bytes = b""

    async def read(self, most_octets: int) -> bytes:
        """What there is, at most so much; b"" at the peer's end."""
        if not self._held:
            await self._fill()
        octets, self._held = self._held[:most_octets], self._held[most_octets:]
        return octets

    async def read_line(self) -> bytes:
        """The next line with its end; what is left at the peer's end, b"" for nothing."""
        while b"\n" not in self._held and len(self._held) < _LONGEST_LINE_OCTETS and not self.ended:
            await self._fill()
        size_octets = self._held.find(b"\n") + 1 or len(self._held)
        return await self.read(size_octets) if size_octets else b""

    async def _fill(self) -> None:
        if self.ended:
            return
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            try:
                octets = self.sock.recv(PIECE_OCTETS)
            except BlockingIOError:
                continue
            except OSError:
                self.ended = "RST"
                return
            self._held += octets
            if not octets:
                self.ended = "FIN"
            return

    def peek(self) -> bytes:
        """What lies there unread, without reading it."""
        with contextlib.suppress(OSError):
            return self._held + self.sock.recv(_LONGEST_LINE_OCTETS, socket.MSG_PEEK)
        return self._held

    async def write(self, octets: bytes) -> None:
        """Write all of it, however long that takes. Raises OSError when the peer has reset the connection."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(octets)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    def write_now(self, octets: bytes) -> None:
        """Write a little, as a segment of its own, and let no other task run. Raises OSError if it is not taken."""
        self.sock.send(octets)

    def half_close(self) -> None:
        """Send FIN."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)


def path(value: str) -> str:
    """The mail address in brackets, as MAIL and RCPT have it. Raises ValueError for one that can't stand there."""
    address = value.removeprefix("<").removesuffix(">")
    if not (address.isascii() and address.isprintable()) or set(address) & set(" <>"):
        raise ValueError(f"{value!r} is no mail address; write LOCAL@DOMAIN")
    return f"<{address}>"


def replies_in(octets: bytes) -> str:
    """What lies unread, on one line."""
    return escaped(octets.replace(b"\r\n", b" / ").removesuffix(b" / "))


def reason(error: BaseException | None) -> str:
    """What the system says of an OSError, or of the first one that lies under it; trio wraps those of connect."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    return ""
