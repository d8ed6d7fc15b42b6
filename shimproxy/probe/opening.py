"""How the connections of a probe are opened: all to one address, and each with TLS as the first one had it.

1. The first connection goes to whichever of the receiver's addresses answers; all others go to that one.
2. The probe's questions are asked of any certificate. Whether shimproxy would accept it is asked once, on a connection
   of its own, so that a certificate which is refused ends no other.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.certificate import Certificate, CertificateInvalid
from shimproxy.net.errors import DialFailed, TlsFailed
from shimproxy.net.origin import party
from shimproxy.net.places import look_up
from shimproxy.net.proxy_header import Version, local
from shimproxy.net.tls import ReceiverSecurity, Verification
from shimproxy.probe.plan import Tls
from shimproxy.probe.wire import ProbeConnection
from shimproxy.smtp.dialogue import ReplyTo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.client.client import Clients
    from shimproxy.net.places import Place
    from shimproxy.probe.account import Account, CertificateSeen, Heard
    from shimproxy.probe.plan import ProbePlan

STARTTLS: Final = "STARTTLS"
_EXPIRED: Final = 10
_WRONG_NAME: Final = (62, 64)
_UNKNOWN_SIGNER: Final = (2, 18, 19, 20, 21)
"""Codes of OpenSSL's x509_vfy.h."""


@attrs.define(eq=False)
class Opener:
    """Opens the connections of a probe."""

    plan: ProbePlan
    account: Account
    clients: Clients
    place: Place | None = None
    """The address that all connections go to, once it is known."""
    tls: Tls = Tls.OFF
    """Where they change to TLS; AUTO until the first of them has found it."""
    _trusting: ReceiverSecurity | None = None
    """TLS that accepts any certificate, once it was needed."""

    async def first(self) -> ProbeConnection:
        """The first connection, to whichever address of the receiver answers. Raises DialFailed."""
        receiver = self.plan.receiver
        try:
            places = await look_up(receiver, self.plan.patience_seconds)
        except DialFailed as failed:
            raise DialFailed(f"no connection to {receiver}: {failed}") from None
        try:
            talk = await self._open(places)
        except DialFailed as failed:
            why = str(failed).removeprefix(f"{receiver}: ")
            raise DialFailed(f"no connection to {receiver} ({why}); check that a receiver listens there") from None
        self.place = talk.client.place
        return talk

    async def connect(self, *, speaks_first: bool = False) -> ProbeConnection:
        """One more connection, in the clear; with `speaks_first`, what is written at once comes before the greeting.

        Raises DialFailed.
        """
        assert self.place, "the first connection finds the address"
        return await self._open([self.place], speaks_first=speaks_first)

    async def _open(self, places: Sequence[Place], *, speaks_first: bool = False) -> ProbeConnection:
        seconds = self.plan.patience_seconds
        client = await self.clients.open(places, seconds, host=self.plan.receiver.host, speaks_first=speaks_first)
        return ProbeConnection(client, seconds, self.account.saw)

    # -- TLS

    async def secure(self, talk: ProbeConnection, security: ReceiverSecurity | None = None) -> None:
        """Change to TLS, with any certificate unless `security` says otherwise. Raises TlsFailed."""
        if not self._trusting:
            self._trusting = ReceiverSecurity.make(Verification(name=self.plan.receiver_name, required=False))
        await talk.secure(security or self._trusting)

    async def secure_at_once(self, talk: ProbeConnection, security: ReceiverSecurity | None = None) -> None:
        """Change to TLS if connections begin with it. Raises TlsFailed."""
        if self.tls is Tls.IMPLICIT:
            await self.secure(talk, security)

    async def start_tls(self, talk: ProbeConnection, security: ReceiverSecurity | None = None) -> Heard | None:
        """STARTTLS, and as `secure` once it is accepted; the reply to it. Raises TlsFailed."""
        heard = await talk.ask(STARTTLS, ReplyTo.STARTTLS)
        if welcomes(heard):
            talk.drop_plaintext()
            await self.secure(talk, security)
        return heard

    async def begin(self, talk: ProbeConnection, security: ReceiverSecurity | None = None) -> str:
        """Come to where mail may follow, on a connection after the first; why that failed, if it did.

        With `security`, no further than the handshake of STARTTLS. Raises TlsFailed.
        """
        await self.secure_at_once(talk, security)
        hello = f"{self.account.dialogue.hello} {self.plan.helo_name}"
        steps = [("the connection", await talk.hear(ReplyTo.GREETING, "the connection"))]
        steps.append((self.account.dialogue.hello, await talk.ask(hello)))
        for said, heard in steps:
            if not welcomes(heard):
                return self._refusal(talk, said, heard)
        if self.tls is not Tls.STARTTLS:
            return ""
        heard = await self.start_tls(talk, security)
        if not welcomes(heard):
            return self._refusal(talk, STARTTLS, heard)
        if security:
            return ""
        heard = await talk.ask(hello)
        return "" if welcomes(heard) else self._refusal(talk, f"{self.account.dialogue.hello} inside TLS", heard)

    def _refusal(self, talk: ProbeConnection, said: str, heard: Heard | None) -> str:
        talk.excuse(heard)
        return f"{said} was answered by {heard or talk.nothing} this time"

    def note_tls(self, talk: ProbeConnection, how: Tls) -> None:
        """Note what TLS the first connection has, and with which certificate."""
        seen = self.account.tls
        seen.how = str(how)
        seen.version, seen.cipher = talk.leg.tls_version, talk.client.cipher
        try:
            certificate = Certificate.parse(talk.client.peer_certificate)
        except CertificateInvalid as error:
            seen.certificate.problem = f"it cannot be read ({error})"
            return
        of = seen.certificate
        of.subject, of.issuer = _printable(certificate.subject), _printable(certificate.issuer)
        of.names = [_printable(name) for name in certificate.names]
        of.not_before, of.not_after = certificate.not_before.isoformat(), certificate.not_after.isoformat()
        of.days_left = certificate.days_left(datetime.now(UTC))
        of.fingerprint = certificate.fingerprint

    async def verify(self) -> None:
        """Ask whether shimproxy would accept the certificate, as far as that is not known; the account has it."""
        of = self.account.tls.certificate
        try:
            with await self.connect() as talk:
                talk.blame_nobody()
                of.problem = await self.begin(talk, self.plan.verifying)
                await talk.leave(self.plan.close_seconds)
        except DialFailed as failed:
            of.problem = f"it could not be checked: the receiver refused another connection ({failed})"
        except TlsFailed as failed:
            of.problem = failed.reason.removeprefix("certificate not accepted: ").rstrip(".")
            of.mend = _mend_of(failed, of)

    async def speaks_tls(self) -> bool:
        """Whether the receiver makes TLS on a connection that begins with it."""
        try:
            with await self.connect() as talk:
                talk.blame_nobody()
                await self.secure(talk)
        except (DialFailed, TlsFailed):
            return False
        return True

    async def greets_after_header(self) -> str:
        """The version of the PROXY header that the receiver greets after; nothing if it does not."""
        for version in (Version.V2, Version.V1):
            with suppress(DialFailed), await self.connect(speaks_first=True) as talk:
                talk.blame_nobody()
                sock = talk.leg.sock
                await talk.write(local(version, party(sock.getsockname()), party(sock.getpeername())))
                greeted = welcomes(await talk.hear(ReplyTo.GREETING, "the connection"))
                await talk.leave(self.plan.close_seconds)
                if greeted:
                    return version.value
        return ""

    async def greeting_in_clear(self) -> str:
        """What the receiver says first on a connection without TLS."""
        try:
            with await self.connect() as talk:
                talk.blame_nobody()
                return str(await talk.hear(ReplyTo.GREETING, "the connection") or "")
        except DialFailed:
            return ""


def welcomes(heard: Heard | None) -> bool:
    """Whether a reply lets the dialogue continue."""
    return heard is not None and heard.code // 100 == 2


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _mend_of(failed: TlsFailed, seen: CertificateSeen) -> str:
    """What helps against a certificate that is refused."""
    code = failed.__cause__.verify_code if isinstance(failed.__cause__, ssl.SSLCertVerificationError) else 0
    if code in _WRONG_NAME and seen.names:
        return f"give one of its names, as in --receiver-name {seen.names[0]}"
    if code in _WRONG_NAME:
        return f"give --receiver-fingerprint {seen.fingerprint}"
    if code in _UNKNOWN_SIGNER:
        return f"give its CA by --receiver-ca FILE, or --receiver-fingerprint {seen.fingerprint}"
    if code == _EXPIRED:
        return "the receiver needs a new certificate"
    return ""
