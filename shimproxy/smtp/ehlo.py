"""The keywords of the EHLO reply (RFC 5321 4.1.1.1): what a receiver offers, and what is offered through the shim.

It does not know why a keyword is to go, but for those that never pass.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_MANY_DIGITS = 20
"""A number of as many is more than any limit."""
Keywords = dict[bytes, bytes]
"""Keyword in capitals -> its parameters."""

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
    found: Keywords = {}
    for line in reply.octets.splitlines()[1:]:
        keyword, parameters = _split(line)
        if keyword:
            found[keyword] = found[keyword] + b" " + parameters if keyword in found else parameters
    return found


def offering(reply: Reply, removed: Collection[bytes] = (), added: Sequence[bytes] = ()) -> Reply:
    """The EHLO reply without the keywords in `removed` or NEVER_OFFERED, and with those in `added` at its end.

    An added one may have parameters. Where nothing is to be changed, it is the same object.
    """
    lines = reply.octets.splitlines(keepends=True)
    kept = lines[:1]
    for line in lines[1:]:
        keyword = _split(line)[0]
        if keyword not in removed and keyword not in NEVER_OFFERED:
            kept.append(line)
    kept += [b"%d-%s\r\n" % (reply.code, keyword) for keyword in added]
    if len(kept) == len(lines) and not added:
        return reply
    *most, last = kept
    octets = b"".join(line[:3] + b"-" + line[4:] for line in most) + last[:3] + b" " + last[4:]
    return Reply(reply.code, octets)


def size_offered(receivers: Keywords, limit_octets: int) -> bytes | None:
    """The SIZE keyword to be offered instead of the receiver's, or None to leave that (RFC 1870 section 4).

    "SIZE 0", and SIZE alone, mean that the receiver has no fixed limit.
    """
    own = receivers.get(b"SIZE", b"")
    if _is_number(own) and 0 < int(own) <= limit_octets:
        return None
    return b"SIZE %d" % limit_octets


def keeps(now: Keywords, before: Keywords) -> bool:
    """Whether `now` offers all that `before` has offered, and limits nothing that was not limited."""
    return before.keys() <= now.keys() and all(
        _RULES.get(keyword, _has_all)(before.get(keyword, b""), parameters)
        for keyword, parameters in now.items()
        if keyword in before or keyword in _LIMITING
    )


def _has_all(before: bytes, now: bytes) -> bool:
    """AUTH and any other keyword whose parameters are each an offer."""
    return {*before.upper().split()} <= {*now.upper().split()}


def _has_no_more(before: bytes, now: bytes) -> bool:
    """NO-SOLICITING (RFC 3865): what is not taken."""
    return _has_all(now, before)


def _is_as_large(before: bytes, now: bytes) -> bool:
    """SIZE (RFC 1870): none, and 0, is any size."""
    return _smallest(now) >= _smallest(before)


def _smallest(parameters: bytes) -> float:
    return min((int(each) for each in parameters.split() if _is_number(each) and int(each)), default=math.inf)


def _is_as_soon(before: bytes, now: bytes) -> bool:
    """DELIVERBY (RFC 2852): the shortest time that may be asked for; none, and 0, is any time."""
    return _seconds(now) <= _seconds(before)


def _seconds(parameters: bytes) -> int:
    return max((int(each) for each in parameters.split() if _is_number(each)), default=0)


def _is_as_late(before: bytes, now: bytes) -> bool:
    """FUTURERELEASE (RFC 4865): the longest time in seconds, and the latest one, in UTC."""
    pairs = zip(before.split(), now.split(), strict=False)
    return len(now.split()) >= len(before.split()) and all(
        int(then) <= int(this) if _is_number(then) and _is_number(this) else then <= this for then, this in pairs
    )


def _is_as_wide(before: bytes, now: bytes) -> bool:
    """LIMITS (RFC 9422): each has a name, and is the most of something."""
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


_RULES = {
    b"SIZE": _is_as_large,
    b"LIMITS": _is_as_wide,
    b"NO-SOLICITING": _has_no_more,
    b"DELIVERBY": _is_as_soon,
    b"FUTURERELEASE": _is_as_late,
}
"""Keyword -> whether its parameters, before and now, are as good now."""
_LIMITING = frozenset({b"SIZE", b"LIMITS", b"NO-SOLICITING"})
"""Keywords that take something away from whoever was not told of them."""


def _split(line: bytes) -> tuple[bytes, bytes]:
    words = line[4:].split(None, 1)
    if not words:
        return b"", b""
    # "AUTH=LOGIN" is how receivers of the 1990s wrote it: the keyword ends there too, but not in LIMITS RCPTMAX=1000.
    keyword, _, first = words[0].partition(b"=")
    rest = words[1].strip().removeprefix(b"=") if len(words) > 1 else b""
    return keyword.upper(), b" ".join([each for each in (first, rest) if each])
