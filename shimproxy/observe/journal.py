"""The journal: sessions, repairs and dialogue as log lines.

INFO has one line a session, WARNING one a repair under its catalogue name, DEBUG the dialogue. Whatever a peer sent
is escaped, so that no peer can write a log line of its own. AUTH and mail data never come here. Where lines go, and how
they look, is log_output.py's.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import re
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.address import address_text
from shimproxy.observe.composites import Counts, Pairs, Sides
from shimproxy.observe.envelope import LogEnvelope
from shimproxy.observe.events import Event
from shimproxy.observe.formats import JsonFormatter, TextFormatter
from shimproxy.observe.json_lines import line_json, mail_json, session_json, usual_json
from shimproxy.observe.lossy import log
from shimproxy.observe.mail_line import in_full, mail_fields, mail_line, usual_line
from shimproxy.observe.repeats import Repeats
from shimproxy.observe.session_line import session_fields, session_line, whose
from shimproxy.observe.text_lines import lines_of
from shimproxy.session.policy import SenderTls
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.shown import escaped, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.session.advice import Advice
    from shimproxy.session.mail_account import MailSummary, UsualMail
    from shimproxy.session.record import Repair, SessionRecord
    from shimproxy.smtp.reply import Reply

_Fields = dict[str, int | str | float | Counts | Pairs | Sides]
_ENHANCED_CODE: Final = re.compile(rb"\d{3}[ -]([245]\.\d{1,3}\.\d{1,3})[ \r]").match
_WAITS_A_SECOND: Final = 4
_WAIT_SECONDS: Final = 1 / _WAITS_A_SECOND
_MOST_WAITING: Final = 256
_MOST_ADVISED: Final = 1000
"""With receivers that senders choose there may be any number."""
_MESSAGES: Final = {
    SenderTls.OPAQUE: "shimproxy cannot repair what a sender and a receiver encrypt with STARTTLS; --cert FILE with "
    "--receiver-tls required, or with --allow-clear, changes that",
    SenderTls.OFF: "shimproxy removes STARTTLS from the receiver's EHLO reply: senders do not use TLS",
}


def error_name(error: OSError) -> str:
    """The name of an error number, as in ENOSPC, or `unknown`."""
    return errno.errorcode.get(error.errno or 0, "unknown")


@attrs.define(eq=False)
class Journal:
    """Tells the log of everything, in its order; a handler that raises loses its line and no more.

    The lines of sessions wait a quarter of a second for others, or for a line that does not wait: one that is made
    on its own costs its session 10 % of its CPU.
    """

    repeats: Repeats = attrs.field(factory=Repeats)
    """Which repairs have been logged so often of late that they are counted instead."""
    envelope: LogEnvelope = LogEnvelope.YES
    _leads_to_explanations: bool = False
    """Whether the next repair is to say what explains it, as the first one of a process does."""
    _waiting: list[tuple[SessionRecord, None] | tuple[None, MailSummary] | UsualMail] = attrs.field(factory=list)
    """Sessions and mails, in the order of their ends."""
    _advised: set[tuple[str, str]] = attrs.field(factory=set)
    """Of which receivers a likely mend was logged already, and for what."""
    _turned_away: dict[str, tuple[int, object]] = attrs.field(factory=dict)
    """Limit -> how many connections above it were refused, and the last of their peers' addresses."""

    @property
    def wants_dialogue(self) -> bool:
        """Whether DEBUG is logged."""
        return log.isEnabledFor(logging.DEBUG)

    def said(self, record: SessionRecord, who: str, octets: bytes) -> None:
        """Log what a peer said."""
        self.flush()
        for line in octets.removesuffix(b"\r\n").split(b"\r\n"):
            text = self.envelope.words(escaped(line))
            _write(Event.SAID, {"session": record.id, "from": "shimproxy" if who == "shim" else who, "line": text})

    def repaired(self, record: SessionRecord, repair: Repair) -> None:
        """Log a repair, unless there have been as many of its kind for its receiver lately; at INFO if it is minor."""
        # A minor one is no more than its session's own line, of which there is one for each anyway.
        if not (repair.minor or self.repeats.may(repair.violation.value, record.receiver)):
            return
        self.flush()
        name = "violation" if repair.observed else "repair"
        fields: _Fields = {**whose(record), name: repair.violation.value, "phase": repair.phase}
        for name, value in repair.detail.items():
            fields[name] = self.envelope.words(shortened(value)) if isinstance(value, bytes) else value
        if self._leads_to_explanations and not repair.minor:
            fields["message"] = f"`shimproxy explain {repair.violation.value}` says more"
            self._leads_to_explanations = False
        event = Event.SEEN if repair.observed else Event.REPAIR
        _write(event, fields, level=logging.INFO if repair.minor else logging.WARNING)

    def ended(self, record: SessionRecord) -> None:
        """Log a session, presently."""
        self._waiting.append((record, None))
        if len(self._waiting) >= _MOST_WAITING:
            self.flush()

    @property
    def wants_mails(self) -> bool:
        """Whether INFO is logged."""
        return log.isEnabledFor(logging.INFO)

    def mail_ended(self, mail: MailSummary) -> None:
        """Log a mail, presently."""
        self._waiting.append((None, mail))
        if len(self._waiting) >= _MOST_WAITING:
            self.flush()

    def usual_mail_ended(self, mail: UsualMail) -> None:
        """Log a mail as nearly all are, presently."""
        waiting = self._waiting
        waiting.append(mail)
        if len(waiting) >= _MOST_WAITING:
            self.flush()

    def advised(self, record: SessionRecord, advice: Advice) -> None:
        """Log what may mend a receiver that is set up for something else, once."""
        about = record.receiver, advice.seen
        if about in self._advised or len(self._advised) >= _MOST_ADVISED:
            return
        self._advised.add(about)
        self.flush()
        _write(Event.LIKELY_MEND, {**whose(record), "seen": advice.seen, "message": advice.message})

    def login_refused(self, record: SessionRecord, mechanism: str, reply: Reply) -> None:
        """Log that the receiver has refused AUTH; not in its words, which may belong to AUTH."""
        self.flush()
        fields: _Fields = {**whose(record), "mechanism": mechanism, "code": reply.code}
        if found := _ENHANCED_CODE(reply.octets):
            fields["enhanced_code"] = found[1].decode()
        _write(Event.AUTH_REFUSED, fields)

    def failed(self, record: SessionRecord, error: BaseException) -> None:
        """Log a bug of our own with its traceback."""
        self.flush()
        _write(Event.BUG, {"session": record.id}, error)

    def observer_failed(self, session_id: str, error: BaseException) -> None:
        """Log an error of the embedding program's observer with its traceback."""
        self.flush()
        _write(Event.OBSERVER, {"session": session_id}, error)

    def sender_tls(self, ways: Sequence[SenderTls]) -> None:
        """Log what is done about TLS on sender legs, where that takes something away from repair or from senders."""
        for how in ways:
            if message := _MESSAGES.get(how):
                _write(Event.START, {"sender_tls": how.value, "message": message})

    def observing(self, addresses: Sequence[str]) -> None:
        """Log where octets pass as they come, if anywhere."""
        if addresses:
            where = f"at {', '.join(addresses)} octets pass as they come; shimproxy reports violations and repairs none"
            _write(Event.START, {"message": where})

    def tell(self, event: Event, **fields: str | int | float) -> None:
        """Log an event that is no session's, after the sessions that ended before it; its message comes last."""
        self.flush()
        _write(event, {**fields})

    def supervisor_failed(self, what: str, error: BaseException) -> None:
        """Log a bug of our own with its traceback, and what failed for it: an event, or a part of the supervisor."""
        _write(Event.BUG, {"while": what}, error)

    def accept_failed(self, error: OSError) -> None:
        """Log that a listener could not accept a connection."""
        self.tell(Event.LISTENER, reason=error_name(error), message=f"cannot accept: {error.strerror}")

    def turned_away(self, limit: str, sockaddr: object) -> None:
        """Log a connection that was refused for a limit, with the others of the second: a flood is none here."""
        count, _ = self._turned_away.get(limit, (0, None))
        self._turned_away[limit] = count + 1, sockaddr

    async def flush_forever(self) -> None:
        """Log what waits, sessions a few times a second and refused connections once, until cancelled."""
        for tick in itertools.count(1):
            await trio.sleep(_WAIT_SECONDS)
            self.flush()
            self.tell_repeats()
            if not tick % _WAITS_A_SECOND:
                self.flush_turned_away()

    def tell_repeats(self, *, all_of_them: bool = False) -> None:
        """Log how many repairs were counted instead of logged, where that has come to an end."""
        for (repair, receiver), count in self.repeats.over(all_of_them=all_of_them):
            fields: _Fields = {"repair": repair, "receiver": receiver, "count": count}
            _write(Event.REPEATS, fields)

    def flush_turned_away(self) -> None:
        """Log the connections that were refused: one line for each limit, with one of the senders as an example."""
        turned_away, self._turned_away = self._turned_away, {}
        for limit, (count, sockaddr) in turned_away.items():
            self.flush()
            fields: _Fields = {
                "session": "-",
                "repair": Violation.LIMIT_REACHED.value,
                "phase": "connection",
                "limit": limit,
                "count": count,
                "last_sender": address_text(sockaddr),
            }
            _write(Event.REPAIR, fields)

    def flush(self) -> None:
        """Log what waits."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for formatter, line_of, usual in (
                (TextFormatter, self._text, usual_line),
                (JsonFormatter, self._json, usual_json),
            ):
                if lines := lines_of(formatter):
                    # A line with addresses that must not be seen is made of its fields.
                    shown = usual if self.envelope is LogEnvelope.YES else _never
                    lines.take([line_of(*e) if len(e) == 2 else shown(e) or line_of(None, in_full(e)) for e in waiting])
                    return
            for each in waiting:
                record, mail = each if len(each) == 2 else (None, in_full(each))
                if mail is not None:
                    _write(Event.MAIL, {**mail_fields(mail, self.envelope)}, at=mail.ended_at)
                elif record is not None:
                    _write(Event.SESSION, session_fields(record), at=record.ended_at)

    def _text(self, record: SessionRecord | None, mail: MailSummary | None) -> str:
        """The line of a session or of a mail, as text."""
        if mail is not None:
            return mail_line(mail, self.envelope)
        assert record is not None
        return session_line(record)

    def _json(self, record: SessionRecord | None, mail: MailSummary | None) -> str:
        """The same as JSON."""
        if mail is not None:
            line = mail_json(mail, self.envelope)
            return line or line_json(Event.MAIL, mail.ended_at, mail_fields(mail, self.envelope))
        assert record is not None
        return session_json(record)


def _never(_: UsualMail) -> str:
    return ""


def _write(event: Event, fields: _Fields, error: BaseException | None = None, *, level: int = 0, at: float = 0) -> None:
    """Log an event, at its own level unless one is given, as of now or of `at`, in seconds since 1970."""
    level = level or event.level
    if not log.isEnabledFor(level):
        return
    exc_info = (type(error), error, error.__traceback__) if error else None
    line = log.makeRecord(log.name, level, "", 0, event.value, (), exc_info, extra={"fields": fields})
    if at:
        line.created, line.msecs = at, at % 1 * 1000
    # Whoever's filter or handler it is, there is nobody left to be told.
    with contextlib.suppress(Exception):
        log.handle(line)
