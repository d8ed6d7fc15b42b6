"""The tracer of a session, which writes its trace while that goes on.

Invariants:

1. What was said comes from the session's events, and so without anything that belongs to AUTH; the legs give counts,
   FIN and RST.
2. The octets of all entries, with those that were left out, are what the session's record counts on each leg.
3. Mail data are counts, one entry for what passes in a direction between two other entries; their first octets are
   kept only where the operator has said so.
4. It is bounded: an entry's text, the mail data kept, and the number of entries (trace.py).

A session that is not traced has no Tracer, and its legs no tap: that is all it costs then.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.session.trace import RECEIVER, SENDER, SHIM, Entry, Kind, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.leg import Leg
    from shimproxy.net.tap import Ended
    from shimproxy.session.record import Repair

TEXT_OCTETS: Final = 512
"""What is kept of a line or a reply: as much as RFC 5321 4.5.3.1.5 lets a reply line have."""
MAIL_DATA_OCTETS: Final = 64 * 1024
"""How much mail data of a session is kept, where they are."""
IN_PART: Final = "written in part"
TO_THE_END: Final = "to the end"


@attrs.define(eq=False)
class Tracer:
    """Writes the trace of a session while that goes on."""

    keeps_mail_data: bool = False
    trace: Trace = attrs.field(factory=Trace)
    clock: Callable[[], float] = trio.current_time
    sender: LegTrace = attrs.field(init=False)
    receiver: LegTrace = attrs.field(init=False)
    """The receiver leg that is in use."""
    _started: float = attrs.field(init=False)
    _legs: dict[Leg, LegTrace] = attrs.field(factory=dict)
    _connections: int = 0
    """How many there were to the receiver."""
    _passing: Kind = Kind.MAIL_DATA
    """What it is that passes without being said."""
    _stretch: dict[tuple[LegTrace, str], Entry] = attrs.field(factory=dict)
    """What has passed since the last entry of another kind."""
    _passed_last: dict[tuple[LegTrace, str], Entry] = attrs.field(factory=dict)
    """What has passed last in each direction."""
    _mail_data_octets: int = 0

    def __attrs_post_init__(self) -> None:
        self._started = self.clock()

    @property
    def seconds(self) -> float:
        """Since the session began."""
        return self.clock() - self._started

    def follow_sender(self, leg: Leg, unread_octets: Callable[[], int]) -> None:
        """Trace the sender leg; `unread_octets` is how much of what it gave is not part of a command yet."""
        self.sender = self._follow(leg, SENDER, 1, unread_octets)

    def follow_receiver(self, leg: Leg, unread_octets: Callable[[], int]) -> None:
        """Trace a receiver leg that has just been opened; as `follow_sender`, with replies."""
        for earlier, earlier_tap in [*self._legs.items()]:
            if earlier.closed:  # of a session that is resumed without end, no more is held than is open
                earlier_tap.finish()
                del self._legs[earlier]
                self._passed_last.pop((earlier_tap, SHIM), None)
        self._connections += 1
        self.receiver = tap = self._follow(leg, RECEIVER, self._connections, unread_octets)
        self.add(tap.entry(SHIM, Kind.CONNECTION, text=leg.peer.encode("utf-8", "backslashreplace")))

    def _follow(self, leg: Leg, peer: str, connection: int, unread_octets: Callable[[], int]) -> LegTrace:
        leg.tap = tap = self._legs[leg] = LegTrace(self, peer, connection, unread_octets)
        return tap

    def of(self, leg: Leg) -> LegTrace:
        """The part of a leg."""
        return self._legs[leg]

    def add(self, entry: Entry, before: Entry | None = None) -> None:
        """Put down an entry that is not merged with others."""
        self._stretch.clear()
        self.trace.add(entry, before)

    def takes(self, kind: Kind, octets: bytes | memoryview, *, ended: bool) -> None:
        """The sender has given mail data, or a part of a chunk; perhaps to the end."""
        self._passing = kind
        kept_octets = MAIL_DATA_OCTETS - self._mail_data_octets if self.keeps_mail_data else 0
        kept = bytes(octets[:kept_octets])
        self._mail_data_octets += len(kept)
        self.sender.took(len(octets), kept)
        if ended:
            self._passed_last[self.sender, SENDER].remark = TO_THE_END

    def has_given_the_end(self) -> None:
        """The receiver has got mail data, or a chunk, to the end."""
        if entry := self._passed_last.get((self.receiver, SHIM)):
            entry.remark = TO_THE_END

    def passes_unread(self) -> None:
        """From here on the peers speak TLS with each other."""
        self._passing = Kind.TLS

    @property
    def reads_nothing(self) -> bool:
        """Whether what comes is not to be understood."""
        return self._passing is Kind.TLS

    def passed(self, leg: LegTrace, who: str, octets: int, content: bytes = b"") -> None:
        """So many octets went over a leg without being said."""
        entry = self._stretch.get((leg, who))
        if entry is None or entry.kind is not self._passing:
            entry = self._stretch[leg, who] = self._passed_last[leg, who] = leg.entry(who, self._passing)
            self.trace.add(entry)
        entry.octets += octets
        entry.blocks += 1
        entry.until_seconds = self.seconds
        entry.content += content

    def repaired(self, repair: Repair) -> None:
        """A violation was repaired."""
        details = [b"%s=%s" % (name.encode(), _word(value)) for name, value in repair.detail.items()]
        text = _shortened(b" ".join(details))
        self.add(Entry(self.seconds, SHIM, SHIM, Kind.REPAIR, 0, text, repair.phase, repair.violation))

    def finish(self) -> None:
        """Account for what is left, as the session is over.

        Nothing more comes from a leg that is closed. It lets go of the trace, so that all of the session is freed now:
        in a circle it would wait for the garbage collector, which stops all sessions, and for longer with each.
        """
        for leg, tap in self._legs.items():
            tap.finish()
            if leg.closed:
                tap.let_go()


@attrs.define(eq=False)
class LegTrace:
    """One leg's part of the trace. A net.tap.Tap; octets that it is told of become entries once it is known what they
    are, and at the latest when the session is over."""

    _tracer: Tracer = attrs.field(repr=False)
    _peer: str
    _connection: int
    _unread_octets: Callable[[], int] = attrs.field(repr=False)
    _loose_octets: int = 0
    """What was received and is not in an entry."""
    _to_be_sent: deque[Entry] = attrs.field(factory=deque)
    _sent_octets: int = 0
    """Of the first one of these."""
    _end: Entry | None = None
    """The peer's FIN or RST; what is understood later came before it."""

    def entry(self, who: str, kind: Kind, octets: int = 0, text: bytes = b"", remark: str = "") -> Entry:
        """An entry of this leg, as of now, in the direction that `who` speaks."""
        whom = SHIM if who == self._peer else self._peer
        text = _shortened(text)
        return Entry(self._tracer.seconds, who, whom, kind, octets, text, remark, connection=self._connection)

    # -- what the leg tells

    def received(self, octets: int) -> None:
        """As in Tap."""
        self._loose_octets += octets
        if octets and self._tracer.reads_nothing:
            self.took(octets)

    def sent(self, octets: int) -> None:
        """As in Tap."""
        while octets and self._to_be_sent:
            entry = self._to_be_sent[0]
            taken_octets = min(octets, entry.octets - self._sent_octets)
            self._sent_octets += taken_octets
            octets -= taken_octets
            if self._sent_octets == entry.octets:
                self._send()
        if octets:
            self._tracer.passed(self, SHIM, octets)

    def peer_ended(self, how: Ended) -> None:
        """As in Tap."""
        self._end = self.entry(self._peer, Kind(how.value))
        self._tracer.add(self._end)

    def shim_ended(self, how: Ended) -> None:
        """As in Tap."""
        self._cut_short()
        self._tracer.add(self.entry(SHIM, Kind(how.value)))

    # -- what the events tell

    def heard(self, kind: Kind, text: bytes, octets: int | None, remark: str = "") -> None:
        """The peer has given a command or a reply, so many octets long; None for all that was not accounted for."""
        here_octets = self._loose_octets - self._unread_octets()
        if octets is not None and octets < here_octets:
            self._put(Kind.DROPPED, here_octets - octets)
            here_octets = octets
        self._put(kind, here_octets, text, remark)

    def took(self, octets: int, content: bytes = b"") -> None:
        """The peer has given octets that are not said."""
        self._loose_octets -= octets
        self._tracer.passed(self, self._peer, octets, content)

    def gives(self, kind: Kind, text: bytes, octets: int, remark: str = "") -> None:
        """The peer is to be given a command or a reply, so many octets long, once it takes them."""
        self._to_be_sent.append(self.entry(SHIM, kind, octets, text, remark))

    # -- the end

    def finish(self) -> None:
        """Account for what became neither a command nor a reply, and for what was written in part."""
        self._cut_short()
        if self._loose_octets:
            self._put(Kind.DROPPED, self._loose_octets)

    def let_go(self) -> None:
        """Nothing more comes from the leg."""
        del self._tracer, self._unread_octets

    def _put(self, kind: Kind, octets: int, text: bytes = b"", remark: str = "") -> None:
        self._loose_octets -= octets
        self._tracer.add(self.entry(self._peer, kind, octets, text, remark), self._end)

    def _send(self) -> None:
        """The first of what is to be sent has gone, as far as it ever will."""
        entry = self._to_be_sent.popleft()
        entry.seconds, entry.octets, self._sent_octets = self._tracer.seconds, self._sent_octets, 0
        self._tracer.add(entry)

    def _cut_short(self) -> None:
        if self._sent_octets:
            self._to_be_sent[0].remark = IN_PART
            self._send()
        self._to_be_sent.clear()


def _shortened(text: bytes) -> bytes:
    text = text.removesuffix(b"\r\n")
    return text if len(text) <= TEXT_OCTETS else text[:TEXT_OCTETS] + b" ..."


def _word(value: int | str | bytes) -> bytes:
    """A detail of a repair, in quotes if it is not one word."""
    octets = value.removesuffix(b"\r\n") if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")
    return b'"%s"' % octets if not octets or b" " in octets else octets
