"""What of settings can be used, and is dangerous: what the start and `check` warn of.

A warning names the setting, what an attacker can do, and the mend. With the mend it is gone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from shimproxy.net.address import Address, UnixPath, ip_address, parse_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.config.settings import Settings

_KEY_LOG_VARIABLE: Final = "SSLKEYLOGFILE"
"""Other programs write their keys there; `ssl.create_default_context` does."""


def warnings_of(settings: Settings) -> list[str]:
    """Every warning, once."""
    return [
        *dict.fromkeys(
            (
                *_about_senders(settings),
                *_about_admin(settings),
                *_about_certificates(settings),
                *_about_keys(settings),
                *_about_tokens(settings),
            )
        )
    ]


def _about_senders(settings: Settings) -> Iterator[str]:
    for listener in settings.listen:
        its = settings.of(listener)
        if its.allow_sender or isinstance(listener.address, UnixPath):
            continue
        allowed = its.named("allow_sender")
        if listener.lf_only_devices:
            yield (
                f"{its.named('listen')}: {listener.address},lf-only-devices: any sender can hide a mail within another "
                f"there; name the networks of the devices ({allowed})"
            )
        if its.login_user:
            yield (
                f"{its.named('login_user')}: every sender that reaches {listener.address} sends as {its.login_user}; "
                f"name the networks that may ({allowed})"
            )


def _about_certificates(settings: Settings) -> Iterator[str]:
    if settings.has_certificates:
        from shimproxy.service.certificates import warnings_of_age

        yield from warnings_of_age(settings)


def _about_tokens(settings: Settings) -> Iterator[str]:
    for its in (settings, *map(settings.of, settings.listen)):
        if its.login_token_file:
            from shimproxy.session.own_login import TokenUnusable, token_in

            try:
                token_in(its.login_token_file)
            except TokenUnusable as error:
                yield f"{its.named('login_token_file')}: {error}; every session fails until there is a token"


def _about_keys(settings: Settings) -> Iterator[str]:
    for its in (settings, *map(settings.of, settings.listen)):
        if its.key_log:
            yield (
                f"{its.named('key_log')}: {its.key_log}: who reads this file can decrypt the TLS sessions; remove it "
                "after the search for a fault"
            )
    if os.environ.get(_KEY_LOG_VARIABLE) and not settings.key_log:
        yield f"{_KEY_LOG_VARIABLE}: shimproxy does not obey it; name a file with {settings.named('key_log')} instead"


def _about_admin(settings: Settings) -> Iterator[str]:
    endpoint = parse_endpoint(settings.admin) if settings.admin else None
    if settings.admin_allowed or not isinstance(endpoint, Address) or endpoint.host == "localhost":
        return
    address = ip_address(endpoint.host)
    if not (address and address.is_loopback):
        yield (
            f"{settings.named('admin')}: other hosts can read envelopes and replies at {endpoint}; name the networks "
            f"that may ({settings.named('allow_admin')})"
        )
