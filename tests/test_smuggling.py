"""Smuggling: both legs agree on how many mails there were and what is in them, under each newline policy.

Each vector stands between a mail and commands that a smuggler wants to be obeyed. Receivers are played in memory, in
lines as the strictest and the laxest know them, at every split; then come a Postfix with its protection switched off
and an Exim.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from shimproxy.session.policy import Policy
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.newlines import Newlines
from tests.memory import staged, up_to_mail_data
from tests.peers.exim import Exim, exim
from tests.peers.postfix import MAILBOX_DOMAIN, Postfix, postfix
from tests.peers.processes import poll
from tests.peers.senders import Dialogue, connected
from tests.peers.shim import shim
from tests.vectors import BEFORE, BEHIND, LAST_LINE, NO_END

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.memory import Stage

SECONDS = 120.0
STRAY = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0").search
# What receivers have been seen to take for the end of mail data.
ENDS = {
    "strict": rb"\r\n\.\r\n",
    "LF.LF": rb"\n\.\r?\n",
    "CR.CR": rb"\r\.\r",
    "any of both": rb"[\r\n]\.[\r\n]",
    "NUL is nothing": rb"[\r\n]\0?\.[\0\r]*[\r\n]",
}
# To whom a line ends in CR alone, canonical mail data have no end at all: there, LF begins the next line.
SEES_NONE: dict[str, list[int]] = {"CR.CR": []}
vectors = pytest.mark.parametrize("vector", [*NO_END.values()], ids=[*NO_END])


def splits(vector: bytes) -> Iterator[list[bytes]]:
    """The mail whole, octet by octet about the vector, and cut in two everywhere there."""
    yield [BEFORE + vector + BEHIND + LAST_LINE]
    yield [BEFORE, *(vector[at : at + 1] for at in range(len(vector))), BEHIND, LAST_LINE]
    for at in range(len(vector) + 1):
        yield [BEFORE + vector[:at], vector[at:] + BEHIND + LAST_LINE]


def played(blocks: list[bytes], newlines: Newlines, verdict: bytes = b"250 OK\r\n") -> Stage:
    """A mail in these blocks, and what became of it; the receiver answers once it has seen a strict end."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        for block in blocks:
            await stage.feed(stage.sender, block)
        if stage.receiver.written.endswith(LAST_LINE):
            await stage.feed(stage.receiver, verdict)

    return staged(script, policy=Policy(newlines=newlines))


# -- the policies, with receivers of every kind


@vectors
def test_normalised_mail_data_have_one_end_for_every_receiver(vector: bytes) -> None:
    """One mail goes in, one comes out, and nobody sees an end before the last octets of it."""
    for blocks in splits(vector):
        stage = played(blocks, Newlines.NORMALISE)
        out = bytes(stage.receiver.written)
        assert not STRAY(out)
        assert {kind: ends_seen(kind, out) for kind in ENDS} == {kind: [len(out)] for kind in ENDS} | SEES_NONE
        assert stage.sender.written == b"250 OK\r\n"
        assert (Violation.BARE_NEWLINE in stage.repaired) == bool(STRAY(vector))


def ends_seen(kind: str, octets: bytes) -> list[int]:
    """Where receivers of this kind see mail data end, with the CRLF that one who takes CR for an end leaves over."""
    ends = (found.end() - 2 for found in re.finditer(ENDS[kind], b"\r\n" + octets))
    return [end + (octets[end - 1 : end + 1] == b"\r\n") for end in ends]


@vectors
def test_passed_mail_data_are_the_senders_octets(vector: bytes) -> None:
    """No more and no less, and the one end that the RFC knows is where it was."""
    for blocks in splits(vector):
        stage = played(blocks, Newlines.PASS)
        assert stage.receiver.written == b"".join(blocks)
        assert stage.sender.written == b"250 OK\r\n"
        assert stage.repaired == []


@vectors
def test_rejected_mail_data_are_drained_and_refused(vector: bytes) -> None:
    """550 behind the true end, not before; the receiver sees no end and is reset. What is canonical is let through."""
    for blocks in splits(vector):
        stage = played(blocks, Newlines.REJECT)
        if STRAY(vector):
            assert stage.sender.written.startswith(b"550 ")
            assert stage.sender.written.count(b"\n") == 1
            assert stage.receiver.got_rst
            assert not any(ends_seen(kind, bytes(stage.receiver.written)) for kind in ENDS)
            assert stage.repaired == [Violation.BARE_NEWLINE]
        else:
            assert stage.sender.written == b"250 OK\r\n"
            assert stage.receiver.written == b"".join(blocks)


def test_a_refusal_waits_for_the_end() -> None:
    """As every reply to mail data does (guarantee 1); the session is then over but for a QUIT."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"a\nb")
        assert not stage.sender.written
        await stage.feed(stage.sender, b"\r\n.\r\n")
        assert stage.sender.written.startswith(b"550 ")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        assert b"\r\n421 " in stage.sender.written

    staged(script, policy=Policy(newlines=Newlines.REJECT))


def test_a_sender_that_stalls_in_refused_mail_data_gets_the_refusal() -> None:
    """Instead of a 421 that would make it come again."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"a\nb")
        await stage.pass_time(stage.deadlines.sender_block)
        assert stage.sender.written.startswith(b"550 ")

    staged(script, policy=Policy(newlines=Newlines.REJECT))


# -- commands


@pytest.mark.parametrize(
    ("newlines", "line", "forwarded", "reply"),
    [
        (Newlines.NORMALISE, b"NOOP\n", b"NOOP\r\n", b""),
        (Newlines.NORMALISE, b"NOOP\rRSET\r\n", b"", b"500 "),
        (Newlines.NORMALISE, b"NOOP\0\r\n", b"", b"500 "),
        (Newlines.REJECT, b"NOOP\n", b"", b"500 "),
        (Newlines.REJECT, b"NOOP\rRSET\r\n", b"", b"500 "),
        (Newlines.PASS, b"NOOP\n", b"NOOP\n", b""),
        (Newlines.PASS, b"NOOP a\rb\0\r\n", b"NOOP a\rb\0\r\n", b""),
    ],
    ids=repr,
)
def test_newlines_in_commands(newlines: Newlines, line: bytes, forwarded: bytes, reply: bytes) -> None:
    """A command is one line to every receiver, unless the operator has it passed."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.sender, line)
        assert stage.receiver.written == forwarded
        assert stage.sender.written.startswith(reply)

    staged(script, policy=Policy(newlines=newlines))


def test_a_device_that_knows_lf_alone_has_its_mail_delivered() -> None:
    """On a listener for such devices; what goes out is canonical, and there is nothing to be said about it."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        for command, reply in ((b"HELO x", b"250 hi"), (b"DATA", b"354 go")):
            await stage.feed(stage.sender, command + b"\n")
            await stage.feed(stage.receiver, reply + b"\r\n")
        await stage.feed(stage.sender, b"one\n..two\n.\nQUIT\n", 3)
        assert stage.receiver.written == b"HELO x\r\nDATA\r\none\r\n..two\r\n.\r\n"
        await stage.feed(stage.receiver, b"250 OK\r\n")
        assert stage.receiver.written.endswith(b"\r\n.\r\nQUIT\r\n")
        assert Violation.BARE_NEWLINE not in stage.repaired

    staged(script, policy=Policy(lf_only_devices=True))


# -- real receivers


@attrs.frozen
class Mails:
    """What a receiver has stored."""

    honest: int
    smuggled: int


def send_vectors(port: int) -> list[bytes]:
    """A session for each vector; the reply that its sender was given to its one mail."""
    smuggled = f"MAIL FROM:<a@sender.example>\r\nRCPT TO:<smuggled@{MAILBOX_DOMAIN}>\r\nDATA\r\n".encode()
    verdicts: list[bytes] = []
    for vector in NO_END.values():
        with connected(port) as sock:
            dialogue = Dialogue(sock)
            dialogue.open("HELO smuggler.example")
            dialogue.command("MAIL FROM:<a@sender.example>", 250)
            dialogue.command(f"RCPT TO:<contents@{MAILBOX_DOMAIN}>", 250)
            dialogue.command("DATA", 354)
            sock.sendall(BEFORE + vector + smuggled + b"Subject: smuggled\r\n\r\nhi" + LAST_LINE)
            verdicts.append(dialogue.reply())
            sock.sendall(b"QUIT\r\n")
            verdicts[-1] += dialogue.rest()
    return verdicts


async def mails_stored(receiver: Postfix | Exim, newlines: Newlines, least: int) -> tuple[Mails, list[bytes]]:
    """What has arrived after all vectors went through a shim with that policy, and what was said to them."""
    with trio.fail_after(SECONDS):
        async with shim(receiver.port, newlines=newlines) as between:
            verdicts = await trio.to_thread.run_sync(send_vectors, between.port)
    poll(lambda: receiver.count("contents") >= least, f"{least} mails stored", SECONDS)
    return Mails(receiver.count("contents"), receiver.count("smuggled")), verdicts


lax_postfix = "smtpd_forbid_bare_newline = no\nsmtpd_data_restrictions =\nsmtpd_forbid_unauth_pipelining = no"


@pytest.mark.slow
async def test_nothing_is_smuggled_to_a_lax_postfix() -> None:
    """One mail a vector is stored, and one accepted: the sender knows of as many as there are."""
    with postfix(more=lax_postfix) as receiver:
        mails, verdicts = await mails_stored(receiver, Newlines.NORMALISE, len(NO_END))
        assert mails == Mails(len(NO_END), 0)
    assert [verdict[:3] for verdict in verdicts] == [b"250"] * len(NO_END)


@pytest.mark.slow
async def test_without_the_policy_something_is_smuggled_to_a_lax_postfix() -> None:
    """Which shows that the test above can fail."""
    with postfix(more=lax_postfix) as receiver:
        await mails_stored(receiver, Newlines.PASS, 1)
        poll(lambda: receiver.count("smuggled") > 0, "a smuggled mail", SECONDS)


@pytest.mark.slow
async def test_nothing_is_smuggled_to_an_exim() -> None:
    """Exim takes the vectors for text where it does not refuse them; either way there is one verdict a mail."""
    with exim(daemon=True) as receiver:
        mails, verdicts = await mails_stored(receiver, Newlines.NORMALISE, len(NO_END))
        assert mails == Mails(len(NO_END), 0)
    assert [verdict[:3] for verdict in verdicts] == [b"250"] * len(NO_END)
