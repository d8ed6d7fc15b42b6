"""A session that goes on (--resume): after a repair, the next MAIL finds a fresh receiver leg; see also transcripts."""

from __future__ import annotations

import smtplib
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from shimproxy import Login, Violation
from shimproxy.faulty.client import WAIT_SECONDS
from shimproxy.faulty.fault import CLOSING, TOO_BIG
from shimproxy.faulty.mail import RECIPIENT, SENDER
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import FIRST_PART_OCTETS, TAKEN, Talk
from shimproxy.session.policy import Policy, SenderTls, Sizes
from tests.memory import Stage, offered, staged, up_to_mail_data
from tests.peers.mail import LARGE, SMALL
from tests.peers.shim import shim

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.memory import MemoryRoute

POLICY = Policy(resume=True)
OF_SEVERAL = Policy(fails_over=True)
SHORT = b"text\r\n"


def too_big_but_for_short_ones(talk: Talk) -> None:
    """What is larger than SHORT is refused before its end, and the connection reset."""
    first = talk.first_part(len(SHORT))
    if first == SHORT:
        talk.part(len(b".\r\n"))
        talk.seen.mails.append(first)
        talk.say(TAKEN)
    else:
        talk.part(FIRST_PART_OCTETS)
        talk.early(TOO_BIG + CLOSING)
        talk.reset()


def mails_of_one_session(port: int, *mails: bytes) -> list[int]:
    """The codes that smtplib has for them, from one connection."""
    codes = []
    with smtplib.SMTP(HOST, port, timeout=WAIT_SECONDS) as session:
        for mail in mails:
            try:
                session.sendmail(SENDER, [RECIPIENT], mail)
                codes.append(250)
            except smtplib.SMTPResponseException as refused:
                codes.append(refused.smtp_code)
            except smtplib.SMTPServerDisconnected:
                codes.append(0)
    return codes


@pytest.mark.parametrize(("resume", "codes"), [(True, [250, 552, 250, 552, 250]), (False, [250, 552, 0, 0, 0])])
async def test_the_next_mails_of_a_session_are_delivered(resume: bool, codes: list[int]) -> None:
    large = LARGE.crlf_text
    with trio.fail_after(WAIT_SECONDS), FaultyReceiver(too_big_but_for_short_ones) as receiver:
        async with shim(receiver.port, resume=resume) as between:
            mails = (SHORT, large, SHORT, large, SHORT)
            believed = await trio.to_thread.run_sync(mails_of_one_session, between.port, *mails)
            await between.watcher.sessions_ended()
    assert believed[: len(codes)] == codes
    assert receiver.seen.mails == [SHORT] * codes.count(250)
    (record,) = between.watcher.ended_sessions
    assert record.resumed == codes.count(552) * resume
    assert record.accepted == codes.count(250)
    assert record.octets_to_receiver > len(SMALL.crlf_text)  # over all its connections
    assert [repair.violation for repair in between.watcher.repairs].count(Violation.EARLY_REPLY) == codes.count(552)


async def refused_early(stage: Stage) -> None:
    """A mail is refused before its end, and the receiver gone."""
    await up_to_mail_data(stage)
    await stage.feed(stage.sender, b"text\r\n")
    await stage.feed(stage.receiver, b"552 too big\r\n")
    stage.receiver.feed_fin()
    await stage.feed(stage.sender, b".\r\n")
    assert stage.sender.written == b"552 too big\r\n"
    stage.sender.written.clear()


async def unreachable(stage: Stage) -> None:
    stage.reachable = False


async def says_nothing(stage: Stage) -> None:
    await stage.pass_time(stage.deadlines.greeting)


async def goes_at_once(stage: Stage) -> None:
    stage.receiver.feed_fin()
    await stage.settle()


async def refuses_the_hello(stage: Stage) -> None:
    await stage.feed(stage.receiver, b"220 hello\r\n")
    await stage.feed(stage.receiver, b"550 not you again\r\n")


async def never_answers_the_hello(stage: Stage) -> None:
    await stage.feed(stage.receiver, b"220 hello\r\n")
    await stage.pass_time(stage.deadlines.reply)


async def goes_behind_the_hello(stage: Stage) -> None:
    await stage.feed(stage.receiver, b"220 hello\r\n")
    stage.receiver.feed(b"250 hi\r\n")
    stage.receiver.feed_fin()
    await stage.settle()


async def is_out_of_step(stage: Stage) -> None:
    await stage.feed(stage.receiver, b"220 hello\r\n")
    await stage.feed(stage.receiver, b"250 hi\r\n421 and bye\r\n")


async def says_221_to_the_hello(stage: Stage) -> None:
    await stage.feed(stage.receiver, b"220 hello\r\n")
    await stage.feed(stage.receiver, b"221 bye\r\n")


@pytest.mark.parametrize(
    ("receiver", "reply"),
    [
        (unreachable, b"421 the receiver cannot be reached, try again later\r\n"),
        (says_nothing, b"421 the receiver gave no greeting, try again later\r\n"),
        (goes_at_once, b"421 the receiver gave no greeting, try again later\r\n"),
        (refuses_the_hello, b"421 the receiver's capabilities have changed, closing connection\r\n"),
        (never_answers_the_hello, b"421 the receiver's capabilities have changed, closing connection\r\n"),
        (goes_behind_the_hello, b"421 lost the connection to the receiver\r\n"),
        (is_out_of_step, b"421 and bye\r\n"),
        (says_221_to_the_hello, b"421 the receiver's capabilities have changed, closing connection\r\n"),
    ],
)
def test_a_receiver_that_is_not_there_again(receiver: Callable[[Stage], Any], reply: bytes) -> None:
    """Every one of them is a 421 to MAIL, an end, and nothing left open."""

    async def script(stage: Stage) -> None:
        await refused_early(stage)
        if receiver is unreachable:
            await receiver(stage)
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        if receiver is not unreachable:
            await receiver(stage)
        assert stage.sender.written == reply
        stage.sender.feed_fin()
        for sock in (*stage.earlier_receivers, stage.receiver):
            sock.feed_fin()
        await stage.settle()
        assert stage.over
        assert all(sock.got_fin or sock.got_rst for sock in (*stage.earlier_receivers, stage.receiver))

    (record,) = staged(script, policy=POLICY).account.records
    assert record.ended_by == "receiver"


def test_a_receiver_that_has_not_greeted_is_told_nothing_of_the_end() -> None:
    """Whatever the one before it has said last."""

    async def script(stage: Stage) -> None:
        await refused_early(stage)
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        stage.session.stop_now()
        await stage.settle()
        assert stage.sender.written.startswith(b"421")
        assert (bytes(stage.receiver.written), stage.receiver.got_fin) == (b"", True)

    staged(script, policy=POLICY)


@pytest.mark.parametrize("how", ["before it had QUIT", "with FIN", "as a reply"])
def test_quit_gets_221_where_the_receiver_has_gone_by_itself(how: str) -> None:
    """Its 421 answers nothing, and would hide the 552: Ruby's Net::SMTP forgets that for an error of QUIT's."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n.\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        await stage.feed(stage.sender, b"QUIT\r\n")
        stage.receiver.unacknowledged_octets = len(b"QUIT\r\n") if how == "before it had QUIT" else 0
        stage.receiver.feed(b"421 closing\r\n")
        if how == "with FIN":
            stage.receiver.feed_fin()
        await stage.settle()
        assert stage.sender.got_fin

    last = b"421 closing\r\n" if how == "as a reply" else b"221 closing connection\r\n"
    assert bytes(staged(script).sender.written) == b"552 too big\r\n" + last


def test_a_session_is_over_once_all_its_receivers_are() -> None:
    """A receiver that stays open after its 421 is seen off beside the mails that follow."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n421 going\r\n")
        await stage.feed(stage.sender, b".\r\n")
        await stage.feed(stage.sender, b"RSET\r\n")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        (first,) = stage.earlier_receivers
        assert first.got_fin
        assert not first.closed
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.receiver, b"250 hi\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n")
        await stage.feed(stage.sender, b"QUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        for sock in (stage.sender, stage.receiver):
            sock.feed_fin()
        await stage.settle()
        assert not stage.over
        first.feed_fin()
        await stage.settle()
        assert stage.over

    assert staged(script, policy=POLICY).repaired == [Violation.EARLY_REPLY, Violation.FURTHER_REPLY]


def test_no_session_has_any_number_of_connections_open() -> None:
    """With receivers that stay open after a 421, a mail waits until the first of a few of them is seen off."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        for _ in range(20):
            await stage.feed(stage.sender, b"text\r\n")
            await stage.feed(stage.receiver, b"552 too big\r\n421 going\r\n")
            await stage.feed(stage.sender, b".\r\n")
            await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
            assert sum(not sock.closed for sock in (*stage.earlier_receivers, stage.receiver)) <= 6
            while stage.receiver.closed or stage.receiver.written:
                await stage.pass_time(stage.deadlines.linger_idle)
            await stage.feed(stage.receiver, b"220 hello\r\n")
            await stage.feed(stage.receiver, b"250 hi\r\n")
            await stage.feed(stage.receiver, b"250 OK\r\n")
            for command, reply in ((b"RCPT TO:<b@c>\r\n", b"250 OK\r\n"), (b"DATA\r\n", b"354 go\r\n")):
                await stage.feed(stage.sender, command)
                await stage.feed(stage.receiver, reply)
        stage.sender.feed_fin()
        for sock in (*stage.earlier_receivers, stage.receiver):
            sock.feed_fin()
        await stage.settle()
        octets = sum(len(sock.written) for sock in (*stage.earlier_receivers, stage.receiver))
        before = len(b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nDATA\r\n")  # up_to_mail_data forgets those
        assert stage.account.records[0].octets_to_receiver == before + octets

    staged(script, policy=POLICY)


def test_a_sender_that_was_told_421_within_a_group_is_not_led_on() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
        await stage.feed(stage.receiver, b"421 closing\r\n503 no\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        assert stage.sender.written.endswith(b"\r\n421 closing\r\n")
        assert not stage.earlier_receivers

    staged(script, policy=POLICY)


def test_what_a_leg_before_has_offered_does_not_outlive_a_hello() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b"EHLO y\r\n")
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.receiver, b"502 what?\r\n")
        stage.receiver.written.clear()
        await stage.feed(stage.sender, b"BDAT 20 LAST\r\nMAIL FROM:<evil@x>\r\n")
        assert not stage.receiver.written

    staged(script, policy=POLICY)


def test_a_mail_that_is_too_big_opens_no_leg() -> None:
    """And the limits of the mail before count no more."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"SIZE 1000")
        await stage.feed(stage.receiver, b"421 closing\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b"MAIL FROM:<a@b> SIZE=101\r\n")
        assert stage.sender.written.startswith(b"552 message size exceeds")
        assert not stage.earlier_receivers
        await stage.feed(stage.sender, b"MAIL FROM:<a@b> SIZE=100\r\n")
        assert stage.earlier_receivers

    staged(script, policy=Policy(resume=True, sizes=Sizes(100)))


def test_the_shim_logs_in_on_every_leg() -> None:
    login = Login("user", "s3cret", in_clear=True)
    into = b"AUTH PLAIN AHVzZXIAczNjcmV0\r\n"

    async def up_to_login(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"250-hi\r\n250 AUTH PLAIN\r\n")
        assert stage.receiver.written.endswith(into)
        await stage.feed(stage.receiver, b"235 welcome\r\n")

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await up_to_login(stage)
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await up_to_login(stage)
        assert stage.receiver.written.endswith(b"MAIL FROM:<a@b>\r\n")

    policy = Policy(resume=True, sender_tls=SenderTls.OFF, login=login)
    assert staged(script, policy=policy).repaired == [Violation.CLOSED_WHILE_IDLE]


# -- which of several receivers others should not go to


@pytest.mark.parametrize(
    ("seconds", "heard", "blamed"),
    [
        (0, b"421 busy\r\n", 1),
        (0, b"", 1),
        (60, b"421 idle\r\n", 0),
        (60, b"", 0),
    ],
    ids=["421 at once", "gone at once", "421 for want of commands", "gone for want of commands"],
)
def test_a_receiver_that_goes_is_of_no_use_unless_it_has_waited(seconds: float, heard: bytes, blamed: int) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"250 hello\r\n")
        if seconds:
            await stage.pass_time(seconds)
        await stage.feed(stage.receiver, heard)
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        assert cast("MemoryRoute", stage.session.route).blamed == blamed

    staged(script, policy=OF_SEVERAL)


@pytest.mark.parametrize("refused", [b"FOO", b"MAIL FROM:<a@b>", b"AUTH PLAIN x"])
@pytest.mark.parametrize("anew", [True, False])
def test_a_receiver_that_goes_for_what_a_sender_says_is_of_use_to_others(refused: bytes, anew: bool) -> None:
    """Else anybody could have all others led elsewhere, by a few bad commands twice a minute."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, refused + b"\r\n")
        await stage.feed(stage.receiver, b"530 no\r\n")
        if anew:
            stage.receiver.feed_fin()
            await stage.settle()
            await stage.feed(stage.sender, b"EHLO x\r\n")
            await stage.feed(stage.receiver, b"220 hello\r\n")
            assert len(stage.earlier_receivers) == 1
        else:
            await stage.feed(stage.sender, refused + b"\r\n")
            await stage.feed(stage.receiver, b"421 too many errors\r\n")
            stage.sender.feed_fin()
            await stage.settle()
        assert cast("MemoryRoute", stage.session.route).blamed == 0

    staged(script, policy=OF_SEVERAL)


def test_a_receiver_that_answers_hello_with_421_is_of_no_use_to_others() -> None:
    """This sender has its word, and tries again later; the next ones are led elsewhere."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"421 busy\r\n")
        assert stage.sender.written.endswith(b"421 busy\r\n")
        stage.sender.feed_fin()
        await stage.settle()
        assert cast("MemoryRoute", stage.session.route).blamed == 1

    staged(script, policy=OF_SEVERAL)


@pytest.mark.parametrize(("told", "blamed"), [(False, 2), (True, 0)])
def test_one_that_takes_over_and_refuses_a_sender_it_knows_of_is_of_use_to_others(told: bool, blamed: int) -> None:
    async def script(stage: Stage) -> None:
        route = cast("MemoryRoute", stage.session.route)
        route.tells_sender = told
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"250 hello\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.receiver, b"550 5.7.1 blocked\r\n")
        assert route.blamed == blamed

    staged(script, policy=OF_SEVERAL)


def test_a_receiver_that_is_late_is_of_no_use_though_the_one_before_it_refused_the_sender() -> None:
    async def script(stage: Stage) -> None:
        route = cast("MemoryRoute", stage.session.route)
        route.has_more = True
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"250-hi\r\n250 XCLIENT ADDR\r\n")
        await stage.feed(stage.receiver, b"550 5.7.1 blocked\r\n")
        assert route.blamed == 0
        route.has_more = False
        await stage.feed(stage.receiver, b"220 hello\r\n")
        assert stage.receiver.written == b"EHLO x\r\n"
        await stage.pass_time(stage.deadlines.reply)
        assert route.blamed == 1

    staged(script, policy=Policy(fails_over=True, xclient=True))


# -- offered as before

LESS = {
    "SIZE": (b"SIZE 50000000", b"SIZE 1000"),
    "LIMITS": (b"LIMITS RCPTMAX=1000", b"LIMITS RCPTMAX=1"),
    "AUTH": (b"AUTH PLAIN LOGIN", b"AUTH PLAIN"),
}


@pytest.mark.parametrize("policy", [POLICY, OF_SEVERAL], ids=["resumed", "failed over"])
@pytest.mark.parametrize(("before", "now"), LESS.values(), ids=LESS)
@pytest.mark.parametrize("same", [True, False])
def test_a_receiver_that_offers_less_is_not_as_before(same: bool, before: bytes, now: bytes, policy: Policy) -> None:
    """The sender goes by what it was told."""

    async def script(stage: Stage) -> None:
        await offered(stage, before)
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        await stage.feed(stage.receiver, b"220 hello\r\n")
        stage.receiver.written.clear()
        await stage.feed(stage.receiver, b"250-hi\r\n250 " + (before if same else now) + b"\r\n")
        if same:
            assert stage.receiver.written == b"MAIL FROM:<a@b>\r\n"
        else:
            assert b"MAIL" not in stage.receiver.written
            assert stage.sender.written == b"421 the receiver's capabilities have changed, closing connection\r\n"

    staged(script, policy=policy)
