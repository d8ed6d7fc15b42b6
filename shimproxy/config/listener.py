"""Where senders connect, as an operator writes it, and what is known of those who do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from shimproxy.net.address import Address, UnixPath, ip_address, parse_endpoint
from shimproxy.net.errors import AddressError
from shimproxy.net.tls import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_LF_ONLY_DEVICES: Final = "lf-only-devices"
_LEAST_TLS: Final = "least-tls"
TPROXY: Final = "tproxy"
_SYSTEMD: Final = "systemd"
_Each = TypeVar("_Each")


class SettingsError(ValueError):
    """Settings can't be used; each of its problems names one and the mend, and its text has a line for each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@attrs.frozen
class Passed:
    """Sockets that systemd listens on and passes, all of them or those of a name (sd_listen_fds(3))."""

    name: str = ""

    def __str__(self) -> str:
        return f"{_SYSTEMD}:{self.name}" if self.name else _SYSTEMD


def _is_address(_: object, __: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Address | UnixPath | Passed):
        raise SettingsError(f"listener: {value!r} is not an address; write Listener.parse('HOST:PORT')")


def _is_bool(_: object, attribute: attrs.Attribute[bool], value: object) -> None:
    if not isinstance(value, bool):
        raise SettingsError(f"listener: {attribute.name}: {value!r} is neither True nor False; write one of them")


@attrs.frozen
class Listener:
    """An address where senders connect, and what is known of those who do. Raises SettingsError, ValueError."""

    address: Address | UnixPath | Passed = attrs.field(validator=_is_address)
    least_tls: str = attrs.field(default="1.2", validator=attrs.validators.in_(VERSIONS))
    """The lowest version of TLS that is spoken with them, "1.0" to "1.3"; below 1.2 with the ciphers of that time."""
    lf_only_devices: bool = attrs.field(default=False, validator=_is_bool)
    """Whether they end lines with LF alone, and mail data with LF.LF: any text of a mail that holds a dot alone on such
    a line ends it. For devices that can't do otherwise, on an address that nobody else reaches."""
    tproxy: bool = attrs.field(default=False, validator=_is_bool)
    """Whether connections to other hosts are turned here by TPROXY (IP_TRANSPARENT)."""
    own: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    """Fields of Settings that are different for its senders."""

    @property
    def flags(self) -> tuple[str, ...]:
        """What is known of its senders, as it stands behind the address."""
        flags = {_LF_ONLY_DEVICES: self.lf_only_devices, TPROXY: self.tproxy}
        least_tls = f"{_LEAST_TLS}={self.least_tls}"
        return (*(name for name, is_set in flags.items() if is_set), *((least_tls,) if self.least_tls != "1.2" else ()))

    @classmethod
    def parse(cls, text: str) -> Listener:
        """From HOST:PORT, unix:PATH, systemd or systemd:NAME.

        What is known stands behind it, in any order: ",lf-only-devices", ",least-tls=1.0" and ",tproxy". Raises
        AddressError, SettingsError.
        """
        address, *known = text.split(",")
        least_tls, lf_only_devices, tproxy = "1.2", False, False
        for each in known:
            name, _, value = each.partition("=")
            if each == _LF_ONLY_DEVICES:
                lf_only_devices = True
            elif each == TPROXY:
                tproxy = True
            elif name == _LEAST_TLS and value in VERSIONS:
                least_tls = value
            else:
                raise SettingsError(
                    f"listen: {text!r}: after the address, only ',{_LF_ONLY_DEVICES}', ',{TPROXY}' and "
                    f"',{_LEAST_TLS}=' with one of {', '.join(VERSIONS)} are allowed"
                )
        if address == _SYSTEMD or address.startswith(f"{_SYSTEMD}:"):
            return cls(Passed(address.partition(":")[2]), least_tls, lf_only_devices, tproxy)
        listener = cls(parse_endpoint(address), least_tls, lf_only_devices, tproxy)
        if tproxy and isinstance(listener.address, UnixPath):
            raise AddressError(f"{text!r}: TPROXY works only with TCP; remove ',{TPROXY}'")
        return listener


def listeners(
    value: Sequence[Listener | Address | UnixPath | str] | Listener | Address | UnixPath | str,
) -> tuple[Listener, ...]:
    """One or several, each in any of these forms. Raises AddressError, SettingsError."""
    mend = "is not an address to listen on; write HOST:PORT, as in '127.0.0.1:2525', or a list of such"
    several: tuple[Listener | Address | UnixPath, ...] = all_of(
        value, (Listener, Address, UnixPath), Listener.parse, mend
    )
    return tuple(each if isinstance(each, Listener) else Listener(each) for each in several)


def in_each_others_way(listeners: Sequence[Listener], admin: str, listen_name: str, admin_name: str) -> Iterator[str]:
    """What of the addresses to listen on, and of the admin address, are one address; by the names of both settings."""
    before: list[Address | UnixPath] = []
    for listener in listeners:
        address = listener.address
        if isinstance(address, Passed):
            continue
        if found := next((other for other in before if _overlap(address, other)), None):
            what = f"{address} is given twice" if address == found else f"{found} and {address} overlap"
            yield f"{listen_name}: {what}; remove one of them, or give it another port"
        before.append(address)
    if admin and (found := next((address for address in before if _overlap(address, parse_endpoint(admin))), None)):
        yield f"{admin_name}: {admin} is where senders connect ({listen_name} {found}); give it another port"


def _overlap(one: Address | UnixPath, other: Address | UnixPath) -> bool:
    """Whether two addresses can't both be listened on, as far as that is known without a resolver."""
    if isinstance(one, UnixPath) or isinstance(other, UnixPath):
        return one == other
    if one.port != other.port or not one.port:  # each port 0 is another one
        return False
    return any(
        family == other_family and (host == other_host or not host or not other_host)
        for family, host in _places(one.host)
        for other_family, other_host in _places(other.host)
    )


def _places(host: str) -> set[tuple[int, str]]:
    """Family, 4 or 6, and address of a host; no address for all of a family, and family 0 for another name."""
    if host in ("", "localhost"):
        return {(4, ""), (6, "")} if not host else {(4, "127.0.0.1"), (6, "::1")}
    address = ip_address(host)
    if address is None:
        return {(0, host.lower())}
    return {(address.version, "" if address.is_unspecified else str(address))}


def all_of(
    value: Sequence[_Each | str] | _Each | str, types: tuple[type, ...], parse: Callable[[str], _Each], mend: str
) -> tuple[_Each, ...]:
    """One or several, each of one of the types, or a text that `parse` reads.

    Raises SettingsError for any other: the value and `mend`.
    """
    several: Sequence[Any] = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else (value,)
    for each in several:
        if not isinstance(each, (str, *types)):
            raise SettingsError(f"{each!r} {mend}")
    return tuple(parse(each) if isinstance(each, str) else each for each in several)
