"""The ladder of a session's record: its trace, as frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shimproxy.records.ladder import Frame, Ladder
from shimproxy.records.text import began_at, shown, shown_address
from shimproxy.session.trace import EARLY, LATE, OWN, RECEIVER, SENDER, SHIM, UNASKED, Kind, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.session.record import SessionRecord
    from shimproxy.session.trace import Entry

_PARTIES = {SENDER: "Sender", SHIM: "shimproxy", RECEIVER: "Receiver"}
PARTIES: Final = tuple(_PARTIES.values())
"""From left to right."""
_REMARKABLE: Final = (EARLY, LATE, OWN, UNASKED)


def ladder_of(record: SessionRecord) -> Ladder:
    """What went over both legs, with the seconds at the left and the octets behind what was said."""
    repairs = ", ".join(map(str, record.repairs)) or ("only observed" if record.observed else "nothing was repaired")
    if record.seen:
        repairs += f"; seen: {', '.join(map(str, record.seen))}"
    title = (
        f"Session {record.id} of {began_at(record)}, {record.seconds:.3f} s: {shown_address(record.sender)} to "
        f"{shown_address(record.receiver)}; {repairs}; ended by {record.ended_by} in "
        f"{record.ended_in}; octets in brackets"
    )
    return Ladder(title, PARTIES, list(frames_of(record.trace or Trace())))


def frames_of(trace: Trace, *, brief: bool = False) -> Iterator[Frame]:
    """What went over both legs, each with its seconds as the mark.

    `brief` leaves out how many octets a line has and what each reply answers.
    """
    for index, entry in enumerate(trace.entries):
        if trace.left_out and index == trace.first_entries:
            text = f"... {trace.left_out:,} frames of {trace.left_out_octets:,} octets are left out ..."
            yield Frame("", _PARTIES[SHIM], _PARTIES[SHIM], text)
        what, remark = _brief_words(entry) if brief else _words(entry)
        if entry.connection > 1:
            remark = ", ".join(filter(None, (remark, f"connection {entry.connection}")))
        yield Frame(f"{entry.seconds:.3f}", _PARTIES[entry.who], _PARTIES[entry.whom], what, remark=remark)


def _brief_words(entry: Entry) -> tuple[str, str]:
    match entry.kind:
        case Kind.COMMAND:
            return shown(entry.text), entry.remark
        case Kind.REPLY:
            return shown(entry.text), entry.remark if entry.remark in _REMARKABLE else ""
        case Kind.MAIL_DATA | Kind.CHUNK:
            return f"{entry.kind} ({entry.octets:,} octets)", entry.remark
        case _:
            return _words(entry)


def _words(entry: Entry) -> tuple[str, str]:
    """What went over the wire, and what is to be said of it."""
    match entry.kind:
        case Kind.COMMAND | Kind.REPLY:
            return f"{shown(entry.text)} ({entry.octets:,})", entry.remark
        case Kind.CONNECTION:
            return "connects", ""
        case Kind.REPAIR | Kind.SEEN:
            return f"{entry.kind}: {entry.violation}", shown(entry.text)
        case Kind.FIN | Kind.RST:
            return entry.kind.value, ""
        case Kind.DROPPED:
            return f"({entry.octets:,}) dropped", ""
        case _:
            times = f"{entry.blocks:,} blocks until {entry.until_seconds:.3f}" if entry.blocks > 1 else ""
            return f"{entry.kind} ({entry.octets:,})", ", ".join(filter(None, (entry.remark, times)))
