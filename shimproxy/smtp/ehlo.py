"""The keywords of the EHLO reply (RFC 5321 4.1.1.1): what a receiver offers, and what is offered through the shim.

It does not know why a keyword is to go, but for those that never pass, nor which rule is whose parameters'.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Collection

_MANY_DIGITS = 20
"""A number of as many is more than any limit."""
Keywords = Mapping[bytes, bytes]
"""Keyword in capitals -> its parameters."""
_REPLIES_KEPT: Final = 16
"""Of so many replies it is kept what they offer: a receiver says the same to each EHLO."""

NEVER_OFFERED = frozenset(
    {
        # More than one reply to mail data, or octets that are not lines.
        b"PRDR",
        b"XEXCH50",
        b"X-LINK2STATE",
        b"X-EXPS",
        b"X-ANONYMOUSTLS",
        # The roles of the two sides change, so that the shim would stand the wrong way round.
        b"TURN",
        b"ATRN",
        # A sender that is not trusted must not tell the receiver who it is.
        b"XCLIENT",
        b"XFORWARD",
    }
)


def keywords(reply: Reply) -> Keywords:
    """What the EHLO reply offers."""
    return _keywords(reply.octets)


@functools.lru_cache(maxsize=_REPLIES_KEPT)
def _keywords(octets: bytes) -> Keywords:
    found: dict[bytes, bytes] = {}
    for line in octets.splitlines()[1:]:
        keyword, parameters = _split(line)
        if keyword:
            found[keyword] = found[keyword] + b" " + parameters if keyword in found else parameters
    return found


def offering(reply: Reply, removed: Collection[bytes] = (), added: Collection[bytes] = ()) -> Reply:
    """The EHLO reply without the keywords in `removed` or NEVER_OFFERED, and with those in `added` at its end.

    An added one may have parameters. Where nothing is to be changed, it is the same object.
    """
    octets = _offering(reply.code, reply.octets, frozenset(removed), tuple(added))
    return Reply(reply.code, octets) if octets else reply


@functools.lru_cache(maxsize=_REPLIES_KEPT)
def _offering(code: int, octets: bytes, removed: frozenset[bytes], added: tuple[bytes, ...]) -> bytes | None:
    """The octets of an EHLO reply as it is given; None if nothing is to be changed."""
    lines = octets.splitlines(keepends=True)
    kept = lines[:1]
    for line in lines[1:]:
        keyword = _split(line)[0]
        if keyword not in removed and keyword not in NEVER_OFFERED:
            kept.append(line)
    kept += [b"%d-%s\r\n" % (code, keyword) for keyword in added]
    if len(kept) == len(lines) and not added:
        return None
    *most, last = kept
    return b"".join(line[:3] + b"-" + line[4:] for line in most) + last[:3] + b" " + last[4:]


def size_offered(receivers: Keywords, limit_octets: int) -> bytes | None:
    """The SIZE keyword to be offered instead of the receiver's, or None to leave that (RFC 1870 section 4).

    "SIZE 0", and SIZE alone, mean that the receiver has no fixed limit.
    """
    own = receivers.get(b"SIZE", b"")
    if _is_number(own) and 0 < int(own) <= limit_octets:
        return None
    return b"SIZE %d" % limit_octets


def has_all(before: bytes, now: bytes) -> bool:
    """Whether each parameter is offered still: so it is with AUTH and any keyword whose parameters are offers."""
    return {*before.upper().split()} <= {*now.upper().split()}


def has_no_more(before: bytes, now: bytes) -> bool:
    """Whether NO-SOLICITING (RFC 3865) excludes nothing more."""
    return has_all(now, before)


def is_as_large(before: bytes, now: bytes) -> bool:
    """Whether SIZE (RFC 1870) allows as large a mail: no number, and 0, is any size."""
    return _smallest(now) >= _smallest(before)


def _smallest(parameters: bytes) -> float:
    return min((int(each) for each in parameters.split() if _is_number(each) and int(each)), default=math.inf)


def is_as_soon(before: bytes, now: bytes) -> bool:
    """Whether DELIVERBY (RFC 2852) allows as short a time: no number, and 0, is any time."""
    return _seconds(now) <= _seconds(before)


def _seconds(parameters: bytes) -> int:
    return max((int(each) for each in parameters.split() if _is_number(each)), default=0)


def is_as_late(before: bytes, now: bytes) -> bool:
    """Whether FUTURERELEASE (RFC 4865) allows as long a time, in seconds, and as late a one, in UTC."""
    pairs = zip(before.split(), now.split(), strict=False)
    return len(now.split()) >= len(before.split()) and all(
        int(then) <= int(this) if _is_number(then) and _is_number(this) else then <= this for then, this in pairs
    )


def is_as_wide(before: bytes, now: bytes) -> bool:
    """Whether LIMITS (RFC 9422), each of which has a name and is the most of something, are as wide."""
    were = _limits(before)
    return all(
        name in were
        and (limit == were[name] or (_is_number(limit) and _is_number(were[name]) and int(limit) >= int(were[name])))
        for name, limit in _limits(now).items()
    )


def _limits(parameters: bytes) -> dict[bytes, bytes]:
    pairs = (each.partition(b"=") for each in parameters.upper().split())
    return {name: limit for name, _, limit in pairs}


def _is_number(word: bytes) -> bool:
    return word.isdigit() and len(word) < _MANY_DIGITS


def _split(line: bytes) -> tuple[bytes, bytes]:
    words = line[4:].split(None, 1)
    if not words:
        return b"", b""
    # "AUTH=LOGIN" is how receivers of the 1990s wrote it: the keyword ends there too, but not in LIMITS RCPTMAX=1000.
    keyword, _, first = words[0].partition(b"=")
    rest = words[1].strip().removeprefix(b"=") if len(words) > 1 else b""
    return keyword.upper(), b" ".join([each for each in (first, rest) if each])
