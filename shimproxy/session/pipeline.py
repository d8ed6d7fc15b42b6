"""What the receiver was given and has not answered yet: commands, and mail data whose end was written (RFC 2920).

Invariants:

1. Replies are paired with what they answer by count, in order.
2. Everything here is answered once, by the receiver or, where it does not, by the shim (guarantee 1).
3. Replies that are here at once go to the sender together, before anything is waited for.
4. The deadline is that of what is to be answered next, from when the reply before it came.

It does not read the sender, but for what lies behind a DATA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import attrs

from shimproxy.net.errors import DeadlinePassed
from shimproxy.session.delivery import Delivery, Over
from shimproxy.session.hello import AnsweredHello
from shimproxy.session.replies import BYE, COMMAND_UNANSWERED, MAIL_UNANSWERED, RECEIVER_LATE
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import DATA, HELLOS, Verb
from shimproxy.smtp.dialogue import COMMANDS, RELAY, Then, answers, ruling

if TYPE_CHECKING:
    from shimproxy.session.capabilities import Capabilities
    from shimproxy.session.notes import Notes
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.replacement import Replacement
    from shimproxy.session.sender import Sender
    from shimproxy.session.size import Measure
    from shimproxy.session.tally import Tally
    from shimproxy.smtp.command import Command
    from shimproxy.smtp.reply import Own, Reply

GROUPED = frozenset({Verb.MAIL, Verb.RCPT, Verb.RSET})
"""What the sender may go on behind without waiting for the reply (RFC 2920 section 3.1); mail data are the other."""
_OF_TRANSACTIONS = HELLOS | {Verb.MAIL, Verb.RSET}


@attrs.define(eq=False)
class Pipeline:
    """Commands on their way to the receiver, and replies on theirs to the sender."""

    sender: Sender
    receiver: Receiver
    notes: Notes
    policy: Policy
    capabilities: Capabilities
    tally: Tally
    measure: Measure | None = None
    """The size of mails, where the operator has set limits."""
    replacement: Replacement | None = None
    """Set while another receiver may take the place of this one."""
    authenticated: bool = False
    """Whether the sender has logged in at the receiver (RFC 4954)."""
    has_served: bool = False
    """Whether the receiver has taken a MAIL."""
    mail_refused: bool = False
    """Whether mail data, or a chunk, had any other reply than 2yz, and no MAIL was accepted since."""
    has_refused: bool = False
    """Whether a receiver has said 5yz to a command: where it goes then, it may be for what the sender says."""
    recipients: int = 0
    """How many the receiver has accepted for the transaction."""
    hello: Command | None = None
    """What the sender has said to the receiver last of who it is, since it went over to TLS, if it has."""
    chunks_open: bool = False
    """Whether the receiver was given a chunk of a mail, and neither the last nor a new transaction since."""
    chunk_refusal: Reply | Own | None = None
    """What refused a chunk of that mail: it answers all that follow, until a new transaction can begin."""
    refused_between_chunks: Reply | None = None
    """What refused a command between two chunks, while it is not known whether that refuses the mail."""
    _before_chunks: int = 0
    """How many of those that are outstanding the receiver was given before the first chunk of the mail."""
    chunks_in_doubt: bool = False
    """Whether something is outstanding that a receiver may well refuse so."""
    behind_data_octets: int = 0
    """How much the sender had sent behind DATA when its reply came."""
    outstanding: list[Verb | Delivery] = attrs.Factory(lambda self: self.receiver.outstanding, takes_self=True)
    """The receiver's: what it has not answered."""

    @property
    def verdicts_due(self) -> int:
        """How many replies a mail gets: with LMTP one for each recipient (RFC 2033 section 4.2)."""
        return self.recipients if self.policy.lmtp and self.recipients else 1

    @property
    def is_blameless(self) -> bool:
        """Whether a receiver that goes now does so for nothing that the sender has said."""
        return not (self.has_served or self.has_refused)

    @property
    def goes_on(self) -> bool:
        """Whether more may be forwarded before what is here has been answered."""
        return self.capabilities.pipelining and len(self.outstanding) < self.policy.limits.outstanding_commands

    @property
    def in_transaction(self) -> bool:
        """Whether MAIL was accepted, and mail data have no verdict yet."""
        return self.receiver.in_transaction

    # -- in

    def queue(self, command: Command) -> None:
        """Forward a command, together with those that follow it at once."""
        self.notes.phase = command.verb
        if self.measure and command.verb is Verb.RCPT:
            self.measure.asked(command)
        if self.chunks_open:
            self.chunks_in_doubt = True
        if self.replacement:
            self.replacement.queued(command)
        if not self.outstanding:
            self._allow(command.verb)
        self.outstanding.append(command.verb)
        self.receiver.queue(command)

    def note_chunk(self, *, last: bool) -> None:
        """The receiver is given a chunk of a mail."""
        if not (self.chunks_open or last):
            self._before_chunks = len(self.outstanding)
        self.chunks_open = not last

    def await_verdict(self, delivery: Delivery) -> None:
        """The end of its mail data was written: their reply is the receiver's next, behind what is outstanding."""
        self.replacement = None
        self.outstanding.append(delivery)
        self._allow(self.outstanding[0])  # on the way of a chunk there were other waits

    def _allow(self, entry: Verb | Delivery) -> None:
        watch, deadlines = self.receiver.leg.watch, self.policy.deadlines
        if isinstance(entry, Delivery):
            # One refusal may be that of all recipients, and a mail without recipients may have no reply at all.
            is_last = self.policy.lmtp and (entry.lone_refusal or not self.recipients)
            watch.allow(deadlines.linger_idle if is_last else deadlines.end_of_data_reply, "the end of mail data")
        else:
            seconds = deadlines.data_reply if entry is DATA else deadlines.reply
            if self.replacement and self.replacement.is_possible:
                seconds = min(seconds, deadlines.connect)  # the sender's patience is to do for another one, too
            watch.allow(seconds, entry)

    def relay_earlier(self, reply: Reply) -> bool:
        """Relay a reply that came while mail data are on their way, if anything before them is outstanding."""
        if not self.outstanding:
            return False
        self._relay(self.receiver.looked_at(reply))
        self.sender.pour_now()
        return True

    def answer_earlier(self, but: int = 0) -> None:
        """Answer what a receiver that was given up leaves unanswered, all `but` the last."""
        outstanding = self.outstanding
        self.replacement = None
        while len(outstanding) > but:
            entry = outstanding.pop(0)
            if isinstance(entry, Delivery):
                self._answer_delivery(entry, self._verdict_unheard(entry))
            else:
                self.sender.put(COMMAND_UNANSWERED)

    # -- out

    async def settle(self) -> Then:
        """Relay replies until nothing is outstanding; how the sender is read behind the last of them.

        Raises Over, LegBroken, DeadlinePassed, Interrupted.
        """
        receiver = self.receiver
        then = COMMANDS
        if not receiver.flush_now():
            await self._flush()
        while self.outstanding:
            reply = None if receiver.gone else receiver.reply_at_hand()
            if reply is None and not receiver.gone:
                if not self.sender.pour_now():
                    await self._pour()
                try:
                    reply = await receiver.next_reply()
                except DeadlinePassed:
                    await self._give_up_late()
                    continue
            if reply:
                then = self._relay(reply)
            elif self.outstanding:
                await self._end_unanswered()
        if not self.sender.pour_now():
            await self._pour()
        return then

    async def listen(self) -> None:
        """Wait until one of the peers speaks; relay the replies that have come.

        Raises Over, LegBroken, DeadlinePassed, Interrupted.
        """
        receiver, leg = self.receiver, self.receiver.leg
        if not receiver.flush_now():
            await self._flush()
        if not (receiver.gone or (receiver.replies.unread and self._relay_at_hand())):
            try:
                await leg.speaks_or(self.sender.leg)
            except DeadlinePassed:
                await self._give_up_late()
            else:
                if leg.readable:
                    receiver.replies.feed(leg.look() or b"")
                    self._relay_at_hand()
        if self.outstanding and (receiver.gone or receiver.leg.ended):
            await self._end_unanswered()
        if not self.sender.pour_now():
            await self._pour()

    def _relay_at_hand(self, unwritten: int = 0) -> bool:
        """Relay the replies that are here; whether there were any. What is `unwritten` yet, at the end, has none."""
        receiver = self.receiver
        relayed = False
        while len(self.outstanding) > unwritten and not receiver.gone and (reply := receiver.reply_at_hand()):
            self._relay(reply)
            relayed = True
        return relayed

    async def pause(self) -> None:
        """Let other sessions run. Raises Over, DeadlinePassed, Interrupted."""
        try:
            await self.sender.leg.watch.pause()
        except DeadlinePassed:
            if not self.outstanding:
                raise
            await self._give_up_late()

    async def _flush(self) -> None:
        try:
            await self.flush_slowly()
        except DeadlinePassed:
            await self._give_up_late()

    async def flush_slowly(self, not_entered: int = 0) -> None:
        """Write what was queued to a receiver that does not take it at once, and relay what it says meanwhile.

        That many of the commands in it are not among those that are outstanding. Raises DeadlinePassed, Interrupted.
        """
        receiver = self.receiver
        while not (receiver.gone or receiver.flush_now()):
            await receiver.wait_to_flush()
            self._relay_at_hand(unwritten=max(0, receiver.unwritten_commands - not_entered))
            self.sender.pour_now()

    async def _pour(self) -> None:
        """Write what is to be said; that the sender had to be waited for was not the receiver's time."""
        await self.sender.pour()
        if self.outstanding:
            self._allow(self.outstanding[0])

    def _relay(self, reply: Reply) -> Then:
        """Give the sender the reply to what was outstanding first, unless the receiver is given up for it."""
        entry = self.outstanding[0]
        if isinstance(entry, Delivery):
            if verdicts := entry.ruled(reply):
                if not self.policy.lmtp or len(verdicts) == entry.verdicts_left or self.receiver.gone:
                    self._answer_mail(entry, *verdicts)
                else:
                    entry.give(verdicts[0])
                    self._allow(entry)
            return Then.COMMANDS
        verb, receiver = entry, self.receiver
        self.notes.phase = verb
        verdict, then = ruling(answers(verb), reply)
        if reply.code == 421 and verb is Verb.QUIT and receiver.has_left:
            self._leave()
            self.sender.put(BYE)
            return then
        if verdict is not RELAY:
            receiver.give_up_in_disorder(Violation.IMPLAUSIBLE_REPLY, reply)
            return then
        before_chunks = self._before_chunks
        self._leave()
        if receiver.answered_hello and not self.hello and verb in HELLOS:
            reply = receiver.answered_hello.instead_of(reply, verb)
        if reply.code >= 400:
            receiver.refused_in_transaction = True
        if reply.code >= 500:
            self.has_refused = True
            self.tally.answered(reply.code)
        if self.chunks_open and reply.refuses and not before_chunks:
            self.refused_between_chunks = reply
        if verb is DATA:
            self.look_behind_data()
            receiver.mail_data_open = reply.asks_for_data
            if receiver.mail_data_open and then is not Then.MAIL_DATA:
                receiver.give_up_in_disorder(Violation.IMPLAUSIBLE_REPLY, reply)
        elif verb in _OF_TRANSACTIONS and reply.kind == 2:
            if before_chunks:
                self.end_transaction()  # the chunks are of the one that this begins
            else:
                self.reset()
            if verb is Verb.MAIL:
                self.has_served, self.mail_refused, self.replacement = True, False, None
                receiver.in_transaction, receiver.refused_in_transaction = True, False
            if verb in HELLOS and receiver.asked:
                receiver.answered_hello = AnsweredHello(receiver.asked, reply)
                reply = self._known_by(receiver.asked, reply)
        elif verb is Verb.RCPT:
            self.recipients += reply.kind == 2
            if self.measure:
                self.measure.ruled(accepted=reply.kind == 2)
        elif verb is Verb.AUTH and reply.severity == 2:
            self.authenticated = True
        self.sender.put(reply)
        return then

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
        self.notes.phase = hello.verb
        secret, self.notes.secret = self.notes.secret, False  # it was said before any AUTH
        if reply.kind == 2:
            self.reset()
            reply = self._known_by(hello, reply)
        elif reply.code >= 500:
            self.has_refused = True
            self.tally.answered(reply.code)
        self.sender.put(reply)
        self.notes.secret = secret

    def _answer_mail(self, delivery: Delivery, *verdicts: Reply | Own) -> None:
        self._leave()
        if verdicts[0].severity != 2 and not delivery.last:
            self.chunk_refusal = self.chunk_refusal or verdicts[0]
        self._answer_delivery(delivery, *verdicts)

    def _answer_delivery(self, delivery: Delivery, *verdicts: Reply | Own) -> None:
        delivery.answer(*verdicts)
        if delivery.last:
            self.end_transaction()

    def _leave(self) -> None:
        """What was outstanding first has its answer."""
        self.outstanding.pop(0)
        if self.replacement:
            self.replacement.answered()
        if self._before_chunks:
            self._before_chunks -= 1
        if self.outstanding:
            self._allow(self.outstanding[0])

    def end_transaction(self) -> None:
        """The mail has its verdict."""
        self.receiver.in_transaction = False
        self.recipients = 0
        if self.measure:
            self.measure.reset()

    def reset(self) -> None:
        """Nothing is left of what the sender has begun: another transaction may begin."""
        self.end_transaction()
        self.chunks_open, self.chunk_refusal, self.refused_between_chunks = False, None, None

    def forget(self) -> None:
        """What the sender was offered, and began, counts no more: it said HELO, or went over to TLS (RFC 3207 4.2)."""
        self.capabilities.forget()
        self.reset()
        self.hello = None

    def look_behind_data(self) -> None:
        """See how much the sender has sent behind DATA, as whose reply is about to be given."""
        leg, commands = self.sender.leg, self.sender.commands
        if leg.readable and not commands.ahead and (octets := leg.look()):
            commands.feed(octets)
        self.behind_data_octets = len(commands.ahead)

    # -- where the receiver does not answer

    async def _give_up_late(self) -> None:
        """The deadline has passed for what is outstanding first. Raises Over if that, or more, is a command."""
        entry = self.outstanding[0]
        mail = entry if isinstance(entry, Delivery) else None
        if mail and mail.lone_refusal:
            self._answer_mail(mail, mail.lone_refusal)
            return
        self.notes.repaired(Violation.NO_REPLY, to="end of mail data" if mail else str(entry))
        if mail and self.policy.lmtp and not self.recipients:
            self._answer_mail(mail, MAIL_UNANSWERED)  # it owed none (RFC 2033 section 4.2)
            return
        self.receiver.fail()
        self._answer_mails()
        if self.outstanding and not await self._is_replaced():
            await self.answer_the_rest(RECEIVER_LATE)

    async def _end_unanswered(self) -> None:
        """The receiver has gone without a reply to what is outstanding first. Raises Over if a command is."""
        receiver, entry = self.receiver, self.outstanding[0]
        if not receiver.gone:
            if isinstance(entry, Delivery) and not (self.chunk_refusal or entry.lone_refusal):
                entry.note_unanswered()
            self._answer_mails()
            if self.outstanding:
                self._note_closed(self.outstanding[0])
            receiver.fail(blamed=entry is not Verb.QUIT)
        self._answer_mails()
        if self.outstanding and not await self._is_replaced():
            await self.answer_the_rest(receiver.last_words)

    async def _is_replaced(self) -> bool:
        """Whether another receiver has what is outstanding now. Raises Interrupted."""
        if self.replacement is None or not await self.replacement.made(self):
            return False
        self._allow(self.outstanding[0])
        return True

    def _answer_mails(self) -> None:
        """Answer the mail data that are outstanding first, as the receiver does not answer any more."""
        while self.outstanding and isinstance(entry := self.outstanding[0], Delivery):
            self._answer_mail(entry, self._verdict_unheard(entry))

    def _verdict_unheard(self, delivery: Delivery) -> Reply | Own:
        """What answers mail data whose receiver has gone: a refusal that stands for them, too, if there is one."""
        return delivery.lone_refusal or self.chunk_refusal or MAIL_UNANSWERED

    def _note_closed(self, entry: Verb | Delivery) -> None:
        self.notes.phase = phase = str(entry)
        if entry is Verb.QUIT:
            self.notes.repaired(Violation.NO_221, to=phase)
            self.notes.ended("sender")
        else:
            self.notes.repaired(Violation.CLOSED_WITH_COMMANDS_OPEN, to=phase, commands=len(self.outstanding))

    async def answer_the_rest(self, last: Reply | Own, who: str = "receiver") -> NoReturn:
        """Answer what is outstanding, with `last` at the end, which is the session's too. Raises Over."""
        self.answer_earlier(but=1)
        entry = self.outstanding.pop()
        if isinstance(entry, Delivery):
            self.notes.ended(who)
            entry.answer(last)
        else:
            self.notes.phase = entry
            self.notes.ended(who)
            self.sender.put(BYE if entry is Verb.QUIT else last)
        await self.sender.pour()
        raise Over
