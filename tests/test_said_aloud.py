"""What shimproxy does to a session is in its record, under a name of the catalogue (guarantee 11)."""

from __future__ import annotations

import pytest

from shimproxy.session.limits import Limits
from shimproxy.session.policy import Policy
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.newlines import Newlines
from tests.memory import Stage, offered, staged

SHORT = Limits(command_octets=512)

# -- AUTH


async def within_auth(stage: Stage) -> None:
    """The receiver has asked for a response."""
    await offered(stage, b"AUTH GSSAPI")
    await stage.feed(stage.sender, b"AUTH GSSAPI\r\n")
    await stage.feed(stage.receiver, b"334 go\r\n")
    for sock in (stage.sender, stage.receiver):
        sock.written.clear()


@pytest.mark.parametrize("piece_octets", [0, 1])
@pytest.mark.parametrize(
    ("response", "forwarded", "repaired"),
    [
        (b"Y" * 512 + b"\r\n", b"Y" * 512 + b"\r\n", None),
        (b"Y" * 513 + b"\r\n", b"*\r\n", (Violation.AUTH_TOO_LONG, 515)),
        (b"Y" * 700 + b"\n", b"*\r\n", (Violation.AUTH_TOO_LONG, 701)),
        (b"WVk\0=\r\n", b"*\r\n", (Violation.UNKNOWN_OCTETS, 7)),
        (b"WVk=\rQUIT\r\n", b"*\r\n", (Violation.UNKNOWN_OCTETS, 11)),
        (b"WVk=\n", b"WVk=\r\n", (Violation.BARE_NEWLINE, 6)),
    ],
    ids=["at the limit", "over the limit", "over the limit, LF", "NUL", "CR", "LF"],
)
def test_a_response_within_auth_that_is_changed_is_told(
    response: bytes, forwarded: bytes, repaired: tuple[Violation, int] | None, piece_octets: int
) -> None:
    """The receiver gets `*`, which cancels the exchange; why, nobody could know otherwise. The response is not told."""

    async def script(stage: Stage) -> None:
        await within_auth(stage)
        await stage.feed(stage.sender, response, piece_octets)
        assert bytes(stage.receiver.written) == forwarded
        told = [(each.violation, each.detail) for each in stage.notes.repairs]
        assert told == ([(repaired[0], {"verb": "AUTH response", "octets": repaired[1]})] if repaired else [])

    staged(script, SHORT)


def test_a_response_with_a_bare_newline_is_refused_where_those_are() -> None:
    """--newlines reject is for all that is forwarded line by line."""

    async def script(stage: Stage) -> None:
        await within_auth(stage)
        await stage.feed(stage.sender, b"WVk=\n")
        assert bytes(stage.receiver.written) == b"*\r\n"
        assert stage.repaired == [Violation.BARE_NEWLINE]

    staged(script, policy=Policy(newlines=Newlines.REJECT))


def test_an_auth_command_over_the_limit_is_told_and_has_the_reply_of_its_own() -> None:
    """RFC 4954 section 6. Nothing of it is forwarded, or told but its size."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"AUTH PLAIN", b"ENHANCEDSTATUSCODES")
        await stage.feed(stage.sender, b"AUTH PLAIN " + b"Y" * 600 + b"\r\n")
        assert bytes(stage.sender.written) == b"500 5.5.6 AUTH line too long\r\n"
        assert bytes(stage.receiver.written) == b""
        (repair,) = stage.notes.repairs
        assert (repair.violation, repair.detail) == (Violation.AUTH_TOO_LONG, {"verb": "AUTH", "octets": 613})
        assert not [said for _, said in stage.notes.dialogue if b"YYY" in said]

    staged(script, SHORT)


@pytest.mark.parametrize("piece_octets", [0, 1])
def test_a_chunk_whose_command_is_over_the_limit_is_no_command(piece_octets: int) -> None:
    """Its size is in a line of which nothing is kept: the session ends, as behind any BDAT that does not say it."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        await stage.feed(stage.sender, b"BDAT 6" + b" " * 600 + b"\r\nRSET\r\nNOOP\r\n", piece_octets)
        assert bytes(stage.receiver.written).removesuffix(b"QUIT\r\n") == b""
        assert bytes(stage.sender.written).startswith(b"421 ")
        assert stage.sender.got_fin
        assert stage.repaired[0] == Violation.LONG_LINE

    staged(script, SHORT)
