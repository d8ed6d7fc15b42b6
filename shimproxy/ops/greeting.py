"""Whether a receiver greets, asked so that its log has no complaint (RFC 5321 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from shimproxy.net import proxy_header
from shimproxy.net.address import UnixPath
from shimproxy.net.origin import party
from shimproxy.session.policy import ReceiverTls

if TYPE_CHECKING:
    from shimproxy.net.address import Endpoint
    from shimproxy.ops.settings import Settings

GREETING_SECONDS: Final = 5.0
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
    said = b""
    try:
        with trio.fail_after(GREETING_SECONDS):
            async with await _connected(endpoint, settings) as stream:
                if settings.send_proxy:
                    own, peer = party(stream.socket.getsockname()), party(stream.socket.getpeername())
                    await stream.send_all(proxy_header.local(settings.send_proxy, own, peer))
                if settings.receiver_tls is ReceiverTls.IMPLICIT:
                    return ""  # it waits for TLS, which is for the workers to make
                while not (said.endswith(b"\n") and said.splitlines()[-1][3:4] != b"-") and len(said) < _MOST_OCTETS:
                    octets = await stream.receive_some()
                    if not octets:
                        return "goes without a greeting"
                    said += octets
                await stream.send_all(b"QUIT\r\n")
                await stream.receive_some()
    except trio.TooSlowError:
        return "does not greet in time"
    except (OSError, trio.BrokenResourceError) as error:
        return f"cannot be reached: {error}"
    return "" if said.startswith(b"220") else "does not greet"


async def _connected(endpoint: Endpoint, settings: Settings) -> trio.SocketStream:
    if isinstance(endpoint, UnixPath):
        return await trio.open_unix_socket(endpoint.path)
    source = settings.source[0] if len(settings.source) == 1 else None
    return await trio.open_tcp_stream(endpoint.host, endpoint.port, local_address=source)
