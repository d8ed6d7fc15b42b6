"""A non-blocking SSLSocket: its handshake, octets in and out a TLS record at a time, its end, and what TLS failed for.

What would block is raised as ssl has it, see WOULD_BLOCK; only the handshake waits. What becomes of a leg where TLS
fails, or ends, is leg.py's.
"""

from __future__ import annotations

import select
import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

    from shimproxy.net.pollable import Pollable

WOULD_BLOCK: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_RECORD_OCTETS: Final = 16 * 1024
"""What a record carries at most (RFC 8446 section 5.1)."""


async def shake_hands(sock: ssl.SSLSocket, pollable: Pollable) -> None:
    """Make the handshake on a socket, waiting as need be. Raises OSError, ValueError, DeadlinePassed, Interrupted."""
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            pollable.readable = False
            await pollable.wait_to_read()
        except ssl.SSLWantWriteError:
            pollable.writable = False
            await pollable.takes()
        else:
            return


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


def notify_of_close(sock: ssl.SSLSocket, *, peer_has_ended: bool) -> bool:
    """Send close_notify, unless the peer is sending (RFC 8446 section 6.1); whether the peer's own is there.

    OpenSSL looks for the peer's own at once, and reads nothing more if it finds anything else: a FIN alone has to do
    then, so that the peer is read to its end. Raises OSError, ValueError where OpenSSL can read nothing more.
    """
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    if not peer_has_ended and (sock.pending() or poll.poll(0)):
        return False
    try:
        sock.unwrap()
    except WOULD_BLOCK:
        return False  # the peer may go on sending
    return True


def tls_reason(error: OSError | ValueError) -> str:
    """What went wrong with TLS, in words for a log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLZeroReturnError):
        return "the peer closed the connection"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
