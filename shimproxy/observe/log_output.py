"""Where log lines go, and how they look: standard error or syslog, text or JSON.

An event has fields, which the journal gives (journal.py); their names are the keys in JSON, and do not change.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import queue
import socket
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, TextIO

from shimproxy.observe.events import Event

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("shimproxy")
# A program that embeds shimproxy and has set up no log would get a message without its fields on standard error.
log.addHandler(logging.NullHandler())

STANDARD_ERROR: Final = "stderr"
SYSLOG: Final = "syslog"
SYSLOG_SOCKET: Final = "/dev/log"
MOST_LINES: Final = 10_000
"""How many wait for whoever reads a pipe."""
_LAST_SECONDS: Final = 1.0
_FACILITY_MAIL: Final = 2
_SEVERITY_INFO: Final = 6
_SEVERITIES: Final = {logging.DEBUG: 7, logging.INFO: _SEVERITY_INFO, logging.WARNING: 4, logging.ERROR: 3}
_MOST_OCTETS: Final = 8192
"""Of a line to syslog; what daemons take as a rule."""


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00Z WARNING repair session=... repair=early-reply ...`; syslog has a time of its own."""

    def __init__(self, *, timed: bool = True) -> None:
        super().__init__()
        self._timed = timed

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, if any, follows it."""
        line = f"{record.levelname} {record.getMessage()}"
        if self._timed:
            line = f"{_timestamp(record)} {line}"
        if fields := getattr(record, "fields", None):
            line = f"{line} {_words(fields)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] = {
            "time": _timestamp(record),
            "level": record.levelname,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def _timestamp(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _words(fields: Mapping[str, object]) -> str:
    """NAME=VALUE for each of them, with quotes where a reader needs them."""
    words = " ".join([f"{name}={value}" for name, value in fields.items()])
    # Few lines need any, and to look for that in the whole costs a third of what it costs in each.
    if words.count(" ") < len(fields) and '"' not in words and "= " not in words and words[-1:] != "=":
        return words
    return " ".join([f"{name}={_quoted(value) if isinstance(value, str) else value}" for name, value in fields.items()])


def _quoted(value: str) -> str:
    # Backslashes of what a peer sent are doubled already, so that a quote that ends the field is never a peer's.
    return '"{}"'.format(value.replace('"', '\\"')) if not value or " " in value or '"' in value else value


class LogUnusable(ValueError):
    """The log can't go where it should; the text names that and the mend."""


def set_up(level: str, format_name: str, to: str = STANDARD_ERROR) -> None:
    """Send shimproxy's log somewhere.

    Args:
        level: a name of logging's: DEBUG, INFO, WARNING, ERROR.
        format_name: "text" or "json".
        to: "stderr", "syslog", or "syslog:PATH" for a socket other than /dev/log. Lines are lost, and counted, while
            there is no such socket: `check` says whether there is one.
    """
    handler = _handler(to)
    handler.setFormatter(JsonFormatter() if format_name == "json" else TextFormatter(timed=to == STANDARD_ERROR))
    # What the formatters do not show is not gathered (logging HOWTO, "Optimization"): it is half the cost of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    for before in log.handlers:
        before.close()
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False


def check_log(to: str) -> None:
    """See whether the log can go there now. Raises LogUnusable."""
    if to != STANDARD_ERROR:
        path = _syslog_socket(to)
        try:
            _connected(path).close()
        except OSError as error:
            raise LogUnusable(
                f"log-to: no syslog at {path}: {error.strerror or error}; start it, name its socket (syslog:PATH), or "
                "use stderr"
            ) from None


def _handler(to: str) -> logging.Handler:
    if to == STANDARD_ERROR:
        return PipeHandler(sys.stderr) if _may_block(sys.stderr) else logging.StreamHandler()
    return Syslog(_syslog_socket(to))


def _syslog_socket(to: str) -> str:
    return to.partition(":")[2] or SYSLOG_SOCKET


def _may_block(stream: TextIO | None) -> bool:
    """Whether whoever reads it can keep a writer waiting."""
    try:
        mode = os.fstat(stream.fileno()).st_mode if stream else 0
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class _Lossy(logging.Handler):
    """A handler that never waits: a line that is not taken is lost, counted, and told of by the next that is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Log a line, if that is possible at once."""
        if self._lost:
            told = log.makeRecord(
                log.name, Event.LOST.level, "", 0, Event.LOST.value, (), None, extra={"fields": {"lines": self._lost}}
            )
            if self._took(told):
                self._lost = 0
        if self._lost or not self._took(record):
            self._lost += 1

    def _took(self, record: logging.LogRecord) -> bool:
        raise NotImplementedError


class PipeHandler(_Lossy):
    """Standard error where it is a pipe or a socket: mail must not wait for whoever reads the log.

    A thread of its own writes, so that nothing is set on what other programs may share.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(MOST_LINES)
        threading.Thread(target=self._write_forever, name="log", daemon=True).start()
        atexit.register(self.wait)

    def _took(self, record: logging.LogRecord) -> bool:
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            return False
        return True

    def _write_forever(self) -> None:
        while True:
            line = self._lines.get()
            with contextlib.suppress(OSError, ValueError):
                self._write((line + "\n").encode("utf-8", "backslashreplace"))
            self._lines.task_done()

    def _write(self, octets: bytes) -> None:
        # Not by the stream, whose lock whoever flushes it at the end of the program would wait for.
        number = self._stream.fileno()
        while octets:
            octets = octets[os.write(number, octets) :]

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
        super().close()


class Syslog(_Lossy):
    """The socket of a syslog daemon (RFC 3164), which may come and go."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._sock: socket.socket | None = None

    def _took(self, record: logging.LogRecord) -> bool:
        priority = _FACILITY_MAIL << 3 | _SEVERITIES.get(record.levelno, _SEVERITY_INFO)
        line = f"<{priority}>shimproxy: {self.format(record)}".encode()[:_MOST_OCTETS]
        for _ in range(2):  # the second time with a new connection: the daemon may have begun anew
            try:
                self._sock = self._sock or _connected(self._path)
                self._sock.send(line)
            except BlockingIOError:
                return False
            except OSError:
                self._disconnect()
            else:
                return True
        return False

    def _disconnect(self) -> None:
        if self._sock:
            self._sock.close()
            self._sock = None

    def close(self) -> None:
        """Another handler takes over."""
        self._disconnect()
        super().close()


def _connected(path: str) -> socket.socket:
    """A socket to a syslog daemon. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock
