"""The wait of a sender that is not greeted, as its receiver has all the connections that it may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.net.errors import DeadlinePassed
from shimproxy.session.closing import Closing, SessionEnded

if TYPE_CHECKING:
    from shimproxy.net.receiver_state import PlaceInLine
    from shimproxy.net.receivers import Route
    from shimproxy.net.watch import Watch
    from shimproxy.session.sender import Sender


async def has_its_turn(route: Route, watch: Watch, sender: Sender) -> bool:
    """Whether the session has a connection to its next receiver, perhaps after a wait.

    Raises DialFailed if there is no receiver, or an operator drains this one, SessionEnded if the sender disconnects
    meanwhile, Interrupted.
    """
    place = route.line_up(watch)
    return place is None or await _comes(place, route, watch, sender)


async def _comes(place: PlaceInLine, route: Route, watch: Watch, sender: Sender) -> bool:
    leg = sender.leg
    was_readable = False
    watch.allow(route.wait_seconds, "a connection to the receiver")
    try:
        while not place.has_come:
            route.stay_in_line()
            if leg.readable:
                # What came inside TLS can't be looked at and left there.
                if leg.driver.standing(leg).over or (not leg.secured and leg.peek(1) == b""):
                    raise SessionEnded(Closing.BY_SENDER)
                was_readable, leg.readable = True, False  # until more comes
            await leg.wait_to_read()
    except DeadlinePassed:
        if place.has_come:
            return True
        route.leave_line(place)
        return False
    except BaseException:
        route.leave_line(place)
        raise
    finally:
        leg.readable = leg.readable or was_readable
    return True
