"""What on a gateway is in the way of connections that are to be turned to shimproxy: settings and rules of the kernel.

They are read and never set. What can't be read, as in a sandbox, is not remarked on.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shimproxy.net.address import Address, ip_address
from shimproxy.net.rules import leading_here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.config.listener import Listener
    from shimproxy.config.settings import Settings
    from shimproxy.net.rules import Led

_NET: Final = Path("/proc/sys/net")
_NAMES: Final = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
_FORWARDING: Final = {socket.AF_INET: "ipv4/ip_forward", socket.AF_INET6: "ipv6/conf/all/forwarding"}
_ACCEPTED_ARE_MARKED: Final = "ipv4/tcp_fwmark_accept"
"""Of both families."""
_SOURCES_ARE_MARKED: Final = "ipv4/conf/*/src_valid_mark"
"""Of IPv4 alone; what "all" has, each interface has."""

_SWAPPED: Final = str.maketrans("/.", "./")


def about_gateway(settings: Settings) -> list[str]:
    """Remarks on what would keep connections from being turned here, if any are to be."""
    remarks: dict[str, None] = {}
    for listener in settings.listen:
        its = settings.of(listener)
        families = _families(listener)
        if its.goes_to_original:
            remarks |= dict.fromkeys(_about_forwarding(families))
        if listener.tproxy:
            remarks |= dict.fromkeys(_about_rules(families, "tproxy"))
        elif its.spoof_sender:
            remarks |= dict.fromkeys(_about_rules([*_NAMES], its.named("spoof_sender")))
    return [*remarks]


def _families(listener: Listener) -> list[socket.AddressFamily]:
    """Those of the addresses where it listens; both of one that is not known beforehand."""
    address = ip_address(listener.address.host) if isinstance(listener.address, Address) else None
    if address is None:
        return [*_NAMES]
    return [socket.AF_INET6 if address.version == 6 else socket.AF_INET]


def _about_forwarding(families: list[socket.AddressFamily]) -> Iterator[str]:
    for family in families:
        if _value(_FORWARDING[family]) == 0:
            yield (
                f"{_sysctl(_FORWARDING[family])} is 0: this gateway forwards only what rules redirect to shimproxy; "
                "set it to 1"
            )


def _about_rules(families: list[socket.AddressFamily], what_for: str) -> Iterator[str]:
    found: dict[socket.AddressFamily, list[Led]] = {}
    for family in families:
        with suppress(OSError):
            found[family] = [*leading_here(family)]
    for family in [family for family, several in found.items() if not several]:
        if what_for == "tproxy" or not any(found.values()):
            yield (
                f"{what_for}: no rule routes marked packets here over {_NAMES[family]}; for mark 1, run: ip rule "
                "add pref 100 fwmark 1 iif INTERFACE lookup 100; ip route add local default dev lo table 100"
            )
    for family, several in found.items():
        for led in several:
            yield from (f"ip rule {led.rule} of {_NAMES[family]}: {problem}" for problem in _in_the_way(family, led))


def _in_the_way(family: socket.AddressFamily, led: Led) -> Iterator[str]:
    mend = "name each interface in a rule of its own (iif), or set it to 0"
    if not led.rule.interface:
        if family == socket.AF_INET:
            for path in sorted(_NET.glob(_SOURCES_ARE_MARKED)):
                name = str(path.relative_to(_NET))
                if _value(name):
                    yield f"{_sysctl(name)} is 1, so that the kernel drops what the rule leads here; {mend}"
        if _value(_ACCEPTED_ARE_MARKED):
            yield f"{_sysctl(_ACCEPTED_ARE_MARKED)} is 1, so that shimproxy's replies come back to it; {mend}"
    if led.before:
        yield f"rule {led.before} is tried first and takes the same packets elsewhere; give this one a lower pref"


def _value(name: str) -> int | None:
    try:
        return int((_NET / name).read_text())
    except (OSError, ValueError):
        return None


def _sysctl(name: str) -> str:
    """As sysctl(8) has it; a dot in the name of an interface is a slash there."""
    return f"net.{name.translate(_SWAPPED)}"
