"""Taking leave of a receiver that has spoken in mail data, has gone, or is out of step.

Invariants:

1. Nothing more is written to the leg (guarantee 6).
2. A receiver that has given its verdict before it had all of the mail data is reset at once, so that what is queued for
   it is discarded: it may read that as commands (guarantee 6). Only one that is leaving by itself, as its FIN or a 421
   lies there, and has refused the mail, has a half-close; and a reset after that, if it reads no more of what is
   queued. What it has said is read before.
3. Any other receiver that may be in the midst of a mail is heard out, as long as the linger lasts, and never sent FIN,
   which a lax one takes for the mail's end (guarantee 5). What lies unread is heard first: a 354 may be in it.
4. The verdict is the first 4yz or 5yz; a 2yz never becomes one (guarantees 2 and 3). With LMTP there are as many as
   recipients, as far as nothing is under way to the receiver any more.
5. A later reply is dropped; of those, a 421 is kept for the sender's next command. From the shim's FIN on, which
   comes at once outside mail data, it is no violation.

It runs beside the session, which drains the sender meanwhile.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.errors import Interrupted
from shimproxy.net.lingering import LINGERED_OUT, linger, part
from shimproxy.session.record import DroppedReplies
from shimproxy.session.trace import EARLY, LATE
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import DECIDES, ReplyTo, about_early_reply, ruling

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.leg import Leg
    from shimproxy.net.watch import Watch, Watchdog
    from shimproxy.session.data_state import MailDataState
    from shimproxy.session.limits import Deadlines
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.reply import Reply, ReplyReader


MOST_LOOKS: Final = 4
"""So much is read before a reset or a half-close, in reads; whoever has said more is reset."""


_MOST_HEARD: Final = 64
"""Replies that are heard without a pause."""


async def see_off(
    leg: Leg,
    deadlines: Deadlines,
    events: SessionEvents,
    most_octets: float,
    heard: Callable[[bytes], object] | None = None,
    *,
    discards: bool = False,
) -> None:
    """Half-close a leg with a bounded linger, and note a peer that stays, or says more than that. See `part`."""
    parted = await part(leg, deadlines.linger_idle, deadlines.linger_total, heard, most_octets, discards=discards)
    if parted is LINGERED_OUT:
        events.repaired(Violation.NO_CLOSE, leg=leg.name)


@attrs.define(eq=False)
class LingeringClose:
    """One receiver leg on its way out, and what it still says."""

    leg: Leg
    _replies: ReplyReader
    _deadlines: Deadlines
    events: SessionEvents
    _data: MailDataState
    """How far the receiver is in mail data: if these are open, it may be in the midst of a mail."""
    _decides: bool = True
    """Whether what it says can be the verdict on that."""
    _verdicts_due: int = 1
    decided: list[Reply] = attrs.field(factory=list)
    """The verdicts so far: a 4yz or 5yz, which takes the place of a 2yz; with LMTP one for each recipient, in order."""
    last_421: Reply | None = None
    _overflows: bool = False
    """Whether it has said more than was heard: a 354 may be in that."""
    _half_closed: bool = False
    """Whether the shim has sent FIN, so that what is said may answer that."""
    _further: DroppedReplies = attrs.field(factory=lambda: DroppedReplies(Violation.FURTHER_REPLY))
    _settled: trio.Event = attrs.field(factory=trio.Event)
    _over: trio.Event = attrs.field(factory=trio.Event)
    _session_watch: Watch = attrs.field(init=False)
    """What the session waits under."""

    def __attrs_post_init__(self) -> None:
        self._session_watch = self.leg.watch

    def begin(self, early: Reply | None, *, noted: bool) -> bool:
        """Hear what the receiver has said so far; whether that was all, as the leg is closed.

        Args:
            early: what it said before it had all of the mail data, if that is why it is left.
            noted: whether that is told already.
        """
        if early and ruling(ReplyTo.IN_MAIL_DATA, early)[0] in DECIDES:
            self._hear_reply(early, noted=noted)
        elif early and self.events.telling:
            self.events.heard_reply(self.leg, early, EARLY)
        self._overflows = self._hear(b"")
        if early:
            self._hear_what_lies_there()
        if self._data.is_open and self._has_its_verdict and not self._leaves_politely:
            self._end()
            return True
        return False

    async def run(self) -> None:
        """Take leave; ends within the linger deadlines."""
        leg, deadlines = self.leg, self._deadlines
        try:
            with suppress(Interrupted):
                while self._overflows and self._hear(b""):
                    await leg.watch.pause()
            if not self._data.is_open:
                self._hear_what_lies_there()
            if self._data.is_open and not self._has_its_verdict:
                with suppress(Interrupted):
                    await linger(
                        leg,
                        deadlines.linger_idle,
                        deadlines.linger_total,
                        self._hear,
                        lambda: self._has_its_verdict,
                        self._replies.most_octets,
                    )
                self._hear_what_lies_there()
                self._hear_cut_off()
            if self._leaves_politely and not (self._replies.may_ask_for_data or self._overflows):
                self._half_closed = True
                most_octets = self._replies.most_octets
                await see_off(leg, deadlines, self.events, most_octets, self._hear, discards=self._data.is_open)
                self._hear_cut_off()
        finally:
            leg.watch.close()
            self._end()

    def _end(self) -> None:
        self._further.tell(self.events.repaired)
        self.leg.reset()
        self._settled.set()
        self._over.set()

    async def verdicts(self) -> list[Reply]:
        """What was decided, as soon as it is; less than was due if the receiver ended without."""
        await self._wait_for(self._settled)
        return self.decided

    def hurry(self) -> None:
        """Nobody needs a verdict any more."""
        if self._data.is_open and not (self._leaves_politely or self._over.is_set()):
            self.leg.watch.interrupt()

    async def over(self) -> None:
        """Return when the leg is closed."""
        await self._wait_for(self._over)

    async def _wait_for(self, event: trio.Event) -> None:
        if not event.is_set():
            async with self._session_watch.in_task():
                await event.wait()

    @property
    def _has_its_verdict(self) -> bool:
        """Whether nothing more is to be waited for.

        With LMTP the first of several verdicts has to do where anything is still under way to the receiver.
        """
        if not self.decided:
            return False
        there = len(self.decided) == self._verdicts_due or self.last_421 is not None
        return there or self.leg.unacknowledged_octets > 0

    @property
    def _leaves_politely(self) -> bool:
        """Whether the leg is half-closed: no mail can come of a FIN, nor a command of what is queued before it."""
        if not self._data.is_open:
            return True
        leaving = self.leg.ended is not None or self.last_421 is not None
        return leaving and len(self.decided) == self._verdicts_due and all(reply.refuses for reply in self.decided)

    def _hear(self, octets: bytes) -> bool:
        """Hear some replies; whether there may be more."""
        self._replies.feed(octets)
        for _ in range(_MOST_HEARD):
            reply = self._replies.next_reply()
            if not reply:
                return False
            self._hear_reply(reply)
        return True

    def _hear_what_lies_there(self) -> None:
        for _ in range(MOST_LOOKS):
            octets = self.leg.look()
            if not octets:
                return
            if self._hear(octets):
                break
        self._overflows = True

    def _hear_cut_off(self) -> None:
        if cut_off := self._replies.cut_off():
            self._hear_reply(cut_off)

    def _hear_reply(self, reply: Reply, *, noted: bool = False) -> None:
        if self.events.telling and not noted:
            self.events.heard_reply(self.leg, reply, EARLY if self._data.is_open else LATE)
        if reply.code == 421:
            self.last_421 = reply
        elif reply.asks_for_data and not self._data.is_open:
            self._data.doubt()
            self.decided.clear()  # what was said before is no verdict on what it asks for now
        if self._decides and self._decide(reply):
            if reply.violations and not noted:
                self.events.tell_form(reply)
        elif self._data.is_open and not self._half_closed:
            self._further.count(reply)
        if self._has_its_verdict:
            self._settled.set()

    def _decide(self, reply: Reply) -> bool:
        """Whether that is a verdict."""
        decided, due = self.decided, self._verdicts_due
        what = about_early_reply(reply, decided=len(decided), due=due)
        if ruling(what, reply)[0] not in DECIDES:
            return False
        if len(decided) < due:
            decided.append(reply)
            return True
        for index, earlier in enumerate(decided):
            if not earlier.refuses:
                decided[index] = reply
                return True
        return False


@attrs.frozen
class BackgroundCloser:
    """Where lingering closes run: beside the sessions, each with a watch of its own."""

    nursery: trio.Nursery
    watchdog: Watchdog

    def start(self, lingering: LingeringClose) -> None:
        """Begin a lingering close."""
        lingering.leg.watch = self.watchdog.watch()
        self.nursery.start_soon(lingering.run, name=f"{lingering.events.record.id} lingering close")
