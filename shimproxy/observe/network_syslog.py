"""A syslog server somewhere else: lines as in RFC 5424, over UDP (RFC 5426) or TCP (RFC 6587, octet counting).

A thread of its own looks up the name, connects and writes, so that no mail waits for that server. What it does not
take is lost, and counted.
"""

from __future__ import annotations

import enum
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Final

from shimproxy.observe.fitting import fitted
from shimproxy.observe.formats import timestamp
from shimproxy.observe.lossy import Threaded, lost_record
from shimproxy.observe.priorities import MOST_OCTETS, priority

if TYPE_CHECKING:
    import logging

CONNECT_SECONDS: Final = 5.0
"""For a connection, and for a server to take a line."""
_PAUSE_SECONDS: Final = 1.0
"""After a failure, what comes for so long is lost."""
_MOST_NAME: Final = 255


class Transport(enum.StrEnum):
    """How lines get there."""

    UDP = "udp"
    TCP = "tcp"


class NetworkSyslog(Threaded):
    """A syslog server, which may come and go."""

    def __init__(self, transport: Transport, host: str, port: int) -> None:
        super().__init__()
        self._transport, self._host, self._port = transport, host, port
        self._sock: socket.socket | None = None
        self._not_before = 0.0
        self._ends = f"{_printable(socket.gethostname())} shimproxy {os.getpid()}"
        self._failed = 0
        """How many lines were lost and not told of."""
        self._sent = 0
        """How many lines went out with the last write, which may be lost without an error until the next one."""
        self._told = 0
        """How many that write said were lost."""
        self.start()

    def _line(self, record: logging.LogRecord) -> bytes:
        line = f"<{priority(record)}>1 {timestamp(record)} {self._ends} {record.getMessage()} - {self.format(record)}"
        return line.encode("ascii", "backslashreplace")

    def _encoded(self, record: logging.LogRecord) -> bytes:
        octets = fitted(record, self._line, MOST_OCTETS)
        return octets if self._transport is Transport.UDP else b"%d %s" % (len(octets), octets)

    def _write(self, octets: bytes) -> None:
        if time.monotonic() >= self._not_before:
            for _ in range(2):  # the second time with a new connection: the server may have begun anew
                try:
                    self._send(octets)
                except OSError as error:
                    self._note_failure(error)
                    self._let_go()
                else:
                    return
            self._not_before = time.monotonic() + _PAUSE_SECONDS
        self._failed += 1
        self.lost += 1

    def _send(self, octets: bytes) -> None:
        """Send a line, after one that says how many were lost before it.

        Raises OSError, perhaps for what was sent before: a refusal comes after the datagram.
        """
        self._sock = self._sock or syslog_socket(self._transport, self._host, self._port)
        if self._transport is Transport.TCP:
            self._look_for_end(self._sock)
        told = self._failed
        if told:
            self._sock.sendall(self._encoded(lost_record(told)))
            self._sent, self._told, self._failed = 0, told, 0
        self._sock.sendall(octets)
        self._sent, self._told = (1, told) if self._transport is Transport.UDP else (0, 0)

    def _note_failure(self, error: OSError) -> None:
        """Count what was sent before and is lost with it."""
        if self._transport is Transport.TCP or isinstance(error, ConnectionRefusedError):
            self.lost += self._sent
            self._failed += self._sent + self._told
        self._sent = self._told = 0

    @staticmethod
    def _look_for_end(sock: socket.socket) -> None:
        """Raise OSError if the server has closed: what is written then is lost, although no error says so."""
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if poll.poll(0) and not sock.recv(1024):
            raise ConnectionResetError

    def _let_go(self) -> None:
        if self._sock:
            self._sock.close()
            self._sock = None


def syslog_socket(transport: Transport, host: str, port: int) -> socket.socket:
    """A socket to a syslog server. Raises OSError."""
    if transport is Transport.TCP:
        return socket.create_connection((host, port), CONNECT_SECONDS)
    [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _printable(name: str) -> str:
    """A name as RFC 5424 section 6 has it: printable ASCII, without blanks."""
    return "".join(each if "!" <= each <= "~" else "-" for each in name)[:_MOST_NAME] or "-"
