"""What fields of Settings take: other forms that come to the same, and what can't be used, each with its mend."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shimproxy.net.address import Address, Endpoint, Network, UnixPath, ip_address, parse_endpoint, parse_network
from shimproxy.net.origin import Allowed
from shimproxy.net.proxy_header import Version
from shimproxy.net.receivers import Balance
from shimproxy.ops.listener import SettingsError, all_of
from shimproxy.ops.log_output import STANDARD_ERROR, SYSLOG
from shimproxy.ops.record_files import RecordWhat
from shimproxy.session.policy import EarlyTalk, ReceiverTls, SenderTls
from shimproxy.smtp.newlines import Newlines
from shimproxy.smtp.reply import ReplyReader
from shimproxy.smtp.tidy import is_possible_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import attrs


class Original(enum.Enum):
    """A receiver that is none in particular."""

    DESTINATION = "original"
    """Each session goes where its sender wanted to."""

    def __str__(self) -> str:
        return str(self.value)


Receiver = Address | UnixPath | Original


def receivers(value: Sequence[Receiver | str] | Receiver | str) -> tuple[Receiver, ...]:
    """One or several, each in any of these forms. Raises AddressError."""
    return all_of(value, _receiver)


def _receiver(text: str) -> Receiver:
    return Original.DESTINATION if text == Original.DESTINATION.value else parse_endpoint(text)


_Choice = TypeVar("_Choice", bound="enum.StrEnum")


def _one_of(choices: type[_Choice], name: str, value: _Choice | str) -> _Choice:
    try:
        return choices(value)
    except ValueError:
        raise SettingsError(f"{name}: {value!r} is none of {', '.join(choices)}") from None


def known_beforehand(receivers: Sequence[Receiver]) -> tuple[Endpoint, ...]:
    """Those that are the same for every session."""
    return tuple(each for each in receivers if not isinstance(each, Original))


def early_talk(value: EarlyTalk | str) -> EarlyTalk:
    """What `Settings.early_talk` takes. Raises SettingsError."""
    return _one_of(EarlyTalk, "early_talk", value)


def newlines(value: Newlines | str) -> Newlines:
    """What `Settings.newlines` takes. Raises SettingsError."""
    return _one_of(Newlines, "newlines", value)


def is_refusal(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Raise SettingsError for what is no 4yz or 5yz reply."""
    octets = value.encode("ascii", "replace") + b"\r\n"
    reader = ReplyReader()
    reader.feed(octets)
    reply = reader.next_reply()
    if not value.isascii() or reply is None or reply.octets != octets or reply.violations or not reply.refuses:
        raise SettingsError(
            f"{attribute.name}: {value!r} is no refusal; write a code and a text, as in '451 4.3.0 try again later'"
        )


def sender_tls(value: SenderTls | str | None) -> SenderTls | None:
    """What `Settings.sender_tls` takes. Raises SettingsError."""
    return None if value is None else _one_of(SenderTls, "sender_tls", value)


def receiver_tls(value: ReceiverTls | str) -> ReceiverTls:
    """What `Settings.receiver_tls` takes. Raises SettingsError."""
    return _one_of(ReceiverTls, "receiver_tls", value)


def record_what(value: RecordWhat | str) -> RecordWhat:
    """What `Settings.record_what` takes. Raises SettingsError."""
    return _one_of(RecordWhat, "record_what", value)


def file(value: Path | str | None) -> Path | None:
    """A path, if there is one."""
    return None if value is None else Path(value)


def is_possible(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Raise SettingsError for what can't be a host's name."""
    if value and not (value.isascii() and is_possible_name(value.encode())):
        raise SettingsError(f"{attribute.name}: {value!r} can't be a host's name; write one as in mail.example.com")


def is_dialable(_: object, attribute: attrs.Attribute[tuple[Receiver, ...]], value: tuple[Receiver, ...]) -> None:
    """Raise SettingsError for receivers that can't be dialled."""
    if Original.DESTINATION in value and len(value) > 1:
        raise SettingsError(f"{attribute.name}: 'original' stands alone; leave it or the others away")
    for each in value:
        if isinstance(each, Address) and not (each.host and each.port):
            raise SettingsError(
                f"{attribute.name}: '{each}' names no host and port; write HOST:PORT, as in 127.0.0.1:25"
            )


def is_admin_address(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Raise AddressError for what is neither HOST:PORT nor unix:PATH."""
    if value:
        parse_endpoint(value)


def is_log(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Raise SettingsError for where nothing can be logged to."""
    if value not in (STANDARD_ERROR, SYSLOG) and not value.startswith(f"{SYSLOG}:/"):
        raise SettingsError(f"{attribute.name}: {value!r} is none of stderr, syslog and syslog:/PATH")


def is_prefix(most_bits: int) -> Callable[[object, attrs.Attribute[int], int], None]:
    """A validator that raises SettingsError for what is no number of bits."""

    def check(_: object, attribute: attrs.Attribute[int], value: int) -> None:
        if not (isinstance(value, int) and 0 <= value <= most_bits):
            raise SettingsError(f"{attribute.name} must be a whole number from 0 to {most_bits}, not {value!r}")

    return check


def balance(value: Balance | str) -> Balance:
    """What `Settings.balance` takes. Raises SettingsError."""
    return _one_of(Balance, "balance", value)


def version(value: Version | str | None) -> Version | None:
    """What `Settings.send_proxy` takes. Raises SettingsError."""
    return None if value is None else _one_of(Version, "send_proxy", value)


def networks(value: Sequence[Network | str] | Network | str) -> tuple[Network, ...]:
    """One or several. Raises AddressError."""
    return all_of(value, parse_network)


def allowed(value: Sequence[Allowed | str] | Allowed | str) -> tuple[Allowed, ...]:
    """One or several. Raises AddressError."""
    return all_of(value, Allowed.parse)


def addresses(value: Sequence[str] | str) -> tuple[str, ...]:
    """One or several. Raises SettingsError."""
    values = all_of(value, str)
    versions = []
    for each in values:
        if (address := ip_address(each)) is None:
            raise SettingsError(f"source: {each!r} is no address; write one of this machine's, as in 192.0.2.1")
        versions.append(address.version)
    if len({*versions}) < len(versions):
        raise SettingsError("source: there is one address for IPv4 and one for IPv6; leave the others away")
    return values
