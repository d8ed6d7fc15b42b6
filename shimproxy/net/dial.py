"""Dialling the receiver: a plain non-blocking connect for each of its addresses in turn."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.net.address import Address, written
from shimproxy.net.errors import OUT_OF_MEANS, DeadlinePassed, DialFailed, NoMeans
from shimproxy.net.leg import Leg

if TYPE_CHECKING:
    from shimproxy.net.driver import Readiness
    from shimproxy.net.watch import Watch

_PENDING = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)
_Sockaddr = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


async def look_up(address: Address, seconds: float) -> list[tuple[socket.AddressFamily, _Sockaddr]]:
    """The socket addresses of a receiver. Raises DialFailed, also after that many seconds."""
    host = address.host
    try:
        with trio.fail_after(seconds):
            found = await trio.socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DialFailed(f"unknown host {host!r}; check the name, or give an address") from error
    except trio.TooSlowError:
        raise DialFailed(f"no answer about the host {host!r} within {seconds:g} s; check the resolver") from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


@attrs.define(eq=False)
class Dialler:
    """Opens receiver legs to one address.

    A literal is looked up once. A name is looked up for each leg, so that a receiver which moves is followed.
    """

    address: Address
    driver: Readiness
    _literal: list[tuple[socket.AddressFamily, _Sockaddr]] | None = None

    async def look_up(self, seconds: float) -> list[tuple[socket.AddressFamily, _Sockaddr]]:
        """The socket addresses of the receiver. Raises DialFailed, also after that many seconds."""
        if self._literal:
            return self._literal
        addresses = await look_up(self.address, seconds)
        if self.address.is_literal:
            self._literal = addresses
        return addresses

    async def dial(self, watch: Watch, connect_seconds: float) -> Leg:
        """A connected receiver leg. Raises DialFailed with the last address's reason, NoMeans, Interrupted."""
        reason = "no address"
        for family, sockaddr in await self.look_up(connect_seconds):
            try:
                return await self._connect(watch, family, sockaddr, connect_seconds)
            except NoMeans:
                raise
            except DialFailed as failed:
                reason = str(failed)
        raise DialFailed(reason)

    async def _connect(
        self, watch: Watch, family: socket.AddressFamily, sockaddr: _Sockaddr, connect_seconds: float
    ) -> Leg:
        where = written(sockaddr)
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise _failed(where, error) from error
        leg: Leg | None = None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex(sockaddr)
            if code in _PENDING:
                code = sock.connect_ex(sockaddr)  # on loopback it is there already
            leg = Leg("receiver", sock, self.driver, watch, where, writable=code not in _PENDING)
            if code in _PENDING:
                watch.allow(connect_seconds, "the connection to the receiver")
                await leg.takes()
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code not in (0, errno.EISCONN):
                raise DialFailed(f"{where}: {os.strerror(code)}")
        except BaseException as error:
            if leg is not None:
                leg.close()
            sock.close()
            if isinstance(error, DeadlinePassed):
                raise DialFailed(f"{where}: no connection within {connect_seconds:g} s") from None
            if isinstance(error, OSError):
                raise _failed(where, error) from error
            raise
        return leg


def _failed(where: str, error: OSError) -> DialFailed:
    kind = NoMeans if error.errno in OUT_OF_MEANS else DialFailed
    return kind(f"{where}: {error.strerror}")
