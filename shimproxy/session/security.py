"""TLS on both legs, and the shim's own login: what is offered to the sender, and how either leg gets there.

RFC 3207 and RFC 4954.

Invariants:

1. Behind STARTTLS, plaintext is discarded on both legs, and nothing of the session before it is known any more.
2. The mail of a sender that used TLS is never relayed in the clear, unless the operator says so.
3. A receiver leg that has to be secure carries nothing but EHLO and STARTTLS before it is.
4. TLS with a receiver stands once it has said something inside it: in TLS 1.3 the client's handshake is over before
   the server has looked at the client's certificate, or at what it lacks (RFC 8446 section 4.4.2.4).

What passes unread is opaque.py's.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import DeadlinePassed, TlsFailed
from shimproxy.session.advice import of_failed_tls
from shimproxy.session.in_step import ask_receiver
from shimproxy.session.own_login import LOST, log_in_at
from shimproxy.session.policy import ReceiverTls, SenderTls
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import START_TLS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.net.leg import Leg
    from shimproxy.session.hello import Hellos
    from shimproxy.session.policy import Login, Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.command import Command
    from shimproxy.smtp.reply import Reply

STARTTLS = b"STARTTLS"


class _Start(enum.Enum):
    """What came of STARTTLS with a receiver."""

    SECURED = "it goes over"
    NOT_OFFERED = "it does not offer it"
    FAILED = "it fails, or disconnects"


@attrs.define(eq=False)
class Security:
    """The TLS of one session."""

    sender: Sender
    events: SessionEvents
    policy: Policy
    hellos: Hellos
    _logged_in: bool = False
    _lost_at: tuple[str, ...] = ()
    """Where TLS has failed with a receiver that may be in the clear; it is not tried again there."""
    hello_due: bool = False
    """Whether the sender has to say EHLO again, as it has just gone over to TLS."""

    # -- the sender leg

    @property
    def terminates(self) -> bool:
        """Whether the sender's STARTTLS is answered here."""
        return self.policy.sender_tls is SenderTls.STARTTLS

    async def secure_sender(self) -> None:
        """Go over to TLS with the sender. Raises TlsFailed, DeadlinePassed, Interrupted."""
        sender, events = self.sender, self.events
        context = self.policy.sender_context
        assert context is not None
        self._discard(sender.commands.take_ahead(), "sender")
        sender.leg.watch.allow(self.policy.deadlines.tls, "the sender's TLS handshake")
        try:
            await sender.leg.secure(context)
        except TlsFailed as failed:
            events.repaired(Violation.TLS_FAILED, leg="sender", reason=failed.reason)
            raise
        self.hello_due = self.terminates
        events.record.sender_tls = sender.leg.tls_version

    def discard_plaintext(self, receiver: Receiver) -> None:
        """Drop what either peer has said behind STARTTLS before the TLS that passes unread."""
        self._discard(self.sender.commands.take_ahead(), "sender")
        self._discard(receiver.take_unread(), "receiver")

    def _discard(self, octets: bytes, leg: str) -> None:
        if octets:
            self.events.repaired(Violation.PLAINTEXT_BEHIND_STARTTLS, leg=leg, octets=len(octets))

    # -- the receiver leg

    def forget_login(self) -> None:
        """There is another leg, or it has gone over to TLS: nobody has logged in there (RFC 3207 section 4.2)."""
        self._logged_in = False

    async def secure_at_once(self, leg: Leg) -> bool:
        """Go over to TLS with a receiver that begins with it, if it does; whether the leg is as it has to be.

        Raises Interrupted.
        """
        return self.policy.receiver_tls is not ReceiverTls.IMPLICIT or await self._handshake(leg)

    async def prepare(self, receiver: Receiver, command: Command, dial_again: Callable[[], Awaitable[None]]) -> bool:
        """Before the sender's first command is forwarded: go over to TLS, where that has to be or can be.

        Where it fails with a receiver that may be in the clear, `dial_again` opens another leg. Whether the leg is as
        it has to be. Raises Interrupted, and what `dial_again` does.
        """
        how = self.policy.receiver_tls
        starts = how in (ReceiverTls.OPPORTUNISTIC, ReceiverTls.REQUIRED)
        came_of_it = None
        while starts and not (receiver.leg.secured or receiver.leg.peer in self._lost_at):
            came_of_it = await self._start_tls(receiver, command)
            if came_of_it is not _Start.FAILED:
                break
            if how is ReceiverTls.REQUIRED:
                return False  # also over TLS, with one whom nobody trusts
            self._lost_at = (*self._lost_at, receiver.leg.peer)
            if not receiver.gone:
                receiver.leg.reset()
            await dial_again()  # at the same receiver, or at one whose TLS was not tried yet
        may_be_clear = how is not ReceiverTls.REQUIRED and (not self.sender.leg.secured or self.policy.clear_allowed)
        secure = receiver.leg.secured or may_be_clear
        if came_of_it is _Start.NOT_OFFERED and not (secure or self.hellos.refusal_of(receiver, command)):
            hello = receiver.answered_hello
            said = hello.reply.octets if hello else b""
            self.events.repaired(Violation.TLS_REFUSED, reason="STARTTLS is not offered", said=said)
        return secure

    async def log_in(self, receiver: Receiver, command: Command) -> bool:
        """Log in at the receiver, if the shim is to; whether that is done, or need not be. Raises Interrupted."""
        account = self.policy.login
        if account is None or self._logged_in:
            return True
        try:
            why_not = await self._log_in(receiver, command, account)
        except DeadlinePassed:
            why_not = "no answer in time"
        if why_not and not self.hellos.refusal_of(receiver, command):
            self.events.repaired(Violation.LOGIN_REFUSED, reason=why_not)
        self._logged_in = not why_not
        return self._logged_in

    async def _log_in(self, receiver: Receiver, command: Command, account: Login) -> str:
        """Log in; why that failed, if it did."""
        if not (receiver.leg.secured or (account.in_clear and not account.token_file)):
            return "no TLS"
        offered = await self.hellos.offers(receiver, command)
        if offered is None:
            return LOST
        return await log_in_at(receiver, offered, account)

    async def _start_tls(self, receiver: Receiver, command: Command) -> _Start:
        try:
            offered = await self.hellos.offers(receiver, command, self._timer)
            if offered is None:
                if not receiver.gone:  # or it is told why
                    self._note_refusal(hello=True)
                return _Start.FAILED
            if STARTTLS not in offered:
                return _Start.NOT_OFFERED
            reply = await ask_receiver(receiver, START_TLS, self._timer)
            if reply is None or reply.kind != 2:
                self._note_refusal(reply)
                return _Start.FAILED
            self._discard(receiver.take_unread(), "receiver")
            self.forget_login()
            receiver.answered_hello = None
            if await self._handshake(receiver.leg) and await self._stands(receiver, command):
                return _Start.SECURED
        except DeadlinePassed as late:
            self.events.repaired(Violation.NO_REPLY, to=late.what)
        self.events.record.receiver_tls = "-"
        return _Start.FAILED

    def _note_refusal(self, reply: Reply | None = None, *, hello: bool = False) -> None:
        """There is no TLS for what the receiver has said to STARTTLS, or as it has gone at that or at the hello."""
        reason = f"reply {reply.code}" if reply else f"lost at {'EHLO' if hello else 'STARTTLS'}"
        if self.policy.receiver_tls is ReceiverTls.REQUIRED:
            self.events.repaired(Violation.TLS_REFUSED, reason=reason, said=reply.octets if reply else b"")
        else:
            self.events.repaired(Violation.TLS_FAILED, leg="receiver", reason=reason)

    @property
    def _timer(self) -> float | None:
        """How long a receiver is waited for that can be dialled again, if that is less than usual."""
        return self.policy.deadlines.tls if self.policy.receiver_tls is ReceiverTls.OPPORTUNISTIC else None

    async def _stands(self, receiver: Receiver, command: Command) -> bool:
        """Whether the receiver says something inside TLS: what it offers there. Raises DeadlinePassed, Interrupted."""
        leg, octets_before = receiver.leg, receiver.leg.octets_in
        said = leg.look()  # what it says unasked, and not the alert that ends it, is dropped as ever
        if said:
            receiver.replies.feed(said)
        await self.hellos.offers(receiver, command, self._timer, first=not said)
        if leg.octets_in == octets_before:
            self.note_lost_inside(leg)
        return leg.octets_in > octets_before

    def note_lost_inside(self, leg: Leg) -> None:
        """The receiver has ended a leg that is over to TLS, and has said nothing in there."""
        reason = "the receiver disconnected after the handshake; it may require a client certificate"
        self.events.repaired(Violation.TLS_FAILED, leg="receiver", reason=reason)
        self.events.record.receiver_tls = "-"

    async def _handshake(self, leg: Leg) -> bool:
        security = self.policy.receiver_security
        assert security is not None
        leg.watch.allow(self.policy.deadlines.tls, "the receiver's TLS handshake")
        try:
            await security.secure(leg)
        except (TlsFailed, DeadlinePassed) as failed:
            reason = failed.reason if isinstance(failed, TlsFailed) else "no answer in time"
            if self.policy.receiver_tls is ReceiverTls.IMPLICIT:
                self.events.advised(of_failed_tls(reason))
            self.events.repaired(Violation.TLS_FAILED, leg="receiver", reason=reason)
            return False
        self.events.record.receiver_tls = leg.tls_version
        return True
