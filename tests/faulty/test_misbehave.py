"""`shimproxy misbehave`: what it plays is what shimproxy finds when it stands before it, under the catalogue's name."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import smtplib
import socket
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from shimproxy import Deadlines, Limits, Violation
from shimproxy.cli import main
from shimproxy.faulty.client import Dialogue, connected
from shimproxy.faulty.fault import TOO_BIG, Fault, FaultPlace
from shimproxy.faulty.letter import Letter
from shimproxy.faulty.mail import MIB, PIECE_OCTETS, Mail
from shimproxy.faulty.outcome import Believed, Outcome
from shimproxy.faulty.plan import Plan, doing, fault_named, share
from shimproxy.faulty.playing import play_sender, playing, sender_named
from shimproxy.faulty.receivers import FAULTS
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.senders import SENDERS, FaultySender
from shimproxy.faulty.sending import sender_of_1999
from shimproxy.faulty.serving import serving_faults
from shimproxy.faulty.talk import SECONDS, TAKEN, Talk
from shimproxy.help.explain.words import words
from shimproxy.net.address import Address
from tests.peers.mail import LARGE, SMALL, mail_of
from tests.peers.processes import end
from tests.peers.senders import python_smtplib
from tests.peers.shim import shim
from tests.peers.tls import Certificate, make_certificate, smtplib_over_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shimproxy.faulty.talk import Seen

# What a fault makes it wait for comes soon; nothing else waits.
QUICK = Deadlines(
    greeting=0.5,
    reply=0.5,
    receiver_block=0.5,
    end_of_data_reply=0.5,
    sender_block=0.5,
    linger_idle=0.3,
    linger_total=1,
)
STALLING = mail_of("4MiB", 4 * MIB)
LETTER = Letter(SMALL)


def bound() -> socket.socket:
    listener = socket.socket()
    listener.bind((HOST, 0))
    return listener


@contextlib.contextmanager
def serving(*names: str, **more: Any) -> Iterator[tuple[FaultyReceiver, list[dict[str, Any]]]]:
    """A misbehaving receiver with these faults, and what it told when it is closed."""
    told: list[dict[str, Any]] = []
    with serving_faults(Plan(shares=[share(name) for name in names], **more), bound(), told.append) as receiver:
        yield receiver, told


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


# -- every fault, as shimproxy finds it


def test_every_violation_is_played_by_somebody_or_says_why_not() -> None:
    """And by both peers where both may do it."""
    by_both = {Violation.NO_CLOSE, Violation.PLAINTEXT_BEHIND_STARTTLS, Violation.TLS_FAILED}
    for each, said in words().items():
        if said.no_peer:
            assert not doing(each), each
            assert not playing(each), each
            continue
        assert bool(doing(each)) == ("receiver" in each.by), (
            f"{each}: add a peer to faulty/, or `No peer:` to its words"
        )
        assert bool(playing(each)) == ("sender" in each.by), (
            f"{each}: add a peer to faulty/, or `No peer:` to its words"
        )
        assert (bool(doing(each)) and bool(playing(each))) == (each in by_both), each


def pipelining(port: int) -> None:
    """MAIL, RCPT and DATA in one group."""
    with connected(port) as sock:
        dialogue = Dialogue(sock)
        dialogue.open("EHLO sender.example")
        dialogue.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nDATA\r\n")
        dialogue.rest()


def two_mails(port: int, early: threading.Event) -> None:
    """The second when the first has been refused, which it is early."""
    with connected(port) as sock:
        dialogue = Dialogue(sock)
        LETTER.envelope(dialogue)
        LETTER.content(dialogue)
        assert early.wait(SECONDS)
        dialogue.send(b".\r\n")
        dialogue.reply()
        dialogue.command("MAIL FROM:<a@b>")
        dialogue.rest()


NEEDS: dict[str, dict[str, Any]] = {
    "": {},
    "--receiver-tls required": {"receiver_tls": "required", "receiver_verified": False},
    "--login": {"login_user": "user", "login_secret": "secret", "login_in_clear": True},
    "--xclient": {"xclient": True},
    "--resume": {"resume": True},
    "a sender that pipelines": {},
}


def sender_for(fault: Fault, receiver: FaultyReceiver) -> Callable[[int], object]:
    """Who has to send something for the fault to show."""
    if fault.needs == "a sender that pipelines":
        return pipelining
    if fault.violation is Violation.NOT_AS_BEFORE:
        return functools.partial(two_mails, early=receiver.seen.early)
    mail = STALLING if fault.violation is Violation.STALLED_IN_DATA else SMALL
    early = receiver.seen.early if FaultPlace.DATA in fault.acts and fault.replies_early else None
    return functools.partial(sender_of_1999, mail=mail, early=early)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_shimproxy_finds_the_fault_of_a_receiver(fault: Fault) -> None:
    with trio.fail_after(SECONDS), serving(fault.name) as (receiver, told):
        async with shim(receiver.port, QUICK, **NEEDS[fault.needs]) as between:
            await trio.to_thread.run_sync(sender_for(fault, receiver), between.port)
            await between.watcher.sessions_ended()
    found = {repair.violation for repair in between.watcher.repairs}
    assert fault.violation in found if fault.violation else not found
    assert {each["fault"] for each in told} == ({fault.name} - {"unreachable"})


@contextlib.contextmanager
def greeting_who_has_spoken(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyReceiver]:
    """A receiver that greets once the sender has spoken, however late that has the processor."""
    spoken, send = threading.Event(), Dialogue.send

    def speak(self: Dialogue, octets: bytes) -> None:
        send(self, octets)
        spoken.set()

    def talk(sock: socket.socket, seen: Seen) -> Talk:
        assert spoken.wait(SECONDS)
        return Talk(sock, seen)

    monkeypatch.setattr(Dialogue, "send", speak)
    with FaultyReceiver(Talk.accept, talk=talk) as receiver:
        yield receiver


@pytest.mark.parametrize("sender", SENDERS.values(), ids=SENDERS)
async def test_shimproxy_finds_the_fault_of_a_sender(
    sender: FaultySender, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_tls = {"certificate": certificate.certificate, "key": certificate.key, "clear_allowed": True}
    needs: dict[str, dict[str, Any]] = {
        "": {},
        "--trust": {"trust": [f"{HOST}/32"]},
        "--receiver original": {"receiver": "original"},
        "STARTTLS with --cert": own_tls,
        "a receiver that offers AUTH": {},
        "a receiver that offers CHUNKING": {},
        "--tidy": {"tidy": True},
        "--max-size": {"max_size": 10 * MIB},
    }
    names = ["refuses-every-login"] if sender.violation is Violation.AUTH_TOO_LONG else []
    with trio.fail_after(SECONDS), contextlib.ExitStack() as stack:
        if sender.violation is Violation.EARLY_TALK:
            receiver = stack.enter_context(greeting_who_has_spoken(monkeypatch))
        else:
            receiver, _ = stack.enter_context(serving(*names))
        async with shim(receiver.port, QUICK, limits=Limits(held_octets=512), **needs[sender.needs]) as between:
            where = Address(HOST, between.port)
            report = await trio.to_thread.run_sync(play_sender, sender, where, LETTER, SECONDS)
            await between.watcher.sessions_ended()
    found = {repair.violation for repair in between.watcher.repairs}
    assert sender.violation in found if sender.violation else not found
    assert report["sender"] == sender.name


# -- which fault a session has


def faults_of(plan: Plan, sessions: int = 200) -> list[str]:
    return [plan.next_fault().name for _ in range(sessions)]


def test_a_share_of_the_sessions_has_the_fault_and_the_seed_says_which() -> None:
    shares = [("q152940", 20.0), ("mailpit", 30.0)]
    drawn = faults_of(Plan(shares=shares, seed=7), 10_000)
    assert drawn == faults_of(Plan(shares=shares, seed=7), 10_000)
    assert drawn != faults_of(Plan(shares=shares, seed=8), 10_000)
    assert [round(drawn.count(name), -3) for name in ("q152940", "mailpit", "well-behaved")] == [2000, 3000, 5000]
    assert set(faults_of(Plan(shares=[("early-reply", 100.0)]))) == {"q152940"}


async def test_the_sender_chooses_the_fault_by_recipient_or_hello() -> None:
    def refusal(hello: str, recipient: str) -> bytes:
        with connected(receiver.port) as sock:
            dialogue = Dialogue(sock)
            dialogue.reply()
            reply = dialogue.command(hello)
            if reply.startswith(b"250"):
                dialogue.command("MAIL FROM:<a@b>")
                reply = dialogue.command(f"RCPT TO:<{recipient}>")
            if reply.startswith(b"250"):
                dialogue.command("DATA", 354)
                dialogue.send(b"text\r\n.\r\n")
                reply = dialogue.reply()
            return reply

    with serving(chosen=True) as (receiver, told):
        assert refusal("EHLO x", "anybody@receiver.example") == TAKEN
        assert refusal("EHLO x", "early-552-drains@fault.example") == TOO_BIG
        assert refusal("EHLO Early-552-Drains.fault.example", "anybody@receiver.example") == TOO_BIG
        assert b"did you mean early-reply" in refusal("EHLO x", "early-repli@fault.example")
        assert b"did you mean early-reply" in refusal("EHLO early-repli.fault.example", "x@y.example")
        assert b"serve it by --as never-greets" in refusal("EHLO x", "never-greets@fault.example")
        assert b"play it by --sender" in refusal("EHLO x", "vanished-in-data@fault.example")
        assert b"EHLO refuses-xclient.fault.example" in refusal("EHLO x", "xclient-refused@fault.example")
    by = [(each["chosen_by"], each["fault"]) for each in told if each["fault"] != "well-behaved"]
    assert sorted(by) == [("EHLO", "early-552-drains"), ("RCPT", "early-552-drains")]


@pytest.mark.parametrize("named", [fault_named, sender_named])
def test_what_is_played_by_the_other_side_is_said(named: Callable[[str], object]) -> None:
    theirs = "vanished-in-data" if named is fault_named else "q152940"
    with pytest.raises(ValueError, match=r"is a fault of a (receiver|sender): (serve|play) it by --"):
        named(theirs)
    with pytest.raises(ValueError, match="is unknown"):
        named("no such thing")


def test_a_violation_that_nobody_plays_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With where it can be seen, and why it is not played."""
    said = words()
    alone = attrs.evolve(said[Violation.NO_221], no_peer="it takes two")
    monkeypatch.setattr("shimproxy.cli.misbehave_command.words", lambda: said | {Violation.NO_221: alone})
    for fault in doing(Violation.NO_221):
        monkeypatch.delitem(FAULTS, fault.name)

    for named in fault_named, sender_named:
        with pytest.raises(ValueError, match="no peer does 'no-221'; `shimproxy explain no-221` shows it"):
            named("no-221")
    assert main(["misbehave", "--list"]) == 0
    assert "  No peer does it: it takes two.\n" in capsys.readouterr().out


# -- how it is served


def data_segments(sock: socket.socket) -> int:
    """How many segments with octets have come: tcpi_data_segs_in of struct tcp_info."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("I", info, 152)[0])


@pytest.mark.parametrize("segments", [1, 3, None])
def test_a_reply_has_as_many_segments_as_it_should(segments: int | None) -> None:
    with serving(segments=segments) as (receiver, _), connected(receiver.port) as sock:
        greeting = Dialogue(sock).reply()
        assert data_segments(sock) == (segments or len(greeting))


def test_a_reply_that_is_delayed_is_given_up_when_the_receiver_is_closed() -> None:
    with serving(delay_seconds=1000.0) as (receiver, told):
        sock = connected(receiver.port)
        # Whoever is connected has a session, though nothing was said in it.
        while not receiver.seen.peers:
            pass
    sock.close()
    (session,) = told
    assert session["dialogue"] == ["(stopped)"]


def test_lmtp_has_a_verdict_for_each_recipient() -> None:
    with serving(lmtp=True) as (receiver, _), connected(receiver.port) as sock:
        dialogue = Dialogue(sock)
        dialogue.reply()
        assert dialogue.command("EHLO x").startswith(b"500")
        for line in "LHLO x", "MAIL FROM:<a@b>", "RCPT TO:<one@b>", "RCPT TO:<two@b>":
            dialogue.command(line, 250)
        dialogue.command("DATA", 354)
        dialogue.send(b"text\r\n.\r\n")
        assert [dialogue.reply(), dialogue.reply()] == [TAKEN, TAKEN]
        assert dialogue.command("DATA").startswith(b"503")
        dialogue.command("QUIT", 221)


def test_faults_are_served_under_tls(certificate: Certificate) -> None:
    with serving("well-behaved-refuses-at-the-dot", security=certificate.server()) as (receiver, told):
        outcome = smtplib_over_tls(receiver.port, SMALL, certificate.client())
    assert outcome.believed is Believed.BOUNCED
    (session,) = told
    assert session["tls"]
    assert session["believes"] == "bounced"


# -- what is told


def told_of(name: str, send: Callable[[int, Mail], Outcome] = python_smtplib) -> dict[str, Any]:
    with serving(name) as (receiver, told):
        send(receiver.port, SMALL)
    (session,) = told
    return session


def test_the_account_says_who_said_what_and_what_the_sender_believes() -> None:
    session = told_of("no-blank-after-the-code")
    assert session["fault"] == "no-blank-after-the-code"
    assert session["violation"] == "not-a-reply"
    assert session["dialogue"][0] == "R: 220 tin.pan.alley.example SMTP service ready"
    assert "R: 250OK" in session["dialogue"]
    assert session["mail_octets"] == len(SMALL.data) + len(b".\r\n")
    assert session["believes"] == "delivered"
    assert session["ended"] == ["receiver FIN"]


@pytest.mark.parametrize(
    ("name", "ended"),
    [
        ("q152940-rst", ["receiver RST"]),
        ("iis-reset", ["receiver RST"]),
        ("fin-at-the-dot", ["receiver FIN"]),
        ("never-greets", ["sender FIN"]),
    ],
)
def test_the_account_says_who_ended_it_and_how(name: str, ended: list[str]) -> None:
    def impatient(port: int, mail: Mail) -> Outcome:
        return sender_of_1999(port, mail, patience_seconds=0.5)

    assert told_of(name, impatient)["ended"] == ended


def test_no_secret_is_in_the_account() -> None:
    with (
        serving("refuses-every-login") as (receiver, told),
        smtplib.SMTP(HOST, receiver.port) as session,
        pytest.raises(smtplib.SMTPAuthenticationError),
    ):
        session.login("user", "hunter2")
    (account,) = told
    assert "S: AUTH PLAIN ..." in account["dialogue"]
    assert not any("aHVudGVyMg" in line or "AGh1bnRlcjI" in line for line in account["dialogue"])


def test_a_mail_that_fits_into_a_packet_gets_its_refusal_too() -> None:
    """A receiver that would wait for more than there is must not hang."""
    tiny = mail_of("tiny", 1)
    for name, fault in FAULTS.items():
        if fault.reply and not fault.tight:
            with serving(name) as (receiver, _):
                outcome = sender_of_1999(receiver.port, tiny)
            assert outcome.reply == fault.reply, name


# -- the command


def start(*arguments: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """The command, when it has said where it listens."""
    command = [sys.executable, "-m", "shimproxy", "misbehave", "--listen", f"{HOST}:0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stdout
    return process, json.loads(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_tells_of_each_session_and_ends_at_a_signal(number: signal.Signals) -> None:
    process, listening = start("--as", "early-552-drains")
    try:
        port = Address.parse(listening["address"]).port
        assert listening["event"] == "listening"
        assert sender_of_1999(port, SMALL).reply == TOO_BIG
        with connected(port) as idle:
            Dialogue(idle).reply()
            process.send_signal(number)
            out, errors = process.communicate(timeout=SECONDS)
    finally:
        end(process)
    sessions = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0, errors
    assert [each["fault"] for each in sessions] == ["early-552-drains"] * 2
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--as q15294", "did you mean q152940"),
        ("--as early-reply:120%", "a share is a number above 0"),
        ("--as q152940:60% --as mailpit:60%", "come to 120 %"),
        ("--as q152940:some", "as in early-reply:20%"),
        ("--as unreachable:20%", "write --as unreachable alone"),
        ("--segments none", "--segments: write a whole number from 1 on, or octets"),
        ("--delay -1", "--delay must be a number of seconds"),
        ("--key x", "--cert FILE"),
        ("--cert /nowhere/x.pem", "No such file"),
        ("--octets 7", "give --sender NAME as well"),
        ("--listen 192.0.2.1:25", "give an address of this machine"),
        ("--sender early-talk", "--to HOST:PORT"),
        ("--sender early-talk --to 127.0.0.1:1", "see whether something listens there"),
        ("--sender early-talk --to 127.0.0.1:1 --listen :25", "remove it, or remove --sender"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["misbehave", *arguments.split()]) == 2
    assert words in capsys.readouterr().err


def test_the_list_has_every_fault_with_rule_and_culprits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["misbehave", "--list"]) == 0
    shown = capsys.readouterr().out
    for each in Violation:
        assert f"\n{each}  ({each.rule})\n" in f"\n{shown}"
    for name in FAULTS:
        assert f"--as {name}\n" in shown
    for name in SENDERS:
        assert f"--sender {name}\n" in shown
    assert "Mailpit" in shown
    assert max(len(line) for line in shown.splitlines()) <= 110
    assert main(["misbehave", "--list", "--json"]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {each["name"] for each in entries} == {*FAULTS, *SENDERS}
    assert all(each["rule"] for each in entries if each["violation"])


def test_a_sender_is_played_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as (receiver, told):
        where = f"{HOST}:{receiver.port}"
        assert main(["misbehave", "--sender", "well-behaved", "--to", where, "--octets", "5000"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["believes"] == told[0]["believes"] == "delivered"
    assert report["dialogue"][-1] == "R: 221 2.0.0 closing connection"
    assert report["ended"] == ["receiver FIN", "sender FIN"]


def played(receiver: str, letter: Letter, patience_seconds: float = SECONDS) -> dict[str, Any]:
    """What the sender of 1999 was told by this receiver."""
    with serving(receiver) as (served, _):
        return play_sender(SENDERS["sender-of-1999"], Address(HOST, served.port), letter, patience_seconds)


def test_the_sender_of_1999_writes_small_pieces_and_reads_no_reply_among_them() -> None:
    report = played("early-552-shuts-its-window", Letter(LARGE), patience_seconds=0.5)
    assert report["dialogue"][-1] == "(blocked: its write has not ended for 0.5 s)"
    assert 0 < report["mail_octets"] < len(LARGE.data)
    assert report["mail_octets"] % PIECE_OCTETS == 0
    assert not any("552" in line for line in report["dialogue"])
    assert report["ended"] == ["sender RST"]  # its 552 lies there unread


def test_a_sender_that_is_refused_says_quit() -> None:
    report = played("says-354-to-rcpt", LETTER)
    assert report["dialogue"][-3:] == ["R: 354 go on", "S: QUIT", "R: 221 2.0.0 closing connection"]
    assert report["ended"] == ["receiver FIN", "sender FIN"]
