"""Smuggling: both legs agree on how many mails there were and what is in them, under each newline policy.

Each vector stands between a mail and commands that a smuggler wants to be obeyed. Receivers are played in memory, in
lines as the strictest and the laxest know them, at every split; then come a Postfix with its protection switched off
and an Exim, and chunks for the Exim.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from shimproxy.faulty.client import Dialogue, connected
from shimproxy.session.policy import Policy, Sizes
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.newlines import Newlines
from tests.memory import staged, up_to_mail_data
from tests.peers.exim import Exim, exim
from tests.peers.postfix import MAILBOX_DOMAIN, Postfix, postfix
from tests.peers.processes import poll
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
    """As every reply to mail data does (guarantee 1); the next mail goes to a fresh leg."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"a\nb")
        assert not stage.sender.written
        await stage.feed(stage.sender, b"\r\n.\r\n")
        assert stage.sender.written.startswith(b"550 ")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        (first,) = stage.earlier_receivers
        assert first.got_rst

    staged(script, policy=Policy(newlines=Newlines.REJECT))


@pytest.mark.parametrize("piece_octets", [0, 1])
def test_a_mail_is_refused_for_what_is_wrong_with_it(piece_octets: int) -> None:
    """With the CRs that it lacks it would be too big; as the sender has sent it, it is not."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\n" * 20 + b"\r\n.\r\n", piece_octets)
        assert stage.sender.written.startswith(b"550 ")
        assert stage.repaired == [Violation.BARE_NEWLINE]

    staged(script, policy=Policy(newlines=Newlines.REJECT, sizes=Sizes(50)))


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


def test_what_is_changed_in_the_mail_of_such_a_device_is_told() -> None:
    """A CR or NUL that becomes a blank, in mail data; its LFs are what is expected of it."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"one\rtwo\n\0\n.\n")
        assert stage.receiver.written.endswith(b"one two\r\n \r\n.\r\n")
        assert [repair.detail["count"] for repair in stage.account.repairs] == [2]
        assert stage.repaired == [Violation.BARE_NEWLINE]

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


# -- chunks, with a real receiver


TEXT = b"Subject: x\r\n\r\nfirst mail"
ENVELOPE = f"MAIL FROM:<a@sender.example>\r\nRCPT TO:<smuggled@{MAILBOX_DOMAIN}>\r\n".encode()
BY_DATA = ENVELOPE + b"DATA\r\nSubject: smuggled\r\n\r\nhi" + LAST_LINE
QUIT = b"QUIT\r\n"


def chunk(octets: bytes, *, last: bool = True, more_octets: int = 0) -> bytes:
    """BDAT and these octets, of which it says that they are `more_octets` more."""
    return b"BDAT %d%s\r\n" % (len(octets) + more_octets, b" LAST" if last else b"") + octets


BY_CHUNK = ENVELOPE + chunk(b"Subject: smuggled\r\n\r\nhi\r\n")


@attrs.frozen
class Chunks:
    """Row 22: what is said behind RCPT, and what comes of it."""

    said: bytes
    codes: list[bytes]
    """Of the replies to that."""
    bodies: list[bytes] = attrs.field(factory=list)
    """Of the mails that the receiver must have then, as the octets of their chunks."""


CHUNKS = {
    "CRLF . CRLF in a chunk": Chunks(
        chunk(TEXT + LAST_LINE + BY_DATA) + QUIT, [b"250", b"221"], [b"first mail" + LAST_LINE + BY_DATA]
    ),
    "BDAT in a chunk": Chunks(
        chunk(TEXT + b"\r\n" + BY_CHUNK) + QUIT, [b"250", b"221"], [b"first mail\r\n" + BY_CHUNK]
    ),
    **{
        f"CRLF . CRLF cut behind octet {at}": Chunks(
            chunk(TEXT + LAST_LINE[:at], last=False) + chunk(LAST_LINE[at:] + BY_DATA) + QUIT,
            [b"250", b"250", b"221"],
            [b"first mail" + LAST_LINE + BY_DATA],
        )
        for at in range(1, len(LAST_LINE))
    },
    "a count that is too short": Chunks(
        chunk(TEXT + b"\r\nand ", more_octets=-4) + b"so on\r\n" + QUIT, [b"250", b"500", b"221"], [b"first mail\r\n"]
    ),
    "a count that takes the next command": Chunks(
        chunk(TEXT + b"\r\n", more_octets=len(QUIT)) + QUIT + QUIT, [b"250", b"221"], [b"first mail\r\n" + QUIT]
    ),
    "a count that nothing comes up to": Chunks(chunk(TEXT + LAST_LINE + BY_DATA, more_octets=1), []),
    "a chunk without LAST, and the end": Chunks(chunk(TEXT, last=False), [b"250"]),
    "BDAT 0 LAST behind a chunk": Chunks(
        chunk(TEXT + b"\r\n", last=False) + chunk(b"") + BY_CHUNK.replace(b"smuggled@", b"contents@") + QUIT,
        [b"250"] * 5 + [b"221"],
        [b"first mail\r\n", b"hi\r\n"],
    ),
    "DATA behind BDAT": Chunks(chunk(TEXT, last=False) + b"DATA\r\n" + BY_DATA, [b"250", b"503", b"421"]),
    "MAIL behind BDAT": Chunks(
        chunk(TEXT, last=False) + b"MAIL FROM:<b@sender.example>\r\n" + QUIT, [b"250", b"503", b"221"]
    ),
    # Behind these two, Exim takes what comes for commands until RSET, a chunk's octets too.
    "BDAT 0 behind a chunk, then one more": Chunks(
        chunk(TEXT, last=False) + chunk(b"", last=False) + chunk(b"RSET\r\n" + BY_CHUNK) + QUIT,
        [b"250", b"504", b"504", b"221"],
    ),
    "MAIL behind a chunk, then one more": Chunks(
        chunk(TEXT, last=False) + b"MAIL FROM:<>\r\n" + chunk(b"RSET\r\n" + BY_CHUNK) + QUIT,
        [b"250", b"503", b"503", b"221"],
    ),
    "DATA behind a chunk, then one more": Chunks(
        chunk(TEXT, last=False) + b"DATA\r\n" + chunk(b"RSET\r\n" + BY_CHUNK) + QUIT, [b"250", b"503", b"421"]
    ),
    "BDAT behind LAST": Chunks(
        chunk(TEXT + b"\r\n") + chunk(BY_DATA) + QUIT, [b"250", b"503", b"221"], [b"first mail\r\n"]
    ),
}


@pytest.fixture(scope="module")
def an_exim() -> Iterator[Exim]:
    with exim(daemon=True) as running:
        yield running


def codes_of(port: int, said: bytes) -> list[bytes]:
    """The codes of the replies to what is said behind RCPT, by a sender that then says no more."""
    with connected(port) as sock:
        dialogue = Dialogue(sock)
        dialogue.open("EHLO smuggler.example")
        dialogue.command("MAIL FROM:<a@sender.example>", 250)
        dialogue.command(f"RCPT TO:<contents@{MAILBOX_DOMAIN}>", 250)
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        return [line[:3] for line in dialogue.rest().splitlines() if line[3:4] != b"-"]


async def codes_of_each(port: int, said: list[bytes]) -> list[list[bytes]]:
    """The same for several senders at once."""
    codes: list[list[bytes]] = [[] for _ in said]

    async def send(index: int) -> None:
        codes[index] = await trio.to_thread.run_sync(codes_of, port, said[index])

    async with trio.open_nursery() as senders:
        for index in range(len(said)):
            senders.start_soon(send, index)
    return codes


def bodies_of(receiver: Exim) -> Counter[bytes]:
    """Of the mails that it has stored for the honest recipient."""
    return Counter(mail.partition(b"\n\n")[2] for mail in receiver.mailbox("contents"))


async def sent_to(receiver: Exim, said: list[bytes]) -> tuple[list[list[bytes]], Counter[bytes]]:
    """The codes that senders are given through the shim, and the bodies of the mails that come of it.

    The shim, the receiver's log and its mailboxes agree on how many those are.
    """
    taken, before = receiver.log.count(" <= "), bodies_of(receiver)
    with trio.fail_after(SECONDS):
        async with shim(receiver.port) as between:
            codes = await codes_of_each(between.port, said)
            await between.watcher.sessions_ended(len(said))
    # A mail is logged before it is acknowledged: whatever was smuggled is there by now.
    taken = receiver.log.count(" <= ") - taken
    assert taken == sum(record.accepted for record in between.watcher.ended_sessions)
    poll(lambda: receiver.count("contents") >= before.total() + taken, f"{taken} mails stored", SECONDS)
    assert receiver.count("smuggled") == 0
    return codes, bodies_of(receiver) - before


@pytest.mark.parametrize("vector", [*CHUNKS.values()], ids=[*CHUNKS])
async def test_chunks_are_what_their_counts_say_to_everybody(vector: Chunks, an_exim: Exim) -> None:
    codes, bodies = await sent_to(an_exim, [vector.said])
    assert codes == [vector.codes]
    assert bodies == Counter(body.replace(b"\r\n", b"\n") for body in vector.bodies)


async def test_of_vectors_in_chunks_exim_has_what_it_has_without_the_shim(an_exim: Exim) -> None:
    """Whatever it makes of stray octets in a chunk, in its header too, and of BDAT 0 before one; octet for octet."""
    headers = [b"Subject: x\nX: y\r\n\r\ntext\r\n", b"Subject: x\r\nX: y\n\ntext\r\n"]
    said = [chunk(BEFORE + vector + BY_DATA) + QUIT for vector in NO_END.values()]
    said += [chunk(octets) + QUIT for octets in headers]
    said += [chunk(b"", last=False) + chunk(TEXT) + QUIT]
    codes, bodies = await sent_to(an_exim, said)
    before = bodies_of(an_exim)
    assert codes == await codes_of_each(an_exim.port, said)
    poll(lambda: an_exim.count("contents") >= before.total() + bodies.total(), "as many mails stored", SECONDS)
    assert bodies_of(an_exim) - before == bodies


async def test_no_chunk_is_smuggled_to_an_exim_by_data(an_exim: Exim) -> None:
    """CVE-2023-51766 with BDAT behind each vector: one mail each, and Exim has what the shim has written."""
    mail_data = [BEFORE + vector + BY_CHUNK + LAST_LINE for vector in NO_END.values()]
    codes, bodies = await sent_to(an_exim, [b"DATA\r\n" + each + QUIT for each in mail_data])
    assert codes == [[b"354", b"250", b"221"]] * len(NO_END)
    written = [await trio.to_thread.run_sync(normalised, each) for each in mail_data]
    # Without the end of mail data, and without the first dot of a line, stuffed or not (RFC 5321 4.5.2).
    text = [re.sub(rb"\n\.", b"\n", each.removesuffix(b".\r\n").replace(b"\r\n", b"\n")) for each in written]
    assert bodies == Counter(each.partition(b"\n\n")[2] for each in text)


def normalised(mail_data: bytes) -> bytes:
    """What the shim makes of these."""
    return bytes(played([mail_data], Newlines.NORMALISE).receiver.written)
