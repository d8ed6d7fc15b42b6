"""Whether trio's loop is to have a turn: the driver has rounds of its own, in which no task of trio's goes on."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class TrioTurn:
    """What the driver and all that it wakes know of that."""

    due: bool = False
    """Whether a task of this process was woken or started, or pauses, so that the driver lets it go on at once."""
