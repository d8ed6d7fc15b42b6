"""One session: a sender and a receiver, one command and one reply at a time.

It reads as RFC 5321 4.3 does: greeting, then command, reply, command, reply, with mail data (delivery.py) where a
354 has said so. One task serves both legs in lock-step.

Invariants:

1. The sender gets the greeting and then one reply for each command, never before it (guarantee 1).
2. Before a command is forwarded the receiver is looked at: what lies there answers nothing.
3. Once the receiver is given up, the sender's QUIT gets 221 and anything else 421.
4. `run` ends with both legs closed, whatever happened, and raises nothing that the peers can cause.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, assert_never

import attrs
import trio

from shimproxy.net.errors import DeadlinePassed, DialFailed, Interrupted, LegBroken
from shimproxy.session.delivery import Delivery
from shimproxy.session.intake import Intake
from shimproxy.session.pair import AFTER_421, FIRST_COMMAND, Pair
from shimproxy.session.replies import (
    BAD_LINE,
    BYE,
    IN_DISORDER,
    NO_CONNECTION,
    NO_SERVICE,
    NOT_OFFERED,
    RECEIVER_LATE,
    SENDER_LATE,
    SENT_TOO_SOON,
    SHUTTING_DOWN,
)
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Command, Verb, chunk_size_octets, response_from_line
from shimproxy.smtp.dialogue import OUT_OF_STEP, Answers, Then, Verdict, answers, ruling
from shimproxy.smtp.ehlo import without_removed_keywords
from shimproxy.smtp.mail_data import Chunk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.net.leg import Leg
    from shimproxy.net.watch import Watch
    from shimproxy.session.limits import Policy
    from shimproxy.smtp.reply import Reply

_VERBS_WITH_DATA = frozenset({Verb.DATA, Verb.BDAT})  # what lies behind these may be no command
_VERBS_OF_TRANSACTIONS = frozenset({Verb.HELO, Verb.EHLO, Verb.MAIL, Verb.DATA, Verb.RSET})


@attrs.define(eq=False)
class Session:
    """The dialogue of a sender with the receiver that is dialled for it."""

    pair: Pair
    dial: Callable[[Watch, float], Awaitable[Leg]]
    policy: Policy
    _in_transaction: bool = False
    _idle: bool = False
    _stopping: bool = False
    _pipelining_noted: bool = False
    _data_refused: bool = False
    """Whether mail data may come where the next command should: of a sender that has not waited for the 354."""

    # -- the whole

    async def run(self) -> None:
        """Serve the sender to the end; afterwards both legs are closed and the record is complete."""
        pair = self.pair
        started = trio.current_time()
        try:
            await self._converse_and_part()
        except Exception as error:  # a bug of ours must not take the listener down
            pair.observer.failed(pair.record, error)
        finally:
            pair.ended("shim")
            pair.close()
            pair.record.seconds = trio.current_time() - started
            pair.observer.ended(pair.record)

    async def _converse_and_part(self) -> None:
        pair = self.pair
        try:
            await self._converse()
        except LegBroken:
            pair.ended("sender")
        except DeadlinePassed as late:
            pair.repaired(Violation.SENDER_STALLED, waited_for=late.what)
            await self._break_off(SENDER_LATE)
        except Interrupted:
            await self._break_off(SHUTTING_DOWN)
        await pair.part()

    async def _break_off(self, reply: Reply) -> None:
        """Give the last reply to a sender that may not take it."""
        with suppress(LegBroken, DeadlinePassed, Interrupted):
            await self.pair.end_with("shim", reply)

    def stop_when_idle(self) -> None:
        """End the session with a 421 as soon as no transaction is open."""
        self._stopping = True
        if self._idle and not self._in_transaction:
            self.pair.watch.interrupt()

    def stop_now(self) -> None:
        """End the session with a 421 wherever it is; mail data in progress is not accepted."""
        self.pair.watch.interrupt()

    async def _converse(self) -> None:
        if not await self._greet():
            return
        pair = self.pair
        going_on = True
        while going_on:
            if self._stopping and not self._in_transaction:
                raise Interrupted
            command = await self._next_command()
            if command is None:
                return
            if self._data_refused:
                self._data_refused = False
                if not command.known:
                    pair.repaired(Violation.DATA_WITHOUT_354, octets=len(command.line))
                    await pair.end_with("shim", SENT_TOO_SOON)
                    return
            if pair.telling or command.violation:
                pair.heard(command)
            if command.plain and (pair.quiet or await pair.in_step()):
                going_on = await self._forward(command)
            else:
                going_on = await self._serve(command)

    # -- greeting

    async def _greet(self) -> bool:
        """Connect and relay the greeting; whether commands may follow."""
        pair, deadlines = self.pair, self.policy.deadlines
        try:
            pair.receiver = await self.dial(pair.watch, deadlines.connect)
        except DialFailed as failed:
            pair.repaired(Violation.UNREACHABLE, reason=str(failed))
            return await pair.end_with("receiver", NO_CONNECTION)
        pair.record.receiver = pair.receiver.peer
        pair.watch.allow(deadlines.greeting, "the greeting")
        try:
            reply = await pair.next_reply()
        except DeadlinePassed:
            reply = None
        if reply is None or ruling(Answers.GREETING, reply) is OUT_OF_STEP:
            pair.repaired(Violation.NO_GREETING, said=reply.octets if reply else b"")
            pair.give_up()
            return await pair.end_with("receiver", NO_SERVICE)
        if pair.sender.readable and (octets := pair.sender.look()):
            pair.repaired(Violation.EARLY_TALK, octets=len(octets))
            pair.commands.feed(octets)
        pair.phase = FIRST_COMMAND
        await pair.say(reply)
        return True

    # -- commands

    async def _next_command(self) -> Command | None:
        """The sender's next command, or None if one of the peers has ended the session between commands."""
        pair = self.pair
        sender, commands, watch = pair.sender, pair.commands, pair.watch
        watch.allow(self.policy.deadlines.command, "a command")
        command = commands.next_command() if commands.ahead else None
        if command is not None and watch.stretched():
            await watch.pause()
        while command is None:
            self._idle = commands.empty
            receiver = pair.live_receiver
            if receiver is None:
                await sender.wait_to_read()
            else:
                # A sender between commands may find that the receiver goes.
                await sender.speaks_or(receiver)
                if receiver.readable and not sender.readable:
                    pair.look_at_receiver()
                    if pair.farewell and pair.phase == AFTER_421:
                        pair.ended("receiver")  # it has said 421 and gone: so does the shim
                        return None
                    continue
            octets = sender.look()
            if octets is None:
                continue
            if not octets:
                if pair.live_receiver:
                    pair.repaired(Violation.CLOSED_WITHOUT_QUIT)
                pair.ended("sender")
                return None
            commands.feed(octets)
            command = commands.next_command()
        self._idle = False
        if commands.ahead and command.verb not in _VERBS_WITH_DATA:
            self._note_pipelining(command.verb)
        return command

    def _note_pipelining(self, behind: Verb) -> None:
        """Count it once a session."""
        if not self._pipelining_noted:
            self._pipelining_noted = True
            self.pair.repaired(Violation.UNOFFERED_PIPELINING, behind=behind, octets=len(self.pair.commands.ahead))

    def _look_behind_data(self) -> None:
        """Hear what the sender said behind DATA without waiting for its reply."""
        pair = self.pair
        if pair.sender.readable and not pair.commands.ahead and (octets := pair.sender.look()):
            pair.commands.feed(octets)
        if pair.commands.ahead:
            self._note_pipelining(Verb.DATA)

    async def _serve(self, command: Command) -> bool:
        """Answer a command that cannot simply be forwarded; whether another may follow."""
        pair = self.pair
        if not command.forwardable:
            await pair.say(BAD_LINE)
            return True
        if command.refused:
            return await self._refuse(command)
        if await pair.in_step():
            return await self._forward(command)
        return await self._answer_alone(command.verb)

    async def _answer_alone(self, verb: Verb) -> bool:
        """Give the last reply of a session that has no receiver any more."""
        pair = self.pair
        pair.phase = verb
        if verb is Verb.QUIT:
            return await pair.end_with("sender", BYE)
        return await pair.end_with("receiver", pair.last_words())

    async def _refuse(self, command: Command) -> bool:
        """Answer a command whose extension is not offered through the shim."""
        pair = self.pair
        if command.verb is Verb.BDAT:
            # The chunk is under way: its octets must not be read as commands (guarantee 6).
            size_octets = chunk_size_octets(command)
            if size_octets is None:
                return await pair.end_with("shim", SENT_TOO_SOON)
            if size_octets:
                chunk = Intake(pair.sender, pair.commands, self.policy, Chunk(size_octets))
                if not await chunk.drain():
                    pair.ended("sender")
                    return False
                if chunk.outrun:
                    pair.repaired(Violation.OUTRUN)
                    return await pair.end_with("shim", SENT_TOO_SOON)
        await pair.say(NOT_OFFERED)
        return True

    async def _forward(self, command: Command) -> bool:
        """Forward one command and relay its reply; whether another may follow."""
        pair, deadlines = self.pair, self.policy.deadlines
        verb = command.verb
        pair.phase = verb
        pair.watch.allow(deadlines.data_reply if verb is Verb.DATA else deadlines.reply, verb)
        try:
            await pair.forward(command)
            reply = await pair.next_reply()
        except DeadlinePassed:
            pair.repaired(Violation.NO_REPLY, to=verb)
            pair.give_up()
            return await pair.end_with("receiver", BYE if verb is Verb.QUIT else RECEIVER_LATE)
        if reply is None:
            return await self._unanswered(verb)
        verdict, then = ruling(answers(verb), reply)
        if verdict is not Verdict.RELAY:
            pair.give_up_in_disorder(Violation.IMPLAUSIBLE_REPLY, reply)
            return await pair.end_with("receiver", IN_DISORDER)
        if verb is Verb.EHLO and reply.code == 250:
            reply = without_removed_keywords(reply)
        elif verb is Verb.DATA:
            self._look_behind_data()
            pair.mail_data_open = then is Then.MAIL_DATA
        await pair.say(reply)
        match then:
            case Then.COMMANDS:
                if verb in _VERBS_OF_TRANSACTIONS:
                    self._note_transaction(verb, reply)
                return True
            case Then.MAIL_DATA:
                going_on = await Delivery(pair, self.policy).run()
                self._in_transaction = False
                return going_on
            case Then.AUTH_RESPONSE:
                return await self._auth_response()
            case Then.CLOSE:
                pair.quit_forwarded = True
                pair.ended("sender")
                return False
            case Then.DRAIN:
                raise AssertionError("no command's reply is followed by draining")
            case _:
                assert_never(then)

    async def _unanswered(self, verb: Verb) -> bool:
        """Answer a command that the receiver left unanswered when it went."""
        pair = self.pair
        if verb is Verb.QUIT:
            pair.repaired(Violation.NO_221)
        else:
            pair.repaired(Violation.CLOSED_WITH_COMMANDS_OPEN, to=verb)
        pair.give_up()
        return await self._answer_alone(verb)

    def _note_transaction(self, verb: Verb, reply: Reply) -> None:
        """Note what a reply that relays no mail data means for the transaction."""
        if verb is Verb.MAIL:
            self._in_transaction = self._in_transaction or reply.severity == 2
        elif verb is Verb.DATA:
            self._data_refused = True
        elif reply.severity == 2:
            self._in_transaction = False

    async def _auth_response(self) -> bool:
        """Forward one response within AUTH (RFC 4954 section 4) and relay the reply to it."""
        pair = self.pair
        pair.watch.allow(self.policy.deadlines.command, "an AUTH response")
        while (line := pair.commands.next_line()) is None:
            octets = await pair.sender.read()
            if not octets:
                pair.ended("sender")
                return False
            pair.commands.feed(octets)
        if pair.quiet or await pair.in_step():
            return await self._forward(response_from_line(line))
        return await self._answer_alone(Verb.AUTH)
