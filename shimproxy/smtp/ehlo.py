"""The keywords of the EHLO reply (RFC 5321 4.1.1.1): what a receiver offers, and what is offered through the shim.

It does not know why a keyword is to go, but for those that never pass.
"""

from __future__ import annotations

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
    if own.isdigit() and len(own) < _MANY_DIGITS and 0 < int(own) <= limit_octets:
        return None
    return b"SIZE %d" % limit_octets


def _split(line: bytes) -> tuple[bytes, bytes]:
    # "AUTH=LOGIN" is how receivers of the 1990s wrote it: the keyword ends there too.
    words = line[4:].replace(b"=", b" ", 1).split(None, 1)
    return (words[0].upper(), words[1].strip() if len(words) > 1 else b"") if words else (b"", b"")
