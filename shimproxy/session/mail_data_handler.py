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

from shimproxy.net.errors import DeadlinePassed, Interrupted
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.forwarder import COMPLETE, SENDER_GONE, STOPPED, Forwarder
from shimproxy.session.in_step import ask_receiver, is_in_step
from shimproxy.session.mail_data_reader import MailDataReader, MinRateTimer
from shimproxy.session.mail_data_reply import MailDataReply
from shimproxy.session.phase import SessionPhase
from shimproxy.session.receiver_parting import note_departure
from shimproxy.session.replies import NOT_OFFERED, SENDER_LATE, SENT_TOO_SOON, SHUTTING_DOWN, TOO_BIG
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Command, Verb, chunk_of
from shimproxy.smtp.newlines import Newlines

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from shimproxy.session.pending import PendingReplies
    from shimproxy.session.policy import Policy
    from shimproxy.session.reply_waits import ReplyWaits
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.command import Chunk
    from shimproxy.smtp.reply import LocalReply, Reply


# Names of the module: from the class they take ten times as long, in Python 3.11.
_MAIL_DATA: Final = SessionPhase.MAIL_DATA
_END_OF_MAIL_DATA: Final = SessionPhase.END_OF_MAIL_DATA
_EMPTY_CHUNK: Final = Command(Verb.BDAT, b"BDAT 0\r\n")


@attrs.define(eq=False)
class MailDataHandler:
    """The mail data and chunks of one session, on their way."""

    sender: Sender
    pending: PendingReplies
    waits: ReplyWaits
    events: SessionEvents
    policy: Policy
    _forwarder: Forwarder | None = None
    """Once there are mail data: a session that sends none is idle for long, most often."""
    _timer: MinRateTimer | None = None
    """How long the sender may still take for its mail data, once there are any."""

    def _time_left(self) -> MinRateTimer:
        policy = self.policy
        timer = self._timer = self._timer or MinRateTimer(
            self.sender.leg.watch, policy.deadlines.sender_block, policy.limits.least_octets_per_second
        )
        return timer

    def take_mail_data(self) -> Awaitable[None]:
        """Pass on mail data, and relay their reply.

        Raises SessionEnded, LegBroken, DeadlinePassed, Interrupted.
        """
        return self.carry(self.reader_of_mail())

    def reader_of_mail(self) -> MailDataReader:
        """The reader of mail data that come now."""
        return MailDataReader.of_mail(self.sender, self.policy, self._time_left(), self.pending.transaction.size)

    # -- of mail data that were begun in a plain turn (plain_turns.py)

    @property
    def may_be_plain(self) -> bool:
        """Whether mail data that are whole and canonical are forwarded as they are, and have one reply."""
        policy = self.policy
        return (
            policy.newlines is not Newlines.PASS
            and not (policy.lf_only_devices or policy.lmtp)
            and self.pending.receiver.leg.resettable
        )

    def owed(self, size_octets: int) -> MailDataReply:
        """What is owed to mail data of that many octets which were forwarded to their end."""
        reader = self.reader_of_mail()
        reader.octets_taken, reader.ended = size_octets, True
        owed = MailDataReply(self.sender, self.events, self.policy, self.pending, reader)
        owed.octets_forwarded, owed.octets_out_at_end = size_octets, self.pending.receiver.leg.octets_out
        return owed

    # -- chunks

    async def take_chunk(self, command: Command) -> None:
        """Forward BDAT and its chunk, or drain and refuse it.

        Raises SessionEnded, LegBroken, DeadlinePassed, Interrupted.
        """
        chunk = chunk_of(command.line) if command.forwardable else None
        pending = self.pending
        receiver, transaction = pending.receiver, pending.transaction
        self.events.phase = command.verb
        if chunk is None or pending.transaction.size or transaction.chunks_in_doubt or transaction.chunk_refusal:
            # What a mail may measure is known when its recipients are ruled on, and whether it is refused likewise.
            await self.waits.settle()
            transaction.chunks_in_doubt = False
        if transaction.refused_between_chunks:
            await self._ask_whether_chunks_are_taken()
        if chunk is None:
            if command.forwardable:  # or it is told already what was wrong with it
                self.events.repaired(Violation.CHUNK_OF_NO_SIZE, said=command.line)
            raise SessionEnded(Closing.BY_SHIM, SENT_TOO_SOON)
        if transaction.chunk_refusal:
            await self._refuse(chunk, transaction.chunk_refusal)
        elif not pending.capabilities.chunks:
            await self.waits.settle()
            if not receiver.gone:
                self.events.withheld(command.word)
                pending.quota.answered(NOT_OFFERED.plain.code)
            await self._refuse(chunk, receiver.last_words if receiver.gone else NOT_OFFERED)
        elif self._is_too_much(chunk):
            await self.waits.settle()
            self.events.repaired(Violation.OVERSIZE, chunk_octets=chunk.size_octets)
            if not receiver.gone:
                receiver.drop()
            transaction.chunk_refusal = TOO_BIG
            await self._refuse(chunk, TOO_BIG)
        elif not pending.outstanding and not await is_in_step(receiver):
            await self._refuse(chunk, receiver.last_words)
        else:
            receiver.queue(command)
            if await self._flush_chunk_command():
                receiver.data.begin_chunk()
                transaction.forward_chunk(last=chunk.last, outstanding=len(pending.outstanding))
                transaction.chunks_in_doubt = not (chunk.size_octets or chunk.last)  # BDAT 0, which Exim refuses
                await self.carry(self._reader_of(chunk), last=chunk.last)
            else:
                await self._refuse(chunk, receiver.last_words)

    def _reader_of(self, chunk: Chunk) -> MailDataReader:
        return MailDataReader.of_chunk(self.sender, self.policy, self._time_left(), chunk.size_octets)

    async def _flush_chunk_command(self) -> bool:
        """Write BDAT and what was queued before it; whether the receiver took it. Raises Interrupted."""
        pending, receiver = self.pending, self.pending.receiver
        if receiver.commands.flush_now():
            return True
        receiver.leg.watch.allow(self.policy.deadlines.reply, Verb.BDAT)
        try:
            await self.waits.flush_slowly(not_entered=1)
        except DeadlinePassed:
            self.events.repaired(Violation.NO_REPLY, to=str(Verb.BDAT))
            receiver.give_up()
        if not (pending.outstanding or receiver.gone) and (reply := receiver.reply_at_hand()):
            receiver.give_up_in_disorder(Violation.EXTRA_REPLY, reply)
        if receiver.gone:
            pending.answer_earlier()
        return not receiver.gone

    async def _ask_whether_chunks_are_taken(self) -> None:
        """The receiver has refused a command between two chunks: see whether it has refused the mail by that.

        Raises Interrupted.
        """
        receiver, transaction = self.pending.receiver, self.pending.transaction
        refusal, transaction.refused_between_chunks = transaction.refused_between_chunks, None
        try:
            reply = await ask_receiver(receiver, _EMPTY_CHUNK)
        except DeadlinePassed:
            self.events.repaired(Violation.NO_REPLY, to=str(Verb.BDAT))
            receiver.give_up()
            reply = None
        if reply is None or reply.kind != 2:
            transaction.chunk_refusal = transaction.chunk_refusal or refusal

    def _is_too_much(self, chunk: Chunk) -> bool:
        size = self.pending.transaction.size
        if not size:
            return False
        size.octets += chunk.size_octets
        return size.exceeded

    async def carry(self, reader: MailDataReader, *, last: bool = True) -> None:
        """Forward mail data or a chunk to the end, and relay their reply (RFC 5321 4.1.1.4, RFC 3030).

        What the receiver is not to have, or does not take, is read and dropped up to the end. Raises SessionEnded,
        LegBroken, DeadlinePassed, Interrupted.
        """
        events, pending = self.events, self.pending
        forwarder = self._forwarder = self._forwarder or Forwarder(pending.receiver, pending, self.policy)
        owed = MailDataReply(self.sender, events, self.policy, pending, reader, last)
        events.phase = _MAIL_DATA
        try:
            result = await forwarder.forward(owed)
            if result is STOPPED:
                forwarder.give_up_receiver(owed)
                if owed.answer_at_once():
                    await self.sender.pour()
                events.phase = SessionPhase.DRAINING
                events.record.drains += 1
                if not await reader.drain():
                    result = SENDER_GONE
        except DeadlinePassed as late:
            events.repaired(Violation.SENDER_STALLED, waited_for=late.what)
            owed.end_in_mail_data(SENDER_LATE)
        except Interrupted:
            owed.end_in_mail_data(SHUTTING_DOWN)
        finally:
            owed.tell_what_was_repaired()
        if result is SENDER_GONE:
            owed.end_without_sender()
        events.heard_mail_data(reader.octets_taken)
        if last or reader.octets_taken:
            pending.quota.passed(last=last)
        if result is COMPLETE:
            if events.tracer:
                events.tracer.has_given_the_end()
            pending.receiver.data.end()
            events.phase = _END_OF_MAIL_DATA
            pending.await_verdict(owed)
        else:
            pending.answer_earlier()
            await owed.answer_without_the_end()
            await self.sender.pour()
        # With TLS, or a Unix socket, it can't be told which chunk it is of which octets are under way.
        leg = pending.receiver.leg
        if last or reader.outrun or not pending.goes_on or leg.secured or not leg.resettable:
            await self.waits.settle()
        if reader.outrun:
            self._end_outrun()

    async def _refuse(self, chunk: Chunk, reply: Reply | LocalReply) -> None:
        """Read and drop the chunk, and give its reply; the last reply of the session if that says so."""
        receiver, transaction = self.pending.receiver, self.pending.transaction
        ends = receiver.gone and not transaction.chunk_refusal
        reader = self._reader_of(chunk)
        if mails := self.events.mails:
            mails.one_for_all = True
        if not await reader.drain():
            note_departure(receiver, self.sender.leg.ended)
            raise SessionEnded(Closing.BY_SENDER)
        if transaction.chunk_refusal or transaction.chunks_open or ends:
            self._count(chunk)
        transaction.mail_refused = True
        if chunk.last and receiver.gone:
            transaction.reset()
        await self.sender.say(reply)
        if reader.outrun:
            self._end_outrun()
        if ends:
            raise SessionEnded(Closing.BY_RECEIVER)

    def _count(self, chunk: Chunk) -> None:
        """A chunk of a mail was dropped: it counts as one does that was passed on."""
        if chunk.last or chunk.size_octets:
            self.pending.quota.passed(last=chunk.last)
        self.events.record.transactions += chunk.last

    def _end_outrun(self) -> NoReturn:
        self.events.repaired(Violation.OUTRUN)
        raise SessionEnded(Closing.BY_SHIM, SENT_TOO_SOON)
