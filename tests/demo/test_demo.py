"""The demo on real sockets: what it says it saw, and that it says so when it did not.

Patience is small: the sender without the shim is blocked for good, so that any patience sees it.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import struct
import subprocess
import sys
from collections import Counter
from fcntl import ioctl
from termios import TIOCSWINSZ
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import attrs
import pytest
import trio

from shimproxy.cli import main
from shimproxy.demo.demo import Play, demonstrate, run_with, run_without
from shimproxy.demo.judge import Witness, judge_with, judge_without, report
from shimproxy.demo.peers import REPLY_421, REPLY_552, ReceiverAccount, SenderAccount, one_by_one
from shimproxy.demo.stage import QUIET_SECONDS, DemoStage
from shimproxy.demo.wire import WireTrace, mail_of
from shimproxy.embed.misbehaving import misbehaving
from shimproxy.faulty.mail import PIECE_OCTETS
from shimproxy.net.address import Address
from shimproxy.net.errors import DialFailed
from shimproxy.program.terminal import Screen
from shimproxy.records.ladder import Frame
from shimproxy.service.sockets import open_sockets
from shimproxy.session.record import SessionRecord
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from shimproxy.config.settings import Settings
    from shimproxy.session.record import Observer

SECONDS = 60
PLAY = Play(patience_seconds=0.2)


class Shown:
    """What a terminal with endless lines shows of what was written to it."""

    def __init__(self) -> None:
        self.writes: list[str] = []

    def screen(self, columns: int = 100, *, live: bool = False, colours: bool = False) -> Screen:
        return Screen(self.writes.append, columns, live, colours)

    @property
    def text(self) -> str:
        lines: list[str] = []
        for write in self.writes:
            up = re.match(r"\x1b\[([0-9]+)A\r\x1b\[J", write)
            if up:
                del lines[len(lines) - int(up[1]) :]
            lines += write[up.end() if up else 0 :].splitlines()
        return "\n".join(lines)


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
    shown = Shown()
    with trio.fail_after(SECONDS):
        status = await demonstrate(PLAY, shown.screen())

    text = shown.text
    assert status == 0, text
    assert "NOT SEEN" not in text
    assert "blocked: its write has not" in text
    assert "early-reply, further-reply" in text
    assert text.index("WITHOUT SHIMPROXY") < text.index("\n\nWithout shimproxy: the sender hangs")
    assert text.index("WITH SHIMPROXY") < text.index("\n\nWith shimproxy: the sender gets the receiver's own 552")
    assert max(map(len, text.splitlines())) <= 100


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
    assert PLAY.mail.data.startswith(receiver.mail_data)
    assert dict(witness.record.repairs) == {Violation.EARLY_REPLY: 1, Violation.FURTHER_REPLY: 1}


async def test_a_run_through_no_shim_is_not_called_repaired(tmp_path: Path) -> None:
    shown, picture = Shown(), tmp_path / "demo.svg"
    with trio.fail_after(SECONDS):
        status = await demonstrate(attrs.evolve(PLAY, wait_seconds=0.2), shown.screen(), shim=wire, svg=picture)

    text = shown.text
    assert status == 1
    assert "Not seen: the receiver's 552 after the final dot, once." in text
    assert "Next, try" not in text
    assert ">With shimproxy</text>" in picture.read_text()
    assert "Then it had the receiver's own reply" not in text


async def test_a_mail_too_small_for_the_fault_is_not_called_blocked() -> None:
    shown = Shown()
    with trio.fail_after(SECONDS):
        status = await demonstrate(attrs.evolve(PLAY, octets=PIECE_OCTETS), shown.screen())

    assert status == 1
    assert "Not seen: a blocked sender." in shown.text.splitlines()


async def test_a_run_that_is_cancelled_ends_at_once_and_shows_nothing_that_no_peer_did() -> None:
    token = trio.lowlevel.current_trio_token()

    def cancel_at_mail(frame: Frame) -> None:
        if frame.what.startswith("MAIL"):
            token.run_sync_soon(scope.cancel)

    trace = WireTrace(watched_by=cancel_at_mail)
    with trio.fail_after(SECONDS), misbehaving("never-answers-mail") as receiver:
        play = Play(receiver=Address(receiver.host, receiver.port), wait_seconds=2 * SECONDS)
        with trio.CancelScope() as scope:
            await run_without(play, trace)
    assert scope.cancelled_caught
    assert [frame.who for frame in trace.frames] == ["Receiver", "Sender", "Receiver", "Sender"]


def test_replies_are_told_one_by_one_with_all_their_lines() -> None:
    octets = b"250-one\r\n250 two\r\n421 three\r\n250-cut off"
    assert list(one_by_one(octets)) == [b"250-one\r\n250 two\r\n", b"421 three\r\n", b"250-cut off"]


# -- the stage


def stage_of(screen: Screen, now: Callable[[], float] = lambda: 0.0) -> DemoStage:
    return DemoStage(screen, "A RUN", ("Sender", "Receiver"), 2, 3.0, ["Above it."], now)


def small_run() -> list[Frame]:
    return [
        Frame("1", "Sender", "Receiver", "DATA"),
        Frame("2", "Receiver", "Sender", "354 go on"),
        *(Frame(str(3 + n), "Sender", "Receiver", mail_octets=536) for n in range(5)),
        Frame("8", "Receiver", "Sender", "552 no"),
    ]


def test_a_line_is_told_as_soon_as_it_can_change_no_more() -> None:
    shown = Shown()
    stage = stage_of(shown.screen())
    first, second, *mail_data, last = small_run()

    stage.open()
    assert shown.text.startswith("Above it.\n\n   A RUN\n")
    stage.feed(first)
    assert "DATA" not in shown.text
    stage.feed(second)
    assert " 1 |- DATA" in shown.text
    for frame in mail_data:
        stage.feed(frame)
    assert " 2 |<- 354 go on" in shown.text
    assert "mail data" not in shown.text
    stage.feed(last)
    assert "2 more of 536 octets" in shown.text
    assert "552" not in shown.text


def test_a_terminal_shows_what_may_still_change_and_how_long_nothing_moves() -> None:
    shown, time = Shown(), [0.0]
    stage = stage_of(shown.screen(live=True), lambda: time[0])
    for frame in small_run()[:-1]:
        stage.feed(frame)
        stage.redraw()
    assert shown.text.count("mail data, 536 octets") == 3
    assert shown.text.count("more of 536 octets") == 1
    assert "nothing moves" not in shown.text
    time[0] = QUIET_SECONDS
    stage.redraw()
    assert shown.text.endswith(f"nothing moves: {QUIET_SECONDS} s (the sender gives up after 3 s)")
    stage.feed(small_run()[-1])
    stage.redraw()

    assert "nothing moves" not in shown.text
    assert shown.text.splitlines()[-1].startswith(" 8 |<- 552 no")


def test_nothing_is_drawn_anew_on_a_terminal_that_would_wrap_it() -> None:
    shown = Shown()
    stage = stage_of(shown.screen(20, live=True))
    for frame in small_run():
        stage.feed(frame)
        stage.redraw()

    assert not any("\x1b" in write for write in shown.writes)


def test_colours_say_who_refuses_and_leave_the_text_as_it_is() -> None:
    plain, coloured = Shown(), Shown()
    for shown, colours in ((plain, False), (coloured, True)):
        stage = stage_of(shown.screen(colours=colours))
        for frame in [*small_run(), Frame("9", "Sender", "Receiver", "QUIT")]:
            stage.feed(frame)

    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured.text) == plain.text
    assert "\x1b[32m<- 354 go on" in coloured.text
    assert "\x1b[31m<- 552 no" in coloured.text


async def test_a_terminal_of_80_by_24_ends_with_the_verdicts_and_a_command() -> None:
    shown = Shown()
    with trio.fail_after(SECONDS):
        assert await demonstrate(PLAY, shown.screen(80, live=True, colours=True)) == 0

    last = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.text.splitlines()][-23:]
    assert "Without shimproxy: the sender hangs and never reads its 552" in last
    assert "With shimproxy: the sender gets the receiver's own 552" in last
    assert last[-2].startswith("  shimproxy probe HOST:25")
    assert max(map(len, last)) <= 80
    assert "nothing moves" not in shown.text


async def test_the_picture_holds_both_runs(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    with trio.fail_after(SECONDS):
        assert await demonstrate(PLAY, Shown().screen(), svg=picture) == 0

    elements = [element for element in ElementTree.parse(picture).iter() if element.tag.endswith("}text")]
    texts = [element.text for element in elements]
    heads = [element for element in elements if (element.text or "").partition(" ")[0] in ("Without", "With")]
    assert texts.index("Without shimproxy: the sender hangs and never reads its 552") < texts.index(
        "With shimproxy: the sender gets the receiver's own 552"
    )
    assert all(element.attrib["class"] == "title" for element in heads)
    assert texts.count("DATA") == 3
    assert "repairs: early-reply" in texts


# -- the judge


ADDRESSES = ("<sender@example.com>", "<recipient@example.com>")
MAIL = mail_of(10 * PIECE_OCTETS, *ADDRESSES)


def blocked_account() -> SenderAccount:
    return SenderAccount(mail_octets=1000, blocked_seconds=3.0, unread=f"{REPLY_552} / {REPLY_421}")


def repaired_run() -> tuple[SenderAccount, ReceiverAccount, Witness]:
    mail_data = MAIL.data[: 4 * PIECE_OCTETS]
    account = SenderAccount(mail_octets=5360, end_written=True, replies=[REPLY_552, "221 bye"], ended="FIN")
    record = SessionRecord("1", "127.0.0.1:1")
    record.repairs = Counter([Violation.EARLY_REPLY, Violation.FURTHER_REPLY])
    witness = Witness(account.trace, record, len(mail_data))
    return account, ReceiverAccount(mail_data=mail_data, ended="FIN"), witness


def test_the_judge_accepts_what_is_whole() -> None:
    assert judge_without(blocked_account()).unseen == []
    assert judge_with(*repaired_run(), MAIL).unseen == []


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"blocked_seconds": 0.0}, "a blocked sender"),
        ({"end_written": True}, "a blocked sender"),
        ({"unread": ""}, "552 and 421 unread in the sender's socket"),
    ],
)
def test_the_judge_misses_what_is_missing_without(change: dict[str, Any], missing: str) -> None:
    assert missing in judge_without(attrs.evolve(blocked_account(), **change)).unseen


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

    assert missing in judge_with(attrs.evolve(account, **change), receiver, witness, MAIL).unseen


def test_the_judge_misses_what_the_receiver_did_not_see() -> None:
    account, receiver, witness = repaired_run()

    receiver.ended = ""
    assert judge_with(account, receiver, witness, MAIL).unseen == ["a closed receiver leg"]
    receiver.ended = "FIN"
    receiver.mail_data += b"QUIT\r\n"
    assert judge_with(account, receiver, witness, MAIL).unseen == ["nothing for the receiver after its early reply"]
    witness.forwarded_when_noticed_octets += 6
    assert judge_with(account, receiver, witness, MAIL).unseen == ["nothing for the receiver after its early reply"]


def test_the_judge_misses_repairs_and_is_wary_of_others() -> None:
    account, receiver, witness = repaired_run()
    assert witness.record is not None

    witness.record.repairs[Violation.NO_CLOSE] += 1
    assert judge_with(account, receiver, witness, MAIL).unseen == [
        "early-reply and further-reply in the session's record"
    ]
    witness.record = None
    assert "a closed receiver leg" in judge_with(account, receiver, witness, MAIL).unseen


def test_a_claim_that_was_not_seen_is_not_printed() -> None:
    verdict = judge_without(SenderAccount(end_written=True, replies=["250 ok"]))

    text = "\n".join(report([verdict], Screen(print, columns=500)))
    assert "NOT SEEN  a blocked sender; instead: the replies after the final dot were 250 ok" in text
    assert verdict.checks[0].claim not in text
    assert verdict.conclusion not in text


# -- the mail


@pytest.mark.parametrize("octets", [1, PIECE_OCTETS, 3 * PIECE_OCTETS, 100_000])
def test_a_mail_is_whole_pieces_of_lines_without_dots(octets: int) -> None:
    whole = mail_of(octets, *ADDRESSES).data

    assert len(whole) % PIECE_OCTETS == 0
    assert octets <= len(whole) < octets + 2 * PIECE_OCTETS
    assert whole.endswith(b"\r\n")
    assert b"\r\n." not in whole
    assert whole.count(b"\n") == whole.count(b"\r\n") == whole.count(b"\r")


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
    shown = Shown()
    play = Play(receiver=Address.parse(address), patience_seconds=0.2, wait_seconds=20)
    with trio.fail_after(SECONDS):
        status = await demonstrate(play, shown.screen())

    text = shown.text
    assert status == 0, text
    assert REPLY_552 in " ".join(text.split())
    assert "Repaired: " in text
    assert f"shimproxy run --receiver {address} --listen 127.0.0.1:2525" in text
    demo_that_serves.send_signal(signal.SIGTERM)
    _, errors = demo_that_serves.communicate(timeout=SECONDS)
    assert demo_that_serves.returncode == 0, errors


@pytest.mark.parametrize(
    ("variables", "moves", "coloured"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, False, True),
    ],
    ids=["xterm", "no-color", "dumb", "dumb-forced"],
)
def test_a_real_terminal_gets_what_it_can_show(variables: dict[str, str], moves: bool, coloured: bool) -> None:
    above, below = pty.openpty()
    ioctl(below, TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    command = [sys.executable, "-m", "shimproxy", "demo", "--patience", "0.5"]
    with subprocess.Popen(command, stdout=below, env=kept | variables) as process:
        os.close(below)
        said = b""
        with contextlib.suppress(OSError):  # what Linux says once nobody has the other end
            while octets := os.read(above, 65536):
                said += octets
    os.close(above)
    text = said.decode()

    assert process.returncode == 0
    assert ("\x1b[J" in text) is moves
    assert ("\x1b[31m" in text) is coloured
    plain = re.sub(r"\x1b\[[0-9;]*[mAJ]", "", text)
    assert max(map(len, plain.splitlines())) <= 80
    assert "shimproxy probe HOST:25" in plain.splitlines()[-2]


async def test_a_receiver_that_is_not_there() -> None:
    with trio.fail_after(SECONDS), pytest.raises(DialFailed, match="check that a receiver listens there"):
        await run_without(Play(receiver=Address("127.0.0.1", 1)))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--receiver", "127.0.0.1:1"],
        ["--receiver", "127.0.0.1"],
        ["--octets", "0"],
        ["--svg", "/nowhere/demo.svg"],
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
