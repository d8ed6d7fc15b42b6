"""Whom a connection is from and where it was to go, before a gateway's rules or a proxy turned it here.

REDIRECT rewrites the destination, and conntrack knows the one before (SO_ORIGINAL_DST); TPROXY leaves it as it is, so
that a socket's own name is the destination.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import attrs

from shimproxy.net.address import is_in, parse_network
from shimproxy.net.errors import AddressError

if TYPE_CHECKING:
    from shimproxy.net.address import Network
    from shimproxy.net.leg import Leg

_SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST has the same number
_IPV6_TRANSPARENT: Final = 75  # linux/in6.h; not in the socket module
_SOCKADDR_IN: Final = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6: Final = struct.Struct("!2xH4x16s4x")

Party = tuple[str, int]
"""A host as an address, and a port."""


@attrs.frozen
class Origin:
    """Both ends of a sender's connection, as its own host has them; None where they are no addresses."""

    sender: Party | None
    destination: Party | None


NOBODY: Final = Origin(None, None)


def party(sockaddr: object) -> Party | None:
    """The host and port of a socket's address, a mapped IPv4 address as IPv4; None for one of a Unix socket."""
    if not isinstance(sockaddr, tuple):
        return None
    host, port = sockaddr[:2]
    return host.removeprefix("::ffff:") if "." in host else host, port


def redirected_from(sock: socket.socket) -> Party | None:
    """Where a connection was to go before REDIRECT; None if it was not redirected."""
    own = party(sock.getsockname())
    if own is None:
        return None
    try:
        if ":" in own[0]:  # its peer's address is of the same family, but is not known any more after a RST
            port, octets = _SOCKADDR_IN6.unpack(
                sock.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, _SOCKADDR_IN6.size)
            )
            destination = socket.inet_ntop(socket.AF_INET6, octets), port
        else:  # also where it is mapped, on a socket for both families
            port, octets = _SOCKADDR_IN.unpack(sock.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN.size))
            destination = socket.inet_ntoa(octets), port
    except OSError:  # conntrack knows of no such connection, or is not there
        return None
    return None if destination == own else destination


def make_transparent(sock: socket.socket) -> None:
    """Let a socket have an address that is not this machine's, unless it may have one already.

    Raises OSError without the capability for that.
    """
    option = (
        (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT)
        if sock.family == socket.AF_INET6
        else (socket.IPPROTO_IP, socket.IP_TRANSPARENT)
    )
    if not sock.getsockopt(*option):
        sock.setsockopt(*option, 1)


def may_be_transparent() -> bool:
    """Whether this process has the capability that `make_transparent` needs."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            make_transparent(sock)
        except PermissionError:
            return False
    return True


# -- where legs may go


_PORTS: Final = (25, 587)
LOOPBACK: Final = tuple(parse_network(each) for each in ("127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128"))
"""With the unspecified addresses, which lead to the same place."""


@attrs.frozen
class Allowed:
    """Destinations that connections may be taken to: a network's, or any but loopback, on some ports."""

    network: Network | None = None
    ports: tuple[int, ...] = _PORTS

    @classmethod
    def parse(cls, text: str) -> Allowed:
        """From NETWORK, NETWORK:PORT or :PORT; where a port follows, an IPv6 network is in brackets.

        Raises AddressError.
        """
        network, colon, port = text.rpartition(":")
        if not colon or (network.count(":") and not network.endswith("]")):
            network, port = text, ""
        if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65_535):
            raise AddressError(f"{text!r}: the port must be a number from 1 to 65535")
        if not text or (colon and not port and network != text):
            raise AddressError(
                f"{text!r}: write a network as in 192.0.2.0/24, a network with a port as in 192.0.2.0/24:25, or "
                "':PORT' alone"
            )
        inside = network[1:-1] if network.startswith("[") and network.endswith("]") else network
        if inside is network and ":" in network and "/" not in network:
            raise AddressError(f"{text!r}: write an IPv6 address in brackets, as in [::1] or [::1]:25")
        return cls(parse_network(inside) if inside else None, (int(port),) if port else _PORTS)

    def includes(self, destination: Party) -> bool:
        """Whether a connection may be taken there; to loopback only if nothing else was meant."""
        host, port = destination
        if port not in self.ports:
            return False
        if self.network is None:
            return not is_in(host, LOOPBACK)
        is_of_loopback = self.network.network_address in LOOPBACK[self.network.version == 6]
        return is_in(host, (self.network,)) and (is_of_loopback or not is_in(host, LOOPBACK))


@attrs.define(eq=False)
class OwnLegs:
    """The receiver legs of this process, so that one which comes back to it is known."""

    _legs: WeakValueDictionary[tuple[object, object], Leg] = attrs.field(factory=WeakValueDictionary)

    def add(self, leg: Leg) -> None:
        """Know that leg as long as it is open."""
        with suppress(OSError):  # its peer has reset it already, and it comes back nowhere
            self._legs[party(leg.sock.getsockname()), party(leg.sock.getpeername())] = leg

    def has(self, sender: Party | None, destination: Party | None) -> bool:
        """Whether a connection from there to there is one of them."""
        leg = self._legs.get((sender, destination))
        return leg is not None and not leg.closed
