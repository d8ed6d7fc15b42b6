"""The sender leg: the commands that come from it, and the replies that go to it.

Replies that follow one another at once are written together, before anything is waited for. It does not know what a
reply answers.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from shimproxy.net.acknowledged import have_arrived, place
from shimproxy.net.errors import Interrupted
from shimproxy.net.tap import Ended
from shimproxy.session.lingering_close import see_off
from shimproxy.session.phase import AFTER_421
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.session.limits import Deadlines
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.command import CommandReader
    from shimproxy.smtp.reply import LocalReply


@attrs.define(eq=False)
class Sender:
    """The sender's side of a session."""

    leg: Leg
    commands: CommandReader
    events: SessionEvents
    _deadlines: Deadlines
    _farewell_octets: int
    """What it may still say once the session is over."""
    enhanced_codes: bool = False
    """Whether the EHLO reply that it was given offers enhanced status codes (RFC 2034)."""
    told_421: bool = False
    """Whether it was told that the session ends."""
    _unsaid: bytes = b""
    _verdict_until: float | None = None
    """Where in the connection its last verdict ends; infinite until that is written."""
    _verdict_code: int = 0
    _gone: Ended | None = None
    """How it went, if it did before the shim's FIN and may not have its verdict."""

    def __attrs_post_init__(self) -> None:
        if self.events.tracer:
            self.events.tracer.follow_sender(self.leg, self.commands)

    def put(self, reply: Reply | LocalReply) -> None:
        """Relay a reply octet for octet, or give one of the shim's own, with those that follow at once; see `pour`."""
        events = self.events
        given = reply if isinstance(reply, Reply) else reply.enhanced if self.enhanced_codes else reply.plain
        if events.telling:
            events.answers(given, own=given is not reply)
        if (mails := events.mails) is not None and (given.code >= 400 or not mails.counts):
            mails.answered(given, given is not reply)
        events.record.replies[given.code // 100] += 1
        if given.code == 421:
            events.phase = AFTER_421
            self.told_421 = True
        octets = given.as_came or given.octets
        self._unsaid = self._unsaid + octets if self._unsaid else octets

    def relay_now(self, reply: Reply) -> bool:
        """Relay a reply that is told already, no refusal, and not made of another, while nothing else is to be said.

        Whether all of it was taken at once; the rest is for `pour`. Raises LegBroken.
        """
        events, octets = self.events, reply.octets
        if (mails := events.mails) is not None and not mails.counts:
            mails.answered(reply, False)
        events.record.replies[reply.code // 100] += 1
        taken_octets = self.leg.send_now(octets)
        if taken_octets == len(octets):
            return True
        self._unsaid = octets[taken_octets:]
        return False

    def relay_verdict_now(self, reply: Reply) -> bool:
        """As `relay_now`, with the reply to its mail data."""
        if (mails := self.events.mails) is not None:
            mails.verdict(reply)
        self._verdict_until, self._verdict_code = math.inf, reply.code
        if not self.relay_now(reply):
            return False
        self._verdict_until = self.leg.octets_out
        return True

    def look_ahead(self) -> int:
        """How much it has sent that is not read as a command yet."""
        leg, commands = self.leg, self.commands
        if leg.readable and not commands.ahead and (octets := leg.look()):
            commands.feed(octets)
        return len(commands.ahead)

    @property
    def unsaid_octets(self) -> int:
        """How much was put and is not written."""
        return len(self._unsaid)

    def pour_now(self) -> bool:
        """Write what was put, as far as it is taken at once; whether that was all. Raises LegBroken."""
        octets = self._unsaid
        if octets:
            self._unsaid = octets[self.leg.send_now(octets) :]
            if self._verdict_until == math.inf and not self._unsaid:
                leg = self.leg
                self._verdict_until = place(leg) if leg.secured else leg.octets_out
        return not self._unsaid

    async def pour(self) -> None:
        """Write what was put. Raises LegBroken, DeadlinePassed, Interrupted."""
        if not self.pour_now():
            octets, self._unsaid = self._unsaid, b""
            self.leg.watch.allow(self._deadlines.command, "the sender taking a reply")
            await self.leg.write_on(octets, 0)
            if self._verdict_until == math.inf:
                self._verdict_until = place(self.leg)

    def put_verdict(self, reply: Reply | LocalReply) -> None:
        """Put the reply to its mail data."""
        if (mails := self.events.mails) is not None:
            mails.verdict(reply)
        self.put(reply)
        self._verdict_until = math.inf
        self._verdict_code = reply.code if isinstance(reply, Reply) else reply.plain.code

    # -- how it ends

    def half_close(self) -> bool:
        """Send FIN; whether it may still speak."""
        leg = self.leg
        speaks = leg.readable and leg.look() is not None
        if self._verdict_until is not None and not leg.closed:
            # A reset says nothing of what was written before it came.
            self._gone = Ended.RST if leg.broken else leg.ended if leg.ended is Ended.FIN else None
        leg.half_close()
        return speaks and not leg.ended

    async def see_off(self) -> None:
        """Let it close, too; and note whether it had gone before it had the verdict on its mail."""
        until, how = self._verdict_until, self._gone
        if how and until is not None:
            with suppress(Interrupted):
                written = until < math.inf
                if not (written and await have_arrived(self.leg, until, self._deadlines.linger_idle)):
                    self.events.repaired(Violation.VERDICT_UNREAD, code=self._verdict_code, how=how.value)
        await see_off(self.leg, self._deadlines, self.events, self._farewell_octets)

    async def say(self, *replies: Reply | LocalReply) -> None:
        """Give a reply now, or several. Raises LegBroken, DeadlinePassed, Interrupted."""
        for reply in replies:
            self.put(reply)
        await self.pour()
