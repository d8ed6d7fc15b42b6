"""What senders say in lines: commands, EHLO and AUTH lines, BDAT, arguments (smtp/command.py and what reads a line)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shimproxy.smtp import arguments, command, foreign, tidy, xclient
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Chunk, Command, CommandReader, Verb
from shimproxy.smtp.newlines import Newlines
from tests.fuzz.target import Target, all_alike, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_LIMIT_OCTETS = 512
_NEXT: dict[str, Callable[[CommandReader], Command | None]] = {
    "commands": CommandReader.next_command,
    "responses": CommandReader.next_response,
}
_Read = tuple[str, bytes, bool, Violation | None, bool, int]
"""Verb, line, whether it is refused, violation, whether it may be forwarded, octets."""
_FORMS = [(newlines, False) for newlines in Newlines] + [(Newlines.NORMALISE, True)]
_WORDS = (
    *(b"%s" % verb.value.encode() for verb in Verb),
    *(b"XCLIENT", b"turn", b"BURL", b"PROXY TCP4 ", b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n", b"GET / HTTP/1.1"),
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b"\x0b", b"\x16\x03", b"\x80\x00\x01\x03\x00", b"*", b"=", b"\0\r\n"),
    *(b" FROM:<", b" TO:<", b"a@b.example", b"@", b">", b" SIZE=1000", b'"', b"\\", b"<", b":", b"[", b"]", b" LAST"),
    *(b"RSET\r\n", b"BDAT 5 LAST\r\n", b"BDAT 2147483648\r\n", b"x" * 503, b"y" * 64, b".", b"-", b",", b"\xe9"),
)
_SEEDS = (
    b"EHLO me.example\r\nMAIL FROM:<a@b.example> SIZE=1000\r\nRCPT TO:<c@d.example>\r\nDATA\r\n",
    b"AUTH PLAIN dGVzdA==\r\nAUTH LOGIN\r\n*\r\n",
    b"BDAT 86 LAST\r\nRSET\r\nQUIT\r\n",
    b"HELO [127.0.0.1]\nNOOP\r\n \r\n",
    b"NOOP " + b"x" * 507 + b"\r\nRSET\r\n",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\r\nRSET\r\n\r\n\0\r\n",  # the signature was known in pieces, and not at once
)


def read(pieces: Iterable[bytes], newlines: Newlines, *, lf: bool, what: str = "commands") -> list[_Read]:
    """What is read of what comes in these pieces.

    Up to what is none of SMTP's, which is one command with all that lies there. Empty lines before that are left out:
    whether they are its beginning depends on what else was read at once.
    """
    reader = CommandReader(_LIMIT_OCTETS, newlines, lf_ends_lines=lf)
    found = list[_Read]()
    for piece in pieces:
        reader.feed(piece)
        while each := _NEXT[what](reader):
            assert each.octets == (each.dropped_octets or len(each.line))
            assert each.known in (True, False)
            if each.foreign:
                while found and found[-1][3] is Violation.EMPTY_LINE:
                    found.pop()
                return [*found, ("OTHER", b"", False, Violation.NOT_SMTP, False, 0)]
            found.append(
                (each.verb.value, each.line, each.refused, each.violation, each.forwardable, each.dropped_octets)
            )
    return found


# -- the naive definition

_NAIVE_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_NAIVE_FOREIGN = re.compile(
    rb"(?s)\x16\x03|[\x80-\xff].\x01\x03[\0-\x03]|PROXY (TCP4 |TCP6 |UNKNOWN[ \r])|\r\n\r\n\0\r\nQUIT\n|"
    rb"(GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI) [^ \r\n]+ HTTP/[0-9]"
)
_NAIVE_REFUSED = re.findall(
    r"\S+", "PRDR XEXCH50 X-LINK2STATE X-EXPS X-ANONYMOUSTLS TURN ATRN XCLIENT XFORWARD PROXY LHLO"
)
_NAIVE_VERBS = re.findall("[A-Z]+", "HELO EHLO LHLO MAIL RCPT DATA RSET NOOP VRFY EXPN HELP QUIT AUTH BDAT STARTTLS")


def naive(stream: bytes, newlines: Newlines, *, lf: bool, responses: bool = False) -> list[_Read]:
    """The same: line after line of the whole stream."""
    found, at, empty = list[_Read](), 0, 0
    while at < len(stream):
        end = stream.find(b"\n", at) + 1
        line = stream[at:end] if end else b""
        is_signature = line == b"\0\r\n" and empty >= 2
        if not responses and (_NAIVE_FOREIGN.match(stream, at) or is_signature):
            while found and found[-1][3] is Violation.EMPTY_LINE:
                found.pop()
            return [*found, ("OTHER", b"", False, Violation.NOT_SMTP, False, 0)]
        if not end:
            break
        found.append(_naive_line(line, newlines, lf=lf, responses=responses))
        if line == b"\r\n":
            empty += 1
        elif not _naive_is_plain(line):
            empty = 0
        at = end
    return found


def _naive_is_plain(line: bytes) -> bool:
    return bool(re.fullmatch(rb"[A-Za-z0-9-]+([ \t][^\r\n\0]*)?\r\n", line)) and len(line) <= _LIMIT_OCTETS + 2


def _naive_line(line: bytes, newlines: Newlines, *, lf: bool, responses: bool) -> _Read:
    content = re.sub(rb"\r?\n\Z", b"", line)
    word = re.sub(rb"(?s)\A[ \t]*([^ \t\r\n\0]*).*", rb"\1", line).upper().decode("latin-1")
    if len(content) > _LIMIT_OCTETS:
        if responses:
            return "AUTH", b"*\r\n", False, Violation.AUTH_TOO_LONG, True, len(line)
        word = re.sub(rb"(?s)\A[ \t]*([^ \t\r\n\0]*).*", rb"\1", line[:64]).upper().decode("latin-1")
        verb = word if word in _NAIVE_VERBS else "OTHER"
        too_long = Violation.AUTH_TOO_LONG if verb == "AUTH" else Violation.LONG_LINE
        return verb, b"", False, too_long, False, len(line)
    if not responses and re.fullmatch(rb"[ \t\r\n\f\v]*", line):
        return "OTHER", line, False, Violation.EMPTY_LINE, False, 0
    violation: Violation | None = None
    forwardable, forwarded = True, line
    if lf or newlines is not Newlines.PASS:
        forwarded = content + b"\r\n"
        if forwarded != line and not lf:
            violation, forwardable = Violation.BARE_NEWLINE, newlines is Newlines.NORMALISE
        if re.search(rb"[\r\0]", content):
            violation, forwardable = Violation.UNKNOWN_OCTETS, False
    if responses:
        if not forwardable:
            return "AUTH", b"*\r\n", False, violation, True, len(line)
        return "AUTH", forwarded, False, violation, True, 0
    return (word if word in _NAIVE_VERBS else "OTHER"), forwarded, word in _NAIVE_REFUSED, violation, forwardable, 0


def check_commands(octets: bytes, pieces: Sequence[bytes]) -> None:
    for newlines, lf in _FORMS:
        found, expected = read([octets], newlines, lf=lf), naive(octets, newlines, lf=lf)
        assert found == expected, f"{newlines}: {found}, naively {expected}"
    all_alike(lambda each: read(each, Newlines.NORMALISE, lf=False), octets, pieces)


def check_responses(octets: bytes, pieces: Sequence[bytes]) -> None:
    for newlines, lf in _FORMS:
        found = read([octets], newlines, lf=lf, what="responses")
        expected = naive(octets, newlines, lf=lf, responses=True)
        assert found == expected, f"{newlines}: {found}, naively {expected}"
    all_alike(lambda each: read(each, Newlines.NORMALISE, lf=False, what="responses"), octets, pieces)


def _run_commands(pieces: Sequence[bytes]) -> None:
    for what in _NEXT:
        read(pieces, Newlines.NORMALISE, lf=False, what=what)


# -- what reads one line


def naive_chunk(line: bytes) -> Chunk | None:
    """BDAT, a size of ten digits at most, and perhaps LAST; all with blanks between."""
    if not line.endswith(b"\r\n") or re.search(rb"[\r\n\f\v]", line[:-2]):
        return None
    words = line[:-2].replace(b"\t", b" ").split(b" ")
    first, *rest = words
    rest = [word.upper() for word in rest if word]
    if first.upper() != b"BDAT" or not rest or rest[1:] not in ([], [b"LAST"]):
        return None
    if not (1 <= len(rest[0]) <= 10 and all(48 <= octet <= 57 for octet in rest[0])) or int(rest[0]) >= 2**31:
        return None
    return Chunk(int(rest[0]), bool(rest[1:]))


def _quoted(line: bytes) -> list[bool]:
    """For each octet, whether it stands within a quoted string, its quotes included; one that has no end is none."""
    inside = [False] * len(line)
    at = 0
    while at < len(line):
        if line[at] == 0x22:
            end = at + 1
            while end < len(line) and line[end] != 0x22:
                end += 2 if line[end] == 0x5C and end + 1 < len(line) and line[end + 1] != 0x0A else 1
            if end < len(line):
                inside[at : end + 1] = [True] * (end + 1 - at)
                at = end
        at += 1
    return inside


def naive_is_name(name: bytes) -> bool:
    """Whether it is a domain or an address in brackets."""
    if re.fullmatch(rb"\[[^\s\[\]]+\]", name):
        return True
    labels = name.removesuffix(b".").split(b".")
    return all(
        label and not label.startswith(b"-") and not label.endswith(b"-") and re.fullmatch(rb"[A-Za-z0-9-]+", label)
        for label in labels
    )


def check_lines(octets: bytes, pieces: Sequence[bytes]) -> None:
    """Each line of the stream, as the reader has it, through everything that looks at one."""
    for line in re.findall(rb"[^\n]*\n", octets):
        each = command.command_from_line(line)
        assert command.chunk_of(line) == naive_chunk(line), line
        if each.forwardable:
            _check_line(each)


def _check_line(each: Command) -> None:
    line = each.line
    declared = arguments.declared_octets(line)
    if declared is not None:
        assert re.search(rb"(?i)[ \t]SIZE=0*%d(?=[ \t\r])" % declared, line), (line, declared)
    if b'"' not in line:
        naively = re.search(rb"(?i)[ \t]SIZE=([0-9]{1,20})(?=[ \t\r])", line)
        assert declared == (int(naively[1]) if naively else None), line
    domain = arguments.domain(line)
    assert domain in line.lower(), line
    given = command.name_given(each)
    assert given in line
    if each.verb in command.HELLOS:
        assert given == line.strip()[4:].strip() or line.split()[0].upper() != each.verb.value.encode(), line
    tidied, violation = tidy.tidied(each, b"stand.in")
    assert (tidied is each) is (violation is None), line
    again, nothing = tidy.tidied(tidied, b"stand.in")
    assert again is tidied, (line, tidied.line, again.line)
    assert nothing is None, line
    assert re.fullmatch(rb"[^\r\n\0]*\r\n", tidied.line), line
    assert arguments.domain(tidied.line) == domain or violation is None or each.verb in command.HELLOS, (
        line,
        tidied.line,
    )
    for lmtp in (False, True):
        hello = command.hello_like(each, lmtp=lmtp)
        assert hello is each or re.fullmatch(rb"[EL]HLO [^\r\n\0]+\r\n", hello.line), hello.line
        told = xclient.xclient_command(b"NAME ADDR PORT PROTO HELO DESTADDR", each, ("192.0.2.1", 25), None)
        assert told
        assert re.fullmatch(rb"XCLIENT( [A-Z]+=[!-~]+)+\r\n", told.line), told.line
        assert len(told.line) <= 512, told.line
    assert tidy.is_possible_name(given) is naive_is_name(given), given


def _run_lines(pieces: Sequence[bytes]) -> None:
    line = joined(pieces).replace(b"\n", b"") + b"\r\n"
    for verb in (b"", b"MAIL FROM:<", b"RCPT TO:", b"EHLO ", b"BDAT "):
        each = command.command_from_line(verb + line)
        tidy.tidied(each, b"stand.in")
        arguments.declared_octets(each.line)
        arguments.domain(each.line)
        command.chunk_of(each.line)
        command.hello_like(each, lmtp=False)
        xclient.xclient_command(b"NAME ADDR HELO PROTO", each, None, None)


TARGETS = (
    Target(
        name="commands",
        parsers=(command, foreign),
        check=check_commands,
        run=_run_commands,
        words=_WORDS,
        seeds=_SEEDS,
        most_octets=1600,
        most_steps=400,
    ),
    Target(
        name="auth-lines",
        parsers=(command,),
        check=check_responses,
        run=_run_commands,
        words=_WORDS,
        seeds=_SEEDS,
        most_octets=1600,
        most_steps=400,
    ),
    Target(
        name="arguments",
        parsers=(command, arguments, tidy, xclient),
        check=check_lines,
        run=_run_lines,
        words=_WORDS,
        seeds=_SEEDS,
    ),
)
