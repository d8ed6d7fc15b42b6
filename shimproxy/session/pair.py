"""Both legs of a session: what is said on them, what is noted of them, and how they end.

Invariants:

1. What a peer said, and every repair, is told to the observer from here and from nowhere else.
2. A receiver that is given up is never written to again; it is seen off beside the session (farewell.py).
3. `part` leaves both legs closed.

It does not know which command comes after which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import DeadlinePassed, Interrupted, LegBroken
from shimproxy.net.leg import Leg, Parted
from shimproxy.session.farewell import Farewell
from shimproxy.session.record import Repair
from shimproxy.session.replies import IN_DISORDER, RECEIVER_LOST
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Command, CommandReader, Verb
from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    import trio

    from shimproxy.net.watch import Watch, Watchdog
    from shimproxy.session.limits import Deadlines
    from shimproxy.session.record import Observer, SessionRecord
    from shimproxy.smtp.reply import ReplyReader

FIRST_COMMAND = "first command"
AFTER_421 = "after 421"


@attrs.define(eq=False)
class Pair:
    """The sender leg and, once it is connected, the receiver leg."""

    record: SessionRecord
    sender: Leg
    commands: CommandReader
    replies: ReplyReader
    deadlines: Deadlines
    observer: Observer
    watchdog: Watchdog
    beside: trio.Nursery
    receiver: Leg | None = None
    farewell: Farewell | None = None
    """Set once the receiver is given up."""
    phase: str = "greeting"
    """What the session is doing, for the record."""
    quit_forwarded: bool = False
    mail_data_open: bool = False
    """Whether the receiver may be in the midst of mail data: if the session ends here, it is reset, so that no mail
    is cut short (guarantee 5)."""
    _unasked_octets: int = 0
    _last_words: Reply = RECEIVER_LOST
    _last_421: Reply | None = None
    telling: bool = attrs.field(init=False)
    """Whether the observer wants the dialogue."""
    watch: Watch = attrs.field(init=False)
    """The session's watch, which both legs share until the receiver is given up."""

    def __attrs_post_init__(self) -> None:
        self.telling = self.observer.wants_dialogue
        self.watch = self.sender.watch

    @property
    def live_receiver(self) -> Leg | None:
        """The receiver, if commands can still be forwarded to it."""
        return self.receiver if self.farewell is None else None

    # -- what is said

    async def say(self, reply: Reply) -> None:
        """Relay a reply to the sender, or give one of the shim's own. Raises LegBroken, DeadlinePassed."""
        if self.telling and reply.code != 334:
            self.observer.said(self.record, "receiver", reply.octets)
        if reply.code == 421:
            self._last_421, self.phase = reply, AFTER_421
        self.watch.allow(self.deadlines.command, "the sender taking a reply")
        await self.sender.write(reply.octets)

    async def forward(self, command: Command) -> None:
        """Write a command to the receiver. Raises DeadlinePassed, Interrupted.

        A receiver that takes no more may have left last words: they are next_reply's.
        """
        assert self.receiver is not None
        self._unasked_octets = 0
        if command.verb is Verb.DATA:
            self.mail_data_open = True  # it may say 354 at any moment from here
        try:
            await self.receiver.write(command.line)
        except LegBroken:
            return

    async def next_reply(self) -> Reply | None:
        """The receiver's next reply, or None if it has gone. Raises DeadlinePassed, Interrupted."""
        receiver, replies = self.receiver, self.replies
        assert receiver is not None
        reply = replies.next_reply() if replies.unread else None
        while reply is None:
            octets = await receiver.read()
            if not octets:
                reply = replies.cut_off()
                break
            replies.feed(octets)
            reply = replies.next_reply()
        if reply is not None and reply.violations:
            for violation in reply.violations:
                self.repaired(violation, reply=reply.octets)
        return reply

    def heard(self, command: Command) -> None:
        """Note what the sender said; never what belongs to AUTH."""
        if command.violation:
            self.repaired(command.violation, verb=command.verb.value, octets=len(command.line))
        if self.telling:
            line = command.line if command.verb is not Verb.AUTH else b"AUTH (not logged)\r\n"
            self.observer.said(self.record, "sender", line)

    def last_words(self) -> Reply:
        """What answers a command for which there is no receiver any more: its own 421, if it has sent one."""
        return (self.farewell and self.farewell.last_421) or self._last_421 or self._last_words

    # -- what is noted

    def repaired(self, violation: Violation, **detail: int | str | bytes) -> None:
        """Count a repair and tell of it."""
        self.record.repairs[violation] += 1
        self.observer.repaired(self.record, Repair(violation, self.phase, detail))

    def ended(self, who: str) -> None:
        """Note who ended the session, the first time."""
        if self.record.ended_by == "-":
            self.record.ended_by, self.record.ended_in = who, self.phase

    def give_up_in_disorder(self, violation: Violation, reply: Reply) -> None:
        """Give the receiver up for a reply that cannot stand where it stands."""
        self.repaired(violation, reply=reply.octets)
        # Whatever it answers, a receiver that has said 354 takes what comes for mail data.
        self.mail_data_open = self.mail_data_open or reply.code == 354
        self._last_words = IN_DISORDER
        self.give_up()

    async def end_with(self, who: str, reply: Reply) -> bool:
        """Give the last reply of a session that `who` has ended; False, as no command may follow."""
        self.ended(who)
        await self.say(reply)
        return False

    # -- what no command has asked for

    def look_at_receiver(self) -> None:
        """Drop what the receiver said unasked; give it up if it is going, or does not stop."""
        receiver, replies = self.receiver, self.replies
        assert receiver is not None
        self._drop_unasked()
        while self.farewell is None and (octets := receiver.look()):
            self._unasked_octets += len(octets)
            replies.feed(octets)
            self._drop_unasked()
            if self._unasked_octets > replies.limit_octets and self.farewell is None:
                self.give_up_in_disorder(Violation.EXTRA_REPLY, Reply(0, octets))
        if receiver.ended and self.farewell is None:
            if cut_off := replies.cut_off():
                self._drop(cut_off)
            if self.phase != AFTER_421:
                violation = (
                    Violation.GREETING_THEN_CLOSE if self.phase == FIRST_COMMAND else Violation.CLOSED_WHILE_IDLE
                )
                self.repaired(violation, how=receiver.ended.value)
            self.give_up()

    def _drop_unasked(self) -> None:
        while self.farewell is None and (reply := self.replies.next_reply()):
            self._drop(reply)

    def _drop(self, reply: Reply) -> None:
        if reply.code == 354:
            self.give_up_in_disorder(Violation.EXTRA_REPLY, reply)
            return
        self.repaired(Violation.EXTRA_REPLY, reply=reply.octets)
        if reply.code == 421:
            self._last_421 = reply
            self.give_up()

    @property
    def quiet(self) -> bool:
        """Whether the receiver is there and has said nothing unasked.

        Whoever was woken just now has readiness as fresh as the driver's last round.
        """
        receiver = self.receiver
        return self.farewell is None and receiver is not None and not receiver.readable and self.replies.empty

    async def in_step(self) -> bool:
        """Whether the next reply can only be one to the next command; if not, the receiver is given up."""
        receiver, replies = self.receiver, self.replies
        if self.farewell is not None or receiver is None:
            return False
        self.look_at_receiver()
        # If a part of a reply lies there, its rest must not answer the next command.
        self.watch.allow(self.deadlines.linger_idle, "the rest of a reply")
        try:
            while not (replies.empty or self.farewell):
                await receiver.wait_to_read()
                self.look_at_receiver()
        except DeadlinePassed:
            self.give_up_in_disorder(Violation.NOT_A_REPLY, Reply(0, replies.unread))
        return self.farewell is None

    # -- how they end

    def give_up(self, early: Reply | None = None) -> Farewell:
        """Begin to see the receiver off; `early` is what it said that made it so."""
        if self.farewell is None:
            assert self.receiver is not None
            self.farewell = Farewell(
                self.receiver, self.replies, self.deadlines, self.repaired, in_mail=self.mail_data_open
            )
            if early:
                self.farewell.hear_reply(early)
            self.beside.start_soon(self.farewell.run, self.watchdog.watch(), name=f"{self.record.id} farewell")
        return self.farewell

    async def part(self) -> None:
        """Close both legs politely, as far as the peers let it."""
        self.sender.half_close()
        if receiver := self.live_receiver:
            await self._take_leave_of(receiver)
        await self._see_off(self.sender)
        if self.farewell:
            await self.farewell.over()

    async def _take_leave_of(self, receiver: Leg) -> None:
        if self.mail_data_open:
            receiver.reset()
        elif not (self.quit_forwarded or receiver.broken or receiver.ended):
            try:
                await receiver.write(b"QUIT\r\n")
            except (LegBroken, DeadlinePassed, Interrupted):
                receiver.reset()
        await self._see_off(receiver)

    async def _see_off(self, leg: Leg) -> None:
        deadlines = self.deadlines
        if await leg.part(deadlines.linger_idle, deadlines.linger_total) is Parted.LINGERED_OUT:
            self.repaired(Violation.NO_CLOSE, leg=leg.name)

    def close(self) -> None:
        """Reset what is not closed yet, and count."""
        self.sender.reset()
        if self.receiver is not None and self.farewell is None:
            self.receiver.reset()
        self.watch.close()
        self.record.count_octets(self.sender, self.receiver)
