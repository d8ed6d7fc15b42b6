"""What a sender may believe of its mail in the end.

It knows neither the shim nor the receivers.
"""

from __future__ import annotations

from typing import Final

import attrs

from shimproxy.faulty.outcome import Believed, Outcome, believed_of


@attrs.frozen
class Expected:
    """One thing that a sender may believe."""

    believed: Believed
    reply: bytes
    """The reply that must have told it: octet for octet, or its beginning if it has no CRLF at its end."""

    def __str__(self) -> str:
        return f"{self.believed} {self.reply!r}"

    def allows(self, outcome: Outcome) -> bool:
        """Whether `outcome` is this."""
        if outcome.believed is not self.believed:
            return False
        if outcome.reply is not None:
            exact = self.reply.endswith(b"\r\n")
            return outcome.reply == self.reply if exact else outcome.reply.startswith(self.reply)
        if self.believed is Believed.DELIVERED:
            return True  # programs are silent about success
        return all(words in _plain(outcome.text) for words in self.words)

    @property
    def words(self) -> list[str]:
        """The code, and the text of each line: what a program's account of the reply must contain."""
        lines = self.reply.decode("latin-1").splitlines()
        return [lines[-1][:3], *(_plain(line[4:]) for line in lines)]


def _plain(text: str) -> str:
    return " ".join(text.split())


def accepted(reply: bytes) -> Expected:
    """The receiver took the mail with this reply."""
    return Expected(Believed.DELIVERED, reply)


def refused(reply: bytes) -> Expected:
    """The receiver gave this 4yz or 5yz to the mail data."""
    return Expected(believed_of(reply), reply)


NO_VERDICT: Final = Expected(Believed.DEFERRED, b"451 the receiver gave no verdict")
"""The receiver went without one: guarantee 4."""

EARLY_SUCCESS: Final = Expected(Believed.DEFERRED, b"451 the receiver replied before")
"""The receiver said 2yz to a mail that it didn't have: guarantee 3."""

LOST: Final = Expected(Believed.DEFERRED, b"421 lost the connection to the receiver\r\n")
"""The receiver went between a chunk's reply and the next chunk: guarantee 4."""

OUT_OF_STEP: Final = Expected(Believed.DEFERRED, b"421 the receiver's replies are out of step")
"""The receiver's reply can't answer the command."""
