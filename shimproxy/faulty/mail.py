"""The mails that faulty senders send: deterministic, and recognisable at the other end.

1. `data` is what goes over the wire, dot-stuffed, without the final dot; `text` is the same unstuffed, for programs.
2. Real senders put header fields on top, so that a mail is known by its body.
"""

from __future__ import annotations

import functools
from typing import Final

import attrs

KIB: Final = 1024
MIB: Final = 1024 * KIB

PIECE_OCTETS: Final = 536
"""What the sender of KB Q152940 writes at a time."""
SENDER: Final = "sender@sender.example"
RECIPIENT: Final = "recipient@receiver.example"

HEADER: Final = (
    f"From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: the table\r\n"
    "Date: Mon, 29 Mar 1999 12:00:00 +0000\r\nMessage-ID: <table@sender.example>\r\n\r\n"
).encode()


@attrs.frozen(slots=False)
class Mail:
    """One mail of about `octets`."""

    name: str
    octets: int
    body: bytes = attrs.field(repr=False)
    """Dot-stuffed, in CRLF lines."""
    header: bytes = attrs.field(default=HEADER, repr=False)
    """In CRLF lines, the empty one after it included."""

    @functools.cached_property
    def data(self) -> bytes:
        """Header and body as they go over the wire, without the final dot."""
        return self.header + self.body

    @functools.cached_property
    def crlf_text(self) -> bytes:
        """The same in CRLF lines."""
        return self.text.replace(b"\n", b"\r\n")

    @functools.cached_property
    def text(self) -> bytes:
        """Header and body as a program is given them: LF lines, not dot-stuffed."""
        return self.data.replace(b"\r\n", b"\n").replace(b"\n..", b"\n.")

    def is_whole(self, data: bytes, *, stuffed: bool = True) -> bool:
        """Whether `data`, which a receiver took, holds the whole body; in chunks it is not dot-stuffed."""
        body = self.body if stuffed else self.crlf_text[len(self.header) :]
        return data.endswith(body) and data[: -len(body)].endswith(b"\r\n\r\n")


@functools.cache
def lines(octets: int) -> bytes:
    """About so many octets of mail data in numbered CRLF lines, some of them of dots."""
    line = b"%07d The last line sent is signified by a dot on a line by itself, says RFC 821.\r\n"
    count = octets // len(line % 0)
    lines = [line % number for number in range(count)]
    # Lines of dots, spread over the mail, the first within the first few octets.
    for number in range(5, count, max(1, count // 50)):
        lines[number] = b"..." + lines[number]
    return b"".join(lines)
