"""Settings of what is done with mail, but for those that a session goes by as they are given (session/policy.py)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import attrs

from shimproxy.config import converters, parsers
from shimproxy.session.limits import at_least
from shimproxy.session.policy import Sizes
from shimproxy.session.replies import EARLY_SUCCESS
from shimproxy.session.setting import Group, setting
from shimproxy.smtp.tidy import is_possible_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shimproxy.smtp.catalogue import Violation
    from shimproxy.smtp.ehlo import HiddenKeyword
    from shimproxy.smtp.rewrite import Rewrite


@attrs.frozen(kw_only=True, slots=False)
class MailSettings:
    """The part of Settings that says what is done with mail."""

    max_size: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(at_least(1)),
        metadata=setting(
            "max-size",
            Group.MAIL,
            "refuse larger mails with 552 5.3.4, for all recipients or for those in a domain: 10MiB, 500KiB, or a "
            "number of octets",
            metavar="[DOMAIN=]SIZE",
            read=parsers.sizes,
            many=True,
            after="newlines",
        ),
    )
    """In octets as RFC 1870 counts them, for all recipients."""
    max_size_by_domain: Mapping[str, int] = attrs.field(factory=dict, validator=converters.are_sizes)
    """The same for recipients in a domain, instead of `max_size`; of several recipients, the smallest counts."""
    hide: tuple[HiddenKeyword, ...] = attrs.field(
        default=(),
        converter=converters.hidden,
        metadata=setting(
            "hide",
            Group.MAIL,
            "do not offer these keywords of the receiver's EHLO reply, or one parameter of a keyword: "
            "CHUNKING,SMTPUTF8 or AUTH:XOAUTH2; their commands get 502, the parameters of AUTH 504",
            metavar="KEYWORD[:PARAMETER][,...]",
            after="pipelining",
        ),
    )
    observe: tuple[Violation, ...] = attrs.field(
        default=(),
        converter=converters.observed,
        metadata=setting(
            "observe",
            Group.MAIL,
            "pass on these violations as they come, and repair all others; early-reply: the sender gets the reply at "
            "once, and not after the end of its mail data",
            metavar="NAME[,...]",
            after="repairs",
        ),
    )
    helo_name: str = attrs.field(
        default="",
        validator=converters.is_possible,
        metadata=setting(
            "helo-name",
            Group.MAIL,
            "with tidy: the name that replaces an invalid HELO name (default: this machine's)",
            metavar="NAME",
            after="tidy",
        ),
    )
    early_success: str = attrs.field(
        default=EARLY_SUCCESS.enhanced.octets.decode().rstrip(),
        validator=converters.is_refusal,
        metadata=setting(
            "early-success",
            Group.MAIL,
            "the reply to mail data that the receiver accepted before the end",
            metavar="REPLY",
            after="resume",
        ),
    )

    rewrite: tuple[Rewrite, ...] = attrs.field(
        default=(),
        converter=converters.rewrites,
        metadata=setting(
            "rewrite",
            Group.MAIL,
            "correct a refusal of the receiver: 'end-of-data: 451 .* too (large|big) => 552 5.3.4'; PLACE may also be "
            "mail, rcpt or data; the first rule that matches counts; 2yz replies and 421 stay as they are",
            metavar="'PLACE: PATTERN => REPLY'",
            after="early-success",
            lines=True,
        ),
    )

    @property
    def sizes(self) -> Sizes | None:
        """The limits of mails, if there are any."""
        by_domain = {name.lower().encode(): octets for name, octets in self.max_size_by_domain.items()}
        return Sizes(self.max_size, by_domain) if self.max_size or by_domain else None

    @property
    def helo_name_used(self) -> str:
        """What `helo_name` comes to."""
        name = self.helo_name or socket.gethostname()
        return name if is_possible_name(name.encode()) else "localhost"
