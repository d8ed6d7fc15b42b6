"""`shimproxy health`: asks the admin address of a running shimproxy, as a container's health check does."""

from __future__ import annotations

import http.client
import socket
from typing import Final

from shimproxy.net.address import Address

_SECONDS: Final = 5.0


def ask(where: str, path: str) -> tuple[bool, str]:
    """Whether the answer at an admin address, HOST:PORT or unix:PATH, is that all is well; and what was said."""
    connection = _Connection(where)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        said = response.read(1000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer from {where}: {error or type(error).__name__}"
    finally:
        connection.close()
    return response.status == http.client.OK, said


class _Connection(http.client.HTTPConnection):
    """HTTP to an admin address."""

    def __init__(self, where: str) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._where = where

    def connect(self) -> None:
        """Connect to where it listens."""
        if self._where.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(_SECONDS)
            self.sock.connect(self._where.removeprefix("unix:"))
        else:
            address = Address.parse(self._where)
            self.sock = socket.create_connection((address.host or "localhost", address.port), _SECONDS)
