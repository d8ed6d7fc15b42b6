"""What is none of SMTP's, at a port that speaks SMTP: one line in the log with the mend, a 421, and a close."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, cast

import pytest

from shimproxy.net.errors import TlsFailed
from shimproxy.net.leg import Leg
from shimproxy.net.proxy_header import Version, encoded_header, local
from shimproxy.session.policy import Policy, SenderTls
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import CommandReader, Verb
from shimproxy.smtp.ehlo import NEVER_OFFERED
from shimproxy.smtp.foreign import foreign
from shimproxy.smtp.newlines import Newlines
from tests.memory import Stage, offered, staged

if TYPE_CHECKING:
    from collections.abc import Sequence

V4 = (("203.0.113.7", 4711), ("192.0.2.1", 25))
V6 = (("2001:db8::7", 4711), ("2001:db8::1", 25))


def client_hello(lowest: ssl.TLSVersion, highest: ssl.TLSVersion) -> bytes:
    """What OpenSSL says first as a client of these versions."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version, context.maximum_version = lowest, highest
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="shim.example").do_handshake()
    return out.read()


FOREIGN = {
    "TLS 1.2": (client_hello(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2), "TLS"),
    "TLS 1.3": (client_hello(ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3), "TLS"),
    "SSL 2": (b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10", "TLS"),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", "HTTP"),
    "HTTP/1.1, LF": (b"POST /a?b=c HTTP/1.1\nHost: x\n\n", "HTTP"),
    "OPTIONS": (b"OPTIONS * HTTP/1.0\r\n\r\n", "HTTP"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP"),
    "PROXY TCP4": (encoded_header(Version.V1, *V4), "PROXY"),
    "PROXY TCP6": (encoded_header(Version.V1, *V6), "PROXY"),
    "PROXY UNKNOWN": (local(Version.V1, None, None), "PROXY"),
    "v2": (encoded_header(Version.V2, *V4), "PROXY"),
    "v2, IPv6": (encoded_header(Version.V2, *V6), "PROXY"),
    "v2, LOCAL": (local(Version.V2, None, None), "PROXY"),
}
IMPLICIT = Policy(sender_tls=SenderTls.IMPLICIT, sender_context=cast("ssl.SSLContext", object()), clear_allowed=True)
every_foreign = pytest.mark.parametrize(("octets", "what"), FOREIGN.values(), ids=FOREIGN.keys())


# -- what is known for such


@every_foreign
def test_it_is_known_by_its_first_octets(octets: bytes, what: str) -> None:
    """With a mend for the operator."""
    found = foreign(octets)

    assert found is not None
    assert what in found.what
    assert found.mend


@pytest.mark.parametrize(
    "line",
    [
        *(b"%s\r\n" % verb.value.encode() for verb in Verb),
        *(b"%s x\r\n" % word for word in sorted(NEVER_OFFERED)),
        b"EHLO GET / HTTP/1.1\r\n",
        b"NOOP PROXY TCP4 1.2.3.4\r\n",
        b"GET\r\n",
        b"GET /\r\n",
        b"GET / HTTPS\r\n",
        b"get / http/1.1\r\n",
        b"GETX / HTTP/1.1\r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET a b HTTP/1.1\r\n",
        b"PROXY\r\n",
        b"PROXY x\r\n",
        b"PROXY TCP\r\n",
        b"PROXYTCP4 \r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\r\n\r\nQUIT\n",
        b"\r\n\0\r\nQUIT\n",
        b"\x16\r\n",
        b"\x16\x02\r\n",
        b"\x80 BDAT\r\n",
        b"\xc3\xa4\r\n",
    ],
    ids=repr,
)
def test_a_command_is_never_taken_for_it(line: bytes) -> None:
    """Nor what is none, but could be of a sender of SMTP: that has its reply."""
    reader = CommandReader(512)
    for octet in line:
        reader.feed(bytes([octet]))
        while command := reader.next_command():
            assert command.violation is not Violation.NOT_SMTP
    assert foreign(line) is None


@pytest.mark.parametrize("piece_octets", [1, 2, 100])
def test_a_signature_with_a_command_between_its_lines_is_known_in_pieces_of_all_sizes(piece_octets: int) -> None:
    """What else was read at once does not decide about it."""
    reader, octets, found = CommandReader(512), b"\r\nRSET\r\n\r\n\0\r\n", []
    for at in range(0, len(octets), piece_octets):
        reader.feed(octets[at : at + piece_octets])
        while command := reader.next_command():
            found.append((command.verb, command.violation))

    empty = (Verb.OTHER, Violation.EMPTY_LINE)
    assert found == [empty, (Verb.RSET, None), empty, (Verb.OTHER, Violation.NOT_SMTP)]


# -- what becomes of it


@pytest.mark.parametrize("piece_octets", [0, 1])
@pytest.mark.parametrize("early", [True, False], ids=["before the greeting", "behind it"])
@every_foreign
def test_it_is_one_repair_that_names_the_mend(octets: bytes, what: str, early: bool, piece_octets: int) -> None:
    """Nothing of it reaches the receiver, and the session ends at once, with a 421 as its last reply."""

    async def script(stage: Stage) -> None:
        greeting = b"220 hello\r\n"
        if not early:
            await stage.feed(stage.receiver, greeting)
        is_lines_first = octets.startswith(b"\r\n")  # which have replies of their own where they come in pieces
        await stage.feed(stage.sender, octets, 0 if is_lines_first and not early else piece_octets)
        if early:
            await stage.feed(stage.receiver, greeting)
        *_, last = bytes(stage.sender.written).splitlines()
        assert last.startswith(b"421 ")
        assert stage.sender.got_fin
        stage.sender.feed_fin()
        await stage.settle()
        assert bytes(stage.receiver.written) == (b"" if early else b"QUIT\r\n")
        (told,) = stage.account.repairs
        assert told.violation is Violation.NOT_SMTP
        assert what in str(told.detail["what"])
        assert told.detail["mend"]
        assert last + b"\r\n" == bytes(stage.sender.written).removeprefix(b"" if early else greeting)

    staged(script)


@every_foreign
def test_a_receiver_that_has_not_greeted_yet_is_not_waited_for(octets: bytes, what: str) -> None:
    """It may take minutes, as postscreen's do; what a sender of SMTP says is held meanwhile."""

    async def foreign_talk(stage: Stage) -> None:
        await stage.feed(stage.sender, octets, 7)
        assert stage.sender.written == b"421 this port speaks SMTP and nothing else, closing connection\r\n"
        assert stage.sender.got_fin
        (told,) = stage.account.repairs
        assert what in str(told.detail["what"])

    async def early_talk(stage: Stage) -> None:
        await stage.feed(stage.sender, b"EHLO x\r\n", 1)
        assert stage.sender.written == b""
        await stage.feed(stage.receiver, b"220 hello\r\n")
        assert stage.receiver.written == b"EHLO x\r\n"
        assert stage.repaired == [Violation.EARLY_TALK]

    for script in (foreign_talk, early_talk):
        staged(script)


IN_CLEAR = {name: each for name, each in FOREIGN.items() if each[1] != "TLS"}


@pytest.mark.parametrize("piece_octets", [0, 1])
@pytest.mark.parametrize(("octets", "what"), IN_CLEAR.values(), ids=IN_CLEAR.keys())
def test_it_is_known_where_tls_should_have_begun(octets: bytes, what: str, piece_octets: int) -> None:
    """A handshake would fail with what OpenSSL makes of it. No receiver is dialled for it."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.sender, octets, piece_octets)
        assert stage.sender.written.startswith(b"421 ")
        assert stage.sender.got_fin
        stage.sender.feed_fin()
        await stage.settle()
        (told,) = stage.account.repairs
        assert told.violation is Violation.NOT_SMTP
        assert what in str(told.detail["what"])
        assert stage.receiver.leg is None

    staged(script, policy=IMPLICIT)


@pytest.mark.parametrize(
    "octets",
    [FOREIGN["TLS 1.3"][0], FOREIGN["SSL 2"][0], b"EHLO x\r\n", b"GET me\r\n", b"\r\n\r\nNOOP\r\n", b"x" * 5000, b""],
    ids=["TLS", "SSL 2", "EHLO", "GET", "empty lines", "no line", "FIN"],
)
@pytest.mark.parametrize("piece_octets", [0, 1])
def test_whatever_else_comes_there_is_for_the_handshake_to_judge(
    octets: bytes, piece_octets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given all of it, as soon as it can be nothing else."""
    given: list[bytes] = []

    async def secure(self: Leg, _context: object) -> None:
        given.append(self.look() or b"")
        raise TlsFailed(self.name, "as the test wants it")

    async def script(stage: Stage) -> None:
        await stage.feed(stage.sender, octets, piece_octets)
        if not octets:
            stage.sender.feed_fin()
            await stage.settle()
        assert stage.repaired == [Violation.TLS_FAILED]
        assert octets.startswith(given[0])

    monkeypatch.setattr(Leg, "secure", secure)
    staged(script, policy=IMPLICIT)


def test_a_header_of_version_2_in_pieces_is_known_by_its_third_line() -> None:
    """Two empty lines may be anybody's; behind them, a NUL alone on its line is of no sender of SMTP."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, encoded_header(Version.V2, *V4), 1)
        assert [line[:3] for line in bytes(stage.sender.written).splitlines()] == [b"220", b"500", b"500", b"421"]
        assert stage.sender.got_fin
        stage.sender.feed_fin()
        await stage.settle()
        assert bytes(stage.receiver.written) == b"QUIT\r\n"
        assert stage.repaired == [Violation.EMPTY_LINE, Violation.EMPTY_LINE, Violation.NOT_SMTP]

    staged(script)


# -- who the sender is


@pytest.mark.parametrize("newlines", Newlines, ids=str)
@pytest.mark.parametrize(
    "line",
    [
        b"XCLIENT ADDR=192.0.2.9\r\n",
        b"xforward ADDR=192.0.2.9\r\n",
        b" \tXCLIENT ADDR=192.0.2.9\r\n",
        b"XCLIENT\0ADDR=192.0.2.9\r\n",
        b"PROXY\r\n",
        b"proxy tcp4 192.0.2.9 192.0.2.1 1 25\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 1 25\r\n",
    ],
    ids=repr,
)
def test_no_receiver_is_told_by_the_sender_who_that_is(line: bytes, newlines: Newlines) -> None:
    """In the midst of a session, whatever is done about newlines."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"XCLIENT ADDR", b"XFORWARD ADDR")
        await stage.feed(stage.sender, line)
        assert bytes(stage.receiver.written).removesuffix(b"QUIT\r\n") == b""
        assert bytes(stage.sender.written)[:3] in (b"421", b"500", b"502")
        assert stage.repaired

    staged(script, policy=Policy(newlines=newlines))


@pytest.mark.parametrize(
    ("keywords", "line", "verb"),
    [
        ((b"HELP",), b"XCLIENT NAME=x ADDR=192.0.2.9\r\n", "XCLIENT"),
        ((b"HELP",), b"xexch50 1 2\r\n", "XEXCH50"),
        ((b"HELP",), b"LHLO x\r\n", "LHLO"),
        ((b"HELP",), b"STARTTLS\r\n", "STARTTLS"),
        ((b"HELP",), b"BDAT 1 LAST\r\nx", "BDAT"),
        ((b"HELP",), b"X-EXPS NTLM c2VjcmV0\r\n", "X-EXPS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_command_that_is_withheld_is_told_with_its_verb(keywords: Sequence[bytes], line: bytes, verb: str) -> None:
    """nginx says XCLIENT unasked, and ends a session where that is refused: it would look like the sender's whim."""

    async def script(stage: Stage) -> None:
        await offered(stage, *keywords)
        await stage.feed(stage.sender, line)
        assert bytes(stage.receiver.written) == b""
        assert bytes(stage.sender.written).startswith(b"502 ")
        (repair,) = stage.account.repairs
        assert (repair.violation, repair.detail) == (Violation.WITHHELD_COMMAND, {"verb": verb})

    staged(script)


def test_what_is_none_of_smtps_is_known_too_if_it_comes_together_with_the_greeting() -> None:
    async def script(stage: Stage) -> None:
        stage.sender.feed(b"GET / HTTP/1.0\r\n\r\n")
        stage.receiver.feed(b"220 hello\r\n")
        await stage.settle()
        assert stage.sender.written.startswith(b"421 ")
        assert bytes(stage.receiver.written) in (b"", b"QUIT\r\n")

    assert staged(script).repaired == [Violation.NOT_SMTP]


def test_a_sender_that_resets_where_it_was_to_begin_with_tls_is_gone() -> None:
    """Before there is a receiver: none is dialled for it."""

    async def script(stage: Stage) -> None:
        stage.sender.feed(b"")  # an event for nothing
        await stage.settle()
        stage.sender.feed(b"GET / HTTP/1.0\r\n\r\n")
        stage.sender.feed_rst()
        await stage.settle()
        assert stage.over
        assert stage.receiver.leg is None

    assert staged(script, policy=IMPLICIT).repaired == [Violation.NOT_SMTP]


def test_a_session_that_waits_for_tls_can_be_stopped() -> None:
    """Before there is a receiver: none is dialled for it."""

    async def script(stage: Stage) -> None:
        stage.session.stop_now()
        await stage.settle()
        stage.sender.feed_fin()
        await stage.settle()
        assert stage.over
        assert stage.record.ended_by == "shim"
        assert stage.receiver.leg is None

    assert staged(script, policy=IMPLICIT).repaired == []
