"""`shimproxy run`: its start, what changes it, its stop, and what is so for those who ask.

Invariants:

1. A worker that a reload or an upgrade has replaced lets its sessions come to their end.
2. Whatever goes wrong in a change, or in the start of a new version, the workers before it go on.

Which signal asks for what is signals.py's. The settings that are in force, with their sockets, are in_force.py's, and
the processes workers.py's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.admin.status import Status
from shimproxy.config.listener import SettingsError
from shimproxy.config.settings import Settings
from shimproxy.daemon.garbage import give_back_memory
from shimproxy.daemon.in_force import SettingsInForce
from shimproxy.daemon.notify import keep_watch, notify, notify_reloading
from shimproxy.daemon.upgrade import HandoverState, check_first
from shimproxy.daemon.worker_handle import reap_orphans
from shimproxy.daemon.workers import Service, Workers, drain_receiver
from shimproxy.net.errors import DialFailed, ListenFailed, TlsUnusable
from shimproxy.observe import log_output
from shimproxy.observe.events import Event
from shimproxy.observe.journal import Journal
from shimproxy.observe.log_output import LogUnusable
from shimproxy.program.process import say
from shimproxy.service.sockets import close_sockets
from shimproxy.session.limits import Deadlines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from shimproxy.config.sources import Sources

_MARGIN_SECONDS: Final = 2.0
_GRACE_SECONDS: Final = attrs.fields(Settings).grace_seconds.default or 0.0
"""Of workers whose settings are not known any more."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
_UNUSABLE: Final = (SettingsError, ListenFailed, DialFailed, TlsUnusable, LogUnusable)


@attrs.define(eq=False)
class Supervisor:
    """One `shimproxy run`, from its start to its stop."""

    gather: Callable[[], Sources]
    """Reads the settings anew."""
    version: str
    nursery: trio.Nursery
    _left: HandoverState | None = None
    """What the version before this one has left."""
    in_force: SettingsInForce = attrs.field(init=False)
    _workers: Workers = attrs.field(init=False)
    _stopping: bool = False
    _changing: trio.CancelScope | None = None
    _journal: Journal = attrs.field(factory=Journal)
    _objection: Exception | None = None
    """Why the code that is installed now can't be gone over to."""
    _trouble: str = ""
    """What kept the last change from being made."""

    def __attrs_post_init__(self) -> None:
        self._workers = Workers(self.nursery, self._journal)
        self.in_force = SettingsInForce(self.nursery, self._journal, self._workers, self)

    # -- starting

    def take_over(self) -> None:
        """Go on as the version before this one did, if this is an upgrade."""
        self._left = left = HandoverState.take_over()
        if left is None:
            return
        in_force = self.in_force
        in_force.sources, in_force.listening, self._workers.history = left.sources, left.listening, left.history
        try:
            in_force.settings = left.sources.settings()
            self._set_up_log(in_force.settings)
        except Exception as error:
            with suppress(Exception):
                log_output.set_up("INFO", "text")
            self._fail(Event.SETTINGS_UNUSABLE, "the settings of the old workers cannot be used", error)
        service = Service(left.sources, in_force.settings, left.listening) if in_force.settings else None
        self._workers.take_over(left.workers, service)

    def _set_up_log(self, settings: Settings) -> None:
        """Send the log where it went before, to standard error if that is not there any more."""
        to = settings.log_to
        try:
            log_output.check_log(to)
        except LogUnusable as error:
            to = log_output.STANDARD_ERROR
            log_output.set_up(settings.log_level.upper(), settings.log_format, to)
            self._complain(Event.LOG_MOVED, "the log goes to standard error", str(error))
        else:
            log_output.set_up(settings.log_level.upper(), settings.log_format, to)

    async def start(self) -> None:
        """Listen and serve, unless a stop comes first.

        Raises SettingsError, ListenFailed, DialFailed, TlsUnusable, LogUnusable; nothing if this is an upgrade.
        """
        if self._stopping:
            return
        self.nursery.start_soon(keep_watch, self._workers.answered)
        self.nursery.start_soon(self._workers.history.hour.keep, self._workers.figures)
        with trio.CancelScope() as self._changing:
            if self._left is None:
                await self.in_force.adopt(self.gather())
            else:
                try:
                    await self.in_force.open_admin()
                    await self.in_force.adopt(self.gather())
                except Exception as error:
                    self._fail(Event.UPGRADE_UNFINISHED, "not upgraded: the old workers continue", error)
        if self._stopping:
            return
        admin = f", admin {', '.join(self.in_force.admin.addresses)}" if self.in_force.admin else ""
        say(f"shimproxy ready: {self._what_is_so}{admin}")
        served = self.in_force.served
        for each in served if len(served) > 1 or any(each.flags or each.observes for each in served) else ():
            say(f"  {', '.join(each.addresses)}: {each.words}")
        give_back_memory()
        self._notify_ready()

    @property
    def _what_is_so(self) -> str:
        return f"listening on {', '.join(self.in_force.addresses)}, receiver {self.in_force.receivers}"

    def _notify_ready(self) -> None:
        notify(READY=1, STATUS=f"{self._what_is_so}; {self._trouble}".removesuffix("; "))
        self._trouble = ""

    # -- what the admin address is told

    @property
    def admin_names(self) -> Collection[str]:
        """The names that the admin address is known by, in lower case."""
        return self.in_force.settings.admin_names_used if self.in_force.settings else ()

    def admits(self, peer: object) -> bool:
        """Whether a client of the admin address with that address may ask."""
        settings = self.in_force.settings
        return settings is not None and settings.admits_client(peer)

    @property
    def serves(self) -> bool:
        """Whether a worker has said of late that it serves."""
        return self._workers.serve

    @property
    def stopping(self) -> bool:
        """Whether no new sessions are accepted."""
        return self._stopping

    async def status(self) -> Status:
        """What is so, and what was done."""
        await self._workers.heard()
        figures = self._workers.figures() | self.in_force.figures()
        hour = self._workers.history.hour
        hour.note(figures, time.time())
        return Status(
            version=self.version,
            receiver=self.in_force.receivers,
            listening=[] if self._stopping else self.in_force.served,
            started_at=self._workers.history.started_at,
            serves=self.serves,
            stopping=self._stopping,
            workers=len(self._workers.all),
            figures=figures,
            hour={name: [*grown] for name, grown in hour.grown.items()},
            recent=[*self._workers.history.recent],
            habits=self._workers.history.habits(figures),
        )

    async def drain(self, name: str, *, ready: bool = False) -> str:
        """Give a receiver no new sessions, or `ready` again; why that can't be done, or nothing."""
        return await drain_receiver(self._workers, name, self.in_force.receiver_names, ready=ready)

    async def receiver_greets(self) -> str:
        """Why the receiver can't be said to be there, or nothing; asked at most once in a few seconds."""
        return await self.in_force.why_not_greeted()

    # -- signals

    async def change(self, what: Callable[[], Awaitable[None]]) -> None:
        """Reload or upgrade, unless a stop comes first; whatever goes wrong changes nothing."""
        if self._stopping:
            return
        name = "upgrade" if what == self.upgrade else "reload"
        notify_reloading(f"{name}: {self._what_is_so}")
        with trio.CancelScope() as self._changing:
            try:
                await what()
            except Exception as error:
                event = Event.UPGRADE_FAILED if what == self.upgrade else Event.RELOAD_FAILED
                self._fail(event, f"no {name}: nothing has changed", error)
        if not self._stopping:
            self._notify_ready()

    def _fail(self, event: Event, what: str, error: Exception) -> None:
        """Say why something was not done: settings that can't be used in their words, and a bug with its traceback."""
        if self._stopping:
            return  # a stop has closed what it needed
        if isinstance(error, _UNUSABLE):
            self._complain(event, what, str(error))
        else:
            self._complain(event, what, f"{type(error).__name__}: a bug in shimproxy, its traceback follows")
            self._journal.supervisor_failed(event.value, error)

    def _complain(self, event: Event, what: str, problems: str) -> None:
        self._trouble = f"{what}: {problems}"
        self.in_force.last_change_failed = event is not Event.LOG_MOVED
        for problem in problems.splitlines():
            self._journal.tell(event, message=f"{what}: {problem}")

    async def reload(self, sources: Sources | None = None) -> None:
        """SIGHUP: settings and certificates read anew, by new workers."""
        await self.in_force.adopt(sources or self.gather())
        workers = len(self._workers.current)
        self._journal.tell(Event.RELOADED, workers=workers, retiring=len(self._workers.all) - workers)

    async def reload_certificates(self) -> None:
        """The same settings, with what their files have now, by new workers."""
        await self.reload(self.in_force.sources)

    async def prepare_upgrade(self) -> None:
        """SIGUSR2: ask the code that is installed now what it has against these settings.

        Nothing is changed by that, so that other changes and a stop need not wait for it.
        """
        self._objection = None
        try:
            await check_first(_program(), sys.argv[2:], self._to_be_left, self._workers.children)
        except Exception as error:
            self._objection = error

    @property
    def _to_be_left(self) -> HandoverState:
        in_force = self.in_force
        return HandoverState(in_force.sources, in_force.listening, list(self._workers.all), self._workers.history)

    async def upgrade(self) -> None:
        """SIGUSR2: the same with the code that is installed now, in this process; raises what it has objected."""
        if self._objection:
            raise self._objection
        await self._workers.told()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the new program obeys them; they wait till then
        try:
            await trio.lowlevel.checkpoint()  # those that have come before may want a stop
            await trio.lowlevel.checkpoint()
            await self._workers.reaped()  # nothing of one can be left whose socket is closed
            self._journal.tell(Event.UPGRADING)
            left = self._to_be_left
            descriptor = left.leave()
            try:
                os.execv(sys.executable, [*_program(), *sys.argv[1:]])
            except OSError:
                left.stay(descriptor)
                raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def stop(self) -> None:
        """SIGTERM, SIGINT: accept no more, and end in good order; asked again, at once."""
        settings = self.in_force.settings
        linger_seconds = settings.deadlines.linger_idle if settings else Deadlines().linger_idle
        grace_seconds = settings.grace_seconds if settings else _GRACE_SECONDS
        grace_seconds = 0.0 if self._stopping else grace_seconds
        self._stopping = True
        notify(STOPPING=1, STATUS=f"stopping: open sessions have {grace_seconds:g} s to finish")
        self._journal.tell(Event.STOPPING, workers=len(self._workers.all), grace_seconds=grace_seconds)
        if self._changing:
            self._changing.cancel()
        close_sockets(chain.from_iterable(self.in_force.listening.values()))
        self._workers.stop(grace_seconds + linger_seconds + _MARGIN_SECONDS)

    async def reap_orphans(self) -> None:
        """SIGCHLD: wait for processes whose parents have ended, which are the children of PID 1 then."""
        await reap_orphans(self._workers.children)

    async def stopped(self) -> None:
        """Return when every worker has ended."""
        await self._workers.ended()
        if self.in_force.admin:
            await self.in_force.admin.close()


def _program() -> list[str]:
    """The words that this program was started with, before its arguments."""
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    return [sys.executable, *words[1:]]
