"""What legs stand on in tests with real sockets, and a process without a descriptor left."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.faulty.talk import SECONDS
from shimproxy.net.driver import Driver
from shimproxy.net.watch import Watchdog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@attrs.frozen
class Ground:
    """What legs stand on."""

    driver: Driver
    watchdog: Watchdog


@contextlib.asynccontextmanager
async def ground(tick_seconds: float = 0.05) -> AsyncIterator[Ground]:
    """A driver and a watchdog, at work."""
    driver = Driver()
    watchdog = Watchdog(tick_seconds, turnstile=driver.turnstile)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.runner.run, nursery)
            await nursery.start(driver.run)
            await nursery.start(watchdog.run)
            yield Ground(driver, watchdog)
            nursery.cancel_scope.cancel()
    driver.close()


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Up to the limit that this process has now, all descriptors are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(int(each) for each in os.listdir("/proc/self/fd"))
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
