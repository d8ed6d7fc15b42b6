"""Every limit: reached, told, and left again.

Those of a session in memory and in virtual time; those of connections, and all of them once more with a real client, on
real sockets, where each test is bounded by fail_after.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
import resource
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

import shimproxy
from shimproxy.config.settings import Settings
from shimproxy.faulty.early import well_behaved
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import GREETING, SECONDS, Talk
from shimproxy.net.address import network_of
from shimproxy.net.driver import Driver
from shimproxy.net.leg import Leg
from shimproxy.net.listen import descriptors_left
from shimproxy.observe.journal import Journal
from shimproxy.service.admission import DESCRIPTORS_OF_A_NETWORK, OF_A_NETWORK, RATE, SESSIONS, AdmissionControl
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.policy import Policy, Sizes
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.newlines import Newlines
from tests.memory import Stage, offered, staged, up_to_mail_data
from tests.peers.shim import shim, shim_process
from tests.peers.tls import make_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


TOO_BIG_CHUNK = b"BDAT 101 LAST\r\n" + b"x" * 101
LAST = b"421 session limit reached, closing connection\r\n"

# -- a session's, in memory


async def answered(stage: Stage, *dialogue: tuple[bytes, bytes]) -> None:
    """The sender gives each command, and the receiver the reply to it."""
    for command, reply in dialogue:
        await stage.feed(stage.sender, command + b"\r\n")
        await stage.feed(stage.receiver, reply + b"\r\n")


async def greeted(stage: Stage) -> None:
    await stage.feed(stage.receiver, b"220 hello\r\n")
    stage.sender.written.clear()


async def mail(stage: Stage, verdict: bytes = b"250 taken") -> None:
    await answered(stage, (b"MAIL FROM:<a@b>", b"250 OK"), (b"RCPT TO:<b@c>", b"250 OK"), (b"DATA", b"354 go"))
    await answered(stage, (b"text\r\n.", verdict))


def limit_told(stage: Stage) -> list[object]:
    return [each.detail["limit"] for each in stage.account.repairs if each.violation is Violation.LIMIT_REACHED]


def test_the_command_above_the_limit_gets_421_and_the_receiver_quit() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await answered(stage, *[(b"NOOP", b"250 OK")] * 3)
        await stage.feed(stage.sender, b"NOOP\r\n")
        assert stage.sender.got_fin

    stage = staged(script, Limits(commands_without_mail=3))
    assert bytes(stage.sender.written) == b"250 OK\r\n" * 3 + LAST
    assert bytes(stage.receiver.written) == b"NOOP\r\n" * 3 + b"QUIT\r\n"
    assert limit_told(stage) == ["commands-without-mail"]


def test_a_sender_that_was_offered_enhanced_codes_gets_one() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"ENHANCEDSTATUSCODES")
        await stage.feed(stage.sender, b"NOOP\r\n")

    stage = staged(script, Limits(commands_without_mail=1))
    assert bytes(stage.sender.written) == b"421 4.7.0 " + LAST[4:]


def test_quit_is_answered_at_any_limit() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await answered(stage, (b"NOOP", b"250 OK"), (b"QUIT", b"221 bye"))

    stage = staged(script, Limits(commands_without_mail=1))
    assert bytes(stage.sender.written) == b"250 OK\r\n221 bye\r\n"
    assert stage.repaired == []


@pytest.mark.parametrize("verdict", [b"250 taken", b"550 no", b"451 later"])
def test_a_mail_takes_back_the_commands_before_it(verdict: bytes) -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        for _ in range(5):
            await answered(stage, (b"NOOP", b"250 OK"), (b"NONE", b"500 what"))
            await mail(stage, verdict)

    stage = staged(script, Limits(commands_without_mail=5, bad_commands=2))
    assert stage.repaired == []
    assert stage.session.events.record.transactions == 5


@pytest.mark.parametrize("code", [500, 501, 502, 504])
def test_so_many_bad_commands_are_answered_and_what_follows_gets_421(code: int) -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await answered(stage, *[(b"XYZ", b"%d no" % code)] * 2, (b"NOOP", b"250 OK"), (b"XYZ", b"%d no" % code))
        await stage.feed(stage.sender, b"NOOP\r\n")

    stage = staged(script, Limits(bad_commands=3))
    assert bytes(stage.sender.written) == b"%d no\r\n%d no\r\n250 OK\r\n%d no\r\n" % (code, code, code) + LAST
    assert limit_told(stage) == ["bad-commands"]


def test_what_the_shim_refuses_itself_is_bad_too() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"XCLIENT x\r\n")
        await stage.feed(stage.sender, b"NO\0OP\r\n")
        await stage.feed(stage.sender, b"NOOP\r\n")

    stage = staged(script, Limits(bad_commands=2))
    assert bytes(stage.sender.written).splitlines()[0].startswith(b"502 ")
    assert bytes(stage.sender.written).splitlines()[1].startswith(b"500 ")
    assert bytes(stage.sender.written).endswith(LAST)
    assert bytes(stage.receiver.written) == b"QUIT\r\n"


def test_recipients_that_are_refused_and_commands_out_of_order_are_not_bad() -> None:
    """They are the receiver's verdict on mail, which list servers get by the hundred, pipelined ones behind a MAIL."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await answered(stage, *[(b"RCPT TO:<b@c>", b"550 unknown"), (b"RCPT TO:<b@c>", b"503 MAIL first")] * 5)

    assert staged(script, Limits(bad_commands=1)).repaired == []


def test_in_a_pipelined_group_each_command_up_to_the_limit_has_its_one_reply() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n" + b"RCPT TO:<b@c>\r\n" * 5 + b"DATA\r\n")
        assert bytes(stage.sender.written) == b""
        await stage.feed(stage.receiver, b"250 1\r\n250 2\r\n")
        assert bytes(stage.sender.written) == b"250 1\r\n250 2\r\n"
        await stage.feed(stage.receiver, b"250 3\r\n")

    stage = staged(script, Limits(commands_without_mail=4))
    assert bytes(stage.sender.written) == b"250 1\r\n250 2\r\n250 3\r\n" + LAST
    assert bytes(stage.receiver.written) == b"MAIL FROM:<a@b>\r\n" + b"RCPT TO:<b@c>\r\n" * 2 + b"QUIT\r\n"


def test_mail_data_in_a_pipelined_group_have_their_verdict_before_the_421() -> None:
    """And a bad command that reached the limit in the same group cuts nothing that was forwarded with it."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<>\r\nRCPT TO:<b@c>\r\nDATA\r\n")
        await stage.feed(stage.receiver, b"250 1\r\n501 2\r\n250 3\r\n354 go\r\n")
        await stage.feed(stage.sender, b"text\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\n")
        await stage.feed(stage.receiver, b"250 taken\r\n")

    stage = staged(script, Limits(bad_commands=1, transactions=1))
    assert bytes(stage.sender.written) == b"250 1\r\n501 2\r\n250 3\r\n354 go\r\n250 taken\r\n" + LAST
    assert limit_told(stage) == ["transactions"]
    assert stage.session.events.record.accepted == 1


@pytest.mark.parametrize("verdict", [b"250 taken", b"550 no"])
def test_behind_so_many_mails_the_next_command_gets_421(verdict: bytes) -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        for _ in range(3):
            await mail(stage, verdict)
        await stage.feed(stage.sender, b"RSET\r\n")

    stage = staged(script, Limits(transactions=3))
    assert bytes(stage.sender.written).endswith(verdict + b"\r\n" + LAST)
    assert stage.session.events.record.transactions == 3
    assert limit_told(stage) == ["transactions"]


def test_a_mail_that_was_drained_counts_and_the_421_of_the_limit_ends_a_session_that_resumes() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.receiver, b"552 too big\r\n")
        stage.receiver.feed_fin()
        await stage.feed(stage.sender, b"text\r\n.\r\n")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")

    for limits, answer in ((Limits(transactions=1), LAST), (Limits(), b"")):
        stage = staged(script, limits, Policy(resume=True))
        assert bytes(stage.sender.written) == b"552 too big\r\n" + answer
        assert bool(stage.earlier_receivers) is not bool(answer), "at the limit no other receiver is dialled"


def test_a_session_without_a_receiver_runs_out_of_commands_too() -> None:
    """With --resume, the shim answers RSET and NOOP alone."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        stage.receiver.feed_fin()
        await stage.settle()
        for _ in range(3):
            await stage.feed(stage.sender, b"RSET\r\n")

    stage = staged(script, Limits(commands_without_mail=2), Policy(resume=True))
    assert bytes(stage.sender.written) == b"250 OK\r\n" * 2 + LAST


def test_with_lmtp_a_mail_counts_once_and_every_recipient_has_its_verdict() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await answered(stage, (b"LHLO x", b"250 hi"), (b"MAIL FROM:<a@b>", b"250 OK"))
        await answered(stage, *[(b"RCPT TO:<b@c>", b"250 OK")] * 3, (b"DATA", b"354 go"))
        stage.sender.written.clear()
        await answered(stage, (b".", b"250 first\r\n250 second"))
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        await stage.feed(stage.receiver, b"452 third\r\n")

    stage = staged(script, Limits(transactions=1), Policy(lmtp=True))
    assert bytes(stage.sender.written) == b"250 first\r\n250 second\r\n452 third\r\n" + LAST


def test_chunks_that_bring_a_mail_on_take_back_the_commands_and_empty_ones_do_not() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        for _ in range(5):
            await answered(stage, (b"BDAT 4\r\nab", b"250 OK"))
        await answered(stage, (b"BDAT 0", b"250 OK"), (b"BDAT 0", b"250 OK"))
        await stage.feed(stage.sender, b"BDAT 0\r\n")

    stage = staged(script, Limits(commands_without_mail=2))
    assert bytes(stage.sender.written) == b"250 OK\r\n" * 7 + LAST
    assert stage.receiver.got_rst, "its mail has no end (guarantee 5)"


def test_empty_chunks_after_a_refused_one_take_back_no_commands_either() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        await answered(stage, (b"BDAT 4\r\nab", b"552 no"))
        for _ in range(3):
            await stage.feed(stage.sender, b"BDAT 0\r\n")

    stage = staged(script, Limits(commands_without_mail=2))
    assert bytes(stage.sender.written) == b"552 no\r\n" * 3 + LAST


REFUSED_CHUNKS = {
    "by the receiver, the shim the last": (Policy(), b"BDAT 3\r\nabc", b"552 no\r\n", b"BDAT 3 LAST\r\nabc"),
    "by the receiver, the last empty": (Policy(), b"BDAT 3\r\nabc", b"552 no\r\n", b"BDAT 0 LAST\r\n"),
    "early": (Policy(), b"BDAT 9\r\nabc", b"552 no\r\n", b"defghiBDAT 3 LAST\r\nabc"),
    "a command between two": (Policy(), b"BDAT 1\r\naDATA\r\n", b"250 OK\r\n503 no\r\n", b"BDAT 1 LAST\r\nb"),
    "by the shim, as too big": (Policy(sizes=Sizes(1000)), b"BDAT 900 \r\n" + b"x" * 900, b"250 OK\r\n", TOO_BIG_CHUNK),
    "by the shim, the only one": (Policy(sizes=Sizes(100)), TOO_BIG_CHUNK, b"", b""),
}


@pytest.mark.parametrize(("policy", "first", "reply", "last"), [*REFUSED_CHUNKS.values()], ids=[*REFUSED_CHUNKS])
def test_a_mail_whose_last_chunk_the_shim_refuses_counts(
    policy: Policy, first: bytes, reply: bytes, last: bytes
) -> None:
    """As one does whose last chunk the receiver refuses, towards the limit and in the session's record."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING", b"CHUNKING")
        await answered(stage, (b"MAIL FROM:<a@b>", b"250 OK"), (b"RCPT TO:<b@c>", b"250 OK"))
        await stage.feed(stage.sender, first)
        await stage.feed(stage.receiver, reply)
        await stage.feed(stage.sender, last)
        if stage.receiver.written.endswith(b"BDAT 0\r\n"):  # whether chunks are still taken
            await stage.feed(stage.receiver, b"503 no\r\n")
        assert b"421" not in stage.sender.written
        stage.sender.written.clear()
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")

    stage = staged(script, Limits(transactions=1), policy)
    assert bytes(stage.sender.written) == LAST
    assert limit_told(stage) == ["transactions"]
    (record,) = stage.account.records
    assert (record.transactions, record.accepted) == (1, 0)


def test_the_chunks_of_a_refused_mail_take_back_the_commands_too() -> None:
    """A sender that goes on with its mail is told of the refusal, however many chunks it has."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        await answered(stage, (b"MAIL FROM:<a@b>", b"250 OK"), (b"RCPT TO:<b@c>", b"250 OK"))
        await answered(stage, (b"BDAT 5\r\nabc", b"552 too big"))
        stage.sender.written.clear()
        for _ in range(20):
            await stage.feed(stage.sender, b"BDAT 3\r\nabc")
        await stage.feed(stage.sender, b"BDAT 3 LAST\r\nabc")

    stage = staged(script, Limits(commands_without_mail=5))
    assert bytes(stage.sender.written) == b"552 too big\r\n" * 21
    assert limit_told(stage) == []


def test_a_chunk_that_was_not_offered_is_a_bad_command() -> None:
    """502 counts whoever gives it."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        for _ in range(3):
            await stage.feed(stage.sender, b"BDAT 3 LAST\r\nabc")

    stage = staged(script, Limits(bad_commands=2))
    assert bytes(stage.sender.written) == b"502 command not offered through this proxy\r\n" * 2 + LAST
    assert limit_told(stage) == ["bad-commands"]


def test_a_session_that_has_had_its_time_finishes_its_transaction_and_no_more() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        for _ in range(20):
            await stage.feed(stage.sender, b"text\r\n" * 3000)
            await stage.pass_time(100)
        await stage.feed(stage.sender, b".\r\n")
        await stage.feed(stage.receiver, b"250 taken\r\n")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")

    stage = staged(script, Limits(session_seconds=1000))
    assert bytes(stage.sender.written) == b"250 taken\r\n" + LAST
    assert limit_told(stage) == ["session-seconds"]


def test_a_sender_that_keeps_its_session_open_with_noop_is_left_after_its_time() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        while not stage.sender.got_fin:
            await stage.feed(stage.sender, b"NOOP\r\n")
            await stage.feed(stage.receiver, b"250 OK\r\n")
            await stage.pass_time(290)

    stage = staged(script, Limits(session_seconds=3000))
    assert bytes(stage.sender.written) == b"250 OK\r\n" * 12 + LAST


@pytest.mark.parametrize("command", [b"RCPT TO:<b@c>\r\n", b"BDAT 1\r\nx"], ids=["recipients", "chunks"])
def test_a_transaction_that_comes_to_no_end_has_as_much_time_again(command: bytes) -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        await answered(stage, (b"MAIL FROM:<a@b>", b"250 OK"), (b"RCPT TO:<b@c>", b"250 OK"))
        while not stage.sender.got_fin:
            await stage.feed(stage.sender, command)
            await stage.feed(stage.receiver, b"250 OK\r\n")
            await stage.pass_time(290)

    stage = staged(script, Limits(session_seconds=3000))
    assert limit_told(stage) == ["session-seconds"]
    assert 6000 < stage.clock.current_time() < 7000


def test_without_limits_a_session_has_none() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        for _ in range(10_100):
            stage.sender.feed(b"XYZ\r\n")
            await stage.settle()
            stage.receiver.feed(b"500 no\r\n")
            await stage.settle()
        assert not stage.over

    stage = staged(script, Limits(commands_without_mail=0, bad_commands=0, transactions=0, session_seconds=0))
    assert stage.repaired == []


# -- the least rate of mail data


def test_a_slow_sender_that_is_drained_for_an_early_reply_has_its_verdict_at_the_end() -> None:
    """Ended in the midst of its mail, it would try again for days: the fault itself."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        stage.receiver.feed_fin()
        for _ in range(50):
            await stage.feed(stage.sender, b"x")
            await stage.pass_time(100)
        assert bytes(stage.sender.written) == b""
        await stage.feed(stage.sender, b"\r\n.\r\n")

    stage = staged(script)
    assert bytes(stage.sender.written) == b"552 too big\r\n"
    assert stage.repaired == [Violation.EARLY_REPLY]


def test_one_that_says_nothing_while_it_is_drained_is_ended_with_the_verdict() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        stage.receiver.feed_fin()
        await stage.feed(stage.sender, b"x")
        await stage.pass_time(170)
        assert bytes(stage.sender.written) == b""
        await stage.pass_time(10)

    stage = staged(script)
    assert bytes(stage.sender.written) == b"552 too big\r\n"
    assert stage.repaired == [Violation.SENDER_STALLED, Violation.EARLY_REPLY]


def test_one_that_drips_for_ever_while_it_is_drained_is_ended_when_its_session_has_had_its_time() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        stage.receiver.feed_fin()
        while not stage.sender.written and stage.clock.current_time() < 100_000:
            await stage.feed(stage.sender, b"x")
            await stage.pass_time(100)

    stage = staged(script, Limits(session_seconds=7200))
    assert bytes(stage.sender.written) == b"552 too big\r\n"
    assert 7200 <= stage.clock.current_time() < 7500


def test_a_slow_sender_whose_mail_the_operator_refuses_is_ended() -> None:
    """That is the sender's fault, not the receiver's."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"bare\nnewline\r\n")
        for _ in range(5):
            await stage.feed(stage.sender, b"x")
            await stage.pass_time(58)

    stage = staged(script, policy=Policy(newlines=Newlines.REJECT))
    assert Violation.SENDER_STALLED in stage.repaired


def test_asked_to_stop_in_good_order_it_drains_as_long_as_the_grace_lasts() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.session.stop_when_idle()
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        stage.receiver.feed_fin()
        await stage.feed(stage.sender, b"more\r\n")
        await stage.pass_time(100)
        assert bytes(stage.sender.written) == b""
        await stage.feed(stage.sender, b".\r\n")

    assert bytes(staged(script).sender.written) == b"552 too big\r\n421 service shutting down\r\n"


# -- a session's, by a real client


@attrs.define(eq=False)
class Client:
    """A sender that reads replies by the line."""

    stream: trio.SocketStream
    _unread: bytes = b""

    async def line(self) -> bytes:
        """The next line; empty at the end, however that came."""
        with contextlib.suppress(trio.BrokenResourceError):
            while b"\n" not in self._unread:
                if not (octets := await self.stream.receive_some()):
                    break
                self._unread += octets
        line, end, self._unread = self._unread.partition(b"\n")
        return line + end

    async def says(self, *lines: bytes) -> list[bytes]:
        """The last line of the reply to each."""
        return [await self._says(line) for line in lines]

    async def _says(self, line: bytes) -> bytes:
        await self.stream.send_all(line + b"\r\n")
        while (reply := await self.line())[3:4] == b"-":
            pass
        return reply


@contextlib.asynccontextmanager
async def client(port: int, host: str = HOST, source: str | None = None) -> AsyncIterator[Client]:
    async with await trio.open_tcp_stream(host, port, local_address=source) as stream:
        yield Client(stream)


@pytest.fixture
def receiver() -> Iterator[FaultyReceiver]:
    with FaultyReceiver(well_behaved) as found:
        yield found


async def is_served(port: int, host: str = HOST, source: str | None = None) -> bool:
    """Whether a mail gets through."""
    async with client(port, host, source) as sender:
        if await sender.line() != GREETING:
            return False
        commands = (b"EHLO x", b"MAIL FROM:<a@b>", b"RCPT TO:<b@c>", b"DATA", b"text\r\n.", b"QUIT")
        codes = [reply[:3] for reply in await sender.says(*commands)]
        return codes == [b"250", b"250", b"250", b"354", b"250", b"221"]


MAIL = (b"MAIL FROM:<a@b>", b"RCPT TO:<b@c>", b"DATA", b"text\r\n.")
IN_A_SESSION = {
    "transactions": (Limits(transactions=2), [*MAIL, *MAIL, b"MAIL FROM:<a@b>"], LAST),
    "commands-without-mail": (Limits(commands_without_mail=5), [*MAIL, *[b"NOOP"] * 6], LAST),
    "bad-commands": (Limits(bad_commands=3), [*[b"XCLIENT x"] * 3, b"NOOP"], LAST),
    "held-octets": (
        Limits(held_octets=512),
        [*MAIL[:3], b"text\r\n.\r\n" + b"NOOP " + b"x" * 600],
        b"250 2.0.0 Ok: taken\r\n",
    ),
    "command-octets": (
        Limits(command_octets=512),
        [b"NOOP " + b"x" * 600],
        b"500 command line too long, or with a bare CR, bare LF or NUL in it\r\n",
    ),
}


@pytest.mark.parametrize(("limits", "commands", "reply"), IN_A_SESSION.values(), ids=IN_A_SESSION.keys())
async def test_a_client_reaches_a_limit_is_told_and_comes_again(
    receiver: FaultyReceiver, limits: Limits, commands: list[bytes], reply: bytes
) -> None:
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, limits=limits) as sut:
            async with client(sut.port) as sender:
                assert await sender.line() == GREETING
                assert (await sender.says(*commands))[-1] == reply
                if reply == LAST:
                    assert await sender.line() == b"", "the shim closes"
                elif reply.startswith(b"250"):
                    assert (await sender.line()).startswith(b"421 sent without waiting")
                else:
                    assert await sender.says(b"NOOP") == [b"250 2.1.0 Ok\r\n"], "the session goes on"
            assert await is_served(sut.port)


async def test_a_client_whose_session_has_had_its_time_is_told_and_comes_again(
    receiver: FaultyReceiver, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 1
    with trio.fail_after(SECONDS + 250):
        async with shim(receiver.port, limits=Limits(session_seconds=200)) as sut:
            async with client(sut.port) as sender:
                await sender.line()
                await sender.says(*MAIL[:2])
                mock_clock.jump(250)
                assert (await sender.says(*MAIL[2:]))[-1].startswith(b"250"), "its transaction is not cut"
                while (reply := (await sender.says(b"NOOP"))[0]).startswith(b"250"):
                    pass  # until the watchdog has seen what time it is
                assert reply == LAST
            assert await is_served(sut.port)


async def test_a_group_that_is_longer_than_the_receiver_is_given_at_once_is_answered_all_the_same(
    receiver: FaultyReceiver,
) -> None:
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, limits=Limits(outstanding_commands=1)) as sut, client(sut.port) as sender:
            await sender.line()
            await sender.says(b"EHLO x")
            await sender.stream.send_all(b"MAIL FROM:<a@b>\r\n" + b"RCPT TO:<b@c>\r\n" * 50)
            assert [await sender.line() for _ in range(51)] == [b"250 2.1.0 Ok\r\n"] * 51


async def test_a_client_that_stops_in_its_mail_data_is_told_and_comes_again(receiver: FaultyReceiver) -> None:
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, Deadlines(sender_block=0.05, linger_idle=0.05)) as sut:
            async with client(sut.port) as sender:
                await sender.line()
                assert (await sender.says(*MAIL[:3]))[-1].startswith(b"354")
                await sender.stream.send_all(b"text\r\n")
                assert await sender.line() == b"421 timeout, closing connection\r\n"
                assert await sender.line() == b""
            assert await is_served(sut.port)
    assert receiver.seen.mails == [b"text\r\n"], "not the one that was not ended"


async def test_a_client_that_drips_its_mail_data_is_told_and_comes_again(
    receiver: FaultyReceiver, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 1
    with trio.fail_after(SECONDS + 600):
        async with shim(receiver.port, limits=Limits(least_octets_per_second=100)) as sut:
            async with client(sut.port) as sender:
                await sender.line()
                assert (await sender.says(*MAIL[:3]))[-1].startswith(b"354")
                with contextlib.suppress(trio.BrokenResourceError):
                    for _ in range(4):  # an octet a minute, and three minutes for a block
                        await sender.stream.send_all(b"x")
                        mock_clock.jump(60)
                        await trio.testing.wait_all_tasks_blocked()
                assert await sender.line() == b"421 timeout, closing connection\r\n"
            assert await is_served(sut.port)
    assert receiver.seen.mails == [b"text\r\n"]


async def test_a_reply_that_is_too_long_is_cut_for_a_real_client() -> None:
    def talks_much(talk: Talk) -> None:
        talk.say(b"".join(b"552-%s\r\n" % (b"x" * 400) for _ in range(100)) + b"552 that is all\r\n")

    with trio.fail_after(SECONDS), FaultyReceiver(talks_much) as receiver:
        async with shim(receiver.port, limits=Limits(reply_octets=16_384)) as sut:
            async with client(sut.port) as sender:
                await sender.line()
                await sender.says(*MAIL[:2])
                await sender.stream.send_all(b"DATA\r\n")
                lines = [await sender.line()]
                while lines[-1][3:4] == b"-":
                    lines.append(await sender.line())
                assert sum(map(len, lines)) <= 16_384 + len(lines[-1])
                assert {line[:3] for line in lines} == {b"552"}
                assert await sender.says(b"RSET", b"QUIT") == [b"250 2.1.0 Ok\r\n", b"221 2.0.0 closing connection\r\n"]
            await sut.watcher.sessions_ended()
    assert [repair.violation for repair in sut.watcher.repairs] == [Violation.REPLY_LONG_LINE]


# -- connections

TOO_MANY = b"421 too many sessions, try again later\r\n"
TOO_MANY_OF_YOURS = b"421 too many sessions from your network, try again later\r\n"
TOO_OFTEN = b"421 too many connections from your network, try again later\r\n"
NO_MEANS = b"421 out of resources, try again later\r\n"


async def refusal(port: int, host: str = HOST, source: str | None = None) -> bytes:
    """All that a connection is told without a word of its own."""
    async with client(port, host, source) as sender:
        return await sender.line() + await sender.line()


async def test_a_sender_above_the_sessions_is_told_at_once_and_served_when_one_has_ended(
    receiver: FaultyReceiver,
) -> None:
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, sessions=2) as sut, client(sut.port) as first, client(sut.port) as second:
            assert await first.line() == await second.line() == GREETING
            assert await refusal(sut.port) == TOO_MANY
            assert (await first.says(*MAIL))[-1].startswith(b"250"), "who is in is not disturbed"
            assert await second.says(b"QUIT") == [b"221 2.0.0 closing connection\r\n"]
            await second.stream.aclose()
            await sut.watcher.sessions_ended(1)
            assert await is_served(sut.port)


async def test_a_network_uses_up_its_own_sessions_and_nobody_elses(receiver: FaultyReceiver) -> None:
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, sessions_per_network=1) as sut:
            async with client(sut.port, source="127.0.0.1") as first:
                assert await first.line() == GREETING
                assert await refusal(sut.port, source="127.0.0.1") == TOO_MANY_OF_YOURS
                assert await is_served(sut.port, source="127.0.0.2")
            await sut.watcher.sessions_ended(2)
            assert await is_served(sut.port, source="127.0.0.1")


async def test_a_prefix_makes_neighbours_of_senders(receiver: FaultyReceiver) -> None:
    limits: dict[str, Any] = {"sessions_per_network": 1, "ipv4_prefix": 24}
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, **limits) as sut, client(sut.port, source="127.0.0.1") as first:
            assert await first.line() == GREETING
            assert await refusal(sut.port, source="127.0.0.200") == TOO_MANY_OF_YOURS
            assert await is_served(sut.port, source="127.0.1.1")


async def test_a_network_that_connects_too_often_is_told_and_served_later(
    receiver: FaultyReceiver, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 1
    with trio.fail_after(SECONDS + 60):
        async with shim(receiver.port, connections_per_minute=3) as sut:
            assert [await is_served(sut.port, source="127.0.0.1") for _ in range(3)] == [True] * 3
            assert await refusal(sut.port, source="127.0.0.1") == TOO_OFTEN
            assert await is_served(sut.port, source="127.0.0.2")
            mock_clock.jump(20)
            assert await is_served(sut.port, source="127.0.0.1")
            assert await refusal(sut.port, source="127.0.0.1") == TOO_OFTEN


@contextlib.asynccontextmanager
async def shim_on(listeners: list[socket.socket], receiver: FaultyReceiver, **more: Any) -> AsyncIterator[None]:
    settings = Settings(receiver=f"{HOST}:{receiver.port}", grace_seconds=0, **more)
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(shimproxy.serve, settings, listeners=listeners))
        yield
        nursery.cancel_scope.cancel()


async def test_an_ipv4_sender_is_one_on_a_socket_for_both_families_too(receiver: FaultyReceiver) -> None:
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    one = socket.create_server((HOST, 0))
    ports = [sock.getsockname()[1] for sock in (both, one)]
    with trio.fail_after(SECONDS):
        async with shim_on([both, one], receiver, sessions_per_network=1), client(ports[0]) as first:
            assert await first.line() == GREETING
            assert await refusal(ports[1]) == TOO_MANY_OF_YOURS
            assert await is_served(ports[0], source="127.0.0.2")
            assert await is_served(ports[0], host="::1")


async def test_peers_on_a_unix_socket_are_of_no_network(receiver: FaultyReceiver, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "smtp"))
    listener.listen()
    limits: dict[str, Any] = {"sessions_per_network": 1, "connections_per_minute": 1, "sessions": 3}
    with trio.fail_after(SECONDS):
        async with shim_on([listener], receiver, **limits), trio.open_nursery() as nursery:
            for expected in (GREETING, GREETING, GREETING, TOO_MANY):
                sender = Client(await trio.open_unix_socket(tmp_path / "smtp"))
                nursery.start_soon(close_in_the_end, sender)
                assert await sender.line() == expected
            nursery.cancel_scope.cancel()


async def close_in_the_end(sender: Client) -> None:
    async with sender.stream:
        await trio.sleep_forever()


def lines_told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    fields = [record.__dict__.get("fields", {}) for record in caplog.records]
    return [each for each in fields if each.get("repair") == "limit-reached"]


async def test_a_flood_above_a_limit_costs_no_task_and_a_line_a_second(
    receiver: FaultyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    connections = 500
    began = trio.current_time()
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, sessions=1) as sut, client(sut.port) as first:
            assert await first.line() == GREETING
            tasks = trio.lowlevel.current_statistics().tasks_living
            for _ in range(connections):
                assert await refusal(sut.port) == TOO_MANY
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            assert (await first.says(*MAIL))[-1].startswith(b"250")
    told = lines_told(caplog)
    assert {each["limit"] for each in told} == {"sessions"}
    assert sum(each["count"] for each in told) == connections
    assert len(told) <= trio.current_time() - began + 1


async def test_a_sender_that_waits_for_tls_is_told_nothing_that_it_could_not_read(
    receiver: FaultyReceiver, tmp_path: Path
) -> None:
    made = make_certificate(tmp_path)
    tls: dict[str, Any] = {
        "sender_tls": "implicit",
        "certificate": made.certificate,
        "key": made.key,
        "clear_allowed": True,
    }
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, sessions=1, **tls) as sut, client(sut.port):
            assert await refusal(sut.port) == b""


# -- what is counted


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock | None = None, **limits: Any) -> AdmissionControl:
    return AdmissionControl(Settings(receiver="192.0.2.1:25", **limits), clock or Clock())


NETWORKS = [
    (("192.0.2.77", 1), "192.0.2.0/24"),
    (("::ffff:192.0.2.77", 1, 0, 0), "192.0.2.0/24"),
    (("2001:db8:1:2:3::4", 1, 0, 0), "2001:db8:1:2::/64"),
    (("fe80::1%lo", 1, 0, 1), "fe80::/64"),
    ("", None),
    (b"\0abstract", None),
]


@pytest.mark.parametrize(("sockaddr", "network"), NETWORKS, ids=str)
def test_the_network_of(sockaddr: object, network: str | None) -> None:
    assert network_of(sockaddr, 24, 64) == network


def test_without_limits_of_networks_none_is_looked_for() -> None:
    assert admission(sessions_per_network=0).network_of(("192.0.2.1", 1)) is None


@pytest.mark.parametrize(("sessions", "most"), [(1, 1), (2, 2), (8, 6), (100, 75)])
def test_by_default_a_network_leaves_a_quarter_of_the_sessions_to_others(sessions: int, most: int) -> None:
    sut = admission(sessions=sessions)
    network = sut.network_of(("192.0.2.1", 1))
    assert [sut.enter(network) for _ in range(most)] == [None] * most
    if most < sessions:
        assert sut.enter(network) is OF_A_NETWORK
        for _ in range(sessions - most):
            assert sut.enter(sut.network_of(("192.0.2.2", 1))) is None
    assert sut.enter(network) is SESSIONS


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_by_default_the_addresses_of_this_machine_may_have_all_sessions(host: str) -> None:
    """A balancer there brings the senders of all networks. A number that is set holds for it, too."""
    sut = admission(sessions=8)
    assert [sut.enter(sut.network_of((host, 1))) for _ in range(9)] == [None] * 8 + [SESSIONS]
    sut = admission(sessions=8, sessions_per_network=6)
    assert [sut.enter(sut.network_of((host, 1))) for _ in range(7)] == [None] * 6 + [OF_A_NETWORK]


def test_by_default_a_worker_gives_a_network_three_quarters_of_its_own_sessions() -> None:
    share = Settings(receiver="192.0.2.1:25", workers=4, sessions=32).of_one_worker()
    assert (share.sessions, share.sessions_per_network) == (8, None)


def test_where_descriptors_are_few_each_network_leaves_some_to_others() -> None:
    """A session takes three at most: those of twelve are not 40."""
    sut = AdmissionControl(Settings(receiver="192.0.2.1:25", sessions=100), Clock(), descriptors=40)
    network = sut.network_of(("192.0.2.1", 1))
    assert network == "192.0.2.1/32"
    assert [sut.enter(network) for _ in range(13)] == [None] * 12 + [DESCRIPTORS_OF_A_NETWORK]
    assert sut.enter("another") is None
    sut.leave(network)
    assert sut.enter(network) is None
    assert sut.join(network) is DESCRIPTORS_OF_A_NETWORK


@pytest.mark.parametrize(
    ("descriptors", "limits", "most"),
    [(400, {"sessions_per_network": 0}, None), (40, {"sessions_per_network": 30}, 30)],
)
def test_descriptors_limit_no_network_where_there_are_enough_or_the_operator_does(
    descriptors: int, limits: dict[str, Any], most: int | None
) -> None:
    sut = AdmissionControl(Settings(receiver="192.0.2.1:25", sessions=100, **limits), Clock(), descriptors=descriptors)
    network = sut.network_of(("192.0.2.1", 1))
    assert (network is None) is (most is None)
    entered = [sut.enter(network) for _ in range(101)]
    assert entered[: most or 100] == [None] * (most or 100)
    assert entered[-1] is (OF_A_NETWORK if most else SESSIONS)


def test_the_descriptors_that_are_left_are_those_that_can_be_opened() -> None:
    before = descriptors_left()
    with open(os.devnull) as _:
        assert descriptors_left() == before - 1


def test_sessions_of_a_network_are_forgotten_with_the_last() -> None:
    sut = admission(sessions_per_network=2, sessions=4)
    assert [sut.enter("a") for _ in range(3)] == [None, None, OF_A_NETWORK]
    assert [sut.enter("b") for _ in range(3)] == [None, None, SESSIONS]
    for network in ("a", "b", "a", "b"):
        sut.leave(network)
    assert sut._open_of == {}
    assert sut.enter("a") is None


def test_a_bucket_holds_a_minute_and_fills_steadily() -> None:
    clock = Clock()
    sut = admission(clock, connections_per_minute=60)
    assert [sut.enter("a") for _ in range(61)] == [None] * 60 + [RATE]
    clock.now = 1.0
    assert [sut.enter("a") for _ in range(2)] == [None, RATE]
    assert sut.enter("b") is None
    clock.now = 1000.0
    assert [sut.enter("a") for _ in range(61)] == [None] * 60 + [RATE]


@pytest.mark.parametrize("per_minute", [1, 3, 7, 1000])
def test_rounding_costs_no_connection(per_minute: int) -> None:
    clock = Clock()
    sut = admission(clock, connections_per_minute=per_minute)
    for minute in range(3):
        clock.now = 1e9 / 3 + 60.0 * minute
        assert [sut.enter("a") for _ in range(per_minute + 1)] == [None] * per_minute + [RATE]


def test_full_buckets_are_forgotten_and_others_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shimproxy.service.admission._MOST_BUCKETS", 100)
    clock = Clock()
    sut = admission(clock, connections_per_minute=1, sessions=100_000)
    for number in range(1000):
        assert sut.enter(f"{number}") is None
        assert len(sut._full_at) <= 100
    assert sut.enter("999") is RATE
    assert sut.enter("0") is None, "it was forgotten, to its favour"
    clock.now = 61.0
    for number in range(1000, 1100):
        sut.enter(f"{number}")
    assert [*sut._full_at] == [f"{number}" for number in range(1000, 1100)]


async def test_refused_connections_are_a_line_a_second_for_each_limit(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    journal = Journal()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.flush_forever)
        for number in range(100):
            journal.turned_away("sessions", (f"192.0.2.{number}", 25))
            journal.turned_away("descriptors", "")
            await trio.sleep(0.025)
        nursery.cancel_scope.cancel()
    journal.flush_turned_away()
    told = lines_told(caplog)
    assert [each["limit"] for each in told] == ["sessions", "descriptors"] * 3
    assert sum(each["count"] for each in told) == 200
    assert told[-2]["last_sender"] == "192.0.2.99:25"


def test_each_of_several_workers_goes_by_its_share() -> None:
    limits: dict[str, Any] = {"sessions": 10, "sessions_per_network": 5, "connections_per_minute": 0}
    share = Settings(receiver="192.0.2.1:25", workers=4, **limits).of_one_worker()
    assert (share.sessions, share.sessions_per_network, share.connections_per_minute) == (3, 2, 0)


@pytest.mark.parametrize(("name", "most"), [("ipv4_prefix", 32), ("ipv6_prefix", 128)])
def test_a_prefix_has_no_more_bits_than_its_addresses(name: str, most: int) -> None:
    values: dict[str, Any] = {name: most}
    assert getattr(Settings(receiver="192.0.2.1:25", **values), name) == most
    for bits in (-1, most + 1):
        values = {name: bits}
        with pytest.raises(shimproxy.SettingsError, match=f"{name} must be a whole number from 0 to {most}"):
            Settings(receiver="192.0.2.1:25", **values)


# -- descriptors


def leave_free(pid: int, free: int) -> tuple[int, int]:
    """Lower a process's limit so that it can open so many files more; the limit that it had."""
    taken = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    limit = 0
    while limit - len([each for each in taken if each < limit]) < free or limit <= max(taken):
        limit += 1
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    return before


@pytest.mark.parametrize("leg", [1, 2], ids=["sender", "receiver"])
async def test_a_leg_that_the_kernel_has_no_room_for_is_told_too(
    leg: int, receiver: FaultyReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """epoll knows no more than max_user_watches."""
    add, legs = Driver.add, itertools.count(1)

    def adds(driver: Driver, each: Leg) -> None:
        if isinstance(each, Leg) and next(legs) == leg:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(driver, each)

    monkeypatch.setattr(Driver, "add", adds)
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, sessions=1) as sut:
            assert await refusal(sut.port) == NO_MEANS
            await sut.watcher.sessions_ended(leg - 1)
            assert await is_served(sut.port)


async def test_a_worker_that_ends_while_its_supervisor_has_no_descriptors_is_replaced_once_it_has(
    receiver: FaultyReceiver, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with trio.fail_after(SECONDS), shim_process(receiver.port, log) as sut:
        limit = leave_free(sut.process.pid, 0)
        os.kill(sut.workers[0], signal.SIGKILL)
        while "worker_not_started" not in log.read_text():
            await trio.lowlevel.checkpoint()
        resource.prlimit(sut.process.pid, resource.RLIMIT_NOFILE, limit)
        assert await is_served(sut.port)
    assert "worker_not_started reason=EMFILE " in log.read_text()


async def test_without_descriptors_senders_are_told_and_served_once_there_are_some(
    receiver: FaultyReceiver, tmp_path: Path
) -> None:
    """A session takes two. With three, a second one is accepted that can't dial, and a third has the spare one."""
    log = tmp_path / "log"
    with trio.fail_after(SECONDS), shim_process(receiver.port, log) as sut:
        (worker,) = sut.workers
        limit = leave_free(worker, 3)
        async with client(sut.port) as first:
            assert await first.line() == GREETING
            async with client(sut.port) as second:
                assert await second.line() + await second.line() == NO_MEANS
                for _ in range(20):
                    assert await refusal(sut.port) == NO_MEANS
                assert (await first.says(*MAIL))[-1].startswith(b"250"), "who is in is not disturbed"
            await first.says(b"QUIT")
        # Two are free as soon as the shim has seen that they have gone.
        while not await is_served(sut.port):
            pass
        resource.prlimit(worker, resource.RLIMIT_NOFILE, limit)
        assert await is_served(sut.port)
        assert sut.workers == [worker]
    told = log.read_text()
    assert re.search(r"phase=greeting limit=descriptors reason=.*Too many open files", told)
    counts = re.findall(r"phase=connection limit=descriptors count=(\d+)", told)
    assert sum(map(int, counts)) >= 20
    assert "unreachable" not in told
