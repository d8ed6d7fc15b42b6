"""What is known of a session: its record, and who is told of it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import attrs

from shimproxy.session.counter import counter
from shimproxy.session.trace import TraceNotes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.session.trace import Trace
    from shimproxy.smtp.catalogue import Violation
    from shimproxy.smtp.reply import Reply

MOST_REPAIRS_KEPT: Final = 20


@attrs.frozen
class Repair:
    """One violation and what was seen of it."""

    violation: Violation
    phase: str
    """What the session was doing: "mail data", "RCPT", ..."""
    detail: dict[str, int | str | bytes]
    """Figures and words of this case; what a peer sent is in octets, for the reader to escape."""
    minor: bool = False
    """Whether it is somebody's habit, and nothing can come of it: it is told, and nobody is warned."""
    observed: bool = False
    """Whether it was only seen: what the peer did was passed on as it came."""


class Counted(Protocol):
    """One side of a session, which counts what passes there."""

    @property
    def octets_in(self) -> int:
        """What came from its peer."""

    @property
    def octets_out(self) -> int:
        """What went to it."""


_CODES: Final = tuple((f"{digit}xx",) for digit in range(6))


def _by_code(record: SessionRecord) -> Iterator[tuple[tuple[str, ...], int]]:
    return ((code, count) for code, count in zip(_CODES, record.replies, strict=True) if count)


def _by_violation(record: SessionRecord) -> Iterator[tuple[tuple[str, ...], int]]:
    return (((violation.value, record.receiver), count) for violation, count in record.repairs.items())


def _by_tls(record: SessionRecord) -> Iterator[tuple[tuple[str, ...], int]]:
    for leg, version in (("sender", record.sender_tls), ("receiver", record.receiver_tls)):
        yield (leg, "none" if version == "-" else version), 1


def _by_violation_seen(record: SessionRecord) -> Iterator[tuple[tuple[str, ...], int]]:
    return (((violation.value, record.receiver), count) for violation, count in record.seen.items())


class _NoneCounted(Counter["Violation"]):
    """What all sessions have in common of which none is counted; `SessionRecord.count` makes one of their own."""

    def __setitem__(self, violation: Violation, count: int) -> None:
        raise AssertionError(f"{violation} is counted for all sessions")

    def update(self, *counted: object, **_: int) -> None:
        """As `__setitem__`."""
        raise AssertionError(f"{counted} is counted for all sessions")


_NONE: Final = _NoneCounted.__new__(_NoneCounted)
_OCTETS: Final = "Octets on the legs, as seen from shimproxy."


@attrs.define(eq=False)
class SessionRecord:
    """One session, from its greeting to the end of both legs; a field with a counter is shown to monitors too."""

    id: str
    """Unique in the process and, by its random first half, across restarts."""
    sender: str
    """The sender's address, HOST:PORT."""
    receiver: str = "-"
    """The receiver's address, HOST:PORT; "-" before there was a connection."""
    resumed: int = attrs.field(
        default=0,
        metadata=counter("sessions_resumed_total", "Receiver connections that shimproxy opened again after a repair."),
    )
    """How many times a fresh receiver leg was opened after a repair."""
    transactions: int = attrs.field(default=0, metadata=counter("transactions_total", "Mail data that got a reply."))
    """Mail data that got a reply, whatever it was."""
    accepted: int = attrs.field(default=0, metadata=counter("accepted_total", "Mail data that the receiver accepted."))
    """Mail data that the receiver answered with 2yz, relayed as such."""
    drains: int = attrs.field(
        default=0,
        metadata=counter(
            "drains_total", "Mails whose rest shimproxy read and dropped, because the receiver took no more of them."
        ),
    )
    first_repairs: list[Repair] = attrs.field(factory=list)
    """The first of them, MOST_REPAIRS_KEPT at most, with what was seen."""
    replies: list[int] = attrs.field(
        factory=lambda: [0] * 6,
        metadata=counter(
            "replies_total", "Replies to senders, by the first digit of their code.", by=("code",), labelled=_by_code
        ),
    )
    """How many replies the sender was given, by the first digit of their code; 0 for one without."""
    octets_from_sender: int = attrs.field(
        default=0, metadata=counter("octets_total", _OCTETS, leg="sender", direction="in")
    )
    octets_to_sender: int = attrs.field(
        default=0, metadata=counter("octets_total", _OCTETS, leg="sender", direction="out")
    )
    octets_from_receiver: int = attrs.field(
        default=0, metadata=counter("octets_total", _OCTETS, leg="receiver", direction="in")
    )
    octets_to_receiver: int = attrs.field(
        default=0, metadata=counter("octets_total", _OCTETS, leg="receiver", direction="out")
    )
    repairs: Counter[Violation] = attrs.field(
        default=_NONE,
        metadata=counter(
            "repairs_total",
            "Violations that shimproxy repaired, by catalogue name and receiver.",
            by=("violation", "receiver"),
            labelled=_by_violation,
        ),
    )
    seen: Counter[Violation] = attrs.field(
        default=_NONE,
        metadata=counter(
            "violations_seen_total",
            "Violations that shimproxy saw and passed on, as it observes them, by catalogue name and receiver.",
            by=("violation", "receiver"),
            labelled=_by_violation_seen,
        ),
    )
    observed: bool = False
    """Whether the session was observed, and its octets passed as they came."""
    minor_repairs: int = 0
    """How many of these are minor."""
    sender_tls: str = attrs.field(
        default="-",
        metadata=counter(
            "sessions_by_tls_total",
            "Sessions that have ended, for each leg by its version of TLS: opaque where it passes unread, or none.",
            by=("leg", "tls"),
            labelled=_by_tls,
        ),
    )
    """The version of TLS on the sender leg, "opaque" where it passes unread, "-" where there is none."""
    receiver_tls: str = "-"
    """The same of the receiver leg."""
    ended_by: str = "-"
    """Who ended the session: "sender", "receiver" or "shim"."""
    ended_in: str = "-"
    """The phase in which it was ended."""
    seconds: float = 0.0
    """From the sender's connection to the end of both legs."""
    ended_at: float = 0.0
    """When it was over, in seconds since 1970."""
    via: str = ""
    """The address of the proxy that has said who the sender is, if one did."""
    _trace: Trace | TraceNotes | None = attrs.field(default=None, alias="trace")

    @property
    def trace(self) -> Trace | None:
        """What went over both legs, frame by frame; None unless it was asked for.

        It is made with each use, as it is by then.
        """
        trace = self._trace
        return trace.trace() if isinstance(trace, TraceNotes) else trace

    @trace.setter
    def trace(self, trace: Trace | TraceNotes | None) -> None:
        self._trace = trace

    @property
    def is_traced(self) -> bool:
        """Whether it has a trace, which is not made for that."""
        return self._trace is not None

    @property
    def is_remarkable(self) -> bool:
        """Whether anything was repaired, or seen, that is not minor."""
        return bool(self.repairs or self.seen) and self.repairs.total() + self.seen.total() > self.minor_repairs

    def count(self, repair: Repair) -> None:
        """Count a repair, or a violation that was passed on, and keep it if it is among the first."""
        if repair.observed:
            self.seen = _own(self.seen)
            self.seen[repair.violation] += 1
        else:
            self.repairs = _own(self.repairs)
            self.repairs[repair.violation] += 1
        self.minor_repairs += repair.minor
        if len(self.first_repairs) < MOST_REPAIRS_KEPT:
            self.first_repairs.append(repair)

    def count_octets(self, sender: Counted, receiver: Counted | None) -> None:
        """Take over what both sides have counted; there may have been no receiver."""
        self.octets_from_sender, self.octets_to_sender = sender.octets_in, sender.octets_out
        if receiver is not None:
            self.octets_from_receiver, self.octets_to_receiver = receiver.octets_in, receiver.octets_out


def _own(counted: Counter[Violation]) -> Counter[Violation]:
    return Counter() if counted is _NONE else counted


class TellsRepair(Protocol):
    """Whom a repair is told to; `detail` is that of `Repair`."""

    def __call__(self, violation: Violation, **detail: int | str | bytes) -> None:
        """Count it and pass it on."""


@attrs.define(eq=False)
class DroppedReplies:
    """Replies that are dropped where none may stand: some receivers send one for each line, and all are one repair."""

    _violation: Violation
    _count: int = 0
    _first: bytes = b""
    _form: dict[Violation, None] = attrs.field(factory=dict)

    def count(self, reply: Reply) -> None:
        """Take one more into account."""
        self._count += 1
        self._first = self._first or reply.octets
        if reply.violations:
            self._form.update(dict.fromkeys(reply.violations))

    def tell(self, repaired: TellsRepair) -> None:
        """Tell of all of them, if there were any, and begin anew."""
        if self._count:
            for violation in self._form:
                repaired(violation, reply=self._first)
            repaired(self._violation, count=self._count, first=self._first)
            self._count, self._first = 0, b""
            self._form.clear()


@runtime_checkable
class LoginObserver(Protocol):
    """What an observer may have besides: it is told of logins that the receiver has refused."""

    def login_refused(self, record: SessionRecord, mechanism: str, reply: Reply) -> None:
        """The receiver has refused AUTH; its words may belong to AUTH. A mechanism that is not known is "other"."""


class Observer(Protocol):
    """Who is told of a session while it goes on; called within its steps, so that it must not wait."""

    @property
    def wants_dialogue(self) -> bool:
        """Whether `said` is to be called."""
        ...

    def said(self, record: SessionRecord, who: str, octets: bytes) -> None:
        """`who` said a line or lines. Never called with mail data, nor with what belongs to AUTH."""

    def repaired(self, record: SessionRecord, repair: Repair) -> None:
        """A violation was repaired."""

    def ended(self, record: SessionRecord) -> None:
        """The session is over; both legs are closed."""

    def failed(self, record: SessionRecord, error: BaseException) -> None:
        """The session was ended by an error of shimproxy's own."""
