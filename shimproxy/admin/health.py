"""`shimproxy health`: asks the admin address of a running shimproxy, as a container's health check does.

1. There is an answer within PATIENCE_SECONDS or there is none, however it comes.
2. Of what comes, no more than _MOST_OCTETS are kept, or what is asked for; none are shown that are not printable.
"""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING, Final

from shimproxy.net.address import UnixPath, parse_endpoint
from shimproxy.net.errors import reason
from shimproxy.program.interrupting import TO_END, interrupting
from shimproxy.smtp.shown import escaped

if TYPE_CHECKING:
    from shimproxy.net.address import Endpoint

    _Place = tuple[socket.AddressFamily, tuple[object, ...] | str]

PATIENCE_SECONDS: Final = 6.0
"""More than shimproxy takes to ask its receivers (receiver_health.py)."""
_OK: Final = 200
_MOST_OCTETS: Final = 16 * 1024
_MOST_SAID_OCTETS: Final = 1000
_STATUS: Final = re.compile(rb"HTTP/\d\.\d ([1-5]\d\d)(?: |\r?$)").match
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_LENGTH: Final = re.compile(rb"^content-length:[ \t]*([0-9]{1,9})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE).search


class _NoAnswer(Exception):
    """Why there is none."""


def ask(where: str, path: str, method: str = "GET", most_octets: int = _MOST_SAID_OCTETS) -> tuple[bool, str]:
    """Whether the answer at an admin address, HOST:PORT or unix:PATH, is that all is well; and what was said.

    Of that, no more than `most_octets` are read.

    Raises AddressError, and KeyboardInterrupt at SIGINT and SIGTERM.
    """
    endpoint = parse_endpoint(where)
    with interrupting(*TO_END):
        return _ask(endpoint, f"{method} {path}", time.monotonic() + PATIENCE_SECONDS, most_octets)


def _ask(endpoint: Endpoint, request: str, until: float, most_octets: int) -> tuple[bool, str]:
    try:
        with _connected(endpoint, until) as sock:
            # Version 1.0, so that the body ends where its length says or the connection does.
            sock.settimeout(_left(until))
            sock.sendall(f"{request} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            status, said = _read(sock, until, most_octets)
    except UnicodeError:
        why_not = "unknown host"
    except OSError as error:
        is_late = isinstance(error, TimeoutError) and not error.errno
        why_not = f"none within {PATIENCE_SECONDS:g} s" if is_late else reason(error) or type(error).__name__
    except _NoAnswer as error:
        why_not = str(error)
    else:
        return status == _OK, said or f"status {status} without a text"
    return False, f"no answer from {endpoint}: {why_not}"


def _left(until: float) -> float:
    """The seconds that are left. Raises TimeoutError if there are none."""
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _connected(endpoint: Endpoint, until: float) -> socket.socket:
    """A connection to the first of its places that takes one. Raises OSError, UnicodeError."""
    places = _places(endpoint, until)
    first: OSError | None = None
    for index, (family, sockaddr) in enumerate(places):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(_left(until) / (len(places) - index))
            sock.connect(sockaddr)
        except OSError as error:
            sock.close()
            first = first or error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise first or TimeoutError


def _places(endpoint: Endpoint, until: float) -> list[_Place]:
    """Where it is. Raises OSError, UnicodeError."""
    if isinstance(endpoint, UnixPath):
        return [(socket.AF_UNIX, endpoint.path)]
    try:
        return _found(endpoint.host, endpoint.port, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return _looked_up(endpoint.host or "localhost", endpoint.port, until)


def _found(host: str, port: int, flags: int = 0) -> list[_Place]:
    # As octets a name is not encoded, for which Python imports its tables of all characters.
    name = host.encode() if host.isascii() else host
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def _looked_up(host: str, port: int, until: float) -> list[_Place]:
    """What a resolver says, which may take its time: it is left alone then."""
    import queue
    import threading

    answers: queue.SimpleQueue[list[_Place] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(_found(host, port))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = answers.get(timeout=_left(until))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _read(sock: socket.socket, until: float, most_octets: int) -> tuple[int, str]:
    """The status and the beginning of the body. Raises _NoAnswer, OSError."""
    unread, all_octets = b"", max(_MOST_OCTETS, most_octets)
    room_octets = all_octets
    while True:
        sock.settimeout(_left(until))
        octets = sock.recv(room_octets)
        unread += octets
        room_octets -= len(octets)
        is_over = not octets or not room_octets
        while _is_head(unread):
            head, body = _HEAD_END.split(unread, 1)
            status = int(head.split(None, 2)[1])
            if status >= _OK:
                length = _LENGTH(head)
                wanted_octets = min(int(length[1]) if length else _MOST_OCTETS, most_octets)
                if len(body) >= wanted_octets or (is_over and not length):
                    return status, escaped(body[:wanted_octets].strip())
                break
            unread = body  # 100 Continue and the like: the answer comes after it
        if is_over:
            raise _NoAnswer("it closed too soon" if room_octets else f"none within {all_octets:,} octets")


def _is_head(octets: bytes) -> bool:
    """Whether a whole head stands there. Raises _NoAnswer where none can become of it."""
    line, end, _ = octets.partition(b"\n")
    if end and not _STATUS(line):
        raise _NoAnswer(f"it does not speak HTTP, but said {escaped(line[:_MOST_SAID_OCTETS] + end)}")
    return bool(_HEAD_END.search(octets))
