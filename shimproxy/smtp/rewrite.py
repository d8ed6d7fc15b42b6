"""Rules by which an operator has a receiver's refusals corrected: one 4yz or 5yz becomes another (RFC 5321 4.2.1).

Invariants:

1. Only refusals are looked at, and only refusals come of them: a 2yz or 3yz stays as it is, and so does a 421, which
   speaks of the connection.
2. What matching costs is bounded by the rule, whatever a receiver says: see `_pattern`.
3. The lines of what comes of it keep to RFC 5321 4.5.3.1.5, and each has an enhanced status code of the reply's own
   class if it has one (RFC 2034 section 4).
"""

from __future__ import annotations

import enum
import re
from typing import Final, NoReturn

import attrs

from shimproxy.smtp.reply import LINE_LIMIT_OCTETS, LocalReply, Reply

MOST_TEXT_OCTETS: Final = 512
"""So much of a reply is looked at."""
_MOST_PATTERN: Final = 200
"""Characters."""
_MOST_WAYS: Final = 4 * MOST_TEXT_OCTETS**2
"""In how many ways a pattern may match, at most: with two open repeats and some alternatives there are as many."""
_CLOSING: Final = 421


class RewritePlace(enum.StrEnum):
    """What a reply answers that a rule is about."""

    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    END_OF_DATA = "end-of-data"
    """Mail data or a chunk: the verdict, or with LMTP each of them."""


_RULE: Final = re.compile(r"\s*([A-Za-z-]+)\s*:\s*(.*\S)\s*=>\s*(.*\S)\s*", re.ASCII | re.DOTALL).fullmatch
_REPLACEMENT: Final = re.compile(r"([45][0-5][0-9])(?: ([245]\.[0-9]{1,3}\.[0-9]{1,3}))?(?: ([ -~]*[!-~]))?").fullmatch
_ENHANCED: Final = re.compile(rb"[245]\.([0-9]{1,3}\.[0-9]{1,3})(?: |$)").match
_PIECE: Final = re.compile(r"(\\[dDsSwW]|\\[^A-Za-z0-9]|\[\^?[^\]\\\[]+\]|[^\\\[\](){}|*+?^$])([*+?]?)|([()|])").match
"""A character or a class of them, with its repeat, or what groups."""


def _pattern(text: str) -> re.Pattern[bytes]:
    """The expression that `text` writes, if it is one of which matching is cheap. Raises ValueError with the mend.

    It may have characters, `.`, classes, groups with alternatives, and `?`; and `*` and `+` after a single character or
    class. So each `*`, `+`, `?` and group multiplies the ways in which it may match, and that number is bounded. A
    repeated group is refused: of `(a+)+` there are ways without number.
    """
    place, ways, depth, alternatives = 0, 1, 0, [1]
    while place < len(text):
        found = _PIECE(text, place)
        if not found:
            _refuse(text, f"{text[place]!r} at character {place + 1} is not allowed in a rule; {_WAYS_TO_WRITE}")
        place = found.end()
        match found[3]:
            case None:
                ways *= {"*": MOST_TEXT_OCTETS, "+": MOST_TEXT_OCTETS, "?": 2}.get(found[2], 1)
            case "(":
                depth += 1
                alternatives.append(1)
            case "|":
                alternatives[-1] += 1
            case _:
                if not depth:
                    _refuse(text, "')' closes no group; write \\) for the character")
                depth -= 1
                ways *= alternatives.pop()
                if text[place : place + 1] == "?":
                    place += 1
                    ways *= 2
                elif text[place : place + 1] in ("*", "+", "{"):
                    _refuse(text, f"a group may not be repeated; {_WAYS_TO_WRITE}")
        if ways * alternatives[0] > _MOST_WAYS:
            _refuse(text, "it could take too long; write at most two of * and +, and fewer alternatives")
    if depth:
        _refuse(text, "a group is not closed; write ) at its end")
    try:
        return re.compile(text.encode("ascii"), re.IGNORECASE | re.DOTALL)
    except re.error as error:
        _refuse(text, f"{error}; {_WAYS_TO_WRITE}")


_WAYS_TO_WRITE: Final = "write characters, ., [a-z], (a|b), and ?, * or + after one character"


def _refuse(text: str, problem: str) -> NoReturn:
    raise ValueError(f"{_shown(text)}: {problem}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MOST_PATTERN else f"{text[:_MOST_PATTERN]}...")


@attrs.frozen
class Rewrite:
    """One rule."""

    place: RewritePlace
    pattern: re.Pattern[bytes]
    code: int
    enhanced_code: bytes = b""
    text: str = ""
    """Takes the place of the receiver's; empty to keep that."""
    rule: str = ""
    """As the operator has written it."""

    def __str__(self) -> str:
        return self.rule

    @classmethod
    def parse(cls, rule: str) -> Rewrite:
        """From PLACE: PATTERN => CODE [ENHANCED-CODE] [TEXT]. Raises ValueError with the mend."""
        found = _RULE(rule) if len(rule) <= 2 * _MOST_PATTERN else None
        if not found:
            long = f" of at most {2 * _MOST_PATTERN} characters" if len(rule) > 2 * _MOST_PATTERN else ""
            raise ValueError(f"{_shown(rule)} is not a rule{long}; write one as in {_EXAMPLE!r}")
        place, text, replacement = found.groups()
        if place.lower() not in [*RewritePlace]:
            raise ValueError(f"{_shown(rule)}: {place!r} is none of {', '.join(RewritePlace)}")
        if not (text.isascii() and text.isprintable() and len(text) <= _MOST_PATTERN):
            problem = (
                f"the pattern must have printable ASCII, at most {_MOST_PATTERN} characters; write . for any other"
            )
            raise ValueError(f"{_shown(text)}: {problem}")
        if text[0] in "01236789":
            _refuse(text, "no reply that a rule may change begins so; write a pattern for 4yz or 5yz replies")
        to = _REPLACEMENT(replacement)
        if not to or int(to[1]) == _CLOSING or (to[2] and to[2][0] != to[1][0]):
            raise ValueError(
                f"{_shown(replacement)} is not a reply that a rule may make; write a 4yz or 5yz code other than 421; "
                "an enhanced code of the same class and a text may follow: 552 5.3.4"
            )
        return cls(
            RewritePlace(place.lower()), _pattern(text), int(to[1]), (to[2] or "").encode(), to[3] or "", rule.strip()
        )

    def applied(self, reply: Reply, *, enhanced: bool) -> Reply | None:
        """What the rule makes of a reply; None if it is not about that.

        `enhanced` is whether the sender was offered enhanced status codes, so that lines without one get one.
        """
        if not reply.refuses or reply.code == _CLOSING or not self.pattern.match(said(reply)):
            return None
        if self.text:
            own = LocalReply.make(self.code, self.enhanced_code.decode(), self.text)
            octets = (own.enhanced if enhanced else own.plain).octets
        else:
            texts = [text for line in reply.octets.splitlines() for text in self._texts(line[4:], enhanced=enhanced)]
            most = b"".join(b"%d-%s\r\n" % (self.code, text) for text in texts[:-1])
            octets = most + b"%d %s\r\n" % (self.code, texts[-1])
        return Reply(self.code, octets, holds_354=reply.holds_354)

    def _texts(self, text: bytes, *, enhanced: bool) -> list[bytes]:
        """The text of a line with another enhanced code, in pieces of at most a line."""
        found = _ENHANCED(text)
        code = self.enhanced_code or (b"%d.%s" % (self.code // 100, found[1]) if found else b"")
        text, before = text[found.end() :] if found else text, b""
        if code and (found or enhanced):
            before = code + b" " if text else code
        most_octets = LINE_LIMIT_OCTETS - len(b"500 \r\n") - len(before)
        return [before + text[start : start + most_octets] for start in range(0, len(text), most_octets)] or [before]


_EXAMPLE: Final = "end-of-data: 451 .* too (large|big) => 552 5.3.4"


def said(reply: Reply) -> bytes:
    """What a rule is held against: the code, and the texts of all lines after it, with a blank between them.

    An enhanced status code stands once, before the first text.
    """
    first, *others = reply.octets.splitlines()
    texts = [b"%d %s" % (reply.code, first[4:])]
    length = len(texts[0])
    for line in others:
        if length >= MOST_TEXT_OCTETS:
            break
        found = _ENHANCED(line[4:])
        texts.append(line[4:][found.end() :] if found else line[4:])
        length += len(texts[-1]) + 1
    return b" ".join(texts)[:MOST_TEXT_OCTETS]


def rewritten(
    reply: Reply, place: RewritePlace, rules: tuple[Rewrite, ...], *, enhanced: bool
) -> tuple[Reply, Rewrite] | None:
    """What the first of these rules makes of a reply that it is about, and that rule; None if there is none."""
    for rule in rules:
        if rule.place is place and (made := rule.applied(reply, enhanced=enhanced)):
            return made, rule
    return None
