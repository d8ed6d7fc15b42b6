"""What a session is doing, and what follows from that where a peer says nothing more or disconnects.

One table: for each phase the deadline of the sender's next command, what a receiver does wrong that disconnects, and
who has said that the session ends. The phases are also words of the log and of the metrics, which only read them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.session.closing import Closing
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Verb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shimproxy.session.limits import Deadlines


class SessionPhase(enum.StrEnum):
    """What a session does; while it serves a command, the command's verb says so."""

    GREETING = "greeting"
    """The sender has not been greeted."""
    FIRST_COMMAND = "first command"
    """The sender was greeted, and has given no command that was served."""
    WITHHELD = "withheld command"
    """A command is refused that no receiver is given. The log has the command's own word in place of this one."""
    MAIL_DATA = "mail data"
    DRAINING = "draining"
    """The sender is read to the end of its mail data, and what it sends is dropped."""
    END_OF_MAIL_DATA = "end of mail data"
    """The receiver has the end of mail data, or of a chunk, and owes the reply."""
    BETWEEN_MAILS = "between mails"
    BETWEEN_CHUNKS = "between chunks"
    AFTER_421 = "after 421"
    """The last reply that the sender was given is a 421."""
    OPAQUE = "opaque"
    """The peers speak TLS with each other."""


Phase = SessionPhase | Verb

AFTER_421: Final = SessionPhase.AFTER_421


@attrs.frozen
class Conduct:
    """What follows from a phase."""

    command_deadline: str = "command"
    """The field of Deadlines that limits the wait for the sender's next command."""
    receiver_disconnects: Violation | None = Violation.CLOSED_WHILE_IDLE
    """What it is when the receiver disconnects while no command is outstanding."""
    closing: Closing | None = None
    """Who has said that the session ends, by QUIT or 421."""

    def command_seconds(self, deadlines: Deadlines) -> float:
        """How long the sender may take for its next command."""
        seconds: float = getattr(deadlines, self.command_deadline)
        return seconds


_USUAL: Final = Conduct()
CONDUCT: Final[Mapping[Phase, Conduct]] = {
    SessionPhase.FIRST_COMMAND: Conduct(receiver_disconnects=Violation.GREETING_THEN_CLOSE),
    # A QUIT may follow a 421, and does so soon. The receiver has said that it disconnects.
    SessionPhase.AFTER_421: Conduct("linger_idle", None, Closing.BY_RECEIVER),
    Verb.QUIT: Conduct(closing=Closing.BY_SENDER),
}
"""The phases from which anything unusual follows."""


def conduct(phase: Phase) -> Conduct:
    """What follows from `phase`."""
    return CONDUCT.get(phase, _USUAL)
