"""What arguments that can't be used may have meant: the nearest command, or the same addresses after their flags.

Nothing is proposed that would be refused: a proposed command line was parsed, and its settings were read.
"""

from __future__ import annotations

import contextlib
import io
import shlex
from typing import TYPE_CHECKING, Final

from shimproxy.cli.parser import COMMANDS, parser_of
from shimproxy.config.parsers import nearest
from shimproxy.smtp.shown import shortened

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

_SERVING: Final = ("run", "check")
"""The commands that take every setting."""
_MOST_CHARACTERS: Final = 300
"""Of a command line that is proposed."""
_STAND_INS: Final[tuple[tuple[tuple[str, str], ...], ...]] = (
    (),
    (("--receiver", "127.0.0.1:25"),),
    (("--listen", "127.0.0.1:2525"),),
)
"""What a proposal may lack: it has HOST:PORT there, and is tried with an address."""


def printable(words: Sequence[str]) -> str:
    """Words of a command line as they can be shown: their beginning, in printable characters."""
    return shortened(" ".join(words).encode("utf-8", "surrogateescape"), _MOST_CHARACTERS)


def why_no_command(arguments: Sequence[str]) -> str:
    """Why these arguments are not a command, with what they may have meant."""
    if not arguments:
        return f"say what to do: {', '.join(COMMANDS)}; see shimproxy --help"
    first = arguments[0]
    near = "" if first.startswith("-") else nearest(first.lower()[:_MOST_CHARACTERS], [*COMMANDS, "--version"])
    if not near and (proposed := proposal("run", arguments)):
        return f"no command is given; write {proposed}"
    choice = "" if near else f"; choose from {', '.join(COMMANDS)}"
    return f"'{printable([first])}' is not a command{near}{choice}; see shimproxy --help"


def proposal(name: str, words: Sequence[str]) -> str:
    """A command line that gives the words that are no flags to --listen and --receiver; nothing if there is none."""
    if name not in _SERVING or sum(map(len, words)) > _MOST_CHARACTERS or not all(map(str.isprintable, words)):
        return ""
    parsed = _parsed([name, *words])
    if parsed is None:
        return ""
    options, unknown = parsed
    for given in _completed([*words], unknown, listens=bool(options.listen), receives=bool(options.receiver)):
        for stand_ins in _STAND_INS:
            tried = [*given, *(word for pair in stand_ins for word in pair)]
            if _are_usable(name, tried):
                lacking = [word for flag, _ in stand_ins for word in (flag, "HOST:PORT")]
                return shlex.join(["shimproxy", name, *given, *lacking])
    return ""


def _completed(words: list[str], unknown: Sequence[str], *, listens: bool, receives: bool) -> Iterator[list[str]]:
    """The words with a flag before each that had none: where to listen first, and then the receivers."""
    if any(word.startswith("-") for word in unknown) or (listens and receives and unknown):
        return
    left = [*unknown]
    flags = ["--receiver"] * len(left) if listens else ["--listen"] * len(left)
    if not listens and not receives:
        flags[1:] = ["--receiver"] * (len(left) - 1)
    made: list[str] = []
    for word in words:
        is_value = bool(made) and made[-1].startswith("--") and "=" not in made[-1]
        if left and word == left[0] and not is_value:
            made += [flags[len(unknown) - len(left)], left.pop(0)]
        else:
            made.append(word)
    yield made


def _parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]] | None:
    """What the parser of a command makes of them; None if it complains, which is not shown."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return parser_of(arguments[:1]).parse_known_args(arguments)
        except SystemExit:
            return None


def _are_usable(name: str, words: Sequence[str]) -> bool:
    from shimproxy.cli.settings import sources_of

    parsed = _parsed([name, *words])
    if parsed is None or parsed[1]:
        return False
    try:
        sources_of(parsed[0]).settings()
    except ValueError:
        return False
    return True
