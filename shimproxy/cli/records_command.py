"""`shimproxy records`: the records of a directory, one a line, for a person or as JSON."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shimproxy.config.parsers import nearest
from shimproxy.program.process import say
from shimproxy.records.listing import Wanted, records_in
from shimproxy.records.record_json import summary_as_json
from shimproxy.records.text import began_at, shown_address
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.shown import shortened

if TYPE_CHECKING:
    from shimproxy.session.record import SessionRecord

_AGO: Final = re.compile(r"(\d{1,6})([smhdw])", re.ASCII).fullmatch
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FORMS: Final = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")
_NOTHING, _NOT_ALL = 1, 2


def wanted(since: str, until: str, repair: str, to: str) -> Wanted:
    """What the flags ask for. Raises ValueError, which names the flag and the mend."""
    return Wanted(
        _moment("--since", since) if since else 0.0,
        _moment("--until", until) if until else float("inf"),
        _violation(repair) if repair else None,
        to,
    )


def _moment(flag: str, text: str) -> float:
    if ago := _AGO(text):
        return time.time() - int(ago[1]) * _SECONDS[ago[2]]
    from calendar import timegm

    for form in _FORMS:
        try:
            return timegm(time.strptime(text.removesuffix("Z"), form))
        except ValueError:
            pass
    raise ValueError(f"{flag}: {_printable(text)!r} is not a time; write 2026-11-30, 2026-11-30T18:30 (UTC), or 2h")


def _violation(name: str) -> Violation:
    known = {violation.value: violation for violation in Violation}
    if name not in known:
        near = nearest(name[:100], [*known]) or "; `shimproxy explain` lists the names"
        raise ValueError(f"--repair: {_printable(name)!r} is not a name of a repair{near}")
    return known[name]


def directory_of(name: str) -> Path:
    """The directory with this name. Raises ValueError, which names the mend."""
    directory = Path(name)
    if directory.is_file():
        raise ValueError(f"{_printable(name)}: this is a file; `shimproxy ladder FILE` draws one")
    if not directory.is_dir():
        why = "not a directory" if directory.exists() else "there is no such directory"
        raise ValueError(f"{_printable(name)}: {why}; give the one of `run --record DIR`")
    if not os.access(directory, os.R_OK | os.X_OK):
        raise ValueError(f"{_printable(name)}: Permission denied; only its owner may read what --record keeps")
    return directory


def run(directory: Path, wanted: Wanted, *, as_json: bool = False) -> int:
    """List them on standard output, and on standard error what is no record; the exit status."""
    status = _NOTHING
    wrong = 0
    for each in records_in(directory, wanted):
        if each.record is None:
            wrong += 1
            print(f"shimproxy: {_printable(str(each.path))}: {each.problem}", file=sys.stderr)
            continue
        status = 0
        if as_json:
            say(json.dumps({"file": _printable(str(each.path)), **summary_as_json(each.record)}))
        else:
            say(_line(each.path.name, each.record))
    return _NOT_ALL if wrong else status


def _line(name: str, record: SessionRecord) -> str:
    repairs = ", ".join(
        f"{violation}" + (f" ({count})" if count > 1 else "") for violation, count in record.repairs.items()
    )
    return (
        f"{began_at(record)}  {name}  {shown_address(record.sender)} to {shown_address(record.receiver)}, "
        f"{record.seconds:.3f} s: {repairs or 'nothing was repaired'}"
    )


def _printable(text: str) -> str:
    return shortened(os.fsencode(text))
