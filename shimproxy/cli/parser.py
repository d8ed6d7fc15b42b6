"""What all commands share: the parser, its kinds of value, and which commands there are."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

from shimproxy._version import __version__
from shimproxy.config.variables import FILE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Subcommands = argparse._SubParsersAction["Parser"]

EXIT_UNUSABLE: Final = 2
COMMANDS: Final = (
    "run",
    "check",
    "health",
    "receivers",
    "demo",
    "probe",
    "records",
    "ladder",
    "explain",
    "misbehave",
    "files",
    "help",
)
"""In the order of --help; each is a module beside this one, with `add`."""


_ALONE: Final = ("--help", "--version")
"""Flags that need no command."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit. The nearest flag is one of this command's own: of another's, it would be refused."""
        if unknown := re.search(r"arguments: (--[^ =]+)", message):
            from shimproxy.config.parsers import nearest

            message += nearest(unknown[1], [each for each in self._option_string_actions if each.startswith("--")])
        self.exit(EXIT_UNUSABLE, f"shimproxy: {message}; see {self.prog} --help\n")

    def take_last_word(self, options: argparse.Namespace, unknown: list[str]) -> None:
        """Take a word that may be left out, and stands behind flags: argparse takes that only since Python 3.12.7."""
        for action in self._get_positional_actions():
            left_out = action.nargs == "?" and getattr(options, action.dest) == action.default
            if left_out and not (action.type or action.choices) and unknown and not unknown[0].startswith("-"):
                setattr(options, action.dest, unknown.pop(0))


def number_type(kind: type[int] | type[float]) -> Callable[[str], int | float]:
    """What argparse makes of a text that has to be a number."""
    from shimproxy.config.parsers import number_of

    def read(text: str) -> int | float:
        try:
            return number_of(text, kind)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    return read


class Switch(argparse.BooleanOptionalAction):
    """--NAME or --no-NAME, as a text like that of any other option."""

    def __call__(self, _: object, namespace: argparse.Namespace, __: object, flag: str | None = None) -> None:
        """Take the text that the flag stands for."""
        setattr(namespace, self.dest, ["false" if flag and flag.startswith("--no-") else "true"])


def begins_well(arguments: Sequence[str]) -> bool:
    """Whether arguments begin with a command, or with a flag that stands alone."""
    first = arguments[0] if arguments else ""
    return (
        first in COMMANDS
        or first == "-h"
        or (len(first) > len("--") and any(flag.startswith(first) for flag in _ALONE))
    )


def parser_for(arguments: Sequence[str]) -> Parser:
    """The parser of these arguments: it knows the command that they begin with, or all commands."""
    return parser_of(arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS)


def parser_of(names: Sequence[str]) -> Parser:
    """The parser of the commands with these names."""
    parser = Parser(
        prog="shimproxy",
        description="A live, transparent SMTP proxy that repairs protocol violations on the wire.",
        epilog="shimproxy explain NAME explains a name in the log, or a reply of shimproxy's own.",
    )
    parser.add_argument("--version", action="version", version=f"shimproxy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in names:
        import_module(f"shimproxy.cli.{name}").add(commands)
    for command in commands.choices.values():
        command.allow_abbrev = False  # a secret must not stand behind half a flag
    return parser


def add_config(command: Parser) -> None:
    """Add --config."""
    command.add_argument(
        "--config", default="", metavar="FILE", help=f"a settings file in TOML ({FILE_VARIABLE} in the environment)"
    )
