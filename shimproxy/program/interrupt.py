"""How a command that somebody waits for ends early: by SIGINT or SIGTERM, at once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, TypeVar

import trio

from shimproxy.program.interrupting import interrupting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_T = TypeVar("_T")


def interruptible(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do it in trio, in the main thread; what it returns. Raises what it raises, wrapped or not.

    SIGINT and SIGTERM raise KeyboardInterrupt. SIGINT is obeyed even if whoever started the program had it ignored,
    and by code that does not come to wait.
    """
    with interrupting(signal.SIGINT):
        try:
            return trio.run(_until_terminated, work)
        except BaseExceptionGroup as group:  # trio >= 0.25 wraps what leaves a nursery
            if group.subgroup(KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise


async def _until_terminated(work: Callable[[], Awaitable[_T]]) -> _T:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_interrupt_at_sigterm)
        done = await work()
        nursery.cancel_scope.cancel()
    return done


async def _interrupt_at_sigterm() -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            raise KeyboardInterrupt
