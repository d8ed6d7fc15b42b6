"""What the sender was offered: the EHLO reply as it was given, and what follows from its keywords (RFC 5321 4.1.1.1).

Invariants:

1. What the sender may do is what its last EHLO reply has told it, not what the receiver offers by now.

It does not know when a reply is given, nor what the sender makes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.session.keywords import DECIDED, KEYWORDS, Offering, Switches, keeps
from shimproxy.smtp.ehlo import keywords, offering

if TYPE_CHECKING:
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.ehlo import Keywords
    from shimproxy.smtp.reply import Reply

_SWITCHES: Final = tuple((each.name, each.switches) for each in KEYWORDS if each.switches)


@attrs.define(eq=False)
class Capabilities(Switches):
    """What one sender was offered."""

    _sender: Sender
    _receiver: Receiver
    _events: SessionEvents
    _policy: Policy
    _keywords: Keywords = attrs.field(factory=dict)

    def offer(self, reply: Reply) -> Reply:
        """Take note of what the receiver's EHLO reply offers; the reply as the sender is to be given it."""
        offered = self._offering(reply)
        if offered is not reply:
            self._events.said(offered)
        self._note(keywords(offered))
        return offered

    def offers_as_before(self, reply: Reply) -> bool:
        """Whether this reply to its hello offers all that the sender was offered, and limits nothing more."""
        return keeps(keywords(self._offering(reply)), self._keywords)

    def forget(self) -> None:
        """What the sender was offered counts no more: it said HELO, or went over to TLS (RFC 3207 4.2)."""
        if self._keywords:
            self._note({})

    def _note(self, offered: Keywords) -> None:
        """The sender is offered these keywords, and no others."""
        self._keywords = offered
        for name, switch in _SWITCHES:
            setattr(self, switch, name in offered)

    def _switch_enhanced_codes(self, told: bool) -> None:
        self._sender.enhanced_codes = told

    enhanced_codes = property(fset=_switch_enhanced_codes)
    """Whether the sender was told that replies have enhanced codes (RFC 2034): so have shimproxy's own then."""

    def _offering(self, reply: Reply) -> Reply:
        """The EHLO reply as it is given to the sender."""
        decides = Offering(self._policy, self._sender.leg.secured, self._receiver.leg.secured, reply)
        removed, added = [], []
        for name, offered in DECIDED:
            how = offered(decides)
            if how is not True:
                removed.append(name)
                if how:
                    added.append(how)
        return offering(reply, removed, added, self._policy.hidden)
