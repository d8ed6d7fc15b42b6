"""Connections to a receiver that come back here: by NAT, or as the receiver is another proxy that leads to this one.

In such a loop each connection waits for the greeting of the next one, and none of them ever gets one: one sender makes
thousands of sessions. No setting shows it, and nor does an address: a receiver on this host, or one with NAT before it,
may send mail here as well.

Invariants:

1. Only what has been tried is called a loop: it is broken, and the connection that has come ends with it, twice.
2. What is tried costs a receiver that is no loop a few new connections, and its senders a delay. None is refused.
3. A receiver that has greeted, or has begun to, is under no suspicion, for as long as few connections wait for its
   greeting. One that was found to be no loop is tried again after an hour at the earliest, or where many more wait.
4. While a receiver is under suspicion no session dials that may lead there: so the sessions of a loop have a bound, and
   leave descriptors.
5. Each worker bounds its own part of a loop: it breaks it at any leg of its own, and that ends all that follows.
6. A receiver that is slow delays those senders alone that may go there.

It does not know what a session does for that: see session/receiver_connector.py.
"""

from __future__ import annotations

import enum
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import attrs
import trio

from shimproxy.net.origin import party, redirected_from

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from shimproxy.net.leg import Leg
    from shimproxy.net.origin import Party
    from shimproxy.net.places import Place

    Goal = Place | Party
    """Where legs lead to: one of the places of all sessions, or where one sender wanted to go."""
    _Heard = Callable[[bytes], object]

_MOST_WAITING: Final = 16
"""With so many legs that wait, and no greeting meanwhile, a receiver is under suspicion."""
_MORE: Final = 4
"""By which that number grows each time it was no loop."""
_TRUSTED_SECONDS: Final = 3600.0
"""For so long it stays as large: some receivers greet each sender after some seconds, many of which come at once."""
_LEAST_SECONDS: Final = 0.05
"""For so long the first of them has waited: where many senders come at once, the greeting is on its way."""
_MOST_RECALLED: Final = 256
_MOST_GOALS: Final = 64
"""So many are known without a look at which of them have legs that wait."""
_CALM_SECONDS: Final = 0.25
"""For so long the connection that has come stays as it is, before anything is tried."""
_ENDS_SECONDS: Final = 1.0
"""Within this time it has ended if it was a loop, through both proxies and the network between them."""
_LOOK_SECONDS: Final = 0.05
_PROOFS: Final = 2


class _Found(enum.Enum):
    """What became of the connection that has come, while it was looked at."""

    STAYS = "it is there"
    ENDED = "its peer has closed it"
    GREETED = "the receiver has greeted a sender, so there is no loop"


@attrs.define(eq=False)
class Trial:
    """A loop that may be one, broken for a try."""

    over: trio.Event = attrs.field(factory=trio.Event)
    proven: bool = False
    """Whether it was one: known once it is over."""


@attrs.define(eq=False)
class _Silent:
    """A receiver that has legs which wait for its greeting."""

    legs: dict[Leg, None] = attrs.field(factory=dict)
    """Those since its last greeting, in their order; also such as have ended, until these are cleared out."""
    since: float = 0.0
    """When the first of them began to wait."""
    most: int = _MOST_WAITING
    trusted_until: float = 0.0
    """When that is small again."""
    proofs: int = 0
    trial: Trial | None = None
    """The one in progress."""
    held: dict[Leg, _Heard] = attrs.field(factory=dict)
    """Connections that have come since, and what is told of what each says."""
    greeted: trio.Event = attrs.field(factory=trio.Event)
    """Set with the next greeting."""

    def are_many(self) -> bool:
        """Whether there are more than usual, without those that have ended.

        None counts where the receiver has begun its greeting on one: Postfix' postscreen says a first line at once, and
        the last one some seconds later. In a loop nobody says a word.
        """
        left = [leg for leg in self.legs if not leg.closed]
        self.legs = {} if any(leg.octets_in for leg in left) else dict.fromkeys(left)
        return len(self.legs) >= self.most


@attrs.define(eq=False)
class Loops:
    """The receiver legs of one process that wait for a greeting, and what is tried where there are many."""

    each_its_own: bool = False
    """Whether each session goes where its sender wanted to go."""
    _goals: dict[Goal, _Silent] = attrs.field(factory=dict)
    suspects: dict[Goal, _Silent] = attrs.field(factory=dict)
    """Those that have more of them than is usual."""
    _most_goals: int = _MOST_GOALS
    _recalled: WeakKeyDictionary[Leg, Trial] = attrs.field(factory=WeakKeyDictionary)
    """Legs that were shut for a trial."""

    # -- what becomes of legs

    def waits(self, goal: Goal, leg: Leg) -> None:
        """A leg waits for a receiver's greeting."""
        silent = self._goals.get(goal)
        if silent is None:
            self._clear_out()
            silent = self._goals[goal] = _Silent()
        legs = silent.legs
        if not legs:
            silent.since = now = trio.current_time()
            if now > silent.trusted_until:
                silent.most = _MOST_WAITING
        legs[leg] = None
        if len(legs) >= silent.most and silent.are_many():
            self.suspects[goal] = silent

    def _clear_out(self) -> None:
        """Forget those that have no legs, once there are many."""
        if len(self._goals) < self._most_goals:
            return
        for goal, silent in [*self._goals.items()]:
            if not silent.held and all(leg.closed for leg in silent.legs):
                del self._goals[goal]
                self.suspects.pop(goal, None)
        self._most_goals = max(_MOST_GOALS, 2 * len(self._goals))

    def greeted(self, goal: Goal) -> None:
        """A receiver has greeted: those that have waited for it are in no loop."""
        silent = self._goals.get(goal)
        if silent is not None:
            silent.legs.clear()
            if silent.proofs or goal in self.suspects:
                self.suspects.pop(goal, None)
                silent.greeted.set()
                self._goals[goal] = _Silent(most=silent.most, trusted_until=silent.trusted_until)

    def trial_of(self, leg: Leg) -> Trial | None:
        """The trial that a leg was shut for, if it was: its session resets it, and dials again once that is over."""
        return self._recalled.pop(leg, None) if self._recalled else None

    # -- what becomes of connections that come

    @property
    def some_wait(self) -> bool:
        """Whether there are legs that a connection which comes can be, by what NAT on this host tells of it."""
        return not self.each_its_own and any(silent.legs for silent in self._goals.values())

    def has_come_back(self, sock: socket.socket) -> bool:
        """Whether a connection that has come is one of these legs, which NAT on this host has turned."""
        destination = redirected_from(sock)
        if destination is None:
            return False
        with suppress(OSError):  # it has gone already
            sender = party(sock.getpeername())
            for (_, sockaddr), silent in self._goals.items():
                if party(sockaddr) == destination:
                    return any(party(leg.sock.getsockname()) == sender for leg in silent.legs if not leg.closed)
        return False

    async def hold(self, came: Leg, heard: _Heard, goals: Collection[Goal]) -> bool:
        """Have a connection wait while a receiver is under suspicion; whether its peer is still there after that.

        That is a receiver at one of its `goals`: one that goes elsewhere makes no loop longer there. `heard` is given
        what it says meanwhile, where that can't be left unread. Raises Interrupted.
        """
        for suspect, silent in [each for each in self.suspects.items() if each[0] in goals]:
            silent.held[came] = heard
            try:
                while self._is_suspect(suspect, silent):
                    trial = silent.trial
                    if trial is None:
                        await self._try(suspect, silent, came, heard)
                        break
                    async with came.watch.in_task():
                        await trial.over.wait()  # it may be over before the task has begun
                    if has_ended(came, heard):
                        break
            finally:
                del silent.held[came]
            if has_ended(came, heard):
                return False
        return True

    def _is_suspect(self, goal: Goal, silent: _Silent) -> bool:
        if self.suspects.get(goal) is not silent:
            return False
        if silent.trial is None and not silent.are_many():
            del self.suspects[goal]
            return False
        return trio.current_time() - silent.since > _LEAST_SECONDS

    async def _try(self, goal: Goal, silent: _Silent, came: Leg, heard: _Heard) -> None:
        """Break what may be a loop, and see whether the connection that has come ends with that."""
        trial = silent.trial = Trial()
        try:
            async with came.watch.in_task():
                if await _look_at(came, silent, _CALM_SECONDS, heard) is _Found.STAYS and silent.are_many():
                    others = {
                        leg: heard for leg, heard in silent.held.items() if not (leg is came or has_ended(leg, heard))
                    }
                    self._break(silent, trial)
                    found = await _look_at(came, silent, _ENDS_SECONDS, heard)
                    if found is _Found.ENDED:
                        self._note_proof(goal, silent, trial)
                    elif found is _Found.STAYS and not any(has_ended(*other) for other in others.items()):
                        silent.proofs = 0
                        silent.most = _MORE * max(silent.most, len(silent.legs))
                        silent.trusted_until = trio.current_time() + _TRUSTED_SECONDS
                        self.suspects.pop(goal, None)
        finally:
            silent.trial = None
            trial.over.set()

    def _break(self, silent: _Silent, trial: Trial) -> None:
        """Shut the legs that wait: each chain is broken where it begins; their sessions take it from there."""
        for leg in [leg for leg in silent.legs if not leg.closed][-_MOST_RECALLED:]:
            self._recalled[leg] = trial
            with suppress(OSError):  # it has ended by itself
                leg.sock.shutdown(socket.SHUT_RDWR)

    def _note_proof(self, goal: Goal, silent: _Silent, trial: Trial) -> None:
        silent.proofs += 1
        if silent.proofs >= _PROOFS:
            trial.proven = True
            self.suspects.pop(goal, None)
            self._goals[goal] = _Silent()


async def _look_at(came: Leg, silent: _Silent, seconds: float, heard: _Heard) -> _Found:
    with trio.move_on_after(seconds):
        while not silent.greeted.is_set():
            if has_ended(came, heard):
                return _Found.ENDED
            with trio.move_on_after(_LOOK_SECONDS):
                await silent.greeted.wait()
    return _Found.GREETED if silent.greeted.is_set() else _Found.STAYS


def has_ended(leg: Leg, heard: _Heard) -> bool:
    """Whether a peer that is to say nothing yet has closed its end, or reset it.

    What it has said stays there to be read; inside TLS it can't, and `heard` is given it.
    """
    if not leg.secured:
        return leg.peek(1) == b""
    octets = leg.look()
    if octets:
        heard(octets)
    return octets == b""
