"""The command line: arguments become Settings, and errors become one line that names the mend."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import attrs
import trio

from shimproxy import __version__
from shimproxy.net.address import Address
from shimproxy.net.errors import AddressError, DialFailed, ListenFailed, TlsUnusable
from shimproxy.ops import demo, journal
from shimproxy.ops.run import run
from shimproxy.ops.settings import Settings
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.policy import Login, ReceiverTls, SenderTls
from shimproxy.session.replies import EARLY_SUCCESS
from shimproxy.smtp.newlines import Newlines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXIT_UNUSABLE = 2
_UNUSABLE = (ListenFailed, DialFailed, TlsUnusable)
_SECRET = "SHIMPROXY_LOGIN_SECRET"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run shimproxy with these arguments (those of the process by default); the exit status."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[], int] = options.prepare(options)
    except ValueError as error:  # a setting that can't be used; afterwards, a ValueError would be a bug
        return _unusable(str(error))
    try:
        return command()
    except _UNUSABLE as error:
        return _unusable(str(error))
    except BaseExceptionGroup as group:  # trio >= 0.25 wraps what leaves a nursery
        known = group.subgroup(_UNUSABLE)
        if known is None:
            raise
        return _unusable(str(_first(known)))
    except KeyboardInterrupt:
        return 130


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _unusable(message: str) -> int:
    print(f"shimproxy: {message}", file=sys.stderr)
    return EXIT_UNUSABLE


def _run(options: argparse.Namespace) -> Callable[[], int]:
    if not options.listen:
        raise AddressError("no --listen HOST:PORT: say where senders connect, as in --listen 127.0.0.1:2525")
    general, by_domain = _sizes(options.max_size)
    settings = Settings(
        listen=options.listen,
        receiver=options.receiver,
        deadlines=_with_changes(Deadlines(), options.deadline, "--deadline"),
        limits=_with_changes(Limits(), options.limit, "--limit"),
        sessions=options.sessions,
        grace_seconds=options.grace,
        early_success=options.early_success,
        newlines=options.newlines,
        max_size=general,
        tidy=options.tidy,
        helo_name=options.helo_name,
        max_size_by_domain=by_domain,
        sender_tls=options.sender_tls,
        certificate=options.cert,
        key=options.key,
        receiver_tls=options.receiver_tls,
        receiver_name=options.receiver_name,
        receiver_authorities=options.receiver_ca,
        receiver_fingerprint=options.receiver_fingerprint,
        receiver_verified=options.receiver_verify,
        clear_allowed=options.allow_clear,
        login=_login(options),
        pipelining=options.pipelining,
        resume=options.resume,
        lmtp=options.lmtp,
    )

    def command() -> int:
        journal.set_up(options.log_level.upper(), options.log_format)
        trio.run(run, settings)
        return 0

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


_Settable = TypeVar("_Settable", Deadlines, Limits)


def _with_changes(defaults: _Settable, changes: Sequence[str], flag: str) -> _Settable:
    """`defaults` with the NAME=NUMBER changes that were given to `flag`."""
    kinds = {
        field.name.replace("_", "-"): type(getattr(defaults, field.name)) for field in attrs.fields(type(defaults))
    }
    values: dict[str, Any] = {}
    for change in changes:
        name, _, number = change.partition("=")
        if name not in kinds:
            raise ValueError(f"{flag} {change}: no such name; there are {', '.join(kinds)}")
        try:
            values[name.replace("-", "_")] = kinds[name](number)
        except ValueError:
            raise ValueError(f"{flag} {change}: write {name}=NUMBER") from None
    try:
        return attrs.evolve(defaults, **values)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from None


def _login(options: argparse.Namespace) -> Login | None:
    """The login that was asked for, with its secret from a file or the environment."""
    if options.login is None:
        return None
    file = options.login_secret_file
    try:
        secret = Path(file).read_text().partition("\n")[0] if file else os.environ.get(_SECRET, "")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--login-secret-file {file}: {getattr(error, 'strerror', None) or error}") from None
    if not secret:
        raise ValueError(f"--login: no secret; give --login-secret-file FILE, or {_SECRET} in the environment")
    return Login(options.login, secret, options.login_in_clear)


_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def _sizes(given: Sequence[str]) -> tuple[int | None, dict[str, int]]:
    """The general limit and those of domains that were given to --max-size."""
    general: int | None = None
    by_domain: dict[str, int] = {}
    for each in given:
        domain, _, size = each.rpartition("=")
        digits = size.rstrip("KMGiB")
        unit = _UNITS.get(size[len(digits) :])
        if not (digits.isascii() and digits.isdigit()) or unit is None or int(digits) < 1:
            raise ValueError(f"--max-size {each}: write a size as in 10MiB, 500KiB or 1000, or example.com=2MiB")
        if domain:
            by_domain[domain] = int(digits) * unit
        else:
            general = int(digits) * unit
    return general, by_domain


def _names(settable: Deadlines | Limits) -> str:
    return ", ".join(
        f"{field.name.replace('_', '-')} {getattr(settable, field.name):g}" for field in attrs.fields(type(settable))
    )


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_UNUSABLE, f"shimproxy: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="shimproxy",
        description="A live, transparent SMTP proxy that repairs protocol violations on the wire.",
    )
    parser.add_argument("--version", action="version", version=f"shimproxy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run_command = commands.add_parser(
        "run",
        help="stand between senders and a receiver",
        description="Stand between senders and a receiver until SIGTERM or SIGINT.",
        epilog=f"Deadlines, in seconds: {_names(Deadlines())}. Limits: {_names(Limits())}.",
    )
    run_command.set_defaults(prepare=_run)
    run_command.add_argument(
        "--listen",
        action="append",
        default=[],
        metavar="HOST:PORT[,...]",
        help="where senders connect (repeatable); [::1]:2525 for IPv6, :2525 for all addresses, port 0: a free one; "
        "with ',lf-only-devices' LF alone ends a line there, and LF.LF mail data: see README for the danger; "
        "',least-tls=1.0' lets senders of that age in",
    )
    run_command.add_argument("--receiver", required=True, metavar="HOST:PORT", help="the receiver that mail goes to")
    run_command.add_argument(
        "--newlines",
        choices=[str(choice) for choice in Newlines],
        default=str(Newlines.NORMALISE),
        help="bare CR, bare LF and NUL in commands and mail data: make canonical, refuse, or pass octet for octet to a "
        "receiver that may be smuggled to (default: %(default)s)",
    )
    run_command.add_argument(
        "--max-size",
        action="append",
        default=[],
        metavar="[DOMAIN=]SIZE",
        help="refuse larger mails by 552 5.3.4, in general or for recipients in a domain (repeatable): 10MiB, 500KiB, "
        "or a number of octets",
    )
    run_command.add_argument(
        "--tidy",
        action="store_true",
        help="put commands in order that strict receivers refuse for their blanks, brackets or HELO name",
    )
    run_command.add_argument(
        "--helo-name",
        default="",
        metavar="NAME",
        help="with --tidy: what stands in for an impossible name (default: this machine's)",
    )
    _add_tls(run_command)
    run_command.add_argument(
        "--no-pipelining",
        dest="pipelining",
        action="store_false",
        help="do not offer PIPELINING, for receivers that lose commands when several come together",
    )
    run_command.add_argument(
        "--resume",
        action="store_true",
        help="after a repair, open a fresh connection to the receiver with the sender's next MAIL, instead of 421; "
        "not once the sender has logged in",
    )
    run_command.add_argument(
        "--lmtp", action="store_true", help="senders and the receiver speak LMTP: a reply for each recipient of a mail"
    )
    run_command.add_argument(
        "--grace",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="after the first signal, how long open transactions may go on (default: %(default)g)",
    )
    run_command.add_argument(
        "--sessions", type=int, default=10_000, metavar="N", help="sessions at a time (default: %(default)s)"
    )
    run_command.add_argument(
        "--early-success",
        default=EARLY_SUCCESS.enhanced.octets.decode().rstrip(),
        metavar="REPLY",
        help="what answers mail data that the receiver accepted before its end (default: '%(default)s')",
    )
    run_command.add_argument(
        "--deadline", action="append", default=[], metavar="NAME=SECONDS", help="change a deadline"
    )
    run_command.add_argument("--limit", action="append", default=[], metavar="NAME=NUMBER", help="change a limit")
    run_command.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="info: a line a session; warning: a line a repair; debug: the dialogue (default: %(default)s)",
    )
    run_command.add_argument("--log-format", choices=("text", "json"), default="text", help="(default: %(default)s)")
    _add_demo(commands)
    return parser


def _add_tls(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("TLS")
    group.add_argument(
        "--sender-tls",
        choices=[str(choice) for choice in SenderTls],
        help="terminate it (by STARTTLS or from the start), pass the receiver's through unread, so that nothing can be "
        "repaired in it, or offer none (default: starttls with --cert; without, opaque if --receiver-tls is off, "
        "else off)",
    )
    group.add_argument("--cert", metavar="FILE", help="the certificate that senders are shown, with its chain, in PEM")
    group.add_argument("--key", metavar="FILE", help="its key, if that is in another file")
    group.add_argument(
        "--receiver-tls",
        choices=[str(choice) for choice in ReceiverTls],
        default=str(ReceiverTls.OFF),
        help="TLS with the receiver, made by shimproxy: by STARTTLS where that works, by STARTTLS or not at all, or "
        "from the start (default: %(default)s)",
    )
    group.add_argument(
        "--receiver-name", default="", metavar="NAME", help="whom its certificate must name (default: its host)"
    )
    group.add_argument("--receiver-ca", metavar="FILE", help="CA certificates to be trusted instead of the system's")
    group.add_argument(
        "--receiver-fingerprint",
        default="",
        metavar="SHA256",
        help="the only certificate that is taken, whoever signed it",
    )
    group.add_argument(
        "--receiver-verify",
        action=argparse.BooleanOptionalAction,
        help="check its certificate (default: yes, but for opportunistic TLS of which nothing else is said)",
    )
    group.add_argument("--login", metavar="USER", help="log in at the receiver for senders that can't")
    group.add_argument(
        "--login-secret-file",
        metavar="FILE",
        help=f"its first line is the secret (default: {_SECRET} in the environment)",
    )
    group.add_argument("--login-in-clear", action="store_true", help="log in without TLS, too")
    group.add_argument(
        "--allow-clear",
        action="store_true",
        help="let the mail of senders that used TLS go to the receiver in the clear",
    )


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "demo",
        help="see the fault of kb-q152940, without shimproxy and with it",
        description="Play a mail to a receiver that interrupts it, without shimproxy and with it, and show both runs.",
        epilog="Exit status: 0 if all was seen that is to be seen, 1 if not (it says what), 2 if it can't start.",
    )
    command.set_defaults(prepare=_demo)
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
        type=float,
        metavar="SECONDS",
        help="how long the sender without shimproxy may be blocked before it gives up "
        f"(default: {demo.PATIENCE_SECONDS:g})",
    )
    command.add_argument(
        "--octets",
        type=int,
        metavar="N",
        help=f"size of the mail (default: {demo.EMBEDDED_OCTETS}, with --receiver {demo.REAL_OCTETS})",
    )
    command.add_argument(
        "--from", dest="reverse_path", default="<sender@example.com>", metavar="ADDRESS", help="(default: %(default)s)"
    )
    command.add_argument(
        "--to", dest="recipient", default="<recipient@example.com>", metavar="ADDRESS", help="(default: %(default)s)"
    )
