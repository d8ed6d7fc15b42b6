"""A place in line that comes as its time ends (session/line.py); the rest is in service/test_receiver_line.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from shimproxy.net.errors import DeadlinePassed
from shimproxy.session.line import has_its_turn


async def test_a_place_that_comes_with_the_end_of_its_time_is_had() -> None:
    place = SimpleNamespace(has_come=False)

    async def comes_late() -> None:
        place.has_come = True
        raise DeadlinePassed("a connection to the receiver")

    left: list[object] = []
    route: Any = SimpleNamespace(
        line_up=lambda _: place, stay_in_line=lambda: None, wait_seconds=1.0, leave_line=left.append
    )
    watch: Any = SimpleNamespace(allow=lambda *_: None)
    sender: Any = SimpleNamespace(leg=SimpleNamespace(readable=False, wait_to_read=comes_late))
    assert await has_its_turn(route, watch, sender)
    assert not left
