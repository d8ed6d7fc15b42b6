"""A sender that may be shimproxy itself, as its receiver leads back here: what it gets in place of a receiver.

Invariant: no sender is refused but where a loop is certain. What is tried for that is loops.py's, in net/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.net.loops import has_ended
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.replies import LOOP
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.net.loops import Trial
    from shimproxy.net.receivers import Route
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.reply import LocalReply


async def instead_of_dialling(sender: Sender, events: SessionEvents, route: Route) -> LocalReply | None:
    """What answers a sender that is known to be shimproxy itself; it waits as long as that has to be found out.

    Raises SessionEnded if it has disconnected meanwhile, Interrupted.
    """
    loops = route.loops
    if loops.some_wait and loops.has_come_back(sender.leg.sock):
        events.repaired(Violation.LOOP, reason="the connection comes from shimproxy itself")
        return LOOP
    if loops.suspects and not await loops.hold(sender.leg, sender.commands.feed, route.goals):
        raise SessionEnded(Closing.BY_SENDER)
    return None


async def after_trial(trial: Trial, sender: Sender, events: SessionEvents, leg: Leg) -> LocalReply | None:
    """What answers a sender whose leg was shut for a trial, if that has proven a loop; else it is dialled for again.

    Raises SessionEnded if the sender was a part of the loop, or has disconnected, and Interrupted.
    """
    async with sender.leg.watch.in_task():
        await trial.over.wait()
    if has_ended(sender.leg, sender.commands.feed):
        raise SessionEnded(Closing.BY_SENDER)
    if not trial.proven:
        return None
    events.repaired(Violation.LOOP, reason=f"connections to {leg.peer} come back here")
    return LOOP
