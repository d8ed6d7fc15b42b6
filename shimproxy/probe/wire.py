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
import socket
import struct
from typing import TYPE_CHECKING, Final, Self

import attrs

from shimproxy.net.errors import DeadlinePassed, LegBroken, TlsFailed
from shimproxy.net.tap import Ended
from shimproxy.probe.account import MOST_UNASKED, ConnectionEnd, Heard
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import OUT_OF_STEP, ReplyTo, ruling

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from shimproxy.client.client import Client
    from shimproxy.net.leg import Leg
    from shimproxy.net.tls import ReceiverSecurity
    from shimproxy.smtp.reply import Reply, ReplyReader

LOOK_OCTETS: Final = 256 * 1024
_RESET: Final = struct.pack("ii", 1, 0)


def _blame_nobody(_: Violation, __: str) -> None:
    """For what a receiver does where the probe itself has broken the rules, or was refused."""


@attrs.define(eq=False)
class ProbeConnection:
    """The probe's side of a connection; leaving the context closes it."""

    client: Client
    patience_seconds: float
    saw: Callable[[Violation, str], None]
    end: ConnectionEnd = ConnectionEnd.NOT
    """How the receiver has ended it."""
    silent: bool = False
    """Whether a wait for it was in vain."""
    without_end: Heard | None = None
    """What there was of the reply that had not ended when the wait for it was over."""
    heard_count: int = 0
    """How many replies have come so far."""
    _last: Reply | None = None
    _reset: bool = False
    """Whether the receiver's RST was met."""
    _reset_behind_fin: bool = False
    """Whether that came after its FIN."""
    _finished: bool = False
    """Whether the probe has closed its direction."""
    _end_noted: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.__exit__(kind, error, traceback)

    @property
    def leg(self) -> Leg:
        """The connection."""
        return self.client.leg

    @property
    def replies(self) -> ReplyReader:
        """What makes replies of what was read."""
        return self.client.replies

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
        self.leg.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def hold_output(self, *, hold: bool) -> None:
        """Keep back what does not fill a segment, for at most 200 ms, or let it out (TCP_CORK of tcp(7))."""
        self.leg.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, int(hold))

    def look(self) -> int:
        """Feed `replies` with what lies there, without waiting, and note an end; how many octets came."""
        if self.leg.secured:
            self._note_error()
        octets = self.client.look()
        if octets == b"" and not self.end:
            self.end = ConnectionEnd.RST if self._is_reset else ConnectionEnd.FIN
        return len(octets or b"")

    def _note_error(self) -> None:
        """Take note of what the system would tell of a RST: OpenSSL shows one as it shows a FIN."""
        code = self.leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._reset = self._reset or code == errno.ECONNRESET
        self._reset_behind_fin = self._reset_behind_fin or code == errno.EPIPE

    @property
    def _is_reset(self) -> bool:
        """Whether the connection has ended by a RST without a FIN before it."""
        if self._reset or not self.leg.secured:
            return self._reset or self.leg.ended is Ended.RST
        # A RST may have come between the question to the system and a call that has met it. After FINs of both ends the
        # connection is over, too.
        may_be = not (self._reset_behind_fin or self._finished)
        return may_be and self.leg.driver.standing(self.leg).over

    def write_failed(self, broken: LegBroken) -> None:
        """Take note of a write that has met the receiver's RST: reading then ends as it does for a FIN (tcp(7))."""
        self._reset = self._reset or broken.is_reset

    async def read(self) -> None:
        """Wait for octets, or for the end. Raises DeadlinePassed."""
        await self.leg.wait_to_read()
        self.look()

    async def write(self, octets: bytes) -> None:
        """Write it, in one piece where the kernel takes it so; what goes wrong shows when the reply is read."""
        self.client.allow(self.patience_seconds, "a command")
        try:
            await self.client.write(octets)
        except LegBroken as broken:
            self.write_failed(broken)
        except DeadlinePassed:
            pass

    async def half_close_with(self, octets: bytes) -> None:
        """Write it together with the end of the probe's direction, so that no answer can come before that."""
        self.hold_output(hold=True)
        await self.write(octets)
        self._finished = True
        self.leg.half_close()

    # -- TLS

    async def secure(self, security: ReceiverSecurity) -> None:
        """Change to TLS. Raises TlsFailed, after which nothing more can be asked."""
        self.client.allow(self.patience_seconds, "the TLS handshake")
        try:
            await self.client.secure(security)
        except DeadlinePassed:
            raise TlsFailed(self.leg.name, f"no answer to the handshake within {self.patience_seconds:g} s") from None

    def drop_plaintext(self) -> None:
        """Note what came after the reply to STARTTLS and before TLS, which is dropped."""
        self.look()
        if not self.replies.empty:
            said = self.replies.next_reply() or self.replies.cut_off()
            self.saw(Violation.PLAINTEXT_BEHIND_STARTTLS, f"before TLS: {Heard.of(said) if said else ''}")

    # -- replies

    async def ask(self, command: str, what: ReplyTo = ReplyTo.COMMAND) -> Heard | None:
        """The reply to a command; None if there is none, which is noted."""
        if self.silent or self._end_noted:
            return None
        self.unasked(f"before {command}")
        if self.end:
            self._note_close(what, command, asked=False)
            return None
        await self.write(command.encode() + b"\r\n")
        return await self.hear(what, command)

    async def hear(self, what: ReplyTo, command: str) -> Heard | None:
        """The next reply, which answers `command`; None if there is none, which is noted."""
        reply: Reply | None = None
        self.client.allow(self.patience_seconds, command)
        try:
            while not (reply := self.replies.next_reply()) and not self.end:
                await self.read()
        except DeadlinePassed:
            self.silent = True
            self._note_silence(what, command)
            return None
        reply = reply or self.replies.cut_off()
        if reply is None:
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
        self.heard_count += 1
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
        self.client.allow(seconds, where)
        try:
            while self.goes_on and count < MOST_UNASKED:
                await self.leg.wait_to_read()
                count += self.unasked(where)
        except DeadlinePassed:
            return True
        return False

    def _note_silence(self, what: ReplyTo, command: str) -> None:
        none = f"none within {self.patience_seconds:g} s"
        if begun := self.replies.cut_off():
            self.without_end = Heard.of(begun)
            none = f"none that ended within {self.patience_seconds:g} s: {self.without_end}"
        if what is ReplyTo.GREETING:
            self.saw(Violation.NO_GREETING, none)
        else:
            self.saw(Violation.NO_REPLY, f"to {command}: {none}")

    def _note_close(self, what: ReplyTo, command: str, *, asked: bool) -> None:
        self._end_noted = True
        announced = self._last is not None and self._last.code == 421
        if not self.heard_count:
            self.saw(Violation.NO_GREETING, f"{self.end} instead")
        elif announced:
            return  # RFC 5321 3.8
        elif self.heard_count == 1:
            self.saw(Violation.GREETING_THEN_CLOSE, f"{self.end} before it had answered {command}")
        elif not asked:
            self.saw(Violation.CLOSED_WHILE_IDLE, f"{self.end} before {command}")
        elif what is ReplyTo.QUIT:
            self.saw(Violation.NO_221, f"{self.end} instead")
        else:
            self.saw(Violation.CLOSED_WITH_COMMANDS_OPEN, f"{self.end} instead of a reply to {command}")

    # -- the end

    async def leave(self, seconds: float) -> Heard | None:
        """QUIT; the reply to it. Notes if the receiver does not close within `seconds` after it."""
        heard = await self.ask("QUIT", ReplyTo.QUIT)
        if heard:
            await self.see_off(seconds)
        return heard

    async def see_off(self, seconds: float) -> None:
        """Wait for the receiver's end after its reply to QUIT; note what it says instead, or that it stays."""
        if await self.listen(seconds, "after its reply to QUIT"):
            self.saw(Violation.NO_CLOSE, f"{seconds:g} s after its reply to QUIT")
