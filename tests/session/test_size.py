"""Size limits of the operator's own (RFC 1870): announced, or counted as the mail passes, with one verdict."""

from __future__ import annotations

import itertools

import pytest

from shimproxy.session.policy import Policy, Sizes
from shimproxy.smtp import mail_data
from shimproxy.smtp.arguments import declared_octets, domain, path
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.ehlo import size_offered
from shimproxy.smtp.mail_data import Size
from tests.memory import Stage, offered, staged

POLICY = Policy(sizes=Sizes(1000, {b"small.example": 100}))

# -- grammar


@pytest.mark.parametrize(
    ("line", "octets"),
    [
        (b"MAIL FROM:<a@b> SIZE=500\r\n", 500),
        (b"MAIL FROM:<a@b> BODY=8BITMIME size=500 RET=HDRS\r\n", 500),
        (b"MAIL FROM:<a@b>\r\n", None),
        (b"MAIL FROM:<a@b> SIZE=\r\n", None),
        (b"MAIL FROM:<a@b> SIZE=5x\r\n", None),
        (b"MAIL FROM:<SIZE=5@b>\r\n", None),
        (b'MAIL FROM:<"a SIZE=5 b"@c>\r\n', None),
        (b'MAIL FROM:<"a SIZE=5 b"@c> SIZE=6\r\n', 6),
        (b"MAIL FROM:<a@b> XSIZE=5\r\n", None),
    ],
    ids=repr,
)
def test_a_declared_size(line: bytes, octets: int | None) -> None:
    assert declared_octets(line) == octets


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"RCPT TO:<a@Small.Example>\r\n", b"small.example"),
        (b"RCPT TO:<a@small.example.> NOTIFY=NEVER\r\n", b"small.example"),
        (b"RCPT TO: a@small.example\r\n", b"small.example"),
        (b'RCPT TO:<"a@x>y"@small.example>\r\n', b"small.example"),
        (b"RCPT TO:<@relay.example:a@small.example>\r\n", b"small.example"),
        (b"RCPT TO:< a@small.example >\r\n", b"small.example"),
        (b"RCPT TO:<postmaster>\r\n", b""),
        (b"RCPT\r\n", b""),
    ],
    ids=repr,
)
def test_the_domain_of_a_recipient(line: bytes, name: bytes) -> None:
    assert domain(line) == name


@pytest.mark.parametrize("address", ["a@b", "<a@b>", "postmaster"])
def test_an_address_of_the_operators_is_put_into_brackets_once(address: str) -> None:
    assert path(address) == f"<{address.strip('<>')}>"


@pytest.mark.parametrize("address", ["a b@c", "<a@b> SIZE=1", "a@b\r\nDATA", "a<b@c", "\u00e4@b"])
def test_an_address_that_would_not_stay_in_its_brackets_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not a mail address; write LOCAL@DOMAIN"):
        path(address)


def test_the_dots_of_transparency_do_not_count() -> None:
    """RFC 1870 section 6.1, at every segmentation."""
    data = b"..a\r\n.b\r\n..\r\nc.\r\n"
    end = b".\r\n"
    for cuts in itertools.combinations(range(1, len(data + end)), 2):
        sut = Size()
        for start, stop in itertools.pairwise((0, *cuts, len(data + end))):
            sut.count((data + end)[start:stop], ended=stop == len(data + end))
        assert sut.octets == len(data) - 3


def size_by_definition(data: bytes) -> int:
    """Of mail data without their end: each line, but for a dot that is its first octet."""
    return sum(len(line.removeprefix(b".")) for line in data.splitlines(keepends=True))


@pytest.mark.parametrize("piece_octets", [1, 2, 3, 64 * 1024])
def test_every_short_mail_is_counted_as_defined_at_every_cut(
    piece_octets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before its end never as more than that, as it is refused then."""
    monkeypatch.setattr(mail_data, "_PIECE_OCTETS", piece_octets)
    words = (b"\r\n", b".", b"..", b"x", b"\r\n.")
    wrong = []
    for words_of_it in itertools.chain.from_iterable(itertools.product(words, repeat=size) for size in range(5)):
        data = b"".join(words_of_it) + b"\r\n"
        if b"\r\n.\r\n" in b"\r\n" + data:
            continue
        stream = data + b".\r\n"
        for cut in range(1, len(stream)):
            sut, most = Size(), 0
            for block, ended in ((stream[:cut], False), (memoryview(stream)[cut:], True)):
                sut.count(block, ended=ended)
                most = max(most, sut.octets)
            if not sut.octets == most == size_by_definition(data):
                wrong.append((stream, cut))

    assert wrong == []


@pytest.mark.parametrize(
    ("own", "offered"),
    [({}, b"SIZE 1000"), ({b"SIZE": b""}, b"SIZE 1000"), ({b"SIZE": b"0"}, b"SIZE 1000"), ({b"SIZE": b"999"}, None),
     ({b"SIZE": b"1000"}, None), ({b"SIZE": b"1001"}, b"SIZE 1000"), ({b"SIZE": b"9" * 400}, b"SIZE 1000")],
    ids=str,
)  # fmt: skip
def test_the_smaller_limit_is_offered(own: dict[bytes, bytes], offered: bytes | None) -> None:
    assert size_offered(own, 1000) == offered


# -- sessions


async def opened(stage: Stage, *commands: bytes) -> None:
    """Greeting, EHLO and commands that are accepted."""
    await offered(stage, b"SIZE 0", b"CHUNKING")
    for command in commands:
        await stage.feed(stage.sender, command + b"\r\n")
        await stage.feed(stage.receiver, b"354 go\r\n" if command == b"DATA" else b"250 OK\r\n")
    stage.receiver.written.clear()
    stage.sender.written.clear()


MAIL = b"MAIL FROM:<a@b>"
TO_ALL, TO_SMALL = b"RCPT TO:<a@any.example>", b"RCPT TO:<a@small.example>"


def test_the_limit_stands_in_the_ehlo_reply() -> None:
    async def script(stage: Stage) -> None:
        assert await offered(stage, b"SIZE 5000", b"HELP") == b"250-hi\r\n250-HELP\r\n250 SIZE 1000\r\n"

    staged(script, policy=POLICY)


def test_a_declared_size_is_refused_at_mail() -> None:
    async def script(stage: Stage) -> None:
        await opened(stage)
        await stage.feed(stage.sender, MAIL + b" SIZE=1001\r\n")
        assert stage.sender.written.startswith(b"552 ")
        assert not stage.receiver.written
        await stage.feed(stage.sender, MAIL + b" SIZE=1000\r\n")
        assert stage.receiver.written == MAIL + b" SIZE=1000\r\n"

    assert staged(script, policy=POLICY).repaired == [Violation.OVERSIZE]


def test_a_declared_size_is_refused_at_rcpt_for_its_domain() -> None:
    async def script(stage: Stage) -> None:
        await opened(stage, MAIL + b" SIZE=500")
        await stage.feed(stage.sender, TO_SMALL + b"\r\n")
        assert stage.sender.written.startswith(b"552 ")
        assert not stage.receiver.written
        await stage.feed(stage.sender, TO_ALL + b"\r\n")
        assert stage.receiver.written == TO_ALL + b"\r\n"

    staged(script, policy=POLICY)


def test_a_mail_that_is_refused_at_mail_says_nothing_of_the_one_that_is_open() -> None:
    async def script(stage: Stage) -> None:
        await opened(stage, MAIL + b" SIZE=50")
        await stage.feed(stage.sender, MAIL + b" SIZE=1001\r\n")
        await stage.feed(stage.sender, TO_SMALL + b"\r\n")
        assert stage.receiver.written == TO_SMALL + b"\r\n"

    staged(script, policy=POLICY)


def test_a_mail_that_was_delivered_does_not_count_for_the_next() -> None:
    """Nor for one that the receiver has refused to begin."""

    async def script(stage: Stage) -> None:
        await opened(stage, MAIL, TO_SMALL)
        await stage.feed(stage.sender, b"BDAT 80 LAST\r\n" + b"x" * 80)
        await stage.feed(stage.receiver, b"250 OK\r\n")
        for command in (MAIL, TO_SMALL):
            await stage.feed(stage.sender, command + b"\r\n")
            await stage.feed(stage.receiver, b"503 no\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.sender, b"BDAT 50 LAST\r\n" + b"x" * 50)
        await stage.feed(stage.receiver, b"503 no\r\n")
        assert stage.sender.written == b"503 no\r\n"

    assert staged(script, policy=POLICY).repaired == []


@pytest.mark.parametrize(
    ("recipients", "octets", "accepted"),
    [
        ([TO_ALL], 1000, True),
        ([TO_ALL], 1001, False),
        ([TO_SMALL], 100, True),
        ([TO_SMALL], 101, False),
        ([TO_ALL, TO_SMALL], 500, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("piece_octets", [0, 7])
def test_a_mail_is_counted_as_it_passes(
    recipients: list[bytes], octets: int, accepted: bool, piece_octets: int
) -> None:
    """CRLF counts, the end of mail data doesn't; the verdict stands behind that end."""

    async def script(stage: Stage) -> None:
        await opened(stage, MAIL, *recipients, b"DATA")
        # The first dot is that of transparency, and does not count.
        await stage.feed(stage.sender, b"." + b"x" * (octets - 2) + b"\r", piece_octets)
        await stage.feed(stage.sender, b"\n.\r\n", 1)
        if accepted:
            await stage.feed(stage.receiver, b"250 OK\r\n")
            assert stage.sender.written == b"250 OK\r\n"
        else:
            assert stage.sender.written.startswith(b"552 ")
            assert stage.sender.written.count(b"\n") == 1
            assert stage.receiver.got_rst
            assert not stage.receiver.written.endswith(b"\r\n.\r\n")

    assert staged(script, policy=POLICY).repaired == ([] if accepted else [Violation.OVERSIZE])


def test_a_recipient_that_was_refused_has_no_limit() -> None:
    async def script(stage: Stage) -> None:
        await opened(stage, MAIL, TO_ALL)
        await stage.feed(stage.sender, TO_SMALL + b"\r\n")
        await stage.feed(stage.receiver, b"550 no\r\n")
        await stage.feed(stage.sender, b"DATA\r\n")
        await stage.feed(stage.receiver, b"354 go\r\n")
        await stage.feed(stage.sender, b"x" * 500 + b"\r\n.\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n")
        assert stage.sender.written.endswith(b"250 OK\r\n")

    assert staged(script, policy=POLICY).repaired == []


def test_the_next_mail_begins_at_nothing() -> None:
    async def script(stage: Stage) -> None:
        await opened(stage)
        for _ in range(3):
            for command, reply in ((MAIL, b"250"), (TO_ALL, b"250"), (b"DATA", b"354")):
                await stage.feed(stage.sender, command + b"\r\n")
                await stage.feed(stage.receiver, reply + b" OK\r\n")
            await stage.feed(stage.sender, b"x" * 900 + b"\r\n.\r\n")
            await stage.feed(stage.receiver, b"250 OK\r\n")
        assert stage.sender.written.count(b"250 OK\r\n") == 9

    assert staged(script, policy=POLICY).repaired == []


def test_chunks_are_counted_together() -> None:
    """The one that goes beyond is drained and refused, and so are those behind it."""

    async def script(stage: Stage) -> None:
        await opened(stage, MAIL, TO_ALL)
        await stage.feed(stage.sender, b"BDAT 600\r\n" + b"x" * 600)
        await stage.feed(stage.receiver, b"250 OK\r\n")
        await stage.feed(stage.sender, b"BDAT 401\r\n" + b"x" * 401 + b"BDAT 0 LAST\r\n")
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"250", b"552", b"552"]
        assert stage.receiver.got_rst

    assert staged(script, policy=POLICY).repaired == [Violation.OVERSIZE]


def test_a_chunk_in_one_group_with_its_recipients_is_judged_by_their_replies() -> None:
    """Its limit is not known before those."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING", b"CHUNKING")
        await stage.feed(stage.sender, MAIL + b"\r\n" + TO_SMALL + b"\r\nBDAT 101 LAST\r\n" + b"x" * 101)
        assert b"BDAT" not in stage.receiver.written
        await stage.feed(stage.receiver, b"250 a\r\n250 b\r\n")
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"250", b"250", b"552"]
        assert stage.receiver.got_rst

    assert staged(script, policy=POLICY).repaired == [Violation.OVERSIZE]
