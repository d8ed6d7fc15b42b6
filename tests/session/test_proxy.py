"""Sessions behind a PROXY header, on real sockets: whom they are with, what is none, and who is counted.

Every wait is bounded by fail_after or by a socket's timeout; the proxy is written out in the test. What a header may be
is test_proxy_header.py's, what the receiver is told test_send_proxy.py's, and a real HAProxy test_chain.py's.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import ssl
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import attrs
import pytest
import trio

from shimproxy import Deadlines, Settings, Stop, Violation
from shimproxy.config.sources import Sources
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import GREETING, SECONDS, Talk
from shimproxy.net.proxy_header import Version, encoded_header, local
from tests.peers.shim import Shim, Watcher, served, shim
from tests.peers.tls import make_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from tests.peers.tls import Certificate

LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
SENDER, SIXTH_SENDER = ("192.0.2.1", 56324), ("2001:db8::1", 56324)
DESTINATION, SIXTH_DESTINATION = ("198.51.100.2", 25), ("2001:db8::2", 25)
HEADERS: Final = {
    f"{version} {name}": (encoded_header(version, sender, destination), shown)
    for version in Version
    for name, sender, destination, shown in (
        ("IPv4", SENDER, DESTINATION, "192.0.2.1:56324"),
        ("IPv6", SIXTH_SENDER, SIXTH_DESTINATION, "[2001:db8::1]:56324"),
    )
}
SIGNATURE: Final = bytes.fromhex("0D0A0D0A000D0A515549540A")
LOCAL: Final = SIGNATURE + b"\x20\0\0\0"
UNKNOWN: Final = b"PROXY UNKNOWN\r\n"
OF_NOBODY: Final = {
    "LOCAL": LOCAL,
    "LOCAL with more": SIGNATURE + b"\x20\x11\0\x02xx",
    "UNKNOWN": UNKNOWN,
    "UNKNOWN with more": b"PROXY UNKNOWN ::1 ::1 1 2\r\n",
    "UNSPEC": SIGNATURE + b"\x21\0\0\0",
    "Unix": SIGNATURE + b"\x21\x31\0\xd8" + bytes(216),
    "UDP": SIGNATURE + b"\x21\x12\0\x0c" + bytes(12),
}
OF_NETWORK: Final = b"421 too many sessions from your network, try again later\r\n"
TOO_FAST: Final = b"421 too many connections from your network, try again later\r\n"
MAIL: Final = (b"HELO x", b"MAIL FROM:<a@b>", b"RCPT TO:<b@c>", b"DATA", b"text\r\n.", b"QUIT")
CODES: Final = [b"250", b"250", b"250", b"354", b"250", b"221"]
RESET: Final = struct.pack("ii", 1, 0)


class Proxy:
    """The proxy's side of a connection, and what its client would say and hear over it."""

    def __init__(self, port: int, header: bytes = b"", *, source: str = HOST, host: str = HOST) -> None:
        self.sock = socket.create_connection((host, port), SECONDS, (source, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.own = self._written(self.sock.getsockname())
        self._unread = b""
        self.sock.sendall(header)

    @staticmethod
    def _written(sockaddr: Sequence[Any]) -> str:
        host, port = sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def line(self) -> bytes:
        """The next line; what there was, at the end."""
        while b"\n" not in self._unread and (octets := self.sock.recv(4096)):
            self._unread += octets
        line, newline, self._unread = self._unread.partition(b"\n")
        return line + newline

    def says(self, *lines: bytes) -> list[bytes]:
        """The code of the reply to each line."""
        codes = []
        for line in lines:
            self.sock.sendall(line + b"\r\n")
            codes.append(self.code())
        return codes

    def code(self) -> bytes:
        while (line := self.line())[3:4] == b"-":
            pass
        return line[:3]

    def to_its_end(self) -> bytes:
        """All that still comes."""
        octets, self._unread = self._unread, b""
        while block := self.sock.recv(4096):
            octets += block
        return octets

    def secure(self, context: ssl.SSLContext) -> None:
        self.sock = context.wrap_socket(self.sock, server_hostname=HOST)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


class Counted(Talk):
    """A receiver that keeps the lines that it is given, connection by connection."""

    def serve(self, on_data: Any) -> None:
        LINES.append(b"")
        super().serve(on_data)

    def line(self, most_octets: int = 4096) -> bytes:
        line = super().line(most_octets)
        LINES[-1] += line + b"\n"
        return line


LINES: Final[list[bytes]] = []
"""Of each connection to the receiver of a test, the lines that it was given."""


@pytest.fixture
def receiver() -> Iterator[FaultyReceiver]:
    LINES.clear()
    with FaultyReceiver(Talk.accept, talk=Counted) as running:
        yield running


@contextlib.asynccontextmanager
async def behind_a_proxy(
    receiver: FaultyReceiver, deadlines: Deadlines | None = None, **more: Any
) -> AsyncIterator[Shim]:
    """The shim, which trusts loopback unless told otherwise."""
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, deadlines, **({"trust": LOOPBACK} | more)) as between:
            yield between


in_thread = trio.to_thread.run_sync


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def implicit_tls(certificate: Certificate) -> dict[str, Any]:
    files = {"certificate": certificate.certificate, "key": certificate.key}
    return {"sender_tls": "implicit", "clear_allowed": True} | files


# -- whom a session is with


@pytest.mark.parametrize(("header", "sender"), HEADERS.values(), ids=HEADERS)
async def test_the_sender_is_whom_the_header_names(receiver: FaultyReceiver, header: bytes, sender: str) -> None:
    async with behind_a_proxy(receiver) as between:

        def deliver() -> str:
            with Proxy(between.port, header, source="127.0.0.5") as proxy:
                assert proxy.line() == GREETING
                assert proxy.says(*MAIL) == CODES
                assert proxy.to_its_end() == b""
                return proxy.own

        own = await in_thread(deliver)
        await between.watcher.sessions_ended()
    (record,) = between.watcher.ended_sessions
    assert (record.sender, record.via, record.accepted, record.repairs) == (sender, own, 1, {})
    assert record.octets_from_sender == record.octets_to_receiver, "the header is no part of the dialogue"
    assert len(receiver.seen.mails) == 1


@pytest.mark.parametrize(("header", "sender"), HEADERS.values(), ids=HEADERS)
async def test_octet_by_octet_it_is_the_same(receiver: FaultyReceiver, header: bytes, sender: str) -> None:
    async with behind_a_proxy(receiver) as between:

        def deliver() -> None:
            with Proxy(between.port) as proxy:
                for at in range(len(header)):
                    proxy.sock.sendall(header[at : at + 1])
                assert proxy.line() == GREETING
                assert proxy.says(*MAIL) == CODES

        await in_thread(deliver)
        await between.watcher.sessions_ended()
    (record,) = between.watcher.ended_sessions
    assert (record.sender, record.repairs) == (sender, {})


@pytest.mark.parametrize(("header", "sender"), HEADERS.values(), ids=HEADERS)
async def test_what_comes_with_it_in_one_segment_is_the_senders(
    receiver: FaultyReceiver, header: bytes, sender: str
) -> None:
    """Nothing of it is lost, nor taken for a part of the header."""
    async with behind_a_proxy(receiver) as between:

        def deliver() -> None:
            with Proxy(between.port, header + b"HELO x\r\nNOOP\r\nQUIT\r\n") as proxy:
                assert proxy.line() == GREETING
                assert [proxy.code() for _ in range(3)] == [b"250", b"250", b"221"]
                assert proxy.to_its_end() == b""

        await in_thread(deliver)
        await between.watcher.sessions_ended()
    (record,) = between.watcher.ended_sessions
    assert record.sender == sender
    assert LINES == [b"HELO x\nNOOP\nQUIT\n"]
    assert Violation.PROXY_HEADER not in record.repairs


@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "in one segment"])
@pytest.mark.parametrize(("header", "sender"), HEADERS.values(), ids=HEADERS)
async def test_tls_from_the_first_octet_on_stands_behind_it(
    receiver: FaultyReceiver, certificate: Certificate, header: bytes, sender: str, together: bool
) -> None:
    async with behind_a_proxy(receiver, **implicit_tls(certificate)) as between:

        def deliver() -> None:
            with Proxy(between.port, b"" if together else header) as proxy:
                if together:
                    first_flight, talk = ssl.MemoryBIO(), ssl.MemoryBIO()
                    client = certificate.client().wrap_bio(talk, first_flight, server_hostname=HOST)
                    with contextlib.suppress(ssl.SSLWantReadError):
                        client.do_handshake()
                    proxy.sock.sendall(header + first_flight.read())
                    while True:
                        talk.write(proxy.sock.recv(65_536))
                        try:
                            client.do_handshake()
                            break
                        except ssl.SSLWantReadError:
                            proxy.sock.sendall(first_flight.read())
                    client.write(b"QUIT\r\n")
                    proxy.sock.sendall(first_flight.read())
                    said = b""
                    while not said.endswith(b"closing connection\r\n"):
                        try:
                            said += client.read()
                        except ssl.SSLWantReadError:
                            talk.write(proxy.sock.recv(65_536))
                    assert said.startswith(GREETING)
                else:
                    proxy.secure(certificate.client())
                    assert proxy.line() == GREETING
                    assert proxy.says(*MAIL) == CODES

        await in_thread(deliver)
        await between.watcher.sessions_ended()
    (record,) = between.watcher.ended_sessions
    assert (record.sender, record.sender_tls[:3]) == (sender, "TLS")
    assert Violation.TLS_FAILED not in record.repairs


@pytest.mark.parametrize(("header", "sender"), HEADERS.values(), ids=HEADERS)
async def test_so_does_starttls(receiver: FaultyReceiver, certificate: Certificate, header: bytes, sender: str) -> None:
    async with behind_a_proxy(receiver, **implicit_tls(certificate) | {"sender_tls": "starttls"}) as between:

        def deliver() -> None:
            with Proxy(between.port, header) as proxy:
                assert proxy.line() == GREETING
                assert proxy.says(b"EHLO x", b"STARTTLS") == [b"250", b"220"]
                proxy.secure(certificate.client())
                assert proxy.says(*MAIL) == CODES

        await in_thread(deliver)
        await between.watcher.sessions_ended()
    (record,) = between.watcher.ended_sessions
    assert (record.sender, record.sender_tls[:3], record.accepted, record.repairs) == (sender, "TLS", 1, {})


async def test_the_log_names_the_sender_and_the_proxy(
    receiver: FaultyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shimproxy")
    settings = Settings(listen=f"{HOST}:0", receiver=f"{HOST}:{receiver.port}", trust=LOOPBACK)
    watcher = Watcher()
    owns: list[str] = []
    with trio.fail_after(SECONDS):
        async with served(settings, observer=None, on_session=watcher.ended) as ((port,), _):

            def deliver() -> None:
                for header in (HEADERS["v2 IPv4"][0], LOCAL):
                    with Proxy(port, header) as proxy:
                        owns.append(proxy.own)
                        assert proxy.line() == GREETING
                        assert proxy.says(b"QUIT") == [b"221"]
                        assert proxy.to_its_end() == b""

            await in_thread(deliver)
            await watcher.sessions_ended(2)
    # Either session may be over first.
    told = {
        line["sender"]: line.get("via") for line in (vars(e)["fields"] for e in caplog.records if e.msg == "session")
    }
    assert told == {"192.0.2.1:56324": owns[0], owns[1]: None}


@pytest.mark.parametrize("header", OF_NOBODY.values(), ids=OF_NOBODY)
async def test_where_it_names_nobody_the_connection_counts(receiver: FaultyReceiver, header: bytes) -> None:
    async with behind_a_proxy(receiver) as between:

        def deliver() -> str:
            with Proxy(between.port, header) as proxy:
                assert proxy.line() == GREETING
                assert proxy.says(*MAIL) == CODES
                return proxy.own

        own = await in_thread(deliver)
        await between.watcher.sessions_ended()
    (record,) = between.watcher.ended_sessions
    assert (record.sender, record.via, record.accepted, record.repairs) == (own, "", 1, {})


async def test_an_ipv4_proxy_is_one_on_a_socket_for_both_families(receiver: FaultyReceiver) -> None:
    """There its address is mapped into IPv6."""
    settings = Settings(receiver=f"{HOST}:{receiver.port}", trust="127.0.0.0/8")
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    header, sender = HEADERS["v1 IPv4"]
    with trio.fail_after(SECONDS):
        async with served(settings, listeners=[listener]) as ((port,), watcher):

            def deliver() -> tuple[str, str]:
                with Proxy(port, header) as proxy, Proxy(port, host="::1", source="::1") as stranger:
                    assert proxy.line() == stranger.line() == GREETING
                    assert proxy.says(b"QUIT") == stranger.says(b"QUIT") == [b"221"]
                    return proxy.own, stranger.own

            own, strangers = await in_thread(deliver)
            await watcher.sessions_ended(2)
    assert {(record.sender, record.via) for record in watcher.ended_sessions} == {(sender, own), (strangers, "")}


async def test_a_listener_may_trust_whom_the_others_do_not(receiver: FaultyReceiver, tmp_path: Path) -> None:
    file = tmp_path / "shimproxy.toml"
    file.write_text(
        f'listen = "{HOST}:0"\nreceiver = "{HOST}:{receiver.port}"\n'
        f'[[listener]]\nlisten = "{HOST}:0"\ntrust = ["127.0.0.0/8"]\n[listener.deadline]\nproxy-header = 0.1\n'
    )
    settings = Sources.gather({}, {}, str(file)).settings()
    header, sender = HEADERS["v1 IPv4"]
    with trio.fail_after(SECONDS):
        async with served(settings) as ((general, special), watcher):

            def deliver() -> None:
                with Proxy(special) as silent:
                    assert silent.to_its_end() == b""
                with Proxy(special, header) as proxy, Proxy(general) as direct:
                    assert proxy.line() == direct.line() == GREETING
                    assert proxy.says(b"QUIT") == direct.says(b"QUIT") == [b"221"]

            await in_thread(deliver)
            await watcher.sessions_ended(3)
    assert [record.sender for record in watcher.ended_sessions if record.via] == [sender]


# -- what is none


WRONG: Final = {
    "plain SMTP": (b"EHLO x\r\n", "none begins with"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", "none begins with"),
    "a blank line": (b"\r\n\r\nHELO", "none begins with"),
    "small letters": (b"proxy TCP4 192.0.2.1 198.51.100.2 1 25\r\n", "none begins with"),
    "no address": (b"PROXY TCP4 192.0.2.256 198.51.100.2 1 25\r\n", "no address for TCP4"),
    "a line without end": (b"PROXY TCP4 " + b"1" * 200, "no CRLF within 107 octets"),
    "UNKNOWN without end": (b"PROXY UNKNOWN " + b"x" * 200, "no CRLF within 107 octets"),
    "LF alone": (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 25\nQUIT\r\n", "CR or LF alone"),
    "v2 without end": (SIGNATURE + b"\x21\x11\xff\xff" + b"x" * 6000, "where at most 4096 are taken"),
    "LOCAL without end": (SIGNATURE + b"\x20\0\xff\xff", "where at most 4096 are taken"),
    "v3": (SIGNATURE + b"\x31\x11\0\x0c", "neither LOCAL nor PROXY of version 2"),
    "v2 with too few octets": (SIGNATURE + b"\x21\x11\0\x04\x7f\0\0\x01", "too few for the addresses"),
    "a TLV cut off": (SIGNATURE + b"\x21\x11\0\x0e" + bytes(12) + b"\x04\x01", "TLV is cut off"),
}


@attrs.frozen
class Refused:
    """What was found of connections with something wrong."""

    reasons: list[int | str | bytes]
    via: list[str]
    dialled: int


async def refused(receiver: FaultyReceiver, between: Shim, connections: int = 1) -> Refused:
    await between.watcher.sessions_ended(connections)
    watcher = between.watcher
    assert [repair.violation for repair in watcher.repairs] == [Violation.PROXY_HEADER] * len(watcher.repairs)
    assert all(record.ended_by == "sender" for record in watcher.ended_sessions)
    reasons = [repair.detail["reason"] for repair in watcher.repairs]
    return Refused(reasons, [record.via for record in watcher.ended_sessions], len(LINES))


@pytest.mark.parametrize(("octets", "reason"), WRONG.values(), ids=WRONG)
async def test_what_is_none_is_closed_without_a_word(receiver: FaultyReceiver, octets: bytes, reason: str) -> None:
    """At once, not at the deadline."""
    async with behind_a_proxy(receiver, Deadlines(proxy_header=10 * SECONDS)) as between:

        def try_it() -> bytes:
            with Proxy(between.port, octets) as proxy:
                return proxy.to_its_end()

        assert await in_thread(try_it) == b""
        found = await refused(receiver, between)
    assert re.search(reason, str(found.reasons)), found.reasons
    assert (len(found.reasons), found.via, found.dialled) == (1, [""], 0)


@pytest.mark.parametrize("sent", [b"", b"P", *(header[:-1] for header, _ in HEADERS.values())])
async def test_what_does_not_come_in_time_neither(receiver: FaultyReceiver, sent: bytes) -> None:
    async with behind_a_proxy(receiver, Deadlines(proxy_header=0.1)) as between:

        def try_it() -> bytes:
            with Proxy(between.port, sent) as proxy:
                return proxy.to_its_end()

        assert await in_thread(try_it) == b""
        found = await refused(receiver, between)
    assert found == Refused(["not complete in time"], [""], 0)


async def test_an_octet_now_and_then_gives_no_more_time(receiver: FaultyReceiver) -> None:
    """Where it is octets that keep the deadline away, this never ends."""
    header = SIGNATURE + b"\x20\0\x0f\xf0"
    async with behind_a_proxy(receiver, Deadlines(proxy_header=0.2)) as between:

        def try_it() -> bytes:
            with Proxy(between.port, header) as proxy:
                proxy.sock.settimeout(0.01)
                for _ in range(0x0FEF):  # one less than it has
                    proxy.sock.sendall(b"x")
                    with contextlib.suppress(TimeoutError):
                        return proxy.sock.recv(1)
                return b"it was waited for"

        assert await in_thread(try_it) == b""
        found = await refused(receiver, between)
    assert found == Refused(["not complete in time"], [""], 0)


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("header", [header for header, _ in HEADERS.values()], ids=HEADERS)
async def test_nor_one_that_is_cut_off(receiver: FaultyReceiver, header: bytes, how: str) -> None:
    cuts = [1, 5, 13, len(header) // 2, len(header) - 1]
    async with behind_a_proxy(receiver) as between:

        def try_it(octets: bytes) -> None:
            with Proxy(between.port, octets) as proxy:
                if how == "RST":
                    proxy.reset()
                else:
                    proxy.sock.shutdown(socket.SHUT_WR)
                    assert proxy.to_its_end() == b""

        for number, cut in enumerate(cuts, 1):
            await in_thread(try_it, header[:cut])
            await between.watcher.sessions_ended(number)
        found = await refused(receiver, between, len(cuts))
    if how == "FIN":
        assert found.reasons == [f"FIN after {cut} octets" for cut in cuts]
    assert found.dialled == 0


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_whoever_only_sees_whether_it_is_there_does_nothing_wrong(receiver: FaultyReceiver, how: str) -> None:
    """As a health check that connects and closes does."""
    async with behind_a_proxy(receiver) as between:

        def look() -> None:
            with Proxy(between.port) as proxy:
                if how == "RST":
                    proxy.reset()
                else:
                    proxy.sock.shutdown(socket.SHUT_WR)
                    assert proxy.to_its_end() == b""

        await in_thread(look)
        found = await refused(receiver, between)
    assert found == Refused([], [""], 0)


@pytest.mark.parametrize("tls", [False, True], ids=["in the clear", "TLS"])
@pytest.mark.parametrize("sent", [b"", b"PROXY "])
async def test_a_stop_does_not_wait_for_it_and_says_nothing_before_it(
    receiver: FaultyReceiver, certificate: Certificate, sent: bytes, tls: bool
) -> None:
    """A word in the clear is no TLS."""
    settings = Settings(
        listen=f"{HOST}:0",
        receiver=f"{HOST}:{receiver.port}",
        trust=LOOPBACK,
        deadlines=Deadlines(proxy_header=10 * SECONDS),
        **(implicit_tls(certificate) if tls else {}),
    )
    stop = Stop()
    with trio.fail_after(SECONDS):
        async with served(settings, stop=stop) as ((port,), watcher):
            with Proxy(port, sent) as proxy:
                with Proxy(port, b"EHLO") as later:
                    assert await in_thread(later.to_its_end) == b"", "so that the first one is a session by now"
                stop.ask()
                assert await in_thread(proxy.to_its_end) == b""
            await watcher.sessions_ended(2)
    assert [record.repairs for record in watcher.ended_sessions if record.ended_by == "shim"] == [{}]


# -- from whom it is none


async def dialogue_of(octets: bytes, **more: Any) -> tuple[bytes, list[bytes], str, str, str]:
    """What both sides of a session see of `octets`, and whom it is with."""
    LINES.clear()
    with FaultyReceiver(Talk.accept, talk=Counted) as receiver:
        async with behind_a_proxy(receiver, **more) as between:

            def say() -> tuple[bytes, str]:
                with Proxy(between.port) as proxy:
                    greeting = proxy.line()
                    proxy.sock.sendall(octets + b"QUIT\r\n")
                    return greeting + proxy.to_its_end(), proxy.own

            said, own = await in_thread(say)
            await between.watcher.sessions_ended()
    (record,) = between.watcher.ended_sessions
    return said, [*LINES], record.sender, own, record.via


@pytest.mark.parametrize("header", [header for header, _ in HEADERS.values()], ids=HEADERS)
async def test_from_anybody_else_it_is_the_end_of_the_session(header: bytes) -> None:
    """It is never obeyed nor forwarded, and it does not matter whether others are trusted."""
    said, lines, sender, own, via = await dialogue_of(header, trust=("192.0.2.0/24", "2001:db8::/32", "127.0.0.2/32"))
    assert (sender, via) == (own, "")
    assert said.startswith(GREETING)
    assert (said, lines) == (await dialogue_of(header, trust=()))[:2]
    assert said.removeprefix(GREETING).startswith(b"421 this port speaks SMTP")
    assert lines == [b"QUIT\n"], "which is shimproxy's own"


# -- who is counted


@contextlib.contextmanager
def let_in(port: int, header: bytes, *, context: ssl.SSLContext | None = None) -> Iterator[bytes]:
    """A sender behind a proxy, and the greeting that it is given."""
    with Proxy(port, header) as proxy:
        if context:
            proxy.secure(context)
        yield proxy.line()


def header_of(host: str) -> bytes:
    return encoded_header(Version.V2, (host, 1), DESTINATION)


@pytest.mark.parametrize("tls", [False, True], ids=["in the clear", "TLS"])
async def test_sessions_of_a_network_are_those_of_real_senders(
    receiver: FaultyReceiver, certificate: Certificate, tls: bool
) -> None:
    more = implicit_tls(certificate) if tls else {}
    context = certificate.client() if tls else None
    async with behind_a_proxy(receiver, sessions_per_network=1, ipv4_prefix=24, **more) as between:
        port, enter = between.port, partial(let_in, between.port, context=context)

        def connect() -> None:
            with enter(header_of("192.0.2.1")) as first, enter(header_of("203.0.113.1")) as other:
                assert first == other == GREETING
                with enter(header_of("192.0.2.254")) as second:
                    assert second == OF_NETWORK
                with Proxy(port, header_of("192.0.2.2")) as proxy:
                    if context:
                        proxy.secure(context)
                    assert proxy.to_its_end() == OF_NETWORK, "and is closed"

        await in_thread(connect)
        await between.watcher.sessions_ended(4)

        def again() -> None:
            with enter(header_of("192.0.2.1")) as first, enter(header_of("203.0.113.1")) as other:
                assert first == other == GREETING

        await in_thread(again)
        await between.watcher.sessions_ended(6)
    watcher = between.watcher
    told = [repair.detail for repair in watcher.repairs if repair.violation is Violation.LIMIT_REACHED]
    assert told == [{"limit": "sessions-per-network"}] * 2
    of_refused = [record.sender for record in watcher.ended_sessions if Violation.LIMIT_REACHED in record.repairs]
    assert sorted(of_refused) == ["192.0.2.254:1", "192.0.2.2:1"]
    assert len(LINES) == 4, "no receiver is dialled for who is refused"


async def test_connections_within_a_minute_are_those_of_real_senders(receiver: FaultyReceiver) -> None:
    async with behind_a_proxy(receiver, connections_per_minute=2) as between:

        def connect() -> None:
            for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"):
                for expected in (GREETING, GREETING, TOO_FAST):
                    with let_in(between.port, header_of(host)) as greeting:
                        assert (host, greeting) == (host, expected)

        await in_thread(connect)
        await between.watcher.sessions_ended(12)


@pytest.mark.parametrize("version", Version)
async def test_the_proxys_own_checks_are_not_counted(receiver: FaultyReceiver, version: Version) -> None:
    """A proxy that is told 421 takes the shim out of service for everybody."""
    async with behind_a_proxy(receiver, connections_per_minute=1, sessions_per_network=1) as between:

        def connect() -> None:
            for _ in range(3):
                with Proxy(between.port) as check:
                    own, peer = check.sock.getsockname(), check.sock.getpeername()
                    check.sock.sendall(local(version, own, peer))
                    assert check.line() == GREETING
            with let_in(between.port, UNKNOWN) as one, let_in(between.port, UNKNOWN) as another:
                assert (one, another) == (GREETING, OF_NETWORK), "somebody's mail may come so"

        await in_thread(connect)
        await between.watcher.sessions_ended(5)
    assert {record.via for record in between.watcher.ended_sessions} == {""}


async def test_connections_that_say_nothing_are_no_senders(receiver: FaultyReceiver) -> None:
    """Nor do those whose header is wrong use up anybody's share."""
    async with behind_a_proxy(receiver, connections_per_minute=1, sessions_per_network=1) as between:

        def connect() -> None:
            for octets in (b"", b"EHLO x\r\n", header_of("192.0.2.1")[:-1]):
                with Proxy(between.port, octets) as proxy:
                    proxy.sock.shutdown(socket.SHUT_WR)
                    assert proxy.to_its_end() == b""
            with let_in(between.port, header_of("192.0.2.1")) as greeting:
                assert greeting == GREETING

        await in_thread(connect)
        await between.watcher.sessions_ended(4)
