"""What is to be probed, and how: checked where it is made."""

from __future__ import annotations

import enum
import math
import socket
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.errors import AddressError
from shimproxy.net.tls import ReceiverSecurity, Verification, fingerprint
from shimproxy.smtp.arguments import path

if TYPE_CHECKING:
    from pathlib import Path

    from shimproxy.net.address import Address


class Tls(enum.StrEnum):
    """Where in a connection the probe changes to TLS."""

    OFF = "off"
    """Nowhere."""
    AUTO = "auto"
    """As the receiver has it; in the clear where it has none."""
    STARTTLS = "starttls"
    """After the hello, by STARTTLS (RFC 3207)."""
    IMPLICIT = "implicit"
    """Before anything else (RFC 8314 section 3)."""


PATIENCE_SECONDS: Final = 30.0
"""Less than RFC 5321 4.5.3.2 allows a receiver, as somebody waits."""
_LISTEN_SECONDS: Final = 1.0
_STALL_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 5.0


def _helo_name(value: str | None) -> str:
    name = socket.gethostname() if value is None else value
    if not name or not (name.isascii() and name.isprintable()) or " " in name:
        raise ValueError(f"--helo-name {name!r}: write a host name, as in mail.example")
    return name


def _reachable(_: object, __: object, value: Address) -> None:
    if not (value.host and value.port):
        raise AddressError(f"{value}: write HOST:PORT, as in 127.0.0.1:25")


@attrs.frozen(kw_only=True)
class ProbePlan:
    """What is to be probed, and how. Raises ValueError for what can't be, TlsUnusable for a CA file or fingerprint."""

    receiver: Address = attrs.field(validator=_reachable)
    reverse_path: str = attrs.field(default="<>", converter=path)
    """Every receiver should take the null one (RFC 5321 4.5.5), and nobody could be bounced to."""
    recipient: str = attrs.field(default="<postmaster>", converter=path)
    """And that one, even without a domain (4.5.1)."""
    octets: int | None = None
    """How much mail data to write; None for a little more than the SIZE that is offered."""
    patience_seconds: float = PATIENCE_SECONDS
    """How long each wait for the receiver may be."""
    listen_seconds: float = _LISTEN_SECONDS
    """How long to listen for what comes unasked."""
    stall_seconds: float = _STALL_SECONDS
    """How long a receiver that has replied to mail data may take nothing more of it."""
    lmtp: bool = False
    """Whether it speaks LMTP (RFC 2033)."""
    helo_name: str = attrs.field(default=None, converter=_helo_name)
    """Who the probe says it is; None for this machine's name."""
    tls: Tls = Tls.OFF
    receiver_name: str = ""
    """Whom the receiver's certificate must name; empty for the receiver's host."""
    receiver_authorities: Path | None = None
    """A file of CA certificates in PEM, instead of the system's."""
    receiver_fingerprint: str = ""
    """The SHA-256 of the only certificate that is accepted; empty to check the names and the CA."""
    verifying: ReceiverSecurity | None = attrs.field(init=False, eq=False, repr=False)
    """TLS as `shimproxy run` makes it where these settings require it; None if `tls` is off."""

    @verifying.default
    def _verifying(self) -> ReceiverSecurity | None:
        if self.tls is Tls.OFF:
            return None
        pinned = fingerprint(self.receiver_fingerprint) if self.receiver_fingerprint else None
        return ReceiverSecurity.make(
            Verification(name=self.receiver_name, authorities=self.receiver_authorities, fingerprint=pinned)
        )

    def __attrs_post_init__(self) -> None:
        if self.tls is Tls.OFF and (self.receiver_name or self.receiver_authorities or self.receiver_fingerprint):
            raise ValueError(
                "--receiver-name, --receiver-ca and --receiver-fingerprint need TLS; "
                f"give --tls {Tls.AUTO}, {Tls.STARTTLS} or {Tls.IMPLICIT}"
            )
        if self.octets is not None and self.octets < 1:
            raise ValueError(f"--octets must be a number from 1 on, not {self.octets}")
        if not 0 < self.patience_seconds < math.inf:
            raise ValueError(f"--patience must be a number of seconds above 0, not {self.patience_seconds:g}")

    @property
    def hellos(self) -> tuple[str, ...]:
        """What is said for a hello, one after the other where they are refused."""
        return ("LHLO",) if self.lmtp else ("EHLO", "HELO")

    @property
    def close_seconds(self) -> float:
        """How long a receiver may take to close after its reply to QUIT."""
        return min(self.patience_seconds, _CLOSE_SECONDS)
