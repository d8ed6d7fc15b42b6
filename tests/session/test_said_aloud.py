"""What shimproxy does to a session is in its record, under a name of the catalogue (guarantee 11)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NoReturn, cast

import attrs
import pytest
import trio

from shimproxy import Listener, Settings
from shimproxy.faulty.receiving import HOST
from shimproxy.net.errors import SenderUnusable
from shimproxy.net.leg import Leg
from shimproxy.session.commands import Commands
from shimproxy.session.limits import Limits
from shimproxy.session.policy import EarlyTalk, Policy, ReceiverTls, SenderTls
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.newlines import Newlines
from tests.memory import MemoryObserver, MemoryRoute, Stage, offered, staged, up_to_mail_data
from tests.peers.shim import served

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

SECONDS = 60
SHORT = Limits(command_octets=512)

# -- before the greeting


@pytest.mark.parametrize("piece_octets", [0, 1])
def test_a_sender_that_speaks_early_is_refused_where_the_operator_says_so(piece_octets: int) -> None:
    """By 554 instead of the greeting (RFC 5321 3.1); the receiver hears nothing of it but QUIT."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.sender, b"HELO bot\r\nMAIL FROM:<a@b>\r\n", piece_octets)
        await stage.feed(stage.receiver, b"220 hello\r\n")
        assert bytes(stage.sender.written) == b"554 sent before the greeting, closing connection\r\n"
        assert stage.sender.got_fin
        stage.sender.feed_fin()
        await stage.settle()
        assert bytes(stage.receiver.written) == b"QUIT\r\n"
        (repair,) = stage.account.repairs
        assert (repair.violation, repair.detail) == (Violation.EARLY_TALK, {"octets": 27, "early_talk": "refuse"})

    staged(script, policy=Policy(early_talk=EarlyTalk.REFUSE))


def test_a_sender_that_waits_is_served_where_others_are_refused() -> None:
    """Also one that closes its direction, or all of the connection, before the greeting: that is no talk."""

    async def waits(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"HELO x\r\n")
        assert bytes(stage.sender.written) == b"220 hello\r\n"
        assert bytes(stage.receiver.written) == b"HELO x\r\n"
        assert not stage.repaired

    async def closes(stage: Stage) -> None:
        stage.sender.feed_fin()
        await stage.feed(stage.receiver, b"220 hello\r\n")
        assert bytes(stage.sender.written) == b"220 hello\r\n"
        assert Violation.EARLY_TALK not in stage.repaired

    for script in (waits, closes):
        staged(script, policy=Policy(early_talk=EarlyTalk.REFUSE))


async def test_each_listener_has_its_way_with_those_that_speak_early() -> None:
    """A receiver that greets late, as postscreen does, for the same sender at two listeners."""
    greets = trio.Event()

    async def receive(stream: trio.SocketStream) -> None:
        await greets.wait()
        await stream.send_all(b"220 hello\r\n")
        while octets := await stream.receive_some():
            await stream.send_all(b"221 bye\r\n" if octets == b"QUIT\r\n" else b"250 OK\r\n")
        await stream.aclose()

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, host=HOST), receive, 0)
            port = listener.socket.getsockname()[1]
            refusing = attrs.evolve(Listener.parse(f"{HOST}:0"), own={"early_talk": "refuse"})
            async with served(Settings(receiver=f"{HOST}:{port}", listen=[f"{HOST}:0", refusing])) as (ports, watcher):
                streams = [await trio.open_tcp_stream(HOST, port) for port in ports]
                for stream in streams:
                    await stream.send_all(b"HELO x\r\n")
                greets.set()
                heard = [await stream.receive_some() for stream in streams]
                assert [octets[:4] for octets in heard] == [b"220 ", b"554 "]
                for stream in streams:
                    await stream.aclose()
                await watcher.sessions_ended(2)
                assert [repair.violation for repair in watcher.repairs][:2] == [Violation.EARLY_TALK] * 2
            nursery.cancel_scope.cancel()


# -- the receiver leg


OFFERING = b"250-hi\r\n250-STARTTLS\r\n250 HELP\r\n"
NOT_OFFERING = b"250-hi\r\n250-XXXXXXXA\r\n250 HELP\r\n"


@pytest.mark.parametrize("piece_octets", [0, 1])
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([NOT_OFFERING], "STARTTLS is not offered"),
        ([OFFERING, b"454 4.7.0 not now\r\n"], "reply 454"),
        ([OFFERING, b"502 5.5.1 what?\r\n"], "reply 502"),
        ([OFFERING, b""], "lost at STARTTLS"),
        ([b""], "lost at EHLO"),
    ],
    ids=["masked", "454", "502", "closed at STARTTLS", "closed at EHLO"],
)
def test_why_there_is_no_tls_where_it_has_to_be(said: list[bytes], reason: str, piece_octets: int) -> None:
    """The sender has a 421, and comes again and again: the operator has to find the receiver's word in the log."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        for reply in said:
            if reply:
                await stage.feed(stage.receiver, reply, piece_octets)
            else:
                stage.receiver.feed_fin()
                await stage.settle()
        assert b"421 no TLS with the receiver" in stage.sender.written
        (repair,) = stage.account.repairs
        assert repair.violation is Violation.TLS_REFUSED
        assert repair.detail == {"reason": reason, "said": said[-1]}

    staged(script, policy=Policy(sender_tls=SenderTls.OFF, receiver_tls=ReceiverTls.REQUIRED))


def test_a_hello_that_is_refused_is_not_a_matter_of_tls() -> None:
    """The sender has the receiver's own word for it, and there is nothing to be told of shimproxy's."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"550 5.7.1 not you\r\n")
        assert stage.sender.written.endswith(b"550 5.7.1 not you\r\n")
        assert not stage.repaired

    staged(script, policy=Policy(sender_tls=SenderTls.OFF, receiver_tls=ReceiverTls.REQUIRED))


def test_why_mail_that_came_over_tls_does_not_go_on_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is opportunistic for others has to be for it."""

    async def secured(self: Leg, _context: object) -> None:
        self.look()
        self.secured = True

    async def script(stage: Stage) -> None:
        await stage.feed(stage.sender, b"\x16\x03\x01")
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, NOT_OFFERING)
        assert b"421 no TLS with the receiver" in stage.sender.written
        assert stage.repaired == [Violation.TLS_REFUSED]

    monkeypatch.setattr(Leg, "secure", secured)
    implicit, context = SenderTls.IMPLICIT, cast("ssl.SSLContext", object())
    staged(script, policy=Policy(sender_tls=implicit, sender_context=context, receiver_tls=ReceiverTls.OPPORTUNISTIC))


def test_what_answers_the_shim_s_own_fin_is_no_violation() -> None:
    """A refusal and a 421 in mail data are the receiver's; what it says of the connection's end later is not."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n421 closing\r\n")
        assert stage.receiver.got_fin
        assert not stage.receiver.got_rst
        await stage.feed(stage.receiver, b"500 what?\r\n421 lost connection\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b".\r\nQUIT\r\n")
        assert bytes(stage.sender.written).startswith(b"552 too big\r\n")
        further = [repair.detail for repair in stage.account.repairs if repair.violation is Violation.FURTHER_REPLY]
        assert further == [{"count": 1, "first": b"421 closing\r\n"}]

    staged(script)


# -- the end


async def one_mail(stage: Stage) -> None:
    """A mail that has its verdict."""
    await up_to_mail_data(stage)
    await stage.feed(stage.sender, b"x\r\n.\r\n")
    await stage.feed(stage.receiver, b"250 queued\r\n")


async def nothing(stage: Stage) -> None:
    """Only the greeting."""
    await stage.feed(stage.receiver, b"220 hello\r\n")


async def another_mail_begun(stage: Stage) -> None:
    """One that has its verdict, and the beginning of one that will have none."""
    await one_mail(stage)
    await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
    await stage.feed(stage.receiver, b"250 OK\r\n")


async def a_reset_after_it(stage: Stage) -> None:
    """RSET after the verdict, which begins nothing."""
    await one_mail(stage)
    await stage.feed(stage.sender, b"RSET\r\n")
    await stage.feed(stage.receiver, b"250 OK\r\n")


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize(
    ("before", "minor"), [(one_mail, True), (a_reset_after_it, True), (another_mail_begun, False), (nothing, False)]
)
def test_a_sender_that_has_its_verdict_may_close(
    before: Callable[[Stage], Awaitable[None]], minor: bool, how: str
) -> None:
    """Some always close so: their sessions are not what an operator is warned of, nor what is kept as repaired."""

    async def script(stage: Stage) -> None:
        await before(stage)
        if how == "FIN":
            stage.sender.feed_fin()
        else:
            stage.sender.feed_rst()
        await stage.settle()
        await stage.feed(stage.receiver, b"221 bye\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        (repair,) = stage.account.repairs
        assert (repair.violation, repair.detail) == (Violation.CLOSED_WITHOUT_QUIT, {"how": how})
        assert repair.minor is minor
        assert stage.record.is_remarkable is not minor
        assert stage.record.repairs == {Violation.CLOSED_WITHOUT_QUIT: 1}

    staged(script)


# -- AUTH


async def within_auth(stage: Stage) -> None:
    """The receiver has asked for a response."""
    await offered(stage, b"AUTH GSSAPI")
    await stage.feed(stage.sender, b"AUTH GSSAPI\r\n")
    await stage.feed(stage.receiver, b"334 go\r\n")
    for sock in (stage.sender, stage.receiver):
        sock.written.clear()


@pytest.mark.parametrize("piece_octets", [0, 1])
@pytest.mark.parametrize(
    ("response", "forwarded", "repaired"),
    [
        (b"Y" * 512 + b"\r\n", b"Y" * 512 + b"\r\n", None),
        (b"Y" * 513 + b"\r\n", b"*\r\n", (Violation.AUTH_TOO_LONG, 515)),
        (b"Y" * 700 + b"\n", b"*\r\n", (Violation.AUTH_TOO_LONG, 701)),
        (b"WVk\0=\r\n", b"*\r\n", (Violation.UNKNOWN_OCTETS, 7)),
        (b"WVk=\rQUIT\r\n", b"*\r\n", (Violation.UNKNOWN_OCTETS, 11)),
        (b"WVk=\n", b"WVk=\r\n", (Violation.BARE_NEWLINE, 6)),
    ],
    ids=["at the limit", "over the limit", "over the limit, LF", "NUL", "CR", "LF"],
)
def test_a_response_within_auth_that_is_changed_is_told(
    response: bytes, forwarded: bytes, repaired: tuple[Violation, int] | None, piece_octets: int
) -> None:
    """The receiver gets `*`, which cancels the exchange; why, nobody could know otherwise. The response is not told."""

    async def script(stage: Stage) -> None:
        await within_auth(stage)
        await stage.feed(stage.sender, response, piece_octets)
        assert bytes(stage.receiver.written) == forwarded
        told = [(each.violation, each.detail) for each in stage.account.repairs]
        assert told == ([(repaired[0], {"verb": "AUTH response", "octets": repaired[1]})] if repaired else [])

    staged(script, SHORT)


def test_a_response_with_a_bare_newline_is_refused_where_those_are() -> None:
    """--newlines reject is for all that is forwarded line by line."""

    async def script(stage: Stage) -> None:
        await within_auth(stage)
        await stage.feed(stage.sender, b"WVk=\n")
        assert bytes(stage.receiver.written) == b"*\r\n"
        assert stage.repaired == [Violation.BARE_NEWLINE]

    staged(script, policy=Policy(newlines=Newlines.REJECT))


def test_an_auth_command_over_the_limit_is_told_and_has_the_reply_of_its_own() -> None:
    """RFC 4954 section 6. Nothing of it is forwarded, or told but its size."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"AUTH PLAIN", b"ENHANCEDSTATUSCODES")
        await stage.feed(stage.sender, b"AUTH PLAIN " + b"Y" * 600 + b"\r\n")
        assert bytes(stage.sender.written) == b"500 5.5.6 AUTH line too long\r\n"
        assert bytes(stage.receiver.written) == b""
        (repair,) = stage.account.repairs
        assert (repair.violation, repair.detail) == (Violation.AUTH_TOO_LONG, {"verb": "AUTH", "octets": 613})
        assert not [said for _, said in stage.account.dialogue if b"YYY" in said]

    staged(script, SHORT)


@pytest.mark.parametrize("piece_octets", [0, 1])
def test_a_chunk_whose_command_is_over_the_limit_is_no_command(piece_octets: int) -> None:
    """Its size is in a line of which nothing is kept: the session ends, as behind any BDAT that does not say it."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        await stage.feed(stage.sender, b"BDAT 6" + b" " * 600 + b"\r\nRSET\r\nNOOP\r\n", piece_octets)
        assert bytes(stage.receiver.written).removesuffix(b"QUIT\r\n") == b""
        assert bytes(stage.sender.written).startswith(b"421 ")
        assert stage.sender.got_fin
        assert stage.repaired[0] == Violation.LONG_LINE

    staged(script, SHORT)


# -- at the end


def test_a_421_that_answers_no_quit_gives_way_to_221_and_that_is_told() -> None:
    """The receiver goes by itself as QUIT reaches it: its 421 would end a session that the sender has ended well."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"QUIT\r\n")
        stage.sender.written.clear()
        stage.receiver.feed(b"421 going\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        assert bytes(stage.sender.written) == b"221 closing connection\r\n"
        assert stage.repaired == [Violation.NO_221]

    staged(script)


# -- what is shimproxy's own fault


def test_a_bug_of_shimproxys_own_is_told_and_ends_one_session_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException] = []
    monkeypatch.setattr(MemoryObserver, "failed", lambda _, record, error: told.append(error))

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        bug = KeyError("a bug")
        monkeypatch.setattr(Commands, "_after_mail", raised_by(bug))
        await stage.feed(stage.sender, b".\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n")
        assert told == [bug]
        assert stage.over
        assert stage.record.ended_by == "shim"
        assert stage.sender.written == b"552 too big\r\n"
        assert stage.sender.got_rst
        assert stage.receiver.got_rst

    staged(script)


def raised_by(bug: Exception) -> Callable[..., NoReturn]:
    def meets_it(*_: object) -> NoReturn:
        raise bug

    return meets_it


def test_a_receiver_to_which_a_sender_cannot_be_shown_is_no_fault_of_any_receiver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --spoof-sender: the next one is not asked either."""
    dialled = []

    async def dial(route: MemoryRoute, *_: object) -> NoReturn:
        dialled.append(route)
        route.has_more = True
        raise SenderUnusable("fe80::1 is a link-local address")

    monkeypatch.setattr(MemoryRoute, "dial", dial)

    async def script(stage: Stage) -> None:
        assert stage.sender.written.startswith(b"421 ")
        assert b"link-local" in stage.sender.written

    stage = staged(script)
    assert stage.repaired == [Violation.UNREACHABLE]
    assert [route.blamed for route in dialled] == [0]
