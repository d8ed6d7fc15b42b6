"""The demo on real sockets: what it says it saw, and that it says so when it did not.

Patience is small: the sender without the shim is blocked for good, so that any patience sees it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from shimproxy.cli import main
from shimproxy.net.address import Address
from shimproxy.net.errors import DialFailed
from shimproxy.ops.demo import Play, demonstrate, run_with, run_without
from shimproxy.ops.demo_judge import Witness, judge_with, judge_without, report
from shimproxy.ops.demo_peers import REPLY_421, REPLY_552, ReceiverAccount, SenderAccount
from shimproxy.ops.demo_wire import PIECE_OCTETS, Mail
from shimproxy.ops.listener import open_sockets
from shimproxy.session.record import SessionRecord
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.ops.demo_judge import Check
    from shimproxy.ops.settings import Settings
    from shimproxy.session.record import Observer

SECONDS = 60
PLAY = Play(patience_seconds=0.2)


async def wire(
    settings: Settings, *, observer: Observer, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
) -> None:
    """No shim: passes octets on and repairs nothing."""
    (listener,) = await open_sockets(settings.listen[0])
    (address,) = settings.endpoints
    assert isinstance(address, Address)

    async def pass_on(source: trio.SocketStream, target: trio.SocketStream) -> None:
        try:
            async for octets in source:
                await target.send_all(octets)
            await target.send_eof()
        except trio.BrokenResourceError:
            pass

    async def serve(sender: trio.SocketStream) -> None:
        receiver = await trio.open_tcp_stream(address.host, address.port)
        async with sender, receiver, trio.open_nursery() as nursery:
            nursery.start_soon(pass_on, sender, receiver)
            nursery.start_soon(pass_on, receiver, sender)

    async with trio.open_nursery() as nursery:
        stream_listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        nursery.start_soon(trio.serve_listeners, serve, [stream_listener])
        task_status.started([f"127.0.0.1:{listener.getsockname()[1]}"])


async def test_both_runs_are_seen_as_told() -> None:
    lines: list[str] = []
    with trio.fail_after(SECONDS):
        status = await demonstrate(PLAY, lines.append)

    text = "\n".join(lines)
    assert status == 0, text
    assert "NOT SEEN" not in text
    assert "blocked: its write has not" in text
    assert "early-reply, further-reply" in text
    assert max(map(len, lines)) <= 100


async def test_without_the_shim_the_sender_is_blocked_with_its_reply_unread() -> None:
    with trio.fail_after(SECONDS):
        account = await run_without(PLAY)

    assert 0 < account.mail_octets < PLAY.mail.octets
    assert account.unread == f"{REPLY_552} / {REPLY_421}"
    assert not account.end_written
    assert not account.replies


async def test_with_the_shim_the_sender_has_its_verdict_and_the_receiver_no_command() -> None:
    with trio.fail_after(SECONDS):
        account, receiver, witness = await run_with(PLAY)

    assert receiver is not None
    assert witness.record is not None
    assert [reply[:3] for reply in account.replies] == ["552", "221"]
    assert account.replies[0] == REPLY_552
    assert (account.ended, receiver.ended) == ("FIN", "FIN")
    assert len(receiver.mail_data) == witness.forwarded_when_noticed_octets
    assert PLAY.mail.begins_with(receiver.mail_data)
    assert dict(witness.record.repairs) == {Violation.EARLY_REPLY: 1, Violation.FURTHER_REPLY: 1}


async def test_a_run_through_no_shim_is_not_called_repaired() -> None:
    lines: list[str] = []
    with trio.fail_after(SECONDS):
        status = await demonstrate(attrs.evolve(PLAY, wait_seconds=0.2), lines.append, shim=wire)

    text = "\n".join(lines)
    assert status == 1
    assert "Not seen: the receiver's 552 after the final dot, once." in text
    assert "Then it had the receiver's own reply" not in text


async def test_a_mail_too_small_for_the_fault_is_not_called_blocked() -> None:
    lines: list[str] = []
    with trio.fail_after(SECONDS):
        status = await demonstrate(attrs.evolve(PLAY, octets=PIECE_OCTETS), lines.append)

    assert status == 1
    assert "Not seen: a blocked sender." in lines


# -- the judge


MAIL = Mail(10 * PIECE_OCTETS)


def blocked_account() -> SenderAccount:
    return SenderAccount(mail_octets=1000, blocked_seconds=3.0, unread=f"{REPLY_552} / {REPLY_421}")


def repaired_run() -> tuple[SenderAccount, ReceiverAccount, Witness]:
    mail_data = b"".join(MAIL.pieces())[: 4 * PIECE_OCTETS]
    account = SenderAccount(mail_octets=5360, end_written=True, replies=[REPLY_552, "221 bye"], ended="FIN")
    record = SessionRecord("1", "127.0.0.1:1")
    record.repairs.update([Violation.EARLY_REPLY, Violation.FURTHER_REPLY])
    witness = Witness(account.trace, record, len(mail_data))
    return account, ReceiverAccount("Shim", account.trace, mail_data, "FIN"), witness


def unseen(checks: list[Check]) -> list[str]:
    return [check.instead.partition(";")[0] for check in checks if not check.seen]


def test_the_judge_accepts_what_is_whole() -> None:
    assert unseen(judge_without(blocked_account())) == []
    assert unseen(judge_with(*repaired_run(), MAIL)) == []


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"blocked_seconds": 0.0}, "a blocked sender"),
        ({"end_written": True}, "a blocked sender"),
        ({"unread": ""}, "552 and 421 unread in the sender's socket"),
    ],
)
def test_the_judge_misses_what_is_missing_without(change: dict[str, Any], missing: str) -> None:
    assert missing in unseen(judge_without(attrs.evolve(blocked_account(), **change)))


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"end_written": False}, "a sender that comes to its final dot undisturbed"),
        ({"unread": REPLY_552}, "a sender that comes to its final dot undisturbed"),
        ({"replies": []}, "the receiver's 552 after the final dot, once"),
        ({"replies": ["221 bye"]}, "the receiver's 552 after the final dot, once"),
        ({"replies": ["552 other words", "221 bye"]}, "the receiver's 552 after the final dot, once"),
        ({"replies": [REPLY_552, REPLY_552, "221 bye"]}, "the receiver's 552 after the final dot, once"),
        ({"replies": [REPLY_552, REPLY_421]}, "no 421 for the sender"),
        ({"replies": [REPLY_552]}, "221 for QUIT"),
        ({"ended": "RST"}, "FIN on the sender leg"),
    ],
)
def test_the_judge_misses_what_the_sender_did_not_see(change: dict[str, Any], missing: str) -> None:
    account, receiver, witness = repaired_run()

    assert missing in unseen(judge_with(attrs.evolve(account, **change), receiver, witness, MAIL))


def test_the_judge_misses_what_the_receiver_did_not_see() -> None:
    account, receiver, witness = repaired_run()

    receiver.ended = ""
    assert unseen(judge_with(account, receiver, witness, MAIL)) == ["a closed receiver leg"]
    receiver.ended = "FIN"
    receiver.mail_data += b"QUIT\r\n"
    assert unseen(judge_with(account, receiver, witness, MAIL)) == ["nothing for the receiver after its early reply"]
    witness.forwarded_when_noticed_octets += 6
    assert unseen(judge_with(account, receiver, witness, MAIL)) == ["nothing for the receiver after its early reply"]


def test_the_judge_misses_repairs_and_is_wary_of_others() -> None:
    account, receiver, witness = repaired_run()
    assert witness.record is not None

    witness.record.repairs[Violation.NO_CLOSE] += 1
    assert unseen(judge_with(account, receiver, witness, MAIL)) == [
        "early-reply and further-reply in the session's record"
    ]
    witness.record = None
    assert "a closed receiver leg" in unseen(judge_with(account, receiver, witness, MAIL))


def test_a_claim_that_was_not_seen_is_not_printed() -> None:
    checks = judge_without(SenderAccount(end_written=True, replies=["250 ok"]))

    text = "\n".join(report([("Without", checks)], 500))
    assert "NOT SEEN  a blocked sender; instead: the replies after the final dot were 250 ok" in text
    assert checks[0].claim not in text


# -- the mail


@pytest.mark.parametrize("octets", [1, PIECE_OCTETS, 3 * PIECE_OCTETS, 100_000])
def test_a_mail_is_whole_pieces_of_lines_without_dots(octets: int) -> None:
    mail = Mail(octets)
    pieces = list(mail.pieces())
    whole = b"".join(pieces)

    assert {len(piece) for piece in pieces} == {PIECE_OCTETS}
    assert octets <= len(whole) < octets + 2 * PIECE_OCTETS
    assert whole.endswith(b"\r\n")
    assert b"\r\n." not in whole
    assert whole.count(b"\n") == whole.count(b"\r\n") == whole.count(b"\r")
    assert mail.begins_with(whole[:-1])
    assert not mail.begins_with(whole + b".")
    assert not mail.begins_with(b"QUIT\r\n")


# -- the command


@pytest.fixture
def demo_that_serves() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "shimproxy", "demo", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_receiver_of_the_users_own(demo_that_serves: subprocess.Popen[str]) -> None:
    assert demo_that_serves.stdout is not None
    address = demo_that_serves.stdout.readline().split()[-1]
    lines: list[str] = []
    play = Play(receiver=Address.parse(address), patience_seconds=0.2, wait_seconds=20)
    with trio.fail_after(SECONDS):
        status = await demonstrate(play, lines.append)

    text = "\n".join(lines)
    assert status == 0, text
    assert REPLY_552 in " ".join(text.split())
    assert "Repaired: " in text
    demo_that_serves.send_signal(signal.SIGTERM)
    _, errors = demo_that_serves.communicate(timeout=SECONDS)
    assert demo_that_serves.returncode == 0, errors


async def test_a_receiver_that_is_not_there() -> None:
    with trio.fail_after(SECONDS), pytest.raises(DialFailed, match="see whether a receiver listens there"):
        await run_without(Play(receiver=Address("127.0.0.1", 1)))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--receiver", "127.0.0.1:1"],
        ["--receiver", "127.0.0.1"],
        ["--octets", "0"],
        ["--patience", "nan"],
        ["--from", "a b@example.com"],
        ["--to", "a@example.com>\r\nQUIT"],
    ],
)
def test_what_cannot_start_is_one_line_and_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *arguments]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("shimproxy: ")
    assert captured.err.count("\n") == 1
