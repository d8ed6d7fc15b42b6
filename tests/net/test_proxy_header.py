"""The PROXY header of HAProxy's doc/proxy-protocol.txt: what is one, what is none, what is taken of a leg."""

from __future__ import annotations

import contextlib
import itertools
import math
import socket
import ssl
import string
from typing import TYPE_CHECKING, Final

import attrs
import pytest
import trio

from shimproxy.faulty.receiving import HOST
from shimproxy.faulty.talk import SECONDS
from shimproxy.net.errors import DeadlinePassed, HeaderInvalid, Interrupted
from shimproxy.net.leg import Leg
from shimproxy.net.proxy_header import (
    HEADER_OCTETS_LIMIT,
    LINE_OCTETS_LIMIT,
    Header,
    Version,
    encoded_header,
    length_octets,
    local,
    parse,
    read_header,
)
from tests.net.ground import Ground, ground
from tests.net.test_net import pair
from tests.peers.postfix import postfix
from tests.peers.processes import START_SECONDS, free_port, need, poll, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shimproxy.net.origin import Party

SIGNATURE: Final = bytes.fromhex("0D0A0D0A000D0A515549540A")
LOCAL, PROXY = 0x20, 0x21
UNSAID = Header(None, None)
V4 = Header(("192.0.2.1", 56324), ("198.51.100.2", 25))
V4_BLOCK = bytes((192, 0, 2, 1, 198, 51, 100, 2)) + b"\xdc\x04\x00\x19"
V6 = Header(("2001:db8::1", 1), ("2001:db8::2", 65535))
V6_BLOCK = bytes.fromhex("20010db8000000000000000000000001 20010db8000000000000000000000002 0001 ffff")
SPOKEN = b"EHLO x\r\n"


def binary(command: int, protocol: int, rest: bytes = b"") -> bytes:
    """A header of version 2."""
    return SIGNATURE + bytes((command, protocol)) + len(rest).to_bytes(2, "big") + rest


def vector(kind: int, value: bytes) -> bytes:
    """A TLV."""
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def crc32c(octets: bytes) -> int:
    """Bit by bit, as a division of polynomials (Castagnoli's, reflected)."""
    remainder = 0xFFFFFFFF
    for octet in octets:
        remainder ^= octet
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0x82F63B78 * (remainder & 1))
    return remainder ^ 0xFFFFFFFF


def checked(protocol: int, block: bytes, behind: bytes = b"") -> bytes:
    """A PROXY header of version 2 with a right checksum."""
    blank = binary(PROXY, protocol, block + vector(0x03, bytes(4)) + behind)
    return binary(PROXY, protocol, block + vector(0x03, crc32c(blank).to_bytes(4, "big")) + behind)


FROM_HAPROXY = bytes.fromhex(
    "0d0a0d0a000d0a515549540a2121002b"
    "0000000000000000000000000000000100000000000000000000000000000001"
    "96c65db7030004be726b8f"
)
"""What HAProxy 2.6.12 has sent with `send-proxy-v2 proxy-v2-options crc32c`."""

LINES = {
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n": V4,
    b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n": Header(("0.0.0.0", 0), ("255.255.255.255", 65535)),
    b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n": V6,
    b"PROXY TCP6 2001:DB8:0:0:0:0:0:1 2001:0db8::0002 1 65535\r\n": V6,
    b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2 + [b"65535"] * 2) + b"\r\n": Header(
        ("ffff:" * 7 + "ffff", 65535), ("ffff:" * 7 + "ffff", 65535)
    ),
    b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c633:6402 56324 25\r\n": V4,
    b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n": Header(("192.0.2.1", 1), ("2001:db8::2", 2)),
    b"PROXY UNKNOWN\r\n": UNSAID,
    b"PROXY UNKNOWN \r\n": UNSAID,
    b"PROXY UNKNOWN  what \0 ever\xff%s\r\n": UNSAID,
    b"PROXY UNKNOWN TCP4 192.0.2.1 198.51.100.2 56324 25\r\n": UNSAID,
    b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n": UNSAID,
}
BINARIES = {
    binary(PROXY, 0x11, V4_BLOCK): V4,
    binary(PROXY, 0x21, V6_BLOCK): V6,
    binary(PROXY, 0x21, bytes(10) + b"\xff\xff\xc0\0\2\1" + bytes(10) + b"\xff\xff\xc6\x33\x64\2\xdc\4\0\x19"): V4,
    binary(PROXY, 0x11, V4_BLOCK + vector(0x04, b"") + vector(0x01, b"h2") + vector(0xEA, bytes(300))): V4,
    binary(PROXY, 0x11, V4_BLOCK + vector(0x04, bytes(HEADER_OCTETS_LIMIT - 16 - 12 - 3))): V4,
    checked(0x11, V4_BLOCK): V4,
    checked(0x21, V6_BLOCK, vector(0x02, b"mx.example")): V6,
    FROM_HAPROXY: Header(("::1", 38598), ("::1", 23991)),
    # falls back to UNSPEC: datagrams, UNIX sockets
    binary(PROXY, 0x12, V4_BLOCK): UNSAID,
    binary(PROXY, 0x22, V6_BLOCK + vector(0x04, b"x")): UNSAID,
    binary(PROXY, 0x31, bytes(216)): UNSAID,
    binary(PROXY, 0x32, bytes(216) + vector(0x04, b"x")): UNSAID,
    # UNSPEC, as family or transport: whatever follows
    binary(PROXY, 0x00): UNSAID,
    binary(PROXY, 0x00, b"?"): UNSAID,
    binary(PROXY, 0x00, V4_BLOCK): UNSAID,
    binary(PROXY, 0x01, b"?"): UNSAID,
    binary(PROXY, 0x02): UNSAID,
    binary(PROXY, 0x10, b"?"): UNSAID,
    binary(PROXY, 0x20, V6_BLOCK): UNSAID,
    binary(PROXY, 0x30): UNSAID,
    # LOCAL: whatever follows, and whatever the family
    binary(LOCAL, 0x00): Header(local=True),
    binary(LOCAL, 0x11, V4_BLOCK): Header(local=True),
    binary(LOCAL, 0x11, b"?"): Header(local=True),
    binary(LOCAL, 0xFF, bytes(300)): Header(local=True),
}
GOOD = LINES | BINARIES

BAD_LINES = {
    b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n": "none begins with 'p",
    b"PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n": "none begins with 'PROXY tcp4",
    b"PROXY TCP5 192.0.2.1 198.51.100.2 1 2\r\n": "none begins with 'PROXY TCP5",
    b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n": "none begins with 'PROXY UDP4",
    b"PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n": "none begins with 'PROXY  TCP4",
    b"PROXY\tTCP4 192.0.2.1 198.51.100.2 1 2\r\n": r"none begins with 'PROXY\\tTCP4",
    b" PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n": "none begins with ' PROXY",
    b"PROXY\r\n": r"none begins with 'PROXY\\r\\n'",
    b"PROXY TCP4\r\n": "none begins with",
    b"PROXY UNKNOWNS\r\n": "none begins with 'PROXY UNKNOWNS",
    b"PROXY UNKNOWN\n": r"none begins with 'PROXY UNKNOWN\\n",
    b"PROXY TCP4 \r\n": "not two addresses and two ports",
    b"PROXY TCP4 192.0.2.1  198.51.100.2 1 2\r\n": "not two addresses",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n": "not two addresses",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n": "not two addresses",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n": "not two addresses",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1  2\r\n": "not two addresses",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n": "CR or LF alone",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r": "not one whole header",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\rEHLO\r\n": "CR or LF alone",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\r\n": "CR or LF alone",
    b"PROXY UNKNOWN x\ny\r\n": "CR or LF alone",
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n": "no CRLF within 107 octets",
    b"PROXY UNKNOWN " + b"x" * 91 + b"\n\r\n": "CR or LF alone",
    b"PROXY TCP4 192.0.2.1\t198.51.100.2 1 2 3\r\n": "no address for TCP4",
    b"PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n": "no address for TCP4: '192.0.2'",
    b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n": "no address for TCP4",
    b"PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n": "no address for TCP4: '192.0.2.01'",
    b"PROXY TCP4 0xc0000201 198.51.100.2 1 2\r\n": "no address for TCP4",
    b"PROXY TCP4 3221225985 198.51.100.2 1 2\r\n": "no address for TCP4",
    b"PROXY TCP4 192.0.2.1 2001:db8::2 1 2\r\n": "no address for TCP4: '2001:db8::2'",
    b"PROXY TCP4 mx.example 198.51.100.2 1 2\r\n": "no address for TCP4: 'mx.example'",
    b"PROXY TCP4 192.0.2.1\0 198.51.100.2 1 2\r\n": r"no address for TCP4: '192.0.2.1\\x00'",
    b"PROXY TCP4 192.0.2.\xb2 198.51.100.2 1 2\r\n": r"no address for TCP4: '192.0.2.\\xb2'",
    b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n": "no address for TCP6",
    b"PROXY TCP6 2001:db8::1 198.51.100.2 1 2\r\n": "no address for TCP6",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n": "no address for TCP6: 'fe80::1%eth0'",
    b"PROXY TCP6 [2001:db8::1] 2001:db8::2 1 2\r\n": "no address for TCP6",
    b"PROXY TCP6 2001:db8::1::2 2001:db8::2 1 2\r\n": "no address for TCP6",
    b"PROXY TCP6 2001:db8::1 2001:db8::00002 1 2\r\n": "no address for TCP6",
    b"PROXY TCP6 1:2:3:4:5:6:7 2001:db8::2 1 2\r\n": "no address for TCP6",
    b"PROXY TCP6 1:2:3:4:5:6:7:8:9 2001:db8::2 1 2\r\n": "no address for TCP6",
    b"PROXY TCP6 2001:db8::1/64 2001:db8::2 1 2\r\n": "no address for TCP6",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n": "no port from 0 to 65535 without leading zeros: '65536'",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 00\r\n": "no port",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n": "no port",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n": "no port",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 2\r\n": "no port",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1_0 2\r\n": "no port",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 0x1 2\r\n": "no port",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 smtp\r\n": "no port",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 \xb2\r\n": "no port",
}
BAD_BINARIES = {
    binary(0x11, 0x11, V4_BLOCK): "neither LOCAL nor PROXY of version 2: 0x11",
    binary(0x31, 0x11, V4_BLOCK): "neither LOCAL nor PROXY",
    binary(0x22, 0x11, V4_BLOCK): "neither LOCAL nor PROXY",
    binary(0x2F, 0x00): "neither LOCAL nor PROXY",
    binary(PROXY, 0x40): "no family and transport of version 2: 0x40",
    binary(PROXY, 0xF1, bytes(216)): "no family and transport",
    binary(PROXY, 0x13, V4_BLOCK): "no family and transport",
    binary(PROXY, 0x03): "no family and transport",
    binary(PROXY, 0x11): "0 octets are too few for the addresses of 0x11",
    binary(PROXY, 0x11, V4_BLOCK[:-1]): "11 octets are too few",
    binary(PROXY, 0x12, V4_BLOCK[:-1]): "11 octets are too few",
    binary(PROXY, 0x21, V6_BLOCK[:-1]): "35 octets are too few",
    binary(PROXY, 0x31, bytes(215)): "215 octets are too few",
    binary(PROXY, 0x11, V4_BLOCK + b"\x04"): "the last TLV is cut off",
    binary(PROXY, 0x11, V4_BLOCK + b"\x04\0"): "the last TLV is cut off",
    binary(PROXY, 0x11, V4_BLOCK + vector(0x04, b"xyz")[:-1]): "the last TLV is cut off",
    binary(PROXY, 0x11, V4_BLOCK + vector(0x04, b"xyz") + b"\x04\0"): "the last TLV is cut off",
    binary(PROXY, 0x32, bytes(216) + b"\x04"): "the last TLV is cut off",
    binary(PROXY, 0x11, V4_BLOCK + vector(0x03, bytes(4))): "the checksum is wrong",
    binary(PROXY, 0x12, V4_BLOCK + vector(0x03, bytes(4))): "the checksum is wrong",
    binary(PROXY, 0x11, V4_BLOCK + vector(0x03, bytes(3))): "one without 4 octets",
    binary(PROXY, 0x11, V4_BLOCK + vector(0x03, b"")): "one without 4 octets",
    binary(PROXY, 0x00, bytes(HEADER_OCTETS_LIMIT - 15)): "4097 octets, where at most 4096 are taken",
    binary(LOCAL, 0x00, bytes(0xFFFF)): "65551 octets, where at most",
    SIGNATURE[:-1] + b"\r\x21\x11\0\x0c" + V4_BLOCK: "none begins with",
}
BAD = BAD_LINES | BAD_BINARIES
OTHERS = {
    "an EHLO": SPOKEN,
    "a TLS ClientHello": bytes.fromhex("16030100f1010000ed0303"),
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "two empty lines": b"\r\n\r\n\r\n\r\n",
}


def client_hello() -> bytes:
    """What ssl itself begins with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="mx.example").do_handshake()
    return outgoing.read()


def name_of(octets: object) -> str:
    return repr(octets)[:60] if isinstance(octets, bytes) else ""


# -- what is a header


@pytest.mark.parametrize(("octets", "header"), GOOD.items(), ids=name_of)
def test_what_a_header_says(octets: bytes, header: Header) -> None:
    assert parse(octets) == header


@pytest.mark.parametrize("octets", GOOD, ids=name_of)
def test_its_length_is_never_told_wrong_whatever_has_come_of_it(octets: bytes) -> None:
    """Nor what stands behind it; version 2 tells it with its 16th octet, version 1 with its last."""
    known_at = 16 if octets in BINARIES else len(octets)
    for end in range(len(octets) + 1):
        assert length_octets(octets[:end]) == (len(octets) if end >= known_at else None)
    for behind in (SPOKEN, b"\n", b"\r\n", octets, b"\0" * 5000):
        assert length_octets(octets + behind) == len(octets)


@pytest.mark.parametrize("octets", GOOD, ids=name_of)
def test_a_part_of_one_or_more_than_one_is_none(octets: bytes) -> None:
    for end in range(len(octets)):
        with pytest.raises(HeaderInvalid):
            parse(octets[:end])
    for behind in (b"\n", SPOKEN, octets):
        with pytest.raises(HeaderInvalid, match="not one whole header"):
            parse(octets + behind)


@pytest.mark.parametrize(("octets", "reason"), BAD.items(), ids=name_of)
def test_what_is_none_is_refused_for_a_reason(octets: bytes, reason: str) -> None:
    with pytest.raises(HeaderInvalid, match=reason) as caught:
        parse(octets)
    assert set(str(caught.value)) <= set(string.printable) - set("\r\n\t\v\f")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("octets", OTHERS.values(), ids=OTHERS)
def test_another_protocol_is_known_by_the_first_octet_that_a_header_has_not(octets: bytes) -> None:
    told_at = next(
        size for size in itertools.count(1) if not any(good.startswith(octets[:size]) for good in (SIGNATURE, b"PROXY"))
    )
    assert length_octets(octets[: told_at - 1]) is None
    with pytest.raises(HeaderInvalid, match="none begins with"):
        length_octets(octets[:told_at])


@pytest.mark.parametrize(
    ("octets", "told_at"),
    [
        (b"PROXY TCP5", 10),
        (b"PROXY UNKNOWN\n", 14),
        (b"PROXY UNKNOWN\rx", 15),
        (b"PROXY TCP4 192.0.2.1\n", 21),
        (b"PROXY TCP4 192.0.2.1\rx", 22),
        (b"PROXY TCP4 " + b"9" * 200, LINE_OCTETS_LIMIT),
        (b"PROXY UNKNOWN " + b"9" * 92 + b"\r\n", LINE_OCTETS_LIMIT),
        (binary(0x31, 0x11), 13),
        (binary(PROXY, 0x41), 14),
        (binary(PROXY, 0x11), 16),
        (binary(PROXY, 0x00, bytes(5000)), 16),
        (binary(LOCAL, 0x00, bytes(5000)), 16),
    ],
    ids=name_of,
)
def test_it_is_refused_as_early_as_can_be(octets: bytes, told_at: int) -> None:
    assert length_octets(octets[: told_at - 1]) is None
    for end in (told_at, len(octets)):
        with pytest.raises(HeaderInvalid):
            length_octets(octets[:end])


def outcome(octets: bytes) -> Header | None:
    try:
        return parse(octets)
    except HeaderInvalid:
        return None


@pytest.mark.parametrize(
    "octets",
    [checked(0x11, V4_BLOCK, vector(0x04, b"xyz")), checked(0x21, V6_BLOCK), FROM_HAPROXY],
    ids=["IPv4", "IPv6", "from HAProxy"],
)
def test_with_a_checksum_no_wrong_octet_makes_other_addresses(octets: bytes) -> None:
    """One may make it LOCAL, or UNSPEC, which tell of none and drop what follows, the checksum too."""
    right = parse(octets)
    silent = set()
    for at, other in itertools.product(range(len(octets)), range(256)):
        found = outcome(octets[:at] + bytes((other,)) + octets[at + 1 :])
        if found is not None and found.sender is None:
            assert found.destination is None
            silent.add((at, other))
        else:
            assert found in (right, None)
    unspecified = {(13, family << 4) for family in range(4)} | {(13, transport) for transport in range(3)}
    assert silent == {(12, LOCAL)} | unspecified


@pytest.mark.parametrize("octets", [binary(PROXY, 0x11, V4_BLOCK), next(iter(LINES))], ids=["v2", "v1"])
def test_without_one_each_still_is_a_header_or_none(octets: bytes) -> None:
    """What is taken can be written again, and means the same."""
    for at, other in itertools.product(range(len(octets)), range(256)):
        found = outcome(octets[:at] + bytes((other,)) + octets[at + 1 :])
        if found is not None and found.sender is not None:
            for version in Version:
                assert parse(encoded_header(version, found.sender, found.destination)) == found


def test_a_second_checksum_is_refused_right_as_the_first_may_be() -> None:
    """Each would cost a reckoning over all of the header, and which one is set to zero for the other is not said."""
    with pytest.raises(HeaderInvalid, match="more than one checksum"):
        parse(checked(0x11, V4_BLOCK, vector(0x03, bytes(4))))


# -- writing


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize(
    ("sender", "destination"),
    [
        (V4.sender, V4.destination),
        (V6.sender, V6.destination),
        (("192.0.2.1", 1), ("2001:db8::2", 2)),
        (("2001:db8::1", 1), ("198.51.100.2", 2)),
        (("::", 0), ("::1", 65535)),
        (("0.0.0.0", 0), ("255.255.255.255", 65535)),
        (("::1.2.3.4", 1), ("1:2:3:4:5:6:7:8", 2)),
    ],
)
def test_what_is_written_is_read_the_same(version: Version, sender: Party, destination: Party) -> None:
    octets = encoded_header(version, sender, destination)
    found = parse(octets)
    assert [same(each) for each in (found.sender, found.destination)] == [same(sender), same(destination)]
    assert version is Version.V2 or len(octets) <= LINE_OCTETS_LIMIT


def same(endpoint: Party | None) -> tuple[bytes, int]:
    """An endpoint, however its host is spelled."""
    assert endpoint is not None
    host, port = endpoint
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host), port


@pytest.mark.parametrize(
    ("sender", "destination", "line", "rest"),
    [
        (V4.sender, V4.destination, b"TCP4 192.0.2.1 198.51.100.2 56324 25", b"\x21\x11\0\x0c" + V4_BLOCK),
        (V6.sender, V6.destination, b"TCP6 2001:db8::1 2001:db8::2 1 65535", b"\x21\x21\0\x24" + V6_BLOCK),
        (
            ("::ffff:192.0.2.1", 56324),
            ("::ffff:198.51.100.2", 25),
            b"TCP4 192.0.2.1 198.51.100.2 56324 25",
            b"\x21\x11\0\x0c" + V4_BLOCK,
        ),
        (
            ("2001:db8::1%eth0", 1),
            ("2001:db8::2%1", 65535),
            b"TCP6 2001:db8::1 2001:db8::2 1 65535",
            b"\x21\x21\0\x24" + V6_BLOCK,
        ),
        (
            ("192.0.2.1", 1),
            ("2001:db8::2", 65535),
            b"TCP6 ::ffff:192.0.2.1 2001:db8::2 1 65535",
            b"\x21\x21\0\x24" + bytes(10) + b"\xff\xff\xc0\0\2\1" + V6_BLOCK[16:],
        ),
        (None, V4.destination, b"UNKNOWN", b"\x20\0\0\0"),
        (V4.sender, None, b"UNKNOWN", b"\x20\0\0\0"),
        (None, None, b"UNKNOWN", b"\x20\0\0\0"),
    ],
)
def test_what_is_written(sender: Party | None, destination: Party | None, line: bytes, rest: bytes) -> None:
    assert encoded_header(Version.V1, sender, destination) == b"PROXY " + line + b"\r\n"
    assert encoded_header(Version.V2, sender, destination) == SIGNATURE + rest


def test_what_is_written_for_a_connection_of_the_shims_own() -> None:
    assert local(Version.V1, V4.sender, V4.destination) == encoded_header(Version.V1, V4.sender, V4.destination)
    assert parse(local(Version.V2, V4.sender, V4.destination)) == Header(local=True)
    assert parse(local(Version.V1, None, None)) == UNSAID


@pytest.mark.parametrize("version", Version)
def test_a_name_is_nothing_that_can_be_written(version: Version) -> None:
    with pytest.raises(ValueError, match=r"mx\.example"):
        encoded_header(version, ("mx.example", 1), V4.destination)


# -- reading off a leg


READ = [*itertools.islice(LINES, 3), *itertools.islice(BINARIES, 5), FROM_HAPROXY, binary(LOCAL, 0x00)]


async def header_of(leg: Leg, octets: bytes, behind: bytes) -> Header:
    """Read it, and see to it that just its octets were taken."""
    header = await read_header(leg)
    assert leg.octets_in == len(octets)
    assert leg.sock.recv(len(behind) + 1, socket.MSG_PEEK) == behind
    assert not leg.ended
    return header


@pytest.mark.parametrize("octets", READ, ids=name_of)
@pytest.mark.parametrize("behind", [SPOKEN, client_hello()], ids=["SMTP", "TLS"])
async def test_what_stands_behind_it_is_left_in_the_socket(octets: bytes, behind: bytes) -> None:
    async with ground() as on:
        leg, peer = await pair(on)
        with peer:
            peer.sendall(octets + behind)
            assert await header_of(leg, octets, behind) == GOOD[octets]
            assert await leg.read() == behind
            assert leg.octets_in == len(octets + behind)
            peer.shutdown(socket.SHUT_WR)
            assert await leg.read() == b""
        leg.close()


async def taken_in_parts(leg: Leg, peer: socket.socket, parts: list[bytes], octets: bytes) -> None:
    """Send the next part when of the one before all was taken that is the header's."""
    found = []

    async def take() -> None:
        found.append(await read_header(leg))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        sent_octets = 0
        for part in parts:
            assert not found
            peer.sendall(part)
            sent_octets += len(part)
            while leg.octets_in < min(sent_octets, len(octets)):
                await trio.lowlevel.checkpoint()
    assert found == [GOOD[octets]]
    assert leg.octets_in == len(octets)


@pytest.mark.parametrize("octets", READ, ids=name_of)
async def test_it_may_come_octet_by_octet(octets: bytes) -> None:
    async with ground() as on:
        leg, peer = await pair(on)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with peer:
            await taken_in_parts(leg, peer, [bytes((each,)) for each in octets], octets)
            peer.sendall(SPOKEN)
            assert await leg.read() == SPOKEN
        leg.close()


@pytest.mark.parametrize("octets", [next(iter(LINES)), checked(0x11, V4_BLOCK)], ids=["v1", "v2"])
async def test_it_may_come_in_any_two_parts(octets: bytes) -> None:
    async with ground() as on:
        for end in range(1, len(octets)):
            leg, peer = await pair(on)
            with peer:
                await taken_in_parts(leg, peer, [octets[:end], octets[end:] + SPOKEN], octets)
                assert await leg.read() == SPOKEN
            leg.close()


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("octets", [next(iter(LINES)), checked(0x11, V4_BLOCK)], ids=["v1", "v2"])
async def test_an_end_before_its_end_is_none(octets: bytes, how: str) -> None:
    """At whatever octet, and without a wait for its deadline."""
    async with ground() as on:
        for end in range(len(octets)):
            leg, peer = await pair(on)
            leg.watch.allow(math.inf, "the header")
            if how == "RST":
                leg.send_now(b"unread")
            peer.sendall(octets[:end])
            peer.close()
            with pytest.raises(HeaderInvalid, match=rf"{how} after {end} octets"):
                await read_header(leg)
            leg.close()


async def test_an_end_right_behind_it_is_left_to_whoever_reads_next() -> None:
    async with ground() as on:
        leg, peer = await pair(on)
        octets = encoded_header(Version.V2, V4.sender, V4.destination)
        peer.sendall(octets + SPOKEN)
        peer.close()
        assert await header_of(leg, octets, SPOKEN) == V4
        assert [await leg.read(), await leg.read()] == [SPOKEN, b""]
        leg.close()


@pytest.mark.parametrize("octets", [*OTHERS.values(), client_hello()], ids=[*OTHERS, "what ssl says"])
async def test_a_peer_that_speaks_something_else_is_told_from_a_proxy_at_once(octets: bytes) -> None:
    """Though it says no more, and stays."""
    async with ground() as on:
        leg, peer = await pair(on)
        leg.watch.allow(math.inf, "the header")
        with peer:
            peer.sendall(octets)
            with pytest.raises(HeaderInvalid, match="none begins with") as caught:
                await read_header(leg)
            assert str(caught.value).isprintable()
            assert leg.octets_in == 0
        leg.close()


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 192.0.2.1 ", FROM_HAPROXY[:-1]], ids=["none", "v1", "v2"])
async def test_it_is_waited_for_until_the_deadline(sent: bytes) -> None:
    async with ground() as on:
        leg, peer = await pair(on)
        leg.watch.allow(0.1, "the header")
        with peer:
            peer.sendall(sent)
            with pytest.raises(DeadlinePassed, match="the header"):
                await read_header(leg)
            leg.watch.allow(SECONDS, "the header")
            leg.watch.interrupt()
            with pytest.raises(Interrupted):
                await read_header(leg)
        leg.close()


# -- HAProxy's own, and Postfix


@attrs.frozen
class HAProxy:
    """One that hands connections on to `listener`, from a port for each way to be told of them, or to tell."""

    listener: socket.socket
    ports: dict[str, int]

    def handed_on(self, to: str, host: str, octets: bytes, on: Ground) -> tuple[Leg, socket.socket]:
        """The leg that comes of a connection over which `octets` are sent, and that connection."""
        sock = socket.create_connection((host, self.ports[to]), START_SECONDS)
        sock.sendall(octets)
        handed, _ = self.listener.accept()
        handed.setblocking(False)
        watch = on.watchdog.watch()
        watch.allow(SECONDS, "the header")
        return Leg("sender", handed, on.driver, watch), sock


WAYS = {"send-proxy": "", "send-proxy-v2": "", "send-proxy-v2 proxy-v2-options crc32c": "", "back": "accept-proxy"}


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HAProxy]:
    program = need("haproxy")
    path: Path = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    ports = {way: free_port() for way in (*WAYS, "ready")}
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(START_SECONDS)
        receiver = "{}:{}".format(*listener.getsockname())
        sections = [
            f"listen {number}\n bind {HOST}:{ports[way]} {how}\n bind [::1]:{ports[way]} {how}\n"
            f" server receiver {receiver} {'send-proxy-v2' if how else way}\n"
            for number, (way, how) in enumerate(WAYS.items())
        ]
        seconds = "".join(f" timeout {what} {SECONDS:.0f}s\n" for what in ("connect", "client", "server"))
        # Whoever asks whether it is ready is not handed on.
        ready = f"frontend ready\n bind {HOST}:{ports['ready']}\n mode http\n"
        path.write_text(f"defaults\n mode tcp\n{seconds}{''.join(sections)}{ready}")
        with started([program, "-db", "-f", str(path)], ports["ready"]):
            yield HAProxy(listener, ports)


@pytest.mark.parametrize("host", [HOST, "::1"])
@pytest.mark.parametrize("way", [way for way, how in WAYS.items() if not how])
async def test_what_haproxy_writes_is_read(haproxy: HAProxy, way: str, host: str) -> None:
    async with ground() as on:
        leg, sock = haproxy.handed_on(way, host, SPOKEN, on)
        with sock:
            assert await read_header(leg) == Header(sock.getsockname()[:2], sock.getpeername()[:2])
            assert await leg.read() == SPOKEN
        leg.close()


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize(
    "header",
    [V4, V6, Header(("192.0.2.1", 1), ("2001:db8::2", 2)), Header(("2001:db8::1", 1), ("198.51.100.2", 2))],
    ids=["IPv4", "IPv6", "from IPv4 to IPv6", "from IPv6 to IPv4"],
)
async def test_haproxy_understands_what_is_written(haproxy: HAProxy, version: Version, header: Header) -> None:
    """It says so in the header that it makes of it."""
    async with ground() as on:
        begun = encoded_header(version, header.sender, header.destination)
        leg, sock = haproxy.handed_on("back", HOST, begun + SPOKEN, on)
        with sock:
            assert await read_header(leg) == header
            assert await leg.read() == SPOKEN
        leg.close()


@pytest.mark.parametrize("version", Version)
async def test_haproxy_takes_a_header_that_says_nothing(haproxy: HAProxy, version: Version) -> None:
    """The connection's own addresses count."""
    async with ground() as on:
        leg, sock = haproxy.handed_on("back", HOST, encoded_header(version, None, None) + SPOKEN, on)
        with sock:
            assert await read_header(leg) == Header(sock.getsockname(), sock.getpeername())
            assert await leg.read() == SPOKEN
        leg.close()


def test_postfix_takes_what_is_written() -> None:
    """And believes it; not UNKNOWN, see `local`."""
    upstream = "smtpd_upstream_proxy_protocol = haproxy\nsmtpd_upstream_proxy_timeout = 60s\n"
    with postfix(more=f"{upstream}inet_protocols = all\n") as receiver:
        where = (HOST, receiver.port)
        senders = {"192.0.2.1": "198.51.100.2", "2001:db8::1": "2001:db8::2", "192.0.2.7": "2001:db8::2"}
        headers = [
            encoded_header(version, (sender, number), (destination, 25))
            for number, version in enumerate(Version)
            for sender, destination in senders.items()
        ]
        for header in (*headers, *(local(version, (HOST, 1), where) for version in Version)):
            with socket.create_connection(where, START_SECONDS) as sock:
                sock.sendall(header)
                assert sock.recv(100).startswith(b"220 ")
        for sender in senders:
            poll(lambda: receiver.log.count(f" connect from unknown[{sender}]") == len(Version), f"all from {sender}")  # noqa: B023
