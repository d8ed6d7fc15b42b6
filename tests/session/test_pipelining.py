"""PIPELINING (RFC 2920): no more round trips than without the shim, and one reply to each command, in order."""

from __future__ import annotations

import attrs
import pytest

from shimproxy.session.limits import Limits
from shimproxy.session.policy import Policy
from shimproxy.smtp.catalogue import Violation
from tests.memory import Stage, offered, staged

GROUP = b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nRCPT TO:<c@d>\r\nDATA\r\n"
MAIL = b"Subject: x\r\n\r\ntext\r\n.\r\n"


# -- round trips


def test_a_group_goes_out_in_one_write_and_its_replies_come_back_in_one() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, GROUP)
        assert stage.receiver.written == GROUP
        assert stage.receiver.writes == 1
        stage.sender.writes = 0
        await stage.feed(stage.receiver, b"250 a\r\n250 b\r\n250 c\r\n354 go\r\n")
        assert stage.sender.written == b"250 a\r\n250 b\r\n250 c\r\n354 go\r\n"
        assert stage.sender.writes == 1

    assert staged(script).repaired == []


def test_ten_mails_take_two_round_trips_each() -> None:
    """One for the group, one for the mail: what comes with the end of mail data is forwarded after their verdict."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        replies = b"250 a\r\n250 b\r\n250 c\r\n354 go\r\n"
        await stage.feed(stage.sender, GROUP)
        turns = 0
        for last in [False] * 9 + [True]:
            await stage.feed(stage.receiver, replies)
            await stage.feed(stage.sender, MAIL + (b"QUIT\r\n" if last else GROUP))
            assert stage.receiver.written.endswith(MAIL), "what follows is held until the verdict"
            await stage.feed(stage.receiver, b"250 queued\r\n")
            assert stage.receiver.written.endswith(MAIL + (b"QUIT\r\n" if last else GROUP))
            turns += 1
        await stage.feed(stage.receiver, b"221 bye\r\n")
        assert turns == 10
        assert stage.sender.written.count(b"250 queued\r\n") == 10
        assert stage.sender.written.endswith(b"221 bye\r\n")

    stage = staged(script)
    assert stage.repaired == []


def test_each_reply_is_relayed_when_it_comes() -> None:
    """A receiver that answers one by one keeps no reply from the sender."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, GROUP)
        for reply in (b"250 a\r\n", b"250 b\r\n", b"550 c\r\n", b"354 go\r\n"):
            await stage.feed(stage.receiver, reply)
            assert stage.sender.written.endswith(reply)

    staged(script)


# -- what is not pipelined


def test_without_pipelining_the_keyword_is_gone_and_commands_go_out_one_by_one() -> None:
    """For receivers that lose commands when they come together; a sender that pipelines all the same is held."""

    async def script(stage: Stage) -> None:
        assert await offered(stage, b"PIPELINING", b"HELP") == b"250-hi\r\n250 HELP\r\n"
        await stage.feed(stage.sender, GROUP)
        assert stage.receiver.written == b"MAIL FROM:<a@b>\r\n"
        await stage.feed(stage.receiver, b"250 a\r\n")
        assert stage.receiver.written == b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\n"

    assert staged(script, policy=Policy(pipelining=False)).repaired == [Violation.UNOFFERED_PIPELINING]


def test_a_receiver_that_does_not_offer_it_gets_commands_one_by_one() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"HELP")
        await stage.feed(stage.sender, GROUP)
        assert stage.receiver.written == b"MAIL FROM:<a@b>\r\n"

    assert staged(script).repaired == [Violation.UNOFFERED_PIPELINING]


def test_helo_takes_the_offer_back() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"HELO x\r\n")
        await stage.feed(stage.receiver, b"250 hi\r\n")
        stage.receiver.written.clear()
        await stage.feed(stage.sender, GROUP)
        assert stage.receiver.written == b"MAIL FROM:<a@b>\r\n"

    staged(script)


@pytest.mark.parametrize("command", [b"NOOP", b"VRFY a", b"EHLO x", b"HELP"])
def test_what_ends_a_group_is_answered_before_more_is_forwarded(command: bytes) -> None:
    """RFC 2920 section 3.1: the state may be another behind it."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n" + command + b"\r\nRSET\r\n")
        assert stage.receiver.written == b"MAIL FROM:<a@b>\r\n" + command + b"\r\n"
        await stage.feed(stage.receiver, b"250 a\r\n250 b\r\n")
        assert stage.receiver.written.endswith(b"\r\nRSET\r\n")

    assert staged(script).repaired == [Violation.UNOFFERED_PIPELINING]


def test_what_the_shim_answers_itself_waits_for_its_turn() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nXCLIENT x\r\nRSET\r\n")
        assert not stage.sender.written
        await stage.feed(stage.receiver, b"250 a\r\n")
        assert stage.sender.written.startswith(b"250 a\r\n502 ")
        await stage.feed(stage.receiver, b"250 reset\r\n")
        assert stage.sender.written.endswith(b"\r\n250 reset\r\n")

    staged(script)


# -- full buffers and limits


def test_a_receiver_that_takes_no_more_before_its_replies_are_read_is_no_deadlock() -> None:
    """RFC 2920 section 3.1 wants the client to watch for it; so must whoever stands between."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        commands = b"".join(b"RCPT TO:<%d@c>\r\n" % number for number in range(100))
        stage.receiver.room_octets = 100
        await stage.feed(stage.sender, commands)
        assert len(stage.receiver.written) == 100
        await stage.feed(stage.receiver, b"250 ok\r\n" * 4)
        stage.receiver.take(1 << 20)
        await stage.settle()
        assert stage.receiver.written == commands
        assert stage.sender.written == b"250 ok\r\n" * 4
        await stage.feed(stage.receiver, b"250 ok\r\n" * 96)
        assert stage.sender.written == b"250 ok\r\n" * 100

    assert staged(script).repaired == []


def test_no_more_than_a_limit_is_under_way() -> None:
    """The next ones wait until all of them are answered."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"RSET\r\n" * 7)
        assert stage.receiver.written == b"RSET\r\n" * 3
        await stage.feed(stage.receiver, b"250 ok\r\n" * 2)
        assert stage.receiver.written == b"RSET\r\n" * 3
        await stage.feed(stage.receiver, b"250 ok\r\n")
        assert stage.receiver.written == b"RSET\r\n" * 6

    staged(script, limits=attrs.evolve(Limits(), outstanding_commands=3))


async def verdict_outstanding(stage: Stage) -> None:
    """A mail written to its end, and a group behind it of which the receiver takes a few octets only."""
    await offered(stage, b"PIPELINING")
    await stage.feed(stage.sender, GROUP)
    await stage.feed(stage.receiver, b"250 a\r\n250 b\r\n250 c\r\n354 go\r\n")
    stage.sender.written.clear()
    stage.receiver.room_octets = len(MAIL) + 5
    await stage.feed(stage.sender, MAIL + b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\n")


@pytest.mark.parametrize("how", ["goes on", "closes", "stopped"])
def test_a_verdict_that_comes_while_a_group_is_not_taken_is_relayed_at_once(how: str) -> None:
    """It is not kept until the deadline of the group, nor lost with it."""

    async def script(stage: Stage) -> None:
        await verdict_outstanding(stage)
        await stage.feed(stage.receiver, b"550 spam\r\n")
        assert stage.sender.written == b"550 spam\r\n"
        if how == "closes":
            stage.receiver.feed_fin()
        elif how == "stopped":
            stage.session.stop_now()
        else:
            stage.receiver.take(1 << 20)
            await stage.settle()
            await stage.feed(stage.receiver, b"250 a\r\n250 b\r\n")
        await stage.settle()
        codes = [line[:3] for line in stage.sender.written.splitlines()]
        assert codes == ([b"550", b"250", b"250"] if how == "goes on" else [b"550", b"451", b"421"])

    staged(script, policy=Policy(resume=False))


@pytest.mark.parametrize("end", [b"NOOP\r\n", b""], ids=["settled", "in a group"])
def test_disorder_while_a_group_is_not_taken_ends_the_session_at_once(end: bytes) -> None:
    """Nothing waits for a receiver that was given up meanwhile."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        stage.receiver.room_octets = 30
        await stage.feed(stage.sender, b"RSET\r\n" * 10 + end)
        await stage.feed(stage.receiver, b"250 ok\r\n354 junk\r\n250 ok\r\n")
        codes = [line[:3] for line in stage.sender.written.splitlines()]
        assert codes == [b"250"] + [b"451"] * (8 + bool(end)) + [b"421"]
        assert stage.sender.got_fin

    assert Violation.IMPLAUSIBLE_REPLY in staged(script).repaired


# -- the end


def test_asked_to_stop_a_group_under_way_is_answered_first() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"RSET\r\nRSET\r\n")
        stage.session.stop_when_idle()
        await stage.settle()
        assert not stage.sender.written
        await stage.feed(stage.receiver, b"250 ok\r\n250 ok\r\n")
        assert stage.sender.written.startswith(b"250 ok\r\n250 ok\r\n421 ")

    staged(script)


def test_stopped_at_once_each_command_under_way_has_its_reply() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, GROUP)
        await stage.feed(stage.receiver, b"250 a\r\n")
        stage.session.stop_now()
        await stage.settle()
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"250", b"451", b"451", b"421"]
        assert stage.receiver.got_rst

    staged(script)


def test_a_sender_that_is_reset_has_nothing_waited_for() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"RSET\r\nRSET\r\n")
        stage.sender.feed_rst()
        await stage.settle()
        assert stage.receiver.got_fin
        stage.receiver.feed_fin()
        await stage.settle()
        assert stage.over

    staged(script)


# -- enhanced status codes


def test_own_replies_have_enhanced_codes_where_those_were_offered_and_only_there() -> None:
    """RFC 2034: in the EHLO reply; HELO takes that back."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"ENHANCEDSTATUSCODES")
        await stage.feed(stage.sender, b"XCLIENT x\r\n")
        assert stage.sender.written == b"502 5.5.1 command not offered through this proxy\r\n"
        await stage.feed(stage.sender, b"HELO x\r\n")
        await stage.feed(stage.receiver, b"250 hi\r\n")
        await stage.feed(stage.sender, b"XCLIENT x\r\n")
        assert stage.sender.written.endswith(b"250 hi\r\n502 command not offered through this proxy\r\n")

    staged(script)
