"""A misbehaving receiver for programs to be tested against: each session has a fault, and an account of it.

1. Apart from its fault a session is well served: EHLO, MAIL, RCPT, DATA, and STARTTLS or LMTP as planned.
2. A mail is never kept, and what a session holds is bounded.
3. Each session is told of when it is over, whatever has ended it.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.faulty.account import DialogueLog
from shimproxy.faulty.fault import Fault, FaultPlace
from shimproxy.faulty.plan import WELL_BEHAVED, NoSuchFault, Plan
from shimproxy.faulty.receiving import FaultyReceiver, tighten
from shimproxy.faulty.talk import EHLO, GREETING, Gone, Seen, Talk, Unfinished
from shimproxy.net.errors import ListenFailed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from shimproxy.net.address import Address

    Tell = Callable[[dict[str, Any]], None]

_MOST_UNREAD_OCTETS: Final = 16 * 1024 * 1024
_HELLOS: Final = (b"EHLO", b"HELO", b"LHLO")
_WELCOME: Final = {b"EHLO", b"LHLO"}
_STAGES: Final = {each.name.encode(): each for each in FaultPlace} | {
    b"LHLO": FaultPlace.EHLO,
    b"HELO": FaultPlace.EHLO,
}
_OK: Final = b"250 2.1.0 Ok\r\n"
_BAD_SEQUENCE: Final = b"503 5.5.1 Bad sequence of commands\r\n"
_UNKNOWN: Final = b"500 5.5.2 Command not recognized\r\n"


@attrs.define(eq=False)
class FaultySession(Talk):
    """One connection of a misbehaving receiver."""

    plan: Plan = attrs.field(kw_only=True)
    tell: Tell = attrs.field(kw_only=True)
    fault: Fault = attrs.field(kw_only=True)
    chosen_by: str = "--as"
    """What has chosen the fault: --as, EHLO or RCPT."""
    _taking_mail: bool = False
    _secure: bool = False
    _recipients: int = 0

    # -- octets, with their account

    def _more(self, most_octets: int = _MOST_UNREAD_OCTETS) -> None:
        before = len(self._unread)
        super()._more(min(most_octets, _MOST_UNREAD_OCTETS))
        if self._taking_mail:
            self.account.mail(bytes(self._unread[before:]))
        if len(self._unread) >= _MOST_UNREAD_OCTETS:
            self.account.note("a line without end: closed")
            raise Gone

    def say(self, octets: bytes, segments: int = 1) -> None:
        """Send a reply, as late and in as many segments as planned; raises Gone."""
        if self.plan.delay_seconds and self.seen.closing.wait(self.plan.delay_seconds):
            raise Gone
        self.account.said("R", octets)
        for line in octets.splitlines(keepends=True):
            if not line.startswith(b"3"):
                self._replied(line)
                break
        planned = len(octets) if self.plan.segments is None else self.plan.segments
        super().say(octets, max(segments, planned))

    def _replied(self, octets: bytes) -> None:
        # Of several replies to one mail, the first is its verdict; before there is one, a command's refusal is.
        if self._taking_mail:
            is_verdict = not self.account.verdict
        else:
            is_verdict = octets[:1] in b"45" and not self.account.mail_octets
        if is_verdict:
            self.account.verdict, self.account.heard = octets, False

    # -- the dialogue

    def serve(self, on_data: Callable[[Talk], None]) -> None:
        """Serve the session and tell of it."""
        try:
            self._converse()
        except Gone:
            if self.seen.closing.is_set():
                self.account.note("stopped")
        finally:
            fault = self.fault
            told = {
                "event": "session",
                "fault": fault.name,
                "violation": str(fault.violation) if fault.violation else None,
                "chosen_by": self.chosen_by,
                "tls": self._secure,
            }
            self.tell(told | self.account.as_json())

    def _converse(self) -> None:
        if act := self.fault.acts.get(FaultPlace.GREETING):
            act(self)
        else:
            self.say(GREETING)
        while self.sock.fileno() >= 0:
            line = self.line(most_octets=1)
            self.account.said("S", line + b"\r\n")
            self.account.heard = True
            try:
                if fault := self.plan.chosen_by(line):
                    self._choose(fault, line)
            except NoSuchFault as error:
                self.say(b"550 5.1.1 %s\r\n" % str(error).encode("ascii", "replace"))
                continue
            if not self.answer(line, lambda _: None):
                break
        if self.sock.fileno() >= 0:
            self.close()

    def _choose(self, fault: Fault, line: bytes) -> None:
        self.fault, self.chosen_by = fault, line[:4].upper().decode("latin-1")
        if fault.tight:
            tighten(self.sock)

    def answer(self, line: bytes, on_data: Callable[[Talk], None]) -> bool:
        """Answer a command by its fault, or as is proper; whether another may follow."""
        verb, _, _ = line.upper().strip().partition(b" ")
        stage = _STAGES.get(verb)
        if stage is FaultPlace.DATA:
            return self._mail(line)
        if stage is FaultPlace.MAIL or verb in _HELLOS or verb == b"RSET":
            self._recipients = 0
        self._recipients += stage is FaultPlace.RCPT
        if stage and (act := self.fault.acts.get(stage)):
            act(self)
            return True
        if stage is FaultPlace.EHLO and (verb == b"LHLO") == self.plan.lmtp:
            self.say(self._offer() if verb in _WELCOME else b"250 tin.pan.alley.example\r\n")
        elif stage is FaultPlace.STARTTLS and self.plan.security and not self._secure:
            self._go_over_to_tls(self.plan.security)
        elif stage is FaultPlace.QUIT:
            return super().answer(b"QUIT", on_data)
        elif stage in (FaultPlace.MAIL, FaultPlace.RCPT) or verb in (b"RSET", b"NOOP"):
            self.say(_OK)
        else:
            self.say(_UNKNOWN)
        return True

    def _mail(self, line: bytes) -> bool:
        if not self._recipients:
            self.say(_BAD_SEQUENCE)
            return True
        self.verdicts = self._recipients if self.plan.lmtp else 1
        self._recipients = 0
        self.begin(line)
        self.account.verdict, self._taking_mail = b"", True
        act = self.fault.acts.get(FaultPlace.DATA, WELL_BEHAVED.on_data)
        with contextlib.suppress(Unfinished):
            act(self)
        self._taking_mail = False
        return self.sock.fileno() >= 0

    def _offer(self) -> bytes:
        offers = [*self.fault.offers]
        if self.plan.security and not self._secure and b"STARTTLS" not in offers:
            offers.append(b"STARTTLS")
        return EHLO.replace(b"250-SIZE", b"".join(b"250-%s\r\n" % each for each in offers) + b"250-SIZE")

    def _go_over_to_tls(self, security: ssl.SSLContext) -> None:
        self.say(b"220 2.0.0 Ready to start TLS\r\n")
        self._unread.clear()  # RFC 3207 4.2
        try:
            self.sock = security.wrap_socket(self.sock, server_side=True)
        except OSError as error:
            self.account.note(f"no TLS: {getattr(error, 'reason', None) or error.strerror or 'nothing more came'}")
            raise Gone from error
        self._secure = True
        self.account.note("TLS from here on")


@attrs.define(eq=False)
class _Sessions:
    """Makes the session of each connection; tells of one at a time."""

    plan: Plan
    tell: Tell
    account: Callable[[], DialogueLog]
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def __call__(self, sock: socket.socket, seen: Seen) -> FaultySession:
        fault = self.plan.next_fault()
        patience_seconds = self.plan.patience_seconds
        peer = sock.getpeername()
        return FaultySession(
            sock,
            attrs.evolve(seen, mails=[], run=[]),
            account=self.account(),
            keeps_mail=False,
            patience_seconds=patience_seconds,
            plan=self.plan,
            fault=fault,
            tell=functools.partial(self._tell_of, peer),
        )

    def _tell_of(self, peer: tuple[Any, ...], told: dict[str, Any]) -> None:
        with self._lock:
            self.tell({"peer": f"{peer[0]}:{peer[1]}", **told})


def serving_faults(
    plan: Plan, listener: socket.socket, tell: Tell, account: Callable[[], DialogueLog] = DialogueLog
) -> FaultyReceiver:
    """Start a misbehaving receiver on a socket that is bound and does not listen yet; close it in the end.

    It tells of each session when that is over, from another thread, one at a time. `account` makes the account of a
    session, which is told of it in the session's thread.
    """
    if plan.tight:
        tighten(listener)
    if not plan.is_unreachable:
        listener.listen(1000)
    return FaultyReceiver(lambda _: None, talk=_Sessions(plan, tell, account), listener=listener)


def bound(where: Address) -> socket.socket:
    """A socket that is bound there and does not listen yet. Raises ListenFailed."""
    try:
        found = socket.getaddrinfo(where.host or None, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, name = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(name)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ListenFailed(
            f"cannot listen on {where}: {error.strerror}; give an address of this machine and a port that is free and "
            "that you may use (port 0: any)"
        ) from error
    return listener
