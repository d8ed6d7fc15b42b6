"""How a session parts from its receiver: what is told of a sender that disconnects, and how the leg is closed.

Invariants:

1. A receiver is never sent QUIT or FIN where it could take them for mail data, or for their end (guarantees 5 and 6).
2. What lies unread is heard before a half-close: a 354 in it makes that the end of a mail.

A receiver that was given up before is seen off beside the session (lingering_close.py).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from shimproxy.net.errors import DeadlinePassed, Interrupted
from shimproxy.session.in_step import look_for_unasked
from shimproxy.session.lingering_close import MOST_LOOKS, see_off
from shimproxy.session.phase import conduct
from shimproxy.session.trace import LATE
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import QUIT

if TYPE_CHECKING:
    from shimproxy.net.tap import Ended
    from shimproxy.session.receiver import Receiver


async def part_from_receiver(receiver: Receiver) -> None:
    """Close the leg as its state lets it; a lingering close goes on, but for a verdict that nobody needs."""
    may_quit = receiver.awaits_a_command
    heard_all = True
    receiver.leg.watch.allow(receiver.deadlines.linger_idle, "the receiver's last words")
    if may_quit and not receiver.gone:
        heard_all = not look_for_unasked(receiver) or await _has_looked_to_the_end(receiver)
    elif not receiver.data.is_open:
        heard_all = await _has_heard_unread(receiver)
    receiver.tell_unasked()
    hurry_lingering(receiver)
    if receiver.lingering:
        return
    if receiver.data.is_open or receiver.replies.may_ask_for_data or not heard_all:
        receiver.leg.reset()  # or it was dropped
    else:
        if may_quit and not (receiver.leg.broken or receiver.leg.ended):
            await _quit(receiver)
        await see_off(receiver.leg, receiver.deadlines, receiver.events, receiver.replies.most_octets)


async def _quit(receiver: Receiver) -> None:
    """Say QUIT, after what is left of a command that was answered early; a receiver that does not take it is reset.

    What the receiver says meanwhile is read: it may wait for that.
    """
    receiver.events.gives(QUIT)
    commands = receiver.commands
    commands.unwritten += QUIT.line
    try:
        await commands.flush()
    except DeadlinePassed:
        receiver.events.repaired(Violation.NO_CLOSE, leg=receiver.leg.name)
        receiver.leg.reset()
    except Interrupted:
        receiver.leg.reset()


async def _has_heard_unread(receiver: Receiver) -> bool:
    """Hear what lies unread before a half-close: a 354 in it makes that the end of a mail; whether that was all."""
    replies, watch = receiver.replies, receiver.leg.watch
    with suppress(DeadlinePassed, Interrupted):
        for _ in range(MOST_LOOKS):
            while not receiver.gone and (reply := replies.next_reply()):
                if reply.asks_for_data:
                    receiver.drop_unasked(reply)
                else:
                    receiver.events.heard_dropped(receiver.leg, reply, LATE)
                if watch.stretched():
                    await watch.pause()
            if receiver.gone or not (octets := receiver.leg.look()):
                return True
            replies.feed(octets)
    return False


async def _has_looked_to_the_end(receiver: Receiver) -> bool:
    """Drop all that it said unasked; whether there was time for that."""
    with suppress(DeadlinePassed, Interrupted):
        while look_for_unasked(receiver):
            await receiver.leg.watch.pause()
        return True
    return False


def note_departure(receiver: Receiver, how: Ended | None, *, served: bool = False) -> None:
    """The sender has gone, before its mail data or without a QUIT.

    Whether it was `served`: it has had a verdict, and has begun nothing since.
    """
    events, told = receiver.events, {"how": how.value if how else ""}
    if not receiver.gone and conduct(events.phase).closing is None:
        if receiver.data.is_open:
            events.repaired(Violation.VANISHED_IN_DATA, **told, octets=0)
        elif served:
            events.repaired_a_habit(Violation.CLOSED_WITHOUT_QUIT, **told)
        else:
            events.repaired(Violation.CLOSED_WITHOUT_QUIT, **told)


def hurry_lingering(receiver: Receiver) -> None:
    """Nobody needs the verdict of a lingering close any more."""
    for lingering in (*receiver.earlier.lingering_closes, receiver.lingering):
        if lingering:
            lingering.hurry()


async def wait_for_lingering(receiver: Receiver) -> None:
    """Return when every lingering close is over."""
    await receiver.earlier.see_off(all_but=0)
    if receiver.lingering:
        await receiver.lingering.over()
