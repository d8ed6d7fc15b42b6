"""`shimproxy help`: read the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy._version import __version__
from shimproxy.cli.parser import COMMANDS, parser_of
from shimproxy.help import command as help_command

if TYPE_CHECKING:
    from shimproxy.cli.parser import Subcommands


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "help",
        help="read the documentation",
        description="Print a page of the documentation, or list all pages. On a terminal, $PAGER shows it (default: "
        "less).",
        epilog="Exit status: 0, or 2 if there is no such page.",
    )
    command.set_defaults(
        prepare=lambda options: help_command.run(options.topic, parser_of(COMMANDS), __version__, man=options.man),
        parser=command,
    )
    command.add_argument("topic", nargs="?", metavar="TOPIC", help="a page, or a command")
    command.add_argument("--man", action="store_true", help="the page, or the command without TOPIC, as a man page")
