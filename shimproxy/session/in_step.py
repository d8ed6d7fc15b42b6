"""A receiver is in step while its next reply answers the next command: what it says before that is dropped.

Invariants:

1. What a receiver says while no command is outstanding answers nothing. A part of a reply is waited for to its end.
2. A receiver that disconnects, does not stop, or does not end its reply in time is given up.
3. What shimproxy asks by itself is asked of a receiver that is in step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.net.errors import DeadlinePassed
from shimproxy.session.phase import conduct
from shimproxy.session.unasked import UnaskedReplies
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import RESET
from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from shimproxy.session.receiver import Receiver
    from shimproxy.smtp.command import Command


async def ask_receiver(
    receiver: Receiver, command: Command, seconds: float | None = None, *, first: bool = False
) -> Reply | None:
    """Give a command of the shim's own, and its reply, within `seconds` if that is less than it has for any other.

    None if the receiver has gone; with `first`, which says that it has not spoken yet, that is no closing between
    commands. Raises DeadlinePassed, Interrupted.
    """
    if not (first or await is_in_step(receiver)):
        return None
    receiver.leg.watch.allow(min(receiver.deadlines.reply, seconds or receiver.deadlines.reply), command.verb)
    secret = receiver.events.secret
    receiver.queue(command)
    receiver.events.secret = receiver.events.secret or secret  # what the sender has said is still to be forwarded
    await receiver.commands.flush()
    return await receiver.next_reply()


async def end_transaction(receiver: Receiver) -> None:
    """Have the receiver forget what the sender has begun, as for a hello (RFC 5321 4.1.4). Raises Interrupted."""
    try:
        reply = await ask_receiver(receiver, RESET)
    except DeadlinePassed as late:
        receiver.events.repaired(Violation.NO_REPLY, to=late.what)
        reply = None
    if not reply or reply.kind != 2:
        receiver.give_up()


def look_for_unasked(receiver: Receiver) -> bool:
    """Drop what the receiver said unasked; give it up if it is going, or does not stop.

    Whether there may be more at hand, for which a pause is due.
    """
    replies, leg = receiver.replies, receiver.leg
    _drop_unasked(receiver)
    while not (receiver.gone or leg.watch.stretched(0)) and (octets := leg.look()):
        unasked = receiver.unasked = receiver.unasked or UnaskedReplies(receiver.events)
        unasked.octets += len(octets)
        replies.feed(octets)
        _drop_unasked(receiver)
        if unasked.octets > replies.limit_octets and not receiver.gone:
            receiver.give_up_in_disorder(Violation.EXTRA_REPLY, Reply(0, octets))
    if not receiver.gone and leg.watch.stretched(0):
        return True
    if receiver.leg.ended and not receiver.gone:
        if cut_off := replies.cut_off():
            receiver.drop_unasked(cut_off)
        if violation := conduct(receiver.events.phase).receiver_disconnects:
            receiver.events.repaired(violation, how=receiver.leg.ended.value)
        receiver.give_up()
    return False


async def is_in_step(receiver: Receiver) -> bool:
    """Whether the next reply can only be one to the next command; if not, it is given up."""
    if receiver.gone:
        return False
    has_more = look_for_unasked(receiver)
    # If a part of a reply lies there, its rest must not answer the next command.
    receiver.leg.watch.allow(receiver.deadlines.linger_idle, "the rest of a reply")
    try:
        while not receiver.gone and (has_more or not receiver.replies.empty):
            await (receiver.leg.watch.pause() if has_more else receiver.leg.wait_to_read())
            has_more = look_for_unasked(receiver)
    except DeadlinePassed:
        receiver.give_up_in_disorder(Violation.NOT_A_REPLY, receiver.replies.cut_off() or Reply(0, b""))
    return not receiver.gone


def _drop_unasked(receiver: Receiver) -> None:
    while not (receiver.gone or receiver.leg.watch.stretched(0)) and (reply := receiver.replies.next_reply()):
        receiver.leg.watch.stretched()
        receiver.drop_unasked(reply)
