"""A receiver on a Unix socket can't be reset: a sender that vanishes in mail data looks like an end of file there.

Nothing of a line that is not ended is given to it before its end (guarantee 5). And what it has not read counts as not
acknowledged, so that its early reply is known for one (guarantee 3).
"""

from __future__ import annotations

import functools
import queue
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from shimproxy import Settings
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.session.limits import Limits
from shimproxy.smtp.catalogue import Violation
from tests.memory import Stage, offered, staged, up_to_mail_data
from tests.peers.shim import served
from tests.session.test_early import EARLY_SUCCESS, SECONDS, Given, mail_of, reads_no_more, send

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


async def vanishes(stage: Stage) -> None:
    stage.sender.feed_fin()
    await stage.settle()


async def resets(stage: Stage) -> None:
    stage.sender.feed_rst()
    await stage.settle()


@pytest.mark.parametrize("piece_octets", [0, 1, 3])
@pytest.mark.parametrize("goes", [vanishes, resets])
@pytest.mark.parametrize("rest", [b"", b".", b".\r", b"the la", b"the last\r"])
def test_nothing_of_a_line_that_is_not_ended_reaches_it(
    rest: bytes, goes: Callable[[Stage], Awaitable[None]], piece_octets: int
) -> None:
    async def script(stage: Stage) -> None:
        stage.receiver.stand_for_unix()
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"one\r\n..two\r\n" + rest, piece_octets)
        assert bytes(stage.receiver.written) == b"one\r\n..two\r\n"
        await goes(stage)
        assert bytes(stage.receiver.written) == b"one\r\n..two\r\n"

    assert Violation.VANISHED_IN_DATA in staged(script).repaired


def test_a_receiver_that_can_be_reset_is_given_everything_at_once() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"one\r\nthe la")
        assert bytes(stage.receiver.written) == b"one\r\nthe la"

    staged(script)


@pytest.mark.parametrize("piece_octets", [0, 1, 7, 600])
def test_all_of_a_mail_reaches_it_with_the_end(piece_octets: int) -> None:
    """Also of a line that is longer than is held: that goes out as it comes."""
    mail = b"one\r\n" + b"x" * 2000 + b"\r\n..\r\n" + b"y" * 511 + b"\r\n"

    async def script(stage: Stage) -> None:
        stage.receiver.stand_for_unix()
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, mail + b".\r\n", piece_octets)
        assert bytes(stage.receiver.written) == mail + b".\r\n"
        await stage.feed(stage.receiver, b"250 queued\r\n")
        assert bytes(stage.sender.written) == b"250 queued\r\n"

    assert staged(script, limits=Limits(held_octets=512)).repaired == []


def test_no_more_is_held_of_a_line_than_the_limit() -> None:
    async def script(stage: Stage) -> None:
        stage.receiver.stand_for_unix()
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x" * 512)
        assert bytes(stage.receiver.written) == b""
        await stage.feed(stage.sender, b"x")
        assert bytes(stage.receiver.written) == b"x" * 513

    staged(script, limits=Limits(held_octets=512))


@pytest.mark.parametrize("piece_octets", [0, 1])
def test_of_a_chunk_the_last_line_is_given_with_its_end(piece_octets: int) -> None:
    """Whatever that is: a chunk that is followed by others may end in the midst of a line."""

    async def script(stage: Stage) -> None:
        stage.receiver.stand_for_unix()
        await offered(stage, b"CHUNKING")
        for command in (b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<b@c>\r\n"):
            await stage.feed(stage.sender, command)
            await stage.feed(stage.receiver, b"250 OK\r\n")
        stage.receiver.written.clear()
        await stage.feed(stage.sender, b"BDAT 9\r\n")
        await stage.feed(stage.sender, b"one\r\nthe", piece_octets)
        assert bytes(stage.receiver.written) == b"BDAT 9\r\none\r\n"
        await stage.feed(stage.sender, b" ")
        assert bytes(stage.receiver.written) == b"BDAT 9\r\none\r\nthe "
        await stage.feed(stage.receiver, b"250 9 octets\r\n")
        await stage.feed(stage.sender, b"BDAT 9 LAST\r\n")
        await stage.feed(stage.sender, b"last\r\nof", piece_octets)
        assert stage.receiver.written.endswith(b"BDAT 9 LAST\r\nlast\r\n")
        await vanishes(stage)
        assert stage.receiver.written.endswith(b"BDAT 9 LAST\r\nlast\r\n")

    staged(script)


def test_a_refusal_is_heard_while_a_line_is_held() -> None:
    """What is held counts as drained, not as forwarded."""

    async def script(stage: Stage) -> None:
        stage.receiver.stand_for_unix()
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"one\r\ntwo")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        await stage.feed(stage.sender, b" and more\r\n.\r\n")
        assert bytes(stage.receiver.written) == b"one\r\n"
        assert bytes(stage.sender.written) == b"552 too big\r\n"
        (repair,) = stage.account.repairs
        assert repair.violation is Violation.EARLY_REPLY
        assert (repair.detail["octets_forwarded"], repair.detail["octets_drained"]) == (5, 17)

    staged(script)


def test_a_pause_within_a_line_is_the_sender_s() -> None:
    async def script(stage: Stage) -> None:
        stage.receiver.stand_for_unix()
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"one\r\ntwo")
        await stage.pass_time(stage.deadlines.sender_block)
        assert stage.sender.written.startswith(b"421 ")
        assert bytes(stage.receiver.written) == b"one\r\n"

    assert staged(script).repaired == [Violation.SENDER_STALLED]


@pytest.mark.parametrize("size_octets", [30_000, 150_000, 400_000, 2 << 20])
async def test_no_success_is_believed_of_a_mail_that_it_has_not_read(tmp_path: Path, size_octets: int) -> None:
    given: queue.Queue[Given] = queue.Queue()
    path = tmp_path / "receiver"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(10)
    with (
        trio.fail_after(SECONDS),
        FaultyReceiver(functools.partial(reads_no_more, given), listener=listener),
    ):
        settings = Settings(receiver=f"unix:{path}", listen="127.0.0.1:0", grace_seconds=0)
        async with served(settings) as ((port,), watcher):
            for _ in range(3):
                said = functools.partial(send, port, mail_of(size_octets), 1 << 30)
                assert await trio.to_thread.run_sync(said) == EARLY_SUCCESS
            await watcher.sessions_ended(3)
    assert {repair.violation for repair in watcher.repairs} >= {Violation.EARLY_SUCCESS}
