"""What is known of each receiver in one process: whether it serves, why it did not, and who waits for it.

Invariants:

1. A receiver is known by its address as the operator wrote it, whichever listener's sessions go to it.
2. It has no more connections than it may have. Who waits for one has it first come, first served.
3. Of destinations that senders choose, the first ones have a state of their own; the others share one.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from shimproxy.net.watch import Watch

MOST_STATES: Final = 100
OTHERS: Final = "other"


@attrs.define(eq=False)
class PlaceInLine:
    """Of one session that waits for a connection to a receiver."""

    state: ReceiverState
    watch: Watch
    has_come: bool = False
    """Whether the session has its connection: it is counted."""

    def leave(self) -> None:
        """The session does not want one any more."""
        if self.has_come:
            self.state.give_back()
        else:
            self.state.line.remove(self)


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
    is_limited: bool = False
    """Whether its connections are."""
    connections: int = 0
    """Those that are open or being made; counted only where they are limited."""
    line: deque[PlaceInLine] = attrs.field(factory=lambda: deque[PlaceInLine]())
    """Who waits for one."""

    def serves(self) -> None:
        """It has greeted."""
        self.up_at = time.time()

    def take(self, most: int, watch: Watch) -> PlaceInLine | None:
        """Take one of `most` connections; or a place in the line for one, of which the `watch` is woken.

        Whoever has taken a connection has to `give_back`.
        """
        self.is_limited = True
        if self.connections < most and not self.line:
            self.connections += 1
            return None
        place = PlaceInLine(self, watch)
        self.line.append(place)
        return place

    def give_back(self) -> None:
        """A connection is closed, or was not made."""
        self.connections -= 1
        if self.line:
            place = self.line.popleft()
            place.has_come = True
            self.connections += 1
            place.watch.wake()

    def fails(self, why: str) -> None:
        """It was of no use, in a word for figures."""
        self.down_at = time.time()
        self.failures[why] += 1


@attrs.define(eq=False)
class ReceiverStates:
    """Those of all receivers."""

    drained: frozenset[str] = frozenset()
    """The names of receivers that new sessions do not go to, as an operator has said."""
    most_connections: int = 0
    """How many each of them may have; 0 for any number."""
    wait_seconds: float = 0.0
    """How long a session waits for one."""
    _by_name: dict[str, ReceiverState] = attrs.field(factory=dict)

    def of(self, name: str) -> ReceiverState:
        """The state of a receiver."""
        state = self._by_name.get(name)
        if state is None:
            if len(self._by_name) >= MOST_STATES and name != OTHERS:
                return self.of(OTHERS)
            state = self._by_name[name] = ReceiverState(name)
        return state

    def drain(self, names: frozenset[str]) -> None:
        """New sessions do not go to receivers with these names from now on; who waits for one of them is woken."""
        self.drained = names
        for name in names & self._by_name.keys():
            for place in [*self._by_name[name].line]:
                place.watch.wake()

    def all(self) -> list[ReceiverState]:
        """Each that there is."""
        return list(self._by_name.values())
