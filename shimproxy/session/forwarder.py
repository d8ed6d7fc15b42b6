"""Mail data are forwarded to the receiver: streamed live, until it has answered early, has gone or takes no more.

Invariants:

1. Mail data are forwarded as the reader gives them, as they come; nothing is kept of them but what a full socket did
   not take, and the line that is not ended of what goes to a receiver which can't be reset.
2. Before each block is written the receiver is looked at: any octet of it there is early, as the sender has not
   been read to its end, or that end was not written yet (guarantee 3).
3. From then on not one octet goes to the receiver (guarantee 6); the sender is for the reader to drain (guarantee 7).

It does not write to the sender: what is answered at the end is the session's matter.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.errors import DeadlinePassed, LegBroken
from shimproxy.net.unsent import UNBOUND_OCTETS, UnsentBound
from shimproxy.session.mail_data_reader import MinRateTimer
from shimproxy.session.trace import EARLY
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import Verdict, ruling

if TYPE_CHECKING:
    from shimproxy.session.earlier_replies import EarlierReplies
    from shimproxy.session.mail_data_reply import MailDataReply
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.smtp.reply import Reply


class ForwardResult(enum.Enum):
    """How far the mail data went."""

    COMPLETE = "the end of mail data was written to the receiver"
    STOPPED = "the receiver replied, disconnected or stalled before that, or the operator does not want the mail"
    SENDER_GONE = "the sender disconnected before its end of mail data"


# Names of the module: from the class they take ten times as long, in Python 3.11.
COMPLETE: Final = ForwardResult.COMPLETE
STOPPED: Final = ForwardResult.STOPPED
SENDER_GONE: Final = ForwardResult.SENDER_GONE


@attrs.define(eq=False)
class Forwarder:
    """Forwards the mail data of one session to its receiver: one mail, or one chunk, after the other."""

    receiver: Receiver
    earlier: EarlierReplies
    """What is outstanding before the mail data."""
    policy: Policy
    _withheld: bytes = b""
    _timer: MinRateTimer | None = None
    """How long the receiver may still take, once it was waited for."""
    _unsent: UnsentBound | None = None
    """Set once they are more than is written without a bound."""

    async def forward(self, mail: MailDataReply) -> ForwardResult:
        """Pass mail data on until their end, or until the receiver or the operator's policy stops them.

        Args:
            mail: their reader, what is noted of them on their way, and whoever is given their reply.

        Raises DeadlinePassed for the sender, Interrupted.
        """
        self._withheld, self._timer, self._unsent = b"", None, None
        reader, leg = mail.reader, self.receiver.leg
        if self.receiver.replies.unread and not reader.has_begun and await self._receiver_spoke(mail):
            return STOPPED  # what it said came with the 354
        taken_octets = mail.octets_forwarded = reader.octets_forwarded_before
        while not reader.ended:
            stop = await reader.next_block(leg)
            if stop == 0:
                return SENDER_GONE
            portion = reader.portion(stop)
            if reader.refusal:
                return STOPPED
            if taken_octets:
                portion, taken_octets = portion[taken_octets:], 0
            if not leg.resettable:
                portion = self._withhold(portion, ended=reader.ended)
            if portion:
                if not await self._push(mail, portion):
                    return STOPPED
            elif leg.readable:
                self._look()
                if await self._receiver_spoke(mail):
                    return STOPPED
        mail.octets_out_at_end = leg.octets_out
        return COMPLETE

    def _withhold(self, portion: memoryview | bytes, *, ended: bool) -> memoryview | bytes:
        """What of the next octets goes to a receiver that can't be reset: not a line of which the end is not there.

        It finds an end of file where the sender has gone, and may take what it has got for the mail. A line longer than
        is held goes out; the end of the mail data, or of a chunk, ends the last one.
        """
        if self._withheld:
            portion = b"".join((self._withheld, portion))
            self._withheld = b""
        if portion and not ended:
            last = bytes(portion[-self.policy.limits.held_octets :])
            start = last.rfind(b"\n") + 1
            if start or len(last) == len(portion):
                self._withheld = last[start:]
                return portion[: len(portion) - len(self._withheld)]
        return portion

    def _look(self) -> bool:
        """Hear what the receiver has said; whether that is nothing, and it is there."""
        octets = self.receiver.leg.look()
        if octets:
            self.receiver.replies.feed(octets)
        return octets is None

    async def _push(self, mail: MailDataReply, octets: memoryview | bytes) -> bool:
        """Write that, unless the receiver speaks or goes first; whether all was written."""
        taken_octets = 0
        receiver = self.receiver
        if self._look() and receiver.replies.empty:
            now = octets
            if self._unsent or mail.octets_forwarded + len(octets) > UNBOUND_OCTETS:
                now = self._bound(octets)
            try:
                taken_octets = receiver.leg.send_now(now)
            except LegBroken:
                return False
            mail.octets_forwarded += taken_octets
            if self._unsent:
                self._unsent.took(taken_octets)
            if taken_octets == len(octets):
                if self._timer:
                    self._timer.end(taken_octets)
                return True
            if taken_octets < len(now):
                mail.reader.slow_down(taken_octets)
        # From the first wait on, the block is another session's.
        return await self._push_slowly(mail, bytes(octets[taken_octets:]))

    def _bound(self, octets: memoryview | bytes) -> memoryview | bytes:
        """What may be written of these at once."""
        if self._unsent is None:
            self._unsent = UnsentBound(self.receiver.leg)
        return self._unsent.next(octets)

    async def _push_slowly(self, mail: MailDataReply, octets: bytes) -> bool:
        """The same with octets that the receiver does not take at once, if it takes them at all."""
        policy = self.policy
        # It lasts from one block to the next: small blocks taken slowly make a slow receiver too.
        timer = self._timer = self._timer or MinRateTimer(
            self.receiver.leg.watch, policy.deadlines.receiver_block, policy.limits.least_octets_per_second
        )
        rest = memoryview(octets)
        while not await self._receiver_spoke(mail):
            if not rest:
                return True
            try:
                timer.begin("the receiver taking mail data")
                taken_octets = await self._push_some(rest)
            except LegBroken:
                return False
            except DeadlinePassed:
                self._note_stall(mail)
                return False
            timer.end(taken_octets)
            mail.octets_forwarded += taken_octets
            if self._unsent:
                self._unsent.took(taken_octets)
            rest = rest[taken_octets:]
        return False

    async def _push_some(self, rest: memoryview) -> int:
        """Wait until the receiver takes something of `rest`, or speaks. Raises DeadlinePassed, LegBroken."""
        leg = self.receiver.leg
        late = None
        try:
            await leg.takes_or_speaks()
        except DeadlinePassed as passed:
            late = passed
        # Late or not, the receiver is looked at before anything more is written: it may have spoken meanwhile.
        if self._look():
            # A socket calls itself writable only when a good part of its buffer is free: a slow receiver's may
            # have taken octets all the time.
            taken_octets = leg.send_now(self._bound(rest) if self._unsent else rest)
            if late and not taken_octets:
                raise late
            return taken_octets
        return 0

    async def _receiver_spoke(self, mail: MailDataReply) -> bool:
        """Whether what the receiver has said, or its end, stops the forwarding; waits for the rest of a reply."""
        leg, replies = self.receiver.leg, self.receiver.replies
        leg.watch.allow(self.policy.deadlines.linger_idle, "the rest of a reply")
        while True:
            while reply := replies.next_reply():
                if self.earlier.outstanding:
                    self.earlier.relay_earlier(reply)
                    if self.receiver.gone:
                        mail.told = True
                        return True
                    if self.earlier.sender.unsaid_octets > self.policy.limits.reply_octets:
                        await self.earlier.sender.pour()
                    leg.watch.allow(self.policy.deadlines.linger_idle, "the rest of a reply")
                elif ruling(mail.answered_by_a_reply, reply)[0] is not Verdict.DROP:
                    mail.early = reply
                    return True
                elif not await self._goes_on_after(mail, reply):
                    return True
            if leg.ended:
                if not self.earlier.outstanding:
                    mail.early = replies.cut_off()
                return True
            if replies.empty:
                return False
            try:
                replies.feed(await leg.read())
            except DeadlinePassed:
                self._note_stall(mail)
                return True

    async def _goes_on_after(self, mail: MailDataReply, reply: Reply) -> bool:
        """Drop a reply that decides nothing; whether the forwarding goes on. Raises Interrupted."""
        receiver = self.receiver
        watch = receiver.leg.watch
        receiver.events.heard_dropped(receiver.leg, reply, EARLY)
        if mail.drop(reply):
            mail.told = True
            receiver.events.repaired(Violation.IMPLAUSIBLE_REPLY, reply=reply.octets)
            return False
        try:
            if watch.stretched():
                await watch.pause()
        except DeadlinePassed:
            self._note_stall(mail)
            return False
        return True

    def give_up_receiver(self, mail: MailDataReply) -> None:
        """The receiver has stopped the forwarding, or the operator does not want the mail: it gets nothing more."""
        receiver = self.receiver
        if mail.reader.refusal:
            receiver.drop()
        else:
            self._hear_earlier()
            receiver.failed = receiver.failed or mail.early is None
            receiver.give_up(mail.early, mail.verdicts_left)
            mail.reader.forgive_slowness(until=self.earlier.quota.ends_at)

    def _hear_earlier(self) -> None:
        """Relay the replies to what went before that have come already, as the receiver is about to be given up."""
        receiver, earlier = self.receiver, self.earlier
        replies, leg = receiver.replies, receiver.leg
        while earlier.outstanding and not receiver.gone:
            if reply := replies.next_reply():
                earlier.relay_earlier(reply)
            elif octets := leg.look():
                replies.feed(octets)
            elif leg.ended and (cut_off := replies.cut_off()):
                earlier.relay_earlier(cut_off)
            else:
                return

    def _note_stall(self, mail: MailDataReply) -> None:
        mail.told = True
        self.receiver.events.repaired(Violation.STALLED_IN_DATA, octets_forwarded=mail.octets_forwarded)
