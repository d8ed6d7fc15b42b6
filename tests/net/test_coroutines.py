"""Coroutines without a task: where they go on, what they may await, and how they end (net/coroutines.py)."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from shimproxy.net.coroutines import CoroutineRunner
from shimproxy.net.driver import Driver
from shimproxy.net.errors import DeadlinePassed, Interrupted
from shimproxy.net.leg import Leg
from shimproxy.net.watch import Watch, Watchdog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine


@attrs.define(eq=False)
class Place:
    """Where coroutines run, and what they have noted."""

    nursery: trio.Nursery
    dog: Watchdog
    runner: CoroutineRunner
    noted: list[str] = attrs.field(factory=list)

    def start(self, coroutine: Callable[[Watch], Coroutine[object, object, None]]) -> Watch:
        watch = self.dog.watch()
        watch.run(coroutine(watch), self.runner, "one")
        return watch


@contextlib.asynccontextmanager
async def place() -> AsyncIterator[Place]:
    async with trio.open_nursery() as nursery:
        dog, runner = Watchdog(), CoroutineRunner()
        await nursery.start(dog.run)
        await nursery.start(runner.run, nursery)
        yield Place(nursery, dog, runner)
        nursery.cancel_scope.cancel()


async def test_it_starts_at_once_and_goes_on_where_it_is_woken(autojump_clock: trio.testing.MockClock) -> None:
    async with place() as here:

        async def waits(watch: Watch) -> None:
            here.noted.append("started")
            await watch.wait()
            here.noted.append("woken")

        watch = here.start(waits)
        assert here.noted == ["started"]
        watch.wake()
        assert here.noted == ["started", "woken"]
        assert not here.runner.running
        watch.wake()  # nothing waits any more


async def test_none_is_stepped_within_the_step_of_another() -> None:
    async with place() as here:

        async def waits(watch: Watch) -> None:
            await watch.wait()
            here.noted.append("the other")

        other = here.start(waits)

        async def wakes(watch: Watch) -> None:
            other.wake()
            here.noted.append("this one")

        here.start(wakes)
        assert here.noted == ["this one", "the other"]


async def test_none_is_stepped_within_the_step_of_another_that_has_a_task() -> None:
    async with place() as here:

        async def waits(watch: Watch) -> None:
            await watch.wait()
            here.noted.append("the other")

        other = here.start(waits)

        async def wakes(watch: Watch) -> None:
            async with watch.in_task():
                other.wake()
                here.noted.append("this one")
                await trio.lowlevel.checkpoint()

        here.start(wakes)
        await trio.testing.wait_all_tasks_blocked()
        assert here.noted == ["this one", "the other"]


async def test_a_pause_lets_trios_tasks_run() -> None:
    async with place() as here:

        async def task() -> None:
            here.noted.append("task")

        async def pauses(watch: Watch) -> None:
            here.nursery.start_soon(task)
            watch.wake()  # a pause is no wait: this is lost
            await watch.pause()
            here.noted.append("after the pause")
            await watch.wait()

        watch = here.start(pauses)
        watch.wake()
        assert here.noted == []
        await trio.testing.wait_all_tasks_blocked()
        assert here.noted == ["task", "after the pause"]
        assert here.runner.running


@pytest.mark.parametrize("end", ["deadline", "interruption"])
async def test_a_deadline_and_an_interruption_reach_it(end: str, autojump_clock: trio.testing.MockClock) -> None:
    async with place() as here:

        async def waits(watch: Watch) -> None:
            watch.allow(10, "what never comes")
            try:
                await watch.wait()
            except (DeadlinePassed, Interrupted) as error:
                here.noted.append(type(error).__name__)

        watch = here.start(waits)
        if end == "interruption":
            watch.interrupt()
        else:
            await trio.sleep(13)
        assert here.noted == ["Interrupted" if end == "interruption" else "DeadlinePassed"]


async def test_trios_operations_are_for_a_coroutine_in_a_task(autojump_clock: trio.testing.MockClock) -> None:
    async with place() as here:

        async def sleeps(watch: Watch) -> None:
            async with watch.in_task():
                await trio.sleep(1)
                with trio.move_on_after(1):
                    await watch.wait()
                await watch.pause()
            here.noted.append(f"{trio.current_time():g}")
            await watch.wait()
            here.noted.append("woken")
            async with watch.in_task():
                await trio.sleep(1)
            async with watch.in_task():
                await trio.sleep(1)
            here.noted.append(f"{trio.current_time():g}")

        watch = here.start(sleeps)
        await trio.sleep(3)
        watch.wake()
        assert here.noted == ["2", "woken"]
        await trio.sleep(3)
        assert here.noted == ["2", "woken", "5"]
        assert not here.runner.running


async def test_they_are_an_error_without_one() -> None:
    async with place() as here:

        async def sleeps(_: Watch) -> None:
            try:
                await trio.sleep(1)
            except AssertionError as error:
                here.noted.append(str(error))

        here.start(sleeps)
        assert here.noted == ["an operation of trio's outside of Watch.in_task()"]


async def test_a_task_within_a_task_is_an_error() -> None:
    async with place() as here:

        async def nests(watch: Watch) -> None:
            async with watch.in_task():
                try:
                    await watch.enter_task()
                except AssertionError:
                    here.noted.append("refused")

        here.start(nests)
        await trio.testing.wait_all_tasks_blocked()
        assert here.noted == ["refused"]


@pytest.mark.parametrize("in_task", [False, True])
async def test_an_exception_leaves_through_the_nursery(in_task: bool) -> None:
    broken = []
    try:
        async with place() as here:

            async def breaks(watch: Watch) -> None:
                await watch.wait()
                if in_task:
                    async with watch.in_task():
                        await trio.lowlevel.checkpoint()
                        raise ValueError("broken")
                raise ValueError("broken")

            here.start(breaks).wake()
            await trio.sleep_forever()
    except* ValueError as errors:
        broken.append(errors)
    assert broken


@pytest.mark.parametrize("where", ["wait", "pause", "task", "turnstile"])
async def test_a_cancelled_runner_cancels_them(where: str, autojump_clock: trio.testing.MockClock) -> None:
    noted: list[str] = []

    async def stays(watch: Watch) -> None:
        try:
            while True:
                if where == "wait":
                    await watch.wait()
                elif where == "task":
                    async with watch.in_task():
                        await trio.sleep_forever()
                else:
                    watch.stretched(1000 if where == "turnstile" else 1)
                    await watch.pause()
        except trio.Cancelled:
            noted.append("cancelled")
            raise
        finally:
            watch.close()

    async with place() as here:
        for _ in range(3):
            here.start(stays)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        assert noted == []
    assert noted == ["cancelled"] * 3
    assert not here.runner.running


@pytest.mark.parametrize("left", ["before", "at once"])
async def test_one_that_leaves_its_task_as_it_is_cancelled_is_cancelled(left: str) -> None:
    """In the round of trio's loop in which the runner is cancelled: before it or after."""
    event = trio.Event()
    async with place() as here:

        async def stays(watch: Watch) -> None:
            try:
                async with watch.in_task():
                    if left == "before":
                        await event.wait()
                here.noted.append("has left its task")
                await watch.wait()
            finally:
                here.noted.append("over")
                watch.close()

        for _ in range(8):
            if left == "before":
                here.start(stays)
        await trio.testing.wait_all_tasks_blocked()
        if left == "before":
            event.set()
        else:
            for _ in range(8):
                here.start(stays)
    assert here.noted.count("over") == 8
    assert not here.runner.running


async def test_one_that_awaits_on_its_way_out_is_closed() -> None:
    async with place() as here:

        async def stays(watch: Watch) -> None:
            try:
                await watch.wait()
            finally:
                here.noted.append("leaving")
                await watch.wait()
                here.noted.append("never")

        here.start(stays)
    assert here.noted == ["leaving"]


async def test_a_descriptor_that_is_reused_within_a_round_has_no_event_of_its_predecessors() -> None:
    """Both sockets have events in one round; the coroutine of the first closes the second, and opens another."""
    driver = Driver()
    async with trio.open_nursery() as nursery:
        dog = Watchdog(turnstile=driver.turnstile)
        await nursery.start(dog.run)
        await nursery.start(driver.runner.run, nursery)
        pairs = [socket.socketpair() for _ in range(3)]
        for mine, _ in pairs:
            mine.setblocking(False)
        watch = dog.watch()
        legs = [Leg("sender", mine, driver, watch, "peer") for mine, _ in pairs[:2]]
        opened: list[Leg] = []

        async def closes_the_other() -> None:
            await legs[0].wait_to_read()
            number = legs[1].sock.fileno()
            legs[1].close()
            os.dup2(pairs[2][0].fileno(), number)
            opened.append(Leg("receiver", socket.socket(fileno=number), driver, watch, "peer"))
            legs[0].close()

        watch.run(closes_the_other(), driver.runner, "one")
        for _, peer in pairs[:2]:
            peer.send(b"x")
        await nursery.start(driver.run)
        await trio.testing.wait_all_tasks_blocked()
        assert [leg.readable for leg in opened] == [False]
        opened[0].close()
        nursery.cancel_scope.cancel()
    for pair in pairs:
        for sock in pair:
            sock.close()
    driver.close()


async def test_a_deadline_counts_from_now_where_the_process_has_stood_still(
    mock_clock: trio.testing.MockClock,
) -> None:
    """What came meanwhile is met before the watchdog has its round."""
    driver = Driver()
    mine, peer = socket.socketpair()
    mine.setblocking(False)
    async with trio.open_nursery() as nursery:
        dog = Watchdog(turnstile=driver.turnstile)
        driver.catch_up = dog.catch_up
        await nursery.start(dog.run)
        await nursery.start(driver.runner.run, nursery)
        watch = dog.watch()
        leg = Leg("sender", mine, driver, watch, "peer")

        async def has_something_to_do() -> None:
            await leg.wait_to_read()
            watch.allow(10, "the next command")

        watch.run(has_something_to_do(), driver.runner, "one")
        peer.send(b"x")
        mock_clock.jump(250)
        driver.turnstile.look()
        assert watch.deadline >= 260
        nursery.cancel_scope.cancel()
    leg.close()
    peer.close()
    driver.close()
