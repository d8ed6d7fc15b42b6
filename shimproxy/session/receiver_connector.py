"""How a session gets its receiver: dialled, greeted, over to TLS, told of the sender, logged in at; also anew.

RFC 5321 3.1.

Invariants:

1. Nothing of the sender's is forwarded before the leg is as secure as it has to be, the receiver told who the sender
   is, and the shim's own login done, in this order: XCLIENT ends a login. A receiver that refuses the hello of the
   sender is told nothing more: the sender has that reply.
2. A leg that is opened anew is told who the sender is, as the one before it was.
3. It offers what the sender was offered on that one; else there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import DeadlinePassed, DialFailed, NoMeans, SenderUnusable
from shimproxy.session.closing import Closing
from shimproxy.session.coming_back import after_trial, instead_of_dialling
from shimproxy.session.greeting_wait import first_reply
from shimproxy.session.line import has_its_turn
from shimproxy.session.receiver import Receiver
from shimproxy.session.replies import (
    NO_CONNECTION,
    NO_LOGIN,
    NO_MEANS,
    NO_SERVICE,
    NOT_AS_BEFORE,
    RECEIVER_FULL,
    RECEIVER_NOT_SECURE,
    SENDER_UNUSABLE,
)
from shimproxy.session.xclient import Xclient
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import OUT_OF_STEP, ReplyTo, ruling
from shimproxy.smtp.reply import LocalReply, ReplyReader

if TYPE_CHECKING:
    from shimproxy.net.receivers import Route
    from shimproxy.net.watch import Watch
    from shimproxy.session.lingering_close import BackgroundCloser
    from shimproxy.session.pending import PendingReplies
    from shimproxy.session.policy import Policy
    from shimproxy.session.security import Security
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.command import Command
    from shimproxy.smtp.reply import Reply


class NoReceiver(Exception):
    """There is no receiver for the sender, because of `by`; `reply` is the last of its session.

    `told` is whether it was told who the sender is, and may have refused that one alone.
    """

    def __init__(
        self, reply: Reply | LocalReply, by: Closing = Closing.BY_RECEIVER, *, told: bool = False, kind: str = "other"
    ) -> None:
        super().__init__(reply)
        self.kind = kind
        """Why there is none, in a word for figures."""
        self.reply = reply
        self.by = by
        self.told = told


@attrs.define(eq=False)
class ReceiverConnector:
    """How one session gets its receiver."""

    events: SessionEvents
    policy: Policy
    watch: Watch
    """What the session waits under."""
    route: Route
    closer: BackgroundCloser
    security: Security
    receiver: Receiver | None = None
    """Once it is dialled, and whatever becomes of it."""
    _xclient: Xclient = attrs.field(init=False)
    _greeted_at: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._xclient = Xclient(self.route, self.events, self.policy, self.security.hellos)

    async def greeting(self) -> Reply:
        """Dial the receiver, and take its greeting; of several, from the first one that serves.

        Raises NoReceiver, SessionEnded, LegBroken, Interrupted.
        """
        route = self.route
        if self.receiver is None and (refusal := await instead_of_dialling(self.security.sender, self.events, route)):
            raise NoReceiver(refusal, Closing.BY_SHIM)
        while True:
            try:
                greeting = await self._greeting_of_next()
            except NoReceiver as failed:
                if failed.by is Closing.BY_SHIM:
                    raise
                if failed.reply is not RECEIVER_FULL:
                    route.was_of_no_use()
                    route.note_failure(failed.kind)
                if not route.has_more:
                    raise
            else:
                if greeting is None:
                    route.go_back()
                    continue
                if greeting.severity == 2:
                    route.was_of_use()
                    return greeting
                route.note_failure("greeting_refused")
                if not route.tells_sender:
                    route.was_of_no_use()
                if not route.has_more:
                    return greeting
            if self.receiver:
                self.receiver.give_up()

    async def dial(self) -> Receiver:
        """Dial the next receiver, which is not heard yet. Raises NoReceiver, Interrupted."""
        events, deadlines = self.events, self.policy.deadlines
        record = events.record
        route = self.route
        try:
            has_turn = await has_its_turn(route, self.watch, self.security.sender)
            if record.receiver == "-":
                record.receiver = route.receiver  # it may be that there is no connection
            if not has_turn:
                events.repaired(Violation.LIMIT_REACHED, limit="receiver-connections")
                raise NoReceiver(RECEIVER_FULL)
            leg = await route.dial(self.watch, deadlines.connect)
        except NoMeans as failed:
            events.repaired(Violation.LIMIT_REACHED, limit="descriptors", reason=str(failed))
            raise NoReceiver(NO_MEANS, Closing.BY_SHIM) from None
        except SenderUnusable as failed:
            events.repaired(Violation.UNREACHABLE, reason=str(failed))
            raise NoReceiver(SENDER_UNUSABLE, Closing.BY_SHIM) from None
        except DialFailed as failed:
            events.repaired(Violation.UNREACHABLE, reason=str(failed))
            raise NoReceiver(NO_CONNECTION, kind=failed.kind) from None
        if events.reply_times:
            events.reply_times.begin()
        record.receiver, record.receiver_tls = leg.peer, leg.tls_version
        receiver = self.receiver
        if receiver:
            self.security.forget_login()
            receiver.begin_anew(leg)
        else:
            replies = ReplyReader(self.policy.limits.reply_octets, passed=self.policy.observed)
            receiver = self.receiver = Receiver(leg, replies, events, deadlines, self.closer)
        if events.tracer:
            events.tracer.follow_receiver(leg, receiver.replies)
        if not await self.security.secure_at_once(leg):
            raise NoReceiver(RECEIVER_NOT_SECURE, kind="tls")
        return receiver

    async def _greeting_of_next(self) -> Reply | None:
        """The greeting of the next receiver; None if the same one has to be dialled again."""
        events, deadlines = self.events, self.policy.deadlines
        is_first = self.receiver is None
        receiver = await self.dial()
        leg = receiver.leg
        # The sender waits as long as this for a greeting, too: where there are others, there is no time for each.
        seconds = min(deadlines.connect, deadlines.greeting) if self.route.has_more else deadlines.greeting
        waited_for = ""
        try:
            # Once there was a greeting, or another receiver, what the sender has said is its commands.
            heard = self.security.sender if is_first else None
            reply = await first_reply(receiver, heard, events, self.route, seconds)
            if isinstance(reply, LocalReply):
                raise NoReceiver(reply, Closing.BY_SHIM)
        except DeadlinePassed as late:
            reply = None
            waited_for = late.what
        if trial := self.route.loops.trial_of(leg):  # of no use, even if the receiver has greeted meanwhile
            leg.reset()
            if refusal := await after_trial(trial, self.security.sender, events, leg):
                raise NoReceiver(refusal, Closing.BY_SHIM)
            return None
        if reply is None and leg.secured and not (leg.octets_in or waited_for):
            self.security.note_lost_inside(leg)
            receiver.give_up()
            raise NoReceiver(RECEIVER_NOT_SECURE, kind="tls")
        if reply is None or ruling(ReplyTo.GREETING, reply) is OUT_OF_STEP:
            said = reply.octets if reply else b""
            events.repaired(Violation.NO_GREETING, said=said, waited_for=waited_for)
            receiver.give_up()
            raise NoReceiver(NO_SERVICE, kind="no_greeting")
        if events.reply_times:
            events.reply_times.note_greeting()
        self._greeted_at = self.watch.now
        return reply

    @property
    def _tells_sender(self) -> bool:
        """Whether a receiver knows who the sender is once it has been prepared, and may refuse that one alone."""
        return self.route.tells_sender or self.policy.xclient

    def was_left_by_itself(self, *, blameless: bool) -> None:
        """The receiver has ended the connection by itself, or owes a reply: others go first for a while.

        For this sender alone, until another fares the same: it may be for what this one has said. Not if it has refused
        anything, which may be why it left; nor if it has waited in vain for commands of a sender that is `blameless`.
        """
        receiver = self.receiver
        if receiver and receiver.failed:
            self.route.was_of_no_use(told=True)
        elif blameless and self.watch.now - self._greeted_at < self.policy.deadlines.connect:
            self.route.was_of_no_use(told=self._tells_sender)

    async def another(self, pending: PendingReplies, command: Command) -> bool:
        """Open a leg to one of the receivers that are left, for what the last one has not answered.

        Whether `command`, the first of that, can be forwarded. Raises NoReceiver, Interrupted.
        """
        await self._another()
        self.events.record.resumed += 1
        if pending.hello:
            await self.as_before(pending, pending.hello)
            return True
        return self.policy.receiver_needs_nothing or await self.prepare(pending.receiver, command)

    async def prepare(self, receiver: Receiver, command: Command) -> bool:
        """Before a command of the sender's is forwarded: TLS, XCLIENT and the login, where they have to be.

        Of several receivers, at the first one where that succeeds. Whether no more can be to do before the next one.
        Raises NoReceiver, Interrupted.
        """
        while True:
            try:
                return await self._prepare(receiver, command)
            except NoReceiver as failed:
                if not failed.told:
                    self.route.was_of_no_use(told=self._xclient.has_told(receiver))
                if not self.route.has_more:
                    raise
            receiver.give_up()
            await self._another()

    async def _another(self) -> None:
        """Dial one of those that are left, for a sender that was greeted already. Raises NoReceiver, Interrupted."""
        greeting = await self.greeting()
        if greeting.severity != 2:
            self.events.repaired(Violation.NOT_AS_BEFORE, reason="no greeting", said=greeting.octets)
            raise NoReceiver(greeting if greeting.code == 421 else NO_SERVICE)

    async def _prepare(self, receiver: Receiver, command: Command) -> bool:
        while True:
            failed = await self._failure(receiver, command)
            if self.security.hellos.refusal_of(receiver, command):
                return False
            if failed:
                raise failed
            if not self.security.hellos.are_refused(receiver):
                return self._xclient.is_made_at(receiver)
            self.security.hellos.note_refusal(receiver)
            receiver.give_up()  # it may be about to close, as it does not know the word
            await receiver.earlier.see_off()
            await self._again()

    async def _failure(self, receiver: Receiver, command: Command) -> NoReceiver | None:
        """What keeps the sender's command from being forwarded, if anything does. Raises NoReceiver, Interrupted."""
        if not await self.security.prepare(receiver, command, self._again):
            return NoReceiver(RECEIVER_NOT_SECURE)
        if refusal := await self._xclient.refusal(receiver, command):
            return NoReceiver(refusal, told=self._xclient.was_refused)
        if not await self.security.log_in(receiver, command):
            return NoReceiver(NO_LOGIN)
        return None

    async def _again(self) -> None:
        """Dial the same receiver once more. Raises NoReceiver, Interrupted."""
        self.route.go_back()
        await self._another()

    async def anew(self, receiver: Receiver, *, blameless: bool) -> None:
        """Open a fresh leg, as the last one was given up; whether the sender was `blameless`.

        Raises NoReceiver, Interrupted.
        """
        await receiver.earlier.see_off()
        self.was_left_by_itself(blameless=blameless)
        self.route.begin_anew()
        await self._another()
        self.events.record.resumed += 1

    async def as_before(self, pending: PendingReplies, hello: Command) -> bool:
        """See to it that MAIL finds a fresh leg as it would have found the last one.

        Whether no more can be to do before the next command. Raises NoReceiver, Interrupted.
        """
        receiver = pending.receiver
        while True:
            done = await self.prepare(receiver, hello)
            try:
                reply = await self.security.hellos.say(receiver, hello)
            except DeadlinePassed:
                self.events.repaired(Violation.NO_REPLY, to=str(hello.verb))
                reply = None
            else:
                if reply and reply.kind == 2 and pending.capabilities.offers_as_before(reply):
                    return done
                _note_difference(self.events, hello, reply)
            if (reply is None or reply.kind != 2) and not (reply and self._tells_sender):
                self.route.was_of_no_use(told=self._tells_sender)
            receiver.give_up()
            if not self.route.has_more:
                raise NoReceiver(reply if reply and reply.code == 421 else NOT_AS_BEFORE)
            await self._another()


def _note_difference(events: SessionEvents, hello: Command, reply: Reply | None) -> None:
    """The receiver has not said to the sender's hello what it was to say."""
    said = reply.octets if reply else b""
    if reply and reply.kind == 2:
        events.repaired(Violation.NOT_AS_BEFORE, reason="its capabilities have changed", said=said)
    else:
        reason = f"reply to {hello.verb}" if reply else f"lost at {hello.verb}"
        events.repaired(Violation.NOT_AS_BEFORE, reason=reason, said=said)
