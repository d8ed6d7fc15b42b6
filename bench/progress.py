"""How far a run is and how long it will still take: a bar on a terminal, else a line for each measure.

The time left is reckoned from what each measure takes on a machine that is known, and from how fast this one was so
far. It does not know what is measured.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shimproxy.program.terminal import Screen

_BAR_COLUMNS: Final = 24
_REDRAW_SECONDS: Final = 0.25


@attrs.frozen
class Step:
    """A measure in the plan of a run."""

    name: str
    about: str
    turns: int
    turn_seconds: float
    """What a turn takes on the machine that is known."""

    @property
    def seconds(self) -> float:
        """What all of it takes there."""
        return self.turns * self.turn_seconds


@attrs.define(eq=False)
class Reckoning:
    """How much of a plan is done, and how long the rest will take."""

    plan: Sequence[Step]
    _now: Callable[[], float] = time.monotonic
    _at: int = -1
    """The step that has begun."""
    _turns: int = 0
    """Of its turns, so many are over."""
    _began: float = 0.0
    _turned: float = 0.0
    """When a turn was over last."""
    _took: float = 0.0
    """The seconds that all steps before took."""

    @property
    def position(self) -> str:
        """Which step of how many has begun."""
        return f"{self._at + 1} of {len(self.plan)}"

    @property
    def step(self) -> Step:
        """The step that has begun."""
        return self.plan[self._at]

    def begin_step(self) -> None:
        """Begin the next step; the one before is over."""
        now = self._now()
        if self._at >= 0:
            self._took += now - self._began
        self._at += 1
        self._turns = 0
        self._began = self._turned = now

    def end_turn(self) -> None:
        """A turn of the step that has begun is over."""
        self._turns += 1
        self._turned = self._now()

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1."""
        whole = sum(step.seconds for step in self.plan)
        return self._known_before(self._turns) / whole if whole else 1.0

    @property
    def seconds_left(self) -> float:
        """How long the rest will take."""
        if self._at < 0:
            return sum(step.seconds for step in self.plan)
        known = self._known_before(self._turns)
        pace = (self._took + self._turned - self._began) / known if known else 1.0
        turn_seconds = (self._turned - self._began) / self._turns if self._turns else self.step.turn_seconds * pace
        this = (self.step.turns - self._turns) * turn_seconds
        later = sum(step.seconds for step in self.plan[self._at + 1 :]) * pace
        return max(0.0, this + later - (self._now() - self._turned))

    def _known_before(self, turns: int) -> float:
        """What all that is over takes on the machine that is known."""
        if self._at < 0:
            return 0.0
        return sum(step.seconds for step in self.plan[: self._at]) + turns * self.step.turn_seconds


@attrs.define(eq=False)
class Progress:
    """Shows a reckoning on a screen."""

    reckoning: Reckoning
    screen: Screen
    _doing: str = ""
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _over: threading.Event = attrs.field(factory=threading.Event)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Meanwhile the time left passes, on a terminal; afterwards nothing is left of the bar."""
        ticker = threading.Thread(target=self._tick, daemon=True)
        if self.screen.live:
            ticker.start()
        try:
            yield
        finally:
            self._over.set()
            if self.screen.live:
                ticker.join()
            self.screen.show()

    def begin_step(self, rounds: int = 0, paths: Sequence[str] = ()) -> None:
        """The next step begins: so many rounds of these paths, if it has any."""
        with self._lock:
            self.reckoning.begin_step()
            self._doing = "starting"
            if not self.screen.live:
                step, left = self.reckoning.step, duration(self.reckoning.seconds_left)
                every = f" ({rounds} x {', '.join(paths)})" if paths else ""
                self.screen.tell(f"bench: {self.reckoning.position}, {left} left; {step.name}: {step.about}{every}")

    def begin_turn(self, number: int, rounds: int, path: str) -> None:
        """A turn begins: the path that takes it in this round."""
        self.doing(f"round {number} of {rounds}, {path}")

    def end_turn(self) -> None:
        """The turn is over."""
        with self._lock:
            self.reckoning.end_turn()

    def doing(self, what: str) -> None:
        """What is being done now, in words."""
        with self._lock:
            self._doing = what

    def remark(self, line: str) -> None:
        """Tell something else."""
        with self._lock:
            self.screen.tell(line)

    def bar(self) -> list[str]:
        """The two lines that are shown while a step goes on."""
        reckoning, columns = self.reckoning, self.screen.columns
        done = round(reckoning.share * _BAR_COLUMNS)
        bar = "#" * done + "." * (_BAR_COLUMNS - done)
        first = f"[{bar}] {reckoning.share:4.0%}  {reckoning.position}  {duration(reckoning.seconds_left)} left"
        second = f"{reckoning.step.name}: {reckoning.step.about}; {self._doing}"
        return [
            first[:columns],
            second if len(second) <= columns else f"{reckoning.step.name}: {self._doing}"[:columns],
        ]

    def _tick(self) -> None:
        while not self._over.wait(_REDRAW_SECONDS):
            with self._lock:
                if self._doing:
                    self.screen.show(*self.bar())


def duration(seconds: float) -> str:
    """So long, for people."""
    whole = round(seconds) if seconds < 57.5 else round(seconds / 5) * 5
    minutes, rest = divmod(whole, 60)
    if minutes >= 10:
        return f"{round(seconds / 60)} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{max(1, rest)} s"
