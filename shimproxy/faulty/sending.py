"""Senders: the one of 1999, and one that sends chunks.

The sender of 1999 (kb-q152940.txt) writes 536 octets at a time, blocks where nobody takes them, and reads nothing
while it sends mail data: RFC 821 4.4, "with no response expected until the last line sent". Afterwards it reads
all that comes, so that a second verdict is seen.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from shimproxy.faulty.client import WAIT_SECONDS, Dialogue, Refused, connected
from shimproxy.faulty.letter import END, Letter
from shimproxy.faulty.outcome import Believed, Outcome, believed_of
from shimproxy.faulty.talk import FIRST_PART_OCTETS

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from shimproxy.faulty.client import Connect
    from shimproxy.faulty.mail import Mail


# -- the sender of 1999


def _never_closes(dialogue: Dialogue) -> bytes:
    """QUIT, see the 221 and the FIN, and stay: only a reset can free its thread."""
    parting = dialogue.quit()
    dialogue.wait_for_reset()
    return parting


def _ignores_eof(dialogue: Dialogue) -> None:
    """QUIT, and never read again, not even the FIN: only a reset can free its thread."""
    dialogue.sock.sendall(b"QUIT\r\n")
    dialogue.wait_for_reset()


def _sent(
    port: int | Connect,
    letter: Letter,
    mail_data: Callable[[Dialogue], Iterator[bytes]],
    after: Callable[[Dialogue], bytes | None] = Dialogue.quit,
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
                letter.envelope(dialogue)
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


def _wait_for(early: threading.Event | None) -> None:
    if early and not early.wait(WAIT_SECONDS):
        raise TimeoutError("no early reply")


def sender_of_1999(
    port: int | Connect,
    mail: Mail,
    after: Callable[[Dialogue], bytes | None] = Dialogue.quit,
    early: threading.Event | None = None,
    patience_seconds: float = WAIT_SECONDS,
) -> Outcome:
    """Send one mail.

    Args:
        port: of the receiver, or of what stands before it; or what opens the connection.
        mail: what to send.
        after: its manners, once it knows the verdict.
        early: is waited for after the first part of the mail data, so that the early reply is sure to be early.
        patience_seconds: how long any wait may be, before it hangs.
    """

    def mail_data(dialogue: Dialogue) -> Iterator[bytes]:
        letter.content(dialogue, lambda: _wait_for(early))
        dialogue.send(END)
        yield dialogue.reply()

    letter = Letter(mail, "HELO cartoonville.example").as_in_1999()
    return _sent(port, letter, mail_data, after, patience_seconds)


def never_closes(port: int | Connect, mail: Mail) -> Outcome:
    """The sender of 1999 that stays after the 221."""
    return sender_of_1999(port, mail, _never_closes)


def ignores_eof(port: int | Connect, mail: Mail) -> Outcome:
    """The sender of 1999 that never looks again after QUIT."""
    return sender_of_1999(port, mail, _ignores_eof)


# -- chunks


def _sent_in_chunks(
    port: int | Connect, mail: Mail, early: threading.Event | None, *, chunks: int, waits: bool
) -> Outcome:
    def mail_data(dialogue: Dialogue) -> Iterator[bytes]:
        sock, view = dialogue.sock, memoryview(mail.crlf_text)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a short chunk waits for the ACK of its BDAT
        octets = -(-len(view) // chunks)
        # Where there are several, the last says that and no more.
        sizes = [min(octets, len(view) - start) for start in range(0, len(view), octets)] + [0] * (chunks > 1)
        for number, size in enumerate(sizes, 1):
            sock.sendall(b"BDAT %d%s\r\n" % (size, b" LAST" if number == len(sizes) else b""))
            chunk, view = view[:size], view[size:]
            if number == 1:
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

    return _sent(port, Letter(mail, "EHLO chunks.example"), mail_data)


def one_chunk(port: int | Connect, mail: Mail, early: threading.Event | None = None) -> Outcome:
    """BDAT with the whole mail; `early` as with the sender of 1999."""
    return _sent_in_chunks(port, mail, early, chunks=1, waits=True)


def chunk_by_chunk(port: int | Connect, mail: Mail, early: threading.Event | None = None) -> Outcome:
    """BDAT for each half and the end, each when it has the reply to the one before."""
    return _sent_in_chunks(port, mail, early, chunks=2, waits=True)


def chunks_at_once(port: int | Connect, mail: Mail, early: threading.Event | None = None) -> Outcome:
    """The same without waiting, as the receiver offers PIPELINING too."""
    return _sent_in_chunks(port, mail, early, chunks=2, waits=False)
