"""The routes of a soak: each is a listener of shimproxy, the receivers behind it, and the senders that use it.

On the strict ones nobody misbehaves, and shimproxy has its usual deadlines. On the others it has short ones, so that
each wait ends within a short run too.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from typing import TYPE_CHECKING, Final

import attrs

from bench import programs
from bench.ledger import Ledger
from bench.soak_receivers import TLS_FAULTS, Books, Faulty, Moody, SoakTalk, behind_tls, presents, takes
from bench.soak_senders import CHUNKED, GOOD, MOST_OCTETS, ODD, OVER_TLS
from shimproxy.faulty.receiving import HOST, FaultyReceiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bench.soak_senders import Kind
    from shimproxy.faulty.talk import Seen, Talk

WORKERS: Final = 2
_SHORT: Final = (
    "[listener.deadline]\n"
    "connect = 3\ngreeting = 5\nreply = 5\ndata-reply = 5\nreceiver-block = 4\nend-of-data-reply = 6\ncommand = 5\n"
    "sender-block = 4\ntls = 3\nlinger-idle = 1\nlinger-total = 3\n"
)


@attrs.frozen(kw_only=True)
class Route:
    """A listener of shimproxy."""

    name: str
    receivers: Sequence[int]
    """Their ports."""
    kinds: Sequence[Kind]
    """Of senders."""
    ledger: Ledger
    strict: bool = False
    tls: bool = False
    """Whether its senders shake hands at once."""
    more: str = ""
    """Its settings beyond the usual ones, in TOML."""


@contextlib.contextmanager
def routes(folder: Path, certificate: Path, seed: int, good: Callable[[Talk], None] = takes) -> Iterator[list[Route]]:
    """All routes with their receivers, which run until the end; `good` is what becomes of a mail on strict ones."""
    ledger, dice = Ledger(), random.Random(seed)
    serving = _context(certificate)
    (folder / "other").mkdir()
    untrusted = presents(_context(programs.make_certificate(folder / "other")))
    both_tls = (
        f'sender-tls = "implicit"\ncert = "{certificate}"\n'
        f'receiver-tls = "implicit"\nreceiver-ca = "{certificate}"\nreceiver-name = "{programs.CERTIFICATE_NAME}"\n'
    )
    with contextlib.ExitStack() as stack:

        def receiver(
            route: str,
            on_data: Callable[[Talk], None] = takes,
            talk: Callable[[socket.socket, Seen], Talk] = SoakTalk,
            *,
            tight: bool = False,
        ) -> int:
            made = FaultyReceiver(on_data, tight=tight, talk=talk, seen=Books(ledger=ledger, route=route))
            stack.callback(_close, made, ledger)
            return made.port

        unheard = stack.enter_context(socket.socket())
        unheard.bind((HOST, 0))  # and does not listen
        nobody: int = unheard.getsockname()[1]
        tls_faults = [*TLS_FAULTS, untrusted]

        yield [
            Route(name="good", receivers=[receiver("good", good)], kinds=GOOD, ledger=ledger, strict=True),
            Route(
                name="good over TLS",
                receivers=[receiver("good over TLS", good, behind_tls(serving, [], dice))],
                kinds=GOOD,
                ledger=ledger,
                strict=True,
                tls=True,
                more=both_tls,
            ),
            Route(
                name="odd senders",
                receivers=[receiver("odd senders")],
                kinds=ODD,
                ledger=ledger,
                more=f'cert = "{certificate}"\nallow-clear = true\nmax-size = "{MOST_OCTETS}"\n{_SHORT}',
            ),
            Route(
                name="faults",
                receivers=[receiver("faults", talk=Faulty(dice))],
                kinds=GOOD,
                ledger=ledger,
                more=_SHORT,
            ),
            Route(
                name="shut windows",
                receivers=[receiver("shut windows", talk=Faulty(dice, tight=True), tight=True)],
                kinds=GOOD,
                ledger=ledger,
                more=_SHORT,
            ),
            Route(
                name="chunks",
                receivers=[receiver("chunks", talk=Faulty(dice, chunked=True))],
                kinds=CHUNKED,
                ledger=ledger,
                more=_SHORT,
            ),
            Route(
                name="failing TLS",
                receivers=[receiver("failing TLS", takes, behind_tls(serving, tls_faults, dice))],
                kinds=OVER_TLS,
                ledger=ledger,
                tls=True,
                more=both_tls + _SHORT,
            ),
            Route(
                name="failover",
                receivers=[
                    receiver("failover, moody", takes, type("Moody", (Moody,), {"dice": dice})),
                    nobody,
                    receiver("failover"),
                ],
                kinds=GOOD,
                ledger=ledger,
                more=f'balance = "round-robin"\nreceiver-rest = 1\nresume = true\n{_SHORT}',
            ),
        ]


def _close(receiver: FaultyReceiver, ledger: Ledger) -> None:
    try:
        receiver.close()
    except Exception as error:
        ledger.troubles.append(f"a receiver failed: {error!r}")


def _context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def settings(made: Sequence[Route], records: Path) -> str:
    """The settings of shimproxy for these routes, in TOML, and where it keeps records of all sessions."""
    first, *_ = made
    lines = [
        f'receiver = "{HOST}:{first.receivers[0]}"',
        f'admin = "{HOST}:0"',
        f"workers = {WORKERS}",
        'log-format = "json"',
        f'record = "{records}"',
        'record-what = "all"',
        'record-most = "100GiB"',
    ]
    for route in made:
        receivers = ", ".join(f'"{HOST}:{port}"' for port in route.receivers)
        lines += ["", "[[listener]]", f'listen = "{HOST}:0"', f"receiver = [{receivers}]", route.more]
    return "\n".join(lines) + "\n"
