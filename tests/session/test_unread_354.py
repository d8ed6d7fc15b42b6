"""A receiver whose 354 lies unread is sent no FIN, as it would take that for the end of a mail (guarantee 5).

It has refused DATA and asks for mail data all the same, or is out of step in another way; its 354 comes together with
what ends the session, so that nothing but a look before the half-close can find it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shimproxy.smtp.catalogue import Violation
from tests.memory import MemorySocket, Stage, offered, staged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def up_to_a_refused_data(stage: Stage) -> None:
    await offered(stage, b"PIPELINING", b"AUTH PLAIN")
    for command, reply in (
        (b"MAIL FROM:<a@b>", b"250 OK"),
        (b"RCPT TO:<b@c>", b"250 OK"),
        (b"DATA", b"554 no"),
    ):
        await stage.feed(stage.sender, command + b"\r\n")
        await stage.feed(stage.receiver, reply + b"\r\n")
    stage.sender.written.clear()
    stage.receiver.written.clear()


async def says_quit(stage: Stage, said: bytes) -> None:
    await stage.feed(stage.sender, b"QUIT\r\n")
    await stage.feed(stage.receiver, said)


async def says_quit_and_goes(stage: Stage, said: bytes) -> None:
    await stage.feed(stage.sender, b"QUIT\r\n")
    stage.sender.feed_fin()
    await stage.feed(stage.receiver, said)


async def goes(stage: Stage, said: bytes) -> None:
    await stage.feed(stage.sender, b"NOOP\r\n")
    stage.receiver.feed(said)
    stage.sender.feed_fin()
    await stage.settle()


async def goes_within_auth(stage: Stage, said: bytes) -> None:
    await stage.feed(stage.sender, b"AUTH PLAIN\r\n")
    stage.receiver.feed(said)
    stage.sender.feed_fin()
    await stage.settle()


every_end = pytest.mark.parametrize(
    ("ends", "first"),
    [
        *((says_quit, first) for first in (b"221 bye\r\n", b"250 OK\r\n", b"421 busy\r\n")),
        *((says_quit_and_goes, first) for first in (b"221 bye\r\n", b"250 OK\r\n", b"421 busy\r\n", b"500 what\r\n")),
        *((goes, first) for first in (b"250 OK\r\n", b"421 busy\r\n", b"421 busy\r\n421 going\r\n")),
        (goes_within_auth, b"334 \r\n"),
    ],
)


@every_end
@pytest.mark.parametrize(
    "asks",
    [
        b"354 go\r\n",
        b"250 OK\r\n354 go\r\n",
        b"x" * 9000 + b"\r\n354 go\r\n",
        b"250-OK\r\n354 go\r\n",
        b"354-go\r\n",
        b"354 g",
    ],
)
@pytest.mark.parametrize("never_short", [False, True], ids=["clear", "as with TLS"])
def test_a_receiver_that_asks_for_mail_data_is_reset(
    ends: Callable[[Stage, bytes], Awaitable[None]], first: bytes, asks: bytes, never_short: bool
) -> None:
    async def script(stage: Stage) -> None:
        await up_to_a_refused_data(stage)
        await ends(stage, first + asks)
        await stage.pass_time(stage.deadlines.linger_total)
        assert (stage.receiver.got_fin, stage.receiver.got_rst) == (False, True)
        assert stage.receiver.written.count(b"QUIT\r\n") == (ends in (says_quit, says_quit_and_goes))

    stage = staged(script, never_short=never_short)
    if asks == b"354 go\r\n":
        told = {Violation.EXTRA_REPLY, Violation.FURTHER_REPLY, Violation.IMPLAUSIBLE_REPLY}
        assert told & set(stage.repaired), "and the log says so"


@every_end
def test_a_receiver_that_does_not_is_half_closed(ends: Callable[[Stage, bytes], Awaitable[None]], first: bytes) -> None:
    async def script(stage: Stage) -> None:
        await up_to_a_refused_data(stage)
        await ends(stage, first + b"250 354 is no code here\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        assert (stage.receiver.got_fin, stage.receiver.got_rst) == (True, False)

    staged(script)


def test_a_receiver_that_never_stops_is_not_listened_to_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guarantee 8: there is no end of what lies unread, and the session ends."""
    looks: list[MemorySocket] = []

    def says_more(sock: MemorySocket, _size_octets: int, _flags: int = 0) -> bytes:
        assert len(looks) < 1000
        looks.append(sock)
        return b"250 and\r\n"

    async def script(stage: Stage) -> None:
        await up_to_a_refused_data(stage)
        await stage.feed(stage.sender, b"AUTH PLAIN\r\n")
        await stage.feed(stage.receiver, b"334 \r\n")
        recv = MemorySocket.recv
        with monkeypatch.context() as patch:
            patch.setattr(
                MemorySocket,
                "recv",
                lambda sock, *more: (says_more if sock is stage.receiver else recv)(sock, *more),
            )
            stage.receiver.feed(b"")
            stage.sender.feed_fin()
            await stage.settle()
            await stage.pass_time(60)
            assert stage.over
        assert looks

    staged(script)
