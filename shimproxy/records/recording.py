"""What is kept of sessions, and where, as an operator says it; files.py keeps it."""

from __future__ import annotations

import enum
import errno
import os
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from pathlib import Path


class RecordWhat(enum.StrEnum):
    """Which sessions are kept."""

    ALL = "all"
    REPAIRED = "repaired"


@attrs.frozen(kw_only=True)
class Recording:
    """What is kept of sessions, where, and for how long: what Settings say of it."""

    directory: Path
    what: RecordWhat
    most_octets: int
    days: float
    mail_data: bool

    def make_directory(self) -> None:
        """See to it that files can be written there. Raises OSError."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
