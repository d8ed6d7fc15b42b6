"""The size of one transaction's mail, and the smallest limit of those whom it is for (RFC 1870).

It does not know what is done about a mail that is too big.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from shimproxy.smtp.arguments import declared_octets, domain
from shimproxy.smtp.command import Verb

if TYPE_CHECKING:
    from shimproxy.session.policy import Sizes
    from shimproxy.smtp.command import Command


@attrs.define(eq=False)
class SizeLimit:
    """The limits of a session's transactions, one after the other."""

    sizes: Sizes
    limit_octets: int | None = None
    """The smallest limit of the recipients that the receiver has accepted."""
    octets: int = 0
    """How large the mail is so far."""
    _declared_octets: int = 0
    _asked: deque[int | None] = attrs.field(factory=deque)
    """The limits of recipients that the receiver has not ruled on yet."""

    def refuses(self, command: Command) -> bool:
        """Whether MAIL or RCPT announces a mail that is larger than it may be."""
        if command.verb is Verb.MAIL:
            declared = declared_octets(command.line) or 0
            if self._exceeds(declared, self.sizes.largest_octets):
                return True  # and the mail that is open, if there is one, has declared what it has
            self._declared_octets = declared
            return False
        return self._exceeds(self._declared_octets, self.sizes.for_domain(domain(command.line)))

    @staticmethod
    def _exceeds(octets: int, limit_octets: int | None) -> bool:
        return limit_octets is not None and octets > limit_octets

    def asked(self, command: Command) -> None:
        """RCPT is forwarded."""
        self._asked.append(self.sizes.for_domain(domain(command.line)))

    def ruled(self, *, accepted: bool) -> None:
        """The receiver has replied to RCPT."""
        limit_octets = self._asked.popleft()
        if accepted and limit_octets is not None:
            self.limit_octets = min(limit_octets, self.limit_octets or limit_octets)

    def reset(self) -> None:
        """Another transaction begins."""
        self.limit_octets, self.octets = None, 0

    @property
    def exceeded(self) -> bool:
        """Whether the mail is too big already."""
        return self._exceeds(self.octets, self.limit_octets)
