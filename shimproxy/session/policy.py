"""What the operator has decided about sessions: the session asks here, and nowhere else, what it may do."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.replies import EARLY_SUCCESS
from shimproxy.session.setting import Group, setting
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import NEVER_LET_THROUGH, REFUSED, REFUSED_IN_LMTP, CommandReader
from shimproxy.smtp.newlines import Newlines
from shimproxy.smtp.reply import OF_FORM

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from shimproxy.net.tls import ReceiverSecurity
    from shimproxy.smtp.ehlo import Hidden
    from shimproxy.smtp.reply import LocalReply
    from shimproxy.smtp.rewrite import Rewrite


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


class Repairs(enum.StrEnum):
    """What is done about violations."""

    REPAIR = "repair"
    OBSERVE = "observe"
    """They are told as they are seen, and octets pass as they come."""


OBSERVABLE: Final = (Violation.EARLY_REPLY, *sorted(OF_FORM, key=str))
"""Violations that can be passed on as they come while others are repaired."""


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
    """Whether also without TLS; a token never goes without."""
    token_file: Path | None = None
    """Where the token is that takes the secret's place, if there is one."""


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
class SessionSettings:
    """The settings that a session goes by as they were given: part of Settings and of every Policy."""

    xclient: bool = attrs.field(
        default=False,
        metadata=setting("xclient", Group.ROUTE, "send the sender's address to a receiver that offers XCLIENT"),
    )
    lmtp: bool = attrs.field(
        default=False,
        metadata=setting("lmtp", Group.ROUTE, "speak LMTP on both sides, with a reply for each recipient of a mail"),
    )
    """Senders and the receiver say LHLO (RFC 2033)."""
    repairs: Repairs = attrs.field(
        default=Repairs.REPAIR,
        converter=Repairs,
        metadata=setting(
            "repairs",
            Group.MAIL,
            "repair violations; or observe them: octets pass as through a plain TCP proxy, and each violation is "
            "logged, counted and recorded as seen",
        ),
    )
    early_talk: EarlyTalk = attrs.field(
        default=EarlyTalk.HOLD,
        converter=EarlyTalk,
        metadata=setting(
            "early-talk",
            Group.MAIL,
            "when a sender talks before the greeting: hold its commands, so that receivers do not treat it as a bot, "
            "or refuse it with 554",
        ),
    )
    newlines: Newlines = attrs.field(
        default=Newlines.NORMALISE,
        converter=Newlines,
        metadata=setting(
            "newlines",
            Group.MAIL,
            "bare CR, bare LF and NUL in commands and mail data: replace them by CRLF or blanks, or refuse them; or "
            "pass them unchanged, which allows SMTP smuggling into a lax receiver",
        ),
    )
    tidy: bool = attrs.field(
        default=False,
        metadata=setting("tidy", Group.MAIL, "correct blanks, brackets and HELO names that strict receivers refuse"),
    )
    pipelining: bool = attrs.field(
        default=True,
        metadata=setting(
            "pipelining",
            Group.MAIL,
            "offer PIPELINING if the receiver does; turn it off for receivers that lose commands that arrive together",
        ),
    )
    """RFC 2920."""
    resume: bool | None = attrs.field(
        default=None,
        metadata=setting(
            "resume",
            Group.MAIL,
            "when the receiver has disconnected, open a new connection for the sender's next command instead of "
            "replying 421; default: only after a refused mail; never after the sender has logged in",
        ),
    )
    receiver_tls: ReceiverTls = attrs.field(
        default=ReceiverTls.OFF,
        converter=ReceiverTls,
        metadata=setting(
            "receiver-tls",
            Group.TLS,
            "TLS between shimproxy and the receiver: opportunistic (STARTTLS if it works), required (STARTTLS or no "
            "mail), or implicit (from the start)",
            after="key",
        ),
    )
    clear_allowed: bool = attrs.field(
        default=False,
        metadata=setting(
            "allow-clear",
            Group.TLS,
            "forward mail without TLS to the receiver even if the sender used TLS",
            after="receiver-verify",
        ),
    )
    deadlines: Deadlines = attrs.field(
        factory=Deadlines,
        metadata=setting(
            "deadline", Group.BOUNDS, "change a deadline, in seconds", metavar="NAME=SECONDS", of_listener=True
        ),
    )
    limits: Limits = attrs.field(
        factory=Limits, metadata=setting("limit", Group.BOUNDS, "change a limit", metavar="NAME=NUMBER")
    )


@attrs.frozen(kw_only=True)
class Policy(SessionSettings):
    """The decisions for the senders of one listener: the settings as given, and what others of them come to."""

    early_success: LocalReply = EARLY_SUCCESS
    """What answers mail data that the receiver accepted before its end (guarantee 3)."""
    sender_tls: SenderTls = SenderTls.OPAQUE
    sender_context: ssl.SSLContext | None = None
    """With what TLS is terminated."""
    receiver_security: ReceiverSecurity | None = None
    """How TLS with the receiver is made."""
    login: Login | None = None
    fails_over: bool = False
    """Whether a sender whose receiver has gone finds a fresh leg before its first MAIL: there are other receivers."""
    sizes: Sizes | None = None
    observed: frozenset[Violation] = frozenset()
    """Violations that are passed on as they come, while others are repaired: some of OBSERVABLE."""
    rewrites: tuple[Rewrite, ...] = ()
    """The rules by which refusals of the receiver are corrected."""
    hidden: Hidden | None = None
    """What of the receiver's EHLO reply its senders are not offered."""
    helo_name: bytes = b"localhost"
    """What stands in for a sender's name that can't be one, with `tidy`."""
    lf_only_devices: bool = False
    """Whether senders end lines with LF alone, and mail data with LF.LF; what they send is normalised."""
    receiver_needs_nothing: bool = attrs.field(init=False)
    """Whether the sender's commands can be forwarded from the greeting on."""

    @property
    def resumes_after_refusal(self) -> bool:
        """Whether a sender whose receiver has gone finds a fresh leg after a mail that was refused, at least."""
        return self.resume is not False

    def command_reader(self) -> CommandReader:
        """What reads a sender's commands."""
        if self.repairs is Repairs.OBSERVE:
            return CommandReader(self.limits.command_octets, Newlines.PASS, refused=NEVER_LET_THROUGH)
        refused = REFUSED_IN_LMTP if self.lmtp else REFUSED
        if self.hidden:
            refused |= self.hidden.keywords
        return CommandReader(self.limits.command_octets, self.newlines, self.lf_only_devices, refused)

    @receiver_needs_nothing.default
    def _whether_receiver_needs_nothing(self) -> bool:
        if self.login or self.xclient:
            return False
        starts_tls = self.receiver_tls in (ReceiverTls.OPPORTUNISTIC, ReceiverTls.REQUIRED)
        return not starts_tls and (self.clear_allowed or self.sender_tls is not SenderTls.IMPLICIT)
