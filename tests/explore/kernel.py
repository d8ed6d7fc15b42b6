"""Connections as the kernel has them: what was written, what has arrived and is acknowledged, what was read.

A `Sock` is the shim's end of a connection, and has what `net.leg.Leg` calls of a socket. The peer's end are the
`peer_*` methods. Every octet and every end is put down in the dialogue's log, with the order in which it happened.
"""

from __future__ import annotations

import select
import socket
import ssl
from typing import TYPE_CHECKING, Any

import attrs

from shimproxy.net.block import LEAST_BLOCK_OCTETS, Block
from shimproxy.net.driver import Standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.driver import Watched

AMPLE_OCTETS = 1 << 40
_FIN_EVENTS = select.EPOLLIN | select.EPOLLRDHUP
_RST_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_HELLO = b"\x16\x03\x01\0\4\1\0\0\0"
_BLOCK = Block(size_octets=LEAST_BLOCK_OCTETS)


def tls_error(kind: type[ssl.SSLError], reason: str) -> ssl.SSLError:
    """An error as OpenSSL makes it."""
    error = kind(1, reason.replace("_", " ").lower())
    error.reason = reason
    return error


@attrs.define(eq=False)
class Event:
    """Something that happened on a leg."""

    what: str
    """PEER_SENT, SHIM_READ, SHIM_WROTE, PEER_READ, PEER_FIN, PEER_RST, SHIM_FIN, SHIM_RST, DIALLED, TIME."""
    who: str
    """Which connection: "S" is the sender's, "R0", "R1" ... are the receiver's."""
    octets: bytes = b""
    unread_octets: int = 0
    """For SHIM_WROTE: how much of what the peer sent lay unread before the shim then."""
    arrived_octets: int = 0
    """For PEER_SENT: how much of what the shim wrote had arrived at the peer's host then."""


class Driver:
    """Events come from the sockets, and are told between two steps, as by an epoll."""

    def __init__(self) -> None:
        self.block = _BLOCK
        self.pending: dict[Sock, int] = {}

    def add(self, leg: Watched) -> None:
        sock: Any = leg.sock
        sock.leg = leg
        if sock.has_something:
            self.pending[sock] = select.EPOLLIN

    def tell_when_writable(self, leg: Watched, *, tell: bool) -> None:
        sock: Any = leg.sock
        sock.tells_when_writable = tell
        if tell and sock.room_octets > 0:
            self.pending[sock] = self.pending.get(sock, 0) | select.EPOLLOUT

    def remove(self, leg: Watched) -> None:
        self.pending.pop(leg.sock, None)  # type: ignore[call-overload]

    def unacknowledged_octets(self, leg: Watched) -> int:
        sock: Any = leg.sock
        return int(len(sock.written) - sock.arrived_octets)

    def standing(self, leg: Watched) -> Standing:
        sock: Any = leg.sock
        over = sock.got_rst_from_peer or (
            sock.fin_from_peer and sock.shim_fin and sock.arrived_octets == len(sock.written)
        )
        return Standing(sock.arrived_octets, sock.fin_from_peer or sock.got_rst_from_peer, over)

    def poll(self) -> None:
        """Tell the legs what has happened."""
        pending = self.pending
        while pending:
            sock, events = pending.popitem()
            leg = sock.leg
            if leg is not None and not sock.shim_closed:
                leg.notice(events)


class Sock:
    """The shim's end of a connection."""

    def __init__(self, who: str, driver: Driver, log: list[Event], *, far: bool, window_octets: int) -> None:
        self.who = who
        self.driver = driver
        self.log = log
        self.far = far
        """Whether what is written arrives later, a segment at a time."""
        self.window_octets = window_octets
        """How much may be written that the peer's program has not read."""
        self.leg: Watched | None = None
        self.on_arrival: Callable[[], None] | None = None
        """What is to happen at once when something arrives at the peer's host."""
        self.tells_when_writable = False
        # what the shim sends
        self.written = bytearray()
        self.arrived_octets = 0
        self.read_octets = 0
        self.shim_fin = False
        self.shim_rst = False
        self.shim_closed = False
        self.fin_arrived = False
        self.rst_arrived = False
        self._linger_is_reset = False
        # what the peer sends
        self.inbox = bytearray()
        self.fin_from_peer = False
        self.got_rst_from_peer = False
        self.peer_closed = False
        """Whether the peer's program has closed it, so that nobody takes what still comes."""
        self._told_rst = False
        self.alert: ssl.SSLError | None = None
        # TLS, as far as the session can tell: a hello in the stream, and what comes behind that
        self.family = socket.AF_INET
        self.secured = False
        self.answers_hello = False
        """Whether the peer, as a server, takes the shim's hello."""
        self._said_hello = False
        self._server_side = False
        self._sealed = bytearray()
        """What the peer has said inside TLS before the shim has come there."""

    # -- the peer's end

    @property
    def room_octets(self) -> int:
        """How much the shim could write now."""
        return self.window_octets - (len(self.written) - self.read_octets)

    @property
    def has_something(self) -> bool:
        """Whether a read of the shim would not block."""
        return bool(self.inbox or self.fin_from_peer or self.got_rst_from_peer)

    def _notice(self, events: int) -> None:
        if self.leg is not None and not self.shim_closed:
            pending = self.driver.pending
            pending[self] = pending.get(self, 0) | events

    def peer_send(self, octets: bytes) -> None:
        """The peer's program writes; it arrives at once."""
        if self.shim_closed or self.got_rst_from_peer or not octets:
            return
        self.log.append(Event("PEER_SENT", self.who, octets, arrived_octets=self.arrived_octets))
        if self._said_hello and not self.secured:
            self._sealed += octets
            return
        self.inbox += octets
        self._notice(select.EPOLLIN)

    def peer_alert(self, alert: ssl.SSLError) -> None:
        """The peer ends TLS by an alert, and its direction."""
        if not (self.fin_from_peer or self.got_rst_from_peer or self.shim_closed):
            self.alert = alert
            self.peer_fin()

    def peer_fin(self) -> None:
        """The peer's program half-closes."""
        if not (self.fin_from_peer or self.got_rst_from_peer or self.shim_closed):
            self.fin_from_peer = True
            self.log.append(Event("PEER_FIN", self.who))
            self._notice(_FIN_EVENTS)

    def peer_rst(self) -> None:
        """The peer's host resets the connection: what came before can still be read by the shim, as on Linux."""
        if not (self.got_rst_from_peer or self.shim_closed):
            self.got_rst_from_peer = True
            self.log.append(Event("PEER_RST", self.who))
            self._notice(_RST_EVENTS)

    def peer_close(self) -> None:
        """The peer's program closes: FIN, or RST if it leaves something unread (RFC 1122 4.2.2.13)."""
        self.peer_closed = True
        if self.arrived_octets > self.read_octets:
            self.peer_rst()
        else:
            self.peer_fin()

    def peer_read(self, most_octets: int = AMPLE_OCTETS) -> bytes:
        """The peer's program reads what has arrived."""
        start = self.read_octets
        end = min(self.arrived_octets, start + most_octets)
        if end <= start:
            return b""
        octets = bytes(self.written[start:end])
        was_full = self.tells_when_writable and self.room_octets <= 0
        self.read_octets = end
        self.log.append(Event("PEER_READ", self.who, octets))
        if was_full:
            self._notice(select.EPOLLOUT)
        return octets

    def peer_secures(self) -> None:
        """The peer's program says its hello as a TLS client: what it writes from here on is inside TLS."""
        if not self._said_hello and not self.shim_closed:
            self._said_hello = True
            self.inbox += _HELLO
            self._notice(select.EPOLLIN)

    def open_window(self, octets: int) -> None:
        """The peer takes that much from now on."""
        was_full = self.room_octets <= 0
        self.window_octets = octets
        if was_full and octets and self.tells_when_writable:
            self._notice(select.EPOLLOUT)

    def deliver(self, most_octets: int) -> bool:
        """A segment arrives at the peer's host; whether there was anything under way."""
        if self.arrived_octets < len(self.written):
            self.arrived_octets = min(len(self.written), self.arrived_octets + most_octets)
            if self.peer_closed:
                self.peer_rst()
        elif self.shim_rst and not self.rst_arrived:
            self.rst_arrived = True
        elif self.shim_fin and not self.fin_arrived:
            self.fin_arrived = True
        else:
            return False
        if self.on_arrival:
            self.on_arrival()
        return True

    def _arrive(self) -> None:
        if not self.far:
            while self.deliver(AMPLE_OCTETS):
                pass

    # -- what a leg calls

    def recv(self, size_octets: int, flags: int = 0) -> bytes:
        octets = bytes(self.inbox[:size_octets])
        if not octets:
            if self.alert:
                alert, self.alert, self.fin_from_peer = self.alert, None, True
                raise alert
            if self.got_rst_from_peer and not self._told_rst:
                self._told_rst = True
                raise ConnectionResetError(104, "Connection reset by peer")
            if not (self.fin_from_peer or self.got_rst_from_peer):
                raise BlockingIOError
        elif flags != socket.MSG_PEEK:
            del self.inbox[:size_octets]
            self.log.append(Event("SHIM_READ", self.who, octets))
        return octets

    def recv_into(self, buffer: memoryview, size_octets: int) -> int:
        octets = self.recv(size_octets)
        buffer[: len(octets)] = octets
        return len(octets)

    def send(self, octets: bytes | memoryview) -> int:
        assert not self.shim_fin, "written after FIN"
        if self.got_rst_from_peer:
            raise BrokenPipeError(32, "Broken pipe")
        taken = bytes(octets[: max(0, self.room_octets)])
        if not taken:
            raise BlockingIOError
        self.written += taken
        self.log.append(Event("SHIM_WROTE", self.who, taken, len(self.inbox)))
        self._arrive()
        return len(taken)

    def shutdown(self, _how: int) -> None:
        if self.got_rst_from_peer:
            raise OSError(107, "Transport endpoint is not connected")
        self.shim_fin = True
        self.log.append(Event("SHIM_FIN", self.who))
        self._arrive()

    def setsockopt(self, _level: int, option: int, _value: object) -> None:
        if option == socket.SO_LINGER:
            self._linger_is_reset = True

    def close(self) -> None:
        self.shim_closed = True
        if self._linger_is_reset or (self.inbox and not self.shim_fin):
            if not self.shim_rst:
                self.shim_rst = True
                self.log.append(Event("SHIM_RST", self.who))
                del self.written[self.arrived_octets :]  # what was queued is discarded
        elif not self.shim_fin:
            self.shim_fin = True
            self.log.append(Event("SHIM_FIN", self.who))
        self._arrive()

    def wrap_socket(self, server_side: bool) -> Sock:
        """As SSLContext.wrap_socket; see `Context`."""
        self._server_side = server_side
        return self

    def do_handshake(self) -> None:
        """As SSLSocket.do_handshake: it needs the peer's hello as a client, or its consent as a server."""
        if self._server_side:
            if self.inbox and not self.inbox.startswith(_HELLO):
                raise tls_error(ssl.SSLError, "WRONG_VERSION_NUMBER")
            ready = bool(self.inbox)
        else:
            ready = self.answers_hello and not self.inbox
            if self.inbox:
                raise tls_error(ssl.SSLError, "WRONG_VERSION_NUMBER")
        if not ready:
            if self.alert or self.fin_from_peer:
                raise tls_error(ssl.SSLEOFError, "UNEXPECTED_EOF_WHILE_READING")
            if self.got_rst_from_peer:
                raise ConnectionResetError(104, "Connection reset by peer")
            raise ssl.SSLWantReadError
        if self._server_side:
            del self.inbox[: len(_HELLO)]
        self.secured = True
        self.inbox += self._sealed
        self._sealed.clear()

    def fileno(self) -> int:
        return -1


class Context:
    """What stands in for an SSLContext."""

    def wrap_socket(self, sock: Sock, *, server_side: bool, **_options: object) -> Sock:
        return sock.wrap_socket(server_side)
