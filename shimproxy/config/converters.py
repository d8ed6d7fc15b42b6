"""Converters and validators of Settings' fields: the forms that a value may have, and the mend for any other value.

Those of numbers are in session/limits.py; a field of an enum converts by its enum.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shimproxy.config.listener import SettingsError, all_of
from shimproxy.net.address import Address, Endpoint, Network, UnixPath, ip_address, parse_endpoint, parse_network
from shimproxy.net.errors import AddressError
from shimproxy.net.origin import Allowed
from shimproxy.observe.log_output import STANDARD_ERROR, SYSLOG, server_of
from shimproxy.session.policy import OBSERVABLE
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.ehlo import HiddenKeyword
from shimproxy.smtp.reply import ReplyReader
from shimproxy.smtp.rewrite import Rewrite
from shimproxy.smtp.tidy import is_possible_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import attrs


_MOST_SHOWN: Final = 100
"""Characters of a name."""


class Original(enum.Enum):
    """A receiver that is none in particular."""

    DESTINATION = "original"
    """Each session goes where its sender wanted to."""

    def __str__(self) -> str:
        return str(self.value)


ReceiverAddress = Address | UnixPath | Original


def receivers(value: Sequence[ReceiverAddress | str] | ReceiverAddress | str) -> tuple[ReceiverAddress, ...]:
    """One or several, each in any of these forms. Raises AddressError, SettingsError."""
    mend = "is not an address; write HOST:PORT, as in '127.0.0.1:25', or a list of such"
    return all_of(value, (Address, UnixPath, Original), _receiver, mend)


def _receiver(text: str) -> ReceiverAddress:
    return Original.DESTINATION if text == Original.DESTINATION.value else parse_endpoint(text)


_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?").fullmatch


def known_beforehand(receivers: Sequence[ReceiverAddress]) -> tuple[Endpoint, ...]:
    """Those that are the same for every session."""
    return tuple(each for each in receivers if not isinstance(each, Original))


def is_refusal(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Raise SettingsError for what is no 4yz or 5yz reply."""
    octets = value.encode("ascii", "replace") + b"\r\n"
    reader = ReplyReader()
    reader.feed(octets)
    reply = reader.next_reply()
    if not value.isascii() or reply is None or reply.octets != octets or reply.violations or not reply.refuses:
        raise SettingsError(
            f"{attribute.name}: {value!r} is not a refusal; write a code and a text, as in '451 4.3.0 try again later'"
        )


def file(value: Path | str | None) -> Path | None:
    """A path, if there is one. Raises SettingsError."""
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise SettingsError(f"{value!r} is not a path; write one in quotes, as in '/etc/shimproxy/cert.pem'")
    return Path(value)


def is_possible(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Raise SettingsError for what can't be a host's name."""
    if value and not (value.isascii() and is_possible_name(value.encode())):
        raise SettingsError(f"{attribute.name}: {value!r} is not a valid host name; write one as in mail.example.com")


def is_dialable(
    _: object, attribute: attrs.Attribute[tuple[ReceiverAddress, ...]], value: tuple[ReceiverAddress, ...]
) -> None:
    """Raise SettingsError for receivers that can't be dialled."""
    if Original.DESTINATION in value and len(value) > 1:
        raise SettingsError(f"{attribute.name}: 'original' must be the only receiver; remove it or the others")
    for each in value:
        if isinstance(each, Address) and not (each.host and each.port):
            raise SettingsError(
                f"{attribute.name}: '{each}' names no host and port; write HOST:PORT, as in 127.0.0.1:25"
            )


def is_admin_address(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Raise AddressError for what is neither HOST:PORT nor unix:PATH."""
    if value:
        parse_endpoint(value)


def are_sizes(_: object, attribute: attrs.Attribute[Mapping[str, int]], value: Mapping[str, int]) -> None:
    """Raise SettingsError for what are no sizes of domains."""
    for domain, octets in value.items():
        if not isinstance(domain, str) or isinstance(octets, bool) or not isinstance(octets, int) or octets < 1:
            raise SettingsError(
                f"{attribute.name}: {domain!r}: {octets!r} is not a size of a domain; write octets, as in "
                "{'example.com': 1_000_000}"
            )


def is_log(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Raise SettingsError for where nothing can be logged to."""
    if value in (STANDARD_ERROR, SYSLOG) or value.startswith(f"{SYSLOG}:/"):
        return
    try:
        known = server_of(value) is not None
    except AddressError as error:
        raise SettingsError(f"{attribute.name}: {error}") from None
    if not known:
        raise SettingsError(
            f"{attribute.name}: {value!r} is none of stderr, syslog, syslog:/PATH, syslog:udp:HOST:PORT and "
            "syslog:tcp:HOST:PORT"
        )


def is_prefix(most_bits: int) -> Callable[[object, attrs.Attribute[int], int], None]:
    """A validator that raises SettingsError for what is no number of bits."""

    def check(_: object, attribute: attrs.Attribute[int], value: int) -> None:
        if not (isinstance(value, int) and 0 <= value <= most_bits):
            raise SettingsError(f"{attribute.name} must be a whole number from 0 to {most_bits}, not {value!r}")

    return check


def networks(value: Sequence[Network | str] | Network | str) -> tuple[Network, ...]:
    """One or several. Raises AddressError, SettingsError."""
    mend = "is not a network; write one as in '192.0.2.0/24', or a list of such"
    return all_of(value, (ipaddress.IPv4Network, ipaddress.IPv6Network), parse_network, mend)


def allowed(value: Sequence[Allowed | str] | Allowed | str) -> tuple[Allowed, ...]:
    """One or several. Raises AddressError, SettingsError."""
    mend = "is not a destination; write HOST, NETWORK or either with :PORT, or a list of such"
    return all_of(value, (Allowed,), Allowed.parse, mend)


def names(value: Sequence[str] | str) -> tuple[str, ...]:
    """One or several. Raises SettingsError."""
    mend = "is not a host name; write one without a port, as in mail.example.com"
    values = all_of(value, (), str, mend)
    for each in values:
        if not (each.isascii() and _NAME(each)):
            raise SettingsError(f"{each!r} {mend}")
    return values


def addresses(value: Sequence[str] | str) -> tuple[str, ...]:
    """One or several. Raises SettingsError."""
    values = all_of(value, (), str, "is not an address; write one of this machine's, as in '192.0.2.1'")
    versions = []
    for each in values:
        if (address := ip_address(each)) is None:
            raise SettingsError(f"{each!r} is not an address; write an address of this machine, as in 192.0.2.1")
        versions.append(address.version)
    if len({*versions}) < len(versions):
        raise SettingsError("more than one address for IPv4 or IPv6; keep one of each")
    return values


def hidden(value: Sequence[HiddenKeyword | str] | HiddenKeyword | str) -> tuple[HiddenKeyword, ...]:
    """One or several, a text with commas between them too; none twice. Raises SettingsError."""
    mend = "is not a keyword; write one in quotes, as in 'CHUNKING', or a list of such"
    several: tuple[HiddenKeyword | str, ...] = all_of(value, (HiddenKeyword,), str, mend)
    found: dict[HiddenKeyword, None] = {}
    problems: list[str] = []
    for each in chain.from_iterable([one] if isinstance(one, HiddenKeyword) else one.split(",") for one in several):
        try:
            found[HiddenKeyword.parse(str(each))] = None
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise SettingsError(*problems)
    return tuple(found)


def rewrites(value: Sequence[Rewrite | str] | Rewrite | str) -> tuple[Rewrite, ...]:
    """One or several. Raises SettingsError."""
    mend = "is not a rule; write one in quotes, as in 'end-of-data: 451 .* too large => 552 5.3.4', or a list of such"
    several: tuple[Rewrite | str, ...] = all_of(value, (Rewrite,), str, mend)
    found: list[Rewrite] = []
    problems: list[str] = []
    for each in several:
        try:
            found.append(each if isinstance(each, Rewrite) else Rewrite.parse(each))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise SettingsError(*problems)
    return tuple(found)


def observed(value: Sequence[Violation | str] | Violation | str) -> tuple[Violation, ...]:
    """One or several, a text with commas between them too; none twice. Raises SettingsError."""
    mend = "is not the name of a violation; write one in quotes, as in 'early-reply', or a list of such"
    several: tuple[Violation | str, ...] = all_of(value, (Violation,), str, mend)
    found: dict[Violation, None] = {}
    problems: list[str] = []
    names = {str(each): each for each in Violation}
    for name in chain.from_iterable(str(each).split(",") for each in several):
        if (violation := names.get(name)) in OBSERVABLE and violation:
            found[violation] = None
        else:
            what = "cannot be passed on by itself" if violation else "is not the name of a violation"
            some = ", ".join(map(str, OBSERVABLE))
            shown = repr(name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}...")
            problems.append(f"{shown} {what}; these can be: {some}; with repairs = observe all are")
    if problems:
        raise SettingsError(*problems)
    return tuple(found)
