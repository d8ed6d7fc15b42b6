"""Listening, accepting in batches, and refusing cheaply."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.net.errors import OUT_OF_DESCRIPTORS, OUT_OF_MEANS, ListenFailed
from shimproxy.net.origin import make_transparent

if TYPE_CHECKING:
    from shimproxy.net.address import Address

BACKLOG = 1024
# Whatever accept() reports is one connection's misfortune, or passes: the listener goes on.
PAUSE_SECONDS = 0.1
_ACCEPTED_AT_A_TIME = 8  # by a task; then others get their turn

File = tuple[int, int]
"""A file's device and inode: what it is, whatever its name leads to later."""
Take = Callable[[socket.socket, object], None]
"""Is given a connection and its peer's address."""


async def open_listeners(address: Address, *, transparent: bool = False) -> list[socket.socket]:
    """Non-blocking listening sockets for `address`; a host of "" means all addresses, IPv6 and IPv4.

    With `transparent` they take connections to other hosts' addresses too, which TPROXY turns there. Raises
    ListenFailed.
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
            if transparent:
                make_transparent(sock)
            sock.bind(sockaddr)
            sock.listen(BACKLOG)
            port = sock.getsockname()[1]  # with port 0, all addresses get the same one
    except OSError as error:
        for sock in listeners:
            sock.close()
        raise ListenFailed(f"cannot listen on {address}: {_mend(error, address)}") from error
    return listeners


class UnixListener(socket.socket):
    """A listening socket that was made in the file system, and goes from there with its end.

    What stands at its path may have become another's since: it is known by the file that was bound, whose inode is no
    other's as long as the socket is open.
    """

    file: File | None = None

    @property
    def in_place(self) -> bool:
        """Whether its path still leads to it."""
        try:
            return self.file is not None and _file_at(self.getsockname()) == self.file
        except OSError:
            return False

    def take_away(self) -> None:
        """Take it out of the file system, if it is there."""
        if self.in_place:
            with contextlib.suppress(OSError):
                os.unlink(self.getsockname())


def _file_at(path: str) -> File:
    """Raises OSError."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def open_unix_listener(path: str, mode: int) -> UnixListener:
    """A listening socket in the file system, which those may connect to whom its mode lets write.

    One that was left behind makes room for it. Raises ListenFailed.
    """
    sock = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            left = _file_at(path)
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise FileExistsError(errno.EEXIST, "the file there is not a socket")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    if _file_at(path) == left:
                        os.unlink(path)  # of one that has not come to its end
                except BlockingIOError:
                    pass  # somebody listens there, and accepts nothing
        sock.bind(path)
        sock.file = _file_at(path)
        os.chmod(path, mode)
        sock.listen(BACKLOG)
    except OSError as error:
        close_listener(sock)
        mend = (
            "another program listens there; stop it or choose another path"
            if error.errno == errno.EADDRINUSE
            else f"{error.strerror}; check the path and its permissions"
        )
        raise ListenFailed(f"cannot listen on unix:{path}: {mend}") from error
    return sock


def close_listener(listener: socket.socket) -> None:
    """Close a listening socket for good, if that is not done; one that was made in the file system goes from there."""
    if isinstance(listener, UnixListener):
        listener.take_away()  # before its inode may become another's
    listener.close()


def is_in_place(listener: socket.socket) -> bool:
    """Whether those who connect find it; one that was made in the file system may have been removed from there."""
    return not isinstance(listener, UnixListener) or listener.in_place


def taken_over(descriptor: int, file: File | None) -> UnixListener:
    """One that the program before this one made, which may not have told which file it is."""
    listener = UnixListener(fileno=descriptor)
    listener.file = file
    if file is None:
        with contextlib.suppress(OSError):
            listener.file = _file_at(listener.getsockname())
    return listener


def prepare(listener: socket.socket) -> None:
    """Make a listening socket ready for `accept_forever`."""
    listener.setblocking(False)
    if listener.family != socket.AF_UNIX:
        # On Linux an accepted socket has it from its listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _mend(error: OSError, address: Address) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"the port is taken; stop the program that listens there (ss -ltnp 'sport = {address.port}') or "
                "choose another port; or restart this shimproxy, if it has the port"
            )
        case errno.EACCES:
            return "not permitted; use a port from 1024 on, or give the process CAP_NET_BIND_SERVICE"
        case errno.EPERM:
            return "TPROXY needs CAP_NET_RAW or CAP_NET_ADMIN; give the process one of them"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; 'ip address' shows those it has"
        case _:
            return error.strerror or str(error)


def descriptors_left() -> int:
    """How many more file descriptors this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    taken = 0
    with contextlib.suppress(OSError):  # there is no /proc, or no descriptor for it
        taken = len(os.listdir("/proc/self/fd"))
    return max(0, soft - taken)


@attrs.define(eq=False)
class Spare:
    """A file descriptor that is kept for the time when there are no others.

    Without one, connections can't even be refused: they would hang in the kernel's queue, and it would not be empty.
    """

    _descriptor: int | None = None

    def __attrs_post_init__(self) -> None:
        self._open()

    def accept(self, listener: socket.socket, refuse: Take) -> bool:
        """Accept a connection in its place, if there is one, and have it closed by `refuse`; whether that was possible.

        Raises what accept() does.
        """
        if self._descriptor is None:
            self._open()
            if self._descriptor is None:
                return False
        self.close()
        try:
            refuse(*listener.accept())
        except BlockingIOError:
            pass
        finally:
            self._open()
        return True

    def close(self) -> None:
        """Give it away."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        with contextlib.suppress(OSError):  # somebody else was faster: there will be another time
            self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def turn_away(sock: socket.socket, octets: bytes) -> None:
    """Send those to a peer that has just connected, and close.

    One that has spoken already may see a RST and nothing else: to wait for it would cost what it was refused for.
    """
    with contextlib.suppress(OSError):
        sock.send(octets, socket.MSG_DONTWAIT)
    sock.close()


def accept_one(listener: socket.socket, take: Take, refuse: Take, spare: Spare) -> bool:
    """Accept a connection, and have it taken with its peer's address; whether there was one.

    For want of file descriptors, it is refused instead. Raises what else accept() does.
    """
    try:
        sock, peer = listener.accept()
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in OUT_OF_DESCRIPTORS and spare.accept(listener, refuse):
            return True
        raise
    sock.setblocking(False)
    take(sock, peer)
    return True


async def accept_forever(
    listener: socket.socket, take: Take, refuse: Take, spare: Spare, trouble: Callable[[OSError], None]
) -> None:
    """Accept connections as `accept_one` does, until cancelled.

    What it raises is told to `trouble`; want of memory, or of even the spare descriptor, makes a pause.
    """
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            for _ in range(_ACCEPTED_AT_A_TIME):
                if not accept_one(listener, take, refuse, spare):
                    break
        except OSError as error:
            trouble(error)
            if error.errno in OUT_OF_MEANS:
                await trio.sleep(PAUSE_SECONDS)
