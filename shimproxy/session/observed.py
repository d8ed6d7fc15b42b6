"""A session that is only observed: octets pass both ways as a plain TCP proxy passes them, and a copy is read.

Invariants:

1. What comes on one leg goes out on the other, octet for octet, FIN and RST included; nothing is added.
2. What is never let through ends the session before any octet of it is passed on; the receiver is reset.
3. What has not been passed on is not more than one read in each direction.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import DeadlinePassed, LegBroken
from shimproxy.net.tap import Ended
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.coming_back import instead_of_dialling
from shimproxy.session.observed_dialogue import ObservedDialogue
from shimproxy.session.opaque import OneWay, relay
from shimproxy.session.receiver_connector import NoReceiver
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.receiver_connector import ReceiverConnector
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents

_MOST_LOOKS = 16
"""So much of what a peer has said is read once nothing can be passed to the other one, in reads."""


@attrs.define(eq=False)
class ObservedRelay:
    """Both directions of one session."""

    sender: Sender
    receiver: Receiver
    events: SessionEvents
    policy: Policy
    dialogue: ObservedDialogue = attrs.field(init=False)
    _stopping: bool = False

    def __attrs_post_init__(self) -> None:
        receiver = self.receiver
        self.dialogue = ObservedDialogue(self.sender.commands, receiver.replies, self.events, self.policy, receiver.leg)

    def stop(self) -> None:
        """End the session as soon as nothing is outstanding."""
        self._stopping = True
        if self.dialogue.at_rest:
            self.sender.leg.watch.interrupt()

    async def run(self) -> None:
        """Relay to the end. Raises SessionEnded for what is not let through, DeadlinePassed, Interrupted."""
        dialogue, sender, receiver = self.dialogue, self.sender.leg, self.receiver.leg
        self.receiver.passes_unread()
        ways = [
            OneWay(
                sender,
                receiver,
                dialogue.sender_said,
                lambda: dialogue.undecided_octets,
                lambda: dialogue.takes_no_more,
                dialogue.sender_ended,
            ),
            OneWay(receiver, sender, self._receiver_said, ended=dialogue.receiver_ended),
        ]
        try:
            if ahead := self.sender.commands.take_ahead():  # it was read while it was found out who the sender is
                ways[0].take(ahead)
            await relay(ways, self.policy.deadlines.opaque, "octets that pass unchanged")
        except LegBroken:
            self._hear_the_rest(receiver, sender)
            sender.reset()
            receiver.reset()
        except DeadlinePassed as late:
            if dialogue.waits_for_receiver:
                self.events.repaired(Violation.NO_REPLY, to=late.what)
            else:
                self.events.repaired(Violation.SENDER_STALLED, waited_for=late.what)
            sender.reset()
            receiver.reset()
        except SessionEnded:
            receiver.reset()
            await self._discard()
            raise

    def _receiver_said(self, octets: bytes) -> None:
        self.dialogue.receiver_said(octets)
        if self._stopping and self.dialogue.at_rest:
            self.sender.leg.watch.interrupt()

    def _hear_the_rest(self, receiver: Leg, sender: Leg) -> None:
        """A peer has reset its connection: what the receiver has said before may lie there still."""
        if receiver.ended or receiver.closed:
            return
        with suppress(LegBroken, SessionEnded):
            for _ in range(_MOST_LOOKS):
                octets = receiver.look()
                if not octets:
                    break
                self.dialogue.receiver_said(octets)
                sender.send_now(octets)
        if receiver.ended or receiver.broken:
            with suppress(SessionEnded):
                self.dialogue.receiver_ended(receiver.ended or Ended.RST)
        elif sender.ended is None:
            self.dialogue.sender_ended(Ended.RST)

    async def _discard(self) -> None:
        """Read mail data that are not let through to their end. Raises DeadlinePassed, Interrupted."""
        leg = self.sender.leg
        leg.watch.allow(self.policy.deadlines.opaque, "the end of mail data")
        while self.dialogue.in_mail_data:
            octets = await leg.read()
            if not octets:
                break
            self.dialogue.discard(octets)


async def first_receiver(connector: ReceiverConnector) -> Receiver:
    """Dial the receiver, or of several the first that is there; none is heard. Raises NoReceiver, Interrupted."""
    route = connector.route
    if refusal := await instead_of_dialling(connector.security.sender, connector.events, route):
        raise NoReceiver(refusal, Closing.BY_SHIM)
    while True:
        try:
            receiver = await connector.dial()
            route.waits_for_greeting(receiver.leg)
            return receiver
        except NoReceiver as failed:
            if failed.by is Closing.BY_SHIM:
                raise
            route.was_of_no_use()
            route.note_failure(failed.kind)
            if not route.has_more:
                raise
        if connector.receiver:
            connector.receiver.give_up()
