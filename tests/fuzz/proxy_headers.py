"""PROXY headers, of both versions (net/proxy_header.py)."""

from __future__ import annotations

import re
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shimproxy.net import proxy_header
from shimproxy.net.errors import HeaderInvalid
from shimproxy.net.proxy_header import Header, Version, length_octets, parse
from tests.fuzz.target import Target, joined

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_REFUSED: Final = "refused"
_MORE: Final = "more is needed"
_Party = tuple[bytes, int]
_Read = str | tuple[int, _Party | None, _Party | None, bool]
"""How long the header is, sender and destination with packed addresses, and whether it is local."""
_WORDS = (
    *(
        b"PROXY ",
        b"TCP4 ",
        b"TCP6 ",
        b"UNKNOWN",
        b"192.0.2.1 ",
        b"::1 ",
        b"::ffff:192.0.2.1 ",
        b"25",
        b"65535",
        b"65536",
    ),
    *(
        b"0",
        b"00",
        b" ",
        b"\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"%",
        b"+1",
        b"1:2:3:4:5:6:7:8 ",
        b"x" * 100,
        b"010.1.1.1",
        b"::",
    ),
    *(
        _SIGNATURE,
        _SIGNATURE + b"\x21\x11\0\x0c",
        _SIGNATURE + b"\x21\x21\0\x24",
        _SIGNATURE + b"\x20\0\0\0",
        b"\x03\0\x04",
    ),
    *(_SIGNATURE + b"\x21\x31\0\xd8", bytes(16), bytes(4), b"\x04\0\x00", b"\x21", b"\x22", b"\xff\xff", b"\x10\0"),
)
_IPV4 = _SIGNATURE + b"\x21\x11\0\x0c" + b"\xc0\0\x02\x01\xc0\0\x02\x02\xd4\x31\0\x19"
_SEEDS = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 54321 25\r\nEHLO me\r\n",
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 54321 25\r\n",
    b"PROXY UNKNOWN whatever\r\n",
    _IPV4 + b"EHLO me\r\n",
    _IPV4.replace(b"\0\x0c", b"\0\x16", 1) + b"\x04\0\0\x03\0\x04" + bytes(4),
    # With a right checksum.
    _SIGNATURE + bytes.fromhex("2111001301020304050607080019d4310300042e9ce131"),
    _SIGNATURE + b"\x21\x21\0\x24" + bytes(10) + b"\xff\xff\xc0\0\x02\x01" + bytes(15) + b"\x01\xd4\x31\0\x19",
    _SIGNATURE + b"\x20\0\0\x03abc",
)


def read(octets: bytes) -> _Read:
    """What is made of these octets, which may go on behind the header."""
    try:
        size = length_octets(octets)
        if size is None or size > len(octets):
            return _MORE
        header = parse(octets[:size])
    except HeaderInvalid:
        return _REFUSED
    return size, _packed(header.sender), _packed(header.destination), header.local


def _packed(party: tuple[str, int] | None) -> _Party | None:
    if party is None:
        return None
    return socket.inet_pton(socket.AF_INET6 if ":" in party[0] else socket.AF_INET, party[0]), party[1]


# -- the naive definition


def naive(octets: bytes) -> _Read:
    """The same: by regular expressions, and the C library's addresses."""
    if octets[: len(_SIGNATURE)] == _SIGNATURE[: len(octets)]:
        return _naive_binary(octets)
    if not re.match(rb"(?s)PROXY (?:TCP[46] |UNKNOWN(?: |\r\n))", octets[:15]) and not any(
        whole.startswith(octets) for whole in (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n")
    ):
        return _REFUSED
    line = re.match(rb"([^\r\n]{0,105})\r\n", octets)
    if line is None:
        return _MORE if re.fullmatch(rb"[^\r\n]{0,106}|[^\r\n]{0,105}\r", octets) else _REFUSED
    if line[1].startswith(b"PROXY UNKNOWN"):
        return line.end(), None, None, False
    found = re.fullmatch(rb"PROXY TCP([46]) ([^ ]+) ([^ ]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})", line[1])
    if found is None:
        return _REFUSED
    hosts = [_naive_host(found[1], word) for word in found.group(2, 3)]
    ports = [int(word) for word in found.group(4, 5)]
    if None in hosts or max(ports) > 65535:
        return _REFUSED
    return line.end(), (hosts[0] or b"", ports[0]), (hosts[1] or b"", ports[1]), False


def _naive_host(family: bytes, word: bytes) -> bytes | None:
    try:
        if family == b"4":
            return socket.inet_pton(socket.AF_INET, word.decode("ascii"))
        return _unmapped(socket.inet_pton(socket.AF_INET6, word.decode("ascii")))
    except (OSError, ValueError):
        return None


def _unmapped(packed: bytes) -> bytes:
    return packed[12:] if packed[:12] == bytes(10) + b"\xff\xff" else packed


def _naive_binary(octets: bytes) -> _Read:
    if len(octets) > 12 and octets[12] not in (0x20, 0x21):
        return _REFUSED
    is_local = octets[12:13] == b"\x20"
    family, transport = (octets[13] >> 4, octets[13] & 15) if len(octets) > 13 else (0, 0)
    if not is_local and (family > 3 or transport > 2):
        return _REFUSED
    if len(octets) < 16:
        return _MORE
    (rest,) = struct.unpack("!H", octets[14:16])
    needed = {1: 12, 2: 36, 3: 216}.get(family, 0) if transport else 0
    if rest > 4080 or (rest < needed and not is_local):
        return _REFUSED
    if len(octets) < 16 + rest:
        return _MORE
    if is_local:
        return 16 + rest, None, None, True
    if not needed:
        return 16 + rest, None, None, False
    if not _naive_vectors(octets[: 16 + rest], 16 + needed):
        return _REFUSED
    if family == 3 or transport == 2:
        return 16 + rest, None, None, False
    form = "!4s4sHH" if family == 1 else "!16s16sHH"
    sender, destination, sender_port, destination_port = struct.unpack(form, octets[16 : 16 + needed])
    return 16 + rest, (_unmapped(sender), sender_port), (_unmapped(destination), destination_port), False


def _naive_vectors(header: bytes, start: int) -> bool:
    checksums = 0
    at = start
    while at < len(header):
        if at + 3 > len(header):
            return False
        kind, size = struct.unpack("!BH", header[at : at + 3])
        if at + 3 + size > len(header):
            return False
        if kind == 3:
            checksums += 1
            if size != 4 or checksums > 1:
                return False
            blanked = header[: at + 3] + bytes(4) + header[at + 7 :]
            if struct.pack("!I", _naive_checksum(blanked)) != header[at + 3 : at + 7]:
                return False
        at += 3 + size
    return True


def _naive_checksum(octets: bytes) -> int:
    """CRC32c, bit by bit."""
    checksum = 0xFFFFFFFF
    for octet in octets:
        checksum ^= octet
        for _ in range(8):
            checksum = (checksum >> 1) ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF


def check(octets: bytes, pieces: Sequence[bytes]) -> None:
    found, expected = read(octets), naive(octets)
    assert found == expected, f"{found}, naively {expected}"
    at = 0
    before: _Read = _MORE
    for piece in pieces:
        at += len(piece)
        now = read(octets[:at])
        if before != _MORE:
            assert now == before, f"{now} after {at} octets, {before} before that"
        before = now
    if isinstance(found, tuple):
        _check_written(parse(octets[: found[0]]))


def _check_written(header: Header) -> None:
    for version in Version:
        octets = proxy_header.encoded_header(version, header.sender, header.destination)
        again = read(octets)
        assert again == naive(octets)
        assert again == (len(octets), _packed(header.sender), _packed(header.destination), again[3]), octets


def _run(pieces: Sequence[bytes]) -> None:
    octets = joined(pieces)
    for each in (octets, _IPV4[:14] + b"\x0f\xf0" + _IPV4[16:] + octets, b"PROXY TCP4 " + octets):
        with suppress(HeaderInvalid):
            size = length_octets(each)
            if size is not None and size <= len(each):
                parse(each[:size])


TARGETS = (Target(name="proxy-headers", parsers=(proxy_header,), check=check, run=_run, words=_WORDS, seeds=_SEEDS),)
