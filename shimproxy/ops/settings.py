"""What an operator can set, validated once.

The command line and an embedding program make the same Settings; defaults stand here and in session/limits.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import attrs

from shimproxy.net.address import Address
from shimproxy.session.limits import Deadlines, Limits, at_least, not_negative
from shimproxy.session.replies import EARLY_SUCCESS
from shimproxy.smtp.newlines import Newlines
from shimproxy.smtp.reply import ReplyReader

if TYPE_CHECKING:
    import enum
    from collections.abc import Sequence


_LF_ONLY_DEVICES = "lf-only-devices"


class SettingsError(ValueError):
    """A setting can't be used; the text names it and the mend."""


def _address(value: Address | str) -> Address:
    return Address.parse(value) if isinstance(value, str) else value


@attrs.frozen
class Listener:
    """An address where senders connect, and what is known of those who do."""

    address: Address
    lf_only_devices: bool = False
    """Whether they end lines with LF alone, and mail data with LF.LF: any text of a mail that holds a dot alone on such
    a line ends it. For devices that can't do otherwise, on an address that nobody else reaches."""

    @classmethod
    def parse(cls, text: str) -> Listener:
        """From HOST:PORT, with ",lf-only-devices" behind it where that is so. Raises AddressError, SettingsError."""
        address, comma, what = text.partition(",")
        if comma and what != _LF_ONLY_DEVICES:
            raise SettingsError(f"listen: {text!r}: behind HOST:PORT, only ',{_LF_ONLY_DEVICES}' can stand")
        return cls(Address.parse(address), bool(comma))


def _listeners(value: Sequence[Listener | Address | str] | Listener | Address | str) -> tuple[Listener, ...]:
    if isinstance(value, Listener | Address | str):
        value = (value,)
    return tuple(_listener(each) for each in value)


def _listener(value: Listener | Address | str) -> Listener:
    if isinstance(value, str):
        return Listener.parse(value)
    return Listener(value) if isinstance(value, Address) else value


_Choice = TypeVar("_Choice", bound="enum.StrEnum")


def _one_of(choices: type[_Choice], name: str, value: _Choice | str) -> _Choice:
    try:
        return choices(value)
    except ValueError:
        raise SettingsError(f"{name}: {value!r} is none of {', '.join(choices)}") from None


def _newlines(value: Newlines | str) -> Newlines:
    return _one_of(Newlines, "newlines", value)


def _refusal(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    octets = value.encode("ascii", "replace") + b"\r\n"
    reader = ReplyReader()
    reader.feed(octets)
    reply = reader.next_reply()
    if not value.isascii() or reply is None or reply.octets != octets or reply.violations or not reply.refuses:
        raise SettingsError(
            f"{attribute.name}: {value!r} is no refusal; write a code and a text, as in '451 4.3.0 try again later'"
        )


def _dialable(_: object, attribute: attrs.Attribute[Address], value: Address) -> None:
    if not value.host or not value.port:
        raise SettingsError(f"{attribute.name}: '{value}' names no host and port; write HOST:PORT, as in 127.0.0.1:25")


@attrs.frozen(kw_only=True)
class Settings:
    """Everything that `serve` goes by. Addresses may be given as text, HOST:PORT.

    Raises AddressError, SettingsError or ValueError for what can't be used.
    """

    receiver: Address = attrs.field(converter=_address, validator=_dialable)
    """Where mail goes: the receiver's address."""
    listen: tuple[Listener, ...] = attrs.field(default=(), converter=_listeners)
    """Where senders connect; port 0 takes a free one. May be empty if `serve` is given listeners."""
    newlines: Newlines = attrs.field(default=Newlines.NORMALISE, converter=_newlines)
    """What becomes of bare CR, bare LF and NUL in commands and mail data."""
    pipelining: bool = True
    """Whether PIPELINING is offered where the receiver offers it (RFC 2920)."""
    deadlines: Deadlines = attrs.field(factory=Deadlines)
    limits: Limits = attrs.field(factory=Limits)
    sessions: int = attrs.field(default=10_000, validator=at_least(1))
    """How many sessions at a time; further senders wait in the kernel's queue."""
    grace_seconds: float = attrs.field(default=30.0, validator=not_negative)
    """How long open transactions may go on after the first signal to stop."""
    early_success: str = attrs.field(default=EARLY_SUCCESS.reply.octets.decode().rstrip(), validator=_refusal)
    """What answers mail data that the receiver accepted before its end."""
