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

from shimproxy.net.errors import DeadlinePassed, DialFailed, Interrupted, LegBroken, TlsFailed
from shimproxy.session import opaque
from shimproxy.session.content import Content
from shimproxy.session.delivery import Over
from shimproxy.session.farewell import see_off
from shimproxy.session.notes import AFTER_421, FIRST_COMMAND
from shimproxy.session.pipeline import GROUPED, Pipeline
from shimproxy.session.policy import SenderTls
from shimproxy.session.receiver import Receiver
from shimproxy.session.replies import (
    BAD_LINE,
    BYE,
    NO_CONNECTION,
    NO_LOGIN,
    NO_SERVICE,
    NOT_OFFERED,
    OUT_OF_ORDER,
    READY_FOR_TLS,
    RECEIVER_NOT_SECURE,
    SENDER_LATE,
    SENT_TOO_SOON,
    SHUTTING_DOWN,
    TOO_BIG,
)
from shimproxy.session.security import Security
from shimproxy.session.size import Measure
from shimproxy.session.turns import Turns
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import HELLOS, Command, Verb
from shimproxy.smtp.dialogue import OUT_OF_STEP, Answers, Then, ruling
from shimproxy.smtp.reply import ReplyReader
from shimproxy.smtp.tidy import tidied

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.net.leg import Leg
    from shimproxy.net.watch import Watch
    from shimproxy.session.farewell import Beside
    from shimproxy.session.notes import Notes
    from shimproxy.session.policy import Policy
    from shimproxy.session.sender import Sender
    from shimproxy.smtp.reply import Own, Reply

_VERBS_OF_SECRETS = frozenset({Verb.AUTH, Verb.OTHER})  # what follows these may be a password
_JUDGED = frozenset({Verb.MAIL, Verb.RCPT})
_WITHOUT_HELLO = HELLOS | frozenset({Verb.NOOP, Verb.RSET, Verb.HELP, Verb.QUIT, Verb.STARTTLS})


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
    _security: Security = attrs.field(init=False)
    _turns: Turns | None = None
    _content: Content = attrs.field(init=False)
    _ready: bool = False
    """Whether a plain command can be forwarded: the sender has said EHLO since it went over to TLS, if it has, and the
    receiver leg is as secure as it has to be."""
    _mail_data_may_come: bool = False
    """Whether the sender may have sent mail data behind a DATA that was refused."""

    def __attrs_post_init__(self) -> None:
        self._watch = self.sender.leg.watch
        self._security = Security(self.sender, self.notes, self.policy, self.dial)

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
            if self.receiver:
                self.receiver.note_departure()
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
            if self._turns and not self._turns.pipeline.empty:
                await self._turns.pipeline.answer_the_rest(reply, "shim")
            await self._end_with("shim", reply)

    async def _end_with(self, who: str, reply: Reply | Own) -> NoReturn:
        """Give the last reply of a session that `who` has ended. Raises Over."""
        self.notes.ended(who)
        await self.sender.say(reply)
        raise Over

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
        if self._turns:
            self._turns.stop()
        else:
            self._watch.interrupt()

    def stop_now(self) -> None:
        """End the session with a 421 wherever it is; mail data in progress are not accepted."""
        self._watch.interrupt()
        if self.receiver and self.receiver.farewell:
            self.receiver.farewell.hurry()

    async def _converse(self) -> None:
        turns = self._turns = await self._greet()
        pipeline, notes = turns.pipeline, self.notes
        receiver, measure = pipeline.receiver, pipeline.measure
        tidy = self.policy.tidy
        judged = _JUDGED if measure else frozenset()
        self._content = Content(self.sender, pipeline, notes, self.policy)
        while True:
            command = await turns.next_command()
            if self._mail_data_may_come:
                self._mail_data_may_come = False
                if not command.known:
                    await self._end_at_mail_data(len(command.line))
            if notes.telling or notes.secret or command.violation or command.verb in _VERBS_OF_SECRETS:
                notes.heard(command)
            if tidy and command.forwardable:
                command, violation = tidied(command, self.policy.helo_name)
                if violation:
                    notes.repaired(violation)
            if command.verb in judged and measure and not receiver.gone and measure.refuses(command):
                await self._refuse_size(pipeline, command)
            elif command.plain and self._ready and (not pipeline.empty or receiver.quiet or await receiver.in_step()):
                await self._forward(turns, command)
            else:
                await self._serve(turns, command)

    # -- greeting

    async def _greet(self) -> Turns:
        """Connect and relay the greeting. Raises Over if there is none."""
        sender, notes, deadlines = self.sender, self.notes, self.policy.deadlines
        security = self._security
        try:
            if self.policy.sender_tls is SenderTls.IMPLICIT:
                await security.secure_sender()
            leg = await self.dial(self._watch, deadlines.connect)
        except DialFailed as failed:
            notes.repaired(Violation.UNREACHABLE, reason=str(failed))
            await self._end_with("receiver", NO_CONNECTION)
        except TlsFailed:
            notes.ended("sender")
            raise Over from None
        notes.record.receiver = leg.peer
        replies = ReplyReader(self.policy.limits.reply_octets)
        receiver = self.receiver = Receiver(leg, replies, notes, deadlines, self.beside)
        self._ready = self.policy.receiver_needs_nothing
        if not await security.secure_at_once(leg):
            await self._end_with("receiver", RECEIVER_NOT_SECURE)
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
        await sender.say(reply)
        measure = Measure(self.policy.sizes) if self.policy.sizes else None
        pipeline = Pipeline(sender, receiver, notes, self.policy, security, measure)
        return Turns(sender, pipeline, notes, self.policy)

    # -- commands

    async def _after_refused_data(self, octets_behind: int) -> None:
        """See to it that no mail data are taken for commands, once the sender has the refusal of its DATA."""
        if octets_behind:
            await self._end_at_mail_data(octets_behind)
        # They may still be under way: the next command will tell.
        self._mail_data_may_come = True

    async def _end_at_mail_data(self, octets: int) -> NoReturn:
        self.notes.repaired(Violation.DATA_WITHOUT_354, octets=octets)
        await self._end_with("shim", SENT_TOO_SOON)

    async def _serve(self, turns: Turns, command: Command) -> None:
        """Answer a command that cannot simply be forwarded."""
        pipeline = turns.pipeline
        receiver, security = pipeline.receiver, self._security
        if command.verb is Verb.BDAT:
            await self._content.take_chunk(command)
            return
        await pipeline.settle()
        if receiver.gone:
            await self._answer_alone(receiver, command.verb)
        elif security.hello_due and command.verb not in _WITHOUT_HELLO:
            await self.sender.say(OUT_OF_ORDER)
        elif command.verb is Verb.STARTTLS and (pipeline.authenticated or not pipeline.tls_offered):
            await self.sender.say(NOT_OFFERED)
        elif command.verb is Verb.STARTTLS and security.terminates:
            await self._start_tls(pipeline)
        elif command.forwardable and not command.refused:
            if not await receiver.in_step():
                await self._answer_alone(receiver, command.verb)
            if not self._ready and (command.verb in HELLOS or command.verb not in _WITHOUT_HELLO):
                await self._prepare(receiver, command)
                if not await receiver.in_step():
                    await self._answer_alone(receiver, command.verb)
            await self._forward(turns, command)
        else:
            if command.verb is Verb.DATA:
                pipeline.look_behind_data()
            await self.sender.say(NOT_OFFERED if command.refused else BAD_LINE)
            if command.verb is Verb.DATA:
                await self._after_refused_data(pipeline.behind_data_octets)

    async def _refuse_size(self, pipeline: Pipeline, command: Command) -> None:
        """Refuse MAIL or RCPT for the size that MAIL has declared."""
        await pipeline.settle()
        self.notes.phase = command.verb
        self.notes.repaired(Violation.OVERSIZE, at=str(command.verb))
        await self.sender.say(TOO_BIG)

    async def _answer_alone(self, receiver: Receiver, verb: Verb) -> NoReturn:
        """Give the last reply of a session that has no receiver any more."""
        self.notes.phase = verb
        if verb is Verb.QUIT:
            await self._end_with("sender", BYE)
        await self._end_with("receiver", receiver.last_words)

    async def _forward(self, turns: Turns, command: Command) -> None:
        """Forward a command, and relay its reply and do what follows from that, unless the sender need not wait."""
        pipeline, content = turns.pipeline, self._content
        pipeline.queue(command)
        if command.verb in GROUPED and pipeline.goes_on:
            return
        then = await pipeline.settle()
        if command.verb is Verb.DATA:
            if pipeline.behind_data_octets:
                turns.note_pipelining(Verb.DATA, pipeline.behind_data_octets)
            if then is not Then.MAIL_DATA:
                await self._after_refused_data(pipeline.behind_data_octets)
        while then is Then.AUTH_RESPONSE:
            response = await turns.auth_response()
            if response is None:
                await self._answer_alone(pipeline.receiver, Verb.AUTH)
            pipeline.queue(response)
            then = await pipeline.settle()
        match then:
            case Then.COMMANDS:
                pass
            case Then.MAIL_DATA:
                await content.take_mail_data()
            case Then.CLOSE:
                self.notes.ended("sender")
                raise Over
            case Then.TLS:
                await self._pass_unread(pipeline)
            case Then.DRAIN:
                raise AssertionError("no command's reply is followed by draining")
            case _:
                assert_never(then)

    # -- TLS

    async def _prepare(self, receiver: Receiver, command: Command) -> None:
        """See to the receiver's TLS before anything else is forwarded. Raises Over if it is not as it has to be."""
        security = self._security
        security.hello_due = False
        if not await security.prepare(receiver, command):
            await self._end_with("receiver", RECEIVER_NOT_SECURE)
        if not await security.log_in(receiver, command):
            await self._end_with("receiver", NO_LOGIN)
        self._ready = True

    async def _start_tls(self, pipeline: Pipeline) -> None:
        """Answer the sender's STARTTLS and go over to TLS with it."""
        await self.sender.say(READY_FOR_TLS)
        try:
            await self._security.secure_sender()
        except TlsFailed:
            self.notes.ended("sender")
            raise Over from None
        self._ready = False
        pipeline.forget()

    async def _pass_unread(self, pipeline: Pipeline) -> None:
        """Both peers speak TLS with each other from here on. Raises Over at its end."""
        sender, receiver = self.sender, pipeline.receiver
        security, record = self._security, self.notes.record
        security.discard_plaintext(receiver)
        record.sender_tls = record.receiver_tls = self.notes.phase = "opaque"
        receiver.passes_unread()
        try:
            await opaque.relay(sender.leg, receiver.leg, self.policy.deadlines.opaque)
        except (LegBroken, DeadlinePassed, Interrupted):
            sender.leg.reset()
            receiver.leg.reset()
        self.notes.ended("sender")
        raise Over
