"""`shimproxy demo`: the fault of kb-q152940.txt without shimproxy and with it, side by side.

It plays a mail twice on real sockets (demo_peers.py), once straight to the receiver and once through the shim, draws
what both peers saw (ladder.py), and says below what was seen. A line there is printed only if it was observed;
the exit status is 0 only if every line that should be there is.

With a receiver of the user's own there is no fault to expect: it reports, and 0 means that the shim's run ended
properly. `--serve` leaves the shim and the misbehaving receiver running instead.
"""

from __future__ import annotations

import math
import shutil
import signal
import socket
import textwrap
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from shimproxy.net.address import Address
from shimproxy.net.errors import DialFailed
from shimproxy.ops import log_output
from shimproxy.ops.demo_judge import Check, Witness, how_it_went, judge_real, judge_with, judge_without, report
from shimproxy.ops.demo_peers import Receiver, Sender, SenderAccount
from shimproxy.ops.demo_wire import PIECE_OCTETS, Mail, Trace, path
from shimproxy.ops.interrupt import interruptible
from shimproxy.ops.ladder import Ladder, drawn
from shimproxy.ops.run import say
from shimproxy.ops.serve import serve
from shimproxy.ops.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shimproxy.ops.demo_peers import ReceiverAccount
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
        return Mail(octets, self.reverse_path, self.recipient)

    def __attrs_post_init__(self) -> None:
        if self.octets is not None and self.octets < 1:
            raise ValueError(f"--octets must be a number from 1 on, not {self.octets}")
        if not 0 < self.patience_seconds < math.inf:
            raise ValueError(f"--patience must be a number of seconds above 0, not {self.patience_seconds:g}")

    def sender(self, account: SenderAccount, peer: str, patience_seconds: float) -> Sender:
        """The embedded sender with its mail."""
        embedded = self.receiver is None
        return Sender(
            self.mail,
            account,
            patience_seconds,
            self.wait_seconds,
            peer,
            helo="cartoonville.com" if embedded else socket.gethostname(),
            small_buffers=embedded,
            notes_replies=peer == "Shim" or not embedded,
        )


# -- the two runs


async def run_without(play: Play, connected: Callable[[], None] = lambda: None) -> SenderAccount:
    """Play straight to the receiver; `connected` is called once there is a connection. Raises DialFailed."""
    account = SenderAccount()
    sender = play.sender(account, "Receiver", play.patience_seconds)
    if where := play.receiver:
        try:
            sock = await sender.connect(where)
        except DialFailed as failed:
            raise DialFailed(
                f"no connection to {where} ({failed}); see whether a receiver listens there, "
                "or leave --receiver away for the embedded one"
            ) from None
        connected()
        await sender.send(sock)
        return account
    async with trio.open_nursery() as nursery:
        receiver = Receiver.open("Sender", account.trace)
        nursery.start_soon(receiver.serve)
        sock = await sender.connect(receiver.address)
        connected()
        await sender.send(sock)
        nursery.cancel_scope.cancel()
    return account


async def run_with(play: Play, shim: Shim = serve) -> tuple[SenderAccount, ReceiverAccount | None, Witness]:
    """Play through the shim; what the sender, the embedded receiver and the shim's observer saw."""
    account = SenderAccount()
    witness = Witness(account.trace)
    sender = play.sender(account, "Shim", play.wait_seconds)
    async with trio.open_nursery() as nursery:
        if play.receiver:
            receiver, receiver_account, where = None, None, play.receiver
        else:
            receiver = Receiver.open("Shim", account.trace)
            receiver_account, where = receiver.connection, receiver.address
            nursery.start_soon(receiver.serve)
        settings = Settings(receiver=where, listen=("127.0.0.1:0",))

        async def stand_between(task_status: trio.TaskStatus[list[str]]) -> None:
            await shim(settings, observer=witness, task_status=task_status)

        (address,) = await nursery.start(stand_between)
        await sender.send(await sender.connect(Address.parse(address)))
        with trio.move_on_after(play.wait_seconds):
            await witness.over()
        if receiver:
            receiver.told_to_end.set()
            with trio.move_on_after(play.wait_seconds):
                await receiver.over.wait()
        nursery.cancel_scope.cancel()
    return account, receiver_account, witness


# -- showing them


async def demonstrate(play: Play, tell: Callable[[str], None] = say, columns: int = 100, shim: Shim = serve) -> int:
    """Play both runs, tell of them line by line; the exit status. Raises DialFailed."""

    def tell_all(lines: Sequence[str]) -> None:
        for line in lines:
            tell(line)

    without = await run_without(play, connected=lambda: tell_all(_introduction(play, columns)))
    with_account, receiver, witness = await run_with(play, shim)
    second_parties = ("Sender", "Shim", "Receiver") if receiver else ("Sender", "Shim")
    ladders = [
        Ladder("WITHOUT SHIMPROXY", ("Sender", "Receiver"), without.trace.frames),
        Ladder("WITH SHIMPROXY", second_parties, with_account.trace.frames),
    ]
    tell_all(["", *drawn(ladders, columns)])
    if receiver:
        first, second = judge_without(without), judge_with(with_account, receiver, witness, play.mail)
    else:
        first = [Check(True, f"The sender: {how_it_went(without)}.")]
        second = judge_real(with_account, witness)
    tell_all(report([("Without shimproxy", first), ("With shimproxy", second)], columns))
    unseen = [check for check in (*first, *second) if not check.seen]
    tell("")
    if not unseen:
        tell("All of this was seen on the sockets of this run.")
        return 0
    tell_all([f"Not seen: {check.instead.partition(';')[0]}." for check in unseen])
    return _EXIT_UNSEEN


def _introduction(play: Play, columns: int) -> list[str]:
    if play.receiver:
        text = (
            f"One mail of {play.mail.octets:,} octets to {play.receiver}, first straight, then through shimproxy. The "
            f"sender writes {PIECE_OCTETS} octets at a time and reads nothing before its final dot."
        )
    else:
        text = (
            "A fault of 1999 (Microsoft's kb-q152940), played twice on real sockets. The sender writes mail data, "
            f"{PIECE_OCTETS} octets at a time, and reads nothing before its final dot. The receiver answers 552 and "
            "421 in the middle of it, sends FIN and reads no more."
        )
    return textwrap.wrap(text, columns)


# -- the command


def run(play: Play) -> int:
    """`shimproxy demo`: the exit status. Raises DialFailed, wrapped or not, and KeyboardInterrupt at a signal."""
    columns = min(shutil.get_terminal_size((100, 24)).columns, _MOST_COLUMNS)
    return interruptible(partial(demonstrate, play, columns=columns))


def run_serve() -> int:
    """`shimproxy demo --serve`: the shim and the misbehaving receiver until a signal; 0."""
    log_output.set_up("INFO", "text")
    trio.run(_leave_running)
    return 0


async def _leave_running() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_signal, nursery.cancel_scope)
        receiver = Receiver.open("Sender", Trace())
        nursery.start_soon(receiver.serve)
        settings = Settings(receiver=receiver.address, listen=("127.0.0.1:0",))
        addresses = await nursery.start(serve, settings)
        example = "smtp-source -v -l 16777216 -f sender@example.com -t recipient@example.com"
        for line in (
            f"receiver that misbehaves  {receiver.address}",
            f"shimproxy before it       {addresses[0]}",
            "",
            "Send it a mail of some megabytes, without shimproxy and with it; smtp-source comes with Debian's postfix:",
            f"  {example} {receiver.address}",
            f"  {example} {addresses[0]}",
            "",
            "Ctrl-C ends it. Sessions and repairs are logged here:",
        ):
            say(line)


async def _cancel_at_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
