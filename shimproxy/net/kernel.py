"""What only the kernel knows: which addresses are this machine's, and whose socket is at the other end.

It is asked by netlink (rtnetlink(7), sock_diag(7)), which needs no privilege and answers at once. Where it can't be
asked, as in a sandbox without AF_NETLINK, an address is tried by binding to it, and nobody's sockets are known.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from shimproxy.net.address import ip_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.net.address import IpAddress
    from shimproxy.net.origin import Party

_NETLINK_ROUTE: Final = 0  # linux/netlink.h
_NETLINK_SOCK_DIAG: Final = 4
_REQUEST: Final = 1
_DUMP: Final = 0x300
_ERROR: Final = 2
_DONE: Final = 3
_SOL_NETLINK: Final = 270
_STRICT: Final = 12
"""NETLINK_GET_STRICT_CHK: a request says what of a dump is wanted."""
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_CODE: Final = struct.Struct("=i")  # nlmsgerr
_MOST_OCTETS: Final = 8192
_ALIGNED: Final = 4
_DUMP_OCTETS: Final = 1 << 16
_DUMP_SECONDS: Final = 2.0

_GET_ROUTE: Final = 26  # linux/rtnetlink.h
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # rtmsg: family, bits of the destination, ..., type, flags
_DESTINATION: Final = 1
_ATTRIBUTE: Final = struct.Struct("=HH")
_LOCAL: Final = 2

_SOCK_DIAG_BY_FAMILY: Final = 20  # linux/sock_diag.h
_ANY_STATE: Final = 0xFFFF_FFFF
_ANY_COOKIE: Final = (0xFFFF_FFFF, 0xFFFF_FFFF)
_ASKED: Final = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states
_PORTS: Final = struct.Struct("!HH")
_ADDRESSES: Final = struct.Struct("=16s16sIII")  # both ends, interface, cookie
_USER: Final = struct.Struct("=4x48x12xI")  # inet_diag_msg: ... idiag_uid


def is_own(host: str) -> bool:
    """Whether a host is an address of this machine's."""
    address = ip_address(host)
    if address is None:
        return False
    octets = address.packed
    body = _ROUTE.pack(_family(address), 8 * len(octets), 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(octets), _DESTINATION) + octets
    try:
        told = _ask(_NETLINK_ROUTE, _GET_ROUTE, body)
    except OSError:
        return _can_be_bound(address)
    return told is not None and _ROUTE.unpack_from(told)[7] == _LOCAL


def is_of_this_user(local: Party, peer: Party) -> bool:
    """Whether this machine has a TCP socket with these two ends which belongs to the user of this process."""
    ours, theirs = ip_address(local[0]), ip_address(peer[0])
    assert ours
    assert theirs
    body = _ASKED.pack(_family(ours), socket.IPPROTO_TCP, 0, _ANY_STATE) + _PORTS.pack(local[1], peer[1])
    body += _ADDRESSES.pack(ours.packed, theirs.packed, 0, *_ANY_COOKIE)
    try:
        told = _ask(_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, body)
    except OSError:
        return False
    return told is not None and _USER.unpack_from(told)[0] == os.geteuid()


def _family(address: IpAddress) -> socket.AddressFamily:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def _ask(protocol: int, kind: int, body: bytes) -> bytes | None:
    """What the kernel answers; None if there is no such thing. Raises OSError if it can't be asked."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
    ) as sock:
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST, 0, 0) + body)
        told = sock.recv(_MOST_OCTETS)
    return None if _HEADER.unpack_from(told)[1] == _ERROR else told[_HEADER.size :]


def dumped(kind: int, body: bytes) -> Iterator[bytes]:
    """Everything of a kind that the kernel's routing knows (rtnetlink(7)), without the header of each.

    Raises OSError if it can't be asked.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as sock:
        sock.settimeout(_DUMP_SECONDS)
        sock.setsockopt(_SOL_NETLINK, _STRICT, 1)
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, 0, 0) + body)
        while True:
            told = sock.recv(_DUMP_OCTETS)
            while told:
                octets, answered, *_ = _HEADER.unpack_from(told)
                if answered == _DONE:
                    return
                if answered == _ERROR:
                    code = -_CODE.unpack_from(told, _HEADER.size)[0]
                    if code == errno.ENOENT:  # there is no such table
                        return
                    raise OSError(code, os.strerror(code))
                yield told[_HEADER.size : octets]
                told = told[_aligned(octets) :]


def attributes(octets: bytes) -> dict[int, bytes]:
    """What a routing message says beyond its fixed part (rtnetlink(3)), by the number of its kind."""
    found: dict[int, bytes] = {}
    while len(octets) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(octets)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = octets[_ATTRIBUTE.size : length]
        octets = octets[_aligned(length) :]
    return found


def _aligned(octets: int) -> int:
    return -(-octets // _ALIGNED) * _ALIGNED


def _can_be_bound(address: IpAddress) -> bool:
    with socket.socket(_family(address), socket.SOCK_STREAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True
