"""The command line: arguments become Settings, and errors become lines that name the mend."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import trio

from shimproxy import __version__
from shimproxy.net.address import Address, parse_endpoint
from shimproxy.net.errors import DialFailed, ListenFailed, TlsUnusable
from shimproxy.ops import demo, health, ladder_command, probe, systemd
from shimproxy.ops.check import check
from shimproxy.ops.listener import SettingsError
from shimproxy.ops.log_output import LogUnusable
from shimproxy.ops.options import OPTIONS
from shimproxy.ops.readers import nearest, number_of
from shimproxy.ops.run import lost_output
from shimproxy.ops.signals import supervise
from shimproxy.ops.sources import FILE_VARIABLE, Sources
from shimproxy.ops.upgrade import Left

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shimproxy.ops.options import Option

EXIT_UNUSABLE = 2
_PIPE_STATUS = 128 + signal.SIGPIPE
_EXIT_INTERRUPTED = 130
_UNUSABLE = (ListenFailed, DialFailed, TlsUnusable, SettingsError, LogUnusable)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run shimproxy with these arguments (those of the process by default); the exit status."""
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
    return _unusable(ValueError(f"what is printed can't be written: {lost.strerror}; make room, or print elsewhere"))


def _main(arguments: Sequence[str] | None) -> int:
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        command: Callable[[], int] = options.prepare(options)
    except ValueError as error:  # a setting that can't be used; afterwards, a ValueError would be a bug
        return _unusable(error)
    try:
        return command()
    except _UNUSABLE as error:
        return _unusable(error)
    except BaseExceptionGroup as group:  # trio >= 0.25 wraps what leaves a nursery
        if group.subgroup(KeyboardInterrupt):
            return _interrupted()
        known = group.subgroup(_UNUSABLE)
        if known is None:
            raise
        return _unusable(_first(known))
    except KeyboardInterrupt:
        return _interrupted()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _unusable(error: BaseException) -> int:
    for line in str(error).splitlines():
        print(f"shimproxy: {line}", file=sys.stderr)
    return EXIT_UNUSABLE


def _interrupted() -> int:
    print("shimproxy: interrupted", file=sys.stderr)
    return _EXIT_INTERRUPTED


# -- run, check


def _sources(options: argparse.Namespace) -> Sources:
    given = {option.name: getattr(options, option.name) for option in OPTIONS if not option.secret}
    flags = {name: texts for name, texts in given.items() if texts is not None}
    sources = Sources.gather(flags, os.environ, options.config)
    if systemd.handed().descriptors:
        sources.listen_unless_told("systemd", "LISTEN_FDS")
    return sources


def _run(options: argparse.Namespace) -> Callable[[], int]:
    def command() -> int:
        trio.run(supervise, partial(_sources, options), __version__)
        return 0

    return command


def _check(options: argparse.Namespace) -> Callable[[], int]:
    sources = _sources(options)
    settings = sources.settings()

    async def checked() -> list[str]:
        Left.rehearse()
        return await check(settings)

    def command() -> int:
        for remark in trio.run(checked):
            print(f"shimproxy: {remark}", file=sys.stderr)
        print("\n".join(sources.as_file()))
        return 0

    return command


def _health(options: argparse.Namespace) -> Callable[[], int]:
    given = {"admin": [options.admin]} if options.admin else {}
    sources = Sources.gather(given, os.environ, options.config)
    if sources.problems:
        raise SettingsError(*sources.problems)
    if "admin" not in sources.given:
        raise SettingsError(
            "admin: say where to ask: --admin HOST:PORT, SHIMPROXY_ADMIN, or admin in a file (--config)"
        )
    where = sources.given["admin"].texts[-1]
    parse_endpoint(where)
    path = "/readyz" + ("?receiver" if options.receiver else "") if options.ready or options.receiver else "/healthz"

    def command() -> int:
        is_well, said = health.ask(where, path)
        print(said, file=sys.stdout if is_well else sys.stderr)
        return 0 if is_well else 1

    return command


def _demo(options: argparse.Namespace) -> Callable[[], int]:
    if options.serve:
        for flag in ("receiver", "octets", "patience"):
            if getattr(options, flag) is not None:
                raise ValueError(f"--serve waits for a sender of your own; --{flag} means nothing to it: leave it away")
        return demo.run_serve
    play = demo.Play(
        receiver=Address.parse(options.receiver) if options.receiver else None,
        patience_seconds=demo.PATIENCE_SECONDS if options.patience is None else options.patience,
        reverse_path=options.reverse_path,
        recipient=options.recipient,
        octets=options.octets,
    )
    return partial(demo.run, play)


def _probe(options: argparse.Namespace) -> Callable[[], int]:
    plan = probe.Plan(
        receiver=Address.parse(options.receiver),
        reverse_path=options.reverse_path,
        recipient=options.recipient,
        octets=options.octets,
        lmtp=options.lmtp,
        patience_seconds=options.patience,
        helo_name=options.helo_name,
    )
    return partial(probe.run, plan, agreed=options.yes, as_json=options.json)


def _ladder(options: argparse.Namespace) -> Callable[[], int]:
    return partial(ladder_command.run, ladder_command.read_all(options.files, one=options.svg), svg=options.svg)


# -- what there is


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        if unknown := re.search(r"arguments: (--[^ =]+)", message):
            message += nearest(unknown[1], [f"--{option.name}" for option in OPTIONS])
        self.exit(EXIT_UNUSABLE, f"shimproxy: {message}; see {self.prog} --help\n")


def _number(kind: type[int] | type[float]) -> Callable[[str], int | float]:
    """What argparse makes of a text that has to be a number."""

    def read(text: str) -> int | float:
        try:
            return number_of(text, kind)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    return read


class _Switch(argparse.BooleanOptionalAction):
    """--NAME or --no-NAME, as a text like that of any other option."""

    def __call__(self, _: object, namespace: argparse.Namespace, __: object, flag: str | None = None) -> None:
        setattr(namespace, self.dest, ["false" if flag and flag.startswith("--no-") else "true"])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="shimproxy",
        description="A live, transparent SMTP proxy that repairs protocol violations on the wire.",
    )
    parser.add_argument("--version", action="version", version=f"shimproxy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_with_options(
        commands,
        "run",
        _run,
        "stand between senders and a receiver",
        "Stand between senders and a receiver until SIGTERM or SIGINT; SIGHUP reads the settings anew, SIGUSR2 goes "
        "over to the code that is installed now.",
    )
    _add_with_options(
        commands,
        "check",
        _check,
        "validate the settings and show them",
        "Say all that is wrong with the settings; or show them, as the lines of a file that says the same, with where "
        "each one stands. Exit status: 0 if they can be used, 2 if not.",
    )
    _add_health(commands)
    _add_demo(commands)
    _add_probe(commands)
    _add_ladder(commands)
    for command in commands.choices.values():
        command.allow_abbrev = False  # a secret must not stand behind half a flag
    return parser


def _add_with_options(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    prepare: Callable[[argparse.Namespace], Callable[[], int]],
    help: str,
    description: str,
) -> None:
    command = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog="Every flag is also a variable of the environment (SHIMPROXY_MAX_SIZE for --max-size, several values "
        "with blanks between them) and a key of the file (max-size). A flag goes before the environment, and that "
        "before the file. Deadlines and limits are explained in README.",
    )
    command.set_defaults(prepare=prepare, parser=command)
    _add_config(command)
    groups = {option.group: command.add_argument_group(option.group) for option in OPTIONS}
    for option in OPTIONS:
        if not option.secret:
            _add_option(groups[option.group], option)


def _add_option(group: argparse._ArgumentGroup, option: Option) -> None:
    help = option.help
    if option.many:
        help += " (repeatable)"
    if option.default:
        help += f" (default: {', '.join(option.default)})"
    help = help.replace("%", "%%")
    flag = f"--{option.name}"
    if option.switch:
        group.add_argument(flag, dest=option.name, action=_Switch, help=help)
    else:
        metavar = option.metavar or f"{{{','.join(option.choices)}}}"
        # Of one that takes one value, the last counts: a start script may be added to.
        group.add_argument(flag, dest=option.name, action="append", metavar=metavar, help=help)


def _add_health(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "health",
        help="ask a running shimproxy how it is",
        description="Ask the admin address of a running shimproxy how it is.",
        epilog="Exit status: 0 if it is well, 1 if it is not or does not say so in time, 2 if it can't be asked.",
    )
    command.set_defaults(prepare=_health, parser=command)
    _add_config(command)
    command.add_argument("--admin", metavar="HOST:PORT|unix:PATH", help="where it is asked (SHIMPROXY_ADMIN)")
    command.add_argument("--ready", action="store_true", help="whether it takes new sessions, too")
    command.add_argument("--receiver", action="store_true", help="whether its receiver greets, too")


def _add_config(command: _Parser) -> None:
    command.add_argument(
        "--config", default="", metavar="FILE", help=f"a file of settings, in TOML ({FILE_VARIABLE} in the environment)"
    )


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "demo",
        help="see the fault of kb-q152940, without shimproxy and with it",
        description="Play a mail to a receiver that interrupts it, without shimproxy and with it, and show both runs.",
        epilog="Exit status: 0 if all was seen that is to be seen, 1 if not (it says what), 2 if it can't start.",
    )
    command.set_defaults(prepare=_demo, parser=command)
    command.add_argument(
        "--receiver",
        metavar="HOST:PORT",
        help="play to this receiver instead of the embedded one; it gets the mail twice",
    )
    command.add_argument(
        "--serve",
        action="store_true",
        help="leave shimproxy and the embedded receiver running, for a sender of your own",
    )
    command.add_argument(
        "--patience",
        type=_number(float),
        metavar="SECONDS",
        help="how long the sender without shimproxy may be blocked before it gives up "
        f"(default: {demo.PATIENCE_SECONDS:g})",
    )
    command.add_argument(
        "--octets",
        type=_number(int),
        metavar="N",
        help=f"size of the mail (default: {demo.EMBEDDED_OCTETS}, with --receiver {demo.REAL_OCTETS})",
    )
    command.add_argument(
        "--from", dest="reverse_path", default="<sender@example.com>", metavar="ADDRESS", help="(default: %(default)s)"
    )
    command.add_argument(
        "--to", dest="recipient", default="<recipient@example.com>", metavar="ADDRESS", help="(default: %(default)s)"
    )


def _add_probe(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "probe",
        help="see how a receiver behaves before mail depends on it",
        description="Say how a receiver behaves, what it does wrong, and what shimproxy does about that. No mail is "
        "completed; a large one is begun only if you say yes.",
        epilog="Exit status: 0 if the probe was made, whatever was found; 2 if it can't be; 130 if it was interrupted.",
    )
    command.set_defaults(prepare=_probe, parser=command)
    command.add_argument("receiver", metavar="HOST:PORT", help="the receiver")
    command.add_argument("--lmtp", action="store_true", help="it speaks LMTP (RFC 2033)")
    command.add_argument(
        "--yes", action="store_true", help="begin the large mail without a question; without a terminal, only so"
    )
    command.add_argument(
        "--from", dest="reverse_path", default="<>", metavar="ADDRESS", help="its reverse-path (default: %(default)s)"
    )
    command.add_argument(
        "--to", dest="recipient", default="<postmaster>", metavar="ADDRESS", help="its recipient (default: %(default)s)"
    )
    command.add_argument(
        "--octets",
        type=_number(int),
        metavar="N",
        help="its size (default: a little more than the SIZE that is offered, 20 MiB without one, 64 MiB at most)",
    )
    command.add_argument(
        "--patience",
        type=_number(float),
        default=probe.PATIENCE_SECONDS,
        metavar="SECONDS",
        help="how long each wait for the receiver may be (default: %(default)g)",
    )
    command.add_argument("--helo-name", metavar="NAME", help="(default: this machine's)")
    command.add_argument("--json", action="store_true", help="one JSON object instead of text")


def _add_ladder(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "ladder",
        help="draw recorded sessions",
        description="Draw sessions that --record has kept: who said what to whom, when, and what was repaired.",
        epilog="Exit status: 0, or 2 if a file is no record, or not all of one.",
    )
    command.set_defaults(prepare=_ladder, parser=command)
    command.add_argument("files", nargs="+", metavar="FILE", help="of --record's directory; - for standard input")
    command.add_argument("--svg", action="store_true", help="write one as SVG to standard output")
