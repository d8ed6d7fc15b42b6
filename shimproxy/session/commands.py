"""What becomes of each of the sender's commands: a handler for each verb, and what stands before all of them.

RFC 5321 4.1 and 4.3.

Invariants:

1. Each command has one reply, and none before the command (guarantee 1).
2. Before a command is forwarded that is the only one, the receiver is looked at: what lies there answers nothing.
3. Once the receiver is given up, the sender's QUIT gets 221 and anything else 421, unless the session is resumed, as it
   is after a mail that was refused: then RSET and NOOP get 250, and any other command finds a fresh leg.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import attrs

from shimproxy.net.errors import TlsFailed
from shimproxy.session import opaque
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.in_step import end_transaction, is_in_step
from shimproxy.session.mail_data_reader import MailDataReader
from shimproxy.session.replacement import Replacement, resumes
from shimproxy.session.replies import (
    BYE,
    DONE,
    MECHANISM_NOT_OFFERED,
    NOT_OFFERED,
    NOT_SMTP,
    OUT_OF_ORDER,
    READY_FOR_TLS,
    SENT_TOO_SOON,
    TOO_BIG,
    to_bad_line,
)
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import DATA, HELLOS, Command, Verb
from shimproxy.smtp.dialogue import CLOSE, MAIL_DATA, NextRead
from shimproxy.smtp.tidy import tidied

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from shimproxy.session.command_stream import CommandStream
    from shimproxy.session.mail_data_handler import MailDataHandler
    from shimproxy.session.mail_data_reply import MailDataReply
    from shimproxy.session.pending import PendingReplies
    from shimproxy.session.plain_turns import PlainTurns
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver_connector import ReceiverConnector
    from shimproxy.session.reply_waits import ReplyWaits
    from shimproxy.session.security import Security
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.reply import LocalReply

_WITHHELD = (NOT_OFFERED, MECHANISM_NOT_OFFERED, OUT_OF_ORDER)  # there is nothing wrong with the command itself
_VERBS_OF_SECRETS = frozenset({Verb.AUTH, Verb.OTHER})  # what follows these may be a password
_JUDGED = frozenset({Verb.MAIL, Verb.RCPT})
_NONE_JUDGED: frozenset[Verb] = frozenset()  # one for all sessions: an empty one has 216 octets
_NOT_SIMPLY_FORWARDED = frozenset({Verb.BDAT, Verb.AUTH, Verb.STARTTLS})
_FOR_ITS_RECEIVER = frozenset({Verb.RCPT, Verb.DATA, Verb.QUIT})
"""What another receiver, which knows nothing of the transaction, can't be given."""
_BEGINS_ANEW = HELLOS | {Verb.MAIL, Verb.RSET, Verb.NOOP}
_ANSWERED_ALONE = frozenset({Verb.NOOP, Verb.RSET})  # nothing is asked of a receiver
_WITHOUT_HELLO = HELLOS | frozenset({Verb.NOOP, Verb.RSET, Verb.HELP, Verb.QUIT, Verb.STARTTLS})


@attrs.define(eq=False)
class Commands:
    """The commands of one sender that was greeted, one after the other."""

    sender: Sender
    events: SessionEvents
    policy: Policy
    pending: PendingReplies
    waits: ReplyWaits
    stream: CommandStream
    security: Security
    connector: ReceiverConnector
    mail_data: MailDataHandler
    plain_turns: PlainTurns
    ready: bool = False
    """Whether a plain command can be forwarded: the sender has said EHLO since it went over to TLS, if it has, and the
    receiver leg is as secure as it has to be."""
    _mail_data_may_come: bool = False
    """Whether the sender may have sent mail data behind a DATA that was refused."""

    async def serve(self) -> NoReturn:
        """Serve the sender's commands to the end of the session.

        Raises SessionEnded, NoReceiver, LegBroken, DeadlinePassed, Interrupted.
        """
        stream, pending, events = self.stream, self.pending, self.events
        receiver, tidy, quota, mails = pending.receiver, self.policy.tidy, pending.quota, events.mails
        judged = _JUDGED if pending.transaction.size else _NONE_JUDGED
        while True:
            may_be_plain = self.ready and not self._mail_data_may_come and self.plain_turns.may_come
            if may_be_plain and (left := await self.plain_turns.serve()) is not None:
                await self._go_on_with(left)
                continue
            command = await stream.next_command()
            if self._mail_data_may_come:
                self._mail_data_may_come = False
                if not command.known:
                    self._end_at_mail_data(command.octets)
            if events.telling or events.secret or command.violation or command.verb in _VERBS_OF_SECRETS:
                events.heard(command)
            if mails is not None:
                mails.heard(command)
            if command.foreign:
                await self.waits.settle()
                raise SessionEnded(Closing.BY_SHIM, NOT_SMTP)
            quota.commands_left -= 1
            if quota.commands_left < 0 and command.verb is not Verb.QUIT:
                await stream.end_at_limit(command)
            if tidy and command.forwardable and not command.refused:
                command, violation = tidied(command, self.policy.helo_name)
                if violation:
                    events.repaired(violation)
            if command.verb in judged and self._is_too_big(command):
                await self._refuse_size(command)
            elif (
                command.plain and self.ready and (pending.outstanding or receiver.quiet or await is_in_step(receiver))
            ) or await self._admits(command):
                if command.verb not in _NOT_SIMPLY_FORWARDED:
                    pending.queue(command)
                await HANDLERS[command.verb](self, command)

    async def _go_on_with(self, left: Command | MailDataReader | MailDataReply) -> None:
        """Do the rest of a turn that was begun as a plain one; see PlainTurns.serve."""
        if isinstance(left, Command):
            return await HANDLERS[left.verb](self, left)
        await (self.mail_data.carry(left) if isinstance(left, MailDataReader) else self.waits.settle())
        self._after_mail()

    # -- one handler for each verb: the receiver is there, and has the command unless that is not simply forwarded

    async def on_mail(self, _: Command) -> None:
        """MAIL, RCPT or RSET (RFC 5321 4.1.1.2, 4.1.1.3, 4.1.1.5): with PIPELINING the sender need not wait."""
        if not self.pending.goes_on:
            await self.waits.settle()

    on_rcpt = on_rset = on_mail

    async def on_data(self, _: Command) -> None:
        """DATA (RFC 5321 4.1.1.4): after 354 the mail data, and their reply."""
        then = await self.waits.settle()
        octets_behind = self.pending.behind_data_octets
        if octets_behind:
            self.stream.note_pipelining(DATA, octets_behind)
        if then is MAIL_DATA:
            await self.mail_data.take_mail_data()
            self._after_mail()
        else:
            self._after_refused_data(octets_behind)

    async def on_quit(self, _: Command) -> None:
        """QUIT (RFC 5321 4.1.1.10): the session ends, unless the receiver refuses that."""
        if await self.waits.settle() is CLOSE:
            raise SessionEnded(Closing.BY_SENDER)

    async def on_other(self, _: Command) -> None:
        """A hello or any other command: the receiver's reply is relayed. What a hello is answered is noted there."""
        await self.waits.settle()

    on_hello = on_other

    async def on_bdat(self, command: Command) -> None:
        """BDAT (RFC 3030): the chunk, and its reply."""
        await self.mail_data.take_chunk(command)
        self._after_mail()

    async def on_auth(self, command: Command) -> None:
        """AUTH (RFC 4954): while the receiver says 334, the sender responds."""
        pending, hidden = self.pending, self.policy.hidden
        if hidden and hidden.has_mechanism(command.line):
            await self.waits.settle()
            return await self._refuse(command, MECHANISM_NOT_OFFERED)
        pending.queue(command)
        while await self.waits.settle() is NextRead.AUTH_RESPONSE:
            response = await self.stream.auth_response()
            if response is None:
                self._answer_alone(Verb.AUTH)
            pending.queue(response)

    async def on_starttls(self, command: Command) -> None:
        """STARTTLS (RFC 3207): TLS ends here, or passes unread from here on."""
        pending, receiver = self.pending, self.pending.receiver
        if self.security.terminates:
            if pending.transaction.is_open:
                await end_transaction(receiver)
            await self.sender.say(READY_FOR_TLS)
            await secure_sender(self.security)
            self.ready = False
            pending.forget()
            return
        pending.queue(command)
        if await self.waits.settle() is NextRead.TLS:
            await opaque.take_over(self.sender, receiver, self.security, self.events, self.policy)
            raise SessionEnded(Closing.BY_SENDER)

    # -- what stands before the handlers

    async def _admits(self, command: Command) -> bool:
        """Whether a command that cannot simply be forwarded is one for its handler; if not, it has its reply.

        Raises SessionEnded, NoReceiver, LegBroken, DeadlinePassed, Interrupted.
        """
        verb = command.verb
        if verb is Verb.BDAT:
            return True  # its chunk follows, whatever becomes of it
        await self.waits.settle()
        receiver, security = self.pending.receiver, self.security
        if receiver.gone and not resumes(self.pending):
            self._answer_alone(verb)
        if refusal := _refusal(command, self.pending, security):
            await self._refuse(command, refusal)
            return False
        if verb is Verb.STARTTLS and security.terminates:
            return True
        if not (await is_in_step(receiver) or await self._resume(command)):
            return False
        if not self.ready and (verb in HELLOS or verb not in _WITHOUT_HELLO):
            security.hello_due = False
            done = await self.connector.prepare(receiver, command)
            # Whoever begins without a hello may say it later.
            self.ready = done and (verb in HELLOS or not receiver.answered_hello)
        if verb in HELLOS and await self._answer_at_once(command):
            return False
        if not await is_in_step(receiver):
            self._answer_alone(verb)
        return True

    async def _answer_at_once(self, hello: Command) -> bool:
        """Give the sender's hello the reply that the receiver has given to the same one; whether it has."""
        pending, receiver = self.pending, self.pending.receiver
        answered = receiver.answered_hello
        if not answered or (pending.hello and answered.hello is not hello):
            return False  # it may be the sender's second one
        if pending.transaction.is_open:
            await end_transaction(receiver)
        reply = self.security.hellos.reply_to(receiver, hello)
        if reply:
            pending.answer_hello(hello, reply)
            await self.sender.pour()
        return reply is not None

    async def _refuse(self, command: Command, refusal: LocalReply) -> None:
        pending = self.pending
        if command.verb is Verb.DATA:
            pending.behind_data_octets = self.sender.look_ahead()
        if refusal in _WITHHELD:
            self.events.withheld(command.word)
        await self.sender.say(refusal)
        pending.quota.answered(refusal.plain.code)
        if command.verb is Verb.DATA:
            self._after_refused_data(pending.behind_data_octets)

    def _is_too_big(self, command: Command) -> bool:
        there = not self.pending.receiver.gone or resumes(self.pending)
        size = self.pending.transaction.size if command.forwardable else None
        return there and size is not None and size.refuses(command)

    async def _refuse_size(self, command: Command) -> None:
        """Refuse MAIL or RCPT for the size that MAIL has declared."""
        await self.waits.settle()
        self.events.phase = command.verb
        self.events.repaired(Violation.OVERSIZE, at=str(command.verb))
        await self.sender.say(TOO_BIG)

    def _answer_alone(self, verb: Verb) -> NoReturn:
        """Give the last reply of a session that has no receiver any more. Raises SessionEnded."""
        self.events.phase = verb
        if verb is Verb.QUIT:
            raise SessionEnded(Closing.BY_SENDER, BYE)
        raise SessionEnded(Closing.BY_RECEIVER, self.pending.receiver.last_words)

    async def _resume(self, command: Command) -> bool:
        """Go on although the receiver is gone; whether there is another, for this command to be forwarded to.

        If not, it has its reply. Raises SessionEnded if that is the last, NoReceiver, Interrupted.
        """
        pending, verb, hello = self.pending, command.verb, self.pending.hello
        may = verb in _ANSWERED_ALONE or verb in HELLOS or (hello and verb not in _FOR_ITS_RECEIVER)
        if (pending.transaction.is_open and verb not in _BEGINS_ANEW) or not (may and resumes(pending)):
            self._answer_alone(verb)
        self.events.phase = verb
        if verb in _BEGINS_ANEW and verb is not Verb.NOOP:  # after any other, a refused chunk may have others after it
            pending.transaction.reset()
        if verb in _ANSWERED_ALONE:
            await self.sender.say(DONE)
            return False
        await self.connector.anew(pending.receiver, blameless=pending.is_blameless)
        self.ready = False
        if hello is None or verb in HELLOS:
            pending.forget()
        else:
            self.ready = await self.connector.as_before(pending, hello)
        return True

    # -- what follows from them

    def _after_mail(self) -> None:
        """See to it that a session which goes on does so, too, where the receiver leaves with its next commands."""
        pending = self.pending
        if (pending.transaction.mail_refused or self.policy.resume) and resumes(pending) and not pending.outstanding:
            pending.replacement = Replacement(self.connector, anew=True)

    def _after_refused_data(self, octets_behind: int) -> None:
        """See to it that no mail data are taken for commands, once the sender has the refusal of its DATA."""
        if octets_behind:
            self._end_at_mail_data(octets_behind)
        self._mail_data_may_come = True  # they may still be under way: the next command will tell

    def _end_at_mail_data(self, octets: int) -> NoReturn:
        self.events.repaired(Violation.DATA_WITHOUT_354, octets=octets)
        raise SessionEnded(Closing.BY_SHIM, SENT_TOO_SOON)


HANDLERS: Final[Mapping[Verb, Callable[[Commands, Command], Awaitable[None]]]] = dict.fromkeys(
    Verb, Commands.on_other
) | {
    Verb.EHLO: Commands.on_hello,
    Verb.HELO: Commands.on_hello,
    Verb.LHLO: Commands.on_hello,
    Verb.MAIL: Commands.on_mail,
    Verb.RCPT: Commands.on_rcpt,
    Verb.RSET: Commands.on_rset,
    Verb.DATA: Commands.on_data,
    Verb.BDAT: Commands.on_bdat,
    Verb.AUTH: Commands.on_auth,
    Verb.STARTTLS: Commands.on_starttls,
    Verb.QUIT: Commands.on_quit,
}
"""Verb -> its handler."""


def _refusal(command: Command, pending: PendingReplies, security: Security) -> LocalReply | None:
    """What the shim answers itself, to a command that is for no receiver."""
    if command.refused:
        return NOT_OFFERED
    if not command.forwardable:
        return to_bad_line(command.violation)
    if security.hello_due and command.verb not in _WITHOUT_HELLO:
        return OUT_OF_ORDER
    if command.verb is Verb.STARTTLS and (pending.authenticated or not pending.capabilities.tls):
        return NOT_OFFERED
    return None


async def secure_sender(security: Security) -> None:
    """Go over to TLS with the sender. Raises SessionEnded if it doesn't, DeadlinePassed, Interrupted."""
    try:
        await security.secure_sender()
    except TlsFailed:
        raise SessionEnded(Closing.BY_SENDER) from None
