"""`shimproxy misbehave`: faulty receivers and senders for tests of mail programs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shimproxy.cli import misbehave_command as misbehave
from shimproxy.config.parsers import number_of
from shimproxy.faulty.letter import Letter
from shimproxy.faulty.mail import RECIPIENT, SENDER, Mail, lines
from shimproxy.faulty.plan import CHOSEN, DOMAIN, EACH_OCTET, PATIENCE_SECONDS, Plan, share
from shimproxy.faulty.playing import sender_named
from shimproxy.net.address import Address
from shimproxy.net.tls import sender_context
from shimproxy.smtp.arguments import path

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands

LISTEN: Final = "127.0.0.1:2525"
OCTETS: Final = 100_000
_OF_A_SENDER: Final = ("to", "octets", "reverse_path", "recipient")
_OF_A_RECEIVER: Final = ("listen", "served_as", "seed", "delay", "segments", "cert", "key")
_CERTIFICATE: Final = (
    "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost "
    "-keyout key.pem -out cert.pem"
)


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "misbehave",
        help="test a mail program against every fault of the catalogue",
        description="Serve a faulty receiver, or play a faulty sender, for tests of mail programs. Standard output has "
        "JSON, an object a line: what each session had said, what its sender believes, and who ended it.",
        epilog="Exit status: 0 when it was served until SIGINT or SIGTERM, or played; 2 if it can't be. "
        f"Python's standard library makes no certificate; this does: {_CERTIFICATE}",
    )
    command.set_defaults(prepare=_prepare, parser=command)
    command.add_argument("--list", action="store_true", help="print every fault, with its rule and what it is called")
    command.add_argument("--json", action="store_true", help="with --list: JSON, an object a line")
    receiver = command.add_argument_group("a faulty receiver")
    receiver.add_argument(
        "--as",
        dest="served_as",
        action="append",
        metavar="NAME[:PERCENT%]",
        help="its fault, or the fault of a share of its sessions (repeatable); 'chosen', the default, lets the sender "
        f"choose, by EHLO NAME.{DOMAIN} or RCPT TO:<NAME@{DOMAIN}>".replace("%", "%%"),
    )
    receiver.add_argument("--listen", metavar="HOST:PORT", help=f"where; port 0 takes a free one (default: {LISTEN})")
    receiver.add_argument("--seed", metavar="N", help="which sessions have the fault (default: 0)")
    receiver.add_argument("--delay", metavar="SECONDS", help="what passes before each reply (default: 0)")
    receiver.add_argument("--segments", metavar=f"N|{EACH_OCTET}", help="how many segments each reply has (default: 1)")
    receiver.add_argument("--cert", metavar="FILE", help="offer STARTTLS with this certificate, in PEM")
    receiver.add_argument("--key", metavar="FILE", help="its key, if that is not in the same file")
    sender = command.add_argument_group("a faulty sender")
    sender.add_argument("--sender", metavar="NAME", help="its fault")
    sender.add_argument("--to", metavar="HOST:PORT", help="the receiver, or what stands before it")
    sender.add_argument("--octets", metavar="N", help=f"size of its mail (default: {OCTETS})")
    sender.add_argument("--from", dest="reverse_path", metavar="ADDRESS", help="(default: sender@sender.example)")
    sender.add_argument("--recipient", metavar="ADDRESS", help="(default: recipient@receiver.example)")
    both = command.add_argument_group("either")
    both.add_argument("--lmtp", action="store_true", help="speak LMTP (RFC 2033)")
    both.add_argument(
        "--patience",
        metavar="SECONDS",
        help=f"how long each wait for the other side may be (default: {PATIENCE_SECONDS:g})",
    )


def _prepare(options: argparse.Namespace) -> Callable[[], int]:
    """What is to be done. Raises ValueError, or what Plan and the certificate raise."""
    if options.list:
        return partial(misbehave.show_list, as_json=options.json)
    patience = _number("patience", options.patience, PATIENCE_SECONDS)
    _forbid(options, _OF_A_RECEIVER if options.sender else _OF_A_SENDER, "a receiver" if options.sender else "a sender")
    if options.sender:
        return _sender(options, patience)
    shares = [share(each) for each in options.served_as or [CHOSEN]]
    if options.key and not options.cert:
        raise ValueError("--key: give the certificate that it was made for, too: --cert FILE")
    plan = Plan(
        shares=[each for each in shares if each[0] != CHOSEN],
        chosen=any(name == CHOSEN for name, _ in shares),
        seed=int(_number("seed", options.seed, 0, int)),
        delay_seconds=_number("delay", options.delay, 0),
        segments=misbehave.segments_of(options.segments or "1"),
        lmtp=options.lmtp,
        security=sender_context(Path(options.cert), Path(options.key) if options.key else None)
        if options.cert
        else None,
        patience_seconds=patience,
    )
    return partial(misbehave.serve_misbehaving, plan, Address.parse(options.listen or LISTEN))


def _sender(options: argparse.Namespace, patience_seconds: float) -> Callable[[], int]:
    sender = sender_named(options.sender)
    if not options.to:
        raise ValueError(f"--sender {sender.name}: say where to send: --to HOST:PORT")
    octets = int(_number("octets", options.octets, OCTETS, int))
    if octets < 1:
        raise ValueError(f"--octets must be a number from 1 on, not {octets}")
    letter = Letter(
        Mail("", octets, lines(octets)),
        hello="LHLO sender.example" if options.lmtp else "EHLO sender.example",
        reverse_path=_address(options.reverse_path, SENDER),
        recipient=_address(options.recipient, RECIPIENT),
    )
    return partial(misbehave.send, sender, Address.parse(options.to), letter, patience_seconds)


def _forbid(options: argparse.Namespace, names: tuple[str, ...], whose: str) -> None:
    flags = {"served_as": "as", "reverse_path": "from"}
    for name in names:
        if getattr(options, name) is not None:
            other = "remove it, or remove --sender" if options.sender else "give --sender NAME as well, or remove it"
            raise ValueError(f"--{flags.get(name, name)} is for {whose} alone; {other}")


def _address(given: str | None, default: str) -> str:
    return default if given is None else path(given).strip("<>")


def _number(name: str, text: str | None, default: float, kind: type[int] | type[float] = float) -> float:
    if text is None:
        return default
    try:
        return number_of(text, kind)
    except ValueError as error:
        raise ValueError(f"--{name}: {error}, not {text!r}") from None
