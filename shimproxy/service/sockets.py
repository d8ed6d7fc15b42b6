"""The sockets of listeners: opened here, or passed by systemd."""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING, Final

from shimproxy.config.listener import TPROXY, Passed
from shimproxy.net.activation import check_use, passed_sockets
from shimproxy.net.address import Address, UnixPath
from shimproxy.net.errors import ListenFailed
from shimproxy.net.listen import close_listener, open_listeners, open_unix_listener
from shimproxy.net.origin import make_transparent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shimproxy.config.listener import Listener

_MODE: Final = 0o666  # as anybody on this machine reaches a port of it, too; the directory may keep some out
ListeningSockets = dict[str, list[socket.socket]]
"""Listener, as `named` calls it -> its sockets."""


def named(listeners: Iterable[Listener]) -> list[tuple[str, Listener]]:
    """Each listener with a name for its sockets: its address, told apart from another with the same, as of port 0."""
    seen: Counter[str] = Counter()
    named: list[tuple[str, Listener]] = []
    for listener in listeners:
        address = str(listener.address)
        named.append((f"{address} {seen[address]}", listener))
        seen[address] += 1
    return named


def sockets_of(listeners: Iterable[Listener], listening: ListeningSockets) -> list[tuple[int, socket.socket]]:
    """Every socket where these listeners listen, with the index of its listener."""
    return [(index, sock) for index, (name, _) in enumerate(named(listeners)) for sock in listening[name]]


def check_passed(listeners: Iterable[Listener]) -> None:
    """See whether each socket that systemd has passed is of one of them, and of one alone. Raises ListenFailed."""
    check_use([listener.address.name for listener in listeners if isinstance(listener.address, Passed)])


async def open_sockets(listener: Listener) -> list[socket.socket]:
    """The sockets where it listens. Raises ListenFailed."""
    match listener.address:
        case Address() as address:
            return await open_listeners(address, transparent=listener.tproxy)
        case UnixPath(path):
            return [open_unix_listener(path, _MODE)]
        case Passed(name):
            sockets = passed_sockets(name)
            try:
                make_all_transparent(listener, sockets)
            except ListenFailed:
                close_sockets(sockets)
                raise
            return sockets


def make_all_transparent(listener: Listener, sockets: Iterable[socket.socket]) -> None:
    """See to it that sockets which are there already take what TPROXY turns to them, if that is wanted.

    Raises ListenFailed.
    """
    for sock in sockets if listener.tproxy else ():
        try:
            make_transparent(sock)
        except OSError as error:
            mend = f"{error.strerror}; give the process CAP_NET_RAW, or say Transparent=yes in the socket unit"
            if sock.family == socket.AF_UNIX:
                mend = f"TPROXY works only with TCP; remove ',{TPROXY}'"
            raise ListenFailed(f"cannot listen on {listener.address},{TPROXY}: {mend}") from error


def close_sockets(sockets: Iterable[socket.socket]) -> None:
    """Close them for good; what systemd listens on stays where it is."""
    for sock in sockets:
        close_listener(sock)
