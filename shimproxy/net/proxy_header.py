"""The PROXY header: whom a connection is from, as told by the proxy before us, or by us to the one behind.

Source: HAProxy's doc/proxy-protocol.txt, versions 1 (a line, its section 2.1) and 2 (binary, its section 2.2).

Invariants:

1. A header is what the specification has, to the octet, or it is refused, as soon as that can be told.
2. Not one octet behind it is taken: there stands SMTP, or a TLS handshake that ssl has to read from the socket.
3. What is refused is told escaped, and no more of it than a line.

It does not know who may send a header: whoever reads one from a peer that isn't trusted believes anything.
"""

from __future__ import annotations

import enum
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Final, NoReturn

import attrs

from shimproxy.net.address import ip_address
from shimproxy.net.errors import HeaderInvalid

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.net.origin import Party

LINE_OCTETS_LIMIT: Final = 107
"""The longest line of version 1, with its CRLF (section 2.1)."""
HEADER_OCTETS_LIMIT: Final = 4096
"""The longest header of version 2 that is taken; the specification wants all to fit into 536 octets (section 2)."""

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_OCTETS: Final = 16
_STARTS: Final = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n", _SIGNATURE)
_SHOWN_OCTETS: Final = 16

_LOCAL, _PROXY = 0x20, 0x21
"""Version 2 and a command; there are no others."""
_IPV4, _IPV6, _UNIX = 0x1, 0x2, 0x3
"""Families; 0x0 is UNSPEC."""
_STREAM, _DATAGRAM = 0x1, 0x2
"""Transports; 0x0 is UNSPEC."""
_PORTS: Final = struct.Struct("!HH")
_ADDRESSES_OCTETS: Final = {_IPV4: 2 * 4 + _PORTS.size, _IPV6: 2 * 16 + _PORTS.size, _UNIX: 2 * 108}
_SOCKET_FAMILY: Final = {_IPV4: socket.AF_INET, _IPV6: socket.AF_INET6}
_TLV_OCTETS: Final = 3
_CRC32C_TYPE: Final = 0x03
_CRC32C_OCTETS: Final = 4
_MAPPED: Final = bytes(10) + b"\xff\xff"
"""What stands before an IPv4 address that is mapped into IPv6 (RFC 4291 section 2.5.5.2)."""


class Version(enum.StrEnum):
    """Of the header: a line of text, or binary."""

    V1 = "v1"
    V2 = "v2"


@attrs.frozen
class Header:
    """Whom a connection is from, and where it was to go, as the proxy before us has it."""

    sender: Party | None = None
    """None if it does not say, or by no IP address and TCP port: the connection's own count."""
    destination: Party | None = None
    """None as the sender is."""
    local: bool = False
    """Whether the connection is the proxy's own, as for a health check; only version 2 can say so."""


# -- reading


async def read_header(leg: Leg) -> Header:
    """Take the header off a leg, and not an octet more.

    Raises HeaderInvalid, also for FIN or RST before its end, DeadlinePassed, Interrupted.
    """
    header = b""
    while True:
        await leg.wait_to_read()
        ahead = leg.peek(HEADER_OCTETS_LIMIT)
        if ahead is None:
            continue
        if leg.ended:
            raise HeaderInvalid(f"{leg.ended.value} after {len(header)} octets")
        size_octets = length_octets(header + ahead)
        # What is known to be the header's is taken at once: octets left there would hide the peer's end.
        taken_octets = len(ahead) if size_octets is None else min(len(ahead), size_octets - len(header))
        leg.skip(taken_octets)
        header += ahead[:taken_octets]
        if len(header) == size_octets:
            return parse(header)


def length_octets(octets: bytes) -> int | None:
    """How long the header is that `octets` begin with or are the beginning of, None if that can't be told yet.

    Raises HeaderInvalid if they are the beginning of none.
    """
    if not any(start.startswith(octets[: len(start)]) for start in _STARTS):
        _refuse("none begins with", octets[:_SHOWN_OCTETS])
    if _SIGNATURE.startswith(octets[: len(_SIGNATURE)]):
        return _binary_octets(octets)
    line = octets[:LINE_OCTETS_LIMIT]
    end = line.find(b"\r\n")
    text = line.removesuffix(b"\r") if end < 0 else line[:end]
    if b"\r" in text or b"\n" in text:
        raise HeaderInvalid("CR or LF alone; the line must end with CRLF")
    if end >= 0:
        return end + len(b"\r\n")
    if len(line) == LINE_OCTETS_LIMIT:
        raise HeaderInvalid(f"no CRLF within {LINE_OCTETS_LIMIT} octets")
    return None


def parse(octets: bytes) -> Header:
    """What a header says; `octets` are the whole of it. Raises HeaderInvalid."""
    size_octets = length_octets(octets)
    if size_octets != len(octets):
        raise HeaderInvalid(f"{len(octets)} octets are not one whole header")
    return _parse_binary(octets) if octets.startswith(_SIGNATURE) else _parse_line(octets)


def _refuse(what: str, octets: bytes) -> NoReturn:
    raise HeaderInvalid(f"{what} {octets.decode('latin-1')!a}")


# -- version 1


def _parse_line(line: bytes) -> Header:
    if line.startswith(b"PROXY UNKNOWN"):
        return Header()  # whatever stands behind that
    words = line.removesuffix(b"\r\n").split(b" ")
    if len(words) != 6:
        _refuse("not two addresses and two ports with a single blank before each:", line)
    _, family, sender, destination, sender_port, destination_port = words
    return Header((_host(family, sender), _port(sender_port)), (_host(family, destination), _port(destination_port)))


def _host(family: bytes, word: bytes) -> str:
    text = word.decode("latin-1")
    try:
        address = ipaddress.IPv4Address(text) if family == b"TCP4" else ipaddress.IPv6Address(text)
    except ValueError:
        address = None
    if address is None or "%" in text:
        _refuse(f"no address for {family.decode()}:", word)
    return str(ip_address(text))


def _port(word: bytes) -> int:
    if not (word.isdigit() and len(word) <= 5 and int(word) <= 65_535 and word == b"%d" % int(word)):
        _refuse("no port from 0 to 65535 without leading zeros:", word)
    return int(word)


# -- version 2


def _binary_octets(octets: bytes) -> int | None:
    """As `length_octets`, for what begins with the signature or is the beginning of it."""
    fixed = octets[:_FIXED_OCTETS]
    command, protocol = fixed[12:13], fixed[13:14]
    if command and command[0] not in (_LOCAL, _PROXY):
        raise HeaderInvalid(f"neither LOCAL nor PROXY of version 2: 0x{command.hex()}")
    # Of LOCAL nothing else counts, nor has to be right (section 2.2).
    if command[:1] == bytes((_PROXY,)) and protocol and not _is_known(protocol[0]):
        raise HeaderInvalid(f"no family and transport of version 2: 0x{protocol.hex()}")
    if len(fixed) < _FIXED_OCTETS:
        return None
    rest_octets = int.from_bytes(fixed[14:], "big")
    if _FIXED_OCTETS + rest_octets > HEADER_OCTETS_LIMIT:
        raise HeaderInvalid(f"{_FIXED_OCTETS + rest_octets} octets, where at most {HEADER_OCTETS_LIMIT} are taken")
    if command[0] == _PROXY and rest_octets < _addresses_octets(protocol[0]):
        raise HeaderInvalid(f"{rest_octets} octets are too few for the addresses of 0x{protocol.hex()}")
    return _FIXED_OCTETS + rest_octets


def _is_known(protocol: int) -> bool:
    return protocol >> 4 <= _UNIX and protocol & 0xF <= _DATAGRAM


def _addresses_octets(protocol: int) -> int:
    """The size of the addresses; 0 where the family or the transport is UNSPEC, as it is not known then."""
    return _ADDRESSES_OCTETS.get(protocol >> 4, 0) if protocol & 0xF else 0


def _parse_binary(header: bytes) -> Header:
    command, protocol = header[12], header[13]
    if command == _LOCAL:
        return Header(local=True)
    end = _FIXED_OCTETS + _addresses_octets(protocol)
    if end == _FIXED_OCTETS:
        return Header()  # what follows may be anything
    _check_vectors(header, end)
    family = _SOCKET_FAMILY.get(protocol >> 4)
    if family is None or protocol & 0xF != _STREAM:
        return Header()  # a UNIX socket's, or a datagram's
    hosts, ports = header[_FIXED_OCTETS : end - _PORTS.size], header[end - _PORTS.size : end]
    middle = len(hosts) // 2
    sender, destination = (str(ip_address(socket.inet_ntop(family, host))) for host in (hosts[:middle], hosts[middle:]))
    sender_port, destination_port = _PORTS.unpack(ports)
    return Header((sender, sender_port), (destination, destination_port))


def _check_vectors(header: bytes, at: int) -> None:
    """That from `at` on there are whole TLVs, and that a checksum among them is right (section 2.2.3)."""
    checked = False
    while at < len(header):
        value = at + _TLV_OCTETS
        end = value + int.from_bytes(header[at + 1 : value], "big")
        if end > len(header):
            raise HeaderInvalid("the last TLV is cut off")
        if header[at] == _CRC32C_TYPE:
            if checked or end - value != _CRC32C_OCTETS:  # a second one would cost as much again, and so would a 500th
                raise HeaderInvalid(f"more than one checksum, or one without {_CRC32C_OCTETS} octets")
            blanked = header[:value] + bytes(_CRC32C_OCTETS) + header[end:]
            if _crc32c(blanked).to_bytes(_CRC32C_OCTETS, "big") != header[value:end]:
                raise HeaderInvalid("the checksum is wrong")
            checked = True
        at = end


def _crc32c_row(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_CRC32C_TABLE: Final = tuple(_crc32c_row(octet) for octet in range(256))


def _crc32c(octets: bytes) -> int:
    """The checksum of RFC 9260 appendix A, in the order of bits that the PROXY header has."""
    checksum = 0xFFFF_FFFF
    for octet in octets:
        checksum = checksum >> 8 ^ _CRC32C_TABLE[(checksum ^ octet) & 0xFF]
    return checksum ^ 0xFFFF_FFFF


# -- writing


# Not PROXY with UNSPEC, which a receiver is free to refuse (section 2.2): HAProxy 2.6 does, and writes LOCAL itself.
# Nor anything behind UNKNOWN: HAProxy refuses that.
_UNSAID: Final = {Version.V1: b"PROXY UNKNOWN\r\n", Version.V2: _SIGNATURE + bytes((_LOCAL, 0, 0, 0))}


def local(version: Version, own: Party | None, peer: Party | None) -> bytes:
    """The header of a connection of the shim's own, as for a health check, by its two ends.

    Version 1 can't say so, and is given the ends, as section 2.1 wants it: Postfix 3.7 answers UNKNOWN with 421.
    """
    return _UNSAID[version] if version is Version.V2 else encoded_header(version, own, peer)


def encoded_header(version: Version, sender: Party | None, destination: Party | None) -> bytes:
    """The header that says whom a connection is from and where it was to go.

    Without one of them it says that the connection's own count. The hosts are as sockets have them: zones are cut
    off. Raises ValueError if one is no IP address.
    """
    if sender is None or destination is None:
        return _UNSAID[version]
    hosts = [_packed(host) for host, _ in (sender, destination)]
    family = _IPV4
    if any(len(host) > 4 for host in hosts):
        # A header has room for one family: where they are two, HAProxy maps the IPv4 one into IPv6, in both versions.
        family = _IPV6
        hosts = [host if len(host) > 4 else _MAPPED + host for host in hosts]
    ports = sender[1], destination[1]
    if version is Version.V1:
        texts = (socket.inet_ntop(_SOCKET_FAMILY[family], host) for host in hosts)
        return " ".join(("PROXY", "TCP4" if family == _IPV4 else "TCP6", *texts, *map(str, ports))).encode() + b"\r\n"
    block = b"".join(hosts) + _PORTS.pack(*ports)
    return _SIGNATURE + struct.pack("!BBH", _PROXY, family << 4 | _STREAM, len(block)) + block


def _packed(host: str) -> bytes:
    address = ip_address(host)
    if address is None:
        raise ValueError(f"{host!r} is not an IP address")
    return address.packed
