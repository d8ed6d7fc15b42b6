"""A client of SMTP in blocking calls: what a sender says, and what it hears of its peer.

Nothing is read but where a reply is asked for: what else has come is there for whoever looks.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import attrs

from shimproxy.faulty.account import DialogueLog
from shimproxy.faulty.receiving import HOST
from shimproxy.faulty.talk import reset, unread, wait_for_reset

Connect = Callable[[], socket.socket]
"""Opens a connection in a way of its own; raises OSError."""
WAIT_SECONDS: Final = 30.0
"""A sender that waits longer than this hangs."""


class Refused(Exception):
    """A reply was not what the dialogue needs: the reply, and what it answers."""


class Blocked(TimeoutError):
    """A write has not ended in time."""


@attrs.define(eq=False)
class Dialogue:
    """A sender's side of a connection, in lock-step."""

    sock: socket.socket
    closing: bool = False
    """Whether a 421 has said that the connection will be closed."""
    account: DialogueLog = attrs.field(factory=DialogueLog)
    _unread: bytes = b""

    def reply(self) -> bytes:
        """The next reply; raises EOFError if there is none."""
        reply = b""
        while True:
            line = self._line()
            reply += line
            if line[3:4] != b"-":
                self.account.said("R", reply)
                self.closing = self.closing or line.startswith(b"421")
                return reply

    def _line(self) -> bytes:
        while b"\n" not in self._unread:
            held = self._unread
            self._unread = b""
            if not (octets := self._received()):
                raise EOFError(f"the connection was closed after {held!r}")
            self._unread = held + octets
        line, newline, self._unread = self._unread.partition(b"\n")
        return line + newline

    def send(self, octets: bytes) -> None:
        """Send lines of the dialogue."""
        self.account.said("S", octets)
        self._send(octets)

    def send_mail(self, octets: bytes | memoryview) -> None:
        """Send mail data."""
        self._send(octets)
        self.account.mail(octets)

    def _send(self, octets: bytes | memoryview) -> None:
        try:
            self.sock.sendall(octets)
        except TimeoutError as error:
            raise Blocked(f"its write has not ended for {self.sock.gettimeout():g} s") from error
        except ConnectionError:
            self.account.ended_by("receiver RST")
            raise

    def command(self, line: str, *codes: int) -> bytes:
        """Say `line` and read the reply; raises Refused if it has none of `codes`."""
        self.send(line.encode() + b"\r\n")
        reply = self.reply()
        if codes and int(reply[:3]) not in codes:
            raise Refused(reply, line)
        return reply

    def open(self, hello: str) -> None:
        """Read the greeting and say hello."""
        if not (greeting := self.reply()).startswith(b"220"):
            raise Refused(greeting, "its connection")
        self.command(hello, 250)

    def rest(self, *, in_silence: bool = False) -> bytes:
        """All that still comes until the connection is closed; `in_silence`, the account does not have it."""
        rest = bytearray()
        while octets := self._received():
            rest += octets
            if not in_silence:
                self.account.said("R", octets)
        return bytes(rest)

    def _received(self) -> bytes:
        """What comes next; b"" at the receiver's end."""
        octets, self._unread = self._unread, b""
        if octets:
            return octets
        try:
            octets = self.sock.recv(4096)
        except OSError as error:
            self.account.ended_by("receiver silent" if isinstance(error, TimeoutError) else "receiver RST")
            raise
        if not octets:
            self.account.ended_by("receiver FIN")
        return octets

    def unread(self) -> bytes:
        """What came and was not read."""
        return self._unread + unread(self.sock)

    def quit(self) -> bytes:
        """Say QUIT, and after 221 read until the receiver closes (RFC 5321 4.1.1.10); what came."""
        reply = self.command("QUIT")
        return reply + self.rest() if reply.startswith(b"221") else reply

    def close(self) -> None:
        """Close the connection, if it is open: the kernel sends FIN, or RST if octets are unread."""
        if self.sock.fileno() >= 0 and "receiver RST" not in self.account.ends:
            self.account.ended_by("sender RST" if unread(self.sock) else "sender FIN")
        self.sock.close()

    def fin(self) -> None:
        """Close the connection."""
        self.account.ended_by("sender FIN")
        self.sock.close()

    def reset(self) -> None:
        """Send RST."""
        self.account.ended_by("sender RST")
        reset(self.sock)

    def wait_for_reset(self, seconds: float = WAIT_SECONDS) -> None:
        """Stay and read nothing until the receiver resets the connection. Raises TimeoutError if it never does."""
        if not wait_for_reset(self.sock, seconds):
            self.account.ended_by("receiver silent")
            raise TimeoutError("the connection is never freed")
        self.account.ended_by("receiver RST")


def connected(port: int | Connect, patience_seconds: float = WAIT_SECONDS) -> socket.socket:
    """A connection whose every wait has an end."""
    if isinstance(port, int):
        return socket.create_connection((HOST, port), patience_seconds)
    sock = port()
    sock.settimeout(patience_seconds)
    return sock
