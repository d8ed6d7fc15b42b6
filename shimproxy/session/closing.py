"""How a session ends: who has ended it, and the one exception that says so."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shimproxy.smtp.reply import LocalReply, Reply


class Closing(enum.StrEnum):
    """Who has ended a session; the values are words of the log."""

    BY_SENDER = "sender"
    """It has said QUIT, or has disconnected."""
    BY_RECEIVER = "receiver"
    """It has said 421, or has left without the reply that it owed."""
    BY_SHIM = "shim"
    """It has said 421 of its own."""


class SessionEnded(Exception):
    """The session has come to its end, because of `by`; `replies` are the last that the sender is to be given.

    Only `Session` catches it.
    """

    def __init__(self, by: Closing, *replies: Reply | LocalReply) -> None:
        super().__init__(by, *replies)
        self.by = by
        self.replies = replies
