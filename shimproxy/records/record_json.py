"""A session's record as an object of JSON. What a peer has sent is a text in printable ASCII, escaped as in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shimproxy.records.text import COUNTS, began_at, shown, shown_address
from shimproxy.smtp.shown import escaped

if TYPE_CHECKING:
    from shimproxy.session.record import SessionRecord
    from shimproxy.session.trace import Entry


def summary_as_json(record: SessionRecord) -> dict[str, Any]:
    """What a record says of the whole session."""
    return {
        "session": record.id,
        "began": began_at(record),
        "seconds": round(record.seconds, 6),
        "sender": shown_address(record.sender),
        "receiver": shown_address(record.receiver),
        **{name: getattr(record, name) for name in COUNTS.values()},
        "sender_tls": record.sender_tls,
        "receiver_tls": record.receiver_tls,
        "repairs": {violation.value: count for violation, count in record.repairs.items()},
        "violations_seen": {violation.value: count for violation, count in record.seen.items()},
        "ended_by": record.ended_by,
        "ended_in": record.ended_in,
    }


def record_as_json(record: SessionRecord) -> dict[str, Any]:
    """All of a record."""
    trace = record.trace
    left_out = {"frames": 0, "octets": 0, "after": 0}
    if trace and trace.left_out:
        left_out = {"frames": trace.left_out, "octets": trace.left_out_octets, "after": trace.first_entries}
    frames = [_frame(entry) for entry in trace.entries] if trace else []
    return {**summary_as_json(record), "left_out": left_out, "frames": frames}


def _frame(entry: Entry) -> dict[str, Any]:
    frame: dict[str, Any] = {
        "seconds": round(entry.seconds, 6),
        "from": entry.who,
        "to": entry.whom,
        "kind": entry.kind.value,
        "octets": entry.octets,
        "text": shown(entry.text),
        "remark": "" if entry.violation else entry.remark,
        "connection": entry.connection,
    }
    if entry.violation:
        frame |= {"violation": entry.violation.value, "phase": entry.remark}
    if entry.blocks:
        frame |= {"blocks": entry.blocks, "until_seconds": round(entry.until_seconds, 6)}
    if entry.content:
        frame["mail_data"] = escaped(entry.content)
    return frame
