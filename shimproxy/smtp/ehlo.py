"""The keywords of the EHLO reply (RFC 5321 4.1.1.1): what a receiver offers, and what is offered through the shim.

It does not know why a keyword is to go, but for those that never pass, nor which rule is whose parameters'.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs

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


_HIDEABLE: Final = re.compile(r"([A-Z0-9][A-Z0-9-]*)(?::([!-~]+))?", re.ASCII).fullmatch
_COMMANDS_OF_ALL: Final = frozenset({"HELO", "EHLO", "LHLO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT"})
_MOST_HIDEABLE: Final = 100
"""Characters of a keyword with its parameter."""


@attrs.frozen(order=True)
class HiddenKeyword:
    """What is not offered although the receiver does: a keyword, or one parameter of it."""

    keyword: bytes
    """In capitals."""
    parameter: bytes = b""
    """In capitals; empty if all of the keyword is hidden."""

    @classmethod
    def parse(cls, text: str) -> HiddenKeyword:
        """From KEYWORD or KEYWORD:PARAMETER. Raises ValueError with the mend."""
        shown = repr(text if len(text) <= _MOST_HIDEABLE else f"{text[:_MOST_HIDEABLE]}...")
        found = _HIDEABLE(text.upper()) if text.isascii() and len(text) <= _MOST_HIDEABLE else None
        if not found:
            raise ValueError(
                f"{shown} is not a keyword; write one, as in CHUNKING, or one parameter, as in AUTH:XOAUTH2"
            )
        if found[1] == "BDAT":
            raise ValueError(f"{shown} is a command; hide its keyword, CHUNKING")
        if found[1] in _COMMANDS_OF_ALL:
            raise ValueError(f"{shown} is a command that every receiver has; hide keywords of the reply to EHLO")
        return cls(found[1].encode(), (found[2] or "").encode())

    def __str__(self) -> str:
        return b":".join(each for each in (self.keyword, self.parameter) if each).decode()


@attrs.frozen
class Hidden:
    """All that is not offered to the senders of a listener although the receiver does, by the operator's decision."""

    keywords: frozenset[bytes]
    parameters: frozenset[HiddenKeyword] = frozenset()
    """Those of keywords of which the rest is offered."""

    @classmethod
    def of(cls, hidden: Collection[HiddenKeyword]) -> Hidden | None:
        """What these come to; None for nothing. BINARYMIME is hidden with CHUNKING, which it needs (RFC 3030 3)."""
        whole = {each.keyword for each in hidden if not each.parameter}
        if b"CHUNKING" in whole:
            whole.add(b"BINARYMIME")
        parts = frozenset(each for each in hidden if each.parameter and each.keyword not in whole)
        return cls(frozenset(whole), parts) if hidden else None

    def has_mechanism(self, line: bytes) -> bool:
        """Whether an AUTH command names a mechanism that is hidden (RFC 4954 section 4)."""
        words = line.upper().split(None, 2)
        return len(words) > 1 and HiddenKeyword(b"AUTH", words[1]) in self.parameters


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


def offering(
    reply: Reply, removed: Collection[bytes] = (), added: Collection[bytes] = (), hidden: Hidden | None = None
) -> Reply:
    """The EHLO reply without the keywords in `removed` or NEVER_OFFERED, and with those in `added` at its end.

    An added one may have parameters. What is `hidden` is in neither. Where nothing is to be changed, it is the same
    object.
    """
    octets = _offering(reply.code, reply.octets, frozenset(removed), tuple(added), hidden)
    return Reply(reply.code, octets) if octets else reply


@functools.lru_cache(maxsize=_REPLIES_KEPT)
def _offering(
    code: int, octets: bytes, removed: frozenset[bytes], added: tuple[bytes, ...], hidden: Hidden | None
) -> bytes | None:
    """The octets of an EHLO reply as it is given; None if nothing is to be changed."""
    lines = octets.splitlines(keepends=True)
    kept = lines[:1]
    for line in lines[1:]:
        keyword = _split(line)[0]
        if keyword not in removed and keyword not in NEVER_OFFERED:
            kept.append(line)
    kept += [b"%d-%s\r\n" % (code, keyword) for keyword in added]
    if hidden:
        kept[1:] = [shown for line in kept[1:] if (shown := _without(line, hidden))]
    if kept == lines:
        return None
    *most, last = kept
    return b"".join(line[:3] + b"-" + line[4:] for line in most) + last[:3] + b" " + last[4:]


def _without(line: bytes, hidden: Hidden) -> bytes:
    """A line of an EHLO reply without what is hidden of it; empty if nothing of it is left to be offered."""
    keyword, parameters = _split(line)
    if keyword in hidden.keywords:
        return b""
    words = parameters.split()
    kept = [each for each in words if not _is_hidden(keyword, each.upper(), hidden)]
    if len(kept) == len(words):
        return line
    name = line[4:].lstrip()[: len(keyword) + 1]  # with the "=" of receivers of the 1990s
    between = b"" if name.endswith(b"=") else b" "
    return line[:4] + name.rstrip() + between + b" ".join(kept) + b"\r\n" if kept else b""


def _is_hidden(keyword: bytes, parameter: bytes, hidden: Hidden) -> bool:
    """Whether a parameter is hidden: as it stands, or by what is before its value, as in RCPTMAX=100."""
    return not hidden.parameters.isdisjoint(
        {HiddenKeyword(keyword, parameter), HiddenKeyword(keyword, parameter.partition(b"=")[0])}
    )


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
