"""A receiver that has one manner, and notes what a sender does meanwhile.

A sender's commands are answered only when it has had the time to say more: what it says without waiting for a reply
shows as a group.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Final, Self

import attrs

from shimproxy.faulty.receiving import HOST
from shimproxy.smtp.shown import escaped

if TYPE_CHECKING:
    from types import TracebackType

PAUSE_SECONDS: Final = 0.15
LONG_SECONDS: Final = 60.0
STAY_SECONDS: Final = 4.0
EARLY_AFTER_OCTETS: Final = 64 * 1024
OFFERS: Final = ("PIPELINING", "SIZE 50000000", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING")
_RESET: Final = struct.pack("ii", 1, 0)


@attrs.frozen(kw_only=True)
class Manner:
    """How the receiver behaves."""

    greeting: str = "220 receiver.example ESMTP"
    """One that is no 220 is followed by a close."""
    offers: tuple[str, ...] = OFFERS
    """Keywords; without any, EHLO is refused."""
    replies: dict[str, str] = attrs.field(factory=dict)
    """To a verb; after a 421 it closes. DOT is the end of mail data."""
    early: str = ""
    """What follows an early reply to mail data: drains, resets, or stops to read."""
    says_221: bool = True
    stays: bool = True
    """Whether it leaves it to the sender to close after QUIT."""


@attrs.define(eq=False)
class Notes:
    """What a sender did on one connection."""

    early_talk: bool = False
    groups: list[list[str]] = attrs.field(factory=list)
    """Its commands, those without a reply between them together; mail data are MAIL-DATA."""
    mail: bytes = b""
    bare_lf: bool = False
    octets_after_early: int = 0
    dot_after_early: bool = False
    waited_for_221: bool | None = None
    closed: str = ""
    """How it ended the connection: FIN, RST, or that it did not."""

    @property
    def commands(self) -> list[str]:
        """All in order."""
        return [command for group in self.groups for command in group]

    @property
    def verbs(self) -> list[str]:
        """Their verbs."""
        return [command.split(" ")[0].upper() for command in self.commands]


class _Gone(Exception):
    """The sender has ended the connection."""


class Ear:
    """The receiver, on a port of its own until the end of the block."""

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.notes: list[Notes] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(STAY_SECONDS + 2)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            notes = Notes()
            self.notes.append(notes)
            thread = threading.Thread(target=self._serve, args=(_Line(sock, notes), notes), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, line: _Line, notes: Notes) -> None:
        with line.sock:
            try:
                self._converse(line, notes)
            except _Gone:
                pass
            except TimeoutError:
                notes.closed = notes.closed or "stays"

    def _converse(self, line: _Line, notes: Notes) -> None:
        manner = self.manner
        notes.early_talk = line.lies_there(2 * PAUSE_SECONDS)
        line.say(manner.greeting)
        if not manner.greeting.startswith("220"):
            line.fin()
            return line.until_closed()
        waits = True
        while True:
            command = line.command()
            verb = command.split(" ")[0].upper()
            if waits:
                notes.groups.append([])
            notes.groups[-1].append(command)
            if verb == "QUIT":
                return self._quit(line, notes)
            if verb == "BDAT":
                if not self._chunk(line, notes, command):
                    return None
                waits = True
                continue
            waits = not line.lies_there(PAUSE_SECONDS)
            reply = manner.replies.get(verb) or self._usual(verb, command)
            line.say(reply)
            if reply.startswith("421"):
                line.fin()
                return line.until_closed()
            if reply.startswith("354"):
                notes.groups.append(["MAIL-DATA"])
                if not self._mail_data(line, notes):
                    return None
                waits = not line.lies_there(PAUSE_SECONDS)
                line.say(manner.replies.get("DOT", "250 2.0.0 taken"))

    def _usual(self, verb: str, command: str) -> str:
        offers = self.manner.offers
        if verb == "EHLO":
            if not offers:
                return "502 5.5.1 no such command"
            lines = ["receiver.example", *offers]
            return "\r\n".join(f"250{' ' if each is lines[-1] else '-'}{each}" for each in lines)
        limit = next((int(each.split()[1]) for each in offers if each.startswith("SIZE ")), 0)
        declared = next((each[5:] for each in command.upper().split() if each.startswith("SIZE=")), "0")
        if verb == "MAIL" and limit and int(declared) > limit:
            return "552 5.3.4 words-of-the-receiver"
        return {"HELO": "250 receiver.example", "DATA": "354 go on"}.get(verb, "250 2.0.0 ok")

    # -- mail data

    def _mail_data(self, line: _Line, notes: Notes) -> bool:
        """Read to the end; False if the connection is over."""
        if not self.manner.early:
            notes.mail = line.mail()
            notes.bare_lf = notes.mail.count(b"\n") > notes.mail.count(b"\r\n")
            return True
        line.octets(EARLY_AFTER_OCTETS)
        return self._early(line, notes)

    def _early(self, line: _Line, notes: Notes) -> bool:
        line.say("552 5.3.4 words-of-the-receiver")
        if self.manner.early == "resets":
            time.sleep(PAUSE_SECONDS)
            line.reset()
            return False
        if self.manner.early == "stops":
            line.until_hung_up()
            return False
        tail = b""
        while b"\r\n.\r\n" not in tail:
            octets = line.some()
            notes.octets_after_early += len(octets)
            tail = tail[-4:] + octets
        line.give_back(tail.partition(b"\r\n.\r\n")[2])
        notes.dot_after_early = True
        while True:
            command = line.command()
            notes.groups.append([command])
            if command.upper() == "QUIT":
                self._quit(line, notes)
                return False
            line.say("250 2.0.0 ok")

    def _chunk(self, line: _Line, notes: Notes, command: str) -> bool:
        octets = int(command.split()[1])
        if self.manner.early and octets > EARLY_AFTER_OCTETS:
            line.octets(EARLY_AFTER_OCTETS)
            return self._early(line, notes)
        notes.mail += line.octets(octets)
        notes.bare_lf = notes.mail.count(b"\n") > notes.mail.count(b"\r\n")
        is_last = command.upper().endswith("LAST")
        line.say(self.manner.replies.get("DOT", "250 2.0.0 taken") if is_last else "250 2.0.0 go on")
        return True

    def _quit(self, line: _Line, notes: Notes) -> None:
        # A sender that waits for its 221 has said nothing and closed nothing meanwhile.
        notes.waited_for_221 = not line.lies_there(2 * PAUSE_SECONDS)
        if self.manner.says_221:
            with contextlib.suppress(_Gone):
                line.say("221 2.0.0 bye")
        if not self.manner.stays or not self.manner.says_221:
            line.fin()
        line.until_closed()


@attrs.define(eq=False)
class _Line:
    """The receiver's side of a connection."""

    sock: socket.socket
    notes: Notes
    _unread: bytes = b""

    def __attrs_post_init__(self) -> None:
        self.sock.settimeout(LONG_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def lies_there(self, seconds: float) -> bool:
        """Whether something comes within that time: octets or an end."""
        return bool(self._unread) or bool(select.select([self.sock], [], [], seconds)[0])

    def some(self) -> bytes:
        """What comes next. Raises _Gone."""
        if not self._unread:
            try:
                self._unread = self.sock.recv(256 * 1024)
            except TimeoutError:
                raise
            except OSError:
                self.notes.closed = "RST"
                raise _Gone from None
            if not self._unread:
                self.notes.closed = "FIN"
                raise _Gone
        octets, self._unread = self._unread, b""
        return octets

    def give_back(self, octets: bytes) -> None:
        """Read them once more."""
        self._unread = octets + self._unread

    def octets(self, count: int) -> bytes:
        """Exactly so many."""
        octets = b""
        while len(octets) < count:
            octets += self.some()
        octets, self._unread = octets[:count], octets[count:]
        return octets

    def command(self) -> str:
        """The next line."""
        octets = b""
        while b"\n" not in octets:
            octets += self.some()
        line, _, self._unread = octets.partition(b"\n")
        return escaped(line.rstrip(b"\r"))

    def mail(self) -> bytes:
        """Mail data up to their end."""
        octets = b"\r\n"
        while b"\r\n.\r\n" not in octets:
            octets += self.some()
        mail, _, self._unread = octets.partition(b"\r\n.\r\n")
        return mail[2:] + b"\r\n"

    def say(self, reply: str) -> None:
        """Say it. Raises _Gone."""
        try:
            self.sock.sendall(reply.encode() + b"\r\n")
        except OSError:
            self.notes.closed = "RST"
            raise _Gone from None

    def fin(self) -> None:
        """Half-close."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Send RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    def until_closed(self) -> None:
        """Read until the sender has closed, or for so long as is waited for that."""
        self.sock.settimeout(STAY_SECONDS)
        with contextlib.suppress(_Gone):
            while True:
                octets = self.some()
                for each in octets.decode("latin-1").splitlines():
                    self.notes.groups.append([each])

    def until_hung_up(self) -> None:
        """Read nothing until the sender has closed."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        poll.poll(LONG_SECONDS * 1000)
