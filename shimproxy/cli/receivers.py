"""`shimproxy receivers`: which receivers there are, and which of them get new sessions."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from shimproxy.admin import health
from shimproxy.cli.health import add_admin, admin_address
from shimproxy.smtp.shown import escaped

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands

_METHODS: Final = {"drain": "PUT", "ready": "DELETE"}
_MOST_OCTETS: Final = 1 << 20
_UP: Final = {None: "not dialled yet", True: "up", False: "down"}


def _receivers(options: argparse.Namespace) -> Callable[[], int]:
    where, what, name = admin_address(options), options.what, options.name
    if (what == "list") == bool(name):
        options.parser.error("write list without a name, and drain or ready with one, as in drain 192.0.2.7:25")

    def command() -> int:
        if what == "list":
            is_well, said = health.ask(where, "/receivers", most_octets=_MOST_OCTETS)
            if is_well:
                return _list(where, said)
        else:
            is_well, said = health.ask(where, f"/receivers/{quote(os.fsencode(name), safe='')}", _METHODS[what])
        print(said, file=sys.stdout if is_well else sys.stderr)
        return 0 if is_well else 1

    return command


def _list(where: str, said: str) -> int:
    """Print a line for each receiver, of JSON that was escaped on its way; the exit status."""
    try:
        lines = [_line(each) for each in json.loads(said.encode().decode("unicode_escape"))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        print(
            f"{where} has answered, but with no list of receivers; is this the --admin of shimproxy?", file=sys.stderr
        )
        return 1
    for line in lines:
        print(line)
    return 0


def _line(receiver: dict[str, Any]) -> str:
    name = receiver["receiver"]
    state = "draining" if receiver["draining"] else "ready"
    return f"{name if name.isprintable() else escaped(os.fsencode(name))}  {state}, {_UP[receiver['up']]}"


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "receivers",
        help="list the receivers of a running shimproxy, or drain one",
        description=(
            "List the receivers of a running shimproxy. Drain one: it gets no new sessions, and open sessions "
            "continue. Make it ready again."
        ),
        epilog="Exit status: 0 if that was done, 1 if not or without an answer in time, 2 for unusable settings.",
    )
    command.set_defaults(prepare=_receivers, parser=command)
    add_admin(command)
    command.add_argument("what", choices=("list", *_METHODS), help="what to do")
    command.add_argument("name", nargs="?", default="", metavar="NAME", help="the receiver, as --receiver has it")
