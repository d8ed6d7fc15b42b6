"""`shimproxy health`: asks the admin address of a running shimproxy, as a container's health check does.

1. There is an answer within PATIENCE_SECONDS or there is none, however it comes.
2. Of what comes, no more than _MOST_OCTETS are kept, and none are shown that are not printable.
"""

from __future__ import annotations

import re
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import trio

from shimproxy.admin.receiver_health import GREETING_SECONDS
from shimproxy.net.address import UnixPath, parse_endpoint
from shimproxy.net.errors import reason
from shimproxy.program.interrupt import interruptible
from shimproxy.smtp.shown import escaped

if TYPE_CHECKING:
    from shimproxy.net.address import Endpoint

PATIENCE_SECONDS: Final = GREETING_SECONDS + 1.0
"""More than shimproxy takes to ask its receivers."""
_MOST_OCTETS: Final = 16 * 1024
_MOST_SAID_OCTETS: Final = 1000
_STATUS: Final = re.compile(rb"HTTP/\d\.\d ([1-5]\d\d)(?: |\r?$)").match
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_LENGTH: Final = re.compile(rb"^content-length:[ \t]*([0-9]{1,9})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE).search


class _NoAnswer(Exception):
    """Why there is none."""


def ask(where: str, path: str) -> tuple[bool, str]:
    """Whether the answer at an admin address, HOST:PORT or unix:PATH, is that all is well; and what was said.

    Raises AddressError, and KeyboardInterrupt at SIGINT and SIGTERM.
    """
    return interruptible(partial(_ask, parse_endpoint(where), path))


async def _ask(endpoint: Endpoint, path: str) -> tuple[bool, str]:
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            async with await _connected(endpoint) as stream:
                # Version 1.0, so that the body ends where its length says or the connection does.
                await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                status, said = await _read(stream)
    except trio.TooSlowError:
        why_not = f"none within {PATIENCE_SECONDS:g} s"
    except UnicodeError:
        why_not = "unknown host"
    except (OSError, trio.BrokenResourceError) as error:
        why_not = reason(error) or type(error).__name__
    except _NoAnswer as error:
        why_not = str(error)
    else:
        return status == HTTPStatus.OK, said or f"status {status} without a text"
    return False, f"no answer from {endpoint}: {why_not}"


async def _connected(endpoint: Endpoint) -> trio.SocketStream:
    if isinstance(endpoint, UnixPath):
        return await trio.open_unix_socket(endpoint.path)
    return await trio.open_tcp_stream(endpoint.host or "localhost", endpoint.port)


async def _read(stream: trio.SocketStream) -> tuple[int, str]:
    """The status and the beginning of the body. Raises _NoAnswer."""
    unread, room_octets = b"", _MOST_OCTETS
    while True:
        octets = await stream.receive_some(room_octets)
        unread += octets
        room_octets -= len(octets)
        is_over = not octets or not room_octets
        while _is_head(unread):
            head, body = _HEAD_END.split(unread, 1)
            status = int(head.split(None, 2)[1])
            if status >= HTTPStatus.OK:
                length = _LENGTH(head)
                wanted_octets = min(int(length[1]) if length else _MOST_OCTETS, _MOST_SAID_OCTETS)
                if len(body) >= wanted_octets or (is_over and not length):
                    return status, escaped(body[:wanted_octets].strip())
                break
            unread = body  # 100 Continue and the like: the answer comes after it
        if is_over:
            raise _NoAnswer("it closed too soon" if room_octets else f"none within {_MOST_OCTETS:,} octets")


def _is_head(octets: bytes) -> bool:
    """Whether a whole head stands there. Raises _NoAnswer where none can become of it."""
    line, end, _ = octets.partition(b"\n")
    if end and not _STATUS(line):
        raise _NoAnswer(f"it does not speak HTTP, but said {escaped(line[:_MOST_SAID_OCTETS] + end)}")
    return bool(_HEAD_END.search(octets))
