"""What a transaction is about: mail data behind DATA, or chunks behind BDAT (RFC 3030).

Invariants:

1. A chunk is as long as its command says, whatever is in it: no octet of it is ever read as a command or an end.
2. Where the receiver has answered a chunk before it had all of it, the chunk is drained and gets that as its reply, and
   so does each later one until the last: one reply a chunk. Any other command finds the receiver gone.
3. After a refusal of a chunk none is forwarded until a new transaction can begin: RFC 3030 section 2 has the receiver
   discard them, but Exim 4.96 reads them as commands (guarantee 6). After a refusal of a command between two, the
   receiver is asked with an empty chunk whether it still takes them: Postfix and Dovecot do.
4. A refused chunk refuses all that follow: each gets that reply, whatever has become of the receiver. One that says
   2yz to any of them takes them for commands.
5. After the end of mail data nothing is forwarded before they have their reply. Haraka 3.3.4 offers PIPELINING and
   answers 503 to commands that come with the end; and with LMTP how many replies there are is known by counting.
6. A BDAT that does not say without a doubt how long its chunk is ends the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import attrs

from shimproxy.net.errors import DeadlinePassed
from shimproxy.session.delivery import Delivery, Over
from shimproxy.session.intake import Intake
from shimproxy.session.replies import NOT_OFFERED, SENT_TOO_SOON, TOO_BIG
from shimproxy.session.transfer import Transfer
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Command, Verb, chunk_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from shimproxy.session.notes import Notes
    from shimproxy.session.pipeline import Pipeline
    from shimproxy.session.policy import Policy
    from shimproxy.session.sender import Sender
    from shimproxy.smtp.command import Chunk
    from shimproxy.smtp.reply import Own, Reply


_EMPTY_CHUNK: Final = Command(Verb.BDAT, b"BDAT 0\r\n")


@attrs.define(eq=False)
class Content:
    """The mail data and chunks of one session, on their way."""

    sender: Sender
    pipeline: Pipeline
    notes: Notes
    policy: Policy

    def take_mail_data(self) -> Awaitable[None]:
        """Pass on mail data, and relay their reply.

        Raises Over, LegBroken, DeadlinePassed, Interrupted.
        """
        return self._pass_on(Intake.of_mail(self.sender, self.policy, self.pipeline.measure), last=True)

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
        if pipeline.refused_between_chunks:
            await self._ask_whether_chunks_are_taken()
        if chunk is None:
            if command.forwardable:  # or it is told already what was wrong with it
                self.notes.repaired(Violation.CHUNK_OF_NO_SIZE, said=command.line)
            await self._end()
        elif pipeline.chunk_refusal:
            await self._refuse(chunk, pipeline.chunk_refusal)
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
            pipeline.chunk_refusal = TOO_BIG
            await self._refuse(chunk, TOO_BIG)
        elif not pipeline.outstanding and not await receiver.in_step():
            await self._refuse(chunk, receiver.last_words)
        else:
            receiver.queue(command)
            if await self._flush_chunk_command():
                receiver.mail_data_open = True
                pipeline.note_chunk(last=chunk.last)
                pipeline.chunks_in_doubt = not (chunk.size_octets or chunk.last)  # BDAT 0, which Exim refuses
                await self._pass_on(Intake.of_chunk(self.sender, self.policy, chunk.size_octets), last=chunk.last)
            else:
                await self._refuse(chunk, receiver.last_words)

    async def _flush_chunk_command(self) -> bool:
        """Write BDAT and what was queued before it; whether the receiver took it. Raises Interrupted."""
        pipeline, receiver = self.pipeline, self.pipeline.receiver
        if receiver.flush_now():
            return True
        receiver.leg.watch.allow(self.policy.deadlines.reply, Verb.BDAT)
        try:
            await pipeline.flush_slowly(not_entered=1)
        except DeadlinePassed:
            self.notes.repaired(Violation.NO_REPLY, to=str(Verb.BDAT))
            receiver.give_up()
        if not (pipeline.outstanding or receiver.gone) and (reply := receiver.reply_at_hand()):
            receiver.give_up_in_disorder(Violation.EXTRA_REPLY, reply)
        if receiver.gone:
            pipeline.answer_earlier()
        return not receiver.gone

    async def _ask_whether_chunks_are_taken(self) -> None:
        """The receiver has refused a command between two chunks: see whether it has refused the mail by that.

        Raises Interrupted.
        """
        pipeline, receiver = self.pipeline, self.pipeline.receiver
        refusal, pipeline.refused_between_chunks = pipeline.refused_between_chunks, None
        try:
            reply = await receiver.ask(_EMPTY_CHUNK)
        except DeadlinePassed:
            self.notes.repaired(Violation.NO_REPLY, to=str(Verb.BDAT))
            receiver.give_up()
            reply = None
        if reply is None or reply.kind != 2:
            pipeline.chunk_refusal = pipeline.chunk_refusal or refusal

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
            pipeline.chunk_refusal = None if last else verdicts[0]
        # With TLS, or a Unix socket, it can't be told which chunk it is of which octets are under way.
        leg = pipeline.receiver.leg
        if last or intake.outrun or not pipeline.goes_on or leg.secured or not leg.resettable:
            await pipeline.settle()
        if intake.outrun:
            await self._end_outrun()

    async def _refuse(self, chunk: Chunk, reply: Reply | Own) -> None:
        """Read and drop the chunk, and give its reply; the last reply of the session if that says so."""
        pipeline = self.pipeline
        receiver = pipeline.receiver
        ends = receiver.gone and not pipeline.chunk_refusal
        intake = Intake.of_chunk(self.sender, self.policy, chunk.size_octets)
        if not await intake.drain():
            receiver.note_departure(self.sender.leg.ended)
            raise Over
        if pipeline.chunk_refusal or pipeline.chunks_open:
            self._count(chunk)
        pipeline.mail_refused = True
        if chunk.last and receiver.gone:
            pipeline.reset()
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
