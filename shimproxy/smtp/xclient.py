"""XCLIENT: who the sender is, in a command to the receiver (Postfix' XCLIENT_README).

Invariants:

1. Nothing that a sender says can end the command, or begin another attribute: values are xtext (RFC 3461 section 4).
2. It is one command. Postfix judges after each one whether the host that it takes its peer for by then may give
   another, and forgets HELO and PROTO that were not in the last.
3. It has at most 512 octets (RFC 5321 4.5.3.1.4).
4. It has no attribute that the receiver does not list: Postfix refuses the command for one.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Final

from shimproxy.smtp.command import Command, Verb, name_given

XCLIENT: Final = b"XCLIENT"
UNAVAILABLE: Final = b"[UNAVAILABLE]"
LONGEST_VALUE_OCTETS: Final = 255
"""Of a value as it is written; Postfix refuses the command for a longer one."""

_XTEXT: Final = [
    b"%c" % octet if 33 <= octet <= 126 and octet not in b"+=" else b"+%02X" % octet for octet in range(256)
]


def xtext(octets: bytes) -> bytes:
    """The same as xtext (RFC 3461 section 4)."""
    return b"".join([_XTEXT[octet] for octet in octets])


def xclient_command(
    listed: bytes, hello: Command, sender: tuple[str, int] | None, destination: tuple[str, int] | None
) -> Command | None:
    """The command for a receiver that lists these attributes; None if it lists none that is known here.

    `hello` is what the sender has said first; if that is no HELO, EHLO or LHLO, its name is not known. `sender` and
    `destination` are addresses and ports, None where they are not known.
    """
    values = {
        # Nobody has looked it up; and without a word on it, the receiver would go on with shimproxy's own.
        b"NAME": UNAVAILABLE,
        b"REVERSE_NAME": UNAVAILABLE,
        b"ADDR": _address(sender),
        b"PORT": _port(sender),
        b"HELO": _name(hello),
        b"PROTO": _protocol(hello.verb),
        b"DESTADDR": _address(destination),
        b"DESTPORT": _port(destination),
    }
    names = listed.upper().split()
    attributes = [b"%s=%s" % (name, value) for name, value in values.items() if value and name in names]
    return Command(Verb.OTHER, b" ".join([XCLIENT, *attributes]) + b"\r\n") if attributes else None


def _address(party: tuple[str, int] | None) -> bytes:
    if party is None:
        return UNAVAILABLE
    address = ip_address(party[0].partition("%")[0])  # a zone means something on this host only
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return b"IPV6:%s" % str(address).encode()
        address = address.ipv4_mapped
    return str(address).encode()


def _port(party: tuple[str, int] | None) -> bytes:
    return b"%d" % party[1] if party else UNAVAILABLE


def _name(hello: Command) -> bytes:
    name = xtext(name_given(hello))
    # A name that was cut would be another one.
    return name if 0 < len(name) <= LONGEST_VALUE_OCTETS else UNAVAILABLE


def _protocol(verb: Verb) -> bytes:
    """SMTP or ESMTP; there is no word for LMTP, and none for not knowing it: who says no hello speaks SMTP."""
    return {Verb.EHLO: b"ESMTP", Verb.LHLO: b""}.get(verb, b"SMTP")
