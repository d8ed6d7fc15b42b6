"""What was done, in numbers: counted by each worker, added up by the supervisor, and written as Prometheus reads it.

A series is named as in the text format 0.0.4, labels and all, and is a number; so the figures of several workers are
added by name. The number of series is bounded: receivers beyond the first MOST_RECEIVERS share the label "other".
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shimproxy.session.record import SessionRecord

Series = dict[str, float]
"""Name with labels -> value."""

MOST_RECEIVERS: Final = 100
OTHER: Final = "other"
SECONDS: Final = (0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
"""The upper bounds of the histogram of sessions; one without a bound follows."""
# Family -> (type, help), in the order in which they are written.
FAMILIES: Final = {
    "build_info": ("gauge", "Which version this is."),
    "workers": ("gauge", "Processes that serve, with those that only let their sessions come to an end."),
    "sessions_open": ("gauge", "Sessions that go on."),
    "drains_in_progress": ("gauge", "Senders that are drained, as their receiver has spoken in mail data or gone."),
    "sessions_total": ("counter", "Sessions that are over."),
    "sessions_resumed_total": ("counter", "Receiver connections opened anew after a repair."),
    "transactions_total": ("counter", "Mail data that got a reply."),
    "accepted_total": ("counter", "Mail data that the receiver accepted."),
    "replies_total": ("counter", "Replies given to senders, by the first digit of their code."),
    "octets_total": ("counter", "Octets on the legs, as seen from shimproxy."),
    "repairs_total": ("counter", "Violations that were repaired, by catalogue name and receiver."),
    "limits_reached_total": ("counter", "Connections refused, and sessions ended, by the limit that was reached."),
    "session_seconds": ("histogram", "How long sessions lasted."),
}


def series(family: str, **labels: str) -> str:
    """The name of a series."""
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{family}{{{inside}}}" if inside else family


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


_OCTETS: Final = {
    field: series("octets_total", leg=leg, direction=direction)
    for field, leg, direction in (
        ("octets_from_sender", "sender", "in"),
        ("octets_to_sender", "sender", "out"),
        ("octets_from_receiver", "receiver", "in"),
        ("octets_to_receiver", "receiver", "out"),
    )
}
_REPLIES: Final = [series("replies_total", code=f"{digit}xx") for digit in range(6)]
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
        counted["sessions_resumed_total"] += record.resumed
        counted["transactions_total"] += record.transactions
        counted["accepted_total"] += record.accepted
        for name, count in zip(_REPLIES, record.replies, strict=True):
            if count:
                counted[name] += count
        for field, name in _OCTETS.items():
            counted[name] += getattr(record, field)
        for violation, count in record.repairs.items():
            counted[series("repairs_total", violation=violation.value, receiver=self._known(record.receiver))] += count
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
        return {"sessions_open": len(phases), "drains_in_progress": phases.count("draining")}


def add(to: Series, more: Mapping[str, float]) -> None:
    """Add the figures of another worker, or of another time."""
    for name, value in more.items():
        to[name] = to.get(name, 0) + value


def written(values: Mapping[str, float], version: str) -> str:
    """The series in Prometheus' text format 0.0.4."""
    return "".join(_lines({series("build_info", version=version): 1, **values}))


def _lines(values: Mapping[str, float]) -> Iterator[str]:
    for family, (kind, about) in FAMILIES.items():
        yield f"# HELP shimproxy_{family} {about}\n# TYPE shimproxy_{family} {kind}\n"
        if kind == "histogram":
            total = 0.0
            for name in _BUCKETS:
                total += values.get(name, 0)
                yield _line(name, total)
            for suffix in ("_sum", "_count"):
                yield _line(family + suffix, values.get(family + suffix, 0))
        else:
            names = sorted(name for name in values if name.partition("{")[0] == family)
            for name in names or ([family] if kind == "counter" and family not in _LABELLED else []):
                yield _line(name, values.get(name, 0))


_LABELLED: Final = {name.partition("{")[0] for name in (*_REPLIES, *_OCTETS.values())} | {
    "repairs_total",
    "limits_reached_total",
}


def _line(name: str, value: float) -> str:
    name = name.replace('le="inf"', 'le="+Inf"')
    return f"shimproxy_{name} {value:.0f}\n" if value == int(value) else f"shimproxy_{name} {value:.12g}\n"
