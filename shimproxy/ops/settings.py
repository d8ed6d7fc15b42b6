"""What an operator can set, validated once.

The command line and an embedding program make the same Settings; defaults stand here and in session/limits.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.net.address import Address
from shimproxy.session.limits import Deadlines, Limits, at_least, not_negative
from shimproxy.session.replies import EARLY_SUCCESS
from shimproxy.smtp.reply import ReplyReader

if TYPE_CHECKING:
    from collections.abc import Sequence


class SettingsError(ValueError):
    """A setting can't be used; the text names it and the mend."""


def _address(value: Address | str) -> Address:
    return Address.parse(value) if isinstance(value, str) else value


def _addresses(value: Sequence[Address | str] | Address | str) -> tuple[Address, ...]:
    if isinstance(value, Address | str):
        value = (value,)
    return tuple(_address(each) for each in value)


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
    listen: tuple[Address, ...] = attrs.field(default=(), converter=_addresses)
    """Where senders connect; port 0 takes a free one. May be empty if `serve` is given listeners."""
    deadlines: Deadlines = attrs.field(factory=Deadlines)
    limits: Limits = attrs.field(factory=Limits)
    sessions: int = attrs.field(default=10_000, validator=at_least(1))
    """How many sessions at a time; further senders wait in the kernel's queue."""
    grace_seconds: float = attrs.field(default=30.0, validator=not_negative)
    """How long open transactions may go on after the first signal to stop."""
    early_success: str = attrs.field(default=EARLY_SUCCESS.reply.octets.decode().rstrip(), validator=_refusal)
    """What answers mail data that the receiver accepted before its end."""
