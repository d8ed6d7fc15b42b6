"""How a figure of sessions is declared: a field of SessionRecord counts it, and its metadata say what it is.

observe/metrics.py adds up the fields of all sessions and shows them to monitors. docs/adding.md has the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Labelled = Iterable[tuple[tuple[str, ...], int]]
    """The values of labels, in their order, and how many were counted with them."""

_COUNTER: Final = "counter"


@attrs.frozen(kw_only=True)
class Counter:
    """A family of figures to which a field of SessionRecord adds."""

    family: str
    """Its name in Prometheus, after `shimproxy_`. Several fields may add to one family."""
    about: str
    labels: tuple[str, ...]
    values: tuple[str, ...]
    """The values of the labels, of a field that is one number."""
    labelled: Callable[[Any], Labelled] | None
    """Makes labels and counts of a record, for a field that is several numbers."""


def counter(
    family: str,
    about: str,
    *,
    by: tuple[str, ...] = (),
    labelled: Callable[[Any], Labelled] | None = None,
    **fixed: str,
) -> dict[str, Counter]:
    """The metadata of a field of SessionRecord that is counted.

    A field that is one number gives the values of its labels, if there are any: `leg="sender"`. A field that is
    several gives the names of its labels, and a function of the record that returns their values and counts.
    """
    made = Counter(family=family, about=about, labels=by or (*fixed,), values=(*fixed.values(),), labelled=labelled)
    return {_COUNTER: made}


def counters_of(of: type[attrs.AttrsInstance]) -> dict[str, Counter]:
    """The fields of a class that are counted."""
    return {each.name: each.metadata[_COUNTER] for each in attrs.fields(of) if _COUNTER in each.metadata}
