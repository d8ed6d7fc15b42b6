"""A sender that has gone before it had the verdict on its mail sends it again: the log tells it from one that has it.

Over real sockets, as it is for the sender's host to say what it has got. The receiver is the test's own, and gives its
verdict when the test says so.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
import trio

from shimproxy import Settings
from shimproxy.faulty.receiving import HOST
from shimproxy.smtp.catalogue import Violation
from tests.memory import Stage, staged, up_to_mail_data
from tests.peers.shim import Watcher, served
from tests.peers.tls import Certificate, make_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

SECONDS: Final = 30
RESET: Final = struct.pack("ii", 1, 0)


@attrs.define(eq=False)
class Receiver:
    """Takes one mail, and gives its verdict when it is told to."""

    has_the_mail: trio.Event = attrs.field(factory=trio.Event)
    may_reply: trio.Event = attrs.field(factory=trio.Event)
    has_said_quit: trio.Event = attrs.field(factory=trio.Event)
    """Whether the session was over, for the receiver."""
    verdict: bytes = b"250 queued\r\n"

    async def serve(self, stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 hello\r\n")
        unread, in_data = b"", False
        async for octets in stream:
            unread += octets
            while b"\n" in unread:
                line, _, unread = unread.partition(b"\n")
                if in_data and line == b".\r":
                    in_data = False
                    self.has_the_mail.set()
                    await self.may_reply.wait()
                    await stream.send_all(self.verdict)
                elif not in_data:
                    in_data = line == b"DATA\r"
                    code = b"354" if in_data else b"221" if line == b"QUIT\r" else b"250"
                    await stream.send_all(code + b" ok\r\n")
                    if code == b"221":
                        self.has_said_quit.set()
                        return


@attrs.define(eq=False)
class Sender:
    """A sender that has given its mail and not read a reply to it."""

    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    sock: trio.socket.SocketType
    receiver: Receiver

    async def reply(self) -> bytes:
        return bytes(await self.stream.receive_some())

    async def has_verdict(self) -> None:
        self.receiver.may_reply.set()
        assert (await self.reply())[:3] == self.receiver.verdict[:3]

    def close(self) -> None:
        self.sock.close()

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()


@contextlib.asynccontextmanager
async def given(
    verdict: bytes = b"250 queued\r\n", *, behind: bytes = b"", where: str = f"{HOST}:0", tls: Certificate | None = None
) -> AsyncIterator[tuple[Sender, Watcher]]:
    """A sender whose mail the receiver has; `behind` it has said that, too."""
    receiver = Receiver(verdict=verdict)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, host=HOST)
        (listener,) = await nursery.start(serve, receiver.serve, 0)
        more: dict[str, Any] = {"certificate": tls.certificate, "key": tls.key, "sender_tls": "implicit"} if tls else {}
        settings = Settings(
            receiver=f"{HOST}:{listener.socket.getsockname()[1]}", listen=where, clear_allowed=bool(tls), **more
        )
        async with served(settings) as (ports, watcher):
            if ports:
                plain = await trio.open_tcp_stream(HOST, ports[0])
            else:
                plain = await trio.open_unix_socket(where.removeprefix("unix:"))
            stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
            if tls:
                stream = trio.SSLStream(plain, tls.client(), server_hostname=HOST, https_compatible=True)
            sut = Sender(stream, plain.socket, receiver)
            assert (await sut.reply()).startswith(b"220 ")
            for command in (b"HELO x", b"MAIL FROM:<a@b>", b"RCPT TO:<b@c>", b"DATA"):
                await stream.send_all(command + b"\r\n")
                assert (await sut.reply())[:1] in b"23"
            await stream.send_all(b"text\r\n.\r\n" + behind)
            await receiver.has_the_mail.wait()
            yield sut, watcher
            receiver.may_reply.set()
        nursery.cancel_scope.cancel()


async def told(watcher: Watcher) -> list[tuple[Violation, object, bool]]:
    """What is in the record of the one session."""
    await watcher.sessions_ended()
    return [(repair.violation, repair.detail.get("how"), repair.minor) for repair in watcher.repairs]


# -- who has not had it


@pytest.mark.parametrize("verdict", [b"250 queued\r\n", b"552 too big\r\n"], ids=["250", "552"])
@pytest.mark.parametrize(("goes", "how"), [(Sender.close, "FIN"), (Sender.reset, "RST")], ids=["FIN", "RST"])
async def test_who_has_gone_before_the_verdict(goes: Callable[[Sender], None], how: str, verdict: bytes) -> None:
    """The log says so, and what the verdict was: of a 250, the mail is doubled."""
    with trio.fail_after(SECONDS):
        async with given(verdict) as (sender, watcher):
            goes(sender)
            sender.receiver.may_reply.set()
            assert (Violation.VERDICT_UNREAD, how, False) in await told(watcher), watcher.repairs
            (repair,) = [each for each in watcher.repairs if each.violation is Violation.VERDICT_UNREAD]
            assert repair.detail["code"] == int(verdict[:3])
            (record,) = watcher.ended_sessions
            assert record.is_remarkable


async def test_who_says_quit_behind_its_mail_and_goes() -> None:
    """A script that waits for nothing: its QUIT is answered, and so it did not close without one."""
    with trio.fail_after(SECONDS):
        async with given(behind=b"QUIT\r\n") as (sender, watcher):
            sender.close()
            sender.receiver.may_reply.set()
            repairs = [each for each, _, _ in await told(watcher)]
            assert Violation.VERDICT_UNREAD in repairs
            assert Violation.CLOSED_WITHOUT_QUIT not in repairs


@pytest.mark.parametrize(("goes", "how"), [(Sender.close, "FIN"), (Sender.reset, "RST")], ids=["FIN", "RST"])
async def test_who_has_gone_over_tls(goes: Callable[[Sender], None], how: str, tmp_path: Path) -> None:
    """Octets are counted as the connection has them."""
    certificate = make_certificate(tmp_path)
    with trio.fail_after(SECONDS):
        async with given(tls=certificate) as (sender, watcher):
            goes(sender)
            sender.receiver.may_reply.set()
            assert (Violation.VERDICT_UNREAD, how, False) in await told(watcher), watcher.repairs


async def test_who_has_gone_from_a_unix_socket(tmp_path: Path) -> None:
    """There is nobody left to be written to."""
    with trio.fail_after(SECONDS):
        async with given(where=f"unix:{tmp_path}/smtp") as (sender, watcher):
            sender.close()
            sender.receiver.may_reply.set()
            assert Violation.VERDICT_UNREAD in [each for each, _, _ in await told(watcher)]


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_sender_s_host_is_waited_for_but_not_for_long(acknowledged: bool) -> None:
    """Where it has neither the verdict nor a reset to say yet, as over any distance (guarantee 8)."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\r\n.\r\n")
        stage.sender.feed_fin()
        stage.sender.unacknowledged_octets = 8
        await stage.settle()
        await stage.feed(stage.receiver, b"250 OK\r\n221 bye\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        assert Violation.VERDICT_UNREAD not in stage.repaired
        assert not stage.over
        if acknowledged:
            stage.sender.unacknowledged_octets = 0
            stage.sender.feed_fin()
            await stage.settle()
        else:
            await stage.pass_time(stage.deadlines.linger_idle)
        assert stage.over
        assert (Violation.VERDICT_UNREAD in stage.repaired) is not acknowledged

    staged(script)


# -- who has had it


async def closes(sender: Sender) -> None:
    await sender.has_verdict()
    sender.close()


async def resets(sender: Sender) -> None:
    await sender.has_verdict()
    sender.reset()


async def half_closes_and_waits(sender: Sender) -> None:
    sender.half_close()
    await sender.has_verdict()
    assert await sender.reply() == b""
    sender.close()


async def half_closes_and_reads_late(sender: Sender) -> None:
    sender.half_close()
    sender.receiver.may_reply.set()
    await sender.receiver.has_said_quit.wait()
    await sender.has_verdict()
    sender.close()


async def half_closes_and_closes(sender: Sender) -> None:
    sender.half_close()
    await sender.has_verdict()
    sender.close()


@pytest.mark.parametrize(
    ("over", "goes"),
    [
        (over, goes)
        for over in ("TCP", "Unix", "TLS")
        for goes in (closes, resets, half_closes_and_waits, half_closes_and_reads_late, half_closes_and_closes)
    ],
)
async def test_who_has_had_the_verdict(over: str, goes: Callable[[Sender], Awaitable[None]], tmp_path: Path) -> None:
    """However it goes then, and also if it has closed its direction before: that is its habit, and no more."""
    where = f"unix:{tmp_path}/smtp" if over == "Unix" else f"{HOST}:0"
    certificate = make_certificate(tmp_path) if over == "TLS" else None
    with trio.fail_after(SECONDS):
        async with given(where=where, tls=certificate) as (sender, watcher):
            await goes(sender)
            assert [(each, minor) for each, _, minor in await told(watcher)] == [(Violation.CLOSED_WITHOUT_QUIT, True)]


async def test_who_says_quit_and_reads_to_the_end() -> None:
    """Also where it has said all that it has to say at once, and has closed its direction."""
    with trio.fail_after(SECONDS):
        async with given(behind=b"QUIT\r\n") as (sender, watcher):
            sender.half_close()
            sender.receiver.may_reply.set()
            heard = b""
            while octets := await sender.reply():
                heard += octets
            assert [line[:3] for line in heard.splitlines()] == [b"250", b"221"]
            sender.close()
            assert Violation.VERDICT_UNREAD not in [each for each, _, _ in await told(watcher)]
