"""The mails that the table sends, dangerous if run as commands.

The last lines are commands: a receiver that reads them as such has been handed mail data as commands.
"""

from __future__ import annotations

from typing import Final

from shimproxy.faulty.mail import KIB, MIB, Mail, lines

INJECTED: Final = (
    b"RSET",
    b"MAIL FROM:<injected@mail-data.example>",
    b"RCPT TO:<injected@mail-data.example>",
    b"DATA",
    b"QUIT",
)


def mail_of(name: str, octets: int) -> Mail:
    """A mail of about `octets`."""
    commands = b"".join(command + b"\r\n" for command in INJECTED)
    return Mail(name, octets, lines(octets) + commands + b"This is the last line.\r\n")


SMALL: Final = mail_of("20KB", 20 * KIB)
"""Fits into the kernel's buffers: it may have reached the receiver whole before an early reply came."""

LARGE: Final = mail_of("16MiB", 16 * MIB)
"""More than the kernel's buffers hold on both legs: its sender blocks if nobody reads."""

SIZES: Final = (SMALL, LARGE)
