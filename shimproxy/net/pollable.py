"""A socket that the driver watches, what is known of its readiness, and the waits for that.

Invariants:

1. `readable` and `writable` are true until a call would have blocked: whoever makes the call takes them back.
2. A wait is made only where a call would block, or is sure to: after one that came back short.
3. The driver tells of room to write from the first wait for that on, until it tells of room that no task waits for.

It reads and writes nothing.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import attrs

from shimproxy.net.driver import JUST_OCTETS, NEVER_SHORT, READABLE, WRITABLE

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Sequence

    from shimproxy.net.driver import Readiness
    from shimproxy.net.tap import Ended
    from shimproxy.net.watch import Watch


@attrs.define(eq=False)
class Pollable:
    """One socket of a driver's, under the watch that the task waits by."""

    name: str
    """What errors call it: "sender", "receiver"."""
    sock: socket.socket | ssl.SSLSocket
    driver: Readiness
    watch: Watch
    octets_out: int = attrs.field(default=0, kw_only=True)
    """How much was written."""
    ended: Ended | None = attrs.field(default=None, kw_only=True)
    """How the peer has ended: set once a read has met FIN or RST."""
    readable: bool = attrs.field(default=False, kw_only=True)
    """Whether a read may find something."""
    writable: bool = attrs.field(default=True, kw_only=True)
    """Whether a write may be taken."""
    wanted: int = attrs.field(default=0, kw_only=True)
    """The events that the task waits for."""
    _never_short: bool = attrs.field(default=False, kw_only=True)
    """Whether a read that comes back short may leave something behind, so that it is tried again."""
    _told_when_writable: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        self.driver.add(self)

    def notice(self, events: int) -> None:
        """Take note of what the driver has found, and wake the task if it waits for that."""
        if events & READABLE:
            self.readable = True
        if events != JUST_OCTETS:  # which it is nearly always
            self._never_short = self._never_short or bool(events & NEVER_SHORT)
            self.writable = self.writable or bool(events & WRITABLE)
            if self._told_when_writable and events & ~self.wanted & select.EPOLLOUT:
                self._told_when_writable = False
                self.driver.tell_when_writable(self, tell=False)
        if events & self.wanted:
            self.wanted = 0
            self.watch.wake()

    async def wait_to_read(self) -> None:
        """Wait until there may be something to read. Raises DeadlinePassed, Interrupted."""
        if not self.readable:
            self.wanted = READABLE
            await self.watch.wait()
        elif self.watch.stretched():
            await self.watch.pause()

    async def takes(self) -> None:
        """Wait until the peer may take octets. Raises DeadlinePassed, Interrupted."""
        if not self.writable:
            self._want_writable(WRITABLE)
            await self.watch.wait()

    async def takes_or_speaks(self) -> None:
        """Wait until the peer takes octets or has sent some. Raises DeadlinePassed, Interrupted."""
        if not (self.readable or self.writable):
            self._want_writable(READABLE | WRITABLE)
            await self.watch.wait()
        elif self.watch.stretched():
            await self.watch.pause()

    def _want_writable(self, wanted: int) -> None:
        self.wanted = wanted
        if not self._told_when_writable:
            # Few legs are ever full, and those seldom: an event that no task waits for wakes the driver for nothing.
            self._told_when_writable = True
            self.driver.tell_when_writable(self, tell=True)

    async def speaks_or(self, other: Pollable) -> None:
        """Wait until this peer or that of `other` has sent something. Raises DeadlinePassed, Interrupted."""
        if not (self.readable or other.readable):
            self.wanted = other.wanted = READABLE
            await self.watch.wait()
            self.wanted = other.wanted = 0
        elif self.watch.stretched():
            await self.watch.pause()

    async def any_of(self, readable: Sequence[Pollable], writable: Sequence[Pollable]) -> None:
        """Wait until one of these is `readable` or `writable`; all are under this one's watch.

        Raises DeadlinePassed, Interrupted.
        """
        if not (any(each.readable for each in readable) or any(each.writable for each in writable)):
            for each in readable:
                each.wanted |= READABLE
            for each in writable:
                each._want_writable(each.wanted | WRITABLE)
            await self.watch.wait()
            for each in (*readable, *writable):
                each.wanted = 0
        elif self.watch.stretched():
            await self.watch.pause()
