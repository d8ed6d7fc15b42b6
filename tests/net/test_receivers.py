"""Several receivers, several addresses, sockets in the file system: where a session goes, and what its sender sees.

On real sockets, where a place that does not answer is a closed port, or a listener whose queue is full.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

import shimproxy
from shimproxy import Deadlines, SessionRecord, Settings, SettingsError, Violation
from shimproxy.faulty.receiving import full_queue
from shimproxy.net.address import Address
from shimproxy.net.driver import Driver
from shimproxy.net.errors import DialFailed, ListenFailed
from shimproxy.net.origin import Origin
from shimproxy.net.places import Places
from shimproxy.net.receivers import Receivers
from shimproxy.net.resting import Resting
from tests.peers.tls import Certificate, make_certificate
from tests.service.test_serve import Lines, polite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from shimproxy.net.places import Place

HOST = "127.0.0.1"
SECONDS = 60
_ESTABLISHED = "01"


@attrs.define(eq=False)
class Site:
    """A shim between the test and the receivers that the test has opened."""

    nursery: trio.Nursery
    records: list[SessionRecord] = attrs.field(factory=list)
    address: str = ""

    async def receiver(self, play: Callable[[trio.SocketStream], Awaitable[None]], host: str = HOST) -> Address:
        async def play_to_the_end(stream: trio.SocketStream) -> None:
            # A receiver that is left in the midst of a mail is reset, before or after the test is over.
            with contextlib.suppress(trio.BrokenResourceError):
                await play(stream)

        listeners = await self.nursery.start(partial(trio.serve_tcp, play_to_the_end, 0, host=host))
        return Address(host, listeners[0].socket.getsockname()[1])

    async def serve(self, **given: Any) -> None:
        settings = Settings(**{"listen": f"{HOST}:0"} | given)
        serve = partial(shimproxy.serve, settings, on_session=self.records.append)
        self.address, *_ = await self.nursery.start(serve)

    async def connect(self) -> Lines:
        host, port = self.address.rsplit(":", 1)
        return Lines(await trio.open_tcp_stream(host, int(port)))

    async def greeting(self) -> bytes:
        """That of a session which ends behind it."""
        times = len(self.records)
        sender = await self.connect()
        greeting = await sender.line()
        if greeting.startswith(b"220"):
            await sender.says(b"QUIT")
        await sender.stream.aclose()
        while len(self.records) == times:
            await trio.lowlevel.checkpoint()
        return greeting

    @property
    def repairs(self) -> list[Violation]:
        return [repair.violation for record in self.records for repair in record.first_repairs]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            yield Site(nursery)
            nursery.cancel_scope.cancel()


def named(name: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A receiver that greets with its name."""

    async def play(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 " + name + b"\r\n")
        while line := await lines.line():
            await stream.send_all(b"221 bye\r\n" if line == b"QUIT\r\n" else b"250 " + name + b"\r\n")

    return play


def saying(octets: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A receiver that says that instead of a greeting, and goes when it is left."""

    async def play(stream: trio.SocketStream) -> None:
        await stream.send_all(octets)
        while await stream.receive_some():
            pass

    return play


async def goes(_: trio.SocketStream) -> None:
    """A receiver that says nothing."""


@contextlib.contextmanager
def closed() -> Iterator[Address]:
    """A port where nobody listens, nor will."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield Address(*taken.getsockname())


# -- failing over


async def test_a_receiver_that_refuses_is_passed_by_and_then_left_alone(site: Site) -> None:
    with closed() as dead:
        await site.serve(receiver=[dead, await site.receiver(named(b"second"))])
        assert [await site.greeting() for _ in range(3)] == [b"220 second\r\n"] * 3
    assert site.repairs == [Violation.UNREACHABLE], "only the first session has tried it"


async def test_a_receiver_is_tried_again_once_it_has_rested(site: Site) -> None:
    with closed() as dead:
        await site.serve(receiver=[dead, await site.receiver(named(b"second"))], receiver_rest_seconds=0)
        assert [await site.greeting() for _ in range(2)] == [b"220 second\r\n"] * 2
    assert site.repairs == [Violation.UNREACHABLE] * 2


@pytest.mark.parametrize(
    ("play", "repairs"),
    [
        (saying(b"421 not now\r\n"), []),
        (saying(b"554 no service here\r\n"), []),
        (saying(b"354 what\r\n"), [Violation.NO_GREETING]),
        (goes, [Violation.NO_GREETING]),
    ],
    ids=["421", "554", "out of step", "goes"],
)
async def test_a_receiver_that_does_not_serve_is_passed_by(
    site: Site, play: Callable[[trio.SocketStream], Awaitable[None]], repairs: list[Violation]
) -> None:
    await site.serve(receiver=[await site.receiver(play), await site.receiver(named(b"second"))])
    assert [await site.greeting() for _ in range(2)] == [b"220 second\r\n"] * 2
    assert site.repairs == repairs


async def test_one_that_is_silent_has_no_more_time_than_a_connection(site: Site) -> None:
    """The greeting's five minutes are the sender's patience, too: there is none left for the second one then."""
    receivers = [await site.receiver(saying(b"")), await site.receiver(named(b"second"))]
    await site.serve(receiver=receivers, deadlines=Deadlines(connect=0.1))
    assert await site.greeting() == b"220 second\r\n"


async def test_where_none_serves_the_sender_is_told_what_the_last_one_said(site: Site) -> None:
    with closed() as dead:
        await site.serve(receiver=[dead, await site.receiver(saying(b"421 too busy\r\n"))])
        assert [await site.greeting() for _ in range(2)] == [b"421 too busy\r\n"] * 2, "and all are tried"


async def test_where_none_is_there_the_sender_is_told_so(site: Site) -> None:
    with closed() as dead, closed() as other:
        await site.serve(receiver=[dead, other])
        assert await site.greeting() == b"421 the receiver cannot be reached, try again later\r\n"
    assert site.repairs == [Violation.UNREACHABLE] * 2


async def goes_behind_hello(stream: trio.SocketStream) -> None:
    lines = Lines(stream)
    await stream.send_all(b"220 first\r\n")
    await lines.line()
    await stream.send_all(b"250 first\r\n")


async def goes_behind_a_mail(stream: trio.SocketStream) -> None:
    lines = Lines(stream)
    await stream.send_all(b"220 first\r\n")
    while await lines.line() != b"RSET\r\n":
        await stream.send_all(b"250 first\r\n")
    await stream.send_all(b"250 first\r\n")


def connections_to(address: Address) -> list[str]:
    """The states of connections to an address, as the kernel numbers them (include/net/tcp_states.h)."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table]
    return [row[3] for row in rows if row[2].endswith(f":{address.port:04X}")]


async def until_gone(address: Address) -> None:
    """Return when the kernel knows that the receiver went."""
    while _ESTABLISHED in connections_to(address):
        await trio.lowlevel.checkpoint()


async def test_before_mail_another_receiver_takes_over(site: Site) -> None:
    heard: list[bytes] = []

    async def second(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 second\r\n")
        while line := await lines.line():
            heard.append(line)
            await stream.send_all(b"221 bye\r\n" if line == b"QUIT\r\n" else b"250 second\r\n")

    first = await site.receiver(goes_behind_hello)
    await site.serve(receiver=[first, await site.receiver(second)])
    sender = await site.connect()
    assert await sender.line() == b"220 first\r\n"
    assert await sender.says(b"EHLO x") == [b"250 first\r\n"]
    await until_gone(first)
    assert await sender.says(b"MAIL FROM:<a@b>", b"QUIT") == [b"250 second\r\n", b"221 bye\r\n"]
    assert heard == [b"EHLO x\r\n", b"MAIL FROM:<a@b>\r\n", b"QUIT\r\n"]
    await sender.stream.aclose()


def answering_hello(reply: bytes, *, stays: bool) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A receiver that answers EHLO so, and goes then or takes everything."""

    async def play(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 hello\r\n")
        while line := await lines.line():
            if not line.startswith(b"EHLO"):
                await stream.send_all(b"250 taken\r\n")
                continue
            await stream.send_all(reply)
            if not stays:
                return

    return play


@pytest.mark.parametrize("second", [b"250-hi\r\n250 HELP\r\n", b"421 busy\r\n", b"550 no\r\n", b""], ids=repr)
async def test_of_those_that_may_take_over_one_that_offers_the_same_does(site: Site, second: bytes) -> None:
    same = b"250-hi\r\n250 SIZE\r\n"
    plays = [answering_hello(same, stays=False), answering_hello(second, stays=bool(second))]
    receivers = [await site.receiver(play) for play in (*plays, answering_hello(same, stays=True))]
    await site.serve(receiver=receivers)
    sender = await site.connect()
    await sender.line()
    await sender.stream.send_all(b"EHLO x\r\n")
    assert [await sender.line(), await sender.line()] == same.splitlines(keepends=True)
    await until_gone(receivers[0])
    assert await sender.says(b"MAIL FROM:<a@b>") == [b"250 taken\r\n"]
    await sender.stream.aclose()


async def test_once_a_mail_was_taken_none_takes_over(site: Site) -> None:
    first = await site.receiver(goes_behind_a_mail)
    await site.serve(receiver=[first, await site.receiver(named(b"second"))])
    sender = await site.connect()
    await sender.line()
    assert await sender.says(b"EHLO x", b"MAIL FROM:<a@b>", b"RSET") == [b"250 first\r\n"] * 3
    await until_gone(first)
    assert await sender.says(b"MAIL FROM:<a@b>") == [b"421 lost the connection to the receiver\r\n"]
    await sender.stream.aclose()


# -- one that leaves by itself


def leaving_at(verb: bytes, how: str) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A receiver that takes everything up to a command, or to mail data, and closes, resets or is silent there."""

    async def play(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 first\r\n")
        while not (line := await lines.line()).startswith(verb):
            if line == b"DATA\r\n":
                await stream.send_all(b"354 go\r\n")
                await lines.line()
                break
            await stream.send_all(b"250 OK\r\n")
        if how == "is silent":
            while await stream.receive_some():
                pass
        elif how == "resets":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    return play


async def mailed(site: Site) -> list[bytes]:
    """The replies to a whole session, up to one that ends it."""
    sender = await site.connect()
    replies = [await sender.line()]
    for said in (b"EHLO x", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", b"DATA", b"text\r\n.", b"QUIT"):
        replies += await sender.says(said)
        if replies[-1][:3] in (b"421", b""):
            break
    await sender.stream.aclose()
    return [reply[:3] for reply in replies]


WHOLE = [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]


@pytest.mark.parametrize("how", ["closes", "resets", "is silent"])
@pytest.mark.parametrize("verb", [b"EHLO", b"MAIL"])
async def test_one_that_leaves_before_it_has_taken_mail_is_replaced_within_the_session(
    site: Site, verb: bytes, how: str
) -> None:
    dialled: list[str] = []

    async def counted(stream: trio.SocketStream) -> None:
        dialled.append("first")
        await leaving_at(verb, how)(stream)

    receivers = [await site.receiver(counted), await site.receiver(polite)]
    await site.serve(receiver=receivers, deadlines=Deadlines(connect=0.5))
    assert await mailed(site) == WHOLE
    assert await mailed(site) == WHOLE
    assert dialled == ["first"], "it rests"


@pytest.mark.parametrize("group", [False, True], ids=["one by one", "in a group"])
async def test_what_is_unanswered_goes_to_the_replacement_in_order(site: Site, group: bool) -> None:
    heard: list[bytes] = []

    async def play(stream: trio.SocketStream, name: bytes) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 " + name + b"\r\n")
        while line := await lines.line():
            if name == b"first" and line.startswith(b"MAIL"):
                return
            heard.append(line)
            if line.startswith(b"EHLO"):
                await stream.send_all(b"250-hi\r\n250 PIPELINING\r\n")
            else:
                await stream.send_all(b"354 go\r\n" if line == b"DATA\r\n" else b"250 OK\r\n")

    receivers = [await site.receiver(partial(play, name=name)) for name in (b"first", b"second")]
    await site.serve(receiver=receivers)
    sender = await site.connect()
    await sender.line()
    await sender.stream.send_all(b"EHLO x\r\n")
    assert [await sender.line(), await sender.line()] == [b"250-hi\r\n", b"250 PIPELINING\r\n"]
    commands = [b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", b"DATA"]
    if group:
        await sender.stream.send_all(b"\r\n".join(commands) + b"\r\n")
        replies = [await sender.line() for _ in commands]
    else:
        replies = await sender.says(*commands)
    assert replies == [b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n"]
    assert heard == [b"EHLO x\r\n"] * 2 + [command + b"\r\n" for command in commands]
    await sender.stream.aclose()


@pytest.mark.parametrize(
    ("replies", "severity"),
    [([b"550 no", b"503 no", b"503 no"], b"5"), ([], b"4")],
    ids=["refused", "unanswered"],
)
async def test_a_chunk_in_a_group_is_given_to_no_other_receiver(
    site: Site, replies: list[bytes], severity: bytes
) -> None:
    """It cannot be said again, as its octets are not kept; nor is it a command that was answered."""
    found: list[bytes] = []

    async def play(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 first\r\n")
        await lines.line()
        await stream.send_all(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
        while (line := await lines.line()) != b"text\r\n":
            assert line
        await stream.send_all(b"".join(reply + b"\r\n" for reply in replies))
        if replies:
            await lines.line()

    async def another(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 second\r\n")
        lines = Lines(stream)
        while line := await lines.line():
            found.append(line)
            await stream.send_all(
                b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n" if line == b"EHLO x\r\n" else b"250 OK\r\n"
            )

    await site.serve(receiver=[await site.receiver(play), await site.receiver(another)])
    sender = await site.connect()
    await sender.line()
    await sender.stream.send_all(b"EHLO x\r\n")
    assert [await sender.line() for _ in range(3)][-1] == b"250 CHUNKING\r\n"
    await sender.stream.send_all(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 6 LAST\r\ntext\r\n")
    assert [(await sender.line())[:1] for _ in range(3)] == [severity] * 3
    assert b"MAIL FROM:<a@b>\r\n" not in found
    await sender.stream.aclose()


@pytest.mark.parametrize("how", ["closes", "resets", "is silent"])
@pytest.mark.parametrize("place", [b"DATA", b"mail data"])
async def test_one_that_leaves_later_rests_and_the_next_session_finds_another(
    site: Site, place: bytes, how: str
) -> None:
    receivers = [await site.receiver(leaving_at(place, how)), await site.receiver(polite)]
    quick = Deadlines(data_reply=0.5, end_of_data_reply=0.5)
    await site.serve(receiver=receivers, deadlines=quick)
    first = await mailed(site)
    assert first[4:5] == [b"421"] if place == b"DATA" else first[5:6] == [b"451"]
    for _ in range(3):
        assert await mailed(site) == WHOLE


@pytest.mark.parametrize("verb", [b"EHLO", b"MAIL"])
async def test_where_each_receiver_leaves_so_the_sender_hears_of_it_once(site: Site, verb: bytes) -> None:
    await site.serve(receiver=[await site.receiver(leaving_at(verb, "closes")) for _ in range(2)])
    replies = await mailed(site)
    assert replies[-1] == b"421"
    assert b"421" not in replies[:-1]


async def test_one_that_leaves_after_a_refusal_is_there_for_others(site: Site) -> None:
    """Its 5yz may be why: one sender's bad commands must not lead all mail to another receiver."""

    async def strict(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 first\r\n")
        for reply in (b"250 OK\r\n", b"550 no\r\n"):
            await lines.line()
            await stream.send_all(reply)
        await lines.line()

    await site.serve(receiver=[await site.receiver(strict), await site.receiver(named(b"second"))])
    sender = await site.connect()
    await sender.line()
    assert await sender.says(b"EHLO x", b"MAIL FROM:<a@b>") == [b"250 OK\r\n", b"550 no\r\n"]
    await sender.says(b"NOOP")
    await sender.stream.aclose()
    assert await site.greeting() == b"220 first\r\n"


def with_login(name: bytes, verdict: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A receiver that offers AUTH, and answers it so."""

    async def play(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 " + name + b"\r\n")
        while line := await lines.line():
            if line.startswith(b"EHLO"):
                await stream.send_all(b"250-" + name + b"\r\n250 AUTH PLAIN\r\n")
            elif line.startswith(b"AUTH"):
                await stream.send_all(verdict)
            else:
                await stream.send_all(b"221 bye\r\n" if line == b"QUIT\r\n" else b"250 " + name + b"\r\n")

    return play


@pytest.mark.parametrize("second_lets_in", [True, False])
async def test_a_receiver_that_lets_the_shim_not_log_in_is_passed_by(site: Site, second_lets_in: bool) -> None:
    receivers = [
        await site.receiver(with_login(b"first", b"454 not now\r\n")),
        await site.receiver(with_login(b"second", b"235 welcome\r\n" if second_lets_in else b"535 no\r\n")),
    ]
    login = {"login_user": "user", "login_secret": "secret", "login_in_clear": True}
    await site.serve(receiver=receivers, **login)
    sender = await site.connect()
    assert await sender.line() == b"220 first\r\n"
    if second_lets_in:
        assert await sender.says(b"HELO x", b"MAIL FROM:<a@b>") == [b"250 second\r\n"] * 2
        assert await site.greeting() == b"220 second\r\n", "the first one rests"
    else:
        assert (await sender.says(b"HELO x"))[0].startswith(b"421 login to the receiver failed")
    await sender.stream.aclose()


@attrs.define
class TlsTried:
    """Receivers that know TLS, and over what each was given MAIL."""

    certificate: Certificate
    mails: list[tuple[bytes, bool]] = attrs.field(factory=list)

    def play(self, name: bytes, *, works: bool, offered_over_tls: bytes = b"HELP", lives: int = 9) -> Any:
        """One that greets so often, whose TLS works or not, and that refuses XCLIENT."""
        left = [lives]

        async def play(stream: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                return
            secured, lines = False, Lines(stream)
            await stream.send_all(b"220 " + name + b"\r\n")
            while line := await lines.line():
                if line.startswith(b"EHLO"):
                    offer = offered_over_tls if secured else b"STARTTLS"
                    await stream.send_all(b"250-" + name + b"\r\n250 " + offer + b"\r\n")
                elif line == b"STARTTLS\r\n":
                    await stream.send_all(b"220 go\r\n")
                    if not works:
                        return
                    stream = trio.SSLStream(stream, self.certificate.server(), server_side=True, https_compatible=True)
                    secured, lines = True, Lines(stream)
                elif line.startswith(b"XCLIENT"):
                    await stream.send_all(b"550 no\r\n")
                else:
                    if line.startswith(b"MAIL"):
                        self.mails.append((name, secured))
                    await stream.send_all(b"221 bye\r\n" if line == b"QUIT\r\n" else b"250 " + name + b"\r\n")

        return play


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_the_tls_of_each_is_tried(site: Site, certificate: Certificate) -> None:
    """Also where the first one's has failed, and it was gone when it was dialled again to go on in the clear."""
    tried = TlsTried(certificate)
    first = await site.receiver(tried.play(b"first", works=False, lives=1))
    await site.serve(
        receiver=[first, await site.receiver(tried.play(b"second", works=True))], receiver_tls="opportunistic"
    )
    sender = await site.connect()
    assert await sender.line() == b"220 first\r\n"
    await sender.says(b"HELO x", b"MAIL FROM:<a@b>", b"QUIT")
    await sender.stream.aclose()
    assert tried.mails == [(b"second", True)]


async def test_the_record_says_what_the_last_leg_carried(site: Site, certificate: Certificate) -> None:
    tried = TlsTried(certificate)
    first = await site.receiver(tried.play(b"first", works=True, offered_over_tls=b"XCLIENT ADDR"))
    await site.serve(
        receiver=[first, await site.receiver(named(b"second"))], receiver_tls="opportunistic", xclient=True
    )
    sender = await site.connect()
    assert await sender.line() == b"220 first\r\n"
    assert await sender.says(b"HELO x", b"MAIL FROM:<a@b>", b"QUIT") == [b"250 second\r\n"] * 2 + [b"221 bye\r\n"]
    await sender.stream.aclose()
    while not site.records:
        await trio.lowlevel.checkpoint()
    assert site.records[0].receiver_tls == "-"


async def test_each_in_its_turn(site: Site) -> None:
    receivers = [await site.receiver(named(name)) for name in (b"a", b"b", b"c")]
    await site.serve(receiver=receivers, balance="round-robin")
    greetings = [await site.greeting() for _ in range(6)]
    assert sorted(greetings[:3]) == [b"220 a\r\n", b"220 b\r\n", b"220 c\r\n"]
    assert greetings[3:] == greetings[:3]


def blocking(name: bytes, blocked: bytes, *, headed: bool) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A receiver that refuses one host, whether it is told of it by a PROXY header or by XCLIENT."""

    async def play(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        if headed and blocked in await lines.line():
            await saying(b"554 5.7.1 blocked\r\n")(stream)
            return
        await stream.send_all(b"220 " + name + b"\r\n")
        while line := await lines.line():
            if line.startswith(b"EHLO"):
                await stream.send_all(b"250-" + name + b"\r\n250 XCLIENT ADDR\r\n")
            elif line.startswith(b"XCLIENT"):
                await stream.send_all(b"550 5.7.1 blocked\r\n" if blocked in line else b"220 " + name + b"\r\n")
            else:
                await stream.send_all(b"250 " + name + b"\r\n")

    return play


@pytest.mark.parametrize("told", [{"send_proxy": "v1"}, {"xclient": True}], ids=["PROXY", "XCLIENT"])
async def test_a_receiver_that_refuses_one_sender_is_left_alone_by_no_other(site: Site, told: dict[str, Any]) -> None:
    receivers = [
        await site.receiver(blocking(b"first", b"192.0.2.66", headed="send_proxy" in told)),
        await site.receiver(blocking(b"second", b"nobody", headed="send_proxy" in told)),
    ]
    await site.serve(receiver=receivers, trust="127.0.0.0/8", **told)
    answers = []
    for host in ("192.0.2.1", "192.0.2.66", "192.0.2.1"):
        sender = await site.connect()
        await sender.stream.send_all(f"PROXY TCP4 {host} 192.0.2.9 1234 25\r\n".encode())
        await sender.line()
        answers += await sender.says(b"HELO x")
        await sender.stream.aclose()
    assert answers == [b"250 first\r\n", b"250 second\r\n", b"250 first\r\n"]


def leaving(name: bytes, left: list[bytes], dialled: list[bytes], *, headed: bool) -> Callable[..., Awaitable[None]]:
    """A receiver that leaves some hosts without a word, once it is told who they are; all that it is told of."""

    async def play(stream: trio.SocketStream) -> None:
        lines = Lines(stream)
        if headed:
            dialled.append(header := await lines.line())
            if any(host in header for host in left):
                return
        await stream.send_all(b"220 " + name + b"\r\n")
        while line := await lines.line():
            if line.startswith(b"EHLO"):
                await stream.send_all(b"250-" + name + b"\r\n250 XCLIENT ADDR\r\n")
            elif line.startswith(b"XCLIENT"):
                dialled.append(line)
                if any(host in line for host in left):
                    return
                await stream.send_all(b"220 " + name + b"\r\n")
            else:
                await stream.send_all(b"250 " + name + b"\r\n")

    return play


@attrs.define(eq=False)
class TwoIntroduced:
    """Two receivers that are told who the sender is, the first of which leaves some without a word."""

    site: Site
    left: list[bytes] = attrs.field(factory=list)
    dialled: list[bytes] = attrs.field(factory=list)
    """What the first one was told."""

    async def serve(self, told: dict[str, Any]) -> None:
        headed = "send_proxy" in told
        receivers = [
            await self.site.receiver(leaving(b"first", self.left, self.dialled, headed=headed)),
            await self.site.receiver(leaving(b"second", [], [], headed=headed)),
        ]
        await self.site.serve(receiver=receivers, trust="127.0.0.0/8", **told)

    async def answer(self, host: str) -> bytes:
        """What a sender there hears to HELO."""
        sender = await self.site.connect()
        await sender.stream.send_all(f"PROXY TCP4 {host} 203.0.113.9 1234 25\r\n".encode())
        await sender.line()
        (answer,) = await sender.says(b"HELO x")
        await sender.stream.aclose()
        return answer


FIRST, SECOND = b"250 first\r\n", b"250 second\r\n"
both_ways = pytest.mark.parametrize("told", [{"send_proxy": "v1"}, {"xclient": True}], ids=["PROXY", "XCLIENT"])


@both_ways
async def test_a_receiver_that_leaves_one_sender_is_left_alone_by_no_other(site: Site, told: dict[str, Any]) -> None:
    """But by that one, whose next session need not find out again."""
    both = TwoIntroduced(site)
    await both.serve(told)
    both.left[:] = [b"192.0.2.66"]
    hosts = ("192.0.2.66", "192.0.2.1", "192.0.2.66", "192.0.2.2")
    assert [await both.answer(host) for host in hosts] == [SECOND, FIRST, SECOND, FIRST]
    assert sum(b"192.0.2.66" in each for each in both.dialled) == 1


@both_ways
async def test_a_receiver_that_leaves_two_senders_is_left_alone_by_all(site: Site, told: dict[str, Any]) -> None:
    both = TwoIntroduced(site)
    await both.serve(told)
    both.left[:] = [b"192.0.2."]
    hosts = ("192.0.2.66", "192.0.2.66", "192.0.2.67", "192.0.2.1")
    assert [await both.answer(host) for host in hosts] == [SECOND] * 4
    assert len(both.dialled) == 2


async def test_nor_by_any_if_another_was_served_between_the_two(site: Site) -> None:
    both = TwoIntroduced(site)
    await both.serve({"send_proxy": "v1"})
    both.left[:] = [b"192.0.2.66", b"192.0.2.67"]
    hosts = ("192.0.2.66", "192.0.2.1", "192.0.2.67", "192.0.2.1", "192.0.2.66", "192.0.2.67")
    assert [await both.answer(host) for host in hosts] == [SECOND, FIRST, SECOND, FIRST, SECOND, SECOND]


@pytest.fixture
def place() -> Place:
    return socket.AF_INET, ("192.0.2.1", 25)


async def test_of_many_senders_no_more_is_kept_than_of_some(place: Place) -> None:
    resting = Resting(30.0)
    for number in range(3000):
        resting.let_rest(place, f"sender {number}")
        resting.was_of_use(place, "another")
    assert sum(resting.rests(place, f"sender {number}") for number in range(3000)) == 1000
    assert resting.rests(place, "sender 2999"), "the latest ones"
    assert not resting.rests(place, "another")


async def test_what_was_left_alone_by_one_sender_has_its_time(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    resting = Resting(30.0)
    resting.let_rest(place, "one")
    await trio.sleep(31)
    assert not resting.rests(place, "one")
    resting.let_rest(place, "other")
    assert not resting.rests(place), "the first one was too long ago"
    await trio.sleep(29)
    resting.let_rest(place, "one")
    assert resting.rests(place)
    await trio.sleep(31)
    assert not resting.rests(place)
    resting.let_rest(place)
    assert resting.rests(place, "one")


# -- the addresses of a name


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[str, int]]]:
    """Host -> what is found for it; nothing, if the host is not there."""
    names: dict[str, list[tuple[str, int]]] = {}
    look_up = trio.socket.getaddrinfo

    async def found(host: str, port: int, **more: Any) -> object:
        if host in (HOST, "::1") or host is None:
            return await look_up(host, port, **more)
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(families[":" in each[0]], socket.SOCK_STREAM, 6, "", each) for each in names[host]]

    monkeypatch.setattr(trio.socket, "getaddrinfo", found)
    return names


async def test_an_address_that_does_not_answer_delays_by_a_moment_and_once(
    site: Site, resolver: dict[str, list[tuple[str, int]]]
) -> None:
    """Though a connection may take longer than this test."""
    alive = await site.receiver(named(b"alive"))
    with full_queue() as dead:
        resolver["mail.example"] = [(HOST, dead.port), (HOST, alive.port)]
        await site.serve(receiver="mail.example:25", deadlines=Deadlines(connect=10 * SECONDS))
        assert [await site.greeting() for _ in range(3)] == [b"220 alive\r\n"] * 3
    assert site.repairs == []
    assert {record.receiver for record in site.records} == {str(alive)}


async def test_no_other_connection_is_left_where_one_was_chosen(
    site: Site, resolver: dict[str, list[tuple[str, int]]]
) -> None:
    alive = await site.receiver(named(b"alive"))
    with full_queue() as dead:
        resolver["mail.example"] = [(HOST, dead.port), (HOST, alive.port)]
        await site.serve(receiver="mail.example:25")
        fillers = len(connections_to(dead))
        sender = await site.connect()
        assert await sender.line() == b"220 alive\r\n"
        assert len(connections_to(dead)) == fillers, "those of its queue alone"
        await sender.stream.aclose()


async def test_families_take_turns(resolver: dict[str, list[tuple[str, int]]]) -> None:
    resolver["mail.example"] = [("2001:db8::1", 25), ("2001:db8::2", 25), ("192.0.2.1", 25), ("192.0.2.2", 25)]
    found = await Places(Address("mail.example", 25)).find(1.0)
    assert [place[1][0] for place in found] == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]


async def test_a_name_is_looked_up_again_as_it_ages(
    resolver: dict[str, list[tuple[str, int]]], autojump_clock: trio.testing.MockClock
) -> None:
    places = Places(Address("mail.example", 25))
    for address, seconds in (("192.0.2.1", 59), ("192.0.2.1", 2), ("192.0.2.2", 61)):
        resolver["mail.example"] = [(address, 25)]
        found = await places.find(1.0)
        assert found[0][1][0] == address
        resolver["mail.example"] = [("192.0.2.9", 25)]
        assert await places.find(1.0) == found, "fresh"
        await trio.sleep(seconds)
        if seconds == 59:
            assert await places.find(1.0) == found, "still fresh"
    resolver.clear()
    assert (await places.find(1.0))[0][1][0] == "192.0.2.2", "what was found is better than nothing"
    with pytest.raises(DialFailed, match=r"unknown host 'mail\.example'"):
        await Places(Address("mail.example", 25)).find(1.0)


async def test_a_route_may_lead_to_each_of_its_receivers_or_where_its_sender_wanted_to_go() -> None:
    places = [Places(Address("192.0.2.1", 25)), Places(Address("192.0.2.2", 26)), Places(Address("192.0.2.3", 27))]
    for each in places[:2]:
        await each.find(1.0)
    with contextlib.closing(Driver()) as driver:
        assert Receivers(driver=driver, places=places).route().goals == [
            (socket.AF_INET, ("192.0.2.1", 25)),
            (socket.AF_INET, ("192.0.2.2", 26)),
        ]
        original = Receivers(driver=driver).route()
        original.origin = Origin(("192.0.2.7", 1), ("192.0.2.8", 25))
        assert original.goals == [("192.0.2.8", 25)]


# -- sockets in the file system


async def test_both_legs_may_be_sockets_in_the_file_system(site: Site, tmp_path: Path) -> None:
    there, here = tmp_path / "lmtp", tmp_path / "smtp"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(here))  # and left behind
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(str(there))
    listener.listen()
    site.nursery.start_soon(trio.serve_listeners, polite, [trio.SocketListener(listener)])
    stop = shimproxy.Stop()
    settings = Settings(listen=f"unix:{here}", receiver=f"unix:{there}")
    over = trio.Event()

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        await shimproxy.serve(settings, on_session=site.records.append, stop=stop, task_status=task_status)
        over.set()

    assert await site.nursery.start(serve) == [f"unix:{here}"]
    with pytest.raises(ListenFailed, match="another program listens there; stop it or choose another path"):
        await shimproxy.serve(settings)
    sender = Lines(await trio.open_unix_socket(here))
    assert await sender.line() == b"220 hello\r\n"
    assert await sender.says(b"MAIL FROM:<a@b>", b"QUIT") == [b"250 OK\r\n", b"221 bye\r\n"]
    await sender.stream.aclose()
    stop.ask()
    await over.wait()
    assert not here.exists()
    record, *_ = (each for each in site.records if each.octets_from_sender)  # the other one came to see who listens
    assert (record.sender, record.receiver) == ("local", f"unix:{there}")


async def takes_chunks(stream: trio.SocketStream) -> None:
    """A receiver that reads a chunk, answers it, and only then reads the next one."""

    async def exactly(octets: int) -> None:
        for _ in range(octets):
            await stream.receive_some(1)

    await stream.send_all(b"220 hello\r\n")
    line = b""
    while octet := await stream.receive_some(1):
        line += octet
        if octet != b"\n":
            continue
        if line.startswith(b"BDAT"):
            await exactly(int(line.split()[1]))
        offer = b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
        await stream.send_all(offer if line.startswith(b"EHLO") else b"250 OK\r\n")
        line = b""


async def test_chunks_in_a_group_are_taken_over_a_socket_in_the_file_system(site: Site, tmp_path: Path) -> None:
    """What lies unread there is counted with what the kernel needs for it: which chunk it is of can't be told."""
    there = tmp_path / "smtp"
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(str(there))
    listener.listen()
    site.nursery.start_soon(trio.serve_listeners, takes_chunks, [trio.SocketListener(listener)])
    await site.serve(receiver=f"unix:{there}")
    sender = await site.connect()
    await sender.line()
    await sender.stream.send_all(b"EHLO x\r\n")
    assert [await sender.line() for _ in range(3)][-1] == b"250 CHUNKING\r\n"
    await sender.stream.send_all(
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 5\r\nhelloBDAT 5\r\nhelloBDAT 5 LAST\r\nhello"
    )
    assert [await sender.line() for _ in range(5)] == [b"250 OK\r\n"] * 5
    await sender.stream.aclose()


# -- where legs leave from


@contextlib.contextmanager
def seen_from(seen: list[str]) -> Iterator[Callable[[trio.SocketStream], Awaitable[None]]]:
    async def play(stream: trio.SocketStream) -> None:
        seen.append(stream.socket.getpeername()[0])
        await polite(stream)

    yield play


async def test_legs_leave_from_the_address_that_was_said(site: Site) -> None:
    seen: list[str] = []
    with seen_from(seen) as play:
        await site.serve(receiver=await site.receiver(play), source=["127.0.0.9", "::1"])
        assert await site.greeting() == b"220 hello\r\n"
    assert seen == ["127.0.0.9"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("192.0.2.77", "Cannot assign requested address"),
        ("::1", "the receiver has no address in the family of the source address"),
    ],
)
async def test_legs_leave_from_nowhere_else(site: Site, source: str, reason: str) -> None:
    await site.serve(receiver=await site.receiver(polite), source=source)
    assert (await site.greeting()).startswith(b"421 the receiver cannot be reached")
    (repair,) = site.records[0].first_repairs
    assert reason in str(repair.detail["reason"])


async def test_where_each_session_has_its_own_place_to_go_to_none_is_left_alone() -> None:
    receivers = Receivers(driver=Driver())
    receivers.let_rest((socket.AF_INET, ("192.0.2.1", 25)))
    assert not receivers.resting.some


# -- loops


@pytest.mark.parametrize(
    ("host", "receiver"),
    [
        (HOST, HOST),
        ("0.0.0.0", HOST),
        ("::", "::1"),
        (HOST, "localhost"),
        ("0.0.0.0", "localhost"),
        (HOST, "0.0.0.0"),
        ("::1", "::"),
        (HOST, "0"),
    ],
)
async def test_a_receiver_that_is_this_shimproxy_is_refused_at_start(host: str, receiver: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    itself = Address(receiver, listener.getsockname()[1])
    with trio.fail_after(SECONDS), pytest.raises(SettingsError, match="is an address where this shimproxy listens"):
        await shimproxy.serve(Settings(receiver=itself), listeners=[listener])


@pytest.mark.parametrize("receiver", ["smtp", "../link/smtp"])
async def test_a_socket_that_is_this_shimproxy_is_refused_at_start(receiver: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "link").symlink_to(place)
    with trio.fail_after(SECONDS), pytest.raises(SettingsError, match="is an address where this shimproxy listens"):
        await shimproxy.serve(Settings(listen=f"unix:{place / 'smtp'}", receiver=f"unix:{place / receiver}"))
