"""What a receiver says while no command waits for a reply: it answers nothing, and is told of together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.session.record import DroppedReplies
from shimproxy.session.trace import UNASKED
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import unasked

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.session.transaction import Transaction
    from shimproxy.smtp.dialogue import Ruling
    from shimproxy.smtp.reply import Reply


@attrs.define(eq=False)
class UnaskedReplies:
    """What one receiver has said unasked since that was told last."""

    _events: SessionEvents
    octets: int = 0
    """How much was read while nothing was asked, replies that are not whole included."""
    _dropped: DroppedReplies = attrs.field(factory=lambda: DroppedReplies(Violation.EXTRA_REPLY))

    def drop(self, leg: Leg, reply: Reply, transaction: Transaction) -> Ruling:
        """Count a reply of the leg's as dropped; what smtp/dialogue.py says of it within this transaction."""
        self._dropped.count(reply)
        self._events.heard_dropped(leg, reply, UNASKED)
        return unasked(reply, in_transaction=transaction.is_open, refused=transaction.has_refusal)

    def tell(self) -> None:
        """Tell of the replies, if there were any."""
        self._dropped.tell(self._events.repaired)
