"""Connections that come back: what is under suspicion, what is tried, and what is called a loop."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, cast

import attrs
import pytest
import trio
import trio.testing

from shimproxy.help.explain.stage import MemoryDriver, MemorySocket
from shimproxy.net.driver import Driver
from shimproxy.net.leg import Leg
from shimproxy.net.loops import Loops, Trial, _Silent, has_ended
from shimproxy.net.watch import Watchdog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from shimproxy.net.origin import Party
    from shimproxy.net.places import Place
    from shimproxy.net.watch import Watch

PLACE: Place = (socket.AF_INET, ("192.0.2.2", 25))
GONE: Party = ("192.0.2.9", 25)
SUSPICIOUS = 16


@attrs.define(eq=False)
class World:
    """A receiver with legs that wait for its greeting, and connections that come meanwhile."""

    nursery: trio.Nursery
    dog: Watchdog = attrs.field(factory=Watchdog)
    loops: Loops = attrs.field(factory=Loops)
    legs: list[Leg] = attrs.field(factory=list)

    def leg(self) -> Leg:
        sock = cast("socket.socket", MemorySocket())
        return Leg("receiver", sock, MemoryDriver(), self.dog.watch(), readable=True)

    def dial(self, count: int = 1) -> None:
        for _ in range(count):
            self.legs.append(self.leg())
            self.loops.waits(PLACE, self.legs[-1])

    async def dial_suspiciously_many(self) -> None:
        """Dial as many as bring the receiver under suspicion, and let them wait."""
        self.dial(SUSPICIOUS)
        await trio.sleep(0.1)

    def come(self, seen: list[bool]) -> MemorySocket:
        """A connection comes, and waits as long as it has to; whether it may dial then is added to `seen`."""
        leg = self.leg()

        async def held() -> None:
            seen.append(await self.loops.hold(leg, lambda _: None, [PLACE]))

        self.nursery.start_soon(held)
        return cast("MemorySocket", leg.sock)

    def shut(self) -> list[Leg]:
        """The legs that a trial has shut since the last time; their sessions reset them."""
        shut = [leg for leg in self.legs if cast("MemorySocket", leg.sock).got_fin]
        self.legs = [leg for leg in self.legs if leg not in shut]
        for leg in shut:
            leg.reset()
        return shut

    async def trial(self) -> Trial:
        """Let the calm pass, and take the trial that is made then."""
        await trio.sleep(0.3)
        trials = {self.loops.trial_of(leg) for leg in self.shut()}
        (trial,) = trials
        assert trial
        return trial


@pytest.fixture
def world(nursery: trio.Nursery) -> World:
    return World(nursery)


async def test_few_legs_that_wait_are_under_no_suspicion(world: World, autojump_clock: MockClock) -> None:
    world.dial(SUSPICIOUS - 1)
    assert not world.loops.suspects
    world.dial()
    assert world.loops.suspects


async def test_what_has_ended_does_not_count(world: World, autojump_clock: MockClock) -> None:
    world.dial(SUSPICIOUS - 1)
    world.legs[0].close()
    world.dial()
    assert not world.loops.suspects


async def test_many_that_come_at_once_do_not_wait(world: World, autojump_clock: MockClock) -> None:
    """Their greetings are on the way."""
    world.dial(SUSPICIOUS)
    seen: list[bool] = []
    world.come(seen)
    await trio.testing.wait_all_tasks_blocked()
    assert seen == [True]


async def test_a_greeting_lets_all_go_on_at_once(world: World, autojump_clock: MockClock) -> None:
    await world.dial_suspiciously_many()
    seen: list[bool] = []
    for _ in range(3):
        world.come(seen)
    await trio.testing.wait_all_tasks_blocked()
    assert not seen
    world.loops.greeted(PLACE)
    await trio.testing.wait_all_tasks_blocked()
    assert seen == [True, True, True]
    assert world.shut() == []


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_connection_that_ends_with_what_was_shut_is_a_loop_the_second_time(
    world: World, autojump_clock: MockClock, how: str
) -> None:
    seen: list[bool] = []
    for proven in (False, True):
        await world.dial_suspiciously_many()
        came, other = world.come(seen), world.come(seen)
        trial = await world.trial()
        for sock in (came, other):
            sock.feed_fin() if how == "FIN" else sock.feed_rst()
        await trial.over.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert trial.proven is proven
    assert seen == [False] * 4
    assert not world.loops.suspects


async def test_a_receiver_that_only_takes_its_time_is_no_loop(world: World, autojump_clock: MockClock) -> None:
    """Also where its senders have its own address: that is not looked at. It is not tried again for four times that."""
    await world.dial_suspiciously_many()
    seen: list[bool] = []
    world.come(seen)
    trial = await world.trial()
    world.dial(SUSPICIOUS)  # the sessions of those that were shut
    await trial.over.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert seen == [True]
    assert not trial.proven
    world.dial(3 * SUSPICIOUS - 1)
    assert not world.loops.suspects
    world.dial()
    assert world.loops.suspects
    world.loops.greeted(PLACE)
    world.dial(SUSPICIOUS)
    assert not world.loops.suspects, "it is trusted for an hour, also once it has greeted"
    world.loops.greeted(PLACE)
    await trio.sleep(3601)
    world.dial(SUSPICIOUS)
    assert world.loops.suspects


async def test_a_receiver_that_has_begun_its_greeting_is_no_loop(world: World, autojump_clock: MockClock) -> None:
    """Postfix' postscreen says the first line of it at once, and the last one some seconds later."""
    world.dial(SUSPICIOUS - 1)
    world.legs[0].octets_in = 35
    world.dial()
    assert not world.loops.suspects


async def test_a_greeting_that_begins_before_anything_is_tried_ends_the_suspicion(
    world: World, autojump_clock: MockClock
) -> None:
    await world.dial_suspiciously_many()
    seen: list[bool] = []
    world.come(seen)
    await trio.testing.wait_all_tasks_blocked()
    world.legs[-1].octets_in = 35
    await trio.sleep(0.3)
    assert seen == [True]
    assert world.shut() == []


async def test_a_refusal_that_came_back_through_a_loop_does_not_end_the_suspicion(
    world: World, autojump_clock: MockClock
) -> None:
    """A limit of one of its proxies refuses the last connection, and that reply comes back through all of them."""
    world.dial(SUSPICIOUS)
    world.legs[0].octets_in = 35
    world.legs[0].close()
    world.dial()
    assert world.loops.suspects


async def test_a_sender_that_comes_to_a_loop_leaves_the_suspicion(world: World, autojump_clock: MockClock) -> None:
    """It stays, but another connection ends with what was shut: that one is a part of the loop."""
    await world.dial_suspiciously_many()
    seen: list[bool] = []
    world.come(seen)
    await trio.testing.wait_all_tasks_blocked()
    part = world.come(seen)
    trial = await world.trial()
    part.feed_fin()
    await trial.over.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(seen) == [False, True]
    world.dial(SUSPICIOUS)
    assert world.loops.suspects


async def test_a_connection_that_ends_by_itself_proves_nothing(world: World, autojump_clock: MockClock) -> None:
    """As a balancer's check does, which connects and closes."""
    await world.dial_suspiciously_many()
    seen: list[bool] = []
    world.come(seen).feed_fin()
    await trio.sleep(1)
    assert seen == [False]
    assert world.shut() == []


@attrs.define(eq=False)
class LateTask:
    """A watch whose session gets its task when the receiver has greeted, and what followed from that is over."""

    world: World

    @contextlib.asynccontextmanager
    async def in_task(self) -> AsyncIterator[None]:
        self.world.loops.greeted(PLACE)
        await trio.testing.wait_all_tasks_blocked()
        yield


async def test_a_trial_that_ends_while_a_session_gets_its_task_lets_that_go_on(
    world: World, autojump_clock: MockClock
) -> None:
    await world.dial_suspiciously_many()
    seen: list[bool] = []
    world.come(seen)
    await trio.testing.wait_all_tasks_blocked()
    late = world.leg()
    late.watch = cast("Watch", LateTask(world))
    assert await world.loops.hold(late, lambda _: None, [PLACE])
    assert seen == [True]


async def test_what_a_sender_says_meanwhile_stays_to_be_read(world: World, autojump_clock: MockClock) -> None:
    await world.dial_suspiciously_many()
    seen: list[bool] = []
    came = world.come(seen)
    came.feed(b"HELO device.example\r\n")
    await trio.sleep(2)
    assert seen == [True]
    assert came.recv(100) == b"HELO device.example\r\n"


async def test_inside_tls_what_a_sender_says_is_taken(world: World, autojump_clock: MockClock) -> None:
    """It can't be looked at and left there."""
    leg, heard = world.leg(), list[bytes]()
    leg.secured = True
    sock = cast("MemorySocket", leg.sock)
    assert not has_ended(leg, heard.append)
    sock.feed(b"HELO x\r\n")
    assert not has_ended(leg, heard.append)
    sock.feed_fin()
    assert has_ended(leg, heard.append)
    assert heard == [b"HELO x\r\n"]


async def test_a_connection_that_no_rule_has_turned_does_not_come_from_here(
    world: World, autojump_clock: MockClock
) -> None:
    """Its ends alone say nothing: a sender on this host may have the port of one of the legs, towards another host."""
    with (
        contextlib.closing(Driver()) as driver,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sender,
        server.accept()[0] as accepted,
    ):
        world.loops.waits((socket.AF_INET, server.getsockname()), Leg("receiver", sender, driver, world.dog.watch()))
        assert world.loops.some_wait
        assert not world.loops.has_come_back(accepted)


async def test_one_receiver_under_suspicion_holds_those_alone_who_may_go_there(
    world: World, autojump_clock: MockClock
) -> None:
    """A mail at another listener, whose receiver is well, took 1.2 s beside 500 senders of one that was slow."""
    other: Place = socket.AF_INET, ("192.0.2.9", 25)
    await world.dial_suspiciously_many()
    with trio.fail_after(0.01):
        assert await world.loops.hold(world.leg(), lambda _: None, [("192.0.2.3", 25)])
        assert await world.loops.hold(world.leg(), lambda _: None, [other])
    for goals in ([PLACE], [other, PLACE]):
        with trio.move_on_after(0.01) as scope:
            await world.loops.hold(world.leg(), lambda _: None, goals)
        assert scope.cancelled_caught


async def test_of_receivers_that_senders_choose_those_are_forgotten_that_have_no_legs(
    world: World, autojump_clock: MockClock
) -> None:
    """Whether they have greeted, or not, or were under suspicion; however many there are."""
    loops = world.loops = Loops(each_its_own=True)
    world.dial(SUSPICIOUS)
    waiting = world.legs.pop()
    for leg in world.legs:
        leg.close()
    loops.suspects[GONE] = loops._goals[GONE] = _Silent(legs=dict.fromkeys(world.legs))
    for number in range(10_000):
        goal = (f"192.0.2.{number % 250}", 1000 + number)
        leg = world.leg()
        loops.waits(goal, leg)
        loops.greeted(goal) if number % 2 else leg.close()
    assert len(loops._goals) <= 64
    assert not loops.some_wait
    assert GONE not in loops.suspects
    assert waiting in loops._goals[PLACE].legs


async def test_those_that_have_legs_stay_known_however_many_they_are(world: World, autojump_clock: MockClock) -> None:
    for number in range(1000):
        world.loops.waits(("192.0.2.1", number), world.leg())
    assert len(world.loops._goals) == 1000
