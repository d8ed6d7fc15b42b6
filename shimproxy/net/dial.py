"""Dialling: plain non-blocking connects, one after the other or beside each other, to the places where a receiver is.

Invariants:

1. The next place is tried a quarter of a second after the one before it, or at once when that has failed (RFC 8305
   section 5); the first that answers is the receiver's, and no other connection is left open.
2. A leg leaves from where the operator has said, or is not made.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from typing import TYPE_CHECKING, Final

import trio

from shimproxy.net.address import address_text
from shimproxy.net.errors import OUT_OF_MEANS, DeadlinePassed, DialFailed, NoMeans
from shimproxy.net.leg import Leg
from shimproxy.net.source import ANYWHERE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shimproxy.net.driver import Readiness
    from shimproxy.net.places import Place, Sockaddr
    from shimproxy.net.source import Source
    from shimproxy.net.watch import Watch

_NEXT_SECONDS: Final = 0.25
_LEAST_PAUSE_SECONDS: Final = 0.01
_MOST_REASONS: Final = 4
_PENDING = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)
_BEGUN = (0, errno.EISCONN, *_PENDING)


async def dial(
    places: Sequence[Place],
    driver: Readiness,
    watch: Watch,
    connect_seconds: float,
    source: Source = ANYWHERE,
    failed: Callable[[Place], None] | None = None,
    *,
    speaks_first: bool = False,
) -> tuple[Leg, Place]:
    """A leg to the first of the places that answers, and that place; `failed` is told of those that did not before it.

    Each place has at least so many seconds. With `speaks_first`, what is written to the leg at once arrives with the
    handshake. Raises DialFailed with the reason of each, NoMeans, Interrupted.
    """
    waiting = [*places] if source is ANYWHERE else [place for place in places if source.serves(place[0])]
    reasons = (
        []
        if waiting
        else ["the receiver has no address in the family of the source address (--source, --spoof-sender)"]
    )
    begun: dict[Leg, Place] = {}

    kind = "other"

    def give_up(place: Place, reason: str, why: str) -> None:
        nonlocal kind
        reasons.append(reason)
        kind = why
        if failed:
            failed(place)

    try:
        while waiting or begun:
            if waiting:
                place = waiting.pop(0)
                try:
                    leg = _begin(place, driver, watch, source, speaks_first=speaks_first)
                    if leg is None:
                        leg = await _begin_with_room(place, driver, watch, source, connect_seconds)
                except NoMeans:
                    raise
                except DialFailed as error:
                    give_up(place, str(error), error.kind)
                    continue
                if leg.writable:
                    return _chosen(leg, place, begun, failed)
                begun[leg] = place
                watch.allow(connect_seconds, "the connection to the receiver")
            try:
                await _wait(begun, may_be_short=bool(waiting))
            except DeadlinePassed:
                for leg, place in begun.items():
                    give_up(place, _late(leg.peer, connect_seconds), "timeout")
                    leg.close()
                begun.clear()
                continue
            for leg, place in [*begun.items()]:
                if not leg.writable:
                    continue
                if code := leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    del begun[leg]
                    leg.close()
                    give_up(place, f"{leg.peer}: {os.strerror(code)}", DialFailed.kind_of(code))
                    continue
                del begun[leg]
                leg.wanted = 0
                return _chosen(leg, place, begun, failed)
        raise DialFailed("; ".join(reasons[-_MOST_REASONS:]), kind)
    finally:
        for leg in begun:
            leg.close()


def _chosen(
    leg: Leg, place: Place, slower: Mapping[Leg, Place], failed: Callable[[Place], None] | None
) -> tuple[Leg, Place]:
    for each in slower.values():
        if failed:
            failed(each)
    return leg, place


async def _wait(begun: Mapping[Leg, Place], *, may_be_short: bool) -> None:
    """Wait until one of the connections stands or has failed; if need be for no longer than until the next one begins.

    Raises DeadlinePassed, Interrupted.
    """
    first, *_ = legs = [*begun]
    if any(leg.writable for leg in legs):
        return
    if may_be_short:
        async with first.watch.in_task():
            with trio.move_on_after(_NEXT_SECONDS):
                await first.any_of([], legs)
    else:
        await first.any_of([], legs)


async def _begin_with_room(
    place: Place, driver: Readiness, watch: Watch, source: Source, connect_seconds: float
) -> Leg:
    """As `_begin`, once there is room in the queue of a socket in the file system: no event tells of that.

    Raises DialFailed, NoMeans, Interrupted.
    """
    watch.allow(connect_seconds, "room in the receiver's queue")
    pause_seconds = _LEAST_PAUSE_SECONDS
    while (leg := _begin(place, driver, watch, source)) is None:
        try:
            async with watch.in_task():
                with trio.move_on_after(pause_seconds):
                    await watch.wait()
        except DeadlinePassed:
            raise DialFailed(
                f"{_late(address_text(place[1]), connect_seconds)}: its queue is full", "timeout"
            ) from None
        pause_seconds = min(2 * pause_seconds, _NEXT_SECONDS)
    return leg


@functools.lru_cache(maxsize=256)
def _name(sockaddr: Sockaddr) -> str:
    """The text of a receiver's address; one for all of its legs."""
    return address_text(sockaddr)


def _late(where: str, seconds: float) -> str:
    return f"{where}: no connection within {seconds:g} s"


def _begin(place: Place, driver: Readiness, watch: Watch, source: Source, *, speaks_first: bool = False) -> Leg | None:
    """A leg whose connection has begun, and stands if it is writable; None if a socket's queue in the file system is
    full (unix(7), EAGAIN).

    Raises DialFailed, NoMeans.
    """
    family, sockaddr = place
    where = _name(sockaddr)
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise _failed(where, error) from error
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            source.bind(sock, family)
            if speaks_first:
                # The kernel keeps the last segment of the handshake back for what is written next, so that a receiver
                # can't have accepted the connection, let alone greeted, before that is there (tcp(7)).
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        code = sock.connect_ex(sockaddr)
        if code in _PENDING:
            code = sock.connect_ex(sockaddr)  # on loopback it is there already
        if code == errno.EAGAIN and family == socket.AF_UNIX:
            sock.close()
            return None
        if code not in _BEGUN:
            raise OSError(code, os.strerror(code))
        resettable = family != socket.AF_UNIX
        return Leg("receiver", sock, driver, watch, where, writable=code not in _PENDING, resettable=resettable)
    except OSError as error:
        sock.close()
        raise _failed(where, error) from error


def _failed(where: str, error: OSError) -> DialFailed:
    kind = NoMeans if error.errno in OUT_OF_MEANS else DialFailed
    return kind(f"{where}: {error.strerror}", DialFailed.kind_of(error.errno))
