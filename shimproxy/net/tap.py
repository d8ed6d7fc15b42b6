"""Who is told of what goes over a leg: counts and ends, never octets, so that none can be kept by mistake."""

from __future__ import annotations

import enum
from typing import Protocol


class Ended(enum.Enum):
    """How the peer ended its direction of a leg."""

    FIN = "FIN"
    RST = "RST"


class Tap(Protocol):
    """Told by a leg as it happens; called between two system calls, so that it must be short and not raise."""

    def skipped(self, octets: int) -> None:
        """So many octets were read that are no part of the dialogue."""

    def relayed(self, octets: int) -> None:
        """So many octets were read that nobody reads any further."""

    def sent(self, octets: int) -> None:
        """So many octets were taken by the kernel."""

    def peer_ended(self, how: Ended) -> None:
        """A read has met the peer's end."""

    def shim_ended(self, how: Ended) -> None:
        """FIN or RST was sent."""
