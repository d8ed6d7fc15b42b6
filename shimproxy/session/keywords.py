"""The EHLO keywords that shimproxy does more with than to pass them on, one entry each (RFC 5321 4.1.1.1).

An entry says how the keyword is offered to the sender, what must hold of its parameters again where a session goes on
with another connection to a receiver, and what it switches once the sender was told of it. A keyword without an entry
is offered as the receiver offers it, and each of its parameters must be offered again.

Keywords that are never offered are those of NEVER_OFFERED in smtp/ehlo.py, as they are no commands either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.session.policy import SenderTls
from shimproxy.smtp.ehlo import (
    has_all,
    has_no_more,
    is_as_large,
    is_as_late,
    is_as_soon,
    is_as_wide,
    keywords,
    size_offered,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.session.policy import Policy
    from shimproxy.smtp.ehlo import Keywords
    from shimproxy.smtp.reply import Reply


@attrs.frozen
class Offering:
    """What decides how the keywords of one EHLO reply are offered."""

    policy: Policy
    sender_secured: bool
    """Whether there is TLS on the sender leg."""
    receiver_secured: bool
    """Whether there is TLS on the receiver leg."""
    reply: Reply
    """The receiver's EHLO reply."""


def _starttls(offering: Offering) -> bool | bytes:
    """The receiver's own where TLS is between the peers; shimproxy's own where the mail may then go on (RFC 3207)."""
    tls, secured = offering.policy.sender_tls, offering.sender_secured
    if tls is SenderTls.STARTTLS and not secured and (offering.receiver_secured or offering.policy.clear_allowed):
        return b"STARTTLS"
    return tls is SenderTls.OPAQUE and not (secured or offering.receiver_secured)


def _auth(offering: Offering) -> bool:
    """Not where shimproxy has logged in: no session can do so twice (RFC 4954 section 4)."""
    return offering.policy.login is None


def _pipelining(offering: Offering) -> bool:
    """Unless the operator turns it off (RFC 2920)."""
    return offering.policy.pipelining


def _chunking(offering: Offering) -> bool:
    """Not in LMTP: how many replies a refused last chunk has is for each receiver to say; some give one, some none."""
    return not offering.policy.lmtp


def _size(offering: Offering) -> bool | bytes:
    """The operator's limit where that is smaller than the receiver's (RFC 1870 section 4)."""
    largest_octets = offering.policy.sizes.largest_octets if offering.policy.sizes else None
    return largest_octets is None or size_offered(keywords(offering.reply), largest_octets) or True


@attrs.frozen
class Keyword:
    """What shimproxy does with one keyword."""

    name: bytes
    """In capitals."""
    offered: Callable[[Offering], bool | bytes] | None = attrs.field(default=None, kw_only=True)
    """How it is offered: True as the receiver offers it, False not at all; or a line to be offered instead, whether the
    receiver offers it or not. Without it, as the receiver offers it."""
    holds: Callable[[bytes, bytes], bool] = attrs.field(default=has_all, kw_only=True)
    """Whether its parameters, before and now, are as good now."""
    limits: bool = attrs.field(default=False, kw_only=True)
    """Whether it takes something away from a sender that was not told of it."""
    switches: str = attrs.field(default="", kw_only=True)
    """The attribute of Capabilities that says whether the sender was told of it, if anything depends on that: one of
    Switches."""


@attrs.define(eq=False)
class Switches:
    """What depends on keywords: an entry switches each of these, when the sender is offered its keyword or no more."""

    pipelining: bool = attrs.field(default=False, init=False)
    """Whether the sender was told that it need not wait for each reply (RFC 2920)."""
    chunks: bool = attrs.field(default=False, init=False)
    """Whether the sender was told that it may say BDAT (RFC 3030)."""
    tls: bool = attrs.field(default=False, init=False)
    """Whether the sender was told that it may say STARTTLS."""


KEYWORDS: Final = (
    Keyword(b"AUTH", offered=_auth),
    Keyword(b"STARTTLS", offered=_starttls, switches="tls"),
    Keyword(b"PIPELINING", offered=_pipelining, switches="pipelining"),
    Keyword(b"CHUNKING", offered=_chunking, switches="chunks"),
    Keyword(b"BINARYMIME", offered=_chunking),
    Keyword(b"ENHANCEDSTATUSCODES", switches="enhanced_codes"),
    Keyword(b"SIZE", offered=_size, holds=is_as_large, limits=True),
    Keyword(b"LIMITS", holds=is_as_wide, limits=True),
    Keyword(b"NO-SOLICITING", holds=has_no_more, limits=True),
    Keyword(b"DELIVERBY", holds=is_as_soon),
    Keyword(b"FUTURERELEASE", holds=is_as_late),
)
DECIDED: Final = tuple((each.name, each.offered) for each in KEYWORDS if each.offered)
"""The names of those whose offer depends on something, and on what: each EHLO reply goes through them."""
_BY_NAME: Final = {each.name: each for each in KEYWORDS}
_ANY_OTHER: Final = Keyword(b"")


def keeps(now: Keywords, before: Keywords) -> bool:
    """Whether `now` offers all that `before` has offered, and limits nothing that was not limited."""
    entries = ((_BY_NAME.get(name, _ANY_OTHER), name, parameters) for name, parameters in now.items())
    return before.keys() <= now.keys() and all(
        entry.holds(before.get(name, b""), parameters)
        for entry, name, parameters in entries
        if name in before or entry.limits
    )
