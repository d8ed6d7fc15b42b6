"""What may put another receiver in the place of one that is gone, as what is pending sees it.

A Replacement is one. PendingReplies tell it what was given and answered, and know no receiver but their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from shimproxy.smtp.command import Command

_Pending = TypeVar("_Pending", contravariant=True)


class Substitute(Protocol[_Pending]):
    """Keeps what is unanswered until it cannot be given to another receiver any more."""

    def queued(self, command: Command) -> None:
        """The receiver is given a command."""

    def answered(self) -> None:
        """The first of them has its reply."""

    @property
    def is_possible(self) -> bool:
        """Whether there is another receiver for what is unanswered."""

    async def made(self, pending: _Pending) -> bool:
        """Give what is unanswered to another receiver, as this one was given up; whether there was one.

        Raises Interrupted.
        """
