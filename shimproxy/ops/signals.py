"""The signals of `shimproxy run`: a change or a stop each, and changes one after the other."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from shimproxy.ops.run import allow_many_files
from shimproxy.ops.supervisor import SIGNALS, Supervisor

if TYPE_CHECKING:
    from shimproxy.ops.sources import Sources


async def supervise(gather: Callable[[], Sources], version: str) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. Says on standard output where it listens.

    Raises SettingsError, ListenFailed, DialFailed, TlsUnusable.
    """
    allow_many_files()
    with trio.open_signal_receiver(*SIGNALS) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # an upgrade has blocked them
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(gather, version, nursery)
            changes, to_be_made = trio.open_memory_channel[Callable[[], Awaitable[None]]](1)

            async def make_changes() -> None:
                async for each in to_be_made:
                    await supervisor.change(each)

            async def end() -> None:
                await supervisor.stopped()
                nursery.cancel_scope.cancel()

            await supervisor.start()
            nursery.start_soon(make_changes)
            async for each in signals:
                if each in (signal.SIGHUP, signal.SIGUSR2):
                    with suppress(trio.WouldBlock):  # one that is to be made already will read what is there then
                        changes.send_nowait(supervisor.reload if each == signal.SIGHUP else supervisor.upgrade)
                else:
                    supervisor.stop()
                    nursery.start_soon(end)
