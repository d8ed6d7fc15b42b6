"""On a gateway with rules and kernel settings of its own: they and those of docs/gateway.md do each other no harm.

What is in the way is what `check` says, no more; and what was set up goes again without a trace.
"""

from __future__ import annotations

import errno
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from shimproxy import Settings
from shimproxy.daemon import gateway as ops_gateway
from shimproxy.daemon.gateway import about_gateway
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import TAKEN, Talk
from tests.daemon.test_gateway import (
    BLOCKS,
    REDIRECT,
    RULES,
    SHIM_PORT,
    TPROXY,
    Rules,
    load,
    receiver,
    said,
    sent,
    shim,
)
from tests.peers.gateway import CLIENT, FAMILIES, GATEWAY, IPV4, IPV6, SMTP_PORT, Gateway, gateway
from tests.peers.here import run_here
from tests.peers.mail import SMALL
from tests.peers.outcome import accepted
from tests.peers.processes import need
from tests.peers.senders import python_smtplib

if TYPE_CHECKING:
    import socket

    from shimproxy.net.rules import Led

pytestmark = pytest.mark.once  # about the kernel

SECONDS: Final = 20.0
BRIEFLY_SECONDS: Final = 2.0
"""For connections that nobody answers."""
FOR_ALL_INTERFACES: Final = """
for family in -4 -6; do
    ip $family rule add pref 100 fwmark 1 lookup 100
    ip $family route add local default dev lo table 100
done
"""
"""One rule for whatever comes, as it is often written."""
INTO_A_TUNNEL: Final = f"""
ip -4 route add default via {IPV4.server} table 51820
ip -6 route add default via {IPV6.server} table 51820
for family in -4 -6; do
    ip $family rule add not fwmark 51820 lookup 51820
    ip $family rule add lookup main suppress_prefixlength 0
done
echo 1 >/proc/sys/net/ipv4/conf/all/src_valid_mark
"""
"""What `wg-quick up` does where all is to go through its tunnel."""


def setting(name: str, value: int) -> str:
    return f"echo {value} >/proc/sys/net/{name}"


def remarks(gateway: Gateway, *arguments: str) -> list[str]:
    """What `shimproxy check` says at the gateway of what it finds there."""
    with gateway.at(GATEWAY):
        done = run_here("check", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr.replace("shimproxy: warning: ", "shimproxy: ").splitlines()


def assert_mail_arrives(made: Gateway, rules: Rules, seconds: float = SECONDS) -> None:
    for family in FAMILIES:
        with receiver(made, family) as running:
            outcome = sent(made, family, seconds=seconds)
        assert accepted(TAKEN).allows(outcome), outcome
        assert running.seen.peers == [rules.seen_from(family)]


# -- kernel settings

HARMLESS: Final = [
    setting("ipv4/conf/all/src_valid_mark", 1),
    setting("ipv4/conf/lan/src_valid_mark", 1),
    f"{setting('ipv4/conf/all/src_valid_mark', 1)}; {setting('ipv4/conf/all/rp_filter', 0)};"
    f"{setting('ipv4/conf/lan/rp_filter', 0)}; {setting('ipv4/conf/wan/rp_filter', 0)}",
    setting("ipv4/tcp_fwmark_accept", 1),
    f"{setting('ipv4/fwmark_reflect', 1)}; {setting('ipv6/fwmark_reflect', 1)}",
    f"{setting('ipv4/conf/all/rp_filter', 2)}",
    INTO_A_TUNNEL,
]


ALL_OF_THEM: Final = "; ".join(HARMLESS)


@pytest.mark.parametrize(
    ("rules", "script"),
    [*((TPROXY, each) for each in HARMLESS), *((each, ALL_OF_THEM) for each in RULES)],
)
def test_settings_that_other_programs_make_are_in_nobodys_way(rules: Rules, script: str, tmp_path: Path) -> None:
    """They are there before the rules. Reverse paths are checked strictly, where the script says nothing else."""
    with gateway() as made:
        made.run(GATEWAY, script)
        rules.load(made)
        assert remarks(made, *rules.arguments) == []
        with shim(made, tmp_path, *rules.arguments, capability=rules.capability):
            assert_mail_arrives(made, rules)


@pytest.mark.parametrize(
    ("script", "said_of_it"),
    [
        (setting("ipv4/conf/all/src_valid_mark", 1), ["net.ipv4.conf.all.src_valid_mark is 1"]),
        (setting("ipv4/conf/lan/src_valid_mark", 1), ["net.ipv4.conf.lan.src_valid_mark is 1"]),
        (setting("ipv4/tcp_fwmark_accept", 1), ["net.ipv4.tcp_fwmark_accept is 1"] * 2),
        ("true", []),
    ],
    ids=["all", "lan", "accept", "none"],
)
def test_a_rule_for_all_interfaces_is_told_what_is_in_its_way(
    script: str, said_of_it: list[str], tmp_path: Path
) -> None:
    """And it is in the way: no mail arrives. Where nothing is said, it does."""
    with gateway() as made:
        load(made, str(TPROXY))
        made.run(GATEWAY, FOR_ALL_INTERFACES + script)
        told = remarks(made, *TPROXY.arguments)
        assert len(told) == len(said_of_it)
        for line, expected in zip(told, said_of_it, strict=True):
            assert line.startswith("shimproxy: ip rule 100 (fwmark 0x1 lookup 100) of IPv")
            assert f": {expected}, so that " in line
            assert line.endswith("; name each interface in a rule of its own (iif), or set it to 0")
        with shim(made, tmp_path, *TPROXY.arguments, capability=TPROXY.capability):
            if not said_of_it:
                assert_mail_arrives(made, TPROXY)
            else:
                with pytest.raises(TimeoutError):
                    said(made.connected(IPV4.server, seconds=BRIEFLY_SECONDS))


def test_a_gateway_that_forwards_nothing_is_told() -> None:
    with gateway() as made:
        REDIRECT.load(made)
        made.run(GATEWAY, f"{setting('ipv4/ip_forward', 0)}; {setting('ipv6/conf/all/forwarding', 0)}")
        told = remarks(made, *REDIRECT.arguments)
        assert [line.split(" is 0: ")[0] for line in told] == [
            "shimproxy: net.ipv4.ip_forward",
            "shimproxy: net.ipv6.conf.all.forwarding",
        ]
        assert remarks(made, "--listen", "127.0.0.1:2525", "--receiver", f"{IPV4.server}:25") == [], "it is no gateway"


def test_what_cannot_be_asked_for_is_not_remarked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a sandbox without AF_NETLINK and /proc/sys."""

    def forbidden(family: socket.AddressFamily) -> list[Led]:
        raise OSError(errno.EAFNOSUPPORT, "forbidden")

    monkeypatch.setattr(ops_gateway, "leading_here", forbidden)
    monkeypatch.setattr(ops_gateway, "_NET", Path("/nowhere"))
    settings = Settings(listen=f"127.0.0.1:{SHIM_PORT},tproxy", receiver="original", spoof_sender=True)
    assert about_gateway(settings) == []


def test_that_nothing_is_led_here_is_told() -> None:
    with gateway() as made:
        ipv4_only = ["--listen", f"127.0.0.1:{SHIM_PORT},tproxy", "--receiver", "original"]
        (line,) = remarks(made, *ipv4_only)
        assert line.startswith("shimproxy: tproxy: no rule routes marked packets here over IPv4; ")
        (line,) = remarks(made, "--listen", "127.0.0.1:2525", "--receiver", f"{IPV4.server}:25", "--spoof-sender")[:1]
        assert line.startswith("shimproxy: --spoof-sender: no rule routes ")
        # The mend is what it says, with an interface in it.
        first, second = (each.strip() for each in line.partition("for mark 1, run: ")[2].split("; "))
        made.run(GATEWAY, f"{first.replace('INTERFACE', 'lan')}; {second}")
        assert remarks(made, *ipv4_only) == []


@pytest.mark.parametrize(
    ("rule", "is_in_the_way"),
    [
        ("not fwmark 51820 lookup 51820", True),
        ("lookup 51820", True),
        ("iif lan lookup 51820", True),
        ("fwmark 2 lookup 51820", False),
        ("iif wan lookup 51820", False),
        ("to 192.0.2.0/24 lookup 51820", False),
        ("lookup 51821", False),
        ("lookup main suppress_prefixlength 0", True),
        ("lookup main suppress_prefixlength 24", False),
    ],
)
def test_a_rule_that_is_tried_before_tproxys_is_told(rule: str, *, is_in_the_way: bool, tmp_path: Path) -> None:
    with gateway() as made:
        load(made, str(TPROXY))
        routes = BLOCKS["tproxy-routes"].replace("lan wan", "lan")
        made.run(GATEWAY, routes)
        made.run(GATEWAY, f"ip rule add {rule}; ip route add default via {IPV4.server} table 51820")
        without_spoofing = TPROXY.arguments[:-1]
        told = remarks(made, *without_spoofing)
        with shim(made, tmp_path, *without_spoofing, capability=TPROXY.capability), receiver(made, IPV4) as its:
            if not is_in_the_way:
                assert told == []
                assert accepted(TAKEN).allows(sent(made, IPV4))
                return
            # Whether it arrives or not: past shimproxy, whose legs leave from the gateway's own address here.
            sent(made, IPV4, seconds=BRIEFLY_SECONDS)
            assert IPV4.wan not in its.seen.peers
    (line,) = told
    assert line.startswith("shimproxy: ip rule 100 (fwmark 0x1 iif lan lookup 100) of IPv4: rule 99 (")
    assert line.endswith(" is tried first and takes the same packets elsewhere; give this one a lower pref")


# -- what else the gateway turns


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_a_port_forward_of_the_gateways_own_passes(rules: Rules, tmp_path: Path) -> None:
    """From the gateway's outer address to a host in `lan`, for a client in `lan` (hairpin), which has its own MTA."""
    with gateway() as made:
        need("nft")
        made.load(
            "table inet forwards {\n"
            " chain before { type nat hook prerouting priority dstnat - 5;\n"
            + "".join(
                f'  iifname "lan" {name} daddr {family.wan} tcp dport 25 dnat {name} to {shown(family.client)}\n'
                for name, family in (("ip", IPV4), ("ip6", IPV6))
            )
            + " }\n chain after { type nat hook postrouting priority srcnat; ct status dnat masquerade; }\n}\n"
        )
        rules.load(made)
        with shim(made, tmp_path, *rules.arguments, capability=rules.capability) as run:
            for family in FAMILIES:
                (listener,) = made.listening((family.client, SMTP_PORT), where=CLIENT)
                with FaultyReceiver(Talk.accept, listener=listener) as running, made.at(CLIENT):
                    outcome = python_smtplib(SMTP_PORT, SMALL, family.wan, SECONDS)
                assert accepted(TAKEN).allows(outcome), outcome
                assert running.seen.peers == [family.lan]
            assert "INFO session" not in run.log
            assert_mail_arrives(made, rules)


def shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# -- undone


def state(made: Gateway, rules: Rules) -> list[str]:
    """All rules and routes of the gateway, but those that the kernel adds once an address of its own can be used.

    Where iptables is nftables underneath, it leaves its empty chains there.
    """
    scripts = ["ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all"]
    if rules.made_of == "nftables":
        scripts.append(f"{need('nft')} list ruleset")
    else:
        programs = need("iptables"), need("ip6tables")
        scripts += [f"{each} -t {table} -S" for each in programs for table in ("mangle", "nat", "filter")]
    with made.at(GATEWAY):
        texts = [
            subprocess.run(shlex.split(each), capture_output=True, text=True, timeout=SECONDS, check=True).stdout
            for each in scripts
        ]
    return [line for text in texts for line in text.splitlines() if " proto kernel " not in line]


def assert_undone(made: Gateway, rules: Rules, before: list[str]) -> None:
    assert state(made, rules) == before
    for family in FAMILIES:
        with receiver(made, family) as running:
            assert accepted(TAKEN).allows(sent(made, family))
        assert running.seen.peers == [family.client]


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_each_way_is_undone_without_a_trace(rules: Rules, tmp_path: Path) -> None:
    """What was there before stays; mail goes its own way again."""
    with gateway() as made:
        made.run(GATEWAY, "ip rule add pref 99 fwmark 7 lookup 77")
        if rules.made_of == "iptables":
            made.run(GATEWAY, "iptables -A FORWARD -p icmp -j ACCEPT")
        before = state(made, rules)
        rules.load(made)
        with shim(made, tmp_path, *rules.arguments, capability=rules.capability):
            assert_mail_arrives(made, rules)
        assert state(made, rules) != before
        rules.undo(made)
        assert_undone(made, rules, before)


@pytest.mark.parametrize("made_of", ["nftables", "iptables"])
def test_the_rule_for_the_gateways_own_programs_is_undone_alone(made_of: str) -> None:
    """With REDIRECT's left as they are."""
    rules = next(each for each in RULES if each.way == "redirect" and each.made_of == made_of)
    with gateway() as made:
        before = state(made, rules)
        rules.load(made)
        with_rules = state(made, rules)
        load(made, f"redirect-output-{made_of}")
        assert state(made, rules) != with_rules
        made.run(GATEWAY, BLOCKS[f"redirect-output-{made_of}-undo"])
        assert state(made, rules) == with_rules
        rules.undo(made)
        assert_undone(made, rules, before)


def test_every_block_that_changes_the_gateway_has_its_undoing() -> None:
    names = {name for name in BLOCKS if name.startswith(("redirect", "tproxy")) and not name.endswith("-run")}
    changing = {name for name in names if not name.endswith("-undo")}
    assert changing
    assert {f"{name}-undo" for name in changing} == names - changing
