"""Listening and accepting in batches."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Protocol

import trio

from shimproxy.net.address import Address, written
from shimproxy.net.errors import ListenFailed

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 1024
# What accept() may report that is one connection's misfortune, or passes: the listener goes on.
_OUT_OF_MEANS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS = 0.1


async def open_listeners(address: Address) -> list[socket.socket]:
    """Non-blocking listening sockets for `address`; a host of "" means all addresses, IPv6 and IPv4.

    Raises ListenFailed.
    """
    try:
        found = await trio.socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ListenFailed(
            f"cannot listen on {address}: unknown host {address.host!r}; give an address of this machine"
        ) from error
    listeners: list[socket.socket] = []
    port = address.port
    try:
        for family, _, _, _, sockaddr in found:
            sockaddr = (sockaddr[0], port, *sockaddr[2:])
            try:
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and len(found) > 1:
                    continue  # a kernel without IPv6
                raise
            listeners.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(sockaddr)
            sock.listen(BACKLOG)
            port = sock.getsockname()[1]  # with port 0, all addresses get the same one
    except OSError as error:
        for sock in listeners:
            sock.close()
        raise ListenFailed(f"cannot listen on {address}: {_mend(error, address)}") from error
    return listeners


def prepare(listener: socket.socket) -> None:
    """Make a listening socket ready for `accept_forever`."""
    listener.setblocking(False)
    if listener.family != socket.AF_UNIX:
        # On Linux an accepted socket has it from its listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _mend(error: OSError, address: Address) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"the port is taken; stop what listens there (ss -ltnp 'sport = {address.port}') or choose another"
        case errno.EACCES:
            return "not permitted; use a port from 1024 on, or give the process CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; 'ip address' shows those it has"
        case _:
            return error.strerror or str(error)


class Room(Protocol):
    """How many connections whoever takes them has room for."""

    @property
    def full(self) -> bool:
        """Whether there is none for another."""

    async def not_full(self) -> None:
        """Return when there is."""


async def accept_forever(
    listener: socket.socket,
    room: Room,
    take: Callable[[socket.socket, str], None],
    trouble: Callable[[str], None],
) -> None:
    """Accept connections, as many at a time as there are and `room` has, and `take` each with its peer's address.

    While there is no room, the others wait in the kernel's queue. Ends when cancelled. What accept() reports is told
    to `trouble`; want of file descriptors or memory makes a pause.
    """
    while True:
        await trio.lowlevel.wait_readable(listener)
        while True:
            if room.full:
                await room.not_full()
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                trouble(f"accept: {error.strerror}")
                if error.errno in _OUT_OF_MEANS:
                    await trio.sleep(_PAUSE_SECONDS)
                break
            sock.setblocking(False)
            take(sock, written(peer))
