"""What becomes of whoever connects at a listener: what it may do, where it goes, and what is found out of it first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.net.address import is_in
from shimproxy.net.loops import Loops
from shimproxy.net.origin import OwnLegs
from shimproxy.net.places import Places
from shimproxy.net.receivers import Receivers
from shimproxy.session.connection_origin import OriginPolicy
from shimproxy.session.policy import Policy, SessionSettings
from shimproxy.smtp.ehlo import Hidden
from shimproxy.smtp.reply import LocalReply

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from shimproxy.config.listener import Listener
    from shimproxy.config.settings import Settings
    from shimproxy.net.address import Network
    from shimproxy.net.driver import Readiness
    from shimproxy.net.receiver_state import ReceiverStates


@attrs.frozen
class ListenerContext:
    """What serves the senders of one listener, or of several for whose senders the same holds."""

    policy: Policy
    receivers: Receivers
    origin_policy: OriginPolicy | None = None
    """Set where something has to be found out before the greeting."""
    allowed: tuple[Network, ...] = ()
    """Where senders may come from; none for everywhere."""

    def admits(self, sockaddr: object) -> bool:
        """Whether a sender may come from there; one on a Unix socket may."""
        return not isinstance(sockaddr, tuple) or is_in(sockaddr[0], self.allowed)

    def is_headed(self, sockaddr: object) -> bool:
        """Whether a connection from there begins with a PROXY header."""
        origin_policy = self.origin_policy
        return origin_policy is not None and isinstance(sockaddr, tuple) and is_in(sockaddr[0], origin_policy.trusted)


def listener_contexts(
    settings: Settings, sockets: Mapping[socket.socket, Listener], driver: Readiness, states: ReceiverStates
) -> dict[socket.socket, ListenerContext]:
    """The context of each listening socket. Raises TlsUnusable."""
    own_legs, loops = OwnLegs(), (Loops(), Loops(each_its_own=True))
    addresses = [sock.getsockname() for sock in sockets]
    ports = frozenset(address[1] for address in addresses if isinstance(address, tuple))
    common: tuple[Policy, Receivers] | None = None
    made: dict[Listener, ListenerContext] = {}
    for listener in sockets.values():
        if listener in made:
            continue
        its = settings.of(listener)
        if listener.own:
            policy, receivers = _policy(its), _receivers(its, driver, own_legs, loops, states)
        else:
            policy, receivers = common = common or (_policy(its), _receivers(its, driver, own_legs, loops, states))
        policy = attrs.evolve(
            policy, lf_only_devices=listener.lf_only_devices, sender_context=its.sender_context(listener)
        )
        origin_policy = OriginPolicy(
            trusted=its.trust,
            original=its.goes_to_original,
            tproxy=listener.tproxy,
            allowed=its.allow_destination,
            own_legs=own_legs,
            ports=ports,
        )
        needed = its.trust or its.goes_to_original or its.spoof_sender or its.send_proxy or its.xclient
        made[listener] = ListenerContext(policy, receivers, origin_policy if needed else None, its.allow_sender)
    return {sock: made[listener] for sock, listener in sockets.items()}


def _policy(settings: Settings) -> Policy:
    as_given = {field.name: getattr(settings, field.name) for field in attrs.fields(SessionSettings)}
    return Policy(
        early_success=LocalReply.parse(settings.early_success),
        fails_over=len(settings.endpoints) > 1,
        sizes=settings.sizes,
        hidden=Hidden.of(settings.hide),
        rewrites=settings.rewrite,
        observed=frozenset(settings.observe),
        helo_name=settings.helo_name_used.encode(),
        sender_tls=settings.sender_tls_used,
        receiver_security=settings.receiver_security(),
        login=settings.login,
        **as_given,
    )


def _receivers(
    settings: Settings, driver: Readiness, own_legs: OwnLegs, loops: tuple[Loops, Loops], states: ReceiverStates
) -> Receivers:
    in_common, of_each = loops
    return Receivers(
        driver=driver,
        places=[Places(endpoint) for endpoint in settings.endpoints],
        balance=settings.balance,
        rest_seconds=settings.receiver_rest_seconds,
        source=settings.source_used,
        spoofs=settings.spoof_sender,
        header=settings.send_proxy,
        states=states,
        own_legs=own_legs if settings.goes_to_original else None,
        loops=of_each if settings.goes_to_original else in_common,
    )
