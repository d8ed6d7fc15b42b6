"""What the receiver was given and has not answered yet: commands, and mail data whose end was written (RFC 2920).

Invariants:

1. Replies are paired with what they answer by count, in order.
2. Everything here is answered once, by the receiver or, where it does not, by the shim (guarantee 1).
3. The deadline is that of what is to be answered next, from when the reply before it came.

It does not wait (reply_waits.py), nor read the sender, but for what lies behind a DATA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import attrs

from shimproxy.session.advice import of_refused_hello
from shimproxy.session.answered_hello import AnsweredHello
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.correction import PLACES, corrected
from shimproxy.session.mail_data_reply import MailDataReply
from shimproxy.session.replies import BYE, COMMAND_UNANSWERED, MAIL_UNANSWERED
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import DATA, HELLOS, Verb
from shimproxy.smtp.dialogue import ANSWERS, COMMANDS, MAIL_DATA, RELAY, ruling

if TYPE_CHECKING:
    from shimproxy.session.capabilities import Capabilities
    from shimproxy.session.policy import Policy
    from shimproxy.session.quota import Quota
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.session.substitute import Substitute
    from shimproxy.session.transaction import Transaction
    from shimproxy.smtp.command import Command
    from shimproxy.smtp.dialogue import NextRead
    from shimproxy.smtp.reply import LocalReply, Reply

# Names of the module: from the class they take ten times as long, in Python 3.11.
_AUTH: Final = Verb.AUTH
_MAIL: Final = Verb.MAIL
_RCPT: Final = Verb.RCPT
_OF_TRANSACTIONS: Final = HELLOS | {_MAIL, Verb.RSET}


@attrs.define(eq=False)
class PendingReplies:
    """The replies that the receiver owes, in order, and what they say of the session."""

    sender: Sender
    receiver: Receiver
    events: SessionEvents
    policy: Policy
    capabilities: Capabilities
    quota: Quota
    replacement: Substitute[PendingReplies] | None = None
    """Set while another receiver may take the place of this one."""
    authenticated: bool = False
    """Whether the sender has logged in at the receiver (RFC 4954)."""
    has_served: bool = False
    """Whether the receiver has taken a MAIL."""
    has_refused: bool = False
    """Whether a receiver has said 5yz to a command: where it goes then, it may be for what the sender says."""
    hello: Command | None = None
    """What the sender has said to the receiver last of who it is, since it went over to TLS, if it has."""
    behind_data_octets: int = 0
    """How much the sender had sent behind DATA when its reply came."""
    transaction: Transaction = attrs.Factory(lambda self: self.receiver.transaction, takes_self=True)
    """The receiver's."""
    outstanding: list[Verb | MailDataReply] = attrs.Factory(lambda self: self.receiver.outstanding, takes_self=True)
    """The receiver's: what it has not answered."""

    @property
    def is_blameless(self) -> bool:
        """Whether a receiver that goes now does so for nothing that the sender has said."""
        return not (self.has_served or self.has_refused)

    @property
    def goes_on(self) -> bool:
        """Whether more may be forwarded before what is here has been answered."""
        return self.capabilities.pipelining and len(self.outstanding) < self.policy.limits.outstanding_commands

    # -- in

    def queue(self, command: Command) -> None:
        """Forward a command, together with those that follow it at once."""
        verb = self.events.phase = command.verb
        transaction = self.transaction
        if transaction.size or transaction.chunks_open:
            transaction.forward(command)
        if self.replacement:
            self.replacement.queued(command)
        if not self.outstanding:
            self.allow(verb)
        self.outstanding.append(verb)
        self.receiver.queue(command)

    def await_verdict(self, owed: MailDataReply) -> None:
        """The end of its mail data was written: their reply is the receiver's next, after what is outstanding."""
        self.replacement = None
        self.outstanding.append(owed)
        self.allow(self.outstanding[0])  # on the way of a chunk there were other waits

    def allow(self, entry: Verb | MailDataReply) -> None:
        """The receiver has the time for its reply to `entry`, the first that is outstanding, from now on."""
        watch, deadlines = self.receiver.leg.watch, self.policy.deadlines
        if self.events.reply_times:
            self.events.reply_times.begin()
        if isinstance(entry, MailDataReply):
            # One refusal may be that of all recipients, and a mail without recipients may have no reply at all.
            is_last = self.policy.lmtp and (entry.lone_refusal or not self.transaction.recipients)
            watch.allow(deadlines.linger_idle if is_last else deadlines.end_of_data_reply, "the end of mail data")
        else:
            seconds = deadlines.data_reply if entry is DATA else deadlines.reply
            if self.replacement and self.replacement.is_possible:
                seconds = min(seconds, deadlines.connect)  # the sender's patience is to do for another one, too
            watch.allow(seconds, entry)

    # -- out

    def relay(self, reply: Reply) -> NextRead:
        """Give the sender the reply to what was outstanding first, unless the receiver is given up for it.

        How the sender is read after it.
        """
        verb = self.outstanding[0]
        if times := self.events.reply_times:
            times.note_reply(None if isinstance(verb, MailDataReply) else verb)
        if isinstance(verb, MailDataReply):
            return self._relay_verdict(verb, reply)
        receiver, transaction = self.receiver, self.transaction
        self.events.phase = verb
        verdict, then = ruling(ANSWERS[verb], reply)
        if reply.code == 421 and verb is Verb.QUIT and receiver.has_left:
            self.note_closed()
            self._leave()
            self.sender.put(BYE)
            return then
        if verdict is not RELAY:
            receiver.give_up_in_disorder(Violation.IMPLAUSIBLE_REPLY, reply)
            return then
        before_chunks = transaction.commands_before_chunks
        self._leave()
        if receiver.answered_hello and not self.hello and verb in HELLOS:
            reply = receiver.answered_hello.instead_of(reply, verb)
        if reply.code >= 400:
            if self.policy.rewrites:
                reply = corrected(reply, PLACES.get(verb), self.policy, self.sender)
            transaction.has_refusal = True
        if reply.code >= 500:
            _note_refusal(self, verb, reply)
        if transaction.chunks_open and reply.refuses and not before_chunks:
            transaction.refused_between_chunks = reply
        if verb is DATA:
            self._hear_reply_to_data(reply, then)
        elif verb in _OF_TRANSACTIONS and reply.kind == 2:
            reply = self.begin_anew(verb, reply, chunks_follow=before_chunks > 0)
        elif verb is _RCPT:
            transaction.answer_recipient(accepted=reply.kind == 2)
            if (mails := self.events.mails) is not None and mails.counts:
                mails.recipient_answered(reply)
        elif verb is _AUTH and reply.severity == 2:
            self.authenticated = True
        elif verb is _AUTH and reply.refuses:
            self.events.login_refused(reply)
        self.sender.put(reply)
        return then

    def _relay_verdict(self, owed: MailDataReply, reply: Reply) -> NextRead:
        """Give the sender what a reply after the end of mail data makes of them, if it decides anything."""
        if verdicts := owed.ruled(reply):
            if not self.policy.lmtp or len(verdicts) == owed.verdicts_left or self.receiver.gone:
                self.answer_mail(owed, *verdicts)
            else:
                owed.give(verdicts[0])
                self.allow(owed)
        return COMMANDS

    def _hear_reply_to_data(self, reply: Reply, then: NextRead) -> None:
        receiver = self.receiver
        self.behind_data_octets = self.sender.look_ahead()
        if not reply.asks_for_data:
            receiver.data.refuse()
        else:
            receiver.data.begin()
            if then is not MAIL_DATA:
                receiver.give_up_in_disorder(Violation.IMPLAUSIBLE_REPLY, reply)

    def begin_anew(self, verb: Verb, reply: Reply, *, chunks_follow: bool = False) -> Reply:
        """MAIL, RSET or a hello is accepted: nothing is left of an earlier transaction; the reply as it is given."""
        receiver, transaction = self.receiver, self.transaction
        if chunks_follow:
            transaction.end()  # the chunks that were forwarded after this command are of the next one
        else:
            transaction.reset()
        if verb is _MAIL:
            self.has_served, self.replacement = True, None
            transaction.begin()
        elif verb in HELLOS and receiver.asked:
            receiver.answered_hello = AnsweredHello(receiver.asked, reply)
            reply = self._known_by(receiver.asked, reply)
        return reply

    def _known_by(self, hello: Command, reply: Reply) -> Reply:
        """The sender's hello is accepted; the reply as it is given to it."""
        if hello.verb is Verb.HELO:
            self.forget()
        else:
            reply = self.capabilities.offer(reply)
        self.hello = hello
        return reply

    def answer_hello(self, hello: Command, reply: Reply) -> None:
        """Answer a hello of the sender's that is not forwarded, as the receiver has answered the same one already."""
        self.events.phase = hello.verb
        secret, self.events.secret = self.events.secret, False  # it was said before any AUTH
        if reply.kind == 2:
            self.transaction.reset()
            reply = self._known_by(hello, reply)
        elif reply.code >= 500:
            _note_refusal(self, hello.verb, reply)
        self.sender.put(reply)
        self.events.secret = secret

    def forget(self) -> None:
        """What the sender was offered, and began, counts no more: it said HELO, or went over to TLS (RFC 3207 4.2)."""
        self.capabilities.forget()
        self.transaction.reset()
        self.hello = None

    def _leave(self) -> None:
        """What was outstanding first has its answer."""
        self.outstanding.pop(0)
        if self.replacement:
            self.replacement.answered()
        if self.transaction.commands_before_chunks:
            self.transaction.commands_before_chunks -= 1
        if self.outstanding:
            self.allow(self.outstanding[0])

    def answer_mail(self, owed: MailDataReply, *verdicts: Reply | LocalReply) -> None:
        """Give mail data that are outstanding first the replies that are left to be given."""
        self._leave()
        if verdicts[0].severity != 2 and not owed.last:
            self.transaction.chunk_refusal = self.transaction.chunk_refusal or verdicts[0]
        self._answer_owed(owed, *verdicts)

    def _answer_owed(self, owed: MailDataReply, *verdicts: Reply | LocalReply) -> None:
        owed.answer(*verdicts)
        if owed.last:
            self.transaction.end()

    # -- where the receiver does not answer

    def relay_earlier(self, reply: Reply) -> None:
        """Relay a reply to what was outstanding before mail data that are on their way."""
        self.relay(self.receiver.looked_at(reply))
        self.sender.pour_now()

    def answer_earlier(self, but: int = 0) -> None:
        """Answer what a receiver that was given up leaves unanswered, all `but` the last."""
        self.replacement = None
        while len(self.outstanding) > but:
            entry = self.outstanding.pop(0)
            if isinstance(entry, MailDataReply):
                self._answer_owed(entry, _verdict_unheard(entry, self.transaction))
            else:
                self.sender.put(COMMAND_UNANSWERED)

    def answer_mails(self) -> None:
        """Answer the mail data that are outstanding first, as the receiver does not answer any more."""
        while self.outstanding and isinstance(entry := self.outstanding[0], MailDataReply):
            self.answer_mail(entry, _verdict_unheard(entry, self.transaction))

    def note_closed(self) -> Closing:
        """Note that the receiver has closed where it owes a reply to a command; who has ended the session by that."""
        verb = self.outstanding[0]
        assert not isinstance(verb, MailDataReply)
        self.events.phase = verb
        if verb is Verb.QUIT:
            self.events.repaired(Violation.NO_221, to=str(verb))
            return Closing.BY_SENDER
        self.events.repaired(Violation.CLOSED_WITH_COMMANDS_OPEN, to=str(verb), commands=len(self.outstanding))
        return Closing.BY_RECEIVER

    async def answer_the_rest(self, last: Reply | LocalReply, by: Closing = Closing.BY_RECEIVER) -> NoReturn:
        """Answer what is outstanding, with `last` at the end, which is the session's too. Raises SessionEnded."""
        self.answer_earlier(but=1)
        entry = self.outstanding.pop()
        if not isinstance(entry, MailDataReply):
            self.events.phase = entry
            raise SessionEnded(by, BYE if entry is Verb.QUIT else last)
        self.events.ended(by)  # its reply changes the phase
        entry.answer(last)
        await self.sender.pour()
        raise SessionEnded(by)


def _verdict_unheard(owed: MailDataReply, transaction: Transaction) -> Reply | LocalReply:
    """What answers mail data whose receiver has gone: a refusal that stands for them, too, if there is one."""
    return owed.lone_refusal or transaction.chunk_refusal or MAIL_UNANSWERED


def _note_refusal(pending: PendingReplies, verb: Verb, reply: Reply) -> None:
    """The receiver has refused a command for good."""
    pending.has_refused = True
    pending.quota.answered(reply.code)
    pending.events.advised(of_refused_hello(verb, reply))
