"""The kernel's routing rules: by which of them packets with a mark are led to this machine, and what keeps them away.

TPROXY gives packets that are for other hosts a mark, and a rule leads what has it to a table with a local default
route. That rule is found here, not set. Asked by netlink (rtnetlink(7), ip-rule(8)), which needs no privilege.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.kernel import attributes, dumped

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

_GET_RULE: Final = 34  # linux/rtnetlink.h
_GET_ROUTE: Final = 26
_RULE: Final = struct.Struct("=BBBBBxxBI")  # fib_rule_hdr: family, bits of both ends, tos, table, action, flags
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # rtmsg: family, bits of the destination, ..., type, flags
_TABLE_OF_ROUTE: Final = 15
_LOCAL: Final = 2
_THROW: Final = 9
_LOCAL_TABLE: Final = 255

_INTERFACE: Final = 3  # linux/fib_rules.h
_PREF: Final = 6
_MARK: Final = 10
_SUPPRESSED_BITS: Final = 14
_TABLE: Final = 15
_MASK: Final = 16
_OF_OTHERS: Final = frozenset((17, 19, 20, 22, 23, 24))
"""By which a rule is for some packets alone: an interface that they leave by, VRF, user, protocol, ports."""
_TO_TABLE: Final = 1
_INVERT: Final = 2
_ANY_PREFIX: Final = 0xFFFF_FFFF
_WORD: Final = struct.Struct("=I")


@attrs.frozen
class Rule:
    """One rule, as far as it matters to packets that have a mark and come by an interface."""

    pref: int
    table: int
    mark: int = 0
    mask: int = 0
    inverted: bool = False
    """Whether it is for all packets but those."""
    interface: str = ""
    """By which they come; any, if it is empty."""
    least_bits: int = 0
    """Of the prefix of a route in its table; what is more general counts as not found."""
    for_all: bool = True
    """Whether nothing else about a packet matters."""

    def takes(self, mark: int, interface: str) -> bool:
        """Whether it is for whatever has that mark and comes by that interface, by any if it is empty."""
        if not self.for_all:
            return False
        meant = not (self.mark ^ mark) & self.mask and self.interface in ("", interface)
        return meant is not self.inverted

    def __str__(self) -> str:
        mark = f" fwmark {self.mark:#x}" if self.mask else ""
        interface = f" iif {self.interface}" if self.interface else ""
        return f"{self.pref} ({'not' * self.inverted}{mark}{interface} lookup {self.table})".replace("( ", "(")


def rules(family: socket.AddressFamily) -> list[Rule]:
    """All rules that lead to a table, in the order in which they are tried. Raises OSError if that is not told."""
    return [*_rules(family)]


def _rules(family: socket.AddressFamily) -> Iterator[Rule]:
    request = _RULE.pack(family, 0, 0, 0, 0, 0, 0)
    for octets in dumped(_GET_RULE, request):
        _, to_bits, from_bits, tos, table, action, flags = _RULE.unpack_from(octets)
        if action != _TO_TABLE:
            continue
        said = attributes(octets[_RULE.size :])
        words = {kind: _WORD.unpack(value)[0] for kind, value in said.items() if len(value) == _WORD.size}
        yield Rule(
            pref=words.get(_PREF, 0),
            table=words.get(_TABLE, table),
            mark=words.get(_MARK, 0),
            mask=words.get(_MASK, 0),
            inverted=bool(flags & _INVERT),
            interface=said.get(_INTERFACE, b"").rstrip(b"\0").decode(errors="replace"),
            least_bits=(words.get(_SUPPRESSED_BITS, _ANY_PREFIX) + 1) & _ANY_PREFIX,
            for_all=not (to_bits or from_bits or tos or said.keys() & _OF_OTHERS),
        )


def routes(family: socket.AddressFamily, table: int) -> Iterator[tuple[int, int]]:
    """The bits of the prefix and the type of each route in a table. Raises OSError if that is not told."""
    request = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    request += struct.pack("=HHI", 8, _TABLE_OF_ROUTE, table)
    for octets in dumped(_GET_ROUTE, request):
        _, to_bits, *_, kind, _ = _ROUTE.unpack_from(octets)
        its = attributes(octets[_ROUTE.size :]).get(_TABLE_OF_ROUTE, b"")
        if its == _WORD.pack(table):
            yield to_bits, kind


@attrs.frozen
class Led:
    """A rule that leads what has its mark to this machine, and what is in its way."""

    rule: Rule
    before: Rule | None = None
    """One that is tried before it, and takes the same packets elsewhere."""


def leading_here(family: socket.AddressFamily) -> Sequence[Led]:
    """The rules that lead what has a mark to this machine. Raises OSError if they can't be asked for."""
    everything = [rule for rule in rules(family) if rule.table != _LOCAL_TABLE]
    found: list[Led] = []
    for index, rule in enumerate(everything):
        if rule.mask and not rule.inverted and (0, _LOCAL) in routes(family, rule.table):
            before = (
                each
                for each in itertools.islice(everything, index)
                if each.takes(rule.mark, rule.interface) and _leads_elsewhere(family, each)
            )
            found.append(Led(rule, next(before, None)))
    return found


def _leads_elsewhere(family: socket.AddressFamily, rule: Rule) -> bool:
    return any(bits >= rule.least_bits and kind not in (_LOCAL, _THROW) for bits, kind in routes(family, rule.table))
