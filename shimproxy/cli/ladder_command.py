"""`shimproxy ladder`: sessions that were recorded, drawn in the terminal or as SVG."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shimproxy.program.process import say
from shimproxy.records import ladder_svg
from shimproxy.records.ladder import drawn
from shimproxy.records.session_ladder import ladder_of
from shimproxy.records.text import NotARecord, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.session.record import SessionRecord

_MOST_OCTETS: Final = 8 * 1024 * 1024
"""Several times what the largest record takes."""


def read_all(files: Sequence[str], *, one: bool = False) -> list[SessionRecord]:
    """The records in these files; "-" is standard input. Raises ValueError, which names the file and the place."""
    if one and len(files) != 1:
        raise ValueError("--svg: an SVG holds one session; give one FILE")
    return [_read(file) for file in files]


def _read(file: str) -> SessionRecord:
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as source:
            octets = source.read(_MOST_OCTETS + 1)
        if len(octets) > _MOST_OCTETS:
            raise NotARecord("larger than any record")
        return read(octets.decode("latin-1"))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    except NotARecord as error:
        raise ValueError(f"{file}: {error}") from None


def run(records: Sequence[SessionRecord], *, svg: bool = False) -> int:
    """Draw them on standard output; 0."""
    if svg:
        say(ladder_svg.svg(records[0]).removesuffix("\n"))
        return 0
    columns = shutil.get_terminal_size((100, 24)).columns
    for record in records:
        for line in (*drawn(ladder_of(record), columns), ""):
            say(line)
    return 0
