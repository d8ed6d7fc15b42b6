"""`shimproxy ladder`: draw recorded sessions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from shimproxy.cli import ladder_command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands


def _ladder(options: argparse.Namespace) -> Callable[[], int]:
    return partial(ladder_command.run, ladder_command.read_all(options.files, one=options.svg), svg=options.svg)


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "ladder",
        help="draw recorded sessions",
        description=(
            "Draw sessions that --record has kept: each message with its time, sender and receiver, and each repair."
        ),
        epilog="Exit status: 0, or 2 if a file is not a complete record.",
    )
    command.set_defaults(prepare=_ladder, parser=command)
    command.add_argument(
        "files", nargs="+", metavar="FILE", help="a file from --record's directory; - for standard input"
    )
    command.add_argument("--svg", action="store_true", help="write one session as SVG to standard output")
