"""Whether what was written to a leg has arrived at its peer's host, as far as that has acknowledged it.

What the peer's program has read of it nobody can know.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from shimproxy.net.driver import READABLE
from shimproxy.net.errors import DeadlinePassed

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg


def place(leg: Leg) -> int | None:
    """Where the last octet that was written to a leg stands in its connection; see `have_arrived`.

    None if the peer was there still, and the leg has TLS: that has octets of its own, and shows a reset as an end.
    """
    if not leg.secured or leg.sock.family == socket.AF_UNIX:
        return leg.octets_out
    standing = leg.driver.standing(leg)
    if not standing.peer_has_ended:
        return None
    return standing.acknowledged_octets + leg.driver.unacknowledged_octets(leg)


async def have_arrived(leg: Leg, until: float, seconds: float) -> bool:
    """Wait for the octets of a leg up to a place to be acknowledged; whether they are, within so many seconds.

    Both peers have sent FIN, so that the connection is over as soon as nothing more can come. Raises Interrupted.
    """
    leg.watch.allow(seconds, "an acknowledgement")
    while (standing := leg.driver.standing(leg)).acknowledged_octets < until:
        if standing.over:
            return False
        leg.wanted = READABLE
        try:
            await leg.watch.wait()
        except DeadlinePassed:
            return False
    return True
