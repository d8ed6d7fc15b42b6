"""Where a connection goes to or comes from, as operators write it.

`127.0.0.1:25`, `[::1]:25` and `mail.example:25` are a host and a port, `:2525` all addresses, `unix:/run/lmtp` a socket
in the file system, `192.0.2.0/24` a network.
"""

from __future__ import annotations

import functools
import ipaddress
import os
from typing import TYPE_CHECKING, Final, Self

import attrs

from shimproxy.net.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Iterable

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
UNIX: Final = "unix:"
"""What a path of a socket begins with."""
_MOST_PATH_OCTETS: Final = 107  # unix(7): sun_path with the NUL at its end


@attrs.frozen
class Address:
    """A host and a port; the host is a name, a literal, or empty for all addresses. Raises AddressError."""

    host: str
    port: int

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.host, str) or type(self.port) is not int:
            raise AddressError(
                f"{self.host!r}, {self.port!r}: write a text and a number, as in Address('127.0.0.1', 25)"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that `text` writes as HOST:PORT. Raises AddressError."""
        host, colon, port = text.rpartition(":")
        if not colon:
            raise AddressError(f"{text!r} has no port: write HOST:PORT, as in 127.0.0.1:25")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
            raise AddressError(f"{text!r}: the port must be a number from 0 to 65535")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise AddressError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:25")
        if any(character.isspace() or not character.isprintable() or character in "[]/@" for character in host):
            raise AddressError(f"{text!r}: {host!r} is not a host name or an address")
        return cls(host, int(port))

    @property
    def is_literal(self) -> bool:
        """Whether the host is an IP address, which needs no look-up."""
        return ip_address(self.host) is not None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class UnixPath:
    """A socket in the file system (unix(7))."""

    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The socket that `text` writes as unix:PATH. Raises AddressError."""
        path = text.removeprefix(UNIX)
        if not (text.startswith(UNIX) and path.startswith("/") and "\0" not in path):
            raise AddressError(f"{text!r} has no absolute path; write unix:/run/shimproxy/smtp")
        if len(os.fsencode(path)) > _MOST_PATH_OCTETS:
            raise AddressError(
                f"{text!r}: the path of a socket has {_MOST_PATH_OCTETS} octets at most; give a shorter one"
            )
        return cls(path)

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"


Endpoint = Address | UnixPath


@attrs.frozen(eq=False, repr=False)
class BoundAddress(str):
    """Where connections are accepted: a text, HOST:PORT or unix:PATH, that has its parts as attributes."""

    host: str
    """The IP address, without brackets; empty for a path."""
    port: int
    """0 for a path."""
    path: str = ""

    def __new__(cls, host: str, port: int, path: str = "") -> Self:
        """The text of these parts."""
        return super().__new__(cls, address_text((host, port) if host else path))

    def __getnewargs__(self) -> tuple[str, int, str]:  # type: ignore[override]
        return self.host, self.port, self.path

    @classmethod
    def of(cls, sockaddr: object) -> Self:
        """The address of a listening socket."""
        if isinstance(sockaddr, tuple):
            host, port = sockaddr[:2]
            return cls(_unmapped(host), port)
        return cls("", 0, os.fsdecode(sockaddr) if isinstance(sockaddr, str | bytes) else "")


def parse_endpoint(text: str) -> Endpoint:
    """What `text` writes as HOST:PORT or unix:PATH. Raises AddressError."""
    return UnixPath.parse(text) if text.startswith(UNIX) else Address.parse(text)


def parse_network(text: str) -> Network:
    """The network that `text` writes, as in 192.0.2.0/24; an address is a network of one. Raises AddressError."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise AddressError(f"{error}; write a network as in 192.0.2.0/24 or 2001:db8::/32") from None


def ip_address(host: str) -> IpAddress | None:
    """The address that a host is, without its zone, and an IPv4 address even if it is mapped into IPv6; or None."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


@functools.lru_cache(maxsize=1024)
def is_in(host: str, networks: Iterable[Network]) -> bool:
    """Whether a host, given as an address, is in one of the networks."""
    address = ip_address(host)
    return address is not None and any(address in network for network in networks)


def address_text(sockaddr: object) -> str:
    """A socket's address as HOST:PORT or unix:PATH, in printable ASCII."""
    if not isinstance(sockaddr, tuple):
        if not (isinstance(sockaddr, str) and sockaddr):
            return "local"
        # A peer's path is the peer's choice, and must not write a line of its own into the log.
        return UNIX + os.fsencode(sockaddr).decode("latin-1").encode("unicode_escape").decode("ascii")
    host, port = _unmapped(sockaddr[0]), sockaddr[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _unmapped(host: str) -> str:
    """An IPv4 peer on a socket for both families is still an IPv4 peer to whoever reads the log."""
    return host.removeprefix("::ffff:") if host.startswith("::ffff:") and "." in host else host


def network_of(sockaddr: object, ipv4_prefix: int, ipv6_prefix: int) -> str | None:
    """The network of a socket's address, as in 192.0.2.0/24, its prefix being so many bits; None if it is of none."""
    return _network_of(sockaddr[0], ipv4_prefix, ipv6_prefix) if isinstance(sockaddr, tuple) else None


@functools.lru_cache(maxsize=1024)
def _network_of(host: str, ipv4_prefix: int, ipv6_prefix: int) -> str:
    address = ip_address(host)
    assert address is not None
    return str(ipaddress.ip_network((address, ipv4_prefix if address.version == 4 else ipv6_prefix), strict=False))
