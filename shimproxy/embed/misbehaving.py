"""`misbehaving`: a faulty receiver in threads of its own, for programs that are tested against it.

It is what `shimproxy misbehave` serves, in the manner of `running`: when the block ends, so have its threads, and its
sockets are closed.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from shimproxy.embed.background import Background, Listening
from shimproxy.faulty.plan import PATIENCE_SECONDS, Plan, share
from shimproxy.faulty.serving import bound, serving_faults
from shimproxy.net.address import Address, BoundAddress
from shimproxy.net.tls import sender_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.faulty.receiving import FaultyReceiver

_LISTEN = "127.0.0.1:0"


@attrs.define(eq=False, repr=False)
class Misbehaving(Listening[dict[str, Any]]):
    """A misbehaving receiver that runs: where it listens, and what became of its sessions.

    A record is what `shimproxy misbehave` prints of a session: "fault", "believes", "mail_octets", "ended", "dialogue"
    and so on.
    """

    _receiver: FaultyReceiver | None = None

    def _open(self) -> list[str]:
        return ["connected"] * (self._receiver.connections if self._receiver else 0)

    def _in_short(self, record: dict[str, Any]) -> str:
        return (
            f"{record['fault']} to {record['peer']}: {record['mail_octets']} octets of mail data, its sender believes "
            f"{record['believes']}"
        )


@contextlib.contextmanager
def misbehaving(
    *faults: str,
    listen: Address | str = _LISTEN,
    chosen: bool = False,
    seed: int = 0,
    delay_seconds: float = 0.0,
    segments: int | None = 1,
    lmtp: bool = False,
    certificate: Path | str | None = None,
    key: Path | str | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator[Misbehaving]:
    """Run a receiver that breaks SMTP on purpose, until the block ends; it accepts connections when that begins.

    Args:
        faults: names of `shimproxy misbehave --list`, as "early-reply"; or with a share of its sessions, as
            "early-reply:20%". Without any it does nothing wrong.
        listen: where, HOST:PORT; a free port of 127.0.0.1 if not given.
        chosen: whether the sender may choose the fault, by EHLO NAME.fault.example or RCPT TO:<NAME@fault.example>.
        seed: which sessions have the fault, where it has a share of them.
        delay_seconds: what passes before each reply.
        segments: how many segments each reply has; None for one for each octet.
        lmtp: whether it speaks LMTP (RFC 2033).
        certificate: a PEM file; with it, STARTTLS is offered.
        key: a PEM file with its key, if that is not in the same.
        patience_seconds: how long a session waits for its sender.

    Raises:
        ValueError: there is no such fault, or a number can't be used.
        AddressError, ListenFailed: it can't listen there.
        TlsUnusable: the certificate or the key can't be used.
        Exception: what went wrong in its threads, when the block ends.
    """
    for each in faults:
        if not isinstance(each, str):
            raise TypeError(
                f"misbehaving: {each!r} is not the name of a fault; write one in quotes, as in 'early-reply'"
            )
    security = sender_context(Path(certificate), Path(key) if key else None) if certificate else None
    plan = Plan(
        shares=[share(each) for each in faults],
        chosen=chosen,
        seed=seed,
        delay_seconds=delay_seconds,
        segments=segments,
        lmtp=lmtp,
        security=security,
        patience_seconds=patience_seconds,
    )
    listener = bound(Address.parse(listen) if isinstance(listen, str) else listen)
    run = Misbehaving(addresses=[BoundAddress.of(listener.getsockname())])
    receiver = serving_faults(plan, listener, run.background.add)
    run._receiver = receiver
    with run.background.ended_by(partial(_close, run.background, receiver)):
        yield run


def _close(background: Background[dict[str, Any]], receiver: FaultyReceiver) -> None:
    try:
        receiver.close()
    except Exception as error:
        background.fail(error)
    background.end()
