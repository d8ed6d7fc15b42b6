"""One session: a sender and a receiver, one command and one reply at a time.

It reads as RFC 5321 4.3 does: greeting, then command, reply, command, reply, with mail data (delivery.py) where a
354 has said so. One task serves both legs; a sender that was offered PIPELINING goes on before it has the replies
(pipeline.py).

Invariants:

1. The sender gets the greeting and then one reply for each command, never before it (guarantee 1).
2. Before a command is forwarded that is the only one, the receiver is looked at: what lies there answers nothing.
3. Once the receiver is given up, the sender's QUIT gets 221 and anything else 421, unless the session is resumed, as it
   is after a mail that was refused: then RSET and NOOP get 250, and any other command finds a fresh leg.
4. `run` ends with both legs closed, whatever happened, and raises nothing that the peers can cause.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, assert_never

import attrs
import trio

from shimproxy.net.errors import DeadlinePassed, Interrupted, LegBroken, TlsFailed
from shimproxy.net.tap import Ended
from shimproxy.session import opaque
from shimproxy.session.capabilities import Capabilities
from shimproxy.session.content import Content
from shimproxy.session.delivery import Over
from shimproxy.session.early_talk import instead_of_greeting, instead_of_tls
from shimproxy.session.hello import Hellos
from shimproxy.session.notes import AFTER_421, FIRST_COMMAND
from shimproxy.session.opening import Opening, Unopened
from shimproxy.session.pipeline import GROUPED, Pipeline
from shimproxy.session.policy import SenderTls
from shimproxy.session.replacement import Replacement, resumes
from shimproxy.session.replies import (
    BYE,
    DONE,
    NOT_OFFERED,
    NOT_SMTP,
    OUT_OF_ORDER,
    READY_FOR_TLS,
    SENDER_LATE,
    SENT_TOO_SOON,
    SHUTTING_DOWN,
    TOO_BIG,
    to_bad_line,
)
from shimproxy.session.security import Security
from shimproxy.session.size import Measure
from shimproxy.session.tally import Tally
from shimproxy.session.turns import Turns
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import DATA, HELLOS, Command, Verb
from shimproxy.smtp.dialogue import COMMANDS, Then
from shimproxy.smtp.tidy import tidied

if TYPE_CHECKING:
    from shimproxy.net.receivers import Route
    from shimproxy.net.watch import Watch
    from shimproxy.session.arrival import Arrival
    from shimproxy.session.farewell import Beside
    from shimproxy.session.notes import Notes
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.sender import Sender
    from shimproxy.smtp.reply import Own, Reply

_WITHHELD = (NOT_OFFERED, OUT_OF_ORDER)  # there is nothing wrong with the command itself
_VERBS_OF_SECRETS = frozenset({Verb.AUTH, Verb.OTHER})  # what follows these may be a password
_JUDGED = frozenset({Verb.MAIL, Verb.RCPT})
_FOR_ITS_RECEIVER = frozenset({Verb.RCPT, Verb.DATA, Verb.QUIT})
"""What another receiver, which knows nothing of the transaction, can't be given."""
_BEGINS_ANEW = HELLOS | {Verb.MAIL, Verb.RSET, Verb.NOOP}
_ANSWERED_ALONE = frozenset({Verb.NOOP, Verb.RSET})  # nothing is asked of a receiver
_WITHOUT_HELLO = HELLOS | frozenset({Verb.NOOP, Verb.RSET, Verb.HELP, Verb.QUIT, Verb.STARTTLS})


@attrs.define(eq=False)
class Session:
    """The dialogue of a sender with the receiver that is dialled for it."""

    sender: Sender
    notes: Notes
    policy: Policy
    route: Route
    beside: Beside
    arrival: Arrival | None = None
    """Where something has to be found out before the greeting."""
    _watch: Watch = attrs.field(init=False)
    """What both legs wait under, until the receiver is given up."""
    _security: Security = attrs.field(init=False)
    _opening: Opening = attrs.field(init=False)
    _tally: Tally = attrs.field(init=False)
    _turns: Turns | None = None
    _content: Content = attrs.field(init=False)
    _ready: bool = False
    """Whether a plain command can be forwarded: the sender has said EHLO since it went over to TLS, if it has, and the
    receiver leg is as secure as it has to be."""
    _mail_data_may_come: bool = False
    """Whether the sender may have sent mail data behind a DATA that was refused."""

    def __attrs_post_init__(self) -> None:
        self._watch = self.sender.leg.watch
        self._tally = Tally.beginning(self._watch.now, self.policy.limits)
        self._security = Security(self.sender, self.notes, self.policy, Hellos(self.policy))
        self._opening = Opening(self.notes, self.policy, self._watch, self.route, self.beside, self._security)

    @property
    def receiver(self) -> Receiver | None:
        """The receiver, once it is dialled."""
        return self._opening.receiver

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
                self.receiver.note_departure(Ended.RST)
        except DeadlinePassed as late:
            if self.notes.phase == AFTER_421:
                self.notes.ended("receiver")
            else:
                self.notes.repaired(Violation.SENDER_STALLED, waited_for=late.what)
                await self._break_off(SENDER_LATE)
        except Interrupted:
            await self._break_off(SHUTTING_DOWN)
        except Unopened as failed:
            await self._break_off(failed.reply, failed.who)
        if self.policy.fails_over and self._turns and not self._turns.pipeline.has_refused:
            pipeline = self._turns.pipeline
            self._opening.was_left_by_itself(blameless=pipeline.is_blameless and pipeline.receiver.said_421)
        await self._part()

    async def _break_off(self, reply: Reply | Own, who: str = "shim") -> None:
        """Give the last reply to a sender that may not take it."""
        with suppress(LegBroken, DeadlinePassed, Interrupted, Over):
            if self._turns and self._turns.pipeline.outstanding:
                await self._turns.pipeline.answer_the_rest(reply, who)
            await self._end_with(who, reply)

    async def _end_with(self, who: str, reply: Reply | Own) -> NoReturn:
        """Give the last reply of a session that `who` has ended. Raises Over."""
        self.notes.ended(who)
        await self.sender.say(reply)
        raise Over

    async def _part(self) -> None:
        """Close both legs politely, as far as the peers let it."""
        sender, receiver = self.sender, self.receiver
        if sender.half_close():  # what it still sends must not wait for the receiver's leave
            await sender.see_off()
        if receiver:
            await receiver.part()
        if not sender.leg.closed:
            await sender.see_off()
        if receiver:
            await receiver.seen_off()

    def _close(self) -> None:
        """Reset what is not closed yet, and count."""
        sender, receiver = self.sender.leg, self.receiver
        sender.reset()
        if receiver and not receiver.farewell:
            receiver.leg.reset()
        self._watch.close()
        if self.notes.tracer:
            self.notes.tracer.finish()
        self.notes.record.count_octets(sender, receiver)

    def stop_when_idle(self) -> None:
        """End the session with a 421 as soon as no transaction is open."""
        if self._turns:
            self._turns.stop()
        else:
            self._watch.interrupt()

    def stop_now(self) -> None:
        """End the session with a 421 wherever it is; mail data in progress are not accepted."""
        self._watch.interrupt()
        if self.receiver:
            self.receiver.hurry()

    async def _converse(self) -> None:
        turns = self._turns = await self._greet()
        pipeline, notes = turns.pipeline, self.notes
        receiver, tidy, tally = pipeline.receiver, self.policy.tidy, self._tally
        judged = _JUDGED if pipeline.measure else frozenset()
        self._content = Content(self.sender, pipeline, notes, self.policy)
        while True:
            command = await turns.next_command()
            if self._mail_data_may_come:
                self._mail_data_may_come = False
                if not command.known:
                    await self._end_at_mail_data(command.octets)
            if notes.telling or notes.secret or command.violation or command.verb in _VERBS_OF_SECRETS:
                notes.heard(command)
            if command.foreign:
                await pipeline.settle()
                await self._end_with("shim", NOT_SMTP)
            tally.commands_left -= 1
            if tally.commands_left < 0 and command.verb is not Verb.QUIT:
                await turns.end_at_limit(command)
            if tidy and command.forwardable and not command.refused:
                command, violation = tidied(command, self.policy.helo_name)
                if violation:
                    notes.repaired(violation)
            if command.verb in judged and self._is_too_big(pipeline, command):
                await self._refuse_size(pipeline, command)
            elif command.plain and self._ready and (pipeline.outstanding or receiver.quiet or await receiver.in_step()):
                await self._forward(turns, command)
            else:
                await self._serve(turns, command)

    # -- greeting

    async def _greet(self) -> Turns:
        """Connect and relay the greeting. Raises Unopened if there is none, Over, Interrupted."""
        sender, notes, security = self.sender, self.notes, self._security
        if self.arrival:
            await self.arrival.begin(sender.leg, self.policy.deadlines.proxy_header)
        if self.policy.sender_tls is SenderTls.IMPLICIT:
            if refusal := await instead_of_tls(sender, notes, self.policy):
                await self._end_with("shim", refusal)
            await self._secure_sender()
        if self.arrival:
            self.arrival.settle(sender.leg.sock)
        reply = await self._opening.greeting()
        receiver = self.receiver
        assert receiver is not None
        self._ready = self.policy.receiver_needs_nothing
        if refusal := instead_of_greeting(sender, notes, self.policy):
            await self._end_with("shim", refusal)
        notes.phase = FIRST_COMMAND
        await sender.say(reply)
        measure = Measure(self.policy.sizes) if self.policy.sizes else None
        capabilities = Capabilities(sender, receiver, notes, self.policy, security)
        replacement = Replacement(self._opening) if self.policy.fails_over else None
        pipeline = Pipeline(sender, receiver, notes, self.policy, capabilities, self._tally, measure, replacement)
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
            self._after_mail(pipeline)
            return
        await pipeline.settle()
        if receiver.gone and not resumes(pipeline):
            await self._answer_alone(receiver, command.verb)
        elif refusal := self._refusal(pipeline, command):
            await self._refuse(pipeline, command, refusal)
        elif command.verb is Verb.STARTTLS and security.terminates:
            await self._start_tls(pipeline)
        elif await receiver.in_step() or await self._resume(pipeline, command):
            if not self._ready and (command.verb in HELLOS or command.verb not in _WITHOUT_HELLO):
                security.hello_due = False
                done = await self._opening.prepare(receiver, command)
                # Whoever begins without a hello may say it later.
                self._ready = done and (command.verb in HELLOS or not receiver.answered_hello)
            if command.verb in HELLOS and await self._answer_at_once(pipeline, command):
                return
            if not await receiver.in_step():
                await self._answer_alone(receiver, command.verb)
            await self._forward(turns, command)

    async def _answer_at_once(self, pipeline: Pipeline, hello: Command) -> bool:
        """Give the sender's hello the reply that the receiver has given to the same one; whether it has."""
        receiver = pipeline.receiver
        answered = receiver.answered_hello
        if not answered or (pipeline.hello and answered.hello is not hello):
            return False  # it may be the sender's second one
        if pipeline.in_transaction:
            await self._opening.end_transaction(receiver)
        reply = self._security.hellos.reply_to(receiver, hello)
        if reply:
            pipeline.answer_hello(hello, reply)
            await self.sender.pour()
        return reply is not None

    def _refusal(self, pipeline: Pipeline, command: Command) -> Own | None:
        """What the shim answers itself, to a command that is for no receiver."""
        if command.refused:
            return NOT_OFFERED
        if not command.forwardable:
            return to_bad_line(command.violation)
        if self._security.hello_due and command.verb not in _WITHOUT_HELLO:
            return OUT_OF_ORDER
        if command.verb is Verb.STARTTLS and (pipeline.authenticated or not pipeline.capabilities.tls):
            return NOT_OFFERED
        return None

    async def _refuse(self, pipeline: Pipeline, command: Command, refusal: Own) -> None:
        if command.verb is Verb.DATA:
            pipeline.look_behind_data()
        if refusal in _WITHHELD:
            self.notes.withheld(command.word)
        await self.sender.say(refusal)
        self._tally.answered(refusal.plain.code)
        if command.verb is Verb.DATA:
            await self._after_refused_data(pipeline.behind_data_octets)

    def _is_too_big(self, pipeline: Pipeline, command: Command) -> bool:
        there = not pipeline.receiver.gone or resumes(pipeline)
        measure = pipeline.measure if command.forwardable else None
        return there and measure is not None and measure.refuses(command)

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

    def _after_mail(self, pipeline: Pipeline) -> None:
        """See to it that a session which goes on does so, too, where the receiver leaves with its next commands."""
        if (pipeline.mail_refused or self.policy.resume) and resumes(pipeline) and not pipeline.outstanding:
            pipeline.replacement = Replacement(self._opening, anew=True)

    async def _resume(self, pipeline: Pipeline, command: Command) -> bool:
        """Go on although the receiver is gone; whether there is another, for this command to be forwarded to.

        If not, it has its reply. Raises Over if that is the last, Unopened, Interrupted.
        """
        verb, hello = command.verb, pipeline.hello
        may = verb in _ANSWERED_ALONE or verb in HELLOS or (hello and verb not in _FOR_ITS_RECEIVER)
        if (pipeline.in_transaction and verb not in _BEGINS_ANEW) or not (may and resumes(pipeline)):
            await self._answer_alone(pipeline.receiver, verb)
        self.notes.phase = verb
        if verb is not Verb.NOOP:
            pipeline.reset()
        if verb in _ANSWERED_ALONE:
            await self.sender.say(DONE)
            return False
        await self._opening.anew(pipeline.receiver, blameless=pipeline.is_blameless)
        self._ready = False
        if verb in HELLOS:
            pipeline.forget()
        elif hello:
            self._ready = await self._opening.as_before(pipeline, hello)
        return True

    async def _forward(self, turns: Turns, command: Command) -> None:
        """Forward a command, and relay its reply and do what follows from that, unless the sender need not wait."""
        pipeline = turns.pipeline
        pipeline.queue(command)
        if command.verb in GROUPED and pipeline.goes_on:
            return
        then = await pipeline.settle()
        if command.verb is DATA:
            if pipeline.behind_data_octets:
                turns.note_pipelining(Verb.DATA, pipeline.behind_data_octets)
            if then is not Then.MAIL_DATA:
                await self._after_refused_data(pipeline.behind_data_octets)
        if then is not COMMANDS:
            await self._go_on(turns, then)

    async def _go_on(self, turns: Turns, then: Then) -> None:
        """Do what follows from a reply behind which no command is next."""
        pipeline = turns.pipeline
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
                await self._content.take_mail_data()
                self._after_mail(pipeline)
            case Then.CLOSE:
                self.notes.ended("sender")
                raise Over
            case Then.TLS:
                seconds = self.policy.deadlines.opaque
                await opaque.take_over(self.sender, pipeline.receiver, self._security, self.notes, seconds)
                self.notes.ended("sender")
                raise Over
            case Then.DRAIN:
                raise AssertionError("no command's reply is followed by draining")
            case _:
                assert_never(then)

    # -- TLS

    async def _start_tls(self, pipeline: Pipeline) -> None:
        """Answer the sender's STARTTLS and go over to TLS with it."""
        if pipeline.in_transaction:
            await self._opening.end_transaction(pipeline.receiver)
        await self.sender.say(READY_FOR_TLS)
        await self._secure_sender()
        self._ready = False
        pipeline.forget()

    async def _secure_sender(self) -> None:
        """Go over to TLS with the sender. Raises Over if it doesn't, DeadlinePassed, Interrupted."""
        try:
            await self._security.secure_sender()
        except TlsFailed:
            self.notes.ended("sender")
            raise Over from None
