"""What a client says to log in, by what the receiver offers (RFC 4954)."""

from __future__ import annotations

import base64

import pytest

from shimproxy.smtp.command import Verb
from shimproxy.smtp.login import login

PLAIN = [b"AUTH PLAIN " + base64.b64encode(b"\0jos\xc3\xa9\0a secret")]
LOGIN = [b"AUTH LOGIN", base64.b64encode("josé".encode()), base64.b64encode(b"a secret")]


@pytest.mark.parametrize(
    ("mechanisms", "lines"),
    [
        (b"PLAIN", PLAIN),
        (b"login plain", PLAIN),
        (b"LOGIN CRAM-MD5", LOGIN),
        (b"CRAM-MD5 XPLAIN", []),
        (b"", []),
    ],
)
def test_the_first_mechanism_that_is_known_is_used(mechanisms: bytes, lines: list[bytes]) -> None:
    """PLAIN is one line; LOGIN asks for the name and the password, each with a 334."""
    commands = login(mechanisms, "josé", "a secret")

    assert [command.line for command in commands] == [line + b"\r\n" for line in lines]
    assert {command.verb for command in commands} <= {Verb.AUTH}
