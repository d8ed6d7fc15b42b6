"""Listeners, sessions, and an end in good order: `serve` is shimproxy for programs that embed it."""

from __future__ import annotations

import itertools
import os
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.net.address import Address, written
from shimproxy.net.driver import Block, Driver
from shimproxy.net.leg import Leg
from shimproxy.net.listen import Spare, accept_forever, prepare, turn_away
from shimproxy.net.origin import Origin, party
from shimproxy.net.watch import Watchdog
from shimproxy.ops.check import check_block, check_capabilities, check_loops, check_receivers, check_records
from shimproxy.ops.entrance import entrances
from shimproxy.ops.gate import DESCRIPTORS, Gate
from shimproxy.ops.journal import Journal, Told
from shimproxy.ops.listener import Listener, SettingsError, close_sockets, open_sockets
from shimproxy.ops.record_files import RecordFiles
from shimproxy.ops.repeats import Repeats
from shimproxy.session.arrival import Arrival
from shimproxy.session.farewell import Beside
from shimproxy.session.notes import Notes
from shimproxy.session.policy import SenderTls
from shimproxy.session.record import SessionRecord
from shimproxy.session.sender import Sender
from shimproxy.session.session import Session
from shimproxy.session.trace import Tracer
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from shimproxy.net.origin import Party
    from shimproxy.ops.entrance import Entrance
    from shimproxy.ops.gate import Limit
    from shimproxy.ops.metrics import Metrics
    from shimproxy.ops.settings import Settings
    from shimproxy.session.record import Observer
    from shimproxy.smtp.reply import Own

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
    observer: Observer
    driver: Driver
    watchdog: Watchdog
    nursery: trio.Nursery
    beside: Beside
    gate: Gate
    journal: Journal
    metrics: Metrics | None
    _open: dict[Session, str | None] = attrs.field(factory=dict)
    """Session -> the network that it is counted for."""
    _waiting: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _ids: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1))
    _process: str = attrs.field(factory=lambda: os.urandom(2).hex())

    def begin(self, entrance: Entrance, sock: socket.socket, sockaddr: object) -> None:
        """Serve a new connection in a task of its own, if that is within the limits."""
        headed = entrance.arrivals is not None and entrance.is_headed(sockaddr)
        network = None if headed else self.gate.network_of(sockaddr)
        if limit := self.gate.enter(network):
            self.refuse(entrance, sock, sockaddr, limit)
            return
        peer = written(sockaddr)
        settings, policy = self.settings, entrance.policy
        tracer = Tracer(settings.record_mail_data) if settings.trace or settings.record else None
        notes = Notes(SessionRecord(f"{self._process}-{next(self._ids)}", peer), self.observer, tracer=tracer)
        watch = self.watchdog.watch()
        try:
            leg = Leg("sender", sock, self.driver, watch, peer)
        except OSError:
            watch.close()
            self.gate.leave(network)
            self.refuse(entrance, sock, sockaddr)
            return
        sender = Sender(leg, policy.command_reader(), notes, policy.deadlines)
        session = Session(sender, notes, policy, entrance.receivers.route(), self.beside)
        if entrance.arrivals:
            join = partial(self._join, session)
            session.arrival = Arrival(entrance.arrivals, sockaddr, headed, session.route, notes, join)
        elif policy.fails_over:
            session.route.origin = Origin(party(sockaddr), None)
        self._open[session] = network
        self.nursery.start_soon(self._serve, session, name=f"session with {peer}")

    def _join(self, session: Session, sender: Party) -> Own | None:
        """Count a session as of the network that its sender is in; or what is the matter with that."""
        network = self.gate.network_of(sender)
        if limit := self.gate.join(network):
            session.notes.repaired(Violation.LIMIT_REACHED, limit=limit.name)
            return limit.reply
        self._open[session] = network
        return None

    def refuse(self, entrance: Entrance, sock: socket.socket, sockaddr: object, limit: Limit = DESCRIPTORS) -> None:
        """Tell a new connection that it is above a limit, with no task or session for it, and close."""
        # Whoever waits for TLS could not read it.
        greeting = b"" if entrance.policy.sender_tls is SenderTls.IMPLICIT else limit.reply.plain.octets
        turn_away(sock, greeting)
        self.journal.turned_away(limit.name, sockaddr)
        if self.metrics:
            self.metrics.limit_reached(limit.name)

    async def _serve(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self.gate.leave(self._open.pop(session))
            if not self._open:
                self._waiting.unpark_all()

    def phases(self) -> list[str]:
        """What each of them is doing."""
        return [session.notes.phase for session in self._open]

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
    stop: Stop | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve senders until cancelled, or until `stop` is asked for.

    `await nursery.start(shimproxy.serve, settings)` returns the bound addresses, each as HOST:PORT, once
    connections are accepted. Cancelling resets what is open; `stop` lets transactions finish.

    Args:
        settings: where to listen, where to dial, how long to wait.
        listeners: listening sockets of the caller's own, of any stream family, instead of settings.listen; they are
            closed at the end.
        on_session: is called with the record of each session when it is over; what it raises is logged.
        observer: is told of dialogue and repairs as they happen, instead of the log; what it raises is logged.
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
    try:
        check_block(settings)
        check_records(settings)
        found = await check_receivers(settings)
        if listeners is None:
            check_capabilities(settings)
            for listener in settings.listen:
                sockets |= dict.fromkeys(await open_sockets(listener), listener)
        check_loops(settings, sockets, found)
        await serve_on(
            settings, sockets, on_session=on_session, observer=observer, stop=stop or Stop(), task_status=task_status
        )
    finally:
        close_sockets(sockets)


async def serve_on(
    settings: Settings,
    sockets: Mapping[socket.socket, Listener],
    *,
    on_session: Callable[[SessionRecord], None] | None = None,
    observer: Observer | None = None,
    stop: Stop,
    metrics: Metrics | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, on listening sockets with what is known of those who connect there."""
    driver = Driver(Block(settings.limits.block_octets))
    journal = Journal(Repeats(settings.log_repeats))
    spare = Spare()
    try:
        found = entrances(settings, sockets, driver)
        check_loops(settings, sockets)
        for sock in sockets:
            prepare(sock)
        tick_seconds = min(e.policy.deadlines.shortest_seconds for e in found.values()) / _TICKS_IN_SHORTEST_DEADLINE
        watchdog = Watchdog(min(_LONGEST_TICK_SECONDS, max(_SHORTEST_TICK_SECONDS, tick_seconds)))
        files = RecordFiles(settings.recording, journal) if settings.recording else None
        told = Told(journal if observer is None else observer, journal, on_session, files.keep if files else None)
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            await nursery.start(watchdog.run)
            nursery.start_soon(journal.flush_forever)
            if files:
                nursery.start_soon(files.prune_forever)
            beside = Beside(nursery, watchdog)
            gate = Gate(settings)
            sessions = _Sessions(settings, told, driver, watchdog, nursery, beside, gate, journal, metrics)
            if metrics:
                metrics.phases = sessions.phases
            with trio.CancelScope() as accepting:
                async with trio.open_nursery() as listening:
                    for sock, entrance in found.items():
                        begin = partial(sessions.begin, entrance)
                        refuse = partial(sessions.refuse, entrance)
                        listening.start_soon(accept_forever, sock, begin, refuse, spare, journal.trouble)
                    task_status.started([written(sock.getsockname()) for sock in sockets])
                    await stop.closing()
                    accepting.cancel()
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
