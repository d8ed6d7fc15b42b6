"""`shimproxy explain`: say what a name in the log, or a reply, means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.help.explain import command as explain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands


def _explain(options: argparse.Namespace) -> Callable[[], int]:
    return explain.run(options.name, as_object=options.json)


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "explain",
        help="explain a name in the log, or a reply",
        description="Explain a violation, a reply of shimproxy's own or an event of the log. The text has the rule, "
        "the known culprits, what shimproxy did, what to tell the vendor, and an example. Without NAME, "
        "list all names.",
        epilog="Exit status: 0, or 2 if there is no such name.",
    )
    command.set_defaults(prepare=_explain, parser=command)
    command.add_argument(
        "name", nargs="*", metavar="NAME", help="a name from the log, or a reply's code or text: early-reply, 421 4.4.2"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
