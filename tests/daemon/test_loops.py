"""Receivers that lead back to shimproxy, as no setting shows: another shimproxy, and NAT on this host or before it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import pytest
import trio

from shimproxy.faulty.receiving import HOST
from shimproxy.faulty.talk import SECONDS
from shimproxy.smtp.catalogue import Violation
from tests.daemon.test_gateway import REDIRECT, SHIM_PORT, load, shim
from tests.daemon.test_supervisor import Run, running
from tests.peers.gateway import CLIENT, GATEWAY, IPV4, SERVER, SMTP_PORT, Gateway, gateway
from tests.peers.postfix import MAILBOX_DOMAIN, postfix
from tests.peers.processes import need, poll, poll_count
from tests.peers.shim import shim as served

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.once  # about the kernel
LOOP: Final = "421 mail loop: the receiver's address leads back here, closing connection\r\n"
NO_GREETING: Final = "421 the receiver gave no greeting, try again later\r\n"
"""Of a connection that the other shimproxy has broken."""
MOST_SESSIONS: Final = 400
"""Without a bound, one sender made 9,994 of them."""


def greeting_of(host: str, port: int) -> str:
    with socket.create_connection((host, port), SECONDS) as sock, sock.makefile("rb") as file:
        return file.readline().decode()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def sessions(run: Run) -> int:
    return run.log.count(" session session=")


def loops(run: Run) -> int:
    return len(re.findall(r" WARNING (?:repair|seen) session=.* (?:repair|violation)=loop ", run.log))


@pytest.mark.parametrize("workers", [1, 2])
def test_two_that_point_at_each_other(tmp_path: Path, workers: int) -> None:
    """Senders get 421, one alone and several at once, and no descriptor is kept; whichever worker has what part."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with running(tmp_path / "b", f'listen = "{HOST}:0"\nreceiver = "{HOST}:{port}"\nworkers = {workers}\n') as second:
        settings = f'listen = "{HOST}:{port}"\nreceiver = "{HOST}:{second.ports[0]}"\nworkers = {workers}\n'
        with running(tmp_path / "a", settings) as first:
            taken = {pid: descriptors(pid) for pid in first.workers}
            assert greeting_of(HOST, port) in (LOOP, NO_GREETING)
            poll(lambda: loops(first) + loops(second) > 0, "a loop logged")
            assert sessions(first) + sessions(second) < MOST_SESSIONS
            with ThreadPoolExecutor(8) as pool:
                said = {*pool.map(lambda _: greeting_of(HOST, port), range(8))}
            assert LOOP in said
            assert said <= {LOOP, NO_GREETING}
            poll(lambda: all(descriptors(pid) <= before + 4 for pid, before in taken.items()), "descriptors free")


@pytest.mark.parametrize(
    ("observing", "workers"), [("first", 1), ("second", 1), ("both", 1), ("both", 2)], ids=lambda each: f"{each}"
)
def test_observing_ones_that_point_at_each_other(tmp_path: Path, observing: str, workers: int) -> None:
    """Where one observes or both do, it is the same."""
    observes = {each: 'repairs = "observe"\n' for each in ("first", "second") if observing in (each, "both")}
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    common = f"workers = {workers}\n"
    text = f'{common}listen = "{HOST}:0"\nreceiver = "{HOST}:{port}"\n'
    with running(tmp_path / "b", text + observes.get("second", "")) as second:
        text = f'{common}listen = "{HOST}:{port}"\nreceiver = "{HOST}:{second.ports[0]}"\n'
        with running(tmp_path / "a", text + observes.get("first", "")) as first:
            taken = {pid: descriptors(pid) for pid in first.workers}
            for _ in range(2):
                before = sessions(first) + sessions(second)
                assert greeting_of(HOST, port) == LOOP
                assert sessions(first) + sessions(second) - before < MOST_SESSIONS
            poll(lambda: loops(first) + loops(second) > 0, "a loop logged")
            poll(lambda: all(descriptors(pid) <= before + 4 for pid, before in taken.items()), "descriptors free")


@attrs.define(eq=False)
class Late:
    """A receiver that greets nobody before one of its connections is reset, and then everybody."""

    listener: socket.socket
    accepted: int = 0
    was_tried: bool = False
    changed: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0))

    def serve(self) -> None:
        waiting: list[socket.socket] = []
        greeted: list[socket.socket] = []
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, ValueError):  # the listener is closed
            while True:
                for sock in select.select([self.listener, *waiting, *greeted], [], [])[0]:
                    if sock is self.listener:
                        waiting.append(stack.enter_context(sock.accept()[0]))
                        self.accepted += 1
                        self.changed.release()
                    elif sock in waiting:  # it says nothing before it is greeted, so it has ended
                        waiting.remove(sock)
                        self.was_tried = True
                        self.changed.release()
                    else:
                        greeted.remove(sock)
                for sock in waiting if self.was_tried else ():
                    with contextlib.suppress(OSError):  # it has ended, too
                        sock.sendall(b"220 mail.example ESMTP\r\n")
                        greeted.append(sock)
                waiting = [] if self.was_tried else waiting


def test_a_receiver_beside_it_that_sends_too_is_no_loop() -> None:
    """Its senders have its own address, and many come while it greets none of them: each is served in the end."""

    async def script() -> None:
        async with served(listener.getsockname()[1]) as shim:
            with contextlib.ExitStack() as stack:
                senders: list[socket.socket] = []
                while not late.was_tried:
                    sock = await trio.to_thread.run_sync(socket.create_connection, (HOST, shim.port), SECONDS)
                    senders.append(stack.enter_context(sock))
                    while late.accepted < len(senders) and not late.was_tried:
                        assert await trio.to_thread.run_sync(late.changed.acquire, True, SECONDS)
                for sock in senders:
                    said = await trio.to_thread.run_sync(sock.recv, 100)
                    assert said == b"220 mail.example ESMTP\r\n"
            assert len(senders) > 16
            assert not [each for each in shim.watcher.repairs if each.violation is Violation.LOOP]

    with socket.create_server((HOST, 0), backlog=100) as listener:
        late = Late(listener)
        threading.Thread(target=late.serve, daemon=True).start()
        trio.run(script)


MAILS: Final = 40
_TRIED: Final = "lost connection after CONNECT from"
"""What Postfix says of a connection that was broken for a try."""
_ESTABLISHED: Final = "01"
"""In /proc/net/tcp."""


def connections(port: int) -> int:
    """How many of this host's connections lead to that port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for line in lines if line[2].endswith(f":{port:04X}") and line[3] == _ESTABLISHED)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_postfix_that_filters_through_it_is_no_loop(tmp_path: Path, workers: int) -> None:
    """Its one smtpd is busy, so that it greets none of its own connections: each mail is delivered in the end."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    more = (
        f"content_filter = smtp:[{HOST}]:{port}\ninitial_destination_concurrency = {MAILS}\n"
        f"default_destination_concurrency_limit = {MAILS}\nsmtp_destination_concurrency_limit = {MAILS}\n"
    )
    with postfix(more=more, smtpd="1 smtpd -o content_filter=") as receiver:
        text = f'listen = "{HOST}:{port}"\nreceiver = "{HOST}:{receiver.port}"\nworkers = {workers}\n'
        with running(tmp_path, text) as run:
            with socket.create_connection((HOST, receiver.port), SECONDS) as busy:
                assert busy.recv(100).startswith(b"220 ")
                lost = receiver.log.count(_TRIED)
                for number in range(MAILS):
                    receiver.submit(f"many@{MAILBOX_DOMAIN}", text=b"Subject: %d\n\nx\n" % number)
                poll(lambda: connections(receiver.port) == MAILS + 1, "all connections waiting for a greeting")
            poll_count(lambda: receiver.count("many"), MAILS, "mails stored")
            run.logged(" mail session=", MAILS)
        assert receiver.count("many") == MAILS
        assert receiver.log.count(_TRIED) > lost + 10, "it was under suspicion"
        assert loops(run) == 0
        assert run.log.count(" outcome=accepted ") == MAILS


# -- NAT


@pytest.fixture(scope="module")
def made() -> Iterator[Gateway]:
    with gateway() as made:
        need("nft")
        yield made


@pytest.mark.parametrize("workers", [1, 2])
def test_nat_on_this_host_is_met_with_the_first_connection(made: Gateway, tmp_path: Path, workers: int) -> None:
    """Or, where the connection has come back to another worker, with one of the next."""
    made.load(
        "table ip turned { chain out { type nat hook output priority -100;\n"
        f"ip daddr {IPV4.server} tcp dport {SMTP_PORT} dnat to {IPV4.wan}:{SHIM_PORT}\n}}\n}}\n"
    )
    arguments = ("--listen", f"{IPV4.wan}:{SHIM_PORT}", "--receiver", f"{IPV4.server}:{SMTP_PORT}")
    with shim(made, tmp_path, *arguments, "--workers", str(workers)) as run:
        with made.connected(IPV4.wan, SHIM_PORT, seconds=SECONDS) as sock, sock.makefile("rb") as file:
            assert file.readline().decode() == LOOP
        poll(lambda: sessions(run) >= 2, f"two sessions: {run.log}")
        assert workers > 1 or sessions(run) == 2
        assert sessions(run) < MOST_SESSIONS
        assert loops(run) == 1
    made.run(GATEWAY, "nft delete table ip turned")


def test_nat_before_it_that_hides_the_sender(made: Gateway, tmp_path: Path) -> None:
    """A router leads the receiver's public address back, and puts its own in the place of the sender's."""
    made.load(
        "table ip hairpin { chain pre { type nat hook prerouting priority -100;\n"
        f"ip daddr {IPV4.server} tcp dport {SMTP_PORT} dnat to {IPV4.client}:{SHIM_PORT}\n}}\n"
        f"chain post {{ type nat hook postrouting priority 100;\nip daddr {IPV4.client} masquerade\n}}\n}}\n"
    )
    arguments = ("--listen", f"{IPV4.client}:{SHIM_PORT}", "--receiver", f"{IPV4.server}:{SMTP_PORT}")
    with shim(made, tmp_path, *arguments, where=CLIENT) as run:
        with (
            made.connected(IPV4.client, SHIM_PORT, where=GATEWAY, seconds=SECONDS) as sock,
            sock.makefile("rb") as file,
        ):
            assert file.readline().decode() == LOOP
        poll(lambda: loops(run) > 0, f"a loop logged: {run.log}")
        assert sessions(run) < MOST_SESSIONS
    made.run(GATEWAY, "nft delete table ip hairpin")


# -- where senders choose the receiver

FAR: Final = "10.77.3.2"
"""A host that no route leads to but in a circle."""


@contextlib.contextmanager
def turned_back() -> Iterator[Gateway]:
    """The next router leads the packets for a host back to the gateway, from its own address; REDIRECT takes them."""
    with gateway() as made:
        need("nft")
        network = IPV4.network.format(3)
        made.run(GATEWAY, f"ip route add {network} via {IPV4.server}")
        made.run(SERVER, f"echo 1 >/proc/sys/net/ipv4/ip_forward; ip route add {network} via {IPV4.wan}")
        for where in (GATEWAY, SERVER):
            made.run(where, "for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$each; done")
        made.run(
            SERVER,
            "nft 'table ip back { chain post { type nat hook postrouting priority 100;"
            f" ip daddr {network} masquerade; }}; }}'",
        )
        load(made, "redirect-nftables", lambda rules: rules.replace('iifname "lan" ', ""))
        yield made


@pytest.mark.parametrize("repairs", ["repair", "observe"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_destination_that_leads_back_to_the_gateway(tmp_path: Path, workers: int, repairs: str) -> None:
    """One sender made 5,996 sessions, which is all that are allowed."""
    more = ("--workers", str(workers), "--repairs", repairs)
    with turned_back() as made, shim(made, tmp_path, *REDIRECT.arguments, *more) as run:
        taken = {pid: descriptors(pid) for pid in run.workers}
        for _ in range(2):
            before = sessions(run)
            with made.connected(FAR, seconds=SECONDS) as sock, sock.makefile("rb") as file:
                assert file.readline().decode() in (LOOP, NO_GREETING)
            assert sessions(run) - before < MOST_SESSIONS
        poll(lambda: loops(run) > 0, f"a loop logged: {run.log}")
        poll(lambda: all(descriptors(pid) <= before + 4 for pid, before in taken.items()), "descriptors free")
