"""`--allow-sender`: who may connect, also behind a proxy."""

from __future__ import annotations

import pytest
import trio

from shimproxy.faulty.receiving import HOST
from shimproxy.smtp.catalogue import Violation
from tests.peers.shim import shim

REFUSED = b"554 this address may not send mail through this server\r\n"
UNREACHABLE = b"421 the receiver cannot be reached, try again later\r\n"


@pytest.mark.parametrize(
    ("allowed", "greeting"),
    [("192.0.2.0/24", REFUSED), ("127.0.0.0/8", UNREACHABLE), (["2001:db8::/32", "127.0.0.1"], UNREACHABLE)],
)
def test_only_those_in_a_network_that_is_named(allowed: object, greeting: bytes) -> None:
    async def script() -> None:
        async with shim(9, allow_sender=allowed) as served:
            stream = await trio.open_tcp_stream(HOST, served.port)
            async with stream:
                assert await stream.receive_some() == greeting
            await served.watcher.sessions_ended(0 if greeting is REFUSED else 1)
            assert len(served.watcher.ended_sessions) == (0 if greeting is REFUSED else 1)

    trio.run(script)


@pytest.mark.parametrize(("sender", "greeting"), [("192.0.2.1", UNREACHABLE), ("198.51.100.1", REFUSED)])
def test_behind_a_proxy_it_is_the_sender_that_counts(sender: str, greeting: bytes) -> None:
    async def script() -> None:
        async with shim(9, allow_sender="192.0.2.0/24", trust="127.0.0.0/8") as served:
            stream = await trio.open_tcp_stream(HOST, served.port)
            await stream.send_all(f"PROXY TCP4 {sender} 203.0.113.1 1 25\r\n".encode())
            assert await stream.receive_some() == greeting
            await stream.aclose()
            await served.watcher.sessions_ended()
            (repair,) = served.watcher.repairs
            if greeting is REFUSED:
                assert (repair.violation, repair.detail) == (Violation.LIMIT_REACHED, {"limit": "allow-sender"})

    trio.run(script)
