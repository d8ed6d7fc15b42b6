"""A plain connection to a receiver that hears what comes when, and how it ends."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Final, Self

import attrs

from shimproxy.faulty.receiving import HOST
from shimproxy.probe.account import ConnectionEnd

if TYPE_CHECKING:
    from types import TracebackType

REPLY_SECONDS: Final = 15.0
QUIET_SECONDS: Final = 1.0
"""How long nothing must come until nothing more is waited for."""


@attrs.define(eq=False)
class Wire:
    """One connection; every wait has an end, and an end is a value."""

    sock: socket.socket
    end: ConnectionEnd = ConnectionEnd.NOT
    _unread: bytes = b""

    @classmethod
    def to(cls, port: int) -> Self:
        """A connection to a receiver."""
        sock = socket.create_connection((HOST, port), REPLY_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()

    def _read(self, seconds: float) -> bool:
        """Read what comes within that time; whether something came."""
        if self.end or not select.select([self.sock], [], [], max(0.0, seconds))[0]:
            return False
        try:
            octets = self.sock.recv(65536)
        except OSError:
            self.end = ConnectionEnd.RST
            return False
        if not octets:
            self.end = ConnectionEnd.FIN
        self._unread += octets
        return bool(octets)

    def reply(self, seconds: float = REPLY_SECONDS) -> str:
        """The next reply, its lines joined by " / "; empty if there is none."""
        last = time.monotonic() + seconds
        while True:
            lines = self._unread.split(b"\n")
            for count, line in enumerate(lines[:-1], 1):
                if line[3:4] != b"-":
                    self._unread = b"\n".join(lines[count:])
                    return " / ".join(each.decode("latin-1").rstrip("\r") for each in lines[:count])
            if not self._read(last - time.monotonic()) and (self.end or time.monotonic() >= last):
                return ""

    def replies(self, seconds: float = QUIET_SECONDS) -> list[str]:
        """All replies that come until it is quiet for that long."""
        found = []
        while reply := self.reply(seconds):
            found.append(reply)
        return found

    def ask(self, command: str) -> str:
        """Say it, and the reply to it."""
        self.write(command.encode() + b"\r\n")
        return self.reply()

    def write(self, octets: bytes, seconds: float = REPLY_SECONDS) -> int:
        """Write it, reading meanwhile; how much of it was taken before the end or before it was stuck."""
        self.sock.setblocking(False)
        view, last = memoryview(octets), time.monotonic() + seconds
        while view and self.end is not ConnectionEnd.RST and time.monotonic() < last:
            readable, writable, _ = select.select(
                [] if self.end else [self.sock], [self.sock], [], last - time.monotonic()
            )
            if readable:
                self._read(0)
            if writable:
                try:
                    view = view[self.sock.send(view) :]
                except BlockingIOError:
                    pass
                except OSError:
                    # What it said before is still to be read.
                    while self._read(0.2):
                        pass
                    self.end = ConnectionEnd.RST
        self.sock.settimeout(REPLY_SECONDS)
        return len(octets) - len(view)

    def open(self, hello: str) -> str:
        """Greeting and hello; the reply to that."""
        self.reply()
        return self.ask(hello)
