"""The trace of a session: what went over both legs, in order, frame by frame, and where something was repaired.

The number of entries is bounded: the first and the last of them stay, and the repairs. What is written into one is
tracer.py's.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from shimproxy.smtp.catalogue import Violation

SENDER: Final = "sender"
SHIM: Final = "shimproxy"
RECEIVER: Final = "receiver"

FIRST_ENTRIES: Final = 100
MOST_ENTRIES: Final = 400

EARLY: Final = "early (before the end of mail data)"
UNASKED: Final = "answers nothing"
LATE: Final = "after it was given up"
OWN: Final = "shimproxy's own"


class Kind(enum.StrEnum):
    """What an entry is."""

    CONNECTION = "connection"
    COMMAND = "command"
    REPLY = "reply"
    MAIL_DATA = "mail data"
    CHUNK = "chunk"
    TLS = "unread TLS"
    DROPPED = "dropped"
    """Octets that became neither a command nor a reply."""
    FIN = "FIN"
    RST = "RST"
    REPAIR = "repair"


@attrs.define
class Entry:
    """One frame, or what befell the session: a repair, whose `who` and `whom` are both the shim."""

    seconds: float
    """Since the session began."""
    who: str
    whom: str
    kind: Kind
    octets: int = 0
    """On the wire; with TLS, inside it."""
    text: bytes = b""
    """What was said, a repair's details, or where a connection goes; what a peer sent is for the reader to escape."""
    remark: str = ""
    """What a reply answers, or the phase of a repair."""
    violation: Violation | None = None
    """What was repaired."""
    blocks: int = 0
    """How many reads or writes it was, of mail data and the like."""
    until_seconds: float = 0.0
    """When the last of these was."""
    connection: int = 1
    """Of several to the receiver, which one."""
    content: bytes = b""
    """The first octets of mail data, where these are kept."""


@attrs.define(eq=False)
class Trace:
    """The entries of one session."""

    entries: list[Entry] = attrs.field(factory=list)
    first_entries: int = FIRST_ENTRIES
    """Behind so many, others may have been left out, but no repair while anything else can be."""
    left_out: int = 0
    """How many entries."""
    left_out_octets: int = 0
    """What these had on the wire, both legs and directions together."""

    def add(self, entry: Entry, before: Entry | None = None) -> None:
        """Put an entry at the end, or before another one that came earlier than it was understood."""
        entries = self.entries
        place = len(entries)
        if before is not None:
            found = (index for index in range(place - 1, -1, -1) if entries[index] is before)
            if (found_place := next(found, None)) is not None:  # else it is left out by now
                place, entry.seconds = found_place, before.seconds
        entries.insert(place, entry)
        if len(entries) > MOST_ENTRIES:
            inner = range(self.first_entries, MOST_ENTRIES)
            place = next((index for index in inner if entries[index].kind is not Kind.REPAIR), self.first_entries)
            self.left_out += 1
            self.left_out_octets += entries.pop(place).octets
