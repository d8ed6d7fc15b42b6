"""One session: a sender and a receiver, one command and one reply at a time.

It reads as RFC 5321 4.3 does: greeting, then command, reply, command, reply, with mail data (delivery.py) where a
354 has said so. One task serves both legs; a sender that was offered PIPELINING goes on before it has the replies
(pipeline.py).

Invariants:

1. The sender gets the greeting and then one reply for each command, never before it (guarantee 1).
2. Before a command is forwarded that is the only one, the receiver is looked at: what lies there answers nothing.
3. Once the receiver is given up, the sender's QUIT gets 221 and anything else 421.
4. `run` ends with both legs closed, whatever happened, and raises nothing that the peers can cause.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, assert_never

import attrs
import trio

from shimproxy.net.errors import DeadlinePassed, DialFailed, Interrupted, LegBroken
from shimproxy.net.leg import Ended
from shimproxy.session.delivery import Delivery, Over
from shimproxy.session.farewell import see_off
from shimproxy.session.intake import Intake
from shimproxy.session.notes import AFTER_421, FIRST_COMMAND
from shimproxy.session.pipeline import GROUPED, Pipeline
from shimproxy.session.receiver import Receiver
from shimproxy.session.replies import (
    BAD_LINE,
    BYE,
    NO_CONNECTION,
    NO_SERVICE,
    NOT_OFFERED,
    SENDER_LATE,
    SENT_TOO_SOON,
    SHUTTING_DOWN,
)
from shimproxy.session.transfer import Transfer
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Command, Verb, chunk_size_octets
from shimproxy.smtp.dialogue import OUT_OF_STEP, Answers, Then, ruling
from shimproxy.smtp.reply import ReplyReader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.net.leg import Leg
    from shimproxy.net.watch import Watch
    from shimproxy.session.farewell import Beside
    from shimproxy.session.notes import Notes
    from shimproxy.session.policy import Policy
    from shimproxy.session.sender import Sender
    from shimproxy.smtp.reply import Own, Reply

_VERBS_WITH_DATA = frozenset({Verb.DATA, Verb.BDAT})  # what lies behind these may be no command
_VERBS_OF_SECRETS = frozenset({Verb.AUTH, Verb.OTHER})  # what follows these may be a password


@attrs.define(eq=False)
class Session:
    """The dialogue of a sender with the receiver that is dialled for it."""

    sender: Sender
    notes: Notes
    policy: Policy
    dial: Callable[[Watch, float], Awaitable[Leg]]
    beside: Beside
    receiver: Receiver | None = None
    _watch: Watch = attrs.field(init=False)
    """What both legs wait under, until the receiver is given up."""
    _pipeline: Pipeline | None = None
    _at_rest: bool = True
    """Whether no command is being served."""
    _stopping: bool = False
    _pipelining_noted: bool = False
    _mail_data_may_come: bool = False
    """Whether the sender may have sent mail data behind a DATA that was refused."""

    def __attrs_post_init__(self) -> None:
        self._watch = self.sender.leg.watch

    # -- the whole

    async def run(self) -> None:
        """Serve the sender to the end; afterwards both legs are closed and the record is complete."""
        notes = self.notes
        started = trio.current_time()
        try:
            await self._converse_and_part()
        except Exception as error:  # a bug of ours must not take the listener down
            notes.observer.failed(notes.record, error)
        finally:
            notes.ended("shim")
            self._close()
            notes.record.seconds = trio.current_time() - started
            notes.record.ended_at = time.time()
            notes.observer.ended(notes.record)

    async def _converse_and_part(self) -> None:
        try:
            await self._converse()
        except Over:
            pass
        except LegBroken:
            self._note_departure()
        except DeadlinePassed as late:
            if self.notes.phase == AFTER_421:
                self.notes.ended("receiver")
            else:
                self.notes.repaired(Violation.SENDER_STALLED, waited_for=late.what)
                await self._break_off(SENDER_LATE)
        except Interrupted:
            await self._break_off(SHUTTING_DOWN)
        await self._part()

    async def _break_off(self, reply: Own) -> None:
        """Give the last reply to a sender that may not take it."""
        with suppress(LegBroken, DeadlinePassed, Interrupted, Over):
            if self._pipeline and not self._pipeline.empty:
                await self._pipeline.answer_the_rest(reply, "shim")
            await self._end_with("shim", reply)

    async def _end_with(self, who: str, reply: Reply | Own) -> NoReturn:
        """Give the last reply of a session that `who` has ended. Raises Over."""
        self.notes.ended(who)
        await self.sender.say(reply)
        raise Over

    def _note_departure(self) -> None:
        """The sender has gone, before its mail data or without a QUIT."""
        receiver, notes = self.receiver, self.notes
        if receiver and not receiver.gone and notes.phase not in (Verb.QUIT, AFTER_421):
            if receiver.mail_data_open:
                notes.repaired(Violation.VANISHED_IN_DATA, octets=0)
            else:
                notes.repaired(Violation.CLOSED_WITHOUT_QUIT)
        notes.ended("sender")

    async def _part(self) -> None:
        """Close both legs politely, as far as the peers let it."""
        sender, receiver = self.sender.leg, self.receiver
        sender.half_close()
        if sender.readable:  # what it still sends must not wait for the receiver's leave
            await see_off(sender, self.policy.deadlines, self.notes)
        if receiver:
            await receiver.part()
        await see_off(sender, self.policy.deadlines, self.notes)
        if receiver and receiver.farewell:
            await receiver.farewell.over()

    def _close(self) -> None:
        """Reset what is not closed yet, and count."""
        sender, receiver = self.sender.leg, self.receiver
        sender.reset()
        if receiver and not receiver.farewell:
            receiver.leg.reset()
        self._watch.close()
        self.notes.record.count_octets(sender, receiver.leg if receiver else None)

    def stop_when_idle(self) -> None:
        """End the session with a 421 as soon as no transaction is open."""
        self._stopping = True
        pipeline = self._pipeline
        if self._at_rest and not (pipeline and (pipeline.in_transaction or not pipeline.empty)):
            self._watch.interrupt()

    def stop_now(self) -> None:
        """End the session with a 421 wherever it is; mail data in progress are not accepted."""
        self._watch.interrupt()
        if self.receiver and self.receiver.farewell:
            self.receiver.farewell.hurry()

    async def _converse(self) -> None:
        pipeline = await self._greet()
        notes, receiver = self.notes, pipeline.receiver
        while True:
            if self._stopping and pipeline.empty and not pipeline.in_transaction:
                raise Interrupted
            self._at_rest = True
            command = await self._next_command(pipeline)
            self._at_rest = False
            if notes.telling or notes.secret or command.violation or command.verb in _VERBS_OF_SECRETS:
                notes.heard(command)
            if command.plain and (not pipeline.empty or receiver.quiet or await receiver.in_step()):
                await self._forward(pipeline, command)
            else:
                await self._serve(pipeline, command)

    # -- greeting

    async def _greet(self) -> Pipeline:
        """Connect and relay the greeting. Raises Over if there is none."""
        sender, notes, deadlines = self.sender, self.notes, self.policy.deadlines
        try:
            leg = await self.dial(self._watch, deadlines.connect)
        except DialFailed as failed:
            notes.repaired(Violation.UNREACHABLE, reason=str(failed))
            await self._end_with("receiver", NO_CONNECTION)
        notes.record.receiver = leg.peer
        replies = ReplyReader(self.policy.limits.reply_octets)
        receiver = self.receiver = Receiver(leg, replies, notes, deadlines, self.beside)
        self._watch.allow(deadlines.greeting, "the greeting")
        waited_for = ""
        try:
            reply = await receiver.next_reply()
        except DeadlinePassed as late:
            reply = None
            waited_for = late.what
        if reply is None or ruling(Answers.GREETING, reply) is OUT_OF_STEP:
            said = reply.octets if reply else b""
            notes.repaired(Violation.NO_GREETING, said=said, waited_for=waited_for)
            receiver.give_up()
            await self._end_with("receiver", NO_SERVICE)
        if sender.leg.readable and (octets := sender.leg.look()):
            notes.repaired(Violation.EARLY_TALK, octets=len(octets))
            sender.commands.feed(octets)
        notes.phase = FIRST_COMMAND
        receiver.answered_all()
        await sender.say(reply)
        self._pipeline = Pipeline(sender, receiver, notes, self.policy)
        return self._pipeline

    # -- commands

    async def _next_command(self, pipeline: Pipeline) -> Command:
        """The sender's next command. Raises Over if one of the peers has ended the session between commands."""
        leg, commands, watch = self.sender.leg, self.sender.commands, self._watch
        command = commands.next_command() if commands.ahead else None
        if pipeline.empty:
            self._allow_a_command()
        if command is not None and watch.stretched():
            await pipeline.pause()
        if command is None and pipeline.empty:
            self._look_behind_the_reply(pipeline.receiver)
        while command is None:
            if pipeline.empty:
                await self._wait_at_rest(pipeline.receiver)
            else:
                await pipeline.listen()
                if pipeline.empty:
                    if self._stopping and not pipeline.in_transaction:
                        raise Interrupted
                    self._allow_a_command()
                    self._look_behind_the_reply(pipeline.receiver)
            if not leg.readable:
                continue
            octets = leg.look()
            if octets is None:
                continue
            if not octets:
                if leg.ended is Ended.FIN:
                    await pipeline.settle()  # it may have closed its direction only
                self._note_departure()
                raise Over
            commands.feed(octets)
            command = commands.next_command()
        verb = command.verb
        if commands.ahead and verb not in _VERBS_WITH_DATA and not (pipeline.offered and verb in GROUPED):
            self._note_pipelining(verb, len(commands.ahead))
        if self._mail_data_may_come:
            self._mail_data_may_come = False
            if not command.known:
                await self._end_at_mail_data(len(command.line))
        return command

    def _allow_a_command(self) -> None:
        """The sender is to speak next."""
        deadlines = self.policy.deadlines
        # Behind a 421 there may come a QUIT, and that soon.
        seconds = deadlines.linger_idle if self.notes.phase == AFTER_421 else deadlines.command
        self._watch.allow(seconds, "a command")

    @staticmethod
    def _look_behind_the_reply(receiver: Receiver) -> None:
        """Drop what came with the last reply."""
        if not (receiver.replies.empty or receiver.gone):
            receiver.look()

    async def _wait_at_rest(self, receiver: Receiver) -> None:
        """Wait for a sender that owes no reply to anything, or for its receiver to go meanwhile."""
        leg = self.sender.leg
        if receiver.gone:
            await leg.wait_to_read()
            return
        await leg.speaks_or(receiver.leg)
        if receiver.leg.readable and not leg.readable:
            receiver.look()
            if receiver.gone and self.notes.phase == AFTER_421:
                self.notes.ended("receiver")  # it has said 421 and gone: so does the shim
                raise Over

    def _note_pipelining(self, behind: Verb, octets: int) -> None:
        """Count it once a session."""
        if not self._pipelining_noted:
            self._pipelining_noted = True
            self.notes.repaired(Violation.UNOFFERED_PIPELINING, behind=behind, octets=octets)

    async def _after_refused_data(self, octets_behind: int) -> None:
        """See to it that no mail data are taken for commands, once the sender has the refusal of its DATA."""
        if octets_behind:
            await self._end_at_mail_data(octets_behind)
        # They may still be under way: the next command will tell.
        self._mail_data_may_come = True

    async def _end_at_mail_data(self, octets: int) -> NoReturn:
        self.notes.repaired(Violation.DATA_WITHOUT_354, octets=octets)
        await self._end_with("shim", SENT_TOO_SOON)

    async def _serve(self, pipeline: Pipeline, command: Command) -> None:
        """Answer a command that cannot simply be forwarded."""
        await pipeline.settle()
        receiver = pipeline.receiver
        if command.verb is Verb.BDAT:
            await self._drain_chunk(command)
        if receiver.gone:
            await self._answer_alone(receiver, command.verb)
        elif command.forwardable and not command.refused:
            if not await receiver.in_step():
                await self._answer_alone(receiver, command.verb)
            await self._forward(pipeline, command)
        else:
            if command.verb is Verb.DATA:
                pipeline.look_behind_data()
            await self.sender.say(NOT_OFFERED if command.refused else BAD_LINE)
            if command.verb is Verb.DATA:
                await self._after_refused_data(pipeline.behind_data_octets)

    async def _answer_alone(self, receiver: Receiver, verb: Verb) -> NoReturn:
        """Give the last reply of a session that has no receiver any more."""
        self.notes.phase = verb
        if verb is Verb.QUIT:
            await self._end_with("sender", BYE)
        await self._end_with("receiver", receiver.last_words)

    async def _drain_chunk(self, command: Command) -> None:
        """Read and drop the chunk behind a BDAT that is refused: its octets are no commands (guarantee 6)."""
        size_octets = chunk_size_octets(command)
        if size_octets is None:
            await self._end_with("shim", SENT_TOO_SOON)
        if size_octets:
            chunk = Intake.of_chunk(self.sender, self.policy, size_octets)
            if not await chunk.drain():
                self._note_departure()
                raise Over
            if chunk.outrun:
                self.notes.repaired(Violation.OUTRUN)
                await self._end_with("shim", SENT_TOO_SOON)

    async def _forward(self, pipeline: Pipeline, command: Command) -> None:
        """Forward a command, and relay its reply and do what follows from that, unless the sender need not wait."""
        pipeline.queue(command)
        if command.verb in GROUPED and pipeline.goes_on:
            return
        then = await pipeline.settle()
        if command.verb is Verb.DATA:
            if pipeline.behind_data_octets:
                self._note_pipelining(Verb.DATA, pipeline.behind_data_octets)
            if then is not Then.MAIL_DATA:
                await self._after_refused_data(pipeline.behind_data_octets)
        while then is Then.AUTH_RESPONSE:
            pipeline.queue(await self._auth_response(pipeline.receiver))
            then = await pipeline.settle()
        match then:
            case Then.COMMANDS:
                pass
            case Then.MAIL_DATA:
                await self._take_mail(pipeline)
            case Then.CLOSE:
                self.notes.ended("sender")
                raise Over
            case Then.DRAIN:
                raise AssertionError("no command's reply is followed by draining")
            case _:
                assert_never(then)

    async def _take_mail(self, pipeline: Pipeline) -> None:
        """Pass on mail data, and relay their reply unless the sender need not wait."""
        intake = Intake.of_mail(self.sender, self.policy)
        transfer = Transfer(pipeline.receiver, intake, self.policy)
        delivery = Delivery(self.sender, self.notes, self.policy, transfer)
        if await delivery.pass_on():
            pipeline.await_verdict(delivery)
        else:
            pipeline.in_transaction = False
        if intake.outrun or not pipeline.goes_on:
            await pipeline.settle()
        if intake.outrun:
            self.notes.repaired(Violation.OUTRUN)
            await self._end_with("shim", SENT_TOO_SOON)

    async def _auth_response(self, receiver: Receiver) -> Command:
        """The sender's response within AUTH (RFC 4954 section 4). Raises Over if one of the peers has gone."""
        leg, commands = self.sender.leg, self.sender.commands
        self._watch.allow(self.policy.deadlines.command, "an AUTH response")
        while (response := commands.next_response()) is None:
            octets = await leg.read()
            if not octets:
                self._note_departure()
                raise Over
            commands.feed(octets)
        if not (receiver.quiet or await receiver.in_step()):
            await self._answer_alone(receiver, Verb.AUTH)
        return response
