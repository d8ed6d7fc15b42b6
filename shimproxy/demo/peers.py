"""The two peers of kb-q152940.txt as the demo watches them: a sender of 1999 and a receiver that interrupts it.

What they say and do is theirs (faulty/), as in `shimproxy misbehave`: the receiver is its `q152940`, the sender its
`sender-of-1999`. Here they have small buffers, and accounts that are written into the trace of the run. They play in
threads of their own; both write down what they saw and judge nothing; every wait of theirs has a deadline.

On a busy machine the sender could write all that the buffers take before the receiver is at its 552. So the sender
pauses in mid-mail until the receiver has said it, and reads nothing then either.
"""

from __future__ import annotations

import contextlib
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.demo.wire import WireTrace
from shimproxy.faulty.account import DialogueLog
from shimproxy.faulty.client import Blocked, Dialogue
from shimproxy.faulty.fault import CLOSING, TOO_BIG
from shimproxy.faulty.letter import END
from shimproxy.faulty.mail import PIECE_OCTETS
from shimproxy.faulty.plan import Plan
from shimproxy.faulty.playing import converse, sender_named
from shimproxy.faulty.receiving import tighten
from shimproxy.faulty.serving import bound, serving_faults
from shimproxy.faulty.talk import FIRST_PART_OCTETS
from shimproxy.net.address import Address
from shimproxy.net.errors import DialFailed, reason
from shimproxy.smtp.shown import on_one_line

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from shimproxy.faulty.letter import Letter

REPLY_552: Final = on_one_line(TOO_BIG)
REPLY_421: Final = on_one_line(CLOSING)
# A loopback connection takes megabytes before it blocks; with this, and a receiver's buffer that is as small, it takes
# a hundred kilobytes or so.
_SEND_BUFFER_OCTETS: Final = 16 * 1024
_FRAMES: Final = ("FIN", "RST")


# -- what they see


@attrs.define(eq=False)
class PeerAccount(DialogueLog):
    """A peer's account of its connection, written into the trace as well."""

    trace: WireTrace = attrs.field(factory=WireTrace)
    party: str = ""
    """Who it is: "Sender" or "Receiver"."""
    other: str = ""
    """Who is at the other end."""
    hears: bool = True
    """Whether it writes down what comes, too; not if the other end is a peer that has written it down."""
    ended: str = ""
    """How the other end of the connection was closed: FIN, RST, or "" if it was not."""

    def _frame(self, *said: str, is_own: bool, mail_octets: int = 0) -> None:
        if is_own or self.hears:
            ends = (self.party, self.other) if is_own else (self.other, self.party)
            self.trace.add(*ends, *said, mail_octets=mail_octets)

    def said(self, who: str, octets: bytes) -> None:
        """Write down a command, or replies, one in a frame."""
        super().said(who, octets)
        said = [". (the final dot)" if each == END else on_one_line(each) for each in one_by_one(octets)]
        self._frame(*said, is_own=self.party.startswith(who))

    def note(self, what: str) -> None:
        """Write down what befell it."""
        super().note(what)
        self.trace.note(self.party, what)

    def ended_by(self, what: str) -> None:
        """Write down an end of the connection."""
        is_new = what not in self.ends
        super().ended_by(what)
        who, _, how = what.partition(" ")
        is_own = who == self.party.lower()
        if is_new and how in _FRAMES:
            self._frame(how, is_own=is_own)
            self.ended = self.ended if is_own else self.ended or how


@attrs.define(eq=False)
class ReceiverAccount(PeerAccount):
    """What the receiver saw on one connection."""

    party: str = "Receiver"
    mail_data: bytes = b""
    """All that came after its 354."""
    _framed_octets: int = 0
    """How much of it is in the trace."""

    def mail(self, octets: bytes | memoryview) -> None:
        """Write down mail data, in pieces as its sender wrote them."""
        super().mail(octets)
        self.mail_data += octets
        while len(self.mail_data) - self._framed_octets >= PIECE_OCTETS:
            self._frame_mail(PIECE_OCTETS)

    def _tell_mail(self) -> None:
        super()._tell_mail()
        if octets := len(self.mail_data) - self._framed_octets:
            self._frame_mail(octets)

    def _frame_mail(self, octets: int) -> None:
        self._framed_octets += octets
        self._frame(is_own=False, mail_octets=octets)


@attrs.define(eq=False)
class SenderAccount(PeerAccount):
    """What the sender saw of its one mail."""

    party: str = "Sender"
    blocked_seconds: float = 0.0
    """How long a write of mail data had not ended when it gave up; 0 if none was given up."""
    end_written: bool = False
    """Its final dot is written."""
    unread: str = ""
    """What lay unread in its socket when it gave up, or just before it wrote its final dot."""
    replies: list[str] = attrs.field(factory=list)
    """All that it was told after its final dot."""
    trouble: str = ""
    """What has ended its session before its time."""
    pause: Callable[[], object] = lambda: None
    """Called in its thread when it has sent as much as the receiver takes before its early reply."""

    def said(self, who: str, octets: bytes) -> None:
        """Write down a command, or replies; those to the mail are kept."""
        super().said(who, octets)
        if who == "R" and self.end_written:
            self.replies += map(on_one_line, one_by_one(octets))

    def mail(self, octets: bytes | memoryview) -> None:
        """Write down a piece of mail data; pause once."""
        super().mail(octets)
        self._frame(is_own=True, mail_octets=len(octets))
        if self.mail_octets == FIRST_PART_OCTETS:
            self.pause()


def one_by_one(octets: bytes) -> Iterator[bytes]:
    """The replies in `octets`, each with all its lines (RFC 5321 4.2.1); a command is one, too."""
    reply = b""
    for line in octets.splitlines(keepends=True):
        reply += line
        if line[3:4] != b"-":
            yield reply
            reply = b""
    if reply:
        yield reply


# -- the receiver


@attrs.frozen
class DemoReceiver:
    """The receiver, while it serves."""

    address: Address
    early: threading.Event
    """Set when it has said 552 and 421."""
    over: trio.Event
    """Set when a session is over."""


@contextlib.contextmanager
def receiver(account: DialogueLog | None = None) -> Iterator[DemoReceiver]:
    """The receiver of the article on a free port of 127.0.0.1, until the block ends; its first session has the account.

    Raises what has gone wrong in its threads.
    """
    over, token = trio.Event(), trio.lowlevel.current_trio_token()
    accounts = [account] if account else []
    listener = bound(Address("127.0.0.1", 0))
    tighten(listener)
    with serving_faults(
        Plan(shares=[("q152940", 100.0)]),
        listener,
        lambda _: token.run_sync_soon(over.set),
        lambda: accounts.pop() if accounts else DialogueLog(),
    ) as serving:
        yield DemoReceiver(Address(*listener.getsockname()), serving.seen.early, over)


# -- the sender


@attrs.define(eq=False)
class _Sending(Dialogue):
    """The sender's dialogue, which sees what is unread when it ends its mail, or gives up."""

    account: SenderAccount = attrs.field(kw_only=True)
    patience_seconds: float = attrs.field(kw_only=True)

    def send(self, octets: bytes) -> None:
        """Send a line; before the final dot, look at what is unread."""
        if octets == END:
            self._look()
        super().send(octets)
        self.account.end_written = self.account.end_written or octets == END

    def send_mail(self, octets: bytes | memoryview) -> None:
        """Send a piece of mail data, with the patience that these have."""
        other_seconds = self.sock.gettimeout()
        self.sock.settimeout(self.patience_seconds)
        try:
            super().send_mail(octets)
        except Blocked:
            self.account.blocked_seconds = self.patience_seconds
            raise
        self.sock.settimeout(other_seconds)

    def close(self) -> None:
        """Close the connection; if the mail has not come to its end, look at what is unread."""
        if not self.account.end_written:
            self._look()
        super().close()

    def _look(self) -> None:
        self.account.unread = on_one_line(self.unread())


@attrs.define(eq=False)
class DemoSender:
    """Sends one mail as the sender of the article did."""

    letter: Letter
    account: SenderAccount
    patience_seconds: float
    """How long a write of mail data may take."""
    reply_seconds: float
    """How long anything else may take."""
    small_buffers: bool = True
    early: threading.Event | None = None
    """What it waits for in mid-mail, if it does: the receiver's early reply."""

    async def connect(self, where: Address) -> socket.socket:
        """A connection to the peer. Raises DialFailed."""
        try:
            with trio.fail_after(self.reply_seconds):
                stream = await trio.open_tcp_stream(where.host, where.port)
        except (OSError, trio.TooSlowError) as error:
            raise DialFailed(reason(error) or f"none within {self.reply_seconds:g} s") from error
        # From here on a plain socket: what a sender of 1999 had.
        return socket.socket(fileno=stream.socket.detach())

    async def send(self, sock: socket.socket) -> None:
        """Send the mail and close; all that happens is in the account. When it is cancelled, the connection is cut."""
        sock.settimeout(self.reply_seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.small_buffers:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_OCTETS)
        with sock:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cut_when_cancelled, sock)
                # A task of its own: a signal interrupts whoever waits for it, but not a wait for a thread.
                nursery.start_soon(self._play, sock, nursery.cancel_scope)

    async def _play(self, sock: socket.socket, over: trio.CancelScope) -> None:
        talk = _Sending(sock, account=self.account, patience_seconds=self.patience_seconds)
        sender = sender_named("sender-of-1999")
        if self.early:
            self.account.pause = partial(self.early.wait, self.reply_seconds)
        self.account.trouble = await trio.to_thread.run_sync(converse, talk, sender, self.letter)
        over.cancel()

    async def _cut_when_cancelled(self, sock: socket.socket) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if sock.fileno() >= 0:
                self.account.trace = WireTrace()  # what befalls the sender from here on is no peer's doing
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                if self.early:
                    self.early.set()
