"""The signals of `shimproxy run`: each asks for a change or a stop.

Invariants:

1. A signal is obeyed whatever else goes on: a start or a change that takes its time is broken off by a stop.
2. Changes are made one after the other. What comes before an upgrade, the new code's own check, keeps none waiting.
3. After a reload there is a rest before the next one, however often that is asked for.
"""

from __future__ import annotations

import math
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.daemon.certificates import CertificateWatch
from shimproxy.daemon.supervisor import SIGNALS, Supervisor
from shimproxy.observe.journal import Journal
from shimproxy.program.process import allow_many_files

if TYPE_CHECKING:
    from shimproxy.config.sources import Sources

_Change = Callable[[], Awaitable[None]]


async def supervise(gather: Callable[[], Sources], version: str) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. Says on standard output where it listens.

    Raises SettingsError, ListenFailed, DialFailed, TlsUnusable, LogUnusable.
    """
    allow_many_files()
    with trio.open_signal_receiver(*SIGNALS) as signals, trio.open_signal_receiver(signal.SIGCHLD) as children_ended:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # an upgrade has blocked them
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(gather, version, nursery)
            supervisor.take_over()
            changes = Changes(supervisor)
            nursery.start_soon(changes.make)
            nursery.start_soon(changes.watch_certificates)
            nursery.start_soon(_reap_orphans, supervisor, children_ended)

            async def end() -> None:
                await supervisor.stopped()
                nursery.cancel_scope.cancel()

            async for each in signals:
                match each:
                    case signal.SIGHUP:
                        changes.ask_for(supervisor.reload)
                    case signal.SIGUSR2:
                        nursery.start_soon(changes.upgrade)
                    case _:
                        supervisor.stop()
                        nursery.start_soon(end)


_REST_TIMES: Final = 2.0
"""So many times as long as a reload took, nothing is reloaded after it: each starts workers, which takes CPU."""
_LONGEST_REST_SECONDS: Final = 2.0
"""An operator who has corrected a mistake waits no longer."""


@attrs.define(eq=False)
class Changes:
    """What signals have asked for and is to be made: one that is to be made already will read what is there then."""

    supervisor: Supervisor
    _asked: set[_Change] = attrs.field(factory=set)
    _started: trio.Event = attrs.field(factory=trio.Event)
    _checking: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _rested_at: float = -math.inf
    """When there may be another reload."""
    _send: trio.MemorySendChannel[_Change] = attrs.field(init=False)
    _receive: trio.MemoryReceiveChannel[_Change] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel(3)

    def ask_for(self, change: _Change) -> None:
        """Have it made, after those that were asked for before."""
        if change not in self._asked:
            self._asked.add(change)
            self._send.send_nowait(change)

    async def upgrade(self) -> None:
        """Have it made once the code that is installed now was asked about it; a check that still runs is given up."""
        self._checking.cancel()
        with trio.CancelScope() as self._checking:
            await self._started.wait()
            await self.supervisor.prepare_upgrade()
            self.ask_for(self.supervisor.upgrade)

    async def watch_certificates(self) -> None:
        """Have certificates that were renewed loaded, or say that they are not, until cancelled."""
        await self._started.wait()
        load = partial(self.ask_for, self.supervisor.reload_certificates)
        await CertificateWatch(self.supervisor.in_force, Journal(), load).run()

    async def make(self) -> None:
        """Start, and make the changes that are asked for, until cancelled."""
        await self.supervisor.start()
        self._started.set()
        async for change in self._receive:
            reloads = change in (self.supervisor.reload, self.supervisor.reload_certificates)
            if reloads:
                await trio.sleep_until(self._rested_at)
            self._asked.discard(change)
            began_at = trio.current_time()
            await self.supervisor.change(change)
            if reloads:
                now = trio.current_time()
                self._rested_at = now + min(_LONGEST_REST_SECONDS, _REST_TIMES * (now - began_at))


async def _reap_orphans(supervisor: Supervisor, children_ended: AsyncIterator[int]) -> None:
    await supervisor.reap_orphans()  # also those that ended before this program listened
    async for _ in children_ended:
        await supervisor.reap_orphans()
