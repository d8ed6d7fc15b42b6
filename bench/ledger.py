"""The ledger of a soak: what senders believe, what receivers have, what shimproxy says, and where these differ.

1. A mail is known by its name and its digest; a session by its sender's address and the time of its connection.
2. What a killed worker may take with it is told apart from what is lost: its sessions' last lines, and a verdict.
3. Each difference is a line that names the mail, session or process.

It knows no sockets and no processes: it is given what was seen.
"""

from __future__ import annotations

import enum
import hashlib
from bisect import bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

import attrs

from bench.soak_log import Line, Log
from shimproxy.observe.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

CLOCK_SECONDS: Final = 0.1
"""What two readings of the same moment may differ by."""
ROUNDING_SECONDS: Final = 0.005
"""What the beginning of a session may be off, as the log has it: two times in milliseconds."""
REPORT_SECONDS: Final = 3.0
"""A worker's figures are as old as this when it is killed, at most: it reports once a second."""
AFTERLIFE_SECONDS: Final = 15.0
"""A session ends no later than this after its sender has left, by the soak's deadlines."""
MEMORY_KIB: Final = 16 * 1024
"""So much may a process grow: what the allocator keeps of a load's peak."""
MOST_NAMED: Final = 5
"""Of one kind of difference; the others are counted."""


class Fate(enum.StrEnum):
    """What became of a mail, as its sender sees it."""

    DELIVERED = "believed delivered"
    BOUNCED = "refused (5yz)"
    AGAIN = "to be sent again (4yz)"
    CUT = "cut off before the verdict"
    LEFT = "left by its sender before the verdict"
    UNFINISHED = "left unfinished by its sender"


@attrs.define(eq=False)
class Visit:
    """A connection that a sender made."""

    route: str
    kind: str
    """The kind of sender."""
    well_behaved: bool
    """Whether the sender does nothing that could end the session early."""
    strict: bool
    """Whether nobody misbehaves on this route: all its mails are delivered, unless a worker was killed."""
    address: str
    """The sender's own, HOST:PORT."""
    began: float
    """In seconds since 1970, as all times here."""
    ended: float = 0.0
    broken: str = ""
    """What broke the connection, if its sender expected more."""
    refused: str = ""
    """The reply that ended the session before its sender was done, if one did."""

    def __str__(self) -> str:
        return f"{self.kind} on {self.route}, from {self.address}"


@attrs.define(eq=False)
class Posted:
    """A mail at its sender."""

    name: str
    digest: bytes
    """Of the mail as it reaches the receiver."""
    visit: Visit
    fate: Fate = Fate.UNFINISHED
    said: str = ""
    """The reply, or why there is none."""

    def __str__(self) -> str:
        return f"{self.name} ({self.visit}: {self.said or self.fate})"


@attrs.frozen
class Taken:
    """A mail at a receiver, whole and answered by 2yz."""

    digest: bytes
    by: str
    """The route, and the receiver's fault if it has one."""
    too_early: bool = False
    """Whether it was accepted before its end: then its sender is told to send it again."""


_UNSURE: Final = (Fate.CUT, Fate.LEFT, Fate.UNFINISHED)
"""Without a verdict: its sender knows nothing of it."""


@attrs.frozen
class Process:
    """A process of shimproxy, at rest."""

    name: str
    descriptors: int
    threads: int
    memory_kib: int


@attrs.frozen
class State:
    """shimproxy at rest: its processes, the supervisor first, and what its figures say."""

    processes: Sequence[Process]
    figures: Mapping[str, float]

    def figure(self, name: str) -> int:
        """A figure without labels, or 0."""
        return int(self.figures.get(name, 0))


@attrs.define(eq=False)
class Ledger:
    """All that was seen in a soak; `post`, `take` and `visits` are filled from many threads."""

    posted: dict[str, Posted] = attrs.field(factory=dict)
    taken: defaultdict[str, list[Taken]] = attrs.field(factory=lambda: defaultdict(list))
    """Name -> each time that a receiver has it; "" for mails without a name."""
    visits: list[Visit] = attrs.field(factory=list)
    kills: list[float] = attrs.field(factory=list)
    """When a worker was killed."""
    reloads: int = 0
    log: Log = attrs.field(factory=Log)
    records: set[str] = attrs.field(factory=set)
    """The ids of sessions whose record there is."""
    before: State = State((), {})
    after: State = State((), {})
    troubles: list[str] = attrs.field(factory=list)
    """What went wrong with the soak's own peers, or with the end of shimproxy."""

    # -- while it goes on

    def post(self, name: str, arrives: bytes, visit: Visit) -> Posted:
        """A sender begins with a mail, which reaches the receiver as `arrives`."""
        posted = self.posted[name] = Posted(name, _digest(arrives), visit)
        return posted

    def take(self, name: str, data: bytes, by: str, *, too_early: bool = False) -> None:
        """A receiver has taken a mail."""
        self.taken[name].append(Taken(_digest(data), by, too_early))

    # -- the books

    def count(self, fate: Fate, *, there: bool = False) -> int:
        """How many mails have that fate; those that are in a receiver only, if `there`."""
        return sum(each.fate is fate and (not there or each.name in self.taken) for each in self.posted.values())

    def differences(self) -> list[str]:
        """Where the books differ, a line each, and none where the ledger is even."""
        books = (self._mails, self._fates, self._sessions, self._records, self._figures, self._processes)
        found = [line for book in books for line in book()]
        found += [f"shimproxy logged: {reason}" for reason in _named(self.log.reasons)]
        found += [f"the soak failed: {trouble}" for trouble in _named(self.troubles)]
        return found

    def _mails(self) -> Iterator[str]:
        wrong: defaultdict[str, list[object]] = defaultdict(list)
        for name, posted in self.posted.items():
            copies = self.taken.get(name, [])
            if posted.fate is Fate.DELIVERED and not copies:
                wrong["believed delivered and not in the receiver"].append(posted)
            if posted.fate is Fate.BOUNCED and copies:
                wrong["refused and in the receiver"].append(posted)
            if posted.fate is Fate.AGAIN and copies and not copies[0].too_early:
                wrong["to be sent again and in the receiver"].append(posted)
            if posted.fate is Fate.UNFINISHED and copies:
                wrong["unfinished and in the receiver"].append(posted)
            if len(copies) > 1:
                wrong["in the receiver more than once"].append(posted)
            if any(copy.digest != posted.digest for copy in copies):
                wrong["changed on its way"].append(posted)
        for name, copies in self.taken.items():
            if name not in self.posted:
                wrong["in the receiver and from no sender"] += [name or f"one without a name ({copies[0].by})"]
        yield from _told("mail", wrong)

    def _fates(self) -> Iterator[str]:
        """Guarantee 1: a well-behaved sender has its reply, and on a strict route its 250, but for killed workers."""
        wrong: defaultdict[str, list[object]] = defaultdict(list)
        for posted in self.posted.values():
            visit = posted.visit
            if not visit.well_behaved or self._was_cut_by_a_kill(visit):
                continue
            if posted.fate in _UNSURE:
                wrong["cut off, and no worker was killed then"].append(posted)
            elif visit.strict and posted.fate is not Fate.DELIVERED:
                wrong["not delivered, and nobody misbehaved"].append(posted)
        yield from _told("mail", wrong)
        wrong.clear()
        for visit in self.visits:
            if visit.well_behaved and not self._was_cut_by_a_kill(visit):
                if visit.broken:
                    wrong["broken, and no worker was killed then"].append(f"{visit}: {visit.broken}")
                if visit.refused and visit.strict:
                    wrong["refused, and nobody misbehaved"].append(f"{visit}: {visit.refused}")
        yield from _told("connection", wrong)

    def _was_cut_by_a_kill(self, visit: Visit, afterlife: float = 0.0) -> bool:
        began, ended = visit.began - CLOCK_SECONDS, visit.ended + CLOCK_SECONDS + afterlife
        return any(began <= kill <= ended for kill in self.kills)

    def _sessions(self) -> Iterator[str]:
        wrong: defaultdict[str, list[object]] = defaultdict(list)
        pairs, without_line, without_visit = self.matched()
        # A session outlives its sender, and its line waits a little for others: a kill may take both.
        wrong["without a line in the log, and no worker was killed then"] += [
            visit for visit in without_line if not self._was_cut_by_a_kill(visit, AFTERLIFE_SECONDS)
        ]
        wrong["in the log and of no sender"] += [f"{line.session} from {line.sender}" for line in without_visit]
        believed = Counter(id(each.visit) for each in self.posted.values() if each.fate is Fate.DELIVERED)
        unsure = {id(each.visit) for each in self.posted.values() if each.fate in _UNSURE}
        for visit, line in pairs:
            count = believed[id(visit)]
            if line.accepted < count or (line.accepted > count and id(visit) not in unsure):
                wrong["of which log and sender count differently"].append(
                    f"{line.session} ({visit}): {line.accepted} accepted in the log, {count} believed delivered"
                )
        last: dict[str, float] = {}
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for line in self.log.lines:
            numbers[line.worker].append(line.number)
            last[line.worker] = max(last.get(line.worker, 0.0), line.ended)
        gaps = {
            worker: sorted(missing)
            for worker, theirs in numbers.items()
            if (missing := set(range(1, max(theirs) + 1)) - set(theirs))
        }
        for worker, numbers_missing in gaps.items():
            if not any(kill >= last[worker] - CLOCK_SECONDS for kill in self.kills):
                wrong["without a line in the log, of a worker that was not killed"] += [
                    f"{worker}-{number}" for number in numbers_missing
                ]
        if len(gaps) > len(self.kills):
            wrong["missing in the logs of more workers than were killed"] += sorted(gaps)
        doubles = [session for session, count in Counter(line.session for line in self.log.lines).items() if count > 1]
        wrong["in the log more than once"] += doubles
        yield from _told("session", wrong)

    def matched(self) -> tuple[list[tuple[Visit, Line]], list[Visit], list[Line]]:
        """Visits with their lines in the log, visits without one, and lines without a visit."""
        by_address: defaultdict[str, list[Visit]] = defaultdict(list)
        for visit in sorted(self.visits, key=lambda each: each.began):
            by_address[visit.address].append(visit)
        pairs: list[tuple[Visit, Line]] = []
        unmatched: list[Line] = []
        seen: set[int] = set()
        # The last first: an address may be used again a few milliseconds after its session.
        for line in sorted(self.log.lines, key=lambda each: -each.began):
            visits = by_address.get(line.sender, [])
            before = bisect_right([each.began for each in visits], line.began + ROUNDING_SECONDS)
            mine = next((each for each in reversed(visits[:before]) if id(each) not in seen), None)
            if mine is None:
                unmatched.append(line)
            else:
                seen.add(id(mine))
                pairs.append((mine, line))
        return pairs, [visit for visit in self.visits if id(visit) not in seen], unmatched

    def _records(self) -> Iterator[str]:
        logged = {line.session for line in self.log.lines}
        wrong: defaultdict[str, list[object]] = defaultdict(list)
        wrong["in the log and without a record"] += sorted(logged - self.records)
        _, without_line, _ = self.matched()
        # The line of a session that has its record was about to be written when its worker was killed.
        if len(extra := self.records - logged) > len(without_line):
            wrong["with a record, more than sessions without a line"] += sorted(extra)
        yield from _told("session", wrong)

    def _figures(self) -> Iterator[str]:
        after = self.after
        for name in ("sessions_open", "drains_in_progress"):
            if value := after.figure(name):
                yield f"{name} is {value} when all senders have left"
        most = len(self.log.lines) + len(self.records - {line.session for line in self.log.lines})
        least = sum(
            not any(kill - REPORT_SECONDS <= line.ended <= kill + CLOCK_SECONDS for kill in self.kills)
            for line in self.log.lines
        )
        if not least <= (total := after.figure("sessions_total")) <= most:
            yield f"sessions_total is {total}, and the log and the records have {least} to {most}"
        if (reloads := self.log.events[Event.RELOADED.value]) != self.reloads:
            yield f"the log has {reloads} reloads, and the soak asked for {self.reloads}"
        # One that only finishes its sessions ends unsaid.
        if (ended := self.log.events[Event.WORKER_ENDED.value]) > len(self.kills):
            yield f"{ended} workers have ended, and the soak has killed {len(self.kills)}"

    def _processes(self) -> Iterator[str]:
        before, after = self.before.processes, self.after.processes
        if len(before) != len(after):
            yield f"processes: {len(before)} before, {len(after)} after"
        at_rest: dict[str, Process] = {}
        for process in before:  # of workers the one that had most
            known = at_rest.get(process.name)
            at_rest[process.name] = process if known is None else _larger(known, process)
        for process in after:
            known = at_rest.get(process.name, process)
            for what, was, is_now, allowed in (
                ("descriptors", known.descriptors, process.descriptors, 0),
                ("threads", known.threads, process.threads, 0),
                ("KiB of memory", known.memory_kib, process.memory_kib, MEMORY_KIB),
            ):
                if is_now > was + allowed:
                    yield f"{process.name}: {was:,} {what} before, {is_now:,} after"


def _larger(one: Process, other: Process) -> Process:
    return Process(
        one.name,
        max(one.descriptors, other.descriptors),
        max(one.threads, other.threads),
        max(one.memory_kib, other.memory_kib),
    )


def _digest(octets: bytes) -> bytes:
    return hashlib.blake2b(octets, digest_size=16).digest()


def _named(those: Sequence[object]) -> Iterator[str]:
    """The first of them, and how many there are beyond."""
    yield from map(str, those[:MOST_NAMED])
    if len(those) > MOST_NAMED:
        yield f"and {len(those) - MOST_NAMED:,} others"


def _told(what: str, wrong: Mapping[str, Sequence[object]]) -> Iterator[str]:
    for how, those in wrong.items():
        yield from (f"{what} {how}: {each}" for each in _named(those))


# -- for people


def written(ledger: Ledger, differences: Iterable[str]) -> list[str]:
    """The ledger in lines, with its sum."""
    _, without_line, _ = ledger.matched()
    delivered = [each for each in ledger.posted.values() if each.fate is Fate.DELIVERED]
    once = sum(len(ledger.taken.get(each.name, ())) == 1 for each in delivered)
    rows: list[tuple[str, object]] = [("mails that senders began", len(ledger.posted))]
    for fate in Fate:
        rows.append((f"  {fate}", ledger.count(fate)))
        if fate is Fate.DELIVERED:
            rows.append(("    in the receiver, each once", once))
        else:
            rows.append(("    in the receiver nevertheless", ledger.count(fate, there=True)))
    logged = {line.session for line in ledger.log.lines}
    repairs = {name: count for name, count in ledger.after.figures.items() if name.startswith("repairs_total{")}
    rows += [
        ("connections of senders", len(ledger.visits)),
        ("  with a line in the log", len(ledger.visits) - len(without_line)),
        ("  lost with a killed worker", len(without_line)),
        ("lines of sessions in the log", len(ledger.log.lines)),
        ("  with a record", len(logged & ledger.records)),
        ("violations repaired", int(sum(repairs.values()))),
        ("  kinds of them", len({name.partition('receiver="')[0] for name in repairs})),
        ("reloads by SIGHUP", ledger.reloads),
        ("workers killed by SIGKILL", len(ledger.kills)),
    ]
    lines = [f"{name:40}{value:>12,}" for name, value in rows]
    lines += ["", f"{'shimproxy at rest':40}{'before':>12}{'after':>12}"]
    for what, figure in (
        ("processes", lambda state: len(state.processes)),
        ("sessions open", lambda state: state.figure("sessions_open")),
        ("descriptors", lambda state: sum(each.descriptors for each in state.processes)),
        ("threads", lambda state: sum(each.threads for each in state.processes)),
        ("KiB of memory", lambda state: sum(each.memory_kib for each in state.processes)),
    ):
        lines.append(f"  {what:38}{figure(ledger.before):>12,}{figure(ledger.after):>12,}")
    uneven = list(differences)
    lines += ["", "The ledger is uneven:" if uneven else "The ledger is even."]
    return lines + [f"  {each}" for each in uneven]
