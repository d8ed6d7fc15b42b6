"""The ladder of a session's record: its trace, as frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.ops.ladder import Frame, Ladder
from shimproxy.ops.record_text import began_at, shown, shown_address
from shimproxy.session.trace import RECEIVER, SENDER, SHIM, Kind, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.session.record import SessionRecord
    from shimproxy.session.trace import Entry

_PARTIES = {SENDER: "Sender", SHIM: "Shim", RECEIVER: "Receiver"}


def ladder_of(record: SessionRecord) -> Ladder:
    """What went over both legs, with the seconds at the left and the octets behind what was said."""
    repairs = ", ".join(str(each) for each in record.repairs) or "nothing was repaired"
    title = (
        f"Session {record.id} of {began_at(record)}, {record.seconds:.3f} s: {shown_address(record.sender)} to "
        f"{shown_address(record.receiver)}; {repairs}; ended by {record.ended_by} in "
        f"{record.ended_in}; octets in brackets"
    )
    return Ladder(title, tuple(_PARTIES.values()), list(_frames(record.trace or Trace())))


def _frames(trace: Trace) -> Iterator[Frame]:
    for index, entry in enumerate(trace.entries):
        if trace.left_out and index == trace.first_entries:
            text = f"... {trace.left_out:,} frames of {trace.left_out_octets:,} octets are left out ..."
            yield Frame("", _PARTIES[SHIM], _PARTIES[SHIM], text)
        what, remark = _words(entry)
        if entry.connection > 1:
            remark = ", ".join(filter(None, (remark, f"connection {entry.connection}")))
        yield Frame(f"{entry.seconds:.3f}", _PARTIES[entry.who], _PARTIES[entry.whom], what, remark=remark)


def _words(entry: Entry) -> tuple[str, str]:
    """What went over the wire, and what is to be said of it."""
    match entry.kind:
        case Kind.COMMAND | Kind.REPLY:
            return f"{shown(entry.text)} ({entry.octets:,})", entry.remark
        case Kind.CONNECTION:
            return "connects", ""
        case Kind.REPAIR:
            return f"repair: {entry.violation}", shown(entry.text)
        case Kind.FIN | Kind.RST:
            return entry.kind.value, ""
        case Kind.DROPPED:
            return f"({entry.octets:,}) dropped", ""
        case _:
            times = f"{entry.blocks:,} blocks until {entry.until_seconds:.3f}" if entry.blocks > 1 else ""
            return f"{entry.kind} ({entry.octets:,})", ", ".join(filter(None, (entry.remark, times)))
