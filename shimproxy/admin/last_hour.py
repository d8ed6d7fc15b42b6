"""What was done in each minute of the last hour, for the graphs of the status page."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MINUTES: Final = 60
_NOTE_SECONDS: Final = 10.0
GRAPHS: Final = {
    "sessions": "sessions_total",
    "repairs": "repairs_total",
    "drains": "drains_total",
}
"""What is drawn -> the family of the figures that are added up for it."""


@attrs.define
class LastHour:
    """How much each of these figures has grown, minute by minute."""

    grown: dict[str, deque[int]] = attrs.field(factory=lambda: {name: deque([0] * MINUTES, MINUTES) for name in GRAPHS})
    """What is drawn -> its growth in each minute, the minute that has begun last."""
    _minute: int | None = None
    """The minute that the last ones stand for, since 1970."""
    _totals: dict[str, float] = attrs.field(factory=lambda: dict.fromkeys(GRAPHS, 0.0))

    def note(self, figures: Mapping[str, float], now: float) -> None:
        """Take the figures as of now, in seconds since 1970. What a lost worker took with it is not subtracted."""
        minute = int(now // 60)
        if self._minute is None:
            self._minute = minute
        # A clock that was set back goes on in the same minute.
        passed = min(max(0, minute - self._minute), MINUTES)
        self._minute += max(0, minute - self._minute)
        for name, family in GRAPHS.items():
            total = sum(value for series, value in figures.items() if series.partition("{")[0] == family)
            its = self.grown[name]
            its.extend([0] * passed)
            its[-1] += max(0, round(total - self._totals[name]))
            self._totals[name] = total

    async def keep(self, figures: Callable[[], Mapping[str, float]]) -> None:
        """Note the figures a few times a minute, until cancelled."""
        while True:
            self.note(figures(), time.time())
            await trio.sleep(_NOTE_SECONDS)

    def as_json(self) -> list[Any]:
        """For the supervisor that an upgrade puts in this one's place."""
        return [self._minute, {name: [[*grown], self._totals[name]] for name, grown in self.grown.items()}]

    @classmethod
    def of_json(cls, left: Iterable[Any]) -> LastHour:
        """What `as_json` gave; a figure that another version did not draw is drawn from now on."""
        minute, its = left
        made = cls()
        made._minute = minute
        for name in made.grown.keys() & its.keys():
            grown, total = its[name]
            made.grown[name].extend(grown)
            made._totals[name] = total
        return made
