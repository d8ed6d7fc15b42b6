"""What a session holds while it is idle, most of its life; `python -m bench` measures it in a process's memory."""

from __future__ import annotations

import gc
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
import trio

import shimproxy
from shimproxy.config.settings import Settings
from shimproxy.service.serve import serve

pytestmark = pytest.mark.once

MOST_OCTETS = 6250
"""Python 3.11 needs 5,570, and 3.13 6,226: frames of coroutines are larger there."""
SESSIONS = 50
WARM_UP = 20
"""What is made once, or grows now and then, is no session's."""
OURS = (
    tracemalloc.Filter(True, f"{Path(shimproxy.__file__).parent}/*"),
    tracemalloc.Filter(True, "<attrs generated methods shimproxy*"),
)


def test_an_idle_session_holds_little() -> None:
    """Greeted, and with a command behind it."""

    async def main() -> float:
        async with trio.open_nursery() as nursery:

            async def receive(stream: trio.SocketStream) -> None:
                await stream.send_all(b"220 hi\r\n")
                async for _ in stream:
                    await stream.send_all(b"250 hi\r\n")

            [receiver] = await nursery.start(partial(trio.serve_tcp, receive, 0, host="127.0.0.1"))
            port = receiver.socket.getsockname()[1]
            settings = Settings(listen=("127.0.0.1:0",), receiver=(f"127.0.0.1:{port}",))
            [address] = await nursery.start(partial(serve, settings))

            async def begun() -> trio.SocketStream:
                stream = await trio.open_tcp_stream("127.0.0.1", address.port)
                await stream.receive_some()
                await stream.send_all(b"EHLO x\r\n")
                await stream.receive_some()
                return stream

            streams = [await begun() for _ in range(WARM_UP)]
            gc.collect()
            tracemalloc.start()
            try:
                streams += [await begun() for _ in range(SESSIONS)]
                gc.collect()
                snapshot = tracemalloc.take_snapshot().filter_traces(OURS)
            finally:
                tracemalloc.stop()
            for stream in streams:
                await stream.aclose()
            nursery.cancel_scope.cancel()
        return sum(trace.size for trace in snapshot.traces) / SESSIONS

    assert trio.run(main) <= MOST_OCTETS
