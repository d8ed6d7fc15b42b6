"""On a gateway: senders whose connections are turned to shimproxy on their way, by the very rules of docs/gateway.md.

In namespaces of their own; shimproxy is a user there who is not root, with the capability that it needs or with none.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import pytest

from shimproxy.faulty.outcome import Believed
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import SECONDS, TAKEN, Talk
from tests.blocks import blocks
from tests.daemon.test_supervisor import Run, attended, kill_all_of
from tests.peers.confinement import PACKAGE, as_user, root_of, shown_from
from tests.peers.gateway import (
    CLIENT,
    FAMILIES,
    GATEWAY,
    IPV4,
    IPV6,
    SERVER,
    SMTP_PORT,
    Family,
    Gateway,
    gateway,
    need_rules,
)
from tests.peers.mail import LARGE, SMALL
from tests.peers.outcome import accepted, refused
from tests.peers.postfix import Postfix, postfix
from tests.peers.processes import end, need, poll, wait_for_line
from tests.peers.programs import smtp_sink, smtp_source
from tests.peers.senders import python_smtplib
from tests.peers.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shimproxy.faulty.outcome import Outcome

pytestmark = pytest.mark.once  # about the kernel
TOP: Final = PACKAGE.parent
BLOCKS: Final = blocks("gateway", "redirect-*", "tproxy-*")
USER: Final = "65532"
SHIM_PORT: Final = 23025
CAPABILITIES: Final = {"redirect": "", "tproxy": "net_raw"}
REFUSED: Final = b"421 destination not allowed through this proxy, closing connection\r\n"
DIRECT: Final = "a direct connection to the listener"
LOOP: Final = "a loop: the connection comes from this shimproxy"
NOT_ALLOWED: Final = "not in --allow-destination"
BRIEFLY_SECONDS: Final = 0.5
"""For connections that nobody answers."""
PATIENCE_SECONDS: Final = 2.0
"""Of a sender that hangs."""
TRACKING: Final = "iptables -A FORWARD -m conntrack --ctstate NEW; ip6tables -A FORWARD -m conntrack --ctstate NEW"


@attrs.frozen
class Rules:
    """How connections are turned."""

    way: str
    made_of: str

    def __str__(self) -> str:
        return f"{self.way}-{self.made_of}"

    def load(self, gateway: Gateway) -> None:
        """As the page has them."""
        need_rules(gateway, self.made_of)
        if self.way == "tproxy":
            gateway.run(GATEWAY, BLOCKS["tproxy-routes"])
        load(gateway, str(self))

    def undo(self, gateway: Gateway) -> None:
        """As the page does it."""
        gateway.run(GATEWAY, BLOCKS[f"{self}-undo"])
        if self.way == "tproxy":
            gateway.run(GATEWAY, BLOCKS["tproxy-routes-undo"])

    @property
    def arguments(self) -> list[str]:
        """What the page gives to shimproxy with them."""
        program, command, *arguments = shlex.split(BLOCKS[f"{self.way}-run"])
        assert (program, command) == ("shimproxy", "run")
        return arguments

    @property
    def capability(self) -> str:
        return CAPABILITIES[self.way]

    def seen_from(self, family: Family) -> str:
        """The address that the server sees a connection of the client's come from."""
        return family.wan if self.way == "redirect" else family.client


def test_the_page_gives_a_user_what_the_tests_do() -> None:
    """The same words before the command, and the same arguments as for root."""
    setpriv, *words = shlex.split(blocks("gateway", "user-tproxy")["user-tproxy"].replace("\\\n", " "))
    command = words.index("shimproxy")

    assert [setpriv, *words[:command]] == ["setpriv", *as_user(USER, USER, "net_raw")[1:]]
    assert words[command:] == shlex.split(BLOCKS["tproxy-run"])


def load(gateway: Gateway, name: str, change: Callable[[str], str] = str) -> None:
    """Give a block of the page to the gateway, changed or as it is."""
    rules = change(BLOCKS[name])
    if name.endswith("-nftables"):
        gateway.load(rules)
    else:
        gateway.run(GATEWAY, rules)


def load_for_all(gateway: Gateway) -> None:
    """Have REDIRECT turn mail for the gateway itself too, as an operator may want it."""
    need_rules(gateway, "nftables")
    load(gateway, "redirect-nftables", lambda rules: rules.replace("fib daddr type != local ", ""))


RULES: Final = [Rules(way, made_of) for way in CAPABILITIES for made_of in ("nftables", "iptables")]
REDIRECT, _, TPROXY, _ = RULES


# -- shimproxy


@contextlib.contextmanager
def shim(gateway: Gateway, folder: Path, *arguments: str, capability: str = "", where: str = GATEWAY) -> Iterator[Run]:
    """`shimproxy run` at the gateway, or at another of the hosts."""
    log_file = folder / "log"
    with log_file.open("w") as log:
        process = begun(gateway, folder, *arguments, capability=capability, log=log.fileno(), where=where)
    with attended(Run(Path(), log_file, process)) as run:
        yield run


def begun(
    gateway: Gateway, folder: Path, *arguments: str, capability: str, log: int, where: str = GATEWAY
) -> subprocess.Popen[str]:
    """`shimproxy run` as a user who may not be allowed to read where the interpreter of the tests is."""
    root = folder / "root"
    root.mkdir()
    command = [sys.executable, "-m", "shimproxy", "run", "--grace", "0", *arguments]
    first = ["exec", "chroot", str(root), *as_user(USER, USER, capability), *command]
    script = "\n".join(["set -e", *map(shlex.join, [*root_of(root, shown_from()), first])])
    with gateway.at(where):
        return subprocess.Popen(
            [need("unshare"), "--mount", "sh", "-c", script],
            env=os.environ | {"PYTHONPATH": str(TOP)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )


@contextlib.contextmanager
def refusing(run: Run, destination: str, reason: str, times: int = 1) -> Iterator[None]:
    """What is done in the block has so many connections to that destination refused, and says so in the log."""
    line = re.compile(rf"repair=destination-refused .* destination={re.escape(destination)} reason=\"{reason}")
    before = len(line.findall(run.log))
    yield
    poll(lambda: len(line.findall(run.log)) >= before + times, f"{destination} refused: {run.log}")
    assert len(line.findall(run.log)) == before + times


def said(sock: socket.socket) -> bytes:
    """All that is said to somebody who says nothing, until the connection ends."""
    with sock, sock.makefile("rb") as file:
        return file.read()


def shown(family: Family, host: str, port: int) -> str:
    return f"[{host}]:{port}" if family is IPV6 else f"{host}:{port}"


# -- fixtures


@pytest.fixture(scope="module")
def plain() -> Iterator[Gateway]:
    """Without rules."""
    with gateway() as made:
        yield made


@attrs.frozen
class Served:
    """A gateway with rules, and shimproxy as the page runs it."""

    gateway: Gateway
    rules: Rules
    run: Run
    postfix: Postfix
    """At the client; sends to the server, wherever to."""


@pytest.fixture(scope="module", params=RULES, ids=str)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    rules: Rules = request.param
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(gateway())
        rules.load(made)
        run = stack.enter_context(
            shim(made, tmp_path_factory.mktemp("shim"), *rules.arguments, capability=rules.capability)
        )
        with made.at(CLIENT):
            more = f"transport_maps =\nrelayhost = [{IPV4.server}]:{SMTP_PORT}"
            client_postfix = stack.enter_context(postfix(more=more))
        yield Served(made, rules, run, client_postfix)


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@contextlib.contextmanager
def receiver(
    gateway: Gateway, family: Family, on_data: Callable[[Talk], None] = Talk.accept
) -> Iterator[FaultyReceiver]:
    """A receiver at the server."""
    (listener,) = gateway.listening((family.server, SMTP_PORT))
    with FaultyReceiver(on_data, listener=listener) as running:
        yield running


def sent(gateway: Gateway, family: Family, *, seconds: float = SECONDS, large: bool = False) -> Outcome:
    """What smtplib at the client believes of a mail to the server."""
    with gateway.at(CLIENT):
        return python_smtplib(SMTP_PORT, LARGE if large else SMALL, family.server, seconds)


# -- the article's failure, and its repair

FORMS: Final = ("q152940", "q152940-rst")


@pytest.mark.parametrize("name", FORMS)
def test_without_shimproxy_the_verdict_is_lost(name: str, plain: Gateway, family: Family) -> None:
    with receiver(plain, family, TABLE[name].fault.on_data) as running:
        outcome = sent(plain, family, seconds=PATIENCE_SECONDS, large=True)
    assert running.seen.early.is_set()
    assert outcome.believed in (Believed.DEFERRED, Believed.HUNG), outcome
    assert running.seen.peers == [family.client]


@pytest.mark.parametrize("name", FORMS)
def test_with_it_the_verdict_is_heard(name: str, served: Served, family: Family) -> None:
    with receiver(served.gateway, family, TABLE[name].fault.on_data) as running:
        outcome = sent(served.gateway, family, large=True)
    (expected,) = TABLE[name].large
    assert expected.allows(outcome), outcome
    assert running.seen.peers == [served.rules.seen_from(family)]


def test_mail_arrives(served: Served, family: Family) -> None:
    with receiver(served.gateway, family) as running:
        assert accepted(TAKEN).allows(sent(served.gateway, family))
    (data,) = running.seen.mails
    assert SMALL.is_whole(data)
    assert running.seen.peers == [served.rules.seen_from(family)]


def test_smtp_sink_without_shimproxy(plain: Gateway) -> None:
    with contextlib.ExitStack() as stack:
        with plain.at(SERVER):
            stack.enter_context(smtp_sink("-A", "0", port=SMTP_PORT))
        with plain.at(CLIENT):
            ended = smtp_source(SMTP_PORT, "-l", str(LARGE.octets), host=IPV4.server)
    assert ended.status == 1
    assert "lost connection while sending message" in ended.complained


def test_postfix_hears_what_smtp_sink_says(served: Served) -> None:
    """`smtp-sink -A 0` refuses mail data when they begin, and reads no more."""
    with contextlib.ExitStack() as stack:
        with served.gateway.at(SERVER):
            stack.enter_context(smtp_sink("-A", "0", port=SMTP_PORT))
        assert refused(b"550 This violates SMTP").allows(served.postfix.send(SMTP_PORT, LARGE))


def test_postfix_delivers(served: Served) -> None:
    with receiver(served.gateway, IPV4) as running:
        outcome = served.postfix.send(SMTP_PORT, SMALL)
    assert outcome.believed is Believed.DELIVERED, outcome
    (data,) = running.seen.mails
    assert SMALL.is_whole(data)


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_mail_for_the_gateway_itself(rules: Rules, tmp_path: Path) -> None:
    """Goes to its own MTA as if shimproxy were not there.

    With TPROXY that would answer the sender and not shimproxy's leg; with REDIRECT it would trust everybody as itself.
    """
    with gateway() as made:
        rules.load(made)
        with shim(made, tmp_path, *rules.arguments, capability=rules.capability):
            for family in FAMILIES:
                (listener,) = made.listening((family.lan, SMTP_PORT), where=GATEWAY)
                with FaultyReceiver(Talk.accept, listener=listener) as running, made.at(CLIENT):
                    outcome = python_smtplib(SMTP_PORT, SMALL, family.lan)
                assert accepted(TAKEN).allows(outcome), outcome
                assert running.seen.peers == [family.client]


# -- it is no open proxy


def test_the_listener_dialled_directly(served: Served, family: Family) -> None:
    """Where the listener is for TPROXY, on loopback addresses, nobody outside can."""
    if served.rules.way == "tproxy":
        with pytest.raises(ConnectionRefusedError):
            served.gateway.connected(family.lan, SHIM_PORT, seconds=SECONDS)
        host, where = family.loopback, GATEWAY
    else:
        host, where = family.lan, CLIENT
    with refusing(served.run, shown(family, host, SHIM_PORT), DIRECT):
        assert said(served.gateway.connected(host, SHIM_PORT, where=where, seconds=SECONDS)) == REFUSED


@pytest.mark.parametrize("port", [SHIM_PORT, SMTP_PORT])
def test_the_listener_at_all_addresses_dialled_directly(port: int, tmp_path: Path) -> None:
    """With TPROXY, also where the port is the one that is turned there, and any address may be bound to."""
    with gateway() as made:
        for version in ("ipv4", "ipv6"):
            made.run(GATEWAY, f"echo 1 >/proc/sys/net/{version}/ip_nonlocal_bind")
        made.run(GATEWAY, f"echo {SMTP_PORT} >/proc/sys/net/ipv4/ip_unprivileged_port_start")
        made.run(GATEWAY, BLOCKS["tproxy-routes"])
        load(made, "tproxy-nftables", lambda rules: rules.replace(f":{SHIM_PORT}", f":{port}"))
        arguments = ["--listen", f":{port},tproxy", "--receiver", "original", "--spoof-sender"]
        with shim(made, tmp_path, *arguments, capability="net_raw") as run:
            for family in FAMILIES:
                with receiver(made, family) as running:
                    assert accepted(TAKEN).allows(sent(made, family))
                    assert running.seen.peers == [family.client]
                for host in (family.lan, family.wan):
                    with refusing(run, shown(family, host, port), DIRECT):
                        assert said(made.connected(host, port, seconds=SECONDS)) == REFUSED


@pytest.mark.parametrize("workers", [1, 4])
def test_a_loop_ends_at_once(workers: int, tmp_path: Path) -> None:
    """By a rule for the gateway's own programs that takes shimproxy for one: there is one session more, never two."""
    times = 20
    with gateway() as made:
        REDIRECT.load(made)
        load(made, "redirect-output-nftables", lambda rules: rules.replace(f"meta skuid != {USER} ", ""))
        arguments = [*REDIRECT.arguments, "--workers", str(workers), "--log-repeats", "0"]
        with shim(made, tmp_path, *arguments) as run:
            for family in FAMILIES:
                with refusing(run, shown(family, family.server, SMTP_PORT), LOOP, times):
                    for _ in range(times):
                        assert said(made.connected(family.server, seconds=SECONDS)) == REFUSED
            sessions = 2 * times * len(FAMILIES)
            poll(lambda: run.log.count("INFO session") >= sessions, "all sessions logged")
        assert run.log.count("INFO session") == sessions


@pytest.mark.parametrize("rules", [each for each in RULES if each.way == "tproxy"], ids=str)
def test_a_sender_with_the_very_port_of_a_leg(rules: Rules, tmp_path: Path) -> None:
    """Which leaves from that sender's address: it looks as if that had come back, and has not."""
    with gateway() as made:
        need_rules(made, "iptables")
        made.run(GATEWAY, TRACKING)
        rules.load(made)
        with shim(made, tmp_path, *rules.arguments, capability=rules.capability):
            for family in FAMILIES:
                (listener,) = made.listening((family.server, SMTP_PORT))
                listener.settimeout(SECONDS)
                with listener, made.connected(family.server, seconds=SECONDS):
                    accepted, (_, port, *_) = listener.accept()
                    with accepted, made.connected(family.server, own_port=port, seconds=SECONDS) as sock:
                        second, _ = listener.accept()
                        with second:
                            second.sendall(b"220 here\r\n")
                            assert sock.recv(100) == b"220 here\r\n"


@pytest.mark.parametrize("made_of", ["nftables", "iptables"])
def test_programs_of_the_gateways_own(made_of: str, tmp_path: Path) -> None:
    """Are served by the rule of the page, which leaves shimproxy's own user out; but nobody gets to loopback."""
    with gateway() as made:
        need_rules(made, made_of)
        load(made, f"redirect-output-{made_of}")
        with shim(made, tmp_path, *REDIRECT.arguments) as run:
            for family in FAMILIES:
                with receiver(made, family) as running:
                    with made.at(GATEWAY):
                        outcome = python_smtplib(SMTP_PORT, SMALL, family.server)
                    assert accepted(TAKEN).allows(outcome), outcome
                assert len(running.seen.mails) == 1
                run.logged(f"receiver={shown(family, family.server, SMTP_PORT)} transactions=1 accepted=1")
                with refusing(run, shown(family, family.loopback, SMTP_PORT), NOT_ALLOWED):
                    assert said(made.connected(family.loopback, where=GATEWAY, seconds=SECONDS)) == REFUSED


def test_loopback_from_outside(tmp_path: Path) -> None:
    """A packet to 127.0.0.1 that comes by a wire is nobody's but for REDIRECT, which takes it in."""
    with gateway() as made:
        load_for_all(made)
        made.run(
            CLIENT,
            f"echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; ip route del local 127.0.0.0/8 table local;"
            f"ip route del local 127.0.0.1 table local; ip route add 127.0.0.1 via {IPV4.lan} src {IPV4.client}",
        )
        with (
            shim(made, tmp_path, *REDIRECT.arguments) as run,
            refusing(run, f"{IPV4.loopback}:{SMTP_PORT}", NOT_ALLOWED),
        ):
            assert said(made.connected(IPV4.loopback, seconds=SECONDS)) == REFUSED


def test_where_senders_may_go(family: Family, tmp_path: Path) -> None:
    networks = {IPV4: f"{IPV4.server}/32", IPV6: f"[{IPV6.server}/128]"}
    (other,) = (each for each in FAMILIES if each is not family)
    with gateway() as made:
        load_for_all(made)
        allowed = ["--allow-destination", f"{networks[family]}:{SMTP_PORT}"]
        with shim(made, tmp_path, *REDIRECT.arguments, *allowed) as run:
            with receiver(made, family):
                assert accepted(TAKEN).allows(sent(made, family))
            with refusing(run, shown(other, other.server, SMTP_PORT), NOT_ALLOWED):
                assert said(made.connected(other.server, seconds=SECONDS)) == REFUSED
            with refusing(run, shown(family, family.wan, SMTP_PORT), NOT_ALLOWED):
                assert said(made.connected(family.wan, seconds=SECONDS)) == REFUSED


def test_a_receiver_that_cannot_be_reached_is_named(family: Family, tmp_path: Path) -> None:
    """As there is no other place where an operator has it from."""
    with gateway() as made:
        REDIRECT.load(made)
        with shim(made, tmp_path, *REDIRECT.arguments) as run:
            greeting = said(made.connected(family.server, seconds=SECONDS))
            assert greeting.startswith(b"421 the receiver cannot be reached")
            run.logged(f"receiver={shown(family, family.server, SMTP_PORT)} transactions=0")


# -- with shimproxy down


def assert_closed(gateway: Gateway, rules: Rules) -> None:
    """No connection to the server comes about, neither through nor past shimproxy, which is down."""
    # iptables' TPROXY drops what nobody listens for; the others refuse.
    dropped = str(rules) == "tproxy-iptables"
    for family in FAMILIES:
        (listener,) = gateway.listening((family.server, SMTP_PORT))
        with listener:
            listener.setblocking(False)
            with pytest.raises(TimeoutError if dropped else ConnectionRefusedError):
                gateway.connected(family.server, seconds=BRIEFLY_SECONDS if dropped else SECONDS).close()
            with pytest.raises(BlockingIOError):
                listener.accept()


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_no_mail_slips_by(rules: Rules) -> None:
    with gateway() as made:
        rules.load(made)
        assert_closed(made, rules)


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_no_mail_slips_by_one_that_was_killed(rules: Rules, tmp_path: Path) -> None:
    """And both ends of the session that it was killed in learn of it."""
    with gateway() as made:
        rules.load(made)
        (listener,) = made.listening((IPV4.server, SMTP_PORT))
        listener.settimeout(SECONDS)
        with (
            listener,
            shim(made, tmp_path, *rules.arguments, capability=rules.capability) as run,
            made.connected(IPV4.server, seconds=SECONDS) as client,
        ):
            server, _ = listener.accept()
            with server:
                server.sendall(b"220 here\r\n")
                assert client.recv(100) == b"220 here\r\n"
                kill_all_of(run.pid)
                server.settimeout(SECONDS)
                for sock in (client, server):
                    assert sock.recv(100) == b""
        assert_closed(made, rules)


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_a_session_that_stood_before_the_rules_is_reset(rules: Rules, tmp_path: Path) -> None:
    """Where connections are tracked, NAT lets it be."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(gateway())
        need_rules(made, "iptables")
        made.run(GATEWAY, TRACKING)
        sessions = []
        for family in FAMILIES:
            (listener,) = made.listening((family.server, SMTP_PORT))
            listener.settimeout(SECONDS)
            stack.enter_context(listener)
            client = stack.enter_context(made.connected(family.server, seconds=SECONDS))
            server = stack.enter_context(listener.accept()[0])
            server.sendall(b"220 here\r\n")
            assert client.recv(100) == b"220 here\r\n"
            server.setblocking(False)
            sessions.append((client, server))
        rules.load(made)
        stack.enter_context(shim(made, tmp_path, *rules.arguments, capability=rules.capability))
        for client, server in sessions:
            client.sendall(b"QUIT\r\n")
            with pytest.raises(ConnectionResetError):
                client.recv(100)
            with pytest.raises(BlockingIOError):
                server.recv(100)


# -- privileges


NUMBERS: Final = {"net_admin": 12, "net_raw": 13}  # capability.h


@pytest.mark.parametrize("capability", NUMBERS)
@pytest.mark.parametrize("spoof", [True, False])
def test_one_capability_is_enough(capability: str, spoof: bool, tmp_path: Path) -> None:
    """Also for its workers, which are what listens and connects. Without --spoof-sender the server sees the gateway."""
    with gateway() as made:
        TPROXY.load(made)
        arguments = [each for each in TPROXY.arguments if spoof or each != "--spoof-sender"]
        with shim(made, tmp_path, *arguments, "--workers", "2", capability=capability) as run:
            for pid in (run.pid, *run.workers):
                status = Path(f"/proc/{pid}/status").read_text()
                assert f"\nUid:\t{USER}\t" in status
                assert f"\nCapEff:\t{1 << NUMBERS[capability]:016x}\n" in status
            for family in FAMILIES:
                with receiver(made, family) as running:
                    assert accepted(TAKEN).allows(sent(made, family))
                assert running.seen.peers == [family.client if spoof else family.wan]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--listen", f":{SHIM_PORT},tproxy", "--receiver", "original"], f"--listen: :{SHIM_PORT},tproxy"),
        (["--listen", f":{SHIM_PORT}", "--receiver", "original", "--spoof-sender"], "--spoof-sender"),
    ],
)
def test_without_one_it_says_so(arguments: list[str], named: str, plain: Gateway, tmp_path: Path) -> None:
    process = begun(plain, tmp_path, *arguments, capability="", log=subprocess.STDOUT)
    told, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    (line,) = told.splitlines()
    assert line.startswith(f"shimproxy: {named}: needs CAP_NET_RAW or CAP_NET_ADMIN, and this process has neither; ")


# -- senders that cannot be spoofed


@pytest.mark.parametrize("spoof", [True, False])
def test_a_link_local_sender_is_told_why_not(spoof: bool, tmp_path: Path) -> None:
    """A connection cannot leave from its address; without spoofing it need not."""
    arguments = [each for each in TPROXY.arguments if spoof or each != "--spoof-sender"]
    with gateway() as made:
        TPROXY.load(made)
        with (
            shim(made, tmp_path, *arguments, capability=TPROXY.capability) as run,
            receiver(made, IPV6) as running,
            contextlib.closing(link_local(made)) as sock,
        ):
            own = sock.getsockname()[0]
            sock.connect((IPV6.server, SMTP_PORT))
            if not spoof:
                assert sock.recv(100).startswith(b"220 ")
                return
            assert said(sock) == b"421 link-local sender addresses are not served here, closing connection\r\n"
            assert running.seen.peers == []
            run.logged(f'reason="{own} is a link-local address, which cannot be the source of ')


def link_local(made: Gateway) -> socket.socket:
    """A socket at the client with such an address of its own."""
    with made.at(CLIENT):
        index = socket.if_nametoindex("uplink")
        with open("/proc/thread-self/net/if_inet6") as table:
            rows = [line.split() for line in table]
        (octets,) = (bytes.fromhex(row[0]) for row in rows if row[5] == "uplink" and row[0].startswith("fe80"))
        sock = socket.socket(socket.AF_INET6)
        sock.settimeout(SECONDS)
        sock.bind((socket.inet_ntop(socket.AF_INET6, octets), 0, 0, index))
    return sock


# -- receivers that keep one sender out


@pytest.mark.parametrize("how", ["drop", "reject with tcp reset"])
def test_a_firewall_against_one_sender_keeps_no_other_from_a_receiver(how: str, family: Family, tmp_path: Path) -> None:
    """And that one is not kept waiting again; with all shut out, all are."""
    need("nft")
    arguments = ["--listen", f":{SHIM_PORT}", "--spoof-sender", "--deadline", f"connect={BRIEFLY_SECONDS}"]
    for port in (SMTP_PORT, SMTP_PORT + 1):
        arguments += ["--receiver", shown(family, family.server, port)]
    senders = [family.host(1, number) for number in range(11, 16)]
    bits = family.network.partition("/")[2]
    with gateway() as made, contextlib.ExitStack() as stack:
        made.run(CLIENT, "; ".join(f"ip addr add {each}/{bits} dev uplink" for each in senders))
        TPROXY.load(made)
        first, second = made.listening((family.server, SMTP_PORT), (family.server, SMTP_PORT + 1))
        for listener, name in ((first, b"first"), (second, b"second")):
            stack.enter_context(FaultyReceiver(Talk.accept, talk=greeting_with(name), listener=listener))
        run = stack.enter_context(shim(made, tmp_path, *arguments, capability="net_raw"))

        def greetings(*senders: str) -> list[bytes]:
            return [greeting_of(made, family, sender) for sender in senders]

        def shut_out(sender: str) -> None:
            saddr = "ip6 saddr" if family is IPV6 else "ip saddr"
            rule = f"{saddr} {sender} tcp dport {SMTP_PORT} tcp flags syn {how}"
            made.run(
                SERVER,
                f"nft 'add table inet wall; add chain inet wall input {{ type filter hook input priority 0; }};"
                f"add rule inet wall input {rule}'",
            )

        shut_out(senders[0])
        assert greetings(senders[0], senders[1], senders[0], senders[2]) == [b"second", b"first", b"second", b"first"]
        assert run.log.count("repair=unreachable") == 1
        shut_out(family.network.format(1))
        assert greetings(*senders[1:4]) == [b"second"] * 3
        assert run.log.count("repair=unreachable") == 3, "the second and the third: of the fourth none was tried"


def greeting_with(name: bytes) -> type[Talk]:
    """A receiver that says its name first, and no more."""

    class Named(Talk):
        def serve(self, on_data: Callable[[Talk], None]) -> None:
            self.say(b"220 " + name + b"\r\n")
            self.line()

    return Named


def greeting_of(made: Gateway, family: Family, sender: str) -> bytes:
    """What that sender is greeted with, without the code."""
    with made.at(CLIENT):
        sock = socket.create_connection((family.lan, SHIM_PORT), SECONDS, (sender, 0))
    with sock, sock.makefile("rb") as file:
        return file.readline()[4:].strip()


# -- one socket for both families

ONE_SOCKET: Final = """
import socket, sys
import trio
import shimproxy

async def main():
    listener = socket.socket(fileno=int(sys.argv[1]))
    async with trio.open_nursery() as nursery:
        settings = shimproxy.Settings(receiver="original")
        print(await nursery.start(lambda task_status: shimproxy.serve(
            settings, listeners=[listener], on_session=tell, task_status=task_status)), flush=True)

def tell(record):
    print("session with", record.sender, file=sys.stderr, flush=True)

trio.run(main)
"""


def test_one_socket_for_both_families(tmp_path: Path) -> None:
    """As a program may have made it, where IPv4 addresses are mapped into IPv6."""
    log_file = tmp_path / "log"
    with gateway() as made:
        REDIRECT.load(made)
        with made.at(GATEWAY), log_file.open("wb") as log:
            listener = socket.create_server(("::", SHIM_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
            process = subprocess.Popen(
                [sys.executable, "-c", ONE_SOCKET, str(listener.fileno())],
                cwd=TOP,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[listener.fileno()],
            )
        try:
            assert wait_for_line(process, log_file) == f"['[::]:{SHIM_PORT}']"
            listener.close()
            for family in FAMILIES:
                with receiver(made, family) as running:
                    assert accepted(TAKEN).allows(sent(made, family))
                assert running.seen.peers == [family.wan]
                poll(lambda: f"session with {shown(family, family.client, 0)[:-1]}" in log_file.read_text(), "told")  # noqa: B023
                assert said(made.connected(family.lan, SHIM_PORT, seconds=SECONDS)) == REFUSED
        finally:
            end(process)
    assert "Traceback" not in log_file.read_text()
