"""`shimproxy run`: serve until a signal says otherwise."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from typing import TYPE_CHECKING

import trio

from shimproxy.ops.serve import Stop, serve

if TYPE_CHECKING:
    from shimproxy.ops.settings import Settings


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. Says on standard output where it listens.

    Raises ListenFailed, DialFailed.
    """
    allow_many_files()
    stop = Stop()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                async for _ in signals:
                    stop.ask()

            async def serve_to_the_end(task_status: trio.TaskStatus[list[str]]) -> None:
                await serve(settings, stop=stop, task_status=task_status)
                nursery.cancel_scope.cancel()

            nursery.start_soon(obey)
            addresses = await nursery.start(serve_to_the_end)
            say(f"shimproxy ready: listening on {', '.join(addresses)}, receiver {settings.receiver}")


def say(line: str) -> None:
    """Print a line for whoever started the program; it may have stopped listening."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def allow_many_files() -> None:
    """Raise the limit of open files as far as it goes: a session takes two, and one more while it is idle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
