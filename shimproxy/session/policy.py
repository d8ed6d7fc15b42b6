"""What the operator has decided about sessions: the session asks here, and nowhere else, what it may do."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.replies import EARLY_SUCCESS
from shimproxy.smtp.command import REFUSED, REFUSED_IN_LMTP, CommandReader
from shimproxy.smtp.newlines import Newlines

if TYPE_CHECKING:
    import ssl

    from shimproxy.net.tls import ReceiverSecurity
    from shimproxy.smtp.reply import Own


class SenderTls(enum.StrEnum):
    """What is done about TLS on sender legs."""

    STARTTLS = "starttls"
    """Offered, and terminated here."""
    IMPLICIT = "implicit"
    """From the first octet on, and terminated here."""
    OPAQUE = "opaque"
    """The receiver's STARTTLS passes; from there on nothing is read, nor repaired."""
    OFF = "off"
    """Not offered, whatever the receiver offers."""


class ReceiverTls(enum.StrEnum):
    """What is done about TLS on receiver legs."""

    OFF = "off"
    OPPORTUNISTIC = "opportunistic"
    """Where the receiver offers STARTTLS; in the clear where it does not, or where TLS fails (RFC 7435)."""
    REQUIRED = "required"
    """By STARTTLS, or not at all."""
    IMPLICIT = "implicit"
    """From the first octet on."""


class EarlyTalk(enum.StrEnum):
    """What becomes of a sender that speaks before the greeting."""

    HOLD = "hold"
    """What it says is held until the greeting was relayed, so that no receiver can tell."""
    REFUSE = "refuse"
    """It gets 554 instead of the greeting."""


@attrs.frozen
class Login:
    """With what the shim logs in at the receiver (RFC 4954)."""

    user: str
    secret: str = attrs.field(repr=False)
    in_clear: bool = False
    """Whether also without TLS."""


@attrs.frozen
class Sizes:
    """The largest mails that are let through, in octets as RFC 1870 counts them."""

    general_octets: int | None = None
    by_domain_octets: dict[bytes, int] = attrs.field(factory=dict)
    """Recipient domain, in small letters -> limit for mails to it."""

    @property
    def largest_octets(self) -> int | None:
        """What no mail may be above, whatever its recipients, if there is such a limit."""
        return self.general_octets and max(self.general_octets, *self.by_domain_octets.values(), 0)

    def for_domain(self, domain: bytes) -> int | None:
        """The limit for a recipient in that domain, if there is one."""
        return self.by_domain_octets.get(domain, self.general_octets)


@attrs.frozen(kw_only=True)
class Policy:
    """The decisions for the senders of one listener."""

    deadlines: Deadlines = attrs.field(factory=Deadlines)
    limits: Limits = attrs.field(factory=Limits)
    early_success: Own = EARLY_SUCCESS
    """What answers mail data that the receiver accepted before its end (guarantee 3)."""
    pipelining: bool = True
    """Whether PIPELINING is offered where the receiver offers it (RFC 2920)."""
    sender_tls: SenderTls = SenderTls.OPAQUE
    sender_context: ssl.SSLContext | None = None
    """With what TLS is terminated."""
    receiver_tls: ReceiverTls = ReceiverTls.OFF
    receiver_security: ReceiverSecurity | None = None
    """How TLS with the receiver is made."""
    xclient: bool = False
    """Whether a receiver that offers XCLIENT is told who the sender is."""
    login: Login | None = None
    clear_allowed: bool = False
    """Whether the mail of a sender that used TLS may go to the receiver in the clear."""
    resume: bool = False
    """Whether a sender whose receiver has gone finds a fresh leg with its next command, instead of 421."""
    resumes_after_refusal: bool = True
    """Whether that is so after a mail that was refused, at least."""
    fails_over: bool = False
    """Whether that is so before its first MAIL, as there are other receivers."""
    lmtp: bool = False
    """Whether the peers speak LMTP (RFC 2033)."""
    sizes: Sizes | None = None
    tidy: bool = False
    """Whether commands that strict receivers refuse for their form are put in order."""
    helo_name: bytes = b"localhost"
    """What stands in for a sender's name that can't be one."""
    early_talk: EarlyTalk = EarlyTalk.HOLD
    newlines: Newlines = Newlines.NORMALISE
    lf_only_devices: bool = False
    """Whether senders end lines with LF alone, and mail data with LF.LF; what they send is normalised."""
    receiver_needs_nothing: bool = attrs.field(init=False)
    """Whether the sender's commands can be forwarded from the greeting on."""

    def command_reader(self) -> CommandReader:
        """What reads a sender's commands."""
        return CommandReader(
            self.limits.command_octets,
            self.newlines,
            self.lf_only_devices,
            REFUSED_IN_LMTP if self.lmtp else REFUSED,
        )

    @receiver_needs_nothing.default
    def _whether_receiver_needs_nothing(self) -> bool:
        if self.login or self.xclient:
            return False
        starts_tls = self.receiver_tls in (ReceiverTls.OPPORTUNISTIC, ReceiverTls.REQUIRED)
        return not starts_tls and (self.clear_allowed or self.sender_tls is not SenderTls.IMPLICIT)
