"""What must be in order before a shimproxy serves, as far as it can be found out by trying."""

from __future__ import annotations

import ipaddress
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

from shimproxy.config.converters import known_beforehand
from shimproxy.config.listener import Passed, SettingsError
from shimproxy.net.address import Address, UnixPath, ip_address
from shimproxy.net.block import BLOCK_OCTETS
from shimproxy.net.errors import TlsUnusable
from shimproxy.net.kernel import is_own
from shimproxy.net.origin import may_be_transparent
from shimproxy.net.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shimproxy.config.settings import Settings
    from shimproxy.net.address import Endpoint

Found = tuple["Endpoint", "Endpoint"]
"""A receiver, and an address that its name leads to now."""


def check_block(settings: Settings) -> None:
    """See whether there is memory for the largest block of mail data. Raises SettingsError."""
    try:
        bytearray(settings.limits.block_octets)
    except (MemoryError, OverflowError):
        raise SettingsError(
            f"{settings.named('limits')}: block-octets={settings.limits.block_octets}: not enough memory for two such "
            f"blocks a worker; give fewer: more than {BLOCK_OCTETS} gain nothing"
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


def check_certificates(settings: Settings) -> None:
    """See whether each certificate for senders holds now. Raises SettingsError with those that do not."""
    if settings.has_certificates:
        from shimproxy.service.certificates import problems_of_age

        if problems := problems_of_age(settings):
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
                f"{settings.named('receiver')}: {endpoint} is an address where this shimproxy listens; give the "
                "receiver's own address"
            )


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
        f"{settings.named('listen')}: {listener.address},tproxy"
        for listener in settings.listen
        if listener.tproxy and not isinstance(listener.address, Passed)  # that may be transparent already
    ]
    spoofing = [its for listener in settings.listen if (its := settings.of(listener)).spoof_sender]
    needing += dict.fromkeys(its.named("spoof_sender") for its in spoofing)
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
                f"{settings.named('record')}: {recording.directory}: {error.strerror}; give a writable directory"
            ) from None


CHECKS: Final = (check_tls, check_certificates, check_block, check_records, check_capabilities)
"""What can be found out of settings before anything is opened; each raises SettingsError."""
