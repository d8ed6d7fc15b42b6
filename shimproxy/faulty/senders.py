"""Faulty senders: one function each, entered into SENDERS under its name, with hyphens.

Each plays one mail, or as much of one as its fault lets it; its docstring says what it does. What it is told is in the
account of its dialogue. After its fault it goes on as a proper sender does, as long as it is let to.
"""

from __future__ import annotations

import contextlib
import inspect
import socket
import ssl
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.letter import END
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.faulty.client import Dialogue
    from shimproxy.faulty.letter import Letter

_OUTRUN_OCTETS: Final = 4 * 1024 * 1024
_MOST_COMMANDS: Final = 100_000


@attrs.frozen
class FaultySender:
    """A faulty sender."""

    name: str
    violation: Violation | None
    """What shimproxy calls it; None of a sender that does nothing wrong."""
    what: str
    """What it does."""
    play: Callable[[Dialogue, Letter], None]
    needs: str
    """The setting, or the receiver, with which shimproxy sees it, if it does not do so by itself."""


SENDERS: Final[dict[str, FaultySender]] = {}


def _sender(violation: Violation | None, needs: str = "") -> Callable[[Callable[[Dialogue, Letter], None]], None]:
    """Enter a faulty sender into the table."""

    def enter(play: Callable[[Dialogue, Letter], None]) -> None:
        name = play.__name__.strip("_").replace("_", "-")
        SENDERS[name] = FaultySender(name, violation, " ".join((inspect.getdoc(play) or "").split()), play, needs)

    return enter


@_sender(None)
def _well_behaved(talk: Dialogue, letter: Letter) -> None:
    """The sender does nothing wrong."""
    letter.envelope(talk)
    letter.rest(talk)


@_sender(None)
def _sender_of_1999(talk: Dialogue, letter: Letter) -> None:
    """The sender does nothing wrong: it writes 536 octets of mail at a time, as in Microsoft KB Q152940, 1999."""
    letter = letter.as_in_1999()
    letter.envelope(talk)
    letter.rest(talk)


# -- the beginning


@_sender(Violation.EARLY_TALK)
def _speaks_before_the_greeting(talk: Dialogue, letter: Letter) -> None:
    """The sender says EHLO without waiting for the greeting."""
    talk.send(f"{letter.hello}\r\n".encode())
    talk.reply()
    talk.reply()
    talk.command(f"MAIL FROM:<{letter.reverse_path}>", 250)
    talk.command(f"RCPT TO:<{letter.recipient}>", 250)
    letter.rest(talk)


@_sender(Violation.NOT_SMTP)
def _asks_for_a_web_page(talk: Dialogue, letter: Letter) -> None:
    """The sender speaks HTTP."""
    talk.send(b"GET / HTTP/1.1\r\nHost: receiver.example\r\n\r\n")
    talk.rest()


@_sender(Violation.PROXY_HEADER, "--trust")
def _proxy_header_of_no_address(talk: Dialogue, letter: Letter) -> None:
    """The sender is a proxy whose PROXY header has a word where the address should be."""
    talk.send(b"PROXY TCP4 nowhere 127.0.0.1 1025 25\r\n")
    talk.rest()


@_sender(Violation.DESTINATION_REFUSED, "--receiver original")
def _dials_the_gateway(talk: Dialogue, letter: Letter) -> None:
    """The sender connects to the port of a transparent proxy, not to a receiver after it."""
    letter.envelope(talk)
    letter.rest(talk)


# -- TLS


@_sender(Violation.PLAINTEXT_BEHIND_STARTTLS, "STARTTLS with --cert")
def _command_after_starttls(talk: Dialogue, letter: Letter) -> None:
    """The sender says STARTTLS and NOOP in one segment, then makes TLS."""
    letter.open(talk)
    talk.send(b"STARTTLS\r\nNOOP\r\n")
    if talk.reply().startswith(b"220"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        talk.sock = context.wrap_socket(talk.sock)
        talk.account.note("TLS from here on")
        talk.command(letter.hello, 250)
    talk.quit()


@_sender(Violation.TLS_FAILED, "STARTTLS with --cert")
def _no_handshake_after_starttls(talk: Dialogue, letter: Letter) -> None:
    """The sender says STARTTLS, and a command in the clear where the TLS handshake is due."""
    letter.open(talk)
    talk.command("STARTTLS", 220)
    talk.send(f"{letter.hello}\r\n".encode())
    talk.account.note(f"{len(talk.rest(in_silence=True))} octets more came")


# -- commands


@_sender(Violation.WITHHELD_COMMAND)
def _command_not_offered(talk: Dialogue, letter: Letter) -> None:
    """The sender says XCLIENT, which it was not offered."""
    letter.open(talk)
    talk.command("XCLIENT ADDR=192.0.2.1")
    talk.quit()


@_sender(Violation.UNOFFERED_PIPELINING)
def _pipelines_after_helo(talk: Dialogue, letter: Letter) -> None:
    """The sender says HELO, which offers nothing, then MAIL and RCPT in one segment."""
    talk.open(letter.hello.replace("EHLO", "HELO"))
    talk.send(f"MAIL FROM:<{letter.reverse_path}>\r\nRCPT TO:<{letter.recipient}>\r\n".encode())
    talk.reply()
    talk.reply()
    letter.rest(talk)


@_sender(Violation.BARE_NEWLINE)
def _ends_commands_by_lf(talk: Dialogue, letter: Letter) -> None:
    """The sender ends its commands by LF alone."""
    letter.open(talk)
    for line in f"MAIL FROM:<{letter.reverse_path}>", f"RCPT TO:<{letter.recipient}>":
        talk.send(f"{line}\n".encode())
        talk.reply()
    letter.rest(talk)


@_sender(Violation.BARE_NEWLINE)
def _ends_a_line_of_mail_by_lf(talk: Dialogue, letter: Letter) -> None:
    """The sender ends one line of its mail by LF alone."""
    letter.envelope(talk)
    letter.content(talk)
    talk.send_mail(b"this line ends by LF\nand this one by CRLF\r\n")
    letter.end(talk)


@_sender(Violation.UNKNOWN_OCTETS)
def _nul_in_a_command(talk: Dialogue, letter: Letter) -> None:
    """The sender has a NUL in a command."""
    letter.open(talk)
    talk.send(b"NOOP \0\r\n")
    talk.reply()
    talk.quit()


@_sender(Violation.EMPTY_LINE)
def _says_nothing(talk: Dialogue, letter: Letter) -> None:
    """The sender sends an empty line where a command is due."""
    letter.open(talk)
    talk.command("")
    talk.quit()


@_sender(Violation.LONG_LINE)
def _long_command(talk: Dialogue, letter: Letter) -> None:
    """The sender sends a command of 16,000 octets."""
    letter.open(talk)
    talk.command("NOOP ".ljust(16_000, "x"))
    talk.quit()


@_sender(Violation.AUTH_TOO_LONG, "a receiver that offers AUTH")
def _long_login(talk: Dialogue, letter: Letter) -> None:
    """The sender sends an AUTH command of 16,000 octets."""
    letter.open(talk)
    talk.command("AUTH PLAIN ".ljust(16_000, "A"))
    talk.quit()


@_sender(Violation.UNTIDY_PATH, "--tidy")
def _untidy_paths(talk: Dialogue, letter: Letter) -> None:
    """The sender has a blank before one path, and no brackets around the other."""
    letter.open(talk)
    talk.command(f"MAIL FROM: <{letter.reverse_path}>", 250)
    talk.command(f"RCPT TO:{letter.recipient}", 250)
    letter.rest(talk)


@_sender(Violation.IMPOSSIBLE_NAME, "--tidy")
def _hello_without_a_name(talk: Dialogue, letter: Letter) -> None:
    """The sender says EHLO without a name."""
    talk.open(letter.hello.split()[0])
    talk.quit()


@_sender(Violation.LIMIT_REACHED)
def _commands_without_end(talk: Dialogue, letter: Letter) -> None:
    """The sender says a word that is no command until it is sent away."""
    letter.open(talk)
    talk.account.is_muted = True
    try:
        reply = b""
        for _ in range(_MOST_COMMANDS):
            if (reply := talk.command("BABBLE")).startswith(b"421"):
                break
    finally:
        talk.account.is_muted = False
    talk.account.said("R", reply)
    talk.rest()


# -- mail data


@_sender(Violation.DATA_WITHOUT_354)
def _sends_mail_unasked(talk: Dialogue, letter: Letter) -> None:
    """The sender names no recipient, says DATA, and sends its mail although that is refused."""
    letter.open(talk)
    talk.command(f"MAIL FROM:<{letter.reverse_path}>", 250)
    if talk.command("DATA").startswith(b"354"):
        talk.account.note("DATA is not refused: there is no fault to play")
    talk.send_mail(letter.mail.data)
    talk.send(END)
    talk.rest()


@_sender(Violation.CHUNK_OF_NO_SIZE, "a receiver that offers CHUNKING")
def _chunk_of_no_size(talk: Dialogue, letter: Letter) -> None:
    """The sender begins a chunk whose size is a word."""
    letter.envelope(talk)
    talk.command("BDAT many LAST")
    talk.rest()


@_sender(Violation.OVERSIZE, "--max-size")
def _declares_a_gigabyte(talk: Dialogue, letter: Letter) -> None:
    """The sender says MAIL with SIZE=1000000000 and sends the mail all the same, if it is let to."""
    letter.open(talk)
    talk.command(f"MAIL FROM:<{letter.reverse_path}> SIZE=1000000000", 250)
    talk.command(f"RCPT TO:<{letter.recipient}>", 250)
    letter.rest(talk)


@_sender(Violation.SENDER_STALLED)
def _stalls_in_mail(talk: Dialogue, letter: Letter) -> None:
    """The sender stops in mid-mail, says nothing more and stays."""
    letter.envelope(talk)
    letter.content(talk)
    talk.rest()


@_sender(Violation.VANISHED_IN_DATA)
def _fin_in_mail(talk: Dialogue, letter: Letter) -> None:
    """The sender closes in mid-mail."""
    letter.envelope(talk)
    letter.content(talk)
    talk.fin()


@_sender(Violation.VANISHED_IN_DATA)
def _rst_in_mail(talk: Dialogue, letter: Letter) -> None:
    """The sender resets the connection in mid-mail."""
    letter.envelope(talk)
    letter.content(talk)
    talk.reset()


@_sender(Violation.VERDICT_UNREAD)
def _gone_before_the_verdict(talk: Dialogue, letter: Letter) -> None:
    """The sender sends the whole mail and closes before it has a reply."""
    letter.envelope(talk)
    letter.content(talk)
    # The end of the mail leaves with FIN, in one segment: else a swift verdict might come first.
    talk.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    talk.send(END)
    talk.fin()


@_sender(Violation.OUTRUN)
def _never_waits(talk: Dialogue, letter: Letter) -> None:
    """The sender sends the end of its mail and, in the same segment, 4 MiB of NOOP."""
    letter.envelope(talk)
    letter.content(talk)
    talk.account.note(f"the end of the mail, and {_OUTRUN_OCTETS:,} octets of NOOP")
    with contextlib.suppress(TimeoutError, ConnectionError):
        talk.sock.sendall(END + b"NOOP\r\n" * (_OUTRUN_OCTETS // len(b"NOOP\r\n")))
    talk.account.note(f"{len(talk.rest(in_silence=True)):,} octets of replies")


# -- the end


@_sender(Violation.CLOSED_WITHOUT_QUIT)
def _closes_without_quit(talk: Dialogue, letter: Letter) -> None:
    """The sender closes after RCPT, without QUIT."""
    letter.envelope(talk)
    talk.fin()


@_sender(Violation.NO_CLOSE)
def _stays_after_221(talk: Dialogue, letter: Letter) -> None:
    """The sender says QUIT, sees the 221 and the end, and leaves its side open until it is reset."""
    letter.open(talk)
    talk.quit()
    talk.wait_for_reset()
