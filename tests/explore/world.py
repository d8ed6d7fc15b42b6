"""One dialogue: shimproxy between a sender and its receivers, until every leg is closed and every task has ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.net.errors import DialFailed
from shimproxy.net.leg import Leg
from shimproxy.net.loops import Loops
from shimproxy.net.origin import Origin
from shimproxy.net.turnstile import Busy, Turnstile
from shimproxy.net.watch import Watch, Watchdog
from shimproxy.session.lingering_close import BackgroundCloser
from shimproxy.session.record import Repair, SessionRecord
from shimproxy.session.sender import Sender
from shimproxy.session.session import Session
from shimproxy.session.session_events import SessionEvents
from shimproxy.session.tracer import Tracer
from tests.explore import stepper
from tests.explore.faults import BEFORE
from tests.explore.kernel import AMPLE_OCTETS, Driver, Event, Sock
from tests.explore.peers import Peer, ReceiverPeer, Said, SenderPeer
from tests.explore.scripts import Script, ScriptedReceiver, ScriptedSender

if TYPE_CHECKING:
    from tests.explore.cases import Case
    from tests.explore.peers import Plan

_MOST_ROUNDS: Final = 60
"""Deadlines that may pass before a dialogue is over."""
_MOST_STEPS: Final = 100_000


@attrs.frozen
class Mode:
    """How octets are cut into segments, and when they arrive."""

    name: str
    sender_piece: int = AMPLE_OCTETS
    """How much the sender writes at a time."""
    receiver_piece: int = AMPLE_OCTETS
    prompt: bool = False
    """Whether the peers act as soon as something arrives, while shimproxy's task runs; else when it waits."""
    segment_octets: int = 0
    """If not 0, what shimproxy writes is under way for a while, and arrives in segments of so many octets."""
    window_octets: int = AMPLE_OCTETS
    """How much a peer's host takes that its program has not read."""
    never_short: bool = False
    """Whether a leg that came to its end of input is read again, as with TLS."""
    greedy: bool = False
    """Whether the sender waits for no reply."""
    receiver_first: bool = False


MODES: Final = (
    Mode("calm"),
    Mode("prompt", prompt=True),
    Mode("single", sender_piece=1, receiver_piece=1),
    Mode("far", segment_octets=13),
    Mode("narrow", window_octets=7, sender_piece=3, receiver_first=True),
    Mode("never-short", never_short=True, sender_piece=3, prompt=True),
    Mode("greedy", greedy=True),
    Mode("far-pieces", segment_octets=17, sender_piece=4, receiver_piece=3, receiver_first=True),
)


@attrs.define(eq=False)
class Account:
    """An observer that keeps what it is told."""

    wants_dialogue: bool = False
    repairs: list[Repair] = attrs.field(factory=list)
    records: list[SessionRecord] = attrs.field(factory=list)
    failures: list[BaseException] = attrs.field(factory=list)

    def said(self, record: SessionRecord, who: str, octets: bytes) -> None:
        pass

    def repaired(self, record: SessionRecord, repair: Repair) -> None:
        self.repairs.append(repair)

    def ended(self, record: SessionRecord) -> None:
        self.records.append(record)

    def failed(self, record: SessionRecord, error: BaseException) -> None:
        self.failures.append(error)


class Alone(Turnstile):
    """A turnstile for the only session."""

    def admits(self, watch: Busy) -> bool:
        return True


class World:
    """One dialogue and all that is known of it."""

    def __init__(
        self,
        case: Case,
        mode: Mode,
        sender_plans: list[Plan],
        receiver_plans: dict[int, list[Plan]],
        focus: tuple[int | None, int | None] = (None, None),
        *,
        tracing: bool = False,
    ) -> None:
        """`focus` is around which octets the sender and the receivers write in pieces; None is everywhere."""
        self.case = case
        self.mode = mode
        self.log: list[Event] = []
        self.errors: list[str] = []
        self.said: dict[bytes, Said] = {}
        self.receivers: list[ReceiverPeer] = []
        self.account = Account()
        self.rounds = 0
        self.loop = stepper.Loop()
        self._receiver_plans = receiver_plans
        self._focus = focus
        self._driver = Driver()
        self._dog = Watchdog(turnstile=Alone())
        self._dog.now = self._dog.tick_seconds
        self._next_dial = 0
        stepper.use(self.loop)
        sock = self._sock("S")
        piece = AMPLE_OCTETS if mode.greedy else mode.sender_piece
        self._script = Script(case.script) if case.script else None
        kind = ScriptedSender if case.script else SenderPeer
        self.sender = kind(sock, piece, sender_plans, case, greedy=mode.greedy)
        self.sender.focus = focus[0]
        self.peers: list[Peer] = [self.sender]
        """All of them, in the order in which they act."""
        self._attend(self.sender)
        watch = self._dog.watch()
        leg = Leg("sender", sock, self._driver, watch, "192.0.2.1:1", never_short=mode.never_short)  # type: ignore[arg-type]
        tracer = Tracer(keeps_mail_data=True, clock=stepper.now) if tracing else None
        events = SessionEvents(SessionRecord("dialogue", "192.0.2.1:1"), self.account, tracer=tracer)
        policy = case.policy
        route: Any = Route(self)
        closer: Any = BackgroundCloser(self.loop, self._dog)  # type: ignore[arg-type]
        self.session = Session(
            Sender(leg, policy.command_reader(), events, policy.deadlines, policy.limits.farewell_octets),
            events,
            policy,
            route,
            closer,
        )

    def _sock(self, who: str) -> Sock:
        mode = self.mode
        return Sock(who, self._driver, self.log, far=mode.segment_octets > 0, window_octets=mode.window_octets)

    def _attend(self, peer: Peer) -> None:
        if self.mode.prompt:

            def act() -> None:
                while peer.act():
                    pass

            peer.sock.on_arrival = act

    def dial(self, watch: Watch) -> Leg:
        """The way to the next receiver. Raises DialFailed if there is none."""
        case, number = self.case, self._next_dial
        self._next_dial += 1
        if not case.reachable or (case.fails_over and number >= len(case.answers)):
            raise DialFailed("192.0.2.2:25: Connection refused")
        sock = self._sock(f"R{len(self.receivers)}")
        answers = case.answers[min(number, len(case.answers) - 1)]
        plans = self._receiver_plans.get(number, [])
        kind = ScriptedReceiver if case.script else ReceiverPeer
        receiver = kind(sock, self.mode.receiver_piece, plans, answers, self.said)
        receiver.focus = self._focus[1]
        self.receivers.append(receiver)
        if self.mode.receiver_first:
            self.peers.insert(len(self.peers) - 1, receiver)
        else:
            self.peers.append(receiver)
        self.log.append(Event("DIALLED", sock.who))
        self._attend(receiver)
        never_short = self.mode.never_short
        return Leg("receiver", sock, self._driver, watch, "192.0.2.2:25", never_short=never_short)  # type: ignore[arg-type]

    # -- what is known of it once it is over

    @property
    def repair_names(self) -> list[str]:
        """The violations that the observer was told of."""
        return [str(repair.violation) for repair in self.account.repairs]

    @property
    def faults(self) -> list[tuple[str, str]]:
        """Who has done what, of what was planned."""
        return [(peer.sock.who, plan.fault.name) for peer in self.peers for plan in peer.plans if plan.fired]

    @property
    def receiver_speaks(self) -> bool:
        """Whether a receiver has spoken out of turn, so that its replies may have been taken for others."""
        return self._script is not None or any(
            plan.fired and plan.fault.speaks for peer in self.receivers for plan in peer.plans
        )

    @property
    def sender_speaks(self) -> bool:
        """Whether the sender has said something that it should not."""
        return self._script is not None or any(plan.fired and plan.fault.speaks for plan in self.sender.plans)

    @property
    def is_regular(self) -> bool:
        """Whether nobody has broken a rule."""
        fired = [plan.fault for peer in self.peers for plan in peer.plans if plan.fired]
        return self._script is None and not self.mode.greedy and all(fault.harmless for fault in fired)

    @property
    def octets_written(self) -> dict[str, int]:
        """How many octets shimproxy has written to each connection, whatever became of them."""
        counts = {peer.sock.who: 0 for peer in self.peers}
        for event in self.log:
            if event.what == "SHIM_WROTE":
                counts[event.who] += len(event.octets)
        return counts

    # -- how it goes on

    def run(self) -> None:
        """Hold the dialogue."""
        loop, poll = self.loop, self._driver.poll
        self.session.sender.leg.watch.run(self.session.run(), loop, "session")
        loop.run_until_parked(poll)
        while True:
            if self._advance():
                loop.run_until_parked(poll)
            elif not loop.names or not self._pass_time():
                break
            if loop.steps > _MOST_STEPS:
                self.errors.append("guarantee 8: shimproxy is always busy")
                break
        if loop.names:
            self.errors.append(f"guarantee 8: not over: {', '.join(loop.names)}")
        loop.close()

    def _advance(self) -> bool:
        """Let one thing happen outside shimproxy; whether there was anything."""
        self._look_for_drain()
        return self._peers_act() or (self._script is not None and self._script.step(self))

    def _peers_act(self) -> bool:
        if self.mode.segment_octets:
            for peer in self.peers:
                if peer.sock.deliver(self.mode.segment_octets):
                    while peer.act():
                        pass
                    return True
        return any(peer.act() for peer in self.peers)

    def _look_for_drain(self) -> None:
        """Guarantee 7: while a receiver wants nothing more, whatever the sender sends is taken at once."""
        sock = self.sender.sock
        if not sock.inbox:
            return
        receivers = self.receivers
        if (
            receivers
            and receivers[-1].sock.shim_closed
            and self.sender.requests.mode == "MAIL"
            and not (sock.shim_closed or sock.shim_fin)
        ):
            self.errors.append("guarantee 7: what the sender has sent is not drained")

    def _look_for_deafness(self) -> None:
        """Guarantee 8: while the sender owes nothing and is idle, or pauses in mail data, its receiver is heard."""
        sender, requests = self.sender, self.sender.requests
        if sender.deaf or requests.mode not in ("LINE", "MAIL") or len(sender.replies.found) < 1 + requests.due:
            return
        sock = self.receivers[-1].sock if self.receivers else None
        if (
            sock
            and sock.leg
            and sock.has_something
            and not (sock.leg.ended or sock.shim_closed or sender.sock.shim_fin)
        ):
            self.errors.append("guarantee 8: nobody hears a receiver while its sender is idle")

    def wait(self, seconds: float) -> None:
        """Let so many seconds pass, and as many more as a deadline may be late."""
        until = self.loop.now + seconds + 2.0
        self._let_peers_act()
        while (expiry := self._next_expiry()) <= until:
            self._let_pass(expiry)
            self._let_peers_act()
        self._let_pass(until)

    def _let_peers_act(self) -> None:
        while self._peers_act():
            self.loop.run_until_parked(self._driver.poll)

    def _next_expiry(self) -> float:
        deadline = min((watch.deadline for watch in self._dog.watches if watch._waiting), default=math.inf)
        return max(math.floor(deadline), math.floor(self.loop.now)) + 1.0 if deadline < math.inf else math.inf

    def _let_pass(self, until: float) -> None:
        self._look_for_deafness()
        self.log.append(Event("TIME", "", unread_octets=int(until - self.loop.now)))
        self.loop.pass_time(self._dog, until)
        self.loop.run_until_parked(self._driver.poll)

    def _pass_time(self) -> bool:
        """Let time pass up to the next deadline, or to just before it for a peer that has paused; whether any can."""
        expiry = self._next_expiry()
        paused = [peer for peer in self.peers if peer.paused]
        if expiry == math.inf or self.rounds >= _MOST_ROUNDS:
            if paused and expiry == math.inf:
                paused[0].paused = ""
                return True
            return False
        self.rounds += 1
        if paused and paused[0].paused == BEFORE:
            paused[0].paused = ""
            self._let_pass(max(self.loop.now, expiry - 2.0))
        else:
            for peer in paused:
                peer.paused = ""
            self._let_pass(expiry)
        return True


@attrs.define(eq=False)
class Route:
    """As net.receivers.Route: one receiver for ever, or several of which each is tried once."""

    world: World
    tells_sender: bool = False
    sends_header: bool = False
    origin: Origin = attrs.field(factory=lambda: Origin(("192.0.2.1", 1), ("192.0.2.3", 25)))
    loops: Loops = attrs.field(factory=Loops)

    async def dial(self, watch: Watch, _connect_seconds: float) -> Leg:
        return self.world.dial(watch)

    @property
    def has_more(self) -> bool:
        return self.world.case.fails_over and self.world._next_dial < len(self.world.case.answers)

    def begin_anew(self) -> None:
        if self.world.case.fails_over:
            self.world._next_dial = 0

    def go_back(self) -> None:
        if self.world.case.fails_over:
            self.world._next_dial -= 1

    def waits_for_greeting(self, leg: Leg) -> None:
        """It comes back nowhere."""

    def was_of_no_use(self, *, told: bool = False) -> None:
        """Others are not asked here."""

    def was_of_use(self) -> None:
        """Nor here."""

    def note_failure(self, _kind: str) -> None:
        """Nothing is counted."""

    def line_up(self, _watch: Watch) -> None:
        """There is always room."""

    @property
    def receiver(self) -> str:
        return "192.0.2.2:25"
