"""The trace of a session: what went over both legs, in order, frame by frame, and where something was repaired.

While the session runs, notes are taken; entries are made of them when the trace is read, as most traces never are.
The number of notes is bounded: the first and the last of them stay, and the repairs. What is noted is tracer.py's.
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
MOST_NOTES: Final = MOST_ENTRIES + 100
"""Before any are left out: the look for what may be takes its time."""
TEXT_OCTETS: Final = 512
"""What is kept of a line or a reply: as much as RFC 5321 4.5.3.1.5 lets a reply line have."""

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
    SEEN = "seen"
    """A violation that was passed on as it came."""


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
    """After so many, others may have been left out, but no repair while anything else can be."""
    left_out: int = 0
    """How many entries."""
    left_out_octets: int = 0
    """What these had on the wire, both legs and directions together."""


Way = tuple[str, str, int]
"""Who speaks to whom, and on which connection to the receiver."""
Note = tuple[float, Way, Kind, int, bytes, str]
"""What an entry is to have: the time as the clock tells it, the way, the kind, the octets, the text as it was said, and
the remark. An Entry of twelve fields takes ten times as long to make."""


class Passing:
    """What passes in a direction without being said, as mail data do: it grows until another note is taken."""

    __slots__ = ("blocks", "content", "kind", "moment", "octets", "remark", "until", "way")

    def __init__(self, moment: float, way: Way, kind: Kind) -> None:
        self.moment = moment
        self.way = way
        self.kind = kind
        self.octets = self.blocks = 0
        self.remark = ""
        self.content = b""
        self.until = moment


@attrs.define(eq=False)
class TraceNotes:
    """What is noted of one session, for its trace."""

    started: float = 0.0
    """When the session began, as the clock tells it; an entry's seconds count from there."""
    first_entries: int = FIRST_ENTRIES
    """As in Trace."""
    notes: list[Note | Passing | Entry] = attrs.field(factory=list)
    """In order; an entry that is made already is a repair. Whoever adds some calls `bound`."""
    _left_out: int = 0
    _left_out_octets: int = 0

    def trace(self) -> Trace:
        """The trace as it is by now."""
        self._leave_out()
        entries = [note if isinstance(note, Entry) else self._entry(note) for note in self.notes]
        return Trace(entries, self.first_entries, self._left_out, self._left_out_octets)

    def _entry(self, note: Note | Passing) -> Entry:
        started = self.started
        if isinstance(note, Passing):
            (who, whom, connection), seconds, until_seconds = note.way, note.moment - started, note.until - started
            blocks, content = note.blocks, note.content
            return Entry(
                seconds,
                who,
                whom,
                note.kind,
                note.octets,
                b"",
                note.remark,
                None,
                blocks,
                until_seconds,
                connection,
                content,
            )
        moment, (who, whom, connection), kind, octets, text, remark = note
        return Entry(moment - started, who, whom, kind, octets, kept_of(text), remark, connection=connection)

    def insert(self, note: Note, before: Note) -> None:
        """Put a note before another one that came earlier than it was understood, unless that was left out."""
        self._leave_out()
        notes = self.notes
        place = next((index for index in range(len(notes) - 1, -1, -1) if notes[index] is before), None)
        if place is None:
            notes.append(note)
        else:
            notes.insert(place, (before[0], *note[1:]))

    def bound(self) -> None:
        """Leave out what is too much, if that is worth the time."""
        if len(self.notes) > MOST_NOTES:
            self._leave_out()

    def _leave_out(self) -> None:
        """Leave out what is too much, each as if that had been done when the next one came."""
        notes, first = self.notes, self.first_entries
        while (excess := len(notes) - MOST_ENTRIES) > 0:
            oldest = notes[first : first + excess]
            if not any(isinstance(note, Entry) for note in oldest):
                del notes[first : first + excess]
            else:
                place = first
                while place < MOST_ENTRIES and isinstance(notes[place], Entry):
                    place += 1
                oldest = [notes.pop(place if place < MOST_ENTRIES else first)]
            self._left_out += len(oldest)
            self._left_out_octets += sum([note[3] if isinstance(note, tuple) else note.octets for note in oldest])


def kept_of(text: bytes) -> bytes:
    """As much of a line or a reply as an entry has."""
    text = text.removesuffix(b"\r\n")
    return text if len(text) <= TEXT_OCTETS else text[:TEXT_OCTETS] + b" ..."
