"""`shimproxy check`: what can only be found out by trying: files, names, addresses and ports."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from shimproxy.net.address import Address, UnixPath, ip_address
from shimproxy.net.driver import BLOCK_OCTETS, Block
from shimproxy.net.errors import DialFailed, ListenFailed, TlsUnusable
from shimproxy.net.kernel import is_own
from shimproxy.net.origin import may_be_transparent
from shimproxy.net.places import Places
from shimproxy.ops import log_output, systemd
from shimproxy.ops.admin import Admin
from shimproxy.ops.gateway import about_gateway
from shimproxy.ops.listener import Passed, SettingsError, check_passed, close_sockets, open_sockets
from shimproxy.ops.log_output import LogUnusable
from shimproxy.ops.values import known_beforehand

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from shimproxy.net.address import Endpoint
    from shimproxy.ops.listener import Listener
    from shimproxy.ops.settings import Settings

Found = tuple["Endpoint", "Endpoint"]
"""A receiver, and an address that its name leads to now."""


async def check(settings: Settings) -> list[str]:
    """Try what `run` would need; remarks on what may be in order or not.

    Raises SettingsError with all that is not.
    """
    problems: list[str] = []
    remarks: list[str] = []
    for each in (check_tls, check_block, check_records, check_capabilities):
        try:
            each(settings)
        except SettingsError as error:
            problems += error.problems
    found: list[Found] = []
    try:
        found = await check_receivers(settings)
    except DialFailed as error:
        problems.append(f"receiver: {error}")
    try:
        log_output.check(settings.log_to)
    except LogUnusable as error:
        problems.append(str(error))
    try:
        check_passed(settings.listen)
    except ListenFailed as error:
        problems.append(str(error))
    remarks += about_sources(settings)
    remarks += about_gateway(settings)
    opened: list[socket.socket] = []
    taken: list[tuple[Callable[[], Awaitable[object]], str]] = []
    for listener in settings.listen:
        if isinstance(listener.address, Passed) and not systemd.handed().descriptors:
            remarks.append(f"listen: {listener.address}: not tried, as systemd passes sockets to the service alone")
            continue
        try:
            sockets = await open_sockets(listener)
        except ListenFailed as error:
            if _reason(error) == errno.EPERM:
                continue  # for want of a capability, which is said already
            if _reason(error) == errno.EADDRINUSE:
                taken.append((partial(_try, listener), str(error)))
            else:
                problems.append(str(error))
            continue
        opened += sockets
        try:
            check_loops(settings, sockets, found)
        except SettingsError as error:
            problems += error.problems
    if settings.admin:
        try:
            await _try_admin(settings.admin)
        except ListenFailed as error:
            if _reason(error) == errno.EADDRINUSE:
                taken.append((partial(_try_admin, settings.admin), str(error)))
            else:
                problems.append(str(error))
    close_sockets(opened)
    for attempt, why_not in taken:
        # A shimproxy that is to be reloaded with these settings listens there, unless it was another of its own.
        try:
            await attempt()
            problems.append(why_not)
        except ListenFailed:
            remarks.append(why_not)
    if problems:
        raise SettingsError(*problems)
    return remarks


def _reason(error: ListenFailed) -> int | None:
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None


def check_block(settings: Settings) -> None:
    """See whether there is memory for the block that mail data are read into. Raises SettingsError."""
    try:
        Block(settings.limits.block_octets)
    except (MemoryError, OverflowError):
        raise SettingsError(
            f"limit: block-octets={settings.limits.block_octets}: there is no memory for two such blocks a worker; "
            f"give fewer: more than {BLOCK_OCTETS} gain nothing"
        ) from None


def check_tls(settings: Settings) -> None:
    """Load what TLS needs. Raises SettingsError with all that can't be."""
    problems: list[str] = []
    loads: list[Callable[[], object]] = [settings.receiver_security]
    for listener in settings.listen:
        its = settings.of(listener)
        loads += [its.receiver_security, partial(its.sender_context, listener)]
    for load in loads:
        try:
            load()
        except TlsUnusable as error:
            problems += [str(error)] if str(error) not in problems else []
    if problems:
        raise SettingsError(*problems)


async def check_receivers(settings: Settings) -> list[Found]:
    """Look the receivers' names up, and say where they lead to now. Raises DialFailed."""
    found: list[Found] = []
    for endpoint in known_beforehand(settings.receivers_of_all):
        places = await Places(endpoint).find(settings.deadlines.connect)
        if isinstance(endpoint, Address) and not endpoint.is_literal:
            found += [(endpoint, Address(str(sockaddr[0]), endpoint.port)) for _, sockaddr in places]
    return found


def check_loops(settings: Settings, sockets: Iterable[socket.socket], found: Iterable[Found] = ()) -> None:
    """See whether a receiver is one of these listening sockets, by its name too if that was looked up.

    Raises SettingsError.
    """
    sockets = [*sockets]
    literal = ((endpoint, endpoint) for endpoint in known_beforehand(settings.receivers_of_all))
    for endpoint, place in (*literal, *found):
        if any(_leads_to(place, sock) for sock in sockets):
            raise SettingsError(
                f"receiver: {endpoint} is where this shimproxy listens itself; give the receiver's own address"
            )


def about_sources(settings: Settings) -> list[str]:
    """Remarks on addresses that connections are to come from, and on receivers that can't be dialled from there."""
    remarks: dict[str, None] = {}
    for its in (settings, *map(settings.of, settings.listen)):
        for each in its.source:
            if not is_own(each):
                remarks[f"source: {each} is no address of this machine now; 'ip address' shows those it has"] = None
        for endpoint in its.endpoints if its.source else ():
            address = ip_address(endpoint.host) if isinstance(endpoint, Address) else None
            if address and not its.source_used.serves(socket.AF_INET6 if address.version == 6 else socket.AF_INET):
                remarks[f"receiver: {endpoint} can't be dialled from {' or '.join(its.source)} (source)"] = None
    return [*remarks]


async def _try(listener: Listener) -> None:
    close_sockets(await open_sockets(listener))


async def _try_admin(where: str) -> None:
    await (await Admin.open(where)).close()


def _leads_to(endpoint: Endpoint, sock: socket.socket) -> bool:
    listening: object = sock.getsockname()
    if isinstance(endpoint, UnixPath):
        return isinstance(listening, str) and os.path.realpath(endpoint.path) == os.path.realpath(listening)
    if not isinstance(listening, tuple) or listening[1] != endpoint.port:
        return False
    host = listening[0]
    address = ip_address(endpoint.host)
    if address is None:
        return False  # where a name leads to may change
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")  # so connect() has it
    wildcards = {"::" if address.version == 6 else "0.0.0.0"}
    if sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        wildcards.add("::")  # is for both families, as systemd's are unless told otherwise
    return str(address) == host or (host in wildcards and is_own(str(address)))


def check_capabilities(settings: Settings) -> None:
    """See whether this process may do what TPROXY needs. Raises SettingsError."""
    needing = [
        f"listen: {listener.address},tproxy"
        for listener in settings.listen
        if listener.tproxy and not isinstance(listener.address, Passed)  # that may be transparent already
    ]
    needing += ["spoof_sender"] * any(settings.of(listener).spoof_sender for listener in settings.listen)
    if needing and not may_be_transparent():
        raise SettingsError(
            f"{' and '.join(needing)}: needs CAP_NET_RAW or CAP_NET_ADMIN, and this process has neither; give it one "
            "of them (in a unit of systemd: AmbientCapabilities=CAP_NET_RAW)"
        )


def check_records(settings: Settings) -> None:
    """Make the directory of records, if there is to be one. Raises SettingsError if nothing can be written to it."""
    if recording := settings.recording:
        try:
            recording.make_directory()
        except OSError as error:
            raise SettingsError(
                f"record: {recording.directory}: {error.strerror}; give a directory that can be written to"
            ) from None
