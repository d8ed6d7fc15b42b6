"""Plain turns: the sender gives one plain command, the receiver one plain reply that accepts it, and each waits.

It is the way of nearly every mail, in one coroutine and with nothing looked up twice. Whatever is not plain is left to
the handlers (commands.py) as they would have found it: a command or a reply of another form, a refusal, more than one
of either, a receiver that speaks unasked, a peer that disconnects, is late, or takes no octets.

Invariants:

1. What it says, forwards, counts and tells is what the handlers would.
2. Whenever it waits, what is outstanding is where the handlers, and whatever ends the session, look for it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.block import BLOCK_START
from shimproxy.net.driver import READABLE
from shimproxy.net.errors import DeadlinePassed, Interrupted, LegBroken
from shimproxy.net.unsent import UNBOUND_OCTETS
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.mail_data_reader import END_OCTETS
from shimproxy.session.phase import SessionPhase
from shimproxy.session.receiver import ANSWERS
from shimproxy.session.trace import Kind
from shimproxy.smtp.command import DATA, GROUPED, Verb, lone_command
from shimproxy.smtp.mail_data import END_OF_DATA
from shimproxy.smtp.reply import lone_reply
from shimproxy.smtp.stray import has_stray

if TYPE_CHECKING:
    from shimproxy.session.command_stream import CommandStream
    from shimproxy.session.mail_data_handler import MailDataHandler
    from shimproxy.session.mail_data_reader import MailDataReader
    from shimproxy.session.mail_data_reply import MailDataReply
    from shimproxy.session.pending import PendingReplies
    from shimproxy.smtp.command import Command

# Names of the module: from the class they take ten times as long, in Python 3.11.
_MAIL: Final = Verb.MAIL
_RCPT: Final = Verb.RCPT
_RSET: Final = Verb.RSET
_QUIT: Final = Verb.QUIT
_MAIL_DATA: Final = SessionPhase.MAIL_DATA
_END_OF_MAIL_DATA: Final = SessionPhase.END_OF_MAIL_DATA
_BETWEEN_MAILS: Final = SessionPhase.BETWEEN_MAILS
_EMPTY: Final = b".\r\n"
"""Mail data that end at once: the line end before the dot was that of DATA."""
_ANSWERS_MAIL_DATA: Final = "answers the end of mail data"
_ACCEPTS: Final = {_MAIL: 2, _RCPT: 2, _RSET: 2, Verb.NOOP: 2, DATA: 354, _QUIT: 221}
"""Verb of a plain command -> the kind of the reply that accepts it."""


@attrs.define(eq=False)
class PlainTurns:
    """The plain turns of one session."""

    pending: PendingReplies
    stream: CommandStream
    mail_data: MailDataHandler

    @property
    def may_come(self) -> bool:
        """Whether nothing is on its way or in doubt that a plain turn knows nothing of."""
        pending = self.pending
        sender, receiver, transaction, policy = pending.sender, pending.receiver, pending.transaction, pending.policy
        return not (
            pending.outstanding
            or sender.commands.ahead
            or receiver.gone
            or receiver.unasked
            or receiver.commands.unwritten
            or pending.replacement
            or policy.tidy
            or policy.resume
            or transaction.size
            or transaction.chunks_open
            or transaction.chunk_refusal
            or pending.events.secret
            or sender.told_421
            or sender.unsaid_octets
            or sender.leg.ended
            or sender.leg.secured
            or receiver.leg.ended
            or receiver.leg.secured
        ) and (sender.commands.empty and receiver.replies.empty)

    async def serve(self) -> Command | MailDataReader | MailDataReply | None:
        """Serve plain commands until something is not plain.

        Returns what the handlers are to go on with: a command that was forwarded and not answered, mail
        data on their way, or what stands for them among what is outstanding; None where the sender's next command is
        to be read. Raises SessionEnded, LegBroken, DeadlinePassed, Interrupted.
        """
        # Each of these costs an idle session eight octets.
        pending, stream = self.pending, self.stream
        sender, receiver, events, quota = pending.sender, pending.receiver, pending.events, pending.quota
        sender_leg, receiver_leg = sender.leg, receiver.leg
        deadlines, mails, times, telling = pending.policy.deadlines, events.mails, events.reply_times, events.telling
        watch, wait = sender_leg.watch, sender_leg.watch.wait
        while True:
            # -- the sender's command
            now = watch.now
            if now > stream.ends_at:
                return None
            stream.at_rest = True
            watch.deadline, watch.doing = now + deadlines.command, "a command"
            if sender_leg.readable or receiver_leg.readable:
                return None  # one of them has not waited for its turn
            sender_leg.wanted = receiver_leg.wanted = READABLE
            await wait()
            sender_leg.wanted = receiver_leg.wanted = 0
            if receiver_leg.readable or not (octets := sender_leg.look()):
                return None
            command = lone_command(octets)
            if (
                command is None
                or command.verb not in _ACCEPTS
                or len(octets) > sender.commands.limit_octets
                or quota.commands_left <= 0
            ):
                sender.commands.feed(octets)
                return None
            stream.at_rest = False
            verb = events.phase = command.verb
            if telling:
                events.turn_begins(octets)
            if mails is not None:
                if verb is _RCPT or verb is DATA:
                    mails.said.append(command)
                else:
                    mails.heard(command)
            quota.commands_left -= 1
            # -- its way to the receiver
            if times is not None:
                times.begin()
            watch.deadline, watch.doing = watch.now + (deadlines.data_reply if verb is DATA else deadlines.reply), verb
            pending.outstanding.append(verb)
            receiver.is_asked(command)
            try:
                taken_octets = receiver_leg.send_now(octets)
            except LegBroken:
                return command
            if taken_octets < len(octets):
                receiver.commands.unwritten = octets[taken_octets:]
                return command
            # -- the receiver's reply
            goes_on = verb in GROUPED and pending.goes_on
            while (answer := receiver_leg.look() if receiver_leg.readable else None) is None:
                receiver_leg.wanted = READABLE
                if goes_on:
                    if sender_leg.readable:
                        return command  # it has not waited for the reply, or has disconnected
                    sender_leg.wanted = READABLE
                try:
                    await wait()
                except DeadlinePassed:
                    await stream.waits.give_up_late()
                    return receiver.asked
                sender_leg.wanted = receiver_leg.wanted = 0
            reply = lone_reply(answer)
            if reply is None or reply.kind != _ACCEPTS[verb] or (sender_leg.readable and verb is DATA):
                receiver.replies.feed(answer)
                return command
            # -- its way to the sender
            receiver.is_answered(reply)
            if telling:
                events.turn_ends(answer, ANSWERS[verb])
            if times is not None:
                times.note_reply(verb)
            del pending.outstanding[0]
            if verb is _RCPT:
                receiver.transaction.answer_recipient(accepted=True)
                if mails is not None and mails.counts:
                    mails.recipient_answered(reply)
            elif verb is DATA:
                pending.behind_data_octets = 0
                receiver.data.begin()
            elif verb is _MAIL or verb is _RSET:
                pending.begin_anew(verb, reply)
            if not sender.relay_now(reply):
                await sender.pour()
            if verb is DATA:
                left = await self._take_mail_data()
                if left is not None:
                    return left
            elif verb is _QUIT:
                raise SessionEnded(Closing.BY_SENDER)

    async def _take_mail_data(self) -> MailDataReader | MailDataReply | None:
        """Pass on mail data that come whole, and relay the reply that accepts them; see `serve`."""
        pending, handler = self.pending, self.mail_data
        sender, events, deadlines = pending.sender, pending.events, pending.policy.deadlines
        receiver, sender_leg, receiver_leg = pending.receiver, sender.leg, pending.receiver.leg
        watch, block = sender_leg.watch, sender_leg.driver.block
        events.phase = _MAIL_DATA
        # -- from the sender
        since = watch.now
        watch.deadline, watch.doing = since + deadlines.sender_block, "mail data"
        try:
            await sender_leg.speaks_or(receiver_leg)
        except (DeadlinePassed, Interrupted) as failed:
            return handler.reader_of_mail().begin_with(since, None, failed=failed)
        size_octets = sender_leg.read_block_now() if sender_leg.readable else None
        stop = BLOCK_START + size_octets if size_octets else BLOCK_START
        buffer = block.buffer
        if (
            not buffer.endswith(END_OF_DATA, BLOCK_START, stop)
            or buffer.find(END_OF_DATA, BLOCK_START, stop) < stop - len(END_OF_DATA)
            or buffer.startswith(_EMPTY, BLOCK_START)
            or not handler.may_be_plain
            or stop - BLOCK_START > UNBOUND_OCTETS
            or has_stray(buffer, BLOCK_START, stop)
        ):
            return handler.reader_of_mail().begin_with(since, size_octets)
        if events.tracer:
            events.tracer.takes(Kind.MAIL_DATA, block.view[BLOCK_START:stop], ended=True)
        # -- to the receiver
        if spoke := receiver_leg.look():
            receiver.replies.feed(spoke)
        taken_octets = 0
        if spoke is None:
            with suppress(LegBroken):
                taken_octets = receiver_leg.send_now(block.view[BLOCK_START:stop])
        if taken_octets < stop - BLOCK_START:
            return handler.reader_of_mail().begin_with(since, size_octets, taken_octets, is_traced=True)
        if events.tracer:
            events.tracer.has_given_the_end()
        if (mails := events.mails) is not None:
            mails.took(taken_octets - END_OCTETS)
        if events.telling:
            events.heard_mail_data(taken_octets)
        pending.quota.passed(last=True)
        receiver.data.end()
        events.phase = _END_OF_MAIL_DATA
        # -- the receiver's reply
        if (times := events.reply_times) is not None:
            times.begin()
        watch.deadline, watch.doing = watch.now + deadlines.end_of_data_reply, "the end of mail data"
        try:
            while (answer := receiver_leg.look() if receiver_leg.readable else None) is None:
                receiver_leg.wanted = READABLE
                await watch.wait()
        except BaseException as error:
            owed = handler.owed(taken_octets)
            pending.outstanding.append(owed)
            if not isinstance(error, DeadlinePassed):
                raise
            await self.stream.waits.give_up_late()
            return owed
        reply = lone_reply(answer)
        if reply is None or reply.kind != 2 or receiver_leg.unacknowledged_octets:
            owed = handler.owed(taken_octets)
            pending.outstanding.append(owed)
            receiver.replies.feed(answer)
            return owed
        # -- its way to the sender
        receiver.is_answered(reply)
        if events.telling:
            events.turn_ends(answer, _ANSWERS_MAIL_DATA)
        if times is not None:
            times.note_reply(None)
        events.record.transactions += 1
        events.record.accepted += 1
        events.phase = _BETWEEN_MAILS
        pending.transaction.end()
        watch.renew()
        if not sender.relay_verdict_now(reply):
            await sender.pour()
        return None
