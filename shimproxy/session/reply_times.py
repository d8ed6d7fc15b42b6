"""How long receivers take for their replies, by what they answer: for the figures of a process."""

from __future__ import annotations

import bisect
import time
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.smtp.command import Verb

if TYPE_CHECKING:
    from collections.abc import Iterator

REPLY_SECONDS: Final = (0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0)
"""The upper bounds of the histogram; one without a bound follows."""
GREETING: Final = "greeting"
MAIL_DATA: Final = "mail_data"
_OTHER: Final = "other"
ANSWERED: Final[dict[Verb, str]] = dict.fromkeys(Verb, _OTHER) | {
    Verb.EHLO: "hello",
    Verb.HELO: "hello",
    Verb.LHLO: "hello",
    Verb.MAIL: "mail",
    Verb.RCPT: "rcpt",
    Verb.DATA: "data",
    Verb.AUTH: "auth",
    Verb.QUIT: "quit",
}
"""What a reply answers, as figures have it."""
KINDS: Final = (GREETING, *dict.fromkeys(ANSWERED.values()), MAIL_DATA)


@attrs.define(eq=False)
class ReplyTimes:
    """The times of one process."""

    _counts: dict[str, list[int]] = attrs.field(
        factory=lambda: {kind: [0] * (len(REPLY_SECONDS) + 1) for kind in KINDS}
    )
    _sums: dict[str, float] = attrs.field(factory=lambda: dict.fromkeys(KINDS, 0.0))

    def note(self, kind: str, seconds: float) -> None:
        """A receiver took so long for a reply to that."""
        self._counts[kind][bisect.bisect_left(REPLY_SECONDS, seconds)] += 1
        self._sums[kind] += seconds

    def of_session(self) -> SessionReplyTimes:
        """What notes those of one session here."""
        return SessionReplyTimes(self)

    def all(self) -> Iterator[tuple[str, list[int], float]]:
        """For each kind how many were in each bucket, and the sum of their seconds."""
        for kind, counts in self._counts.items():
            yield kind, counts, self._sums[kind]


@attrs.define(eq=False)
class SessionReplyTimes:
    """Those of one session's receiver, one reply after the other."""

    _process: ReplyTimes
    _since: float = 0.0

    def begin(self) -> None:
        """The receiver is waited for from now on."""
        self._since = time.monotonic()

    def note_reply(self, verb: Verb | None) -> None:
        """It has replied to a command, or to mail data if that is none."""
        self._process.note(MAIL_DATA if verb is None else ANSWERED[verb], time.monotonic() - self._since)

    def note_greeting(self) -> None:
        """It has greeted."""
        self._process.note(GREETING, time.monotonic() - self._since)
