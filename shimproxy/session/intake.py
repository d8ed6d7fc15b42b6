"""Mail data as it comes from the sender, up to its end and not an octet further.

Invariants:

1. What lies behind the end is the sender's next command, and goes back to its reader.
2. A sender is waited for as long as `Patience` lets it: an octet a minute does not pay for long.

It does not know where the mail data go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import attrs

from shimproxy.net.leg import BLOCK, BLOCK_VIEW

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg
    from shimproxy.net.watch import Watch
    from shimproxy.session.limits import Policy
    from shimproxy.smtp.command import CommandReader

_LEAST_SECONDS: Final = 0.001


class End(Protocol):
    """What finds the end of the mail data: EndOfData, or Chunk."""

    def feed(self, block: bytes | bytearray, size_octets: int) -> int | None:
        """The index behind the end in the first `size_octets` of `block`, or None."""


@attrs.define(eq=False)
class Patience:
    """How long a peer may still be waited for: used up by waiting, regained by octets.

    It is never more than the deadline for one block, and a peer that gives or takes fewer octets than
    `least_octets_per_second` uses it up.
    """

    _watch: Watch
    _block_seconds: float
    _least_octets_per_second: float
    _seconds: float = attrs.field(init=False)
    _since: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._seconds = self._block_seconds

    def begin(self, doing: str) -> None:
        """From now on the peer is waited for."""
        self._since = self._watch.now
        self._watch.allow(self._seconds, doing)

    def regain(self, octets: int) -> None:
        """The peer is no longer waited for; it gave or took that many octets."""
        seconds = self._seconds - (self._watch.now - self._since)
        if octets:
            rate = self._least_octets_per_second
            seconds = seconds + octets / rate if rate else self._block_seconds
        self._seconds = min(self._block_seconds, max(_LEAST_SECONDS, seconds))


@attrs.define(eq=False)
class Intake:
    """One mail's data, or one chunk's, read from the sender block by block."""

    _sender: Leg
    _commands: CommandReader
    _policy: Policy
    _end: End
    octets_taken: int = 0
    """What was read from the sender, with the end."""
    ended: bool = False
    """Whether the end was read."""
    outrun: bool = False
    """More lay behind the end than is held; it was dropped, so that no command may follow."""
    _patience: Patience = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        policy = self._policy
        self._patience = Patience(
            self._sender.watch, policy.deadlines.sender_block, policy.limits.least_octets_per_second
        )

    async def next_block(self) -> int:
        """Read into BLOCK; how many octets of it belong to the mail data, 0 if the sender has gone.

        Raises DeadlinePassed, Interrupted.
        """
        if ahead := self._commands.take_ahead():
            size_octets = len(ahead)
            BLOCK[:size_octets] = ahead
        else:
            self._patience.begin("mail data")
            size_octets = await self._sender.read_block()
            self._patience.regain(size_octets)
        stop = self._end.feed(BLOCK, size_octets)
        if stop is not None:
            self.ended = True
            self._give_back(stop, size_octets)
            size_octets = stop
        self.octets_taken += size_octets
        return size_octets

    async def drain(self) -> bool:
        """Read and drop up to the end; whether the sender came to it. Raises DeadlinePassed, Interrupted."""
        while not self.ended:
            if not await self.next_block():
                return False
        return True

    def slow_down(self, taken_octets: int) -> None:
        """Read less at a time, as that is what the other leg takes."""
        self._sender.slow_down(taken_octets)

    def _give_back(self, stop: int, size_octets: int) -> None:
        if size_octets - stop > self._policy.limits.held_octets:
            self.outrun = True
        elif stop < size_octets:
            self._commands.feed(bytes(BLOCK_VIEW[stop:size_octets]))
