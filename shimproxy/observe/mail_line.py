"""The line of a mail: its fields, and the same as text, made at once.

There is one for each mail. Made of its fields as other lines are, the text would cost several times as much. Most
parts of a line are those of lines before it: they are kept, and looked up by what they were made of. In Python 3.11 to
look into a dict costs a third of what a function with a cache does.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, TypeVar

from shimproxy.observe.composites import Counts, Pairs, field_word, quoted
from shimproxy.observe.envelope import LogEnvelope
from shimproxy.observe.formats import field_words, second_text, time_text
from shimproxy.smtp.shown import on_one_line

if TYPE_CHECKING:
    from shimproxy.session.mail_account import HowItEnded, MailSummary, UsualMail
    from shimproxy.session.record import SessionRecord

    MailFields = dict[str, int | str | float | Counts | Pairs]
    BeginningKey = tuple[str, str, str | HowItEnded]
    """A session's id and sender, and how its mail has ended, as a UsualMail has it."""

_Key = TypeVar("_Key")
_Part = TypeVar("_Part")
# Of these, the log shows each octet as it is, a path without quotes and words within.
_path: Final = re.compile(rb"[ -9;-~]*+:<([!#-;=?-\[\]-~]*+)>").match
_OTHER: Final = ord("?")
_BLANK: Final = ord(" ")
SHOWN_AS_IT_IS: Final = bytes(each if 32 <= each < 127 and each not in b'"\\' else _OTHER for each in range(256))
"""A table that changes any other octet: to look for one by it costs half of what an expression does."""
_MOST_KEPT: Final = 256
_MOST_OCTETS_OF_A_PART: Final = 128
_MOST_MILLISECONDS_KEPT: Final = 1000
_YES: Final = LogEnvelope.YES
_NO: Final = LogEnvelope.NO
_floor: Final = math.floor
ACCEPTED: Final = ("accepted", "mail data", 250, False)
"""How a mail has ended of which the receiver alone is told."""

TIMES: Final[dict[int, str]] = {}
DURATIONS: Final[dict[int, str]] = {}
_beginnings: Final[dict[BeginningKey, tuple[str, str]]] = {}
_reverse_paths: Final[dict[bytes, str]] = {}
_lone_recipients: Final[dict[bytes, str]] = {}
_recipients: Final[dict[bytes, str]] = {}
_replies: Final[dict[bytes, str]] = {}
_LONE_RECIPIENT: Final = " recipient_count=1 recipients_accepted=1 recipient=<"
THREE_DIGITS: Final = [f"{each:03d}" for each in range(1000)]


def in_milliseconds(seconds: float) -> float:
    """So many seconds, as the log has them."""
    return _floor(seconds * 1000 + 0.5) / 1000


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
        fields["verdict_by"] = by(own=mail.verdict_is_own)
    fields["size"] = mail.size
    fields["repairs"] = Counts({each.value: count for each, count in mail.repairs.items()})
    fields["seconds"] = in_milliseconds(mail.seconds)
    if envelope is not _NO:
        fields["reverse_path"] = envelope.path(mail.command)
    fields |= {"recipient_count": mail.recipient_count, "recipients_accepted": mail.accepted_count}
    if mail.recipients:
        fields["recipients"] = _pairs(mail, envelope)
    return fields


def mail_text(mail: MailSummary, envelope: LogEnvelope) -> str:
    """The fields as they stand in text."""
    usual = usual_of(mail) if envelope is _YES else None
    line = usual_line(usual) if usual else ""
    return line.partition(" INFO mail ")[2] or field_words(mail_fields(mail, envelope))


def mail_line(mail: MailSummary, envelope: LogEnvelope) -> str:
    """The line as text, with its time."""
    return f"{time_text(mail.ended_at)} INFO mail {mail_text(mail, envelope)}"


def in_full(mail: UsualMail) -> MailSummary:
    """Its summary."""
    from shimproxy.session.mail_account import summary  # which a supervisor's log has no use for

    return summary(mail)


def usual_of(mail: MailSummary) -> UsualMail | None:
    """The same of any mail that has a verdict and recipients, each of them shown, if nothing was repaired for it."""
    recipients = mail.recipients
    if mail.repairs or not mail.verdict or len(recipients) != mail.recipient_count or len(mail.verdicts) > 1:
        return None
    if not recipients:
        return None
    how = mail.receiver, mail.outcome, mail.at, mail.verdict_code, mail.verdict_is_own
    (recipient, reply), *others = [(line, octets) for line, octets, _ in recipients]
    began_at, ended_at, accepted = mail.began_at, mail.ended_at, mail.accepted_count
    return (
        mail.record,
        how,
        mail.verdict,
        mail.size,
        began_at,
        ended_at,
        mail.command,
        accepted,
        recipient,
        reply,
        others,
    )


def usual_line(mail: UsualMail) -> str:
    """The line as text, with its time; empty if anything of it has to be escaped."""
    record, how, verdict, size, began_at, ended_at, command, accepted, recipient, reply, others = mail
    words = verdict.removesuffix(b"\r\n")
    if words.translate(SHOWN_AS_IT_IS) is not words or _BLANK not in words:
        return ""
    path = _reverse_paths.get(command) or path_part(_reverse_paths, command, " reverse_path=<", ">")
    rest = ""
    if others or accepted != 1:
        to = _recipient(recipient)
        if not (to and all(_recipient(each) for each, _ in others)):
            return ""
        rest = "".join([f"{_recipient(each)}{_replies.get(said) or _reply(said)}" for each, said in others])
        to = f" recipient_count={len(others) + 1} recipients_accepted={accepted}{to}"
    else:
        to = _lone_recipients.get(recipient) or path_part(_lone_recipients, recipient, _LONE_RECIPIENT, ">")
    before, behind = _beginnings.get((record.id, record.sender, how)) or _beginning(record, how)
    if not (path and to):
        return ""
    at, milliseconds = _floor(ended_at * 1000), _floor((ended_at - began_at) * 1000 + 0.5)
    second = at // 1000
    return (
        f"{TIMES.get(second) or time_part(second)}{THREE_DIGITS[at % 1000]}{before}{words.decode()}{behind}{size}"
        f" repairs=none seconds={DURATIONS.get(milliseconds) or duration_part(milliseconds)}"
        f"{path}{to}{_replies.get(reply) or _reply(reply)}{rest}"
    )


def by(*, own: bool) -> str:
    """Whose the verdict is."""
    return "shimproxy" if own else "receiver"


def keep(parts: dict[_Key, _Part], key: _Key, part: _Part, most: int = _MOST_KEPT) -> _Part:
    """Keep a part of a line for those after it; where there are many, all of them are to be made anew."""
    if len(parts) >= most:
        parts.clear()
    parts[key] = part
    return part


def keep_reply(parts: dict[bytes, str], octets: bytes, part: str) -> str:
    """The same of a reply, unless that is long."""
    return keep(parts, octets, part) if len(octets) <= _MOST_OCTETS_OF_A_PART else part


def path_part(parts: dict[bytes, str], command: bytes, before: str, behind: str) -> str:
    """The path of MAIL or RCPT, as a part of a line that is kept; empty if it is long or has to be escaped."""
    found = _path(command)
    if found is None or len(command) > _MOST_OCTETS_OF_A_PART:
        return ""
    return keep(parts, command, f"{before}{found[1].decode()}{behind}")


def time_part(second: int) -> str:
    """A time without its milliseconds, as a part of a line."""
    return keep(TIMES, second, second_text(second) + ".", 2)


def duration_part(milliseconds: int) -> str:
    """How long a mail took, in seconds, as a part of a line."""
    return keep(DURATIONS, milliseconds, str(max(0, milliseconds) / 1000), _MOST_MILLISECONDS_KEPT)


def _beginning(record: SessionRecord, how: str | HowItEnded) -> tuple[str, str]:
    """What comes after the time, up to the verdict, and what comes after that."""
    receiver, outcome, at, code, own = (how, *ACCEPTED) if isinstance(how, str) else how
    via = f" via={quoted(record.via)}" if record.via else ""
    before = (
        f"Z INFO mail session={record.id} sender={quoted(record.sender)}{via} receiver={quoted(receiver)}"
        f' outcome={outcome} at={quoted(at)} verdict_code={code} verdict="'
    )
    return keep(_beginnings, (record.id, record.sender, how), (before, f'" verdict_by={by(own=own)} size='))


def _recipient(command: bytes) -> str:
    return _recipients.get(command) or path_part(_recipients, command, " recipient=<", ">")


def _reply(octets: bytes) -> str:
    return keep_reply(_replies, octets, f" {field_word('reply', on_one_line(octets))}")


def _pairs(mail: MailSummary, envelope: LogEnvelope) -> Pairs:
    pairs = Pairs()
    verdicts = iter(mail.verdicts if len(mail.verdicts) > 1 else ())
    for command, reply, accepted in mail.recipients:
        pair = {} if envelope is _NO else {"recipient": envelope.path(command)}
        pair["reply"] = envelope.words(on_one_line(reply))
        if accepted and (verdict := next(verdicts, None)):
            pair["recipient_verdict"] = envelope.words(on_one_line(verdict))
        pairs.append(pair)
    return pairs
