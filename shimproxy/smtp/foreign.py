"""What peers say to a port of SMTP that they take for another one, and how an operator mends that.

Only what no command of SMTP begins with is known for such, by exact octets. It does not know what becomes of it.
"""

from __future__ import annotations

import re
from typing import Final

import attrs


@attrs.frozen
class Foreign:
    """What is none of SMTP's."""

    what: str
    mend: str
    """What an operator does about it."""


_TLS: Final = Foreign(
    "a TLS ClientHello", "set sender-tls to implicit (with cert) for this listener, or let the sender use STARTTLS"
)
_HTTP: Final = Foreign("an HTTP request", "point health checks at the admin address (admin)")
PROXY: Final = Foreign("a PROXY header", "add the proxy's network to trust, or let the proxy send no header")

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""What a PROXY header of version 2 begins with."""
_HANDSHAKE: Final = 0x16
_OPENINGS: Final = (
    # The record of a handshake, of any version; the ClientHello of SSL 2, which TLS up to 1.1 may begin with.
    (_TLS, re.compile(rb"\x16\x03|[\x80-\xff].\x01\x03[\0-\x03]", re.DOTALL).match),
    (_HTTP, re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI) [^ \r\n]+ HTTP/\d").match),
    (PROXY, re.compile(rb"PROXY (?:TCP4 |TCP6 |UNKNOWN[ \r])|" + re.escape(_SIGNATURE)).match),
)


def foreign(octets: bytes) -> Foreign | None:
    """What `octets` begin with where a command is due, if that is none of SMTP's."""
    return next((each for each, begins in _OPENINGS if begins(octets)), None)


def may_be_foreign(octets: bytes) -> bool:
    """Whether these are in the clear, and are or may become what is none of SMTP's, once there are more of them."""
    if octets[0] == _HANDSHAKE or octets[0] >= 0x80:  # a record of TLS, or a header of SSL 2
        return False
    return foreign(octets) is not None or b"\n" not in octets or _SIGNATURE.startswith(octets)


def is_of_a_signature(line: bytes, empty_lines: int) -> bool:
    """Whether a line behind so many empty ones is the third of a PROXY header of version 2 that came in pieces."""
    return line == b"\0\r\n" and empty_lines >= 2
