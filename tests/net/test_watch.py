"""Waits with coarse deadlines: never early, at most two ticks late, and interrupted once (net/watch.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from shimproxy.net.errors import DeadlinePassed, Interrupted
from shimproxy.net.watch import Watch, Watchdog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TICK_SECONDS = 1.0


@pytest.mark.parametrize("allowed_seconds", [0.1, 1.0, 2.5, 7.0])
@pytest.mark.parametrize("begun_seconds", [0.0, 0.3, 0.99])
async def test_a_wait_ends_after_its_deadline_and_within_two_ticks(
    allowed_seconds: float, begun_seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    dog = Watchdog(TICK_SECONDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(dog.run)
        await trio.sleep(begun_seconds)
        watch = dog.watch()
        started = trio.current_time()
        watch.allow(allowed_seconds, "something")
        with pytest.raises(DeadlinePassed, match="something"):
            await watch.wait()
        took_seconds = trio.current_time() - started
        nursery.cancel_scope.cancel()
    assert allowed_seconds <= took_seconds <= allowed_seconds + 2 * TICK_SECONDS


async def test_a_wait_that_is_ended_by_two_at_once_ends_once() -> None:
    """As when both legs have something, or a deadline passes just then."""
    watch, ended = Watchdog(TICK_SECONDS).watch(), 0

    async def wait() -> None:
        nonlocal ended
        while True:
            await watch.wait()
            ended += 1

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            for times in range(1, 4):
                await trio.testing.wait_all_tasks_blocked()
                watch.wake()
                watch.wake()
                watch.expire()
                await trio.testing.wait_all_tasks_blocked()
                assert ended == times
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("allowed_seconds", [0.1, 2.5, 7.0])
async def test_a_task_that_never_waits_meets_its_deadline_at_a_pause(
    allowed_seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    dog = Watchdog(TICK_SECONDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(dog.run)
        watch = dog.watch()
        started = trio.current_time()
        watch.allow(allowed_seconds, "something")
        with pytest.raises(DeadlinePassed, match="something"):
            await pauses_for_ever(watch)
        took_seconds = trio.current_time() - started
        nursery.cancel_scope.cancel()
    assert allowed_seconds <= took_seconds <= allowed_seconds + 2 * TICK_SECONDS + 0.25


async def pauses_for_ever(watch: Watch) -> None:
    while True:
        await watch.pause()
        await trio.sleep(0.25)


async def pauses(watch: Watch) -> None:
    await watch.pause()


async def waits(watch: Watch) -> None:
    await watch.wait()


@pytest.mark.parametrize("do", [pauses, waits])
async def test_an_interruption_between_waits_is_met_by_the_next_one_alone(
    do: Callable[[Watch], Awaitable[None]], autojump_clock: trio.testing.MockClock
) -> None:
    dog = Watchdog(TICK_SECONDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(dog.run)
        watch = dog.watch()
        watch.allow(60.0, "something")
        watch.interrupt()
        with pytest.raises(Interrupted):
            await do(watch)
        with pytest.raises(DeadlinePassed):
            await watch.wait()
        nursery.cancel_scope.cancel()


async def test_a_closed_watch_has_no_deadline(autojump_clock: trio.testing.MockClock) -> None:
    dog = Watchdog(TICK_SECONDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(dog.run)
        watch = dog.watch()
        watch.allow(1.0, "something")
        watch.close()
        with trio.move_on_after(60.0) as scope:
            await watch.wait()
        nursery.cancel_scope.cancel()
    assert scope.cancelled_caught
