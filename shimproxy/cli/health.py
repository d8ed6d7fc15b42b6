"""`shimproxy health`: ask a running shimproxy how it is."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from shimproxy.admin import health
from shimproxy.cli.parser import add_config
from shimproxy.config.variables import FILE_VARIABLE
from shimproxy.net.address import parse_endpoint

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Parser, Subcommands

_VARIABLE = "SHIMPROXY_ADMIN"


def admin_address(options: argparse.Namespace) -> str:
    """The admin address to ask. Raises SettingsError, AddressError."""
    where: str = options.admin or os.environ.get(_VARIABLE, "").strip()
    if options.config or os.environ.get(FILE_VARIABLE) or not where:
        where = _gathered(options)
    parse_endpoint(where)
    return where


def add_admin(command: Parser) -> None:
    """Add the options that say which shimproxy to ask."""
    add_config(command)
    command.add_argument("--admin", metavar="HOST:PORT|unix:PATH", help="the admin address (SHIMPROXY_ADMIN)")


def _health(options: argparse.Namespace) -> Callable[[], int]:
    where = admin_address(options)
    path = "/readyz" + ("?receiver" if options.receiver else "") if options.ready or options.receiver else "/healthz"

    def command() -> int:
        is_well, said = health.ask(where, path)
        print(said, file=sys.stdout if is_well else sys.stderr)
        return 0 if is_well else 1

    return command


def _gathered(options: argparse.Namespace) -> str:
    """The address from all the places where settings stand. Raises SettingsError with what is wrong in them.

    Their readers take four times the CPU of all that is left of the command, so that they are imported here.
    """
    from shimproxy.config.listener import SettingsError
    from shimproxy.config.sources import Sources

    given = {"admin": [options.admin]} if options.admin else {}
    sources = Sources.gather(given, os.environ, options.config)
    if sources.problems:
        raise SettingsError(*sources.problems)
    if "admin" not in sources.given:
        raise SettingsError(
            "admin: no address to ask; give --admin HOST:PORT, SHIMPROXY_ADMIN, or admin in a file (--config)"
        )
    return sources.given["admin"].texts[-1]


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "health",
        help="check the health of a running shimproxy",
        description="Ask a running shimproxy for its health at its admin address.",
        epilog=("Exit status: 0 if it is healthy, 1 if not or without an answer in time, 2 for unusable settings."),
    )
    command.set_defaults(prepare=_health, parser=command)
    add_admin(command)
    command.add_argument("--ready", action="store_true", help="also check that it accepts new sessions")
    command.add_argument("--receiver", action="store_true", help="also check that its receiver sends a greeting")
