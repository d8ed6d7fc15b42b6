"""Listeners, sessions, and an end in good order: `serve` is shimproxy for programs that embed it."""

from __future__ import annotations

import itertools
import os
import time
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.config.listener import Listener, SettingsError
from shimproxy.net.acceptor import Acceptor
from shimproxy.net.address import Address, BoundAddress, address_text
from shimproxy.net.block import Block
from shimproxy.net.driver import Driver
from shimproxy.net.leg import Leg
from shimproxy.net.listen import Spare, descriptors_left, prepare, turn_away
from shimproxy.net.origin import Origin, party
from shimproxy.net.receiver_state import ReceiverStates
from shimproxy.net.watch import Watchdog
from shimproxy.observe.journal import Journal
from shimproxy.observe.repeats import Repeats
from shimproxy.observe.safe_observer import SafeObserver
from shimproxy.service.admission import DESCRIPTORS, NOT_ALLOWED, AdmissionControl
from shimproxy.service.preflight import (
    check_block,
    check_capabilities,
    check_certificates,
    check_loops,
    check_receivers,
    check_records,
)
from shimproxy.service.sockets import close_sockets, open_sockets
from shimproxy.service.wiring import listener_contexts
from shimproxy.session.connection_origin import ConnectionOrigin
from shimproxy.session.lingering_close import BackgroundCloser
from shimproxy.session.mail_account import MailAccount
from shimproxy.session.policy import SenderTls
from shimproxy.session.record import SessionRecord
from shimproxy.session.sender import Sender
from shimproxy.session.session import Session
from shimproxy.session.session_events import SessionEvents
from shimproxy.session.tracer import Tracer
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from shimproxy.config.settings import Settings
    from shimproxy.net.origin import Party
    from shimproxy.observe.metrics import Metrics
    from shimproxy.records.files import RecordFiles
    from shimproxy.service.admission import AdmissionLimit
    from shimproxy.service.wiring import ListenerContext
    from shimproxy.session.mail_account import MailSummary, UsualMail
    from shimproxy.session.record import Observer
    from shimproxy.smtp.reply import LocalReply

    Started = trio.TaskStatus[list[BoundAddress]] | trio.TaskStatus[list[str]]

# Often enough that a deadline is at most a quarter late, at most a hundred times a second.
_TICKS_IN_SHORTEST_DEADLINE = 4
_SHORTEST_TICK_SECONDS, _LONGEST_TICK_SECONDS = 0.01, 1.0


@attrs.define(eq=False)
class Stop:
    """Ends `serve`: first in good order, then at once; or when its sessions have come to their end."""

    _closing: trio.Event = attrs.field(factory=trio.Event)
    _asked: trio.Event = attrs.field(factory=trio.Event)
    _at_once: trio.Event = attrs.field(factory=trio.Event)
    _closed: trio.Event = attrs.field(factory=trio.Event)

    def ask(self) -> None:
        """Stop accepting, let transactions finish within the grace; asked again, end at once."""
        if self._asked.is_set():
            self._at_once.set()
        self._asked.set()
        self._closing.set()

    def retire(self) -> None:
        """Stop accepting, and let every session come to its own end."""
        self._closing.set()

    async def closing(self) -> None:
        """Return when nothing more is to be accepted."""
        await self._closing.wait()

    async def closed(self) -> None:
        """Return when the listening sockets are closed."""
        await self._closed.wait()

    def has_closed(self) -> None:
        """Say that they are."""
        self._closed.set()

    async def asked(self) -> None:
        """Return when a stop has been asked for."""
        await self._asked.wait()

    async def insisted(self) -> None:
        """Return when a stop has been asked for twice."""
        await self._at_once.wait()


@attrs.define(eq=False)
class _Sessions:
    """The sessions of one `serve`."""

    settings: Settings
    observer: SafeObserver
    driver: Driver
    watchdog: Watchdog
    closer: BackgroundCloser
    admission: AdmissionControl
    journal: Journal
    metrics: Metrics | None
    _open: dict[Session, str | None] = attrs.field(factory=dict)
    """Session -> the network that it is counted for."""
    _waiting: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _ids: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1))
    _process: str = attrs.field(factory=lambda: os.urandom(2).hex())
    _leave: Callable[[Session], None] = attrs.field(init=False)
    """`_has_ended`: one for all sessions."""
    _tell_of_mail: Callable[[MailSummary], None] = attrs.field(init=False)
    """The observer's: one for all sessions, too."""
    _tell_of_usual_mail: Callable[[UsualMail], None] | None = attrs.field(init=False)
    """The log's, if it is the observer: what stands between the two would cost more than the log's part."""

    def __attrs_post_init__(self) -> None:
        self._leave = self._has_ended
        self._tell_of_mail = self.observer.mail_ended
        self._tell_of_usual_mail = self.journal.usual_mail_ended if self.observer.is_(self.journal) else None

    def begin(self, context: ListenerContext, sock: socket.socket, sockaddr: object) -> None:
        """Serve a new connection, if that is within the limits."""
        headed = context.origin_policy is not None and context.is_headed(sockaddr)
        if context.allowed and not (headed or context.admits(sockaddr)):
            self.refuse(context, sock, sockaddr, NOT_ALLOWED)
            return
        network = None if headed else self.admission.network_of(sockaddr)
        if limit := self.admission.enter(network):
            self.refuse(context, sock, sockaddr, limit)
            return
        peer = address_text(sockaddr)
        settings, policy = self.settings, context.policy
        traced = settings.trace or settings.record
        tracer = Tracer(settings.record_mail_data, clock=time.perf_counter) if traced else None
        record = SessionRecord(f"{self._process}-{next(self._ids)}", peer)
        wants_mails = self.observer.wants_mails
        mails = MailAccount(record, self._tell_of_mail, policy.lmtp, self._tell_of_usual_mail) if wants_mails else None
        times = self.metrics.reply_times.of_session() if self.metrics else None
        events = SessionEvents(record, self.observer, tracer=tracer, mails=mails, reply_times=times)
        self.watchdog.catch_up()  # the session starts at once, and the watchdog may have its round after that
        watch = self.watchdog.watch()
        try:
            leg = Leg("sender", sock, self.driver, watch, peer)
        except OSError:
            watch.close()
            self.admission.leave(network)
            self.refuse(context, sock, sockaddr)
            return
        sender = Sender(leg, policy.command_reader(), events, policy.deadlines, policy.limits.farewell_octets)
        session = Session(sender, events, policy, context.receivers.route(), self.closer, over=self._leave)
        if context.origin_policy:
            join = partial(self._join, session, context)
            session.origin = ConnectionOrigin(context.origin_policy, sockaddr, headed, session.route, events, join)
        elif policy.fails_over:
            session.route.origin = Origin(party(sockaddr), None)
        self._open[session] = network
        watch.run(session.run(), self.driver.runner, peer)

    def _join(self, session: Session, context: ListenerContext, sender: Party) -> LocalReply | None:
        """Count a session as of the network that its sender is in; or what is the matter with that."""
        network = self.admission.network_of(sender)
        not_allowed = NOT_ALLOWED if context.allowed and not context.admits(sender) else None
        if limit := not_allowed or self.admission.join(network):
            session.events.repaired(Violation.LIMIT_REACHED, limit=limit.name)
            return limit.reply
        self._open[session] = network
        return None

    def refuse(
        self, context: ListenerContext, sock: socket.socket, sockaddr: object, limit: AdmissionLimit = DESCRIPTORS
    ) -> None:
        """Tell a new connection that it is above a limit, with no task or session for it, and close."""
        # Whoever waits for TLS could not read it.
        greeting = b"" if context.policy.sender_tls is SenderTls.IMPLICIT else limit.reply.plain.octets
        turn_away(sock, greeting)
        self.journal.turned_away(limit.name, sockaddr)
        if self.metrics:
            self.metrics.limit_reached(limit.name)

    def _has_ended(self, session: Session) -> None:
        self.admission.leave(self._open.pop(session))
        if not self._open:
            self._waiting.unpark_all()

    def phases(self) -> list[str]:
        """What each of them is doing."""
        # Of a copy, as it may be another thread that asks.
        return [session.events.phase for session in list(self._open)]

    async def gone(self) -> None:
        """Return when no session is open."""
        while self._open:
            await self._waiting.park()

    def stop_when_idle(self) -> None:
        for session in list(self._open):
            session.stop_when_idle()

    def stop_now(self) -> None:
        for session in list(self._open):
            session.stop_now()


async def serve(
    settings: Settings,
    *,
    listeners: Sequence[socket.socket] | None = None,
    on_session: Callable[[SessionRecord], None] | None = None,
    observer: Observer | None = None,
    on_error: Callable[[BaseException], None] | None = None,
    metrics: Metrics | None = None,
    stop: Stop | None = None,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve senders until cancelled, or until `stop` is asked for.

    `await nursery.start(shimproxy.serve, settings)` returns the bound addresses once connections are accepted: a list
    of `BoundAddress`, each a text, HOST:PORT, that has `host` and `port`. Cancelling resets what is open; `stop` lets
    transactions finish.

    Args:
        settings: where to listen, where to dial, how long to wait.
        listeners: listening sockets of the caller's own, of any stream family, instead of settings.listen; they are
            closed at the end.
        on_session: is called with the record of each session when it is over; what it raises is logged.
        observer: is told of dialogue and repairs as they happen, instead of the log; what it raises is logged.
        on_error: is called with what `on_session` or `observer` has raised, and with an error of shimproxy's own that
            has ended a session, after it was logged; it must not raise.
        metrics: the figures that `shimproxy run` shows at its admin address.
        stop: ends in good order.

    Raises:
        SettingsError: there is nothing to listen on, no memory for a block, or records can't be kept where they are to
            be.
        ListenFailed: an address can't be listened on.
        DialFailed: the receiver's name is unknown.
        TlsUnusable: a certificate, key or fingerprint can't be used.
    """
    if listeners is None and not settings.listen:
        raise SettingsError("listen: no address to listen on; write HOST:PORT, as in 127.0.0.1:2525, or give listeners")
    sockets = dict.fromkeys(listeners or (), Listener(Address("", 0)))
    Journal().sender_tls(settings.sender_tls_of_all)
    Journal().observing(settings.observed_at)
    try:
        check_block(settings)
        check_certificates(settings)
        check_records(settings)
        found = await check_receivers(settings)
        if listeners is None:
            check_capabilities(settings)
            for listener in settings.listen:
                sockets |= dict.fromkeys(await open_sockets(listener), listener)
        check_loops(settings, sockets, found)
        await serve_on(
            settings,
            sockets,
            on_session=on_session,
            observer=observer,
            on_error=on_error,
            metrics=metrics,
            stop=stop or Stop(),
            task_status=task_status,
        )
    finally:
        close_sockets(sockets)


async def serve_on(
    settings: Settings,
    sockets: Mapping[socket.socket, Listener],
    *,
    on_session: Callable[[SessionRecord], None] | None = None,
    observer: Observer | None = None,
    on_error: Callable[[BaseException], None] | None = None,
    stop: Stop,
    metrics: Metrics | None = None,
    states: ReceiverStates | None = None,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, on listening sockets with what is known of those who connect there, and of receivers."""
    driver = Driver(Block(settings.limits.block_octets))
    journal = Journal(Repeats(settings.log_repeats), settings.log_envelope, leads_to_explanations=True)
    spare = Spare()
    try:
        states = states or ReceiverStates()
        states.most_connections, states.wait_seconds = settings.receiver_connections, settings.receiver_wait_seconds
        found = listener_contexts(settings, sockets, driver, states)
        check_loops(settings, sockets)
        for sock in sockets:
            prepare(sock)
        tick_seconds = min(e.policy.deadlines.shortest_seconds for e in found.values()) / _TICKS_IN_SHORTEST_DEADLINE
        watchdog = Watchdog(
            min(_LONGEST_TICK_SECONDS, max(_SHORTEST_TICK_SECONDS, tick_seconds)), turnstile=driver.turnstile
        )
        driver.catch_up = watchdog.catch_up
        files = _record_files(settings, journal)
        told = SafeObserver(
            journal if observer is None else observer, journal, on_session, files.keep if files else None, on_error
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.runner.run, nursery)
            await nursery.start(driver.run)
            await nursery.start(watchdog.run)
            nursery.start_soon(journal.flush_forever)
            if files:
                nursery.start_soon(files.prune_forever)
            closer = BackgroundCloser(nursery, watchdog)
            admission = AdmissionControl(settings, descriptors=descriptors_left())
            sessions = _Sessions(settings, told, driver, watchdog, closer, admission, journal, metrics)
            if metrics:
                metrics.phases, metrics.receiver_states = sessions.phases, states.all
                metrics.record_failures = files.count_failures if files else int
            acceptors = []
            for sock, context in found.items():
                begin, refuse = partial(sessions.begin, context), partial(sessions.refuse, context)
                acceptor = Acceptor(sock, driver, watchdog.watch(), begin, refuse, spare, journal.accept_failed)
                acceptor.start()
                acceptors.append(acceptor)
            task_status.started([BoundAddress.of(sock.getsockname()) for sock in sockets])
            await stop.closing()
            for acceptor in acceptors:
                acceptor.close()
            close_sockets(sockets)
            stop.has_closed()
            await _let_retire(sessions, stop)
            await _let_finish(sessions, stop, settings.grace_seconds)
            nursery.cancel_scope.cancel()
    finally:
        journal.flush()
        journal.tell_repeats(all_of_them=True)
        journal.flush_turned_away()
        spare.close()
        driver.close()


def _record_files(settings: Settings, journal: Journal) -> RecordFiles | None:
    """Where sessions are recorded, if they are."""
    if not settings.recording:
        return None
    from shimproxy.records.files import RecordFiles  # what is seldom used takes no memory

    return RecordFiles(settings.recording, journal)


async def _let_retire(sessions: _Sessions, stop: Stop) -> None:
    """Wait until there are no sessions any more, or a stop is asked for."""
    async with trio.open_nursery() as waiting:

        async def asked() -> None:
            await stop.asked()
            waiting.cancel_scope.cancel()

        waiting.start_soon(asked)
        await sessions.gone()
        waiting.cancel_scope.cancel()


async def _let_finish(sessions: _Sessions, stop: Stop, grace_seconds: float) -> None:
    """Wait for the sessions as long as they may take."""
    async with trio.open_nursery() as waiting:

        async def at_once() -> None:
            await stop.insisted()
            waiting.cancel_scope.cancel()

        waiting.start_soon(at_once)
        sessions.stop_when_idle()
        with trio.move_on_after(grace_seconds):
            await sessions.gone()
        sessions.stop_now()
        with trio.move_on_after(sessions.settings.deadlines.linger_idle):
            await sessions.gone()
        waiting.cancel_scope.cancel()
