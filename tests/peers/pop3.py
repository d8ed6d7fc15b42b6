"""A mailbox that a sender fetches its mails from by POP3 (RFC 1939): what it has deleted, it will not send again.

1. A mail is known by its number, from 1 on, in every session.
2. As in RFC 1939 section 6, DELE marks a mail, and only QUIT deletes it: a sender that dies has deleted nothing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs

from shimproxy.faulty.receiving import speaking

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shimproxy.faulty.talk import Talk


@attrs.define(eq=False)
class Mailbox:
    """Mails, dot-stuffed in CRLF lines, without the final dot."""

    mails: Sequence[bytes]
    port: int = 0
    """Where they can be fetched, while the mailbox is served."""
    deleted: set[int] = attrs.field(factory=set)
    """The numbers of those that their sender is done with."""

    def serve(self, talk: Talk) -> None:
        """One session; anybody may log in."""
        marked: set[int] = set()
        talk.say(b"+OK mailbox\r\n")
        while True:
            verb, _, argument = talk.line().partition(b" ")
            verb = verb.upper()
            number = int(argument) if verb in (b"LIST", b"RETR", b"DELE") else 0
            if verb == b"QUIT":
                # Before the reply: who has that finds the mails deleted.
                self.deleted |= marked
                talk.say(b"+OK bye\r\n")
                return
            if verb == b"CAPA":
                talk.say(b"+OK\r\nUSER\r\n.\r\n")  # without it fetchmail connects a second time
            elif verb == b"STAT":
                talk.say(b"+OK %d %d\r\n" % (len(self.mails), sum(map(len, self.mails))))
            elif verb == b"LIST":
                talk.say(b"+OK %d %d\r\n" % (number, len(self.mails[number - 1])))
            elif verb == b"RETR":
                talk.say(b"+OK\r\n" + self.mails[number - 1] + b".\r\n")
            elif verb in (b"USER", b"PASS", b"DELE", b"NOOP"):
                marked |= {number} - {0}
                talk.say(b"+OK\r\n")
            else:
                talk.say(b"-ERR not here\r\n")


@contextlib.contextmanager
def mailbox(mails: Sequence[bytes]) -> Iterator[Mailbox]:
    """A mailbox with these mails, served until the end of the block."""
    box = Mailbox(mails)
    with speaking(box.serve) as server:
        box.port = server.port
        yield box
