"""The lines of sessions and mails as JSON, made at once, as a formatter makes them of their fields.

There are two for each session with one mail. Made of fields they would cost a tenth of it, most of that in json.
"""

from __future__ import annotations

import json
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Final

from shimproxy.observe.envelope import LogEnvelope
from shimproxy.observe.formats import time_text
from shimproxy.observe.mail_line import usual_words
from shimproxy.smtp.shown import on_one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shimproxy.observe.events import Event
    from shimproxy.session.mail_account import MailSummary
    from shimproxy.session.record import SessionRecord

_REPLIES_KEPT: Final = 64
_YES: Final = LogEnvelope.YES
_quoted: Final = encode_basestring_ascii


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
    words = usual_words(mail) if envelope is _YES else None
    if words is None:
        return None
    verdict, path, recipient = words
    record = mail.record
    [(_, reply, _)] = mail.recipients
    return (
        f'{{"time": "{time_text(mail.ended_at)}", "level": "INFO", "event": "mail", "session": "{record.id}",'
        f' "sender": {_quoted(record.sender)}, "receiver": {_quoted(mail.receiver)}, "outcome": "{mail.outcome}",'
        f' "at": "{mail.at}", "verdict_code": {mail.verdict_code}, "verdict": "{verdict}",'
        f' "verdict_by": "{"shimproxy" if mail.verdict_is_own else "receiver"}", "size": {mail.size}, "repairs": {{}},'
        f' "seconds": {round(mail.seconds, 3)}, "reverse_path": "<{path}>", "recipient_count": 1,'
        f' "recipients_accepted": {mail.accepted_count},'
        f' "recipients": [{{"recipient": "<{recipient}>", "reply": {_reply(reply)}}}]}}'
    )


def line_json(event: Event, at: float, fields: Mapping[str, object]) -> str:
    """The line of any event at INFO, of its fields."""
    return json.dumps({"time": time_text(at), "level": "INFO", "event": event.value, **fields})


def _word(word: str) -> str:
    return "null" if word == "-" else _quoted(word)


@lru_cache(maxsize=_REPLIES_KEPT)
def _reply(octets: bytes) -> str:
    """A reply: to RCPT, most are the same."""
    return _quoted(on_one_line(octets))
