"""A worker's collections look at what is new alone (daemon/garbage.py)."""

from __future__ import annotations

import gc
import linecache
import weakref
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from shimproxy.daemon.garbage import collect_what_is_new, give_back_memory

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.define(eq=False, slots=False)
class Circle:
    itself: Circle | None = None

    def __attrs_post_init__(self) -> None:
        self.itself = self


@pytest.fixture
def frozen() -> Iterator[None]:
    """What a test sets aside is everybody's again after it."""
    yield
    gc.unfreeze()


async def collecting(nursery: trio.Nursery) -> None:
    nursery.start_soon(collect_what_is_new)
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.usefixtures("frozen")
async def test_what_a_collection_has_left_is_not_looked_at_again(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        await collecting(nursery)
        stays = [Circle() for _ in range(10)]
        gc.collect(0)
        assert not any(isinstance(each, Circle) for each in gc.get_objects())
        seen = [weakref.ref(each) for each in stays]
        new = weakref.ref(Circle())
        stays.clear()
        gc.collect()
        assert new() is None, "a circle that is new"
        assert all(each() for each in seen), "they became circles without a use after they were looked at"
        await trio.sleep(3700)
        assert not any(each() for each in seen), "an hour has passed"
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("frozen")
async def test_it_ends_with_the_worker(autojump_clock: trio.testing.MockClock) -> None:
    before = list(gc.callbacks)
    async with trio.open_nursery() as nursery:
        await collecting(nursery)
        assert gc.callbacks != before
        nursery.cancel_scope.cancel()
    assert gc.callbacks == before


def test_what_a_start_has_needed_is_given_back() -> None:
    linecache.cache["<made>"] = (1, None, ["x = 1\n"], "<made>")
    give_back_memory()
    assert "<made>" not in linecache.cache


def test_it_is_left_alone_where_the_c_library_can_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shimproxy.daemon.garbage.ctypes.CDLL", lambda _: object())
    give_back_memory()
