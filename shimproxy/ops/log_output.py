"""Where log lines go, and how they look: standard error or syslog, text or JSON.

An event has fields, which the journal gives (journal.py); their names are the keys in JSON, and do not change.
"""

from __future__ import annotations

import functools
import json
import logging
import logging.handlers
import socket
import time
from typing import Final

log = logging.getLogger("shimproxy")

STANDARD_ERROR: Final = "stderr"
SYSLOG: Final = "syslog"
SYSLOG_SOCKET: Final = "/dev/log"


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00Z WARNING repair session=... repair=early-reply ...`; syslog has a time of its own."""

    def __init__(self, *, timed: bool = True) -> None:
        super().__init__()
        self._timed = timed

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, if any, follows it."""
        fields: dict[str, object] = getattr(record, "fields", {})
        words = [f"{name}={_quoted(value) if isinstance(value, str) else value}" for name, value in fields.items()]
        time = [_timestamp(record)] if self._timed else []
        line = " ".join((*time, record.levelname, record.getMessage(), *words))
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
        to: "stderr", "syslog", or "syslog:PATH" for a socket other than /dev/log.

    Raises:
        LogUnusable: there is no such socket.
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


def check(to: str) -> None:
    """See whether the log can go there. Raises LogUnusable."""
    _handler(to).close()


def _handler(to: str) -> logging.Handler:
    if to == STANDARD_ERROR:
        return logging.StreamHandler()
    path = to.partition(":")[2] or SYSLOG_SOCKET
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as tried:
            tried.connect(path)
        handler = logging.handlers.SysLogHandler(path, logging.handlers.SysLogHandler.LOG_MAIL, socket.SOCK_DGRAM)
    except OSError as error:
        raise LogUnusable(
            f"log-to: no syslog at {path}: {error.strerror}; start it, name its socket (syslog:PATH), or say stderr"
        ) from None
    handler.ident = "shimproxy: "
    handler.append_nul = False
    return handler
