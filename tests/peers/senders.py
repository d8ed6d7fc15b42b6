"""Senders that are written here, and Python's own: the sender of 1999, one that sends chunks, and smtplib.

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
    from collections.abc import Callable, Iterator

PIECE_OCTETS: Final = 536
WAIT_SECONDS: Final = 30.0
"""A sender that waits longer than this hangs."""


class Refused(Exception):
    """A reply was not what the dialogue needs."""


@attrs.define(eq=False)
class Dialogue:
    """A sender's side of a connection, in lock-step."""

    sock: socket.socket
    closing: bool = False
    """Whether a 421 has said that the connection will be closed."""
    _unread: bytes = b""

    def reply(self) -> bytes:
        """The next reply; raises EOFError if there is none."""
        reply = b""
        while True:
            line = self._line()
            reply += line
            if line[3:4] != b"-":
                self.closing = self.closing or line.startswith(b"421")
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


def _sent(
    port: int,
    hello: str,
    mail_data: Callable[[Dialogue], Iterator[bytes]],
    after: Callable[[Dialogue], bytes | None] = _closes,
    patience_seconds: float = WAIT_SECONDS,
) -> Outcome:
    """Send one mail, whose data `mail_data` sends, for the replies to them: the first refusal is the verdict."""
    replies: list[bytes] = []
    verdict: bytes | None = None
    parting: bytes | None = None
    try:
        with connected(port, patience_seconds) as sock:
            dialogue = Dialogue(sock)
            try:
                dialogue.open(hello)
                dialogue.command(f"MAIL FROM:<{SENDER}>", 250)
                dialogue.command(f"RCPT TO:<{RECIPIENT}>", 250)
                for reply in mail_data(dialogue):
                    replies.append(reply)
                    verdict = verdict if verdict and verdict[:1] in b"45" else reply
                parting = after(dialogue)
            except Refused as refused:
                reply = refused.args[0]
                return Outcome(believed_of(reply), repr(reply), reply, dialogue.rest() or None)
            except EOFError:
                if not (verdict and dialogue.closing):
                    raise
    except TimeoutError as error:
        return Outcome(Believed.HUNG, f"{error!r}, verdict {verdict!r}", verdict)
    except (OSError, EOFError) as error:
        # The reason is lost with the connection: what a sender of 1999 makes of it is to try again later.
        return Outcome(Believed.DEFERRED, f"{error!r}, verdict {verdict!r}", verdict or b"", parting)
    assert verdict
    return Outcome(believed_of(verdict), repr(verdict), verdict, parting, tuple(replies))


def _wait_for(early: threading.Event) -> None:
    if not early.wait(WAIT_SECONDS):
        raise TimeoutError("no early reply")


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

    def mail_data(dialogue: Dialogue) -> Iterator[bytes]:
        dialogue.command("DATA", 354)
        sock, view = dialogue.sock, memoryview(mail.data)
        if early:
            sock.sendall(view[:FIRST_PART_OCTETS])
            _wait_for(early)
            view = view[FIRST_PART_OCTETS:]
        for start in range(0, len(view), PIECE_OCTETS):
            sock.sendall(view[start : start + PIECE_OCTETS])
        sock.sendall(b".\r\n")
        yield dialogue.reply()

    return _sent(port, "HELO cartoonville.example", mail_data, after, patience_seconds)


def never_closes(port: int, mail: Mail) -> Outcome:
    """The sender of 1999 that stays after the 221."""
    return sender_of_1999(port, mail, _never_closes)


def ignores_eof(port: int, mail: Mail) -> Outcome:
    """The sender of 1999 that never looks again after QUIT."""
    return sender_of_1999(port, mail, _ignores_eof)


# -- chunks


def _sent_in_chunks(port: int, mail: Mail, early: threading.Event | None, *, chunks: int, waits: bool) -> Outcome:
    def mail_data(dialogue: Dialogue) -> Iterator[bytes]:
        sock, view = dialogue.sock, memoryview(mail.crlf_text)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a short chunk waits for the ACK of its BDAT
        octets = -(-len(view) // chunks)
        # Where there are several, the last says that and no more.
        sizes = [min(octets, len(view) - start) for start in range(0, len(view), octets)] + [0] * (chunks > 1)
        for number, size in enumerate(sizes, 1):
            sock.sendall(b"BDAT %d%s\r\n" % (size, b" LAST" if number == len(sizes) else b""))
            chunk, view = view[:size], view[size:]
            if early and number == 1:
                sock.sendall(chunk[:FIRST_PART_OCTETS])
                _wait_for(early)
                chunk = chunk[FIRST_PART_OCTETS:]
            sock.sendall(chunk)
            if waits:
                reply = dialogue.reply()
                yield reply
                if not reply.startswith(b"250"):
                    return
        if not waits:
            for _ in sizes:
                yield dialogue.reply()

    return _sent(port, "EHLO chunks.example", mail_data)


def one_chunk(port: int, mail: Mail, early: threading.Event | None = None) -> Outcome:
    """BDAT with the whole mail; `early` as with the sender of 1999."""
    return _sent_in_chunks(port, mail, early, chunks=1, waits=True)


def chunk_by_chunk(port: int, mail: Mail, early: threading.Event | None = None) -> Outcome:
    """BDAT for each half and the end, each when it has the reply to the one before."""
    return _sent_in_chunks(port, mail, early, chunks=2, waits=True)


def chunks_at_once(port: int, mail: Mail, early: threading.Event | None = None) -> Outcome:
    """The same without waiting, as the receiver offers PIPELINING too."""
    return _sent_in_chunks(port, mail, early, chunks=2, waits=False)


# -- Python's own


def python_smtplib(port: int, mail: Mail, host: str = HOST, patience_seconds: float = WAIT_SECONDS) -> Outcome:
    """smtplib.sendmail(), the way scripts use it."""
    session = smtplib.SMTP(timeout=patience_seconds)
    try:
        session.connect(host, port)
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
