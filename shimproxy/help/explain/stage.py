"""A session in memory: sockets without a kernel, and a clock that only the script moves.

`Stage` holds one real session between two `MemorySocket`s. A script feeds octets, FIN or RST to either, settles, and
looks at what came out on both. Nothing here waits for real time, and nothing leaves the process.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, cast

import attrs
import trio
import trio.testing

from shimproxy.net.block import Block
from shimproxy.net.coroutines import CoroutineRunner
from shimproxy.net.driver import Standing
from shimproxy.net.errors import DialFailed
from shimproxy.net.leg import Leg
from shimproxy.net.loops import Loops
from shimproxy.net.origin import Origin
from shimproxy.net.watch import Watch, Watchdog
from shimproxy.session.connection_origin import ConnectionOrigin
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.lingering_close import BackgroundCloser
from shimproxy.session.mail_account import MailAccount
from shimproxy.session.policy import Policy
from shimproxy.session.record import Repair, SessionRecord
from shimproxy.session.sender import Sender
from shimproxy.session.session import Session
from shimproxy.session.session_events import SessionEvents
from shimproxy.session.tracer import Tracer

if TYPE_CHECKING:
    from shimproxy.net.driver import Watched
    from shimproxy.net.origin import Party
    from shimproxy.net.receivers import Route
    from shimproxy.session.connection_origin import OriginPolicy
    from shimproxy.session.mail_account import MailSummary
    from shimproxy.smtp.catalogue import Violation

AMPLE_OCTETS = 1 << 40


@attrs.define(eq=False)
class MemorySocket:
    """shimproxy's end of a connection; the script is the other end."""

    leg: Leg | None = None
    written: bytearray = attrs.field(factory=bytearray)
    """All that shimproxy wrote."""
    writes: int = 0
    """In how many calls shimproxy wrote that."""
    room_octets: int = AMPLE_OCTETS
    """How much the peer still takes."""
    got_fin: bool = False
    """Whether shimproxy half-closed or closed it."""
    got_rst: bool = False
    """Whether shimproxy reset it."""
    closed: bool = False
    unacknowledged_octets: int = 0
    """How much of what was written the peer's host has not acknowledged."""
    fails_to_take: bool = False
    """Whether writing fails from now on, as after a reset that nobody has read of yet."""
    acknowledges: bool = True
    """Whether the peer's host acknowledges what comes from now on."""
    _waiting: bytearray = attrs.field(factory=bytearray)
    _fin: bool = False
    _rst: bool = False
    _linger_is_reset: bool = False

    # -- the peer's side

    def feed(self, octets: bytes) -> None:
        """The peer sends octets."""
        self._waiting += octets
        self._notice(select.EPOLLIN)

    def holds(self, octets: bytes) -> None:
        """The peer has sent octets, of which no event tells yet."""
        self._waiting += octets

    def feed_fin(self) -> None:
        """The peer sends FIN."""
        self._fin = True
        self._notice(select.EPOLLIN | select.EPOLLRDHUP)

    def feed_rst(self) -> None:
        """The peer sends RST; what it sent before can still be read, as on Linux."""
        self._rst = True
        self._notice(select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR)

    def stand_for_unix(self) -> None:
        """From now on it is a socket in the file system, which knows no reset."""
        assert self.leg
        self.leg.resettable = False

    def take(self, octets: int) -> None:
        """The peer makes room for more."""
        self.room_octets += octets
        self._notice(select.EPOLLOUT)

    def _notice(self, events: int) -> None:
        if self.leg is not None and not self.closed:
            self.leg.notice(events)

    @property
    def is_over(self) -> bool:
        """Whether the peer acknowledges nothing more."""
        return self._rst or (self._fin and self.got_fin and not self.unacknowledged_octets)

    @property
    def unread_octets(self) -> int:
        """How much of what the peer sent shimproxy has not read."""
        return len(self._waiting)

    # -- what a leg calls

    def recv(self, size_octets: int, flags: int = 0) -> bytes:
        """As a socket that does not block. Raises BlockingIOError, ConnectionResetError."""
        octets = bytes(self._waiting[:size_octets])
        if not octets:
            if self._rst:
                raise ConnectionResetError
            if not self._fin:
                raise BlockingIOError
        if flags != socket.MSG_PEEK:
            del self._waiting[:size_octets]
        return octets

    def recv_into(self, buffer: memoryview, size_octets: int) -> int:
        """As `recv`, into a buffer; how many octets."""
        octets = self.recv(size_octets)
        buffer[: len(octets)] = octets
        return len(octets)

    def send(self, octets: bytes | memoryview) -> int:
        """As a socket with `room_octets` left; how many it took. Raises BlockingIOError, BrokenPipeError."""
        assert not self.got_fin, "written to after FIN"
        if self._rst or self.fails_to_take:
            raise BrokenPipeError
        taken = bytes(octets[: self.room_octets])
        if octets and not taken:
            raise BlockingIOError
        self.room_octets -= len(taken)
        self.writes += 1
        self.written += taken
        if not self.acknowledges:
            self.unacknowledged_octets += len(taken)
        return len(taken)

    def shutdown(self, _how: int) -> None:
        """shimproxy sends FIN."""
        self.got_fin = True

    def setsockopt(self, _level: int, option: int, _value: object) -> None:
        """Only SO_LINGER means something here: the close that follows is a reset."""
        if option == socket.SO_LINGER:
            self._linger_is_reset = True

    def close(self) -> None:
        """shimproxy closes it, or resets it where SO_LINGER was set."""
        self.closed = True
        self.got_rst = self._linger_is_reset
        self.got_fin = not self.got_rst

    def getsockname(self) -> tuple[str, int]:
        """The address that the sender has connected to."""
        return ("192.0.2.3", 25)

    def fileno(self) -> int:
        """No descriptor of any kind."""
        return -1


@attrs.define(eq=False)
class MemoryDriver:
    """Events come from the sockets themselves."""

    block: Block = attrs.field(factory=Block)

    def add(self, leg: Watched) -> None:
        """The leg is told of what its socket meets."""
        cast("MemorySocket", leg.sock).leg = cast("Leg", leg)

    def tell_when_writable(self, leg: Watched, *, tell: bool) -> None:
        """Tell the leg at once if its peer takes more."""
        if tell and cast("MemorySocket", leg.sock).room_octets:
            leg.notice(select.EPOLLOUT)

    def remove(self, leg: Watched) -> None:
        """Nothing is held of it."""

    def unacknowledged_octets(self, leg: Watched) -> int:
        """How much of what was written the peer's host has not acknowledged."""
        return cast("MemorySocket", leg.sock).unacknowledged_octets

    def standing(self, leg: Watched) -> Standing:
        """How far its connection has come."""
        sock = cast("MemorySocket", leg.sock)
        return Standing(leg.octets_out - sock.unacknowledged_octets, leg.ended is not None, sock.is_over)


@attrs.define(eq=False)
class MemoryObserver:
    """An observer that keeps what it is told."""

    wants_dialogue: bool = True
    dialogue: list[tuple[str, bytes]] = attrs.field(factory=list)
    repairs: list[Repair] = attrs.field(factory=list)
    records: list[SessionRecord] = attrs.field(factory=list)

    def said(self, record: SessionRecord, who: str, octets: bytes) -> None:
        """Keep what was said."""
        self.dialogue.append((who, octets))

    def repaired(self, record: SessionRecord, repair: Repair) -> None:
        """Keep the repair."""
        self.repairs.append(repair)

    def ended(self, record: SessionRecord) -> None:
        """Keep the record of a session that is over."""
        self.records.append(record)

    def failed(self, record: SessionRecord, error: BaseException) -> None:
        """Raise the error: it is shimproxy's own."""
        raise error


class LoopOfOne(Loops):
    """As if the sender were shimproxy itself."""

    @property
    def some_wait(self) -> bool:
        """One does."""
        return True

    def has_come_back(self, _: socket.socket) -> bool:
        """That one has."""
        return True


@attrs.define(eq=False)
class MemoryRoute:
    """The way to the receiver of a stage."""

    stage: Stage
    driver: MemoryDriver
    has_more: bool = False
    blamed: int = 0
    """How often the receiver was said to be of no use, to others too."""
    tells_sender: bool = False
    receiver: str = "192.0.2.2:25"
    sends_header: bool = False
    goals: list[Party] = attrs.field(factory=list)
    origin: Origin = attrs.field(factory=lambda: Origin(("192.0.2.1", 1), ("192.0.2.3", 25)))

    async def dial(self, watch: Watch, _connect_seconds: float) -> Leg:
        """Another connection to the script's receiver. Raises DialFailed."""
        stage = self.stage
        if not stage.reachable:
            raise DialFailed("192.0.2.2:25: Connection refused")
        if stage.receiver.leg is not None:
            stage.earlier_receivers.append(stage.receiver)
            stage.receiver = MemorySocket()
        sock = cast("socket.socket", stage.receiver)
        return Leg("receiver", sock, self.driver, watch, "192.0.2.2:25", never_short=stage.never_short)

    @property
    def loops(self) -> Loops:
        """What is known of connections that come back."""
        return self.stage.loops

    def waits_for_greeting(self, leg: Leg) -> None:
        """It comes back nowhere."""

    def begin_anew(self) -> None:
        """There is but one receiver."""

    go_back = begin_anew

    def was_of_no_use(self, *, told: bool = False) -> None:
        """Count a receiver that is held against all senders."""
        self.blamed += not (told or self.tells_sender)

    def was_of_use(self) -> None:
        """There is but one receiver."""

    def note_failure(self, _kind: str) -> None:
        """Nothing is counted."""

    def line_up(self, _watch: Watch) -> None:
        """There is always room."""


@attrs.define(eq=False)
class Stage:
    """One session and its two peers, which a script plays."""

    nursery: trio.Nursery
    clock: trio.testing.MockClock
    deadlines: Deadlines = attrs.field(factory=Deadlines)
    limits: Limits = attrs.field(factory=Limits)
    policy: Policy = attrs.field(factory=Policy)
    reachable: bool = True
    never_short: bool = False
    """Whether the legs never say that a read came back short, as legs with TLS don't."""
    sender: MemorySocket = attrs.field(factory=MemorySocket)
    receiver: MemorySocket = attrs.field(factory=MemorySocket)
    earlier_receivers: list[MemorySocket] = attrs.field(factory=list)
    """Those of the connections before, where it was dialled more than once."""
    account: MemoryObserver = attrs.field(factory=MemoryObserver)
    tells_mails: bool = True
    mails: list[MailSummary] = attrs.field(factory=list)
    """What became of each mail."""
    origin_policy: OriginPolicy | None = None
    """What has to be found out before the greeting: a PROXY header, unless it is where the sender wanted to go."""
    loops: Loops = attrs.field(factory=Loops)
    tracer: Tracer | None = attrs.field(factory=lambda: Tracer(keeps_mail_data=True))
    watchdog: Watchdog | None = None
    """Whose watches it has, if it is not alone: it runs already, and so does the `runner`."""
    session: Session = attrs.field(init=False)
    runner: CoroutineRunner = attrs.field(factory=CoroutineRunner)
    """Steps the session."""

    async def start(self) -> None:
        """Begin the session, up to its first wait."""
        watchdog, driver = self.watchdog, MemoryDriver()
        if watchdog is None:
            watchdog = Watchdog()
            await self.nursery.start(watchdog.run)
            await self.nursery.start(self.runner.run, self.nursery)
        sock = cast("socket.socket", self.sender)
        leg = Leg("sender", sock, driver, watchdog.watch(), "192.0.2.1:1", never_short=self.never_short)
        record = SessionRecord("example", "192.0.2.1:1")
        policy = attrs.evolve(self.policy, deadlines=self.deadlines, limits=self.limits)
        account = MailAccount(record, self.mails.append, policy.lmtp) if self.tells_mails else None
        events = SessionEvents(record, self.account, tracer=self.tracer, mails=account)
        sender = Sender(leg, policy.command_reader(), events, self.deadlines, self.limits.farewell_octets)

        route = cast("Route", MemoryRoute(self, driver))
        origin = None
        if origin_policy := self.origin_policy:
            headed = not origin_policy.original
            origin = ConnectionOrigin(origin_policy, ("192.0.2.1", 1), headed, route, events, lambda _: None)
        self.session = Session(sender, events, policy, route, BackgroundCloser(self.nursery, watchdog), origin)
        leg.watch.run(self.session.run(), self.runner, "session")
        await self.settle()

    async def settle(self) -> None:
        """Let the session go on until it waits. What is fed to it from then on lies there at once at the next call."""
        self.runner.release()
        await trio.testing.wait_all_tasks_blocked()
        self.runner.held = True

    async def feed(self, sock: MemorySocket, octets: bytes, piece_octets: int = 0) -> None:
        """Feed octets in pieces (whole if 0), settling after each."""
        step = piece_octets or max(1, len(octets))
        for start in range(0, len(octets), step):
            sock.feed(octets[start : start + step])
            await self.settle()

    async def pass_time(self, seconds: float) -> None:
        """Let that much time pass, a watchdog's tick at a time at most."""
        self.clock.jump(seconds)
        await self.settle()
        self.clock.jump(2.0)  # deadlines are up to two ticks late
        await self.settle()

    @property
    def over(self) -> bool:
        """Whether the session has ended and been recorded."""
        return bool(self.account.records)

    @property
    def repaired(self) -> list[Violation]:
        """The violations that were repaired, in order."""
        return [repair.violation for repair in self.account.repairs]

    @property
    def record(self) -> SessionRecord:
        """The session's record, complete once it is over."""
        return self.session.events.record
