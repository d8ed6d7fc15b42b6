"""Every limit: reached, told, and left again.

Those of a session in memory and in virtual time; those of connections, and all of them once more with a real client, on
real sockets, where each test is bounded by fail_after.
"""

from __future__ import annotations

import pytest

from shimproxy.session.limits import Limits
from shimproxy.session.policy import Policy
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.newlines import Newlines
from tests.memory import Stage, offered, staged, up_to_mail_data

LAST = b"421 more than is served in a session, closing connection\r\n"

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
    return [each.detail["limit"] for each in stage.notes.repairs if each.violation is Violation.LIMIT_REACHED]


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
    assert stage.session.notes.record.transactions == 5


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
    assert stage.session.notes.record.accepted == 1


@pytest.mark.parametrize("verdict", [b"250 taken", b"550 no"])
def test_behind_so_many_mails_the_next_command_gets_421(verdict: bytes) -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        for _ in range(3):
            await mail(stage, verdict)
        await stage.feed(stage.sender, b"RSET\r\n")

    stage = staged(script, Limits(transactions=3))
    assert bytes(stage.sender.written).endswith(verdict + b"\r\n" + LAST)
    assert stage.session.notes.record.transactions == 3
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
