"""What a router says of a connection by ICMP reaches whoever made it: shimproxy's legs on a gateway, too.

A path MTU that is smaller than the links at both ends know of, a host that cannot be reached, a network that is closed.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
from typing import TYPE_CHECKING, Final

import attrs
import pytest

from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import TAKEN, Talk
from tests.daemon.test_gateway import RULES, Rules, said, shim, shown
from tests.peers.gateway import (
    CLIENT,
    FAMILIES,
    FAR,
    GATEWAY,
    IPV4,
    NARROW_OCTETS,
    SMTP_PORT,
    Family,
    Gateway,
    beyond,
    gateway,
)
from tests.peers.mail import mail_of
from tests.peers.outcome import accepted
from tests.peers.processes import poll
from tests.peers.senders import python_smtplib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon.test_supervisor import Run

pytestmark = pytest.mark.once  # about the kernel
MAIL: Final = mail_of("300KB", 300 * 1024)
"""More than one window of segments that do not pass."""
SECONDS: Final = 20.0
CONNECT_SECONDS: Final = 5
"""How long shimproxy waits for a router that says nothing; a sender waits longer."""
OTHER_PORT: Final = 2500
"""That no rule turns."""


@attrs.frozen
class Served:
    """A gateway with rules and a router behind it, and shimproxy as the page runs it."""

    gateway: Gateway
    rules: Rules
    run: Run


@pytest.fixture(scope="module", params=RULES, ids=str)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    rules: Rules = request.param
    arguments = [*rules.arguments, "--deadline", f"connect={CONNECT_SECONDS}"]
    with gateway() as made:
        beyond(made)
        rules.load(made)
        with shim(made, tmp_path_factory.mktemp("shim"), *arguments, capability=rules.capability) as run:
            yield Served(made, rules, run)


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


def test_a_mail_fits_through_a_path_that_takes_no_whole_packets(served: Served, family: Family) -> None:
    (listener,) = served.gateway.listening((family.far, SMTP_PORT), where=FAR)
    with FaultyReceiver(Talk.accept, listener=listener) as running, served.gateway.at(CLIENT):
        outcome = python_smtplib(SMTP_PORT, MAIL, family.far, SECONDS)
    assert accepted(TAKEN).allows(outcome), outcome
    (data,) = running.seen.mails
    assert MAIL.is_whole(data)
    assert running.seen.peers == [served.rules.seen_from(family)]


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_so_does_a_reply_through_a_path_to_the_sender(rules: Rules, tmp_path: Path) -> None:
    """Where it is the sender's leg that the router speaks of: with TPROXY, it has the receiver's address."""
    line = b"x" * 100 + b"\r\n"
    greeting = b"".join([*(b"220-" + line for _ in range(300)), b"220 " + line])
    with gateway() as made:
        beyond(made, CLIENT)
        rules.load(made)
        with shim(made, tmp_path, *rules.arguments, capability=rules.capability):
            for family in FAMILIES:
                (listener,) = made.listening((family.server, SMTP_PORT))
                listener.settimeout(SECONDS)
                with listener, made.connected(family.server, where=FAR, seconds=SECONDS) as sender:
                    receiver, (host, *_) = listener.accept()
                    with receiver, sender.makefile("rb") as file:
                        assert host == (family.far if rules.way == "tproxy" else family.wan)
                        receiver.sendall(greeting)
                        assert file.read(len(greeting)) == greeting


@pytest.mark.parametrize("host", ["unreachable", "prohibited"])
def test_a_receiver_that_a_router_does_not_reach_is_said_to_be_so(host: str, served: Served, family: Family) -> None:
    """With the router's reason, which is what the gateway's own programs hear; not after a silence."""
    destination: str = getattr(family, host)
    with pytest.raises(OSError, match=r"^\[Errno ") as directly:
        served.gateway.connected(destination, where=GATEWAY, seconds=SECONDS)
    assert not isinstance(directly.value, TimeoutError)
    where = shown(family, destination, SMTP_PORT)
    greeting = said(served.gateway.connected(destination, seconds=SECONDS))
    assert greeting.startswith(b"421 the receiver cannot be reached")
    line = re.compile(rf'repair=unreachable .* reason="{re.escape(where)}: (.*?)"')
    poll(lambda: bool(line.search(served.run.log)), f"{where} unreachable: {served.run.log}")
    assert line.findall(served.run.log) == [directly.value.strerror]


# -- connections that are none of shimproxy's


def test_of_a_path_that_others_use_they_hear_themselves(served: Served, family: Family) -> None:
    (listener,) = served.gateway.listening((family.far, OTHER_PORT), where=FAR)
    listener.settimeout(SECONDS)
    with listener, served.gateway.connected(family.far, OTHER_PORT, seconds=SECONDS) as client:
        server, _ = listener.accept()
        with server, server.makefile("rb") as file:
            client.sendall(MAIL.data)
            client.shutdown(socket.SHUT_WR)
            assert file.read() == MAIL.data
    for host in (family.unreachable, family.prohibited):
        with pytest.raises(OSError, match=r"^\[Errno ") as told:
            served.gateway.connected(host, OTHER_PORT, seconds=SECONDS)
        assert not isinstance(told.value, TimeoutError)


@pytest.mark.parametrize(("where", "host"), [(CLIENT, "far"), (FAR, "client"), (CLIENT, "lan"), (FAR, "wan")])
def test_a_ping_is_answered(where: str, host: str, served: Served, family: Family) -> None:
    """Across the gateway and by the gateway, from both sides."""
    kind, answer, protocol = (8, 0, "icmp") if family is IPV4 else (128, 129, "ipv6-icmp")
    with served.gateway.at(where):
        sock = socket.socket(family.number, socket.SOCK_RAW, socket.getprotobyname(protocol))
    # The kernel makes the checksum for IPv6 alone; of these four words it is their complement.
    request = struct.pack("!BBHHH", kind, 0, 0xFFFF - (kind << 8) - 14, 7, 7)
    with sock, contextlib.closing(select.epoll()) as ready:
        ready.register(sock, select.EPOLLIN)
        sock.sendto(request, (getattr(family, host), 0))
        while ready.poll(SECONDS):
            octets = sock.recv(NARROW_OCTETS)
            header_octets = 20 if family is IPV4 else 0
            if octets[header_octets] == answer:
                return
    pytest.fail("no answer")
