"""`shimproxy ladder`: sessions that were recorded, drawn in the terminal, or written for other programs."""

from __future__ import annotations

import enum
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shimproxy.program.process import put_octets, say
from shimproxy.records import ladder_svg
from shimproxy.records.ladder import drawn
from shimproxy.records.mermaid import mermaid
from shimproxy.records.pcapng import pcapng
from shimproxy.records.record_json import record_as_json
from shimproxy.records.session_ladder import ladder_of
from shimproxy.records.text import NotARecord, read
from shimproxy.smtp.shown import shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.session.record import SessionRecord

_MOST_OCTETS: Final = 8 * 1024 * 1024
"""Several times what the largest record takes."""


class Form(enum.StrEnum):
    """As what a session is written; each but the first is a flag."""

    TEXT = "text"
    SVG = "svg"
    MERMAID = "mermaid"
    JSON = "json"
    PCAPNG = "pcapng"


_OF_ONE: Final = {Form.SVG: "an SVG", Form.MERMAID: "a diagram"}


def read_all(files: Sequence[str], form: Form = Form.TEXT) -> list[SessionRecord]:
    """The records in these files; "-" is standard input. Raises ValueError, which names the file and the place."""
    if form in _OF_ONE and len(files) != 1:
        raise ValueError(f"--{form}: {_OF_ONE[form]} holds one session; give one FILE")
    if form is Form.PCAPNG and sys.stdout is not None and sys.stdout.isatty():
        raise ValueError("--pcapng: packets are nothing for a terminal; write them to a file: > session.pcapng")
    if files.count("-") > 1:
        raise ValueError("-: standard input can be read once; give - once")
    return [_read(file) for file in files]


def _read(file: str) -> SessionRecord:
    if file == "-" and sys.stdin is None:
        raise ValueError("-: there is no standard input; give a FILE")
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as source:
            octets = source.read(_MOST_OCTETS + 1)
        if len(octets) > _MOST_OCTETS:
            raise NotARecord("larger than any record")
        return read(octets.decode("latin-1"))
    except IsADirectoryError:
        raise ValueError(f"{_printable(file)}: a directory; `shimproxy records DIR` lists the files in it") from None
    except OSError as error:
        mend = "; `shimproxy records DIR` lists what is there" if isinstance(error, FileNotFoundError) else ""
        raise ValueError(f"{_printable(file)}: {error.strerror}{mend}") from None
    except NotARecord as error:
        raise ValueError(f"{_printable(file)}: {error}") from None


def _printable(file: str) -> str:
    return shortened(os.fsencode(file))


def run(records: Sequence[SessionRecord], form: Form = Form.TEXT) -> int:
    """Write them on standard output; 0."""
    match form:
        case Form.SVG:
            say(ladder_svg.svg(records[0]).removesuffix("\n"))
        case Form.MERMAID:
            for line in mermaid(records[0]):
                say(line)
        case Form.JSON:
            for record in records:
                say(json.dumps(record_as_json(record)))
        case Form.PCAPNG:
            for block in pcapng(records):
                put_octets(block)
        case _:
            columns = shutil.get_terminal_size((100, 24)).columns
            for record in records:
                for line in (*drawn(ladder_of(record), columns), ""):
                    say(line)
    return 0
