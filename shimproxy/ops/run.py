"""What `shimproxy run` does for its process: says where it listens, and gets file descriptors enough."""

from __future__ import annotations

import contextlib
import resource
import sys


def say(line: str) -> None:
    """Print a line for whoever started the program; it may have stopped listening."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def allow_many_files() -> None:
    """Raise the limit of open files as far as it goes: a session takes two, and one more while it is idle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
