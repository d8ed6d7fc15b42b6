"""`shimproxy files`: print files that are ready to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy._version import __version__
from shimproxy.cli.parser import COMMANDS, parser_of
from shimproxy.help import files
from shimproxy.help.command import topics
from shimproxy.help.man import of_command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shimproxy.cli.parser import Subcommands


def _man_page() -> Iterable[str]:
    return of_command(parser_of(COMMANDS), topics(), __version__)


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "files",
        help="print files that are ready to use: units, rules, manifests",
        description="List files that are ready to use, or print one: units of systemd, manifests, rules of a "
        "gateway, alerts, a dashboard, completion. A unit has the path of this shimproxy in it.",
        epilog="Exit status: 0, or 2 if there is no such file.",
    )
    command.set_defaults(prepare=lambda options: files.run(options.name, _man_page), parser=command)
    command.add_argument("name", nargs="?", metavar="NAME", help="a file")
