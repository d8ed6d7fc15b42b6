"""`serve` on real sockets: what a program that embeds shimproxy can rely on.

Every test is bounded by fail_after; ports are 0; what a peer does is a coroutine written out in the test.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

import shimproxy
from shimproxy import Repair, SessionRecord, Settings, Stop, Violation
from shimproxy.faulty.talk import SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


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
    # shimproxy may have closed a session that it was stopped in before its last reply is here.
    with contextlib.suppress(trio.BrokenResourceError):
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
    with trio.fail_after(SECONDS):
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
    with trio.fail_after(SECONDS):
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
            assert await sender.line() == b"421 service shutting down\r\n"
            await sender.stream.aclose()
            await ended.wait()
            with pytest.raises(OSError, match="connect"):
                await connect(address)
            nursery.cancel_scope.cancel()


async def test_cancelled_it_resets_what_is_open() -> None:
    with trio.fail_after(SECONDS):
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
        await stream.send_all(b"552 too big\r\n421 goodbye\r\n")

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            where = await receiver(closes_with_unread_octets, nursery)
            settings = Settings(listen=["127.0.0.1:0"], receiver=where)
            serve = partial(shimproxy.serve, settings, on_session=records.append)
            (address,) = await nursery.start(serve)
            sender = await connect(address)
            await sender.line()
            await sender.says(b"HELO x", b"MAIL FROM:<a@b>", b"RCPT TO:<b@c>", b"DATA")
            await sender.stream.send_all((b"x" * 1022 + b"\r\n") * 16 * 1024)
            assert await sender.says(b".", b"QUIT") == [b"552 too big\r\n", b"221 closing connection\r\n"]
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
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(listen=["127.0.0.1:0"], receiver=f"127.0.0.1:{free_port}")
            (address,) = await nursery.start(shimproxy.serve, settings)
            sender = await connect(address)
            assert await sender.line() == b"421 the receiver cannot be reached, try again later\r\n"
            assert await sender.line() == b""
            await sender.stream.aclose()
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

    with trio.fail_after(SECONDS):
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
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(receiver=await receiver(polite, nursery))
            await nursery.start(partial(shimproxy.serve, settings, listeners=[listener]))
            sender = Lines(await trio.open_unix_socket(tmp_path / "smtp"))
            assert await sender.line() == b"220 hello\r\n"
            assert await sender.says(b"QUIT") == [b"221 bye\r\n"]
            assert await sender.line() == b"", "the shim closes"
            await sender.stream.aclose()
            nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Raises:
    """An observer with nothing but bugs."""

    wants_dialogue: bool = True

    def said(self, record: SessionRecord, who: str, octets: bytes) -> None:
        raise RuntimeError("the harness has a bug")

    def repaired(self, record: SessionRecord, repair: Repair) -> None:
        raise RuntimeError("the harness has a bug")

    def ended(self, record: SessionRecord) -> None:
        raise RuntimeError("the harness has a bug")

    def failed(self, record: SessionRecord, error: BaseException) -> None:
        raise RuntimeError("the harness has a bug")


async def refuses_early(stream: trio.SocketStream) -> None:
    """A receiver that answers mail data at once, three times, and goes when the shim does."""
    lines = Lines(stream)
    await stream.send_all(b"220 hello\r\n")
    while await lines.line() != b"DATA\r\n":
        await stream.send_all(b"250 OK\r\n")
    await stream.send_all(b"354 go\r\n")
    await lines.line()
    await stream.send_all(b"552 too big\r\n500\r\n421 going\r\n")
    while await lines.line():
        pass


async def test_an_observer_that_raises_spoils_no_session_nor_its_farewell(caplog: pytest.LogCaptureFixture) -> None:
    records: list[SessionRecord] = []
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(listen=["127.0.0.1:0"], receiver=await receiver(refuses_early, nursery))
            serve = partial(shimproxy.serve, settings, observer=Raises(), on_session=records.append)
            (address,) = await nursery.start(serve)
            for _ in range(2):
                sender = await connect(address)
                await sender.line()
                replies = await sender.says(b"MAIL FROM:<a@b>", b"DATA", b"x\r\n.", b"QUIT")
                assert replies[2:] == [b"552 too big\r\n", b"221 closing connection\r\n"]
                await sender.stream.aclose()
            while len(records) < 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert "the harness has a bug" in caplog.text


async def test_cancelled_with_sessions_open_it_has_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(SECONDS):
        for _ in range(20):  # trio runs tasks that are ready in random order
            async with trio.open_nursery() as nursery:
                settings = Settings(listen=["127.0.0.1:0"], receiver=await receiver(polite, nursery))
                (address,) = await nursery.start(shimproxy.serve, settings)
                senders = [await connect(address) for _ in range(5)]
                await senders[0].line()
                nursery.cancel_scope.cancel()
            for sender in senders:
                await sender.stream.aclose()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_who_came_while_the_process_stood_still_has_its_whole_time(mock_clock: trio.testing.MockClock) -> None:
    """Ten senders, since trio draws whether the accepting task or the watchdog goes on first."""
    async with trio.open_nursery() as nursery:
        settings = Settings(listen=["127.0.0.1:0"], receiver=await receiver(polite, nursery))
        (address,) = await nursery.start(partial(shimproxy.serve, settings))
        host, port = address.rsplit(":", 1)
        for _ in range(10):
            sock = socket.create_connection((host, int(port)))
            mock_clock.jump(1000)
            sender = Lines(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
            assert await sender.line() == b"220 hello\r\n"
            await sender.stream.aclose()
        nursery.cancel_scope.cancel()


async def test_after_the_grace_a_transaction_gets_421_and_the_receiver_no_end() -> None:
    at_the_receiver: list[bytes] = []

    async def takes(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 hello\r\n")
        with contextlib.suppress(trio.BrokenResourceError):
            while line := await lines.line():
                at_the_receiver.append(line)
                await stream.send_all(b"354 go\r\n" if line == b"DATA\r\n" else b"250 OK\r\n")

    stop = Stop()
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(listen=["127.0.0.1:0"], receiver=await receiver(takes, nursery), grace_seconds=0.1)
            (address,) = await nursery.start(partial(shimproxy.serve, settings, stop=stop))
            sender = await connect(address)
            await sender.line()
            await sender.says(b"MAIL FROM:<a@b>", b"DATA")
            stop.ask()
            assert await sender.line() == b"421 service shutting down\r\n"
            assert await sender.line() == b""
            await sender.stream.aclose()
            nursery.cancel_scope.cancel()
    assert at_the_receiver == [b"MAIL FROM:<a@b>\r\n", b"DATA\r\n"]


async def test_it_ends_with_the_last_of_its_sessions_and_not_with_the_grace() -> None:
    stop = Stop()
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as receiving:
            where = await receiver(polite, receiving)
            async with trio.open_nursery() as serving:
                settings = Settings(listen=["127.0.0.1:0"], receiver=where, grace_seconds=10 * SECONDS)
                (address,) = await serving.start(partial(shimproxy.serve, settings, stop=stop))
                idle, busy = await connect(address), await connect(address)
                for sender in (idle, busy):
                    await sender.line()
                await busy.says(b"MAIL FROM:<a@b>", b"DATA")
                stop.ask()
                assert await idle.line() == b"421 service shutting down\r\n"
                await idle.stream.aclose()
                assert await busy.says(b".") == [b"250 OK\r\n"]
                assert await busy.line() == b"421 service shutting down\r\n"
                await busy.stream.aclose()
            receiving.cancel_scope.cancel()


async def test_without_anything_to_listen_on_it_says_so() -> None:
    with pytest.raises(shimproxy.SettingsError, match="listen: no address to listen on"):
        await shimproxy.serve(Settings(receiver="127.0.0.1:25"))


def test_two_in_two_threads_keep_their_mails_apart() -> None:
    """Each has a buffer of its own: threads take turns in the midst of any line."""
    octets = 64 * 1024 * 1024
    wrong: list[object] = []

    async def run(letter: bytes) -> None:
        async def takes(stream: trio.SocketStream) -> None:
            lines = Lines(stream)
            await stream.send_all(b"220 hello\r\n")
            while await lines.line() != b"DATA\r\n":
                await stream.send_all(b"250 OK\r\n")
            await stream.send_all(b"354 go\r\n")
            left_octets = octets
            while left_octets:
                block = await stream.receive_some(min(left_octets, 1 << 20))
                left_octets -= len(block)
                if block.count(letter) != len(block):
                    wrong.append(letter)
            await lines.line()
            await lines.line()
            await stream.send_all(b"250 taken\r\n")

        async with trio.open_nursery() as nursery:
            settings = Settings(listen=["127.0.0.1:0"], receiver=await receiver(takes, nursery))
            (address,) = await nursery.start(partial(shimproxy.serve, settings, on_session=lambda _: None))
            sender = await connect(address)
            await sender.line()
            await sender.says(b"MAIL FROM:<a@b>", b"DATA")
            for _ in range(octets >> 20):
                await sender.stream.send_all(letter * (1 << 20))
            if await sender.says(b"\r\n.") != [b"250 taken\r\n"]:
                wrong.append(letter)
            await sender.stream.aclose()
            nursery.cancel_scope.cancel()

    async def bounded(letter: bytes) -> None:
        with trio.fail_after(3 * SECONDS):
            await run(letter)

    threads = [threading.Thread(target=trio.run, args=(bounded, letter)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_every_name_that_the_package_offers_is_there() -> None:
    """They come with their first use, from the modules that the package names."""
    assert all(getattr(shimproxy, name) is not None for name in shimproxy.__all__)
    assert set(shimproxy.__all__) == set(dir(shimproxy))


def test_a_name_that_the_package_does_not_offer() -> None:
    with pytest.raises(AttributeError, match="module 'shimproxy' has no attribute 'serv'"):
        _ = shimproxy.serv  # type: ignore[attr-defined]
