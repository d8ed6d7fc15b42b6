"""`shimproxy records`: list recorded sessions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from shimproxy.cli import records_command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands


def _records(options: argparse.Namespace) -> Callable[[], int]:
    wanted = records_command.wanted(options.since, options.until, options.repair, options.to)
    return partial(records_command.run, records_command.directory_of(options.directory), wanted, as_json=options.json)


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "records",
        help="list recorded sessions",
        description=(
            "List the sessions that --record has kept, the oldest first: when each began, its file, its sender and "
            "receiver, its seconds and its repairs. shimproxy ladder draws a file."
        ),
        epilog="Exit status: 0; 1 if no session is listed; 2 if DIR cannot be read or has a file that is not a record.",
    )
    command.set_defaults(prepare=_records, parser=command)
    command.add_argument("directory", metavar="DIR", help="the directory of --record")
    command.add_argument(
        "--since",
        default="",
        metavar="TIME",
        help="sessions that began then or later: 2026-11-30, 2026-11-30T18:30 (UTC), or 30m, 2h, 7d ago",
    )
    command.add_argument("--until", default="", metavar="TIME", help="sessions that began then or before")
    command.add_argument("--repair", default="", metavar="NAME", help="sessions with this repair, as in early-reply")
    command.add_argument(
        "--to", default="", metavar="ADDRESS", help="sessions with a recipient whose address contains ADDRESS"
    )
    command.add_argument("--json", action="store_true", help="write an object of JSON for each session")
