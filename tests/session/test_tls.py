"""TLS on both legs (RFC 3207): terminated with every repair in force, made for the receiver, or passed unread."""

from __future__ import annotations

import contextlib
import functools
import smtplib
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
import trio

from shimproxy import Deadlines, SettingsError, TlsUnusable, Violation
from shimproxy.faulty.client import Dialogue, connected
from shimproxy.faulty.fault import TOO_BIG
from shimproxy.faulty.outcome import Believed
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import FIRST_PART_OCTETS, Talk
from shimproxy.net.leg import Leg
from shimproxy.net.lingering import linger
from shimproxy.session.policy import Policy, ReceiverTls, SenderTls
from tests.config.test_settings import settings
from tests.faulty.test_fault_table import check
from tests.memory import Stage, offered, staged
from tests.net.ground import Ground, ground
from tests.net.test_net import pair
from tests.peers.exim import exim
from tests.peers.mail import SMALL
from tests.peers.postfix import MAILBOX_DOMAIN, Postfix, postfix
from tests.peers.processes import need, need_perl, poll, run
from tests.peers.shim import Watcher, shim
from tests.peers.table import TABLE, Row
from tests.peers.tls import NAME, Certificate, make_certificate, smtplib_over_tls

if TYPE_CHECKING:
    import threading
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from shimproxy.faulty.mail import Mail


SECONDS = 60.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure_postfix(certificate: Certificate) -> Iterator[Postfix]:
    """A Postfix that takes mail over TLS only, from 1.3 on."""
    with postfix(more=tls_of(certificate, "encrypt") + "smtpd_tls_mandatory_protocols = >=TLSv1.3\n") as running:
        yield running


@pytest.fixture(scope="module")
def clear_postfix() -> Iterator[Postfix]:
    with postfix() as running:
        yield running


def tls_of(certificate: Certificate, level: str) -> str:
    return (
        f"smtpd_tls_security_level = {level}\n"
        f"smtpd_tls_cert_file = {certificate.certificate}\n"
        f"smtpd_tls_key_file = {certificate.key}\n"
    )


def terminated(certificate: Certificate, **more: object) -> dict[str, Any]:
    """Settings of a shim that terminates the sender's TLS and goes on in the clear."""
    return {"certificate": certificate.certificate, "key": certificate.key, "clear_allowed": True} | more


def send_to(port: int, name: str, context: ssl.SSLContext | None = None) -> None:
    """One mail to a mailbox, with smtplib."""
    with smtplib.SMTP(HOST, port, timeout=SECONDS) as session:
        if context:
            session.starttls(context=context)
        session.sendmail("<sender@sender.example>", [f"{name}@{MAILBOX_DOMAIN}"], b"Subject: x\r\n\r\ntext\r\n")


# -- opaque: passed through unread


async def test_without_a_certificate_the_receivers_own_tls_passes(
    secure_postfix: Postfix, certificate: Certificate
) -> None:
    """The sender sees the receiver's certificate and delivers; the record says that nothing was read."""
    before = secure_postfix.count("contents")
    with trio.fail_after(SECONDS):
        async with shim(secure_postfix.port) as between:
            await trio.to_thread.run_sync(send_to, between.port, "contents", certificate.client())
            await between.watcher.sessions_ended()
    poll(lambda: secure_postfix.count("contents") > before, "a mail stored")
    (record,) = between.watcher.ended_sessions
    assert (record.sender_tls, record.receiver_tls) == ("opaque", "opaque")
    assert between.watcher.repairs == []


async def opaque_stage(stage: Stage) -> None:
    """Up to TLS between the peers."""
    await offered(stage, b"STARTTLS")
    await stage.feed(stage.sender, b"STARTTLS\r\n")
    await stage.feed(stage.receiver, b"220 go\r\n")
    stage.sender.written.clear()
    stage.receiver.written.clear()


def test_opaque_octets_pass_both_ways_whatever_they_are() -> None:
    async def script(stage: Stage) -> None:
        await opaque_stage(stage)
        octets = bytes(range(256)) * 3 + b"\r\n.\r\nQUIT\r\n"
        await stage.feed(stage.sender, octets, 7)
        await stage.feed(stage.receiver, octets[::-1], 5)
        assert stage.receiver.written == octets
        assert stage.sender.written == octets[::-1]

    assert staged(script).repaired == []


def test_a_session_goes_on_whose_receiver_refuses_starttls() -> None:
    """The refusal is relayed, and the next command is read as one."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        for command, reply in (
            (b"EHLO x", STARTTLS_OFFERED),
            (b"STARTTLS", b"454 later\r\n"),
            (b"NOOP", b"250 OK\r\n"),
        ):
            stage.sender.written.clear()
            stage.receiver.written.clear()
            await stage.feed(stage.sender, command + b"\r\n")
            await stage.feed(stage.receiver, reply)
            assert stage.receiver.written == command + b"\r\n"
            assert stage.sender.written == reply

    staged(script)


def test_opaque_octets_wait_for_a_full_socket_in_both_directions() -> None:
    """Neither direction waits for the other."""

    async def script(stage: Stage) -> None:
        await opaque_stage(stage)
        stage.receiver.room_octets = stage.sender.room_octets = 10
        await stage.feed(stage.sender, b"s" * 10_000)
        await stage.feed(stage.receiver, b"r" * 10_000)
        assert (len(stage.receiver.written), len(stage.sender.written)) == (10, 10)
        stage.sender.take(20_000)
        await stage.settle()
        assert (len(stage.receiver.written), len(stage.sender.written)) == (10, 10_000)
        stage.receiver.take(20_000)
        await stage.settle()
        assert stage.receiver.written == b"s" * 10_000

    staged(script)


def test_opaque_octets_without_end_leave_other_sessions_their_turn() -> None:
    async def script(stage: Stage) -> None:
        await opaque_stage(stage)
        octets = b"r" * 4_000_000
        stage.receiver.feed(octets)
        stage.runner.release()
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        assert 0 < len(stage.sender.written) < len(octets)
        await stage.settle()
        assert stage.sender.written == octets

    staged(script)


def test_an_opaque_half_close_passes_and_the_other_direction_goes_on() -> None:
    async def script(stage: Stage) -> None:
        await opaque_stage(stage)
        stage.sender.feed_fin()
        await stage.settle()
        assert stage.receiver.got_fin
        await stage.feed(stage.receiver, b"still here")
        assert stage.sender.written == b"still here"
        stage.receiver.feed_fin()
        await stage.settle()
        assert stage.over
        assert stage.sender.got_fin

    staged(script)


@pytest.mark.parametrize("who", ["sender", "receiver"])
def test_an_opaque_reset_passes(who: str) -> None:
    async def script(stage: Stage) -> None:
        await opaque_stage(stage)
        getattr(stage, who).feed_rst()
        await stage.settle()
        assert stage.over
        assert stage.sender.got_rst
        assert stage.receiver.got_rst

    staged(script)


def test_opaque_silence_has_a_deadline() -> None:
    async def script(stage: Stage) -> None:
        await opaque_stage(stage)
        await stage.pass_time(890)
        assert not stage.over
        await stage.pass_time(20)
        assert stage.over

    staged(script)


def test_plaintext_behind_an_opaque_starttls_is_discarded_on_both_legs() -> None:
    """CVE-2011-0411 and its kin: what a third party put behind STARTTLS must not be taken for what came under TLS."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"STARTTLS")
        await stage.feed(stage.sender, b"STARTTLS\r\nMAIL FROM:<injected@x>\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.receiver, b"220 go\r\n250 injected\r\n")
        assert stage.sender.written == b"220 go\r\n"
        assert stage.receiver.written.endswith(b"STARTTLS\r\n")

    stage = staged(script)
    assert stage.repaired.count(Violation.PLAINTEXT_BEHIND_STARTTLS) == 2


def test_what_is_not_offered_is_refused() -> None:
    """STARTTLS without the keyword never goes to the receiver."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"250 hi\r\n")
        await stage.feed(stage.sender, b"STARTTLS\r\n")
        assert b"\r\n502 " in stage.sender.written
        assert stage.receiver.written == b"EHLO x\r\n"

    staged(script)


def test_off_takes_the_keyword_out() -> None:
    async def script(stage: Stage) -> None:
        assert await offered(stage, b"STARTTLS", b"HELP") == b"250-hi\r\n250 HELP\r\n"

    staged(script, policy=Policy(sender_tls=SenderTls.OFF))


# -- terminated: every repair holds


@pytest.mark.parametrize("mail", [SMALL], ids=["small"])
@pytest.mark.parametrize("fault", [pytest.param(fault, id=name) for name, fault in TABLE.items()])
async def test_under_tls_the_sender_learns_what_became_of_its_mail(
    fault: Row, mail: Mail, certificate: Certificate
) -> None:
    """The fault table again, with the sender's TLS ending at the shim."""
    send = functools.partial(smtplib_over_tls, context=certificate.client())
    with trio.fail_after(SECONDS), fault.start() as receiver:
        async with shim(receiver.port, fault.deadlines, **terminated(certificate)) as between:
            outcome = await trio.to_thread.run_sync(send, between.port, mail)
            await between.watcher.sessions_ended()
    check(fault, mail, outcome, receiver.seen, surely_early=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["q152940", "q152940-rst", "early-552-shuts-its-window", "well-behaved"])
async def test_large_mails_under_tls(name: str, certificate: Certificate) -> None:
    from tests.peers.mail import LARGE

    fault = TABLE[name]
    send = functools.partial(smtplib_over_tls, context=certificate.client())
    with trio.fail_after(SECONDS), fault.start() as receiver:
        async with shim(receiver.port, fault.deadlines, **terminated(certificate)) as between:
            outcome = await trio.to_thread.run_sync(send, between.port, LARGE)
            await between.watcher.sessions_ended()
    check(fault, LARGE, outcome, receiver.seen, surely_early=False)


async def test_a_refusal_is_heard_while_a_sender_pauses_under_tls(certificate: Certificate) -> None:
    """The sender's leg counts as readable after every read, and the wait is for the receiver all the same."""
    fault = TABLE["early-552-drains"]

    def pause_in_mail_data(port: int, early: threading.Event) -> bytes:
        with connected(port) as sock:
            in_clear = Dialogue(sock)
            in_clear.open("EHLO x")
            in_clear.command("STARTTLS", 220)
            with certificate.client().wrap_socket(sock, server_hostname=NAME) as secure:
                dialogue = Dialogue(secure)
                for line, code in ("EHLO x", 250), ("MAIL FROM:<a@b>", 250), ("RCPT TO:<b@c>", 250), ("DATA", 354):
                    dialogue.command(line, code)
                secure.sendall(b"x" * (FIRST_PART_OCTETS - 2) + b"\r\n")
                assert early.wait(SECONDS)
                return dialogue.reply()

    with trio.fail_after(SECONDS), fault.start() as receiver:
        async with shim(receiver.port, Deadlines(sender_block=0.5), **terminated(certificate)) as between:
            reply = await trio.to_thread.run_sync(pause_in_mail_data, between.port, receiver.seen.early)
            await between.watcher.sessions_ended()
    assert reply == TOO_BIG


async def test_programs_deliver_over_tls(clear_postfix: Postfix, certificate: Certificate) -> None:
    """swaks, curl, msmtp and openssl, to a receiver that knows no TLS."""
    need_perl("Net::SSLeay")  # swaks'
    recipient = f"many@{MAILBOX_DOMAIN}"
    text = b"Subject: x\r\n\r\ntext\r\n"
    where = ["--server", HOST, "--from", "a@sender.example", "--to", recipient, "--helo", "x.example"]
    before = clear_postfix.count("many")
    with trio.fail_after(SECONDS):
        async with shim(clear_postfix.port, **terminated(certificate)) as between:
            port = str(between.port)
            curl = [
                "--mail-from",
                "a@sender.example",
                "--mail-rcpt",
                recipient,
                "--cacert",
                str(certificate.certificate),
            ]
            msmtp = ["--file=/dev/null", "--auth=off", "--tls=on", f"--tls-trust-file={certificate.certificate}"]
            commands = (
                [need("swaks"), *where, "--port", port, "--tls", "--body", "text"],
                [need("curl"), f"smtp://{HOST}:{port}", "--ssl-reqd", *curl, "--upload-file", "-"],
                [need("msmtp"), f"--host={HOST}", f"--port={port}", *msmtp, "--from=a@sender.example", recipient],
            )
            for command in commands:
                ended = await trio.to_thread.run_sync(run, command, text)
                assert ended.status == 0, ended.account
            await between.watcher.sessions_ended(3)
    poll(lambda: clear_postfix.count("many") >= before + 3, "three mails stored")
    assert {record.sender_tls for record in between.watcher.ended_sessions} == {"TLSv1.3"}


async def test_postfix_delivers_over_tls(clear_postfix: Postfix, certificate: Certificate) -> None:
    """smtp(8) that would not send in the clear."""
    more = f"smtp_tls_security_level = encrypt\nsmtp_tls_CAfile = {certificate.certificate}\n"
    with trio.fail_after(SECONDS), postfix(more=more) as sender, TABLE["well-behaved"].start() as receiver:
        async with shim(receiver.port, **terminated(certificate)) as between:
            outcome = await trio.to_thread.run_sync(sender.send, between.port, SMALL)
            await between.watcher.sessions_ended()
    assert outcome.believed is Believed.DELIVERED, outcome
    assert [SMALL.is_whole(data) for data in receiver.seen.mails] == [True]


async def test_implicit_tls(clear_postfix: Postfix, certificate: Certificate) -> None:
    before = clear_postfix.count("many")

    def send(port: int) -> None:
        with smtplib.SMTP_SSL(HOST, port, timeout=SECONDS, context=certificate.client()) as session:
            session.sendmail("<a@sender.example>", [f"many@{MAILBOX_DOMAIN}"], b"Subject: x\r\n\r\ntext\r\n")

    with trio.fail_after(SECONDS):
        async with shim(clear_postfix.port, **terminated(certificate, sender_tls="implicit")) as between:
            await trio.to_thread.run_sync(send, between.port)
    poll(lambda: clear_postfix.count("many") > before, "a mail stored")


async def test_after_starttls_everything_begins_anew(clear_postfix: Postfix, certificate: Certificate) -> None:
    """Plaintext behind it is discarded, MAIL needs a new EHLO, and STARTTLS is not offered again (RFC 3207 4.2)."""

    def talk(port: int) -> list[bytes]:
        with connected(port) as sock:
            dialogue = Dialogue(sock)
            dialogue.open("EHLO x")
            dialogue.command("MAIL FROM:<injected@sender.example>", 250)
            sock.sendall(b"STARTTLS\r\nRCPT TO:<many@mailbox.example>\r\n")
            replies = [dialogue.reply()]
            with certificate.client().wrap_socket(sock, server_hostname=NAME) as secure:
                over_tls = Dialogue(secure)
                lines = ("RCPT TO:<many@mailbox.example>", "EHLO x", "STARTTLS", "MAIL FROM:<a@sender.example>", "QUIT")
                replies += [over_tls.command(line) for line in lines]
        return replies

    with trio.fail_after(SECONDS):
        async with shim(clear_postfix.port, **terminated(certificate)) as between:
            replies = await trio.to_thread.run_sync(talk, between.port)
            await between.watcher.sessions_ended()
    assert [reply[:3] for reply in replies] == [b"220", b"503", b"250", b"502", b"250", b"221"]
    assert b"STARTTLS" not in replies[2]
    assert Violation.PLAINTEXT_BEHIND_STARTTLS in [repair.violation for repair in between.watcher.repairs]


async def test_a_failed_handshake_is_told_and_ends_the_session(
    clear_postfix: Postfix, certificate: Certificate
) -> None:
    def talk(port: int) -> None:
        with connected(port) as sock, contextlib.suppress(ConnectionResetError):
            dialogue = Dialogue(sock)
            dialogue.open("EHLO x")
            dialogue.command("STARTTLS", 220)
            sock.sendall(b"EHLO this is no TLS\r\n" * 10)
            assert not dialogue.rest().startswith(b"250")

    with trio.fail_after(SECONDS):
        async with shim(clear_postfix.port, **terminated(certificate)) as between:
            await trio.to_thread.run_sync(talk, between.port)
            await between.watcher.sessions_ended()
    assert [repair.violation for repair in between.watcher.repairs] == [Violation.TLS_FAILED]


# -- the receiver leg


async def delivered(between_port: int, name: str) -> bytes:
    """What a sender in the clear is told, up to its mail's verdict."""

    def talk() -> bytes:
        with connected(between_port) as sock:
            dialogue = Dialogue(sock)
            reply = dialogue.reply()
            for line in (
                "EHLO x",
                "MAIL FROM:<a@sender.example>",
                f"RCPT TO:<{name}@{MAILBOX_DOMAIN}>",
                "DATA",
                "x\r\n.",
            ):
                if reply[:1] in b"45":
                    break
                reply = dialogue.command(line)
            if not reply.startswith(b"4"):
                dialogue.command("QUIT", 221)
        return reply

    return await trio.to_thread.run_sync(talk)


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ({"receiver_tls": "required", "receiver_name": NAME}, b"250"),
        ({"receiver_tls": "required"}, b"250"),
        ({"receiver_tls": "required", "receiver_name": "other.example"}, b"421 "),
        ({"receiver_tls": "required", "receiver_name": "other.example", "receiver_verified": False}, b"250"),
        ({"receiver_tls": "opportunistic", "receiver_authorities": None}, b"250"),
    ],
    ids=["the right name", "the right address", "a wrong name", "a wrong name, unverified", "opportunistic"],
)
async def test_a_sender_without_tls_reaches_a_receiver_that_requires_it(
    more: dict[str, Any], verdict: bytes, secure_postfix: Postfix, certificate: Certificate
) -> None:
    given = {"receiver_authorities": certificate.certificate} | more
    with trio.fail_after(SECONDS):
        async with shim(secure_postfix.port, **given) as between:
            said = await delivered(between.port, "many")
            await between.watcher.sessions_ended()
    assert said.startswith(verdict), said
    (record,) = between.watcher.ended_sessions
    assert record.receiver_tls == ("TLSv1.3" if verdict == b"250" else "-")
    told = [repair.violation for repair in between.watcher.repairs]
    assert told == ([] if verdict == b"250" else [Violation.TLS_FAILED])


@pytest.mark.parametrize("right", [True, False], ids=["the pinned one", "another"])
async def test_a_pinned_certificate(right: bool, secure_postfix: Postfix, certificate: Certificate) -> None:
    pinned = certificate.fingerprint if right else "00" * 32
    with trio.fail_after(SECONDS):
        async with shim(secure_postfix.port, receiver_tls="required", receiver_fingerprint=pinned) as between:
            said = await delivered(between.port, "many")
    assert said.startswith(b"250" if right else b"421 "), said


def test_mail_data_behind_a_data_that_comes_before_the_hello_are_no_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind STARTTLS, EHLO is due; whoever sends a whole mail instead had no 354 for it."""

    async def secured(self: Leg, _context: object) -> None:
        self.secured = True

    async def script(stage: Stage) -> None:
        await offered(stage)
        monkeypatch.setattr(Leg, "secure", secured)
        await stage.feed(stage.sender, b"STARTTLS\r\n")
        await stage.feed(stage.sender, b"DATA\r\nSubject: x\r\n\r\nEHLO y\r\nMAIL FROM:<evil@x>\r\n.\r\n")
        assert stage.receiver.written == b"QUIT\r\n"

    policy = Policy(sender_tls=SenderTls.STARTTLS, sender_context=cast("ssl.SSLContext", object()), clear_allowed=True)
    assert staged(script, policy=policy).repaired == [Violation.WITHHELD_COMMAND, Violation.DATA_WITHOUT_354]


async def test_a_session_is_resumed_over_tls(secure_postfix: Postfix, certificate: Certificate) -> None:
    """On both legs, after a mail that the operator does not want."""

    def send(port: int) -> None:
        with smtplib.SMTP(HOST, port, timeout=SECONDS) as session:
            session.starttls(context=certificate.client())
            session.ehlo()
            for mail in (b"bare\n.\nnewlines\r\n", b"canonical\r\n"):
                session.mail("<sender@sender.example>")
                session.rcpt(f"<many@{MAILBOX_DOMAIN}>")
                codes.append(session.data(mail)[0])
                session.rset()

    codes: list[int] = []
    both = terminated(certificate, receiver_tls="required", receiver_authorities=certificate.certificate)
    with trio.fail_after(SECONDS):
        async with shim(secure_postfix.port, newlines="reject", resume=True, **both) as between:
            await trio.to_thread.run_sync(send, between.port)
            await between.watcher.sessions_ended()
    assert codes == [550, 250]
    (record,) = between.watcher.ended_sessions
    assert (record.resumed, record.sender_tls, record.receiver_tls) == (1, "TLSv1.3", "TLSv1.3")


@pytest.mark.parametrize(("how", "verdict"), [("opportunistic", b"250"), ("required", b"421 ")])
async def test_a_receiver_without_tls(how: str, verdict: bytes, clear_postfix: Postfix) -> None:
    with trio.fail_after(SECONDS):
        async with shim(clear_postfix.port, receiver_tls=how) as between:
            said = await delivered(between.port, "many")
    assert said.startswith(verdict), said


STARTTLS_OFFERED = b"250-hi\r\n250 STARTTLS\r\n"
OPPORTUNISTIC = Policy(sender_tls=SenderTls.OFF, receiver_tls=ReceiverTls.OPPORTUNISTIC)


def before_tls_stands(*replies: bytes, closes: bool = False) -> Callable[[Stage], Awaitable[None]]:
    """A receiver that gives these replies to shimproxy's EHLO and STARTTLS, and then says no more, or closes too."""

    async def fails(stage: Stage) -> None:
        for reply in replies[:-1]:
            await stage.feed(stage.receiver, reply)
        receiver = stage.receiver
        if replies:
            receiver.feed(replies[-1])
        if closes:
            receiver.feed_fin()
        await stage.settle()
        if not stage.earlier_receivers:
            await stage.pass_time(stage.deadlines.tls)

    return fails


FAILURES = {
    "EHLO, closed": before_tls_stands(closes=True),
    "EHLO, silence": before_tls_stands(),
    "EHLO, out of step": before_tls_stands(b"354 what\r\n"),
    "STARTTLS, closed": before_tls_stands(STARTTLS_OFFERED, b"", closes=True),
    "STARTTLS, silence": before_tls_stands(STARTTLS_OFFERED, b""),
    "454": before_tls_stands(STARTTLS_OFFERED, b"454 not now\r\n"),
    "454, closed": before_tls_stands(STARTTLS_OFFERED, b"454 not now\r\n", closes=True),
    "502": before_tls_stands(STARTTLS_OFFERED, b"502 what\r\n"),
    "554, closed": before_tls_stands(STARTTLS_OFFERED, b"554 no\r\n", closes=True),
    "421, closed": before_tls_stands(STARTTLS_OFFERED, b"421 bye\r\n", closes=True),
}


@pytest.mark.parametrize("hello", [b"EHLO x", b"HELO x"], ids=str)
@pytest.mark.parametrize("fails", FAILURES.values(), ids=FAILURES)
def test_whatever_fails_before_tls_stands_is_tried_again_in_the_clear(
    fails: Callable[[Stage], Awaitable[None]], hello: bytes
) -> None:
    """The receiver is dialled again and given what the sender has said, which sees nothing of it."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, hello + b"\r\n")
        assert stage.receiver.written == b"EHLO x\r\n"
        await fails(stage)
        assert len(stage.earlier_receivers) == 1
        stage.sender.written.clear()
        await stage.feed(stage.receiver, b"220 hello again\r\n")
        assert stage.receiver.written == hello + b"\r\n"
        await stage.feed(stage.receiver, b"250-hi\r\n250-STARTTLS\r\n250 HELP\r\n")
        assert stage.sender.written.startswith(b"250-hi\r\n")
        assert stage.sender.written.endswith(b"250 HELP\r\n")

    staged(script, policy=OPPORTUNISTIC)


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("refusal", [b"500 what\r\n", b"502 what\r\n", b"550 no\r\n", b"421 what\r\n"], ids=repr)
def test_a_receiver_that_refuses_ehlo_is_given_the_helo_of_a_sender_that_says_that(
    refusal: bytes, closes: bool
) -> None:
    """On another connection, as it may be about to close this one."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"HELO x\r\n")
        await before_tls_stands(refusal, closes=closes)(stage)
        assert len(stage.earlier_receivers) == 1
        await stage.feed(stage.receiver, b"220 hello again\r\n")
        assert stage.receiver.written == b"HELO x\r\n"
        await stage.feed(stage.receiver, b"250 hi\r\n")
        assert stage.sender.written == b"220 hello\r\n250 hi\r\n"
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        assert stage.receiver.written == b"HELO x\r\nMAIL FROM:<a@b>\r\n"

    staged(script, policy=OPPORTUNISTIC)


@pytest.mark.parametrize("how", [ReceiverTls.OPPORTUNISTIC, ReceiverTls.REQUIRED])
@pytest.mark.parametrize("refusal", [b"500 what\r\n", b"550 5.7.1 no\r\n", b"421 busy\r\n"], ids=repr)
def test_a_sender_whose_own_ehlo_is_refused_gets_that(refusal: bytes, how: ReceiverTls) -> None:
    """Once, and before the receiver closes: it is the receiver's word on the sender, not on TLS."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        stage.receiver.feed(refusal)
        stage.receiver.feed_fin()
        await stage.settle()
        assert stage.sender.written == b"220 hello\r\n" + refusal
        assert stage.receiver.written == b"EHLO x\r\n"

    staged(script, policy=attrs.evolve(OPPORTUNISTIC, receiver_tls=how))


def test_a_sender_may_say_helo_behind_the_refusal_of_its_ehlo() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"500 what\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.sender, b"HELO x\r\n")
        assert stage.receiver.written == b"EHLO x\r\nHELO x\r\n"
        await stage.feed(stage.receiver, b"250 hi\r\n")
        assert stage.sender.written == b"250 hi\r\n"

    staged(script, policy=OPPORTUNISTIC)


def test_a_receiver_that_cannot_be_dialled_again_is_none() -> None:
    """What it says to that is the sender's last reply."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await FAILURES["454"](stage)
        await stage.feed(stage.receiver, b"421 one at a time\r\n")
        assert stage.sender.written == b"220 hello\r\n421 one at a time\r\n"

    staged(script, policy=OPPORTUNISTIC)


async def played(
    receive: Callable[[socket.socket], None],
    lines: list[str],
    *,
    listeners: list[socket.socket] | None = None,
    **given: Any,
) -> tuple[list[bytes], Watcher]:
    """What a sender is told by the greeting and to these lines, before a receiver that takes one connection.

    Where it is to take more, its listener is put into `listeners`.
    """

    def talk(port: int) -> list[bytes]:
        with connected(port) as sock:
            dialogue = Dialogue(sock)
            return [dialogue.reply(), *(dialogue.command(line) for line in lines)]

    def take() -> None:
        with listener, listener.accept()[0] as sock:
            receive(sock)

    listener = socket.create_server((HOST, 0))
    if listeners is not None:
        listeners.append(listener)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery, shim(listener.getsockname()[1], **given) as between:
            nursery.start_soon(trio.to_thread.run_sync, take)
            replies = await trio.to_thread.run_sync(talk, between.port)
            await between.watcher.sessions_ended()
    return replies, between.watcher


# -- TLS 1.3, whose handshake is over for the client before the server has accepted it


@pytest.mark.parametrize(("how", "verdict"), [("opportunistic", b"250"), ("required", b"421 ")])
async def test_an_exim_that_wants_a_certificate_of_its_clients(
    how: str, verdict: bytes, certificate: Certificate
) -> None:
    """It ends the connection behind the handshake, and takes the same mail in the clear."""
    with trio.fail_after(SECONDS), exim(daemon=True, certificate=certificate, wants_certificate=True) as receiver:
        async with shim(receiver.port, receiver_tls=how, receiver_verified=False) as between:
            said = await delivered(between.port, "many")
            await between.watcher.sessions_ended()
    assert said.startswith(verdict), said
    (record,) = between.watcher.ended_sessions
    assert record.receiver_tls == "-"
    assert [repair.violation for repair in between.watcher.repairs] == [Violation.TLS_FAILED]


def going_inside_tls(certificate: Certificate, *, how: str, says: bytes = b"") -> Callable[[socket.socket], None]:
    """A receiver that ends a connection as soon as it is over to TLS, or once it has said that much there."""

    def receive(sock: socket.socket) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            if how != "implicit":
                for said in (b"220 hello\r\n", STARTTLS_OFFERED):
                    sock.sendall(said)
                    sock.recv(100)
                sock.sendall(b"220 go\r\n")
            context = certificate.server()
            if how == "alert":
                context.verify_mode = ssl.CERT_REQUIRED
            with context.wrap_socket(sock, server_side=True) as secure:
                if says:
                    secure.recv(100)
                    secure.sendall(says)
                if how == "reset":
                    secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif how == "silence":
                    secure.recv(100)
                    secure.recv(100)

    return receive


async def before_several(
    receives: list[Callable[[socket.socket], None]], lines: list[str], **given: Any
) -> tuple[list[bytes], Watcher]:
    """As `played`, before a receiver that does one thing after the other with its connections."""

    def one_after_the_other(sock: socket.socket) -> None:
        first, *others = receives
        with sock:
            first(sock)
        for each in others:
            with listeners[0].accept()[0] as another:
                each(another)

    listeners: list[socket.socket] = []
    return await played(one_after_the_other, lines, listeners=listeners, **given)


def in_the_clear(sock: socket.socket) -> None:
    for said in (b"220 hello again\r\n", STARTTLS_OFFERED, b"221 bye\r\n"):
        sock.sendall(said)
        sock.recv(100)


@pytest.mark.parametrize("how", ["close", "reset", "alert", "silence"])
async def test_a_receiver_that_goes_before_it_has_said_anything_inside_tls_is_tried_in_the_clear(
    how: str, certificate: Certificate
) -> None:
    receives = [going_inside_tls(certificate, how=how), in_the_clear]
    given: dict[str, Any] = {"receiver_tls": "opportunistic", "receiver_verified": False}
    given["deadlines"] = Deadlines(tls=1.0)
    replies, watcher = await before_several(receives, ["EHLO x", "QUIT"], **given)
    assert replies == [b"220 hello\r\n", b"250 hi\r\n", b"221 bye\r\n"]
    violation = Violation.NO_REPLY if how == "silence" else Violation.TLS_FAILED
    assert [repair.violation for repair in watcher.repairs] == [violation]


@pytest.mark.parametrize("how", ["close", "reset", "alert"])
async def test_where_tls_is_required_that_is_a_handshake_that_has_failed(how: str, certificate: Certificate) -> None:
    given: dict[str, Any] = {"receiver_tls": "required", "receiver_verified": False}
    replies, watcher = await played(going_inside_tls(certificate, how=how), ["EHLO x"], **given)
    assert replies[1].startswith(b"421 no TLS with the receiver")
    assert [repair.violation for repair in watcher.repairs] == [Violation.TLS_FAILED]


async def test_a_receiver_that_goes_inside_implicit_tls_has_failed_with_it(certificate: Certificate) -> None:
    given: dict[str, Any] = {"receiver_tls": "implicit", "receiver_verified": False}
    replies, watcher = await played(going_inside_tls(certificate, how="implicit"), [], **given)
    assert replies[0].startswith(b"421 no TLS with the receiver")
    assert [repair.violation for repair in watcher.repairs] == [Violation.TLS_FAILED]


async def test_once_it_has_said_anything_inside_tls_it_stands(certificate: Certificate) -> None:
    """What it says then is the sender's, and nothing is tried in the clear."""
    receives = [going_inside_tls(certificate, how="close", says=b"421 not now\r\n")]
    given = {"receiver_tls": "opportunistic", "receiver_verified": False}
    replies, watcher = await before_several(receives, ["EHLO x"], **given)
    assert replies[1] == b"421 not now\r\n"
    assert Violation.TLS_FAILED not in [repair.violation for repair in watcher.repairs]


async def test_plaintext_behind_the_receivers_220_is_discarded(certificate: Certificate) -> None:
    """What a third party put there answers nothing that is said under TLS."""
    seen: list[bytes] = []

    def receive(sock: socket.socket) -> None:
        for said in (b"220 hello\r\n", b"250-hi\r\n250 STARTTLS\r\n"):
            sock.sendall(said)
            seen.append(sock.recv(100))
        sock.sendall(b"220 go\r\n250 injected\r\n")
        with certificate.server().wrap_socket(sock, server_side=True) as secure:
            for said in (b"250 hi again\r\n", b"221 bye\r\n"):
                seen.append(secure.recv(100))
                secure.sendall(said)

    given: dict[str, Any] = {"receiver_tls": "required", "receiver_fingerprint": certificate.fingerprint}
    replies, watcher = await played(receive, ["EHLO x", "QUIT"], **given)
    assert replies == [b"220 hello\r\n", b"250 hi again\r\n", b"221 bye\r\n"]
    assert seen == [b"EHLO x\r\n", b"STARTTLS\r\n", b"EHLO x\r\n", b"QUIT\r\n"]
    assert [repair.violation for repair in watcher.repairs] == [Violation.PLAINTEXT_BEHIND_STARTTLS]


async def test_implicit_tls_with_the_receiver(certificate: Certificate) -> None:
    """The greeting comes under TLS."""
    seen: list[bytes] = []

    def receive(sock: socket.socket) -> None:
        with certificate.server().wrap_socket(sock, server_side=True) as secure:
            secure.sendall(b"220 hello\r\n")
            seen.append(secure.recv(100))
            secure.sendall(b"221 bye\r\n")

    given: dict[str, Any] = {"receiver_tls": "implicit", "receiver_fingerprint": certificate.fingerprint}
    replies, _ = await played(receive, ["QUIT"], **given)
    assert replies == [b"220 hello\r\n", b"221 bye\r\n"]
    assert seen == [b"QUIT\r\n"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_an_old_device_reaches_a_modern_receiver(secure_postfix: Postfix, certificate: Certificate) -> None:
    """TLS 1.0 on one leg, 1.3 on the other."""
    openssl = need("openssl")
    before = secure_postfix.count("large")
    given: dict[str, Any] = {
        "listen": f"{HOST}:0,least-tls=1.0",
        "certificate": certificate.certificate,
        "key": certificate.key,
        "receiver_tls": "required",
        "receiver_authorities": certificate.certificate,
    }
    dialogue = (
        "EHLO x\r\nMAIL FROM:<a@sender.example>\r\n"
        f"RCPT TO:<large@{MAILBOX_DOMAIN}>\r\nDATA\r\nSubject: x\r\n\r\ntext\r\n.\r\nQUIT\r\n"
    )

    def talk(port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        send_to(port, "large", context)

    with trio.fail_after(SECONDS):
        async with shim(secure_postfix.port, **given) as between:
            await trio.to_thread.run_sync(talk, between.port)
            command = [openssl, "s_client", "-tls1", "-cipher", "DEFAULT:@SECLEVEL=0", "-starttls", "smtp", "-quiet"]
            where = ["-connect", f"{HOST}:{between.port}"]
            ended = await trio.to_thread.run_sync(run, [*command, *where], dialogue.encode())
            assert "221" in ended.said, ended.account
            await between.watcher.sessions_ended(2)
    poll(lambda: secure_postfix.count("large") >= before + 2, "two mails stored")
    assert {(r.sender_tls, r.receiver_tls) for r in between.watcher.ended_sessions} == {("TLSv1", "TLSv1.3")}


async def test_a_modern_listener_takes_no_old_device(clear_postfix: Postfix, certificate: Certificate) -> None:
    with trio.fail_after(SECONDS):
        async with shim(clear_postfix.port, **terminated(certificate)) as between:
            command = [need("openssl"), "s_client", "-tls1", "-cipher", "DEFAULT:@SECLEVEL=0", "-starttls", "smtp"]
            ended = await trio.to_thread.run_sync(run, [*command, "-connect", f"{HOST}:{between.port}"], b"")
            await between.watcher.sessions_ended()
    assert ended.status != 0
    assert Violation.TLS_FAILED in [repair.violation for repair in between.watcher.repairs]


def test_the_shims_own_commands_are_kept_in_step() -> None:
    """An extra reply behind its EHLO does not answer its STARTTLS."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, STARTTLS_OFFERED + b"454 extra\r\n")
        assert stage.receiver.written.endswith(b"STARTTLS\r\n")
        assert not stage.earlier_receivers

    assert staged(script, policy=OPPORTUNISTIC).repaired[:1] == [Violation.EXTRA_REPLY]


async def test_a_sender_that_streams_on_under_tls_reads_its_refusal(certificate: Certificate) -> None:
    """The shim's half-close leaves it readable: what is sent behind a refused DATA is drained, as in the clear."""

    def refuses_data(talk: Talk) -> None:
        talk.say(b"550 no\r\n")
        talk.read_on()

    def talk(port: int) -> list[bytes]:
        with connected(port) as sock:
            dialogue = Dialogue(sock)
            dialogue.open("EHLO x")
            dialogue.command("STARTTLS", 220)
            with certificate.client().wrap_socket(sock, server_hostname=NAME) as secure:
                over_tls = Dialogue(secure)
                over_tls.command("EHLO x", 250)
                secure.sendall(b"DATA\r\n" + b"x" * 10_000)  # in one record: they are behind DATA for certain
                for _ in range(200):
                    secure.sendall(b"x" * 20_000)
                return [over_tls.reply(), over_tls.reply()]

    with trio.fail_after(SECONDS), FaultyReceiver(refuses_data) as receiver:
        async with shim(receiver.port, **terminated(certificate)) as between:
            replies = await trio.to_thread.run_sync(talk, between.port)
    assert [reply[:3] for reply in replies] == [b"550", b"421"]


# -- in the clear behind TLS: only by leave


@pytest.mark.parametrize("allowed", [True, False])
def test_starttls_is_offered_only_where_the_mail_goes_on_securely(allowed: bool) -> None:
    """A receiver leg in the clear has to be allowed."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"250 no TLS here\r\n")
        await stage.feed(stage.receiver, b"250 no TLS here\r\n")
        assert (b"STARTTLS" in stage.sender.written) == allowed
        assert b"no TLS here\r\n" in stage.sender.written

    policy = Policy(sender_tls=SenderTls.STARTTLS, receiver_tls=ReceiverTls.OPPORTUNISTIC, clear_allowed=allowed)
    staged(script, policy=policy)


@pytest.mark.parametrize("allowed", [True, False])
async def test_what_came_under_implicit_tls_goes_on_in_the_clear_only_by_leave(
    allowed: bool, clear_postfix: Postfix, certificate: Certificate
) -> None:
    def talk(port: int) -> bytes:
        with connected(port) as sock, certificate.client().wrap_socket(sock, server_hostname=NAME) as secure:
            dialogue = Dialogue(secure)
            assert dialogue.reply().startswith(b"220")
            return dialogue.command("EHLO x")

    given = terminated(certificate, sender_tls="implicit", receiver_tls="opportunistic", clear_allowed=allowed)
    with trio.fail_after(SECONDS):
        async with shim(clear_postfix.port, **given) as between:
            reply = await trio.to_thread.run_sync(talk, between.port)
    assert reply.startswith(b"250" if allowed else b"421 no TLS with the receiver")


def test_starttls_is_refused_behind_a_login() -> None:
    """What was given in the clear must not stand under TLS (RFC 3207 4.2), and no receiver takes a login back."""

    async def script(stage: Stage) -> None:
        given = await offered(stage, b"AUTH PLAIN")
        assert b"STARTTLS" in given
        await stage.feed(stage.sender, b"AUTH PLAIN x\r\n")
        await stage.feed(stage.receiver, b"235 welcome\r\n")
        await stage.feed(stage.sender, b"STARTTLS\r\n")
        assert stage.sender.written.endswith(b"502 command not offered through this proxy\r\n")

    staged(script, policy=Policy(sender_tls=SenderTls.STARTTLS, clear_allowed=True))


# -- a half-close under TLS


async def secured_pair(on: Ground, certificate: Certificate) -> tuple[Leg, ssl.SSLSocket]:
    """A leg that is TLS's server, and its peer's end."""
    leg, peer = await pair(on)
    context = certificate.client()
    context.check_hostname = False
    secured: list[ssl.SSLSocket] = []

    def shake_hands() -> None:
        secured.append(context.wrap_socket(peer))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, shake_hands)
        await leg.secure(certificate.server())
    return leg, secured[0]


async def test_what_a_peer_is_sending_is_read_on_behind_a_half_close(certificate: Certificate) -> None:
    """Over TLS as in the clear: OpenSSL must not find it when it looks for the peer's close_notify."""
    async with ground() as on:
        leg, peer = await secured_pair(on, certificate)
        peer.sendall(b"421 my own words\r\n")
        leg.half_close()
        assert await leg.read() == b"421 my own words\r\n"
        peer.close()
        assert await linger(leg, 5, 5)
        leg.close()


async def test_a_leg_that_openssl_reads_no_more_hears_nothing_and_meets_its_end(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes between the look and the close_notify can't be read any more: it is taken, not heard."""

    class Blind:
        def register(self, *_: object) -> None: ...

        def poll(self, _: int) -> list[object]:
            return []

    async with ground() as on:
        leg, peer = await secured_pair(on, certificate)
        peer.sendall(b"421 my own words\r\n")
        monkeypatch.setattr("shimproxy.net.records.select.poll", Blind)
        leg.half_close()
        monkeypatch.undo()
        heard: list[bytes] = []
        peer.close()
        assert await linger(leg, 5, 5, heard.append)
        assert heard == []
        leg.close()


# -- settings


@pytest.mark.parametrize(
    ("changes", "used"),
    [
        ({}, SenderTls.OPAQUE),
        ({"receiver_tls": "required"}, SenderTls.OFF),
        ({"certificate": "c", "receiver_tls": "required"}, SenderTls.STARTTLS),
        ({"sender_tls": "off"}, SenderTls.OFF),
    ],
    ids=str,
)
def test_what_is_done_about_tls_if_nothing_is_said(changes: dict[str, Any], used: SenderTls) -> None:
    assert settings(**changes).sender_tls_used is used


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sender_tls": "starttls"}, "sender_tls: starttls needs a certificate"),
        ({"sender_tls": "off", "certificate": "c"}, "certificate: sender_tls is off, which uses none"),
        ({"sender_tls": "opaque", "receiver_tls": "required"}, "sender_tls: with opaque, TLS is between"),
        ({"certificate": "c"}, "would leave without it; .* allow this"),
        ({"receiver_tls": "yes"}, "receiver_tls: 'yes' is none of off, opportunistic, required, implicit"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        settings(**changes)


def test_files_that_cannot_be_used_are_named(tmp_path: Path, certificate: Certificate) -> None:
    nothing, garbage = tmp_path / "nothing.pem", tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    listener = settings(listen="127.0.0.1:0").listen[0]
    for file, words in ((nothing, "nothing.pem: No such file"), (garbage, "garbage.pem: no certificate with its key")):
        given = settings(certificate=file, receiver_tls="required")
        with pytest.raises(TlsUnusable, match=words):
            given.sender_context(listener)
    with pytest.raises(TlsUnusable, match="no certificate with its key"):
        settings(certificate=certificate.certificate, receiver_tls="required").sender_context(listener)
    with pytest.raises(TlsUnusable, match="is not a SHA-256 fingerprint"):
        settings(receiver_tls="required", receiver_fingerprint="12:34").receiver_security()
    with pytest.raises(TlsUnusable, match="no CA certificates in it"):
        settings(receiver_tls="required", receiver_authorities=garbage).receiver_security()
