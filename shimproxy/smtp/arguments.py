"""Arguments of commands: what shimproxy must know of a peer's (SIZE=, the recipient's domain), and paths of its own.

What a peer says and this can't read is no error here: the receiver judges it.
"""

from __future__ import annotations

import re

_QUOTED = rb"\"(?:[^\"\\]|\\.)*\""
_SIZE = re.compile(rb"(?:" + _QUOTED + rb"|[^\"])*?[ \t]SIZE=(\d{1,20})(?=[ \t\r])", re.IGNORECASE).match
_PATH = re.compile(rb"[^:]*:[ \t]*<?[ \t]*((?:" + _QUOTED + rb"|[^\s>\"])*)").match

_PLAIN_PATH = re.compile(rb"[^:]*+:<([^\s<>\"]*+)>").match  # nearly every one, without a way back


def declared_octets(line: bytes) -> int | None:
    """The size of the mail that MAIL declares (RFC 1870 section 6), if it does."""
    found = _SIZE(line)
    return int(found[1]) if found else None


def domain(line: bytes) -> bytes:
    """The domain of the path in a MAIL or RCPT command, in small letters; empty if it has none."""
    found = _PATH(line)
    _, at, name = (found[1] if found else b"").rpartition(b"@")
    return name.lower().rstrip(b".") if at else b""


def address_of(line: bytes) -> bytes:
    """The address of the path in a MAIL or RCPT command, as it stands there; empty for the null reverse-path."""
    if plain := _PLAIN_PATH(line):
        return plain[1]
    found = _PATH(line)
    return found[1] if found else b""


def path(value: str) -> str:
    """The mail address in brackets, as MAIL and RCPT have it. Raises ValueError for one that can't stand there."""
    address = value.removeprefix("<").removesuffix(">")
    if not (address.isascii() and address.isprintable()) or set(address) & set(" <>"):
        raise ValueError(f"{value!r} is not a mail address; write LOCAL@DOMAIN")
    return f"<{address}>"
