"""How long a session waits and how much it holds: every deadline and limit of the dialogue, with its source.

A deadline of the shim must not be shorter than the peers' own, or it causes the failure that it repairs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from shimproxy.net.block import BLOCK_OCTETS, LEAST_BLOCK_OCTETS
from shimproxy.smtp.reply import REPLY_LIMIT_OCTETS

if TYPE_CHECKING:
    from collections.abc import Callable


def _is_number(value: object) -> bool:
    """Whether it is one; True and False are numbers to Python alone."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Raise ValueError for what is no number above 0."""
    if not (_is_number(value) and 0 < value < math.inf):
        raise ValueError(f"{attribute.name} must be a number above 0, not {value!r}")


def not_negative(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Raise ValueError for what is no number from 0 on."""
    if not (_is_number(value) and 0 <= value < math.inf):
        raise ValueError(f"{attribute.name} must be a number from 0 on, not {value!r}")


def at_least(least: int) -> Callable[[object, attrs.Attribute[int], int], None]:
    """A validator that raises ValueError for what is no whole number from `least` on."""

    def check(_: object, attribute: attrs.Attribute[int], value: int) -> None:
        if not (_is_number(value) and isinstance(value, int) and value >= least):
            raise ValueError(f"{attribute.name} must be a whole number from {least} on, not {value!r}")

    return check


@attrs.frozen(kw_only=True)
class Deadlines:
    """How long a session waits for what the field's text names, in seconds; sections are those of RFC 5321.

    The page of limits is made of these texts and those of Limits (`python -m tests.pages`).
    """

    connect: float = attrs.field(default=30.0, validator=positive)
    """The connection to the receiver, for each of its addresses. With another receiver left, its greeting too."""
    greeting: float = attrs.field(default=300.0, validator=positive)
    """The receiver's greeting (RFC 5321 4.5.3.2.1)."""
    reply: float = attrs.field(default=300.0, validator=positive)
    """The receiver's reply to MAIL, RCPT and every command that has no deadline of its own (4.5.3.2.2, 4.5.3.2.3)."""
    data_reply: float = attrs.field(default=120.0, validator=positive)
    """The receiver's 354 (4.5.3.2.4)."""
    receiver_block: float = attrs.field(default=180.0, validator=positive)
    """The receiver to accept a block of mail data (4.5.3.2.5)."""
    end_of_data_reply: float = attrs.field(default=600.0, validator=positive)
    """The receiver's verdict after the end of mail data (4.5.3.2.6)."""
    command: float = attrs.field(default=300.0, validator=positive)
    """The sender's next whole command (4.5.3.2.7). Also for the sender to accept a reply."""
    sender_block: float = attrs.field(default=180.0, validator=positive)
    """The sender's next block of mail data. `least-octets-per-second` ends a sender that only drips."""
    proxy_header: float = attrs.field(default=3.0, validator=positive)
    """The PROXY header of a connection from a trusted network (proxy-protocol.txt section 2: at least 3)."""
    tls: float = attrs.field(default=60.0, validator=positive)
    """A TLS handshake."""
    opaque: float = attrs.field(default=900.0, validator=positive)
    """Any octet of either peer where TLS passes through unread."""
    linger_idle: float = attrs.field(default=5.0, validator=positive)
    """Any octet of a peer after shimproxy's FIN. Then shimproxy resets the connection."""
    linger_total: float = attrs.field(default=30.0, validator=positive)
    """A peer to close after shimproxy's FIN. Then shimproxy resets the connection."""

    @property
    def shortest_seconds(self) -> float:
        """The shortest of them: what the watchdog's tick must suit."""
        return min(float(seconds) for seconds in attrs.astuple(self))


@attrs.frozen(kw_only=True)
class Limits:
    """How much of what the field's text names a session accepts."""

    command_octets: int = attrs.field(default=12_288, validator=at_least(512))
    """A command line or an AUTH response, with its CRLF. RFC 5321 4.5.3.1.4 allows 512 octets. RFC 4954 section 4
    raises that to 12,288."""
    reply_octets: int = attrs.field(default=REPLY_LIMIT_OCTETS, validator=at_least(512))
    """A whole reply of the receiver: shimproxy cuts the text beyond, and waits for four times as much at most. Also
    what a receiver says unasked between two commands."""
    held_octets: int = attrs.field(default=65_536, validator=at_least(512))
    """What a sender has sent ahead of the reply that it should have waited for. Also a line of mail data, on its way to
    a Unix socket, that has no end yet."""
    farewell_octets: int = attrs.field(default=16 * 1024 * 1024, validator=at_least(512))
    """What a sender may still send after shimproxy's FIN: some send a mail before they read the last reply. Then
    shimproxy resets the connection. A receiver may say four times `reply-octets`."""
    outstanding_commands: int = attrs.field(default=1000, validator=at_least(1))
    """Commands of a pipelining sender that the receiver has not answered yet. The next ones wait."""
    block_octets: int = attrs.field(default=BLOCK_OCTETS, validator=at_least(LEAST_BLOCK_OCTETS))
    """The receive buffer for mail data, one for the process: at least 65536. Less costs CPU. It bounds what shimproxy
    holds of a block that a receiver does not accept."""
    least_octets_per_second: float = attrs.field(default=100.0, validator=not_negative)
    """Mail data, on either side. shimproxy ends what is slower than this for longer than the deadline of a block. A
    sender that is drained because of its receiver is exempt, so that it gets its verdict: only silence ends it.
    0: no limit."""
    session_seconds: float = attrs.field(default=86_400.0, validator=not_negative)
    """How long a session may last. A transaction under way may then finish, for as long again. A mail that is drained
    ends there too. Where TLS passes through unread there is no limit. 0: no limit."""
    transactions: int = attrs.field(default=0, validator=at_least(0))
    """Mails in a session. 0: no limit."""
    commands_without_mail: int = attrs.field(default=10_000, validator=at_least(0))
    """Commands from one mail to the next, recipients included. RFC 5321 4.5.3.1.8 demands room for 100 recipients.
    0: no limit."""
    bad_commands: int = attrs.field(default=100, validator=at_least(0))
    """Commands from one mail to the next that are answered with 500, 501, 502 or 504: unknown, malformed or not
    offered. Postfix has 20 for errors of any kind (smtpd_hard_error_limit). 0: no limit."""
