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
from shimproxy.session.coming_back import after_trial, instead_of_dialling
from shimproxy.session.observed_dialogue import ObservedDialogue
from shimproxy.session.opaque import OneWay, relay
from shimproxy.session.receiver_connector import NoReceiver
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.leg import Leg
    from shimproxy.net.loops import Loops, Trial
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.receiver_connector import ReceiverConnector
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents

    _Begin = Callable[["ObservedRelay"], None]

_MOST_LOOKS = 16
"""So much of what a peer has said is read once nothing can be passed to the other one, in reads."""


class Recalled(Exception):
    """The leg was shut for a trial: it may be a part of a loop."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        self.trial = trial


@attrs.define(eq=False)
class ObservedRelay:
    """Both directions of one session."""

    sender: Sender
    receiver: Receiver
    events: SessionEvents
    policy: Policy
    loops: Loops
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
        """Relay to the end.

        Raises SessionEnded for what is not let through, Recalled before anything has passed, DeadlinePassed,
        Interrupted.
        """
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
            OneWay(receiver, sender, self._receiver_said, ended=self._receiver_ended),
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

    def _receiver_ended(self, how: Ended) -> None:
        leg = self.receiver.leg
        # What the sender has said before its greeting went with the leg: then its session ends with that, too.
        if not (leg.octets_in or leg.octets_out) and (trial := self.loops.trial_of(leg)):
            raise Recalled(trial)
        self.dialogue.receiver_ended(how)

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


async def observe(connector: ReceiverConnector, events: SessionEvents, policy: Policy, begin: _Begin) -> None:
    """Pass octets on as they come, to the end; each relay `begin`s as it is made.

    Raises NoReceiver, SessionEnded, DeadlinePassed, Interrupted.
    """
    route, sender = connector.route, connector.security.sender
    while True:
        receiver = await _first_receiver(connector)
        relayed = ObservedRelay(sender, receiver, events, policy, route.loops)
        begin(relayed)
        try:
            await relayed.run()
        except Recalled as recalled:
            receiver.leg.reset()
            if refusal := await after_trial(recalled.trial, sender, events, receiver.leg):
                raise NoReceiver(refusal, Closing.BY_SHIM) from None
            route.go_back()
        else:
            return


async def _first_receiver(connector: ReceiverConnector) -> Receiver:
    """Dial the receiver, or of several the first that is there; none is heard. Raises NoReceiver, Interrupted."""
    route = connector.route
    sender, events = connector.security.sender, connector.events
    if connector.receiver is None and (refusal := await instead_of_dialling(sender, events, route)):
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
