"""The waits for replies of the receiver: until one has come, until all have, or until its time is over.

Invariants:

1. Replies that are here at once go to the sender together, before anything is waited for.
2. A receiver that owes a reply and is late, or has gone, is given up. Then everything is answered without it, or
   another receiver takes its place.
3. The time that the sender takes for its replies is not the receiver's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import DeadlinePassed
from shimproxy.session.closing import Closing
from shimproxy.session.mail_data_reply import MailDataReply
from shimproxy.session.replies import MAIL_UNANSWERED, RECEIVER_LATE
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Verb
from shimproxy.smtp.dialogue import COMMANDS, NextRead

if TYPE_CHECKING:
    from shimproxy.session.pending import PendingReplies
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.sender import Sender


@attrs.define(eq=False)
class ReplyWaits:
    """How a session waits for what its receiver owes."""

    pending: PendingReplies
    sender: Sender
    receiver: Receiver

    async def settle(self) -> NextRead:
        """Relay replies until nothing is outstanding; how the sender is read behind the last of them.

        Raises SessionEnded, LegBroken, DeadlinePassed, Interrupted.
        """
        receiver, pending = self.receiver, self.pending
        then = COMMANDS
        if not receiver.commands.flush_now():
            await self._flush()
        while pending.outstanding:
            reply = receiver.reply_at_hand() if receiver.replies.unread or receiver.leg.ended else None
            if reply is None and not receiver.gone:
                if not self.sender.pour_now():
                    await self._pour()
                try:
                    reply = await receiver.next_reply()
                except DeadlinePassed:
                    await self.give_up_late()
                    continue
            if reply:
                then = pending.relay(reply)
                if pending.outstanding and receiver.leg.watch.stretched():
                    await self.pause()
            else:
                await self._end_unanswered()
        if not self.sender.pour_now():
            await self._pour()
        return then

    async def listen(self) -> None:
        """Wait until one of the peers speaks; relay the replies that have come.

        Raises SessionEnded, LegBroken, DeadlinePassed, Interrupted.
        """
        receiver = self.receiver
        if not receiver.commands.flush_now():
            await self._flush()
        if not (receiver.gone or (receiver.replies.unread and self._relay_at_hand())):
            leg = receiver.leg  # as it is now: a receiver that is late has been replaced
            try:
                await leg.speaks_or(self.sender.leg)
            except DeadlinePassed:
                await self.give_up_late()
            else:
                if leg.readable:
                    receiver.replies.feed(leg.look() or b"")
                    self._relay_at_hand()
        if receiver.replies.unread and receiver.leg.watch.stretched(0):
            await self.pause()
        elif self.pending.outstanding and (receiver.gone or receiver.leg.ended):
            await self._end_unanswered()
        if not self.sender.pour_now():
            await self._pour()

    def _relay_at_hand(self, unwritten: int = 0) -> bool:
        """Relay the replies that are here, up to a pause; whether there were any. What is `unwritten` has none yet."""
        receiver, pending = self.receiver, self.pending
        relayed = False
        while len(pending.outstanding) > unwritten and not receiver.gone and (reply := receiver.reply_at_hand()):
            pending.relay(reply)
            relayed = True
            if pending.outstanding and receiver.leg.watch.stretched():
                break
        return relayed

    async def pause(self) -> None:
        """Let other sessions run. Raises SessionEnded, DeadlinePassed, Interrupted."""
        try:
            await self.sender.leg.watch.pause()
        except DeadlinePassed:
            if not self.pending.outstanding:
                raise
            await self.give_up_late()

    async def _flush(self) -> None:
        try:
            await self.flush_slowly()
        except DeadlinePassed:
            await self.give_up_late()

    async def flush_slowly(self, not_entered: int = 0) -> None:
        """Write what was queued to a receiver that does not take it at once, and relay what it says meanwhile.

        That many of the commands in it are not among those that are outstanding. Raises DeadlinePassed, Interrupted.
        """
        receiver, leg = self.receiver, self.receiver.leg
        while not (receiver.gone or receiver.commands.flush_now()):
            await receiver.commands.wait()
            while self._relay_at_hand(max(0, receiver.commands.waiting - not_entered)) and leg.watch.stretched(0):
                await leg.watch.pause()
            self.sender.pour_now()

    async def _pour(self) -> None:
        """Write what is to be said; that the sender had to be waited for was not the receiver's time."""
        await self.sender.pour()
        if self.pending.outstanding:
            self.pending.allow(self.pending.outstanding[0])

    # -- where the receiver does not answer

    async def give_up_late(self) -> None:
        """The deadline has passed for what is outstanding first. Raises SessionEnded if that, or more, is a command."""
        pending = self.pending
        entry = pending.outstanding[0]
        mail = entry if isinstance(entry, MailDataReply) else None
        if mail and mail.lone_refusal:
            pending.answer_mail(mail, mail.lone_refusal)
            return
        pending.events.repaired(Violation.NO_REPLY, to="end of mail data" if mail else str(entry))
        if mail and pending.policy.lmtp and not pending.transaction.recipients:
            pending.answer_mail(mail, MAIL_UNANSWERED)  # it owed none (RFC 2033 section 4.2)
            return
        self.receiver.fail()
        pending.answer_mails()
        if pending.outstanding and not await self._is_replaced():
            await pending.answer_the_rest(RECEIVER_LATE)

    async def _end_unanswered(self) -> None:
        """The receiver has gone without a reply to what is outstanding first. Raises SessionEnded if a command is."""
        receiver, pending, by = self.receiver, self.pending, Closing.BY_RECEIVER
        entry = pending.outstanding[0]
        if not receiver.gone:
            if isinstance(entry, MailDataReply) and not (pending.transaction.chunk_refusal or entry.lone_refusal):
                entry.note_unanswered()
            pending.answer_mails()
            if pending.outstanding:
                by = pending.note_closed()
            receiver.fail(blamed=entry is not Verb.QUIT)
        pending.answer_mails()
        if pending.outstanding and not await self._is_replaced():
            await pending.answer_the_rest(receiver.last_words, by)

    async def _is_replaced(self) -> bool:
        """Whether another receiver has what is outstanding now. Raises Interrupted."""
        pending = self.pending
        if is_replaced := pending.replacement is not None and await pending.replacement.made(pending):
            pending.allow(pending.outstanding[0])
            await self._flush()
        return is_replaced
