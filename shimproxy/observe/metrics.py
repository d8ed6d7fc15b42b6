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

from shimproxy.observe.log_output import lines_lost
from shimproxy.observe.series import LATEST, MOST_RECEIVERS, OTHER, Series, series
from shimproxy.session.counter import counters_of
from shimproxy.session.phase import SessionPhase
from shimproxy.session.record import SessionRecord
from shimproxy.session.reply_times import KINDS, REPLY_SECONDS, ReplyTimes
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shimproxy.net.receiver_state import ReceiverState

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
    "receiver_up": Family("gauge", "Whether the last connection to a receiver was greeted with 2yz.", (_RECEIVER,)),
    "receiver_connections": Family(
        "gauge", "Connections to a receiver, where `receiver-connections` limits them.", (_RECEIVER,)
    ),
    "receiver_waiting": Family("gauge", "Senders that wait for a connection to a receiver.", (_RECEIVER,)),
    "receiver_draining": Family("gauge", "Whether an operator drains a receiver.", (_RECEIVER,)),
    "receiver_connect_failures_total": Family(
        "counter",
        "Connections to a receiver that were not made, or not greeted with 2yz, by the reason.",
        (_RECEIVER, "reason"),
    ),
    "reply_seconds": Family("histogram", "How long receivers took for a reply, by what it answers.", ("answers", "le")),
    "log_lines_lost_total": Family("counter", "Lines of the log that its reader did not take."),
    "record_failures_total": Family("counter", "Records of sessions that could not be written."),
    "certificate_expiry_timestamp_seconds": Family(
        "gauge", "When a certificate for senders expires, in seconds since 1970.", ("certificate",)
    ),
    "config_last_reload_successful": Family("gauge", "Whether the last reload, or the start, was successful."),
    "config_last_reload_success_timestamp_seconds": Family(
        "gauge", "When settings were last read with success, in seconds since 1970."
    ),
    "worker_exits_total": Family("counter", "Workers that have ended, by the reason.", ("reason",)),
    "limits_reached_total": Family(
        "counter", "Connections and sessions that shimproxy refused or ended at a limit, by the limit.", ("limit",)
    ),
    "session_seconds": Family("histogram", "The duration of sessions.", ("le",)),
    "process_cpu_seconds_total": Family("counter", "User and system CPU time of the supervisor and all workers."),
    "process_resident_memory_bytes": Family("gauge", "Resident memory of the supervisor and all workers."),
    "process_open_fds": Family("gauge", "Open file descriptors of the supervisor and all workers."),
    "process_start_time_seconds": Family("gauge", "When the supervisor started, in seconds since 1970."),
}
_LIMITS: Final = (
    "allow-sender",
    "sessions",
    "sessions-per-network",
    "receiver-connections",
    "connections-per-minute",
    "descriptors",
    "session-seconds",
    "transactions",
    "commands-without-mail",
    "bad-commands",
)
EXITS: Final = ("retired", "stopped", "killed", "crashed")
"""Why workers end: told to with a reload or a stop, killed by the supervisor, or for no reason that it knows."""


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
_UP_AT: Final = f"{LATEST}receiver_up"
_DOWN_AT: Final = f"{LATEST}receiver_down"
_FROM_ZERO: Final = dict.fromkeys(
    [
        *(series("limits_reached_total", limit=limit) for limit in _LIMITS),
        *(series("worker_exits_total", reason=reason) for reason in EXITS),
        *(series("replies_total", code=f"{digit}xx") for digit in (2, 3, 4, 5)),
    ],
    0.0,
)
"""Series that are there before anything is counted, so that a rate can be seen from the first time on."""


@attrs.define(eq=False)
class Metrics:
    """The numbers of one worker."""

    counted: defaultdict[str, float] = attrs.field(factory=lambda: defaultdict(float))
    """Sessions in a bucket of the histogram are those above the bucket before it."""
    phases: Callable[[], list[str]] = list
    """What the open sessions are doing."""
    receiver_states: Callable[[], list[ReceiverState]] = list
    """What is known of receivers."""
    record_failures: Callable[[], int] = int
    """How many records could not be written."""
    reply_times: ReplyTimes = attrs.field(factory=ReplyTimes)
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
        gauges: Series = {"sessions_open": len(phases), "drains_in_progress": phases.count(SessionPhase.DRAINING)}
        for state in self.receiver_states():
            if state.is_limited:
                gauges[series("receiver_connections", receiver=state.name)] = state.connections
                gauges[series("receiver_waiting", receiver=state.name)] = len(state.line)
        return gauges

    def totals(self) -> Series:
        """What was counted so far."""
        totals: Series = dict(self.counted)
        totals["log_lines_lost_total"] = lines_lost()
        totals["record_failures_total"] = self.record_failures()
        for state in self.receiver_states():
            totals[series(_UP_AT, receiver=state.name)] = state.up_at
            totals[series(_DOWN_AT, receiver=state.name)] = state.down_at
            for why, count in state.failures.items():
                totals[series("receiver_connect_failures_total", receiver=state.name, reason=why)] = count
        for kind, counts, seconds in self.reply_times.all():
            if any(counts):
                for bound, count in zip((*REPLY_SECONDS, float("inf")), counts, strict=True):
                    totals[series("reply_seconds_bucket", answers=kind, le=f"{bound:g}")] = count
                totals[series("reply_seconds_count", answers=kind)] = sum(counts)
                totals[series("reply_seconds_sum", answers=kind)] = seconds
        return totals


def exposition(values: Mapping[str, float], version: str) -> str:
    """The series in Prometheus' text format 0.0.4."""
    return "".join(_lines({series("build_info", version=version): 1, **_FROM_ZERO, **values, **up_of(values)}))


def up_of(values: Mapping[str, float]) -> Series:
    """Which receivers serve, by when a worker has last seen them do so or not."""
    up: Series = {}
    for name, at in values.items():
        family, brace, labels = name.partition("{")
        if family == _UP_AT:
            down_at = values.get(f"{_DOWN_AT}{brace}{labels}", 0)
            if at or down_at:
                up[f"receiver_up{brace}{labels}"] = at >= down_at
    return up


def _lines(values: Mapping[str, float]) -> Iterator[str]:
    by_family: dict[str, list[str]] = {}
    for name in values:
        by_family.setdefault(name.partition("{")[0], []).append(name)
    for family, made in FAMILIES.items():
        shown = _shown(family)
        yield f"# HELP {shown} {made.about}\n# TYPE {shown} {made.kind}\n"
        if made.kind == "histogram":
            yield from _histogram(family, made, values)
        else:
            names = sorted(by_family.get(family, []))
            for name in names or ([family] if made.kind == "counter" and not made.labels else []):
                yield _line(name, values.get(name, 0))


def _histogram(family: str, made: Family, values: Mapping[str, float]) -> Iterator[str]:
    """The series of a histogram: buckets as they add up, for each value of its own label if it has one."""
    groups: list[dict[str, str]] = [{}]
    bounds: tuple[float, ...] = SECONDS
    if made.labels != ("le",):
        groups, bounds = [{made.labels[0]: kind} for kind in KINDS], REPLY_SECONDS
    for labels in groups:
        total = 0.0
        for bound in (*bounds, float("inf")):
            name = series(f"{family}_bucket", **labels, le=f"{bound:g}")
            total += values.get(name, 0)
            yield _line(name, total)
        for suffix in ("_sum", "_count"):
            name = series(family + suffix, **labels)
            yield _line(name, values.get(name, 0))


def _shown(name: str) -> str:
    """A name as Prometheus has it: that of a process is the same in all programs."""
    return name if name.startswith("process_") else f"shimproxy_{name}"


def _line(name: str, value: float) -> str:
    name = _shown(name.replace('le="inf"', 'le="+Inf"'))
    return f"{name} {value:.0f}\n" if value == int(value) else f"{name} {value:.12g}\n"
