"""The receiver leg: what is forwarded on it, what it answers, and how it is left.

Invariants:

1. What it says while no command is outstanding answers nothing.
2. Once it is given up, nothing more is written to it; it is seen off beside the session (farewell.py).
3. It is never sent QUIT or FIN where it could take them for mail data, or for their end (guarantees 5 and 6).

It does not know which command comes after which, nor what becomes of a reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.errors import DeadlinePassed, Interrupted, LegBroken
from shimproxy.session.farewell import MOST_LOOKS, Beside, Farewell, see_off
from shimproxy.session.notes import AFTER_421, FIRST_COMMAND
from shimproxy.session.record import Dropped
from shimproxy.session.replies import IN_DISORDER, MAIL_STOPPED, RECEIVER_LOST
from shimproxy.session.trace import LATE, UNASKED
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import DATA, Command, Verb
from shimproxy.smtp.dialogue import GREETED, Answers, Verdict, is_greeting_again, unasked
from shimproxy.smtp.reply import Own, Reply, ReplyReader

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.net.tap import Ended
    from shimproxy.session.delivery import Delivery
    from shimproxy.session.hello import AnsweredHello
    from shimproxy.session.limits import Deadlines
    from shimproxy.session.notes import Notes

_MOST_FAREWELLS: Final = 4
_QUIT = Command(Verb.QUIT, b"QUIT\r\n")


@attrs.define(eq=False)
class Receiver:
    """The receiver's side of a session."""

    leg: Leg
    replies: ReplyReader
    notes: Notes
    _deadlines: Deadlines
    _beside: Beside
    mail_data_open: bool = False
    """Whether it may be in the midst of mail data: if the session ends here, it is reset, so that no mail is cut short
    (guarantee 5)."""
    outstanding: list[Verb | Delivery] = attrs.field(factory=list)
    """What it has got whole and not answered, in order: commands, and mail data."""
    in_transaction: bool = False
    """Whether it has accepted MAIL, and mail data have no verdict yet."""
    refused_in_transaction: bool = False
    """Whether it has refused anything since."""
    gone: bool = False
    """Whether it was given up."""
    failed: bool = False
    """Whether that was for what it left undone."""
    farewell: Farewell | None = None
    """Set once it is given up, but for one that was dropped."""
    _answer: Reply | None = None
    """Its reply to what it was asked last, if it has come; none, too, where it is to be told nothing more."""
    _unwritten: bytes = b""
    asked: Command | None = None
    """What it was asked last."""
    answered_hello: AnsweredHello | None = None
    """The hello that it knows the sender by, unless it was never told or is back at its greeting."""
    _unasked: Dropped | None = None
    _unasked_octets: int = 0
    _last_421: Reply | None = None
    _last_own_words: Own = RECEIVER_LOST
    _earlier: list[Farewell] = attrs.field(factory=list)
    """Farewells to legs before this one that may still go on."""
    _earlier_octets_in: int = 0
    _earlier_octets_out: int = 0

    # -- what is said

    def queue(self, command: Command) -> None:
        """Forward a command, with those that follow it at once; see `flush`."""
        if self._unasked_octets or self._unasked:
            self._tell_unasked()
        if self.notes.secret:
            self.notes.forwarded(command.verb)
        if self.notes.telling:
            self.notes.gives(command)
        self._answer = None
        self.asked = command
        if command.verb is DATA:
            self.mail_data_open = True  # it may say 354 at any moment from here
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
        secret = self.notes.secret
        self.queue(command)
        self.notes.secret = self.notes.secret or secret  # what the sender has said is still to be forwarded
        await self.flush()
        return await self.next_reply()

    def take_unread(self) -> bytes:
        """What it has said already behind its last reply, which the caller takes over."""
        unread, self.replies.unread = self.replies.unread, b""
        return unread

    def begin_anew(self, leg: Leg) -> None:
        """Go on with another leg to the same receiver, which has said nothing yet."""
        if self.farewell:
            self._earlier.append(self.farewell)
        else:
            self._count(self.leg)
        self.leg = leg
        self.replies = ReplyReader(self.replies.limit_octets)
        self.gone = self.failed = self.mail_data_open = self.in_transaction = False
        self.farewell = None
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
            if reply is None:
                octets = await self.leg.read()
                if octets:
                    replies.feed(octets)
                    continue
                reply = replies.cut_off()
                if reply is None:
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
                self.notes.repaired(violation, reply=reply.octets)
        if reply.code == 421:
            self._last_421 = reply
        if self.notes.telling:
            asked = self.asked.verb if self.asked else Answers.GREETING
            answered = self.outstanding[0] if self.outstanding else asked
            self.notes.heard_reply(self.leg, reply, f"answers {answered}")
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
    def last_words(self) -> Reply | Own:
        """What answers a command when it is gone: its own 421, if it has sent one."""
        return (self.farewell and self.farewell.last_421) or self._last_421 or self._last_own_words

    # -- what no command has asked for

    @property
    def quiet(self) -> bool:
        """Whether it is there and has said nothing unasked.

        Whoever was woken just now has readiness as fresh as the driver's last round.
        """
        return not (self.gone or self.leg.readable) and self.replies.empty

    def look(self) -> None:
        """Drop what the receiver said unasked; give it up if it is going, or does not stop."""
        replies = self.replies
        self._drop_unasked()
        while not self.gone and (octets := self.leg.look()):
            self._unasked_octets += len(octets)
            replies.feed(octets)
            self._drop_unasked()
            if self._unasked_octets > replies.limit_octets and not self.gone:
                self.give_up_in_disorder(Violation.EXTRA_REPLY, Reply(0, octets))
        if self.leg.ended and not self.gone:
            if cut_off := replies.cut_off():
                self._drop(cut_off)
            phase = self.notes.phase
            if phase != AFTER_421:
                violation = Violation.GREETING_THEN_CLOSE if phase == FIRST_COMMAND else Violation.CLOSED_WHILE_IDLE
                self.notes.repaired(violation, how=self.leg.ended.value)
            self.give_up()

    async def in_step(self) -> bool:
        """Whether the next reply can only be one to the next command; if not, it is given up."""
        if self.gone:
            return False
        self.look()
        # If a part of a reply lies there, its rest must not answer the next command.
        self.leg.watch.allow(self._deadlines.linger_idle, "the rest of a reply")
        try:
            while not (self.replies.empty or self.gone):
                await self.leg.wait_to_read()
                self.look()
        except DeadlinePassed:
            self.give_up_in_disorder(Violation.NOT_A_REPLY, self.replies.cut_off() or Reply(0, b""))
        return not self.gone

    def _drop_unasked(self) -> None:
        while not self.gone and (reply := self.replies.next_reply()):
            self._drop(reply)

    def _drop(self, reply: Reply) -> None:
        self._unasked = self._unasked or Dropped(Violation.EXTRA_REPLY)
        self._unasked.count(reply)
        self.notes.heard_dropped(self.leg, reply, UNASKED)
        if reply.code == 421:
            self._last_421 = reply
            self.give_up()
        elif (
            unasked(reply, in_transaction=self.in_transaction, refused=self.refused_in_transaction) is not Verdict.DROP
        ):
            self._give_up_out_of_step(reply)

    def _tell_unasked(self) -> None:
        self._unasked_octets = 0
        if self._unasked:
            self._unasked.tell(self.notes.repaired)

    # -- how it ends

    def note_departure(self, how: Ended | None, *, served: bool = False) -> None:
        """The sender has gone, before its mail data or without a QUIT.

        Whether it was `served`: it has had a verdict, and has begun nothing since.
        """
        notes, told = self.notes, {"how": how.value if how else ""}
        if not self.gone and notes.phase not in (Verb.QUIT, AFTER_421):
            if self.mail_data_open:
                notes.repaired(Violation.VANISHED_IN_DATA, **told, octets=0)
            elif served:
                notes.repaired_a_habit(Violation.CLOSED_WITHOUT_QUIT, **told)
            else:
                notes.repaired(Violation.CLOSED_WITHOUT_QUIT, **told)
        notes.ended("sender")

    def give_up(self, early: Reply | None = None, verdicts_due: int = 1, *, noted: bool = False) -> None:
        """Begin to see it off.

        Args:
            early: what it said before it had all of the mail data that made it so, if that is why.
            verdicts_due: how many replies it owes to these.
            noted: whether `early` is in the notes already.
        """
        if self.gone:
            return
        self.gone = True
        self._tell_unasked()
        in_mail = self.mail_data_open or early is not None
        # While it owes other replies, nobody can tell which one is the verdict on mail data that are on their way.
        decides = early is not None or not self.outstanding
        self.farewell = Farewell(self.leg, self.replies, self._deadlines, self.notes, in_mail, decides, verdicts_due)
        if not self.farewell.begin(early, noted=noted):
            self._beside.start(self.farewell)

    def fail(self, *, blamed: bool = True) -> None:
        """Give it up, as it has left or is silent where it owes a reply, or does not take mail data to their end."""
        self.failed = self.failed or blamed
        self.give_up()

    def drop(self) -> None:
        """Reset it in the midst of a mail which the operator does not want it to have."""
        self.gone = True
        self._last_own_words = MAIL_STOPPED
        self._tell_unasked()
        self.leg.reset()

    def give_up_in_disorder(self, violation: Violation, reply: Reply) -> None:
        """Give it up for a reply that cannot stand where it stands."""
        self.notes.repaired(violation, reply=reply.octets)
        self._give_up_out_of_step(reply)

    def _give_up_out_of_step(self, reply: Reply) -> None:
        # Whatever it answers, a receiver that has said 354 takes what comes for mail data.
        self.mail_data_open = self.mail_data_open or reply.asks_for_data
        self._last_own_words = IN_DISORDER
        self.give_up()

    @property
    def octets_in(self) -> int:
        """What came on its leg, and on those before."""
        return self._earlier_octets_in + sum(each.leg.octets_in for each in self._earlier) + self.leg.octets_in

    @property
    def octets_out(self) -> int:
        """What went out on them."""
        return self._earlier_octets_out + sum(each.leg.octets_out for each in self._earlier) + self.leg.octets_out

    def _count(self, leg: Leg) -> None:
        self._earlier_octets_in += leg.octets_in
        self._earlier_octets_out += leg.octets_out

    async def see_some_off(self) -> None:
        """Return when few farewells go on, so that no session has any number of connections open."""
        while len(self._earlier) >= _MOST_FAREWELLS:
            await self._see_off_the_first()

    async def _see_off_the_first(self) -> None:
        farewell = self._earlier[0]
        await farewell.over()
        del self._earlier[0]
        self._count(farewell.leg)

    def hurry(self) -> None:
        """Nobody needs the verdict of a farewell any more."""
        for farewell in (*self._earlier, self.farewell):
            if farewell:
                farewell.hurry()

    async def seen_off(self) -> None:
        """Return when every farewell is over."""
        while self._earlier:
            await self._see_off_the_first()
        if self.farewell:
            await self.farewell.over()

    @property
    def _awaits_a_command(self) -> bool:
        """Whether a QUIT would be in its place."""
        answer, asked = self._answer, self.asked
        if answer is None or answer.code in (334, 421):
            return False
        return asked is None or asked.verb is not Verb.QUIT or answer.refuses

    def _hear_unread(self) -> None:
        """Hear what lies unread before a half-close: a 354 in it makes that the end of a mail."""
        replies = self.replies
        for _ in range(MOST_LOOKS):
            while not self.gone and (reply := replies.next_reply()):
                if reply.asks_for_data:
                    self._drop(reply)
                else:
                    self.notes.heard_dropped(self.leg, reply, LATE)
            if self.gone or not (octets := self.leg.look()):
                return
            replies.feed(octets)

    async def part(self) -> None:
        """Close the leg as politely as its state lets it; a farewell goes on, but for a verdict that nobody needs."""
        may_quit = self._awaits_a_command and not (self.outstanding or self.mail_data_open)
        if may_quit and not self.gone:
            self.look()
        elif not self.mail_data_open:
            self._hear_unread()
        self._tell_unasked()
        self.hurry()
        if self.farewell:
            return
        if self.mail_data_open or self.replies.may_ask_for_data:
            self.leg.reset()  # or it was dropped
        else:
            try:
                if may_quit and not (self.leg.broken or self.leg.ended):
                    self.notes.gives(_QUIT)
                    await self.leg.write(_QUIT.line)
            except (LegBroken, DeadlinePassed, Interrupted):
                self.leg.reset()
            await see_off(self.leg, self._deadlines, self.notes)
