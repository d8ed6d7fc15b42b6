"""Accepting for sessions: the driver that wakes them watches their listening sockets, too.

So a connection is accepted in the round that finds it, with no turn of trio's loop. Its session starts at once, which
is the greater part of what a session costs whose sender leaves at once: where more connections wait, all others have
their turn before the next one is accepted. `accept_forever` (listen.py) is for who has no driver.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.net.address import address_text
from shimproxy.net.errors import OUT_OF_MEANS, Interrupted, ListenFailed
from shimproxy.net.listen import PAUSE_SECONDS, accept_one
from shimproxy.net.pollable import Pollable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from shimproxy.net.driver import Driver
    from shimproxy.net.listen import Spare, Take
    from shimproxy.net.watch import Watch


@attrs.define(eq=False)
class Acceptor:
    """Accepts what connects to one listening socket, until it is closed."""

    _listener: socket.socket
    _driver: Driver
    _watch: Watch
    _take: Take
    """Is given each connection, with its peer's address."""
    _refuse: Take
    """Is given those for which there is no descriptor."""
    _spare: Spare
    _trouble: Callable[[OSError], None]
    """Is told what else accept() reports."""
    _pollable: Pollable = attrs.field(init=False)
    _waiting: select.poll = attrs.field(factory=select.poll)
    """Tells whether connections wait."""

    def start(self) -> None:
        """Accept from now on. Raises ListenFailed for want of memory, or of what epoll may watch."""
        try:
            self._pollable = Pollable("listener", self._listener, self._driver, self._watch)
        except OSError as error:
            raise ListenFailed(
                f"cannot listen on {address_text(self._listener.getsockname())}: {error.strerror}; end other programs, "
                "or raise fs.epoll.max_user_watches (sysctl)"
            ) from error
        self._waiting.register(self._listener, select.POLLIN)
        self._watch.run(self._run(), self._driver.runner, "accepting")

    def close(self) -> None:
        """Accept nothing more; the socket stays open."""
        self._driver.release(self._pollable)
        self._watch.interrupt()

    async def _run(self) -> None:
        watch, pollable = self._watch, self._pollable
        try:
            while True:
                await pollable.wait_to_read()
                watch.renew()  # however many connect, it is not the busy one
                try:
                    if accept_one(self._listener, self._take, self._refuse, self._spare) and self._waiting.poll(0):
                        await watch.pause()
                    else:
                        pollable.readable = False
                except OSError as error:
                    self._trouble(error)
                    if error.errno in OUT_OF_MEANS:
                        await self._pause()
        except Interrupted:
            pass
        finally:
            watch.close()

    async def _pause(self) -> None:
        """Wait until there may be memory, or a descriptor. Raises Interrupted."""
        async with self._watch.in_task():
            with trio.move_on_after(PAUSE_SECONDS):
                await self._watch.wait()
