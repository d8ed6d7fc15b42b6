"""A large mail that is never completed: what a receiver does while it is on its way.

1. No octet of it can end it: CRLF stands at the end of whole lines, and no line begins with a dot.
2. From before DATA on, the connection ends by RST and never by FIN, however the probe ends (guarantee 5's reason: a
   receiver could take a FIN for the end).
3. No line of it is an SMTP command: a receiver that takes the rest of a mail for commands (guarantee 6's reason)
   answers 500 and does nothing.
"""

from __future__ import annotations

import socket
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.errors import DeadlinePassed, LegBroken
from shimproxy.probe.account import MAIL_PATIENCES, MOST_UNASKED, ConnectionEnd, InData, MailDataSeen
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import ReplyTo, Verdict, ruling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.probe.account import Heard
    from shimproxy.probe.wire import ProbeConnection
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


def mail_blocks(data: MailDataSeen) -> Iterator[bytes]:
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
class InterruptedMail:
    """The mail on its way; what it meets goes into `data`."""

    talk: ProbeConnection
    data: MailDataSeen
    listen_seconds: float
    """How long to listen after the last octet."""
    stall_seconds: float
    """How long a receiver that has replied already may take nothing."""
    _written_octets: int = 0
    _last: float = 0.0
    """When the time for all of it is over; as Watch.now."""
    _waits_for_all: bool = False
    """Whether the wait in progress ends with that time."""
    _enough: bool = False
    """Whether the receiver has ended, or said more than anybody reads."""

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
        talk.leg.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_OCTETS)
        heard = await talk.ask("DATA", ReplyTo.DATA)
        if heard is None or heard.code != 354:
            data.left_out = self._not_taken("DATA", heard, "--to, or a sender by --from")
            return heard is not None and heard.code >= 400
        self._last = talk.leg.watch.now + MAIL_PATIENCES * talk.patience_seconds
        try:
            if await self._write():
                await self._until_taken()
        except DeadlinePassed:
            data.too_slow, data.stalled = self._waits_for_all, not self._waits_for_all
        self._count()
        await self._listen()
        data.end = talk.end
        self._name_the_end()
        return False

    def _not_taken(self, command: str, heard: Heard | None, mend: str) -> str:
        """Why there is no mail, with what can be done about it: nothing was seen of mail data then."""
        why = f"{command} was answered by {heard or self.talk.nothing}"
        if heard is None or heard.code < 400:
            return why
        if heard.code == _WANTS_MORE:
            wanted = "AUTH" if self.talk.leg.secured else "AUTH or STARTTLS before; the probe does STARTTLS with --tls"
            return f"{why}; it wants {wanted}, but does not log in"
        return f"{why}; {'try again later, or ' if heard.code < 500 else ''}name one that it takes by {mend}"

    # -- what the receiver says

    def _hear(self) -> None:
        """Take note of what it has said by now, until there is enough."""
        talk = self.talk
        while not self._enough:
            if reply := talk.replies.next_reply():
                self._heard(reply)
                self._enough = len(self.data.replies) >= MOST_UNASKED
            elif talk.end:
                if cut_off := talk.replies.cut_off():
                    self._heard(cut_off)
                self._enough = True
            elif talk.leg.watch.stretched(0) or not (talk.look() or talk.end):
                return

    def _heard(self, reply: Reply) -> None:
        data, watch = self.data, self.talk.leg.watch
        self._count()
        verdict, _ = ruling(ReplyTo.IN_MAIL_DATA, reply)
        name = Violation.FURTHER_REPLY if data.verdict else _NAMES[verdict]
        heard = self.talk.judge(reply, "in mail data")
        self.talk.saw(name, f"in mail data, after {data.octets_taken:,} octets: {heard}")
        data.replies.append(InData(data.octets_taken, heard))
        # Who has spoken need not be waited for any longer.
        if watch.now + self.stall_seconds < watch.deadline:
            self._may_take()

    async def _listen(self) -> None:
        """Hear what it says after the last octet."""
        talk = self.talk
        talk.client.allow(self.listen_seconds, "what it says in mail data")
        try:
            self._hear()
            while not self._enough:
                await talk.leg.wait_to_read()
                self._hear()
        except DeadlinePassed:
            pass

    # -- what is written

    def _count(self) -> None:
        """Count what its host has acknowledged. TLS adds to what is on its way: that counts as mail data."""
        on_its_way_octets = self.talk.leg.unacknowledged_octets
        self.data.octets_taken = max(self.data.octets_taken, self._written_octets - on_its_way_octets)

    def _may_take(self) -> None:
        """Give it its time to take more, within the time for all of it."""
        watch = self.talk.leg.watch
        seconds = self.stall_seconds if self.data.replies else self.talk.patience_seconds
        left_seconds = self._last - watch.now
        self._waits_for_all = left_seconds <= seconds
        watch.allow(min(seconds, left_seconds), "mail data")

    async def _write(self) -> bool:
        """Write until the receiver resets, or enough was heard; whether all was written. Raises DeadlinePassed."""
        leg = self.talk.leg
        for block in mail_blocks(self.data):
            rest = memoryview(block)
            self._may_take()
            while rest:
                self._hear()
                if self._enough and not self.talk.end:
                    return False
                try:
                    taken_octets = leg.send_now(rest)
                except LegBroken as broken:
                    self._note_broken(broken)
                    return False
                self._written_octets += taken_octets
                rest = rest[taken_octets:]
                await self._until_it_may_take()
        return True

    async def _until_it_may_take(self) -> None:
        """Wait until it may take more, or has spoken. Raises DeadlinePassed."""
        leg = self.talk.leg
        if not self.talk.end:
            await leg.takes_or_speaks()
        elif not leg.writable:
            await leg.takes()  # there is nothing more to hear, only a RST to meet
        elif leg.watch.stretched():
            await leg.watch.pause()

    async def _until_taken(self) -> None:
        """Wait until its host has all that was written, or it has ended. Raises DeadlinePassed."""
        leg = self.talk.leg
        self._may_take()
        while True:
            self._hear()
            self._count()
            if self._enough or self.data.octets_taken >= self._written_octets:
                return
            with trio.move_on_after(_PAUSE_SECONDS):  # of this, no socket tells
                await leg.wait_to_read()

    def _note_broken(self, broken: LegBroken) -> None:
        talk = self.talk
        talk.write_failed(broken)  # what it said before is still to be read, and ends like a FIN
        if talk.leg.secured:
            self._hear()
        self.data.reset_behind_fin = not broken.is_reset and talk.end is not ConnectionEnd.RST

    def _name_the_end(self) -> None:
        data, talk = self.data, self.talk
        octets = f"after {data.octets_taken:,} octets"
        announced = bool(data.replies) and data.replies[-1].reply.code == 421
        if data.end is ConnectionEnd.RST:
            talk.saw(Violation.RESET_IN_DATA, octets)
        elif data.end is ConnectionEnd.FIN and not announced:  # behind a 421 it may (RFC 5321 3.8)
            talk.saw(Violation.CLOSED_IN_DATA, octets)
        elif data.stalled and not data.replies:
            talk.saw(Violation.STALLED_IN_DATA, f"{octets}, no more within {talk.patience_seconds:g} s")
