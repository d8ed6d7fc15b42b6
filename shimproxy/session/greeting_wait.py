"""The wait for what a receiver says first; of one that says nothing, an operator is told what may mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shimproxy.net.errors import DeadlinePassed
from shimproxy.session.advice import SILENT_SECONDS, of_close, of_silence
from shimproxy.session.early_talk import while_unanswered

if TYPE_CHECKING:
    from shimproxy.net.receivers import Route
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.reply import LocalReply, Reply

_GREETING: Final = "the greeting"


async def first_reply(
    receiver: Receiver, sender: Sender | None, events: SessionEvents, route: Route, seconds: float
) -> Reply | LocalReply | None:
    """What a receiver says first, within so many seconds; None if it has gone.

    A `sender` that speaks meanwhile is heard: LocalReply is what answers it if what it says is none of SMTP's. Raises
    DeadlinePassed, Interrupted, and what `while_unanswered` does.
    """
    leg = receiver.leg
    watch = leg.watch
    began_at = watch.now
    watch.allow(min(seconds, SILENT_SECONDS), _GREETING)
    route.waits_for_greeting(leg)
    try:
        reply = await _first_reply(receiver, sender, events)
    except DeadlinePassed:
        if seconds <= SILENT_SECONDS:
            raise
        if not (leg.octets_in or leg.secured):  # what has made TLS has what it wants
            events.advised(of_silence(leg.peer, sends_header=route.sends_header))
        watch.allow(began_at + seconds - watch.now, _GREETING)
        reply = await _first_reply(receiver, sender, events)
    if reply is None and not (leg.octets_in or leg.secured):
        events.advised(of_close(leg.peer, sends_header=route.sends_header))
    return reply


async def _first_reply(receiver: Receiver, sender: Sender | None, events: SessionEvents) -> Reply | LocalReply | None:
    if sender and (refusal := await while_unanswered(sender, events, receiver.leg)):
        return refusal
    return await receiver.next_reply()
