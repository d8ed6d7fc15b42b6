"""XCLIENT (--xclient): the receiver is told who the sender is; see also transcripts."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
import trio

from shimproxy import Login, Violation
from shimproxy.faulty.client import Dialogue, Refused, connected
from shimproxy.net.origin import NOBODY
from shimproxy.session.policy import Policy, ReceiverTls, SenderTls
from shimproxy.smtp.command import Command, Verb, command_from_line
from shimproxy.smtp.newlines import Newlines
from shimproxy.smtp.xclient import LONGEST_VALUE_OCTETS, xclient_command, xtext
from tests.memory import Stage, staged
from tests.peers.exim import exim
from tests.peers.postfix import MAILBOX_DOMAIN, Postfix, postfix
from tests.peers.processes import poll
from tests.peers.shim import shim
from tests.peers.tls import make_certificate
from tests.session.test_login import PLAIN, SECRET
from tests.session.test_tls import delivered, tls_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from shimproxy.net.leg import Leg
    from shimproxy.net.tls import ReceiverSecurity
    from tests.peers.exim import Exim

ALL = b"NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT"
SENDER = ("203.0.113.7", 4711)
DESTINATION = ("198.51.100.9", 25)
MAIL = command_from_line(b"MAIL FROM:<a@b>\r\n")
XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*").fullmatch  # RFC 3461 section 4


def hello(name: bytes, verb: Verb = Verb.EHLO) -> Command:
    """A command of the sender's, whatever its octets are."""
    return Command(verb, b"%s %s\r\n" % (verb.encode(), name))


def attributes(command: Command | None) -> dict[bytes, bytes]:
    """Those of XCLIENT, as a receiver reads them: one line, fields with a blank between them."""
    assert command
    line = command.line
    assert line.endswith(b"\r\n")
    assert not set(line[:-2]) & set(b"\r\n\0")
    word, *fields = line[:-2].split(b" ")
    assert word == b"XCLIENT"
    values = dict(cast("tuple[bytes, bytes]", field.split(b"=")) for field in fields)
    assert len(values) == len(fields)
    assert all(value and XTEXT(value) for value in values.values())
    return values


def decoded(value: bytes) -> bytes:
    """What xtext stands for."""
    return re.sub(rb"\+(..)", lambda found: bytes([int(found[1], 16)]), value)


# -- xtext


def test_every_octet_of_xtext() -> None:
    for octet in range(256):
        written = xtext(bytes([octet]))
        as_it_is = 33 <= octet <= 126 and octet not in b"+="
        assert written == (bytes([octet]) if as_it_is else b"+%02X" % octet)
        assert XTEXT(written)
    every = bytes(range(256))
    assert decoded(xtext(every)) == every


# -- HELO

NAMES = {
    "a name": (b"mail.example", b"mail.example"),
    "CR LF": (b"x\r\nDATA\r\ny", b"x+0D+0ADATA+0D+0Ay"),
    "CR": (b"x\rADDR=127.0.0.1", b"x+0DADDR+3D127.0.0.1"),
    "NUL": (b"x\0y", b"x+00y"),
    "another attribute": (b"x ADDR=127.0.0.1", b"x+20ADDR+3D127.0.0.1"),
    "a tab": (b"x\tLOGIN=root", b"x+09LOGIN+3Droot"),
    "+": (b"x+0Ay", b"x+2B0Ay"),
    "=": (b"a=b", b"a+3Db"),
    "8-bit": ("jörg".encode("latin-1"), b"j+F6rg"),
    "UTF-8": ("jörg".encode(), b"j+C3+B6rg"),
    "DEL": (b"x\x7fy", b"x+7Fy"),
    "an address": (b"[IPv6:2001:db8::1]", b"[IPv6:2001:db8::1]"),
    "none": (b"", b"[UNAVAILABLE]"),
    "blanks": (b" \t ", b"[UNAVAILABLE]"),
    "as long as may be": (b"x" * LONGEST_VALUE_OCTETS, b"x" * LONGEST_VALUE_OCTETS),
    "too long": (b"x" * (LONGEST_VALUE_OCTETS + 1), b"[UNAVAILABLE]"),
    "too long as xtext": (b"=" * 86, b"[UNAVAILABLE]"),
    "just not": (b"=" * 85, b"+3D" * 85),
    "as long as a command": (b"x" * 12_000, b"[UNAVAILABLE]"),
}


@pytest.mark.parametrize(("name", "value"), NAMES.values(), ids=NAMES)
def test_the_name_of_a_sender(name: bytes, value: bytes) -> None:
    """Whatever is in it, it is one value; one that can't be written is not cut, but not told."""
    assert attributes(xclient_command(b"HELO", hello(name), SENDER, DESTINATION)) == {b"HELO": value}


def test_no_octet_of_a_name_is_more_than_that() -> None:
    """At its begin, in it, at its end, and in a pair with any other: one line, one value, the same name."""
    for octet in range(256):
        for name in (b"a%cb" % octet, b"%cb" % octet, b"a%c" % octet, *(b"a%c%cb" % (octet, n) for n in b"\r\n\0 +=")):
            values = attributes(xclient_command(ALL, hello(name), SENDER, DESTINATION))
            assert decoded(values[b"HELO"]) == name.strip()
            assert values[b"ADDR"] == b"203.0.113.7"
            assert len(values) == 8


@pytest.mark.parametrize(
    ("command", "name", "protocol"),
    [
        (hello(b"x"), b"x", b"ESMTP"),
        (hello(b"x", Verb.HELO), b"x", b"SMTP"),
        (hello(b"x", Verb.LHLO), b"x", None),
        (command_from_line(b"  ehlo \t x  \r\n"), b"x", b"ESMTP"),
        (command_from_line(b"EHLO\r\n"), b"[UNAVAILABLE]", b"ESMTP"),
        (MAIL, b"[UNAVAILABLE]", b"SMTP"),
    ],
    ids=str,
)
def test_what_the_first_command_says(command: Command, name: bytes, protocol: bytes | None) -> None:
    values = attributes(xclient_command(b"HELO PROTO", command, SENDER, DESTINATION))
    assert (values[b"HELO"], values.get(b"PROTO")) == (name, protocol)


# -- addresses


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("203.0.113.7", b"203.0.113.7"),
        ("2001:db8::1", b"IPV6:2001:db8::1"),
        ("2001:0DB8:0:0:0:0:0:1", b"IPV6:2001:db8::1"),
        ("::1", b"IPV6:::1"),
        ("::ffff:203.0.113.7", b"203.0.113.7"),
        ("::ffff:cb00:7107", b"203.0.113.7"),
        ("fe80::1%eth0", b"IPV6:fe80::1"),
        ("fe80::1%x y=z", b"IPV6:fe80::1"),
    ],
)
def test_addresses(host: str, address: bytes) -> None:
    told = xclient_command(ALL, MAIL, (host, 1), (host, 65535))
    expected = {b"ADDR": address, b"PORT": b"1", b"DESTADDR": address, b"DESTPORT": b"65535"}
    assert expected.items() <= attributes(told).items()


def test_what_is_not_known_is_not_left_out() -> None:
    """Or the receiver would go on with shimproxy's own."""
    values = attributes(xclient_command(ALL, MAIL, None, None))
    assert values.pop(b"PROTO") == b"SMTP"
    assert set(values.values()) == {b"[UNAVAILABLE]"}
    assert values.keys() == {*ALL.split()} - {b"PROTO", b"LOGIN"}


# -- what the receiver lists


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (ALL, {*ALL.split()} - {b"LOGIN"}),
        (b"ADDR NAME", {b"ADDR", b"NAME"}),
        (b"name Addr hElO", {b"NAME", b"ADDR", b"HELO"}),
        (b"PORT\tADDR  PORT", {b"PORT", b"ADDR"}),
        (b"ADDR TTL TIMEOUT SESSION", {b"ADDR"}),
        (b"LOGIN", set()),
        (b"ADDRESS XADDR ADDR=", set()),
        (b"\xe4 \0", set()),
        (b"", set()),
    ],
    ids=str,
)
def test_nothing_is_told_but_what_the_receiver_lists(listed: bytes, told: set[bytes]) -> None:
    command = xclient_command(listed, hello(b"x"), SENDER, DESTINATION)
    assert (set(attributes(command)) if command else set()) == told


def test_the_longest_of_all_is_one_command() -> None:
    """RFC 5321 4.5.3.1.4: 512 octets; Postfix takes a second command from hosts alone that may give the first."""
    party = ("2001:db8:1111:2222:3333:4444:5555:6666", 65535)
    command = xclient_command(ALL + b" " + ALL, hello(b"+" * 85), party, party)
    assert command
    assert b"+2B" * 85 in command.line
    assert len(command.line) <= 512
    assert command.line.count(b"\n") == 1


# -- sessions

POLICY = Policy(sender_tls=SenderTls.OFF, xclient=True)
OFFER = b"250-hi\r\n250-XCLIENT ADDR HELO\r\n250 AUTH PLAIN\r\n"
TOLD = b"XCLIENT ADDR=192.0.2.1 HELO=x\r\n"


def test_a_cr_that_the_operator_lets_pass_is_none_in_xclient() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\rADDR=127.0.0.1\0y\r\n")
        await stage.feed(stage.receiver, b"250-hi\r\n250 XCLIENT HELO\r\n")
        assert stage.receiver.written.endswith(b"\r\nXCLIENT HELO=x+0DADDR+3D127.0.0.1+00y\r\n")

    staged(script, policy=Policy(xclient=True, newlines=Newlines.PASS))


def test_a_sender_that_nobody_knows_is_not_taken_for_the_shim() -> None:
    """One on a Unix socket."""

    async def script(stage: Stage) -> None:
        stage.session.route.origin = NOBODY
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, OFFER)
        assert stage.receiver.written.endswith(b"\r\nXCLIENT ADDR=[UNAVAILABLE] HELO=x\r\n")

    staged(script, policy=POLICY)


def test_what_follows_the_new_greeting_at_once_answers_nothing() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, OFFER)
        await stage.feed(stage.receiver, b"220 hello\r\n250 and welcome\r\n")
        assert stage.receiver.written == b"EHLO x\r\n" + TOLD + b"EHLO x\r\n"
        await stage.feed(stage.receiver, b"250 hi\r\n")
        assert stage.sender.written == b"220 hello\r\n250 hi\r\n"

    assert staged(script, policy=POLICY).repaired == [Violation.EXTRA_REPLY]


@pytest.mark.parametrize("reply", [b"221 bye", b"251 what", b"354 go", b"334 ", b"450 later", b"501 no", b"999 ", b"x"])
def test_any_other_reply_ends_the_session(reply: bytes) -> None:
    """And nothing of the sender's is forwarded."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, OFFER)
        await stage.feed(stage.receiver, reply + b"\r\n")
        assert stage.sender.written.startswith(b"220 hello\r\n421 the receiver rejected the client's identity")
        assert stage.sender.got_fin
        assert stage.receiver.written.removesuffix(b"QUIT\r\n") == b"EHLO x\r\n" + TOLD

    assert Violation.XCLIENT_REFUSED in staged(script, policy=POLICY).repaired


class Secures:
    """TLS with a receiver, in name."""

    async def secure(self, leg: Leg) -> None:
        leg.secured = True


SECURES = cast("ReceiverSecurity", Secures())


def test_tls_then_xclient_then_the_login() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        dialogue = (
            (b"EHLO x\r\n", b"250-hi\r\n250-XCLIENT ADDR HELO\r\n250 STARTTLS\r\n"),
            (b"STARTTLS\r\n", b"220 go\r\n"),
            (b"EHLO x\r\n", OFFER),
            (TOLD, b"220 hello again\r\n"),
            (b"EHLO x\r\n", OFFER),
            (PLAIN, b"235 welcome\r\n"),
        )
        for command, reply in dialogue:
            assert stage.receiver.written == command
            assert stage.sender.written == b"220 hello\r\n"
            stage.receiver.written.clear()
            await stage.feed(stage.receiver, reply, piece_octets=1)
        assert stage.sender.written == b"220 hello\r\n250 hi\r\n"
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        assert stage.receiver.written == b"MAIL FROM:<a@b>\r\n"

    policy = Policy(
        sender_tls=SenderTls.OFF,
        receiver_tls=ReceiverTls.REQUIRED,
        receiver_security=SECURES,
        xclient=True,
        login=Login("user", SECRET),
    )
    assert staged(script, policy=policy).repaired == []


def test_a_leg_that_is_opened_anew_in_the_clear_is_told() -> None:
    """Opportunistic TLS that is lost: the receiver is dialled again."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"250-hi\r\n250-XCLIENT ADDR HELO\r\n250 STARTTLS\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        assert len(stage.earlier_receivers) == 1
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.receiver, OFFER)
        assert stage.receiver.written == b"EHLO x\r\n" + TOLD
        await stage.feed(stage.receiver, b"220 hello\r\n")
        assert stage.receiver.written == b"EHLO x\r\n" + TOLD + b"EHLO x\r\n"
        assert stage.sender.written == b"220 hello\r\n"

    staged(script, policy=Policy(sender_tls=SenderTls.OFF, receiver_tls=ReceiverTls.OPPORTUNISTIC, xclient=True))


@pytest.fixture
def sender_goes_over_to_tls(monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A policy by which it does, in name."""

    async def secured(self: Leg, _context: object) -> None:
        self.secured = True

    monkeypatch.setattr("shimproxy.net.leg.Leg.secure", secured)
    context = cast("ssl.SSLContext", object())
    return Policy(sender_tls=SenderTls.STARTTLS, sender_context=context, clear_allowed=True, xclient=True)


async def told_and_begun_anew(stage: Stage, offered_then: bytes = OFFER) -> None:
    """The receiver was told of the sender, and offers that; the sender has then gone over to TLS."""
    await stage.feed(stage.receiver, b"220 hello\r\n")
    await stage.feed(stage.sender, b"EHLO x\r\n")
    for reply in (OFFER, b"220 hello\r\n", offered_then):
        await stage.feed(stage.receiver, reply)
    await stage.feed(stage.sender, b"STARTTLS\r\n")
    assert stage.receiver.written.endswith(TOLD + b"EHLO x\r\n")
    stage.receiver.written.clear()


@pytest.mark.parametrize("receiver_tls", [ReceiverTls.OFF, ReceiverTls.IMPLICIT])
def test_a_leg_is_told_once(receiver_tls: ReceiverTls, sender_goes_over_to_tls: Policy) -> None:
    """Although the sender begins anew, over TLS."""

    async def script(stage: Stage) -> None:
        await told_and_begun_anew(stage)
        await stage.feed(stage.sender, b"EHLO y\r\n")
        assert stage.receiver.written == b"EHLO y\r\n"
        await stage.feed(stage.receiver, OFFER)
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        assert stage.receiver.written == b"EHLO y\r\nMAIL FROM:<a@b>\r\n"

    policy = attrs.evolve(sender_goes_over_to_tls, receiver_tls=receiver_tls, receiver_security=SECURES)
    assert staged(script, policy=policy).repaired == []


def test_a_leg_that_goes_over_to_tls_late_is_told_again(sender_goes_over_to_tls: Policy) -> None:
    """It has forgotten who the sender is (RFC 3207 section 4.2)."""

    async def script(stage: Stage) -> None:
        await told_and_begun_anew(stage, b"250-hi\r\n250 STARTTLS\r\n")  # to this sender, but not to shimproxy
        await stage.feed(stage.sender, b"EHLO y\r\n")
        for reply in (b"220 go\r\n", OFFER):
            await stage.feed(stage.receiver, reply)
        told = TOLD.replace(b"HELO=x", b"HELO=y")
        assert stage.receiver.written == b"STARTTLS\r\nEHLO y\r\n" + told

    policy = attrs.evolve(sender_goes_over_to_tls, receiver_tls=ReceiverTls.OPPORTUNISTIC, receiver_security=SECURES)
    assert staged(script, policy=policy).repaired == []


# -- real receivers

MORE = """
smtpd_authorized_xclient_hosts = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, permit_auth_destination, reject
inet_protocols = all
"""
HEADERS = {
    "203.0.113.7": b"PROXY TCP4 203.0.113.7 198.51.100.9 4711 25\r\n",
    "2001:db8::7": b"PROXY TCP6 2001:db8::7 2001:db8::9 4711 25\r\n",
}
SECONDS = 60.0


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postfix]:
    """A Postfix that lets shimproxy say who the sender is, and relays for this machine alone."""
    with postfix(more=MORE + tls_of(make_certificate(tmp_path_factory.mktemp("tls")), "may")) as running:
        yield running


def send(port: int, header: bytes, first: str) -> bytes:
    """One mail, by a sender that says `first`; the reply to a recipient elsewhere."""
    with connected(port) as sock:
        sock.sendall(header)
        dialogue = Dialogue(sock)
        dialogue.open(first)
        dialogue.command("MAIL FROM:<a@sender.example>", 250)
        reply = dialogue.command("RCPT TO:<x@elsewhere.example>")
        dialogue.command("RSET", 250)
        dialogue.command("MAIL FROM:<a@sender.example>", 250)
        dialogue.command(f"RCPT TO:<many@{MAILBOX_DOMAIN}>", 250)
        dialogue.command("DATA", 354)
        dialogue.command(f"Subject: {first}\r\n\r\ntext\r\n.", 250)
        dialogue.command("QUIT", 221)
    return reply


async def sent(receiver_port: int, header: bytes, first: str, **more: Any) -> bytes:
    """The same through a shim."""
    given: dict[str, Any] = {"trust": ["127.0.0.0/8"], "xclient": True} | more
    with trio.fail_after(SECONDS):
        async with shim(receiver_port, **given) as between:
            reply = await trio.to_thread.run_sync(send, between.port, header, first)
            await between.watcher.sessions_ended()
    assert between.watcher.repairs == []
    return reply


@pytest.mark.parametrize("tls", ["off", "required"])
@pytest.mark.parametrize("host", HEADERS)
@pytest.mark.parametrize("verb", ["EHLO", "HELO"])
async def test_postfix_takes_the_sender_for_who_it_is(host: str, tls: str, verb: str, receiver: Postfix) -> None:
    """And relays nothing for it that it would relay for shimproxy."""
    name = f"{verb.lower()}-{tls}-{host.replace(':', '-')}.example"
    reply = await sent(
        receiver.port, HEADERS[host], f"{verb} {name}", receiver_tls=tls, receiver_verified=False, sender_tls="off"
    )
    assert reply.startswith(b"554 5.7.1 <x@elsewhere.example>: ")

    def mail() -> str:
        return "".join(mail.decode() for mail in receiver.mailbox("many") if f"from {name} ".encode() in mail)

    poll(lambda: bool(mail()), "the mail stored")
    tag = f"IPv6:{host}" if ":" in host else host
    protocol = ("ESMTPS" if tls == "required" else "ESMTP") if verb == "EHLO" else "SMTP"
    assert re.search(rf"Received: from {re.escape(name)} \(unknown \[{tag}\]\)", mail())
    assert re.search(rf"\bwith {protocol} id ", mail())
    poll(lambda: f": client=unknown[{host}]\n" in receiver.log, "the mail logged")


async def test_without_xclient_it_takes_every_sender_for_shimproxy(receiver: Postfix) -> None:
    reply = await sent(receiver.port, HEADERS["203.0.113.7"], "EHLO without.example", xclient=False)
    assert reply.startswith(b"250 ")


@pytest.mark.parametrize(
    ("name", "helo"),
    [
        ("mail.example", " helo=<mail.example>"),
        ("x\r\nDATA\r\ny", " helo=<x??DATA??y>"),
        ("x+0Ay=z", " helo=<x+0Ay=z>"),
        ("x ADDR=127.0.0.1\tLOGIN=root", " helo=<x?ADDR=127.0.0.1?LOGIN=root>"),
        ("\xf6\x7f", " helo=<??>"),
        ("x\0y", " helo=<x>"),
        ("x" * LONGEST_VALUE_OCTETS, f" helo=<{'x' * LONGEST_VALUE_OCTETS}>"),
        ("x" * (LONGEST_VALUE_OCTETS + 1), ""),
    ],
)
def test_postfix_reads_the_name_as_it_was(name: str, helo: str, receiver: Postfix) -> None:
    """With "?" where it could not be written into a log; and the address beside it, whatever the name says."""
    command = xclient_command(ALL, hello(name.encode("latin-1")), ("192.0.2.66", 1), DESTINATION)
    assert command
    with connected(receiver.port) as sock:
        dialogue = Dialogue(sock)
        dialogue.open("EHLO direct.example")
        sock.sendall(command.line)
        assert dialogue.reply().startswith(b"220 ")
        dialogue.command("MAIL FROM:<a@sender.example>", 250)
        assert dialogue.command("RCPT TO:<x@elsewhere.example>").startswith(b"554 ")
        dialogue.command("QUIT", 221)
    end = f" to=<x@elsewhere.example> proto=ESMTP{helo}\n"
    is_logged = re.compile(rf"reject: RCPT from unknown\[192\.0\.2\.66\]: .*{re.escape(end)}").search
    poll(lambda: is_logged(receiver.log) is not None, "the refusal logged")


async def test_a_postfix_that_takes_no_such_address_is_given_no_mail() -> None:
    """One for IPv4 alone answers 501 to a sender of IPv6."""
    with trio.fail_after(SECONDS), postfix(more="smtpd_authorized_xclient_hosts = 127.0.0.0/8\n") as receiver:
        async with shim(receiver.port, trust=["127.0.0.0/8"], xclient=True) as between:
            with pytest.raises(Refused, match="421 "):
                await trio.to_thread.run_sync(
                    functools.partial(send, between.port, HEADERS["2001:db8::7"], "EHLO x.example")
                )
            await between.watcher.sessions_ended()
    (repair,) = between.watcher.repairs
    assert repair.violation is Violation.XCLIENT_REFUSED
    assert repair.detail["reason"] == "reply 501"


@pytest.mark.parametrize("program", [postfix, functools.partial(exim, daemon=True)], ids=["postfix", "exim"])
async def test_receivers_that_do_not_offer_it_take_mail_as_ever(
    program: Callable[[], AbstractContextManager[Postfix | Exim]],
) -> None:
    """A Postfix that does not let shimproxy say so, and Exim, which does not know it."""
    with trio.fail_after(SECONDS), program() as running:
        async with shim(running.port, xclient=True) as between:
            assert (await delivered(between.port, "many")).startswith(b"250 ")
            await between.watcher.sessions_ended()
        assert between.watcher.repairs == []
        await trio.to_thread.run_sync(poll, lambda: running.count("many") > 0, "a mail stored")
