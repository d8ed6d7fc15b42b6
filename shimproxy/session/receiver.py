"""The receiver's side of a session: what is forwarded to it, what it answers, and how it is given up.

Invariants:

1. What it says while no command is outstanding answers nothing (in_step.py).
2. Once it is given up, nothing more is written to it; it is seen off beside the session (lingering_close.py).

How its leg is closed at the end of the session is receiver_parting.py's. It does not know which command comes after
which, nor what becomes of a reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.session.command_buffer import CommandBuffer
from shimproxy.session.data_state import MailDataState
from shimproxy.session.earlier_legs import EarlierLegs
from shimproxy.session.lingering_close import BackgroundCloser, LingeringClose
from shimproxy.session.replies import IN_DISORDER, MAIL_STOPPED, RECEIVER_LOST
from shimproxy.session.transaction import Transaction
from shimproxy.session.unasked import UnaskedReplies
from shimproxy.smtp.command import DATA, Command, Verb
from shimproxy.smtp.dialogue import GREETED, OUT_OF_STEP, NextRead, ReplyTo, is_greeting_again
from shimproxy.smtp.reply import LINE_LIMIT_OCTETS, LocalReply, Reply, ReplyReader

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.session.answered_hello import AnsweredHello
    from shimproxy.session.limits import Deadlines
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.catalogue import Violation

ANSWERS: Final[dict[Any, str]] = {each: f"answers {each}" for each in (*Verb, ReplyTo.GREETING)}
"""What a trace says of a reply, by what is outstanding; made anew, it is a tenth of what a trace costs."""


@attrs.define(eq=False)
class Receiver:
    """The receiver's side of a session."""

    leg: Leg
    replies: ReplyReader
    events: SessionEvents
    deadlines: Deadlines
    _closer: BackgroundCloser
    data: MailDataState = attrs.field(factory=MailDataState)
    """How far it is in mail data: while these are open, it is reset where the session ends (guarantee 5)."""
    outstanding: list[Any] = attrs.field(factory=list)
    """What it has got whole and not answered, in order: verbs of commands, and what stands for mail data."""
    transaction: Transaction = attrs.field(factory=Transaction)
    """What the sender has begun with it."""
    gone: bool = False
    """Whether it was given up."""
    failed: bool = False
    """Whether that was for what it left undone."""
    lingering: LingeringClose | None = None
    """Set once it is given up, but for one that was dropped."""
    _answer: Reply | None = None
    """Its reply to what it was asked last, if it has come; none, too, where it is to be told nothing more."""
    asked: Command | None = None
    """What it was asked last."""
    answered_hello: AnsweredHello | None = None
    """The hello that it knows the sender by, unless it was never told or is back at its greeting."""
    unasked: UnaskedReplies | None = None
    """What it has said unasked, unless that is told or there is none."""
    _last_421: Reply | None = None
    _last_own_words: LocalReply = RECEIVER_LOST
    earlier: EarlierLegs = attrs.field(factory=EarlierLegs)
    """Those before this one."""
    commands: CommandBuffer = attrs.field(init=False)
    """What it is to get on its way there."""

    def __attrs_post_init__(self) -> None:
        self.commands = CommandBuffer(self.leg, self.replies)

    # -- what is said

    def queue(self, command: Command) -> None:
        """Forward a command, with those that follow it at once; see `flush`."""
        if self.unasked:
            self.tell_unasked()
        if self.events.secret:
            self.events.forwarded(command.verb)
        if self.events.telling:
            self.events.gives(command)
        self.is_asked(command)
        commands = self.commands
        commands.unwritten = commands.unwritten + command.line if commands.unwritten else command.line

    def is_asked(self, command: Command) -> None:
        """It is given a command, of which nobody need be told."""
        self._answer = None
        self.asked = command
        if command.verb is DATA:
            self.data.ask()

    def reply_at_hand(self) -> Reply | None:
        """The receiver's next reply, if it is here already."""
        replies = self.replies
        while not self.gone:
            reply = replies.next_reply() if replies.unread else None
            if reply is None and self.leg.ended:
                reply = replies.cut_off()
            if reply is None:
                break
            if reply.code != GREETED or not self._greets_again(reply):
                return self.looked_at(reply)
        return None

    def take_unread(self) -> bytes:
        """What it has said already behind its last reply, which the caller takes over."""
        unread, self.replies.unread = self.replies.unread, b""
        return unread

    def begin_anew(self, leg: Leg) -> None:
        """Go on with another leg to the same receiver, which has said nothing yet."""
        self.earlier.add(self.leg, self.lingering)
        self.leg = leg
        self.replies = ReplyReader(self.replies.limit_octets, passed=self.replies.passed)
        self.gone = self.failed = False
        self.transaction.lose()
        self.data = MailDataState()  # the leg before may still be taking its leave with its own
        self.lingering = None
        self.commands = CommandBuffer(leg, self.replies)
        self.asked, self._answer = None, None
        self.answered_hello = None
        self._last_421, self._last_own_words = None, RECEIVER_LOST

    def passes_unread(self) -> None:
        """From here on it talks with the sender itself, and is told nothing."""
        self._answer = None

    async def next_reply(self) -> Reply | None:
        """The receiver's next reply, or None if it has gone. Raises DeadlinePassed, Interrupted."""
        replies = self.replies
        while not self.gone:
            reply = replies.next_reply() if replies.unread else None
            while reply is None:
                octets = await self.leg.read()
                if not octets:
                    break
                replies.feed(octets)
                reply = replies.next_reply()
            if reply is None and (reply := replies.cut_off()) is None:
                break
            if reply.code != GREETED or not self._greets_again(reply):
                return self.looked_at(reply)
        return None

    def _greets_again(self, reply: Reply) -> bool:
        """Whether a reply answers nothing, as it can only be the greeting once more; then it is dropped."""
        asked = self.asked.verb if self.asked else None
        again = is_greeting_again(self.outstanding[0] if self.outstanding else asked, reply)
        if again:
            self.drop_unasked(reply)
        return again

    def is_answered(self, reply: Reply) -> None:
        """It has given a reply, of which nobody need be told."""
        self._answer = reply

    def looked_at(self, reply: Reply) -> Reply:
        """Take note of a reply that answers something; it is the same."""
        self._answer = reply
        if reply.violations:
            self.events.tell_form(reply)
        if reply.code == 421:
            self._last_421 = reply
        if self.events.telling:
            asked = self.asked.verb if self.asked else ReplyTo.GREETING
            answered = self.outstanding[0] if self.outstanding else asked
            self.events.heard_reply(self.leg, reply, ANSWERS.get(answered) or f"answers {answered}")
        return reply

    @property
    def awaits_a_command(self) -> bool:
        """Whether a QUIT would be in its place."""
        answer, asked = self._answer, self.asked
        if self.outstanding or self.data.is_open or answer is None or answer.code in (334, 421):
            return False
        return asked is None or asked.verb is not Verb.QUIT or answer.refuses

    @property
    def has_left(self) -> bool:
        """Whether its 421, read just now, answers nothing: it was said before, or the end of the leg lies there."""
        return self.leg.unacknowledged_octets > 0 or self.leg.look() == b""

    @property
    def said_421(self) -> bool:
        """Whether it has said that it goes."""
        return self._last_421 is not None

    @property
    def last_words(self) -> Reply | LocalReply:
        """What answers a command when it is gone: its own 421, if it has sent one."""
        return (self.lingering and self.lingering.last_421) or self._last_421 or self._last_own_words

    # -- what no command has asked for

    @property
    def quiet(self) -> bool:
        """Whether it is there and has said nothing unasked.

        Whoever was woken just now has readiness as fresh as the driver's last round.
        """
        return not (self.gone or self.leg.readable) and self.replies.empty

    def drop_unasked(self, reply: Reply) -> None:
        """Take a reply that answers nothing: it is dropped, or the receiver is given up for it."""
        unasked = self.unasked = self.unasked or UnaskedReplies(self.events)
        row = unasked.drop(self.leg, reply, self.transaction)
        if row is OUT_OF_STEP:
            self._give_up_out_of_step(reply)
        elif row[1] is NextRead.CLOSE:
            self._last_421 = reply
            self.give_up()

    def tell_unasked(self) -> None:
        """Tell of what it has said unasked so far, as one repair."""
        if self.unasked:
            self.unasked.tell()
            self.unasked = None

    # -- how it ends

    def give_up(self, early: Reply | None = None, verdicts_due: int = 1, *, noted: bool = False) -> None:
        """Begin to see it off.

        Args:
            early: what it said before it had all of the mail data that made it so, if that is why.
            verdicts_due: how many replies it owes to these.
            noted: whether `early` is told already.
        """
        if self.gone:
            return
        self.gone = True
        self.tell_unasked()
        if early is not None:
            self.data.doubt()
        # While it owes other replies, nobody can tell which one is the verdict on mail data that are on their way.
        decides = early is not None or not self.outstanding
        events, data = self.events, self.data
        self.lingering = LingeringClose(self.leg, self.replies, self.deadlines, events, data, decides, verdicts_due)
        if not self.lingering.begin(early, noted=noted):
            self._closer.start(self.lingering)

    def fail(self, *, blamed: bool = True) -> None:
        """Give it up, as it has left or is silent where it owes a reply, or does not take mail data to their end."""
        self.failed = self.failed or blamed
        self.give_up()

    def drop(self) -> None:
        """Reset it in the midst of a mail which the operator does not want it to have."""
        self.gone = True
        self.data.doubt()
        self._last_own_words = MAIL_STOPPED
        self.tell_unasked()
        self.leg.reset()

    def give_up_in_disorder(self, violation: Violation, reply: Reply) -> None:
        """Give it up for a reply that cannot stand where it stands."""
        self.events.repaired(violation, reply=reply.octets[:LINE_LIMIT_OCTETS])  # it may have no end
        self._give_up_out_of_step(reply)

    def _give_up_out_of_step(self, reply: Reply) -> None:
        # Whatever it answers, a receiver that has said 354 takes what comes for mail data.
        if reply.asks_for_data:
            self.data.doubt()
        self._last_own_words = IN_DISORDER
        self.give_up()

    @property
    def octets_in(self) -> int:
        """What came on its leg, and on those before."""
        return self.earlier.octets_in + self.leg.octets_in

    @property
    def octets_out(self) -> int:
        """What went out on them."""
        return self.earlier.octets_out + self.leg.octets_out
