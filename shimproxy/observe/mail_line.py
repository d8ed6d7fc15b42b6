"""The line of a mail: its fields, and the same as text, made at once.

There is one for each mail. Made of its fields as other lines are, the text would cost three times as much.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from shimproxy.observe.composites import Counts, Pairs, quoted
from shimproxy.observe.envelope import LogEnvelope
from shimproxy.observe.formats import field_words
from shimproxy.smtp.shown import on_one_line

if TYPE_CHECKING:
    from shimproxy.session.mail_account import MailSummary

    MailFields = dict[str, int | str | float | Counts | Pairs]

# Of these, the log shows each octet as it is, a path without quotes and words within.
_words: Final = re.compile(rb"([ !#-\[\]-~]++)\r\n").fullmatch
_path: Final = re.compile(rb"[ -9;-~]*+:<([!#-;=?-\[\]-~]*+)>").match
_REPLIES_KEPT: Final = 64
_YES: Final = LogEnvelope.YES
_NO: Final = LogEnvelope.NO


def mail_fields(mail: MailSummary, envelope: LogEnvelope) -> MailFields:
    """The fields, with what the log may have of addresses."""
    record = mail.record
    fields: MailFields = {"session": record.id, "sender": record.sender}
    if record.via:
        fields["via"] = record.via
    fields |= {"receiver": mail.receiver, "outcome": mail.outcome.value}
    if mail.verdict:
        fields["at"] = str(mail.at)
        fields["verdict_code"] = mail.verdict_code
        fields["verdict"] = envelope.words(on_one_line(mail.verdict))
        fields["verdict_by"] = _who(mail)
    fields["size"] = mail.size
    fields["repairs"] = Counts({each.value: count for each, count in mail.repairs.items()})
    fields["seconds"] = round(mail.seconds, 3)
    if envelope is not _NO:
        fields["reverse_path"] = envelope.path(mail.command)
    fields |= {"recipient_count": mail.recipient_count, "recipients_accepted": mail.accepted_count}
    if mail.recipients:
        fields["recipients"] = _recipients(mail, envelope)
    return fields


def mail_text(mail: MailSummary, envelope: LogEnvelope) -> str:
    """The fields as they stand in text."""
    if envelope is _YES and (text := _usual_text(mail)):
        return text
    return field_words(mail_fields(mail, envelope))


def usual_words(mail: MailSummary) -> tuple[str, str, str] | None:
    """The verdict, the reverse-path and the recipient of a mail as nearly all are: none of these is to be escaped, it
    has no more recipients, and nothing was repaired. None of any other."""
    recipients, verdict, path = mail.recipients, _words(mail.verdict), _path(mail.command)
    if verdict is None or path is None or len(recipients) != 1 or mail.repairs or mail.record.via:
        return None
    recipient = _path(recipients[0][0])
    return (verdict[1].decode(), path[1].decode(), recipient[1].decode()) if recipient else None


def _usual_text(mail: MailSummary) -> str:
    """The same of a mail as nearly all are; of any other, nothing."""
    words = usual_words(mail)
    if words is None:
        return ""
    verdict, path, recipient = words
    [(_, reply, _)] = mail.recipients
    record = mail.record
    sender, receiver = record.sender, mail.receiver
    if " " in sender or " " in receiver or '"' in sender or '"' in receiver:  # sockets in the file system
        return ""
    return (
        f"session={record.id} sender={sender} receiver={receiver} outcome={mail.outcome}"
        f" at={quoted(mail.at)} verdict_code={mail.verdict_code}"
        f' verdict="{verdict}"'
        f" verdict_by={'shimproxy' if mail.verdict_is_own else 'receiver'} size={mail.size} repairs=none"
        f" seconds={round(mail.seconds, 3)} reverse_path=<{path}> recipient_count=1"
        f" recipients_accepted={mail.accepted_count} recipient=<{recipient}> reply={_quoted_reply(reply)}"
    )


def _who(mail: MailSummary) -> str:
    return "shimproxy" if mail.verdict_is_own else "receiver"


def _recipients(mail: MailSummary, envelope: LogEnvelope) -> Pairs:
    pairs = Pairs()
    verdicts = iter(mail.verdicts if len(mail.verdicts) > 1 else ())
    for command, reply, accepted in mail.recipients:
        pair = {} if envelope is _NO else {"recipient": envelope.path(command)}
        pair["reply"] = envelope.words(on_one_line(reply))
        if accepted and (verdict := next(verdicts, None)):
            pair["recipient_verdict"] = envelope.words(on_one_line(verdict))
        pairs.append(pair)
    return pairs


@lru_cache(maxsize=_REPLIES_KEPT)
def _quoted_reply(octets: bytes) -> str:
    """A reply as it stands in text: to RCPT, most are the same."""
    return quoted(on_one_line(octets))
