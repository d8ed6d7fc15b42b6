"""Where senders connect, as an operator writes it, and what is known of those who do."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from shimproxy.net.address import Address, UnixPath, parse_endpoint
from shimproxy.net.errors import AddressError, ListenFailed
from shimproxy.net.listen import close_listener, open_listeners, open_unix_listener
from shimproxy.net.origin import make_transparent
from shimproxy.net.tls import VERSIONS
from shimproxy.ops import systemd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_MODE: Final = 0o666  # as anybody on this machine reaches a port of it, too; the directory may keep some out
_LF_ONLY_DEVICES: Final = "lf-only-devices"
_LEAST_TLS: Final = "least-tls"
_TPROXY: Final = "tproxy"
_SYSTEMD: Final = "systemd"
_Each = TypeVar("_Each")


Listening = dict[str, list[socket.socket]]
"""Listener, as `named` calls it -> its sockets."""


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


@attrs.frozen
class Listener:
    """An address where senders connect, and what is known of those who do."""

    address: Address | UnixPath | Passed
    least_tls: str = attrs.field(default="1.2", validator=attrs.validators.in_(VERSIONS))
    """The lowest version of TLS that is spoken with them, "1.0" to "1.3"; below 1.2 with the ciphers of that time."""
    lf_only_devices: bool = False
    """Whether they end lines with LF alone, and mail data with LF.LF: any text of a mail that holds a dot alone on such
    a line ends it. For devices that can't do otherwise, on an address that nobody else reaches."""
    tproxy: bool = False
    """Whether connections to other hosts are turned here by TPROXY (IP_TRANSPARENT)."""
    own: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    """Fields of Settings that are different for its senders."""

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
            elif each == _TPROXY:
                tproxy = True
            elif name == _LEAST_TLS and value in VERSIONS:
                least_tls = value
            else:
                raise SettingsError(
                    f"listen: {text!r}: behind the address, only ',{_LF_ONLY_DEVICES}', ',{_TPROXY}' and "
                    f"',{_LEAST_TLS}=' with one of {', '.join(VERSIONS)} can stand"
                )
        if address == _SYSTEMD or address.startswith(f"{_SYSTEMD}:"):
            return cls(Passed(address.partition(":")[2]), least_tls, lf_only_devices, tproxy)
        listener = cls(parse_endpoint(address), least_tls, lf_only_devices, tproxy)
        if tproxy and isinstance(listener.address, UnixPath):
            raise AddressError(f"{text!r}: TPROXY is for TCP; leave ',{_TPROXY}' away")
        return listener


def listeners(
    value: Sequence[Listener | Address | UnixPath | str] | Listener | Address | UnixPath | str,
) -> tuple[Listener, ...]:
    """One or several, each in any of these forms. Raises AddressError, SettingsError."""
    several: tuple[Listener | Address | UnixPath, ...] = all_of(value, Listener.parse)
    return tuple(each if isinstance(each, Listener) else Listener(each) for each in several)


def all_of(value: Sequence[_Each | str] | _Each | str, parse: Callable[[str], _Each]) -> tuple[_Each, ...]:
    """One or several, each as it is or as a text that `parse` reads."""
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    return tuple(parse(each) if isinstance(each, str) else each for each in several)


def named(listeners: Iterable[Listener]) -> list[tuple[str, Listener]]:
    """Each listener with a name for its sockets: its address, told apart from another with the same, as of port 0."""
    seen: Counter[str] = Counter()
    named: list[tuple[str, Listener]] = []
    for listener in listeners:
        address = str(listener.address)
        named.append((f"{address} {seen[address]}", listener))
        seen[address] += 1
    return named


def sockets_of(listeners: Iterable[Listener], listening: Listening) -> list[tuple[int, socket.socket]]:
    """Every socket where these listeners listen, with the index of its listener."""
    return [(index, sock) for index, (name, _) in enumerate(named(listeners)) for sock in listening[name]]


def check_passed(listeners: Iterable[Listener]) -> None:
    """See whether each socket that systemd has passed is of one of them, and of one alone. Raises ListenFailed."""
    systemd.check_use([listener.address.name for listener in listeners if isinstance(listener.address, Passed)])


async def open_sockets(listener: Listener) -> list[socket.socket]:
    """The sockets where it listens. Raises ListenFailed."""
    match listener.address:
        case Address() as address:
            return await open_listeners(address, transparent=listener.tproxy)
        case UnixPath(path):
            return [open_unix_listener(path, _MODE)]
        case Passed(name):
            sockets = systemd.passed_sockets(name)
            try:
                make_all_transparent(listener, sockets)
            except ListenFailed:
                close_sockets(sockets)
                raise
            return sockets


def make_all_transparent(listener: Listener, sockets: Iterable[socket.socket]) -> None:
    """See to it that sockets which are there already take what TPROXY turns to them, if that is wanted.

    Raises ListenFailed.
    """
    for sock in sockets if listener.tproxy else ():
        try:
            make_transparent(sock)
        except OSError as error:
            mend = f"{error.strerror}; give the process CAP_NET_RAW, or say Transparent=yes in the socket unit"
            if sock.family == socket.AF_UNIX:
                mend = f"TPROXY is for TCP; leave ',{_TPROXY}' away"
            raise ListenFailed(f"cannot listen on {listener.address},{_TPROXY}: {mend}") from error


def close_sockets(sockets: Iterable[socket.socket]) -> None:
    """Close them for good; what systemd listens on stays where it is."""
    for sock in sockets:
        close_listener(sock)
