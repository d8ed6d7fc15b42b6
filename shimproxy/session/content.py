"""What a transaction is about: mail data behind DATA, or chunks behind BDAT (RFC 3030).

Invariants:

1. A chunk is as long as its command says, whatever is in it: no octet of it is ever read as a command or an end.
2. Where the receiver has answered a chunk before it had all of it, the chunk is drained and gets that as its reply, and
   so does each later one until the last: one reply a chunk. Any other command finds the receiver gone.
3. Behind a refusal of a chunk, or of a command between two, none is forwarded until a new transaction can begin: RFC
   3030 section 2 has the receiver discard them, but Exim 4.96 reads them as commands (guarantee 6).
4. A BDAT that does not say without a doubt how long its chunk is ends the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import attrs

from shimproxy.session.delivery import Delivery, Over
from shimproxy.session.intake import Intake
from shimproxy.session.replies import NOT_OFFERED, SENT_TOO_SOON, TOO_BIG
from shimproxy.session.transfer import Transfer
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import chunk_of

if TYPE_CHECKING:
    from shimproxy.session.notes import Notes
    from shimproxy.session.pipeline import Pipeline
    from shimproxy.session.policy import Policy
    from shimproxy.session.sender import Sender
    from shimproxy.smtp.command import Chunk, Command
    from shimproxy.smtp.reply import Own, Reply


@attrs.define(eq=False)
class Content:
    """The mail data and chunks of one session, on their way."""

    sender: Sender
    pipeline: Pipeline
    notes: Notes
    policy: Policy
    _refusal: Reply | Own | None = None
    """What answers the chunks of a transaction whose receiver was given up over one of them."""

    def forget(self) -> None:
        """The transaction is over, although no receiver was told so."""
        self._refusal = None
        self.pipeline.reset()

    async def take_mail_data(self) -> None:
        """Pass on mail data, and relay their reply unless the sender need not wait.

        Raises Over, LegBroken, DeadlinePassed, Interrupted.
        """
        await self._pass_on(Intake.of_mail(self.sender, self.policy, self.pipeline.measure), last=True)

    async def take_chunk(self, command: Command) -> None:
        """Forward BDAT and its chunk, or drain and refuse it.

        Raises Over, LegBroken, DeadlinePassed, Interrupted.
        """
        chunk = chunk_of(command.line) if command.forwardable else None
        pipeline = self.pipeline
        receiver = pipeline.receiver
        self.notes.phase = command.verb
        if chunk is None or pipeline.measure or pipeline.chunks_in_doubt or pipeline.chunk_refusal:
            # What a mail may measure is known when its recipients are ruled on, and whether it is refused likewise.
            await pipeline.settle()
            pipeline.chunks_in_doubt = False
        if chunk is None:
            if command.forwardable:  # or it is told already what was wrong with it
                self.notes.repaired(Violation.CHUNK_OF_NO_SIZE, said=command.line)
            await self._end()
        elif self._refusal:
            await self._refuse(chunk, self._refusal)
        elif pipeline.chunk_refusal:
            await self._refuse(chunk, receiver.last_words if receiver.gone else pipeline.chunk_refusal)
        elif not pipeline.capabilities.chunks:
            await pipeline.settle()
            if not receiver.gone:
                self.notes.withheld(command.word)
                pipeline.tally.answered(NOT_OFFERED.plain.code)
            await self._refuse(chunk, receiver.last_words if receiver.gone else NOT_OFFERED)
        elif self._is_too_much(chunk):
            await pipeline.settle()
            self.notes.repaired(Violation.OVERSIZE, chunk_octets=chunk.size_octets)
            if not receiver.gone:
                receiver.mail_data_open = True  # of the chunks before this one, it must make no mail
                receiver.drop()
            self._refusal = TOO_BIG
            await self._refuse(chunk, TOO_BIG)
        elif not pipeline.outstanding and not await receiver.in_step():
            await self._refuse(chunk, receiver.last_words)
        else:
            receiver.queue(command)
            if await pipeline.flush_chunk_command():
                receiver.mail_data_open = True
                pipeline.note_chunk(last=chunk.last)
                pipeline.chunks_in_doubt = not (chunk.size_octets or chunk.last)  # BDAT 0, which Exim refuses
                await self._pass_on(Intake.of_chunk(self.sender, self.policy, chunk.size_octets), last=chunk.last)
            else:
                await self._refuse(chunk, receiver.last_words)

    def _is_too_much(self, chunk: Chunk) -> bool:
        measure = self.pipeline.measure
        if not measure:
            return False
        measure.octets += chunk.size_octets
        return measure.exceeded

    async def _pass_on(self, intake: Intake, *, last: bool) -> None:
        pipeline = self.pipeline
        transfer = Transfer(pipeline, intake, self.policy)
        delivery = Delivery(self.sender, self.notes, self.policy, transfer, last)
        whole = await delivery.pass_on()
        if last or intake.octets_taken:
            pipeline.tally.passed(last=last)
        if whole:
            pipeline.await_verdict(delivery)
        else:
            pipeline.answer_earlier()
            verdicts = await delivery.verdicts_without_the_end()
            for verdict in verdicts:
                delivery.give(verdict)
            await self.sender.pour()
            pipeline.end_transaction()
            self._refusal = None if last else verdicts[0]
        if intake.outrun or not pipeline.goes_on:
            await pipeline.settle()
        if intake.outrun:
            await self._end_outrun()

    async def _refuse(self, chunk: Chunk, reply: Reply | Own) -> None:
        """Read and drop the chunk, and give its reply; the last reply of the session if that says so."""
        pipeline = self.pipeline
        receiver = pipeline.receiver
        ends = receiver.gone and not self._refusal
        intake = Intake.of_chunk(self.sender, self.policy, chunk.size_octets)
        if not await intake.drain():
            receiver.note_departure(self.sender.leg.ended)
            raise Over
        if self._refusal or pipeline.chunk_refusal or pipeline.chunks_open:
            self._count(chunk)
        if chunk.last and self._refusal:
            self._refusal = None
            pipeline.end_transaction()
        await self.sender.say(reply)
        if intake.outrun:
            await self._end_outrun()
        if ends:
            self.notes.ended("receiver")
            raise Over

    def _count(self, chunk: Chunk) -> None:
        """A chunk of a mail was dropped: it counts as one does that was passed on."""
        if chunk.last or chunk.size_octets:
            self.pipeline.tally.passed(last=chunk.last)
        self.notes.record.transactions += chunk.last

    async def _end_outrun(self) -> NoReturn:
        self.notes.repaired(Violation.OUTRUN)
        await self._end()

    async def _end(self) -> NoReturn:
        self.notes.ended("shim")
        await self.sender.say(SENT_TOO_SOON)
        raise Over
