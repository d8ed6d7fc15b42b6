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
    form = ladder_command.Form(options.form)
    return partial(ladder_command.run, ladder_command.read_all(options.files, form), form)


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
    command.set_defaults(form=ladder_command.Form.TEXT)
    forms = command.add_mutually_exclusive_group()
    for form, text in (
        (ladder_command.Form.SVG, "write one session as SVG to standard output"),
        (ladder_command.Form.MERMAID, "write one session as a sequence diagram of Mermaid to standard output"),
        (ladder_command.Form.JSON, "write an object of JSON for each session"),
        (ladder_command.Form.PCAPNG, "write packets for Wireshark and tshark to standard output: both legs as TCP"),
    ):
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=text)
