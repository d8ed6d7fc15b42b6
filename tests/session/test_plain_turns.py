"""Plain turns do what the handlers would, and leave to them whatever is not plain.

Each transcript is played with plain turns and without. `test_transcripts` plays them octet by octet, too: then no turn
is plain.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from shimproxy.help.explain.transcript import Transcript, play
from shimproxy.session import plain_turns
from shimproxy.session.plain_turns import PlainTurns
from shimproxy.session.reply_times import ReplyTimes
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Command
from shimproxy.smtp.dialogue import ANSWERS, RELAY, ruling
from shimproxy.smtp.reply import Reply
from tests.memory import DATA, MAIL, RCPT, Stage, dialogue, offered, staged, up_to_mail_data

if TYPE_CHECKING:
    from types import FrameType

    from shimproxy.help.explain import stage

BODY = b"a line\r\n"
END = b".\r\n"
TAKEN = b"250 queued\r\n"
TRANSCRIPTS = Transcript.all()


def seen(stage: stage.Stage) -> tuple[object, ...]:
    assert isinstance(stage, Stage)
    record = stage.record
    assert record.trace
    trace = [attrs.evolve(entry, seconds=0.0, until_seconds=0.0) for entry in record.trace.entries]
    told = [(repair.violation, repair.phase, repair.detail) for repair in stage.account.repairs]
    counted = record.replies, record.transactions, record.accepted, record.ended_by, record.ended_in
    return (*stage.outcome(), trace, told, counted)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)
def test_a_transcript_is_the_same_without_plain_turns(transcript: Transcript, monkeypatch: pytest.MonkeyPatch) -> None:
    """What both legs see, the repairs, the mails, the record and the trace."""
    expected = play(transcript, seen, make=Stage)

    monkeypatch.setattr(PlainTurns, "may_come", False)
    assert play(transcript, seen, make=Stage) == expected


def test_a_plain_reply_is_one_that_the_table_relays() -> None:
    for verb, kind in plain_turns._ACCEPTS.items():
        reply = Reply(kind if kind > 99 else kind * 100 + 50, b"")
        assert reply.kind == kind
        assert ruling(ANSWERS[verb], reply)[0] is RELAY


def test_a_mail_as_nearly_all_are_has_nothing_but_plain_turns() -> None:
    """Not even the objects that carry any other mail data are made for it."""
    made: Counter[str] = Counter()

    def see(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == "__init__":
            new = next(iter(frame.f_locals.values()))
            if type(new).__module__.startswith("shimproxy."):
                made[type(new).__name__] += 1

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, BODY + END)
        await stage.feed(stage.receiver, TAKEN)
        sys.setprofile(see)
        await dialogue(stage, MAIL, RCPT, DATA)
        await stage.feed(stage.sender, BODY + END)
        await stage.feed(stage.receiver, TAKEN)
        sys.setprofile(None)

    try:
        stage = staged(script, telling=False)
    finally:
        sys.setprofile(None)

    assert stage.record.accepted == 2
    assert made == {Command.__name__: 2}, "MAIL and RCPT: DATA and the replies are there already"


def test_what_a_receiver_said_before_mail_data_came_decides_about_them() -> None:
    """No event has told of it yet."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.holds(b"552 too big\r\n")
        await stage.feed(stage.sender, BODY + END)

    stage = staged(script)

    assert stage.repaired == [Violation.EARLY_REPLY]
    assert bytes(stage.sender.written) == b"552 too big\r\n"
    assert bytes(stage.receiver.written) == b""


def test_mail_data_end_at_the_first_end() -> None:
    """Another one comes with it, behind a command."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, BODY + END + b"NOOP\r\n" + END)
        assert bytes(stage.receiver.written) == BODY + END
        await stage.feed(stage.receiver, TAKEN)

    stage = staged(script)

    assert bytes(stage.receiver.written).startswith(BODY + END + b"NOOP\r\n")


@pytest.mark.parametrize("room", range(len(BODY + END)))
def test_a_receiver_that_takes_a_part_of_the_mail_data_is_given_the_rest(room: int) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = room
        await stage.feed(stage.sender, BODY + END)
        assert bytes(stage.receiver.written) == (BODY + END)[:room]
        stage.receiver.take(100)
        await stage.settle()
        await stage.feed(stage.receiver, TAKEN)

    stage = staged(script)

    assert bytes(stage.receiver.written) == BODY + END
    assert bytes(stage.sender.written) == TAKEN
    assert stage.repaired == []


def test_a_receiver_that_has_reset_gets_no_mail_data_and_is_told_of() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.fails_to_take = True
        await stage.feed(stage.sender, BODY + END)
        stage.receiver.feed_rst()
        await stage.settle()

    stage = staged(script)

    assert bytes(stage.sender.written).startswith(b"451 ")
    assert stage.repaired == [Violation.RESET_IN_DATA]


def test_a_receiver_that_takes_no_command_may_have_left_a_reply() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await dialogue(stage, (b"HELO x", b"250 hi"))
        stage.receiver.fails_to_take = True
        await stage.feed(stage.sender, b"NOOP\r\n")
        stage.receiver.feed(b"421 going\r\n")
        stage.receiver.feed_rst()
        await stage.settle()

    stage = staged(script)

    assert bytes(stage.sender.written).endswith(b"421 going\r\n")


@pytest.mark.parametrize("room", range(len(TAKEN)))
def test_a_sender_that_takes_a_part_of_its_verdict_is_given_the_rest(room: int) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, BODY + END)
        stage.sender.room_octets = room
        await stage.feed(stage.receiver, TAKEN)
        assert bytes(stage.sender.written) == TAKEN[:room]
        stage.sender.take(100)
        await stage.settle()
        await dialogue(stage, (b"NOOP", b"250 OK"))

    stage = staged(script)

    assert bytes(stage.sender.written) == TAKEN + b"250 OK\r\n"
    assert stage.repaired == []


@pytest.mark.parametrize("plain", [True, False])
def test_the_times_of_replies_are_noted(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not plain:
        monkeypatch.setattr(PlainTurns, "may_come", False)
    times = ReplyTimes()

    async def script(stage: Stage) -> None:
        stage.session.events.reply_times = times.of_session()
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, BODY + END)
        await stage.feed(stage.receiver, TAKEN)
        await dialogue(stage, (b"QUIT", b"221 bye"))

    staged(script)

    counted: dict[str, Any] = {kind: sum(counts) for kind, counts, _ in times.all() if sum(counts)}
    assert counted == {"greeting": 1, "hello": 1, "mail": 1, "rcpt": 1, "data": 1, "mail_data": 1, "quit": 1}


@pytest.mark.parametrize("room", range(len(b"NOOP\r\n")))
def test_a_receiver_that_takes_a_part_of_a_command_is_given_the_rest(room: int) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await dialogue(stage, (b"HELO x", b"250 hi"))
        stage.receiver.written.clear()
        stage.receiver.room_octets = room
        await stage.feed(stage.sender, b"NOOP\r\n")
        assert bytes(stage.receiver.written) == b"NOOP\r\n"[:room]
        stage.receiver.take(100)
        await stage.settle()
        await stage.feed(stage.receiver, b"250 OK\r\n")

    stage = staged(script)

    assert bytes(stage.receiver.written).startswith(b"NOOP\r\n")
    assert bytes(stage.sender.written).endswith(b"250 OK\r\n")


def test_a_sender_that_was_offered_pipelining_goes_on_before_it_has_the_reply() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        await stage.feed(stage.sender, b"RCPT TO:<b@c>\r\n")
        assert bytes(stage.receiver.written) == b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\n"
        await stage.feed(stage.receiver, b"250 OK\r\n250 too\r\n")

    stage = staged(script)

    assert bytes(stage.sender.written) == b"250 OK\r\n250 too\r\n"
    assert stage.repaired == []
