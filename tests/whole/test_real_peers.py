"""Real programs around the shim: smtp-source and smtp-sink, a Postfix and an Exim as receivers; and its weight.

A Postfix and an Exim take thousands of mails through the shim, and what they have stored is compared with what was
sent, octet for octet (guarantees 5 and 9). Memory is read from /proc of a shim in a process of its own (guarantee 10).
"""

from __future__ import annotations

import contextlib
import functools
import re
import resource
import select
from typing import TYPE_CHECKING

import pytest
import trio

from shimproxy.faulty.client import Dialogue, Refused, connected
from shimproxy.faulty.mail import MIB
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import TAKEN, Talk
from shimproxy.smtp.catalogue import Violation
from tests.peers.contents import differences, send_contents
from tests.peers.exim import Exim, exim
from tests.peers.postfix import MAILBOX_DOMAIN, Postfix, postfix
from tests.peers.processes import poll_count
from tests.peers.programs import smtp_sink, smtp_source
from tests.peers.shim import shim, shim_process

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 900.0  # for all of some thousands of mails
MAILS = 2000
AHEAD = 100
"""A relay has so many mails on its hands at most: Exim has three processes for each."""
CONTENTS = 400
SESSIONS_AT_ONCE = 20
SIZE_LIMIT_OCTETS = 100_000
GIB = 1024 * MIB
IDLE_SESSIONS = {1: 2000, 2: 10_000}  # by workers
FEW_SESSIONS = 50


# -- the fault, with stock tools


async def test_smtp_source_learns_why_smtp_sink_refused_its_mail() -> None:
    with trio.fail_after(SECONDS), smtp_sink("-A", "0") as port:
        async with shim(port) as between:
            ended = await trio.to_thread.run_sync(smtp_source, between.port, "-l", "3000000")
    assert "end of data rejected: 550 This violates SMTP" in ended.account


def test_without_the_shim_smtp_source_never_learns_why() -> None:
    with smtp_sink("-A", "0") as port:
        # Where the reply and the reset are found at once it may still have read the reply.
        ended = smtp_source(port, "-l", "30000000")
    assert "lost connection" in ended.account


async def test_many_mails_reach_smtp_sink() -> None:
    with trio.fail_after(SECONDS), smtp_sink() as port:
        async with shim(port) as between:
            arguments = ("-m", "500", "-s", "10", "-l", "5000", "-d")
            ended = await trio.to_thread.run_sync(smtp_source, between.port, *arguments)
            await between.watcher.sessions_ended(10)
    assert ended.status == 0, ended.account
    assert sum(record.accepted for record in between.watcher.ended_sessions) == 500
    assert between.watcher.repairs == []


# -- real receivers


@pytest.fixture(scope="module", params=["postfix", "exim"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Postfix | Exim]:
    if request.param == "postfix":
        with postfix(size_limit_octets=SIZE_LIMIT_OCTETS) as a_postfix:
            yield a_postfix
    else:
        with exim(daemon=True, size_limit_octets=SIZE_LIMIT_OCTETS) as an_exim:
            yield an_exim


@pytest.mark.slow
@pytest.mark.volume
async def test_thousands_of_mails_arrive_once_each(receiver: Postfix | Exim) -> None:
    arguments = ["-m", f"{MAILS}", "-s", f"{SESSIONS_AT_ONCE}", "-l", "1000", "-t", f"many@{MAILBOX_DOMAIN}"]
    with trio.fail_after(SECONDS):
        async with shim(receiver.port) as between:
            ended = await trio.to_thread.run_sync(smtp_source, between.port, *arguments)
    assert ended.status == 0, ended.account
    assert sum(record.accepted for record in between.watcher.ended_sessions) == MAILS
    poll_count(lambda: receiver.count("many"), MAILS, "mails stored")
    assert receiver.count("many") == MAILS
    assert between.watcher.repairs == []


@pytest.mark.slow
@pytest.mark.volume
async def test_mails_arrive_octet_for_octet(receiver: Postfix | Exim) -> None:
    recipient = f"contents@{MAILBOX_DOMAIN}"
    replies: list[bytes] = []

    async def send(port: int, numbers: range) -> None:
        replies.extend(await trio.to_thread.run_sync(send_contents, port, recipient, numbers))

    with trio.fail_after(SECONDS):
        async with shim(receiver.port) as between, trio.open_nursery() as senders:
            for first in range(4):
                senders.start_soon(send, between.port, range(first, CONTENTS, 4))
    assert [reply[:3] for reply in replies] == [b"250"] * CONTENTS
    poll_count(lambda: receiver.count("contents"), CONTENTS, "mails stored")
    assert differences(receiver.mailbox("contents"), range(CONTENTS)) == []


@contextlib.contextmanager
def relaying(program: str, port: int) -> Iterator[Postfix | Exim]:
    """A Postfix or an Exim that sends what it gets for the mailboxes on to `port`."""
    if program == "exim":
        with exim(daemon=True, relay_port=port) as an_exim:
            yield an_exim
    else:
        more = (
            f"transport_maps = inline:{{{{ {MAILBOX_DOMAIN}=smtp:[127.0.0.1]:{port} }}}}\n"
            f"virtual_mailbox_domains =\nrelay_domains = {MAILBOX_DOMAIN}\nsmtp_line_length_limit = 0\n"
        )
        with postfix(more=more) as a_postfix:
            yield a_postfix


@pytest.mark.slow
@pytest.mark.volume
@pytest.mark.parametrize("program", ["postfix", "exim"])
async def test_thousands_of_mails_pass_between_two_of_a_kind(program: str) -> None:
    """With all that they offer each other: groups, and Exim's chunks; octet for octet."""
    recipient = f"contents@{MAILBOX_DOMAIN}"
    with contextlib.ExitStack() as stack, trio.fail_after(SECONDS):
        receiver: Postfix | Exim = (
            stack.enter_context(exim(daemon=True)) if program == "exim" else stack.enter_context(postfix())
        )
        async with shim(receiver.port) as between:
            sender = stack.enter_context(relaying(program, between.port))
            stored = functools.partial(receiver.count, "contents")
            for done in range(0, MAILS, AHEAD):
                async with trio.open_nursery() as senders:
                    for first in range(done, done + 4):
                        numbers = range(first, done + AHEAD, 4)
                        senders.start_soon(trio.to_thread.run_sync, send_contents, sender.port, recipient, numbers)
                try:
                    await trio.to_thread.run_sync(poll_count, stored, done + AHEAD, "mails stored")
                except AssertionError as error:
                    deferred = (line for line in sender.log.splitlines() if " == " in line or "deferred" in line)
                    error.add_note("\n".join(deferred))
                    raise
        assert differences(receiver.mailbox("contents"), range(MAILS)) == []
        assert between.watcher.repairs == []
        if isinstance(receiver, Exim):
            taken = [line for line in receiver.log.splitlines() if " <= " in line]
            assert all(" K " in line for line in taken), taken[0]


POSTSCREEN = """1 postscreen
smtpd     pass  - - n -     - smtpd
dnsblog   unix  - - n -     0 dnsblog
tlsproxy  unix  - - n -     0 tlsproxy"""


def greetings_of_many(port: int, apart_seconds: float) -> list[bytes]:
    """One sender after another connects until the first of them is greeted; the last line that each is greeted with."""
    with contextlib.ExitStack() as stack:
        senders: list[socket.socket] = []
        while not select.select(senders, [], [], apart_seconds if senders else 0)[0]:
            senders.append(stack.enter_context(connected(port)))
        files = [stack.enter_context(sender.makefile("rb")) for sender in senders]
        return [next((line for line in file if line[3:4] != b"-"), b"") for file in files]


@pytest.mark.once
async def test_many_senders_wait_for_postscreen() -> None:
    """Postfix' postscreen ends its greeting after some seconds: that is no loop, and no sender is refused."""
    more = (
        "postscreen_access_list =\npostscreen_dnsbl_sites =\npostscreen_cache_map =\n"
        "postscreen_greet_action = enforce\npostscreen_greet_wait = 2s\n"
    )
    with postfix(more=more, smtpd=POSTSCREEN) as receiver, trio.fail_after(SECONDS):
        async with shim(receiver.port) as between:
            said = await trio.to_thread.run_sync(greetings_of_many, between.port, 0.05)
        log = receiver.log
    assert len(said) > 16
    assert {*said} == {b"220 postfix.example ESMTP Postfix\r\n"}
    assert {repair.violation for repair in between.watcher.repairs} == {Violation.CLOSED_WITHOUT_QUIT}
    assert len(re.findall("postscreen.*: CONNECT", log)) == len(said) + 1, "postscreen was dialled again"


def refusal(port: int, declared: bool) -> bytes:
    """What a receiver says to a mail beyond its limit, be that size declared or not."""
    with connected(port) as sock:
        dialogue = Dialogue(sock)
        dialogue.open("EHLO large.example")
        octets = 2 * SIZE_LIMIT_OCTETS
        reply = dialogue.command(f"MAIL FROM:<sender@sender.example>{f' SIZE={octets}' if declared else ''}")
        if not declared:
            dialogue.command(f"RCPT TO:<large@{MAILBOX_DOMAIN}>", 250)
            dialogue.command("DATA", 354)
            sock.sendall(b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * (octets // 72) + b".\r\n")
            reply = dialogue.reply()
        with contextlib.suppress(Refused):
            dialogue.command("QUIT", 221)
    return reply


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "counted"])
async def test_a_mail_beyond_the_limit_is_refused_in_the_receivers_own_words(
    receiver: Postfix | Exim, declared: bool
) -> None:
    async with shim(receiver.port) as between:
        relayed = await trio.to_thread.run_sync(refusal, between.port, declared)
    assert relayed == await trio.to_thread.run_sync(refusal, receiver.port, declared)
    if isinstance(receiver, Postfix):
        words = b"Message size exceeds fixed limit" if declared else b"Error: message file too big"
        assert relayed == b"552 5.3.4 " + words + b"\r\n"
    else:
        assert relayed.startswith(b"552 ")


# -- its weight


def send_gibibyte(port: int) -> bytes:
    """The reply to mail data of 1 GiB."""
    block = (b"x" * 1022 + b"\r\n") * 1024
    with connected(port) as sock:
        dialogue = Dialogue(sock)
        dialogue.open("EHLO large.example")
        dialogue.command("MAIL FROM:<sender@sender.example>", 250)
        dialogue.command("RCPT TO:<recipient@receiver.example>", 250)
        dialogue.command("DATA", 354)
        for _ in range(GIB // len(block)):
            sock.sendall(block)
        sock.sendall(b".\r\n")
        reply = dialogue.reply()
        dialogue.command("QUIT", 221)
    return reply


@pytest.mark.slow
@pytest.mark.volume
def test_a_gibibyte_passes_in_constant_memory(tmp_path: Path) -> None:
    taken_octets: list[int] = []

    def takes(talk: Talk) -> None:
        talk.say(b"354 go on\r\n")
        taken_octets.append(talk.whole_octets())
        talk.say(TAKEN)

    with FaultyReceiver(takes) as receiver, shim_process(receiver.port, tmp_path / "log") as between:
        assert send_gibibyte(between.port) == TAKEN
        assert between.memory_kib("VmHWM") < 64 * 1024
    assert taken_octets == [GIB + len(b".\r\n")]


@pytest.mark.slow
@pytest.mark.volume
def test_a_gibibyte_is_drained_in_constant_memory(tmp_path: Path) -> None:
    def refuses(talk: Talk) -> None:
        talk.first_part()
        talk.early(b"552 too big\r\n")
        talk.fin()
        talk.stop_reading()

    with FaultyReceiver(refuses) as receiver, shim_process(receiver.port, tmp_path / "log") as between:
        assert send_gibibyte(between.port) == b"552 too big\r\n"
        assert between.memory_kib("VmHWM") < 64 * 1024
    assert receiver.seen.octets_after_early < GIB // 2


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(IDLE_SESSIONS.values()) + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"ulimit -Hn is {hard}: {needed} files are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.volume
@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(("workers", "sessions"), IDLE_SESSIONS.items())
def test_thousands_of_idle_sessions_cost_less_than_40_kib_each(workers: int, sessions: int, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(smtp_sink("-m", f"{2 * sessions}"))
        most = f"{2 * sessions}"
        # One worker may get more of them than the other, and more than a network may have by descriptors.
        arguments = ("--workers", f"{workers}", "--sessions", most, "--sessions-per-network", most)
        between = stack.enter_context(shim_process(port, tmp_path / "log", *arguments))
        open_session = functools.partial(idle_session, stack, between.port)
        for _ in range(FEW_SESSIONS):
            open_session()
        before_kib = between.memory_kib("VmRSS")
        for _ in range(sessions):
            open_session()
        cost_kib = (between.memory_kib("VmRSS") - before_kib) / sessions
        assert len(between.workers) == workers
    assert cost_kib < 40


def idle_session(stack: contextlib.ExitStack, port: int) -> None:
    """Open a session, past EHLO, until the end of `stack`."""
    Dialogue(stack.enter_context(connected(port))).open("EHLO idle.example")
