"""The EHLO reply: what is not offered through the shim is taken out, and nothing else is touched."""

from __future__ import annotations

import re

import pytest

from shimproxy.session.keywords import keeps
from shimproxy.smtp.ehlo import NEVER_OFFERED, Hidden, HiddenKeyword, keywords, offering
from shimproxy.smtp.reply import Reply, ReplyReader


def ehlo_reply(*texts: str, code: int = 250) -> Reply:
    lines = [f"{code}-{text}\r\n" for text in texts[:-1]] + [f"{code} {texts[-1]}\r\n"]
    return Reply(code, "".join(lines).encode())


ORDINARY = (
    "SIZE 10240000",
    "8BITMIME",
    "DSN",
    "SMTPUTF8",
    "ENHANCEDSTATUSCODES",
    "AUTH PLAIN LOGIN",
    "ETRN",
    "HELP",
    "VRFY",
)

every_removed = pytest.mark.parametrize("keyword", sorted(keyword.decode() for keyword in NEVER_OFFERED))


def test_what_the_shim_does_not_follow_is_removed() -> None:
    """Several replies to one mail, and whatever turns the sides round or vouches for peers."""
    assert {
        b"PRDR",
        b"XCLIENT",
        b"XFORWARD",
    } <= NEVER_OFFERED


@every_removed
def test_a_keyword_is_removed_in_any_case_and_place(keyword: str) -> None:
    """First, middle or last, with parameters or without; the others stay in their order."""
    expected = ehlo_reply("mail.example", "SIZE 1", "HELP")
    for text in (
        keyword,
        keyword.lower(),
        keyword.title(),
        f"{keyword} A B",
        f"{keyword}\tA",
        f"{keyword}=A",
        f"{keyword} ",
    ):
        assert expected == offering(ehlo_reply("mail.example", text, "SIZE 1", "HELP"))
        assert expected == offering(ehlo_reply("mail.example", "SIZE 1", text, "HELP"))
        assert expected == offering(ehlo_reply("mail.example", "SIZE 1", "HELP", text))


@every_removed
def test_the_only_keyword_leaves_the_first_line(keyword: str) -> None:
    """A reply of one line then, with the blank of a last line."""
    assert ehlo_reply("mail.example") == offering(ehlo_reply("mail.example", keyword))


def test_all_of_them_at_once() -> None:
    """What stays is well-formed: hyphens up to the last line, which has a blank."""
    removed = [keyword.decode() for keyword in NEVER_OFFERED]
    mixed = [text for pair in zip(ORDINARY, removed, strict=False) for text in pair]

    reply = offering(ehlo_reply("mail.example", *mixed, "PRDR"))

    assert ehlo_reply("mail.example", *ORDINARY[: len(mixed) // 2]) == reply
    reader = ReplyReader()
    reader.feed(reply.octets)
    assert reply == reader.next_reply()


@every_removed
def test_the_first_line_is_a_name_and_stays(keyword: str) -> None:
    """A receiver may be called "starttls": the first line has no keyword."""
    alone = ehlo_reply(keyword)
    first = ehlo_reply(f"{keyword} at your service", "SIZE 1")

    assert alone is offering(alone)
    assert first is offering(first)


@pytest.mark.parametrize(
    "reply",
    [
        ehlo_reply("mail.example"),
        ehlo_reply("mail.example", *ORDINARY),
        ehlo_reply("mail.example", "AUTH=LOGIN"),
        ehlo_reply("mail.example", "AUTH LOGIN", "AUTH=LOGIN PLAIN"),
        ehlo_reply("mail.example", "X-PIPELINING"),
        ehlo_reply("mail.example", "PIPELININGS"),
        ehlo_reply("mail.example", "SIZE STARTTLS"),
        ehlo_reply("mail.example", "", "HELP"),
        ehlo_reply("mail.example", "  "),
        Reply(250, b"250-\r\n250 \r\n"),
    ],
    ids=lambda reply: repr(reply.octets)[:50],
)
def test_a_reply_with_nothing_to_remove_is_the_same_object(reply: Reply) -> None:
    """Not an octet of it changes (guarantee 9)."""
    assert reply is offering(reply)


def test_the_code_stays() -> None:
    """Whatever 2yz it was."""
    assert ehlo_reply("a", "SIZE", code=252) == offering(ehlo_reply("a", "SIZE", "PRDR", code=252))
    for code in (250, 251, 252, 299):
        came = ehlo_reply("a", "SIZE", "HELP", code=code)
        expected = ehlo_reply("a", "HELP", "STARTTLS", "SIZE 1000", code=code)

        assert expected == offering(came, (b"SIZE",), (b"STARTTLS", b"SIZE 1000"))
        assert ehlo_reply("a", "SIZE 1000", code=code) == offering(ehlo_reply("a", code=code), (), (b"SIZE 1000",))


@pytest.mark.parametrize(
    "last",
    [b"250\r\n", b"250 \r\n", b"250\n", b"250\t\r\n", b"250-\r\n250 \r\n"],
    ids=repr,
)
def test_an_empty_last_line_is_no_keyword(last: bytes) -> None:
    """Neither to shimproxy nor to a sender, and a keyword before it stays the last, whatever is added."""
    reader = ReplyReader()
    reader.feed(b"250-mail.example\r\n250-SIZE 1000\r\n" + last)
    reply = reader.next_reply()

    assert reply is not None
    assert reply.octets == b"250-mail.example\r\n250 SIZE 1000\r\n"
    assert keywords(reply) == {b"SIZE": b"1000"}
    assert ehlo_reply("mail.example", "SIZE 1000", "STARTTLS") == offering(reply, (), (b"STARTTLS",))


def test_a_keyword_without_its_blank_is_one() -> None:
    """The receiver has said it, and it is the operator's to have it taken out."""
    reader = ReplyReader()
    reader.feed(b"250-mail.example\r\n250-HELP\r\n250SIZE 1000\r\n")
    reply = reader.next_reply()

    assert reply is not None
    assert keywords(reply) == {b"HELP": b"", b"SIZE": b"1000"}
    assert ehlo_reply("mail.example", "HELP") == offering(reply, (b"SIZE",))


def test_the_octets_of_the_lines_that_stay_do_not_change() -> None:
    """Blanks, case and 8-bit text of a receiver are its own."""
    came = "250-mail.example  grüßt\r\n250-size  1\r\n250-x-Foo bar \r\n250 PRDR\r\n".encode()
    expected = "250-mail.example  grüßt\r\n250-size  1\r\n250 x-Foo bar \r\n".encode()

    assert Reply(250, expected) == offering(Reply(250, came))


def test_a_keyword_that_the_operator_does_not_want_is_removed_too() -> None:
    """Beside those that never pass."""
    came = ehlo_reply("mail.example", "PIPELINING", "SIZE 1", "PRDR")

    assert ehlo_reply("mail.example", "SIZE 1") == offering(came, (b"PIPELINING",))
    assert ehlo_reply("mail.example", "PIPELINING", "SIZE 1") == offering(came)


def test_keywords_are_read_with_their_parameters() -> None:
    """In any case, also where receivers of the 1990s wrote "="; a name in the first line is none."""
    reply = ehlo_reply("PIPELINING", "Size 100", "AUTH=LOGIN", "auth PLAIN", "8BITMIME", "")

    assert keywords(reply) == {b"SIZE": b"100", b"AUTH": b"LOGIN PLAIN", b"8BITMIME": b""}


def test_a_keyword_of_the_shims_own_is_added_at_the_end() -> None:
    """Instead of the receiver's own, or where it has none."""
    expected = ehlo_reply("mail.example", "SIZE 1", "STARTTLS")

    assert expected == offering(ehlo_reply("mail.example", "STARTTLS", "SIZE 1"), (b"STARTTLS",), (b"STARTTLS",))
    assert ehlo_reply("mail.example", "STARTTLS") == offering(ehlo_reply("mail.example"), (), (b"STARTTLS",))


@pytest.mark.parametrize(
    ("line", "parameters"),
    [
        ("AUTH=LOGIN PLAIN", b"LOGIN PLAIN"),
        ("AUTH LOGIN PLAIN", b"LOGIN PLAIN"),
        ("AUTH =LOGIN", b"LOGIN"),
        ("AUTH", b""),
        ("LIMITS RCPTMAX=20 MAILMAX=5", b"RCPTMAX=20 MAILMAX=5"),
        ("LIMITS  RCPTMAX=20 ", b"RCPTMAX=20"),
    ],
)
def test_an_equals_sign_ends_a_keyword_and_is_a_part_of_a_parameter(line: str, parameters: bytes) -> None:
    assert keywords(ehlo_reply("mail.example", line)) == {line.replace("=", " ").split()[0].encode(): parameters}


KEPT = {
    "the same": (["SIZE 1000", "AUTH PLAIN", "DSN"], ["DSN", "AUTH PLAIN", "SIZE 1000"]),
    "one more": (["DSN"], ["DSN", "SMTPUTF8", "AUTH PLAIN"]),
    "nothing before": ([], ["DSN"]),
    "a larger SIZE": (["SIZE 1000"], ["SIZE 1001"]),
    "any SIZE": (["SIZE 1000"], ["SIZE 0"]),
    "any SIZE, without a word": (["SIZE 1000"], ["SIZE"]),
    "a SIZE of more digits": (["SIZE 9"], ["SIZE 10"]),
    "AUTH in another order": (["AUTH PLAIN LOGIN"], ["AUTH login plain CRAM-MD5"]),
    "AUTH in two lines": (["AUTH PLAIN LOGIN"], ["AUTH PLAIN", "AUTH=LOGIN"]),
    "wider LIMITS": (["LIMITS RCPTMAX=10 MAILMAX=5"], ["LIMITS mailmax=6 RCPTMAX=10"]),
    "one of the LIMITS gone": (["LIMITS RCPTMAX=10 MAILMAX=5"], ["LIMITS RCPTMAX=10"]),
    "a LIMIT that is no number": (["LIMITS X=a RCPTMAX=1"], ["LIMITS RCPTMAX=1 X=a"]),
    "a shorter DELIVERBY": (["DELIVERBY 240"], ["DELIVERBY 120"]),
    "any DELIVERBY": (["DELIVERBY 240"], ["DELIVERBY"]),
    "a longer FUTURERELEASE": (
        ["FUTURERELEASE 86400 2026-11-29T00:00:00Z"],
        ["FUTURERELEASE 86401 2026-11-29T00:00:01Z"],
    ),
    "fewer NO-SOLICITING": (["NO-SOLICITING a:ADV b:ADV"], ["NO-SOLICITING a:ADV"]),
    "BURL from more": (["BURL imap"], ["BURL imap imap://x"]),
    "the same of what nobody knows": (["X-FOO a b"], ["X-FOO b a"]),
}
NOT_KEPT = {
    "one less": (["DSN", "SMTPUTF8"], ["DSN"]),
    "a smaller SIZE": (["SIZE 50000000"], ["SIZE 1000"]),
    "a SIZE of fewer digits": (["SIZE 10"], ["SIZE 9"]),
    "a SIZE where there was any": (["SIZE"], ["SIZE 1000"]),
    "a SIZE where 0 was any": (["SIZE 0"], ["SIZE 1000"]),
    "a SIZE where there was none": (["DSN"], ["DSN", "SIZE 1000"]),
    "the smaller of two": (["SIZE 1000"], ["SIZE 2000", "SIZE 500"]),
    "fewer AUTH": (["AUTH PLAIN LOGIN"], ["AUTH PLAIN"]),
    "another AUTH": (["AUTH PLAIN"], ["AUTH GSSAPI"]),
    "no AUTH but the word": (["AUTH PLAIN"], ["AUTH"]),
    "tighter LIMITS": (["LIMITS RCPTMAX=1000"], ["LIMITS RCPTMAX=1"]),
    "tighter LIMITS behind another": (["LIMITS MAILMAX=5 RCPTMAX=1000"], ["LIMITS MAILMAX=5 RCPTMAX=999"]),
    "a LIMIT more": (["LIMITS RCPTMAX=1000"], ["LIMITS RCPTMAX=1000 MAILMAX=1"]),
    "LIMITS where there were none": (["DSN"], ["DSN", "LIMITS RCPTMAX=1"]),
    "a LIMIT that is no number": (["LIMITS X=a"], ["LIMITS X=b"]),
    "a longer DELIVERBY": (["DELIVERBY 120"], ["DELIVERBY 240"]),
    "a DELIVERBY where there was any": (["DELIVERBY"], ["DELIVERBY 240"]),
    "a shorter FUTURERELEASE": (
        ["FUTURERELEASE 86400 2026-11-29T00:00:00Z"],
        ["FUTURERELEASE 3600 2026-11-29T00:00:00Z"],
    ),
    "an earlier FUTURERELEASE": (
        ["FUTURERELEASE 86400 2026-11-29T00:00:00Z"],
        ["FUTURERELEASE 86400 2026-11-28T00:00:00Z"],
    ),
    "more NO-SOLICITING": (["NO-SOLICITING a:ADV"], ["NO-SOLICITING a:ADV b:ADV"]),
    "NO-SOLICITING where there was none": (["DSN"], ["DSN", "NO-SOLICITING a:ADV"]),
    "BURL from fewer": (["BURL imap imap://x"], ["BURL imap"]),
    "less of what nobody knows": (["X-FOO a b"], ["X-FOO a"]),
}


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [(*each, True) for each in KEPT.values()] + [(*each, False) for each in NOT_KEPT.values()],
    ids=[*KEPT, *NOT_KEPT],
)
def test_what_was_offered_is_offered_still(before: list[str], now: list[str], kept: bool) -> None:
    offers = (keywords(ehlo_reply("mail.example", *lines)) for lines in (now, before))

    assert keeps(*offers) is kept


# -- hidden


def hidden(*texts: str) -> Hidden | None:
    return Hidden.of([HiddenKeyword.parse(text) for text in texts])


@pytest.mark.parametrize(
    ("offered", "hide", "left"),
    [
        (["CHUNKING", "BINARYMIME", "DSN"], ["chunking"], ["DSN"]),
        (["CHUNKING", "BINARYMIME"], ["BINARYMIME"], ["CHUNKING"]),
        (["Smtputf8"], ["SMTPUTF8"], []),
        (["SMTPUTF8X", "X-SMTPUTF8"], ["SMTPUTF8"], ["SMTPUTF8X", "X-SMTPUTF8"]),
        (["AUTH PLAIN XOAUTH2 LOGIN"], ["AUTH:xoauth2"], ["AUTH PLAIN LOGIN"]),
        (["auth plain XOauth2"], ["AUTH:XOAUTH2"], ["auth plain"]),
        (["AUTH=XOAUTH2 PLAIN"], ["AUTH:XOAUTH2"], ["AUTH=PLAIN"]),
        (["AUTH XOAUTH2", "DSN"], ["AUTH:XOAUTH2"], ["DSN"]),
        (["AUTH PLAIN", "DSN"], ["AUTH:XOAUTH2"], ["AUTH PLAIN", "DSN"]),
        (["LIMITS MAILMAX=5 RCPTMAX=100"], ["LIMITS:RCPTMAX"], ["LIMITS MAILMAX=5"]),
        (["AUTH PLAIN", "DSN"], ["AUTH", "AUTH:PLAIN"], ["DSN"]),
        (["SIZE 1000"], ["DSN"], ["SIZE 1000"]),
    ],
)
def test_what_is_hidden_is_not_offered(offered: list[str], hide: list[str], left: list[str]) -> None:
    assert offering(ehlo_reply("here", *offered), hidden=hidden(*hide)) == ehlo_reply("here", *left)


def test_what_shimproxy_offers_itself_is_hidden_too() -> None:
    reply = ehlo_reply("here", "DSN")
    assert offering(reply, added=[b"SIZE 1000"], hidden=hidden("SIZE")) is reply


def test_a_reply_with_nothing_to_hide_is_the_same_object() -> None:
    reply = ehlo_reply("here", "DSN", "AUTH PLAIN")
    assert offering(reply, hidden=hidden("CHUNKING", "AUTH:LOGIN")) is reply


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is not a keyword; write one, as in CHUNKING, or one parameter, as in AUTH:XOAUTH2"),
        ("AUTH:", "'AUTH:' is not a keyword"),
        ("A B", "'A B' is not a keyword"),
        ("DSN\r\n250 X", "'DSN\\r\\n250 X' is not a keyword"),
        ("\u017fIZE", "'\u017fIZE' is not a keyword"),
        ("AUTH:\x07", "'AUTH:\\x07' is not a keyword"),
        ("x" * 1024 * 1024, f"'{'x' * 100}...' is not a keyword"),
        ("bdat", "'bdat' is a command; hide its keyword, CHUNKING"),
        ("RCPT", "'RCPT' is a command that every receiver has; hide keywords of the reply to EHLO"),
    ],
    ids=lambda text: text[:20],
)
def test_what_cannot_be_hidden_is_told_with_its_mend(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        HiddenKeyword.parse(text)


@pytest.mark.parametrize(
    ("line", "has"),
    [
        (b"AUTH XOAUTH2 abc\r\n", True),
        (b"auth\txoauth2\r\n", True),
        (b"AUTH PLAIN XOAUTH2\r\n", False),
        (b"AUTH\r\n", False),
        (b"AUTH XOAUTH\r\n", False),
    ],
)
def test_an_auth_command_with_a_hidden_mechanism_is_known(line: bytes, has: bool) -> None:
    its = hidden("AUTH:XOAUTH2", "CHUNKING")
    assert its is not None
    assert its.has_mechanism(line) is has
