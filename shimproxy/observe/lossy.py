"""Handlers of the log that never wait: what is not taken is lost, counted, and told of."""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import threading
import time
from typing import Final

from shimproxy.observe.events import Event

log = logging.getLogger("shimproxy")
# A program that embeds shimproxy and has set up no log would get a message without its fields on standard error.
log.addHandler(logging.NullHandler())

MOST_LINES: Final = 10_000
"""How many wait for whoever reads them."""
_LAST_SECONDS: Final = 1.0


class Lossy(logging.Handler):
    """A handler that never waits: a line that is not taken is lost, counted, and told of by the next that is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._untold = 0
        self.lost = 0
        """How many lines were lost, told of or not."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a line, if that is possible at once."""
        if not (self._told_of_loss() and self._took(record)):
            self._lose(1)

    def _told_of_loss(self) -> bool:
        """Say how many lines were lost, if any were; whether that is said."""
        if self._untold and self._took(lost_record(self._untold)):
            self._untold = 0
        return not self._untold

    def _lose(self, lines: int) -> None:
        self._untold += lines
        self.lost += lines

    def _took(self, record: logging.LogRecord) -> bool:
        raise NotImplementedError


def lost_record(lines: int) -> logging.LogRecord:
    """What says that so many lines are missing."""
    event = Event.LOST
    return log.makeRecord(log.name, event.level, "", 0, event.value, (), None, extra={"fields": {"lines": lines}})


class Threaded(Lossy):
    """A handler whose lines are written by a thread of its own, as to write may take long."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[bytes | None] = queue.Queue(MOST_LINES)
        """None ends the thread."""

    def start(self) -> None:
        """Begin to write."""
        threading.Thread(target=self._write_to_the_end, name="log", daemon=True).start()
        atexit.register(self.wait)

    def _took(self, record: logging.LogRecord) -> bool:
        try:
            self._lines.put_nowait(self._encoded(record))
        except queue.Full:
            return False
        return True

    def put(self, text: str, lines: int) -> None:
        """Have so many lines written, after one that says how many were lost before them."""
        if self._told_of_loss():
            with contextlib.suppress(queue.Full):
                self._lines.put_nowait(self._octets(text))
                return
        self._lose(lines)

    def _octets(self, text: str) -> bytes:
        raise NotImplementedError

    def _encoded(self, record: logging.LogRecord) -> bytes:
        raise NotImplementedError

    def _write_to_the_end(self) -> None:
        while (octets := self._lines.get()) is not None:
            self._write(octets)
            self._lines.task_done()
        self._let_go()

    def _write(self, octets: bytes) -> None:
        raise NotImplementedError

    def _let_go(self) -> None:
        """Nothing more is written."""

    def wait(self) -> None:
        """Let what was logged be written, for as long as a reader may reasonably take."""
        end = time.monotonic() + _LAST_SECONDS
        with self._lines.all_tasks_done:
            while self._lines.unfinished_tasks and (left := end - time.monotonic()) > 0:
                self._lines.all_tasks_done.wait(left)

    def close(self) -> None:
        """Another handler takes over."""
        self.wait()
        atexit.unregister(self.wait)
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        super().close()
