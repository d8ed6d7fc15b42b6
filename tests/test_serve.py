"""`serve` on real sockets: what a program that embeds shimproxy can rely on.

Every test is bounded by fail_after; ports are 0; what a peer does is a coroutine written out in the test.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

import shimproxy
from shimproxy import SessionRecord, Settings, Stop, Violation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

PATIENCE_SECONDS = 20


async def receiver(play: Callable[[trio.SocketStream], Awaitable[None]], nursery: trio.Nursery) -> str:
    """Serve connections with `play`; the address, HOST:PORT."""
    listeners = await nursery.start(trio.serve_tcp, play, 0)
    port = listeners[0].socket.getsockname()[1]
    return f"127.0.0.1:{port}"


class Lines:
    """A stream read by the line."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._unread = b""

    async def line(self) -> bytes:
        """The next line with its CRLF; what there was, at the end."""
        while b"\n" not in self._unread:
            octets = await self.stream.receive_some()
            if not octets:
                break
            self._unread += octets
        line, newline, self._unread = self._unread.partition(b"\n")
        return line + newline

    async def says(self, *lines: bytes) -> list[bytes]:
        """Send each line and read a reply to it."""
        replies = []
        for line in lines:
            await self.stream.send_all(line + b"\r\n")
            replies.append(await self.line())
        return replies


async def polite(stream: trio.SocketStream) -> None:
    """A receiver that does as it should."""
    lines = Lines(stream)
    await stream.send_all(b"220 hello\r\n")
    while line := await lines.line():
        if line == b"DATA\r\n":
            await stream.send_all(b"354 go\r\n")
            while await lines.line() not in (b".\r\n", b""):
                pass
        await stream.send_all(b"221 bye\r\n" if line == b"QUIT\r\n" else b"250 OK\r\n")
        if line == b"QUIT\r\n":
            return


async def connect(address: str) -> Lines:
    host, port = address.rsplit(":", 1)
    return Lines(await trio.open_tcp_stream(host.strip("[]"), int(port)))


async def test_start_returns_the_bound_addresses_and_each_session_has_a_record() -> None:
    records: list[SessionRecord] = []
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(listen=["127.0.0.1:0", "[::1]:0"], receiver=await receiver(polite, nursery))
            serve = partial(shimproxy.serve, settings, on_session=records.append)
            addresses = await nursery.start(serve)
            assert [address.rpartition(":")[0] for address in addresses] == ["127.0.0.1", "[::1]"]
            for address in addresses:
                sender = await connect(address)
                assert await sender.line() == b"220 hello\r\n"
                replies = await sender.says(
                    b"HELO x", b"MAIL FROM:<a@b>", b"RCPT TO:<b@c>", b"DATA", b"x\r\n.", b"QUIT"
                )
                assert replies == [b"250 OK\r\n"] * 3 + [b"354 go\r\n", b"250 OK\r\n", b"221 bye\r\n"]
                assert await sender.line() == b"", "the shim closes"
                await sender.stream.aclose()
            while len(records) < 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    for record in records:
        assert (record.transactions, record.accepted, record.repairs) == (1, 1, {})
        assert (record.ended_by, record.ended_in) == ("sender", "QUIT")
        assert record.octets_from_sender == record.octets_to_receiver > 0
        assert record.octets_from_receiver == record.octets_to_sender > 0


async def test_a_harness_can_pass_its_own_listeners_and_stop_in_good_order() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    stop = Stop()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(receiver=await receiver(polite, nursery))
            ended = trio.Event()

            async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
                await shimproxy.serve(settings, listeners=[listener], stop=stop, task_status=task_status)
                ended.set()

            (address,) = await nursery.start(serve)
            assert address == f"127.0.0.1:{listener.getsockname()[1]}"
            sender = await connect(address)
            await sender.line()
            await sender.says(b"MAIL FROM:<a@b>")
            stop.ask()
            assert await sender.says(b"RCPT TO:<b@c>", b"DATA", b".") == [b"250 OK\r\n", b"354 go\r\n", b"250 OK\r\n"]
            assert await sender.line() == b"421 4.3.2 service shutting down\r\n"
            await sender.stream.aclose()
            await ended.wait()
            with pytest.raises(OSError, match="connect"):
                await connect(address)
            nursery.cancel_scope.cancel()


async def test_cancelled_it_resets_what_is_open() -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            at_the_receiver: list[bytes] = []
            done = trio.Event()

            async def listening(stream: trio.SocketStream) -> None:
                await stream.send_all(b"220 hello\r\n")
                try:
                    at_the_receiver.append(await stream.receive_some())
                except trio.BrokenResourceError:
                    at_the_receiver.append(b"RST")
                done.set()

            settings = Settings(listen=["127.0.0.1:0"], receiver=await receiver(listening, nursery))
            async with trio.open_nursery() as serving:
                (address,) = await serving.start(shimproxy.serve, settings)
                sender = await connect(address)
                await sender.line()
                serving.cancel_scope.cancel()
            with pytest.raises(trio.BrokenResourceError):
                await sender.line()
            await sender.stream.aclose()
            await done.wait()
            assert at_the_receiver == [b"RST"]
            nursery.cancel_scope.cancel()


async def test_a_receiver_that_closes_with_octets_unread_still_has_its_verdict_relayed() -> None:
    """The fault as it is met today: RST behind the 552, in the middle of 16 MiB."""
    records: list[SessionRecord] = []

    async def closes_with_unread_octets(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 hello\r\n")
        while await lines.line() != b"DATA\r\n":
            await stream.send_all(b"250 OK\r\n")
        await stream.send_all(b"354 go\r\n")
        await stream.receive_some(2048)
        await stream.send_all(b"552 5.3.4 too big\r\n421 4.3.0 goodbye\r\n")

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            where = await receiver(closes_with_unread_octets, nursery)
            settings = Settings(listen=["127.0.0.1:0"], receiver=where)
            serve = partial(shimproxy.serve, settings, on_session=records.append)
            (address,) = await nursery.start(serve)
            sender = await connect(address)
            await sender.line()
            await sender.says(b"HELO x", b"MAIL FROM:<a@b>", b"RCPT TO:<b@c>", b"DATA")
            await sender.stream.send_all((b"x" * 1022 + b"\r\n") * 16 * 1024)
            assert await sender.says(b".", b"QUIT") == [b"552 5.3.4 too big\r\n", b"221 2.0.0 closing connection\r\n"]
            assert await sender.line() == b""
            await sender.stream.aclose()
            while not records:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert records[0].repairs[Violation.EARLY_REPLY] == 1
    assert records[0].accepted == 0


async def test_an_unreachable_receiver_is_a_421_greeting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free_port = taken.getsockname()[1]
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(listen=["127.0.0.1:0"], receiver=f"127.0.0.1:{free_port}")
            (address,) = await nursery.start(shimproxy.serve, settings)
            sender = await connect(address)
            assert await sender.line() == b"421 4.4.1 the receiver cannot be reached, try again later\r\n"
            assert await sender.line() == b""
            await sender.stream.aclose()
            nursery.cancel_scope.cancel()


async def test_more_senders_than_sessions_wait_their_turn() -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(listen=["127.0.0.1:0"], receiver=await receiver(polite, nursery), sessions=1)
            (address,) = await nursery.start(shimproxy.serve, settings)
            first, second = await connect(address), await connect(address)
            assert await first.line() == b"220 hello\r\n"
            assert await first.says(b"QUIT") == [b"221 bye\r\n"]
            await first.stream.aclose()
            assert await second.line() == b"220 hello\r\n"
            await second.stream.aclose()
            nursery.cancel_scope.cancel()


async def test_a_port_that_is_taken_and_a_host_that_is_unknown_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(shimproxy.ListenFailed, match=rf"127\.0\.0\.1:{port}: the port is taken"):
            await shimproxy.serve(Settings(listen=[f"127.0.0.1:{port}"], receiver="127.0.0.1:25"))
    with pytest.raises(shimproxy.DialFailed, match=r"unknown host 'no\.such\.host\.invalid'"):
        await shimproxy.serve(Settings(listen=["127.0.0.1:0"], receiver="no.such.host.invalid:25"))


async def test_a_callback_that_raises_takes_nobody_else_down(caplog: pytest.LogCaptureFixture) -> None:
    def raises(_: SessionRecord) -> None:
        raise RuntimeError("the harness has a bug")

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(listen=["127.0.0.1:0"], receiver=await receiver(polite, nursery), sessions=1)
            (address,) = await nursery.start(partial(shimproxy.serve, settings, on_session=raises))
            for _ in range(3):
                sender = await connect(address)
                assert await sender.line() == b"220 hello\r\n"
                assert await sender.says(b"QUIT") == [b"221 bye\r\n"]
                await sender.stream.aclose()
            nursery.cancel_scope.cancel()
    assert "the harness has a bug" in caplog.text


async def test_a_listener_may_be_a_unix_socket(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "smtp"))
    listener.listen()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(receiver=await receiver(polite, nursery))
            await nursery.start(partial(shimproxy.serve, settings, listeners=[listener]))
            sender = Lines(await trio.open_unix_socket(tmp_path / "smtp"))
            assert await sender.line() == b"220 hello\r\n"
            assert await sender.says(b"QUIT") == [b"221 bye\r\n"]
            assert await sender.line() == b"", "the shim closes"
            await sender.stream.aclose()
            nursery.cancel_scope.cancel()
