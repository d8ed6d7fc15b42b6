"""One connection of the probe: commands, replies, and what is wrong with them, named by the catalogue.

1. Every wait is at most `patience_seconds`, whatever comes meanwhile; one that was in vain ends the dialogue, as from
   there on no reply could be told to belong to a command.
2. Before each command the connection is looked at: what lies there, nobody has asked for. No look is longer than
   LOOK_OCTETS, as a receiver may send faster than it is read.
3. A close is a reset once `reset_when_closed` was called, even if the process is killed.

It parses nothing itself (smtp/reply.py) and does not know what is probed.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final, Self

import attrs
import trio

from shimproxy.net.errors import DialFailed
from shimproxy.ops.demo_wire import reason
from shimproxy.ops.probe_account import MOST_UNASKED, End, Heard
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import OUT_OF_STEP, Answers, ruling
from shimproxy.smtp.reply import Reply, ReplyReader

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from shimproxy.net.address import Address

READ_OCTETS: Final = 64 * 1024
LOOK_OCTETS: Final = 4 * READ_OCTETS
_RESET: Final = struct.pack("ii", 1, 0)


@attrs.frozen
class Place:
    """One address of the receiver, to which every connection of a probe goes."""

    family: socket.AddressFamily
    sockaddr: Any

    async def connect(self, seconds: float, *, speaks_first: bool = False) -> socket.socket:
        """A connection; with `speaks_first`, what is written to it at once arrives with the handshake.

        Raises DialFailed.
        """
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            if speaks_first:
                # The kernel keeps the last segment of the handshake back for what is written next, so that a receiver
                # can't have accepted the connection, let alone greeted, before that is there (tcp(7)).
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            code = sock.connect_ex(self.sockaddr)
            if code == errno.EINPROGRESS:
                with trio.fail_after(seconds):
                    await trio.lowlevel.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise DialFailed(os.strerror(code))
        except BaseException as error:
            sock.close()
            if isinstance(error, trio.TooSlowError):
                raise DialFailed(f"none within {seconds:g} s") from None
            raise
        return sock


async def reach(address: Address, seconds: float) -> tuple[socket.socket, Place]:
    """A first connection, to whichever of the host's addresses answers, and that address. Raises DialFailed."""
    try:
        with trio.fail_after(seconds):
            stream = await trio.open_tcp_stream(address.host, address.port)
    except UnicodeError as error:
        raise DialFailed("unknown host") from error
    except (OSError, trio.TooSlowError) as error:
        raise DialFailed(reason(error) or f"none within {seconds:g} s") from error
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return sock, Place(sock.family, sock.getpeername())


def _blame_nobody(_: Violation, __: str) -> None:
    """For what a receiver does where the probe itself has broken the rules, or was refused."""


@attrs.define(eq=False)
class Talk:
    """The probe's side of a connection; leaving the context closes it."""

    sock: socket.socket
    patience_seconds: float
    saw: Callable[[Violation, str], None]
    end: End = End.NOT
    """How the receiver has ended it."""
    silent: bool = False
    """Whether a wait for it was in vain."""
    without_end: Heard | None = None
    """What there was of the reply that had not ended when the wait for it was over."""
    replies: ReplyReader = attrs.field(factory=ReplyReader)
    _last: Reply | None = None
    _heard_count: int = 0
    _reset: bool = False
    _end_noted: bool = False

    def __attrs_post_init__(self) -> None:
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()

    @property
    def goes_on(self) -> bool:
        """Whether another command makes sense."""
        return not (self.end or self.silent)

    @property
    def nothing(self) -> str:
        """What came instead of a reply that did not come."""
        return str(self.end) or f"nothing within {self.patience_seconds:g} s"

    def blame_nobody(self) -> None:
        """From here on nothing that the receiver does is noted: it may be for what the probe has done."""
        self.saw = _blame_nobody

    def excuse(self, heard: Heard | None) -> None:
        """Blame nobody from here on, if this reply refuses."""
        if heard and heard.code >= 400:
            self.blame_nobody()

    # -- octets

    def reset_when_closed(self) -> None:
        """From here on there is no FIN that a receiver could take for an end; also if the process is killed."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def look(self) -> int:
        """Feed `replies` with what lies there, without waiting, and note an end; how many octets came."""
        try:
            octets = self.sock.recv(READ_OCTETS)
        except BlockingIOError:
            return 0
        except OSError as error:
            # For a RST behind a FIN, Linux says EPIPE.
            self.end = self.end or (End.FIN if error.errno == errno.EPIPE else End.RST)
            return 0
        if not octets:
            self.end = self.end or (End.RST if self._reset else End.FIN)
        self.replies.feed(octets)
        return len(octets)

    def reset_was_told(self) -> None:
        """A write has met the receiver's RST: Linux tells it once, and reading then ends as it does for a FIN."""
        self._reset = True

    async def read(self) -> None:
        """Wait for octets, or for the end."""
        await trio.lowlevel.wait_readable(self.sock)
        self.look()

    async def write(self, octets: bytes) -> None:
        """Write it, in one piece where the kernel takes it so; what goes wrong shows when the reply is read."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(octets)
        with trio.move_on_after(self.patience_seconds):
            while rest:
                try:
                    rest = rest[self.sock.send(rest) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.sock)
                except OSError as error:
                    if error.errno != errno.EPIPE:
                        self.reset_was_told()
                    return

    # -- replies

    async def ask(self, command: str, what: Answers = Answers.COMMAND) -> Heard | None:
        """The reply to a command; None if there is none, which is noted."""
        if self.silent or self._end_noted:
            return None
        self.unasked(f"before {command}")
        if self.end:
            self._note_close(what, command, asked=False)
            return None
        await self.write(command.encode() + b"\r\n")
        return await self.hear(what, command)

    async def hear(self, what: Answers, command: str) -> Heard | None:
        """The next reply, which answers `command`; None if there is none, which is noted."""
        reply: Reply | None = None
        with trio.move_on_after(self.patience_seconds) as waiting:
            while not (reply := self.replies.next_reply()) and not self.end:
                await self.read()
        if reply is None and self.end:
            reply = self.replies.cut_off()
        if reply is None:
            self.silent = waiting.cancelled_caught
            if self.silent:
                self._note_silence(what, command)
            else:
                self._note_close(what, command, asked=True)
            return None
        heard = self.judge(reply, f"to {command}")
        if ruling(what, reply) == OUT_OF_STEP:
            self.saw(Violation.IMPLAUSIBLE_REPLY, f"to {command}: {heard}")
        return heard

    def judge(self, reply: Reply, where: str) -> Heard:
        """Note what is wrong with the form of a reply."""
        heard = Heard.of(reply)
        for violation in reply.violations:
            self.saw(violation, f"{where}: {heard}")
        self._last = reply
        self._heard_count += 1
        return heard

    def unasked(self, where: str) -> int:
        """Note what the receiver has said although nothing was open; how many replies those were."""
        count = looked_at_octets = 0
        while count < MOST_UNASKED:
            if reply := self.replies.next_reply():
                self.saw(Violation.EXTRA_REPLY, f"{where}: {self.judge(reply, where)}")
                count += 1
            elif looked_at_octets < LOOK_OCTETS and (octets := self.look()):
                looked_at_octets += octets
            else:
                break
        return count

    async def listen(self, seconds: float, where: str) -> bool:
        """Note what comes unasked in that time; whether all of it has passed."""
        count = self.unasked(where)
        with trio.move_on_after(seconds) as waiting:
            while self.goes_on and count < MOST_UNASKED:
                await trio.lowlevel.wait_readable(self.sock)
                count += self.unasked(where)
        return waiting.cancelled_caught

    def _note_silence(self, what: Answers, command: str) -> None:
        none = f"none within {self.patience_seconds:g} s"
        if begun := self.replies.cut_off():
            self.without_end = Heard.of(begun)
            none = f"none that ended within {self.patience_seconds:g} s: {self.without_end}"
        if what is Answers.GREETING:
            self.saw(Violation.NO_GREETING, none)
        else:
            self.saw(Violation.NO_REPLY, f"to {command}: {none}")

    def _note_close(self, what: Answers, command: str, *, asked: bool) -> None:
        self._end_noted = True
        announced = self._last is not None and self._last.code == 421
        if not self._heard_count:
            self.saw(Violation.NO_GREETING, f"{self.end} instead")
        elif announced:
            return  # RFC 5321 3.8
        elif self._heard_count == 1:
            self.saw(Violation.GREETING_THEN_CLOSE, f"{self.end} before it had answered {command}")
        elif not asked:
            self.saw(Violation.CLOSED_WHILE_IDLE, f"{self.end} before {command}")
        elif what is Answers.QUIT:
            self.saw(Violation.NO_221, f"{self.end} instead")
        else:
            self.saw(Violation.CLOSED_WITH_COMMANDS_OPEN, f"{self.end} instead of a reply to {command}")

    # -- the end

    async def leave(self, seconds: float) -> Heard | None:
        """QUIT; the reply to it. Notes if the receiver does not close within `seconds` after it."""
        heard = await self.ask("QUIT", Answers.QUIT)
        if heard:
            await self.see_off(seconds)
        return heard

    async def see_off(self, seconds: float) -> None:
        """Wait for the receiver's end after its reply to QUIT; note what it says instead, or that it stays."""
        if await self.listen(seconds, "after its reply to QUIT"):
            self.saw(Violation.NO_CLOSE, f"{seconds:g} s after its reply to QUIT")
