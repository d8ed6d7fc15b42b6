"""What was done, in numbers: counted by each worker, added up by the supervisor, and written as Prometheus reads it.

series.py says what a series is, and adds them up.

What is counted of a session is declared where it counts, in the fields of its record (session/record.py). What is
counted of a process is declared here.
"""

from __future__ import annotations

import bisect
import functools
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.observe.series import MOST_RECEIVERS, OTHER, Series, series
from shimproxy.session.counter import counters_of
from shimproxy.session.phase import SessionPhase
from shimproxy.session.record import SessionRecord
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_RECEIVER: Final = "receiver"
SECONDS: Final = (0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
"""The upper bounds of the histogram of sessions; one without a bound follows."""


@attrs.frozen
class Family:
    """A family of series: all those of one name."""

    kind: str
    """Its type in Prometheus' words."""
    about: str
    labels: tuple[str, ...] = ()


_COUNTED: Final = counters_of(SessionRecord)
# In the order in which they are written.
FAMILIES: Final = {
    "build_info": Family("gauge", "The version of shimproxy.", ("version",)),
    "workers": Family("gauge", "Worker processes, including those that only finish their sessions."),
    "sessions_open": Family("gauge", "Sessions that are open."),
    "drains_in_progress": Family(
        "gauge", "Senders that shimproxy drains, because their receiver replied in mail data or disconnected."
    ),
    "sessions_total": Family("counter", "Sessions that have ended."),
    **{each.family: Family("counter", each.about, each.labels) for each in _COUNTED.values()},
    "limits_reached_total": Family(
        "counter", "Connections and sessions that shimproxy refused or ended at a limit, by the limit.", ("limit",)
    ),
    "session_seconds": Family("histogram", "The duration of sessions.", ("le",)),
}


@functools.lru_cache(maxsize=1024)
def _series(family: str, labels: tuple[str, ...], values: tuple[str, ...]) -> str:
    """The name of a series, by the values of its labels in their order."""
    return series(family, **dict(zip(labels, values, strict=True)))


_NUMBERS: Final = {
    field: _series(each.family, each.labels, each.values) for field, each in _COUNTED.items() if each.labelled is None
}
"""Field of SessionRecord that is one number -> its series."""
_LABELLED: Final = [
    (each.family, each.labels, each.labels.index(_RECEIVER) if _RECEIVER in each.labels else None, each.labelled)
    for each in _COUNTED.values()
    if each.labelled
]
"""Of the fields that are several numbers: the family, the labels, which of them is the receiver, and what makes labels
and counts of a record."""
_BUCKETS: Final = [series("session_seconds_bucket", le=f"{bound:g}") for bound in (*SECONDS, float("inf"))]


@attrs.define(eq=False)
class Metrics:
    """The numbers of one worker."""

    counted: defaultdict[str, float] = attrs.field(factory=lambda: defaultdict(float))
    """Sessions in a bucket of the histogram are those above the bucket before it."""
    phases: Callable[[], list[str]] = list
    """What the open sessions are doing."""
    _receivers: set[str] = attrs.field(factory=set)

    def ended(self, record: SessionRecord) -> None:
        """Count a session that is over."""
        counted = self.counted
        counted["sessions_total"] += 1
        for field, name in _NUMBERS.items():
            counted[name] += getattr(record, field)
        for family, labels, at, labelled in _LABELLED:
            for values, count in labelled(record):
                known = values if at is None else (*values[:at], self._known(values[at]), *values[at + 1 :])
                counted[_series(family, labels, known)] += count
        counted[_BUCKETS[bisect.bisect_left(SECONDS, record.seconds)]] += 1
        counted["session_seconds_count"] += 1
        counted["session_seconds_sum"] += record.seconds

        for repair in record.first_repairs:
            if repair.violation is Violation.LIMIT_REACHED:
                self.limit_reached(str(repair.detail["limit"]))

    def limit_reached(self, limit: str) -> None:
        """Count a connection that was refused, or a session that was ended, for a limit of that name."""
        self.counted[series("limits_reached_total", limit=limit)] += 1

    def _known(self, receiver: str) -> str:
        if receiver not in self._receivers:
            if len(self._receivers) >= MOST_RECEIVERS:
                return OTHER
            self._receivers.add(receiver)
        return receiver

    def gauges(self) -> Series:
        """What is so at this moment."""
        phases = self.phases()
        return {"sessions_open": len(phases), "drains_in_progress": phases.count(SessionPhase.DRAINING)}


def exposition(values: Mapping[str, float], version: str) -> str:
    """The series in Prometheus' text format 0.0.4."""
    return "".join(_lines({series("build_info", version=version): 1, **values}))


def _lines(values: Mapping[str, float]) -> Iterator[str]:
    for family, made in FAMILIES.items():
        yield f"# HELP shimproxy_{family} {made.about}\n# TYPE shimproxy_{family} {made.kind}\n"
        if made.kind == "histogram":
            total = 0.0
            for name in _BUCKETS:
                total += values.get(name, 0)
                yield _line(name, total)
            for suffix in ("_sum", "_count"):
                yield _line(family + suffix, values.get(family + suffix, 0))
        else:
            names = sorted(name for name in values if name.partition("{")[0] == family)
            for name in names or ([family] if made.kind == "counter" and not made.labels else []):
                yield _line(name, values.get(name, 0))


def _line(name: str, value: float) -> str:
    name = name.replace('le="inf"', 'le="+Inf"')
    return f"shimproxy_{name} {value:.0f}\n" if value == int(value) else f"shimproxy_{name} {value:.12g}\n"
