"""--send-proxy, on real sockets: what the receiver is told of a connection before it says anything.

The receiver looks once at what has come and greets only then: whoever sends the header late, or in pieces, is found.
"""

from __future__ import annotations

import functools
import socket
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from shimproxy import Listener, Settings, Violation
from shimproxy.admin.receiver_health import why_no_greeting
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import EHLO, GREETING, SECONDS, Gone, Talk
from shimproxy.net.address import Address
from shimproxy.net.proxy_header import Version, encoded_header, length_octets, local
from tests.peers.postfix import MAILBOX_DOMAIN, postfix
from tests.peers.processes import poll
from tests.peers.shim import served, shim
from tests.peers.tls import make_certificate
from tests.session.test_proxy import (
    CODES,
    DESTINATION,
    HEADERS,
    LOCAL,
    LOOPBACK,
    MAIL,
    SENDER,
    SIXTH_DESTINATION,
    SIXTH_SENDER,
    UNKNOWN,
    Proxy,
    in_thread,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shimproxy.net.origin import Party
    from tests.peers.tls import Certificate

UNSAID: Final = {Version.V1: UNKNOWN, Version.V2: LOCAL}
versions = pytest.mark.parametrize("version", Version)


class HeaderReceiver(FaultyReceiver):
    """A receiver behind a header: of each connection, `headers` has what it began with, `peers` whom it was from."""

    def __init__(
        self,
        on_data: Callable[[Talk], None] = Talk.accept,
        *,
        certificate: Certificate | None = None,
        greeting: bytes = b"",
        offered: bytes = EHLO,
    ) -> None:
        self.headers: list[bytes] = []
        self.peers: list[Party] = []
        told = self

        class TalkBehindHeader(Talk):
            OFFERED = offered

            def serve(self, on_data: Callable[[Talk], None]) -> None:
                first = self.sock.recv(65_536, socket.MSG_PEEK)
                size_octets = length_octets(first)
                assert size_octets, f"no whole header: {first!r}"
                told.headers.append(self.sock.recv(size_octets))
                told.peers.append(self.sock.getpeername()[:2])
                if greeting:
                    self.say(greeting)
                    return
                assert certificate or size_octets == len(first), f"more than that: {first!r}"
                if not certificate:
                    super().serve(on_data)
                    return
                with certificate.server().wrap_socket(self.sock, server_side=True) as self.sock:
                    super().serve(on_data)

            def line(self, most_octets: int = 1) -> bytes:
                line = super().line(most_octets)
                if line == b"STARTTLS":
                    self.say(b"220 go ahead\r\n")
                    self.part(1)  # of a handshake
                    raise Gone
                return line

        super().__init__(on_data, talk=TalkBehindHeader)


def settings(*receivers: FaultyReceiver, **more: Any) -> Settings:
    given: dict[str, Any] = {"listen": f"{HOST}:0", "grace_seconds": 0} | more
    return Settings(receiver=[f"{HOST}:{receiver.port}" for receiver in receivers], **given)


def deliver(port: int, header: bytes = b"", host: str = HOST) -> tuple[Party, Party]:
    """A mail; both ends of the connection that it went over."""
    with Proxy(port, header, source="::1" if host == "::1" else "127.0.0.5", host=host) as proxy:
        assert proxy.line() == GREETING
        assert proxy.says(*MAIL) == CODES
        ends = proxy.sock.getsockname()[:2], proxy.sock.getpeername()[:2]
        assert proxy.to_its_end() == b""
    return ends


# -- who the sender is


@versions
@pytest.mark.parametrize("host", [HOST, "::1"])
async def test_the_receiver_is_told_both_ends_of_the_senders_connection(version: Version, host: str) -> None:
    with trio.fail_after(SECONDS), HeaderReceiver() as receiver:
        async with served(settings(receiver, listen=str(Address(host, 0)), send_proxy=version)) as ((port,), watcher):
            ends = [await in_thread(functools.partial(deliver, port, host=host)) for _ in range(2)]
            await watcher.sessions_ended(2)
    assert receiver.headers == [encoded_header(version, *each) for each in ends]
    for record in watcher.ended_sessions:
        assert (record.accepted, record.repairs) == (1, {})
        assert record.octets_to_receiver == record.octets_from_sender, "the header is no part of the dialogue"


@versions
async def test_a_sender_that_is_mapped_into_ipv6_is_told_as_ipv4(version: Version) -> None:
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with trio.fail_after(SECONDS), HeaderReceiver() as receiver:
        async with served(settings(receiver, send_proxy=version), listeners=[listener]) as ((port,), _):
            ends = await in_thread(deliver, port)
    assert receiver.headers == [encoded_header(version, *ends)]
    assert ends[0][0] == "127.0.0.5"


ACROSS: Final = {
    "from IPv4": (SENDER, SIXTH_DESTINATION, "::ffff:192.0.2.1", "2001:db8::2"),
    "to IPv4": (SIXTH_SENDER, DESTINATION, "2001:db8::1", "::ffff:198.51.100.2"),
}


@versions
@pytest.mark.parametrize("said", Version)
@pytest.mark.parametrize(
    ("sender", "destination"),
    [(SENDER, DESTINATION), (SIXTH_SENDER, SIXTH_DESTINATION), *(each[:2] for each in ACROSS.values())],
    ids=["IPv4", "IPv6", *ACROSS],
)
async def test_it_is_told_what_the_proxy_before_says(
    version: Version, said: Version, sender: Party, destination: Party
) -> None:
    with trio.fail_after(SECONDS), HeaderReceiver() as receiver:
        async with shim(receiver.port, trust=LOOPBACK, send_proxy=version) as between:
            await in_thread(deliver, between.port, encoded_header(said, sender, destination))
    assert receiver.headers == [encoded_header(version, sender, destination)]


@pytest.mark.parametrize(("sender", "destination", *"st"), ACROSS.values(), ids=ACROSS)
async def test_two_families_are_told_as_the_wider_one(sender: Party, destination: Party, s: str, t: str) -> None:
    with trio.fail_after(SECONDS), HeaderReceiver() as receiver:
        async with shim(receiver.port, trust=LOOPBACK, send_proxy="v1") as between:
            await in_thread(deliver, between.port, encoded_header(Version.V2, sender, destination))
    assert receiver.headers == [f"PROXY TCP6 {s} {t} {sender[1]} {destination[1]}\r\n".encode()]


@versions
@pytest.mark.parametrize("header", [LOCAL, UNKNOWN])
async def test_where_that_names_nobody_it_is_told_of_the_connection(version: Version, header: bytes) -> None:
    with trio.fail_after(SECONDS), HeaderReceiver() as receiver:
        async with shim(receiver.port, trust=LOOPBACK, send_proxy=version) as between:
            ends = await in_thread(deliver, between.port, header)
    assert receiver.headers == [encoded_header(version, *ends)]


@versions
async def test_of_a_sender_without_an_address_it_is_told_nothing(version: Version, tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    with trio.fail_after(SECONDS), HeaderReceiver() as receiver:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        async with served(settings(receiver, send_proxy=version), listeners=[listener]) as (_, watcher):

            def greeted() -> bytes:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(SECONDS)
                    sock.connect(str(path))
                    greeting = sock.recv(4096)
                    sock.sendall(b"QUIT\r\n")
                    sock.recv(4096)
                    return greeting

            assert await in_thread(greeted) == GREETING
            await watcher.sessions_ended()
    assert receiver.headers == [UNSAID[version]]


# -- every leg


@versions
async def test_a_leg_to_the_next_receiver_begins_with_it_too(version: Version) -> None:
    with trio.fail_after(SECONDS), HeaderReceiver(greeting=b"421 not now\r\n") as busy, HeaderReceiver() as receiver:
        async with served(settings(busy, receiver, send_proxy=version)) as ((port,), _):
            ends = await in_thread(deliver, port)
    assert busy.headers == receiver.headers == [encoded_header(version, *ends)]


def refused_at_first() -> Callable[[Talk], None]:
    """Refuses a mail before its end, and goes; takes the next one."""
    refused = False

    def on_data(talk: Talk) -> None:
        nonlocal refused
        if refused:
            talk.accept()
        else:
            refused = True
            talk.go_on()
            talk.early(b"552 too big\r\n")
            talk.reset()

    return on_data


@versions
async def test_so_does_one_that_a_session_goes_on_with(version: Version) -> None:
    with trio.fail_after(SECONDS), HeaderReceiver(refused_at_first()) as receiver:
        async with served(settings(receiver, send_proxy=version, resume=True, trust=LOOPBACK)) as ((port,), _):

            def two_mails() -> None:
                with Proxy(port, HEADERS["v2 IPv4"][0]) as proxy:
                    proxy.line()
                    assert proxy.says(*MAIL[:4]) == CODES[:4]
                    receiver.seen.early.wait(SECONDS)
                    assert proxy.says(MAIL[4]) == [b"552"]
                    assert proxy.says(*MAIL[1:]) == CODES[1:]

            await in_thread(two_mails)
    assert len(receiver.seen.mails) == 1
    assert receiver.headers == [encoded_header(version, SENDER, DESTINATION)] * 2


@versions
async def test_so_does_one_that_is_dialled_again_without_tls(version: Version) -> None:
    offered = EHLO.replace(b"PIPELINING", b"STARTTLS")
    more = {"receiver_tls": "opportunistic", "sender_tls": "off"}
    with trio.fail_after(SECONDS), HeaderReceiver(offered=offered) as receiver:
        async with served(settings(receiver, send_proxy=version, **more)) as ((port,), watcher):
            ends = await in_thread(deliver, port)
            await watcher.sessions_ended()
    assert receiver.headers == [encoded_header(version, *ends)] * 2
    assert watcher.ended_sessions[0].repairs == {Violation.TLS_FAILED: 1}


@versions
async def test_tls_from_the_first_octet_on_stands_behind_it(version: Version, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    more = {"receiver_tls": "implicit", "sender_tls": "off", "receiver_authorities": certificate.certificate}
    with trio.fail_after(SECONDS), HeaderReceiver(certificate=certificate) as receiver:
        async with served(settings(receiver, send_proxy=version, **more)) as ((port,), _):
            ends = await in_thread(deliver, port)
    assert receiver.headers == [encoded_header(version, *ends)]
    assert len(receiver.seen.mails) == 1


# -- the shim's own


@versions
async def test_whether_the_receiver_greets_is_asked_in_the_shims_own_name(version: Version) -> None:
    with trio.fail_after(SECONDS), HeaderReceiver() as receiver:
        assert await why_no_greeting(settings(receiver, send_proxy=version)) == ""
        ends = receiver.peers[0], (HOST, receiver.port)
    assert receiver.headers == [local(version, *ends)]
    assert receiver.headers == [LOCAL if version is Version.V2 else encoded_header(version, *ends)]


async def test_a_listeners_own_receiver_is_asked_as_that_listener_has_it() -> None:
    """One that waits for a header in vain does not greet."""
    with trio.fail_after(SECONDS), HeaderReceiver() as receiver, FaultyReceiver(Talk.accept) as plain:
        listeners = [
            Listener(Address(HOST, 0), own={"receiver": f"{HOST}:{receiver.port}", "send_proxy": "v2"}),
            Listener(Address(HOST, 0), own={"receiver": f"{HOST}:{plain.port}"}),
        ]
        assert await why_no_greeting(Settings(listen=listeners[:1])) == ""
        assert await why_no_greeting(Settings(listen=listeners)) == ""
        plain.close()
        assert await why_no_greeting(Settings(listen=listeners)) == ""
    assert receiver.headers == [LOCAL] * 3


@versions
@pytest.mark.slow
async def test_postfix_sees_the_sender_and_has_no_complaint(version: Version) -> None:
    recipient = f"contents@{MAILBOX_DOMAIN}".encode()
    mail = [line.replace(b"b@c", recipient) for line in MAIL]
    with postfix(more="smtpd_upstream_proxy_protocol = haproxy\nmynetworks = 192.0.2.0/24\n") as receiver:
        with trio.fail_after(SECONDS):
            async with shim(receiver.port, send_proxy=version, trust=LOOPBACK) as between:

                def deliver_there() -> None:
                    with Proxy(between.port, HEADERS["v1 IPv4"][0]) as proxy:
                        assert proxy.code() == b"220"
                        assert proxy.says(*mail) == CODES

                await in_thread(deliver_there)
            asked = Settings(receiver=f"{HOST}:{receiver.port}", send_proxy=version)
            assert await why_no_greeting(asked) == ""
        await in_thread(functools.partial(poll, lambda: receiver.count("contents") == 1, "delivered"))
        # Whoever has found Postfix ready before the test began has sent no header, and Postfix says so.
        poll(lambda: receiver.log.count("disconnect from") >= 2, "both sessions logged")
        log = receiver.log
    assert " connect from unknown[192.0.2.1]" in log
    (mailed,) = [line for line in log.splitlines() if " disconnect from unknown[192.0.2.1]" in line]
    assert "quit=1" in mailed
    behind = log.partition(" connect from unknown[192.0.2.1]")[2]
    assert [line for line in behind.splitlines() if "warning" in line and "overriding earlier entry" not in line] == []
