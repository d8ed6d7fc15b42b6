"""AUTH as a client says it (RFC 4954): PLAIN, or LOGIN where that is not offered.

PLAIN is that of RFC 4616, and LOGIN that of draft-murchison-sasl-login.

It does not know whether a password may be said on the connection.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Final

from shimproxy.smtp.command import Command, Verb

AUTH: Final = b"AUTH"
"""The keyword whose parameters are the mechanisms."""
CONTINUES: Final = 334
DONE: Final = 235


def login(mechanisms: bytes, user: str, secret: str) -> list[Command]:
    """What is said to log in, each after a 334 to the one before it; nothing if no mechanism is known here.

    Args:
        mechanisms: those that the receiver offers, as its EHLO reply lists them.
        user: who logs in.
        secret: the password.
    """
    offered = mechanisms.upper().split()
    name, password = user.encode(), secret.encode()
    if b"PLAIN" in offered:
        return [_said(b"AUTH PLAIN " + b64encode(b"\0%s\0%s" % (name, password)))]
    if b"LOGIN" in offered:
        return [_said(each) for each in (b"AUTH LOGIN", b64encode(name), b64encode(password))]
    return []


def _said(line: bytes) -> Command:
    return Command(Verb.AUTH, line + b"\r\n")
