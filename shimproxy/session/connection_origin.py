"""What is found out of a sender's connection before its greeting: who it is, and where it wanted to go.

Invariants:

1. Where a PROXY header is due it comes whole and before anything else, or the connection ends without a word
   (proxy-protocol.txt section 2); where none is due nothing is taken for one.
2. A sender is not taken back to shimproxy itself, nor anywhere that the operator has not allowed.
3. A sender behind a proxy is counted as what it is, not as the proxy; a proxy's own checks are not counted.

Only listeners that need one have an OriginPolicy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.net import proxy_header
from shimproxy.net.address import address_text
from shimproxy.net.errors import DeadlinePassed, HeaderInvalid, Interrupted
from shimproxy.net.kernel import is_of_this_user, is_own
from shimproxy.net.origin import Origin, party, redirected_from
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.receiver_connector import NoReceiver
from shimproxy.session.replies import DESTINATION_REFUSED
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from shimproxy.net.address import Network
    from shimproxy.net.leg import Leg
    from shimproxy.net.origin import Allowed, OwnLegs, Party
    from shimproxy.net.receivers import Route
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.reply import LocalReply


@attrs.frozen(kw_only=True)
class OriginPolicy:
    """What the operator has decided about the connections of one listener."""

    trusted: Sequence[Network] = ()
    """Whose connections begin with a PROXY header."""
    original: bool = False
    """Whether a session goes where its sender wanted to."""
    tproxy: bool = False
    """Whether connections come by TPROXY, and not by REDIRECT."""
    allowed: Sequence[Allowed] = ()
    """Where sessions may go then."""
    own_legs: OwnLegs | None = None
    ports: frozenset[int] = frozenset()
    """Where this shimproxy listens itself."""


@attrs.define(eq=False)
class ConnectionOrigin:
    """Whom the connection of one session is from, and where it is to go."""

    policy: OriginPolicy
    sockaddr: object
    """The address of whoever has connected."""
    headed: bool
    """Whether that is a proxy which has to say whom it connects for."""
    route: Route
    events: SessionEvents
    enter: Callable[[Party], LocalReply | None]
    """Lets a sender behind a proxy in, or gives the reply that it gets instead."""
    _is_a_check: bool = False
    """Whether the proxy connects for itself."""

    async def begin(self, leg: Leg, header_seconds: float) -> None:
        """Find out whom the connection is from. Raises SessionEnded if that is not said as it has to be, or not yet."""
        connected = Origin(party(self.sockaddr), party(leg.sock.getsockname()))
        self.route.origin = connected
        if not self.headed:
            return
        leg.watch.allow(header_seconds, "the PROXY header")
        try:
            await leg.wait_to_read()
            if leg.peek(1) == b"":
                raise SessionEnded(Closing.BY_SENDER)  # it only wanted to see whether somebody is there
            header = await proxy_header.read_header(leg)
        except (HeaderInvalid, DeadlinePassed) as failed:
            reason = failed.reason if isinstance(failed, HeaderInvalid) else "not complete in time"
            self.events.repaired(Violation.PROXY_HEADER, reason=reason)
            raise SessionEnded(Closing.BY_SENDER) from None
        except Interrupted:
            # A 421 is no word for a sender that may be about to begin TLS.
            raise SessionEnded(Closing.BY_SHIM) from None
        leg.octets_in = 0  # what counts is SMTP
        # Version 1 can't say LOCAL: HAProxy gives a check's own ends there.
        self._is_a_check = header.local or (header.sender is not None and header.sender == connected.sender)
        if header.sender and not self._is_a_check:
            self.route.origin = Origin(header.sender, header.destination)
            record = self.events.record
            record.via, record.sender = record.sender, address_text(header.sender)

    def settle(self, sock: socket.socket) -> None:
        """See whether the sender may go where it wants to, and have it go there. Raises NoReceiver."""
        origin = self.route.origin
        if self.headed and origin.sender and not self._is_a_check and (reply := self.enter(origin.sender)):
            raise NoReceiver(reply, Closing.BY_SHIM)
        if not self.policy.original:
            return
        own = party(sock.getsockname())
        destination = own if self.policy.tproxy else redirected_from(sock)
        if why_not := self._why_refused(origin.sender, destination):
            shown = address_text(destination or own)
            self.events.repaired(Violation.DESTINATION_REFUSED, destination=shown, reason=why_not)
            raise NoReceiver(DESTINATION_REFUSED, Closing.BY_SHIM)
        assert destination is not None
        self.route.origin = Origin(origin.sender, destination)
        self.route.aim(destination)
        self.events.record.receiver = address_text(destination)  # also of one that can't be reached

    def _why_refused(self, sender: Party | None, destination: Party | None) -> str:
        policy = self.policy
        if destination is None or (destination[1] in policy.ports and is_own(destination[0])):
            return "a direct connection to the listener"
        if sender and is_own(sender[0]) and self._has_come_back(sender, destination):
            return "a loop: the connection comes from this shimproxy"
        if not any(each.includes(destination) for each in policy.allowed):
            return "not in --allow-destination"
        return ""

    def _has_come_back(self, sender: Party, destination: Party) -> bool:
        """Whether a connection from this machine is shimproxy's own, another worker's or program's, too."""
        own_legs = self.policy.own_legs
        return (own_legs is not None and own_legs.has(sender, destination)) or is_of_this_user(sender, destination)
