"""The receivers that a listener's sessions can go to: in which order, by which address, and which are left alone.

Invariants:

1. A session tries each receiver once, in the order of preference or from another one on each time.
2. A place that did not answer, or whose receiver was of no use, is the last to be tried for a while (resting.py); never
   is nothing tried at all.
3. A PROXY header goes out in one write, before anything else (proxy-protocol.txt section 2).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net import proxy_header
from shimproxy.net.address import Address, ip_address
from shimproxy.net.balance import REST_SECONDS, Balance
from shimproxy.net.dial import dial
from shimproxy.net.errors import DialFailed, SenderUnusable
from shimproxy.net.loops import Loops
from shimproxy.net.origin import NOBODY, Origin
from shimproxy.net.places import Places
from shimproxy.net.receiver_state import ReceiverStates
from shimproxy.net.resting import Resting
from shimproxy.net.source import ANYWHERE, Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.net.driver import Readiness
    from shimproxy.net.leg import Leg
    from shimproxy.net.origin import OwnLegs, Party
    from shimproxy.net.places import Place
    from shimproxy.net.receiver_state import PlaceInLine, ReceiverState
    from shimproxy.net.watch import Watch

_ALL_DRAINED: Final = "an operator drains every receiver: shimproxy receivers ready NAME ends that"
_DRAINED: Final = "an operator has begun to drain it: shimproxy receivers ready NAME ends that"


@attrs.define(eq=False, kw_only=True)
class Receivers:
    """The receivers of a listener's sessions; none where each session knows its own."""

    driver: Readiness
    places: Sequence[Places] = ()
    balance: Balance = Balance.FIRST
    rest_seconds: float = REST_SECONDS
    """For how long a place that was of no use is left alone."""
    source: Source = ANYWHERE
    spoofs: bool = False
    """Whether legs leave from the sender's own address."""
    header: proxy_header.Version | None = None
    """The PROXY header that they begin with."""
    own_legs: OwnLegs | None = None
    """Where they are noted, if connections may come back."""
    loops: Loops = attrs.field(factory=Loops)
    """Of those that every session has in common, or of those that each sender chose."""
    states: ReceiverStates = attrs.field(factory=ReceiverStates)
    """Those of the receivers, of other listeners too."""
    resting: Resting = attrs.field(init=False)
    _turn: int = 0

    def __attrs_post_init__(self) -> None:
        self.resting = Resting(self.rest_seconds)

    def route(self) -> Route:
        """The way of a new session."""
        return Route(self)

    def in_order(self, origin: Origin) -> list[Places]:
        """The receivers as a session with such a sender is to try them."""
        drained = self.states.drained
        places = [each for each in self.places if each.name not in drained] if drained else [*self.places]
        if self.balance is Balance.ROUND_ROBIN and places:
            self._turn = (self._turn + 1) % len(places)
            places = places[self._turn :] + places[: self._turn]
        if self.resting.some:
            sender = _host(origin)
            places.sort(key=lambda each: bool(each.known) and all(self.resting.rests(it, sender) for it in each.known))
        return places

    def let_rest(self, place: Place, sender: str = "") -> None:
        """Leave a place alone for a while: it was of no use, perhaps to that `sender` alone if one is named."""
        if self.places:  # else each session has one place to go to; to know those of all senders would have no end
            self.resting.let_rest(place, sender)


@attrs.define(eq=False)
class Route:
    """The way of one session to its receiver."""

    _receivers: Receivers
    _left: list[Places] | None = None
    """Those that it has not tried yet; all of them, if that is not said."""
    origin: Origin = NOBODY
    """Whom the session is with, where that matters."""
    _last: tuple[Places, Place] | None = None
    """The receiver of the last leg, and where it was found."""
    _state: ReceiverState | None = None
    """That of the receiver that was chosen or dialled last."""
    _chosen: tuple[Places, ReceiverState] | None = None
    """The receiver that is to be dialled next, once it is chosen."""
    _counted: bool = False
    """Whether a connection to it is counted."""

    def aim(self, destination: Party) -> None:
        """Go there and nowhere else."""
        self._left = [Places(Address(*destination))]

    @property
    def sends_header(self) -> bool:
        """Whether its connections begin with a PROXY header."""
        return self._receivers.header is not None

    @property
    def tells_sender(self) -> bool:
        """Whether the receiver knows from the connection who the sender is, so that it may refuse that one alone."""
        return self._receivers.spoofs or self._receivers.header is not None

    @property
    def has_more(self) -> bool:
        """Whether there are receivers that were not tried yet."""
        return self._left is None or bool(self._left)

    def begin_anew(self) -> None:
        """Try them all again."""
        if self._receivers.places:
            self._left = None
        elif self.origin.destination:
            self.aim(self.origin.destination)

    def go_back(self) -> None:
        """Dial the same receiver as last time, before those that were not tried yet."""
        assert self._last is not None
        assert self._left is not None
        self._left.insert(0, self._last[0])

    def was_of_no_use(self, *, told: bool = False) -> None:
        """The receiver that was dialled last does not serve: others go first for a while.

        For other senders only if it did not know who this one is, by the connection or as it was `told`.
        """
        if self._last:
            sender = _host(self.origin) if told or self.tells_sender else ""
            self._receivers.let_rest(self._last[1], sender)

    @property
    def receiver(self) -> str:
        """The receiver that was dialled last, as the operator wrote it."""
        return self._state.name if self._state else "-"

    def note_failure(self, kind: str) -> None:
        """The receiver that was dialled last has not greeted with 2yz, for a reason of that kind."""
        if self._state:
            self._state.fails(kind)

    def was_of_use(self) -> None:
        """The receiver that was dialled last does serve."""
        if self._state:
            self._state.serves()
        receivers = self._receivers
        if self._last:
            receivers.loops.greeted(self.own_goal or self._last[1])
            if receivers.resting.some:
                receivers.resting.was_of_use(self._last[1], _host(self.origin))

    @property
    def loops(self) -> Loops:
        """What is known of connections that come back here."""
        return self._receivers.loops

    def waits_for_greeting(self, leg: Leg) -> None:
        """The leg that was dialled last does."""
        if self._last:
            self._receivers.loops.waits(self.own_goal or self._last[1], leg)

    @property
    def own_goal(self) -> Party | None:
        """Where the sender wanted to go, if that decides; None if all sessions have their receivers in common."""
        return None if self._receivers.places else self.origin.destination

    @property
    def goals(self) -> list[Place | Party]:
        """Where it may lead to."""
        own = self.own_goal
        return [own] if own else [place for places in self._receivers.places for place in places.known]

    def _did_not_answer(self, place: Place) -> None:
        """A place could not be reached; from the sender's own address, perhaps from there alone."""
        self._receivers.let_rest(place, _host(self.origin) if self._receivers.spoofs else "")

    @property
    def wait_seconds(self) -> float:
        """How long a session waits in the line for a receiver."""
        return self._receivers.states.wait_seconds

    def line_up(self, watch: Watch) -> PlaceInLine | None:
        """Choose the next receiver; the place in its line, if the session has to wait. Raises DialFailed."""
        _, state = self._choose()
        most = self._receivers.states.most_connections
        if not most:
            return None
        self._counted = True
        return state.take(most, watch)

    def stay_in_line(self) -> None:
        """Raise DialFailed if the receiver that was chosen is drained since: that says nothing of how it serves."""
        if self._chosen and self._chosen[0].name in self._receivers.states.drained:
            reason = f"{self._chosen[0].name}: {_DRAINED}"
            self._chosen = self._state = None
            raise DialFailed(reason, "drained")

    def leave_line(self, place: PlaceInLine) -> None:
        """The receiver that was chosen is not to be dialled."""
        self._chosen, self._counted = None, False
        place.leave()

    def _choose(self) -> tuple[Places, ReceiverState]:
        receivers, self._last, self._state = self._receivers, None, None
        if self._left is None:
            self._left = receivers.in_order(self.origin)
        if not self._left:
            raise DialFailed(_ALL_DRAINED, "drained")
        receiver = self._left.pop(0)
        self._state = receivers.states.of(receiver.name)
        chosen = self._chosen = receiver, self._state
        return chosen

    async def dial(self, watch: Watch, connect_seconds: float) -> Leg:
        """A leg to the receiver that was chosen, else to the next, by whichever of its addresses answers first.

        Raises DialFailed, SenderUnusable, NoMeans, Interrupted.
        """
        receiver, state = self._chosen or self._choose()
        counted, self._counted = self._counted, False
        try:
            if counted:
                self.stay_in_line()  # it may be drained since that was looked at
            self._chosen = None
            leg = await self._dial(receiver, watch, connect_seconds)
        except BaseException:
            if counted:
                state.give_back()
            raise
        if counted:
            leg.on_close = state.give_back
            if leg.closed:
                state.give_back()
        return leg

    async def _dial(self, receiver: Places, watch: Watch, connect_seconds: float) -> Leg:
        receivers = self._receivers
        if receiver.is_settled:
            places = receiver.known
        else:
            async with watch.in_task():
                places = await receiver.find(connect_seconds)
        if receivers.resting.some:
            sender = _host(self.origin)
            places = sorted(places, key=lambda each: receivers.resting.rests(each, sender))
        source = self._senders_own(places) if receivers.spoofs else receivers.source
        leg, place = await dial(places, receivers.driver, watch, connect_seconds, source, self._did_not_answer)
        self._last = receiver, place
        leg.host = receiver.host
        if receivers.own_legs:
            receivers.own_legs.add(leg)
        if receivers.header:
            self._send_header(leg, receivers.header)
        return leg

    def _senders_own(self, places: Sequence[Place]) -> Source:
        """Where legs to those places leave from. Raises SenderUnusable."""
        sender = self.origin.sender
        if not sender:
            return ANYWHERE  # it is on this machine
        address = ip_address(sender[0])
        of_network = any(family != socket.AF_UNIX for family, _ in places)
        if of_network and address and address.version == 6 and address.is_link_local:
            raise SenderUnusable(
                f"{sender[0]} is a link-local address, which cannot be the source of "
                "connections from here (--spoof-sender)"
            )
        family = socket.AF_INET6 if ":" in sender[0] else socket.AF_INET
        return Source({family: (sender[0], 0)}, foreign=True)

    def _send_header(self, leg: Leg, version: proxy_header.Version) -> None:
        """Say whom the connection is from. Raises DialFailed."""
        octets = proxy_header.encoded_header(version, self.origin.sender, self.origin.destination)
        try:
            taken_octets = leg.sock.send(octets)
        except OSError as error:
            leg.close()
            raise DialFailed(f"{leg.peer}: {error.strerror}") from error
        if taken_octets < len(octets):  # never seen: a new socket has room
            leg.close()
            raise DialFailed(f"{leg.peer}: the receiver does not accept the PROXY header")


def _host(origin: Origin) -> str:
    """The address of the sender; none if it has none."""
    return origin.sender[0] if origin.sender else ""
