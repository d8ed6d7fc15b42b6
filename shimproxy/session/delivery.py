"""The mail data of one transaction and their one reply: from the 354 to the verdict.

Invariants:

1. The reply is the receiver's first that decides, or says that there was none (guarantees 2, 3, 4).
2. It is given after the end of mail data; before it only to a sender that does not come to that end in time.
3. `Receiver.mail_data_open` is true until the end of mail data was written, so that whatever ends the session before
   has the receiver reset (guarantee 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import attrs

from shimproxy.net.errors import DeadlinePassed, Interrupted
from shimproxy.net.tap import Ended
from shimproxy.session.replies import MAIL_UNANSWERED, SENDER_LATE, SHUTTING_DOWN, TOO_BIG
from shimproxy.session.transfer import Passage
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import RELAY, Answers, Verdict, ruling
from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from shimproxy.session.notes import Notes
    from shimproxy.session.policy import Policy
    from shimproxy.session.sender import Sender
    from shimproxy.session.transfer import Transfer
    from shimproxy.smtp.reply import Own


class Over(Exception):
    """The session has come to its end: a peer has gone, or the sender has its last reply."""


@attrs.define(eq=False)
class Delivery:
    """One mail's data on their way through both legs."""

    sender: Sender
    notes: Notes
    policy: Policy
    transfer: Transfer
    last: bool = True
    """Whether the mail ends with these: a chunk may be followed by others."""
    _given: int = 0
    _accepted: bool = False
    _lone_refusal: Reply | None = None

    async def pass_on(self) -> bool:
        """Pass one mail's data to their end; whether the receiver has that, so that the verdict is a reply of its.

        If not, see `verdicts_without_the_end`. Raises Over, LegBroken, DeadlinePassed, Interrupted.
        """
        notes, transfer = self.notes, self.transfer
        notes.phase = "mail data"
        whole = await self._pass_on()
        notes.heard_mail_data(transfer.intake.octets_taken)
        if whole:
            if notes.tracer:
                notes.tracer.has_given_the_end()
            transfer.receiver.mail_data_open = False
            notes.phase = "end of mail data"
        return whole

    def __str__(self) -> str:
        return "the end of mail data" if self.transfer.intake.of_lines else "the chunk"

    @property
    def verdicts_left(self) -> int:
        """How many replies are still to be given."""
        due = self.transfer.pipeline.verdicts_due if self.policy.lmtp else 1
        return due - self._given

    def answer(self, *verdicts: Reply | Own) -> None:
        """Put these as the replies that are still to be given, see `_for_all`."""
        for verdict in verdicts if len(verdicts) == self.verdicts_left else self._for_all([*verdicts]):
            self.give(verdict)

    @property
    def lone_refusal(self) -> Reply | None:
        """The refusal that is the only reply so far where several are due, as with LMTP; it may stand for all."""
        return self._lone_refusal if self._given == 1 and self.verdicts_left else None

    def give(self, verdict: Reply | Own) -> None:
        """Put a reply to the mail data, the only one unless they have several (RFC 2033 section 4.2)."""
        self.transfer.tell()
        self._given += 1
        if verdict.severity == 2:
            self._accepted = True
        else:
            self.transfer.pipeline.mail_refused = True
            if isinstance(verdict, Reply):
                self._lone_refusal, self.transfer.pipeline.has_refused = verdict, True
        if not self.verdicts_left:
            if self.last:
                record = self.notes.record
                record.transactions += 1
                record.accepted += self._accepted
            self.notes.phase = "between mails" if self.last else "between chunks"
        self.sender.put_verdict(verdict)

    def note_unanswered(self) -> None:
        """Note that the receiver has gone after their end, without a verdict."""
        self.notes.phase = "end of mail data"
        self.notes.repaired(self._how_it_went(), octets_forwarded=self.transfer.octets_forwarded)

    def ruled(self, reply: Reply) -> list[Reply | Own]:
        """What a reply of the receiver's after the end of mail data makes of them: nothing yet, one reply to them, or
        all that are left where the receiver is given up for it."""
        transfer, receiver = self.transfer, self.transfer.receiver
        self.notes.phase = "end of mail data"
        verdict, _ = ruling(transfer.answered_by_a_reply, reply)
        if verdict is RELAY:  # which it is nearly always
            refusal = transfer.pipeline.chunk_refusal
            if refusal is None or reply.kind != 2:
                return [reply]
            # It takes for commands what it has of the chunks behind the refused one.
            self.notes.repaired(Violation.IMPLAUSIBLE_REPLY, reply=reply.octets)
            receiver.mail_data_open = True
            receiver.drop()
            return self._for_all([refusal])
        match verdict:
            case Verdict.DROP:
                transfer.drop(Reply(reply.code, reply.octets))  # what was wrong with its form is told already
                return []
            case Verdict.HOLD | Verdict.NEVER:
                receiver.give_up(reply, self.verdicts_left, noted=True)
                assert receiver.farewell is not None
                return self._verdicts_of_the_departed(receiver.farewell.decided)
            case Verdict.OUT_OF_STEP:
                receiver.give_up_in_disorder(Violation.IMPLAUSIBLE_REPLY, reply)
                return self._for_all([MAIL_UNANSWERED])
            case _:
                raise AssertionError(f"{verdict} was ruled on")

    async def _pass_on(self) -> bool:
        """Pass the mail data to their end; whether the receiver has them whole.

        Raises Over if the sender goes, or does not come to the end.
        """
        notes, transfer = self.notes, self.transfer
        intake, receiver = transfer.intake, transfer.receiver
        try:
            passage = await transfer.forward()
            if passage is Passage.STOPPED:
                if intake.refusal:
                    receiver.drop()
                else:
                    transfer.hear_earlier()
                    receiver.failed = receiver.failed or transfer.early is None
                    receiver.give_up(transfer.early, self.verdicts_left)
                    intake.forgive_slowness(until=transfer.pipeline.tally.ends_at)
                notes.phase = "draining"
                if not await intake.drain():
                    passage = Passage.VANISHED
        except DeadlinePassed as late:
            notes.repaired(Violation.SENDER_STALLED, waited_for=late.what)
            await self._end_with(self._held_verdicts() or [SENDER_LATE])
        except Interrupted:
            await self._end_with(self._held_verdicts() or [SHUTTING_DOWN])
        finally:
            transfer.tell()
            if intake.stray_count:
                notes.repaired(Violation.BARE_NEWLINE, count=intake.stray_count, newlines=self.policy.newlines.value)
        if passage is Passage.VANISHED:
            self._held_verdicts()
            how = self.sender.leg.ended
            notes.repaired(Violation.VANISHED_IN_DATA, how=how.value if how else "", octets=intake.octets_taken)
            notes.ended("sender")
            raise Over
        return passage is Passage.WHOLE

    async def _end_with(self, replies: list[Reply | Own]) -> NoReturn:
        self.transfer.pipeline.answer_earlier()
        self.notes.ended("shim")
        for reply in replies:
            self.sender.put(reply)
        await self.sender.pour()
        raise Over

    async def verdicts_without_the_end(self) -> list[Reply | Own]:
        """The replies to mail data of which the receiver did not get the end."""
        transfer = self.transfer
        if transfer.intake.refusal:
            self._tell_refusal()
            return self._for_all([transfer.intake.refusal])
        farewell, refusal = transfer.receiver.farewell, transfer.pipeline.chunk_refusal
        if farewell is None and refusal:  # it was dropped for what it made of a chunk before these
            return self._for_all([refusal])
        assert farewell is not None
        return self._verdicts_of_the_departed(await farewell.verdicts()) or self._for_all([MAIL_UNANSWERED])

    def _for_all(self, verdicts: list[Reply | Own]) -> list[Reply | Own]:
        """As many as are due: one is that of all of them; of several, those that are lacking are not known."""
        lacking = self.verdicts_left - len(verdicts)
        return verdicts + [verdicts[0] if len(verdicts) == 1 else MAIL_UNANSWERED] * lacking

    def _tell_refusal(self) -> None:
        intake = self.transfer.intake
        if intake.refusal is TOO_BIG:
            self.notes.repaired(Violation.OVERSIZE, octets_taken=intake.octets_taken)

    def _held_verdicts(self) -> list[Reply | Own]:
        """What is held for a sender that does not come to the end of its mail data."""
        if self.transfer.intake.refusal:
            self._tell_refusal()
            return self._for_all([self.transfer.intake.refusal])
        farewell = self.transfer.receiver.farewell
        return self._verdicts_of_the_departed(farewell.decided) if farewell else []

    def _verdicts_of_the_departed(self, decided: list[Reply]) -> list[Reply | Own]:
        """The replies to mail data that the receiver did not let come to their end, if it gave any."""
        notes, transfer = self.notes, self.transfer
        figures: dict[str, int] = {
            "octets_forwarded": transfer.octets_forwarded,
            # The receiver may have got more than the sender gave: what was stuffed.
            "octets_drained": max(0, transfer.intake.octets_taken - transfer.octets_forwarded),
        }
        early = transfer.early
        implausible = early is not None and ruling(Answers.IN_MAIL_DATA, early)[0] is Verdict.OUT_OF_STEP
        if early and implausible:
            for violation in (*early.violations, Violation.IMPLAUSIBLE_REPLY):
                notes.repaired(violation, reply=early.octets)
        if not decided:
            if not (implausible or transfer.told):
                notes.repaired(self._how_it_went(), **figures)
            return []
        refusal = next((reply for reply in decided if reply.refuses), None)
        if refusal:
            notes.repaired(Violation.EARLY_REPLY, code=refusal.code, reply=refusal.octets, **figures)
        success = next((reply for reply in decided if not reply.refuses), None)
        if success:
            notes.repaired(Violation.EARLY_SUCCESS, code=success.code, reply=success.octets, **figures)
        return self._for_all([reply if reply.refuses else self.policy.early_success for reply in decided])

    def _how_it_went(self) -> Violation:
        reset = self.transfer.receiver.leg.ended is Ended.RST
        return Violation.RESET_IN_DATA if reset else Violation.CLOSED_IN_DATA
