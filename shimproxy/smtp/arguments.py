"""What the shim itself must know of a command's arguments: SIZE=, and the recipient's domain.

Whatever it can't read is no error here: the receiver judges it.
"""

from __future__ import annotations

import re

_QUOTED = rb"\"(?:[^\"\\]|\\.)*\""
_SIZE = re.compile(rb"(?:" + _QUOTED + rb"|[^\"])*?[ \t]SIZE=(\d{1,20})(?=[ \t\r])", re.IGNORECASE).match
_PATH = re.compile(rb"[^:]*:[ \t]*<?[ \t]*((?:" + _QUOTED + rb"|[^\s>\"])*)").match


def declared_octets(line: bytes) -> int | None:
    """The size of the mail that MAIL declares (RFC 1870 section 6), if it does."""
    found = _SIZE(line)
    return int(found[1]) if found else None


def domain(line: bytes) -> bytes:
    """The domain of the path in a MAIL or RCPT command, in small letters; empty if it has none."""
    found = _PATH(line)
    _, at, name = (found[1] if found else b"").rpartition(b"@")
    return name.lower().rstrip(b".") if at else b""
