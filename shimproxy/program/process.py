"""What a command does for its process: says something to whoever started it, and gets file descriptors enough."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import select
import sys
from typing import TextIO


def say(line: str) -> None:
    """Print a line for whoever started the program; it may have stopped listening."""
    put(line + "\n")


def take_any_name() -> None:
    """Have standard output take names of files that are no text, as the octets that they are, and raise for none."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def put(text: str) -> None:
    """Print a text as it is, at once, for whoever started the program; it may have stopped listening."""
    if sys.stdout is not None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            lost_output()


def complain(line: str) -> None:
    """Print a line on standard error, in printable characters: it may name a file whatever that is called."""
    shown = line if line.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
    print(f"shimproxy: {shown}", file=sys.stderr)


def put_octets(octets: bytes) -> None:
    """Write octets to standard output, for a program that reads them; as `put`."""
    if sys.stdout is not None:
        try:
            sys.stdout.buffer.write(octets)
            sys.stdout.buffer.flush()
        except OSError:
            lost_output()


def lost_output(error: OSError | None = None) -> OSError | None:
    """Why what was printed has nowhere to go, if it has not; then no more of it is written, not even at the end.

    `error` is what a command has raised: it may be about that.
    """
    lost = error if error is not None and _is_of_output(error) else None
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            lost = lost or error
    if lost:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and (stream is sys.stdout or not _has_reader(stream)):
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return lost


def _is_of_output(error: OSError) -> bool:
    if isinstance(error, BrokenPipeError):  # a peer's socket breaks, too
        return not all(_has_reader(stream) for stream in (sys.stdout, sys.stderr) if stream is not None)
    return error.errno == errno.ENOSPC and error.filename is None


def _has_reader(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):
        return True
    return not any(events & select.POLLERR for _, events in poll.poll(0))


def allow_many_files() -> None:
    """Raise the limit of open files as far as it goes: a session takes two, and one more while it is idle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
