"""The guard over instructions: what it calls grown."""

from __future__ import annotations

from tests.instructions.__main__ import GROWTH, GROWTH_OF_SESSIONS, LINE, MOST_OF_A_SESSION, costs_too_much, grown
from tests.instructions.sessions import SESSION


def test_a_figure_may_grow_by_a_little_and_be_smaller() -> None:
    before = {"base64": 1000, "prose": 1000}

    assert grown({"base64": 1000 + round(1000 * GROWTH), "prose": 10}, before) == []
    assert grown({"base64": 1000 + round(2000 * GROWTH), "prose": 10}, before) == ["base64"]


def test_a_session_may_vary_by_more() -> None:
    kind = "instructions of a session"

    assert grown({kind: 1000 + round(1000 * GROWTH_OF_SESSIONS)}, {kind: 1000}) == []
    assert grown({kind: 1000 + round(2000 * GROWTH_OF_SESSIONS)}, {kind: 1000}) == [kind]


def test_a_kind_without_a_figure_is_not_passed_over() -> None:
    assert grown({"base64": 1000, "html": 1}, {"base64": 1000}) == ["html"]


def test_the_line_of_a_mail_may_take_a_small_share_of_its_session() -> None:
    most = round(100_000 * MOST_OF_A_SESSION)

    assert not costs_too_much({SESSION: 100_000, LINE: most})
    assert costs_too_much({SESSION: 100_000, LINE: most + 1})
