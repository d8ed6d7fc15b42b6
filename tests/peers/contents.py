"""Mails whose contents are hard to get right, and their way back: what a mailbox holds against what was sent.

1. Lines of dots, leading dots, octets above 127, long and empty lines, lines that look like commands or mbox headings.
2. No NUL, no bare CR or LF: those are no SMTP, and receivers may change them.
3. The same number gives the same mail.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.client import Dialogue, connected

if TYPE_CHECKING:
    from collections.abc import Iterable

_EIGHT_BIT: Final = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
_LINES: Final = (b".", b"..", b"...", b". ", b".x", b"..x", b"", b" ", b"From x", b"QUIT", b"RSET", b"x .", b"\t.")
_LONGEST_OCTETS: Final = 3000


@attrs.frozen
class Content:
    """One mail."""

    number: int
    lines: tuple[bytes, ...]

    @property
    def data(self) -> bytes:
        """What goes over the wire, with the final dot."""
        stuffed = [b"." + line if line.startswith(b".") else line for line in self.lines]
        return b"\r\n".join([b"Subject: %d" % self.number, b"", *stuffed, b".", b""])

    @property
    def body(self) -> bytes:
        """What a mailbox must hold, with LF as line end."""
        return b"".join(line + b"\n" for line in self.lines)


def content(number: int) -> Content:
    """The mail with this number."""
    dice = random.Random(number)
    lines: list[bytes] = []
    for _ in range(dice.randrange(60)):
        if dice.random() < 0.5:
            lines.append(dice.choice(_LINES))
        else:
            octets = dice.choice((3, 20, 76, 998, _LONGEST_OCTETS))
            lines.append(bytes(dice.choices(_EIGHT_BIT, k=dice.randrange(octets))))
    return Content(number, tuple(lines))


def send_contents(port: int, recipient: str, numbers: Iterable[int]) -> list[bytes]:
    """Send the mails with these numbers over kept sessions of several mails each; the replies to them."""
    replies: list[bytes] = []
    rest = list(numbers)
    while rest:
        dice = random.Random(rest[0])
        with connected(port) as sock:
            dialogue = Dialogue(sock)
            dialogue.open("EHLO contents.example")
            for _ in range(dice.randrange(1, 10)):
                if not rest:
                    break
                dialogue.command("MAIL FROM:<sender@sender.example> BODY=8BITMIME", 250)
                dialogue.command(f"RCPT TO:<{recipient}>", 250)
                dialogue.command("DATA", 354)
                data = content(rest.pop(0)).data
                while data:
                    octets = dice.choice((1, 2, 3, 5, 100, 1460, 65536))
                    sock.sendall(data[:octets])
                    data = data[octets:]
                replies.append(dialogue.reply())
            dialogue.command("QUIT", 221)
    return replies


def differences(stored: Iterable[bytes], numbers: Iterable[int]) -> list[str]:
    """What is wrong with the mails in a mailbox, which should be those with these numbers, once each."""
    wrong: list[str] = []
    missing = set(numbers)
    for mail in stored:
        header, _, body = mail.partition(b"\n\n")
        number = int(header.rpartition(b"Subject: ")[2].split(b"\n")[0])
        if number not in missing:
            wrong.append(f"mail {number} is there twice")
        missing.discard(number)
        if body != content(number).body:
            wrong.append(f"mail {number} has other octets")
    return wrong + [f"mail {number} is missing" for number in sorted(missing)]
