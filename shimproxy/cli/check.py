"""`shimproxy check`: validate the settings and show them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio

from shimproxy.cli.settings import add_with_settings, sources_of
from shimproxy.daemon.check import check
from shimproxy.daemon.upgrade import HandoverState

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands


def _check(options: argparse.Namespace) -> Callable[[], int]:
    sources = sources_of(options)
    settings, problems = sources.as_far_as_usable()

    async def checked() -> list[str]:
        HandoverState.rehearse()
        return await check(settings, problems)

    def command() -> int:
        for remark in trio.run(checked):
            print(f"shimproxy: {remark}", file=sys.stderr)
        print("\n".join(sources.as_file()))
        return 0

    return command


def add(commands: Subcommands) -> None:
    """Add the command."""
    add_with_settings(
        commands,
        "check",
        _check,
        "check the settings and show them",
        "Report every mistake in the settings. If there is none, print the settings in the form of a settings file, "
        "with the source of each. Exit status: 0 if the settings are usable, 2 if not.",
    )
