"""The line of a session: its fields, and the same as text, made at once.

There is one for each session. Made of its fields as other lines are, the text would cost three times as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.observe.composites import Counts, Pairs, Sides, quoted
from shimproxy.observe.formats import time_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shimproxy.session.record import SessionRecord
    from shimproxy.smtp.catalogue import Violation


def whose(record: SessionRecord) -> dict[str, str]:
    """The fields that say which session it is, and whose."""
    fields = {"session": record.id, "sender": record.sender}
    if record.via:
        fields["via"] = record.via
    fields["receiver"] = record.receiver
    return fields


def session_fields(record: SessionRecord) -> dict[str, int | str | float | Counts | Pairs | Sides]:
    """The fields."""
    return {
        **whose(record),
        "transactions": record.transactions,
        "accepted": record.accepted,
        "octets_from_sender": record.octets_from_sender,
        "octets_to_receiver": record.octets_to_receiver,
        "octets_from_receiver": record.octets_from_receiver,
        "octets_to_sender": record.octets_to_sender,
        "resumed": record.resumed,
        "repairs": _counts(record.repairs),
        **({"violations_seen": _counts(record.seen)} if record.observed or record.seen else {}),
        "tls": Sides(sender=_or_none(record.sender_tls), receiver=_or_none(record.receiver_tls)),
        "ended": Sides({"by": _or_none(record.ended_by), "in": _or_none(record.ended_in)}),
        "seconds": round(record.seconds, 3),
    }


def session_line(record: SessionRecord) -> str:
    """The line as text, with its time."""
    repairs = str(_counts(record.repairs)) if record.repairs else "none"
    if record.observed or record.seen:
        repairs = f"{repairs} violations_seen={_counts(record.seen)}"
    via = f" via={quoted(record.via)}" if record.via else ""
    tls = f"{record.sender_tls or '-'}/{record.receiver_tls or '-'}"
    ended = f"{record.ended_by or '-'}/{record.ended_in or '-'}"
    return (
        f"{time_text(record.ended_at)} INFO session session={quoted(record.id)} sender={quoted(record.sender)}{via}"
        f" receiver={quoted(record.receiver)} transactions={record.transactions} accepted={record.accepted}"
        f" octets_from_sender={record.octets_from_sender} octets_to_receiver={record.octets_to_receiver}"
        f" octets_from_receiver={record.octets_from_receiver} octets_to_sender={record.octets_to_sender}"
        f" resumed={record.resumed} repairs={repairs} tls={quoted(tls)} ended={quoted(ended)}"
        f" seconds={round(record.seconds, 3)}"
    )


def _or_none(word: str) -> str | None:
    return None if word == "-" else str(word)


def _counts(violations: Mapping[Violation, int]) -> Counts:
    return Counts({each.value: count for each, count in violations.items()})
