"""Where log lines go: standard error, the socket of a syslog daemon, or a syslog server somewhere else.

How they look is formats.py's.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Final

from shimproxy.net.address import Address, parse_endpoint
from shimproxy.net.errors import AddressError
from shimproxy.observe.fitting import fitted
from shimproxy.observe.formats import formatter_of
from shimproxy.observe.lossy import Lossy, log
from shimproxy.observe.network_syslog import NetworkSyslog, Transport, syslog_socket
from shimproxy.observe.priorities import MOST_OCTETS, priority
from shimproxy.observe.text_lines import FileHandler, PipeHandler

if TYPE_CHECKING:
    from typing import TextIO

STANDARD_ERROR: Final = "stderr"
SYSLOG: Final = "syslog"
SYSLOG_SOCKET: Final = "/dev/log"


class LogUnusable(ValueError):
    """The log can't go where it should; the text names that and the mend."""


def set_up(level: str, format_name: str, to: str = STANDARD_ERROR) -> None:
    """Send shimproxy's log somewhere.

    Args:
        level: a name of logging's: DEBUG, INFO, WARNING, ERROR.
        format_name: "text", "json" or "ecs".
        to: "stderr", "syslog", or "syslog:PATH" for a socket other than /dev/log; or "syslog:udp:HOST:PORT" or
            "syslog:tcp:HOST:PORT". Lines are lost, and counted, while there is no such syslog: `check` says whether
            there is one.
    """
    handler = _handler(to)
    handler.setFormatter(formatter_of(format_name, timed=to == STANDARD_ERROR))
    # What the formatters do not show is not gathered (logging HOWTO, "Optimization"): it is half the cost of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    lost = lines_lost()
    for before in log.handlers:
        before.close()
    if isinstance(handler, Lossy):
        handler.lost = lost
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False


def lines_lost() -> int:
    """How many lines of this process were lost, as whoever reads them was too slow or was not there."""
    return sum(each.lost for each in log.handlers if isinstance(each, Lossy))


def check_log(to: str) -> None:
    """See whether the log can go there now. Raises LogUnusable."""
    if to == STANDARD_ERROR:
        return
    where = server_of(to)
    try:
        (syslog_socket(*where) if where else _connected(_syslog_socket(to))).close()
    except OSError as error:
        at = f"{where[1]} port {where[2]} ({where[0]})" if where else _syslog_socket(to)
        raise LogUnusable(
            f"log-to: no syslog at {at}: {error.strerror or error}; start it, name its socket (syslog:PATH) or its "
            "address (syslog:udp:HOST:PORT), or use stderr"
        ) from None


def server_of(to: str) -> tuple[Transport, str, int] | None:
    """The syslog server that `log-to` names; None if it names none. Raises AddressError."""
    for transport in Transport:
        if to.startswith(f"{SYSLOG}:{transport}:"):
            address = parse_endpoint(to.removeprefix(f"{SYSLOG}:{transport}:"))
            if not isinstance(address, Address) or not address.host or not address.port:
                raise AddressError(f"{to!r} names no syslog server; write syslog:{transport}:HOST:PORT")
            return transport, address.host, address.port
    return None


def _handler(to: str) -> logging.Handler:
    if to == STANDARD_ERROR:
        return PipeHandler(sys.stderr) if _may_block(sys.stderr) else FileHandler()
    if where := server_of(to):
        return NetworkSyslog(*where)
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


class Syslog(Lossy):
    """The socket of a syslog daemon (RFC 3164), which may come and go."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._sock: socket.socket | None = None

    def _took(self, record: logging.LogRecord) -> bool:
        line = fitted(record, self._line, MOST_OCTETS)
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

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"<{priority(record)}>shimproxy: {self.format(record)}".encode()

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
