"""A peer that never stops sending: the others get their turn all the same, and its own deadline ends it.

In memory, as on real sockets a peer's buffer runs dry now and then, which hides a session that never waits. Beside the
session runs a task that stands for all the others; virtual time passes with its turns.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from shimproxy.session.limits import Limits
from tests.memory import MemorySocket, Stage

MOST_READS_A_TURN = 64
TURNS = 60
TURN_SECONDS = 20.0
Play = Callable[[Stage], None]


class Starved(Exception):
    """The session has gone on and on without letting anybody else run."""


@attrs.define(eq=False)
class EndlessSocket(MemorySocket):
    """A peer that, once it has said what it was fed, says `endless` for ever."""

    endless: bytes = b""
    reads: int = 0

    def recv(self, size_octets: int, flags: int = 0) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS_A_TURN:
            raise Starved
        if self.endless and len(self._waiting) < size_octets:
            self._waiting += self.endless * (size_octets // len(self.endless) + 1)
        return super().recv(size_octets, flags)

    def flood(self, octets: bytes) -> None:
        self.endless = octets
        self.feed(octets)


def ends(play: list[Play], limits: Limits | None = None, turns: int = TURNS) -> bool:
    """Whether the session ends, see `played`."""
    return played(play, lambda stage: stage.over, limits, turns)


def played(
    play: list[Play],
    seen: Callable[[Stage], bool],
    limits: Limits | None = None,
    turns: int = TURNS,
    turn_seconds: float = TURN_SECONDS,
) -> bool:
    """Play, each step when the session waits, the last one being a flood of so many turns; what is `seen` then."""
    clock = trio.testing.MockClock()

    async def main() -> bool:
        sender, receiver = EndlessSocket(), EndlessSocket()
        async with trio.open_nursery() as nursery:
            stage = Stage(nursery, clock, sender=sender, receiver=receiver, limits=limits or Limits())
            await stage.start()
            for step in play[:-1]:
                step(stage)
                await stage.settle()
            play[-1](stage)
            stage.runner.release()
            for _ in range(turns):
                sender.reads = receiver.reads = 0
                receiver.written.clear()
                await trio.lowlevel.checkpoint()
                clock.jump(turn_seconds)
            nursery.cancel_scope.cancel()
            return seen(stage)

    return trio.run(main, clock=clock)


def sender_says(octets: bytes) -> Play:
    return lambda stage: stage.sender.feed(octets)


def receiver_says(octets: bytes) -> Play:
    return lambda stage: stage.receiver.feed(octets)


def flood_of(who: str, octets: bytes) -> Play:
    def begin(stage: Stage) -> None:
        sock = stage.sender if who == "sender" else stage.receiver
        assert isinstance(sock, EndlessSocket)
        sock.flood(octets)

    return begin


GREETED = [receiver_says(b"220 hello\r\n")]
IN_DATA = [*GREETED, sender_says(b"DATA\r\n"), receiver_says(b"354 go\r\n")]
AFTER_DATA = [*IN_DATA, sender_says(b".\r\n")]
PIPELINED = [*GREETED, sender_says(b"EHLO x\r\n"), receiver_says(b"250-hi\r\n250 PIPELINING\r\n")]
RECEIVERS = {
    "greeting": ([], b"220-hello\r\n"),
    "greeting of NUL": ([], b"\0"),
    "unasked replies": (GREETED, b"250 and\r\n"),
    "unasked NUL": (GREETED, b"\0"),
    "reply to a command": ([*GREETED, sender_says(b"NOOP\r\n")], b"250-and\r\n"),
    "354 to DATA": ([*GREETED, sender_says(b"DATA\r\n")], b"354-and\r\n"),
    "354 in mail data": (IN_DATA, b"354 go\r\n"),
    "half a reply in mail data": (IN_DATA, b"552-no\r\n"),
    "refusals in mail data": (IN_DATA, b"552 no\r\n"),
    "354 after mail data": (AFTER_DATA, b"354 go\r\n"),
    "noise after QUIT": ([*GREETED, sender_says(b"QUIT\r\n"), receiver_says(b"221 bye\r\n")], b"\0"),
}


@pytest.mark.parametrize(("before", "octets"), RECEIVERS.values(), ids=RECEIVERS.keys())
def test_a_receiver_that_never_stops_starves_nobody_and_is_left(before: list[Play], octets: bytes) -> None:
    """Guarantee 8: twenty minutes are twice the longest deadline."""
    assert ends([*before, flood_of("receiver", octets)])


MOST_LIMITS = 12
"""What a receiver may say in all, in limits of a reply: four as a reply, some unasked, and four in its farewell."""


@pytest.mark.parametrize(("before", "octets"), RECEIVERS.values(), ids=RECEIVERS.keys())
def test_a_receiver_that_never_stops_is_left_before_any_deadline(before: list[Play], octets: bytes) -> None:
    """What it says is counted: no time passes here (guarantee 10)."""

    def is_left(stage: Stage) -> bool:
        leg = stage.receiver.leg
        return stage.receiver.closed and leg is not None and leg.octets_in <= MOST_LIMITS * stage.limits.reply_octets

    limits = Limits(reply_octets=8192)
    assert played([*before, flood_of("receiver", octets)], is_left, limits, turns=4000, turn_seconds=0.0)


def test_a_sender_that_talks_on_after_its_session_is_left_before_any_deadline() -> None:
    before, octets = SENDERS["noise after QUIT"]
    before = [*before, lambda stage: stage.receiver.feed_fin()]
    most_octets = 200_000

    def is_left(stage: Stage) -> bool:
        leg = stage.sender.leg
        return stage.sender.got_rst and leg is not None and most_octets < leg.octets_in <= most_octets + 2 * 4096

    limits = Limits(farewell_octets=most_octets)
    assert played([*before, flood_of("sender", octets)], is_left, limits, turns=2000, turn_seconds=0.0)


SENDERS = {
    "NUL": (GREETED, b"\0"),
    "unanswered commands": (GREETED, b"NOOP\r\n"),
    "unanswered groups": (PIPELINED, b"RSET\r\n"),
    "NUL within AUTH": ([*GREETED, sender_says(b"AUTH LOGIN\r\n"), receiver_says(b"334 \r\n")], b"\0"),
    "noise after QUIT": ([*GREETED, sender_says(b"QUIT\r\n"), receiver_says(b"221 bye\r\n")], b"\0"),
}


@pytest.mark.parametrize(("before", "octets"), SENDERS.values(), ids=SENDERS.keys())
def test_a_sender_that_never_stops_starves_nobody_and_is_left(before: list[Play], octets: bytes) -> None:
    assert ends([*before, flood_of("sender", octets)])


BUSY = {
    "refused commands": (GREETED, b"STARTTLS\r\n"),
    "long commands": (GREETED, b"NOOP " + b"x" * 20_000 + b"\r\n"),
    "a chunk without end": ([*GREETED, sender_says(b"BDAT 2147483647\r\n")], b"x"),
    "mail data without end": (IN_DATA, b"x"),
    "mail data without end, drained": ([*IN_DATA, receiver_says(b"552 no\r\n")], b"x"),
}


@pytest.mark.parametrize(("before", "octets"), BUSY.values(), ids=BUSY.keys())
def test_a_sender_that_is_served_without_end_starves_nobody(before: list[Play], octets: bytes) -> None:
    """It breaks no deadline: each of its octets is heard, and each command answered, if there is no limit to them."""
    limits = Limits(commands_without_mail=0, bad_commands=0)
    assert not ends([*before, flood_of("sender", octets)], limits)


@pytest.mark.parametrize("name", ["refused commands", "long commands"])
def test_a_sender_that_gives_bad_commands_without_end_is_left(name: str) -> None:
    """A hundred commands of 20,000 octets each are 500 full reads, and each of these is a turn."""
    before, octets = BUSY[name]
    assert ends([*before, flood_of("sender", octets)], turns=20 * TURNS)
