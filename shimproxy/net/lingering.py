"""How a leg is closed: half-closed, read until its peer has closed too, and reset if the peer stays or talks on.

It is read so that what was written last arrives: a reset, which is what a close is while octets lie unread, may have
the peer's host drop it (RFC 9293 3.10.7.4).
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final

from shimproxy.net.acknowledged import have_arrived, place
from shimproxy.net.errors import DeadlinePassed, Interrupted
from shimproxy.net.tap import Ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.leg import Leg


class Parted(enum.Enum):
    """How a leg was closed."""

    CLOSED = "closed"
    RESET_BY_PEER = "reset by the peer"
    LINGERED_OUT = "reset, as the peer stayed open or did not stop"
    INTERRUPTED = "reset, because time to linger had run out"


# Names of the module: from the class they take ten times as long, in Python 3.11.
_CLOSED: Final = Parted.CLOSED
LINGERED_OUT: Final = Parted.LINGERED_OUT
_RST: Final = Ended.RST


async def part(
    leg: Leg,
    idle_seconds: float,
    total_seconds: float,
    heard: Callable[[bytes], object] | None = None,
    most_octets: float = math.inf,
    *,
    discards: bool = False,
) -> Parted:
    """Half-close, read until the peer has closed too, close; a peer that stays, or says too much, is reset.

    Args:
        leg: what is closed.
        idle_seconds: how long the peer may be silent.
        total_seconds: how long it may stay in all.
        heard: is given what the peer still says, see `linger`; without it, that is dropped.
        most_octets: how much the peer may still say.
        discards: whether nobody needs what was written to a peer that has sent FIN and takes nothing more. After
            `idle_seconds` it is reset: our own FIN waits for room in its window, so that a close would leave its end
            of the connection open for as long as the kernel tries.
    """
    if leg.closed:
        return _CLOSED
    if leg.readable and heard is None:
        leg.look()
    if discards or not leg.ended:
        leg.half_close()
    try:
        gone = await linger(leg, idle_seconds, total_seconds, heard, most_octets=most_octets)
        if gone and discards and not await _takes_all(leg, idle_seconds):
            leg.reset()
            return _CLOSED
    except Interrupted:
        leg.reset()
        return Parted.INTERRUPTED
    if not gone:
        leg.reset()
        return LINGERED_OUT
    leg.close()
    return Parted.RESET_BY_PEER if leg.ended is _RST else _CLOSED


async def _takes_all(leg: Leg, seconds: float) -> bool:
    """Whether a peer that has sent FIN takes what was written within that time, or has reset. Raises Interrupted."""
    if leg.ended is _RST or not leg.unacknowledged_octets:
        return True
    until = place(leg)
    return until is None or await have_arrived(leg, until, seconds)


async def linger(
    leg: Leg,
    idle_seconds: float,
    total_seconds: float,
    heard: Callable[[bytes], object] | None = None,
    enough: Callable[[], bool] | None = None,
    most_octets: float = math.inf,
) -> bool:
    """Read until the peer has ended or there is `enough`; whether that was within its time and octets. See `part`.

    If what `heard` returns is true, it has more to do with what it was given: it is called again after a pause, with
    nothing more. Raises Interrupted.
    """
    watch = leg.watch
    end = watch.now + total_seconds
    most_octets += leg.octets_in
    try:
        while not (leg.ended or (enough and enough())):
            if leg.octets_in > most_octets:
                return False
            watch.allow(min(idle_seconds, end - watch.now), "FIN")
            octets = await leg.read()
            while heard and not leg.deaf and heard(octets) and not (enough and enough()):
                octets = b""
                await watch.pause()
    except DeadlinePassed:
        return False
    return True
