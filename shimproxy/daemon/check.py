"""`shimproxy check`: what can only be found out by trying: files, names, addresses and ports."""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import TYPE_CHECKING

import attrs

from shimproxy.admin.server import Admin
from shimproxy.config.listener import Passed, SettingsError
from shimproxy.daemon.gateway import about_gateway
from shimproxy.net.activation import handed
from shimproxy.net.address import Address, ip_address
from shimproxy.net.errors import DialFailed, ListenFailed
from shimproxy.net.kernel import is_own
from shimproxy.observe import log_output
from shimproxy.observe.log_output import LogUnusable
from shimproxy.service.preflight import CHECKS, Found, check_loops, check_receivers
from shimproxy.service.sockets import check_passed, close_sockets, open_sockets
from shimproxy.service.warnings import warnings_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from shimproxy.config.listener import Listener
    from shimproxy.config.settings import Settings


@attrs.frozen
class Remarks:
    """What is not wrong, and worth to be said."""

    notes: list[str] = attrs.field(factory=list)
    """What could not be checked now."""
    warnings: list[str] = attrs.field(factory=list)
    """What is dangerous, or is not going to work as things are."""


async def check(settings: Settings, known: Sequence[str] = ()) -> Remarks:
    """Try what `run` would need; remarks on what may be in order or not.

    Raises SettingsError with all that is not, after the problems that are `known` before anything was tried.
    """
    problems = [*known]
    remarks = Remarks()
    for each in CHECKS:
        try:
            each(settings)
        except SettingsError as error:
            problems += error.problems
    problems += _about_files(settings, problems)
    found: list[Found] = []
    try:
        found = await check_receivers(settings)
    except DialFailed as error:
        problems.append(f"{settings.named('receiver')}: {error}")
    try:
        log_output.check_log(settings.log_to)
    except LogUnusable as error:
        problems.append(str(error))
    try:
        check_passed(settings.listen)
    except ListenFailed as error:
        problems.append(str(error))
    remarks.warnings.extend((*warnings_of(settings), *about_sources(settings), *about_gateway(settings)))
    opened: list[socket.socket] = []
    taken: list[tuple[Callable[[], Awaitable[object]], str, object]] = []
    for listener in settings.listen:
        if isinstance(listener.address, Passed) and not handed().descriptors:
            remarks.notes.append(
                f"{settings.named('listen')}: {listener.address}: not checked, because systemd passes sockets only to "
                "the service"
            )
            continue
        try:
            sockets = await open_sockets(listener)
        except ListenFailed as error:
            if _reason(error) == errno.EPERM:
                continue  # for want of a capability, which is said already
            if _reason(error) == errno.EADDRINUSE:
                taken.append((partial(_try, listener), str(error), listener.address))
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
                taken.append((partial(_try_admin, settings.admin), str(error), settings.admin))
            else:
                problems.append(str(error))
    close_sockets(opened)
    for attempt, why_not, where in taken:
        if any(f" {where} " in problem for problem in known):
            continue  # it is in the way of another one, which is said
        # A shimproxy that is to be reloaded with these settings listens there, unless it was another of its own.
        try:
            await attempt()
            problems.append(why_not)
        except ListenFailed:
            remarks.notes.append(why_not)
    if problems:
        raise SettingsError(*problems)
    return remarks


def _about_files(settings: Settings, known: Sequence[str]) -> Iterator[str]:
    """What is wrong with files that no problem names yet: the first that is missing keeps others from being read."""
    for name in ("certificate", "key", "receiver_authorities") if known else ():
        path = getattr(settings, name)
        if path and not any(f"{path}: " in problem for problem in known):
            try:
                path.open("rb").close()
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or str(error)
                yield f"{settings.named(name)}: {path}: {why}; check the path and its permissions"


def _reason(error: ListenFailed) -> int | None:
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None


def about_sources(settings: Settings) -> list[str]:
    """Remarks on addresses that connections are to come from, and on receivers that can't be dialled from there."""
    remarks: dict[str, None] = {}
    for its in (settings, *map(settings.of, settings.listen)):
        receiver, source = its.named("receiver"), its.named("source")
        for each in its.source:
            if not is_own(each):
                remarks[f"{source}: {each} is not an address of this machine now; 'ip address' shows those it has"] = (
                    None
                )
        for endpoint in its.endpoints if its.source else ():
            address = ip_address(endpoint.host) if isinstance(endpoint, Address) else None
            if address and not its.source_used.serves(socket.AF_INET6 if address.version == 6 else socket.AF_INET):
                remarks[f"{receiver}: {endpoint} cannot be reached from {' or '.join(its.source)} ({source})"] = None
    return [*remarks]


async def _try(listener: Listener) -> None:
    close_sockets(await open_sockets(listener))


async def _try_admin(where: str) -> None:
    await (await Admin.open(where)).close()
