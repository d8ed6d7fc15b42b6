"""Octets in and out of a non-blocking SSLSocket, a TLS record at a time, and what is said when TLS fails.

It knows no leg: what would block is raised as ssl has it, see WOULD_BLOCK.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

WOULD_BLOCK: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_RECORD_OCTETS: Final = 16 * 1024
"""What a record carries at most (RFC 8446 section 5.1)."""


def receive_records(sock: socket.socket, room: memoryview, most_octets: int) -> int:
    """Fill `room` from as many records as there are; how many octets, 0 at the peer's end.

    A read gives one record: several of them make a block that is worth what is done for each. Raises OSError, and what
    would block, if there is nothing before it: else it is met again at the next read.
    """
    size_octets = 0
    try:
        while size_octets < most_octets:
            read_octets = sock.recv_into(room[size_octets:], min(_RECORD_OCTETS, most_octets - size_octets))
            size_octets += read_octets
            if not read_octets:
                break
    except OSError:
        if not size_octets:
            raise
    return size_octets


def send_records(sock: socket.socket, octets: bytes | memoryview) -> int:
    """Send record by record, so that what was taken is known; how much that is.

    A record that was not taken must be tried again as it is. Raises OSError if not even the first was taken: else the
    error is met again at the next write.
    """
    taken_octets = 0
    view = memoryview(octets)
    try:
        while taken_octets < len(view):
            taken_octets += sock.send(view[taken_octets : taken_octets + _RECORD_OCTETS])
    except WOULD_BLOCK:
        pass
    except OSError:
        if not taken_octets:
            raise
    return taken_octets


def tls_reason(error: OSError | ValueError) -> str:
    """What went wrong with TLS, in words for a log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLZeroReturnError):
        return "the peer closed the connection"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
