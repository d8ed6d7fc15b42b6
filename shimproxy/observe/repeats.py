"""Log lines that repeat themselves: the first of them are logged, the rest is counted.

A receiver that is out of order has one repair a mail, and a flood of them says no more than their number.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WINDOW_SECONDS: Final = 10.0
MOST_IN_A_WINDOW: Final = 20
MOST_KINDS: Final = 1000

RepeatedKind = tuple[str, ...]


@attrs.define
class _Window:
    began_at: float
    logged: int = 0
    left_out: int = 0


@attrs.define(eq=False)
class Repeats:
    """How often lines of a kind have been logged in their window of ten seconds."""

    most: int = MOST_IN_A_WINDOW
    """After so many in a window, the rest of it is counted; 0: never."""
    _now: Callable[[], float] = time.monotonic
    _windows: dict[RepeatedKind, _Window] = attrs.field(factory=dict)

    def may(self, *kind: str) -> bool:
        """Whether another line of that kind is to be logged; if not, it is counted."""
        if not self.most:
            return True
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= MOST_KINDS:
                return True
            window = self._windows[kind] = _Window(self._now())
        if window.logged < self.most:
            window.logged += 1
            return True
        window.left_out += 1
        return False

    def over(self, *, all_of_them: bool = False) -> Iterator[tuple[RepeatedKind, int]]:
        """Kinds whose window is over, and how many lines were left out in it, if any were."""
        now = self._now()
        for kind, window in list(self._windows.items()):
            if all_of_them or now - window.began_at >= WINDOW_SECONDS:
                del self._windows[kind]
                if window.left_out:
                    yield kind, window.left_out
