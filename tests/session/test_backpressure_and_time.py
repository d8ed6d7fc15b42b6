"""A receiver that takes nothing, a sender that drips, and the end of the process, in memory and in virtual time."""

from __future__ import annotations

import pytest
import trio

from shimproxy.net.block import LEAST_BLOCK_OCTETS
from shimproxy.session.limits import Limits
from shimproxy.smtp.catalogue import Violation
from tests.memory import Stage, offered, staged, up_to_mail_data

LINE = b"sixteen octets\r\n"
QUIT = b"QUIT\r\n"


def test_a_receiver_that_takes_nothing_can_still_refuse_and_frees_the_sender() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = 100
        await stage.feed(stage.sender, LINE * 1000)
        assert bytes(stage.receiver.written) == (LINE * 1000)[:100]
        await stage.feed(stage.receiver, b"552 too big\r\n")
        stage.receiver.take(10_000_000)
        await stage.feed(stage.sender, LINE * 100_000 + b".\r\n")

    stage = staged(script)
    assert bytes(stage.sender.written) == b"552 too big\r\n"
    assert len(stage.receiver.written) == 100, "not one octet more after the early reply (guarantee 6)"
    assert stage.repaired == [Violation.EARLY_REPLY]


@pytest.mark.parametrize("more_octets", [-1, 0, 1])
def test_a_refusal_is_heard_while_the_sender_pauses_after_a_block_full_to_the_octet(more_octets: int) -> None:
    """After a read that has filled the block, only another read can tell that nothing more is there."""
    mail = (LINE * (LEAST_BLOCK_OCTETS // len(LINE) + 1))[: LEAST_BLOCK_OCTETS + more_octets]

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, mail)
        await stage.feed(stage.receiver, b"552 too big\r\n")
        assert stage.receiver.unread_octets == 0, "heard at once"
        await stage.pass_time(stage.deadlines.sender_block + 1)

    stage = staged(script)
    assert bytes(stage.sender.written) == b"552 too big\r\n"
    assert {Violation.EARLY_REPLY, Violation.SENDER_STALLED} <= set(stage.repaired)


def test_what_a_full_receiver_did_not_take_at_once_arrives_in_order() -> None:
    mail = bytes(range(32, 127)) * 3000 + b"\r\n.\r\n"

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = 0
        stage.sender.feed(mail)
        await stage.settle()
        while len(stage.receiver.written) < len(mail):
            stage.receiver.take(9973)
            await stage.settle()
        await stage.feed(stage.receiver, b"250 queued\r\n")

    stage = staged(script)
    assert bytes(stage.receiver.written) == mail
    assert bytes(stage.sender.written) == b"250 queued\r\n"
    assert stage.repaired == []


def test_a_2yz_while_part_of_the_end_is_unwritten_is_no_acceptance() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = len(LINE) + 2
        await stage.feed(stage.sender, LINE + b".\r\n")
        await stage.feed(stage.receiver, b"250 queued\r\n")
        stage.receiver.feed_fin()
        await stage.settle()

    stage = staged(script)
    assert bytes(stage.sender.written).startswith(b"451 ")
    assert stage.repaired == [Violation.EARLY_SUCCESS]


def test_a_receiver_that_takes_nothing_for_three_minutes_is_given_up() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = 0
        await stage.feed(stage.sender, LINE)
        await stage.pass_time(170)
        assert stage.repaired == []
        await stage.pass_time(10)
        assert stage.repaired == [Violation.STALLED_IN_DATA]
        await stage.feed(stage.sender, LINE * 1000 + b".\r\n")
        await stage.pass_time(6)

    stage = staged(script)
    assert bytes(stage.sender.written) == b"451 the receiver gave no verdict, try again later\r\n"
    assert stage.receiver.got_rst


def test_a_slow_receiver_whose_socket_never_calls_itself_writable_is_not_stalled() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = 0
        await stage.feed(stage.sender, LINE * 10_000)
        for _ in range(6):
            stage.receiver.room_octets += 20_000  # room, but too little of it for an event
            await stage.pass_time(181)

    stage = staged(script)
    assert stage.repaired == []
    assert len(stage.receiver.written) == 6 * 20_000


def test_a_receiver_that_takes_an_octet_a_minute_is_given_up() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = 0
        await stage.feed(stage.sender, LINE)
        for _ in range(5):
            stage.receiver.take(1)
            await stage.settle()
            await stage.pass_time(58)
        await stage.feed(stage.sender, b".\r\n")
        await stage.pass_time(6)

    stage = staged(script)
    assert stage.repaired == [Violation.STALLED_IN_DATA]
    assert bytes(stage.sender.written) == b"451 the receiver gave no verdict, try again later\r\n"
    assert stage.receiver.got_rst


def test_an_octet_a_minute_of_mail_data_is_ended() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        for _ in range(5):
            await stage.feed(stage.sender, b"x")
            await stage.pass_time(58)

    stage = staged(script)
    assert bytes(stage.sender.written) == b"421 timeout, closing connection\r\n"
    assert stage.repaired[0] is Violation.SENDER_STALLED
    assert stage.receiver.got_rst, "the mail has no end: the receiver is reset (guarantee 5)"


def test_an_octet_a_minute_of_a_command_is_ended() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        for _ in range(7):
            await stage.feed(stage.sender, b"x")
            await stage.pass_time(58)

    stage = staged(script)
    assert bytes(stage.sender.written).endswith(b"421 timeout, closing connection\r\n")


def test_a_slow_but_steady_sender_is_not_ended() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        for _ in range(60):
            await stage.feed(stage.sender, LINE * 400)  # 6,400 octets in half a minute: 1,700 bit/s
            await stage.pass_time(28)

    stage = staged(script)
    assert stage.repaired == []
    assert len(stage.receiver.written) == 60 * 6400


def test_more_than_is_held_behind_the_end_of_mail_data_is_refused_after_the_verdict() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b".\r\n" + b"NOOP\r\n" * 1000)
        await stage.feed(stage.receiver, b"250 queued\r\n")

    stage = staged(script, Limits(held_octets=512))
    assert bytes(stage.sender.written) == (
        b"250 queued\r\n421 sent without waiting for replies, closing connection\r\n"
    )
    assert Violation.OUTRUN in stage.repaired


def test_a_command_over_the_limit_is_refused_and_the_next_one_served() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"MAIL " + b"x" * 600 + b"\r\nNOOP\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n")

    stage = staged(script, Limits(command_octets=512))
    assert bytes(stage.receiver.written) == b"NOOP\r\n"
    assert bytes(stage.sender.written) == (
        b"220 hello\r\n500 command line too long, or with a bare CR, bare LF or NUL in it\r\n250 OK\r\n"
    )
    assert Violation.LONG_LINE in stage.repaired


def test_asked_to_stop_an_idle_session_says_421_and_a_busy_one_finishes_its_mail() -> None:
    async def idle(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        stage.session.stop_when_idle()
        await stage.settle()

    stage = staged(idle)
    assert bytes(stage.sender.written) == b"220 hello\r\n421 service shutting down\r\n"
    assert bytes(stage.receiver.written) == b"QUIT\r\n"

    async def busy(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.session.stop_when_idle()
        await stage.feed(stage.sender, LINE + b".\r\n")
        await stage.feed(stage.receiver, b"250 queued\r\n")

    stage = staged(busy)
    assert bytes(stage.sender.written) == b"250 queued\r\n421 service shutting down\r\n"


@pytest.mark.parametrize("octets", [b"", LINE], ids=["before the first block", "after it"])
def test_stopped_at_once_in_mail_data_the_receiver_is_reset(octets: bytes) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, octets)
        stage.session.stop_now()
        await stage.settle()

    stage = staged(script)
    assert bytes(stage.sender.written) == b"421 service shutting down\r\n"
    assert stage.receiver.got_rst


def test_a_peer_that_goes_on_talking_after_the_fin_is_reset_after_the_total_limit() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"QUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        stage.receiver.feed_fin()
        for _ in range(12):
            await stage.feed(stage.sender, b"more\r\n")
            await stage.pass_time(1)

    stage = staged(script)
    assert stage.over
    assert stage.sender.got_rst
    assert stage.repaired == [Violation.NO_CLOSE]


def test_a_sender_that_takes_no_reply_is_reset_within_one_deadline() -> None:
    async def script(stage: Stage) -> None:
        stage.sender.room_octets = 3
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.pass_time(301)
        assert bytes(stage.receiver.written) == b"QUIT\r\n"
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.pass_time(6)

    stage = staged(script)
    assert stage.over
    assert stage.sender.got_rst
    assert bytes(stage.sender.written) == b"220"


def test_what_was_sent_behind_a_refused_data_is_never_forwarded_whatever_it_looks_like() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"DATA\r\nHELP wanted\r\nMAIL FROM:<evil@b>\r\n.\r\n")
        await stage.feed(stage.receiver, b"503 no recipients\r\n")

    stage = staged(script)
    assert bytes(stage.sender.written).endswith(
        b"503 no recipients\r\n421 sent without waiting for replies, closing connection\r\n"
    )
    assert bytes(stage.receiver.written) == b"DATA\r\nQUIT\r\n"


def test_so_is_what_was_sent_behind_a_data_that_the_shim_itself_refuses() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"DATA\r\r\nHELP wanted\r\nMAIL FROM:<evil@b>\r\n.\r\n")

    assert bytes(staged(script).receiver.written) == b"QUIT\r\n"


@pytest.mark.parametrize("command", [b"ETRN x", b"QUIT", b"NOOP", b"RCPT TO:<a@b>"])
def test_a_sender_that_waited_goes_on_after_its_data_was_refused(command: bytes) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"DATA\r\n")
        await stage.feed(stage.receiver, b"503 no recipients\r\n")
        await stage.feed(stage.sender, command + b"\r\n")

    assert bytes(staged(script).receiver.written) == b"DATA\r\n" + command + b"\r\n"


def test_a_2yz_that_comes_as_the_block_deadline_passes_is_no_acceptance() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = 5
        await stage.feed(stage.sender, LINE + b".\r\n")
        stage.receiver.room_octets = 1000  # without an event
        stage.session.sender.leg.watch.expire()
        stage.receiver.feed(b"250 early\r\n")
        stage.receiver.feed_fin()
        await stage.settle()

    stage = staged(script)
    assert bytes(stage.sender.written).startswith(b"451 ")
    assert len(stage.receiver.written) == 5


def test_a_reply_that_drips_in_mail_data_frees_the_sender() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, LINE)
        stage.sender.feed(LINE * 1000)
        for octet in b"552-too big, and":
            await stage.feed(stage.receiver, bytes([octet]))
            await stage.pass_time(2)
        await stage.feed(stage.sender, b".\r\n")
        await stage.pass_time(31)

    stage = staged(script)
    assert bytes(stage.sender.written).startswith(b"552 too")
    assert bytes(stage.receiver.written) == LINE


def test_a_chunk_that_drips_is_ended() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"BDAT 1000 LAST\r\n")
        for _ in range(5):
            await stage.feed(stage.sender, b"x")
            await stage.pass_time(58)

    stage = staged(script)
    assert bytes(stage.sender.written) == b"220 hello\r\n421 timeout, closing connection\r\n"


def test_any_number_of_extra_replies_is_dropped_before_the_next_command() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        stage.receiver.feed(b"250 extra\r\n" * 3000)
        await stage.feed(stage.sender, b"NOOP\r\n")
        await stage.feed(stage.receiver, b"250 to NOOP\r\n")

    assert bytes(staged(script).sender.written) == b"220 hello\r\n250 to NOOP\r\n"


@pytest.mark.parametrize("octets", [b"250 extra\r\n", b"x"], ids=["replies", "no reply"])
def test_a_receiver_that_does_not_stop_talking_between_commands_is_out_of_step(octets: bytes) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.receiver, octets * 70_000)
        await stage.feed(stage.sender, b"NOOP\r\n")

    stage = staged(script)
    assert bytes(stage.sender.written) == (
        b"220 hello\r\n421 the receiver's replies are out of step, closing connection\r\n"
    )
    assert bytes(stage.receiver.written) == b""


def test_a_receiver_that_repeats_its_354_and_takes_nothing_is_given_up() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = 0
        await stage.feed(stage.sender, LINE)
        for _ in range(40):
            await stage.feed(stage.receiver, b"354 go\r\n")
            await stage.pass_time(3)

    assert staged(script).repaired[0] is Violation.STALLED_IN_DATA


@pytest.mark.parametrize("reply", [b"", b"354 go\r\n"], ids=["before the 354", "with the 354 under way"])
def test_stopped_at_once_while_data_is_unanswered_the_receiver_is_reset(reply: bytes) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"DATA\r\n")
        stage.session.stop_now()
        stage.receiver.feed(reply)
        await stage.settle()

    stage = staged(script)
    assert bytes(stage.sender.written) == b"220 hello\r\n421 service shutting down\r\n"
    assert bytes(stage.receiver.written) == b"DATA\r\n"
    assert stage.receiver.got_rst


@pytest.mark.parametrize("rate", [1, 20, 90])
def test_a_sender_below_the_least_rate_is_ended(rate: int) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        for _ in range(3600):
            await stage.feed(stage.sender, b"x" * rate)
            stage.clock.jump(1.0)
            await stage.settle()
            if stage.over or stage.sender.written:
                break

    stage = staged(script)
    assert bytes(stage.sender.written) == b"421 timeout, closing connection\r\n"


@pytest.mark.parametrize("rate", [110, 1000])
def test_a_sender_above_the_least_rate_is_not_ended(rate: int) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        for _ in range(3600):
            await stage.feed(stage.sender, b"x" * rate)
            stage.clock.jump(1.0)
            await stage.settle()

    assert staged(script).repaired == []


def test_a_receiver_below_the_least_rate_is_given_up() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = 0
        await stage.feed(stage.sender, LINE * 4000)
        for _ in range(300):
            stage.receiver.take(20)
            stage.clock.jump(1.0)
            await stage.settle()

    assert staged(script).repaired == [Violation.STALLED_IN_DATA]


def test_a_receiver_that_has_stalled_regains_its_time_by_what_it_takes_at_once() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        for _ in range(3):
            stage.receiver.room_octets = 0
            await stage.feed(stage.sender, LINE)
            await stage.pass_time(170)
            stage.receiver.take(10_000_000)
            await stage.settle()
            await stage.feed(stage.sender, LINE * 100_000)

    assert staged(script).repaired == []


def test_an_early_2yz_with_a_refusal_behind_it_gives_way_to_it() -> None:
    """Both in one segment, the end in the next: guarantee 2 does not depend on who runs first."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, LINE)
        stage.receiver.feed(b"250 early\r\n552 too big\r\n421 going\r\n")
        stage.sender.feed(b".\r\nNOOP\r\n")
        await stage.settle()

    for _ in range(20):  # trio runs tasks that are ready in random order
        assert bytes(staged(script).sender.written) == b"552 too big\r\n250 OK\r\n"


def test_stopped_at_once_the_sender_gets_a_verdict_that_is_held_for_it() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, LINE)
        await stage.feed(stage.receiver, b"552 too big\r\n")
        stage.session.stop_now()
        await stage.settle()

    stage = staged(script)
    assert bytes(stage.sender.written) == b"552 too big\r\n"
    assert stage.repaired == [Violation.EARLY_REPLY]


@pytest.mark.parametrize("half", [b"", b"MAIL FR"], ids=["between commands", "in the midst of one"])
def test_asked_to_stop_a_session_without_a_transaction_ends(half: bytes) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, half)
        stage.session.stop_when_idle()
        await stage.settle()

    assert bytes(staged(script).sender.written).endswith(b"421 service shutting down\r\n")


def test_asked_to_stop_a_session_that_has_no_greeting_yet_ends_without_a_quit() -> None:
    async def script(stage: Stage) -> None:
        stage.session.stop_when_idle()
        await stage.settle()
        assert bytes(stage.sender.written) == b"421 service shutting down\r\n"
        assert bytes(stage.receiver.written) == b""
        assert stage.receiver.got_fin

    staged(script)


def test_asked_to_stop_a_command_under_way_gets_its_reply_first() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"NOOP\r\n")
        stage.session.stop_when_idle()
        await stage.feed(stage.receiver, b"250 OK\r\n")

    assert bytes(staged(script).sender.written) == b"220 hello\r\n250 OK\r\n421 service shutting down\r\n"


def test_what_lies_behind_a_chunk_stays_in_the_kernel() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"BDAT 3\r\n")
        await stage.feed(stage.sender, b"abc" + b"NOOP\r\n" * 1000)
        assert stage.receiver.written == b"NOOP\r\n"

    repaired = staged(script, Limits(held_octets=512)).repaired
    assert repaired == [Violation.WITHHELD_COMMAND, Violation.UNOFFERED_PIPELINING]


def test_a_receiver_that_takes_no_command_is_given_up_without_a_word() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        stage.receiver.room_octets = 2
        await stage.feed(stage.sender, b"NOOP\r\n")
        await stage.pass_time(301)

    stage = staged(script)
    assert bytes(stage.sender.written).endswith(b"421 the receiver did not reply in time\r\n")
    assert bytes(stage.receiver.written) == b"NO"


def test_stopped_at_once_while_the_receiver_is_heard_out_the_sender_gets_its_verdict() -> None:
    """The end of mail data has its reply, and what the receiver did is told."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\r\n")
        await stage.feed(stage.receiver, b"334 strange\r\n")
        await stage.feed(stage.receiver, b"354 go on\r\n")
        await stage.feed(stage.sender, b".\r\n")
        assert not stage.sender.written
        stage.session.stop_now()
        await stage.settle()
        assert stage.sender.written.startswith(b"451 ")

    assert staged(script).repaired == [Violation.FURTHER_REPLY, Violation.IMPLAUSIBLE_REPLY]


def test_a_sender_that_goes_as_the_receiver_refuses_is_told_of_alone() -> None:
    """What nobody has read is no extra reply."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.feed(b"552 too big\r\n")
        stage.sender.feed_fin()
        await stage.pass_time(60)

    stage = staged(script)
    assert stage.repaired == [Violation.VANISHED_IN_DATA]
    assert stage.receiver.got_rst


def test_what_a_sender_streams_behind_a_refused_data_does_not_wait_for_the_receivers_leave() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"DATA\r\nthe mail")
        stage.sender.feed(b"x" * 100_000)
        await stage.feed(stage.receiver, b"554 no\r\n")
        assert stage.sender.written.endswith(b"closing connection\r\n")
        assert stage.sender.unread_octets == 0
        assert not stage.over

    staged(script)


def test_a_354_behind_an_unasked_421_is_followed_by_no_fin() -> None:
    """Whoever has said it may take that for the end of a mail (guarantee 5)."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.receiver, b"421 going\r\n354 go ahead\r\n")
        assert not stage.receiver.got_fin
        await stage.pass_time(40)
        assert stage.receiver.got_rst

    staged(script)


def test_a_receiver_that_takes_no_commands_and_does_not_stop_talking_is_heard_up_to_a_limit() -> None:
    """Guarantee 10: what it says before it has read the commands stays in its own host."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        stage.receiver.room_octets = 0
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
        await stage.feed(stage.receiver, b"250 and\r\n" * 30_000)
        unread_octets = stage.receiver.unread_octets
        assert unread_octets > 100_000
        assert not stage.sender.written
        await stage.feed(stage.receiver, b"250 and\r\n")
        assert stage.receiver.unread_octets == unread_octets + 9
        stage.receiver.take(1000)
        await stage.settle()
        assert stage.receiver.written == b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"

    staged(script, Limits(reply_octets=512))


def test_a_receiver_that_does_not_even_take_quit_is_reset() -> None:
    """Guarantee 8."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        stage.receiver.room_octets = 0
        stage.sender.feed_fin()
        await stage.settle()
        assert not stage.over
        await stage.pass_time(400)
        assert stage.over
        assert stage.receiver.got_rst
        assert not stage.receiver.written

    staged(script)


def test_many_replies_of_a_receiver_that_takes_commands_slowly_leave_other_sessions_their_turn() -> None:
    commands, replies = b"RSET\r\n" * 100, b"250 OK\r\n" * 100

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        stage.receiver.room_octets = len(commands) - 1
        await stage.feed(stage.sender, commands)
        assert stage.receiver.written == commands[:-1]
        stage.receiver.feed(replies)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        assert not stage.sender.written, "not all of them were relayed in one turn"
        await stage.settle()
        stage.receiver.take(1)
        await stage.settle()
        assert stage.receiver.written == commands
        assert stage.sender.written == replies

    assert staged(script).repaired == []


def test_a_receiver_that_has_said_much_unasked_as_the_sender_leaves_is_heard_and_told() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        stage.receiver.feed(b"250 extra\r\n" * 5000)
        stage.sender.feed_fin()
        await stage.settle()
        assert stage.receiver.unread_octets == 0
        assert stage.receiver.written == b"QUIT\r\n"

    stage = staged(script)
    assert stage.repaired == [Violation.CLOSED_WITHOUT_QUIT, Violation.EXTRA_REPLY]


@pytest.mark.parametrize("insists", [False, True])
def test_a_receiver_that_does_not_take_quit_is_reset_in_time_or_at_a_stop(insists: bool) -> None:
    """QUIT was refused and the sender has disconnected, so it is shimproxy's own."""

    async def script(stage: Stage) -> None:
        await offered(stage)
        stage.receiver.room_octets = len(QUIT)
        await stage.feed(stage.sender, QUIT)
        await stage.feed(stage.receiver, b"502 not now\r\n")
        stage.sender.feed_fin()
        await stage.settle()
        assert not stage.receiver.closed
        if insists:
            stage.session.stop_now()
            await stage.settle()
        else:
            await stage.pass_time(stage.deadlines.linger_idle + 1)
        assert stage.receiver.got_rst

    stage = staged(script)
    assert bytes(stage.receiver.written).endswith(QUIT)
    assert stage.repaired == ([] if insists else [Violation.NO_CLOSE])
