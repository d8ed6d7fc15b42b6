"""A relay that delays what it passes on, so that a receiver behind it is far away.

A process of its own, `python -m bench.far PORT MILLISECONDS`; prints a ready line with its port and runs until it is
killed. Nothing is lost, reordered or limited: octets come out that much later, in each direction.
"""

from __future__ import annotations

import sys
from functools import partial

import trio

from bench.peers import HOST, READY

_READS_UNDER_WAY = 1000


async def _pass_on(source: trio.SocketStream, target: trio.SocketStream, delay_seconds: float) -> None:
    """Pass on what comes, and the end, each after the delay."""
    to_be_sent, under_way = trio.open_memory_channel[tuple[float, bytes]](_READS_UNDER_WAY)

    async def read() -> None:
        async with to_be_sent:
            async for octets in source:
                await to_be_sent.send((trio.current_time() + delay_seconds, bytes(octets)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async for due, octets in under_way:
            await trio.sleep_until(due)
            await target.send_all(octets)
        await target.send_eof()


async def _relay(port: int, delay_seconds: float, near: trio.SocketStream) -> None:
    try:
        async with await trio.open_tcp_stream(HOST, port) as far, trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, near, far, delay_seconds)
            nursery.start_soon(_pass_on, far, near, delay_seconds)
    except (OSError, trio.BrokenResourceError, BaseExceptionGroup):
        return  # one of the peers has gone: the next connection matters


async def _serve(port: int, delay_seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, partial(_relay, port, delay_seconds), 0, host=HOST))
        print(f"{READY}{listener.socket.getsockname()[1]}", flush=True)


if __name__ == "__main__":
    trio.run(_serve, int(sys.argv[1]), float(sys.argv[2]) / 1000)
