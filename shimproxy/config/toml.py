"""A settings file as far as it is TOML: a line that is not is told of, and the lines around it count.

So one reading tells of all that is wrong in a file. What a faulty line would have set is not known: it is neither used
nor missed.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.config.options import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_FAULTS: Final = 10
_MOST_SHOWN: Final = 200
_AT_LINE: Final = re.compile(r"at line (\d+)").search
_ENTRY: Final = re.compile(r"\s*([\w-]+)\s*=\s*([^\"'#\[{]*?)\s*(?:#.*)?").fullmatch
_TABLE: Final = re.compile(r"\s*\[")
_SWITCHED: Final = {"yes": "true", "on": "true", "no": "false", "off": "false", "true": "true", "false": "false"}


@attrs.frozen
class ParsedFile:
    """What a text comes to."""

    entries: dict[str, Any]
    """Those that could be read."""
    faults: list[str]
    """Why others could not, each with its mend where one is known."""
    unread: frozenset[str] | None
    """The settings on faulty lines; None if any setting may stand where nothing could be read."""


def parse_toml(text: str) -> ParsedFile:
    """Read a text line by line where it is faulty: after ten faults nothing of it is used."""
    import tomllib  # only the supervisor reads files, if there are any

    lines = text.split("\n")
    faults: list[str] = []
    unread: set[str] = set()
    last = 0
    while len(faults) < _MOST_FAULTS:
        try:
            return ParsedFile(tomllib.loads("\n".join(lines)), faults, frozenset(unread))
        except (ValueError, RecursionError) as error:  # numbers without end, lists within lists
            message = str(error)[:_MOST_SHOWN]
            found = _AT_LINE(message)
            at = int(found[1]) if found else 0
            if last and at <= last:
                break  # what is told now may be for want of the line before
            line = lines[at - 1] if at else ""
            faults.append(f"not TOML: {message}{_mend(line)}")
            if not at:
                break
            last = at
            unread |= {name for each in _without(lines, at - 1) if (name := each.partition("=")[0].strip())}
    return ParsedFile({}, faults, None)


def _without(lines: list[str], index: int) -> Iterator[str]:
    """Empty a line, and those of its table if it is to begin one; what stood there."""
    begins_table = _TABLE.match(lines[index])
    while True:
        yield lines[index]
        lines[index] = ""
        index += 1
        if not begins_table or index >= len(lines) or _TABLE.match(lines[index]):
            return


def _mend(line: str) -> str:
    """The line as it has to be, where that is known; never a secret."""
    found = _ENTRY(line) if len(line) <= _MOST_SHOWN and line.isprintable() else None
    option = BY_NAME.get(found[1]) if found else None
    if not found or not option or option.secret or option.table or not found[2]:
        return ""
    text = found[2]
    try:
        option.read([text])
    except ValueError:
        return ""
    value = _SWITCHED.get(text.lower(), "") if option.switch else text if option.numeric else json.dumps(text)
    return f"; write {option.name} = {value}" if value else ""
