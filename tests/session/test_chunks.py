"""Chunks (RFC 3030): counted, never searched, and as many as there are, with the repair in force."""

from __future__ import annotations

import itertools

import pytest

from shimproxy.session.limits import Limits
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.mail_data import EndOfChunk
from tests.memory import MemorySocket, Stage, offered, staged


@pytest.mark.parametrize("size_octets", range(1, 6))
def test_a_chunk_ends_where_its_count_says_at_every_segmentation(size_octets: int) -> None:
    stream = b"x\r\n.\r\nyz"
    for cuts in itertools.product((False, True), repeat=len(stream) - 1):
        at = [0, *(index for index, cut in enumerate(cuts, 1) if cut), len(stream)]
        sut, before, end = EndOfChunk(size_octets), 0, None
        for start, stop in itertools.pairwise(at):
            end = sut.feed(stream[start:stop], 0, stop - start)
            if end is not None:
                break
            before = stop
        assert end is not None
        assert before + end == size_octets


async def greeted(stage: Stage) -> None:
    """Up to commands, with groups and chunks offered."""
    await offered(stage, b"PIPELINING", b"CHUNKING", b"BINARYMIME")


def test_many_chunks_in_one_segment_are_forwarded_before_the_first_reply() -> None:
    """However much lies behind a chunk: it stays in the kernel until its turn comes."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        chunk = b"BDAT 50000\r\n" + b"x" * 50_000
        octets = b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n" + chunk * 20 + b"BDAT 0 LAST\r\n"
        await stage.feed(stage.sender, octets)
        assert stage.receiver.written == octets
        assert not stage.sender.written
        await stage.feed(stage.receiver, b"250 OK\r\n" * 22)
        assert stage.sender.written == b"250 OK\r\n" * 22

    stage = staged(script)
    assert stage.repaired == []


def test_a_mail_in_chunks_is_one_transaction() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 1\r\naBDAT 1\r\nbBDAT 1 LAST\r\nc")
        await stage.feed(stage.receiver, b"250 OK\r\n" * 3)
        await stage.feed(stage.sender, b"QUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        stage.receiver.feed_fin()
        stage.sender.feed_fin()
        await stage.settle()

    (record,) = staged(script).account.records
    assert (record.transactions, record.accepted) == (1, 1)


def test_an_early_2yz_to_a_chunk_is_no_acceptance() -> None:
    """Guarantee 3: not even of a part."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 10\r\nabc")
        await stage.feed(stage.receiver, b"250 got it\r\n")
        stage.receiver.feed_fin()
        await stage.feed(stage.sender, b"defghij")
        assert stage.sender.written.startswith(b"451 ")

    stage = staged(script)
    assert stage.repaired == [Violation.EARLY_SUCCESS]
    assert stage.receiver.got_rst


def test_replies_to_what_went_before_are_relayed_in_mid_chunk() -> None:
    """They are not early."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nBDAT 10 LAST\r\nabc")
        await stage.feed(stage.receiver, b"250 a\r\n550 b\r\n")
        assert stage.sender.written == b"250 a\r\n550 b\r\n"
        await stage.feed(stage.sender, b"defghij")
        assert stage.receiver.written.endswith(b"abcdefghij")
        await stage.feed(stage.receiver, b"554 no recipients\r\n")
        assert stage.sender.written.endswith(b"554 no recipients\r\n")

    assert staged(script).repaired == []


def test_a_receiver_that_takes_no_more_of_a_chunk_can_still_refuse() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        stage.receiver.room_octets = 100
        await stage.feed(stage.sender, b"BDAT 100000 LAST\r\n" + b"x" * 50_000)
        await stage.feed(stage.receiver, b"552 too big\r\n")
        await stage.feed(stage.sender, b"x" * 50_000)
        assert stage.sender.written == b"552 too big\r\n"

    staged(script)


def test_stopped_at_once_in_mid_chunk_everything_has_its_reply_and_the_receiver_is_reset() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nBDAT 10\r\nabc")
        stage.session.stop_now()
        await stage.settle()
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"451", b"421"]
        assert stage.receiver.got_rst

    staged(script)


@pytest.mark.parametrize("ended_by", [b"RSET", b"MAIL FROM:<a@b>", b"EHLO x"])
def test_no_chunk_is_forwarded_behind_one_that_was_refused(ended_by: bytes) -> None:
    """Exim 4.96 reads it as commands (guarantee 6): it is refused alike, until a new transaction can begin."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 3\r\nabcBDAT 0\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n504 zero size\r\n")
        stage.sender.written.clear()
        stage.receiver.written.clear()
        await stage.feed(stage.sender, b"BDAT 6\r\nRSET\r\nBDAT 6 LAST\r\nRSET\r\nBDAT 1 LAST\r\nx")
        assert stage.sender.written == b"504 zero size\r\n" * 3
        assert not stage.receiver.written
        await stage.feed(stage.sender, ended_by + b"\r\n")
        await stage.feed(stage.receiver, b"250-OK\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
        await stage.feed(stage.sender, b"BDAT 1 LAST\r\nx")
        assert stage.receiver.written == ended_by + b"\r\nBDAT 1 LAST\r\nx"

    assert staged(script).repaired == []


@pytest.mark.parametrize("before", [b"", b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\n"], ids=["alone", "in a group"])
def test_a_refused_data_between_two_chunks_counts_too(before: bytes) -> None:
    """Whatever the receiver was given before the first of them, and has answered since."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        first = b"250 OK\r\n" * (1 + before.count(b"\n"))
        for said, reply in ((before + b"BDAT 3\r\nabc", first), (b"DATA\r\n", b"503 no\r\n")):
            await stage.feed(stage.sender, said)
            await stage.feed(stage.receiver, reply)
        await stage.feed(stage.sender, b"BDAT 6 LAST\r\nRSET\r\n")
        assert stage.receiver.written.endswith(b"DATA\r\nBDAT 0\r\n")
        await stage.feed(stage.receiver, b"503 only RSET\r\n")
        assert stage.receiver.written.endswith(b"DATA\r\nBDAT 0\r\n")
        assert stage.sender.written.endswith(b"503 no\r\n503 no\r\n")

    staged(script)


@pytest.mark.parametrize("between", [b"DATA\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<x@y>\r\n", b"VRFY x\r\n"])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_receiver_that_still_takes_chunks_after_a_refused_command_gets_them(between: bytes, grouped: bool) -> None:
    """Postfix and Dovecot do; an empty chunk of the shim's own asks."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        if grouped:
            await stage.feed(stage.sender, b"BDAT 3\r\nabc" + between)
            rest = b"BDAT 6 LAST\r\nabcdef"
            if not between.startswith(b"DATA"):  # after which a sender has to wait
                await stage.feed(stage.sender, rest)
            await stage.feed(stage.receiver, b"250 OK\r\n503 no\r\n")
            if between.startswith(b"DATA"):
                await stage.feed(stage.sender, rest)
        else:
            for said, reply in ((b"BDAT 3\r\nabc", b"250 OK\r\n"), (between, b"503 no\r\n")):
                await stage.feed(stage.sender, said)
                await stage.feed(stage.receiver, reply)
            await stage.feed(stage.sender, b"BDAT 6 LAST\r\nabcdef")
        assert stage.receiver.written.endswith(between + b"BDAT 0\r\n")
        await stage.feed(stage.receiver, b"250 0 octets\r\n")
        assert stage.receiver.written.endswith(b"BDAT 0\r\nBDAT 6 LAST\r\nabcdef")
        await stage.feed(stage.receiver, b"250 queued\r\n")
        assert stage.sender.written.endswith(b"250 OK\r\n503 no\r\n250 queued\r\n")

    staged(script)


def test_a_refusal_does_not_outlive_its_mail() -> None:
    """However soon the next one comes."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 3\r\nabc")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        await stage.feed(stage.sender, b"RSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nBDAT 1 LAST\r\nx")
        await stage.feed(stage.receiver, b"250 OK\r\n" * 3)
        assert stage.receiver.written.endswith(b"RCPT TO:<b@c>\r\nBDAT 1 LAST\r\nx")
        await stage.feed(stage.receiver, b"250 OK\r\n")
        assert stage.sender.written == b"552 too big\r\n" + b"250 OK\r\n" * 4

    assert staged(script).repaired == []


def test_a_refused_recipient_within_the_group_refuses_no_chunk() -> None:
    """It was given before them, however late its reply comes."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING", b"CHUNKING")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2\r\nab")
        await stage.feed(stage.receiver, b"250 OK\r\n250 OK\r\n550 who\r\n250 go on\r\n")
        await stage.feed(stage.sender, b"BDAT 2 LAST\r\ncd")
        assert stage.receiver.written.endswith(b"BDAT 2\r\nabBDAT 2 LAST\r\ncd")
        await stage.feed(stage.receiver, b"250 queued\r\n")
        assert stage.sender.written.endswith(b"250 queued\r\n")

    staged(script)


@pytest.mark.parametrize("doubtful", [b"BDAT 0\r\n", b"MAIL FROM:<a@b>\r\n"], ids=["BDAT 0", "MAIL"])
def test_a_chunk_in_a_group_waits_for_what_may_well_be_refused(doubtful: bytes) -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 3\r\nabc" + doubtful + b"BDAT 6 LAST\r\nRSET\r\nNOOP\r\n")
        assert stage.receiver.written.endswith(b"BDAT 3\r\nabc" + doubtful)
        await stage.feed(stage.receiver, b"250 OK\r\n503 no\r\n")
        if not doubtful.startswith(b"BDAT"):
            assert stage.receiver.written.endswith(doubtful + b"BDAT 0\r\n")
            await stage.feed(stage.receiver, b"503 no\r\n")
        assert stage.receiver.written.endswith(b"NOOP\r\n")
        assert stage.sender.written.endswith(b"250 OK\r\n503 no\r\n503 no\r\n")

    assert staged(script).repaired == []


def test_of_a_group_of_chunks_those_that_come_behind_a_refusal_are_not_forwarded() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 3\r\nabcBDAT 3\r\nabcBDAT 6 LAST\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        before = bytes(stage.receiver.written)
        await stage.feed(stage.sender, b"RSET\r\nBDAT 1\r\nxNOOP\r\n")
        await stage.feed(stage.receiver, b"503 no\r\n503 no\r\n")
        assert stage.receiver.written == before + b"RSET\r\nNOOP\r\n"
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"552", b"503", b"503", b"552"]

    assert staged(script).repaired == []


# -- replies to what went before


GROUP = b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nRCPT TO:<nobody@c>\r\n"


def test_replies_behind_a_chunk_have_their_own_deadlines() -> None:
    """Whatever was waited for on its way: here a receiver that takes it in two parts, and then thinks for minutes."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        stage.receiver.room_octets = 20_000
        await stage.feed(stage.sender, GROUP + b"BDAT 50000 LAST\r\n" + b"x" * 50_000)
        stage.receiver.take(1 << 20)
        await stage.settle()
        await stage.pass_time(290)
        assert not stage.sender.written
        await stage.feed(stage.receiver, b"250 a\r\n250 b\r\n550 c\r\n")
        await stage.pass_time(590)
        await stage.feed(stage.receiver, b"250 queued\r\n")
        assert stage.sender.written == b"250 a\r\n250 b\r\n550 c\r\n250 queued\r\n"

    assert staged(script).repaired == []


def test_a_refusal_of_a_recipient_is_no_verdict_on_the_mail() -> None:
    """A receiver that is given up in mid-chunk owes replies to what went before: nobody can tell which is which."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        stage.receiver.room_octets = 1000
        await stage.feed(stage.sender, GROUP + b"BDAT 5000 LAST\r\n" + b"x" * 4000)
        await stage.pass_time(200)
        await stage.feed(stage.receiver, b"250 a\r\n250 b\r\n550 no such user\r\n")
        await stage.feed(stage.sender, b"x" * 1000)
        await stage.pass_time(40)
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"451"] * 4
        assert stage.receiver.got_rst

    assert Violation.EARLY_REPLY not in staged(script).repaired


def test_disorder_in_mid_chunk_is_no_verdict_either() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, GROUP + b"BDAT 10 LAST\r\nabc")
        await stage.feed(stage.receiver, b"250 a\r\n250 b\r\n334 junk\r\n550 no such user\r\n")
        await stage.feed(stage.sender, b"defghij")
        await stage.pass_time(40)
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"250", b"250", b"451", b"451"]
        assert stage.receiver.got_rst

    assert Violation.IMPLAUSIBLE_REPLY in staged(script).repaired


def test_a_reply_before_an_empty_last_chunk_was_written_accepts_nothing() -> None:
    """Guarantee 3."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        stage.receiver.room_octets = len(GROUP) + 5
        await stage.feed(stage.sender, GROUP + b"BDAT 0 LAST\r\n")
        await stage.feed(stage.receiver, b"250 a\r\n250 b\r\n250 c\r\n250 too soon\r\n")
        stage.receiver.take(1 << 20)
        await stage.settle()
        assert b"too soon" not in stage.sender.written
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"250", b"250", b"250", b"421"]

    staged(script)


def test_chunks_behind_an_early_refusal_are_refused_however_late_they_come() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 10\r\nabc")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        stage.receiver.feed_fin()
        await stage.feed(stage.sender, b"defghij")
        await stage.pass_time(50)
        await stage.feed(stage.sender, b"BDAT 1\r\nx" * 30 + b"BDAT 1 LAST\r\nx")
        assert stage.sender.written == b"552 too big\r\n" * 32

    staged(script)


def test_replies_that_the_sender_does_not_take_are_bounded() -> None:
    """In mid-chunk too: the receiver is not read on while the sender does not read (guarantee 10)."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"RSET\r\n" * 100 + b"BDAT 10\r\nabc")
        stage.sender.room_octets = 0
        for _ in range(100):
            await stage.feed(stage.receiver, b"250 " + b"x" * 500 + b"\r\n")
        assert stage.session.sender.unsaid_octets < 20_000

    staged(script, Limits(reply_octets=10_000))


def test_behind_the_last_refused_chunk_the_receiver_is_gone() -> None:
    """The refusal was that mail's: the next one has none, and no receiver."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 10 LAST\r\nabc")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        await stage.feed(stage.sender, b"defghijBDAT 1 LAST\r\nx")
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"552", b"421"]

    staged(script)


def test_a_421_that_comes_while_the_chunk_is_drained_is_the_only_one() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        stage.receiver.feed(b"250 extra\r\n2")
        await stage.settle()
        await stage.feed(stage.sender, b"BDAT 2\r\na")
        await stage.pass_time(stage.deadlines.linger_idle)
        await stage.feed(stage.receiver, b"\r\n421 I go\r\n")
        await stage.feed(stage.sender, b"b")
        await stage.feed(stage.sender, b"NOOP\r\n")
        assert stage.sender.written.count(b"421 ") == 1

    staged(script)


def test_the_same_where_it_was_refused_by_its_second_chunk() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 10\r\nabc")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        await stage.feed(stage.sender, b"defghijBDAT 1 LAST\r\nxBDAT 1 LAST\r\nx")
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"552", b"552", b"421"]

    staged(script)


def goes_with(patch: pytest.MonkeyPatch, stage: Stage, octets: bytes) -> None:
    """The receiver resets when it is written to next; those are its last words."""
    send = MemorySocket.send

    def goes(sock: MemorySocket, block: bytes | memoryview) -> int:
        if sock is stage.receiver:
            sock.feed(octets)
            sock.feed_rst()
        return send(sock, block)

    patch.setattr(MemorySocket, "send", goes)


def test_replies_that_come_with_the_reset_are_those_of_their_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie there when the write of the chunk fails."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, GROUP + b"BDAT 10 LAST\r\nabc")
        with monkeypatch.context() as patch:
            goes_with(patch, stage, b"250 a\r\n250 b\r\n550 c\r\n")
            await stage.feed(stage.sender, b"defghij")
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"250", b"250", b"550", b"451"]

    assert staged(script).repaired == [Violation.RESET_IN_DATA]


def test_last_words_that_come_with_the_reset_answer_a_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a chunk, too: they lie there when the write of the command fails."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        with monkeypatch.context() as patch:
            goes_with(patch, stage, b"421 bye\r\n")
            await stage.feed(stage.sender, b"NOOP\r\n")
        assert stage.sender.written == b"421 bye\r\n"

    staged(script)


def test_a_reply_that_is_cut_off_in_mid_chunk_is_that_of_the_chunk_before() -> None:
    """What the receiver says last, without its CRLF, answers what it has got whole, however much is on its way."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 3\r\nabcBDAT 10 LAST\r\nabc")
        stage.receiver.feed(b"552 too big")
        stage.receiver.feed_fin()
        await stage.feed(stage.sender, b"defghij")
        assert stage.sender.written.startswith(b"552 too big\r\n451 ")

    assert staged(script).repaired == [Violation.CUT_OFF, Violation.CLOSED_IN_DATA]


def test_a_refusal_that_comes_with_the_reset_is_heard_where_the_chunk_was_taken_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        stage.receiver.room_octets = 20
        await stage.feed(stage.sender, b"BDAT 10 LAST\r\nabcdefghij")
        assert stage.receiver.written == b"BDAT 10 LAST\r\nabcdef"
        with monkeypatch.context() as patch:
            goes_with(patch, stage, b"552 too big\r\n")
            stage.receiver.take(100)
            await stage.settle()
        assert stage.sender.written == b"552 too big\r\n"

    staged(script)


def test_so_it_is_where_the_write_of_the_chunk_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"BDAT 3\r\nabcBDAT 10 LAST\r\nabc")
        with monkeypatch.context() as patch:
            goes_with(patch, stage, b"552 too big")
            await stage.feed(stage.sender, b"defghij")
        assert stage.sender.written.startswith(b"552 too big\r\n451 ")

    assert staged(script).repaired == [Violation.CUT_OFF, Violation.RESET_IN_DATA]


def test_nothing_that_follows_a_refused_chunk_of_a_group_is_accepted() -> None:
    """A receiver that refuses the first and reads the others as commands may say 250 to a line of them."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n250 OK\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.sender, b"BDAT 6\r\nNOOP\r\nBDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        await stage.feed(stage.receiver, b"500 what\r\n")
        assert stage.sender.written == b"552 too big\r\n500 what\r\n"
        await stage.feed(stage.receiver, b"250 noop\r\n")
        assert stage.sender.written == b"552 too big\r\n500 what\r\n552 too big\r\n"
        assert stage.receiver.got_rst
        await stage.feed(stage.sender, b"RSET\r\n")
        assert stage.sender.written.endswith(b"\r\n250 OK\r\n")

    stage = staged(script)
    assert stage.repaired == [Violation.IMPLAUSIBLE_REPLY]
    assert stage.record.accepted == 0


def test_so_it_is_for_one_that_is_still_on_its_way() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n250 OK\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.sender, b"BDAT 6\r\nNOOP\r\nBDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNO")
        await stage.feed(stage.receiver, b"552 too big\r\n250 noop\r\n")
        await stage.feed(stage.sender, b"OP\r\n")
        assert stage.sender.written == b"552 too big\r\n" * 3
        assert stage.receiver.got_rst

    staged(script)
