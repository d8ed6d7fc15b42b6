"""A receiver has no more connections than it may have: senders wait before their greeting, first come, first served."""

from __future__ import annotations

import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from shimproxy import Settings, serve
from shimproxy.config.listener import SettingsError
from shimproxy.net.receiver_state import ReceiverState
from shimproxy.observe.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.net.watch import Watch

SECONDS = 20.0


class Receiver:
    """Greets, and answers each line with 250; it counts its connections."""

    def __init__(self) -> None:
        self.open = self.most = self.total = 0
        self.port = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.open += 1
        self.total += 1
        self.most = max(self.most, self.open)
        await stream.send_all(b"220 hi\r\n")
        try:
            async for octets in stream:
                for line in octets.splitlines():
                    await stream.send_all(b"221 bye\r\n" if line.upper() == b"QUIT" else b"250 ok\r\n")
        except trio.BrokenResourceError:
            pass
        finally:
            self.open -= 1


class Scene:
    """shimproxy between senders and receivers, in this process."""

    def __init__(self, port: int, receivers: list[Receiver], metrics: Metrics) -> None:
        self.port, self.receivers, self.metrics = port, receivers, metrics
        self.streams: list[trio.SocketStream] = []

    async def sender(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.streams.append(stream)
        return stream

    async def waiting(self, count: int) -> None:
        """Return when so many senders wait."""
        name = f'receiver_waiting{{receiver="127.0.0.1:{self.receivers[0].port}"}}'
        await until(lambda: self.metrics.gauges().get(name, 0) == count)


async def until(so: Callable[[], bool]) -> None:
    while not so():  # noqa: ASYNC110 - no event tells of it
        await trio.sleep(0.01)


def play(script: Callable[[Scene], Awaitable[None]], receivers: int = 1, **settings: Any) -> list[Receiver]:
    made = [Receiver() for _ in range(receivers)]

    async def main() -> None:
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                for each in made:
                    [listener] = await nursery.start(partial(trio.serve_tcp, each.serve, 0, host="127.0.0.1"))
                    each.port = listener.socket.getsockname()[1]
                metrics = Metrics()
                addresses = [f"127.0.0.1:{each.port}" for each in made]
                its = Settings(listen=["127.0.0.1:0"], receiver=addresses, sessions_per_network=0, **settings)
                [address] = await nursery.start(partial(serve, its, metrics=metrics, on_session=metrics.ended))
                scene = Scene(address.port, made, metrics)
                await script(scene)
                for stream in scene.streams:
                    await stream.aclose()
                nursery.cancel_scope.cancel()

    trio.run(main)
    return made


async def quit_(stream: trio.SocketStream) -> None:
    await stream.send_all(b"QUIT\r\n")
    assert await stream.receive_some() == b"221 bye\r\n"
    await stream.aclose()


def test_who_comes_first_is_served_first() -> None:
    async def script(scene: Scene) -> None:
        first = await scene.sender()
        assert await first.receive_some() == b"220 hi\r\n"
        others = []
        for count in (1, 2, 3):
            others.append(await scene.sender())
            await scene.waiting(count)
        await quit_(first)
        for each in others:  # each has its greeting after the one before it has gone, and not sooner
            assert await each.receive_some() == b"220 hi\r\n"
            await quit_(each)
        await scene.waiting(0)

    (receiver,) = play(script, receiver_connections=1)
    assert (receiver.most, receiver.total) == (1, 4)


def test_who_has_waited_long_enough_gets_421() -> None:
    """At a limit that the log and the metrics name."""

    async def script(scene: Scene) -> None:
        first, second = await scene.sender(), await scene.sender()
        assert await first.receive_some() == b"220 hi\r\n"
        assert (await second.receive_some()).startswith(b"421 the receiver has no free connection")
        assert await second.receive_some() == b""
        await second.aclose()
        name = 'limits_reached_total{limit="receiver-connections"}'
        await until(lambda: scene.metrics.counted[name] == 1)
        await quit_(first)
        third = await scene.sender()
        assert await third.receive_some() == b"220 hi\r\n"

    (receiver,) = play(script, receiver_connections=1, receiver_wait_seconds=0.0)
    assert receiver.most == 1


def test_after_its_wait_a_sender_goes_to_the_next_receiver() -> None:
    """Which does not make the first one a receiver that was of no use."""

    async def script(scene: Scene) -> None:
        senders = [await scene.sender() for _ in range(2)]
        for each in senders:
            assert await each.receive_some() == b"220 hi\r\n"
        for each in senders:
            await quit_(each)
        await until(lambda: not scene.receivers[0].open)
        last = await scene.sender()
        assert await last.receive_some() == b"220 hi\r\n"

    first, second = play(script, receivers=2, receiver_connections=1, receiver_wait_seconds=0.0)
    assert (first.total, second.total) == (2, 1)


@pytest.mark.parametrize("leaves", ["with FIN", "with RST", "after it has spoken"])
def test_a_sender_that_disconnects_leaves_the_line(leaves: str) -> None:
    async def script(scene: Scene) -> None:
        first = await scene.sender()
        assert await first.receive_some() == b"220 hi\r\n"
        second, third = await scene.sender(), None
        await scene.waiting(1)
        third = await scene.sender()
        await scene.waiting(2)
        if leaves == "after it has spoken":
            await second.send_all(b"EHLO x\r\n")
        if leaves != "with FIN":
            second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await second.aclose()
        await scene.waiting(1)
        await quit_(first)
        assert await third.receive_some() == b"220 hi\r\n"

    (receiver,) = play(script, receiver_connections=1)
    assert receiver.total == 2


def test_what_a_sender_says_in_the_line_is_held() -> None:
    async def script(scene: Scene) -> None:
        first, second = await scene.sender(), await scene.sender()
        assert await first.receive_some() == b"220 hi\r\n"
        await second.send_all(b"EHLO x\r\n")
        await scene.waiting(1)
        await quit_(first)
        octets = b""
        while not octets.endswith(b"250 ok\r\n"):
            octets += await second.receive_some()
        assert octets == b"220 hi\r\n250 ok\r\n"

    play(script, receiver_connections=1)


def test_a_flood_in_the_line_is_served_to_its_end() -> None:
    """None is lost, and none is served beside another."""
    count = 200

    async def script(scene: Scene) -> None:
        async def one() -> None:
            stream = await scene.sender()
            assert await stream.receive_some() == b"220 hi\r\n"
            await quit_(stream)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        await scene.waiting(0)

    (receiver,) = play(script, receiver_connections=3)
    assert (receiver.total, receiver.most) == (count, 3)


def test_a_connection_that_is_not_made_is_given_back() -> None:
    async def script(scene: Scene) -> None:
        for _ in range(5):
            stream = await scene.sender()
            assert await stream.receive_some() == b"220 hi\r\n"
            await quit_(stream)

    first, second = play(script, receivers=2, receiver_connections=1, receiver_wait_seconds=0.0, source=("127.0.0.1",))
    assert first.total + second.total == 5


def test_workers_share_the_connections() -> None:
    """As they share the sessions of a network."""
    settings = Settings(receiver="127.0.0.1:25", receiver_connections=10, workers=4)

    assert settings.of_one_worker().receiver_connections == 3


def test_without_a_limit_nothing_is_counted() -> None:
    async def script(scene: Scene) -> None:
        stream = await scene.sender()
        assert await stream.receive_some() == b"220 hi\r\n"
        assert not [name for name in scene.metrics.gauges() if name.startswith("receiver_")]

    play(script)


@pytest.mark.parametrize("wrong", [{"receiver_connections": -1}, {"receiver_wait_seconds": -1.0}])
def test_what_is_no_limit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((SettingsError, ValueError), match="receiver"):
        Settings(**wrong)


def test_a_place_that_has_come_may_be_left_too() -> None:
    """Then the next one has it."""

    class Woken:
        def wake(self) -> None:
            woken.append(self)

    woken: list[Woken] = []
    sut = ReceiverState("x")
    watch = cast("Watch", Woken())
    assert sut.take(1, watch) is None
    second, third, fourth = (sut.take(1, watch) for _ in range(3))
    assert second
    assert third
    assert fourth
    third.leave()
    sut.give_back()
    assert (second.has_come, fourth.has_come, sut.connections) == (True, False, 1)
    second.leave()
    assert (fourth.has_come, sut.connections, len(woken)) == (True, 1, 2)
    fourth.leave()
    assert (sut.connections, len(sut.line)) == (0, 0)
