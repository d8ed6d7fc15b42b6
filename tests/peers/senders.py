"""Senders that are written here, and Python's own: the sender of 1999, patient and impatient, and smtplib.

The sender of 1999 (kb-q152940.txt) writes 536 octets at a time, blocks where nobody takes them, and reads nothing
while it sends mail data: RFC 821 4.4, "with no response expected until the last line sent". Afterwards it reads
all that comes, so that a second verdict is seen.
"""

from __future__ import annotations

import contextlib
import select
import smtplib
import socket
from typing import TYPE_CHECKING, Final

import attrs

from tests.peers.mail import RECIPIENT, SENDER, Mail
from tests.peers.outcome import Believed, Outcome, believed_of
from tests.peers.receiving import FIRST_PART_OCTETS, HOST

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

PIECE_OCTETS: Final = 536
WAIT_SECONDS: Final = 30.0
"""A sender that waits longer than this hangs."""


class Refused(Exception):
    """A reply was not what the dialogue needs."""


@attrs.define(eq=False)
class Dialogue:
    """A sender's side of a connection, in lock-step."""

    sock: socket.socket
    _unread: bytes = b""

    def reply(self) -> bytes:
        """The next reply; raises EOFError if there is none."""
        reply = b""
        while True:
            line = self._line()
            reply += line
            if line[3:4] != b"-":
                return reply

    def _line(self) -> bytes:
        while b"\n" not in self._unread:
            octets = self.sock.recv(4096)
            if not octets:
                raise EOFError(f"the connection was closed after {self._unread!r}")
            self._unread += octets
        line, newline, self._unread = self._unread.partition(b"\n")
        return line + newline

    def command(self, line: str, *codes: int) -> bytes:
        """Say `line` and read the reply; raises Refused if it has none of `codes`."""
        self.sock.sendall(line.encode() + b"\r\n")
        reply = self.reply()
        if codes and int(reply[:3]) not in codes:
            raise Refused(reply)
        return reply

    def open(self, hello: str) -> None:
        """Read the greeting and say hello."""
        if not (greeting := self.reply()).startswith(b"220"):
            raise Refused(greeting)
        self.command(hello, 250)

    def rest(self) -> bytes:
        """All that still comes until the connection is closed."""
        rest, self._unread = self._unread, b""
        while octets := self.sock.recv(4096):
            rest += octets
        return rest


def connected(port: int, patience_seconds: float = WAIT_SECONDS) -> socket.socket:
    """A connection whose every wait has an end."""
    return socket.create_connection((HOST, port), patience_seconds)


# -- the sender of 1999


def _closes(dialogue: Dialogue) -> bytes:
    """QUIT, read what comes until the connection is closed, close; what came."""
    reply = dialogue.command("QUIT")
    # RFC 5321 4.1.1.10 has the receiver close after 221 only.
    return reply + dialogue.rest() if reply.startswith(b"221") else reply


def _never_closes(dialogue: Dialogue) -> bytes:
    """QUIT, see the 221 and the FIN, and stay: only a reset can free its thread."""
    parting = _closes(dialogue)
    _wait_for_reset(dialogue.sock)
    return parting


def _ignores_eof(dialogue: Dialogue) -> None:
    """QUIT, and never read again, not even the FIN: only a reset can free its thread."""
    dialogue.sock.sendall(b"QUIT\r\n")
    _wait_for_reset(dialogue.sock)


def _wait_for_reset(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, 0)  # POLLERR and POLLHUP are always reported: a FIN alone is neither
    if not poll.poll(WAIT_SECONDS * 1000):
        raise TimeoutError("the connection is never freed")


def sender_of_1999(
    port: int,
    mail: Mail,
    after: Callable[[Dialogue], bytes | None] = _closes,
    early: threading.Event | None = None,
    patience_seconds: float = WAIT_SECONDS,
) -> Outcome:
    """Send one mail.

    Args:
        port: of the receiver, or of what stands before it.
        mail: what to send.
        after: its manners, once it knows the verdict.
        early: is waited for after the first part of the mail data, so that the early reply is sure to be early.
        patience_seconds: how long any wait may be, before it hangs.
    """
    verdict: bytes | None = None
    parting: bytes | None = None
    try:
        with connected(port, patience_seconds) as sock:
            dialogue = Dialogue(sock)
            try:
                dialogue.open("HELO cartoonville.example")
                dialogue.command(f"MAIL FROM:<{SENDER}>", 250)
                dialogue.command(f"RCPT TO:<{RECIPIENT}>", 250)
                dialogue.command("DATA", 354)
            except Refused as refused:
                reply: bytes = refused.args[0]
                return Outcome(believed_of(reply), repr(reply), reply, dialogue.rest() or None)
            view = memoryview(mail.data)
            if early:
                sock.sendall(view[:FIRST_PART_OCTETS])
                if not early.wait(WAIT_SECONDS):
                    raise TimeoutError("no early reply")
                view = view[FIRST_PART_OCTETS:]
            for start in range(0, len(view), PIECE_OCTETS):
                sock.sendall(view[start : start + PIECE_OCTETS])
            sock.sendall(b".\r\n")
            verdict = dialogue.reply()
            parting = after(dialogue)
    except TimeoutError as error:
        return Outcome(Believed.HUNG, f"{error!r}, verdict {verdict!r}", verdict)
    except (OSError, EOFError, Refused) as error:
        # The reason is lost with the connection: what a sender of 1999 makes of it is to try again later.
        return Outcome(Believed.DEFERRED, f"{error!r}, verdict {verdict!r}", verdict or b"", parting)
    return Outcome(believed_of(verdict), repr(verdict), verdict, parting)


def never_closes(port: int, mail: Mail) -> Outcome:
    """The sender of 1999 that stays after the 221."""
    return sender_of_1999(port, mail, _never_closes)


def ignores_eof(port: int, mail: Mail) -> Outcome:
    """The sender of 1999 that never looks again after QUIT."""
    return sender_of_1999(port, mail, _ignores_eof)


# -- Python's own


def python_smtplib(port: int, mail: Mail) -> Outcome:
    """smtplib.sendmail(), the way scripts use it."""
    session = smtplib.SMTP(timeout=WAIT_SECONDS)
    try:
        session.connect(HOST, port)
        session.sendmail(SENDER, [RECIPIENT], mail.crlf_text)
        outcome = Outcome(Believed.DELIVERED, "sendmail() returned")
        session.quit()
    except smtplib.SMTPResponseException as refused:
        error = refused.smtp_error
        words = error.decode("latin-1") if isinstance(error, bytes) else error
        text = "\n".join(f"{refused.smtp_code} {line}" for line in words.split("\n"))
        outcome = Outcome(believed_of(text.encode("latin-1")), text)
        with contextlib.suppress(smtplib.SMTPServerDisconnected):
            session.quit()
    except TimeoutError as error:
        outcome = Outcome(Believed.HUNG, repr(error))
    except (OSError, smtplib.SMTPException) as error:
        outcome = Outcome(Believed.DEFERRED, repr(error))
    finally:
        session.close()
    return outcome
