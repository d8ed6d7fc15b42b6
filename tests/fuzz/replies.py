"""Replies of receivers (smtp/reply.py), and what an EHLO reply offers (smtp/ehlo.py)."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from shimproxy.session import keywords
from shimproxy.smtp import ehlo, reply
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.reply import Reply, ReplyReader
from tests.fuzz.target import Target, all_alike, joined
from tests.smtp.test_reply import naive_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SMALL_LIMIT_OCTETS = 512  # no operator can set less
_Read = tuple[int, bytes, frozenset[Violation], bool]
"""Code, octets, violations, and whether a 354 is in it."""
_WORDS = (
    *b"220 |250-|250 |251 |334 |354 |354-|421 |500-|552 |199 |600 |25|2500|250,0|5xx ".split(b"|"),
    *(b"\r\n", b"\n", b"\r", b"\0", b"\t", b"-", b" ", b".", b"x" * 505, b"y" * 507, b"0"),
    *(b"PIPELINING", b"SIZE 1000", b"AUTH=LOGIN", b"AUTH PLAIN", b"LIMITS RCPTMAX=1 MAILMAX=2", b"XCLIENT NAME"),
    *(
        b"DELIVERBY 5",
        b"FUTURERELEASE 5 2026",
        b"NO-SOLICITING a",
        b"SIZE",
        b"=",
        b"250-SIZE 7\r\n",
        b"250 LIMITS A=3\r\n",
    ),
)
_SEEDS = (
    b"220 mail.example ESMTP\r\n",
    b"250-mail.example\r\n250-SIZE 1000\r\n250-AUTH=LOGIN\r\n250 PIPELINING\r\n",
    b"354 go on\r\n552 too big\r\n421 bye\r\n",
    b"334 \r\n235 ok\r\n",
    b"250-one\n251 two\r\nnoise\r\n",
    b"250-" + b"x" * 507 + b"\r\n250 y\r\n",
    b"250-a\r\n250-SIZE 9\r\n250-LIMITS A=1 B=2\r\n250-DELIVERBY 5\r\n250-FUTURERELEASE 9 20\r\n250 NO-SOLICITING b\r\n"
    * 2,
)


def read(pieces: Iterable[bytes], limit_octets: int = reply.REPLY_LIMIT_OCTETS) -> list[_Read]:
    """What is read of what comes in these pieces, up to the end."""
    reader, found = ReplyReader(limit_octets), list[Reply | None]()
    for piece in pieces:
        reader.feed(piece)
        while each := reader.next_reply():
            found.append(each)
    found.append(reader.cut_off())
    assert reader.empty
    return [(each.code, each.octets, frozenset(each.violations), each.asks_for_data) for each in found if each]


# -- the naive definition


def naive(stream: bytes) -> list[_Read]:
    """The same, of a stream that is shorter than any limit: line by line, with all lines at hand."""
    found, came, codes = list[_Read](), list[bytes](), list[int]()
    for line in re.findall(rb"[^\n]*\n|[^\n]+", stream):
        came.append(line)
        codes.append(naive_code(line, {each for each in codes if each}))
        cut_off = not line.endswith(b"\n")
        if cut_off or (line[3:4] != b"-" if codes[-1] else len(codes) == 1):
            found.append(_naive_reply(came, codes, cut_off=cut_off))
            came, codes = [], []
    if came:
        found.append(_naive_reply(came, codes, cut_off=True))
    return found


def _naive_reply(came: list[bytes], codes: list[int], *, cut_off: bool) -> _Read:
    known = [code for code in codes if code]
    violations = {Violation.CUT_OFF} if cut_off else set()
    if 0 in codes:
        violations.add(Violation.NOT_A_REPLY)
    if len(set(known)) > 1:
        violations.add(Violation.MIXED_CODES)
    unsure = len({code // 100 for code in known}) > 1
    if cut_off:
        unsure |= not (codes[-1] and re.match(rb"...[ \t\r\n]", came[-1]))
    if not codes[0] or (unsure and known[-1] < 400):
        return 0, b"".join(came), frozenset(violations), 354 in codes
    code, texts = known[-1], list[bytes]()
    most = 12_282 if code == 334 else 506
    for line, line_code in zip(came, codes, strict=True):
        body = re.sub(rb"[\r\n]+\Z", b"", line)
        if (line[len(body) :] != b"\r\n" and not cut_off) or re.search(rb"[\r\0]", body):
            violations.add(Violation.REPLY_BARE_NEWLINE)
        body = re.sub(rb"[\r\0]", b" ", body)
        if line_code:
            if re.match(rb"...[^ -]", body, re.DOTALL):
                violations.add(Violation.NOT_A_REPLY)
            body = re.sub(rb"\A...[ \t-]?", b"", body, flags=re.DOTALL)
        if len(body) > most:
            violations.add(Violation.REPLY_LONG_LINE)
        texts += re.findall(rb"(?s).{1,%d}" % most, body) or [b""]
    is_empty_challenge = code == 334 and came[-1][3:4] == b" "
    if not texts[-1] and not is_empty_challenge:
        violations.add(Violation.MISSING_TEXT)
        while len(texts) > 1 and not texts[-1]:
            del texts[-1]
        if not texts[-1] and code != 334:
            texts = [b"(the receiver gave no text)"]
    if not violations:
        return code, b"".join(came), frozenset(), 354 in codes
    lines = [b"%d-%s\r\n" % (code, text) for text in texts]
    lines[-1] = b"%d %s\r\n" % (code, texts[-1])
    return code, b"".join(lines), frozenset(violations), code == 354 or 354 in codes


def check_replies(octets: bytes, pieces: Sequence[bytes]) -> None:
    found, expected = read([octets]), naive(octets)
    assert found == expected, f"{found}, naively {expected}"
    all_alike(read, octets, pieces)
    all_alike(lambda each: read(each, _SMALL_LIMIT_OCTETS), octets, pieces)
    for code, came, violations, _ in found:
        again = Reply(code, came, tuple(violations))
        if code:
            assert re.fullmatch(rb"(?s)(%d-[^\r\n\0]*\r\n)*%d [^\r\n\0]*\r\n" % (code, code), came), came
            assert read([came]) == [(code, came, frozenset(), code == 354)] or (violations and code == 354), came
        assert again.severity == code // 100


# -- the keywords of an EHLO reply


def naive_keywords(octets: bytes) -> dict[bytes, bytes]:
    """What each line but the first offers, as a regular expression has it."""
    found: dict[bytes, list[bytes]] = {}
    for line in re.split(rb"\r\n|\r|\n", octets)[1:]:
        if words := re.fullmatch(rb"(?s).{4}\s*([^\s=]*)(=?)(\S*)(.*)", line):
            keyword, rest = words[1].upper(), words[4].strip()
            rest = rest[1:] if rest.startswith(b"=") else rest
            if keyword:
                found.setdefault(keyword, []).append(b" ".join(each for each in (words[3], rest) if each))
    return {keyword: b" ".join(parameters) for keyword, parameters in found.items()}


def check_keywords(octets: bytes, pieces: Sequence[bytes]) -> None:
    replies = [Reply(code, came) for code, came, *_ in read([octets]) if code]
    for each in replies:
        offered = ehlo.keywords(each)
        assert offered == naive_keywords(each.octets), f"{offered}, naively {naive_keywords(each.octets)}"
        assert keywords.keeps(offered, offered)
        ehlo.size_offered(offered, 1000)
        passed = ehlo.offering(each, (b"SIZE",), (b"SIZE 5",))
        now = ehlo.keywords(passed)
        gone = ehlo.NEVER_OFFERED | {b"SIZE"}
        assert now == {key: value for key, value in offered.items() if key not in gone} | {b"SIZE": b"5"}
        assert read([passed.octets])[0][:2] == (each.code, passed.octets)
        same = ehlo.offering(each)
        assert same is each or ehlo.NEVER_OFFERED & offered.keys()
    for before, after in itertools.pairwise(replies):
        first, second = ehlo.keywords(before), ehlo.keywords(after)
        assert not keywords.keeps(second, first) or first.keys() <= second.keys()


def _keywords_run(pieces: Sequence[bytes]) -> None:
    each = Reply(250, joined(pieces))
    keywords.keeps(ehlo.keywords(each), ehlo.keywords(each))
    ehlo.offering(each, (b"SIZE",), (b"SIZE 5",))


TARGETS = (
    Target(
        name="replies",
        parsers=(reply,),
        check=check_replies,
        run=read,
        words=_WORDS,
        seeds=_SEEDS,
        most_octets=1600,
    ),
    Target(
        name="keywords",
        parsers=(ehlo,),
        check=check_keywords,
        run=_keywords_run,
        words=_WORDS,
        seeds=_SEEDS,
    ),
)
