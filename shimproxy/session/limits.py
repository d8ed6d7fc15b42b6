"""How long a session waits and how much it holds: every deadline and limit of the dialogue, with its source.

A deadline of the shim must not be shorter than the peers' own, or it causes the failure that it repairs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from shimproxy.net.driver import BLOCK_OCTETS
from shimproxy.net.leg import LEAST_BLOCK_OCTETS
from shimproxy.smtp.reply import REPLY_LIMIT_OCTETS

if TYPE_CHECKING:
    from collections.abc import Callable


def positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Raise ValueError for what is no number above 0."""
    if not (isinstance(value, int | float) and 0 < value < math.inf):
        raise ValueError(f"{attribute.name} must be a number above 0, not {value!r}")


def not_negative(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Raise ValueError for what is no number from 0 on."""
    if not (isinstance(value, int | float) and 0 <= value < math.inf):
        raise ValueError(f"{attribute.name} must be a number from 0 on, not {value!r}")


def at_least(least: int) -> Callable[[object, attrs.Attribute[int], int], None]:
    """A validator that raises ValueError for what is no whole number from `least` on."""

    def check(_: object, attribute: attrs.Attribute[int], value: int) -> None:
        if not (isinstance(value, int) and value >= least):
            raise ValueError(f"{attribute.name} must be a whole number from {least} on, not {value!r}")

    return check


@attrs.frozen(kw_only=True)
class Deadlines:
    """All in seconds; RFC 5321 4.5.3.2 and its subsections where nothing else is said."""

    connect: float = attrs.field(default=30.0, validator=positive)
    """The connection to the receiver, for each of its addresses; not in the RFC."""
    greeting: float = attrs.field(default=300.0, validator=positive)
    """The receiver's greeting (4.5.3.2.1)."""
    reply: float = attrs.field(default=300.0, validator=positive)
    """The receiver's reply to MAIL, RCPT and every command not named here (4.5.3.2.2, 4.5.3.2.3)."""
    data_reply: float = attrs.field(default=120.0, validator=positive)
    """The receiver's 354 (4.5.3.2.4)."""
    receiver_block: float = attrs.field(default=180.0, validator=positive)
    """The receiver taking a block of mail data (4.5.3.2.5)."""
    end_of_data_reply: float = attrs.field(default=600.0, validator=positive)
    """The receiver's verdict after the end of mail data (4.5.3.2.6)."""
    command: float = attrs.field(default=300.0, validator=positive)
    """The sender's next whole command (4.5.3.2.7), and taking a reply."""
    sender_block: float = attrs.field(default=180.0, validator=positive)
    """The sender's next block of mail data; see Limits.least_octets_per_second for one that only drips."""
    proxy_header: float = attrs.field(default=3.0, validator=positive)
    """A PROXY header (proxy-protocol.txt section 2: at least 3)."""
    tls: float = attrs.field(default=60.0, validator=positive)
    """A TLS handshake; not in the RFC."""
    opaque: float = attrs.field(default=900.0, validator=positive)
    """Silence of both peers where their TLS passes unread: more than any of their own deadlines."""
    linger_idle: float = attrs.field(default=5.0, validator=positive)
    """A peer that says nothing after the shim's FIN, until it is reset."""
    linger_total: float = attrs.field(default=30.0, validator=positive)
    """A peer that stays after the shim's FIN, until it is reset."""

    @property
    def shortest_seconds(self) -> float:
        """The shortest of them: what the watchdog's tick must suit."""
        return min(float(seconds) for seconds in attrs.astuple(self))


@attrs.frozen(kw_only=True)
class Limits:
    """How much of anything a session takes."""

    command_octets: int = attrs.field(default=12_288, validator=at_least(512))
    """A command line with its CRLF: RFC 5321 4.5.3.1.4 has 512, RFC 4954 section 4 raises it to 12,288."""
    reply_octets: int = attrs.field(default=REPLY_LIMIT_OCTETS, validator=at_least(512))
    """A whole reply of the receiver, whose text is cut beyond that; and what it says unasked between two commands."""
    held_octets: int = attrs.field(default=65_536, validator=at_least(512))
    """What a sender has sent ahead of the reply that it should have waited for; and a line of mail data that is not
    ended yet, on its way to a Unix socket."""
    outstanding_commands: int = attrs.field(default=1000, validator=at_least(1))
    """Commands of a pipelining sender that the receiver has not answered yet; the next ones wait."""
    block_octets: int = attrs.field(default=BLOCK_OCTETS, validator=at_least(LEAST_BLOCK_OCTETS))
    """Mail data read from a fast sender at once, and so what is held of a block that a receiver does not take."""
    least_octets_per_second: float = attrs.field(default=100.0, validator=not_negative)
    """Mail data that a peer gives or takes slower than this, over more than its block deadline, are ended; not those
    that are drained because of the receiver. 0 for no such limit."""
    session_seconds: float = attrs.field(default=86_400.0, validator=not_negative)
    """How long a session may last; then it may finish its transaction, for as long again. Not where TLS passes unread.
    0 for any time. No MTA keeps a session for a day; a pool of connections that does opens another."""
    transactions: int = attrs.field(default=0, validator=at_least(0))
    """Mails in a session; 0 for any number: list servers send thousands, and one costs no more than a session does."""
    commands_without_mail: int = attrs.field(default=10_000, validator=at_least(0))
    """Commands from one mail to the next, those of a transaction included; 0 for any number. RFC 5321 4.5.3.1.8 has
    receivers take 100 recipients at least; this leaves room for the lists that give thousands."""
    bad_commands: int = attrs.field(default=100, validator=at_least(0))
    """Commands from one mail to the next that are answered with 500, 501, 502 or 504: unknown, in bad form, or not
    offered; 0 for any number. Recipients whose address is in bad form are among them. Postfix has 20 for errors of any
    kind (smtpd_hard_error_limit)."""
