"""`shimproxy demo`: the fault of kb-q152940.txt without shimproxy and with it, one after the other.

It plays a mail twice on real sockets (peers.py), once straight to the receiver and once through shimproxy, draws
what both peers see while they see it (stage.py), and says below what was seen. A line there is printed only if it
was observed; the exit status is 0 only if every line that should be there is.

With a receiver of the user's own there is no fault to expect: it reports, and 0 means that the run through shimproxy
ended properly. `--serve` leaves shimproxy and the misbehaving receiver running instead.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from shimproxy.config.listener import SettingsError
from shimproxy.config.settings import Settings
from shimproxy.demo.judge import Check, RunResult, Witness, how_it_went, judge_real, judge_with, judge_without, report
from shimproxy.demo.peers import DemoSender, ReceiverAccount, SenderAccount, receiver
from shimproxy.demo.stage import DemoStage
from shimproxy.demo.wire import WireTrace, mail_of
from shimproxy.faulty.letter import Letter
from shimproxy.faulty.mail import PIECE_OCTETS, Mail
from shimproxy.net.address import Address
from shimproxy.net.errors import DialFailed
from shimproxy.observe import log_output
from shimproxy.program.interrupt import interruptible
from shimproxy.program.process import put, say
from shimproxy.program.terminal import Screen, Style
from shimproxy.records.ladder import Ladder
from shimproxy.records.ladder_svg import svg_of
from shimproxy.service.serve import serve
from shimproxy.smtp.arguments import path

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.session.record import Observer

EMBEDDED_OCTETS: Final = 4 * 1024 * 1024
"""Thousands of pieces, so that the receiver has long spoken when the sender comes to its end."""
REAL_OCTETS: Final = 12 * 1024 * 1024
PATIENCE_SECONDS: Final = 3.0
_WAIT_SECONDS = 30.0
_REAL_WAIT_SECONDS = 300.0
_MOST_COLUMNS = 120
_EXIT_UNSEEN: Final = 1


class Shim(Protocol):
    """What stands between the peers in the second run: `serve`, or a test's stand-in for it."""

    async def __call__(
        self, settings: Settings, *, observer: Observer, task_status: trio.TaskStatus[list[str]] = ...
    ) -> None:
        """Serve until cancelled."""


@attrs.frozen(kw_only=True)
class Play:
    """What is to be played. Raises ValueError for what can't be."""

    receiver: Address | None = None
    """A receiver of the user's own, instead of the embedded one."""
    octets: int | None = None
    """Size of the mail; None for one that is long enough for the fault."""
    patience_seconds: float = PATIENCE_SECONDS
    """How long the sender without the shim may be blocked until it is called blocked."""
    wait_seconds: float = attrs.field()
    """How long every other wait may be."""
    reverse_path: str = attrs.field(default="<sender@example.com>", converter=path)
    recipient: str = attrs.field(default="<recipient@example.com>", converter=path)
    mail: Mail = attrs.field(init=False)

    @wait_seconds.default
    def _wait_seconds(self) -> float:
        return _REAL_WAIT_SECONDS if self.receiver else _WAIT_SECONDS

    @mail.default
    def _mail(self) -> Mail:
        octets = self.octets or (REAL_OCTETS if self.receiver else EMBEDDED_OCTETS)
        return mail_of(octets, self.reverse_path, self.recipient)

    def __attrs_post_init__(self) -> None:
        if self.octets is not None and self.octets < 1:
            raise ValueError(f"--octets must be a number from 1 on, not {self.octets}")
        if not 0 < self.patience_seconds < math.inf:
            raise ValueError(f"--patience must be a number of seconds above 0, not {self.patience_seconds:g}")

    @property
    def mark_columns(self) -> int:
        """How wide the number of a frame can be: each piece of the mail passes two legs."""
        return len(str(2 * self.mail.octets // PIECE_OCTETS + 100))

    def sender(self, trace: WireTrace | None, other: str, patience_seconds: float) -> DemoSender:
        """The embedded sender with its mail, and the party that it sends it to."""
        embedded = self.receiver is None
        name = "cartoonville.example" if embedded else socket.gethostname()
        return DemoSender(
            Letter(self.mail, f"HELO {name}", self.reverse_path.strip("<>"), self.recipient.strip("<>")),
            SenderAccount(trace=trace or WireTrace(), other=other, hears=other == "shimproxy" or not embedded),
            patience_seconds,
            self.wait_seconds,
            small_buffers=embedded,
        )


# -- the two runs


async def run_without(
    play: Play, trace: WireTrace | None = None, connected: Callable[[], None] = lambda: None
) -> SenderAccount:
    """Play straight to the receiver; `connected` is called once there is a connection. Raises DialFailed."""
    sender = play.sender(trace, "Receiver", play.patience_seconds)
    account = sender.account
    if where := play.receiver:
        try:
            sock = await sender.connect(where)
        except DialFailed as failed:
            raise DialFailed(
                f"no connection to {where} ({failed}); check that a receiver listens there, "
                "or omit --receiver to use the embedded one"
            ) from None
        connected()
        await sender.send(sock)
        return account
    with receiver(ReceiverAccount(trace=account.trace, other="Sender", hears=False)) as embedded:
        sock = await sender.connect(embedded.address)
        connected()
        sender.early = embedded.early
        await sender.send(sock)
        with trio.move_on_after(play.wait_seconds):
            await embedded.over.wait()
    return account


async def run_with(
    play: Play, trace: WireTrace | None = None, shim: Shim = serve
) -> tuple[SenderAccount, ReceiverAccount | None, Witness]:
    """Play through shimproxy; what the sender, the embedded receiver and shimproxy's observer saw."""
    sender = play.sender(trace, "shimproxy", play.wait_seconds)
    witness = Witness(sender.account.trace)
    if play.receiver:
        await _play_through(play, sender, witness, shim, play.receiver)
        return sender.account, None, witness
    account = ReceiverAccount(trace=witness.trace, other="shimproxy")
    with receiver(account) as embedded:
        sender.early = embedded.early
        await _play_through(play, sender, witness, shim, embedded.address, embedded.over)
    return sender.account, account, witness


async def _play_through(
    play: Play, sender: DemoSender, witness: Witness, shim: Shim, receiver: Address, over: trio.Event | None = None
) -> None:
    settings = Settings(receiver=receiver, listen=("127.0.0.1:0",))

    async def stand_between(task_status: trio.TaskStatus[list[str]]) -> None:
        await shim(settings, observer=witness, task_status=task_status)

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(stand_between)
        await sender.send(await sender.connect(Address.parse(address)))
        with trio.move_on_after(play.wait_seconds):
            await witness.over()
            if over is not None:
                await over.wait()
        nursery.cancel_scope.cancel()


# -- showing them


async def demonstrate(play: Play, screen: Screen, *, shim: Shim = serve, svg: Path | None = None) -> int:
    """Play both runs and show them, then what they have shown; the exit status. Raises DialFailed, wrapped or not."""
    introduction = textwrap.wrap(_introduction(play), screen.columns)
    parties = ("Sender", "Receiver")
    stage = DemoStage(screen, "WITHOUT SHIMPROXY", parties, play.mark_columns, play.patience_seconds, introduction)
    async with stage.played():
        without = await run_without(play, WireTrace(watched_by=stage.feed), connected=stage.open)
    if play.receiver:
        first = RunResult("Without shimproxy", [Check(True, f"The sender: {how_it_went(without)}.")])
    else:
        first = judge_without(without)

    parties_with = ("Sender", "shimproxy") if play.receiver else ("Sender", "shimproxy", "Receiver")
    stage = DemoStage(screen, "WITH SHIMPROXY", parties_with, play.mark_columns, play.wait_seconds)
    async with stage.played():
        stage.open()
        account, received, witness = await run_with(play, WireTrace(watched_by=stage.feed), shim)
    second = judge_with(account, received, witness, play.mail) if received else judge_real(account, witness)

    screen.tell(*report([first, second], screen), "")
    if svg:
        straight = Ladder(first.title, parties, without.trace.frames)
        _write(svg, svg_of(straight, Ladder(second.title, parties_with, account.trace.frames)))
    unseen = [*first.unseen, *second.unseen]
    if unseen:
        screen.tell(*(screen.paint(f"Not seen: {each}.", Style.BAD) for each in unseen))
        return _EXIT_UNSEEN
    screen.tell(f"{screen.paint('All of this was seen on the sockets of this run.', Style.BOLD)} Next, try:")
    commands = _next(play)
    width = max(len(command) for command, _ in commands)
    screen.tell(*(f"  {screen.paint(command.ljust(width), Style.BOLD)}  {why}" for command, why in commands))
    return 0


def _introduction(play: Play) -> str:
    if play.receiver:
        return (
            f"One mail of {play.mail.octets:,} octets to {play.receiver}, first straight, then through shimproxy. The "
            f"sender writes {PIECE_OCTETS} octets at a time and reads nothing before its final dot."
        )
    return (
        "A fault of 1999 (Microsoft's kb-q152940), played twice on real sockets. The sender writes mail data, "
        f"{PIECE_OCTETS} octets at a time, and reads nothing before its final dot. The receiver answers 552 and "
        "421 in the middle of it, sends FIN and reads no more."
    )


def _next(play: Play) -> list[tuple[str, str]]:
    """Commands to try next, and what they do."""
    receiver = play.receiver or "HOST:25"
    commands = [(f"shimproxy probe {receiver}", "what your receiver does wrong; delivers no mail")]
    if play.receiver:
        return [*commands, (f"shimproxy run --receiver {receiver} --listen 127.0.0.1:2525", "stand before it")]
    return [*commands, ("shimproxy demo --serve", "leave both running, for a sender of yours")]


def _write(file: Path, picture: str) -> None:
    try:
        file.write_text(picture)
    except OSError as error:
        raise SettingsError(f"--svg {file}: {error.strerror}") from None


# -- the command


def run(play: Play, svg: Path | None = None) -> int:
    """`shimproxy demo`: the exit status. Raises DialFailed, wrapped or not, and KeyboardInterrupt at a signal."""
    screen = Screen.on(sys.stdout, put, os.environ)
    screen.columns = min(screen.columns, _MOST_COLUMNS)
    return interruptible(partial(demonstrate, play, screen, svg=svg))


def picture_file(name: str) -> Path:
    """Where the picture goes. Raises ValueError, before anything is played, if nothing can be written there."""
    file = Path(name)
    try:
        file.open("ab").close()
    except OSError as error:
        raise ValueError(f"--svg {file}: {error.strerror}") from None
    return file


def run_serve() -> int:
    """`shimproxy demo --serve`: shimproxy and the misbehaving receiver until a signal; 0."""
    log_output.set_up("INFO", "text")
    trio.run(_leave_running)
    return 0


async def _leave_running() -> None:
    with receiver() as embedded:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_signal, nursery.cancel_scope)
            settings = Settings(receiver=embedded.address, listen=("127.0.0.1:0",))
            addresses = await nursery.start(serve, settings)
            say(_invitation(embedded.address, addresses[0]))


def _invitation(receiver: Address, shim: str) -> str:
    example = "smtp-source -v -l 16777216 -f sender@example.com -t recipient@example.com"
    lines = [
        f"receiver that misbehaves  {receiver}",
        f"shimproxy before it       {shim}",
        "",
        "Send it a mail of some megabytes, without shimproxy and with it; smtp-source comes with Debian's postfix:",
        f"  {example} {receiver}",
        f"  {example} {shim}",
        "",
        "Ctrl-C ends it. Sessions and repairs are logged here:",
    ]
    return "\n".join(lines)


async def _cancel_at_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
