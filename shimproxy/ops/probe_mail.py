"""A large mail that is never completed: what a receiver does while it is on its way.

1. No octet of it can end it: CRLF stands at the end of whole lines, and no line begins with a dot.
2. From before DATA on, the connection ends by RST and never by FIN, however the probe ends (guarantee 5's reason: a
   receiver could take a FIN for the end).
3. No line of it is an SMTP command: a receiver that takes the rest of a mail for commands (guarantee 6's reason)
   answers 500 and does nothing.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.ops.probe_account import MAIL_PATIENCES, MOST_UNASKED, End, InData, MailData
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import Answers, Verdict, ruling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.ops.probe_account import Heard
    from shimproxy.ops.probe_wire import Talk
    from shimproxy.smtp.reply import Reply

_BLOCK_OCTETS: Final = 16 * 1024
_UNSENT_OCTETS: Final = 4 * _BLOCK_OCTETS
_PAUSE_SECONDS: Final = 0.02
_WANTS_MORE: Final = 530
"""Authentication (RFC 4954 section 6), or TLS (RFC 3207 section 4)."""
_LINE: Final = b"> shimproxy sees what this receiver makes of a large mail; it is never completed\r\n"
_NAMES: Final = {
    Verdict.HOLD: Violation.EARLY_REPLY,
    Verdict.NEVER: Violation.EARLY_SUCCESS,
    Verdict.DROP: Violation.FURTHER_REPLY,
    Verdict.OUT_OF_STEP: Violation.IMPLAUSIBLE_REPLY,
}


def mail_blocks(data: MailData) -> Iterator[bytes]:
    """Mail data of `octets_planned` in whole lines, up to a line more."""
    head = (
        f"From: {data.reverse_path}\r\nTo: {data.recipient}\r\nDate: {formatdate(localtime=True)}\r\n"
        "Subject: shimproxy probe\r\n\r\n"
    ).encode()
    yield head
    lines = max(0, -((len(head) - data.octets_planned) // len(_LINE)))
    a_block = _BLOCK_OCTETS // len(_LINE)
    for start in range(0, lines, a_block):
        yield _LINE * min(a_block, lines - start)


@attrs.define(eq=False)
class Interrupted:
    """The mail on its way; what it meets goes into `data`."""

    talk: Talk
    data: MailData
    listen_seconds: float
    """How long to listen after the last octet."""
    stall_seconds: float
    """How long a receiver that has replied already may take nothing."""
    _written_octets: int = 0
    _enough: trio.Event = attrs.field(factory=trio.Event)  # the receiver has ended, or said more than anybody reads
    _waiting: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def send(self) -> bool:
        """Go through MAIL, RCPT and DATA, write the mail data, and listen.

        False if the connection must be reset now; True if the receiver has refused before, so that QUIT may follow.
        """
        talk, data = self.talk, self.data
        for command, mend in (
            (f"MAIL FROM:{data.reverse_path}", "--from"),
            (f"RCPT TO:{data.recipient}", "--to, or a sender by --from"),
        ):
            heard = await talk.ask(command)
            if heard is None or heard.code // 100 != 2:
                data.left_out = self._not_taken(command, heard, mend)
                return True
        talk.reset_when_closed()
        talk.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_OCTETS)
        heard = await talk.ask("DATA", Answers.DATA)
        if heard is None or heard.code != 354:
            data.left_out = self._not_taken("DATA", heard, "--to, or a sender by --from")
            return heard is not None and heard.code >= 400
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            with trio.move_on_after(MAIL_PATIENCES * talk.patience_seconds) as in_all:
                if await self._write():
                    await self._until_taken()
            data.too_slow = in_all.cancelled_caught
            self._count()
            with trio.move_on_after(self.listen_seconds):
                await self._enough.wait()
            nursery.cancel_scope.cancel()
        data.end = talk.end
        self._name_the_end()
        return False

    def _not_taken(self, command: str, heard: Heard | None, mend: str) -> str:
        """Why there is no mail, with what can be done about it: nothing was seen of mail data then."""
        why = f"{command} was answered by {heard or self.talk.nothing}"
        if heard is None or heard.code < 400:
            return why
        if heard.code == _WANTS_MORE:
            return f"{why}; it wants AUTH or STARTTLS before, and the probe does neither"
        return f"{why}; {'try again later, or ' if heard.code < 500 else ''}name one that it takes by {mend}"

    async def _listen(self) -> None:
        talk = self.talk
        while True:
            while reply := talk.replies.next_reply():
                self._heard(reply)
                if len(self.data.replies) >= MOST_UNASKED:
                    self._enough.set()
                    return
            if talk.end:
                break
            await talk.read()
        if cut_off := talk.replies.cut_off():
            self._heard(cut_off)
        self._enough.set()

    def _heard(self, reply: Reply) -> None:
        data = self.data
        self._count()
        verdict, _ = ruling(Answers.IN_MAIL_DATA, reply)
        name = Violation.FURTHER_REPLY if data.verdict else _NAMES[verdict]
        heard = self.talk.judge(reply, "in mail data")
        self.talk.saw(name, f"in mail data, after {data.octets_taken:,} octets: {heard}")
        data.replies.append(InData(data.octets_taken, heard))
        # Who has spoken need not be waited for any longer.
        self._waiting.deadline = min(self._waiting.deadline, trio.current_time() + self.stall_seconds)

    def _count(self) -> None:
        (unacknowledged_octets,) = struct.unpack("i", fcntl.ioctl(self.talk.sock, termios.TIOCOUTQ, bytes(4)))
        self.data.octets_taken = self._written_octets - unacknowledged_octets

    def _may_take(self) -> trio.CancelScope:
        self._waiting = trio.move_on_after(self.stall_seconds if self.data.replies else self.talk.patience_seconds)
        return self._waiting

    async def _until_taken(self) -> None:
        """Wait until the receiver's host has all that was written, or has ended."""
        with self._may_take():
            self._count()
            while self.data.octets_taken < self._written_octets and not self._enough.is_set():
                await trio.sleep(_PAUSE_SECONDS)  # of this, no socket tells
                self._count()
        self.data.stalled = self._waiting.cancelled_caught

    async def _write(self) -> bool:
        """Write until the receiver resets or takes no more, or enough was heard; whether all was written."""
        data, sock = self.data, self.talk.sock
        for block in mail_blocks(data):
            rest = memoryview(block)
            with self._may_take():
                while rest and not (self._enough.is_set() and not self.talk.end):
                    await trio.lowlevel.wait_writable(sock)
                    try:
                        written_octets = sock.send(rest)
                    except BlockingIOError:
                        continue
                    except OSError as error:
                        self._note_reset(error)
                        return False
                    self._written_octets += written_octets
                    rest = rest[written_octets:]
            if rest:
                data.stalled = self._waiting.cancelled_caught
                return False
        return True

    def _note_reset(self, error: OSError) -> None:
        if error.errno == errno.EPIPE and self.talk.end is not End.RST:
            self.data.reset_behind_fin = True
        else:
            # What it said before is still to be read, and ends like a FIN.
            self.talk.reset_was_told()

    def _name_the_end(self) -> None:
        data, talk = self.data, self.talk
        octets = f"after {data.octets_taken:,} octets"
        announced = bool(data.replies) and data.replies[-1].reply.code == 421
        if data.end is End.RST:
            talk.saw(Violation.RESET_IN_DATA, octets)
        elif data.end is End.FIN and not announced:  # behind a 421 it may (RFC 5321 3.8)
            talk.saw(Violation.CLOSED_IN_DATA, octets)
        elif data.stalled and not data.replies:
            talk.saw(Violation.STALLED_IN_DATA, f"{octets}, no more within {talk.patience_seconds:g} s")
