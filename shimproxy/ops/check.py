"""`shimproxy check`: what can only be found out by trying: files, names, addresses and ports."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from shimproxy.net.dial import look_up
from shimproxy.net.errors import DialFailed, ListenFailed, TlsUnusable
from shimproxy.net.listen import open_listeners
from shimproxy.ops import log_output
from shimproxy.ops.admin import Admin
from shimproxy.ops.log_output import LogUnusable
from shimproxy.ops.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.ops.settings import Settings


async def check(settings: Settings) -> list[str]:
    """Try what `run` would need; remarks on what may be in order or not.

    Raises SettingsError with all that is not.
    """
    problems: list[str] = []
    remarks: list[str] = []
    try:
        check_tls(settings)
    except SettingsError as error:
        problems += error.problems
    try:
        check_records(settings)
    except SettingsError as error:
        problems += error.problems
    try:
        await check_receiver(settings)
    except DialFailed as error:
        problems.append(f"receiver: {error}")
    try:
        log_output.check(settings.log_to)
    except LogUnusable as error:
        problems.append(str(error))
    if settings.admin:
        try:
            await (await Admin.open(settings.admin)).close()
        except ListenFailed as error:
            remarks.append(str(error))
    for listener in settings.listen:
        try:
            for sock in await open_listeners(listener.address):
                sock.close()
        except ListenFailed as error:
            taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            # A shimproxy that is to be reloaded with these settings listens there.
            (remarks if taken else problems).append(str(error))
    if problems:
        raise SettingsError(*problems)
    return remarks


def check_tls(settings: Settings) -> None:
    """Load what TLS needs. Raises SettingsError with all that can't be."""
    problems: list[str] = []
    loads: list[Callable[[], object]] = [settings.receiver_security]
    loads += [partial(settings.sender_context, listener) for listener in settings.listen]
    for load in loads:
        try:
            load()
        except TlsUnusable as error:
            problems += [str(error)] if str(error) not in problems else []
    if problems:
        raise SettingsError(*problems)


async def check_receiver(settings: Settings) -> None:
    """Look the receiver's name up. Raises DialFailed."""
    await look_up(settings.receiver, settings.deadlines.connect)


def check_records(settings: Settings) -> None:
    """Make the directory of records, if there is to be one. Raises SettingsError if nothing can be written to it."""
    if recording := settings.recording:
        try:
            recording.make_directory()
        except OSError as error:
            raise SettingsError(
                f"record: {recording.directory}: {error.strerror}; give a directory that can be written to"
            ) from None
