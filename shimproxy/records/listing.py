"""The records in a directory: which of them are asked for, and what their first lines say.

Only the head of a file is read, and its commands where recipients are asked for: a directory may hold tens of
thousands. `shimproxy ladder` reads a file whole, and says what is wrong with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.records.text import NotARecord, moment_of, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shimproxy.session.record import SessionRecord
    from shimproxy.smtp.catalogue import Violation

RECORD_NAME: Final = re.compile(r"(\d{8}T\d{6})\.\d{3}Z-[0-9a-z-]+\.session\.txt", re.ASCII).fullmatch
"""What a file of ours is called; its first group is the second in which its session began, in UTC."""
_HEAD_OCTETS: Final = 16 * 1024
_MOST_OCTETS: Final = 8 * 1024 * 1024
_RECIPIENT: Final = re.compile(
    rb"^ *[0-9.]+  (?:sender|shimproxy) +>>> (?:shimproxy|receiver) +\d+  command[^:\n]*: RCPT TO:(.*)$",
    re.IGNORECASE | re.MULTILINE,
)


@attrs.frozen
class Wanted:
    """Which records are asked for."""

    since: float = 0.0
    """In seconds since 1970: those of sessions that began then or later."""
    until: float = float("inf")
    repair: Violation | None = None
    to: str = ""
    """A part of a recipient's address."""


@attrs.frozen
class Listed:
    """One file of the directory."""

    path: Path
    record: SessionRecord | None
    """Without its trace; None if this is not a record."""
    problem: str = ""


def records_in(directory: Path, wanted: Wanted) -> Iterator[Listed]:
    """The records that are asked for, the oldest first, and whatever only bears the name of one. Raises OSError."""
    for name in sorted(name for name in os.listdir(directory) if _may_be_wanted(name, wanted)):
        path = directory / name
        try:
            record = _record(path, wanted)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # which was deleted since, as it was too old
                yield Listed(path, None, error.strerror or str(error))
        except NotARecord as error:
            yield Listed(path, None, str(error))
        else:
            if record:
                yield Listed(path, record)


def _may_be_wanted(name: str, wanted: Wanted) -> bool:
    found = RECORD_NAME(name)
    if not found:
        return False
    with contextlib.suppress(ValueError):
        began = moment_of(found[1])
        return began + 1 > wanted.since and began <= wanted.until
    return False


def _record(path: Path, wanted: Wanted) -> SessionRecord | None:
    """The record in a file if it is asked for. Raises OSError, NotARecord."""
    # Whoever may write there might put a FIFO there, which would be waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        octets = file.read(_HEAD_OCTETS)
        record = read_head(octets.decode("latin-1"))
        began = record.ended_at - record.seconds
        if not wanted.since <= began <= wanted.until:
            return None
        if wanted.repair and wanted.repair not in record.repairs and wanted.repair not in record.seen:
            return None
        if wanted.to:
            octets += file.read(_MOST_OCTETS)
            to = wanted.to.lower().encode("ascii", "backslashreplace")
            if not any(to in found[1].lower() for found in _RECIPIENT.finditer(octets)):
                return None
    return record
