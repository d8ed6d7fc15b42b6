"""The mail data of one transaction and its one reply: from the 354 to the verdict.

Invariants:

1. The reply is the receiver's first that decides, or says that there was none (guarantees 2, 3, 4).
2. It is given after the end of mail data; before it only to a sender that does not come to that end in time.
3. `Pair.mail_data_open` is true until the end of mail data was written, so that whatever ends the session before
   has the receiver reset (guarantee 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import DeadlinePassed
from shimproxy.net.leg import Ended
from shimproxy.session.intake import Intake
from shimproxy.session.replies import MAIL_UNANSWERED, SENDER_LATE, SENT_TOO_SOON
from shimproxy.session.transfer import Passage, Transfer
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import Answers, Verdict, ruling
from shimproxy.smtp.mail_data import EndOfData

if TYPE_CHECKING:
    from shimproxy.session.limits import Policy
    from shimproxy.session.pair import Pair
    from shimproxy.smtp.reply import Reply


@attrs.define(eq=False)
class Delivery:
    """One mail's data on its way through both legs."""

    pair: Pair
    policy: Policy

    async def run(self) -> bool:
        """Pass one mail's data and answer it; whether commands may follow."""
        pair = self.pair
        receiver = pair.receiver
        assert receiver is not None
        pair.phase = "mail data"
        intake = Intake(pair.sender, pair.commands, self.policy, EndOfData())
        transfer = Transfer(receiver, intake, pair.replies, self.policy, pair.repaired)
        try:
            passage = await transfer.forward()
            if passage is Passage.STOPPED:
                pair.give_up(transfer.early)
                pair.phase = "draining"
                if not await intake.drain():
                    passage = Passage.VANISHED
        except DeadlinePassed as late:
            pair.repaired(Violation.SENDER_STALLED, waited_for=late.what)
            verdict = None
            if pair.farewell:
                verdict = self._verdict_of_the_departed(transfer, pair.farewell.decided)
            return await pair.end_with("shim", verdict or SENDER_LATE)
        finally:
            transfer.further.tell(pair.repaired)
        if passage is Passage.VANISHED:
            how = pair.sender.ended
            pair.repaired(Violation.VANISHED_IN_DATA, how=how.value if how else "", octets=intake.octets_taken)
            pair.ended("sender")
            return False
        if passage is Passage.WHOLE:
            pair.mail_data_open = False
            pair.phase = "end of mail data"
            verdict = await self._verdict(transfer)
        else:
            assert pair.farewell is not None
            decided = await pair.farewell.verdict()
            verdict = self._verdict_of_the_departed(transfer, decided) or MAIL_UNANSWERED
        pair.record.transactions += 1
        pair.record.accepted += verdict.severity == 2
        pair.phase = "between mails"
        await pair.say(verdict)
        if intake.outrun:
            pair.repaired(Violation.OUTRUN)
            return await pair.end_with("shim", SENT_TOO_SOON)
        return True

    async def _verdict(self, transfer: Transfer) -> Reply:
        """The reply to mail data that was passed to its end."""
        pair = self.pair
        pair.watch.allow(self.policy.deadlines.end_of_data_reply, "the end of mail data")
        try:
            while (reply := await pair.next_reply()) is not None:
                verdict, _ = ruling(Answers.END_OF_DATA, reply)
                if verdict is Verdict.RELAY:
                    return reply
                if verdict is Verdict.OUT_OF_STEP:
                    pair.give_up_in_disorder(Violation.IMPLAUSIBLE_REPLY, reply)
                    break
                transfer.further.count(reply)
            else:
                pair.repaired(self._how_it_went(), octets_forwarded=transfer.octets_forwarded)
        except DeadlinePassed:
            pair.repaired(Violation.NO_REPLY, to="end of mail data")
        finally:
            transfer.further.tell(pair.repaired)
        pair.give_up()
        return MAIL_UNANSWERED

    def _verdict_of_the_departed(self, transfer: Transfer, decided: Reply | None) -> Reply | None:
        """The reply to mail data that the receiver did not let come to its end, if it gave any."""
        pair = self.pair
        figures = {
            "octets_forwarded": transfer.octets_forwarded,
            "octets_drained": transfer.intake.octets_taken - transfer.octets_forwarded,
        }
        if decided is None:
            if not transfer.stalled:
                pair.repaired(self._how_it_went(), **figures)
            return None
        if decided.refuses:
            pair.repaired(Violation.EARLY_REPLY, code=decided.code, **figures)
            return decided
        pair.repaired(Violation.EARLY_SUCCESS, code=decided.code, **figures)
        return self.policy.early_success

    def _how_it_went(self) -> Violation:
        receiver = self.pair.receiver
        reset = receiver is not None and receiver.ended is Ended.RST
        return Violation.RESET_IN_DATA if reset else Violation.CLOSED_IN_DATA
