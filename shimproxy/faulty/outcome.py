"""What a sender believes of its mail in the end."""

from __future__ import annotations

import enum
from typing import Final

import attrs


class Believed(enum.StrEnum):
    """The fate of a mail as its sender sees it."""

    DELIVERED = "delivered"
    BOUNCED = "bounced"
    DEFERRED = "deferred"
    HUNG = "hung"


_BY_SEVERITY: Final = {"2": Believed.DELIVERED, "4": Believed.DEFERRED, "5": Believed.BOUNCED}


def believed_of(reply: bytes) -> Believed:
    """What a sender makes of this reply to mail data."""
    return _BY_SEVERITY.get(reply[:1].decode("latin-1"), Believed.DEFERRED)


@attrs.frozen
class Outcome:
    """What became of one mail at one sender."""

    believed: Believed
    text: str
    """The sender's own account: a reply, a line of its log, an error."""
    reply: bytes | None = None
    """The reply to mail data octet for octet, where the sender keeps it."""
    parting: bytes | None = None
    """What came after QUIT until the connection was closed, where the sender looks."""
    replies: tuple[bytes, ...] = ()
    """All replies to the mail data, where the sender keeps them: one, or one for each chunk."""
