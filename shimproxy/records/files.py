"""A directory of session records, one file each, kept within a size and an age.

Invariants:

1. A file is there whole or not at all, and only its owner may read it.
2. Only files that shimproxy has written are ever deleted, the oldest first: by their name and by their first line.
3. A directory that can't be written to is one line in the log, and nothing to the sessions.

A session's file is written when it is over. What is too much or too old is looked for beside the sessions, in a
thread, as a large directory takes its time: so the size may be overrun by what comes in meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs
import trio

from shimproxy.observe.events import Event
from shimproxy.observe.journal import error_name
from shimproxy.records.listing import RECORD_NAME
from shimproxy.records.recording import RecordWhat
from shimproxy.records.text import FIRST_LINE, began_at, record_text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shimproxy.observe.journal import Journal
    from shimproxy.records.recording import Recording
    from shimproxy.session.record import SessionRecord

_SUFFIX: Final = ".session.txt"
_PART = re.compile(r"\.(.+)\.part").fullmatch
_DAY_SECONDS: Final = 86_400.0
_LEFT_BEHIND_SECONDS: Final = 3600.0
"""A part of a file that is so old was left behind by a process that is no more."""
_LOOK_SECONDS: Final = 600.0
_LOOK_AFTER: Final = 1 / 16
"""The directory is looked through when this part of its size was written, or after that time."""


class _Kept(NamedTuple):
    """A file of ours; they sort by age."""

    name: str
    octets: int


@attrs.define(eq=False)
class RecordFiles:
    """The files of one process; others may write to the same directory."""

    recording: Recording
    _journal: Journal
    _now: Callable[[], float] = time.time
    _lost: int = 0
    """How many could not be written since one could."""
    _failures: int = 0
    _octets_since_look: int = 0
    _look: trio.Event = attrs.field(factory=trio.Event)

    def keep(self, record: SessionRecord) -> None:
        """Write the file of a session that is over, if it is to be kept. Never raises for what the system refuses."""
        if self.recording.what is RecordWhat.REPAIRED and not record.is_remarkable:
            return
        octets = record_text_of(record).encode("ascii")
        try:
            self._write(name_of(record), octets)
        except OSError as error:
            self._lost += 1
            self._failures += 1
            if self._lost == 1:
                why = error.strerror or str(error)
                message = f"cannot write to {self.recording.directory}: {why}; sessions continue without records"
                self._journal.tell(Event.RECORDS, reason=error_name(error), message=message)
            return
        if self._lost:
            message = f"shimproxy writes to {self.recording.directory} again"
            self._journal.tell(Event.RECORDS, reason="written_again", lost=self._lost, message=message)
            self._lost = 0
        self._octets_since_look += len(octets)
        if self._octets_since_look > self.recording.most_octets * _LOOK_AFTER:
            self._look.set()

    def count_failures(self) -> int:
        """How many files could not be written."""
        return self._failures

    def _write(self, name: str, octets: bytes) -> None:
        """Put a file there, whole. Raises OSError."""
        directory = self.recording.directory
        part = directory / f".{name}.part"
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(octets)
            part.rename(directory / name)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise

    # -- limits

    async def prune_forever(self) -> None:
        """Delete what is too much or too old, now and then, until cancelled."""
        while True:
            self._octets_since_look, self._look = 0, trio.Event()
            await trio.to_thread.run_sync(self.prune)
            with trio.move_on_after(_LOOK_SECONDS):
                await self._look.wait()

    def prune(self) -> None:
        """Delete what is too much or too old."""
        kept = sorted(self._kept())
        octets = sum(each.octets for each in kept)
        oldest = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._now() - self.recording.days * _DAY_SECONDS))
        for name, size_octets in kept:
            if octets <= self.recording.most_octets and name[: len(oldest)] >= oldest:
                break
            if self._is_ours(name):
                octets -= size_octets
                self._delete(name)

    def _kept(self) -> Iterator[_Kept]:
        """The files whose names say that they are ours; parts that were left behind are deleted on the way."""
        with contextlib.suppress(OSError), os.scandir(self.recording.directory) as found:
            for each in found:
                part = _PART(each.name)
                if not RECORD_NAME(part[1] if part else each.name):
                    continue
                with contextlib.suppress(OSError):  # somebody else's process may delete it, too
                    status = each.stat(follow_symlinks=False)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    if not part:
                        yield _Kept(each.name, status.st_size)
                    elif self._now() - status.st_mtime > _LEFT_BEHIND_SECONDS and self._is_ours(each.name):
                        self._delete(each.name)

    def _is_ours(self, name: str) -> bool:
        """Whether it begins as our files do, or is the beginning of that."""
        first = f"{FIRST_LINE}\n".encode()
        with contextlib.suppress(OSError), (self.recording.directory / name).open("rb") as file:
            found = file.read(len(first))
            return found == first or (name.startswith(".") and first.startswith(found))
        return False

    def _delete(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.recording.directory / name).unlink()


def name_of(record: SessionRecord) -> str:
    """The name of a session's file: when it began, in UTC, and its id."""
    return began_at(record).replace("-", "").replace(":", "") + f"-{record.id}{_SUFFIX}"
