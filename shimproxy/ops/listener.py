"""Where senders connect, as an operator writes it, and what is known of those who do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.net.address import Address, UnixPath, parse_endpoint
from shimproxy.net.errors import AddressError
from shimproxy.net.listen import open_listeners, open_unix_listener
from shimproxy.net.tls import VERSIONS
from shimproxy.ops.systemd import passed_sockets

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

_MODE: Final = 0o666  # as anybody on this machine reaches a port of it, too; the directory may keep some out
_LF_ONLY_DEVICES: Final = "lf-only-devices"
_LEAST_TLS: Final = "least-tls"
_TPROXY: Final = "tproxy"
_SYSTEMD: Final = "systemd"


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
    if isinstance(value, Listener | Address | UnixPath | str):
        value = (value,)
    return tuple(_listener(each) for each in value)


def _listener(value: Listener | Address | UnixPath | str) -> Listener:
    if isinstance(value, str):
        return Listener.parse(value)
    return value if isinstance(value, Listener) else Listener(value)


async def open_sockets(listener: Listener) -> list[socket.socket]:
    """The sockets where it listens. Raises ListenFailed."""
    match listener.address:
        case Address() as address:
            return await open_listeners(address, transparent=listener.tproxy)
        case UnixPath(path):
            return [open_unix_listener(path, _MODE)]
        case Passed(name):
            return passed_sockets(name, transparent=listener.tproxy)
