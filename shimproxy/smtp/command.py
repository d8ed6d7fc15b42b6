"""The sender's commands (RFC 5321 4.1.1): which verb a line has, and whether it may be forwarded.

Invariants:

1. What is forwarded is the sender's line, octet for octet, apart from a bare LF that becomes CRLF.
2. Unless the operator has newlines passed, no CR, LF or NUL is ever inside a forwarded line, so that one line is one
   command to every receiver.
3. Nor is a line without a word ever forwarded: some receivers answer it, some drop it and say nothing.

It does not judge arguments or the order of commands: the receiver does.
"""

from __future__ import annotations

import enum
import re
from typing import Final

import attrs

from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.ehlo import NEVER_OFFERED
from shimproxy.smtp.foreign import PROXY, Foreign, foreign, is_of_a_signature
from shimproxy.smtp.newlines import Newlines


class Verb(enum.StrEnum):
    """The commands that the dialogue distinguishes; everything else is OTHER and forwarded as it came."""

    HELO = "HELO"
    EHLO = "EHLO"
    LHLO = "LHLO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    RSET = "RSET"
    NOOP = "NOOP"
    VRFY = "VRFY"
    EXPN = "EXPN"
    HELP = "HELP"
    QUIT = "QUIT"
    AUTH = "AUTH"
    BDAT = "BDAT"
    STARTTLS = "STARTTLS"
    OTHER = "OTHER"


DATA: Final = Verb.DATA
"""What every command is held against: from its class it takes ten times as long, in Python 3.11."""
HELLOS = frozenset({Verb.HELO, Verb.EHLO, Verb.LHLO})
GROUPED: Final = frozenset({Verb.MAIL, Verb.RCPT, Verb.RSET})
"""What a sender may go on after without the reply (RFC 2920 section 3.1); mail data are the other."""
_FOR_NO_RECEIVER: Final = NEVER_OFFERED | {b"PROXY"}  # which says who the sender is, as XCLIENT does
NEVER_LET_THROUGH: Final = frozenset({b"XCLIENT", b"XFORWARD", b"PROXY"})
"""Words of the commands by which a sender says who it is, to a receiver that may trust shimproxy's address."""
REFUSED: Final = _FOR_NO_RECEIVER | {b"LHLO"}
"""Words of the commands that no receiver is given."""
REFUSED_IN_LMTP: Final = _FOR_NO_RECEIVER | {b"HELO", b"EHLO"}
"""The same where receivers speak LMTP (RFC 2033 section 4.1)."""

# Commands of extensions that the dialogue need not tell apart.
_FURTHER_VERBS = frozenset({b"BURL", b"ETRN", b"SAML", b"SEND", b"SOML"})

_VERBS = {verb.value.encode(): verb for verb in Verb if verb is not Verb.OTHER}
_OTHER = Verb.OTHER
# Larger counts overflow in some receivers, which would read the rest of the chunk as commands.
LARGEST_CHUNK_OCTETS: Final = 2**31 - 1
_CHUNK = re.compile(rb"BDAT[ \t]+(\d{1,10})([ \t]+LAST)?[ \t]*\r\n", re.IGNORECASE).fullmatch
_UNNAMED = b"[127.0.0.1]"  # RFC 5321 4.1.3: who has no name gives an address
_CANCELLATION = b"*\r\n"
_BEGINNING_OCTETS = 64
_FIRST_WORD = re.compile(rb"[ \t]*([^ \t\r\n\0]*)").match
_PLAIN = re.compile(rb"([A-Za-z0-9-]++)(?:[ \t][^\r\n\0]*+)?\r\n").fullmatch  # without a way back, so that it is fast


_WITHOUT_ARGUMENTS = (Verb.DATA, Verb.RSET, Verb.NOOP, Verb.QUIT)
_ADDRESSED = {
    word: verb for verb in (Verb.MAIL, Verb.RCPT) for word in (b"%s " % verb.encode(), b"%s " % verb.lower().encode())
}
"""As it begins, in the spellings that mail programs have -> its verb."""
_SPECIAL = frozenset({Verb.BDAT, Verb.STARTTLS})


@attrs.define
class Command:
    """One command line of the sender."""

    verb: Verb
    line: bytes
    """What is forwarded: the line with its CRLF."""
    refused: bool = False
    """Whether the shim answers 502 itself, because the extension is not offered through it."""
    violation: Violation | None = None
    forwardable: bool = True
    """Whether receivers may see the line: to all of them it is one command, or the operator does not mind."""
    dropped_octets: int = 0
    """How long the line was, where nothing is kept of it but its verb."""
    foreign: Foreign | None = None
    """What it is, if that is none of SMTP's."""

    @property
    def plain(self) -> bool:
        """Whether there is nothing about it but to forward it."""
        return self.violation is None and not self.refused and self.verb not in _SPECIAL

    @property
    def word(self) -> str:
        """Its verb as the sender has it, in capitals; only of a command that the dialogue knows, or refuses."""
        return _first_word(self.line).decode("ascii") if self.refused else self.verb.value

    @property
    def octets(self) -> int:
        """How long it was."""
        return self.dropped_octets or len(self.line)

    @property
    def fault(self) -> dict[str, int | str]:
        """What is to be told of its violation."""
        if self.foreign:
            return {"what": self.foreign.what, "mend": self.foreign.mend, "octets": self.octets}
        fault: dict[str, int | str] = {"verb": self.verb.value, "octets": self.octets}
        if self.violation is Violation.BARE_NEWLINE:
            fault["bare_lf"] = 1  # with a CR or a NUL in it, it is `unknown-octets`
        elif self.violation is Violation.UNKNOWN_OCTETS:
            fault |= {"bare_cr": self.line[:-2].count(b"\r"), "nul": self.line.count(b"\0")}
        return fault

    @property
    def known(self) -> bool:
        """Whether it begins as a command does, and not as the first line of a mail does."""
        return self.verb is not _OTHER or self.refused or _first_word(self.line) in _FURTHER_VERBS


QUIT: Final = Command(Verb.QUIT, b"QUIT\r\n")
RESET: Final = Command(Verb.RSET, b"RSET\r\n")
START_TLS: Final = Command(Verb.STARTTLS, b"STARTTLS\r\n")
_ALONE = {b"%s\r\n" % verb.encode(): Command(verb, b"%s\r\n" % verb.encode()) for verb in _WITHOUT_ARGUMENTS}


def lone_command(octets: bytes) -> Command | None:
    """The command that is all of these octets, if nothing is out of the common about it.

    None also for what is no known verb, and for the verbs that may be refused.
    """
    alone = _ALONE.get(octets)
    if alone is not None:
        return alone
    verb = _ADDRESSED.get(octets[:5])
    return Command(verb, octets) if verb is not None and _PLAIN(octets) else None


@attrs.define(eq=False)
class CommandReader:
    """Makes commands of the octets that the sender sends, in whatever pieces they come.

    A line over `limit_octets`, its line end not counted, is dropped up to its LF and comes out as a command with the
    violation LONG_LINE, or AUTH_TOO_LONG, of which only the verb is known.
    """

    limit_octets: int
    newlines: Newlines = Newlines.NORMALISE
    lf_ends_lines: bool = False
    """Whether the sender knows no CR, so that there is nothing to be said about it."""
    refused: frozenset[bytes] = REFUSED
    """What the shim answers 502 itself."""
    ahead: bytes = b""
    """What lies here behind the last command."""
    _beginning: bytes = b""
    """Of a line that is over the limit: the last one, or that in progress."""
    _dropped_octets: int = 0
    """How much of it was dropped so far, with its line end once that is met."""
    _empty_lines: int = 0
    """How many came one after the other, commands in good form between them left out."""
    _skipping: bool = False  # the line in progress is over the limit

    @property
    def empty(self) -> bool:
        """Whether nothing lies here, not even a part of a command."""
        return not (self.ahead or self._skipping)

    def feed(self, octets: bytes) -> None:
        """Take what the sender sent."""
        self.ahead = self.ahead + octets if self.ahead else octets

    def take_ahead(self) -> bytes:
        """What lies here behind the last command, which the caller takes over."""
        ahead, self.ahead = self.ahead, b""
        return ahead

    def next_line(self) -> bytes | None:
        """The next line with its LF, or None until more octets are fed; empty if it was over the limit."""
        unread = self.ahead
        end = unread.find(b"\n") + 1
        if not end:
            if self._skipping or self._is_too_long(unread):
                self._drop(unread)
                self.ahead = b""
            return None
        if end == len(unread):
            line, self.ahead = unread, b""
        else:
            line, self.ahead = unread[:end], unread[end:]
        if self._skipping or (end > self.limit_octets and self._is_too_long(line)):
            self._drop(line)
            self._skipping = False
            return b""
        return line

    def _is_too_long(self, octets: bytes) -> bool:
        """Whether a line, or the beginning of one, is over the limit; what may be its line end is not counted."""
        limit_octets = self.limit_octets
        return len(octets) > limit_octets and len(octets.removesuffix(b"\n").removesuffix(b"\r")) > limit_octets

    def _drop(self, octets: bytes) -> None:
        if not self._skipping:
            beginning = octets[: min(_BEGINNING_OCTETS, self.limit_octets)]  # which is there at every segmentation
            self._skipping, self._beginning, self._dropped_octets = True, beginning, 0
        self._dropped_octets += len(octets)

    def next_command(self) -> Command | None:
        """The next command, or None until more octets are fed."""
        alone = _ALONE.get(self.ahead)
        if alone and not self._skipping:
            self.ahead = b""
            return alone
        plain = _PLAIN(self.ahead)
        fits = len(self.ahead) <= self.limit_octets or not self._is_too_long(self.ahead)
        if plain and fits and not self._skipping:
            # The way of nearly every command: one well-formed line and nothing behind it.
            self.ahead = b""
            word = plain[1].upper()
            verb = _VERBS.get(word, _OTHER)
            if verb is _OTHER and (found := foreign(plain.string)):
                return _of_none(found, plain.string)
            return Command(verb, plain.string, word in self.refused)
        if command := self.next_foreign():
            return command
        line = self.next_line()
        if line is None:
            return None
        if is_of_a_signature(line, self._empty_lines):
            return _of_none(PROXY, line)
        if line == b"\r\n":
            self._empty_lines += 1
        elif self._empty_lines and not _PLAIN(line):
            self._empty_lines = 0
        if not line:
            verb = _VERBS.get(_first_word(self._beginning), _OTHER)
            violation = Violation.AUTH_TOO_LONG if verb is Verb.AUTH else Violation.LONG_LINE
            return Command(verb, b"", violation=violation, forwardable=False, dropped_octets=self._dropped_octets)
        return command_from_line(line, self.newlines, self.refused, lf_ends_lines=self.lf_ends_lines)

    def next_foreign(self) -> Command | None:
        """All that lies here as one command, if it begins with what is none of SMTP's."""
        found = None if self._skipping else foreign(self.ahead)
        return _of_none(found, self.take_ahead()) if found else None

    def next_response(self) -> Command | None:
        """The next response within AUTH (RFC 4954 section 4), or None until more octets are fed."""
        line = self.next_line()
        if line is None:
            return None
        if not line:
            too_long, octets = Violation.AUTH_TOO_LONG, self._dropped_octets
            return Command(Verb.AUTH, _CANCELLATION, violation=too_long, dropped_octets=octets)
        return response_from_line(line, self.newlines, lf_ends_lines=self.lf_ends_lines)


def _of_none(found: Foreign, octets: bytes) -> Command:
    return Command(
        _OTHER, b"", violation=Violation.NOT_SMTP, forwardable=False, dropped_octets=len(octets), foreign=found
    )


def command_from_line(
    line: bytes,
    newlines: Newlines = Newlines.NORMALISE,
    refused: frozenset[bytes] = REFUSED,
    *,
    lf_ends_lines: bool = False,
) -> Command:
    """The command in `line`, which ends in LF."""
    if line.isspace():
        return Command(_OTHER, line, violation=Violation.EMPTY_LINE, forwardable=False)
    word = _first_word(line)
    line, violation, forwardable = _in_form(line, newlines, lf_ends_lines=lf_ends_lines)
    return Command(_VERBS.get(word, _OTHER), line, word in refused, violation, forwardable)


def _in_form(line: bytes, newlines: Newlines, *, lf_ends_lines: bool) -> tuple[bytes, Violation | None, bool]:
    """What is forwarded for `line`, what was wrong with it, and whether a receiver may see it."""
    violation = None
    forwardable = True
    if lf_ends_lines or newlines is not Newlines.PASS:
        if line[-2:] != b"\r\n":
            line = line[:-1] + b"\r\n"
            if not lf_ends_lines:
                violation = Violation.BARE_NEWLINE
                forwardable = newlines is Newlines.NORMALISE
        if b"\r" in line[:-2] or b"\0" in line:
            violation = Violation.UNKNOWN_OCTETS
            forwardable = False
    return line, violation, forwardable


def response_from_line(line: bytes, newlines: Newlines = Newlines.NORMALISE, *, lf_ends_lines: bool = False) -> Command:
    """What is forwarded for a response within AUTH (RFC 4954 section 4).

    An empty line is one. A line that no receiver should see cancels the exchange, as "*" does.
    """
    forwarded, violation, forwardable = _in_form(line, newlines, lf_ends_lines=lf_ends_lines)
    if forwardable:
        return Command(Verb.AUTH, forwarded, violation=violation)
    return Command(Verb.AUTH, _CANCELLATION, violation=violation, dropped_octets=len(line))


def name_given(command: Command) -> bytes:
    """The name that HELO, EHLO or LHLO gives; empty if it gives none, and for any other command."""
    words = command.line.split(None, 1) if command.verb in HELLOS else []
    return words[1].strip() if len(words) == 2 else b""


def hello_like(command: Command, *, lmtp: bool) -> Command:
    """EHLO, or LHLO in LMTP, with the name that a command of the sender's gives, if it does; its own, if it is that."""
    verb, name = Verb.LHLO if lmtp else Verb.EHLO, name_given(command)
    if command.verb is verb and name:
        return command
    return Command(verb, b"%s %s\r\n" % (verb.encode(), name or _UNNAMED))


@attrs.frozen
class Chunk:
    """The chunk that a BDAT command announces (RFC 3030 section 2)."""

    size_octets: int
    last: bool


def chunk_of(line: bytes) -> Chunk | None:
    """The chunk that a BDAT command announces, or None if it doesn't say so without a doubt."""
    found = _CHUNK(line)
    if found is None or int(found[1]) > LARGEST_CHUNK_OCTETS:
        return None
    return Chunk(int(found[1]), found[2] is not None)


def _first_word(octets: bytes) -> bytes:
    word = _FIRST_WORD(octets)
    return word[1].upper() if word else b""  # RFC 5321 2.4: verbs are not case sensitive
