"""The probe against receivers that behave and that don't: it tells the truth about each, and no mail comes of it.

Where a receiver is to be silent, patience is small; everywhere else it is long and waits for nothing. A mail is large
against the buffers between the two, so that a receiver has read, and so has spoken, before the last of it is written.
"""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from shimproxy.cli import main
from shimproxy.faulty.receiving import HOST, FaultyReceiver, speaking
from shimproxy.faulty.talk import EHLO, Talk
from shimproxy.net.address import Address
from shimproxy.net.errors import DialFailed
from shimproxy.probe import report as probe_report
from shimproxy.probe.account import MOST_UNASKED, ConnectionEnd, MailDataSeen
from shimproxy.probe.mail import mail_blocks
from shimproxy.probe.probe import Probe, ProbePlan, run
from shimproxy.probe.questions import QUESTIONS
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Verb
from tests.peers.exim import exim
from tests.peers.postfix import MAILBOX_DOMAIN, postfix
from tests.peers.processes import poll
from tests.peers.programs import smtp_sink
from tests.peers.shim import shim
from tests.peers.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 60.0
OCTETS = 4 * 1024 * 1024
SHORT_SECONDS = 0.7
PLAN = ProbePlan(receiver=Address(HOST, 25), patience_seconds=30, listen_seconds=0.02, octets=OCTETS)
RECIPIENT = f"contents@{MAILBOX_DOMAIN}"
V = Violation


@attrs.define(eq=False)
class Probed:
    """A probe that was made, and what it has told."""

    probe: Probe
    lines: list[tuple[str, str]]

    @property
    def names(self) -> set[Violation]:
        return set(self.probe.account.violations)

    @property
    def text(self) -> str:
        told = [f"{label}: {text}" for label, text in self.lines]
        return "\n".join(told + probe_report.of_violations(self.probe.account, 500))


async def probed(port: int, *, without_mail: bool = True, mail: bool = False, **changes: Any) -> Probed:
    lines: list[tuple[str, str]] = []
    plan = attrs.evolve(PLAN, receiver=Address(HOST, port), **changes)
    probe = Probe(plan, lines.append, (socket.AF_INET, (HOST, port)))
    with trio.fail_after(SECONDS):
        if without_mail:
            await probe.without_mail()
        else:
            probe.plan_mail()
        if mail:
            await probe.mail_data()
    return Probed(probe, lines)


def scripted(replies: dict[str, bytes], greeting: bytes = b"220 hello\r\n") -> FaultyReceiver:
    """A receiver whose replies to some verbs are these, as they stand; it closes after QUIT."""
    known = {"EHLO": b"250-here\r\n250 PIPELINING\r\n", "QUIT": b"221 bye\r\n"} | replies

    def dialogue(talk: Talk) -> None:
        talk.say(greeting)
        verb = ""
        while verb != "QUIT":
            verb = talk.line()[:4].decode()
            talk.say(known.get(verb, b"250 ok\r\n"))

    return speaking(dialogue)


# -- real receivers


async def test_postfix_has_nothing_wrong_and_no_mail() -> None:
    with postfix(size_limit_octets=1_000_000) as receiver:
        seen = await probed(receiver.port, mail=True, octets=None, recipient=RECIPIENT)
        poll(lambda: "lost connection after DATA" in receiver.log, "told by Postfix's log")
        delivered, log = receiver.count("contents"), receiver.log
    account = seen.probe.account
    assert seen.names == set(), seen.text
    assert (delivered, "status=" in log) == (0, False)
    assert account.dialogue.keywords["SIZE"] == "1000000"
    assert account.larger_mail.reply is not None
    assert account.larger_mail.reply.code == 552
    assert (account.pipelining.same, account.pipelining.shows_order) == (True, True)
    assert [reply.code for reply in account.pipelining.together] == [250, 250, 250, 250, 250, 221]
    assert "EHLO again: accepted, with the same answer as the first one" in seen.text
    assert [reply.code for reply in account.early_talk.replies] == [220, 250]
    assert account.bare_newline.reply is not None
    assert account.mail_data.octets_taken > 1_000_000
    assert "more than its SIZE; no reply before the end, as it should be" in seen.text
    assert "The probe saw no violation in what it tried: " in seen.text


async def test_exim_has_nothing_wrong_and_no_mail() -> None:
    with exim(daemon=True) as receiver:
        seen = await probed(receiver.port, mail=True, octets=100_000, recipient=RECIPIENT)
        poll(lambda: "lost while reading message data" in receiver.log, "told by Exim's log")
        delivered, log = receiver.count("contents"), receiver.log
    assert seen.names == set(), seen.text
    assert (delivered, " => " in log) == (0, False)
    assert [reply.code for reply in seen.probe.account.early_talk.replies] == [220, 250]  # it offers PIPECONNECT
    assert seen.probe.account.mail_data.replies == []


async def test_smtp_sink_that_violates_smtp_is_found_out() -> None:
    with smtp_sink("-A", "0") as port:
        seen = await probed(port, mail=True, patience_seconds=SHORT_SECONDS)
    assert V.EARLY_REPLY in seen.names
    assert seen.names - {V.EARLY_REPLY} <= {V.CLOSED_IN_DATA, V.RESET_IN_DATA, V.MISSING_TEXT}
    assert "octets: 550 This violates SMTP" in seen.text
    assert V.EARLY_REPLY.repair in seen.text
    assert seen.probe.account.bare_newline.reply is None  # it waits for CRLF
    assert "not offered through shimproxy: XCLIENT, XFORWARD" in seen.text


async def test_through_the_shim_the_same_receiver_violates_nothing() -> None:
    with smtp_sink("-A", "0") as port:
        async with shim(port) as between:
            seen = await probed(between.port, mail=True)
            with trio.fail_after(SECONDS):
                await between.watcher.sessions_ended(8)
    assert seen.names == set(), seen.text
    assert "no reply before the end, as it should be" in seen.text
    assert {repair.violation for repair in between.watcher.repairs} >= {V.EARLY_TALK, V.BARE_NEWLINE}


# -- receivers with a fault in mail data


GONE = {V.CLOSED_IN_DATA, V.RESET_IN_DATA}


@pytest.mark.parametrize(
    ("name", "names", "ends", "told"),
    [
        ("no-reply-at-all", set(), {ConnectionEnd.NOT}, "no reply before the end, as it should be"),
        ("q152940", {V.EARLY_REPLY, V.FURTHER_REPLY}, {ConnectionEnd.FIN}, "FIN; after its first reply it took"),
        (
            "q152940-rst",
            {V.EARLY_REPLY, V.FURTHER_REPLY, V.RESET_IN_DATA},
            {ConnectionEnd.RST},
            "octets: 421 Service not",
        ),
        ("iis-reset", {V.EARLY_REPLY, V.RESET_IN_DATA}, {ConnectionEnd.RST}, "552 4.3.1 Session size exceeds"),
        ("early-552-drains", {V.EARLY_REPLY}, {ConnectionEnd.NOT}, "no close; after its first reply it took"),
        ("early-552-shuts-its-window", {V.EARLY_REPLY}, {ConnectionEnd.NOT}, " octets more, then none"),
        (
            "cisco-second-552-at-twice",
            {V.EARLY_REPLY, V.FURTHER_REPLY, *GONE},
            {ConnectionEnd.FIN, ConnectionEnd.RST},
            "octets: 552 #5.3.4",
        ),
        (
            "mailpit",
            {V.EARLY_REPLY, V.FURTHER_REPLY},
            {ConnectionEnd.NOT},
            "it seems to read the rest of a mail as commands",
        ),
        ("early-250", {V.EARLY_SUCCESS}, {ConnectionEnd.NOT}, "may deliver the part that it has"),
        ("repeated-354", {V.FURTHER_REPLY}, {ConnectionEnd.NOT}, "354"),
        ("both-354-and-552-in-one-segment", {V.EARLY_REPLY}, {ConnectionEnd.NOT}, "552"),
        ("early-bare-newline", {V.EARLY_REPLY, V.REPLY_BARE_NEWLINE}, {ConnectionEnd.NOT}, "552 5.3.4 too big"),
        ("no-crlf-before-fin", {V.EARLY_REPLY, V.CUT_OFF, V.CLOSED_IN_DATA}, {ConnectionEnd.FIN}, "552 5.3.4 too big"),
        (
            "early-nonsense",
            {V.NOT_A_REPLY, V.IMPLAUSIBLE_REPLY, *GONE},
            {ConnectionEnd.FIN, ConnectionEnd.RST},
            "panic: runtime error",
        ),
        ("fin-without-a-verdict", {V.CLOSED_IN_DATA}, {ConnectionEnd.FIN}, "FIN without a reply"),
        ("rst-without-a-verdict", {V.RESET_IN_DATA}, {ConnectionEnd.RST}, "RST without a reply"),
        ("says-250-to-data", {V.IMPLAUSIBLE_REPLY}, {ConnectionEnd.NOT}, "not tried: DATA was answered by 250 Ok"),
    ],
)
async def test_a_fault_in_mail_data(name: str, names: set[Violation], ends: set[ConnectionEnd], told: str) -> None:
    with FaultyReceiver(TABLE[name].fault.on_data, tight=True) as receiver:
        seen = await probed(receiver.port, without_mail=False, mail=True, listen_seconds=0.2, stall_seconds=0.3)
    if names >= GONE:  # which of the two depends on what lay unread
        assert len(seen.names & GONE) == 1
        assert seen.names | GONE == names, seen.text
    else:
        assert seen.names == names, seen.text
    assert seen.probe.account.mail_data.end in ends
    assert told in seen.text
    assert all(violation.repair in seen.text for violation in seen.names)
    assert receiver.seen.mails == []
    assert not {line[:4] for line in receiver.seen.run} & {verb.value.encode() for verb in Verb}


async def test_a_receiver_that_takes_no_more() -> None:
    with FaultyReceiver(TABLE["shuts-its-window-in-silence"].fault.on_data, tight=True) as receiver:
        seen = await probed(receiver.port, without_mail=False, mail=True, patience_seconds=SHORT_SECONDS)
    assert seen.names == {V.STALLED_IN_DATA}
    assert f"octets, then none for {SHORT_SECONDS:g} s, and said nothing" in seen.text
    assert receiver.seen.mails == []


async def test_a_receiver_that_refuses_the_recipient_sees_no_mail_data() -> None:
    with scripted({"RCPT": b"550 5.7.1 relaying denied\r\n"}) as receiver:
        seen = await probed(receiver.port, mail=True)
    assert seen.names == set(), seen.text
    assert "Large mail: not tried: RCPT TO:<postmaster> was answered by 550 5.7.1 relaying denied" in seen.text


NAME_RECIPIENT = "name one that it takes by --to, or a sender by --from"


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        ({"RCPT": b"513 Syntax error.\r\n"}, f"513 Syntax error.; {NAME_RECIPIENT}"),
        ({"RCPT": b"450 later\r\n"}, f"450 later; try again later, or {NAME_RECIPIENT}"),
        ({"MAIL": b"550 no null path\r\n"}, "550 no null path; name one that it takes by --from"),
        ({"MAIL": b"530 5.7.0 AUTH first\r\n"}, "530 5.7.0 AUTH first; it wants AUTH or STARTTLS before"),
        ({"DATA": b"554 no valid recipients\r\n"}, f"554 no valid recipients; {NAME_RECIPIENT}"),
    ],
)
async def test_where_no_mail_could_be_tried_the_mend_is_named_and_nothing_promised(
    replies: dict[str, bytes], told: str
) -> None:
    with scripted(replies) as receiver:
        seen = await probed(receiver.port, mail=True)
    assert seen.names == set(), seen.text
    assert told in seen.text
    assert "The probe saw no violation without a mail. It tried nothing in mail data" in seen.text
    assert "repair nothing" not in seen.text


async def test_where_there_was_no_session_nothing_is_promised() -> None:
    with scripted({"EHLO": b"550 not you\r\n", "HELO": b"550 nor so\r\n", "LHLO": b"550 no\r\n"}) as receiver:
        seen = await probed(receiver.port, mail=True)
    assert seen.names == set(), seen.text
    assert "The probe could try nothing: without EHLO or HELO there is no session." in seen.text
    assert "repair nothing" not in seen.text
    assert "LMTP" not in seen.text


# -- what a receiver holds against whoever asks it


async def test_what_the_probe_provokes_is_not_held_against_the_receiver() -> None:
    """Courier pauses after each command that it refuses, longer each time; this one, for ever."""
    ehlo = b"250-here\r\n250-SIZE 1000\r\n250 PIPELINING\r\n"

    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        said = list[bytes]()
        while (verb := (line := talk.line())[:4]) != b"QUIT":
            known = verb in (b"EHLO", b"MAIL", b"RSET", b"NOOP") and b"SIZE=" not in line
            if not known or verb == b"EHLO" in said or verb == b"MAIL" == said[-1]:
                talk.say(b"502 no\r\n")
                return talk.read_on()
            said.append(verb)
            talk.say(ehlo if verb == b"EHLO" else b"250 %s ok\r\n" % verb)
        talk.say(b"221 bye\r\n")

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port, mail=True, patience_seconds=SHORT_SECONDS)
    assert seen.names == set(), seen.text
    assert "EHLO again: 502 no; it takes one EHLO in a session" in seen.text
    assert "1,000 octets; to a MAIL that declares one more: 502 no" in seen.text
    assert "in one write: a reply each, as one by one (250 250 250 250 250 221)\n" in seen.text
    assert "Unknown: XSHIMPROXY: 502 no" in seen.text
    assert "RCPT TO:<postmaster> was answered by 502 no" in seen.text


async def test_a_pause_after_an_envelope_that_is_refused_is_not_held_against_the_receiver() -> None:
    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        while (verb := talk.line()[:4]) != b"QUIT":
            if verb == b"MAIL":
                talk.say(b"530 5.7.0 AUTH first\r\n")
                return talk.read_on()
            talk.say(b"250-here\r\n250 PIPELINING\r\n" if verb == b"EHLO" else b"250 ok\r\n")
        talk.say(b"221 bye\r\n")

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port, mail=True, patience_seconds=SHORT_SECONDS)
    assert seen.names == set(), seen.text
    assert "530 5.7.0 AUTH first; it wants AUTH or STARTTLS before" in seen.text
    assert "RSET, MAIL, RSET, MAIL, RSET, QUIT: 250 530 and no more, in one write as one by one" in seen.text


@pytest.mark.parametrize(
    ("again", "names", "told"),
    [
        (b"503 5.5.1 Already identified\r\n", set(), "503 5.5.1 Already identified; it takes one EHLO in a session"),
        (b"250-there\r\n250 PIPELINING\r\n", set(), "accepted, with the same answer as the first one"),
        (b"250-here\r\n250 SIZE 9\r\n", set(), "accepted, but with another answer than the first one: 250 here"),
        (b"250\r\n", {V.MISSING_TEXT}, "accepted, but with another answer"),
        (b"", {V.CLOSED_WITH_COMMANDS_OPEN}, "FIN; a sender that repeats EHLO gets no answer"),
    ],
)  # fmt: skip
async def test_ehlo_is_said_twice(again: bytes, names: set[Violation], told: str) -> None:
    first = b"250-here\r\n250 PIPELINING\r\n"

    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        replies = iter((first, again))
        while (verb := talk.line()[:4]) != b"QUIT":
            reply = next(replies) if verb == b"EHLO" else b"250 ok\r\n"
            if not reply:
                return
            talk.say(reply)
        talk.say(b"221 bye\r\n")

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port)
    assert seen.names == names, seen.text
    assert f"EHLO again: {told}" in seen.text


async def test_a_command_behind_rset_that_comes_too_early_for_it() -> None:
    """RSET is not obeyed when what came with it is: the MAIL behind it stands in the transaction that was to end."""

    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        while True:
            in_transaction = False
            for line in talk.lines_there():
                verb = line[:4]
                nested = verb == b"MAIL" and in_transaction
                in_transaction = in_transaction or verb == b"MAIL"
                replies = {b"EHLO": b"250-here\r\n250 PIPELINING\r\n", b"QUIT": b"221 bye\r\n"}
                talk.say(b"503 nested MAIL\r\n" if nested else replies.get(verb, b"250 ok\r\n"))
                if verb == b"QUIT":
                    return

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port)
    assert "one by one: 250 250 250 250 250 221; in one write: 250 250 250 503 250 221; not the same" in seen.text


# -- LMTP


def speaking_lmtp(to_ehlo: bytes) -> FaultyReceiver:
    """A receiver of LMTP; it closes at EHLO and HELO if its reply to them is empty."""

    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        while (verb := talk.line()[:4]) != b"QUIT":
            reply = {b"LHLO": b"250-here\r\n250 PIPELINING\r\n", b"EHLO": to_ehlo, b"HELO": to_ehlo}.get(
                verb, b"250 ok\r\n"
            )
            if not reply:
                return
            talk.say(reply)
        talk.say(b"221 bye\r\n")

    return speaking(dialogue)


@pytest.mark.parametrize(
    ("to_ehlo", "names"), [(b"500 what?\r\n", set()), (b"", {V.GREETING_THEN_CLOSE})], ids=["refused", "closed"]
)
async def test_a_receiver_that_takes_lhlo_may_speak_lmtp(to_ehlo: bytes, names: set[Violation]) -> None:
    with speaking_lmtp(to_ehlo) as receiver:
        seen = await probed(receiver.port, mail=True)
    assert seen.names == names, seen.text
    assert " is answered by 250 here; offers PIPELINING; this may be LMTP: probe it with --lmtp" in seen.text


async def test_a_receiver_of_lmtp_is_not_told_ehlo() -> None:
    with speaking_lmtp(b"") as receiver:
        seen = await probed(receiver.port, lmtp=True)
    assert seen.names == set(), seen.text
    assert "LHLO: 250 here; offers PIPELINING" in seen.text
    assert "LHLO again: accepted, with the same answer as the first one" in seen.text
    assert "LHLO before the greeting is accepted, and answered after it" in seen.text
    assert seen.probe.account.pipelining.same


async def test_a_receiver_that_refuses_lhlo_may_speak_smtp() -> None:
    with scripted({"LHLO": b"500 what?\r\n"}) as receiver:
        seen = await probed(receiver.port, lmtp=True)
    assert seen.names == set(), seen.text
    assert "; this may be SMTP: probe it without --lmtp" in seen.text
    assert "The probe could try nothing: without LHLO there is no session." in seen.text


async def test_smtp_sink_that_speaks_lmtp() -> None:
    with smtp_sink("-L") as port:
        as_smtp = await probed(port, patience_seconds=SHORT_SECONDS)
        as_lmtp = await probed(port, patience_seconds=SHORT_SECONDS, mail=True, lmtp=True)
    assert as_smtp.names == set(), as_smtp.text
    assert as_lmtp.names <= {V.MISSING_TEXT}, as_lmtp.text  # the last line of its LHLO reply is empty
    assert "this may be LMTP: probe it with --lmtp" in as_smtp.text
    assert "no reply before the end, as it should be" in as_lmtp.text


# -- receivers with a fault elsewhere


@pytest.mark.parametrize(
    ("replies", "names", "told"),
    [
        ({"NOOP": b"250 ok\r\n250 once more\r\n"}, {V.EXTRA_REPLY}, "250 once more"),
        ({"NOOP": b"250 ok\n"}, {V.REPLY_BARE_NEWLINE}, "to NOOP: 250 ok"),
        ({"NOOP": b"250\r\n"}, {V.MISSING_TEXT}, "to NOOP: 250"),
        ({"NOOP": b"334 go on\r\n"}, {V.IMPLAUSIBLE_REPLY}, "to NOOP: 334 go on"),
        ({"NOOP": b"250-a\r\n251 b\r\n"}, {V.MIXED_CODES}, "to NOOP: 251-a / 251 b"),
        ({"NOOP": b"250 " + b"x" * 600 + b"\r\n"}, {V.REPLY_LONG_LINE}, "to NOOP: 250-xxx"),
        ({"QUIT": b""}, {V.NO_221}, "FIN instead"),
        ({"QUIT": b"221 bye\r\n500 what?\r\n"}, {V.EXTRA_REPLY}, "after its reply to QUIT: 500 what?"),
        ({"EHLO": b"502 what?\r\n", "NOOP": b"250 \x1b[31mred\r\n"}, set(), "HELO: 250 ok"),
    ],
)
async def test_a_fault_in_the_dialogue(replies: dict[str, bytes], names: set[Violation], told: str) -> None:
    with scripted(replies) as receiver:
        seen = await probed(receiver.port)
    assert seen.names == names, seen.text
    assert told in seen.text
    assert seen.text.isascii()
    assert "\x1b" not in seen.text


async def test_a_greeting_and_something_behind_it() -> None:
    with scripted({}, b"220 hello\r\n250 I talk out of turn\r\n") as receiver:
        seen = await probed(receiver.port)
    assert seen.names == {V.EXTRA_REPLY}
    assert "250 I talk out of turn" in seen.text


async def test_a_receiver_that_floods() -> None:
    with scripted({"NOOP": b"250 ok\r\n" * 10_000}) as receiver:
        seen = await probed(receiver.port)
    assert V.EXTRA_REPLY in seen.names
    assert all(len(evidence) <= MOST_UNASKED for evidence in seen.probe.account.violations.values())


async def test_a_receiver_that_floods_after_quit_is_not_said_to_have_stayed() -> None:
    """Nobody has listened for as long as a receiver may take to close."""
    with scripted({"QUIT": b"221 bye\r\n" * 10_000}) as receiver:
        seen = await probed(receiver.port)
    assert seen.names == {V.EXTRA_REPLY}, seen.text


async def test_a_receiver_that_says_nothing() -> None:
    with speaking(Talk.read_on) as receiver:
        seen = await probed(receiver.port, mail=True, patience_seconds=0.2)
    assert seen.names == {V.NO_GREETING}
    assert "Greeting: none: silence for 0.2 s" in seen.text
    assert seen.text.count("without a 220 there is no session") == len(QUESTIONS) + 3


@pytest.mark.parametrize(
    ("greeting", "names"),
    [
        (b"", {V.NO_GREETING}),
        (b"220 hello\r\n", {V.GREETING_THEN_CLOSE}),
        (b"220 he", {V.CUT_OFF, V.GREETING_THEN_CLOSE}),
        (b"421 go away\r\n", set()),
    ],
)
async def test_a_receiver_that_greets_and_goes(greeting: bytes, names: set[Violation]) -> None:
    def dialogue(talk: Talk) -> None:
        talk.say(greeting)
        talk.fin()
        talk.read_on()

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port, mail=True)
    assert seen.names == names, seen.text
    assert "there is no session" in seen.text


async def test_a_receiver_that_stays_after_221() -> None:
    def dialogue(talk: Talk) -> None:
        talk.say(b"554 no service\r\n")
        talk.line()
        talk.say(b"503 bad\r\n")
        talk.line()
        talk.say(b"503 bad\r\n")
        talk.line()
        talk.say(b"221 bye\r\n")
        talk.read_on()

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port, patience_seconds=SHORT_SECONDS)
    assert seen.names == {V.NO_CLOSE}
    assert "QUIT: 221 bye; does not close" in seen.text


def obeys_one_of_a_group(which: int) -> FaultyReceiver:
    """A receiver that, of several commands that come together, obeys one."""

    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        verb = ""
        while verb != "QUIT":
            verb = talk.lines_there()[which][:4].decode()
            talk.say({"EHLO": EHLO, "QUIT": b"221 bye\r\n", "RCPT": b"503 no MAIL\r\n"}.get(verb, b"250 ok\r\n"))

    return speaking(dialogue)


async def test_a_receiver_that_loses_what_was_pipelined() -> None:
    with obeys_one_of_a_group(0) as receiver:
        seen = await probed(receiver.port, patience_seconds=SHORT_SECONDS)
    assert seen.names == {V.NO_REPLY}
    assert "one by one: 250 250 250 250 250 221; in one write: 250; 5 without a reply; run shimproxy with" in seen.text


async def test_a_receiver_that_obeys_only_quit_of_a_group() -> None:
    """Frontbridge, Exchange 2010 SP1, as Postfix' workarounds have it."""
    with obeys_one_of_a_group(-1) as receiver:
        seen = await probed(receiver.port)
    assert seen.names == {V.CLOSED_WITH_COMMANDS_OPEN}
    assert "in one write: 221; 5 without a reply; run shimproxy with --no-pipelining" in seen.text


@pytest.mark.parametrize(
    ("takes_chunk", "after_it", "told"),
    [
        pytest.param(True, b"250 ok\r\n", "503 no mail; it discards the chunk, as it should", id="taken"),
        pytest.param(False, b"250 ok\r\n", "503 no mail; it reads the chunk as commands", id="read as commands"),
        pytest.param(True, b"", "503 no mail; then FIN instead of a reply to NOOP", id="closes"),
    ],
)
async def test_a_chunk_without_a_mail(takes_chunk: bool, after_it: bytes, told: str) -> None:
    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        verb = b""
        while verb != b"QUIT":
            line = talk.line()
            verb = line[:4]
            if verb == b"BDAT":
                if takes_chunk:
                    talk.part(int(line.split()[1]))
                talk.say(b"503 no mail\r\n")
                if not after_it:
                    talk.fin()
                    return talk.read_on()
            else:
                replies = {b"EHLO": b"250-here\r\n250 CHUNKING\r\n", b"QUIT": b"221 bye\r\n"}
                talk.say(replies.get(verb, after_it or b"250 ok\r\n"))

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port, listen_seconds=0.2)
    assert f"Chunks: BDAT without a mail: {told}" in seen.text
    assert seen.names == set(), seen.text


LIES = b"250-here\r\n250-SMTPUTF8\r\n250-8BITMIME\r\n250-HELP\r\n250 CHUNKING\r\n"


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        pytest.param(
            {b"MAIL FROM:<> SMTPUTF8": b"555 what?\r\n", b"HELP": b"502 no\r\n", b"BDAT 12": b"500 what?\r\n"},
            "Keywords: SMTPUTF8 is offered, but MAIL FROM:<> SMTPUTF8: 555 what?\n"
            ": HELP is offered, but HELP: 502 no\n"
            ": 8BITMIME: accepted as offered\n"
            ": run shimproxy with --hide SMTPUTF8,HELP\n"
            "Chunks: BDAT without a mail: 500 what?; it offers CHUNKING, and knows no BDAT: "
            "run shimproxy with --hide CHUNKING; it reads the chunk as commands\n",
            id="lies",
        ),
        pytest.param({}, "Keywords: 8BITMIME, SMTPUTF8, HELP: accepted as offered\n", id="true"),
        pytest.param(
            {b"MAIL FROM:<>": b"550 who?\r\n"}, "Keywords: not tried: MAIL FROM:<>: 550 who?\n", id="refuses all mail"
        ),
    ],
)
async def test_keywords_that_are_offered_and_not_known(replies: dict[bytes, bytes], told: str) -> None:
    """The probe names the flag that hides them; none of that is a violation."""

    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        line = b""
        while line != b"QUIT":
            line = talk.line().rstrip()
            talk.say({b"EHLO": LIES, b"QUIT": b"221 bye\r\n"}.get(line[:4]) or replies.get(line, b"250 ok\r\n"))

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port, listen_seconds=0.2)
    assert told in seen.text
    assert seen.names == set(), seen.text


async def test_a_receiver_that_disconnects_at_a_keyword_that_it_offers() -> None:
    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        line = b""
        while line != b"QUIT" and b"BODY" not in line:
            line = talk.line().rstrip()
            talk.say(
                {b"EHLO": LIES, b"QUIT": b"221 bye\r\n"}.get(line[:4], b"250 ok\r\n") if b"BODY" not in line else b""
            )

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port)
    assert "Keywords: 8BITMIME is offered, but MAIL FROM:<> BODY=8BITMIME: FIN\n" in seen.text
    assert ": run shimproxy with --hide 8BITMIME\n" in seen.text


@pytest.mark.parametrize(
    ("reply", "how", "told"),
    [
        pytest.param(b"250 ok\r\n", Talk.fin, "NOOP, then FIN: 250 ok; closes", id="answers"),
        pytest.param(b"250 ok\r\n", Talk.reset, "NOOP, then FIN: 250 ok; resets", id="answers and resets"),
        pytest.param(b"", Talk.fin, "NOOP, then FIN: FIN; a sender that does it gets no reply", id="closes"),
        pytest.param(b"", Talk.reset, "NOOP, then FIN: RST; a sender that does it gets no reply", id="resets"),
    ],
)
async def test_a_half_close(reply: bytes, how: Callable[[Talk], None], told: str) -> None:
    """The command and the end come together, so that a receiver can look for both."""

    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        while (verb := talk.line()[:4]) != b"QUIT":
            if verb == b"NOOP" and half_closed(talk):
                talk.say(reply)
                return how(talk)
            talk.say(b"250 here\r\n" if verb == b"EHLO" else b"250 ok\r\n")
        talk.say(b"221 bye\r\n")

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port)
    assert f"Half-close: {told}" in seen.text
    assert seen.names == set(), seen.text


def half_closed(talk: Talk) -> bool:
    """Whether the end of the peer's direction lies there already."""
    talk.sock.setblocking(False)
    try:
        return not talk.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    finally:
        talk.sock.settimeout(SECONDS)


async def test_rcpt_before_mail_is_not_held_against_a_receiver() -> None:
    with scripted({"RCPT": b"503 need MAIL\r\n"}) as receiver:
        seen = await probed(receiver.port)
    assert "RCPT first: RCPT before MAIL: 503 need MAIL" in seen.text
    assert seen.names == set(), seen.text
    with scripted({}) as receiver:
        seen = await probed(receiver.port)
    assert "RCPT before MAIL: 250 ok; it needs no MAIL before" in seen.text


async def test_a_receiver_that_refuses_early_talk_and_bare_lf_is_not_blamed() -> None:
    def dialogue(talk: Talk) -> None:
        talk.sock.setblocking(False)
        try:
            early = talk.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            early = b""
        talk.sock.settimeout(SECONDS)
        if early:
            talk.say(b"554 synchronization error\r\n")
            talk.fin()
            return talk.read_on()
        talk.say(b"220 hello\r\n")
        while True:
            line = talk.lines_there()[0]
            if line == b"NOOP\n":
                talk.say(b"521 5.5.2 bare LF\r\n")
                talk.fin()
                return talk.read_on()
            if line == b"QUIT\r\n":
                return talk.say(b"221 bye\r\n")
            talk.say(b"250 ok\r\n")

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port)
    assert seen.names == set(), seen.text
    assert "Early talk: EHLO before the greeting: 554 synchronization error; FIN" in seen.text
    assert "NOOP that ends in LF alone: 521 5.5.2 bare LF; FIN; it refuses it" in seen.text
    assert "PIPELINING is not offered" in seen.text


# -- what is never sent


def test_nothing_in_the_mail_data_ends_it_or_is_a_command() -> None:
    for octets in (1, 500, 100_000):
        data = MailDataSeen(reverse_path="<>", recipient="<postmaster>", octets_planned=octets)
        whole = b"".join(mail_blocks(data))
        lines = whole.split(b"\r\n")

        assert lines.pop() == b""
        assert octets <= len(whole) <= octets + 300
        assert b"\n" not in b"".join(lines)
        assert not any(line.startswith(b".") for line in lines)
        assert not {line[:4].upper() for line in lines} & {verb.value.encode() for verb in Verb}


def test_a_probe_that_is_killed_in_mail_data_sends_no_fin() -> None:
    reached, ends = threading.Event(), list[str]()

    def on_data(talk: Talk) -> None:
        talk.first_part()
        reached.set()
        try:
            while talk.sock.recv(65536):
                pass
            ends.append("FIN")
        except ConnectionResetError:
            ends.append("RST")
        talk.sock.close()

    with FaultyReceiver(on_data) as receiver:
        command = [
            sys.executable,
            "-m",
            "shimproxy",
            "probe",
            f"{HOST}:{receiver.port}",
            "--yes",
            "--octets",
            "999999999",
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            assert reached.wait(SECONDS)
            process.send_signal(signal.SIGKILL)
    assert ends == ["RST"]
    assert receiver.seen.mails == []


# -- the command


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stdin", "agreed", "sent"),
    [
        (io.StringIO("y\n"), False, False),
        (Terminal("\n"), False, False),
        (Terminal("n\n"), False, False),
        (Terminal("y\n"), False, True),
        (io.StringIO(), True, True),
    ],
    ids=["no-terminal", "enter", "no", "yes", "--yes"],
)
def test_mail_data_is_sent_only_where_that_was_agreed_to(
    stdin: io.StringIO, agreed: bool, sent: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    asked_for_data = threading.Event()

    def on_data(talk: Talk) -> None:
        asked_for_data.set()
        talk.accept()

    with FaultyReceiver(on_data) as receiver:
        plan = attrs.evolve(PLAN, receiver=Address(HOST, receiver.port), octets=1000, recipient="a@b.example")
        assert run(plan, agreed=agreed) == 0
    assert asked_for_data.is_set() is sent
    captured = capsys.readouterr()
    assert ("you did not agree to it" not in captured.out) is sent
    assert ("RCPT TO:<a@b.example>" in captured.err) is stdin.isatty()
    assert max(map(len, captured.out.splitlines())) <= 100
    assert receiver.seen.mails == []


def shape_of(value: Any) -> Any:
    """The keys of it, at every depth that does not depend on what was seen."""
    return {key: shape_of(each) for key, each in value.items()} if isinstance(value, dict) else None


def test_json_has_the_same_keys_whatever_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    silent = speaking(Talk.read_on)
    for receiver, patience_seconds in (
        (FaultyReceiver(TABLE["early-552-drains"].fault.on_data, tight=True), 30.0),
        (silent, 0.2),
    ):
        with receiver:
            address = f"{HOST}:{receiver.port}"
            plan = attrs.evolve(PLAN, receiver=Address.parse(address), patience_seconds=patience_seconds)
            assert run(plan, agreed=True, as_json=True) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        found.append(json.loads(captured.out))
        assert (found[-1]["receiver"], found[-1]["address"]) == (address, address)
    whole, little = found
    for each in (whole["dialogue"], little["dialogue"]):
        each["keywords"] = None
    replies = [key for key, value in whole["dialogue"].items() if isinstance(value, dict)]
    assert replies == ["greeting", "hello_reply", "noop", "rset", "quit"]
    assert [little["dialogue"][key] for key in replies] == [None] * 5
    for each in (whole["dialogue"], little["dialogue"]):
        each.update(dict.fromkeys(replies))
    of_one_reply = [each.name for each in QUESTIONS if "reply" in whole[each.name]]
    assert len(of_one_reply) >= 5
    for part in of_one_reply:
        assert (whole[part]["reply"] is None, little[part]["reply"] is None) == (False, True)
        whole[part]["reply"] = None
    assert shape_of(whole) == shape_of(little)

    (in_data,) = whole["mail_data"]["replies"]
    assert in_data["reply"] == {
        "code": 552,
        "lines": ["552 Requested mail action aborted: exceeded storage allocation"],
    }
    assert (whole["mail_data"]["left_out"], whole["mail_data"]["stalled"]) == ("", False)
    (violation,) = whole["violations"]
    assert {key: violation[key] for key in ("name", "by", "rule", "repair")} == {
        "name": "early-reply",
        "by": "receiver",
        "rule": V.EARLY_REPLY.rule,
        "repair": V.EARLY_REPLY.repair,
    }
    assert [each["name"] for each in little["violations"]] == ["no-greeting"]
    assert little["mail_data"]["left_out"] == "without a 220 there is no session"


async def test_a_receiver_that_is_not_there() -> None:
    with pytest.raises(DialFailed, match="check that a receiver listens there"):
        await probed(1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["127.0.0.1:1"],
        ["127.0.0.1"],
        ["127.0.0.1:0"],
        [":25"],
        ["a..b:25"],
        ["127.0.0.1:1", "--octets", "0"],
        ["127.0.0.1:1", "--patience", "nan"],
        ["127.0.0.1:1", "--from", "a b@example.com"],
        ["127.0.0.1:1", "--to", "a@example.com>\r\nDATA"],
        ["127.0.0.1:1", "--helo-name", "a b"],
    ],
)
def test_what_cannot_be_probed_is_one_line_and_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", *arguments]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("shimproxy: ")
    assert captured.err.count("\n") == 1
