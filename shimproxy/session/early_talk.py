"""What a sender says before it was greeted, and what answers that instead of the greeting.

Invariants:

1. What is none of SMTP's is known before TLS too, where that is what should have come, and before the receiver greets.
2. Of all else the operator decides; what is held is the sender's first commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.net.errors import DeadlinePassed, LegBroken
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.policy import EarlyTalk
from shimproxy.session.replies import NOT_SMTP, SPOKE_EARLY
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.foreign import foreign, may_be_foreign

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.session.policy import Policy
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.reply import LocalReply

_MOST_OCTETS = 4096


async def instead_of_tls(sender: Sender, events: SessionEvents, policy: Policy) -> LocalReply | None:
    """What answers a sender that was to begin with TLS, and says in the clear what is known to be none of SMTP's.

    Raises DeadlinePassed, Interrupted.
    """
    leg = sender.leg
    leg.watch.allow(policy.deadlines.tls, "the sender's TLS handshake")
    while True:
        await leg.wait_to_read()
        octets = leg.peek(_MOST_OCTETS)
        if octets is None:
            continue
        if leg.ended or len(octets) == _MOST_OCTETS or not may_be_foreign(octets):
            return None
        if foreign(octets):
            break
        leg.readable = False  # until more comes
    sender.commands.feed(leg.look() or b"")
    return _instead_of_commands(sender, events)


async def while_unanswered(sender: Sender, events: SessionEvents, receiver: Leg) -> LocalReply | None:
    """Wait until the receiver speaks; what answers a sender that says what is none of SMTP's meanwhile.

    A receiver may let it wait for minutes, and is reset when the sender resets its own connection. Raises SessionEnded
    then, or LegBroken if the sender has said something, and DeadlinePassed, Interrupted.
    """
    leg = sender.leg
    was_readable = has_spoken = False
    while not receiver.readable:
        if leg.readable:
            # What came inside TLS can't be looked at and left there.
            octets = None if leg.secured else leg.peek(_MOST_OCTETS)
            has_spoken = has_spoken or bool(octets)
            if leg.driver.standing(leg).over:
                receiver.reset()  # as a proxy that leads back here has what it dialled end, too
                if has_spoken:
                    raise LegBroken(leg.name, "reset before the greeting")
                raise SessionEnded(Closing.BY_SENDER)
            if octets and foreign(octets):
                sender.commands.feed(leg.look() or b"")
                return _instead_of_commands(sender, events)
            was_readable, leg.readable = True, False  # until more comes
        try:
            await receiver.speaks_or(leg)
        except DeadlinePassed:
            leg.readable = leg.readable or was_readable  # who waits on has it still to come
            raise
    leg.readable = leg.readable or was_readable
    return None


def instead_of_greeting(sender: Sender, events: SessionEvents, policy: Policy) -> LocalReply | None:
    """What answers a sender that has spoken already, if it is not greeted. What it has said is held."""
    leg = sender.leg
    if not (leg.readable and (octets := leg.look())):
        return None
    sender.commands.feed(octets)
    if reply := _instead_of_commands(sender, events):
        return reply
    events.repaired(Violation.EARLY_TALK, octets=len(octets), early_talk=policy.early_talk.value)
    return SPOKE_EARLY if policy.early_talk is EarlyTalk.REFUSE else None


def _instead_of_commands(sender: Sender, events: SessionEvents) -> LocalReply | None:
    command = sender.commands.next_foreign()
    if command is None:
        return None
    events.heard(command)
    return NOT_SMTP
