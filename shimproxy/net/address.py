"""HOST:PORT as operators write it: `127.0.0.1:25`, `[::1]:25`, `mail.example:25`, `:2525` for all addresses."""

from __future__ import annotations

import functools
import ipaddress
from typing import Self

import attrs

from shimproxy.net.errors import AddressError


@attrs.frozen
class Address:
    """A host and a port; the host is a name, a literal, or empty for all addresses."""

    host: str
    port: int

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
            raise AddressError(f"{text!r}: {host!r} is no host name or address")
        return cls(host, int(port))

    @property
    def is_literal(self) -> bool:
        """Whether the host is an IP address, which needs no look-up."""
        try:
            ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def written(sockaddr: object) -> str:
    """A socket's address as HOST:PORT."""
    if not isinstance(sockaddr, tuple):
        return "local"
    host, port = sockaddr[:2]
    if host.startswith("::ffff:") and "." in host:
        # An IPv4 peer on a socket for both families is still an IPv4 peer to whoever reads the log.
        host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def network_of(sockaddr: object, ipv4_prefix: int, ipv6_prefix: int) -> str | None:
    """The network of a socket's address, as in 192.0.2.0/24, its prefix being so many bits; None if it is of none."""
    return _network_of(sockaddr[0], ipv4_prefix, ipv6_prefix) if isinstance(sockaddr, tuple) else None


@functools.lru_cache(maxsize=1024)
def _network_of(host: str, ipv4_prefix: int, ipv6_prefix: int) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((address, ipv6_prefix), strict=False))
        address = address.ipv4_mapped
    return str(ipaddress.IPv4Network((address, ipv4_prefix), strict=False))
