"""The receiver leg: what is forwarded on it, what it answers, and how it is left.

Invariants:

1. What it says while no command is outstanding answers nothing.
2. Once it is given up, nothing more is written to it; it is seen off beside the session (lingering_close.py).
3. It is never sent QUIT or FIN where it could take them for mail data, or for their end (guarantees 5 and 6).

It does not know which command comes after which, nor what becomes of a reply.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs

from shimproxy.net.errors import DeadlinePassed, Interrupted, LegBroken
from shimproxy.session.data_state import MailDataState
from shimproxy.session.earlier_legs import EarlierLegs
from shimproxy.session.lingering_close import MOST_LOOKS, BackgroundCloser, LingeringClose, see_off
from shimproxy.session.phase import conduct
from shimproxy.session.record import DroppedReplies
from shimproxy.session.replies import IN_DISORDER, MAIL_STOPPED, RECEIVER_LOST
from shimproxy.session.trace import LATE, UNASKED
from shimproxy.session.transaction import Transaction
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import DATA, Command, Verb
from shimproxy.smtp.dialogue import GREETED, OUT_OF_STEP, NextRead, ReplyTo, is_greeting_again, unasked
from shimproxy.smtp.reply import LINE_LIMIT_OCTETS, LocalReply, Reply, ReplyReader

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.net.tap import Ended
    from shimproxy.session.answered_hello import AnsweredHello
    from shimproxy.session.limits import Deadlines
    from shimproxy.session.session_events import SessionEvents

_QUIT = Command(Verb.QUIT, b"QUIT\r\n")


@attrs.define(eq=False)
class Receiver:
    """The receiver's side of a session."""

    leg: Leg
    replies: ReplyReader
    events: SessionEvents
    _deadlines: Deadlines
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
    _unwritten: bytes = b""
    asked: Command | None = None
    """What it was asked last."""
    answered_hello: AnsweredHello | None = None
    """The hello that it knows the sender by, unless it was never told or is back at its greeting."""
    _unasked: DroppedReplies | None = None
    _unasked_octets: int = 0
    _last_421: Reply | None = None
    _last_own_words: LocalReply = RECEIVER_LOST
    earlier: EarlierLegs = attrs.field(factory=EarlierLegs)
    """Those before this one."""

    # -- what is said

    def queue(self, command: Command) -> None:
        """Forward a command, with those that follow it at once; see `flush`."""
        if self._unasked_octets or self._unasked:
            self._tell_unasked()
        if self.events.secret:
            self.events.forwarded(command.verb)
        if self.events.telling:
            self.events.gives(command)
        self._answer = None
        self.asked = command
        if command.verb is DATA:
            self.data.ask()
        self._unwritten = self._unwritten + command.line if self._unwritten else command.line

    def flush_now(self) -> bool:
        """Write what was queued, as far as it is taken at once; whether that was all.

        A receiver that takes no more may have left last words: they are next_reply's.
        """
        octets = self._unwritten
        if octets:
            try:
                self._unwritten = octets[self.leg.send_now(octets) :]
            except LegBroken:
                self._unwritten = b""
        return not self._unwritten

    async def flush(self) -> None:
        """Write what was queued; as `flush_now`. Raises DeadlinePassed, Interrupted."""
        while not self.flush_now():
            await self.wait_to_flush()

    async def wait_to_flush(self) -> None:
        """Wait until more may be taken; what is said meanwhile is at hand. Raises DeadlinePassed, Interrupted."""
        leg, replies = self.leg, self.replies
        if leg.ended:
            self._unwritten = b""  # it answers nothing more
        elif len(replies.unread) >= replies.limit_octets:
            await leg.takes()
        else:
            # A receiver may take no more commands before its replies to the first of them are read.
            await leg.takes_or_speaks()
            if octets := leg.look():
                replies.feed(octets)

    @property
    def unwritten_commands(self) -> int:
        """How many commands have not been written to their end."""
        return self._unwritten.count(b"\n")

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

    async def ask(self, command: Command, seconds: float | None = None, *, first: bool = False) -> Reply | None:
        """Give a command of the shim's own, and its reply, within `seconds` if that is less than it has for any other.

        None if the receiver has gone; with `first`, which says that it has not spoken yet, that is no closing between
        commands. Raises DeadlinePassed, Interrupted.
        """
        if not (first or await self.in_step()):
            return None
        self.leg.watch.allow(min(self._deadlines.reply, seconds or self._deadlines.reply), command.verb)
        secret = self.events.secret
        self.queue(command)
        self.events.secret = self.events.secret or secret  # what the sender has said is still to be forwarded
        await self.flush()
        return await self.next_reply()

    def take_unread(self) -> bytes:
        """What it has said already behind its last reply, which the caller takes over."""
        unread, self.replies.unread = self.replies.unread, b""
        return unread

    def begin_anew(self, leg: Leg) -> None:
        """Go on with another leg to the same receiver, which has said nothing yet."""
        self.earlier.add(self.leg, self.lingering)
        self.leg = leg
        self.replies = ReplyReader(self.replies.limit_octets)
        self.gone = self.failed = False
        self.transaction.lose()
        self.data = MailDataState()  # the leg before may still be taking its leave with its own
        self.lingering = None
        self._unwritten, self.asked, self._answer = b"", None, None
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
            self._drop(reply)
        return again

    def looked_at(self, reply: Reply) -> Reply:
        """Take note of a reply that answers something; it is the same."""
        self._answer = reply
        if reply.violations:
            for violation in reply.violations:
                self.events.repaired(violation, reply=reply.octets)
        if reply.code == 421:
            self._last_421 = reply
        if self.events.telling:
            asked = self.asked.verb if self.asked else ReplyTo.GREETING
            answered = self.outstanding[0] if self.outstanding else asked
            self.events.heard_reply(self.leg, reply, f"answers {answered}")
        return reply

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

    def look(self) -> bool:
        """Drop what the receiver said unasked; give it up if it is going, or does not stop.

        Whether there may be more at hand, for which a pause is due.
        """
        replies, leg = self.replies, self.leg
        self._drop_unasked()
        while not (self.gone or leg.watch.stretched(0)) and (octets := leg.look()):
            self._unasked_octets += len(octets)
            replies.feed(octets)
            self._drop_unasked()
            if self._unasked_octets > replies.limit_octets and not self.gone:
                self.give_up_in_disorder(Violation.EXTRA_REPLY, Reply(0, octets))
        if not self.gone and leg.watch.stretched(0):
            return True
        if self.leg.ended and not self.gone:
            if cut_off := replies.cut_off():
                self._drop(cut_off)
            if violation := conduct(self.events.phase).receiver_disconnects:
                self.events.repaired(violation, how=self.leg.ended.value)
            self.give_up()
        return False

    async def in_step(self) -> bool:
        """Whether the next reply can only be one to the next command; if not, it is given up."""
        if self.gone:
            return False
        has_more = self.look()
        # If a part of a reply lies there, its rest must not answer the next command.
        self.leg.watch.allow(self._deadlines.linger_idle, "the rest of a reply")
        try:
            while not self.gone and (has_more or not self.replies.empty):
                await (self.leg.watch.pause() if has_more else self.leg.wait_to_read())
                has_more = self.look()
        except DeadlinePassed:
            self.give_up_in_disorder(Violation.NOT_A_REPLY, self.replies.cut_off() or Reply(0, b""))
        return not self.gone

    def _drop_unasked(self) -> None:
        while not (self.gone or self.leg.watch.stretched(0)) and (reply := self.replies.next_reply()):
            self.leg.watch.stretched()
            self._drop(reply)

    def _drop(self, reply: Reply) -> None:
        self._unasked = self._unasked or DroppedReplies(Violation.EXTRA_REPLY)
        self._unasked.count(reply)
        self.events.heard_dropped(self.leg, reply, UNASKED)
        row = unasked(reply, in_transaction=self.transaction.is_open, refused=self.transaction.has_refusal)
        if row is OUT_OF_STEP:
            self._give_up_out_of_step(reply)
        elif row[1] is NextRead.CLOSE:
            self._last_421 = reply
            self.give_up()

    def _tell_unasked(self) -> None:
        self._unasked_octets = 0
        if self._unasked:
            self._unasked.tell(self.events.repaired)

    # -- how it ends

    def note_departure(self, how: Ended | None, *, served: bool = False) -> None:
        """The sender has gone, before its mail data or without a QUIT.

        Whether it was `served`: it has had a verdict, and has begun nothing since.
        """
        events, told = self.events, {"how": how.value if how else ""}
        if not self.gone and conduct(events.phase).closing is None:
            if self.data.is_open:
                events.repaired(Violation.VANISHED_IN_DATA, **told, octets=0)
            elif served:
                events.repaired_a_habit(Violation.CLOSED_WITHOUT_QUIT, **told)
            else:
                events.repaired(Violation.CLOSED_WITHOUT_QUIT, **told)

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
        self._tell_unasked()
        if early is not None:
            self.data.doubt()
        # While it owes other replies, nobody can tell which one is the verdict on mail data that are on their way.
        decides = early is not None or not self.outstanding
        events, data = self.events, self.data
        self.lingering = LingeringClose(self.leg, self.replies, self._deadlines, events, data, decides, verdicts_due)
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
        self._tell_unasked()
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

    def hurry(self) -> None:
        """Nobody needs the verdict of a lingering close any more."""
        for lingering in (*self.earlier.lingering_closes, self.lingering):
            if lingering:
                lingering.hurry()

    async def seen_off(self) -> None:
        """Return when every lingering close is over."""
        await self.earlier.see_off(all_but=0)
        if self.lingering:
            await self.lingering.over()

    @property
    def _awaits_a_command(self) -> bool:
        """Whether a QUIT would be in its place."""
        answer, asked = self._answer, self.asked
        if answer is None or answer.code in (334, 421):
            return False
        return asked is None or asked.verb is not Verb.QUIT or answer.refuses

    async def _has_heard_unread(self) -> bool:
        """Hear what lies unread before a half-close: a 354 in it makes that the end of a mail; whether that was all."""
        replies, watch = self.replies, self.leg.watch
        with suppress(DeadlinePassed, Interrupted):
            for _ in range(MOST_LOOKS):
                while not self.gone and (reply := replies.next_reply()):
                    if reply.asks_for_data:
                        self._drop(reply)
                    else:
                        self.events.heard_dropped(self.leg, reply, LATE)
                    if watch.stretched():
                        await watch.pause()
                if self.gone or not (octets := self.leg.look()):
                    return True
                replies.feed(octets)
        return False

    async def _has_looked_to_the_end(self) -> bool:
        """Drop all that it said unasked; whether there was time for that."""
        with suppress(DeadlinePassed, Interrupted):
            while self.look():
                await self.leg.watch.pause()
            return True
        return False

    async def part(self) -> None:
        """Close the leg as its state lets it; a lingering close goes on, but for a verdict that nobody needs."""
        may_quit = self._awaits_a_command and not (self.outstanding or self.data.is_open)
        heard_all = True
        self.leg.watch.allow(self._deadlines.linger_idle, "the receiver's last words")
        if may_quit and not self.gone:
            heard_all = not self.look() or await self._has_looked_to_the_end()
        elif not self.data.is_open:
            heard_all = await self._has_heard_unread()
        self._tell_unasked()
        self.hurry()
        if self.lingering:
            return
        if self.data.is_open or self.replies.may_ask_for_data or not heard_all:
            self.leg.reset()  # or it was dropped
        else:
            try:
                if may_quit and not (self.leg.broken or self.leg.ended):
                    self.events.gives(_QUIT)
                    await self.leg.write(_QUIT.line)
            except (LegBroken, DeadlinePassed, Interrupted):
                self.leg.reset()
            await see_off(self.leg, self._deadlines, self.events, self.replies.most_octets)
