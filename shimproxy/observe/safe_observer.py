"""An observer of sessions, with errors that end no session: the log's, or an embedding program's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.session.advice import AdviceObserver
from shimproxy.session.mail_account import MailObserver
from shimproxy.session.record import LoginObserver

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.observe.journal import Journal
    from shimproxy.session.advice import Advice
    from shimproxy.session.mail_account import MailSummary
    from shimproxy.session.record import Observer, Repair, SessionRecord
    from shimproxy.smtp.reply import Reply


@attrs.define(eq=False)
class SafeObserver:
    """An observer whose errors are logged and end no session; whoever wants to is told of them."""

    _observer: Observer
    _journal: Journal
    _on_session: Callable[[SessionRecord], None] | None = None
    _keep: Callable[[SessionRecord], None] | None = None
    _on_error: Callable[[BaseException], None] | None = None
    _mail_observer: MailObserver | None = attrs.field(init=False)
    """The observer, if it is to be told of mails: to find that out costs more than to tell it."""

    def __attrs_post_init__(self) -> None:
        self._mail_observer = self._observer if isinstance(self._observer, MailObserver) else None

    @property
    def wants_dialogue(self) -> bool:
        """What the observer wants."""
        try:
            return self._observer.wants_dialogue
        except Exception as error:
            self._failed("-", error)
            return False

    def is_(self, observer: object) -> bool:
        """Whether that is the observer whose errors are logged."""
        return self._observer is observer

    def said(self, record: SessionRecord, who: str, octets: bytes) -> None:
        """Pass it on."""
        self._tell(record, self._observer.said, record, who, octets)

    def repaired(self, record: SessionRecord, repair: Repair) -> None:
        """Pass it on."""
        self._tell(record, self._observer.repaired, record, repair)

    @property
    def wants_mails(self) -> bool:
        """What the observer wants."""
        try:
            return self._mail_observer is not None and self._mail_observer.wants_mails
        except Exception as error:
            self._failed("-", error)
            return False

    def mail_ended(self, mail: MailSummary) -> None:
        """Pass it on."""
        assert self._mail_observer is not None
        self._tell(mail.record, self._mail_observer.mail_ended, mail)

    def login_refused(self, record: SessionRecord, mechanism: str, reply: Reply) -> None:
        """Pass it on."""
        if isinstance(self._observer, LoginObserver):
            self._tell(record, self._observer.login_refused, record, mechanism, reply)

    def advised(self, record: SessionRecord, advice: Advice) -> None:
        """Pass it on to an observer that wants to know."""
        if isinstance(self._observer, AdviceObserver):
            self._tell(record, self._observer.advised, record, advice)

    def ended(self, record: SessionRecord) -> None:
        """Pass it on, and to whoever wants the session's end alone."""
        self._tell(record, self._observer.ended, record)
        for tell in (self._keep, self._on_session):
            if tell:
                self._tell(record, tell, record)

    def failed(self, record: SessionRecord, error: BaseException) -> None:
        """Pass it on."""
        self._tell(record, self._observer.failed, record, error)
        if self._on_error:
            self._on_error(error)

    def _tell(self, record: SessionRecord, tell: Callable[..., None], *arguments: object) -> None:
        try:
            tell(*arguments)
        except Exception as error:
            self._failed(record.id, error)

    def _failed(self, session: str, error: Exception) -> None:
        self._journal.observer_failed(session, error)
        if self._on_error:
            self._on_error(error)
