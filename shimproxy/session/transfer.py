"""Mail data: streamed live to the receiver, or drained when the receiver has answered early or has gone.

Invariants:

1. Mail data is forwarded octet for octet, as it comes; nothing is kept of it but what a full socket did not take.
2. Before each block is written the receiver is looked at: any octet of it there is early, as the sender has not
   been read to its end, or that end was not written yet (guarantee 3).
3. From then on not one octet goes to the receiver (guarantee 6), and the sender is drained (guarantee 7).
4. Whatever happens, the sender is read to the end of its mail data and not an octet further, unless it vanishes.

It does not write to the sender: what is answered at the end is the session's matter.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import DeadlinePassed, LegBroken
from shimproxy.net.leg import BLOCK, BLOCK_VIEW
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import Answers, Verdict, ruling
from shimproxy.smtp.mail_data import EndOfData

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.leg import Leg
    from shimproxy.session.limits import Deadlines, Limits
    from shimproxy.smtp.command import CommandReader
    from shimproxy.smtp.reply import Reply, ReplyReader


class Passage(enum.Enum):
    """How far the mail data went."""

    WHOLE = "the end of mail data was written to the receiver"
    STOPPED = "the receiver spoke, went or stalled before that; the sender is not at its end"
    STOPPED_AT_END = "the same, but the sender's end of mail data has been read"
    VANISHED = "the sender went before its end of mail data"


@attrs.define(eq=False)
class Transfer:
    """The mail data of one transaction on its way."""

    sender: Leg
    receiver: Leg
    commands: CommandReader
    replies: ReplyReader
    deadlines: Deadlines
    limits: Limits
    repaired: Callable[..., None]
    early: Reply | None = None
    """The reply that stopped the forwarding, where a reply did."""
    octets_taken: int = 0
    """Mail data read from the sender, with its final dot."""
    octets_forwarded: int = 0
    """Of that, what the receiver's socket took."""
    stalled: bool = False
    """The receiver took no octet within its deadline."""
    outrun: bool = False
    """More lay behind the end of mail data than is held; it was dropped, so that no command may follow."""
    _end_of_data: EndOfData = attrs.field(factory=EndOfData)
    _patience_seconds: float = 0.0

    async def forward(self) -> Passage:
        """Pass the mail data on until its end, or until the receiver stops it.

        Raises DeadlinePassed for the sender, Interrupted.
        """
        while True:
            size_octets = await self._next_block()
            if not size_octets:
                return Passage.VANISHED
            stop = self._find_end(size_octets)
            if not await self._push(size_octets if stop is None else stop):
                return Passage.STOPPED if stop is None else Passage.STOPPED_AT_END
            if stop is not None:
                return Passage.WHOLE

    async def drain(self) -> Passage:
        """Read and drop the rest of the mail data. Raises DeadlinePassed for the sender, Interrupted."""
        while True:
            size_octets = await self._next_block()
            if not size_octets:
                return Passage.VANISHED
            if self._find_end(size_octets) is not None:
                return Passage.STOPPED_AT_END

    # -- from the sender

    async def _next_block(self) -> int:
        if ahead := self.commands.take_ahead():
            size_octets = len(ahead)
            BLOCK[:size_octets] = ahead
            return size_octets
        # Patience is used up by waiting and regained by octets, so that an octet a minute does not pay for long.
        watch, full_seconds = self.sender.watch, self.deadlines.sender_block
        patience_seconds = self._patience_seconds or full_seconds
        watch.allow(patience_seconds, "mail data")
        started = watch.now
        size_octets = await self.sender.read_block()
        least_rate = self.limits.least_octets_per_second
        if least_rate:
            patience_seconds += size_octets / least_rate - (watch.now - started)
            self._patience_seconds = min(full_seconds, max(0.001, patience_seconds))
        return size_octets

    def _find_end(self, size_octets: int) -> int | None:
        """Where mail data ends in the block, if it does; what lies behind is the next command."""
        stop = self._end_of_data.feed(BLOCK, size_octets)
        if stop is None:
            self.octets_taken += size_octets
            return None
        self.octets_taken += stop
        if stop < size_octets:
            if size_octets - stop > self.limits.held_octets:
                self.outrun = True
            else:
                self.commands.feed(bytes(BLOCK_VIEW[stop:size_octets]))
        return stop

    # -- to the receiver

    async def _push(self, size_octets: int) -> bool:
        """Write that much of the block, unless the receiver speaks or goes first; whether all was written."""
        taken_octets = 0
        octets = self.receiver.look()
        if octets is None and self.replies.empty:
            try:
                taken_octets = self.receiver.send_now(BLOCK_VIEW[:size_octets])
            except LegBroken:
                return False
            self.octets_forwarded += taken_octets
            if taken_octets == size_octets:
                return True
            self.sender.slow_down(taken_octets)
        elif octets:
            self.replies.feed(octets)
        rest = memoryview(bytes(BLOCK_VIEW[taken_octets:size_octets]))
        # From the first wait on, BLOCK is another session's.
        while not await self._receiver_spoke():
            if not rest:
                return True
            try:
                taken_octets = await self._push_some(rest)
            except LegBroken:
                return False
            except DeadlinePassed:
                self.stalled = True
                self.repaired(Violation.STALLED_IN_DATA, octets_forwarded=self.octets_forwarded)
                return False
            self.octets_forwarded += taken_octets
            rest = rest[taken_octets:]
        return False

    async def _push_some(self, rest: memoryview) -> int:
        """Wait until the receiver takes something of `rest`, or speaks. Raises DeadlinePassed, LegBroken."""
        receiver = self.receiver
        receiver.watch.allow(self.deadlines.receiver_block, "the receiver taking mail data")
        late = None
        try:
            await receiver.takes_or_speaks()
        except DeadlinePassed as passed:
            late = passed
        # Late or not, the receiver is looked at before anything more is written: it may have spoken meanwhile.
        octets = receiver.look()
        if octets is None:
            # A socket calls itself writable only when a good part of its buffer is free: a slow receiver's may
            # have taken octets all the time.
            taken_octets = receiver.send_now(rest)
            if late and not taken_octets:
                raise late
            return taken_octets
        self.replies.feed(octets)
        return 0

    async def _receiver_spoke(self) -> bool:
        """Whether what the receiver has said, or its end, stops the forwarding; waits for the rest of a reply."""
        receiver, replies = self.receiver, self.replies
        while True:
            while reply := replies.next_reply():
                if ruling(Answers.IN_MAIL_DATA, reply)[0] is not Verdict.DROP:
                    self.early = reply
                    return True
                self.repaired(Violation.FURTHER_REPLY, count=1, first=reply.octets)
            if receiver.ended:
                self.early = replies.cut_off()
                return True
            if replies.empty:
                return False
            receiver.watch.allow(self.deadlines.linger_idle, "the rest of a reply")
            try:
                replies.feed(await receiver.read())
            except DeadlinePassed:
                return True
