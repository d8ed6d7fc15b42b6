"""Admission: which connections become sessions, and why the others do not.

Invariants:

1. A sender's network uses up its own share and nobody else's.
2. It keeps a number for each network that has a session open, and one for each that came within the last minute; of the
   latter no more than a fixed number, the oldest being forgotten, to their favour.
3. What is not limited costs nothing.

A network is what the prefixes of the settings make of an address. A peer without one, on a Unix socket, is in none.
"""

from __future__ import annotations

import itertools
import math
import sys
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.address import network_of
from shimproxy.session.replies import (
    NO_MEANS,
    SENDER_NOT_ALLOWED,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_OF_YOURS,
    TOO_MANY_SESSIONS,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.config.settings import Settings
    from shimproxy.smtp.reply import LocalReply

_MINUTE_SECONDS: Final = 60.0
_MOST_BUCKETS: Final = 16_384  # about 4 MiB
_MOST_FORGOTTEN: Final = 2  # at a time: one more than can be added


@attrs.frozen
class AdmissionLimit:
    """What keeps a connection from becoming a session."""

    name: str
    """As in the settings and the log."""
    reply: LocalReply
    """The greeting in its place; 421 has MTAs try again later (RFC 5321 3.8, 4.5.4.1)."""


SESSIONS: Final = AdmissionLimit("sessions", TOO_MANY_SESSIONS)
OF_A_NETWORK: Final = AdmissionLimit("sessions-per-network", TOO_MANY_OF_YOURS)
NOT_ALLOWED: Final = AdmissionLimit("allow-sender", SENDER_NOT_ALLOWED)
RATE: Final = AdmissionLimit("connections-per-minute", TOO_MANY_CONNECTIONS)
DESCRIPTORS: Final = AdmissionLimit("descriptors", NO_MEANS)
DESCRIPTORS_OF_A_NETWORK: Final = AdmissionLimit("descriptors", TOO_MANY_OF_YOURS)
_SHARE_OF_SESSIONS: Final = 0.75
"""A network may have so much of all sessions where the operator sets no number: there is always room for others."""
_OF_LOOPBACK: Final = ("127.", "::/", "::1/")
"""How a network of this machine's own addresses begins: a balancer there brings the senders of all networks."""
_SHARE_OF_DESCRIPTORS: Final = 0.3
"""A network may have so many sessions for each file descriptor. A session takes two, or three while it is idle: so that
of any network, the others have a tenth of the descriptors at least."""


@attrs.define(eq=False)
class AdmissionControl:
    """The sessions of one process, counted."""

    _settings: Settings
    _now: Callable[[], float] = trio.current_time
    """A clock, in seconds."""
    _descriptors: int = sys.maxsize
    """How many the process may open for sessions."""
    _most_of_a_network: int = attrs.field(init=False)
    """Its sessions; 0 for any number."""
    _of_a_network: AdmissionLimit = attrs.field(init=False)
    """What limits them."""
    _exempts_loopback: bool = attrs.field(init=False)
    _open: int = 0
    _open_of: dict[str, int] = attrs.field(factory=dict)
    """Network -> its sessions, where that is limited."""
    _full_at: dict[str, float] = attrs.field(factory=dict)
    """Network -> when its token bucket will be full again, the one that was used last being last: a full one is
    forgotten."""

    def __attrs_post_init__(self) -> None:
        settings, share = self._settings, max(1, int(self._descriptors * _SHARE_OF_DESCRIPTORS))
        most = settings.sessions_per_network
        self._exempts_loopback = most is None
        self._most_of_a_network = math.ceil(_SHARE_OF_SESSIONS * settings.sessions) if most is None else most
        self._of_a_network = OF_A_NETWORK
        if not settings.sessions_per_network and share < (self._most_of_a_network or settings.sessions):
            self._most_of_a_network, self._of_a_network = share, DESCRIPTORS_OF_A_NETWORK
            self._exempts_loopback = False

    def network_of(self, sockaddr: object) -> str | None:
        """The network of a peer, if it has one and that matters."""
        settings = self._settings
        if self._most_of_a_network or settings.connections_per_minute:
            return network_of(sockaddr, settings.ipv4_prefix, settings.ipv6_prefix)
        return None

    def enter(self, network: str | None) -> AdmissionLimit | None:
        """Let a connection from that network in, or say which limit keeps it out; who is in has to `leave`."""
        if self._open >= self._settings.sessions:
            return SESSIONS
        if network is not None and (limit := self.join(network)):
            return limit
        self._open += 1
        return None

    def join(self, network: str | None) -> AdmissionLimit | None:
        """Count one that is in as of that network, or say which limit keeps it out."""
        settings = self._settings
        if network is None:
            return None
        exempt = self._exempts_loopback and network.startswith(_OF_LOOPBACK)
        most = 0 if exempt else self._most_of_a_network
        if most and self._open_of.get(network, 0) >= most:
            return self._of_a_network
        if settings.connections_per_minute and not self._takes_token(network):
            return RATE
        if most:
            self._open_of[network] = self._open_of.get(network, 0) + 1
        return None

    def leave(self, network: str | None) -> None:
        """A session from that network has ended."""
        self._open -= 1
        if network in self._open_of:
            self._open_of[network] -= 1
            if not self._open_of[network]:
                del self._open_of[network]

    def _takes_token(self, network: str) -> bool:
        """Whether the network's bucket, which holds a minute's connections and fills within a minute, had one left."""
        now, full_at = self._now(), self._full_at
        refill_seconds = _MINUTE_SECONDS / self._settings.connections_per_minute
        full_again = max(now, full_at.get(network, now)) + refill_seconds
        if full_again - now > _MINUTE_SECONDS + refill_seconds / 2:  # with half a token for what rounding adds up to
            return False
        full_at.pop(network, None)
        full_at[network] = full_again
        self._forget(now)
        return True

    def _forget(self, now: float) -> None:
        """Forget the oldest buckets, if they are full, or too many."""
        full_at = self._full_at
        for oldest in [*itertools.islice(full_at, _MOST_FORGOTTEN)]:
            if full_at[oldest] > now and len(full_at) <= _MOST_BUCKETS:
                break
            del full_at[oldest]
