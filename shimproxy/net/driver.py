"""Readiness: one edge-triggered epoll for all legs, which one trio task waits for.

A leg is registered once, for its whole life, instead of once for each wait, and a session can wait for both of its legs
at no further cost. While events come, the driver waits for the next ones itself (patience.py): a turn of trio's loop
costs about as much as what a session does with an event. Measured on a mail of a kept session: 905,000 instructions in
user mode with a turn of trio's for each event, 472,000 with one for sixty-four (callgrind).

Invariants:

1. A leg's `readable` and `writable` are true until a call would have blocked: an edge is never lost.
2. A session is woken only by what the leg was told that it wants, and goes on once all legs have their events.
3. Tasks of trio's have their turn at once where one was woken here (TrioTurn), and any other after a few rounds.
4. The receive buffer is one for all legs, as mail data are forwarded before the next await; a driver is one thread's.
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
from shimproxy.net.patience import Patience
from shimproxy.net.trio_turn import TrioTurn
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
_ROUNDS_OF_ITS_OWN: Final = 32
"""So often the driver looks for events before the tasks of trio's have a turn that nobody has asked for."""
_WAIT_SECONDS: Final = 0.001
"""So long a round waits for events, the least that epoll(7) knows: what trio's loop would wait for waits as long."""
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
    turn: TrioTurn = attrs.field(factory=TrioTurn)
    turnstile: Turnstile = attrs.field(init=False)
    """Where the watches of its legs wait for a turn once they are busy."""
    runner: CoroutineRunner = attrs.field(init=False)
    """Steps the sessions whose legs these are."""
    catch_up: Callable[[], None] = _up_to_date
    """Brings the time as of which deadlines count up to date: the watchdog may have its round after this one."""
    _epoll: select.epoll = attrs.field(factory=select.epoll)
    _legs: dict[int, Watched] = attrs.field(factory=dict)
    _count: bytearray = attrs.field(factory=lambda: bytearray(4))
    """What the kernel counts is written into; an ioctl that gives octets back takes twice the time."""
    _patience: Patience = attrs.field(factory=Patience)
    _last_lone: int = -1
    """Whose event was alone in the round before this one; -1 if none was."""

    def __attrs_post_init__(self) -> None:
        self.turnstile = Turnstile(self._look, self.turn)
        self.runner = CoroutineRunner(self.turn)

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

    def release(self, pollable: Watched) -> None:
        """Forget a socket that stays open: another process has it, too, and would keep it on the epoll."""
        self.remove(pollable)
        self._epoll.unregister(pollable.sock.fileno())

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
        descriptor, turn = self._epoll.fileno(), self.turn
        most_rounds = _ROUNDS_OF_ITS_OWN
        task_status.started()
        while True:
            goes_on = self._rounds(most_rounds)
            # Those who are due may go on after the driver in the turn of trio's loop that comes now.
            most_rounds = 1 if turn.due else _ROUNDS_OF_ITS_OWN
            turn.due = False
            if goes_on:
                # While there is much to do, the next round need not arm trio's own epoll again; when nothing is left to
                # do, as there is not once the legs' tasks are cancelled, this one is, too.
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await trio.lowlevel.wait_readable(descriptor)

    def _rounds(self, most: int) -> bool:
        """Tell the legs of their events, round after round, until trio is due; whether more are likely at once."""
        poll, tell, turn, patience = self._epoll.poll, self._tell, self.turn, self._patience
        wait_seconds = 0.0
        events_left = _EVENTS_AT_ONCE
        for _ in range(most):
            found = poll(wait_seconds, _EVENTS_AT_ONCE)
            if not found:
                if wait_seconds:
                    patience.waited_in_vain()
                return turn.due
            tell(found)
            events_left -= len(found)
            if turn.due or events_left <= 0:
                break
            if patience.harm or not wait_seconds:
                if not patience.may_wait(has_waited=wait_seconds > 0):
                    return self._is_busy(found)
                wait_seconds = _WAIT_SECONDS
        return True

    def _is_busy(self, found: list[tuple[int, int]]) -> bool:
        """Whether these events are likely to be followed by others at once."""
        # A lone event seldom is, but for that of a peer that had the last one too: it sends mail data. A turn of trio's
        # loop that finds none is a tenth of what an event costs.
        last, self._last_lone = self._last_lone, found[0][0] if len(found) == 1 else -1
        return self._last_lone in (last, -1)

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
