"""The replies that come before that of mail data, as these see them: what carries mail data knows no more of them.

PendingReplies are such.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.session.quota import Quota
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.sender import Sender
    from shimproxy.smtp.reply import Reply


class EarlierReplies(Protocol):
    """What the receiver has not answered, and who is concerned."""

    has_refused: bool
    """Whether a receiver has said 5yz to anything."""

    @property
    def sender(self) -> Sender:
        """The sender of the mail."""

    @property
    def receiver(self) -> Receiver:
        """The receiver of the mail."""

    @property
    def quota(self) -> Quota:
        """What the session may still do."""

    @property
    def outstanding(self) -> Sequence[object]:
        """What the receiver has not answered."""

    def relay_earlier(self, reply: Reply) -> None:
        """Relay a reply to what was outstanding before mail data that are on their way."""

    def answer_earlier(self, but: int = 0) -> None:
        """Answer what a receiver that was given up leaves unanswered, all `but` the last."""
