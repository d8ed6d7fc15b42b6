"""The receivers as operators see and drain them: what `/receivers` answers, and how it is asked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from shimproxy.observe.metrics import up_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_DRAINING: Final = re.compile(r'receiver_draining\{receiver="((?:[^"\\]|\\.)*)"\}').fullmatch


def receivers_of(figures: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each receiver: its name, whether it is drained, and whether it has greeted when it was last dialled."""
    up = up_of(figures)
    found: list[dict[str, Any]] = []
    for name, draining in figures.items():
        if its := _DRAINING(name):
            labels = name.removeprefix("receiver_draining")
            seen = up.get(f"receiver_up{labels}")
            found.append(
                {
                    "receiver": re.sub(r"\\(.)", r"\1", its[1]),
                    "draining": bool(draining),
                    "up": None if seen is None else bool(seen),
                }
            )
    return found
