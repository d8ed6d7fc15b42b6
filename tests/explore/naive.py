"""SMTP read by a second implementation, as simple as can be: the oracle's, which shares no code with shimproxy.

`replies` cuts what a receiver has said, or the sender has got, into replies. `Requests` cuts what a sender has sent
into what is to be answered: it needs the replies for that, as DATA and AUTH are followed by something else if they say
so.
"""

from __future__ import annotations

import re

import attrs

_LF_ONLY_END = re.compile(rb"(?:^|\n)\.\r?\n").search
_CHUNK = re.compile(rb"(?i)[ \t]*BDAT[ \t]+(\d+)([ \t]+LAST)?[ \t]*\r?\n").fullmatch


@attrs.define(eq=False)
class Reply:
    """One reply in a stream of octets."""

    code: int
    octets: bytes
    end: int
    """Where in the stream it ends."""
    well_formed: bool = True


def code_of(line: bytes) -> int:
    """The code that a line begins with, 0 if it begins with none."""
    code = line[:3]
    return int(code) if len(code) == 3 and code.isdigit() and b"200" <= code < b"600" and not line[3:4].isdigit() else 0


@attrs.define(eq=False)
class Replies:
    """Replies as they come."""

    found: list[Reply] = attrs.field(factory=list)
    codes_used: int = 0
    _octets: bytearray = attrs.field(factory=bytearray)
    _start: int = 0
    _looked: int = 0
    _well_formed: bool = True

    def feed(self, octets: bytes) -> list[Reply]:
        """The replies that are complete by these octets."""
        stream = self._octets
        stream += octets
        before = len(self.found)
        while (newline := stream.find(b"\n", self._looked)) >= 0:
            line = bytes(stream[self._looked : newline + 1])
            self._looked = newline + 1
            code = code_of(line)
            separator = line[3:4]
            well_formed = code > 0 and separator in (b" ", b"-") and line.endswith(b"\r\n") and b"\r" not in line[:-2]
            self._well_formed = self._well_formed and well_formed and (len(line) <= 512 or code == 334)
            if separator == b"-" and code:
                continue
            text = bytes(stream[self._start : self._looked])
            codes = {code_of(each) for each in text.split(b"\n")[:-1]}
            self.found.append(Reply(code, text, self._looked, self._well_formed and len(codes) == 1))
            self._start, self._well_formed = self._looked, True
        return self.found[before:]

    @property
    def rest(self) -> bytes:
        """What is no whole reply yet."""
        return bytes(self._octets[self._start :])


def replies(octets: bytes) -> Replies:
    """All replies in these octets."""
    found = Replies()
    found.feed(octets)
    return found


@attrs.define(eq=False)
class Request:
    """Something that a sender has sent whole and that is to be answered."""

    kind: str
    """LINE, MAIL, CHUNK or RESPONSE."""
    octets: bytes
    end: int
    """Where in the sender's stream it ends."""
    due: int = 1
    """How many replies it has."""
    last: bool = True
    """Whether a mail ends with it."""

    @property
    def verb(self) -> bytes:
        """The first word of a line."""
        return self.octets.split(None, 1)[0].upper() if self.octets.strip() else b""


@attrs.define(eq=False)
class Requests:
    """A sender's stream."""

    lf_only: bool = False
    lmtp: bool = False
    done: list[Request] = attrs.field(factory=list)
    mode: str = "LINE"
    """What comes next: LINE, MAIL, CHUNK, RESPONSE, or WAIT for a reply that decides; TLS, which passes unread."""
    due: int = 0
    """How many replies all that is done has."""
    octets: bytearray = attrs.field(factory=bytearray)
    begun: int = 0
    """Where in the stream what is not done begins."""
    _codes: list[int] = attrs.field(factory=list)
    _recipients: int = 0
    _answered: int = 0
    _chunk_octets: int = 0
    _chunk_last: bool = False

    def sent(self, octets: bytes) -> None:
        """The sender has sent these."""
        self.octets += octets
        self._go_on()

    def got(self, code: int) -> None:
        """The sender was given another reply, the greeting not counted."""
        self._codes.append(code)
        self._go_on()

    def secured(self) -> None:
        """TLS begins here: what came before it answers nothing."""
        self.begun = len(self.octets)
        self.mode = "LINE"

    def reply_due_at(self, index: int) -> int:
        """The index of the first reply to a request, the greeting not counted."""
        return sum(each.due for each in self.done[:index])

    def _go_on(self) -> None:
        while True:
            if self.mode == "WAIT":
                if len(self._codes) < self.due:
                    return
                self._decide(self._codes[self.due - 1])
            elif self.mode == "LINE":
                newline = self.octets.find(b"\n", self.begun)
                if newline < 0:
                    return
                self._line(newline + 1)
            elif self.mode == "RESPONSE":
                newline = self.octets.find(b"\n", self.begun)
                if newline < 0:
                    return
                self._add("RESPONSE", newline + 1)
                self.mode = "WAIT"
            elif self.mode == "MAIL":
                end = self._end_of_mail()
                if end is None:
                    return
                self._count_recipients()
                self._add("MAIL", end, due=max(1, self._recipients) if self.lmtp else 1)
                self._recipients = 0
                self.mode = "LINE"
            elif self.mode == "CHUNK":
                end = self._chunk_octets
                if len(self.octets) < end:
                    return
                self._add("CHUNK", end, last=self._chunk_last)
                self.mode = "LINE"
            else:
                return

    def _add(self, kind: str, end: int, *, due: int = 1, last: bool = True) -> None:
        self.done.append(Request(kind, bytes(self.octets[self.begun : end]), end, due, last))
        self.due += due
        self.begun = end

    def _line(self, end: int) -> None:
        line = bytes(self.octets[self.begun : end])
        words = line.split(None, 1)
        verb = words[0].upper() if words else b""
        chunk = _CHUNK(line)
        if chunk:
            self._chunk_octets, self._chunk_last = end + int(chunk[1]), bool(chunk[2])
            self.mode = "CHUNK"
            return
        self._add("LINE", end)
        if verb in (b"DATA", b"AUTH", b"STARTTLS"):
            self.mode = "WAIT"

    def _decide(self, code: int) -> None:
        request = self.done[-1]
        self.mode = "LINE"
        if code == 354 and request.verb == b"DATA":
            self.mode = "MAIL"
        elif code == 334:
            self.mode = "RESPONSE"
        elif code // 100 == 2 and request.verb == b"STARTTLS":
            self.mode = "TLS"

    def _count_recipients(self) -> None:
        """How many RCPT of the transaction were accepted."""
        place = self._recipients = 0
        for request in self.done:
            code = self._codes[place] if place < len(self._codes) else 0
            if request.verb in (b"MAIL", b"RSET", b"LHLO") or request.kind == "MAIL":
                self._recipients = 0
            elif request.verb == b"RCPT" and code // 100 == 2 and code != 221:
                self._recipients += 1
            place += request.due

    def _end_of_mail(self) -> int | None:
        start = self.begun
        if self.lf_only:
            found = _LF_ONLY_END(bytes(self.octets[start:]))
            return start + found.end() if found else None
        if self.octets.startswith(b".\r\n", start):
            return start + 3
        place = self.octets.find(b"\r\n.\r\n", start)
        return place + 5 if place >= 0 else None


def squashed(mail: bytes) -> bytes:
    """A mail without what a proxy may do to its lines to make them canonical, for comparison."""
    lines = re.split(rb"\n+", re.sub(rb"\0|\r(?!\n)", b" ", mail).replace(b"\r", b""))
    plain = [line.lstrip(b". ") for line in lines]
    return b"\n".join(line for line in plain if line.strip() not in (b"", b"."))


def has_strays(mail: bytes) -> bool:
    """Whether there is a CR, LF or NUL in it that is not part of a CRLF."""
    return b"\0" in mail or mail.count(b"\r\n") != mail.count(b"\r") or mail.count(b"\r\n") != mail.count(b"\n")
