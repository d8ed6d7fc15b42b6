"""TLS on both legs, and the shim's own login: what is offered to the sender, and how either leg gets there.

RFC 3207 and RFC 4954.

Invariants:

1. Behind STARTTLS, plaintext is discarded on both legs, and nothing of the session before it is known any more.
2. The mail of a sender that used TLS is never relayed in the clear, unless the operator says so.
3. A receiver leg that has to be secure carries nothing but EHLO and STARTTLS before it is.

What passes unread is opaque.py's.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import DeadlinePassed, TlsFailed
from shimproxy.session.policy import ReceiverTls, SenderTls
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Command, Verb, hello_like
from shimproxy.smtp.ehlo import keywords

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.net.leg import Leg
    from shimproxy.session.notes import Notes
    from shimproxy.session.policy import Login, Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.sender import Sender
    from shimproxy.smtp.reply import Reply

STARTTLS = b"STARTTLS"
_AUTH = b"AUTH"


@attrs.define(eq=False)
class Security:
    """The TLS of one session."""

    sender: Sender
    notes: Notes
    policy: Policy
    _logged_in: bool = False
    _lost_at: set[str] = attrs.field(factory=set)
    """Where a leg was lost over TLS that may be in the clear; it is not tried again there."""
    hello_due: bool = False
    """Whether the sender has to say EHLO again, as it has just gone over to TLS."""

    # -- the sender leg

    def offer(self, receiver: Receiver) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The keywords to be taken out of the receiver's EHLO reply, and those to be added to it."""
        leg = self.sender.leg
        removed = (_AUTH,) if self.policy.login else ()  # whoever has logged in can't do so again
        match self.policy.sender_tls:
            case SenderTls.OPAQUE if not (leg.secured or receiver.leg.secured):
                return removed, ()
            case SenderTls.STARTTLS if not leg.secured and (receiver.leg.secured or self.policy.clear_allowed):
                return (*removed, STARTTLS), (STARTTLS,)
            case _:
                return (*removed, STARTTLS), ()

    @property
    def terminates(self) -> bool:
        """Whether the sender's STARTTLS is answered here."""
        return self.policy.sender_tls is SenderTls.STARTTLS

    async def secure_sender(self) -> None:
        """Go over to TLS with the sender. Raises TlsFailed, DeadlinePassed, Interrupted."""
        sender, notes = self.sender, self.notes
        context = self.policy.sender_context
        assert context is not None
        self._discard(sender.commands.take_ahead(), "sender")
        sender.leg.watch.allow(self.policy.deadlines.tls, "the sender's TLS handshake")
        try:
            await sender.leg.secure(context)
        except TlsFailed as failed:
            notes.repaired(Violation.TLS_FAILED, leg="sender", reason=failed.reason)
            raise
        self.hello_due = self.terminates
        notes.record.sender_tls = sender.leg.tls_version

    def discard_plaintext(self, receiver: Receiver) -> None:
        """Drop what either peer has said behind STARTTLS before the TLS that passes unread."""
        self._discard(self.sender.commands.take_ahead(), "sender")
        self._discard(receiver.take_unread(), "receiver")

    def _discard(self, octets: bytes, leg: str) -> None:
        if octets:
            self.notes.repaired(Violation.PLAINTEXT_BEHIND_STARTTLS, leg=leg, octets=len(octets))

    # -- the receiver leg

    def forget_login(self) -> None:
        """There is another leg, or it has gone over to TLS: nobody has logged in there (RFC 3207 section 4.2)."""
        self._logged_in = False

    async def secure_at_once(self, leg: Leg) -> bool:
        """Go over to TLS with a receiver that begins with it, if it does; whether the leg is as it has to be.

        Raises Interrupted.
        """
        return self.policy.receiver_tls is not ReceiverTls.IMPLICIT or await self._handshake(leg)

    async def prepare(
        self, receiver: Receiver, command: Command, greeting_anew: Callable[[], Awaitable[Reply]]
    ) -> bool:
        """Before the sender's first command is forwarded: go over to TLS, where that has to be or can be.

        Where a leg is lost over it that may be in the clear, `greeting_anew` opens another. Whether the leg is as it
        has to be. Raises Interrupted, and what `greeting_anew` does.
        """
        how = self.policy.receiver_tls
        starts = how in (ReceiverTls.OPPORTUNISTIC, ReceiverTls.REQUIRED)
        while starts and not (receiver.leg.secured or receiver.leg.peer in self._lost_at):
            try:
                secured = await self._start_tls(receiver, command)
                if secured is None and how is ReceiverTls.OPPORTUNISTIC and not receiver.gone:
                    receiver.leg.reset()
                    self._lost_at.add(receiver.leg.peer)
                    if (await greeting_anew()).severity == 2:
                        continue  # at the same receiver, or at one whose TLS was not tried yet
            except DeadlinePassed as late:
                self.notes.repaired(Violation.NO_REPLY, to=late.what)
                secured = None
            if secured is None or (how is ReceiverTls.REQUIRED and not secured):
                return False
            break
        return receiver.leg.secured or not self.sender.leg.secured or self.policy.clear_allowed

    async def log_in(self, receiver: Receiver, command: Command) -> bool:
        """Log in at the receiver, if the shim is to; whether that is done, or need not be. Raises Interrupted."""
        login = self.policy.login
        if login is None or self._logged_in:
            return True
        try:
            why_not = await self._log_in(receiver, command, login)
        except DeadlinePassed:
            why_not = "no answer in time"
        if why_not:
            self.notes.repaired(Violation.LOGIN_REFUSED, reason=why_not)
        self._logged_in = not why_not
        return self._logged_in

    async def _log_in(self, receiver: Receiver, command: Command, login: Login) -> str:
        """Log in; why that failed, if it did."""
        if not (receiver.leg.secured or login.in_clear):
            return "no TLS"
        reply = await receiver.ask(hello_like(command, lmtp=self.policy.lmtp))
        mechanisms = keywords(reply).get(_AUTH, b"").upper().split() if reply and reply.code == 250 else []
        user, secret = login.user.encode(), login.secret.encode()
        if b"PLAIN" in mechanisms:  # RFC 4616
            lines = [b"AUTH PLAIN " + b64encode(b"\0%s\0%s" % (user, secret))]
        elif b"LOGIN" in mechanisms:  # draft-murchison-sasl-login
            lines = [b"AUTH LOGIN", b64encode(user), b64encode(secret)]
        else:
            return "neither PLAIN nor LOGIN is offered"
        self.notes.secret = True  # until the next command is forwarded
        for line in lines:
            reply = await receiver.ask(Command(Verb.AUTH, line + b"\r\n"))
            if reply is None or reply.code != 334:
                break
        if reply is None:
            return "the connection is lost"
        return "" if reply.code == 235 else f"reply {reply.code}"

    async def _start_tls(self, receiver: Receiver, command: Command) -> bool | None:
        """Whether the receiver has gone over to TLS; None if the leg is lost over it."""
        reply = await receiver.ask(hello_like(command, lmtp=self.policy.lmtp))
        if reply is None:
            return None
        if reply.code != 250 or STARTTLS not in keywords(reply):
            return False
        reply = await receiver.ask(Command(Verb.STARTTLS, b"STARTTLS\r\n"))
        if reply is None:
            return None
        if reply.kind != 2:
            return False
        self._discard(receiver.take_unread(), "receiver")
        self.forget_login()
        return True if await self._handshake(receiver.leg) else None

    async def _handshake(self, leg: Leg) -> bool:
        security = self.policy.receiver_security
        assert security is not None
        leg.watch.allow(self.policy.deadlines.tls, "the receiver's TLS handshake")
        try:
            await security.secure(leg)
        except (TlsFailed, DeadlinePassed) as failed:
            reason = failed.reason if isinstance(failed, TlsFailed) else "no answer in time"
            self.notes.repaired(Violation.TLS_FAILED, leg="receiver", reason=reason)
            return False
        self.notes.record.receiver_tls = leg.tls_version
        return True
