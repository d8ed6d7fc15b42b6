"""What is known of each receiver in one process: whether it serves, and why it did not.

Invariants:

1. A receiver is known by its address as the operator wrote it, whichever listener's sessions go to it.
2. Of destinations that senders choose, the first ones have a state of their own; the others share one.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

import attrs

MOST_STATES: Final = 100
OTHERS: Final = "other"


@attrs.define(eq=False)
class ReceiverState:
    """One receiver."""

    name: str
    """Its address as the operator wrote it."""
    up_at: float = 0.0
    """When it has greeted with 2yz last, in seconds since 1970."""
    down_at: float = 0.0
    """When that has failed last."""
    failures: Counter[str] = attrs.field(factory=lambda: Counter[str]())
    """Why, in a word, and how often."""

    def serves(self) -> None:
        """It has greeted."""
        self.up_at = time.time()

    def fails(self, why: str) -> None:
        """It was of no use, in a word for figures."""
        self.down_at = time.time()
        self.failures[why] += 1


@attrs.define(eq=False)
class ReceiverStates:
    """Those of all receivers."""

    drained: frozenset[str] = frozenset()
    """The names of receivers that new sessions do not go to, as an operator has said."""
    _by_name: dict[str, ReceiverState] = attrs.field(factory=dict)

    def of(self, name: str) -> ReceiverState:
        """The state of a receiver."""
        state = self._by_name.get(name)
        if state is None:
            if len(self._by_name) >= MOST_STATES and name != OTHERS:
                return self.of(OTHERS)
            state = self._by_name[name] = ReceiverState(name)
        return state

    def all(self) -> list[ReceiverState]:
        """Each that there is."""
        return list(self._by_name.values())
