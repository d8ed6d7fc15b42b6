"""The lines of sessions and mails as JSON, made at once, as a formatter makes them of their fields.

There are two for each session with one mail. Made of fields they would cost a tenth of it, most of that in json.
"""

from __future__ import annotations

import json
import math
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Final

from shimproxy.observe.envelope import LogEnvelope
from shimproxy.observe.formats import time_text
from shimproxy.observe.mail_line import (
    ACCEPTED,
    DURATIONS,
    SHOWN_AS_IT_IS,
    THREE_DIGITS,
    TIMES,
    by,
    duration_part,
    keep,
    keep_reply,
    path_part,
    time_part,
    usual_of,
)
from shimproxy.smtp.shown import on_one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shimproxy.observe.events import Event
    from shimproxy.observe.mail_line import BeginningKey
    from shimproxy.session.mail_account import HowItEnded, MailSummary, UsualMail
    from shimproxy.session.record import SessionRecord

_YES: Final = LogEnvelope.YES
_quoted: Final = encode_basestring_ascii
_floor: Final = math.floor
# By what they are made of, as in mail_line.py.
_beginnings: Final[dict[BeginningKey, tuple[str, str]]] = {}
_reverse_paths: Final[dict[bytes, str]] = {}
_recipients: Final[dict[bytes, str]] = {}
_replies: Final[dict[bytes, str]] = {}


def session_json(record: SessionRecord) -> str:
    """The line of a session."""
    via = f', "via": {_quoted(record.via)}' if record.via else ""
    repairs = json.dumps({each.value: count for each, count in record.repairs.items()}) if record.repairs else "{}"
    if record.observed or record.seen:
        seen = json.dumps({each.value: count for each, count in record.seen.items()})
        repairs += f', "violations_seen": {seen}'
    return (
        f'{{"time": "{time_text(record.ended_at)}", "level": "INFO", "event": "session", "session": "{record.id}",'
        f' "sender": {_quoted(record.sender)}{via}, "receiver": {_quoted(record.receiver)},'
        f' "transactions": {record.transactions}, "accepted": {record.accepted},'
        f' "octets_from_sender": {record.octets_from_sender}, "octets_to_receiver": {record.octets_to_receiver},'
        f' "octets_from_receiver": {record.octets_from_receiver}, "octets_to_sender": {record.octets_to_sender},'
        f' "resumed": {record.resumed}, "repairs": {repairs},'
        f' "tls": {{"sender": {_word(record.sender_tls)}, "receiver": {_word(record.receiver_tls)}}},'
        f' "ended": {{"by": {_word(record.ended_by)}, "in": {_word(record.ended_in)}}},'
        f' "seconds": {round(record.seconds, 3)}}}'
    )


def mail_json(mail: MailSummary, envelope: LogEnvelope) -> str | None:
    """The line of a mail as nearly all are; None of any other."""
    usual = usual_of(mail) if envelope is _YES else None
    return (usual and usual_json(usual)) or None


def usual_json(mail: UsualMail) -> str:
    """The line; empty if anything of it has to be escaped."""
    record, how, verdict, size, began_at, ended_at, command, accepted, recipient, reply, others = mail
    words = verdict.removesuffix(b"\r\n")
    if words.translate(SHOWN_AS_IT_IS) is not words:
        return ""
    path = _reverse_paths.get(command) or path_part(_reverse_paths, command, ', "reverse_path": "<', '>"')
    to = _recipient(recipient)
    before, behind = _beginnings.get((record.id, record.sender, how)) or _beginning(record, how)
    if not (path and to):
        return ""
    at, milliseconds = _floor(ended_at * 1000), _floor((ended_at - began_at) * 1000 + 0.5)
    second = at // 1000
    rest = ""
    for line, octets in others:
        if not (another := _recipient(line)):
            return ""
        rest += f", {another}{_reply(octets)}"
    return (
        f'{{"time": "{TIMES.get(second) or time_part(second)}{THREE_DIGITS[at % 1000]}{before}'
        f'{words.decode()}{behind}{size}, "repairs": {{}},'
        f' "seconds": {DURATIONS.get(milliseconds) or duration_part(milliseconds)}{path},'
        f' "recipient_count": {len(others) + 1}, "recipients_accepted": {accepted},'
        f' "recipients": [{to}{_replies.get(reply) or _reply(reply)}{rest}]}}'
    )


def line_json(event: Event, at: float, fields: Mapping[str, object]) -> str:
    """The line of any event at INFO, of its fields."""
    return json.dumps({"time": time_text(at), "level": "INFO", "event": event.value, **fields})


def _word(word: str) -> str:
    return "null" if word == "-" else _quoted(word)


def _beginning(record: SessionRecord, how: str | HowItEnded) -> tuple[str, str]:
    """What comes after the time, up to the verdict, and what comes after that."""
    receiver, outcome, at, code, own = (how, *ACCEPTED) if isinstance(how, str) else how
    via = f', "via": {_quoted(record.via)}' if record.via else ""
    before = (
        f'Z", "level": "INFO", "event": "mail", "session": "{record.id}", "sender": {_quoted(record.sender)}{via},'
        f' "receiver": {_quoted(receiver)}, "outcome": "{outcome}", "at": "{at}", "verdict_code": {code}, "verdict": "'
    )
    return keep(_beginnings, (record.id, record.sender, how), (before, f'", "verdict_by": "{by(own=own)}", "size": '))


def _recipient(command: bytes) -> str:
    return _recipients.get(command) or path_part(_recipients, command, '{"recipient": "<', '>", "reply": ')


def _reply(octets: bytes) -> str:
    return _replies.get(octets) or keep_reply(_replies, octets, f"{_quoted(on_one_line(octets))}}}")
