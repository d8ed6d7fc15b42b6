"""Which places are left alone for a while, and by whose sessions: those that were of no use.

Invariants:

1. What fails for all senders alike is left alone by all. What knows who the sender is may mean that one alone, and is
   left alone by that one, until another has had the same, with nobody served between.
2. At most `_MOST` entries are kept; the oldest is dropped, which costs its senders an attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import trio

if TYPE_CHECKING:
    from shimproxy.net.places import Place

_MOST: Final = 1000
_ALL: Final = ""
"""In place of the address of one sender."""


@attrs.define(eq=False)
class Resting:
    """The places that are left alone."""

    seconds: float
    """For how long."""
    _since: dict[tuple[Place, str], float] = attrs.field(factory=dict)
    """A place and the address of the sender that leaves it alone, oldest first -> since when."""
    _served: dict[Place, tuple[float, str]] = attrs.field(factory=dict)
    """A place that some leave alone -> when it was of use last, and to whom."""

    @property
    def some(self) -> bool:
        """Whether any place may be left alone."""
        return bool(self._since)

    def rests(self, place: Place, sender: str = _ALL) -> bool:
        """Whether a place is left alone by a sender."""
        return self._is_fresh(place, _ALL) or (sender != _ALL and self._is_fresh(place, sender))

    def let_rest(self, place: Place, sender: str = _ALL) -> None:
        """Leave a place alone from now on; if it knew who the `sender` was, perhaps for that one alone."""
        if not self.seconds:
            return
        self._forget_the_old()
        if sender != _ALL:
            served_at, to = self._served.get(place, (0.0, _ALL))
            if to == sender:  # which is worth nothing any more
                served_at = 0.0
                del self._served[place]
            if any(
                each == place and other != sender and since >= served_at for (each, other), since in self._since.items()
            ):
                self._begin(place, _ALL)
        self._begin(place, sender)

    def was_of_use(self, place: Place, sender: str = _ALL) -> None:
        """Note that a place has served a sender."""
        if any(each == place for each, _ in self._since):
            self._served[place] = trio.current_time(), sender

    def _begin(self, place: Place, sender: str) -> None:
        self._since.pop((place, sender), None)
        if len(self._since) >= _MOST:
            del self._since[next(iter(self._since))]
        self._since[place, sender] = trio.current_time()

    def _is_fresh(self, place: Place, sender: str) -> bool:
        since = self._since.get((place, sender))
        return since is not None and trio.current_time() < since + self.seconds

    def _forget_the_old(self) -> None:
        self._since = {each: since for each, since in self._since.items() if self._is_fresh(*each)}
        left_alone = {place for place, _ in self._since}
        self._served = {place: served for place, served in self._served.items() if place in left_alone}
