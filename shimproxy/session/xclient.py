"""The receiver is told who the sender is, if it offers XCLIENT.

Invariants:

1. It is told once on each leg, and once more if that goes over to TLS, as it has forgotten it then (RFC 3207 4.2).
2. A receiver that may still take the sender for shimproxy itself, although it has offered not to, gets nothing of the
   sender's: what shimproxy may do there is not for everybody. Nobody knows what one offers that refuses EHLO, unless it
   does not know the word.
3. Its new greeting is dropped, as the sender has had one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.errors import DeadlinePassed
from shimproxy.session.in_step import ask_receiver
from shimproxy.session.replies import NOT_INTRODUCED, RECEIVER_LATE
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.xclient import XCLIENT, xclient_command

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.net.receivers import Route
    from shimproxy.session.hello import Hellos
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.command import Command
    from shimproxy.smtp.reply import LocalReply, Reply

_TAKEN: Final = (220, 250)
"""Postfix before 2.3 said 250, and did not go back to its greeting."""
_AT_ITS_GREETING: Final = 220


@attrs.define(eq=False)
class Xclient:
    """How the receivers of one session are told of its sender."""

    route: Route
    events: SessionEvents
    policy: Policy
    hellos: Hellos
    was_refused: bool = False
    """Whether a receiver has said so, and not just failed."""
    _made_on: tuple[Leg, bool] | None = None
    """The last leg where that was done, and whether it was over to TLS."""
    _begun_on: Leg | None = None
    """The last leg where it was tried."""

    def has_told(self, receiver: Receiver) -> bool:
        """Whether a receiver was told, on its leg of now, and whatever it made of that."""
        return self._begun_on is receiver.leg

    def is_made_at(self, receiver: Receiver) -> bool:
        """Whether the receiver need not be told any more."""
        leg = receiver.leg
        return not self.policy.xclient or self._made_on == (leg, leg.secured)

    async def refusal(self, receiver: Receiver, command: Command) -> Reply | LocalReply | None:
        """Tell the receiver, before the sender's `command` is forwarded; what the sender gets instead, if that fails.

        A receiver that does not offer XCLIENT has had an EHLO; one that has gone is for the caller to see. Raises
        Interrupted.
        """
        if self.is_made_at(receiver):
            return None
        leg = receiver.leg
        self.was_refused = False
        try:
            offered = await self.hellos.offers(receiver, command)
        except DeadlinePassed as late:
            self.events.repaired(Violation.NO_REPLY, to=late.what)
            return RECEIVER_LATE
        answered = receiver.answered_hello
        if offered is None or not (answered and answered.is_extended):
            return None
        if answered.reply.refuses:
            if answered.is_unknown_word or self.hellos.refusal_of(receiver, command):
                return None
            why_not = f"reply {answered.reply.code} to EHLO"
            self.events.repaired(Violation.XCLIENT_REFUSED, reason=why_not, said=answered.reply.octets)
            return answered.reply if answered.reply.code == 421 else NOT_INTRODUCED
        origin = self.route.origin
        told = xclient_command(offered.get(XCLIENT, b""), command, origin.sender, origin.destination)
        if told:
            self._begun_on = leg
            try:
                reply = await ask_receiver(receiver, told)
                why_not = f"reply {reply.code}" if reply else "the connection is lost"
            except DeadlinePassed:
                reply, why_not = None, "no answer in time"
            if reply is None or reply.code not in _TAKEN:
                self.was_refused = reply is not None
                said = reply.octets if reply else b""
                self.events.repaired(Violation.XCLIENT_REFUSED, reason=why_not, said=said)
                return reply if reply and reply.code == 421 else NOT_INTRODUCED
            if reply.code == _AT_ITS_GREETING:
                receiver.answered_hello = None
        self._made_on = leg, leg.secured
        return None
