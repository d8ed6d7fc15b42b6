"""What the sender was offered: the EHLO reply as it was given, and what follows from its keywords (RFC 5321 4.1.1.1).

Invariants:

1. What the sender may do is what its last EHLO reply has told it, not what the receiver offers by now.

It does not know when a reply is given, nor what the sender makes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.session.security import STARTTLS
from shimproxy.smtp.ehlo import keeps, keywords, offering, size_offered

if TYPE_CHECKING:
    from shimproxy.session.notes import Notes
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.security import Security
    from shimproxy.session.sender import Sender
    from shimproxy.smtp.ehlo import Keywords
    from shimproxy.smtp.reply import Reply

_PIPELINING = b"PIPELINING"
_CHUNKING = b"CHUNKING"
# How many replies a refused last chunk has in LMTP is for each receiver to say: some give one, some none.
_OF_CHUNKS = (_CHUNKING, b"BINARYMIME")
_SIZE = b"SIZE"
_ENHANCED = b"ENHANCEDSTATUSCODES"


@attrs.define(eq=False)
class Capabilities:
    """What one sender was offered."""

    _sender: Sender
    _receiver: Receiver
    _notes: Notes
    _policy: Policy
    _security: Security
    pipelining: bool = False
    """Whether the sender was told that it need not wait for each reply (RFC 2920)."""
    chunks: bool = False
    """Whether the sender was told that it may say BDAT (RFC 3030)."""
    tls: bool = False
    """Whether the sender was told that it may say STARTTLS."""
    _keywords: Keywords = attrs.field(factory=dict)

    def offer(self, reply: Reply) -> Reply:
        """Take note of what the receiver's EHLO reply offers; the reply as the sender is to be given it."""
        offered = self._offering(reply)
        if offered is not reply:
            self._notes.said(offered)
        found = self._keywords = keywords(offered)
        self.pipelining = _PIPELINING in found
        self.tls = STARTTLS in found
        self._sender.enhanced_codes = _ENHANCED in found
        self.chunks = _CHUNKING in found
        return offered

    def offers_as_before(self, reply: Reply) -> bool:
        """Whether this reply to its hello offers all that the sender was offered, and limits nothing more."""
        return keeps(keywords(self._offering(reply)), self._keywords)

    def forget(self) -> None:
        """What the sender was offered counts no more: it said HELO, or went over to TLS (RFC 3207 4.2)."""
        self.pipelining = self.tls = self.chunks = False
        self._sender.enhanced_codes = False
        self._keywords = {}

    def _offering(self, reply: Reply) -> Reply:
        """The EHLO reply as it is given to the sender."""
        policy = self._policy
        removed, added = self._security.offer(self._receiver)
        if not policy.pipelining:
            removed = (*removed, _PIPELINING)
        if policy.lmtp:
            removed = (*removed, *_OF_CHUNKS)
        largest_octets = policy.sizes.largest_octets if policy.sizes else None
        if largest_octets is not None and (size := size_offered(keywords(reply), largest_octets)):
            removed, added = (*removed, _SIZE), (*added, size)
        return offering(reply, removed, added)
