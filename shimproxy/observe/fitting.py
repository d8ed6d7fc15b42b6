"""Lines that are no longer than a reader takes: what is long in one is shortened, so that JSON stays JSON.

A line that is just cut is no object any more, and all of it is lost to a program that reads it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

from shimproxy.observe.composites import Pairs
from shimproxy.observe.formats import traceback_of

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

_STEPS: Final = ((400, 20), (200, 20), (100, 20), (100, 10), (40, 5))
"""How many characters of a value stay, and how many things of one kind; the first that fits is taken."""
_TRACEBACK: Final = 10
"""By which a traceback may be longer than a value."""
_CUT: Final = "..."
_ESCAPE: Final = 3
"""Characters after the backslash of the longest escape, `\\\\xNN`: a part of one would be another text."""


def fitted(record: logging.LogRecord, line_of: Callable[[logging.LogRecord], bytes], most_octets: int) -> bytes:
    """The line of a record, or of as much of it as fits."""
    octets = line_of(record)
    for step in _STEPS:
        if len(octets) <= most_octets:
            break
        octets = line_of(_shorter(record, *step))
    return octets[:most_octets]


def _shorter(record: logging.LogRecord, most_characters: int, most_things: int) -> logging.LogRecord:
    shorter = copy.copy(record)
    fields = {
        name: Pairs({each: _cut(text, most_characters) for each, text in pair.items()} for pair in value[:most_things])
        if isinstance(value, Pairs)
        else _cut(value, most_characters)
        if isinstance(value, str)
        else value
        for name, value in getattr(record, "fields", {}).items()
    }
    shorter.__dict__["fields"] = fields
    if text := traceback_of(record):
        most = _TRACEBACK * most_characters
        shorter.exc_text = text if len(text) <= most else _CUT + text[-most:]
    return shorter


def _cut(text: str, most_characters: int) -> str:
    if len(text) <= most_characters:
        return text
    kept, backslash, rest = text[:most_characters].rpartition("\\")
    if not backslash or len(rest) >= _ESCAPE:
        return text[:most_characters] + _CUT
    return kept.rstrip("\\") + _CUT
