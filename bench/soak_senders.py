"""The senders of a soak: good ones, and those that leave, stall, reset, babble, or fail at TLS.

Each kind plays one connection, a `Call`, from its beginning to its end. What it believes of its mails goes into the
ledger; a kind that is well-behaved has a reply to each mail unless a worker was killed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final

import attrs

from bench.ledger import Fate, Posted, Visit
from shimproxy.faulty import sending
from shimproxy.faulty.client import Dialogue, Refused
from shimproxy.faulty.letter import END, Letter
from shimproxy.faulty.mail import KIB, PIECE_OCTETS, RECIPIENT, SENDER, Mail, lines
from shimproxy.faulty.outcome import Believed, Outcome, believed_of
from shimproxy.faulty.receiving import HOST
from shimproxy.faulty.senders import SENDERS
from shimproxy.faulty.talk import reset
from shimproxy.net.address import address_text

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from bench.ledger import Ledger
    from shimproxy.faulty.senders import FaultySender

PATIENCE_SECONDS: Final = 60.0
"""A well-behaved sender waits so long; longer than shimproxy waits for any peer of a soak."""
MOST_OCTETS: Final = 256 * KIB
"""What the route of misbehaving senders takes."""
_FATES: Final = {
    Believed.DELIVERED: Fate.DELIVERED,
    Believed.BOUNCED: Fate.BOUNCED,
    Believed.DEFERRED: Fate.AGAIN,
    Believed.HUNG: Fate.CUT,
}
_numbers = itertools.count(1)


def _at_once(sock: socket.socket, octets: bytes) -> None:
    sock.sendall(octets)


@attrs.define(eq=False)
class Call:
    """One connection of a sender."""

    ledger: Ledger
    port: int
    host: str
    """Its own: of each route another, as one port may be used towards two listeners at a time."""
    route: str
    strict: bool
    kind: Kind
    dice: random.Random
    tls: ssl.SSLContext | None
    """What to shake hands with at once."""
    starttls: ssl.SSLContext
    """What to shake hands with after STARTTLS."""
    _visit: Visit | None = None

    def play(self) -> None:
        """Play it, and take note of its end."""
        try:
            self.kind.play(self)
        except Refused as refused:
            self.visit.refused = repr(refused.args[0])
        except (OSError, EOFError) as error:
            self._fail(repr(error))
        finally:
            if self._visit:
                self._visit.ended = time.time()

    def _fail(self, why: str) -> None:
        if self._visit:
            self._visit.broken = why
        else:
            self.ledger.troubles.append(f"{self.route} can't be reached: {why}")

    def connect(self) -> socket.socket:
        """Open the connection. Raises OSError."""
        began = time.time()
        sock = socket.create_connection((HOST, self.port), PATIENCE_SECONDS, (self.host, 0))
        address = address_text(sock.getsockname())
        self._visit = Visit(self.route, self.kind.name, self.kind.well_behaved, self.strict, address, began)
        self.ledger.visits.append(self._visit)
        if self.tls and not self.kind.clear:
            try:
                return self.tls.wrap_socket(sock)
            except OSError:
                sock.close()
                raise
        return sock

    @property
    def visit(self) -> Visit:
        """The connection, once it is made."""
        assert self._visit
        return self._visit

    @contextlib.contextmanager
    def dialogue(self, hello: str = "EHLO soak.example") -> Iterator[Dialogue]:
        """A connection past its greeting. Raises OSError, EOFError, Refused."""
        with self.connect() as sock:
            dialogue = Dialogue(sock)
            dialogue.open(hello)
            yield dialogue

    # -- mails

    def letter(self, least_octets: int = 8 * KIB, most_octets: int = MOST_OCTETS // 2) -> Mail:
        """A mail that is like no other; small ones are as frequent as large ones."""
        octets = int(least_octets * (most_octets / least_octets) ** self.dice.random())
        name = f"soak-{next(_numbers):07}"
        body = lines(octets // KIB * KIB)
        return Mail(name, octets, f"{name}\r\n".encode() + body)

    def post(self, mail: Mail, arrives: bytes | None = None) -> Posted:
        """Begin with a mail."""
        return self.ledger.post(mail.name, mail.data if arrives is None else arrives, self.visit)

    def entrust(self, send: Callable[..., Outcome], *, chunked: bool = False) -> None:
        """Have one of the senders of shimproxy/faulty/ send a mail over this connection."""
        mail = self.letter()
        posted: list[Posted] = []

        def connect() -> socket.socket:
            sock = self.connect()
            posted.append(self.post(mail, mail.crlf_text if chunked else None))
            return sock

        outcome = send(connect, mail)
        if not posted:
            self._fail(outcome.text)
        for each in posted:
            each.said = outcome.text
            each.fate = _FATES[outcome.believed]
            if outcome.believed is Believed.DEFERRED and not (outcome.reply or b"").startswith((b"4", b"5")):
                each.fate = Fate.CUT  # no verdict, or one that a sender of 1999 does not take note of

    def envelope(self, dialogue: Dialogue, *, grouped: bool = False) -> None:
        """MAIL, RCPT and DATA. Raises OSError, EOFError, Refused."""
        commands = {f"MAIL FROM:<{SENDER}>": b"250", f"RCPT TO:<{RECIPIENT}>": b"250", "DATA": b"354"}
        if grouped:
            dialogue.sock.sendall("".join(f"{each}\r\n" for each in commands).encode())
        for command, code in commands.items():
            reply = dialogue.reply() if grouped else dialogue.command(command)
            if not reply.startswith(code):
                raise Refused(reply)

    def mail(
        self,
        dialogue: Dialogue,
        mail: Mail,
        *,
        grouped: bool = False,
        wire: bytes | None = None,
        send: Callable[[socket.socket, bytes], None] = _at_once,
    ) -> None:
        """Send a mail whole, and note what its sender believes. Raises OSError, EOFError, Refused.

        Args:
            dialogue: past its greeting.
            mail: as it is to arrive.
            grouped: whether MAIL, RCPT and DATA go out together.
            wire: what goes out instead of it, if that is something else.
            send: how mail data go out.
        """
        posted = self.post(mail)
        posted.fate = Fate.CUT
        try:
            self.envelope(dialogue, grouped=grouped)
            send(dialogue.sock, (wire or mail.data) + END)
            reply = dialogue.reply()
        except Refused as refused:
            posted.fate, posted.said = _FATES[believed_of(refused.args[0])], repr(refused.args[0])
            raise
        except (OSError, EOFError) as error:
            posted.said = repr(error)
            raise
        posted.fate, posted.said = _FATES[believed_of(reply)], repr(reply)


@attrs.frozen
class Kind:
    """A kind of sender."""

    name: str
    play: Callable[[Call], None]
    well_behaved: bool
    clear: bool = False
    """Whether it does not shake hands, even where it has to."""


# -- well-behaved


def _of_1999(call: Call) -> None:
    call.entrust(sending.sender_of_1999)


def _one_chunk(call: Call) -> None:
    call.entrust(sending.one_chunk, chunked=True)


def _chunk_by_chunk(call: Call) -> None:
    call.entrust(sending.chunk_by_chunk, chunked=True)


def _chunks_at_once(call: Call) -> None:
    call.entrust(sending.chunks_at_once, chunked=True)


def _several(call: Call, *, grouped: bool) -> None:
    with call.dialogue() as dialogue:
        for _ in range(call.dice.randint(1, 5)):
            call.mail(dialogue, call.letter(), grouped=grouped)
            if dialogue.closing:
                return
        dialogue.command("QUIT")
        dialogue.rest()


def _keeps_session(call: Call) -> None:
    _several(call, grouped=False)


def _pipelines(call: Call) -> None:
    _several(call, grouped=True)


def _by_starttls(call: Call) -> None:
    with call.dialogue() as dialogue:
        dialogue.command("STARTTLS", 220)
        dialogue.sock = call.starttls.wrap_socket(dialogue.sock)
        with dialogue.sock:
            dialogue.command("EHLO soak.example", 250)
            call.mail(dialogue, call.letter())
            dialogue.command("QUIT")


def _sends_slowly(call: Call) -> None:
    def send(sock: socket.socket, data: bytes) -> None:
        slow_octets = 20 * PIECE_OCTETS
        for start in range(0, slow_octets, PIECE_OCTETS):
            sock.sendall(data[:slow_octets][start : start + PIECE_OCTETS])
            time.sleep(0.02)
        sock.sendall(data[slow_octets:])

    with call.dialogue() as dialogue:
        call.mail(dialogue, call.letter(), send=send)
        dialogue.command("QUIT")


def _reads_slowly(call: Call) -> None:
    with call.dialogue() as dialogue:
        dialogue.sock.sendall(b"RSET\r\n" * 500)
        time.sleep(0.3)
        for _ in range(500):
            dialogue.reply()
        call.mail(dialogue, call.letter())
        dialogue.command("QUIT")


def _bare_newlines(call: Call) -> None:
    """shimproxy makes CRLF of each LF, and stuffs the dot behind it: the mail arrives as it should have been sent."""
    with call.dialogue() as dialogue:
        mail = call.letter()
        call.mail(dialogue, mail, wire=mail.text[:-1] + b"\r\n")
        dialogue.command("QUIT")


def _oversize(call: Call) -> None:
    with call.dialogue() as dialogue:
        call.mail(dialogue, call.letter(2 * MOST_OCTETS, 4 * MOST_OCTETS))
        dialogue.command("QUIT")


def _never_closes(call: Call) -> None:
    call.entrust(sending.never_closes)


def _ignores_eof(call: Call) -> None:
    call.entrust(sending.ignores_eof)


# -- others


def _part_of_a_mail(call: Call, dialogue: Dialogue) -> None:
    """A mail without its end."""
    mail = call.letter()
    call.post(mail)
    call.envelope(dialogue)
    dialogue.sock.sendall(mail.data[: call.dice.randrange(len(mail.data))])


def _vanishes(call: Call) -> None:
    with call.dialogue() as dialogue:
        _part_of_a_mail(call, dialogue)


def _resets(call: Call) -> None:
    with call.dialogue() as dialogue:
        _part_of_a_mail(call, dialogue)
        reset(dialogue.sock)


def _half_closes(call: Call) -> None:
    with call.dialogue() as dialogue:
        _part_of_a_mail(call, dialogue)
        dialogue.sock.shutdown(socket.SHUT_WR)
        dialogue.rest()


def _leaves_at_the_end(call: Call) -> None:
    """It sends all, and does not wait for the verdict."""
    with call.dialogue() as dialogue:
        mail = call.letter()
        posted = call.post(mail)
        call.envelope(dialogue)
        posted.fate = Fate.LEFT
        dialogue.sock.sendall(mail.data + END)
        if call.dice.randrange(2):
            reset(dialogue.sock)


def _is_silent(call: Call) -> None:
    with call.connect() as sock:
        Dialogue(sock).rest()


def _comes_and_goes(call: Call) -> None:
    with call.connect() as sock:
        if call.dice.randrange(2):
            reset(sock)


def _babbles(call: Call) -> None:
    with call.dialogue() as dialogue:
        for _ in range(call.dice.randint(1, 200)):
            dialogue.sock.sendall(call.dice.randbytes(call.dice.randint(1, 600)).replace(b"\n", b"") + b"\r\n")
        dialogue.sock.shutdown(socket.SHUT_WR)
        dialogue.rest()


def _no_tls(call: Call) -> None:
    """It speaks in clear where TLS is due, or sends what looks like the beginning of a handshake."""
    with call.connect() as sock:
        sock.sendall(call.dice.choice([b"EHLO soak.example\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 300]))
        if call.dice.randrange(2):
            sock.shutdown(socket.SHUT_WR)
        Dialogue(sock).rest()


def _distrusts(call: Call) -> None:
    """It trusts no certificate."""
    with call.connect() as sock:
        ssl.create_default_context().wrap_socket(sock, server_hostname="soak.example").close()


# -- those of shimproxy/faulty/

_PLAYED_ELSEWHERE: Final = {"--trust", "--receiver original"}
_CHANGES_ITS_MAIL: Final = "ends-a-line-of-mail-by-lf"
_SENDS_THE_END: Final = {"gone-before-the-verdict", "never-waits", "sends-mail-unasked"}


def _play(call: Call, sender: FaultySender) -> None:
    with call.connect() as sock:
        dialogue = Dialogue(sock)
        mail = call.letter()
        posted = call.post(mail)
        if sender.name in _SENDS_THE_END:
            posted.fate = Fate.LEFT
        try:
            sender.play(dialogue, Letter(mail))
        except Refused as refused:
            dialogue.account.verdict = refused.args[0]
        finally:
            dialogue.sock.close()
            if verdict := dialogue.account.verdict:
                posted.fate, posted.said = _FATES[believed_of(verdict)], repr(verdict)


TABLE: Final = [
    Kind(sender.name, functools.partial(_play, sender=sender), well_behaved=False)
    for sender in SENDERS.values()
    if sender.needs not in _PLAYED_ELSEWHERE and sender.name != _CHANGES_ITS_MAIL
]


def _well_behaved(*plays: Callable[[Call], None]) -> list[Kind]:
    return [Kind(play.__name__.strip("_").replace("_", "-"), play, True) for play in plays]


def _misbehaved(*plays: Callable[[Call], None], clear: bool = False) -> list[Kind]:
    return [Kind(play.__name__.strip("_").replace("_", "-"), play, False, clear) for play in plays]


GOOD: Final = _well_behaved(_of_1999, _keeps_session, _pipelines)
CHUNKED: Final = _well_behaved(_one_chunk, _chunk_by_chunk, _chunks_at_once)
ODD: Final = [
    *TABLE,
    *_well_behaved(_by_starttls, _sends_slowly, _reads_slowly, _bare_newlines, _oversize),
    *_well_behaved(_never_closes, _ignores_eof),
    *_misbehaved(_vanishes, _resets, _half_closes, _leaves_at_the_end, _is_silent, _comes_and_goes),
    *_misbehaved(_babbles),
]
OVER_TLS: Final = [
    *GOOD,
    *_misbehaved(_vanishes, _resets, _leaves_at_the_end),
    *_misbehaved(_no_tls, _distrusts, clear=True),
]
