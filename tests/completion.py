"""Completion for shells: written by shtab, from the parser, into the files of the package.

`python -m tests.pages` writes them with the pages, and tests/help/test_files.py holds them equal. What completes a
value is known here alone: the parser refuses no value that a setting would explain better.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

import shimproxy
from shimproxy.cli.parser import COMMANDS, parser_of
from shimproxy.config.options import BY_NAME
from shimproxy.help.command import topics
from shimproxy.help.explain.entries import NameKind, entries
from shimproxy.help.files import READY_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(shimproxy.__file__).parent / "files"
SHELLS: Final = {"shimproxy.bash": "bash", "_shimproxy": "zsh"}
"""File -> the shell that it is for."""


def completion(name: str) -> str:
    """What a file has to be. Raises ImportError without shtab."""
    import shtab

    parser = parser_of(COMMANDS)
    for command, action in _arguments(parser):
        if action.metavar in ("FILE", "DIR"):
            action.complete = shtab.FILE if action.metavar == "FILE" else shtab.DIRECTORY  # type: ignore[attr-defined]
        elif choices := _choices(command, action):
            action.choices = choices
    lines = shtab.complete(parser, shell=SHELLS[name]).splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Each argument with the command that it is of."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from ((name, each) for each in command._actions)


def _choices(command: str, action: argparse.Action) -> list[str]:
    """The values that an argument may have, where they are known."""
    if action.option_strings:
        option = BY_NAME.get(action.dest)
        return [*option.choices] if option and command in ("run", "check") else []
    match command:
        case "help":
            return [*topics(), *(name for name in COMMANDS if name not in topics())]
        case "explain":
            return sorted(entry.name for entry in entries() if entry.kind is not NameKind.REPLY)
        case "files":
            return [*READY_FILES]
    return []


def write_completion() -> list[str]:
    """Write them; the names of those that have changed. Raises ImportError without shtab."""
    changed = []
    for name in SHELLS:
        made = completion(name)
        if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != made:
            (FOLDER / name).write_text(made, encoding="utf-8")
            changed.append(name)
    return changed
