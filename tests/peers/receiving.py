"""A receiver on real sockets: one thread for each connection, and a straight line of blocking calls in it.

A fault receiver is a function of a `Talk`, called when DATA was read and not answered yet. What it does from there
is its fault; when it returns with the connection open, the dialogue goes on. Its kind of `Talk` says how mail data
come: by DATA, or in chunks (chunks.py).

1. `Seen` holds what the receiver really has: mails, whole and answered by 2yz, and lines that it ran as commands.
2. Every wait ends: by the peer, by SECONDS, or when the receiver is shut down.
3. A peer that goes is `Gone` in the connection's thread; any other error comes out of `Receiver.close`.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING, ClassVar, Final, Self

import attrs

from shimproxy.net.address import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

HOST: Final = "127.0.0.1"
SECONDS: Final = 60.0
FIRST_PART_OCTETS: Final = 4096
_TCP_CLOSE: Final = 7
_READ_OCTETS: Final = 256 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
_END: Final = b"\r\n.\r\n"
# A window that shuts soon: small, but not so small against the segments that loopback crawls (design.md, Traps).
_TIGHT_BUFFER_OCTETS: Final = 32 * 1024
_TIGHT_SEGMENT_OCTETS: Final = 536

GREETING: Final = b"220 tin.pan.alley.example SMTP service ready\r\n"
EHLO: Final = b"250-tin.pan.alley.example\r\n250-PIPELINING\r\n250-SIZE 0\r\n250 8BITMIME\r\n"
TAKEN: Final = b"250 2.0.0 Ok: taken\r\n"


@contextlib.contextmanager
def full_queue() -> Iterator[Address]:
    """A listener that drops the handshake, as its queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield Address(*listener.getsockname())


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


@attrs.define(eq=False)
class Talk:
    """A receiver's side of one connection."""

    OFFERED: ClassVar = EHLO
    MAIL_DATA: ClassVar = b"DATA"
    """What mail data come with."""

    sock: socket.socket
    seen: Seen
    _unread: bytearray = attrs.field(factory=bytearray)
    _was_early: bool = False

    # -- octets

    def _more(self, most_octets: int = _READ_OCTETS) -> None:
        try:
            octets = self.sock.recv(most_octets)
        except (ConnectionError, TimeoutError) as error:
            raise Gone from error
        if not octets:
            raise Gone
        if self._was_early:
            self.seen.octets_after_early += len(octets)
        self._unread += octets

    def say(self, octets: bytes) -> None:
        """Send; raises Gone."""
        try:
            self.sock.sendall(octets)
        except OSError as error:
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

    def go_on(self) -> None:
        """Ask for the mail data, where they are waiting for that."""
        self.say(b"354 go on\r\n")

    def first_part(self, octets: int = FIRST_PART_OCTETS) -> bytes:
        """Ask for the mail data and read exactly that much of them."""
        self.go_on()
        return self.part(octets)

    def part(self, octets: int) -> bytes:
        """Read exactly that much of the mail data."""
        while len(self._unread) < octets:
            # No more than is wanted: the rest stays in the kernel, as with a receiver that stops reading.
            self._more(min(_READ_OCTETS, octets - len(self._unread)))
        part = bytes(self._unread[:octets])
        del self._unread[:octets]
        return part

    def whole(self) -> bytes:
        """Read mail data to its true end; raises Gone if there is none."""
        data = bytearray(b"\r\n") + self._unread  # the end of the DATA command counts
        self._unread.clear()
        searched = 0
        while (end := data.find(_END, searched)) < 0:
            searched = max(0, len(data) - len(_END) + 1)
            self._more()
            data += self._unread
            self._unread.clear()
        self._unread += data[end + len(_END) :]
        return bytes(data[2 : end + 2])

    def whole_octets(self) -> int:
        """Read mail data to its true end and keep none of it; how much it was, the final dot included."""
        tail, octets = b"\r\n", 0
        while not tail.endswith(_END):  # the peer waits for a reply: nothing comes behind the end
            self._more()
            octets += len(self._unread)
            tail = (tail + self._unread[-len(_END) :])[-len(_END) :]
            self._unread.clear()
        return octets

    def accept(self) -> None:
        """Take the mail and say so."""
        self.go_on()
        self.seen.mails.append(self.whole())
        self.say(TAKEN)

    # -- the fault

    def early(self, octets: bytes, *, in_pieces: bool = False) -> None:
        """Reply before the end of mail data; `in_pieces`, each octet has a segment, as far as the kernel goes."""
        for piece in [octets[at : at + 1] for at in range(len(octets))] if in_pieces else [octets]:
            self.say(piece)
        self.was_early()

    def was_early(self) -> None:
        """What comes from here on comes after an early reply, which the shim's kernel has got by now."""
        self._wait_for_delivery()
        self._was_early = True
        self.seen.octets_after_early += len(self._unread)
        self.seen.early.set()

    def _wait_for_delivery(self) -> None:
        end = time.monotonic() + SECONDS
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
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def stop_reading(self) -> None:
        """Stay, read nothing, until the peer has closed or reset; then count what it had sent."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        poll.poll(SECONDS * 1000)
        self.read_on()

    def close(self) -> None:
        """Close: the kernel sends FIN, or RST if octets are unread."""
        self.sock.close()

    def reset(self) -> None:
        """Send RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    # -- the dialogue

    def serve(self, on_data: Callable[[Talk], None]) -> None:
        """Serve one connection to its end."""
        self.say(GREETING)
        while True:
            # Not an octet more: what lies behind BDAT stays in the kernel until it is wanted.
            line = self.line(most_octets=1)
            verb = line[:4].upper()
            if verb == self.MAIL_DATA:
                self.begin(line)
                with contextlib.suppress(Unfinished):
                    on_data(self)
                if self.sock.fileno() < 0:
                    return
            elif verb == b"QUIT":
                self.say(b"221 2.0.0 closing connection\r\n")
                return
            else:
                self.say(self.OFFERED if verb in (b"EHLO", b"LHLO") else b"250 2.1.0 Ok\r\n")


class Receiver:
    """Serves connections until it is closed; `on_data` is its fault."""

    def __init__(
        self,
        on_data: Callable[[Talk], None],
        *,
        tight: bool = False,
        talk: type[Talk] = Talk,
        listener: socket.socket | None = None,
    ) -> None:
        self.seen = Seen()
        self._talk = talk
        self._on_data = on_data
        self._listener = listener or socket.socket()
        if tight:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _TIGHT_BUFFER_OCTETS)
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _TIGHT_SEGMENT_OCTETS)
        if not listener:
            self._listener.bind((HOST, 0))
            self._listener.listen(1000)
        self.port: int = self._listener.getsockname()[1]
        self._socks: set[socket.socket] = set()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._accept, name="receiver")]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            sock.settimeout(SECONDS)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.seen.peers.append(peer[0])
            self._socks.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), name="receiver's connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            self._talk(sock, self.seen).serve(self._on_data)
        except Gone:
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._socks.discard(sock)
            sock.close()

    def close(self) -> None:
        """End every connection and thread; raises what went wrong in one of them."""
        for sock in (self._listener, *self._socks):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(SECONDS)
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def speaking(dialogue: Callable[[Talk], None], listener: socket.socket | None = None) -> Receiver:
    """A receiver, or a peer of another protocol, all of whose dialogue is this."""

    class Speaking(Talk):
        def serve(self, on_data: Callable[[Talk], None]) -> None:
            dialogue(self)

    return Receiver(_never, talk=Speaking, listener=listener)


def _never(_: Talk) -> None:
    raise AssertionError("DATA")
