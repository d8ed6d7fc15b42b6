"""The trace of a session: what is in it and in which order, what it leaves out, and that no octet is lost.

That the octets of a trace are those of the record is checked wherever a session is staged (memory.py): in every
transcript, cut everywhere, and here on real sockets for every fault receiver.
"""

from __future__ import annotations

import gc
import socket
from base64 import b64encode

import pytest
import trio
import trio.testing

from shimproxy import Entry, Kind, Trace, Violation
from shimproxy.faulty.client import WAIT_SECONDS
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.sending import sender_of_1999
from shimproxy.faulty.talk import Talk
from shimproxy.net.leg import Leg
from shimproxy.records.text import record_text_of
from shimproxy.session.policy import Login, Policy, SenderTls
from shimproxy.session.session import Session
from shimproxy.session.trace import (
    EARLY,
    FIRST_ENTRIES,
    MOST_ENTRIES,
    MOST_NOTES,
    OWN,
    RECEIVER,
    SENDER,
    SHIM,
    TEXT_OCTETS,
    UNASKED,
    TraceNotes,
)
from shimproxy.session.tracer import IN_PART, MAIL_DATA_OCTETS, TO_THE_END, Tracer
from tests.memory import Stage, check_octets, offered, staged, up_to_mail_data
from tests.peers.mail import LARGE, SMALL
from tests.peers.shim import shim
from tests.peers.table import TABLE, Row

PEERS = {SENDER: "S", SHIM: "-", RECEIVER: "R"}


def entries_of(stage: Stage) -> list[Entry]:
    assert stage.tracer
    return stage.tracer.notes.trace().entries


def lines_of(stage: Stage) -> list[str]:
    """Each entry in short: from and to, the octets, what it is, what was said, the remark."""
    return [
        f"{PEERS[each.who]}{PEERS[each.whom]} {each.octets} "
        + "; ".join(filter(None, (str(each.violation or each.kind), each.text.decode("latin-1"), each.remark)))
        for each in entries_of(stage)
    ]


def of_kind(stage: Stage, kind: Kind) -> list[Entry]:
    return [entry for entry in entries_of(stage) if entry.kind is kind]


async def greeted(stage: Stage) -> None:
    await stage.feed(stage.receiver, b"220 hello\r\n")


# -- what is in it


def test_a_whole_session() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\r\n")
        await stage.feed(stage.sender, b".\r\n")
        await stage.feed(stage.receiver, b"250 queued\r\n")
        await stage.feed(stage.sender, b"QUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        stage.receiver.feed_fin()
        stage.sender.feed_fin()
        await stage.settle()

    assert lines_of(staged(script)) == [
        "-R 0 connection; 192.0.2.2:25",
        "R- 11 reply; 220 hello; answers the connection",
        "-S 11 reply; 220 hello",
        "S- 8 command; HELO x",
        "-R 8 command; HELO x",
        "R- 8 reply; 250 hi; answers HELO",
        "-S 8 reply; 250 hi",
        "S- 17 command; MAIL FROM:<a@b>",
        "-R 17 command; MAIL FROM:<a@b>",
        "R- 8 reply; 250 OK; answers MAIL",
        "-S 8 reply; 250 OK",
        "S- 15 command; RCPT TO:<b@c>",
        "-R 15 command; RCPT TO:<b@c>",
        "R- 8 reply; 250 OK; answers RCPT",
        "-S 8 reply; 250 OK",
        "S- 6 command; DATA",
        "-R 6 command; DATA",
        "R- 8 reply; 354 go; answers DATA",
        "-S 8 reply; 354 go",
        f"S- 6 mail data; {TO_THE_END}",
        f"-R 6 mail data; {TO_THE_END}",
        "R- 12 reply; 250 queued; answers the end of mail data",
        "-S 12 reply; 250 queued",
        "S- 6 command; QUIT",
        "-R 6 command; QUIT",
        "R- 9 reply; 221 bye; answers QUIT",
        "-S 9 reply; 221 bye",
        "-S 0 FIN",
        "-R 0 FIN",
        "R- 0 FIN",
        "S- 0 FIN",
    ]


def test_the_repair_of_an_early_reply_stands_where_it_happened() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        for _ in range(3):
            await stage.feed(stage.sender, b"x" * 534 + b"\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n421 bye\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        stage.clock.jump(7)
        await stage.feed(stage.sender, b"x" * 534 + b"\r\n")
        await stage.feed(stage.sender, b".\r\nQUIT\r\n")
        stage.sender.feed_fin()
        await stage.settle()

    stage = staged(script)
    assert lines_of(stage)[19:] == [
        "S- 1608 mail data",
        "-R 1608 mail data",
        f"R- 13 reply; 552 too big; {EARLY}",
        f"R- 9 reply; 421 bye; {EARLY}",
        "-R 0 FIN",
        "R- 0 FIN",
        '-- 0 further-reply; count=1 first="421 bye"; draining',
        f"S- 539 mail data; {TO_THE_END}",
        '-- 0 early-reply; code=552 reply="552 too big" octets_forwarded=1608 octets_drained=539; draining',
        "-S 13 reply; 552 too big",
        "S- 6 command; QUIT",
        f"-S 24 reply; 221 closing connection; {OWN}",
        "-S 0 FIN",
        "S- 0 FIN",
    ]
    drained = of_kind(stage, Kind.MAIL_DATA)[-1]
    assert (drained.blocks, round(drained.until_seconds)) == (2, 7)


def test_replies_to_a_group_say_what_they_answer() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nDATA\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n550 no\r\n554 none\r\n")

    replies = [(each.text, each.remark) for each in of_kind(staged(script), Kind.REPLY) if each.who == RECEIVER]
    assert replies[-3:] == [(b"250 OK", "answers MAIL"), (b"550 no", "answers RCPT"), (b"554 none", "answers DATA")]


def test_a_chunk_is_called_one_and_a_reply_says_that_it_answers_it() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        for command in (b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<b@c>\r\n", b"BDAT 4 LAST\r\nabcd"):
            await stage.feed(stage.sender, command)
            await stage.feed(stage.receiver, b"250 OK\r\n")

    found = lines_of(staged(script))
    place = found.index("S- 13 command; BDAT 4 LAST")
    assert found[place : place + 6] == [
        "S- 13 command; BDAT 4 LAST",
        "-R 13 command; BDAT 4 LAST",
        f"S- 4 chunk; {TO_THE_END}",
        f"-R 4 chunk; {TO_THE_END}",
        "R- 8 reply; 250 OK; answers the chunk",
        "-S 8 reply; 250 OK",
    ]


def test_what_answers_nothing_is_there_and_not_taken_for_an_answer() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.receiver, b"250 unasked\r\n")
        await stage.feed(stage.sender, b"NOOP\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n")

    assert lines_of(staged(script))[3:8] == [
        f"R- 13 reply; 250 unasked; {UNASKED}",
        "S- 6 command; NOOP",
        '-- 0 extra-reply; count=1 first="250 unasked"; NOOP',
        "-R 6 command; NOOP",
        "R- 8 reply; 250 OK; answers NOOP",
    ]


def test_a_repeated_354_is_early() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\r\n")
        await stage.feed(stage.receiver, b"354 again\r\n")
        await stage.feed(stage.sender, b".\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n")

    assert f"R- 11 reply; 354 again; {EARLY}" in lines_of(staged(script))


def test_a_reply_that_was_cut_off_stands_before_the_fin_that_cut_it() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"NOOP\r\n")
        await stage.feed(stage.receiver, b"550-no\r\n550 an")
        stage.receiver.feed_fin()
        await stage.settle()

    found = lines_of(staged(script))
    place = found.index("R- 14 reply; 550-no\r\n550 an; answers NOOP")
    assert found[place + 1] == "R- 0 FIN"


def test_octets_that_become_nothing_are_counted() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"QUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        await stage.feed(stage.sender, b"and on and on")
        stage.receiver.feed_fin()
        stage.sender.feed_fin()
        await stage.settle()

    assert lines_of(staged(script))[-2:] == ["S- 13 dropped", "S- 0 FIN"]


def test_a_reply_that_the_sender_does_not_take_whole_is_there_as_far_as_it_was_taken() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        stage.sender.room_octets = 5
        await stage.feed(stage.sender, b"NOOP\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n")
        await stage.pass_time(400)
        await stage.pass_time(60)

    found = lines_of(staged(script))
    assert found.index(f"-S 5 reply; 250 OK; {IN_PART}") < found.index("-S 0 FIN") < found.index("-S 0 RST")


def test_a_second_connection_is_told_from_the_first() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"HELO x\r\n")
        await stage.feed(stage.receiver, b"250 hi\r\n")
        await stage.feed(stage.receiver, b"421 going\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.receiver, b"250 hi\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n")

    entries = entries_of(staged(script, policy=Policy(resume=True)))
    second = [(each.who, each.text) for each in entries if each.connection == 2]
    assert second == [
        (SHIM, b"192.0.2.2:25"),
        (RECEIVER, b"220 hello"),
        (SHIM, b"HELO x"),
        (RECEIVER, b"250 hi"),
        (SHIM, b"MAIL FROM:<a@b>"),
        (RECEIVER, b"250 OK"),
        (SHIM, b""),  # the stage's end
    ]


def test_a_session_that_is_resumed_without_end_holds_the_legs_that_are_open() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"HELO x\r\n")
        await stage.feed(stage.receiver, b"250 hi\r\n")
        for _ in range(10):
            await stage.feed(stage.receiver, b"421 going\r\n")
            stage.receiver.feed_fin()
            await stage.settle()
            await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
            for reply in (b"220 hello\r\n", b"250 hi\r\n", b"250 OK\r\n"):
                await stage.feed(stage.receiver, reply)
            await stage.feed(stage.sender, b"RSET\r\n")
            await stage.feed(stage.receiver, b"250 OK\r\n")
        assert stage.tracer
        assert len(stage.tracer.receivers) == 1

    stage = staged(script, policy=Policy(resume=True))
    assert stage.over
    assert stage.record.resumed == 10
    assert max(each.connection for each in entries_of(stage)) == 11


def test_tls_that_passes_unread_is_counted_both_ways() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"STARTTLS")
        await stage.feed(stage.sender, b"STARTTLS\r\n")
        await stage.feed(stage.receiver, b"220 go\r\n")
        await stage.feed(stage.sender, b"\x16\x03hello")
        await stage.feed(stage.receiver, b"\x16\x03hello, too")
        await stage.feed(stage.sender, b"more")
        stage.sender.feed_fin()
        stage.receiver.feed_fin()
        await stage.settle()

    unread = [(each.who, each.octets, each.blocks) for each in of_kind(staged(script), Kind.TLS)]
    assert unread == [(SENDER, 11, 2), (SHIM, 11, 2), (RECEIVER, 12, 1), (SHIM, 12, 1)]


# -- what is not


def test_an_auth_exchange_is_there_as_octets_and_codes() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        for line, reply in ((b"AUTH LOGIN", b"334 VXNlcg=="), (b"dXNlcg==", b"334 UGFzcw=="), (b"c2VjcmV0", b"235 hi")):
            await stage.feed(stage.sender, line + b"\r\n")
            await stage.feed(stage.receiver, reply + b"\r\n")
        await stage.feed(stage.sender, b"NOOP\r\n")

    assert lines_of(staged(script))[3:16] == [
        "S- 12 command; AUTH ...",
        "-R 12 command; AUTH ...",
        "R- 14 reply; 334 ...; answers AUTH",
        "-S 14 reply; 334 ...",
        "S- 10 command; AUTH ...",
        "-R 10 command; AUTH ...",
        "R- 14 reply; 334 ...; answers AUTH",
        "-S 14 reply; 334 ...",
        "S- 10 command; AUTH ...",
        "-R 10 command; AUTH ...",
        "R- 8 reply; 235 ...; answers AUTH",
        "-S 8 reply; 235 ...",
        "S- 6 command; NOOP",
    ]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_the_shims_own_login_is_hidden(mechanism: str) -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"HELO x\r\n")
        await stage.feed(stage.receiver, f"250-hi\r\n250 AUTH {mechanism}\r\n".encode())
        for _ in range(mechanism == "LOGIN" and 2):
            await stage.feed(stage.receiver, b"334 hunter2\r\n")
        await stage.feed(stage.receiver, b"235 hunter2\r\n")

    login = Login("user", "hunter2", in_clear=True)
    stage = staged(script, policy=Policy(sender_tls=SenderTls.OFF, login=login))
    text = record_text_of(stage.record)
    assert "235 ..." in text
    assert "AUTH ..." in text
    for secret in (b"hunter2", b64encode(b"hunter2"), b64encode(b"\0user\0hunter2"), b64encode(b"user")):
        assert secret.decode() not in text


@pytest.mark.parametrize("keeps", [True, False])
def test_mail_data_are_kept_only_where_that_was_said_and_up_to_a_limit(keeps: bool) -> None:
    private = b"Subject: private\r\n\r\n" + b"private\r\n" * 10_000

    async def script(stage: Stage) -> None:
        assert stage.tracer
        stage.tracer.keeps_mail_data = keeps
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, private + b".\r\n", 5000)
        await stage.feed(stage.receiver, b"250 OK\r\n")

    stage = staged(script)
    content = b"".join(entry.content for entry in entries_of(stage))
    assert content == (private[:MAIL_DATA_OCTETS] if keeps else b"")
    assert ("private" in record_text_of(stage.record)) is keeps


def test_a_session_that_goes_on_and_on_keeps_its_first_and_last_entries() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        for number in range(MOST_ENTRIES):
            await stage.feed(stage.sender, b"NOOP %d\r\n" % number)
            await stage.feed(stage.receiver, b"250 OK\r\n")
        await stage.feed(stage.sender, b"QUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        stage.receiver.feed_fin()
        stage.sender.feed_fin()
        await stage.settle()

    stage = staged(script)
    assert stage.over
    entries, trace = entries_of(stage), stage.record.trace
    assert trace
    assert len(entries) == MOST_ENTRIES
    assert trace.left_out == 3 + 4 * MOST_ENTRIES + 8 - MOST_ENTRIES
    assert entries[3].text == b"NOOP 0"
    assert entries[FIRST_ENTRIES].text == b"NOOP %d" % (MOST_ENTRIES - (MOST_ENTRIES - FIRST_ENTRIES - 8) // 4)


def test_entries_are_made_when_the_trace_is_read() -> None:
    """A session costs 40 % more where they are made while it runs, and most traces are never read."""
    read: list[Trace | None] = []

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        assert stage.tracer
        assert not any(isinstance(note, Entry) for note in stage.tracer.notes.notes)
        read.append(stage.record.trace)
        await stage.feed(stage.sender, b"x\r\n.\r\n")
        read.append(stage.record.trace)

    stage = staged(script)
    (before, after), whole = read, stage.record.trace
    assert before
    assert after
    assert whole
    assert [len(trace.entries) for trace in (before, after)] == [19, 21]
    assert before.entries == after.entries[:19] == whole.entries[:19]


def test_no_more_notes_are_held_than_are_to_be_read_and_a_few() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        assert stage.tracer
        for _ in range(MOST_NOTES):
            await stage.feed(stage.sender, b"XXXX\r\n")
            await stage.feed(stage.receiver, b"500 what\r\n")
            assert len(stage.tracer.notes.notes) <= MOST_NOTES + 1

    staged(script)


def test_what_comes_to_light_behind_a_fin_that_is_left_out_stands_at_the_end() -> None:
    notes = TraceNotes(first_entries=0)
    fin = (1.0, (RECEIVER, SHIM, 1), Kind.FIN, 0, b"", "")
    notes.notes.append(fin)
    for second in range(2, 2 + MOST_ENTRIES):
        notes.notes.append((float(second), (SENDER, SHIM, 1), Kind.COMMAND, 0, b"", ""))
    assert Kind.FIN not in [each.kind for each in notes.trace().entries]
    notes.insert((1000.0, (RECEIVER, SHIM, 1), Kind.DROPPED, 7, b"", ""), before=fin)

    assert notes.trace().entries[-1] == Entry(1000.0, RECEIVER, SHIM, Kind.DROPPED, 7)


def test_a_long_line_is_kept_as_far_as_a_line_may_be() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"NOOP " + b"x" * 5000 + b"\r\n")

    command, forwarded = of_kind(staged(script), Kind.COMMAND)
    assert command.octets == forwarded.octets == 5007
    assert len(command.text) == TEXT_OCTETS + len(b" ...")


@pytest.mark.parametrize("trace", [False, True], ids=["not traced", "traced"])
@pytest.mark.parametrize("trust", [[], ["127.0.0.0/8"]], ids=["sender connects", "proxy connects"])
@pytest.mark.parametrize("sends", [False, True], ids=["leaves at once", "sends a mail"])
async def test_nothing_of_a_session_that_is_over_waits_for_the_garbage_collector(
    sends: bool, trust: list[str], trace: bool
) -> None:
    """A collection stops all sessions for as long as it takes to look through what waits for it."""
    with trio.fail_after(WAIT_SECONDS), FaultyReceiver(Talk.accept) as receiver:
        async with shim(receiver.port, trace=trace, trust=trust) as sut:

            def connected() -> socket.socket:
                sock = socket.create_connection((HOST, sut.port), WAIT_SECONDS)
                if trust:
                    sock.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1025 25\r\n")
                return sock

            gc.collect()
            gc.disable()
            try:
                for count in range(1, 4):
                    if sends:
                        await trio.to_thread.run_sync(sender_of_1999, connected, SMALL)
                    else:
                        connected().close()
                    await sut.watcher.sessions_ended(count)
                await trio.testing.wait_all_tasks_blocked()
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                left = [each for each in gc.garbage if isinstance(each, (Leg, Session, Tracer))]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
    assert left == []


async def test_a_session_that_is_not_traced_has_nothing_of_it() -> None:
    with trio.fail_after(WAIT_SECONDS), TABLE["q152940"].start() as receiver:
        async with shim(receiver.port) as between:
            await trio.to_thread.run_sync(sender_of_1999, between.port, LARGE)
            await between.watcher.sessions_ended()
    (record,) = between.watcher.ended_sessions
    assert record.repairs[Violation.EARLY_REPLY] == 1
    assert record.trace is None


# -- on real sockets


@pytest.mark.parametrize("fault", TABLE.values(), ids=TABLE.keys())
async def test_the_octets_of_every_session_are_all_there(fault: Row) -> None:
    with trio.fail_after(WAIT_SECONDS), fault.start() as receiver:
        async with shim(receiver.port, fault.deadlines, trace=True) as between:
            await trio.to_thread.run_sync(sender_of_1999, between.port, LARGE)
            await between.watcher.sessions_ended()
    for record in between.watcher.ended_sessions:
        check_octets(record)
        assert record.trace
        times = [entry.seconds for entry in record.trace.entries]
        assert times == sorted(times)
        assert [each.violation for each in record.trace.entries if each.violation] == [
            repair.violation for repair in between.watcher.repairs
        ]


def test_a_tracer_needs_no_event_loop_for_its_clock() -> None:
    now = 5.0
    tracer = Tracer(clock=lambda: now)
    now = 7.5

    assert tracer.seconds == 2.5
