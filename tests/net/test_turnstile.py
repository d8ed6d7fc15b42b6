"""Busy sessions take turns, and whoever has little to do need not wait for them (net/turnstile.py): steps are counted.

In memory: one task stands for each session, and what the driver would find is told to the watches by `look`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from shimproxy.net.coroutines import CoroutineRunner
from shimproxy.net.errors import DeadlinePassed, Interrupted
from shimproxy.net.turnstile import Turnstile
from shimproxy.net.watch import Watch, Watchdog
from shimproxy.session.limits import Limits
from tests.memory import Stage
from tests.session.test_floods import EndlessSocket

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP_STEPS = 100
"""After so many a session is busy for certain."""
ROUNDS = 400


def nothing() -> None:
    """There is nothing to be told."""


@attrs.define(eq=False)
class Crowd:
    """Any number of tasks that always find something to do, each under a watch of its own."""

    nursery: trio.Nursery
    dog: Watchdog
    hogs: list[Watch] = attrs.field(factory=list)
    steps: list[int] = attrs.field(factory=list)
    """How many each hog has made."""

    @property
    def steps_in_all(self) -> int:
        return sum(self.steps)

    def add(self, number: int) -> None:
        for _ in range(number):
            self.steps.append(0)
            self.hogs.append(self.dog.watch())
            self.nursery.start_soon(self._go_on, len(self.hogs) - 1)

    async def _go_on(self, index: int) -> None:
        watch = self.hogs[index]
        while True:
            self.steps[index] += 1
            if watch.stretched():
                await watch.pause()

    async def warm_up(self) -> None:
        while min(self.steps) < WARM_UP_STEPS:
            await trio.lowlevel.checkpoint()


async def make_busy(watch: Watch) -> None:
    watch.stretched(WARM_UP_STEPS)
    await watch.pause()


def among_hogs(number: int, script: Callable[[Crowd], object], look: Callable[[], None] = nothing) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                dog = Watchdog(turnstile=Turnstile(look))
                await nursery.start(dog.run)
                crowd = Crowd(nursery, dog)
                crowd.add(number)
                await crowd.warm_up()
                await script(crowd)  # type: ignore[misc]
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock())


@pytest.mark.parametrize("number", [1, 20, 500])
def test_an_event_of_a_session_with_little_to_do_waits_for_three_turns_at_most(number: int) -> None:
    """However many are busy: the one that is under way, and two at most that are let in before."""
    events: list[Watch] = []

    def look() -> None:
        while events:
            events.pop().wake()

    async def script(crowd: Crowd) -> None:
        watch = crowd.dog.watch()
        one_turn = 9
        for _ in range(20):
            events.append(watch)
            before = crowd.steps_in_all
            await watch.wait()
            assert crowd.steps_in_all - before <= 3 * one_turn

    among_hogs(number, script, look)


def test_busy_sessions_have_equal_turns() -> None:
    async def script(crowd: Crowd) -> None:
        before = [*crowd.steps]
        for _ in range(ROUNDS):
            await trio.lowlevel.checkpoint()
        made = [after - earlier for after, earlier in zip(crowd.steps, before, strict=True)]
        assert min(made) > 0
        assert max(made) - min(made) <= 9

    among_hogs(7, script)


def test_busy_sessions_have_a_ninth_of_all_turns_beside_many_others() -> None:
    """Where those with little to do would fill all the time there is, large mails come to their end, too."""
    others: list[Watch] = []
    turns_of_others = 0

    def look() -> None:
        for watch in others:
            watch.renew()
            watch.wake()

    async def wait_for_ever(watch: Watch) -> None:
        nonlocal turns_of_others
        while True:
            await watch.wait()
            turns_of_others += 1

    async def script(crowd: Crowd) -> None:
        for _ in range(100):
            others.append(crowd.dog.watch())
            crowd.nursery.start_soon(wait_for_ever, others[-1])
        await trio.lowlevel.checkpoint()
        steps, turns = crowd.steps_in_all, turns_of_others
        for _ in range(ROUNDS):
            await trio.lowlevel.checkpoint()
        share = (crowd.steps_in_all - steps) / 9 / (turns_of_others - turns)
        assert 1 / 9 <= share <= 1 / 7

    among_hogs(50, script, look)


def test_busy_sessions_go_on_beside_any_number_of_others() -> None:
    """The others have something to do in every round; a turn of a busy one comes round all the same."""
    others: list[Watch] = []

    def look() -> None:
        for watch in others:
            watch.renew()
            watch.wake()

    async def wait_for_ever(watch: Watch) -> None:
        while True:
            await watch.wait()

    async def script(crowd: Crowd) -> None:
        for _ in range(5):
            others.append(crowd.dog.watch())
            crowd.nursery.start_soon(wait_for_ever, others[-1])
        await trio.lowlevel.checkpoint()
        before = [*crowd.steps]
        for _ in range(ROUNDS):
            await trio.lowlevel.checkpoint()
        assert all(after > earlier for after, earlier in zip(crowd.steps, before, strict=True))

    among_hogs(3, script, look)


def test_what_ends_a_wait_for_a_turn() -> None:
    """Its interruption does, at once; a deadline does when the turn has come, if it has passed by then."""

    async def script(crowd: Crowd) -> None:
        interrupted, late = crowd.dog.watch(), crowd.dog.watch()
        ended: list[str] = []

        async def go_on(watch: Watch, name: str) -> None:
            try:
                while True:
                    if watch.stretched():
                        await watch.pause()
            except Interrupted:
                ended.append(f"{name} interrupted")
            except DeadlinePassed:
                ended.append(f"{name} late")

        late.allow(5.0, "something")
        crowd.nursery.start_soon(go_on, interrupted, "one")
        crowd.nursery.start_soon(go_on, late, "another")
        for _ in range(ROUNDS):
            await trio.lowlevel.checkpoint()
        interrupted.interrupt()
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        assert ended == ["one interrupted"]
        crowd.dog.now += 60.0
        for _ in range(ROUNDS):
            await trio.lowlevel.checkpoint()
        assert ended == ["one interrupted", "another late"]

    among_hogs(50, script)


def test_what_has_come_in_time_is_not_late_for_the_queue() -> None:
    """The peer has kept its deadline: that its session has to queue is nothing of which it is told."""

    async def script(crowd: Crowd) -> None:
        watch = crowd.dog.watch()
        came = False

        async def wait(task_status: trio.TaskStatus[None]) -> None:
            nonlocal came
            await make_busy(watch)
            watch.allow(5.0, "something")
            task_status.started()
            await watch.wait()
            came = True

        await crowd.nursery.start(wait)
        watch.wake()
        watch.wake()
        crowd.dog.now += 60.0
        watch.expire()
        assert not came
        for _ in range(ROUNDS):
            await trio.lowlevel.checkpoint()
        assert came

    among_hogs(50, script)


@pytest.mark.parametrize("how", ["a rest", "what it is there for"])
def test_a_busy_session_is_none_any_more(how: str) -> None:
    """After it was at rest for a while, or has done what it is there for: then its events are not queued."""

    async def script(crowd: Crowd) -> None:
        watch = crowd.dog.watch()
        turns: list[int] = []

        async def wait(task_status: trio.TaskStatus[None]) -> None:
            await make_busy(watch)
            if how == "a rest":
                crowd.dog.now += 60.0
            else:
                watch.renew()
            task_status.started()
            await watch.wait()
            turns.append(crowd.steps_in_all)

        await crowd.nursery.start(wait)
        before = crowd.steps_in_all
        watch.wake()
        while not turns:
            await trio.lowlevel.checkpoint()
        assert turns[0] - before <= 3 * 9

    among_hogs(50, script)


async def test_one_that_makes_another_leave_as_it_is_let_in_takes_no_turn_from_the_rest() -> None:
    class Leaves(Nobody):
        def let_in(self) -> None:
            super().let_in()
            turnstile.leave(second)

    async with trio.open_nursery() as nursery:
        turnstile = Turnstile()
        turns: list[str] = []
        second = Nobody("second", turns)
        turnstile.has_room = False
        turnstile.turns_of_others = 16
        turnstile.enter(Leaves("first", turns))
        turnstile.enter(second)
        nursery.start_soon(turnstile.run)
        await trio.testing.wait_all_tasks_blocked()
        turnstile.enter(Nobody("third", turns))
        await trio.testing.wait_all_tasks_blocked()
        assert turns == ["first", "third"]
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Nobody:
    """Who is let in, and does nothing then."""

    name: str
    turns: list[str]

    def let_in(self) -> None:
        self.turns.append(self.name)


# -- sessions

MAIL = (
    (b"HELO x\r\n", b"250 hi\r\n"),
    (b"MAIL FROM:<a@b>\r\n", b"250 OK\r\n"),
    (b"RCPT TO:<b@c>\r\n", b"250 OK\r\n"),
    (b"DATA\r\n", b"354 go\r\n"),
    (b"text\r\n.\r\n", b"250 OK\r\n"),
    (b"QUIT\r\n", b"221 bye\r\n"),
)
HOGS = {"refused commands": b"STARTTLS\r\n", "long commands": b"NOOP " + b"x" * 20_000 + b"\r\n", "a chunk": b"x"}
READ_OCTETS = {"a chunk": 256 * 1024}
"""What is read in a turn, if that is not a read of commands."""
FIRST_READ_OCTETS = 2 * 1024 * 1024
"""While a sender of mail data is alone, it is read in large blocks: one of them may be under way."""
MOST_TURNS = 3


@pytest.mark.parametrize("number", [3, 12])
@pytest.mark.parametrize("name", HOGS)
def test_a_mail_beside_senders_that_never_stop_waits_for_a_few_of_their_turns(name: str, number: int) -> None:
    """However many they are."""
    clock = trio.testing.MockClock()
    dog = Watchdog()
    limits = Limits(commands_without_mail=0, bad_commands=0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            runner = CoroutineRunner()
            await nursery.start(dog.run)
            await nursery.start(runner.run, nursery)
            company = partial(Stage, nursery, clock, watchdog=dog, runner=runner)
            hogs = [company(limits=limits, sender=EndlessSocket()) for _ in range(number)]
            good = company()
            for each in (*hogs, good):
                await each.start()
                await each.feed(each.receiver, b"220 hello\r\n")
            for hog in hogs:
                if name == "a chunk":
                    await hog.feed(hog.sender, b"BDAT 2147483647\r\n")
            for hog in hogs:
                assert isinstance(hog.sender, EndlessSocket)
                hog.sender.flood(HOGS[name])
            runner.release()

            def heard() -> int:
                octets = 0
                for hog in hogs:
                    assert isinstance(hog.sender, EndlessSocket)
                    hog.sender.reads = 0
                    assert hog.sender.leg
                    octets += hog.sender.leg.octets_in
                return octets

            for _ in range(20 + 8 * number):
                heard()
                await trio.lowlevel.checkpoint()
            for command, reply in MAIL:
                for sock, said, other in (
                    (good.sender, command, good.receiver),
                    (good.receiver, reply, good.sender),
                ):
                    before, had = heard(), len(other.written)
                    sock.feed(said)
                    while len(other.written) == had:
                        await trio.lowlevel.checkpoint()
                    is_first = said is MAIL[0][0] and name == "a chunk"
                    most_octets = MOST_TURNS * READ_OCTETS.get(name, 4096) + is_first * FIRST_READ_OCTETS
                    assert heard() - before <= most_octets
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)


async def test_one_that_is_busy_alone_needs_no_turn_of_the_turnstile() -> None:
    async with trio.open_nursery() as nursery:
        dog = Watchdog()
        await nursery.start(dog.run)
        watch = dog.watch()
        await make_busy(watch)
        await trio.testing.wait_all_tasks_blocked()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for _ in range(ROUNDS):
            watch.stretched(WARM_UP_STEPS)
            await watch.pause()
        trio.lowlevel.remove_instrument(steps)
        assert steps.count == ROUNDS
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Steps(trio.abc.Instrument):
    """How many steps all tasks have made."""

    count: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
