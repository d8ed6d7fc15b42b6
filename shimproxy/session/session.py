"""One session: a sender and a receiver, from the connection to the end of both legs.

It reads as RFC 5321 4.3 does: greeting, then command, reply, command, reply (commands.py), with mail data where a 354
has said so (mail_data_handler.py). One coroutine serves both legs; a sender that was offered PIPELINING goes on before
it has the replies (pending.py).

Invariants:

1. The sender gets the greeting, and after its commands the last reply, whoever ends the session.
2. `run` ends with both legs closed, whatever happened, and raises nothing that the peers can cause.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import attrs
import trio

from shimproxy.net.errors import DeadlinePassed, Interrupted, LegBroken
from shimproxy.net.tap import Ended
from shimproxy.session.capabilities import Capabilities
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.command_stream import CommandStream
from shimproxy.session.commands import Commands, secure_sender
from shimproxy.session.early_talk import instead_of_greeting, instead_of_tls
from shimproxy.session.hello import Hellos
from shimproxy.session.mail_data_handler import MailDataHandler
from shimproxy.session.observed import ObservedRelay, observe
from shimproxy.session.pending import PendingReplies
from shimproxy.session.phase import SessionPhase, conduct
from shimproxy.session.plain_turns import PlainTurns
from shimproxy.session.policy import Repairs, SenderTls
from shimproxy.session.quota import Quota
from shimproxy.session.receiver_connector import NoReceiver, ReceiverConnector
from shimproxy.session.receiver_parting import hurry_lingering, note_departure, part_from_receiver, wait_for_lingering
from shimproxy.session.replacement import Replacement
from shimproxy.session.replies import SENDER_LATE, SHUTTING_DOWN
from shimproxy.session.reply_waits import ReplyWaits
from shimproxy.session.security import Security
from shimproxy.session.size_limit import SizeLimit
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.receivers import Route
    from shimproxy.net.watch import Watch
    from shimproxy.session.connection_origin import ConnectionOrigin
    from shimproxy.session.lingering_close import BackgroundCloser
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.reply import LocalReply, Reply


_OBSERVE: Final = Repairs.OBSERVE  # from the class it takes ten times as long, in Python 3.11


@attrs.define(eq=False)
class Session:
    """The dialogue of a sender with the receiver that is dialled for it."""

    sender: Sender
    events: SessionEvents
    policy: Policy
    route: Route
    closer: BackgroundCloser
    origin: ConnectionOrigin | None = None
    """Where something has to be found out before the greeting."""
    over: Callable[[Session], None] | None = None
    """Is told when the session is over, whatever has ended it."""
    _watch: Watch = attrs.field(init=False)
    """What both legs wait under, until the receiver is given up."""
    _security: Security = attrs.field(init=False)
    _connector: ReceiverConnector = attrs.field(init=False)
    _began_at: float = attrs.field(init=False)
    """When it did, as the watch tells it."""
    _pending: PendingReplies | None = None
    """Once the sender is greeted."""
    _stream: CommandStream | None = None
    """Once the sender is greeted."""
    _relay: ObservedRelay | None = None
    """Once there is a receiver, where the session is only observed."""

    def __attrs_post_init__(self) -> None:
        self._watch = self.sender.leg.watch
        self._began_at = self._watch.now
        self._security = Security(self.sender, self.events, self.policy, Hellos(self.policy))
        self._connector = ReceiverConnector(
            self.events, self.policy, self._watch, self.route, self.closer, self._security
        )

    @property
    def receiver(self) -> Receiver | None:
        """The receiver, once it is dialled."""
        return self._connector.receiver

    # -- the whole

    async def run(self) -> None:
        """Serve the sender to the end; afterwards both legs are closed and the record is complete."""
        events = self.events
        started = trio.current_time()
        try:
            await self._converse_and_part()
        except Exception as error:  # a bug of ours must not take the listener down
            events.observer.failed(events.record, error)
        finally:
            try:
                events.ended(Closing.BY_SHIM)
                self._close()
                events.record.seconds = trio.current_time() - started
                events.record.ended_at = time.time()
                events.observer.ended(events.record)
            finally:
                if self.over:
                    self.over(self)

    async def _converse_and_part(self) -> None:
        try:
            try:
                if self.policy.repairs is _OBSERVE:
                    await self._observe()
                await (await self._greet()).serve()
            except SessionEnded as end:
                await self._end(end)
        except LegBroken:
            if self.receiver:
                note_departure(self.receiver, Ended.RST)
                self.events.ended(Closing.BY_SENDER)
        except DeadlinePassed as late:
            # It need not speak after a 421, but has to take what is left of that: else its leg is broken by now.
            if conduct(self.events.phase).closing is Closing.BY_RECEIVER and not self.sender.leg.broken:
                self.events.ended(Closing.BY_RECEIVER)
            else:
                self.events.repaired(Violation.SENDER_STALLED, waited_for=late.what)
                await self._break_off(SENDER_LATE)
        except Interrupted:
            await self._break_off(SHUTTING_DOWN)
        except NoReceiver as failed:
            await self._break_off(failed.reply, failed.by)
        pending = self._pending
        if self.policy.fails_over and pending and not pending.has_refused:
            self._connector.was_left_by_itself(blameless=pending.is_blameless and pending.receiver.said_421)
        await self._part()

    async def _break_off(self, reply: Reply | LocalReply, by: Closing = Closing.BY_SHIM) -> None:
        """Give the last reply to a sender that may not take it."""
        with suppress(LegBroken, DeadlinePassed, Interrupted):
            try:
                if self._pending and self._pending.outstanding:
                    await self._pending.answer_the_rest(reply, by)
                raise SessionEnded(by, reply)
            except SessionEnded as end:
                await self._end(end)

    async def _end(self, end: SessionEnded) -> None:
        """Give the sender its last replies. Raises LegBroken, DeadlinePassed, Interrupted."""
        self.events.ended(end.by)
        if end.replies:
            await self.sender.say(*end.replies)

    async def _part(self) -> None:
        """Close both legs politely, as far as the peers let it."""
        sender, receiver = self.sender, self.receiver
        if sender.half_close():  # what it still sends must not wait for the receiver's leave
            await sender.see_off()
        if receiver:
            await part_from_receiver(receiver)
        if not sender.leg.closed:
            await sender.see_off()
        if receiver:
            await wait_for_lingering(receiver)

    def _close(self) -> None:
        """Reset what is not closed yet, and count."""
        sender, receiver = self.sender.leg, self.receiver
        sender.reset()
        if receiver and not receiver.lingering:
            receiver.leg.reset()
        self._watch.close()
        self.origin = None  # it refers to the session: in a circle all of that would wait for the garbage collector
        if self.events.tracer:
            self.events.tracer.finish()
        if self.events.mails:
            self.events.mails.finish()
        self.events.record.count_octets(sender, receiver)

    def stop_when_idle(self) -> None:
        """End the session with a 421 as soon as no transaction is open."""
        if self._relay:
            self._relay.stop()
        elif self._stream:
            self._stream.stop()
        else:
            self._watch.interrupt()

    def stop_now(self) -> None:
        """End the session with a 421 wherever it is; mail data in progress are not accepted."""
        self._watch.interrupt()
        if self.receiver:
            hurry_lingering(self.receiver)

    # -- without a repair

    async def _observe(self) -> NoReturn:
        """Pass octets on as they come. Raises NoReceiver, SessionEnded, DeadlinePassed, Interrupted."""
        self.events.observes = self.events.record.observed = True
        await self._admit()

        def begin(relay: ObservedRelay) -> None:
            self._relay = relay

        await observe(self._connector, self.events, self.policy, begin)
        raise SessionEnded(Closing.BY_SENDER)

    # -- greeting

    async def _admit(self) -> None:
        """Find out who the sender is, and go over to TLS where it begins with that.

        Raises SessionEnded, DeadlinePassed, Interrupted.
        """
        sender, events = self.sender, self.events
        if self.origin:
            await self.origin.begin(sender.leg, self.policy.deadlines.proxy_header)
        if self.policy.sender_tls is SenderTls.IMPLICIT:
            if refusal := await instead_of_tls(sender, events, self.policy):
                raise SessionEnded(Closing.BY_SHIM, refusal)
            await secure_sender(self._security)
        if self.origin:
            self.origin.settle(sender.leg.sock)

    async def _greet(self) -> Commands:
        """Connect and relay the greeting. Raises NoReceiver if there is none, SessionEnded, Interrupted."""
        sender, events = self.sender, self.events
        await self._admit()
        reply = await self._connector.greeting()
        receiver = self.receiver
        assert receiver is not None
        if refusal := instead_of_greeting(sender, events, self.policy):
            raise SessionEnded(Closing.BY_SHIM, refusal)
        events.phase = SessionPhase.FIRST_COMMAND
        await sender.say(reply)
        return self._commands(receiver)

    def _commands(self, receiver: Receiver) -> Commands:
        """What serves the sender's commands, as it was greeted."""
        sender, events, policy = self.sender, self.events, self.policy
        if policy.sizes:
            receiver.transaction.size = SizeLimit(policy.sizes)
        capabilities = Capabilities(sender, receiver, events, policy)
        replacement = Replacement(self._connector) if policy.fails_over else None
        quota = Quota.beginning(self._began_at, policy.limits)
        pending = self._pending = PendingReplies(sender, receiver, events, policy, capabilities, quota, replacement)
        waits = ReplyWaits(pending, sender, receiver)
        stream = self._stream = CommandStream(sender, pending, waits, events, policy)
        ready = policy.receiver_needs_nothing
        mail_data = MailDataHandler(sender, pending, waits, events, policy)
        plain = PlainTurns(pending, stream, mail_data)
        security, connector = self._security, self._connector
        return Commands(
            sender, events, policy, pending, waits, stream, security, connector, mail_data, plain, ready=ready
        )
