"""Settings of the way of a session: where senders connect, and which receiver it goes to."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import attrs

from shimproxy.config import converters
from shimproxy.config.converters import Original, ReceiverAddress, known_beforehand
from shimproxy.config.listener import Listener, listeners
from shimproxy.net.balance import REST_SECONDS, Balance
from shimproxy.net.origin import Allowed
from shimproxy.net.proxy_header import Version
from shimproxy.net.source import ANYWHERE, Source
from shimproxy.session.limits import at_least, not_negative
from shimproxy.session.setting import Group, setting

if TYPE_CHECKING:
    from shimproxy.net.address import Endpoint, Network


@attrs.frozen(kw_only=True, slots=False)
class RouteSettings:
    """The part of Settings that says where connections come from and where they go."""

    listen: tuple[Listener, ...] = attrs.field(
        default=(),
        converter=listeners,
        metadata=setting(
            "listen",
            Group.ROUTE,
            "where senders connect: HOST:PORT, [::1]:2525 for IPv6, :2525 for all addresses, port 0 for a free port; "
            "or unix:PATH; or systemd[:NAME] for a socket from systemd; ',lf-only-devices' accepts LF alone as line "
            "end, and LF.LF as the end of mail data (dangerous: shimproxy help newlines); ',least-tls=1.0' accepts "
            "senders with that TLS version; ',tproxy' accepts connections that TPROXY redirects",
            metavar="HOST:PORT[,...]",
        ),
    )
    """May be empty if `serve` is given listeners."""
    receiver: tuple[ReceiverAddress, ...] = attrs.field(
        default=(),
        converter=converters.receivers,
        validator=converters.is_dialable,
        metadata=setting(
            "receiver",
            Group.ROUTE,
            "the receiver of all mail; several in order of preference; 'original', on a gateway: the address that "
            "the sender connected to",
            metavar="HOST:PORT|unix:PATH|original",
        ),
    )
    """May be empty if every listener has its own."""
    balance: Balance = attrs.field(
        default=Balance.FIRST,
        converter=Balance,
        metadata=setting("balance", Group.ROUTE, "of several receivers use the first that answers, or each in turn"),
    )
    receiver_rest_seconds: float = attrs.field(
        default=REST_SECONDS,
        validator=not_negative,
        metadata=setting(
            "receiver-rest",
            Group.ROUTE,
            "how long to try a receiver last after its connection or greeting failed",
            metavar="SECONDS",
        ),
    )
    receiver_connections: int = attrs.field(
        default=0,
        validator=at_least(0),
        metadata=setting(
            "receiver-connections",
            Group.ROUTE,
            "how many connections a receiver may have; further senders wait before their greeting; 0: no limit; "
            "workers share it",
            metavar="N",
            of_listener=False,
        ),
    )
    receiver_wait_seconds: float = attrs.field(
        default=30.0,
        validator=not_negative,
        metadata=setting(
            "receiver-wait",
            Group.ROUTE,
            "how long a sender waits for one of these connections; then shimproxy tries the next receiver, or "
            "replies 421",
            metavar="SECONDS",
            of_listener=False,
        ),
    )
    source: tuple[str, ...] = attrs.field(
        default=(),
        converter=converters.addresses,
        metadata=setting(
            "source",
            Group.ROUTE,
            "the local address for connections to the receiver; one for IPv4 and one for IPv6",
            metavar="ADDRESS",
        ),
    )
    spoof_sender: bool = attrs.field(
        default=False,
        metadata=setting(
            "spoof-sender",
            Group.ROUTE,
            "connect to the receiver from the sender's own address; needs CAP_NET_RAW or CAP_NET_ADMIN, and routes "
            "that lead the answers back here",
        ),
    )
    allow_sender: tuple[Network, ...] = attrs.field(
        default=(),
        converter=converters.networks,
        metadata=setting(
            "allow-sender",
            Group.ROUTE,
            "where senders may connect from, behind a proxy in --trust too (default: everywhere); this host's Unix "
            "sockets are always allowed",
            metavar="NETWORK",
        ),
    )
    allow_destination: tuple[Allowed, ...] = attrs.field(
        default=(Allowed(),),
        converter=converters.allowed,
        metadata=setting(
            "allow-destination",
            Group.ROUTE,
            "with 'original', where senders may connect (default: ports 25 and 587 of any address but loopback)",
            metavar="[NETWORK][:PORT]",
        ),
    )
    trust: tuple[Network, ...] = attrs.field(
        default=(),
        converter=converters.networks,
        metadata=setting(
            "trust",
            Group.ROUTE,
            "connections from there must begin with a PROXY header (version 1 or 2), which names the sender",
            metavar="NETWORK",
        ),
    )
    send_proxy: Version | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(Version),
        metadata=setting(
            "send-proxy",
            Group.ROUTE,
            "begin connections to the receiver with a PROXY header",
            choices=Version,
        ),
    )

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The receivers that are known beforehand."""
        return known_beforehand(self.receiver)

    @property
    def goes_to_original(self) -> bool:
        """Whether sessions go where their senders wanted to."""
        return Original.DESTINATION in self.receiver

    @property
    def source_used(self) -> Source:
        """What `source` comes to."""
        families = {socket.AF_INET6 if ":" in each else socket.AF_INET: (each, 0) for each in self.source}
        return Source(families) if families else ANYWHERE
