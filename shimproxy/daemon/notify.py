"""What systemd is told of a service: its states, and that all is well (sd_notify(3)).

Whatever befalls a notification, mail goes on.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from shimproxy.net.activation import handed, variable_number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_NOTIFY_SECONDS: Final = 1.0
"""How long systemd may take to make room for a notification: without its READY=1, it would end the service."""
_MOST_STATUS: Final = 1000


def notify(**fields: str | int) -> None:
    """Tell systemd, or whoever else has given a NOTIFY_SOCKET; a lost word is nobody's trouble."""
    where = handed().variables.get("NOTIFY_SOCKET", "")
    if not where.startswith(("/", "@")):
        return
    text = "\n".join(f"{name}={' '.join(str(value).split())[:_MOST_STATUS]}" for name, value in fields.items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(_NOTIFY_SECONDS)
        sock.sendto(text.encode(errors="replace"), f"\0{where[1:]}" if where[0] == "@" else where)


def notify_reloading(status: str) -> None:
    """Tell it that settings or code are about to change; READY=1 has to follow."""
    # The clock is CLOCK_MONOTONIC, by which systemd knows that it is not about a reload before the one it waits for.
    notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000, STATUS=status)


async def keep_watch(answered: Callable[[], Awaitable[None]]) -> None:
    """Tell it that all is well, twice in each WATCHDOG_USEC, if it wants to know: whenever `answered` returns."""
    variables = handed().variables
    usec = variable_number(variables.get("WATCHDOG_USEC", ""))
    if not usec or variables.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        with trio.move_on_after(usec / 2_000_000):
            await answered()
            notify(WATCHDOG=1)
            await trio.sleep_forever()
