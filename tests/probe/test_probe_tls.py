"""The probe in TLS: every question is asked inside it, a certificate that is refused ends nothing, and where there is
no TLS one line says why and what helps.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from shimproxy.cli import main
from shimproxy.faulty.receiving import HOST, speaking
from shimproxy.net.address import Address
from shimproxy.net.errors import DialFailed
from shimproxy.probe.account import ConnectionEnd
from shimproxy.probe.probe import Probe, ProbePlan, Tls
from shimproxy.probe.questions import QUESTIONS
from shimproxy.smtp.catalogue import Violation
from tests.peers.exim import exim
from tests.peers.opensmtpd import opensmtpd
from tests.peers.postfix import postfix
from tests.peers.processes import poll
from tests.peers.tls import NAME, Certificate, make_certificate
from tests.probe.test_probe import PLAN, RECIPIENT, SECONDS, SHORT_SECONDS, Probed
from tests.session.test_tls import tls_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shimproxy.faulty.talk import Talk

V = Violation
OFFER = b"250-here\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
ASKED = ("pipelining", *(question.name for question in QUESTIONS))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate that does not name 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "other.example", "192.0.2.7")


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), expired=True)


async def probed(port: int, tls: Tls, *, mail: bool = False, **changes: Any) -> Probed:
    """A probe; the address is not known before, so that the first connection finds it."""
    lines: list[tuple[str, str]] = []
    probe = Probe(ProbePlan(**kept(receiver=Address(HOST, port), tls=tls, **changes)), lines.append)
    with trio.fail_after(SECONDS):
        await probe.without_mail()
        if mail:
            await probe.mail_data()
    return Probed(probe, lines)


def kept(**changes: Any) -> dict[str, Any]:
    """What makes a plan like PLAN."""
    fields = {field.name: getattr(PLAN, field.name) for field in attrs.fields(ProbePlan) if field.init}
    return fields | changes


async def refused(port: int, tls: Tls, **changes: Any) -> str:
    """Why there is no probe, in one line."""
    with pytest.raises(DialFailed) as raised:
        await probed(port, tls, **changes)
    return str(raised.value)


def secured(talk: Talk, context: ssl.SSLContext) -> None:
    """Go over to TLS as its server; one whose client does not do so is `Gone` when it is read."""
    talk.sock = context.wrap_socket(talk.sock, server_side=True, do_handshake_on_connect=False)
    with contextlib.suppress(OSError):
        talk.sock.do_handshake()


def dialogue_in(talk: Talk, replies: dict[bytes, bytes]) -> None:
    """Commands and their replies, to QUIT."""
    known = {b"EHLO": b"250 here\r\n", b"QUIT": b"221 bye\r\n"} | replies
    while (verb := talk.line()[:4]) != b"QUIT":
        talk.say(known.get(verb, b"250 ok\r\n"))
    talk.say(known[b"QUIT"])


@contextlib.contextmanager
def starting_tls(after_starttls: Callable[[Talk], None], to_starttls: bytes = b"220 go ahead\r\n") -> Iterator[int]:
    """A receiver that offers STARTTLS, and what it does after its reply to that; its port."""

    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        while (verb := talk.line()[:4]) != b"STAR":
            talk.say(OFFER if verb == b"EHLO" else b"250 ok\r\n")
            if verb == b"QUIT":
                return
        talk.say(to_starttls)
        after_starttls(talk)

    with speaking(dialogue) as receiver:
        yield receiver.port


@contextlib.contextmanager
def beginning_with_tls(certificate: Certificate, greeting: bytes = b"220 hello\r\n") -> Iterator[int]:
    """A receiver that says nothing before TLS; its port."""

    def dialogue(talk: Talk) -> None:
        secured(talk, certificate.server())
        talk.say(greeting)
        dialogue_in(talk, {})

    with speaking(dialogue) as receiver:
        yield receiver.port


# -- real receivers


def assert_all_was_asked(seen: Probed, how: Tls) -> None:
    account = seen.probe.account
    assert seen.names == set(), seen.text
    assert (account.tls.how, account.tls.version, account.tls.left_out) == (how, "TLSv1.3", "")
    assert account.tls.cipher.startswith("TLS_")
    assert {name: getattr(account, name).left_out for name in ASKED} == dict.fromkeys(ASKED, "")
    assert account.mail_data.left_out == ""
    assert "STARTTLS" not in account.dialogue.keywords
    assert (account.pipelining.same, account.pipelining.shows_order) == (True, True)
    assert [reply.code for reply in account.early_talk.replies] == [220, 250]
    assert (account.dialogue.end, account.half_close.end) == (ConnectionEnd.FIN, ConnectionEnd.FIN)


@pytest.mark.parametrize("how", [Tls.STARTTLS, Tls.IMPLICIT])
async def test_postfix_is_asked_everything_inside_tls(how: Tls, certificate: Certificate) -> None:
    """It takes no mail in the clear."""
    more = tls_of(certificate, "encrypt") + ("smtpd_tls_wrappermode = yes\n" if how is Tls.IMPLICIT else "")
    with postfix(size_limit_octets=1_000_000, more=more) as receiver:
        changes = {"octets": None, "recipient": RECIPIENT, "receiver_authorities": certificate.certificate}
        seen = await probed(receiver.port, how, mail=True, **changes)
        poll(lambda: "lost connection after DATA" in receiver.log, "told by Postfix's log")
        delivered, log = receiver.count("contents"), receiver.log
    assert_all_was_asked(seen, how)
    assert (delivered, "status=" in log) == (0, False)
    account = seen.probe.account
    assert account.larger_mail.reply is not None
    assert account.larger_mail.reply.code == 552
    assert account.mail_data.octets_taken > 1_000_000
    assert "more than its SIZE; no reply before the end, as it should be" in seen.text
    assert "Half-close: NOOP, then close_notify and FIN: FIN; a sender that does it gets no reply" in seen.text
    assert (account.tls.certificate.names, account.tls.certificate.problem) == ([NAME, HOST], "")
    assert "shimproxy would accept it" in seen.text


@pytest.mark.parametrize("how", [Tls.STARTTLS, Tls.IMPLICIT])
async def test_exim_is_asked_everything_inside_tls(how: Tls, certificate: Certificate) -> None:
    with exim(daemon=True, certificate=certificate, implicit_tls=how is Tls.IMPLICIT) as receiver:
        pin = certificate.fingerprint
        seen = await probed(
            receiver.port, how, mail=True, octets=100_000, recipient=RECIPIENT, receiver_fingerprint=pin
        )
        poll(lambda: "lost while reading message data" in receiver.log, "told by Exim's log")
        delivered, log = receiver.count("contents"), receiver.log
    assert_all_was_asked(seen, how)
    assert (delivered, " => " in log) == (0, False)
    assert seen.probe.account.mail_data.replies == []
    assert seen.probe.account.tls.certificate.fingerprint == pin
    assert "Half-close: NOOP, then close_notify and FIN: 250 OK; closes" in seen.text
    assert "shimproxy would accept it" in seen.text


async def test_exim_that_wants_a_certificate(certificate: Certificate) -> None:
    """In TLS 1.3 that shows after the handshake."""
    with exim(daemon=True, certificate=certificate, wants_certificate=True) as receiver:
        why_not = await refused(receiver.port, Tls.STARTTLS)
        seen = await probed(receiver.port, Tls.AUTO)
    assert ": it disconnected after the TLS handshake; it may require a client certificate; read" in why_not
    assert (seen.probe.account.tls.how, seen.names) == ("", {V.TLS_FAILED})


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.AUTO])
async def test_opensmtpd_with_a_certificate_is_asked_inside_tls_or_says_why_not(
    tls: Tls, certificate: Certificate
) -> None:
    """Debian 12's can't make TLS with OpenSSL 3, after it has said that it is ready to."""
    with opensmtpd(certificate=certificate) as receiver:
        try:
            seen = await probed(receiver.port, tls)
        except DialFailed:
            why_not = await refused(receiver.port, tls)
            assert tls is Tls.STARTTLS
            assert f"no TLS with {HOST}:{receiver.port}: the handshake failed: " in why_not
            assert why_not.endswith("; read the receiver's log, or probe it without --tls")
            return
    if seen.probe.account.tls.how:
        assert_all_was_asked(seen, Tls.STARTTLS)
    elif tls is Tls.STARTTLS:
        why_not = seen.probe.account.dialogue.left_out  # it disconnected before it had offered TLS
        assert why_not, seen.text
        assert f"TLS: none: {why_not}" in seen.text
    else:
        assert seen.names == {V.TLS_FAILED}
        assert "TLS: none: the handshake failed: " in seen.text
        assert "NOOP: 250 2.0.0 Ok" in seen.text


# -- certificates


async def test_a_certificate_with_other_names_ends_nothing(foreign: Certificate) -> None:
    with beginning_with_tls(foreign) as port:
        seen = await probed(port, Tls.IMPLICIT, receiver_authorities=foreign.certificate)
        named = await probed(
            port, Tls.IMPLICIT, receiver_authorities=foreign.certificate, receiver_name="other.example"
        )
    assert "Certificate: for other.example, 192.0.2.7; " in seen.text
    assert "shimproxy would refuse it: IP address mismatch, certificate is not valid for '127.0.0.1'" in seen.text
    assert "; give one of its names, as in --receiver-name other.example\n" in seen.text
    assert "NOOP: 250 ok" in seen.text
    assert named.probe.account.tls.certificate.problem == ""


async def test_a_certificate_that_has_expired_ends_nothing(expired: Certificate) -> None:
    with beginning_with_tls(expired) as port:
        seen = await probed(port, Tls.IMPLICIT, receiver_authorities=expired.certificate)
    assert "; it has expired (" in seen.text
    assert "refuse it: certificate has expired; the receiver needs a new certificate\n" in seen.text
    assert (seen.probe.account.tls.certificate.days_left or 0) < 0
    assert "NOOP: 250 ok" in seen.text


async def test_a_certificate_of_an_unknown_ca_ends_nothing(certificate: Certificate, foreign: Certificate) -> None:
    with beginning_with_tls(certificate) as port:
        seen = await probed(port, Tls.IMPLICIT)
        pinned = await probed(port, Tls.IMPLICIT, receiver_fingerprint=foreign.fingerprint)
    mend = f"give its CA by --receiver-ca FILE, or --receiver-fingerprint {certificate.fingerprint}"
    assert f"refuse it: self-signed certificate; {mend}\n" in seen.text
    assert f"SHA-256 is {certificate.fingerprint}, which is not the pinned one" in pinned.text


# -- where there is no TLS, or in another place


async def test_tls_at_once_where_the_receiver_greets_in_the_clear() -> None:
    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        dialogue_in(talk, {b"EHLO": OFFER})

    with speaking(dialogue) as receiver:
        why_not = await refused(receiver.port, Tls.IMPLICIT)
    where = f"{HOST}:{receiver.port}"
    assert why_not == f"no TLS with {where}: it greets without TLS: 220 hello; probe it with --tls starttls"


async def test_starttls_where_the_receiver_begins_with_tls(certificate: Certificate) -> None:
    with beginning_with_tls(certificate) as port:
        why_not = await refused(port, Tls.STARTTLS, patience_seconds=2.0)
        clear = await probed(port, Tls.OFF, patience_seconds=2.0)
        auto = await probed(port, Tls.AUTO, patience_seconds=2.0)
    where = f"{HOST}:{port}"
    assert why_not == f"no TLS with {where}: it begins with TLS, without STARTTLS; probe it with --tls implicit"
    assert "a connection that begins with TLS succeeds: probe it with --tls implicit" in clear.text
    assert clear.names == set(), clear.text
    assert (auto.probe.account.tls.how, auto.names) == ("implicit", set())
    assert "NOOP: 250 ok" in auto.text


async def test_starttls_that_is_not_offered() -> None:
    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        dialogue_in(talk, {})

    with speaking(dialogue) as receiver:
        why_not = await refused(receiver.port, Tls.STARTTLS)
        auto = await probed(receiver.port, Tls.AUTO)
    assert why_not == f"no TLS with {HOST}:{receiver.port}: it does not offer STARTTLS; probe it without --tls"
    assert "TLS: none: it does not offer STARTTLS\n" in auto.text
    assert auto.names == set()


@pytest.mark.parametrize(
    ("reply", "mend"),
    [
        ("454 4.7.0 not now", ""),
        ("502 5.5.1 no", ": senders that want STARTTLS are refused for good: run shimproxy with --hide STARTTLS\n"),
    ],
)
async def test_starttls_that_is_refused(reply: str, mend: str) -> None:
    def goes_on(talk: Talk) -> None:
        dialogue_in(talk, {b"EHLO": OFFER})

    with starting_tls(goes_on, f"{reply}\r\n".encode()) as port:
        why_not = await refused(port, Tls.STARTTLS)
        auto = await probed(port, Tls.AUTO)
    told = f"STARTTLS was answered by {reply}"
    assert why_not == f"no TLS with {HOST}:{port}: {told}; probe it without --tls"
    assert f"TLS: none: {told}\n: it offers STARTTLS; all results are without TLS\n{mend}SIZE: " in auto.text
    assert auto.names == set()


@pytest.mark.parametrize(
    ("handshake", "told"),
    [
        ("silence", "no answer to the handshake within 0.7 s"),
        ("closes", "the handshake failed: "),
        ("speaks on", "the handshake failed: "),
    ],
)
async def test_a_handshake_that_fails(handshake: str, told: str) -> None:
    def fails(talk: Talk) -> None:
        if handshake == "speaks on":
            talk.line()
            talk.say(b"500 what?\r\n")
        if handshake != "closes":
            talk.read_on()

    with starting_tls(fails) as port:
        why_not = await refused(port, Tls.STARTTLS, patience_seconds=SHORT_SECONDS)
    assert why_not.startswith(f"no TLS with {HOST}:{port}: the handshake failed: ")
    assert told in why_not
    assert why_not.endswith("; read the receiver's log, or probe it without --tls")


async def test_auto_begins_again_in_the_clear_where_the_handshake_fails() -> None:
    """What was seen before that does not count."""
    was_tried: list[str] = []

    def dialogue(talk: Talk) -> None:
        talk.say(b"220 hello\r\n")
        while (verb := talk.line()[:4]) != b"QUIT":
            if verb == b"STAR":
                was_tried.append("STARTTLS")
                return talk.say(b"220 go ahead\r\n")
            talk.say(OFFER if verb == b"EHLO" else b"250 ok\r\n")
        talk.say(b"221 bye\r\n")

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port, Tls.AUTO)
    assert was_tried == ["STARTTLS"]
    assert seen.names == {V.TLS_FAILED}
    assert "TLS: none: the handshake failed: " in seen.text
    assert "NOOP: 250 ok" in seen.text


async def test_a_silent_receiver_is_none_of_tls() -> None:
    with speaking(lambda talk: talk.read_on()) as receiver:
        seen = await probed(receiver.port, Tls.STARTTLS, patience_seconds=SHORT_SECONDS)
        why_not = await refused(receiver.port, Tls.IMPLICIT, patience_seconds=SHORT_SECONDS)
    assert seen.names == {V.NO_GREETING}
    assert "TLS: none: without a 220 there is no session" in seen.text
    assert "no answer to the handshake within 0.7 s; check that TLS is what this port begins with" in why_not


# -- what goes wrong inside, and before


async def test_plaintext_after_the_reply_to_starttls_is_seen_and_dropped(certificate: Certificate) -> None:
    def inside(talk: Talk) -> None:
        secured(talk, certificate.server())
        dialogue_in(talk, {})

    with starting_tls(inside, b"220 go ahead\r\n250 injected\r\n") as port:
        seen = await probed(port, Tls.STARTTLS)
    assert seen.names == {V.PLAINTEXT_BEHIND_STARTTLS}
    assert "before TLS: 250 injected" in seen.text
    assert "EHLO: 250 here\n" in seen.text


@pytest.mark.parametrize(
    ("replies", "names"),
    [
        ({b"NOOP": b"250 ok\n"}, {V.REPLY_BARE_NEWLINE}),
        ({b"NOOP": b"250 ok\r\n250 once more\r\n"}, {V.EXTRA_REPLY}),
        ({b"QUIT": b""}, {V.NO_221}),
        ({b"MAIL": b"250"}, {V.NO_REPLY}),
    ],
)
async def test_a_fault_inside_tls_is_found(
    replies: dict[bytes, bytes], names: set[Violation], certificate: Certificate
) -> None:
    def inside(talk: Talk) -> None:
        secured(talk, certificate.server())
        dialogue_in(talk, replies | {b"EHLO": b"250-here\r\n250 SIZE 1000\r\n"})

    with starting_tls(inside) as port:
        seen = await probed(port, Tls.STARTTLS, patience_seconds=2.0)
    assert seen.names == names, seen.text


@pytest.mark.parametrize(
    ("verdict", "ends", "names", "end"),
    [
        (b"552 too big\r\n", False, {V.EARLY_REPLY}, ConnectionEnd.NOT),
        (b"552 too big\r\n", True, {V.EARLY_REPLY, V.RESET_IN_DATA}, ConnectionEnd.RST),
        (b"", True, {V.RESET_IN_DATA}, ConnectionEnd.RST),
    ],
)
async def test_a_mail_inside_tls(
    verdict: bytes, ends: bool, names: set[Violation], end: ConnectionEnd, certificate: Certificate
) -> None:
    """It ends by RST, without close_notify: a receiver could take that for an end, as it could a FIN."""
    ended: list[str] = []

    def inside(talk: Talk) -> None:
        secured(talk, certificate.server())
        while (verb := talk.line()[:4]) not in (b"DATA", b"QUIT"):
            talk.say(b"250 here\r\n" if verb == b"EHLO" else b"250 ok\r\n")
        if verb == b"QUIT":
            return talk.say(b"221 bye\r\n")
        talk.first_part()
        talk.say(verdict)
        if ends:
            return talk.reset()
        try:
            while socket.socket.recv(talk.sock, 65536):  # what lies under TLS, which shows both ends alike
                pass
            ended.append("FIN")
        except ConnectionResetError:
            ended.append("RST")
        talk.sock.close()

    with starting_tls(inside) as port:
        seen = await probed(port, Tls.STARTTLS, mail=True, listen_seconds=0.3, stall_seconds=0.3)
    assert seen.names == names, seen.text
    assert seen.probe.account.mail_data.end is end
    assert ended == ([] if ends else ["RST"])
    assert [each.reply.code for each in seen.probe.account.mail_data.replies] == [552] * bool(verdict)


async def test_what_needs_tls_1_3_is_not_tried_in_older_versions(certificate: Certificate) -> None:
    context = certificate.server()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def dialogue(talk: Talk) -> None:
        secured(talk, context)
        talk.say(b"220 hello\r\n")
        dialogue_in(talk, {})

    with speaking(dialogue) as receiver:
        seen = await probed(receiver.port, Tls.IMPLICIT)
    assert "Half-close: not tried: TLSv1.2 has no half-close (RFC 5246 7.2.1)" in seen.text
    assert "Early talk: not tried: in TLSv1.2 the receiver ends the handshake, and may greet at once" in seen.text
    assert seen.probe.account.tls.version == "TLSv1.2"
    assert seen.names == set(), seen.text


# -- the command


def test_the_command_has_tls_in_its_report(certificate: Certificate, capsys: pytest.CaptureFixture[str]) -> None:
    with beginning_with_tls(certificate) as port:
        arguments = ["probe", f"{HOST}:{port}", "--tls", "implicit", "--receiver-ca", str(certificate.certificate)]
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert main([*arguments, "--json"]) == 0
    tls = json.loads(capsys.readouterr().out)["tls"]
    assert "TLS          before the greeting; TLSv1.3 with TLS_" in text
    assert "Certificate  for mail.example, 127.0.0.1; " in text
    assert tls["how"] == "implicit"
    assert (tls["certificate"]["subject"], tls["certificate"]["issuer"]) == (NAME, NAME)
    assert tls["certificate"]["fingerprint"] == certificate.fingerprint
    assert isinstance(tls["certificate"]["days_left"], int)
    assert tls["certificate"]["problem"] == tls["certificate"]["mend"] == ""


def test_no_tls_is_one_line_and_two(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking(lambda talk: talk.say(b"220 hello\r\n")) as receiver:
        assert main(["probe", f"{HOST}:{receiver.port}", "--tls", "implicit"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"shimproxy: no TLS with {HOST}:{receiver.port}: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--receiver-name", "mail.example"], "need TLS; give --tls auto, starttls or implicit"),
        (["--tls", "auto", "--receiver-ca", "/nowhere"], "/nowhere: "),
        (["--tls", "auto", "--receiver-fingerprint", "12"], "'12' is not a SHA-256 fingerprint"),
    ],
)
def test_settings_of_tls_that_cannot_be_used(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", f"{HOST}:1", *arguments]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.count("\n") == 1
