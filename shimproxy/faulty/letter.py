"""What a sender has to send: a mail with its envelope, and the parts of the dialogue that bring it over.

The parts are a proper sender's: no reply is read while mail data are sent, which RFC 821 4.4 and RFC 5321 4.1.1.4
expect. A faulty sender plays something of its own in place of one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.mail import PIECE_OCTETS, RECIPIENT, SENDER
from shimproxy.faulty.talk import FIRST_PART_OCTETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.faulty.client import Dialogue
    from shimproxy.faulty.mail import Mail

END: Final = b".\r\n"
"""The final dot."""


@attrs.frozen
class Letter:
    """What a sender has to send."""

    mail: Mail
    hello: str = "EHLO sender.example"
    reverse_path: str = SENDER
    recipient: str = RECIPIENT
    piece_octets: int = 65_536
    """What is written of the mail data at a time."""

    def as_in_1999(self) -> Letter:
        """The same as the sender of KB Q152940 sends it: with HELO, and 536 octets at a time."""
        return attrs.evolve(self, hello=self.hello.replace("EHLO", "HELO"), piece_octets=PIECE_OCTETS)

    def open(self, talk: Dialogue) -> None:
        """Read the greeting and say hello."""
        talk.open(self.hello)

    def envelope(self, talk: Dialogue) -> None:
        """Say hello, MAIL and RCPT."""
        self.open(talk)
        talk.command(f"MAIL FROM:<{self.reverse_path}>", 250)
        talk.command(f"RCPT TO:<{self.recipient}>", 250, 251)

    def content(self, talk: Dialogue, after_first_part: Callable[[], None] = lambda: None) -> None:
        """Say DATA and send the mail, without its end.

        `after_first_part` is called where a receiver has what it may reply to early, if a piece ends there.
        """
        talk.command("DATA", 354)
        data = memoryview(self.mail.data)
        for start in range(0, len(data), self.piece_octets):
            if start == FIRST_PART_OCTETS:
                after_first_part()
            talk.send_mail(data[start : start + self.piece_octets])

    def rest(self, talk: Dialogue) -> None:
        """Send the mail, its end and QUIT."""
        self.content(talk)
        self.end(talk)

    def end(self, talk: Dialogue) -> None:
        """Send the end of the mail, and QUIT."""
        talk.send(END)
        talk.account.verdict = talk.reply()
        talk.quit()
