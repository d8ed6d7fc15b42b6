"""Two peers that speak TLS with each other through the shim: octets pass unread, ends as they are.

Invariants:

1. What comes on one leg goes out on the other, octet for octet; a FIN goes on as FIN, an RST as RST.
2. No more is held of either direction than one read that the other leg does not take.

It repairs nothing: there is nothing that it could read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.net.errors import DeadlinePassed, Interrupted, LegBroken
from shimproxy.net.tap import Ended
from shimproxy.session.phase import SessionPhase

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.leg import Leg
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.session.security import Security
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents


@attrs.define(eq=False)
class OneWay:
    """What goes from one leg to the other."""

    source: Leg
    target: Leg
    said: Callable[[bytes], None] | None = None
    """Is told of all octets before they are passed on; what it raises ends the relay."""
    undecided: Callable[[], int] | None = None
    """How many of the octets that were told of last are not to be passed on before others come."""
    waits: Callable[[], bool] | None = None
    """Whether nothing more is to be read of the source for now."""
    ended: Callable[[Ended], None] | None = None
    """Is told how the source has ended, before that is passed on."""
    over: bool = False
    _held: bytes = b""
    _kept: bytes = b""

    def move(self) -> bool:
        """Pass on what can be passed on without a wait; whether that was anything. Raises LegBroken."""
        if self._held:
            taken_octets = self.target.send_now(self._held)
            self._held = self._held[taken_octets:]
            return taken_octets > 0
        if self._kept and self._release():
            return True
        octets = self.source.look() if self.reads and (self.source.readable or self.source.ended) else None
        if octets is None:
            return False
        if octets:
            if self.source.tap:
                self.source.tap.relayed(len(octets))
            self.take(octets)
        else:
            self.over = True
            if self.ended:
                self.ended(self.source.ended or Ended.FIN)
            if self.source.ended is Ended.RST:
                raise LegBroken(self.source.name, "reset by the peer")
            self.target.half_close()
        return True

    def take(self, octets: bytes) -> None:
        """Pass on octets of the source, as far as the target takes them at once. Raises LegBroken."""
        if self.said:
            self.said(octets)
        if self.undecided:
            octets, self._kept = self._kept + octets, b""
            if count := self.undecided():
                octets, self._kept = octets[:-count], octets[-count:]
        self._held = octets[self.target.send_now(octets) :] if octets else b""

    def _release(self) -> bool:
        """Pass on what was not decided, and is now; whether there is such. Raises LegBroken."""
        free_octets = len(self._kept) - (self.undecided() if self.undecided else 0)
        if free_octets <= 0:
            return False
        octets, self._kept = self._kept[:free_octets], self._kept[free_octets:]
        self._held = octets[self.target.send_now(octets) :]
        return True

    @property
    def reads(self) -> bool:
        """Whether the source is to be read."""
        return not (self._held or (self.waits and self.waits()))

    @property
    def held(self) -> bool:
        """Whether the target is to take something first."""
        return bool(self._held)


async def take_over(
    sender: Sender, receiver: Receiver, security: Security, events: SessionEvents, policy: Policy
) -> None:
    """Both peers speak TLS with each other from here on, until one of them ends that or both say nothing for long."""
    security.discard_plaintext(receiver)
    events.phase = SessionPhase.OPAQUE
    events.record.sender_tls = events.record.receiver_tls = "opaque"
    receiver.passes_unread()
    if events.tracer:
        events.tracer.passes_unread()
    try:
        ways = [OneWay(sender.leg, receiver.leg), OneWay(receiver.leg, sender.leg)]
        await relay(ways, policy.deadlines.opaque, "TLS that passes unread")
    except (LegBroken, DeadlinePassed, Interrupted):
        sender.leg.reset()
        receiver.leg.reset()


async def relay(directions: list[OneWay], idle_seconds: float, what: str) -> None:
    """Pass octets both ways until both directions have ended; `what` it is that passes.

    Raises LegBroken once one of the peers has reset its leg, DeadlinePassed once both were silent for that long,
    Interrupted, and what a direction's `said` does.
    """
    one = directions[0].source
    watch = one.watch
    watch.allow(idle_seconds, what)
    while directions := [each for each in directions if not each.over]:
        if any([each.move() for each in directions]):
            watch.allow(idle_seconds, what)
            if watch.stretched():
                await watch.pause()
        else:
            await one.any_of(
                [each.source for each in directions if each.reads],
                [each.target for each in directions if each.held],
            )
