"""The command line: arguments become settings and calls, and errors become lines that name the mend.

A command's own module is imported when the command is given: a shimproxy that runs has no use for the others.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from shimproxy.cli.parser import EXIT_UNUSABLE, begins_well, parser_for
from shimproxy.program.process import complain, lost_output, take_any_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PIPE_STATUS = 128 + signal.SIGPIPE
_EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run shimproxy with these arguments (those of the process by default); the exit status."""
    take_any_name()
    try:
        status = _main(arguments)
    except SystemExit:  # argparse has printed something
        if (lost := lost_output()) is None:
            raise
        return _without_output(lost)
    except OSError as error:
        if (lost := lost_output(error)) is None:
            raise
        return _without_output(lost)
    lost = lost_output()
    return status if lost is None else _without_output(lost)


def _without_output(lost: OSError) -> int:
    """The exit status where nobody gets all that was printed; for a reader that has had enough, as for any program."""
    if isinstance(lost, BrokenPipeError):
        return _PIPE_STATUS
    return _unusable(ValueError(f"cannot write the output: {lost.strerror}; free some space, or write it elsewhere"))


def _main(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not begins_well(arguments):
        from shimproxy.cli.meant import why_no_command

        return _unusable(ValueError(why_no_command(arguments)))
    options, unknown = parser_for(arguments).parse_known_args(arguments)
    if unknown:
        options.parser.take_last_word(options, unknown)
    if unknown:
        from shimproxy.cli.meant import printable, proposal

        proposed = proposal(arguments[0], arguments[1:])
        options.parser.error(
            f"unrecognized arguments: {printable(unknown)}" + (f"; write {proposed}" if proposed else "")
        )
    try:
        command: Callable[[], int] = options.prepare(options)
    except ValueError as error:  # a setting that can't be used; afterwards, a ValueError would be a bug
        return _unusable(error)
    try:
        return command()
    except _kinds_of_unusable() as error:
        return _unusable(error)
    except BaseExceptionGroup as group:  # trio >= 0.25 wraps what leaves a nursery
        if group.subgroup(KeyboardInterrupt):
            return _interrupted()
        known = group.subgroup(_kinds_of_unusable())
        if known is None:
            raise
        return _unusable(_first(known))
    except KeyboardInterrupt:
        return _interrupted()


def _kinds_of_unusable() -> tuple[type[Exception], ...]:
    """What commands raise for what can't be used; imported where one has raised something."""
    from shimproxy.config.listener import SettingsError
    from shimproxy.net.errors import DialFailed, ListenFailed, TlsUnusable
    from shimproxy.observe.log_output import LogUnusable

    return (ListenFailed, DialFailed, TlsUnusable, SettingsError, LogUnusable)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _unusable(error: BaseException) -> int:
    for line in str(error).split("\n"):
        complain(line)
    return EXIT_UNUSABLE


def _interrupted() -> int:
    print("shimproxy: interrupted", file=sys.stderr)
    return _EXIT_INTERRUPTED
