"""The account of one session that a faulty peer had: who said what, in short, and how it ended.

A peer tells it of each thing as it happens: of what it says before that is sent, of mail data afterwards. Whoever
wants to watch a session derives from `DialogueLog`.

It is bounded: after a number of lines it only counts them, and a long line is cut. An AUTH command is written down
without what follows the mechanism.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from shimproxy.faulty.outcome import believed_of
from shimproxy.smtp.shown import shortened

_MOST_LINES: Final = 60
_MOST_LINE_OCTETS: Final = 160


@attrs.define(eq=False)
class DialogueLog:
    """What was said in one session; `S` is the sender, `R` the receiver."""

    dialogue: list[str] = attrs.field(factory=list)
    left_out: int = 0
    """Lines that were one too many."""
    mail_octets: int = 0
    """What came after DATA or BDAT, as long as it was taken for mail data."""
    verdict: bytes = b""
    """The first reply to the last mail data or, before there are any, the last reply to a command."""
    heard: bool = False
    """Whether the sender has said something after the verdict."""
    ends: list[str] = attrs.field(factory=list)
    """Who ended the connection, by FIN, RST or silence, in order."""
    is_muted: bool = False
    """Whether what is said is not written down."""
    _mail_octets_told: int = 0

    def said(self, who: str, octets: bytes) -> None:
        """Write down lines of the dialogue."""
        if self.is_muted:
            return
        self._tell_mail()
        for line in octets.splitlines(keepends=True):
            self._add(f"{who}: {_shown(line)}")

    def mail(self, octets: bytes | memoryview) -> None:
        """Write down how many octets of mail data these are, which have come or have been sent."""
        self.mail_octets += len(octets)

    def note(self, what: str) -> None:
        """Write down what nobody said."""
        self._tell_mail()
        self._add(f"({what})")

    def ended_by(self, what: str) -> None:
        """Write down an end of the connection, as in "sender FIN"; what follows from one of its own is the kernel's."""
        self._tell_mail()
        if what not in self.ends:
            self.ends.append(what)

    def _tell_mail(self) -> None:
        if octets := self.mail_octets - self._mail_octets_told:
            self._mail_octets_told = self.mail_octets
            self._add(f"S: ({octets:,} octets of mail data)")

    def _add(self, line: str) -> None:
        if len(self.dialogue) < _MOST_LINES:
            self.dialogue.append(line)
        else:
            self.left_out += 1

    @property
    def believes(self) -> str:
        """What the sender believes of its mail: delivered, bounced, deferred; unknown if it did not show it.

        A sender that goes on with a command has heard the verdict.
        """
        return (
            str(believed_of(self.verdict)) if self.heard and self.verdict.startswith((b"2", b"4", b"5")) else "unknown"
        )

    def as_json(self) -> dict[str, Any]:
        """The account."""
        self._tell_mail()
        left_out = [f"({self.left_out} lines more)"] if self.left_out else []
        return {
            "mail_octets": self.mail_octets,
            "believes": self.believes,
            "ended": [*self.ends],
            "dialogue": [*self.dialogue, *left_out],
        }


def _shown(line: bytes) -> str:
    words = line.split()
    if len(words) > 2 and words[0].upper() == b"AUTH":
        line = b" ".join([*words[:2], b"..."])
    return shortened(line, _MOST_LINE_OCTETS)
