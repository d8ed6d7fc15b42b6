"""A receiver that takes one EHLO a session refuses no sender for what shimproxy has said itself; see also OpenSMTPD."""

from __future__ import annotations

import functools
import smtplib
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
import trio

from shimproxy import Login, Violation
from shimproxy.faulty.client import Dialogue, connected
from shimproxy.faulty.receiving import HOST
from shimproxy.session.policy import Policy, ReceiverTls, SenderTls
from tests.memory import Stage, staged
from tests.peers.opensmtpd import OpenSmtpd, opensmtpd
from tests.peers.processes import poll
from tests.peers.shim import Watcher, shim
from tests.peers.tls import Certificate, make_certificate
from tests.session.test_xclient import SECURES

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from shimproxy.net.leg import Leg
    from tests.memory import MemorySocket

OUT_OF_ORDER = b"503 5.5.1 Invalid command: Already identified\r\n"


@attrs.define(eq=False)
class TakesOneHello:
    """What OpenSMTPD, minismtpd and Yandex have in common; one transaction at a time, as with any receiver."""

    keywords: tuple[bytes, ...]
    hellos: list[bytes] = attrs.field(factory=list)
    """Those that it has accepted."""
    _sock: MemorySocket | None = None
    _read_octets: int = 0
    _greeted: bool = False
    _in_transaction: bool = False
    _secured: bool = False

    async def play(self, stage: Stage) -> None:
        """Answer what it was given, on the connection there is by now."""
        while True:
            if stage.receiver is not self._sock:
                if not stage.receiver.leg:
                    return
                self._sock, self._read_octets = stage.receiver, 0
                self._greeted = self._in_transaction = self._secured = False
                await stage.feed(stage.receiver, b"220 hello\r\n")
            lines = bytes(self._sock.written[self._read_octets :])
            self._read_octets += len(lines)
            if not lines:
                return
            for line in lines.splitlines(keepends=True):
                await stage.feed(self._sock, self._reply(line))

    def _reply(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb in (b"EHLO", b"HELO"):
            if self._greeted:
                return OUT_OF_ORDER
            self._greeted = True
            self.hellos.append(line)
            offered = [word for word in self.keywords if word != b"STARTTLS" or not self._secured]
            lines = [b"r.example", *(offered if verb == b"EHLO" else [])]
            return b"".join(b"250%s%s\r\n" % (b" " if each is lines[-1] else b"-", each) for each in lines)
        if verb == b"XCLI":
            self._greeted = False
            return b"220 hello again\r\n"
        if verb == b"STAR":
            self._greeted, self._secured = False, True
            return b"220 go\r\n"
        if verb == b"AUTH":
            return b"235 2.7.0 welcome\r\n"
        if verb == b"MAIL":
            if not self._greeted:
                return b"550 5.5.1 hello first\r\n"
            if self._in_transaction:
                return b"503 5.5.1 nested MAIL\r\n"
            self._in_transaction = True
        elif verb in (b"RSET", b"QUIT"):
            self._in_transaction = False
        return b"221 bye\r\n" if verb == b"QUIT" else b"250 2.0.0 ok\r\n"


@pytest.fixture
def senders_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender's TLS, in name."""

    async def secured(self: Leg, _context: object) -> None:
        self.secured = True

    monkeypatch.setattr("shimproxy.net.leg.Leg.secure", secured)


LOGIN = Login("user", "secret", in_clear=True)
CLEAR = Policy(sender_tls=SenderTls.OFF, receiver_security=SECURES)
TERMINATED = Policy(
    sender_tls=SenderTls.STARTTLS,
    sender_context=cast("ssl.SSLContext", object()),
    clear_allowed=True,
    receiver_security=SECURES,
)
WAYS = {
    "opportunistic": ({"receiver_tls": ReceiverTls.OPPORTUNISTIC}, ()),
    "opportunistic, over to TLS": ({"receiver_tls": ReceiverTls.OPPORTUNISTIC}, (b"STARTTLS",)),
    "required": ({"receiver_tls": ReceiverTls.REQUIRED}, (b"STARTTLS",)),
    "implicit": ({"receiver_tls": ReceiverTls.IMPLICIT}, ()),
    "xclient": ({"xclient": True}, ()),
    "xclient, told": ({"xclient": True}, (b"XCLIENT ADDR HELO",)),
    "login": ({"login": LOGIN}, (b"AUTH PLAIN",)),
    "all of them": (
        {"receiver_tls": ReceiverTls.REQUIRED, "xclient": True, "login": LOGIN},
        (b"STARTTLS", b"XCLIENT ADDR", b"AUTH PLAIN"),
    ),
}
MAIL = b"MAIL FROM:<a@b>"
SENDERS = {
    "EHLO": [b"EHLO x", MAIL, b"RSET", MAIL],
    "HELO": [b"HELO x", MAIL],
    "EHLO later": [b"NOOP", b"RSET", b"EHLO x", MAIL],
    "MAIL first": [MAIL, b"EHLO x", MAIL],
    "no name": [b"EHLO", MAIL],
    "HELO without a name": [b"HELO", MAIL],
}
SENDERS_OVER_TLS = {
    "STARTTLS": [b"EHLO x", b"STARTTLS", b"EHLO x", MAIL],
    "STARTTLS, another name": [b"EHLO x", b"STARTTLS", b"EHLO y", MAIL],
    "STARTTLS, HELO": [b"EHLO x", b"STARTTLS", b"HELO x", MAIL],
    "STARTTLS within a transaction": [b"EHLO x", MAIL, b"STARTTLS", b"EHLO x", MAIL],
    "STARTTLS within a transaction, another name": [b"EHLO x", MAIL, b"STARTTLS", b"EHLO y", MAIL],
}


def replies_to(lines: list[bytes], policy: Policy, receiver: TakesOneHello, lost_behind: int = 0) -> list[bytes]:
    """What a sender is told to each of these lines; the receiver closes behind so many of them."""
    replies = []

    async def script(stage: Stage) -> None:
        await receiver.play(stage)
        for number, line in enumerate(lines, 1):
            stage.sender.written.clear()
            await stage.feed(stage.sender, line + b"\r\n")
            await receiver.play(stage)
            replies.append(bytes(stage.sender.written))
            if number == lost_behind:
                stage.receiver.feed_fin()
                await stage.settle()

    staged(script, policy=policy)
    return replies


def check(replies: list[bytes], lines: list[bytes]) -> None:
    """Each line has one reply, none of them a 503; what stands behind a hello is accepted."""
    assert [reply for reply in replies if reply.startswith(b"503")] == []
    assert replies[-1].startswith(b"250"), replies
    for line, reply in zip(lines, replies, strict=True):
        code = reply[:3]
        assert reply.splitlines()[-1].startswith(code + b" "), reply
        if line.startswith(b"HELO"):
            assert reply == b"250 r.example\r\n"


@pytest.mark.parametrize("lines", SENDERS.values(), ids=SENDERS)
@pytest.mark.parametrize(("way", "keywords"), WAYS.values(), ids=WAYS)
def test_no_sender_is_refused_for_what_the_shim_has_said(
    way: dict[str, Any], keywords: tuple[bytes, ...], lines: list[bytes]
) -> None:
    receiver = TakesOneHello((*keywords, b"ENHANCEDSTATUSCODES"))
    replies = replies_to(lines, attrs.evolve(CLEAR, **way), receiver)
    check(replies, lines)


@pytest.mark.usefixtures("senders_tls")
@pytest.mark.parametrize("lines", SENDERS_OVER_TLS.values(), ids=SENDERS_OVER_TLS)
@pytest.mark.parametrize(
    ("way", "keywords"), [({"receiver_tls": ReceiverTls.OFF}, ()), *WAYS.values()], ids=["off", *WAYS]
)
def test_nor_for_its_own_starttls_that_the_receiver_sees_nothing_of(
    way: dict[str, Any], keywords: tuple[bytes, ...], lines: list[bytes]
) -> None:
    """RFC 3207 section 4.2 has it say EHLO anew."""
    receiver = TakesOneHello((*keywords, b"ENHANCEDSTATUSCODES"))
    replies = replies_to(lines, attrs.evolve(TERMINATED, **way), receiver)
    check(replies, lines)


@pytest.mark.usefixtures("senders_tls")
@pytest.mark.parametrize("lines", [SENDERS["EHLO"], SENDERS["HELO"], SENDERS_OVER_TLS["STARTTLS"]], ids=repr)
@pytest.mark.parametrize("more", [{"resume": True}, {"fails_over": True}], ids=str)
@pytest.mark.parametrize(("way", "keywords"), WAYS.values(), ids=WAYS)
def test_nor_on_a_leg_that_is_opened_anew(
    way: dict[str, Any], keywords: tuple[bytes, ...], more: dict[str, Any], lines: list[bytes]
) -> None:
    receiver = TakesOneHello((*keywords, b"ENHANCEDSTATUSCODES"))
    lost_behind = lines.index(MAIL)
    replies = replies_to(lines, attrs.evolve(TERMINATED, **way, **more), receiver, lost_behind)
    check(replies, lines)


def test_what_the_receiver_offers_is_what_the_sender_is_offered() -> None:
    """Although the reply was to shimproxy's own EHLO."""
    receiver = TakesOneHello((b"AUTH PLAIN", b"XCLIENT", b"SIZE 1000", b"HELP"))
    replies = replies_to([b"EHLO x"], attrs.evolve(CLEAR, login=LOGIN), receiver)
    assert replies == [b"250-r.example\r\n250-SIZE 1000\r\n250 HELP\r\n"]
    assert receiver.hellos == [b"EHLO x\r\n"]


def test_a_second_hello_of_the_senders_own_is_forwarded_as_it_is() -> None:
    """Directly it would be refused as well."""
    receiver = TakesOneHello((b"HELP",))
    replies = replies_to([b"EHLO x", b"EHLO x"], attrs.evolve(CLEAR, receiver_tls=ReceiverTls.OPPORTUNISTIC), receiver)
    assert replies[1] == OUT_OF_ORDER


@pytest.mark.parametrize("refusal", [b"550 5.7.1 not you\r\n", b"501 5.5.4 no name\r\n", b"451 4.7.1 later\r\n"])
def test_who_is_refused_by_one_word_is_not_taken_for_the_shim_by_another(refusal: bytes) -> None:
    """A receiver that refuses EHLO for a name may offer XCLIENT, and let shimproxy do what the sender may not."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, refusal)
        assert stage.sender.written == b"220 hello\r\n" + refusal
        await stage.feed(stage.sender, b"HELO x\r\n")
        assert stage.receiver.written == b"EHLO x\r\nEHLO x\r\n"
        await stage.feed(stage.receiver, refusal)
        assert b"HELO" not in stage.receiver.written
        assert b"\r\n421 the receiver rejected the client's identity" in stage.sender.written

    stage = staged(script, policy=Policy(sender_tls=SenderTls.OFF, xclient=True))
    assert stage.repaired == [Violation.XCLIENT_REFUSED]


def test_who_is_refused_for_a_long_name_is_not_taken_for_the_shim_with_a_short_one() -> None:
    """A name can make a receiver say that it does not know the command (OpenSMTPD: "500 Line too long")."""

    async def script(stage: Stage) -> None:
        too_long = b"500 5.5.1 Line too long\r\n"
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"HELO %s\r\n" % (b"x" * 3000))
        await stage.feed(stage.receiver, too_long)
        await stage.feed(stage.receiver, b"220 hello\r\n")
        assert stage.receiver.written.startswith(b"HELO xxx")
        stage.receiver.written.clear()
        await stage.feed(stage.receiver, too_long)
        await stage.feed(stage.sender, b"HELO x\r\n")
        assert stage.receiver.written == b"EHLO x\r\n"
        await stage.feed(stage.receiver, b"250-hi\r\n250 XCLIENT ADDR\r\n")
        assert stage.receiver.written.endswith(b"XCLIENT ADDR=192.0.2.1\r\n")

    staged(script, policy=Policy(sender_tls=SenderTls.OFF, xclient=True))


def test_a_receiver_that_was_not_told_is_told_with_the_next_ehlo() -> None:
    """One that knew no EHLO when the sender said HELO, and knows it now."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"HELO x\r\n")
        await stage.feed(stage.receiver, b"500 what\r\n")
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.receiver, b"250 hi\r\n")
        assert stage.receiver.written == b"HELO x\r\n"
        await stage.feed(stage.sender, b"EHLO y\r\n")
        await stage.feed(stage.receiver, b"250-hi\r\n250 XCLIENT ADDR\r\n")
        assert stage.receiver.written.endswith(b"EHLO y\r\nXCLIENT ADDR=192.0.2.1\r\n")

    staged(script, policy=Policy(sender_tls=SenderTls.OFF, xclient=True))


def test_nor_is_it_given_that_twice() -> None:
    async def script(stage: Stage) -> None:
        for sock, octets in (
            (stage.receiver, b"220 hello\r\n"),
            (stage.sender, b"HELO x\r\n"),
            (stage.receiver, b"500 what\r\n"),
        ):
            await stage.feed(sock, octets)
        for octets in (b"220 hello\r\n", b"250 hi\r\n"):
            await stage.feed(stage.receiver, octets)
        await stage.feed(stage.sender, b"EHLO y\r\n")
        await stage.feed(stage.receiver, b"250-hi\r\n250 HELP\r\n")
        assert stage.receiver.written == b"HELO x\r\nEHLO y\r\n"
        assert stage.sender.written.endswith(b"250-hi\r\n250 HELP\r\n")

    staged(script, policy=Policy(sender_tls=SenderTls.OFF, xclient=True))


# -- a real one

RECIPIENT = "<many@mailbox.example>"
SECONDS = 60.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def clear_receiver() -> Iterator[OpenSmtpd]:
    with opensmtpd() as running:
        yield running


@pytest.fixture(scope="module")
def secure_receiver(certificate: Certificate) -> Iterator[OpenSmtpd]:
    with opensmtpd(certificate=certificate) as running:
        yield running


def mails(port: int, certificate: Certificate | None, *texts: bytes, helo: bool = False) -> list[int]:
    """The codes of a session's mails, sent as smtplib does it; behind STARTTLS, with a certificate."""
    codes = []
    with smtplib.SMTP(HOST, port, timeout=SECONDS) as session:
        if certificate:
            session.starttls(context=certificate.client())
        if helo:
            session.helo()
        else:
            session.ehlo_or_helo_if_needed()
        for text in texts:
            codes += [session.mail("<a@sender.example>")[0], session.rcpt(RECIPIENT)[0], session.data(text)[0]]
    return codes


async def taken(receiver: OpenSmtpd, trusted: Certificate | None = None, **given: Any) -> Watcher:
    """Two mails of a sender that says EHLO, over TLS if it has a certificate to trust, and of one that says HELO."""
    before, text = receiver.count, b"Subject: x\r\n\r\ntext\r\n"
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, **given) as between:
            codes = await trio.to_thread.run_sync(mails, between.port, trusted, text, text)
            codes += await trio.to_thread.run_sync(functools.partial(mails, between.port, None, text, helo=True))
            await between.watcher.sessions_ended(2)
        await trio.to_thread.run_sync(poll, lambda: receiver.count >= before + 3, "three mails stored")
    assert codes == [250] * 9
    return between.watcher


async def test_opensmtpd_takes_one_hello(clear_receiver: OpenSmtpd) -> None:
    """Directly; so that these tests show something."""

    def talk() -> list[bytes]:
        with connected(clear_receiver.port) as sock:
            dialogue = Dialogue(sock)
            dialogue.open("EHLO x.example")
            return [dialogue.command("EHLO x.example"), dialogue.command("HELO x.example")]

    assert [reply[:3] for reply in await trio.to_thread.run_sync(talk)] == [b"503", b"503"]


@pytest.mark.parametrize(
    "given",
    [
        {"receiver_tls": "opportunistic"},
        {"xclient": True},
        {"receiver_tls": "opportunistic", "xclient": True, "tidy": True},
    ],
    ids=repr,
)
async def test_an_opensmtpd_without_tls_takes_mail(given: dict[str, Any], clear_receiver: OpenSmtpd) -> None:
    assert (await taken(clear_receiver, **given)).repairs == []


@pytest.mark.parametrize(
    "given", [{}, {"receiver_tls": "opportunistic"}, {"receiver_tls": "opportunistic", "xclient": True}], ids=repr
)
async def test_an_opensmtpd_takes_the_mail_of_a_sender_that_uses_tls_with_the_shim(
    given: dict[str, Any], clear_receiver: OpenSmtpd, certificate: Certificate
) -> None:
    own = {"certificate": certificate.certificate, "key": certificate.key, "clear_allowed": True}
    watcher = await taken(clear_receiver, certificate, **own, **given)
    assert watcher.repairs == []
    assert [(record.sender_tls, record.receiver_tls) for record in watcher.ended_sessions] == [
        ("TLSv1.3", "-"),
        ("-", "-"),
    ]


@pytest.mark.parametrize("xclient", [False, True])
async def test_an_opensmtpd_that_offers_tls_takes_mail(xclient: bool, secure_receiver: OpenSmtpd) -> None:
    """Whatever its TLS is worth."""
    given: dict[str, Any] = {"receiver_tls": "opportunistic", "receiver_verified": False, "xclient": xclient}
    watcher = await taken(secure_receiver, **given)
    assert {repair.violation for repair in watcher.repairs} <= {Violation.TLS_FAILED}


@pytest.mark.parametrize("how", ["off", "opportunistic"])
async def test_a_session_is_resumed_at_an_opensmtpd(how: str, secure_receiver: OpenSmtpd) -> None:
    """After a mail that the operator does not want."""
    given: dict[str, Any] = {"resume": True, "newlines": "reject", "receiver_tls": how, "receiver_verified": False}

    def send(port: int) -> list[int]:
        codes = []
        with smtplib.SMTP(HOST, port, timeout=SECONDS) as session:
            session.ehlo()
            for text in (b"bare\n.\nnewlines\r\n", b"Subject: x\r\n\r\ncanonical\r\n"):
                session.mail("<a@sender.example>")
                session.rcpt(RECIPIENT)
                session.putcmd("data")
                session.getreply()
                session.send(text + b".\r\n")
                codes.append(session.getreply()[0])
        return codes

    with trio.fail_after(SECONDS):
        async with shim(secure_receiver.port, **given) as between:
            codes = await trio.to_thread.run_sync(send, between.port)
            await between.watcher.sessions_ended()
    assert codes == [550, 250]
    (record,) = between.watcher.ended_sessions
    assert record.resumed == 1
