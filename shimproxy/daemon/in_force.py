"""The settings that the workers serve by, and what these name: the listening sockets and the admin address.

Invariants:

1. A listening socket stays open as long as the settings name it: no reload, upgrade or crash refuses a connection.
2. New settings change nothing before all of them can be used and their workers serve.

It does not know when others are adopted: that is the supervisor's.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.admin.status import ServedListener
from shimproxy.config.converters import Original
from shimproxy.daemon.workers import Service
from shimproxy.net.address import address_text
from shimproxy.net.errors import ListenFailed
from shimproxy.net.listen import is_in_place
from shimproxy.observe import log_output
from shimproxy.observe.events import Event
from shimproxy.observe.series import series
from shimproxy.service.preflight import CHECKS, check_loops, check_receivers
from shimproxy.service.sockets import check_passed, close_sockets, make_all_transparent, named, open_sockets
from shimproxy.service.warnings import warnings_of
from shimproxy.session.policy import Repairs

if TYPE_CHECKING:
    import socket

    from shimproxy.admin.server import Admin, Supervised
    from shimproxy.config.settings import Settings
    from shimproxy.config.sources import Sources
    from shimproxy.daemon.workers import Workers
    from shimproxy.observe.journal import Journal
    from shimproxy.observe.series import Series
    from shimproxy.service.sockets import ListeningSockets


@attrs.define(eq=False)
class SettingsInForce:
    """What one `shimproxy run` serves by, from one change to the next."""

    _nursery: trio.Nursery
    _journal: Journal
    _workers: Workers
    _supervised: Supervised
    """Whom the admin address asks."""
    settings: Settings | None = None
    """None before they are adopted, and where a new version can't use those of the one before it."""
    sources: Sources = attrs.field(init=False)
    """What the settings were read from, once there are any."""
    listening: ListeningSockets = attrs.field(factory=dict)
    adopted_at: float = 0.0
    """When these settings were, in seconds since 1970."""
    last_change_failed: bool = False
    """Whether a reload or an upgrade has failed since."""
    admin: Admin | None = None
    _greeted: tuple[float, str] = (-math.inf, "")
    """When the receiver was asked last, and why it can't be said to be there."""
    _former_admin: Admin | None = None
    """Another that may still be about to close."""

    async def open_admin(self) -> None:
        """Answer where the version before this one did, so that new settings that can't be used cost nothing."""
        if self.settings and self.settings.admin:
            with suppress(ListenFailed):
                self.admin = await _opened(self.settings.admin)
                self.admin.answer(self._supervised, self._journal, self._nursery)

    @property
    def addresses(self) -> list[str]:
        """Where it listens."""
        return [address_text(sock.getsockname()) for sock in chain.from_iterable(self.listening.values())]

    @property
    def served(self) -> list[ServedListener]:
        """Each listener, with its receivers and flags; none where the settings are not known."""
        if self.settings is None:
            return []
        own = self.sources.own_of_listeners()
        found: list[ServedListener] = []
        for (name, listener), its_own in zip(named(self.settings.listen), own, strict=True):
            its = self.settings.of(listener)
            addresses = [address_text(sock.getsockname()) for sock in self.listening.get(name, [])]
            receivers = map(str, its.receiver)
            tls = its.sender_tls_used.value, its.receiver_tls.value
            observes = its.repairs is Repairs.OBSERVE
            found.append(ServedListener((*addresses,), (*receivers,), *tls, observes, (*listener.flags, *its_own)))
        return found

    @property
    def receivers(self) -> str:
        """Which receivers there are, in words."""
        return ", ".join(map(str, self.settings.receivers_of_all)) if self.settings else "unknown"

    @property
    def receiver_names(self) -> list[str]:
        """The receivers that are known beforehand, as the operator wrote them."""
        found = self.settings.receivers_of_all if self.settings else ()
        return [str(each) for each in found if not isinstance(each, Original)]

    async def why_not_greeted(self) -> str:
        """Why the receiver can't be said to be there, or nothing; asked at most once in a few seconds."""
        from shimproxy.admin.receiver_health import GREETING_SECONDS, why_no_greeting

        asked_at, why_not = self._greeted
        if not self.settings:
            return "unknown receiver: the settings cannot be used"
        if trio.current_time() - asked_at > GREETING_SECONDS:
            why_not = await why_no_greeting(self.settings)
            self._greeted = trio.current_time(), why_not
        return why_not

    def figures(self) -> Series:
        """Those that no worker has: of the settings, and of all processes together."""
        from shimproxy.admin.own_figures import certificate_figures, process_figures

        drained = self._workers.history.drained
        return {
            "config_last_reload_successful": not self.last_change_failed,
            "config_last_reload_success_timestamp_seconds": self.adopted_at,
            **{series("receiver_draining", receiver=name): name in drained for name in self.receiver_names},
            **process_figures([worker.pid for worker in self._workers.all]),
            **(certificate_figures(self.settings) if self.settings else {}),
        }

    async def adopt(self, sources: Sources) -> None:
        """Go over to these settings. Raises what makes them unusable, and changes nothing then."""
        sources = sources.with_files()
        settings = sources.settings()
        for check in CHECKS:
            check(settings)
        log_output.check_log(settings.log_to)
        check_passed(settings.listen)
        found = await check_receivers(settings)
        admin = self.admin
        opened: list[socket.socket] = []
        listening: ListeningSockets = {}
        try:
            for name, listener in named(settings.listen):
                sockets = self.listening.get(name, [])
                if not sockets or not all(map(is_in_place, sockets)):
                    await self._workers.let_go()
                    opened += (sockets := await open_sockets(listener))
                listening[name] = sockets
                make_all_transparent(listener, listening[name])  # it may have been there without
            check_loops(settings, chain.from_iterable(listening.values()), found)
            if settings.admin != (admin.where if admin else "") or (admin and not admin.in_place):
                if self._former_admin:
                    await self._former_admin.closed.wait()
                admin = await _opened(settings.admin) if settings.admin else None
            service = Service(sources, settings, listening)
            workers = await self._workers.started(service)
            log_output.set_up(settings.log_level.upper(), settings.log_format, settings.log_to)
        except BaseException:
            if admin and admin is not self.admin:
                self._close_soon(admin)
            close_sockets(opened)
            raise
        # From here on there is no way back, and no wait.
        self._journal.sender_tls(settings.sender_tls_of_all)
        for warning in warnings_of(settings):
            self._journal.tell(Event.SETTINGS_WARNING, message=warning)
        self._journal.observing(settings.observed_at)
        for name, sockets in self.listening.items():
            if listening.get(name) is not sockets:
                close_sockets(sockets)
                if name in listening:
                    self._journal.tell(Event.LISTENING_AGAIN, address=name.rpartition(" ")[0])
        self.sources, self.settings, self.listening = sources, settings, listening
        self.adopted_at, self.last_change_failed = time.time(), False
        if admin is not self.admin:
            if self.admin:
                self._close_soon(self.admin)
                if self.admin.where == settings.admin:
                    self._journal.tell(Event.LISTENING_AGAIN, address=settings.admin)
            self.admin = admin
            if admin:
                admin.answer(self._supervised, self._journal, self._nursery)
        self._workers.go_over_to(service, workers)

    def _close_soon(self, admin: Admin) -> None:
        self._former_admin = admin
        admin.close_soon(self._nursery)


async def _opened(where: str) -> Admin:
    """What answers at an admin address. Raises ListenFailed.

    A supervisor without one has no use for its modules, nor for those that ask receivers. With one, both are imported
    now: later on, the files may be those of another version.
    """
    from shimproxy.admin import receiver_health, server

    assert receiver_health
    return await server.Admin.open(where)
