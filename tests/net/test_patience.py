"""When the driver waits for events itself: what waits have come to is told to it, and the clock is the test's."""

from __future__ import annotations

import pytest

from shimproxy.net.patience import Patience

MOST_ROUNDS = 2000


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says."""
    now = [100.0]
    monkeypatch.setattr("shimproxy.net.patience.time.monotonic", lambda: now[0])
    return now


def rounds_without_waiting(patience: Patience) -> int:
    """How many rounds with events there are before the next one that waits."""
    for rounds in range(MOST_ROUNDS):
        if patience.may_wait(has_waited=False):
            return rounds
    raise AssertionError("it never waits again")


def harmful_wait(patience: Patience) -> int:
    """What a wait costs whose events come as soon as it is over."""
    patience.waited_in_vain()
    return rounds_without_waiting(patience)


def test_it_waits_as_long_as_waits_find_something(now: list[float]) -> None:
    patience = Patience()
    assert patience.may_wait(has_waited=False)
    assert all(patience.may_wait(has_waited=True) for _ in range(MOST_ROUNDS))


def test_peers_that_are_slow_are_waited_for_again(now: list[float]) -> None:
    """It was no fault of the wait that nothing has come."""
    patience = Patience()
    for _ in range(MOST_ROUNDS):
        patience.waited_in_vain()
        now[0] += 0.004
        assert patience.may_wait(has_waited=False)


def test_events_that_a_wait_has_held_up_make_waits_rare(now: list[float]) -> None:
    patience = Patience()
    left_out = [harmful_wait(patience) for _ in range(12)]
    assert left_out == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]


def test_a_few_that_find_something_beside_others_do_not_make_them_frequent(now: list[float]) -> None:
    patience = Patience()
    for _ in range(8):
        harmful_wait(patience)
    patience.may_wait(has_waited=True)
    assert harmful_wait(patience) == 512


def test_many_that_find_something_do(now: list[float]) -> None:
    patience = Patience()
    harmful_wait(patience)
    harmful_wait(patience)
    for _ in range(2**2 + 2):
        assert patience.may_wait(has_waited=True)
    assert harmful_wait(patience) == 2
