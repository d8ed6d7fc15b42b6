"""What a worker tells its supervisor of a session in which something was repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shimproxy.admin.status import RepairedSession
from shimproxy.records import text as record_text
from shimproxy.smtp.shown import shortened

if TYPE_CHECKING:
    from shimproxy.session.record import SessionRecord

MOST_OCTETS: Final = 64 * 1024
"""Of the record of a session."""


def repaired_session(record: SessionRecord) -> RepairedSession:
    """What is to be kept of a record; whatever a peer sent is escaped."""
    repairs = [
        {
            "violation": repair.violation.value,
            "phase": repair.phase,
            "detail": ", ".join(f"{name}: {_shown(value)}" for name, value in repair.detail.items()),
            **({"seen": "yes"} if repair.observed else {}),
        }
        for repair in record.first_repairs
    ]
    ended = f"{record.ended_by}/{record.ended_in}"
    text = record_text.record_text_of(record) if record.is_traced else ""
    if len(text) > MOST_OCTETS:
        text = ""
    return RepairedSession(
        record.id, record.sender, record.receiver, record.ended_at, record.seconds, ended, repairs, text
    )


def _shown(value: int | str | bytes) -> str:
    return shortened(value) if isinstance(value, bytes) else str(value)
