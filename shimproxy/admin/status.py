"""What the supervisor knows: what its workers do, what was done, and what receivers are in the habit of doing."""

from __future__ import annotations

import re
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.admin.last_hour import LastHour
from shimproxy.observe.series import MOST_RECEIVERS, OTHER, Series, add_figures
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


MOST_RECENT: Final = 20
"""Repaired sessions that are kept with their records."""
MOST_KEPT: Final = 200
"""Repaired sessions that are kept, to be searched."""
_MOST_SEEN: Final = 100 * len(Violation)
_OF_SENDERS: Final = frozenset(violation.value for violation in Violation if violation.by == "sender")
_OF_RECEIVER: Final = re.compile(r'(.*[{,]receiver=")((?:[^"\\]|\\.)*)("[,}].*)').fullmatch
_REPAIRS: Final = re.compile(
    r'(repairs|violations_seen)_total\{violation="([^"]*)",receiver="((?:[^"\\]|\\.)*)"\}'
).fullmatch


@attrs.frozen
class RepairedSession:
    """A session in which something was repaired, in words that can be shown anywhere."""

    id: str
    sender: str
    receiver: str
    ended_at: float
    """In seconds since 1970."""
    seconds: float
    ended: str
    """Who ended it, and in which phase."""
    repairs: list[dict[str, str]]
    """For each of the first of them: "violation", "phase" and "detail"."""
    record: str = ""
    """The session as `--record` would write it, if it was traced, is not too long, and among the last ones."""

    def has(self, text: str) -> bool:
        """Whether a text, in small letters, stands in it."""
        details = (each["detail"] for each in self.repairs)
        return any(text in each.lower() for each in (self.id, self.sender, self.receiver, *details, self.record))


@attrs.define
class ViolationCount:
    """A violation that a receiver's sessions have shown."""

    violation: str
    count: int
    first_at: float
    """In seconds since 1970."""
    last_at: float


@attrs.frozen
class ServedListener:
    """Where senders connect, and what is done for those who do, in words that can be shown anywhere."""

    addresses: tuple[str, ...]
    """HOST:PORT or unix:PATH, each with the port that it has indeed."""
    receivers: tuple[str, ...]
    sender_tls: str
    receiver_tls: str
    observes: bool
    """Whether violations are only observed there."""
    flags: tuple[str, ...]
    """What is particular about it: flags behind its address, and settings of its own as NAME=VALUE."""

    @property
    def words(self) -> str:
        """All of it on a line."""
        tls = f"TLS {self.sender_tls} with senders, {self.receiver_tls} with receivers"
        observing = ("OBSERVING, nothing is repaired",) if self.observes else ()
        return "; ".join(
            (f"receiver {', '.join(self.receivers)}", *observing, tls, ", ".join(self.flags))
        ).removesuffix("; ")


@attrs.frozen(kw_only=True)
class Status:
    """The answer to what is going on."""

    version: str
    receiver: str
    listening: list[ServedListener]
    """None of them while it stops."""
    started_at: float
    """In seconds since 1970."""
    serves: bool
    """Whether a worker has said of late that it serves, be it the sessions that are left."""
    stopping: bool
    """Whether no new connections are taken."""
    workers: int
    figures: Series
    hour: Mapping[str, Sequence[int]]
    """What is drawn -> how much of it there was in each minute of the last hour."""
    recent: list[RepairedSession]
    """The last first."""
    habits: dict[str, list[ViolationCount]]
    """Receiver -> its habits, the most frequent first."""


@attrs.define(eq=False)
class Totals:
    """What was done so far: by workers that have ended, and by those that go on as of their last report."""

    started_at: float = attrs.field(factory=time.time)
    past: Series = attrs.field(factory=dict)
    """The figures of workers that have ended."""
    recent: deque[RepairedSession] = attrs.field(factory=lambda: deque(maxlen=MOST_KEPT))
    hour: LastHour = attrs.field(factory=LastHour)
    drained: set[str] = attrs.field(factory=set)
    """Receivers that an operator drains, by name."""
    _receivers: set[str] = attrs.field(factory=set)
    """Those that have figures of their own."""
    _seen: dict[tuple[str, str], tuple[float, float]] = attrs.field(factory=dict)
    """(receiver, violation) -> when it was repaired first and last."""

    def repaired(self, session: RepairedSession) -> None:
        """Take note of a repaired session."""
        self.recent.appendleft(session)
        if len(self.recent) > MOST_RECENT:
            self.recent[MOST_RECENT] = attrs.evolve(self.recent[MOST_RECENT], record="")
        for repair in session.repairs:
            key = session.receiver, repair["violation"]
            first_at, _ = self._seen.get(key, (session.ended_at, 0.0))
            if key in self._seen or len(self._seen) < _MOST_SEEN:
                self._seen[key] = first_at, session.ended_at

    def over(self, figures: Mapping[str, float]) -> None:
        """A worker has ended with these figures."""
        add_figures(self.past, dict(self._folded(figures)))

    def _folded(self, figures: Mapping[str, float]) -> Iterator[tuple[str, float]]:
        """With no more receivers than a worker has, however many workers there were."""
        others: Series = {}
        for name, value in figures.items():
            found = _OF_RECEIVER(name)
            if found is None or found[2] in self._receivers or len(self._receivers) < MOST_RECEIVERS:
                if found:
                    self._receivers.add(found[2])
                yield name, value
            else:
                add_figures(others, {f"{found[1]}{OTHER}{found[3]}": value})
        yield from others.items()

    def figures(self, reports: Iterable[Mapping[str, float]]) -> Series:
        """All of it, with what those report that go on."""
        total = dict(self.past)
        for report in reports:
            add_figures(total, report)
        return total

    def habits(self, figures: Mapping[str, float]) -> dict[str, list[ViolationCount]]:
        """What the receivers of these figures have shown."""
        habits: dict[str, list[ViolationCount]] = {}
        for name, count in figures.items():
            found = _REPAIRS(name)
            if found and found[2] not in _OF_SENDERS:
                family, violation, receiver = found.groups()
                first_at, last_at = self._seen.get((receiver, violation), (0.0, 0.0))
                name = f"{violation} (seen)" if family == "violations_seen" else violation
                habits.setdefault(receiver, []).append(ViolationCount(name, int(count), first_at, last_at))
        for each in habits.values():
            each.sort(key=lambda habit: -habit.count)
        return habits

    def as_json(self) -> dict[str, Any]:
        """For the supervisor that an upgrade puts in this one's place."""
        return {
            "started_at": self.started_at,
            "past": self.past,
            "recent": [attrs.asdict(each) for each in self.recent],
            "hour": self.hour.as_json(),
            "drained": sorted(self.drained),
            "seen": [(*key, *times) for key, times in self._seen.items()],
        }

    @classmethod
    def of_json(cls, left: Mapping[str, Any]) -> Totals:
        """What `as_json` gave."""
        history = cls(left["started_at"], dict(left["past"]))
        history.drained.update(left.get("drained", ()))
        if hour := left.get("hour"):
            history.hour = LastHour.of_json(hour)
        for each in reversed(left["recent"]):
            history.repaired(RepairedSession(**each))
        history._seen.update(
            {(receiver, violation): (first, last) for receiver, violation, first, last in left["seen"]}
        )
        return history
