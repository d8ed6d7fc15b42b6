"""`shimproxy demo`: see the fault, without shimproxy and with it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from shimproxy.cli.parser import number_type
from shimproxy.demo import demo
from shimproxy.net.address import Address

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands


def _demo(options: argparse.Namespace) -> Callable[[], int]:
    if options.serve:
        for flag in ("receiver", "octets", "patience", "svg"):
            if getattr(options, flag) is not None:
                raise ValueError(f"--serve waits for your own sender, so --{flag} has no effect; remove it")
        return demo.run_serve
    play = demo.Play(
        receiver=Address.parse(options.receiver) if options.receiver else None,
        patience_seconds=demo.PATIENCE_SECONDS if options.patience is None else options.patience,
        reverse_path=options.reverse_path,
        recipient=options.recipient,
        octets=options.octets,
    )
    return partial(demo.run, play, demo.picture_file(options.svg) if options.svg else None)


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "demo",
        help="watch the fault of kb-q152940 without shimproxy and with it",
        description="Send a mail to a receiver that interrupts it, without shimproxy and with it, and show both "
        "runs live. The demo obeys NO_COLOR and FORCE_COLOR.",
        epilog=("Exit status: 0 if the demo saw all that it expects, 1 if not (it says what), 2 if it cannot start."),
    )
    command.set_defaults(prepare=_demo, parser=command)
    command.add_argument(
        "--receiver",
        metavar="HOST:PORT",
        help="use this receiver instead of the embedded one; it receives the mail twice",
    )
    command.add_argument(
        "--serve",
        action="store_true",
        help="keep shimproxy and the embedded receiver running for your own sender",
    )
    command.add_argument(
        "--patience",
        type=number_type(float),
        metavar="SECONDS",
        help=f"how long the sender waits without shimproxy before it gives up (default: {demo.PATIENCE_SECONDS:g})",
    )
    command.add_argument(
        "--octets",
        type=number_type(int),
        metavar="N",
        help=f"size of the mail (default: {demo.EMBEDDED_OCTETS}, with --receiver {demo.REAL_OCTETS})",
    )
    command.add_argument("--svg", metavar="FILE", help="write a picture of both runs to FILE too")
    command.add_argument(
        "--from", dest="reverse_path", default="<sender@example.com>", metavar="ADDRESS", help="(default: %(default)s)"
    )
    command.add_argument(
        "--to", dest="recipient", default="<recipient@example.com>", metavar="ADDRESS", help="(default: %(default)s)"
    )
