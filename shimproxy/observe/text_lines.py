"""Standard error, which takes lines many at a time; where it is a pipe, a thread of its own writes.

Lines of sessions and mails are made at once, without logging's records: these cost more than all else about a line.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Protocol

from shimproxy.observe.lossy import Threaded, log

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO


class TakesLines(Protocol):
    """A handler that takes lines as they are to be written."""

    def take(self, lines: Sequence[str]) -> None:
        """Write these lines, if that is possible at once."""


def lines_of(formatter: type[logging.Formatter]) -> TakesLines | None:
    """What takes lines at INFO as this formatter makes them, if the log goes there and nowhere else."""
    if len(log.handlers) != 1 or log.filters or log.propagate or not log.isEnabledFor(logging.INFO):
        return None
    handler = log.handlers[0]
    if type(handler.formatter) is not formatter or handler.filters or handler.level > logging.INFO:
        return None
    return handler if isinstance(handler, FileHandler | PipeHandler) else None


class FileHandler(logging.StreamHandler["TextIO"]):
    """Standard error where it is a file or a terminal."""

    def take(self, lines: Sequence[str]) -> None:
        """Write these lines."""
        with self.lock or contextlib.nullcontext(), contextlib.suppress(OSError, ValueError):
            self.stream.write("\n".join([*lines, ""]))
            self.stream.flush()


class PipeHandler(Threaded):
    """Standard error where it is a pipe or a socket: mail must not wait for whoever reads the log.

    A thread of its own writes, so that nothing is set on what other programs may share.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self.start()

    def take(self, lines: Sequence[str]) -> None:
        """Have these lines written, unless too many wait."""
        with self.lock or contextlib.nullcontext():
            self.put("\n".join(lines), len(lines))

    def _encoded(self, record: logging.LogRecord) -> bytes:
        return self._octets(self.format(record))

    def _octets(self, text: str) -> bytes:
        return (text + "\n").encode("utf-8", "backslashreplace")

    def _write(self, octets: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            # Not by the stream, whose lock whoever flushes it at the end of the program would wait for.
            number = self._stream.fileno()
            while octets:
                octets = octets[os.write(number, octets) :]
