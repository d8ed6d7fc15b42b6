"""How much may lie in this host's kernel that was written and is not sent yet: what the peer takes in a moment.

What is sent is the peer's; what is not can still be discarded by a reset. Between the moment when a peer speaks and the
moment when it is heard, what lies here goes on to it: a receiver that refuses a mail and reads on may take that for
commands. So little is held for a peer until it has shown how fast it takes octets, and more only for a fast one: a wait
for each 64 KiB costs half of the throughput on loopback (measured: 1.05 CPU seconds a GiB of base64, 0.58 without).

On a long way nothing is lost by it: what is under way is sent, and does not count.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg

UNBOUND_OCTETS: Final = 64 * 1024
"""As much is written without a bound: it is no more than one."""
_SLICE_OCTETS: Final = 32 * 1024
"""What is written at once to a peer that has not shown yet that it is fast; there is no more unsent then, either."""
_LEAST_OCTETS: Final = 64 * 1024
_MOST_OCTETS: Final = 2 * 1024 * 1024
_MOMENT_SECONDS: Final = 0.004
_LEAST_MEASURED_SECONDS: Final = 0.002
_LEAST_MEASURED_OCTETS: Final = 1024 * 1024
"""More than the peer's host takes for a program that reads nothing, unless that has read much before."""
_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; in the socket module from Python 3.12 on


@attrs.define(eq=False)
class UnsentBound:
    """Keeps the bound of one leg in step with its peer while something long is written."""

    _leg: Leg
    _octets: int = 1
    """What may be unsent, as the kernel was told."""
    _since: float = attrs.field(factory=time.perf_counter)
    _taken_octets: int = 0

    def __attrs_post_init__(self) -> None:
        self._set(1)

    def next(self, octets: memoryview | bytes) -> memoryview | bytes:
        """What of these octets may be written at once; to be followed by `took`."""
        return octets[:_SLICE_OCTETS] if self._octets == 1 else octets

    def took(self, octets: int) -> None:
        """The kernel has taken so many octets."""
        self._taken_octets += octets
        if self._taken_octets < _LEAST_MEASURED_OCTETS:
            return
        now = time.perf_counter()
        seconds = now - self._since
        if seconds < _LEAST_MEASURED_SECONDS:
            return
        moment_octets = self._taken_octets / seconds * _MOMENT_SECONDS
        if moment_octets > 2 * self._octets and self._octets < _MOST_OCTETS:
            self._set(max(2 * self._octets, _LEAST_OCTETS))
        elif moment_octets < self._octets / 2 and self._octets > _LEAST_OCTETS:
            self._set(self._octets // 2)
        self._since, self._taken_octets = now, 0

    def _set(self, octets: int) -> None:
        self._octets = octets
        sock = self._leg.sock
        with contextlib.suppress(OSError):
            if self._leg.resettable:
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, octets)
            elif octets == 1:
                # It has no queue of its own: what was written lies in the peer's, unread, and can't be taken back.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LEAST_OCTETS)
