"""The series that metrics are told in, from a worker to its supervisor, which needs to know nothing else of them.

A series is named as in the text format 0.0.4, labels and all, and is a number; so the figures of several workers are
added by name. The number of series is bounded: receivers beyond the first MOST_RECEIVERS share the label "other".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

Series = dict[str, float]
"""Name with labels -> value."""

MOST_RECEIVERS: Final = 100
LATEST: Final = "latest_"
"""What the name of a series begins with that is a time, of which the latest counts."""
OTHER: Final = "other"


def series(family: str, **labels: str) -> str:
    """The name of a series."""
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{family}{{{inside}}}" if inside else family


def add_figures(to: Series, more: Mapping[str, float]) -> None:
    """Add the figures of another worker, or of another time."""
    for name, value in more.items():
        to[name] = max(to.get(name, 0), value) if name.startswith(LATEST) else to.get(name, 0) + value


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
