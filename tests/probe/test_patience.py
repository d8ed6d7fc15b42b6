"""Commands that somebody waits for, against peers that say nothing, or never come to an end: each ends within its
patience, and at once by SIGINT or SIGTERM, with a line and no traceback.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

import pytest
import trio

from shimproxy.admin import health
from shimproxy.admin import receiver_health as greeting
from shimproxy.admin.receiver_health import why_no_greeting
from shimproxy.config.settings import Settings
from shimproxy.faulty.receiving import HOST, FaultyReceiver, speaking
from shimproxy.faulty.talk import EHLO, Talk
from shimproxy.net.address import Address
from shimproxy.probe import report as probe_report
from shimproxy.probe.probe import Probe, ProbePlan
from tests.peers.processes import run
from tests.peers.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.once  # about processes; the probe's questions are in test_probe.py, which has no such mark
SECONDS = 60.0
SHORT_SECONDS = 0.5
SHIMPROXY: Final = (sys.executable, "-m", "shimproxy")


def says(*pieces: bytes, endless: bytes = b"") -> Callable[[Talk], None]:
    """Says each piece when it has heard a line, the first one at once, and then one for ever."""

    def dialogue(talk: Talk) -> None:
        for piece in pieces:
            talk.say(piece)
            talk.line()
        for_ever(talk, endless)

    return dialogue


def for_ever(talk: Talk, piece: bytes) -> None:
    if not piece:
        return talk.read_on()
    while True:
        talk.say(piece)


def probe(receiver: FaultyReceiver, *arguments: str, patience_seconds: float = 1.5) -> list[str]:
    patience = ("--patience", f"{patience_seconds}")
    return [*SHIMPROXY, "probe", f"{HOST}:{receiver.port}", "--yes", *patience, *arguments]


def ask_health(port: int) -> list[str]:
    return [*SHIMPROXY, "health", "--admin", f"{HOST}:{port}"]


# -- the probe


@pytest.mark.parametrize(
    ("dialogue", "seen"),
    [
        pytest.param(says(endless=b"220-x\r\n" * 1000), "220-x / ", id="greeting"),
        pytest.param(says(endless=b"x"), "xxx", id="no line"),
        pytest.param(says(endless=b"220-\x1b[31m\r\n"), "220-\\x1b[31m / ", id="escapes"),
        pytest.param(says(b"220 hello\r\n", endless=b"250-x\r\n" * 1000), "to EHLO", id="EHLO"),
        pytest.param(says(b"220 hello\r\n", EHLO, endless=b"\r\n"), "to NOOP", id="empty lines"),
        # Here each session waits in vain once.
        pytest.param(
            says(b"220 hello\r\n" + b"220-x\r\n" * 200_000, EHLO), "to EHLO", id="unasked", marks=pytest.mark.slow
        ),
        pytest.param(
            says(b"220 hello\r\n", EHLO, endless=b"250-x\r\n" * 1000),
            "to NOOP: 250-x / ",
            id="NOOP",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_reply_without_end_does_not_hold_the_probe(dialogue: Callable[[Talk], None], seen: str) -> None:
    with speaking(dialogue) as receiver:
        ended = run(probe(receiver, "--json"), seconds=SECONDS)
    assert (ended.status, ended.complained) == (0, "")
    account = json.loads(ended.said)
    evidence = [text for violation in account["violations"] for text in violation["seen"]]
    assert any(seen in text for text in evidence), evidence
    assert all(len(text) < 1000 for text in evidence)


def test_replies_without_end_in_mail_data_do_not_hold_the_probe() -> None:
    def on_data(talk: Talk) -> None:
        talk.first_part()
        for_ever(talk, b"552-x\r\n" * 1000)

    with FaultyReceiver(on_data) as receiver:
        ended = run(probe(receiver, "--octets", "100000"), seconds=SECONDS)
    assert (ended.status, ended.complained) == (0, "")
    assert "Large mail   to <postmaster>" in ended.said


async def test_one_that_takes_a_little_each_time_does_not_hold_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a mail has less time here than each wait of it."""
    monkeypatch.setattr("shimproxy.probe.mail.MAIL_PATIENCES", SHORT_SECONDS / SECONDS)
    with FaultyReceiver(TABLE["shuts-its-window-in-silence"].fault.on_data, tight=True) as receiver:
        address = Address(HOST, receiver.port)
        plan = ProbePlan(receiver=address, patience_seconds=SECONDS, listen_seconds=0.02, octets=4 * 1024 * 1024)
        seen = Probe(plan, place=(socket.AF_INET, (HOST, receiver.port)))
        seen.plan_mail()
        with trio.fail_after(SECONDS / 2):
            await seen.mail_data()
    data = seen.account.mail_data
    assert (data.too_slow, data.stalled, data.replies, seen.account.violations) == (True, False, [], {})
    assert "octets in " in probe_report.of_mail_data(seen.account)[1][1]


# -- signals


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "endless", [b"", b"220-x\r\n" * 1000, b"220 x\r\n" * 1000], ids=["silent", "a reply", "replies"]
)
def test_a_signal_ends_the_probe_at_once(end: signal.Signals, endless: bytes) -> None:
    with endless_peer(endless) as (peer, reached):
        assert interrupted(probe(peer, patience_seconds=9999), reached, end) == INTERRUPTED


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_health_at_once(end: signal.Signals) -> None:
    with endless_peer() as (peer, reached):
        assert interrupted(ask_health(peer.port), reached, end) == INTERRUPTED


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demonstration_at_once(end: signal.Signals) -> None:
    with endless_peer() as (peer, reached):
        command = [*SHIMPROXY, "demo", "--receiver", f"{HOST}:{peer.port}", "--patience", "9999"]
        assert interrupted(command, reached, end) == INTERRUPTED


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_question_at_once(end: signal.Signals) -> None:
    ours, its = os.openpty()
    with FaultyReceiver(Talk.accept) as receiver, open(ours, "wb"), open(its, "rb") as terminal:
        command = [*SHIMPROXY, "probe", f"{HOST}:{receiver.port}"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=terminal, stdout=subprocess.DEVNULL, stderr=pipe) as process:
            try:
                assert process.stderr
                asked = b""
                while b"[y/N]" not in asked:
                    octets = os.read(process.stderr.fileno(), 4096)
                    assert octets, asked
                    asked += octets
                process.send_signal(end)
                _, complained = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
    assert (process.returncode, complained.strip()) == (130, b"shimproxy: interrupted")


INTERRUPTED: Final = (130, b"shimproxy: interrupted\n")


@contextlib.contextmanager
def endless_peer(endless: bytes = b"") -> Iterator[tuple[FaultyReceiver, threading.Event]]:
    """A peer that says this for ever, and what is set when it has said it often."""
    reached = threading.Event()

    def dialogue(talk: Talk) -> None:
        for _ in range(100):
            talk.say(endless)
        reached.set()
        for_ever(talk, endless)

    with speaking(dialogue) as peer:
        yield peer, reached


def interrupted(command: list[str], reached: threading.Event, end: signal.Signals) -> tuple[int, bytes]:
    """What becomes of a command that gets a signal when its peer says so: its status and its standard error."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            assert reached.wait(SECONDS)
            process.send_signal(end)
            _, complained = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    return process.returncode, complained


# -- health


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", "none within 16,384 octets"),
        (b"HTTP/1.1 200 OK\r\nX-\x1b[31m: x\r\n", "none within 16,384 octets"),
        (b"HTTP/1.1 200 ", "none within 16,384 octets"),
        (b"220 \x1b[31mhello\r\n", "it does not speak HTTP, but said 220 \\x1b[31mhello"),
    ],
    ids=["100 Continue", "headers", "a line", "SMTP"],
)
def test_an_answer_without_end_does_not_hold_health(answer: bytes, said: str) -> None:
    with speaking(lambda talk: for_ever(talk, answer)) as peer:
        ended = run(ask_health(peer.port), seconds=SECONDS)
        where = f"{HOST}:{peer.port}"
    assert (ended.status, ended.account) == (1, f"\nno answer from {where}: {said}\n")


@pytest.mark.parametrize("dialogue", [Talk.read_on, lambda talk: drip(talk, b"HTTP/1.1 200 OK\r\n")])
def test_one_that_is_silent_or_drips_does_not_hold_health(
    dialogue: Callable[[Talk], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PATIENCE_SECONDS", SHORT_SECONDS)
    with speaking(dialogue) as peer:
        where = f"{HOST}:{peer.port}"
        assert health.ask(where, "/healthz") == (False, f"no answer from {where}: none within 0.5 s")


@pytest.mark.parametrize(
    ("answer", "is_well", "said"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n", True, "ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length:3\r\n\r\nok\n and more", True, "ok"),
        (b"HTTP/1.0 200\r\n\r\nok\r\n", True, "ok"),
        (b"HTTP/1.0 200 OK\nContent-Length: 3\n\nok\n", True, "ok"),
        (b"HTTP/1.1 503 no\r\n\r\n\x1b]0;evil\x07\r\n\r\nok\n", False, "\\x1b]0;evil\\x07\\r\\n\\r\\nok"),
        (b"HTTP/1.1 503 no\r\n\r\n", False, "status 503 without a text"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok\n", False, "no answer from {where}: it closed too soon"),
        (b"HTTP/1.1 200 OK\r\n", False, "no answer from {where}: it closed too soon"),
        (b"", False, "no answer from {where}: it closed too soon"),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_an_answer_is_read_to_its_end(answer: bytes, is_well: bool, said: str, size: int) -> None:
    def dialogue(talk: Talk) -> None:
        while talk.line():
            pass
        for start in range(0, len(answer), size):
            talk.say(answer[start : start + size])
        if not answer.endswith(b"\r\n\r\nok\n") or not is_well:
            return talk.fin()
        talk.read_on()  # whoever has its length waits for no end

    with speaking(dialogue) as peer:
        where = f"{HOST}:{peer.port}"
        assert health.ask(where, "/healthz") == (is_well, said.format(where=where))


def drip(talk: Talk, octets: bytes) -> None:
    for at in range(len(octets)):
        talk.say(octets[at : at + 1])
    talk.read_on()


# -- readiness


@pytest.mark.parametrize(
    ("dialogue", "why_not"),
    [
        (lambda talk: for_ever(talk, b"220-x\r\n" * 100), "does not finish its greeting within 65,536 octets"),
        (lambda talk: for_ever(talk, b"x" * 1000), "does not finish its greeting within 65,536 octets"),
        (Talk.read_on, "does not greet in time"),
        (lambda talk: drip(talk, b"220-x\r\n220-y\r\n"), "does not greet in time"),
        (lambda talk: drip(talk, b"220-x\r\n220 y\r\n"), ""),  # QUIT is not answered
        (says(b"220 hello\r\n", endless=b"221-x\r\n" * 1000), ""),
        (lambda talk: talk.say(b"220-hello\r\n"), "disconnects without a greeting"),
        (says(b"554 no\r\n"), "does not greet"),
        (says(b"220-a\r\n554 b\r\n"), "does not greet"),
    ],
)
async def test_a_greeting_is_heard_to_its_end_and_no_longer_than_patience(
    dialogue: Callable[[Talk], None], why_not: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_time = why_not != "does not greet in time"
    monkeypatch.setattr(greeting, "GREETING_SECONDS", 2 * SECONDS if in_time else SHORT_SECONDS)
    with speaking(dialogue) as receiver, trio.fail_after(SECONDS):
        where = f"{HOST}:{receiver.port}"
        said = await why_no_greeting(Settings(receiver=where))
    assert said == (f"the receiver {where} {why_not}" if why_not else "")
