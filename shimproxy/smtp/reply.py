"""Replies (RFC 5321 4.2): the receiver's, read and made canonical, and the shim's own.

Invariants:

1. A reply without a violation comes out octet for octet as it went in.
2. A reply with one comes out in CRLF lines of at most 512 octets under the receiver's own code, whatever the
   segmentation was, and says which violations it had. A challenge (334) may have 12,288, and is never folded.
3. A 2yz or 3yz is made only of lines that all say so; where they contradict, there is no usable code.
4. What a sender may read as a value has no word of the shim's in it: a challenge stays empty, and a reply of several
   lines that ends in empty ones loses these, so that no EHLO reply gets a keyword.

A line has a code where it begins with three digits, 200 to 599, and goes on with

- a blank or "-", as it should, or with a tab, a CR or its end;
- anything else, but for a number that is longer ("25000 octets free", "250,000"). That counts on the first line of a
  reply; inside one only if the reply has this code already, as a text may well begin with a number ("500MB at most").

Such a line is the last of its reply unless a "-" follows the code. A line without a code is text of the reply that it
stands in; where none has begun, it is one alone, which has no usable code.

It does not know what a reply answers.
"""

from __future__ import annotations

import functools
import re

import attrs

from shimproxy.smtp.catalogue import Violation

LINE_LIMIT_OCTETS = 512  # RFC 5321 4.5.3.1.5, code and CRLF included
CHALLENGE_LIMIT_OCTETS = 12_288  # RFC 4954 section 4
REPLY_LIMIT_OCTETS = 65_536
_MOST_LINES = 2000
"""The text of more is cut, too."""
_LIMITS_UP_TO_THE_END = 4
"""A reply of so many times its limit has no end."""
_LEAST_LINE_OCTETS = 6  # what an empty line becomes: a code, a blank and CRLF
_TEXT_FOR_NONE = b"(the receiver gave no text)"
_CODES = {b"%d" % code: code for code in range(200, 600)}
_CHALLENGE = 334
_PLAIN = re.compile(rb"([2-5][0-9][0-9]) [^\r\n\0]{1,506}\r\n").fullmatch
_PLAIN_REPLIES_KEPT = 256
_LONG_REPLIES_KEPT = 16
_LONG_REPLY_OCTETS = 2048
"""What is kept of replies of several lines: those to EHLO, which take as long to read as all others of a session."""
OF_FORM = frozenset(
    {
        Violation.REPLY_BARE_NEWLINE,
        Violation.MISSING_TEXT,
        Violation.REPLY_LONG_LINE,
        Violation.MIXED_CODES,
        Violation.NOT_A_REPLY,
    }
)
"""Violations with which a reply can be relayed as it came, if it has a usable code."""
_OWN = re.compile(r"([2-5]\d\d) (?:([245]\.\d{1,3}\.\d{1,3}) )?(.*)", re.ASCII).fullmatch
_SEPARATORS = frozenset({b" ", b"-", b"\t", b"\r", b"\n", b""})
_END_A_REPLY = frozenset({b" ", b"\t", b"\r", b"\n"})
_LONGER_NUMBER = re.compile(rb"[0-9]{3}[.,]?[0-9]").match


def _code(line: bytes, known: list[int]) -> int:
    """The code of `line` where it goes on with a reply whose lines have the codes `known`, or 0 if it has none."""
    code = _CODES.get(line[:3], 0)
    if code and line[3:4] not in _SEPARATORS and ((known and code not in known) or _LONGER_NUMBER(line)):
        return 0
    return code


@functools.lru_cache(maxsize=16)
def _lines_of(code: int) -> re.Pattern[bytes]:
    """Lines with this code after which the reply goes on."""
    return re.compile(rb"(?:%d-[^\n]*+\n)++" % code)


@attrs.define
class Reply:
    """One whole reply, perhaps of several lines."""

    code: int
    """The reply code, or 0 where the receiver sent something without one."""
    octets: bytes
    """The reply as it is relayed."""
    violations: tuple[Violation, ...] = ()
    holds_354: bool = attrs.field(default=False, eq=False)
    """Whether one of its lines is a 354 although its code is another."""
    as_came: bytes = attrs.field(default=b"", eq=False)
    """What is relayed instead, where the operator has such violations passed on; empty if none has to be."""
    kind: int = attrs.field(init=False, eq=False, repr=False)
    """What the dialogue table goes by: a 3yz and 221 are their whole code, any other its first digit."""

    def __attrs_post_init__(self) -> None:
        code = self.code
        self.kind = code if 300 <= code < 400 or code == 221 else code // 100

    @property
    def severity(self) -> int:
        """The first digit of the code (RFC 5321 4.2.1), or 0."""
        return self.code // 100

    @property
    def refuses(self) -> bool:
        """Whether it is a 4yz or 5yz."""
        return self.code >= 400

    @property
    def asks_for_data(self) -> bool:
        """Whether whoever gave it may take what comes next for mail data."""
        return self.code == 354 or self.holds_354


@functools.lru_cache(maxsize=_PLAIN_REPLIES_KEPT)
def _plain(octets: bytes) -> Reply | None:
    """The reply of one well-formed line, if these octets are one: receivers say the same again and again."""
    found = _PLAIN(octets)
    return Reply(_CODES[found[1]], octets) if found else None


def lone_reply(octets: bytes) -> Reply | None:
    """The reply that is all of these octets, if that is one well-formed line."""
    return _plain(octets) if len(octets) <= LINE_LIMIT_OCTETS else None


@functools.lru_cache(maxsize=_LONG_REPLIES_KEPT)
def _of_lines(octets: bytes, limit_octets: int, passed: frozenset[Violation]) -> Reply | None:
    """The reply of several lines, if these octets are one and no more: receivers say the same to each EHLO."""
    reader = ReplyReader(limit_octets, passed=passed)
    reader.feed(octets)
    reply = reader.next_of_lines()
    return None if reader.unread else reply


@attrs.frozen
class LocalReply:
    """A reply of the shim's own, in two forms (RFC 2034)."""

    enhanced: Reply
    """With an enhanced status code, for senders that were offered those."""
    plain: Reply
    """Without."""

    @property
    def severity(self) -> int:
        """As Reply.severity."""
        return self.plain.severity

    @classmethod
    def make(cls, code: int, enhanced_code: str, text: str) -> LocalReply:
        """One line; `enhanced_code` is one of RFC 3463, or empty."""
        plain = Reply(code, f"{code} {text}\r\n".encode("ascii"))
        return cls(Reply(code, f"{code} {enhanced_code} {text}\r\n".encode("ascii")) if enhanced_code else plain, plain)

    @classmethod
    def parse(cls, text: str) -> LocalReply:
        """From a line as an operator writes it, with an enhanced status code or without."""
        found = _OWN(text)
        assert found, text
        return cls.make(int(found[1]), found[2] or "", found[3])


@attrs.define(eq=False)
class ReplyReader:
    """Makes replies of the octets that the receiver sends, in whatever pieces they come.

    A reply over `limit_octets` keeps the text up to there; of the rest, only the codes count. One over `most_octets`
    ends there, as if the receiver had ended: a 4yz or 5yz keeps its code, and any other has no usable one.
    """

    limit_octets: int = REPLY_LIMIT_OCTETS
    unread: bytes = b""
    """What lies here and is not yet part of a reply."""
    passed: frozenset[Violation] = frozenset()
    """A reply that has these violations alone is to be relayed as it came."""
    _lines: list[tuple[int, bytes]] = attrs.field(factory=list)  # each with its code
    _codes: list[int] = attrs.field(factory=list)  # the different codes, 0 for a line without; the last one last
    _room_octets: int = attrs.field(init=False)
    _cut: bool = False
    _dropped_octets: int = 0
    """How much of a reply over its limit is not kept."""

    def __attrs_post_init__(self) -> None:
        self._room_octets = self.limit_octets

    @property
    def empty(self) -> bool:
        """Whether nothing lies here, not even a part of a reply."""
        return not (self.unread or self._lines)

    @property
    def most_octets(self) -> int:
        """How much of a reply is waited for."""
        return _LIMITS_UP_TO_THE_END * self.limit_octets

    @property
    def _has_no_end(self) -> bool:
        """Whether more was dropped than is waited for."""
        return self._dropped_octets > self.most_octets - self.limit_octets

    @property
    def may_ask_for_data(self) -> bool:
        """Whether the reply of which a part lies here has a 354 in it."""
        return 354 in self._codes or self.unread.startswith(b"354")

    def feed(self, octets: bytes) -> None:
        """Take what the receiver sent."""
        self.unread = self.unread + octets if self.unread else octets

    def next_reply(self) -> Reply | None:
        """The next whole reply, or None until more octets are fed."""
        unread = self.unread
        if not self._lines:
            if plain := lone_reply(unread):
                # The way of nearly every reply: one well-formed line and nothing behind it.
                self.unread = b""
                return plain
            is_long = unread[3:4] == b"-" and len(unread) <= min(_LONG_REPLY_OCTETS, self.limit_octets)
            if is_long and (reply := _of_lines(unread, self.limit_octets, self.passed)):
                self.unread = b""
                return reply
        return self.next_of_lines()

    def next_of_lines(self) -> Reply | None:
        """As `next_reply`, whatever was read before."""
        if self._cut:
            self._drop_more()
        while end := self.unread.find(b"\n") + 1:
            line, self.unread = self.unread[:end], self.unread[end:]
            inside = bool(self._lines)
            if not inside and (plain := _plain(line)):
                return plain
            # A line without a code is noise inside a reply; alone, it cannot be waited upon.
            goes_on = line[3:4] == b"-" if self._take(line) else inside
            if not goes_on:
                return self._finish()
            if self._cut and self._has_no_end:
                return self._finish(ended=False)
        if len(self.unread) > self.limit_octets:
            # A line without end is kept as far as its text is; one octet more says that it was cut.
            kept = self.unread[: self.limit_octets + 1]
            self._dropped_octets += len(self.unread) - len(kept)
            self.unread = kept
            if self._has_no_end:
                self._take(kept)
                self.unread = b""
                return self._finish(ended=False)
        return None

    def _drop_more(self) -> None:
        """Drop the lines that only say again that the reply goes on, of one that is cut, all at once."""
        left_octets = self.most_octets - self.limit_octets - self._dropped_octets
        if self._codes[-1] and (found := _lines_of(self._codes[-1]).match(self.unread, 0, max(0, left_octets))):
            self._dropped_octets += found.end()
            self.unread = self.unread[found.end() :]

    def cut_off(self) -> Reply | None:
        """What can be made of the octets that lie here when the receiver has ended; None if there are none."""
        if self.unread:
            self._take(self.unread)
            self.unread = b""
        return self._finish(Violation.CUT_OFF, ended=False) if self._lines else None

    def _take(self, line: bytes) -> int:
        """Take a line; its code."""
        code = _code(line, self._codes)
        if code in self._codes:
            self._codes.remove(code)
        self._codes.append(code)
        if self._room_octets < _LEAST_LINE_OCTETS or len(self._lines) >= _MOST_LINES:
            self._cut = True
            self._dropped_octets += len(line)
            line = b""
        elif len(line) > self._room_octets + 1:
            self._cut = True
            self._dropped_octets += len(line) - self._room_octets
            line = line[: self._room_octets] + b"\r\n"  # what was cut has no line end to be judged
        if line:
            self._lines.append((code, line))
        self._room_octets = max(0, self._room_octets - max(len(line), _LEAST_LINE_OCTETS))
        return code

    def _finish(self, *found: Violation, ended: bool = True) -> Reply:
        """The reply of the lines that were taken; whether its last one has `ended`, as far as is known."""
        lines, codes, cut = self._lines, self._codes, self._cut
        self._lines, self._codes, self._cut, self._room_octets = [], [], False, self.limit_octets
        self._dropped_octets = 0
        violations = dict.fromkeys(found)
        known = [code for code in codes if code]
        if len(known) < len(codes):
            violations[Violation.NOT_A_REPLY] = None
        if len(known) > 1:
            violations[Violation.MIXED_CODES] = None
        # No acceptance is made of lines that contradict each other, nor of a reply of which lines may be missing.
        contradiction = len({code // 100 for code in known}) > 1
        last_code, last = lines[-1]
        unfinished = not ended and not (last_code and last[3:4] in _END_A_REPLY)
        if not lines[0][0] or ((contradiction or unfinished) and known[-1] < 400):
            return Reply(0, b"".join(line for _, line in lines), tuple(violations), 354 in codes)
        code = known[-1]
        most_octets = (CHALLENGE_LIMIT_OCTETS if code == _CHALLENGE else LINE_LIMIT_OCTETS) - _LEAST_LINE_OCTETS
        texts: list[bytes] = []
        for line_code, line in lines:
            texts += _canonical_texts(line_code, line, most_octets, violations)
        if not (texts[-1] or (code == _CHALLENGE and last[3:4] == b" ")):
            if not cut:
                violations[Violation.MISSING_TEXT] = None
            while len(texts) > 1 and not texts[-1]:
                texts.pop()
            if not texts[-1] and code != _CHALLENGE:
                texts[-1] = _TEXT_FOR_NONE
        if cut:
            violations[Violation.REPLY_LONG_LINE] = None
        if not violations:
            return Reply(code, b"".join(line for _, line in lines))
        digits = b"%d" % code
        octets = b"".join(digits + b"-" + text + b"\r\n" for text in texts[:-1]) + digits + b" " + texts[-1] + b"\r\n"
        as_came = b"".join(line for _, line in lines) if not cut and violations.keys() <= self.passed else b""
        return Reply(code, octets, tuple(violations), 354 in codes, as_came)


def _canonical_texts(code: int, line: bytes, most_octets: int, violations: dict[Violation, None]) -> list[bytes]:
    """The text of one line, without its code, if it has one, and its end, in pieces of at most so many octets.

    What was wrong with the line is added to `violations`.
    """
    text = line.rstrip(b"\r\n")
    if line[len(text) :] != b"\r\n" and Violation.CUT_OFF not in violations:
        violations[Violation.REPLY_BARE_NEWLINE] = None
    if b"\r" in text or b"\0" in text:
        violations[Violation.REPLY_BARE_NEWLINE] = None
        text = text.replace(b"\r", b" ").replace(b"\0", b" ")
    if code:
        separator = text[3:4]
        if separator not in _SEPARATORS or separator == b"\t":
            violations[Violation.NOT_A_REPLY] = None
        text = text[4:] if separator in _SEPARATORS else text[3:]
    if len(text) > most_octets:
        violations[Violation.REPLY_LONG_LINE] = None
    return [text[start : start + most_octets] for start in range(0, len(text), most_octets)] or [b""]
