"""What `shimproxy run` and `shimproxy check` share: every setting is a flag, a variable and a key of a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shimproxy.cli.parser import Switch, add_config
from shimproxy.config.options import OPTIONS
from shimproxy.config.sources import Sources
from shimproxy.net.activation import handed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands
    from shimproxy.config.options import Option


def sources_of(options: argparse.Namespace) -> Sources:
    """Where the settings come from: these flags, the environment, the file, and systemd."""
    given = {option.name: getattr(options, option.name) for option in OPTIONS if not option.secret}
    flags = {name: texts for name, texts in given.items() if texts is not None}
    sources = Sources.gather(flags, os.environ, options.config)
    if handed().descriptors:
        sources.listen_unless_told("systemd", "LISTEN_FDS")
    return sources


def add_with_settings(
    commands: Subcommands,
    name: str,
    prepare: Callable[[argparse.Namespace], Callable[[], int]],
    help: str,
    description: str,
) -> argparse.ArgumentParser:
    """Add a command that takes every setting; `prepare` makes of its options what is to be called."""
    command = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog="Every flag is also an environment variable (SHIMPROXY_MAX_SIZE for --max-size; separate several "
        "values with blanks) and a key of the settings file (max-size). Flags override the environment, which "
        "overrides the file. `shimproxy help limits` explains deadlines and limits.",
    )
    command.set_defaults(prepare=prepare, parser=command)
    add_config(command)
    groups = {option.group: command.add_argument_group(option.group) for option in OPTIONS}
    for option in OPTIONS:
        if not option.secret:
            _add_option(groups[option.group], option)
    return command


def _add_option(group: argparse._ArgumentGroup, option: Option) -> None:
    help = option.help
    if option.many:
        help += " (repeatable)"
    if option.default:
        help += f" (default: {', '.join(option.default)})"
    help = help.replace("%", "%%")
    flag = f"--{option.name}"
    if option.switch:
        group.add_argument(flag, dest=option.name, action=Switch, help=help)
    else:
        metavar = option.metavar or f"{{{','.join(option.choices)}}}"
        # Of one that takes one value, the last counts: a start script may be added to.
        group.add_argument(flag, dest=option.name, action="append", metavar=metavar, help=help)
