"""The journal: sessions, repairs and dialogue as log lines.

INFO has one line a session, WARNING one a repair under its catalogue name, DEBUG the dialogue. Whatever a peer sent
is escaped, so that no peer can write a log line of its own. AUTH and mail data never come here. Where lines go, and how
they look, is log_output.py's.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.address import written
from shimproxy.ops.log_output import log
from shimproxy.ops.repeats import Repeats
from shimproxy.session.policy import SenderTls
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shimproxy.session.record import Observer, Repair, SessionRecord

_Fields = dict[str, int | str | float]
_WAITS_A_SECOND: Final = 4
_WAIT_SECONDS: Final = 1 / _WAITS_A_SECOND
_MOST_WAITING: Final = 256
_MOST_SHOWN: Final = 1000
_REMARKS: Final = {
    SenderTls.OPAQUE: "the receiver's STARTTLS passes unread, and nothing can be repaired there; --cert changes that",
    SenderTls.OFF: "STARTTLS is taken out of the receiver's EHLO reply: senders stay in the clear",
}


def shortened(octets: bytes) -> str:
    """The same of what may be of any length: its beginning, and how long it is."""
    text = escaped(octets[:_MOST_SHOWN])
    return text if len(octets) <= _MOST_SHOWN else f"{text}... ({len(octets)} octets)"


def escaped(octets: bytes) -> str:
    """The octets as printable ASCII, without their final line end; what is not becomes \\\\xNN and the like."""
    return octets.removesuffix(b"\r\n").decode("latin-1").encode("unicode_escape").decode("ascii")


@attrs.define(eq=False)
class Told:
    """An observer whose errors are logged and go no further: the embedding program's must not end a session."""

    _observer: Observer
    _journal: Journal
    _on_session: Callable[[SessionRecord], None] | None = None
    _keep: Callable[[SessionRecord], None] | None = None

    @property
    def wants_dialogue(self) -> bool:
        """What the observer wants."""
        try:
            return self._observer.wants_dialogue
        except Exception as error:
            self._journal.observer_failed("-", error)
            return False

    def said(self, record: SessionRecord, who: str, octets: bytes) -> None:
        """Pass it on."""
        self._tell(record, self._observer.said, record, who, octets)

    def repaired(self, record: SessionRecord, repair: Repair) -> None:
        """Pass it on."""
        self._tell(record, self._observer.repaired, record, repair)

    def ended(self, record: SessionRecord) -> None:
        """Pass it on, and to whoever wants the session's end alone."""
        self._tell(record, self._observer.ended, record)
        for tell in (self._keep, self._on_session):
            if tell:
                self._tell(record, tell, record)

    def failed(self, record: SessionRecord, error: BaseException) -> None:
        """Pass it on."""
        self._tell(record, self._observer.failed, record, error)

    def _tell(self, record: SessionRecord, tell: Callable[..., None], *arguments: object) -> None:
        try:
            tell(*arguments)
        except Exception as error:
            self._journal.observer_failed(record.id, error)


@attrs.define(eq=False)
class Journal:
    """Tells the log of everything, in its order; a handler that raises loses its line and no more.

    The lines of sessions wait a quarter of a second for others, or for a line that does not wait: one that is made
    on its own costs its session 10 % of its CPU.
    """

    repeats: Repeats = attrs.field(factory=Repeats)
    """Which repairs have been logged so often of late that they are counted instead."""
    _waiting: list[SessionRecord] = attrs.field(factory=list)
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
            _write(logging.DEBUG, "said", {"session": record.id, who: escaped(line)})

    def repaired(self, record: SessionRecord, repair: Repair) -> None:
        """Log a repair, unless there have been as many of its kind for its receiver lately; at INFO if it is minor."""
        level = logging.INFO if repair.minor else logging.WARNING
        # A minor one is no more than its session's own line, of which there is one for each anyway.
        if not (repair.minor or self.repeats.may(repair.violation.value, record.receiver)):
            return
        self.flush()
        fields: _Fields = {"session": record.id, "repair": repair.violation.value, "phase": repair.phase}
        for name, value in repair.detail.items():
            fields[name] = shortened(value) if isinstance(value, bytes) else value
        _write(level, "repair", fields)

    def ended(self, record: SessionRecord) -> None:
        """Log a session, presently."""
        self._waiting.append(record)
        if len(self._waiting) >= _MOST_WAITING:
            self.flush()

    def failed(self, record: SessionRecord, error: BaseException) -> None:
        """Log a bug of our own with its traceback."""
        self.flush()
        _write(logging.ERROR, "bug", {"session": record.id}, error)

    def observer_failed(self, session_id: str, error: BaseException) -> None:
        """Log an error of the embedding program's observer with its traceback."""
        self.flush()
        _write(logging.ERROR, "observer", {"session": session_id}, error)

    def sender_tls(self, ways: Sequence[SenderTls]) -> None:
        """Log what is done about TLS on sender legs, where that takes something away from repair or from senders."""
        for how in ways:
            if remark := _REMARKS.get(how):
                _write(logging.INFO, "start", {"sender_tls": how.value, "remark": remark})

    def supervised(self, what: str, **fields: str | int | float) -> None:
        """Log what became of settings and workers."""
        _write(logging.INFO, "supervisor", {"what": what, **fields})

    def trouble_with_workers(self, what: str, **fields: str | int | float) -> None:
        """Log the same where it is not as it should be."""
        _write(logging.WARNING, "supervisor", {"what": what, **fields})

    def supervisor_failed(self, what: str, error: BaseException) -> None:
        """Log a bug of our own with its traceback."""
        _write(logging.ERROR, "bug", {"while": what}, error)

    def trouble(self, what: str) -> None:
        """Log what befell a listener."""
        self.flush()
        _write(logging.WARNING, "listener", {"trouble": what})

    def records(self, what: str) -> None:
        """Log what befell the files of records."""
        self.flush()
        _write(logging.WARNING, "records", {"trouble": what})

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
            _write(logging.WARNING, "repeats", fields)

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
                "last_sender": written(sockaddr),
            }
            _write(logging.WARNING, "repair", fields)

    def flush(self) -> None:
        """Log what waits."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for record in waiting:
                fields: _Fields = {
                    "session": record.id,
                    "sender": record.sender,
                    **({"via": record.via} if record.via else {}),
                    "receiver": record.receiver,
                    "transactions": record.transactions,
                    "accepted": record.accepted,
                    "octets_from_sender": record.octets_from_sender,
                    "octets_to_receiver": record.octets_to_receiver,
                    "octets_from_receiver": record.octets_from_receiver,
                    "octets_to_sender": record.octets_to_sender,
                    "resumed": record.resumed,
                    "repairs": ",".join(f"{each}:{count}" for each, count in record.repairs.items()) or "none",
                    "tls": f"{record.sender_tls}/{record.receiver_tls}",
                    "ended": f"{record.ended_by}/{record.ended_in}",
                    "seconds": round(record.seconds, 3),
                }
                _write(logging.INFO, "session", fields, at=record.ended_at)


def _write(level: int, event: str, fields: _Fields, error: BaseException | None = None, *, at: float = 0) -> None:
    """Log an event, as of now or of `at`, in seconds since 1970."""
    if not log.isEnabledFor(level):
        return
    exc_info = (type(error), error, error.__traceback__) if error else None
    line = log.makeRecord(log.name, level, "", 0, event, (), exc_info, extra={"fields": fields})
    if at:
        line.created, line.msecs = at, at % 1 * 1000
    # Whoever's filter or handler it is, there is nobody left to be told.
    with contextlib.suppress(Exception):
        log.handle(line)
