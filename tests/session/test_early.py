"""Which reply to mail data is early is judged by what is under way to the receiver when it is read (guarantees 3, 6).

Mail data are written in large blocks: all of a mail, its end included, may lie in this host's kernel when the receiver
speaks. In memory the receiver's socket says how much of what was written is not acknowledged; on real sockets the
kernel does, and the receiver counts what it was given.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import re
from typing import TYPE_CHECKING, Final

import attrs
import pytest

from shimproxy.faulty.client import Dialogue, connected
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import Gone, Talk
from shimproxy.session.policy import Policy
from shimproxy.smtp.catalogue import Violation
from tests.memory import Stage, offered, staged, up_to_mail_data
from tests.peers.shim import shim_process
from tests.peers.tls import make_certificate

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.once  # about what the kernel has; the same dialogues are transcripts, which have no such mark
SECONDS: Final = 60.0
EARLY_SUCCESS: Final = b"451 the receiver replied before the end of mail data, try again later\r\n"

# -- in memory


@pytest.mark.parametrize("unacknowledged_octets", [1, 5, 350_848])
@pytest.mark.parametrize(
    ("reply", "told", "repaired"),
    [
        (b"250 queued\r\n", EARLY_SUCCESS, Violation.EARLY_SUCCESS),
        (b"221 bye\r\n", EARLY_SUCCESS, Violation.EARLY_SUCCESS),
        (b"552 too big\r\n", b"552 too big\r\n", Violation.EARLY_REPLY),
        (b"451 later\r\n", b"451 later\r\n", Violation.EARLY_REPLY),
        (b"250 queued\r\n552 no\r\n", b"552 no\r\n", Violation.EARLY_REPLY),
    ],
)
def test_a_reply_that_is_read_while_an_octet_is_under_way_is_early(
    reply: bytes, told: bytes, repaired: Violation, unacknowledged_octets: int
) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n.\r\n")
        stage.receiver.unacknowledged_octets = unacknowledged_octets
        await stage.feed(stage.receiver, reply)
        assert bytes(stage.sender.written) == told
        assert stage.receiver.got_rst, "what is queued is discarded"

    assert staged(script).repaired == [repaired]


@pytest.mark.parametrize("reply", [b"250 queued\r\n", b"552 too big\r\n"])
def test_an_honest_verdict_acknowledges_every_octet_and_costs_nothing(reply: bytes) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.receiver.unacknowledged_octets = 9
        await stage.feed(stage.sender, b"text\r\n.\r\n")
        stage.receiver.unacknowledged_octets = 0
        await stage.feed(stage.receiver, reply)
        assert bytes(stage.sender.written) == reply
        await stage.feed(stage.sender, b"NOOP\r\n")
        assert stage.receiver.written.endswith(b"NOOP\r\n"), "the leg stays"

    assert staged(script).repaired == []


@pytest.mark.parametrize("farewell", [b"421 closing\r\n", b""])
def test_a_receiver_that_refuses_early_and_leaves_by_itself_is_not_reset(farewell: bytes) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        stage.receiver.feed(b"552 too big\r\n" + farewell)
        if not farewell:
            stage.receiver.feed_fin()
        await stage.settle()
        assert (stage.receiver.got_fin, stage.receiver.got_rst) == (True, False)
        await stage.feed(stage.sender, b".\r\n")
        assert bytes(stage.sender.written) == b"552 too big\r\n"

    staged(script)


@pytest.mark.parametrize("late", [True, False])
def test_of_two_chunks_each_reply_is_judged_by_its_own_octets(late: bool) -> None:
    """The first one's is honest although the second is under way, unless some of its own octets are, too."""
    first, second = b"BDAT 6\r\nabcd\r\n", b"BDAT 4 LAST\r\nef\r\n"

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING", b"CHUNKING")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n250 OK\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.sender, first + second)
        assert stage.receiver.written.endswith(first + second)
        stage.receiver.unacknowledged_octets = len(second) + late
        await stage.feed(stage.receiver, b"250 6 octets\r\n")
        assert stage.receiver.got_rst == late
        if not late:
            stage.receiver.unacknowledged_octets = 0
            await stage.feed(stage.receiver, b"250 queued\r\n")

    stage = staged(script)
    if late:
        assert bytes(stage.sender.written).startswith(b"451 ")
        assert b"\r\n2" not in stage.sender.written
        assert stage.repaired == [Violation.EARLY_SUCCESS]
    else:
        assert bytes(stage.sender.written) == b"250 6 octets\r\n250 queued\r\n"
        assert stage.repaired == []


def test_with_lmtp_one_early_verdict_ends_the_leg_and_nobody_is_told_of_a_success() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        for command in (b"LHLO x", b"MAIL FROM:<a@b>", b"RCPT TO:<one@d>", b"RCPT TO:<two@d>"):
            await stage.feed(stage.sender, command + b"\r\n")
            await stage.feed(stage.receiver, b"250 OK\r\n")
        await stage.feed(stage.sender, b"DATA\r\n")
        await stage.feed(stage.receiver, b"354 go\r\n")
        await stage.feed(stage.sender, b"text\r\n.\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.receiver, b"250 one has it\r\n")
        stage.receiver.unacknowledged_octets = 1
        await stage.feed(stage.receiver, b"250 two has it\r\n")
        assert stage.receiver.got_rst

    stage = staged(script, policy=Policy(lmtp=True))
    assert bytes(stage.sender.written) == b"250 one has it\r\n" + EARLY_SUCCESS


# -- on real sockets

SPOKEN_AT_OCTETS: Final = 12_288
MOST_OBEYED_OCTETS: Final = 128 * 1024
LINE: Final = "NOOP %011d\r\n"
"""Its number is the octet at which it begins."""
LINE_OCTETS: Final = len(LINE % 0)


def mail_of(size_octets: int) -> bytes:
    return b"".join((LINE % start).encode() for start in range(0, size_octets, LINE_OCTETS))


@attrs.define
class Given:
    """What a receiver was given on one connection."""

    octets: int = 0
    """Mail data, as far as they can be told from commands."""
    obeyed: list[bytes] = attrs.field(factory=list)


def reads_no_more(given: queue.Queue[Given], talk: Talk) -> None:
    """It says 250 in the midst of the mail; what its kernel has got by then, and gets still, it never reads."""
    talk.first_part(SPOKEN_AT_OCTETS)
    talk.say(b"250 taken\r\n")
    talk.was_early()
    before = talk.seen.octets_after_early
    talk.stop_reading()
    given.put(Given(SPOKEN_AT_OCTETS + talk.seen.octets_after_early - before))
    talk.close()


def reads_on_as_commands(given: queue.Queue[Given], talk: Talk) -> None:
    """It refuses in the midst of the mail, and takes the rest for commands, whether its replies are taken or not."""
    talk.first_part(SPOKEN_AT_OCTETS)
    talk.say(b"552 too big\r\n")
    obeyed: list[bytes] = []
    replies_are_taken = True
    with contextlib.suppress(Gone):
        while True:
            obeyed.append(talk.line(4096))
            if replies_are_taken:
                try:
                    talk.say(b"250 OK\r\n")
                except Gone:
                    replies_are_taken = False  # nor is any other, from then on
    given.put(Given(obeyed=obeyed))
    talk.close()


def send(port: int, mail: bytes, write_octets: int, hello: str = "EHLO x") -> bytes:
    with connected(port) as sock:
        dialogue = Dialogue(sock)
        dialogue.open(hello)
        for line, code in ("MAIL FROM:<a@b.example>", 250), ("RCPT TO:<c@d.example>", 250), ("DATA", 354):
            dialogue.command(line, code)
        whole = mail + b".\r\n"
        for start in range(0, len(whole), write_octets):
            sock.sendall(whole[start : start + write_octets])
        return dialogue.reply()


def played(
    on_data: Callable[[queue.Queue[Given], Talk], None],
    log: Path,
    size_octets: int,
    write_octets: int,
    runs: int,
    *more: str,
    talk: type[Talk] = Talk,
) -> list[tuple[bytes, Given]]:
    """Send a mail so often; the shim has a process of its own, so that it takes turns with nobody.

    What the receiver's kernel holds unread nobody can take back, and by default that grows with what comes: here it is
    at most 64 KiB.
    """
    given: queue.Queue[Given] = queue.Queue()
    mail = mail_of(size_octets)
    with (
        FaultyReceiver(functools.partial(on_data, given), tight=True, talk=talk) as receiver,
        shim_process(receiver.port, log, "--log-level", "error", *more) as between,
    ):
        hello = "LHLO x" if "--lmtp" in more else "EHLO x"
        return [(send(between.port, mail, write_octets, hello), given.get(timeout=SECONDS)) for _ in range(runs)]


every_size = pytest.mark.parametrize("size_octets", [30_000, 150_000, 400_000, 2 << 20, 8 << 20])
every_way = pytest.mark.parametrize("write_octets", [1 << 30, 50_000], ids=["in one write", "in many"])
few_or_many = pytest.mark.parametrize("runs", [3, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.volume])])


@few_or_many
@every_way
@every_size
def test_no_success_is_believed_of_a_mail_that_the_receivers_host_has_not_got(
    tmp_path: Path, size_octets: int, write_octets: int, runs: int
) -> None:
    whole_octets = len(mail_of(size_octets)) + len(b".\r\n")
    for reply, given in played(reads_no_more, tmp_path / "log", size_octets, write_octets, runs):
        assert reply in (b"250 taken\r\n", EARLY_SUCCESS)
        if reply.startswith(b"250"):
            assert given.octets >= whole_octets, "what its kernel has, nobody can tell from what it has read"


@few_or_many
@every_way
@every_size
def test_no_line_of_a_mail_is_obeyed_far_behind_where_the_receiver_has_refused_it(
    tmp_path: Path, size_octets: int, write_octets: int, runs: int
) -> None:
    for reply, given in played(reads_on_as_commands, tmp_path / "log", size_octets, write_octets, runs):
        assert reply == b"552 too big\r\n"
        starts = [int(line[5:]) for line in given.obeyed if re.fullmatch(rb"NOOP \d{11}", line)]
        assert max(starts, default=0) <= SPOKEN_AT_OCTETS + MOST_OBEYED_OCTETS


def talk_over_tls(context: ssl.SSLContext) -> type[Talk]:
    """A receiver's side of a connection that begins with TLS."""

    class OverTls(Talk):
        def serve(self, on_data: Callable[[Talk], None]) -> None:
            self.sock = context.wrap_socket(self.sock, server_side=True)
            super().serve(on_data)

    return OverTls


@pytest.mark.parametrize("size_octets", [150_000, 2 << 20])
@pytest.mark.parametrize("how", ["two workers", "LMTP", "TLS to the receiver"])
def test_the_same_elsewhere(tmp_path: Path, how: str, size_octets: int) -> None:
    talk: type[Talk] = Talk
    match how:
        case "two workers":
            more = ["--workers", "2"]
        case "LMTP":
            more = ["--lmtp"]
        case _:
            certificate = make_certificate(tmp_path)
            more = ["--receiver-tls", "implicit", "--receiver-ca", str(certificate.certificate)]
            talk = talk_over_tls(certificate.server())
    for reply, _ in played(reads_no_more, tmp_path / "log", size_octets, 1 << 30, 4, *more, talk=talk):
        assert reply == EARLY_SUCCESS
    for reply, given in played(reads_on_as_commands, tmp_path / "log", size_octets, 1 << 30, 4, *more, talk=talk):
        assert reply == b"552 too big\r\n"
        starts = [int(line[5:]) for line in given.obeyed if re.fullmatch(rb"NOOP \d{11}", line)]
        assert max(starts, default=0) <= SPOKEN_AT_OCTETS + MOST_OBEYED_OCTETS
