"""`shimproxy run`: holds the listening sockets, and has workers serve on them as the settings say.

Invariants:

1. A listening socket stays open as long as the settings name it: no reload, upgrade or crash refuses a connection.
2. New settings change nothing before all of them can be used and their workers serve.
3. A worker that a reload or an upgrade has replaced lets its sessions come to their end.

Which signal asks for what is signals.py's; the processes themselves are workers.py's.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.address import written
from shimproxy.net.errors import DialFailed, ListenFailed, TlsUnusable
from shimproxy.ops import log_output
from shimproxy.ops.admin import Admin
from shimproxy.ops.check import check_capabilities, check_loops, check_receivers, check_records, check_tls
from shimproxy.ops.greeting import GREETING_SECONDS, why_no_greeting
from shimproxy.ops.journal import Journal
from shimproxy.ops.listener import (
    SettingsError,
    check_passed,
    close_sockets,
    make_all_transparent,
    named,
    open_sockets,
    sockets_of,
)
from shimproxy.ops.log_output import LogUnusable
from shimproxy.ops.run import say
from shimproxy.ops.status import Status
from shimproxy.ops.systemd import keep_watch, notify, notify_reloading
from shimproxy.ops.upgrade import Left, check_first
from shimproxy.ops.workers import Service, Workers

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from shimproxy.ops.listener import Listening
    from shimproxy.ops.settings import Settings
    from shimproxy.ops.sources import Sources

_MARGIN_SECONDS: Final = 2.0
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
_UNUSABLE: Final = (SettingsError, ListenFailed, DialFailed, TlsUnusable, LogUnusable)


@attrs.define(eq=False)
class Supervisor:
    """The listening sockets and the workers of one `shimproxy run`."""

    gather: Callable[[], Sources]
    """Reads the settings anew."""
    version: str
    nursery: trio.Nursery
    _settings: Settings = attrs.field(init=False)
    _sources: Sources = attrs.field(init=False)
    _listening: Listening = attrs.field(factory=dict)
    _workers: Workers = attrs.field(init=False)
    _stopping: bool = False
    _changing: trio.CancelScope | None = None
    _greeted: tuple[float, str] = (-math.inf, "")
    """When the receiver was asked last, and why it can't be said to be there."""
    _admin: Admin | None = None
    _journal: Journal = attrs.field(factory=Journal)
    _trouble: str = ""
    """What kept the last change from being made."""

    def __attrs_post_init__(self) -> None:
        self._workers = Workers(self.nursery, self._journal)

    # -- starting

    async def start(self) -> None:
        """Listen and serve. Raises SettingsError, ListenFailed, DialFailed, TlsUnusable, LogUnusable."""
        left = Left.take_over()
        if left is None:
            await self._adopt(self.gather())
            self.nursery.start_soon(keep_watch, self._workers.answered)
        else:
            await self._take_over(left)
            try:
                await self._adopt(self.gather())
            except _UNUSABLE as error:
                self._complain("not upgraded: the workers go on", str(error))
        admin = f", admin {', '.join(self._admin.addresses)}" if self._admin else ""
        say(f"shimproxy ready: {self._what_is_so}{admin}")
        self._notify_ready()

    @property
    def _what_is_so(self) -> str:
        return f"listening on {', '.join(self._addresses)}, receiver {_in_words(self._settings)}"

    def _notify_ready(self) -> None:
        notify(READY=1, STATUS=f"{self._what_is_so}; {self._trouble}".removesuffix("; "))
        self._trouble = ""

    async def _take_over(self, left: Left) -> None:
        """Go on as the program before this one did."""
        self.nursery.start_soon(keep_watch, self._workers.answered)
        self._sources, self._settings = left.sources, left.sources.settings()
        self._listening, self._workers.history = left.listening, left.history
        log_output.set_up(self._settings.log_level.upper(), self._settings.log_format, self._settings.log_to)
        self._workers.take_over(Service(self._sources, self._settings, self._listening), left.workers)
        if self._settings.admin:
            with suppress(ListenFailed):
                self._admin = await Admin.open(self._settings.admin)
                self._admin.answer(self)

    @property
    def _addresses(self) -> list[str]:
        return [written(sock.getsockname()) for _, sock in sockets_of(self._settings.listen, self._listening)]

    async def _adopt(self, sources: Sources) -> None:
        """Go over to these settings. Raises what makes them unusable, and changes nothing then."""
        sources = sources.with_files()
        settings = sources.settings()
        check_tls(settings)
        log_output.check(settings.log_to)
        check_records(settings)
        check_capabilities(settings)
        check_passed(settings.listen)
        found = await check_receivers(settings)
        admin = self._admin
        opened: list[socket.socket] = []
        listening: Listening = {}
        try:
            for name, listener in named(settings.listen):
                listening[name] = self._listening.get(name) or await open_sockets(listener)
                opened += listening[name] if name not in self._listening else []
                make_all_transparent(listener, listening[name])  # it may have been there without
            check_loops(settings, chain.from_iterable(listening.values()), found)
            if settings.admin != (admin.where if admin else ""):
                admin = await Admin.open(settings.admin) if settings.admin else None
            service = Service(sources, settings, listening)
            workers = await self._workers.started(service)
            log_output.set_up(settings.log_level.upper(), settings.log_format, settings.log_to)
        except BaseException:
            if admin and admin is not self._admin:
                admin.close_soon(self.nursery)
            close_sockets(opened)
            raise
        # From here on there is no way back, and no wait.
        self._journal.sender_tls(settings.sender_tls_of_all)
        for name, sockets in self._listening.items():
            if name not in listening:
                close_sockets(sockets)
        self._sources, self._settings, self._listening = sources, settings, listening
        if admin is not self._admin:
            if self._admin:
                self._admin.close_soon(self.nursery)
            self._admin = admin
            if admin:
                admin.answer(self)
        self._workers.go_over_to(service, workers)

    # -- what the admin address is told

    async def status(self) -> Status:
        """What is so, and what was done."""
        await self._workers.heard()
        figures = self._workers.figures()
        return Status(
            version=self.version,
            receiver=_in_words(self._settings),
            listening=[] if self._stopping else self._addresses,
            started_at=self._workers.history.started_at,
            serves=not self._stopping and self._workers.serve,
            stopping=self._stopping,
            workers=len(self._workers.all),
            figures=figures,
            recent=[*self._workers.history.recent],
            habits=self._workers.history.habits(figures),
        )

    async def receiver_greets(self) -> str:
        """Why the receiver can't be said to be there, or nothing; asked at most once in a few seconds."""
        asked_at, why_not = self._greeted
        if trio.current_time() - asked_at > GREETING_SECONDS:
            why_not = await why_no_greeting(self._settings)
            self._greeted = trio.current_time(), why_not
        return why_not

    # -- signals

    async def change(self, what: Callable[[], Awaitable[None]]) -> None:
        """Reload or upgrade, unless a stop comes first; whatever goes wrong changes nothing."""
        if self._stopping:
            return
        notify_reloading(f"{what.__name__}: {self._what_is_so}")
        with trio.CancelScope() as self._changing:
            try:
                await what()
            except _UNUSABLE as error:
                self._complain(f"no {what.__name__}: nothing has changed", str(error))
            except Exception as error:
                self._trouble = f"no {what.__name__}: a bug, which is in the log"
                self._journal.supervisor_failed(what.__name__, error)
        if not self._stopping:
            self._notify_ready()

    def _complain(self, what: str, problems: str) -> None:
        self._trouble = f"{what}: {problems}"
        for problem in problems.splitlines():
            self._journal.trouble_with_workers(what, problem=problem)

    async def reload(self) -> None:
        """SIGHUP: settings and certificates read anew, by new workers."""
        await self._adopt(self.gather())
        workers = len(self._workers.current)
        self._journal.supervised("reloaded", workers=workers, retiring=len(self._workers.all) - workers)

    async def upgrade(self) -> None:
        """SIGUSR2: the same with the code that is installed now, in this process."""
        words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
        program = [sys.executable, *words[1:]]
        await check_first(program, sys.argv[2:])
        await self._workers.told()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the new program obeys them; they wait till then
        try:
            await trio.lowlevel.checkpoint()  # those that have come before may want a stop
            await trio.lowlevel.checkpoint()
            self._journal.supervised("upgrading")
            left = Left(self._sources, self._listening, list(self._workers.all), self._workers.history)
            descriptor = left.leave()
            try:
                os.execv(sys.executable, [*program, *sys.argv[1:]])
            except OSError:
                left.stay(descriptor)
                raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def stop(self) -> None:
        """SIGTERM, SIGINT: accept no more, and end in good order; asked again, at once."""
        deadlines, grace_seconds = self._settings.deadlines, 0.0 if self._stopping else self._settings.grace_seconds
        self._stopping = True
        notify(STOPPING=1, STATUS=f"sessions come to their end within {grace_seconds:g} s")
        self._journal.supervised("stopping", workers=len(self._workers.all), grace_seconds=grace_seconds)
        if self._changing:
            self._changing.cancel()
        close_sockets(chain.from_iterable(self._listening.values()))
        self._workers.stop(grace_seconds + deadlines.linger_idle + _MARGIN_SECONDS)

    async def stopped(self) -> None:
        """Return when every worker has ended."""
        await self._workers.ended()
        if self._admin:
            await self._admin.close()


def _in_words(settings: Settings) -> str:
    """The receivers."""
    return ", ".join(map(str, settings.receivers_of_all))
