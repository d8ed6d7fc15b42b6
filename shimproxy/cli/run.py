"""`shimproxy run`: stand between senders and a receiver."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from shimproxy._version import __version__
from shimproxy.cli.settings import add_with_settings, sources_of
from shimproxy.daemon.signals import supervise

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands


def _run(options: argparse.Namespace) -> Callable[[], int]:
    def command() -> int:
        trio.run(supervise, partial(sources_of, options), __version__)
        return 0

    return command


def add(commands: Subcommands) -> None:
    """Add the command."""
    add_with_settings(
        commands,
        "run",
        _run,
        "run the proxy between senders and a receiver",
        "Run the proxy between senders and a receiver until SIGTERM or SIGINT. SIGHUP reloads the settings. SIGUSR2 "
        "upgrades to the code that is installed now.",
    )
