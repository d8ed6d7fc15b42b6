"""`shimproxy explain`: what a name in the log or a reply means, or which names there are."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from shimproxy.help.command import show
from shimproxy.help.explain.entries import NameKind, entries, find
from shimproxy.help.explain.example import played
from shimproxy.help.explain.page import as_json, choice_of_replies, explained, listed
from shimproxy.program.process import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shimproxy.help.explain.entries import Explanation
    from shimproxy.help.explain.example import Example
    from shimproxy.help.text import Layout


def run(words: Sequence[str], *, as_object: bool = False) -> Callable[[], int]:
    """What explains a name, given in one word or several, or lists all. Raises UnknownName."""
    known = entries()
    if not words:
        return partial(_say_json, known) if as_object else lambda: show(lambda layout: [*listed(known, layout.columns)])
    asked = " ".join(words)
    found = find(asked, known)
    if as_object:
        return partial(_say_json, found)
    if len(found) > 1:
        return lambda: show(lambda layout: layout.drawn(choice_of_replies(asked, found)))
    return lambda: show(partial(_page, found[0]))


def example_of(entry: Explanation) -> Example | None:
    """The example of a name, played now."""
    event = entry.name if entry.kind is NameKind.EVENT else "repair"
    return played(entry.example, event) if entry.example else None


def _page(entry: Explanation, layout: Layout) -> list[str]:
    return layout.drawn(explained(entry, example_of(entry), layout.columns))


def _say_json(found: Sequence[Explanation]) -> int:
    """Print one object for one name, a list for several; 0."""
    if len(found) == 1:
        say(json.dumps(as_json(found[0], example_of(found[0])), indent=2))
    else:
        say(json.dumps([as_json(entry, None) for entry in found], indent=2))
    return 0
