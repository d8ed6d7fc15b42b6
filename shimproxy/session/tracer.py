"""The tracer of a session, which notes what goes over both legs while that goes on; trace.py has what becomes of it.

Invariants:

1. What was said comes from the session's events, and so without anything that belongs to AUTH; the legs give counts,
   FIN and RST.
2. The octets of all entries, with those that were left out, are what the session's record counts on each leg.
3. Mail data are counts, one entry for what passes in a direction between two other entries; their first octets are
   kept only where the operator has said so.
4. It is bounded: a note's text, the mail data kept, and the number of notes (trace.py).

A session that is not traced has no Tracer, and its legs no tap: that is all it costs then. With one, a mail costs a
fifth more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.tap import Ended
from shimproxy.session.trace import (
    MOST_NOTES,
    RECEIVER,
    SENDER,
    SHIM,
    TEXT_OCTETS,
    Entry,
    Kind,
    Note,
    Passing,
    TraceNotes,
    Way,
    kept_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.leg import Leg
    from shimproxy.session.record import Repair
    from shimproxy.smtp.command import CommandReader
    from shimproxy.smtp.reply import ReplyReader

MAIL_DATA_OCTETS: Final = 64 * 1024
"""How much mail data of a session is kept, where they are."""
IN_PART: Final = "written in part"
TO_THE_END: Final = "to the end"
_LONG_OCTETS: Final = TEXT_OCTETS + len(b"\r\n")
# From their class these take ten times as long, in Python 3.11.
_CONNECTION: Final = Kind.CONNECTION
_COMMAND: Final = Kind.COMMAND
_REPLY: Final = Kind.REPLY
_TLS: Final = Kind.TLS
_FIN: Final = Kind.FIN
_RST: Final = Kind.RST
_REPAIR: Final = Kind.REPAIR
_SEEN: Final = Kind.SEEN
_PEERS_FIN: Final = Ended.FIN


@attrs.define(eq=False)
class Tracer:
    """Notes what is to be in the trace of a session while that goes on."""

    keeps_mail_data: bool = False
    clock: Callable[[], float] = trio.current_time
    """Read for each note: time.perf_counter takes a fifth of the time, but is not the clock of a test."""
    notes: TraceNotes = attrs.field(init=False)
    sender: SenderTrace = attrs.field(init=False)
    receiver: ReceiverTrace = attrs.field(init=False)
    """The receiver leg that is in use."""
    passing: Kind = Kind.MAIL_DATA
    """What it is that passes without being said."""
    receivers: dict[Leg, ReceiverTrace] = attrs.field(factory=dict)
    """The receiver legs that are traced, each with its part."""
    _connections: int = 0
    """How many there were to the receiver."""
    _mail_data_octets: int = 0

    def __attrs_post_init__(self) -> None:
        self.notes = TraceNotes(self.clock())

    @property
    def seconds(self) -> float:
        """Since the session began."""
        return self.clock() - self.notes.started

    def follow_sender(self, leg: Leg, commands: CommandReader) -> None:
        """Trace the sender leg, whose commands are read here."""
        self.sender = SenderTrace(self, leg, (SENDER, SHIM, 1), _COMMAND, _REPLY, commands=commands)
        leg.tap = self.sender

    def follow_receiver(self, leg: Leg, replies: ReplyReader) -> None:
        """Trace a receiver leg that has just been opened, and whose replies are read here."""
        for earlier, earlier_tap in [*self.receivers.items()]:
            if earlier.closed:  # of a session that is resumed without end, no more is held than is open
                earlier_tap.finish()
                del self.receivers[earlier]
        self._connections += 1
        way = RECEIVER, SHIM, self._connections
        self.receiver = ReceiverTrace(self, leg, way, _REPLY, _COMMAND, replies=replies)
        leg.tap = self.receivers[leg] = self.receiver
        self.receiver.connects(leg.peer)

    def takes(self, kind: Kind, octets: bytes | memoryview, *, ended: bool) -> None:
        """The sender has given mail data, or a part of a chunk; perhaps to the end."""
        self.passing = kind
        passing = self.sender.took(len(octets))
        if self.keeps_mail_data:
            kept = bytes(octets[: MAIL_DATA_OCTETS - self._mail_data_octets])
            self._mail_data_octets += len(kept)
            passing.content += kept
        if ended:
            passing.remark = TO_THE_END

    def has_given_the_end(self) -> None:
        """The receiver has got mail data, or a chunk, to the end."""
        if passing := self.receiver.passed_out:
            passing.remark = TO_THE_END

    def passes_unread(self) -> None:
        """From here on the peers speak TLS with each other."""
        self.passing = _TLS

    def repaired(self, repair: Repair) -> None:
        """A violation was repaired."""
        details = [b"%s=%s" % (name.encode(), _word(value)) for name, value in repair.detail.items()]
        text = kept_of(b" ".join(details))
        kind = _SEEN if repair.observed else _REPAIR
        self.notes.notes.append(Entry(self.seconds, SHIM, SHIM, kind, 0, text, repair.phase, repair.violation))
        self.notes.bound()

    def finish(self) -> None:
        """Account for what is left, as the session is over.

        Nothing more comes from a leg that is closed. It lets go of the trace, so that all of the session is freed now:
        in a circle it would wait for the garbage collector, which stops all sessions, and for longer with each.
        """
        for tap in (self.sender, *self.receivers.values()):
            tap.finish()


@attrs.define(eq=False)
class LegTrace:
    """One leg's part of the trace. A net.tap.Tap; octets that it is told of become notes once it is known what they
    are, and at the latest when the session is over."""

    _tracer: Tracer = attrs.field(repr=False)
    _leg: Leg = attrs.field(repr=False)
    _from_peer: Way
    _said: Kind
    """What the peer says: commands or replies."""
    _given: Kind
    """What it is given."""
    _noted_octets: int = 0
    """Of what the leg has read, how much is in a note."""
    to_be_sent: list[tuple[bytes | None, int, str]] = attrs.field(factory=list)
    """Text, octets and remark of what the peer is to be given, once it takes that; no text of what is to pass without
    being said."""
    _sent_octets: int = 0
    """Of the first one of these."""
    passed_out: Passing | None = None
    """What has passed last to the peer without being said."""
    _end: Note | None = None
    """The peer's FIN or RST; what is understood later came before it."""
    _to_peer: Way = attrs.field(init=False)
    _notes: list[Note | Passing | Entry] = attrs.field(init=False, repr=False)
    _clock: Callable[[], float] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        who, whom, connection = self._from_peer
        self._to_peer = whom, who, connection
        self._notes, self._clock = self._tracer.notes.notes, self._tracer.clock

    # -- what the leg tells

    def skipped(self, octets: int) -> None:
        """As in Tap."""
        self._noted_octets += octets

    def relayed(self, octets: int) -> None:
        """As in Tap."""
        if self._tracer.passing is _TLS:
            self.took(octets)

    def sent(self, octets: int) -> None:
        """As in Tap."""
        to_be_sent = self.to_be_sent
        if len(to_be_sent) == 1 and not self._sent_octets:
            text, whole_octets, remark = to_be_sent[0]
            if whole_octets == octets <= _LONG_OCTETS and text is not None:
                # What the loop does, at once: it is nearly all that is ever sent.
                to_be_sent.clear()
                self._notes.append((self._clock(), self._to_peer, self._given, octets, text, remark))
                return
        while to_be_sent and octets:
            text, whole_octets, remark = to_be_sent[0]
            left_octets = whole_octets - self._sent_octets
            if text is None:
                part_octets = min(octets, left_octets)
                self.passed_out = self._passed(self._to_peer, part_octets)
                self._sent_octets += part_octets
                octets -= part_octets
                if part_octets == left_octets:
                    self._sent_octets = 0
                    del to_be_sent[0]
                continue
            if octets < left_octets:
                self._sent_octets += octets
                return
            octets -= left_octets
            self._sent_octets = 0
            del to_be_sent[0]
            if whole_octets > _LONG_OCTETS:
                text = kept_of(text)
            self._notes.append((self._clock(), self._to_peer, self._given, whole_octets, text, remark))
        if octets:
            self.passed_out = self._passed(self._to_peer, octets)

    def peer_ended(self, how: Ended) -> None:
        """As in Tap."""
        self._end = self._note(self._from_peer, _FIN if how is _PEERS_FIN else _RST)

    def shim_ended(self, how: Ended) -> None:
        """As in Tap."""
        self._cut_short()
        self._note(self._to_peer, _FIN if how is _PEERS_FIN else _RST)

    # -- what the events tell

    def noted(self, text: bytes, octets: int | None, here_octets: int, remark: str) -> None:
        """Note what the peer has given, of which so many octets are to be accounted for."""
        if octets is not None and octets < here_octets:
            self._put(Kind.DROPPED, here_octets - octets)
            here_octets = octets
        self._put(self._said, here_octets, text, remark)

    def took(self, octets: int) -> Passing:
        """The peer has given octets that are not said."""
        self._noted_octets += octets
        return self._passed(self._from_peer, octets)

    def gives(self, text: bytes, octets: int, remark: str = "") -> None:
        """The peer is to be given a command or a reply, so many octets long, once it takes them."""
        self.to_be_sent.append((text, octets, remark))

    def passes(self, octets: int) -> None:
        """The peer is to be given that much without its being said, among what is."""
        self.to_be_sent.append((None, octets, ""))

    def connects(self, whom: str) -> None:
        """The leg was opened."""
        self._note(self._to_peer, _CONNECTION, text=whom.encode("utf-8", "backslashreplace"))

    # -- the end

    def finish(self) -> None:
        """Account for what became neither a command nor a reply, and for what was written in part.

        See Tracer.finish about a leg that is closed.
        """
        self._cut_short()
        if loose_octets := self._leg.octets_in - self._noted_octets:
            self._put(Kind.DROPPED, loose_octets)
        if self._leg.closed:
            del self._tracer, self._leg

    # -- notes

    def _note(self, way: Way, kind: Kind, octets: int = 0, text: bytes = b"", remark: str = "") -> Note:
        note = self._clock(), way, kind, octets, text, remark
        self._notes.append(note)
        self._tracer.notes.bound()
        return note

    def _put(self, kind: Kind, octets: int, text: bytes = b"", remark: str = "") -> None:
        """Note what has come from the peer."""
        self._noted_octets += octets
        text = kept_of(text)
        if self._end is None:
            self._note(self._from_peer, kind, octets, text, remark)
        else:
            self._tracer.notes.insert((self._clock(), self._from_peer, kind, octets, text, remark), self._end)

    def _passed(self, way: Way, octets: int) -> Passing:
        """So many octets went over the leg without being said; the note that has what did since the last other one."""
        moment, kind = self._clock(), self._tracer.passing
        passing = self._passing(way)
        if passing is None or passing.kind is not kind:
            passing = Passing(moment, way, kind)
            self._notes.append(passing)
            self._tracer.notes.bound()
        passing.octets += octets
        passing.blocks += 1
        passing.until = moment
        return passing

    def _passing(self, way: Way) -> Passing | None:
        """The last note of what passes in a direction, if all notes since then are of what passes in others."""
        for note in reversed(self._notes):
            if not isinstance(note, Passing):
                break
            if note.way is way:
                return note
        return None

    def _cut_short(self) -> None:
        if self._sent_octets:
            text, _, _ = self.to_be_sent[0]
            if text is not None:
                self._note(self._to_peer, self._given, self._sent_octets, kept_of(text), IN_PART)
            self._sent_octets = 0
        self.to_be_sent.clear()


@attrs.define(eq=False)
class SenderTrace(LegTrace):
    """The sender leg's part."""

    _commands: CommandReader = attrs.field(repr=False, kw_only=True)

    def heard(self, text: bytes, octets: int | None) -> None:
        """It has given a command, so many octets long; None for all that was not accounted for."""
        here_octets = self._leg.octets_in - self._noted_octets - len(self._commands.ahead)
        if octets != here_octets or octets > _LONG_OCTETS or self._end is not None:
            self.noted(text, octets, here_octets, "")
            return
        # What `noted` does, at once: it is nearly all that is ever heard.
        self._noted_octets += octets
        notes = self._notes
        notes.append((self._clock(), self._from_peer, _COMMAND, octets, text, ""))
        if len(notes) > MOST_NOTES:
            self._tracer.notes.bound()


@attrs.define(eq=False)
class ReceiverTrace(LegTrace):
    """A receiver leg's part."""

    _replies: ReplyReader = attrs.field(repr=False, kw_only=True)

    def heard(self, text: bytes, octets: int | None, remark: str) -> None:
        """It has given a reply; as SenderTrace."""
        here_octets = self._leg.octets_in - self._noted_octets - len(self._replies.unread)
        if octets != here_octets or octets > _LONG_OCTETS or self._end is not None:
            self.noted(text, octets, here_octets, remark)
            return
        self._noted_octets += octets
        notes = self._notes
        notes.append((self._clock(), self._from_peer, _REPLY, octets, text, remark))
        if len(notes) > MOST_NOTES:
            self._tracer.notes.bound()


def _word(value: int | str | bytes) -> bytes:
    """A detail of a repair, in quotes if it is not one word."""
    octets = value.removesuffix(b"\r\n") if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")
    return b'"%s"' % octets if not octets or b" " in octets else octets
