"""A gateway between a sender's host and a receiver's, in three network namespaces, with IPv4 and IPv6.

    client  uplink --- lan  gateway  wan --- uplink  server

With `beyond`, the server, or the client, is a router with a host behind it that can be reached, and two networks that
can't:

    gateway  wan --- uplink  server  narrow --- uplink  far

1. Nothing is wired to this machine's own network, and nothing outside the namespaces is changed.
2. Their names hold the process that made them. They go with the block; those of a process that was killed go when
   another makes its own.
3. A thread steps into one (`Gateway.at`); the sockets, threads and processes that it makes there stay there.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import itertools
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from tests.peers.processes import missing, need, need_root

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT: Final = "client"
GATEWAY: Final = "gateway"
SERVER: Final = "server"
FAR: Final = "far"
WHERE: Final = (CLIENT, GATEWAY, SERVER)
SMTP_PORT: Final = 25

NARROW_OCTETS: Final = 1300
"""What the router's link to the far host takes of a packet, while neither end knows of it."""

_NAMED: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x4000_0000
_PATH: Final = os.environ | {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
_NUMBERS: Final = itertools.count(1)
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@attrs.frozen
class Family:
    """The addresses of all hosts in one family."""

    name: str
    number: socket.AddressFamily
    client: str
    lan: str
    """The gateway's, where the client is."""
    wan: str
    """The gateway's, where the server is."""
    server: str
    loopback: str
    network: str
    """What the network of a number is called, as prefix/bits."""

    def __str__(self) -> str:
        return self.name

    def host(self, network: int, number: int) -> str:
        """A host of a network."""
        return str(ipaddress.ip_network(self.network.format(network))[number])

    @property
    def far(self) -> str:
        """The host behind the router, where there is one."""
        return self.host(3, 2)

    @property
    def unreachable(self) -> str:
        """A host that the router has no route to, and says so."""
        return self.host(4, 2)

    @property
    def prohibited(self) -> str:
        """A host that the router takes nothing to, and says so."""
        return self.host(5, 2)


IPV4: Final = Family(
    "IPv4", socket.AF_INET, "10.77.1.2", "10.77.1.1", "10.77.2.1", "10.77.2.2", "127.0.0.1", "10.77.{}.0/24"
)
IPV6: Final = Family("IPv6", socket.AF_INET6, "fd77:1::2", "fd77:1::1", "fd77:2::1", "fd77:2::2", "::1", "fd77:{}::/64")
FAMILIES: Final = (IPV4, IPV6)


@attrs.frozen
class Gateway:
    """The three hosts."""

    prefix: str

    @contextlib.contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Be at one of them with this thread, until the end of the block."""
        with open("/proc/thread-self/ns/net") as before, open(_NAMED / self.name(where)) as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def name(self, where: str) -> str:
        """What `ip netns` calls it."""
        return f"{self.prefix}-{where}"

    def run(self, where: str, script: str) -> None:
        """Have a shell run that there; it must go well."""
        with self.at(where):
            _run(script)

    def load(self, ruleset: str) -> None:
        """Give nftables' rules to the gateway."""
        with self.at(GATEWAY):
            _run(f"{need('nft')} -f -", given=ruleset)

    def listening(self, *addresses: tuple[str, int], where: str = SERVER) -> list[socket.socket]:
        """Sockets that listen there."""
        with self.at(where):
            return [
                socket.create_server(each, family=socket.AF_INET6 if ":" in each[0] else socket.AF_INET)
                for each in addresses
            ]

    def connected(
        self, host: str, port: int = SMTP_PORT, *, where: str = CLIENT, own_port: int = 0, seconds: float
    ) -> socket.socket:
        """A connection from there, whose every wait is that long at most. Raises OSError."""
        with self.at(where):
            return socket.create_connection((host, port), seconds, ("", own_port) if own_port else None)


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _run(script: str, given: str = "") -> None:
    done = subprocess.run(
        ["sh", "-euc", script], input=given, env=_PATH, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{script}\n{given}\n{done.stdout}{done.stderr}"


@contextlib.contextmanager
def gateway() -> Iterator[Gateway]:
    """The three of them, wired, until the end of the block: no rules, and packets are forwarded."""
    need_root()
    need("ip")
    _clear_up_after_the_dead()
    made = Gateway(f"shimproxy-{os.getpid()}-{next(_NUMBERS)}")
    try:
        try:
            for where in WHERE:
                _run(f"ip netns add {made.name(where)}")
        except AssertionError as error:
            missing(f"no network namespaces ({error})", "run the tests where root may make some")
        for where in WHERE:
            # No waiting for duplicate addresses; and reverse paths are checked, as a careful gateway has it.
            made.run(
                where,
                "ip link set lo up; cd /proc/sys/net; echo 0 >ipv6/conf/default/accept_dad;"
                "echo 1 >ipv4/conf/all/rp_filter; echo 1 >ipv4/conf/default/rp_filter",
            )
        for where, device, ours in ((CLIENT, "lan", "lan"), (SERVER, "wan", "wan")):
            _run(f"ip link add uplink netns {made.name(where)} type veth peer {device} netns {made.name(GATEWAY)}")
            for family in FAMILIES:
                bits = 24 if family is IPV4 else 64
                theirs, gateways = getattr(family, where), getattr(family, ours)
                made.run(GATEWAY, f"ip addr add {gateways}/{bits} dev {device}; ip link set {device} up")
                made.run(where, f"ip addr add {theirs}/{bits} dev uplink; ip link set uplink up")
        for where, ours in ((CLIENT, "lan"), (SERVER, "wan")):
            for family in FAMILIES:
                made.run(where, f"ip route add default via {getattr(family, ours)}")
        made.run(GATEWAY, "cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding")
        yield made
    finally:
        for where in (*WHERE, FAR):
            if (_NAMED / made.name(where)).exists():
                _run(f"ip netns del {made.name(where)}")


def beyond(made: Gateway, router: str = SERVER) -> None:
    """Make that host a router: with the far host behind a narrow link, and networks that it does not reach."""
    _run(f"ip netns add {made.name(FAR)}")
    made.run(FAR, "ip link set lo up; echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
    _run(f"ip link add narrow netns {made.name(router)} type veth peer name uplink netns {made.name(FAR)}")
    made.run(
        router,
        "cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding;"
        "echo 0 >ipv4/icmp_ratelimit; echo 0 >ipv6/icmp/ratelimit",  # it says so to each, however often
    )
    for family in FAMILIES:
        far, unreachable, prohibited = (family.network.format(number) for number in (3, 4, 5))
        bits = far.partition("/")[2]
        made.run(
            router,
            f"ip addr add {family.host(3, 1)}/{bits} dev narrow; ip link set narrow mtu {NARROW_OCTETS} up;"
            f"ip route add unreachable {unreachable}; ip route add prohibit {prohibited}",
        )
        made.run(
            FAR,
            f"ip addr add {family.far}/{bits} dev uplink; ip link set uplink up;"
            f"ip route add default via {family.host(3, 1)}",
        )
        made.run(
            GATEWAY,
            "; ".join(f"ip route add {each} via {getattr(family, router)}" for each in (far, unreachable, prohibited)),
        )


def _clear_up_after_the_dead() -> None:
    for path in _NAMED.glob("shimproxy-*"):
        found = re.fullmatch(r"shimproxy-(\d+)-\d+-\w+", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            _run(f"ip netns del {path.name}")


def need_rules(made: Gateway, kind: str) -> None:
    """What those rules are made of: nftables or iptables, and the kernel's part."""
    if kind == "nftables":
        program = need("nft")
        chain = "type filter hook prerouting priority mangle; tcp dport 1 tproxy to :1;"
        probe = f"echo 'table ip probe {{ chain c {{ {chain} }}; }}' | {program} -c -f -"
    else:
        program = need("iptables")
        probe = f"{program} -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 1; {program} -t mangle -F"
    try:
        made.run(GATEWAY, probe)
    except AssertionError as error:
        missing(f"the kernel has no TPROXY for {kind} ({error})", "run the tests with another one")
