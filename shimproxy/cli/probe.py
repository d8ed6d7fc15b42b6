"""`shimproxy probe`: see how a receiver behaves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shimproxy.cli.parser import number_type
from shimproxy.net.address import Address
from shimproxy.probe import probe

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands


def _probe(options: argparse.Namespace) -> Callable[[], int]:
    plan = probe.ProbePlan(
        receiver=Address.parse(options.receiver),
        reverse_path=options.reverse_path,
        recipient=options.recipient,
        octets=options.octets,
        lmtp=options.lmtp,
        patience_seconds=options.patience,
        helo_name=options.helo_name,
        tls=probe.Tls(options.tls),
        receiver_name=options.receiver_name,
        receiver_authorities=options.receiver_ca and Path(options.receiver_ca),
        receiver_fingerprint=options.receiver_fingerprint,
    )
    return partial(probe.run, plan, agreed=options.yes, as_json=options.json)


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "probe",
        help="test how a receiver behaves before mail depends on it",
        description="Report how a receiver behaves, which rules it breaks, and what shimproxy does about that. The "
        "probe completes no mail, and begins a large one only if you agree.",
        epilog=("Exit status: 0 after a probe, whatever it found; 2 if it is impossible; 130 after an interrupt."),
    )
    command.set_defaults(prepare=_probe, parser=command)
    command.add_argument("receiver", metavar="HOST:PORT", help="the receiver")
    command.add_argument("--lmtp", action="store_true", help="the receiver speaks LMTP (RFC 2033)")
    command.add_argument(
        "--tls",
        default=str(probe.Tls.OFF),
        choices=[*map(str, probe.Tls)],
        help="ask everything inside TLS: by STARTTLS; implicit, from the start; or auto, as the receiver has it "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--receiver-name",
        default="",
        metavar="NAME",
        help="the name that the receiver's certificate must have (default: the receiver's host)",
    )
    command.add_argument("--receiver-ca", metavar="FILE", help="trust these CA certificates instead of the system's")
    command.add_argument(
        "--receiver-fingerprint",
        default="",
        metavar="SHA256",
        help="accept only this receiver certificate, without a CA check",
    )
    command.add_argument(
        "--yes", action="store_true", help="begin the large mail without asking; without a terminal, the only way"
    )
    command.add_argument(
        "--from",
        dest="reverse_path",
        default="<>",
        metavar="ADDRESS",
        help="the large mail's reverse-path (default: %(default)s)",
    )
    command.add_argument(
        "--to",
        dest="recipient",
        default="<postmaster>",
        metavar="ADDRESS",
        help="the large mail's recipient (default: %(default)s)",
    )
    command.add_argument(
        "--octets",
        type=number_type(int),
        metavar="N",
        help=(
            "the large mail's size (default: a little more than the receiver's SIZE; 20 MiB without SIZE; at most "
            "64 MiB)"
        ),
    )
    command.add_argument(
        "--patience",
        type=number_type(float),
        default=probe.PATIENCE_SECONDS,
        metavar="SECONDS",
        help="how long to wait for each answer of the receiver (default: %(default)g)",
    )
    command.add_argument("--helo-name", metavar="NAME", help="the name in HELO or EHLO (default: this machine's)")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
