"""Readiness: one edge-triggered epoll for all legs, which one trio task waits for.

A leg is registered once, for its whole life, instead of once for each wait, and a session can wait for both of its legs
at no further cost. Measured on a lock-step relay with nothing else in it: 338,000 instructions in user mode a mail on
a kept session, where trio's own waits took 482,000 (callgrind); in CPU seconds the two were level.

Invariants:

1. A leg's `readable` and `writable` are true until a call would have blocked: an edge is never lost.
2. A session is woken only by what the leg was told that it wants, and goes on once all legs have their events.
3. The receive buffer is one for all legs, as mail data are forwarded before the next await; a driver is one thread's.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import sys
import termios
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from shimproxy.net.block import Block
from shimproxy.net.coroutines import CoroutineRunner
from shimproxy.net.turnstile import Turnstile

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.tap import Ended

JUST_OCTETS: Final = select.EPOLLIN
READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITABLE: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
NEVER_SHORT: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
"""After the peer's end, or at the mark of urgent data (RFC 9293 3.8.5), a read stops short of what there is."""

_EVENTS_AT_ONCE: Final = 64
_MOST_POLLS: Final = 16
"""So often are events looked for before a busy session has a turn: what those that are not busy wait for is found."""
_TIOCOUTQ: Final = termios.TIOCOUTQ
# Of struct tcp_info in linux/tcp.h: tcpi_state, and tcpi_bytes_acked.
_TCP_INFO: Final = struct.Struct("B119xQ")
_TCP_CLOSE: Final = 7
_ENDED_BY_PEER: Final = frozenset({_TCP_CLOSE, 8, 9, 11})  # and CLOSE_WAIT, LAST_ACK, CLOSING
_TO_READ: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET


@attrs.frozen
class Standing:
    """What this host knows of a connection."""

    acknowledged_octets: int
    """How many octets that were written the peer's host has acknowledged, with what TLS makes of them."""
    peer_has_ended: bool
    """Whether its FIN, or a reset, is here."""
    over: bool
    """Whether nothing more can be acknowledged."""


class Watched(Protocol):
    """What a driver knows of a leg."""

    @property
    def sock(self) -> socket.socket:
        """Its connection."""

    @property
    def octets_out(self) -> int:
        """How much was written to it."""

    @property
    def ended(self) -> Ended | None:
        """How its peer has ended, as far as that was read."""

    def notice(self, events: int) -> None:
        """Take note of these events of epoll(7)."""


class Readiness(Protocol):
    """What a leg needs of a driver; tests have one of their own, for sockets in memory."""

    block: Block

    def add(self, leg: Watched) -> None:
        """From now on, `leg.notice` is called when there is something new to read."""

    def tell_when_writable(self, leg: Watched, *, tell: bool) -> None:
        """From now on, `leg.notice` is also called when octets are taken again, or no longer."""

    def remove(self, leg: Watched) -> None:
        """Forget the leg, whose socket is about to be closed."""

    def unacknowledged_octets(self, leg: Watched) -> int:
        """How much of what was written to the leg its peer's host has not acknowledged."""

    def standing(self, leg: Watched) -> Standing:
        """How the leg's connection stands."""


def _up_to_date() -> None:
    """There is no watchdog."""


@attrs.define(eq=False)
class Driver:
    """The epoll and the receive buffer of all legs; `run` is its one task."""

    block: Block = attrs.field(factory=Block)
    turnstile: Turnstile = attrs.field(init=False)
    """Where the watches of its legs wait for a turn once they are busy."""
    runner: CoroutineRunner = attrs.field(factory=CoroutineRunner)
    """Steps the sessions whose legs these are."""
    catch_up: Callable[[], None] = _up_to_date
    """Brings the time as of which deadlines count up to date: the watchdog may have its round after this one."""
    _epoll: select.epoll = attrs.field(factory=select.epoll)
    _legs: dict[int, Watched] = attrs.field(factory=dict)
    _count: bytearray = attrs.field(factory=lambda: bytearray(4))
    """What the kernel counts is written into; an ioctl that gives octets back takes twice the time."""

    def __attrs_post_init__(self) -> None:
        self.turnstile = Turnstile(self._look)

    def add(self, leg: Watched) -> None:
        """From now on, `leg.notice` is called when there is something new to read.

        Raises OSError for want of memory, or of watches (epoll(7), max_user_watches).
        """
        descriptor = leg.sock.fileno()
        self._epoll.register(descriptor, _TO_READ)
        self._legs[descriptor] = leg

    def tell_when_writable(self, leg: Watched, *, tell: bool) -> None:
        """As Readiness has it; what the leg takes by now is an event at once."""
        self._epoll.modify(leg.sock.fileno(), _TO_READ | select.EPOLLOUT if tell else _TO_READ)

    def remove(self, leg: Watched) -> None:
        """Forget the leg; closing its socket takes it off the epoll."""
        self._legs.pop(leg.sock.fileno(), None)

    def unacknowledged_octets(self, leg: Watched) -> int:
        """As Readiness has it: SIOCOUTQ of tcp(7), sent or not; of unix(7), what the peer's program has not read."""
        fcntl.ioctl(leg.sock.fileno(), _TIOCOUTQ, self._count)
        return int.from_bytes(self._count, sys.byteorder)

    def standing(self, leg: Watched) -> Standing:
        """As Readiness has it; with unix(7) all is acknowledged once the peer's program has read all."""
        sock = leg.sock
        if sock.family == socket.AF_UNIX:
            read_octets = 0 if self.unacknowledged_octets(leg) else leg.octets_out
            return Standing(read_octets, leg.ended is not None, over=False)
        state, octets = _TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
        return Standing(octets, state in _ENDED_BY_PEER, state == _TCP_CLOSE)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell the legs of their events until cancelled."""
        epoll, turnstile = self._epoll, self.turnstile
        descriptor = epoll.fileno()
        busy = False
        last = -1
        task_status.started()
        while True:
            found = epoll.poll(0, _EVENTS_AT_ONCE)
            self._tell(found)
            if len(found) == 1:
                [(lone, _)] = found
                busy = busy or lone == last
                last = lone
            else:
                busy = bool(found)
            if busy or turnstile.queue:
                # While there is much to do, the next round need not arm trio's own epoll again; when nothing is left to
                # do, as there is not once the legs' tasks are cancelled, this one is, too.
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                # A lone event is seldom followed by another at once, but for that of a peer that had the last one too:
                # it sends mail data. A turn of trio's loop that finds none is a tenth of what an event costs.
                await trio.lowlevel.wait_readable(descriptor)

    def _look(self) -> None:
        """Tell the legs of their events, as far as they fit a round; as `run` does."""
        for _ in range(_MOST_POLLS):
            found = self._epoll.poll(0, _EVENTS_AT_ONCE)
            self._tell(found)
            if len(found) < _EVENTS_AT_ONCE:
                return

    def _tell(self, found: list[tuple[int, int]]) -> None:
        """Tell the legs of these events, then step the sessions that these have woken."""
        legs, runner = self._legs, self.runner
        self.catch_up()
        held, runner.held = runner.held, True
        for each, events in found:
            leg = legs.get(each)
            if leg is not None:
                leg.notice(events)
        if not held:
            runner.release()

    def close(self) -> None:
        """Close the epoll, once no leg is left."""
        self._epoll.close()
