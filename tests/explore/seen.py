"""What both peers of a dialogue saw, put together from the kernel's log: streams of octets, and when they came."""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING

import attrs

from tests.explore.naive import Replies, Reply, code_of, has_strays, squashed

if TYPE_CHECKING:
    from tests.explore.world import World


@attrs.define(eq=False)
class Stream:
    """Octets in one direction, and when they came."""

    octets: bytearray = attrs.field(factory=bytearray)
    _ends: list[int] = attrs.field(factory=list)
    _times: list[int] = attrs.field(factory=list)

    def add(self, octets: bytes, time: int) -> None:
        self.octets += octets
        self._ends.append(len(self.octets))
        self._times.append(time)

    def time_of(self, end: int) -> float:
        """When the octets up to `end` were all there; infinite if they never were."""
        place = bisect.bisect_left(self._ends, end)
        return self._times[place] if place < len(self._ends) else math.inf

    def length_at(self, time: float) -> int:
        """How much there was before `time`."""
        place = bisect.bisect_left(self._times, time)
        return self._ends[place - 1] if place else 0


@attrs.define(eq=False)
class Leg:
    """What happened on one connection."""

    sent: Stream = attrs.field(factory=Stream)
    """By the peer."""
    read: Stream = attrs.field(factory=Stream)
    """By shimproxy, of that."""
    written: Stream = attrs.field(factory=Stream)
    """By shimproxy."""
    writes: list[tuple[int, int]] = attrs.field(factory=list)
    """When it wrote, and how much it had not read then."""
    arrived: list[tuple[int, int]] = attrs.field(factory=list)
    """When the peer sent something, and how much of what shimproxy wrote had arrived there then."""
    peer_fin: float = math.inf
    peer_rst: float = math.inf
    shim_fin: float = math.inf
    shim_rst: float = math.inf
    dialled: float = 0

    def arrived_at(self, time: float) -> int:
        """How much had arrived at the peer's host when it sent what it sent at that time."""
        return next((octets for when, octets in self.arrived if when == time), 0)


def legs_of(world: World) -> dict[str, Leg]:
    legs: dict[str, Leg] = {"S": Leg()}
    for time, event in enumerate(world.log):
        what = event.what
        if what == "TIME":
            continue
        if what == "DIALLED":
            legs[event.who] = Leg(dialled=time)
            continue
        leg = legs[event.who]
        if what == "SHIM_WROTE":
            leg.written.add(event.octets, time)
            leg.writes.append((time, event.unread_octets))
        elif what == "SHIM_READ":
            leg.read.add(event.octets, time)
        elif what == "PEER_SENT":
            leg.sent.add(event.octets, time)
            leg.arrived.append((time, event.arrived_octets))
        elif what == "PEER_FIN":
            leg.peer_fin = time
        elif what == "PEER_RST":
            leg.peer_rst = time
        elif what == "SHIM_FIN":
            leg.shim_fin = time
        elif what == "SHIM_RST":
            leg.shim_rst = time
    return legs


def passed(source: Stream, given: bytes | bytearray, is_over: bool) -> bool:
    """Whether what came from one leg went out on the other."""
    return source.octets == given or (is_over and source.octets.startswith(given))


def said_on(leg: Leg, start: int = 0) -> list[Reply]:
    """The replies in what a receiver has said from `start` on."""
    found = Replies()
    found.feed(bytes(leg.sent.octets[start:]))
    if rest := found.rest:
        found.found += (
            Reply(
                code_of(rest.split(b"\n")[-1]) or code_of(rest), rest, len(leg.sent.octets) - start, well_formed=False
            ),
        )
    for reply in found.found:
        reply.end += start
    return found.found


def end_of(octets: bytearray, reply: bytes) -> int:
    """Where `reply` ends in what a receiver has said; -1 if it has not."""
    for form in (reply, reply.replace(b"\r\n", b"\n")):
        if (place := octets.find(form)) >= 0:
            return place + len(form)
    return -1


def same_mail(given: bytes, sent: bytes) -> bool:
    return squashed(given) == squashed(sent) if has_strays(sent) else given == sent
