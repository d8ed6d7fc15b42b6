"""Rules that correct refusals: what they match, what they make of it, and what they may cost."""

from __future__ import annotations

import re

import pytest

from shimproxy.smtp.reply import Reply, ReplyReader
from shimproxy.smtp.rewrite import MOST_TEXT_OCTETS, Rewrite, RewritePlace, rewritten, said
from tests.fuzz.regex import Machine
from tests.fuzz.steps import Counter

RULE = "end-of-data: 451 .* too (large|big) => 552 5.3.4"


def reply(octets: bytes) -> Reply:
    reader = ReplyReader()
    reader.feed(octets)
    found = reader.next_reply()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("rule", "octets", "enhanced", "made"),
    [
        pytest.param(RULE, b"451 it is too big\r\n", True, b"552 5.3.4 it is too big\r\n", id="code is added"),
        pytest.param(RULE, b"451 it is too big\r\n", False, b"552 it is too big\r\n", id="none was offered"),
        pytest.param(RULE, b"451 4.3.0 It is TOO LARGE\r\n", False, b"552 5.3.4 It is TOO LARGE\r\n", id="exchanged"),
        pytest.param(
            RULE,
            b"451-4.3.0 it is\r\n451-4.3.0 too\r\n451 4.3.0 big\r\n",
            True,
            b"552-5.3.4 it is\r\n552-5.3.4 too\r\n552 5.3.4 big\r\n",
            id="over several lines",
        ),
        pytest.param("rcpt: 4.*grey => 550", b"450 4.2.0 grey\r\n", True, b"550 5.2.0 grey\r\n", id="its class alone"),
        pytest.param("rcpt: 4.*grey => 550", b"450 grey\r\n", True, b"550 grey\r\n", id="no enhanced code at all"),
        pytest.param(
            "mail: 5 => 450", b"550 5.1.0x\r\n", True, b"450 5.1.0x\r\n", id="none, though it begins like one"
        ),
        pytest.param("mail: 5 => 450 4.7.1", b"550 5.1.0\r\n", True, b"450 4.7.1\r\n", id="an enhanced code alone"),
        pytest.param(
            "data: 5.*a => 451 4.3.0 later", b"550-5.0.0 a\r\n550 5.0.0 b\r\n", True, b"451 4.3.0 later\r\n", id="text"
        ),
        pytest.param("data: 5.*a => 451 4.3.0 later", b"550 a\r\n", False, b"451 later\r\n", id="text in plain"),
        pytest.param("data: 5(5|6)?0 (x )?a => 451", b"550 a\r\n", False, b"451 a\r\n", id="what may be missing"),
        pytest.param("DATA:5=>451", b"550 a\r\n", False, b"451 a\r\n", id="without blanks"),
        pytest.param("data: 5.*=>.* => 451", b"550 a=>b\r\n", False, b"451 a=>b\r\n", id="an arrow in the pattern"),
        pytest.param("data: 552.\\(x\\) => 451", b"552 (x)\r\n", False, b"451 (x)\r\n", id="escaped"),
    ],
)
def test_what_a_rule_makes_of_a_reply(rule: str, octets: bytes, enhanced: bool, made: bytes) -> None:
    found = Rewrite.parse(rule).applied(reply(octets), enhanced=enhanced)
    assert found is not None
    assert found.octets == made
    assert reply(made) == found, "it is a reply in good form"


@pytest.mark.parametrize(
    "octets",
    [
        b"250 it is too big\r\n",
        b"354 it is too big\r\n",
        b"421 it is too big\r\n",
        b"452 it is too big\r\n",
        b"451 it is large\r\n",
        b"it is too big\r\n",
        b"451 " + b"x" * MOST_TEXT_OCTETS + b" too big\r\n",
    ],
)
def test_what_a_rule_leaves_alone(octets: bytes) -> None:
    """Success above all, whatever the pattern; a 421; and what stands behind the octets that are looked at."""
    for rule in (RULE, RULE.replace("451 .*", ".*")) if octets[:1] != b"4" or octets[:3] == b"421" else (RULE,):
        assert Rewrite.parse(rule).applied(reply(octets), enhanced=True) is None


def test_a_line_that_grows_too_long_goes_on_in_another_one() -> None:
    """Which has the enhanced status code too, as every line of a reply has (RFC 2034 section 4)."""
    long = reply(b"451 too big " + b"x" * 498 + b"\r\n")
    found = Rewrite.parse("end-of-data: 451 too => 552 5.3.4").applied(long, enhanced=True)
    assert found is not None
    assert found.octets == b"552-5.3.4 too big " + b"x" * 492 + b"\r\n552 5.3.4 " + b"x" * 6 + b"\r\n"
    assert reply(found.octets) == found


def test_a_354_within_a_refusal_is_not_forgotten() -> None:
    """The receiver may take what comes for mail data, whatever the sender is told."""
    odd = reply(b"354-go\r\n451 too big\r\n")
    assert odd.asks_for_data
    found = Rewrite.parse("data: 451 .*big => 552").applied(odd, enhanced=True)
    assert found is not None
    assert found.asks_for_data


def test_the_first_rule_that_matches_counts() -> None:
    rules = tuple(map(Rewrite.parse, ["rcpt: 4 => 551", "data: 45 => 552", "data: 4 => 553"]))
    found = rewritten(Reply(450, b"450 no\r\n"), RewritePlace.DATA, rules, enhanced=False)
    assert found == (Reply(552, b"552 no\r\n"), rules[1])
    assert rewritten(Reply(450, b"450 no\r\n"), RewritePlace.MAIL, rules, enhanced=False) is None


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("", "'' is not a rule; write one as in 'end-of-data: 451 .* too (large|big) => 552 5.3.4'"),
        ("451 => 552", "'451 => 552' is not a rule"),
        ("data: 451", "'data: 451' is not a rule"),
        ("data: 451 => ", "'data: 451 => ' is not a rule"),
        ("x" * 1024 * 1024, f"'{'x' * 200}...' is not a rule of at most 400 characters"),
        ("quit: 451 => 552", "'quit: 451 => 552': 'quit' is none of mail, rcpt, data, end-of-data"),
        ("data: 451\x1b[31m => 552", "'451\\x1b[31m': the pattern must have printable ASCII"),
        ("data: 451\n => 552", ""),
        ("data: 451 \u00e9 => 552", "'451 \u00e9': the pattern must have printable ASCII"),
        (f"data: 4{'x' * 201} => 552", f"'4{'x' * 199}...': the pattern must have printable ASCII, at most 200"),
        ("data: 250 => 552", "'250': no reply that a rule may change begins so; write a pattern for 4yz or 5yz"),
        ("data: 552 => 250", "'250' is not a reply that a rule may make; write a 4yz or 5yz code other than 421; an"),
        ("data: 552 => 354", "'354' is not a reply that a rule may make"),
        ("data: 552 => 421 bye", "'421 bye' is not a reply that a rule may make"),
        ("data: 451 => 552 4.3.4", "'552 4.3.4' is not a reply that a rule may make"),
        ("data: 451 => 552\r\n250 ok", "'552\\r\\n250 ok' is not a reply that a rule may make"),
        ("data: 451 => 562", "'562' is not a reply that a rule may make"),
        ("data: 451 (a+)+ => 552", "'451 (a+)+': a group may not be repeated; write characters, ., [a-z], (a|b), and"),
        ("data: 451 (.*)* => 552", "'451 (.*)*': a group may not be repeated"),
        ("data: 451 .*a.*b.*c => 552", "'451 .*a.*b.*c': it could take too long; write at most two of * and +"),
        ("data: 451 .*.*(a|b|c)(d|e) => 552", "'451 .*.*(a|b|c)(d|e)': it could take too long"),
        ("data: 451 a{9} => 552", "'451 a{9}': '{' at character 6 is not allowed in a rule"),
        ("data: 451 (?=a) => 552", "'451 (?=a)': '?' at character 6 is not allowed in a rule"),
        ("data: 451 (a)\\1 => 552", "'451 (a)\\\\1': '\\\\' at character 8 is not allowed in a rule"),
        ("data: 451 [ => 552", "'451 [': '[' at character 5 is not allowed in a rule"),
        ("data: 451 [z-a] => 552", "'451 [z-a]': bad character range z-a at position 5"),
        ("data: 451 (a => 552", "'451 (a': a group is not closed; write ) at its end"),
        ("data: 451 a) => 552", "'451 a)': ')' closes no group; write \\) for the character"),
    ],
    ids=lambda text: text[:30],
)
def test_a_rule_that_cannot_be_used_is_told_with_its_mend(rule: str, problem: str) -> None:
    if not problem:
        assert Rewrite.parse(rule).place is RewritePlace.DATA  # a blank of any kind may stand around the parts
        return
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        Rewrite.parse(rule)


COSTLY = [
    "451 .*a.*(b|c)(d|e)z",
    "451 [ -~]*a[ -~]*(b|c)(d|e)z",
    "451 .*.*z",
    ".*.*(a|b|c|d)z",
    "451.*a?a?a?a?a?a?a?a?a?aaaaaaaaaaz",
    "451 a+a*z",
    "451 (a|.)(b|.)(a|.)(b|.)(a|.)(b|.).*z",
]


@pytest.mark.parametrize("pattern", COSTLY)
def test_a_rule_costs_at_most_the_square_of_what_it_looks_at(pattern: str) -> None:
    """In steps of an engine that tries one way after another, as Python's does; and no more than MOST_TEXT_OCTETS."""

    def steps(octets: int) -> int:
        most = 0
        for text in (b"a", b" ", b"abcde", b"ab", b"a b"):
            counter = Counter(most=10**9)
            assert Machine(rule.pattern).end(b"451 " + (text * octets)[:octets], 0, counter) is None
            most = max(most, counter.steps)
        return most

    rule = Rewrite.parse(f"data: {pattern} => 552")
    assert steps(80) <= 4.2 * steps(40)


def test_what_is_held_against_a_rule_is_bounded_however_many_lines_a_reply_has() -> None:
    many = Reply(451, b"451-x\r\n" * 2000 + b"451 x\r\n")
    assert said(many) == (b"451 x" + b" x" * 2000)[:MOST_TEXT_OCTETS]
