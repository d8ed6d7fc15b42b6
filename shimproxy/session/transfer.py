"""Mail data on their way to the receiver: streamed live, until it has answered early, has gone or takes no more.

Invariants:

1. Mail data are forwarded octet for octet, as they come; nothing is kept of them but what a full socket did not take.
2. Before each block is written the receiver is looked at: any octet of it there is early, as the sender has not
   been read to its end, or that end was not written yet (guarantee 3).
3. From then on not one octet goes to the receiver (guarantee 6); the sender is for the intake to drain (guarantee 7).

It does not write to the sender: what is answered at the end is the session's matter.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import DeadlinePassed, LegBroken
from shimproxy.net.leg import BLOCK_VIEW
from shimproxy.session.intake import Patience
from shimproxy.session.record import FurtherReplies
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import Answers, Verdict, ruling

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.session.intake import Intake
    from shimproxy.session.limits import Policy
    from shimproxy.session.record import Tell
    from shimproxy.smtp.reply import Reply, ReplyReader


class Passage(enum.Enum):
    """How far the mail data went."""

    WHOLE = "the end of mail data was written to the receiver"
    STOPPED = "the receiver spoke, went or stalled before that"
    VANISHED = "the sender went before its end of mail data"


@attrs.define(eq=False)
class Transfer:
    """The mail data of one transaction on their way to the receiver."""

    receiver: Leg
    intake: Intake
    replies: ReplyReader
    policy: Policy
    repaired: Tell
    early: Reply | None = None
    """The reply that stopped the forwarding, where a reply did."""
    octets_forwarded: int = 0
    """What the receiver's socket took."""
    stalled: bool = False
    """Whether the receiver was given up because it took too little, or did not come to the end of a reply."""
    further: FurtherReplies = attrs.field(factory=FurtherReplies)
    """What was dropped of what the receiver said, and is not told yet."""
    _patience: Patience | None = None

    async def forward(self) -> Passage:
        """Pass the mail data on until their end, or until the receiver stops them.

        Raises DeadlinePassed for the sender, Interrupted.
        """
        while not self.intake.ended:
            size_octets = await self.intake.next_block()
            if not size_octets:
                return Passage.VANISHED
            if not await self._push(size_octets):
                return Passage.STOPPED
        return Passage.WHOLE

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
            self.intake.slow_down(taken_octets)
        elif octets:
            self.replies.feed(octets)
        # From the first wait on, BLOCK is another session's.
        return await self._push_slowly(bytes(BLOCK_VIEW[taken_octets:size_octets]))

    async def _push_slowly(self, octets: bytes) -> bool:
        """The same with octets that the receiver does not take at once, if it takes them at all."""
        policy = self.policy
        # It lasts from one block to the next: small blocks taken slowly make a slow receiver too.
        patience = self._patience = self._patience or Patience(
            self.receiver.watch, policy.deadlines.receiver_block, policy.limits.least_octets_per_second
        )
        rest = memoryview(octets)
        while not await self._receiver_spoke():
            if not rest:
                return True
            patience.begin("the receiver taking mail data")
            try:
                taken_octets = await self._push_some(rest)
            except LegBroken:
                return False
            except DeadlinePassed:
                self._note_stall()
                return False
            patience.regain(taken_octets)
            self.octets_forwarded += taken_octets
            rest = rest[taken_octets:]
        return False

    async def _push_some(self, rest: memoryview) -> int:
        """Wait until the receiver takes something of `rest`, or speaks. Raises DeadlinePassed, LegBroken."""
        receiver = self.receiver
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
        receiver.watch.allow(self.policy.deadlines.linger_idle, "the rest of a reply")
        while True:
            while reply := replies.next_reply():
                if ruling(Answers.IN_MAIL_DATA, reply)[0] is not Verdict.DROP:
                    self.early = reply
                    return True
                self.further.count(reply)
            if receiver.ended:
                self.early = replies.cut_off()
                return True
            if replies.empty:
                return False
            try:
                replies.feed(await receiver.read())
            except DeadlinePassed:
                self._note_stall()
                return True

    def _note_stall(self) -> None:
        self.stalled = True
        self.repaired(Violation.STALLED_IN_DATA, octets_forwarded=self.octets_forwarded)
