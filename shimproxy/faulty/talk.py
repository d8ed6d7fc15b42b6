"""A receiver's side of one connection: a straight line of blocking calls, of which a fault is made.

A fault receiver is a function of a `Talk`, called when DATA was read and not answered yet. What it does from there
is its fault; when it returns with the connection open, the dialogue goes on. Its kind of `Talk` says how mail data
come: by DATA, or in chunks (chunks.py).

1. `Seen` holds what the receiver really has: mails, whole and answered by 2yz, and lines that it ran as commands.
2. Every wait ends: by the peer, by SECONDS, or when the receiver is shut down. A peer that disconnects is `Gone`.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING, ClassVar, Final

import attrs

from shimproxy.faulty.account import DialogueLog
from shimproxy.faulty.mail import PIECE_OCTETS

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS: Final = 60.0
FIRST_PART_OCTETS: Final = 8 * PIECE_OCTETS
"""What comes of a mail before a receiver replies early."""
_TCP_CLOSE: Final = 7
_READ_OCTETS: Final = 256 * 1024
_UNREAD_OCTETS: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
_LINE_END: Final = b"\r\n"
_END: Final = b"\r\n.\r\n"

GREETING: Final = b"220 tin.pan.alley.example SMTP service ready\r\n"
EHLO: Final = b"250-tin.pan.alley.example\r\n250-PIPELINING\r\n250-SIZE 0\r\n250 8BITMIME\r\n"
TAKEN: Final = b"250 2.0.0 Ok: taken\r\n"


def wait_for_reset(sock: socket.socket, seconds: float) -> bool:
    """Read nothing until the peer resets the connection; whether it has done so in time."""
    poll = select.poll()
    poll.register(sock, 0)  # POLLERR and POLLHUP are always reported: a FIN alone is neither
    return bool(poll.poll(seconds * 1000))


def unread(sock: socket.socket) -> bytes:
    """The first octets that lie in its receive buffer, without reading them; under TLS they are encrypted."""
    with contextlib.suppress(OSError):  # nothing lies there, or it is closed or reset
        patience_seconds = sock.gettimeout()
        sock.settimeout(0)
        try:
            return socket.socket.recv(sock, _UNREAD_OCTETS, socket.MSG_PEEK)
        finally:
            sock.settimeout(patience_seconds)
    return b""


def reset(sock: socket.socket) -> None:
    """Close it by RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


class Gone(Exception):
    """The peer has closed or reset the connection."""


class Unfinished(Exception):
    """The sender does not go on with its mail, and says something else."""


@attrs.define(eq=False)
class Seen:
    """What a receiver has seen, over all its connections."""

    mails: list[bytes] = attrs.field(factory=list)
    """Mail data that came to its true end and was answered by 2yz: what the receiver really has."""
    run: list[bytes] = attrs.field(factory=list)
    """Lines that it took for commands after it had replied early."""
    octets_after_early: int = 0
    """What came over the wire after it had replied early."""
    peers: list[str] = attrs.field(factory=list)
    """The addresses from which its connections came."""
    early: threading.Event = attrs.field(factory=threading.Event)
    """Set once it has replied early."""
    closing: threading.Event = attrs.field(factory=threading.Event)
    """Set when it is being closed, and so are its connections."""

    def take(self, data: bytes) -> None:
        """Mail data have come to their true end, and 2yz answers them."""
        self.mails.append(data)


@attrs.define(eq=False)
class Talk:
    """A receiver's side of one connection."""

    OFFERED: ClassVar = EHLO
    MAIL_DATA: ClassVar = b"DATA"
    """What mail data come with."""

    sock: socket.socket
    seen: Seen
    ended: bool = False
    """Whether mail data have come to their true end."""
    verdicts: int = 1
    """How many replies the end of mail data has: in LMTP one for each recipient (RFC 2033 4.2)."""
    keeps_mail: bool = True
    """Whether `whole` returns the mail; if not, only what its last octets are."""
    patience_seconds: float = SECONDS
    """How long a wait for the peer may be."""
    account: DialogueLog = attrs.field(factory=DialogueLog)
    _unread: bytearray = attrs.field(factory=bytearray)
    _tail: bytes = _LINE_END
    """The last octets of the mail data so far; before them, the line end of DATA counts."""
    _was_early: bool = False

    # -- octets

    def _more(self, most_octets: int = _READ_OCTETS) -> None:
        try:
            octets = self.sock.recv(most_octets)
        except TimeoutError as error:
            self.account.ended_by("sender silent")
            raise Gone from error
        except (ConnectionError, ssl.SSLError) as error:
            self.account.ended_by("sender RST" if isinstance(error, ConnectionError) else "sender broke TLS")
            raise Gone from error
        if not octets:
            self.account.ended_by("sender FIN")
            raise Gone
        if self._was_early:
            self.seen.octets_after_early += len(octets)
        self._unread += octets

    def say(self, octets: bytes, segments: int = 1) -> None:
        """Send, in so many segments, as far as the kernel goes; raises Gone."""
        size = max(1, -(-len(octets) // segments))
        for start in range(0, len(octets), size):
            if start:
                self._wait_for_delivery()
            self._send(octets[start : start + size])

    def _send(self, octets: bytes) -> None:
        try:
            self.sock.sendall(octets)
        except OSError as error:
            self.account.ended_by("sender RST" if isinstance(error, ConnectionError) else "sender silent")
            raise Gone from error

    def line(self, most_octets: int = _READ_OCTETS) -> bytes:
        """The next line, without its end; no more than that many octets are read at a time."""
        while (end := self._unread.find(b"\n")) < 0:
            self._more(most_octets)
        line = bytes(self._unread[:end]).rstrip(b"\r")
        del self._unread[: end + 1]
        return line

    def lines_there(self) -> list[bytes]:
        """What lies there when something does, in lines with their ends: at least one, whole or not."""
        if not self._unread:
            self._more()
        lines = bytes(self._unread).splitlines(keepends=True)
        self._unread.clear()
        return lines

    # -- mail data

    def begin(self, line: bytes) -> None:
        """Take note of the command that mail data come with."""
        self.ended, self._tail = False, _LINE_END

    def go_on(self) -> None:
        """Ask for the mail data, where they are waiting for that."""
        self.say(b"354 go on\r\n")

    def verdict(self, reply: bytes) -> None:
        """Answer the end of mail data, as often as that is due."""
        self.say(reply * self.verdicts)

    def first_part(self, octets: int = FIRST_PART_OCTETS) -> bytes:
        """Ask for the mail data and read exactly that much of them, or all if they are fewer."""
        self.go_on()
        return self.part(octets)

    def part(self, octets: int) -> bytes:
        """Read exactly that much of the mail data, or up to their true end."""
        part = bytearray()
        while len(part) < octets and not self.ended:
            if not self._unread:
                # No more than is wanted: the rest stays in the kernel, as with a receiver that stops reading.
                self._more(min(_READ_OCTETS, octets - len(part)))
            part += self._mail_data(octets - len(part))
        return bytes(part.removesuffix(b".\r\n") if self.ended else part)

    def _mail_data(self, most_octets: int) -> bytes:
        """Take so many octets of mail data from what was read, and none after their end."""
        data = self._tail + self._unread[:most_octets]
        if (end := data.find(_END)) >= 0:
            data, self.ended = data[: end + len(_END)], True
        taken = data[len(self._tail) :]
        self._tail = data[1 - len(_END) :]
        del self._unread[: len(taken)]
        return taken

    def whole(self) -> bytes:
        """Read mail data to their true end; raises Gone if there is none."""
        data = bytearray()
        while not self.ended:
            if not self._unread:
                self._more()
            data += self._mail_data(_READ_OCTETS)
            if not self.keeps_mail:
                del data[: -len(_END)]
        self.ended, self._tail = False, _LINE_END
        return bytes(data.removesuffix(b".\r\n"))

    def whole_octets(self) -> int:
        """Read mail data to their true end and keep none of it; how much it was, the final dot included."""
        octets = 0
        while not self.ended:
            if not self._unread:
                self._more()
            octets += len(self._mail_data(_READ_OCTETS))
        self.ended, self._tail = False, _LINE_END
        return octets

    def accept(self) -> None:
        """Take the mail and say so."""
        self.go_on()
        self.seen.take(self.whole())
        self.verdict(TAKEN)

    # -- the fault

    def early(self, octets: bytes, *, in_pieces: bool = False) -> None:
        """Reply before the end of mail data; `in_pieces`, each octet has a segment."""
        self.say(octets, segments=len(octets) if in_pieces else 1)
        self.was_early()

    def was_early(self) -> None:
        """What comes from here on comes after an early reply, which the shim's kernel has got by now."""
        self._wait_for_delivery()
        self._was_early = True
        self.seen.octets_after_early += len(self._unread)
        self.seen.early.set()

    def _wait_for_delivery(self) -> None:
        end = time.monotonic() + self.patience_seconds
        while struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0]:
            if self._is_reset():
                return  # the peer has reset it
            if time.monotonic() > end:
                raise Gone
            time.sleep(0.001)

    def _is_reset(self) -> bool:
        unix = self.sock.family == socket.AF_UNIX
        return not unix and self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE

    def run(self, replies: Callable[[bytes], bytes | None]) -> None:
        """Take what comes for commands, and answer each line by what `replies` makes of it; None closes."""
        while True:
            line = self.line()
            if self.keeps_mail:
                self.seen.run.append(line)
            if (reply := replies(line)) is None:
                return
            self.say(reply)

    def read_on(self) -> None:
        """Read and drop until the peer goes."""
        with contextlib.suppress(Gone):
            while True:
                self._unread.clear()
                self._more()

    def fin(self) -> None:
        """Send FIN and go on."""
        self.account.ended_by("receiver FIN")
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_WR)  # under TLS its own would read no more octets

    def stop_reading(self) -> None:
        """Stay, read nothing, until the peer has closed or reset; then count what it had sent."""
        self.account.note("reads no more")
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        poll.poll(self.patience_seconds * 1000)
        self.read_on()

    def stay(self) -> None:
        """Stay, whatever the sender does, until it resets the connection."""
        if wait_for_reset(self.sock, self.patience_seconds):
            self.account.ended_by("sender RST")
        raise Gone

    def close(self) -> None:
        """Close: the kernel sends FIN, or RST if octets are unread."""
        self.account.ended_by("receiver RST" if unread(self.sock) else "receiver FIN")
        self.sock.close()

    def reset(self) -> None:
        """Send RST."""
        self.account.ended_by("receiver RST")
        reset(self.sock)

    # -- the dialogue

    def serve(self, on_data: Callable[[Talk], None]) -> None:
        """Serve one connection to its end."""
        self.say(GREETING)
        # Not an octet more: what lies behind BDAT stays in the kernel until it is wanted.
        while self.answer(self.line(most_octets=1), on_data):
            pass

    def answer(self, line: bytes, on_data: Callable[[Talk], None]) -> bool:
        """Answer a command; whether another may follow."""
        verb = line[:4].upper()
        if verb == self.MAIL_DATA:
            self.begin(line)
            with contextlib.suppress(Unfinished):
                on_data(self)
            return self.sock.fileno() >= 0
        if verb == b"QUIT":
            self.say(b"221 2.0.0 closing connection\r\n")
            return False
        self.say(self.OFFERED if verb in (b"EHLO", b"LHLO") else b"250 2.1.0 Ok\r\n")
        return True
