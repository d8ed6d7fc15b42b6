"""Whether a receiver greets, asked so that its log has no complaint (RFC 5321 3.1).

It is asked for GREETING_SECONDS at most and heard for _MOST_OCTETS, however its greeting comes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import trio

from shimproxy.net import proxy_header
from shimproxy.net.address import UnixPath
from shimproxy.net.origin import party
from shimproxy.ops.demo_wire import reason
from shimproxy.session.policy import ReceiverTls
from shimproxy.smtp.reply import ReplyReader

if TYPE_CHECKING:
    from shimproxy.net.address import Endpoint
    from shimproxy.ops.settings import Settings

GREETING_SECONDS: Final = 5.0
_QUIT_SECONDS: Final = 1.0
_MOST_OCTETS: Final = 65_536


async def why_no_greeting(settings: Settings) -> str:
    """Why no receiver can be said to be there, or nothing: so it is where one of them greets, or none is known."""
    reasons: list[str] = []

    async def ask(endpoint: Endpoint, its: Settings) -> None:
        if why_not := await _why_not(endpoint, its):
            reasons.append(f"the receiver {endpoint} {why_not}")

    asked = _asked(settings)
    async with trio.open_nursery() as nursery:
        for endpoint, its in asked:
            nursery.start_soon(ask, endpoint, its)
    return "; ".join(reasons) if len(reasons) == len(asked) else ""


def _asked(settings: Settings) -> list[tuple[Endpoint, Settings]]:
    """Each receiver, once for each way in which listeners have connections to it begin, with the settings for that."""
    found: dict[tuple[object, ...], tuple[Endpoint, Settings]] = {}
    for its in (settings, *(settings.of(listener) for listener in settings.listen if listener.own)):
        for endpoint in its.endpoints:
            found.setdefault((endpoint, its.send_proxy, its.receiver_tls, its.source), (endpoint, its))
    return [*found.values()]


async def _why_not(endpoint: Endpoint, settings: Settings) -> str:
    """The same of one receiver; it is heard to the end of its greeting, and told QUIT."""
    why_not = "does not greet in time"
    with trio.move_on_after(GREETING_SECONDS):
        try:
            async with await _connected(endpoint, settings) as stream:
                if settings.send_proxy:
                    own, peer = party(stream.socket.getsockname()), party(stream.socket.getpeername())
                    await stream.send_all(proxy_header.local(settings.send_proxy, own, peer))
                if settings.receiver_tls is ReceiverTls.IMPLICIT:
                    return ""  # it waits for TLS, which is for the workers to make
                why_not = await _why_not_heard(stream)
                # What becomes of QUIT says nothing about the greeting.
                with trio.move_on_after(_QUIT_SECONDS), contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(b"QUIT\r\n")
                    await stream.receive_some()
        except (OSError, trio.BrokenResourceError) as error:
            return f"cannot be reached: {reason(error) or error}"
    return why_not


async def _why_not_heard(stream: trio.SocketStream) -> str:
    replies, room_octets = ReplyReader(), _MOST_OCTETS
    while not (reply := replies.next_reply()):
        octets = await stream.receive_some(room_octets)
        room_octets -= len(octets)
        if not octets:
            return "closes without a greeting"
        if not room_octets:
            return "does not come to the end of its greeting"
        replies.feed(octets)
    return "" if reply.code == 220 else "does not greet"


async def _connected(endpoint: Endpoint, settings: Settings) -> trio.SocketStream:
    if isinstance(endpoint, UnixPath):
        return await trio.open_unix_socket(endpoint.path)
    source = settings.source[0] if len(settings.source) == 1 else None
    return await trio.open_tcp_stream(endpoint.host, endpoint.port, local_address=source)
