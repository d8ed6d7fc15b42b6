"""Sessions that are only observed: octets in are octets out, whatever they are, and what is seen is told."""

from __future__ import annotations

import contextlib
import random
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

from shimproxy import Repairs, Settings, Violation, serve
from shimproxy.config.sources import Sources
from shimproxy.faulty.outcome import Believed
from shimproxy.faulty.receiving import HOST
from shimproxy.help.explain.transcript import Transcript, line_octets
from shimproxy.net.errors import NoMeans
from shimproxy.session.limits import Deadlines
from shimproxy.session.policy import Policy
from shimproxy.smtp.newlines import Newlines
from tests.blocks import blocks
from tests.config.test_settings import settings
from tests.memory import DATA, MAIL, RCPT, Stage, dialogue, offered, staged, up_to_mail_data
from tests.peers.mail import LARGE
from tests.peers.postfix import MAILBOX_DOMAIN, postfix
from tests.peers.processes import need, poll, run
from tests.peers.programs import swaks
from tests.peers.shim import shim
from tests.peers.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECONDS = 60.0
OBSERVING = Policy(repairs=Repairs.OBSERVE)
V = Violation


def observed(script: Callable[[Stage], Any], **more: Any) -> Stage:
    return staged(script, policy=attrs.evolve(OBSERVING, **more))


# -- octets in are octets out

NEVER = {V.WITHHELD_COMMAND, V.NOT_SMTP, V.PLAINTEXT_BEHIND_STARTTLS, V.BARE_NEWLINE}


def _said(transcript: Transcript) -> list[tuple[str, bytes]]:
    """What the peers of a dialogue say, in order, up to where one of them ends."""
    said = []
    for line in transcript.lines:
        if line[1:3] == "> ":
            if line[3:] in ("[FIN]", "[RST]"):
                break
            if not line[3:].startswith(("[takes", "[acknowledges")):
                said.append((line[0], line_octets(line[3:])))
    return said


@pytest.mark.parametrize("piece_octets", [0, 1, 7])
@pytest.mark.parametrize("transcript", Transcript.all(), ids=lambda transcript: transcript.name)
def test_octets_pass_both_ways_as_they_come(transcript: Transcript, piece_octets: int) -> None:
    """What the peers of every dialogue say, which others would have repaired; the trace has each octet once."""
    said = _said(transcript)

    async def script(stage: Stage) -> None:
        for who, octets in said:
            await stage.feed(stage.sender if who == "S" else stage.receiver, octets, piece_octets)
        stage.sender.feed_fin()
        stage.receiver.feed_fin()
        await stage.settle()

    stage = observed(script)
    assert stage.over
    given, got = (b"".join(octets for who, octets in said if who == peer) for peer in "SR")
    if NEVER & {*stage.repaired} and stage.receiver.got_rst:
        assert given.startswith(bytes(stage.receiver.written))
    else:
        assert bytes(stage.receiver.written) == given[: len(stage.receiver.written)]
        assert len(given) - len(stage.receiver.written) <= 7, "a command that may be one that is never let through"
        assert bytes(stage.sender.written) == got
    assert not stage.record.repairs
    assert stage.record.observed


def test_a_sender_that_takes_nothing_holds_up_its_receiver() -> None:
    async def script(stage: Stage) -> None:
        stage.sender.room_octets = 0
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.receiver, b"250 more\r\n")
        assert not stage.sender.written
        stage.sender.room_octets = 1000
        assert stage.sender.leg is not None
        stage.sender.leg.notice(4)
        await stage.settle()

    stage = observed(script)
    assert bytes(stage.sender.written) == b"220 hello\r\n250 more\r\n"


# -- what is seen


@pytest.mark.parametrize(
    ("replies", "seen"),
    [
        ([b"250 ok\r\n"], []),
        ([b"250ok\r\n"], [V.NOT_A_REPLY]),
        ([b"250 ok\n"], [V.REPLY_BARE_NEWLINE]),
        ([b"354 go\r\n", b"250 ok\r\n"], [V.FURTHER_REPLY]),
        ([b"334 go\r\n"], [V.IMPLAUSIBLE_REPLY]),
        ([b"250 ok\r\n", b"250 ok\r\n"], [V.EXTRA_REPLY]),
        ([b"421 bye\r\n"], []),
    ],
)
def test_what_answers_a_mail_is_seen(replies: list[bytes], seen: list[Violation]) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n.\r\n")
        for reply in replies:
            await stage.feed(stage.receiver, reply)

    stage = observed(script)
    assert stage.repaired == seen
    assert bytes(stage.sender.written) == b"".join(replies)
    assert all(repair.observed for repair in stage.account.repairs)


def test_an_early_success_is_passed_on_and_seen() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"250 ok\r\n")
        await stage.feed(stage.sender, b"text\r\n.\r\nQUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        stage.receiver.feed_fin()
        stage.sender.feed_fin()
        await stage.settle()

    stage = observed(script)
    assert stage.repaired == [V.EARLY_SUCCESS]
    assert bytes(stage.receiver.written) == b"text\r\ntext\r\n.\r\nQUIT\r\n"
    assert f"{stage.record.ended_by}/{stage.record.ended_in}" == "sender/QUIT"
    assert (stage.record.transactions, stage.record.accepted) == (1, 1)


def test_a_reply_that_comes_before_the_end_has_arrived_is_early() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.acknowledges = False
        await stage.feed(stage.sender, b"text\r\n.\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")

    assert observed(script).repaired == [V.EARLY_REPLY]


def test_pipelined_commands_and_chunks_are_paired_with_their_replies() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nBDAT 5\r\na\r\n.\r")
        await stage.feed(stage.sender, b"BDAT 7 LAST\r\n\n.\r\nx\r\nQUIT\r\n")
        await stage.feed(stage.receiver, b"250-hi\r\n250 CHUNKING\r\n250 1\r\n250 2\r\n250 3\r\n250 4\r\n221 bye\r\n")
        stage.sender.feed_fin()
        stage.receiver.feed_fin()
        await stage.settle()

    stage = observed(script)
    assert stage.repaired == []
    assert (stage.record.transactions, stage.record.accepted) == (1, 1)


def test_auth_is_told_nobody() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        for said, reply in (
            (b"EHLO x", b"250-hi\r\n250 AUTH LOGIN"),
            (b"AUTH LOGIN", b"334 VXNlcm5hbWU6"),
            (b"c2VjcmV0MQ==", b"334 UGFzc3dvcmQ6"),
            (b"c2VjcmV0Mg==", b"235 in"),
            (b"AUTH PLAIN c2VjcmV0Mw==", b"503 again\r\n250 one c2VjcmV0NA=="),
            (b"QUIT", b"221 bye"),
        ):
            await stage.feed(stage.sender, said + b"\r\n")
            await stage.feed(stage.receiver, reply + b"\r\n")
        stage.sender.feed_fin()
        stage.receiver.feed_fin()
        await stage.settle()

    stage = observed(script)
    assert b"c2VjcmV0Mg==" in stage.receiver.written
    told = b"".join(octets for _, octets in stage.account.dialogue)
    assert stage.record.trace
    told += b"".join(entry.text for entry in stage.record.trace.entries)
    told += repr([repair.detail for repair in stage.account.repairs]).encode()
    assert b"c2VjcmV0" not in told
    assert stage.repaired == [V.EXTRA_REPLY]


def test_after_starttls_nothing_is_read() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"250-hi\r\n250 STARTTLS\r\n")
        await stage.feed(stage.sender, b"STARTTLS\r\n")
        await stage.feed(stage.receiver, b"220 go\r\n")
        await stage.feed(stage.sender, b"\x16\x03\x01XCLIENT \n.\n")
        await stage.feed(stage.receiver, b"\x16\x03\x03250ok\n")
        stage.sender.feed_fin()
        stage.receiver.feed_fin()
        await stage.settle()

    stage = observed(script)
    assert stage.repaired == []
    assert stage.receiver.written.endswith(b"\x16\x03\x01XCLIENT \n.\n")
    assert stage.sender.written.endswith(b"\x16\x03\x03250ok\n")
    assert stage.record.sender_tls == "opaque"


@pytest.mark.parametrize("silent", ["receiver", "sender"])
def test_peers_that_say_nothing_for_long_are_reset(silent: str) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        if silent == "receiver":
            await stage.feed(stage.sender, b"NOOP\r\n")
        await stage.pass_time(Deadlines().opaque)

    stage = observed(script)
    assert stage.repaired == [V.NO_REPLY if silent == "receiver" else V.SENDER_STALLED]
    assert (stage.sender.got_rst, stage.receiver.got_rst) == (True, True)
    assert bytes(stage.sender.written) == b"220 hello\r\n"


@pytest.mark.parametrize("said", [b"NOOP\r\n", b"BDAT 0\r\n", b"x\r\n"])
def test_commands_that_are_not_answered_are_bounded(said: bytes) -> None:
    """Of a flood no more is kept than a session that repairs would keep; all of it passes as replies come."""
    count, piece = 4000, said * 100

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        for _ in range(count // 100):
            await stage.feed(stage.sender, piece)
        assert stage.receiver.written.count(said) < 2000
        for _ in range(count // 100):
            await stage.feed(stage.receiver, b"250 ok\r\n" * 100)

    stage = observed(script)
    assert bytes(stage.receiver.written) == said * count
    assert stage.sender.written.count(b"250 ok\r\n") == count


@pytest.mark.parametrize("first", [b"DATA\r\n", b"AUTH PLAIN\r\n"])
def test_what_is_said_ahead_of_a_reply_is_bounded(first: bytes) -> None:
    block = b"x" * 998 + b"\r\n"

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, first)
        for _ in range(300):
            await stage.feed(stage.sender, block)
        assert len(stage.receiver.written) < 200_000
        await stage.feed(stage.receiver, b"354 go\r\n" if first == b"DATA\r\n" else b"235 ok\r\n")
        await stage.feed(stage.receiver, b"500 what\r\n" * 300)

    stage = observed(script)
    assert bytes(stage.receiver.written) == first + block * 300


# -- what is never let through

SMUGGLED = b"MAIL FROM:<admin@b>\r\nRCPT TO:<b@c>\r\nDATA\r\nhello\r\n.\r\n"


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\n", b"\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n"]
)
@pytest.mark.parametrize("seed", range(4))
def test_no_end_of_a_mail_for_a_lax_receiver_is_let_through(end: bytes, seed: int) -> None:
    """However it is cut: the receiver is reset before the last octet of it, and the sender has one refusal."""
    octets, cuts = b"first" + end + SMUGGLED, random.Random(seed)

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        at = 0
        while at < len(octets):
            step = 1 if seed == 0 else cuts.randint(1, 9)
            await stage.feed(stage.sender, octets[at : at + step])
            at += step

    stage = observed(script)
    assert end not in bytes(stage.receiver.written)
    assert b"MAIL" not in stage.receiver.written
    assert stage.receiver.got_rst
    assert bytes(stage.sender.written) == b"550 mail data with a bare CR, bare LF or NUL in them\r\n"
    assert stage.repaired == [V.BARE_NEWLINE]


def test_other_bare_newlines_pass_and_are_seen() -> None:
    octets = b"a\nb\rc\0d\n..\ne\r\n.\r\n"

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, octets)
        await stage.feed(stage.receiver, b"250 ok\r\n")

    stage = observed(script)
    assert bytes(stage.receiver.written) == octets
    (seen,) = stage.account.repairs
    assert (seen.violation, seen.detail["count"], seen.detail["newlines"]) == (V.BARE_NEWLINE, 5, "normalise")
    assert (seen.detail["bare_lf"], seen.detail["bare_cr"], seen.detail["nul"]) == (3, 1, 1)


def test_with_newlines_reject_none_passes_and_with_pass_all_do() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"a\nb\r\n.\r\n")

    stage = observed(script, newlines=Newlines.REJECT)
    assert (bytes(stage.receiver.written), stage.receiver.got_rst) == (b"", True)
    assert stage.sender.written.startswith(b"550 ")

    async def smuggle(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"a\n.\nb\r\n.\r\n")

    assert bytes(observed(smuggle, newlines=Newlines.PASS).receiver.written) == b"a\n.\nb\r\n.\r\n"


@pytest.mark.parametrize("said", [b"XCLIENT ADDR=1.2.3.4\r\n", b"xforward NAME=a\r\n", b"PROXY TCP4 1.2.3.4 5 6 7\r\n"])
@pytest.mark.parametrize("piece_octets", [0, 1, 5])
def test_no_sender_says_who_it_is(said: bytes, piece_octets: int) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, said, piece_octets)

    stage = observed(script)
    assert bytes(stage.receiver.written) == b""
    assert b"421 " in stage.sender.written


@pytest.mark.parametrize("first", [b"DATA", b"AUTH PLAIN"])
@pytest.mark.parametrize("piece_octets", [0, 1, 5])
def test_no_sender_says_who_it_is_behind_a_command_that_may_be_refused(first: bytes, piece_octets: int) -> None:
    """It may be mail data; but once the receiver has it, a refusal makes it a command."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, first + b"\r\nNOOP\r\nxclient ADDR=1.2.3.4\r\nMAIL FROM:<a@b>\r\n", piece_octets)
        assert bytes(stage.receiver.written) == first + b"\r\nNOOP\r\n"
        await stage.feed(stage.receiver, b"503 no\r\n250 ok\r\n")

    stage = observed(script)
    assert bytes(stage.receiver.written) == first + b"\r\nNOOP\r\n"
    assert stage.receiver.got_rst
    assert V.WITHHELD_COMMAND in stage.repaired


def test_a_receiver_that_disconnects_before_it_refuses_is_told_no_claim() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"DATA\r\nXCLIENT ADDR=1.2.3.4\r\n")
        stage.receiver.feed_fin()
        await stage.settle()

    stage = observed(script)
    assert bytes(stage.receiver.written) == b"DATA\r\n"
    assert b"421 not let through" in stage.sender.written


def test_what_a_sender_says_after_its_receiver_has_ended_passes_and_waits_for_nothing() -> None:
    """A receiver may half-close."""
    said = [b"NOOP\r\n", b"BDAT 3 LAST\r\nabc", b"DATA\r\n", b"NOOP\r\n"]

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        for each in said:
            await stage.feed(stage.sender, each)
        stage.sender.feed_fin()
        await stage.settle()

    stage = observed(script)
    assert bytes(stage.receiver.written) == b"".join(said)
    assert stage.over


@pytest.mark.parametrize("piece_octets", [0, 1, 5])
@pytest.mark.parametrize("before", [b"", b"text\r\n", b"\n" + b" " * 100], ids=["first", "after a line", "indented"])
@pytest.mark.parametrize("at", [0, 2], ids=["within", "over its end"])
def test_no_sender_says_who_it_is_in_a_chunk_that_was_not_offered(at: int, before: bytes, piece_octets: int) -> None:
    """A receiver that knows no chunks, or offers none, reads one as commands."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"250-hi\r\n250 SIZE\r\n")
        ends_at = len(before) + at if at else 0  # where the chunk ends, in the midst of the word
        chunk = before + b"XCLIENT ADDR=127.0.0.1\r\n"
        await stage.feed(stage.sender, b"BDAT %d\r\n%s" % (ends_at or len(chunk), chunk), piece_octets)
        assert b"XC" not in stage.receiver.written

    stage = observed(script)
    assert stage.receiver.got_rst
    assert stage.repaired == [V.WITHHELD_COMMAND]
    assert b"421 not let through" in stage.sender.written


@pytest.mark.parametrize("piece_octets", [0, 1, 5])
@pytest.mark.parametrize(
    "text", [b"an xclient is\r\n  Xclients, proxy: off\r\n", b" " * 100 + b"xc\r\nX-Mailer: x\r\n"]
)
def test_other_chunks_that_were_not_offered_pass(text: bytes, piece_octets: int) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"BDAT %d\r\n%sNOOP\r\n" % (len(text), text), piece_octets)

    stage = observed(script)
    assert bytes(stage.receiver.written) == b"BDAT %d\r\n%sNOOP\r\n" % (len(text), text)


@pytest.mark.parametrize("end", ["at once", "later"])
@pytest.mark.parametrize("piece_octets", [0, 1, 5])
def test_what_looks_like_such_a_command_passes_once_it_is_mail_data(end: str, piece_octets: int) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"DATA\r\nproxy: off\r\nPROXY x\r\n.\r\nQUIT\r\n", piece_octets)
        if end == "at once":
            stage.sender.feed_fin()
            await stage.settle()
        assert not stage.receiver.got_fin
        await stage.feed(stage.receiver, b"354 go\r\n")
        stage.sender.feed_fin()
        await stage.feed(stage.receiver, b"250 ok\r\n221 bye\r\n")
        stage.receiver.feed_fin()
        await stage.settle()

    stage = observed(script)
    assert bytes(stage.receiver.written) == b"DATA\r\nproxy: off\r\nPROXY x\r\n.\r\nQUIT\r\n"
    assert bytes(stage.sender.written) == b"220 hello\r\n354 go\r\n250 ok\r\n221 bye\r\n"
    assert stage.receiver.got_fin
    assert stage.record.accepted == 1


@pytest.mark.parametrize("leg", ["sender", "receiver"])
@pytest.mark.parametrize("telling", [True, False])
def test_text_behind_starttls_is_not_let_through(leg: str, telling: bool) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"STARTTLS\r\n" + (b"MAIL FROM:<a@b>\r\n" if leg == "sender" else b""))
        await stage.feed(stage.receiver, b"220 go\r\n" + (b"250 injected\r\n" if leg == "receiver" else b""))

    stage = staged(script, policy=OBSERVING, telling=telling)
    assert stage.repaired == [V.PLAINTEXT_BEHIND_STARTTLS]
    assert b"MAIL" not in stage.receiver.written
    assert b"injected" not in stage.sender.written
    assert stage.receiver.got_rst


def test_with_newlines_reject_a_bare_newline_in_a_command_ends_the_session() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"NOOP\n")

    stage = observed(script, newlines=Newlines.REJECT)
    assert (bytes(stage.receiver.written), stage.repaired) == (b"", [V.BARE_NEWLINE])


def test_lmtp_and_a_greeting_that_is_none_are_observed() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"354 hello\r\n")
        verdicts = (b"text\r\n.", b"250 1\r\n552 2")
        await dialogue(stage, (b"LHLO x", b"250 hi"), MAIL, RCPT, RCPT, DATA, verdicts, (b"QUIT", b"221 bye"))

    stage = observed(script, lmtp=True)
    assert stage.repaired == [V.NO_GREETING]
    assert stage.record.transactions == 1


def test_a_known_command_after_a_refused_data_is_one() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"DATA\r\nRSET\r\n")
        await stage.feed(stage.receiver, b"503 no\r\n250 ok\r\n")

    assert observed(script).repaired == []


@pytest.mark.parametrize("when", ["at rest", "in a mail"])
def test_a_stop_waits_for_the_end_of_a_mail(when: str) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        if when == "in a mail":
            stage.session.stop_when_idle()
            await stage.settle()
            assert not stage.over
        await stage.feed(stage.sender, b".\r\n")
        await stage.feed(stage.receiver, b"250 ok\r\n")
        if when == "at rest":
            stage.session.stop_when_idle()
            await stage.settle()

    stage = observed(script)
    assert bytes(stage.sender.written) == b"250 ok\r\n421 service shutting down\r\n"


@pytest.mark.parametrize("who", ["sender", "receiver"])
def test_a_reset_passes_on_and_what_the_receiver_has_said_before_it(who: str) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        (stage.sender if who == "sender" else stage.receiver).feed_rst()
        await stage.settle()

    stage = observed(script)
    assert stage.repaired == [V.VANISHED_IN_DATA if who == "sender" else V.RESET_IN_DATA]
    assert (stage.receiver if who == "sender" else stage.sender).got_rst


def test_a_stop_is_made_once_the_verdict_has_passed() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n.\r\n")
        stage.session.stop_when_idle()
        await stage.feed(stage.receiver, b"250 ok\r\n")

    assert bytes(observed(script).sender.written).endswith(b"250 ok\r\n421 service shutting down\r\n")


def test_where_there_is_no_receiver_the_sender_gets_421() -> None:
    async def main() -> Stage:
        async with trio.open_nursery() as nursery:
            stage = Stage(nursery, clock, policy=OBSERVING)
            stage.reachable = False
            await stage.start()
            nursery.cancel_scope.cancel()
        return stage

    clock = trio.testing.MockClock()
    stage = trio.run(main, clock=clock)
    assert stage.sender.written.startswith(b"421 ")
    assert stage.repaired == [V.UNREACHABLE]


def test_a_sender_that_disconnects_in_mail_data_that_are_not_let_through_is_not_waited_for() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"a\n.\nmore")
        stage.sender.feed_fin()
        await stage.settle()

    assert observed(script).over


# -- by name

EARLY = Policy(observed=frozenset({V.EARLY_REPLY}))


def test_an_early_refusal_of_a_chunk_passes_at_once_and_answers_the_others() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        await dialogue(stage, MAIL, RCPT)
        stage.sender.written.clear()
        await stage.feed(stage.sender, b"BDAT 6\r\na\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        assert bytes(stage.sender.written) == b"552 too big\r\n"
        await stage.feed(stage.sender, b"b\r\nBDAT 3 LAST\r\nc\r\n")

    stage = staged(script, policy=EARLY)
    assert bytes(stage.sender.written) == b"552 too big\r\n" * 2
    assert [(each.violation, each.observed) for each in stage.account.repairs] == [(V.EARLY_REPLY, True)]


@pytest.mark.parametrize("end", ["vanishes", "stalls"])
def test_a_sender_that_does_not_end_its_mail_after_an_early_refusal_gets_no_second_one(end: str) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        if end == "vanishes":
            stage.sender.feed_fin()
            await stage.settle()
        else:
            await stage.pass_time(10_000)
            await stage.pass_time(10_000)

    stage = staged(script, policy=EARLY)
    given = bytes(stage.sender.written)
    assert given == b"552 too big\r\n" + (b"" if end == "vanishes" else b"421 timeout, closing connection\r\n")


def test_an_early_success_is_never_passed_on_by_a_name() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"250 ok\r\n")
        await stage.feed(stage.sender, b".\r\n")

    assert staged(script, policy=EARLY).sender.written.startswith(b"451 ")


def test_lmtp_has_all_its_early_refusals_at_once() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await dialogue(stage, (b"LHLO x", b"250 hi"), MAIL, RCPT, RCPT, DATA)
        stage.sender.written.clear()
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"552 1\r\n552 2\r\n")
        assert bytes(stage.sender.written) == b"552 1\r\n552 2\r\n"
        await stage.feed(stage.sender, b".\r\n")

    stage = staged(script, policy=attrs.evolve(EARLY, lmtp=True))
    assert bytes(stage.sender.written) == b"552 1\r\n552 2\r\n"


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        (V.MISSING_TEXT, b"250\r\n"),
        (V.MIXED_CODES, b"550-a\r\n551 b\r\n"),
        (V.NOT_A_REPLY, b"250ok\r\n"),
        (V.NOT_A_REPLY, b"250-a\r\nnoise\r\n250 b\r\n"),
        (V.REPLY_BARE_NEWLINE, b"250 a\rb\0c\n"),
        (V.REPLY_LONG_LINE, b"250 " + b"x" * 600 + b"\r\n"),
    ],
)
def test_a_reply_in_bad_form_passes_by_its_name_and_is_repaired_without_it(name: Violation, reply: bytes) -> None:
    async def script(stage: Stage) -> None:
        await offered(stage)
        await stage.feed(stage.sender, b"NOOP\r\n")
        await stage.feed(stage.receiver, reply)

    passed = staged(script, policy=Policy(observed=frozenset({name})))
    assert bytes(passed.sender.written) == reply
    assert [(each.violation, each.observed) for each in passed.account.repairs] == [(name, True)]
    for policy in (Policy(), EARLY):
        repaired = staged(script, policy=policy)
        assert bytes(repaired.sender.written) != reply
        assert [(each.violation, each.observed) for each in repaired.account.repairs] == [(name, False)]


def test_an_ehlo_reply_that_is_changed_is_in_good_form() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.receiver, b"250-hi\n250-XCLIENT\n250 DSN\n")

    stage = staged(script, policy=Policy(observed=frozenset({V.REPLY_BARE_NEWLINE})))
    assert bytes(stage.sender.written) == b"250-hi\r\n250 DSN\r\n"


# -- settings


def test_a_listener_of_the_page_observes_and_the_other_repairs(tmp_path: Path) -> None:
    file = tmp_path / "shimproxy.toml"
    file.write_text(blocks("observe", "settings-file")["settings-file"])
    found = Sources.gather({}, {}, str(file)).settings()
    assert [found.of(listener).repairs for listener in found.listen] == [Repairs.REPAIR, Repairs.OBSERVE]
    assert found.observed_at == ("0.0.0.0:2525",)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"receiver_tls": "required"}, "receiver_tls is required; set it to off or implicit, or set repairs to repair"),
        ({"xclient": True}, "xclient is on; turn it off, or set repairs to repair"),
        ({"login_user": "u", "login_secret": "s", "login_in_clear": True}, "login_user is given; remove it, or set"),
        ({"listen": "127.0.0.1:0,lf-only-devices"}, "listener 127.0.0.1:0: what lf-only-devices send is always made"),
    ],
)
def test_settings_that_change_octets_are_refused(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        settings(repairs="observe", **more)


# -- real programs


@pytest.mark.once
async def test_a_mail_of_swaks_passes_to_postfix_and_nothing_is_seen() -> None:
    with trio.fail_after(SECONDS), postfix() as receiver:
        before = receiver.count("contents")
        async with shim(receiver.port, repairs="observe") as between:
            where = ["--server", HOST, "--port", str(between.port), "--helo", "swaks.example"]
            what = ["--from", "a@sender.example", "--to", f"contents@{MAILBOX_DOMAIN}"]
            ended = await trio.to_thread.run_sync(run, [need("swaks"), *where, *what])
            await between.watcher.sessions_ended()
        poll(lambda: receiver.count("contents") > before, "a mail stored")
    assert ended.status == 0, ended.account
    assert between.watcher.repairs == []
    (record,) = between.watcher.ended_sessions
    assert (record.observed, record.transactions, record.accepted) == (True, 1, 1)


@pytest.mark.once
async def test_what_would_be_repaired_is_seen_while_swaks_fares_as_without_shimproxy() -> None:
    row = TABLE["early-552-drains"]
    with trio.fail_after(SECONDS), row.start() as receiver:
        async with shim(receiver.port, row.deadlines, repairs="observe") as between:
            outcome = await trio.to_thread.run_sync(swaks, between.port, LARGE)
            await between.watcher.sessions_ended()
    assert outcome.believed is not Believed.DELIVERED
    (record,) = between.watcher.ended_sessions
    assert V.EARLY_REPLY in record.seen
    assert not record.repairs


# -- what a leg that breaks leaves behind


def test_what_the_receiver_has_said_to_a_sender_that_takes_nothing_more_is_seen() -> None:
    """Its first write tells that the sender has reset."""

    async def script(stage: Stage) -> None:
        await offered(stage)
        stage.sender.fails_to_take = True
        await stage.feed(stage.receiver, b"250 nobody asked\r\n" * 1000)

    stage = observed(script)
    assert V.EXTRA_REPLY in stage.repaired
    assert stage.receiver.got_rst


def test_a_receiver_that_takes_nothing_more_is_heard_for_a_while() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage)
        stage.receiver.fails_to_take = True
        stage.receiver.holds(b"250 nobody asked\r\n" * 10_000)
        await stage.feed(stage.sender, b"NOOP\r\n")

    stage = observed(script)
    assert stage.sender.got_rst
    assert stage.sender.written.startswith(b"250 nobody asked\r\n")


@pytest.mark.parametrize("telling", [True, False])
def test_mail_data_that_are_not_let_through_are_read_to_their_end(telling: bool) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"a\n.\n")
        await stage.feed(stage.sender, b"more\r\n")
        await stage.feed(stage.sender, b".\r\n")

    stage = staged(script, policy=OBSERVING, telling=telling)
    assert stage.over
    assert stage.receiver.got_rst


def test_after_starttls_nothing_is_traced_without_a_trace() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"STARTTLS\r\n")
        await stage.feed(stage.receiver, b"220 go\r\n")
        await stage.feed(stage.sender, b"\x16\x03\x01")

    assert bytes(staged(script, policy=OBSERVING, telling=False).receiver.written) == b"STARTTLS\r\n\x16\x03\x01"


@pytest.mark.parametrize("end", ["taken", "reset"])
def test_what_a_peer_takes_in_parts_is_traced_once(end: str) -> None:
    """And of what it does not take, nothing: octets of the legs and of the trace are compared by `staged`."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.room_octets = 5
        await stage.feed(stage.sender, b"twelve octets\r\n")
        if end == "taken":
            stage.receiver.take(100)
        else:
            stage.receiver.feed_rst()
        await stage.settle()

    stage = observed(script)
    assert bytes(stage.receiver.written) == b"twelve octets\r\n"[: None if end == "taken" else 5]


# -- the receiver that is observed


async def greeting_of(*receivers: str, **more: Any) -> bytes:
    """What a sender is told first by a shimproxy that observes, before these receivers."""
    async with trio.open_nursery() as nursery:
        settings = Settings(listen=[f"{HOST}:0"], receiver=receivers, repairs=Repairs.OBSERVE, **more)
        (address, *_) = await nursery.start(serve, settings)
        with trio.fail_after(SECONDS):
            stream = await trio.open_tcp_stream(HOST, address.port)
            told = await stream.receive_some()
            await stream.aclose()
        nursery.cancel_scope.cancel()
    return bytes(told)


async def greet(stream: trio.SocketStream) -> None:
    await stream.send_all(b"220 here\r\n")


async def test_the_next_receiver_is_dialled_where_the_first_is_not_there() -> None:
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, greet, 0, host=HOST))
        with socket.socket() as closed:
            closed.bind((HOST, 0))
            dead, alive = closed.getsockname()[1], listener.socket.getsockname()[1]
            assert await greeting_of(f"{HOST}:{dead}", f"{HOST}:{alive}") == b"220 here\r\n"
        nursery.cancel_scope.cancel()


async def test_a_receiver_whose_tls_fails_is_left_for_the_next_one() -> None:
    left: list[bool] = []

    async def speaks_in_the_clear(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"220 no TLS here\r\n")
            while await stream.receive_some():
                pass
        left.append(True)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, speaks_in_the_clear, 0, host=HOST))
        where = f"{HOST}:{listener.socket.getsockname()[1]}"
        told = await greeting_of(where, where.replace("127.0.0.1", "localhost"), receiver_tls="implicit")
        assert told.startswith(b"421 ")
        while len(left) < 2:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_without_a_descriptor_for_the_receiver_no_other_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Any:
        raise NoMeans("no file descriptor is left")

    monkeypatch.setattr("shimproxy.net.dial._begin", fails)
    assert (await greeting_of(f"{HOST}:1", f"{HOST}:2")).startswith(b"421 ")
