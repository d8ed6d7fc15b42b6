"""The one reply that is owed to the mail data of a transaction, or to a chunk: from the 354 to the verdict.

Invariants:

1. The reply is the receiver's first that decides, or says that there was none (guarantees 2, 3, 4).
2. It is given after the end of mail data; before it only to a sender that does not come to that end in time.
3. The receiver's mail data are open until their end was written (data_state.py), so that whatever ends the session
   before has the receiver reset (guarantee 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import attrs

from shimproxy.net.tap import Ended
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.correction import END_OF_DATA, corrected
from shimproxy.session.phase import SessionPhase
from shimproxy.session.record import DroppedReplies
from shimproxy.session.replies import MAIL_UNANSWERED, TOO_BIG
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import RELAY, ReplyTo, Verdict, about_mail_data, ruling
from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.session.earlier_replies import EarlierReplies
    from shimproxy.session.mail_data_reader import MailDataReader
    from shimproxy.session.policy import Policy
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.reply import LocalReply

# Names of the module: from the class they take ten times as long, in Python 3.11.
_END_OF_MAIL_DATA: Final = SessionPhase.END_OF_MAIL_DATA
_BETWEEN_MAILS: Final = SessionPhase.BETWEEN_MAILS


@attrs.define(eq=False)
class MailDataReply:
    """The reply to one mail's data, or with LMTP one reply for each recipient."""

    sender: Sender
    events: SessionEvents
    policy: Policy
    earlier: EarlierReplies
    """What is outstanding before the mail data."""
    reader: MailDataReader
    last: bool = True
    """Whether the mail ends with these: a chunk may be followed by others."""
    early: Reply | None = None
    """The reply that stopped the forwarding, where a reply did."""
    octets_forwarded: int = 0
    """What the receiver's socket took of the mail data."""
    octets_out_at_end: int | None = None
    """What the receiver's leg had been given when their end was written, if it was."""
    told: bool = False
    """Whether it is told already why the receiver was given up, if it was: it took too little, or did not come to the
    end of a reply, or answered what went before in disorder."""
    _further: DroppedReplies | None = None
    _dropped_octets: int = 0
    _given: int = 0
    _accepted: bool = False
    _lone_refusal: Reply | None = None
    _given_early: tuple[Reply | LocalReply, ...] = ()
    """What the sender was given before it came to the end, as the operator has such replies passed on."""

    def __str__(self) -> str:
        return "the end of mail data" if self.reader.of_lines else "the chunk"

    @property
    def verdicts_left(self) -> int:
        """How many replies are still to be given."""
        return self.earlier.receiver.transaction.verdicts_due(lmtp=self.policy.lmtp) - self._given

    def answer(self, *verdicts: Reply | LocalReply) -> None:
        """Put these as the replies that are still to be given, see `_for_all`."""
        for verdict in verdicts if len(verdicts) == self.verdicts_left else self._for_all([*verdicts]):
            self.give(verdict)

    @property
    def lone_refusal(self) -> Reply | None:
        """The refusal that is the only reply so far where several are due, as with LMTP; it may stand for all."""
        return self._lone_refusal if self._given == 1 and self.verdicts_left else None

    def give(self, verdict: Reply | LocalReply) -> None:
        """Put a reply to the mail data, the only one unless they have several (RFC 2033 section 4.2)."""
        self._tell_dropped()
        self._given += 1
        if verdict.severity == 2:
            self._accepted = True
            self.sender.leg.watch.renew()
        else:
            self.earlier.receiver.transaction.mail_refused = True
            if isinstance(verdict, Reply):
                self._lone_refusal, self.earlier.has_refused = verdict, True
        if not self.verdicts_left:
            if self.last:
                record = self.events.record
                record.transactions += 1
                record.accepted += self._accepted
            self.events.phase = _BETWEEN_MAILS if self.last else SessionPhase.BETWEEN_CHUNKS
        self.sender.put_verdict(verdict)

    @property
    def answered_by_a_reply(self) -> ReplyTo:
        """What a reply to these mail data answers that was read just now: them all, or as many as had arrived."""
        leg, at_end = self.earlier.receiver.leg, self.octets_out_at_end
        if at_end is None:
            return about_mail_data(ended=False, unacknowledged_octets=0)
        under_way = leg.driver.unacknowledged_octets(leg)
        if under_way:  # a chunk may have others after it, in the clear: those that are under way came after these
            under_way = max(0, under_way - (leg.octets_out - at_end))
        return about_mail_data(ended=True, unacknowledged_octets=under_way)

    def drop(self, reply: Reply) -> bool:
        """Drop a reply that decides nothing; whether the receiver does not stop saying such.

        One for each line of the mail is not too many.
        """
        self._further = self._further or DroppedReplies(Violation.FURTHER_REPLY)
        self._further.count(reply)
        self._dropped_octets += len(reply.octets)
        return self._dropped_octets > self.earlier.receiver.replies.most_octets + self.octets_forwarded

    def _tell_dropped(self) -> None:
        if self._further:
            self._further.tell(self.events.repaired)

    def note_unanswered(self) -> None:
        """Note that the receiver has gone after their end, without a verdict."""
        self.events.phase = _END_OF_MAIL_DATA
        self.events.repaired(self._how_it_went(), octets_forwarded=self.octets_forwarded)

    def ruled(self, reply: Reply) -> list[Reply | LocalReply]:
        """What a reply of the receiver's after the end of mail data makes of them: nothing yet, one reply to them, or
        all that are left where the receiver is given up for it."""
        receiver = self.earlier.receiver
        self.events.phase = _END_OF_MAIL_DATA
        verdict, _ = ruling(self.answered_by_a_reply, reply)
        if verdict is RELAY:  # which it is nearly always
            refusal = receiver.transaction.chunk_refusal
            if refusal is None or reply.kind != 2:
                return [self._corrected(reply)]
            # It takes for commands what it has of the chunks behind the refused one.
            self.events.repaired(Violation.IMPLAUSIBLE_REPLY, reply=reply.octets)
            receiver.drop()
            return self._for_all([refusal])
        match verdict:
            case Verdict.DROP:
                if not self.drop(Reply(reply.code, reply.octets)):  # what was wrong with its form is told already
                    return []
                receiver.give_up_in_disorder(Violation.IMPLAUSIBLE_REPLY, reply)
                return self._for_all([MAIL_UNANSWERED])
            case Verdict.HOLD | Verdict.NEVER:
                receiver.give_up(reply, self.verdicts_left, noted=True)
                assert receiver.lingering is not None
                return self._verdicts_of_the_departed(receiver.lingering.decided)
            case Verdict.OUT_OF_STEP:
                receiver.give_up_in_disorder(Violation.IMPLAUSIBLE_REPLY, reply)
                return self._for_all([MAIL_UNANSWERED])
            case _:
                raise AssertionError(f"{verdict} was ruled on")

    def tell_what_was_repaired(self) -> None:
        """Tell of what is known once the mail data are read, or left."""
        stray_count = self.reader.stray_count
        if (mails := self.events.mails) is not None:
            mails.took(self.reader.octets_of_mail)
        self._tell_dropped()
        if stray_count:
            self.events.repaired(
                Violation.BARE_NEWLINE, count=stray_count, newlines=self.policy.newlines.value, **self.reader.stray_seen
            )

    def end_in_mail_data(self, reply: LocalReply) -> NoReturn:
        """End the session of a sender that does not come to the end of its mail data, with `reply` if none is held.

        Raises SessionEnded.
        """
        replies = self._held_verdicts() or [reply]
        self.earlier.answer_earlier()
        raise SessionEnded(Closing.BY_SHIM, *replies)

    def end_without_sender(self) -> NoReturn:
        """End the session of a sender that has disconnected before the end of its mail data. Raises SessionEnded."""
        self._held_verdicts()
        how = self.sender.leg.ended
        octets = self.reader.octets_taken
        self.events.repaired(Violation.VANISHED_IN_DATA, how=how.value if how else "", octets=octets)
        raise SessionEnded(Closing.BY_SENDER)

    def answer_at_once(self) -> bool:
        """Put an early refusal that is to be passed on as it comes; whether there is one, and it answers all."""
        receiver = self.earlier.receiver
        decided = receiver.lingering.decided if receiver.lingering else []
        is_passed = Violation.EARLY_REPLY in self.policy.observed and not self.earlier.outstanding
        if not (is_passed and len(decided) == self.verdicts_left and all(each.refuses for each in decided)):
            return False
        self._given_early = (*self._verdicts_of_the_departed(decided),)
        for verdict in self._given_early:
            self.give(verdict)
        return True

    async def answer_without_the_end(self) -> None:
        """Put the replies to mail data of which the receiver did not get the end, once they are known."""
        transaction = self.earlier.receiver.transaction
        verdicts: Sequence[Reply | LocalReply] = self._given_early
        if not verdicts:
            verdicts = await self._verdicts_without_the_end()
            for verdict in verdicts:
                self.give(verdict)
        transaction.end()
        transaction.chunk_refusal = None if self.last else verdicts[0]

    async def _verdicts_without_the_end(self) -> list[Reply | LocalReply]:
        if self.reader.refusal:
            self._tell_refusal()
            return self._for_all([self.reader.refusal])
        receiver = self.earlier.receiver
        lingering, refusal = receiver.lingering, receiver.transaction.chunk_refusal
        if lingering is None and refusal:  # it was dropped for what it made of a chunk before these
            return self._for_all([refusal])
        assert lingering is not None
        return self._verdicts_of_the_departed(await lingering.verdicts()) or self._for_all([MAIL_UNANSWERED])

    def _for_all(self, verdicts: list[Reply | LocalReply]) -> list[Reply | LocalReply]:
        """As many as are due: one is that of all of them; of several, those that are lacking are not known."""
        lacking = self.verdicts_left - len(verdicts)
        return verdicts + [verdicts[0] if len(verdicts) == 1 else MAIL_UNANSWERED] * lacking

    def _tell_refusal(self) -> None:
        reader = self.reader
        if reader.refusal is TOO_BIG:
            self.events.repaired(Violation.OVERSIZE, octets_taken=reader.octets_taken)

    def _held_verdicts(self) -> list[Reply | LocalReply]:
        """What is held for a sender that does not come to the end of its mail data."""
        if self._given_early:
            return []
        if self.reader.refusal:
            self._tell_refusal()
            return self._for_all([self.reader.refusal])
        lingering = self.earlier.receiver.lingering
        return self._verdicts_of_the_departed(lingering.decided) if lingering else []

    def _verdicts_of_the_departed(self, decided: list[Reply]) -> list[Reply | LocalReply]:
        """The replies to mail data that the receiver did not let come to their end, if it gave any."""
        events, early = self.events, self.early
        figures: dict[str, int] = {
            "octets_forwarded": self.octets_forwarded,
            # The receiver may have got more than the sender gave: what was stuffed.
            "octets_drained": max(0, self.reader.octets_taken - self.octets_forwarded),
        }
        implausible = early is not None and ruling(ReplyTo.IN_MAIL_DATA, early)[0] is Verdict.OUT_OF_STEP
        if early and implausible:
            for violation in (*early.violations, Violation.IMPLAUSIBLE_REPLY):
                events.repaired(violation, reply=early.octets)
        if not decided:
            if not (implausible or self.told):
                events.repaired(self._how_it_went(), **figures)
            return []
        refusal = next((reply for reply in decided if reply.refuses), None)
        if refusal:
            tell = events.seen if Violation.EARLY_REPLY in self.policy.observed else events.repaired
            tell(Violation.EARLY_REPLY, code=refusal.code, reply=refusal.octets, **figures)
        success = next((reply for reply in decided if not reply.refuses), None)
        if success:
            events.repaired(Violation.EARLY_SUCCESS, code=success.code, reply=success.octets, **figures)
        return self._for_all([self._corrected(each) if each.refuses else self.policy.early_success for each in decided])

    def _corrected(self, reply: Reply) -> Reply:
        """A verdict of the receiver's as the operator has it corrected."""
        return corrected(reply, END_OF_DATA, self.policy, self.sender) if self.policy.rewrites else reply

    def _how_it_went(self) -> Violation:
        reset = self.earlier.receiver.leg.ended is Ended.RST
        return Violation.RESET_IN_DATA if reset else Violation.CLOSED_IN_DATA
