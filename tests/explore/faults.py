"""What a peer may do wrong, at one place: behind so many octets that it has read, or that it has written."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import attrs

from tests.explore.kernel import tls_error
from tests.explore.peers import ReceiverPeer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.explore.peers import Peer

BEFORE: Final = "before"
AFTER: Final = "after"


@attrs.frozen
class Fault:
    """One thing that a peer may do."""

    name: str
    do: Callable[[Peer], None]
    harmless: bool = False
    """Whether it breaks no rule, so that nothing may be seen of it."""
    speaks: bool = False
    """Whether the peer says something out of turn by it, so that what it says later may be taken for something else."""
    tls_only: bool = False


def _say(*replies: bytes, then: Callable[[Peer], None] | None = None) -> Callable[[Peer], None]:
    """The receiver says replies that nobody has asked for."""

    def do(peer: Peer) -> None:
        assert isinstance(peer, ReceiverPeer)
        for reply in replies:
            peer.say(peer.numbered(reply))
            if peer.mode in ("MAIL", "CHUNK") and reply[:1] in b"45":
                peer.refused_in_mail = True
        if then:
            then(peer)

    return do


def _write(octets: bytes, then: Callable[[Peer], None] | None = None) -> Callable[[Peer], None]:
    def do(peer: Peer) -> None:
        peer.say(octets)
        if then:
            then(peer)

    return do


def _fin(peer: Peer) -> None:
    peer.pending.clear()
    peer.silent = True
    peer.sock.peer_fin()


def _close(peer: Peer) -> None:
    peer.close()


def _reset(peer: Peer) -> None:
    peer.pending.clear()
    peer.closed = True
    peer.sock.peer_rst()


def _silence(peer: Peer) -> None:
    peer.silent = True


def _stall(peer: Peer) -> None:
    """It reads nothing more, and its host takes nothing more."""
    peer.deaf = peer.silent = True
    peer.sock.window_octets = len(peer.sock.written) - peer.sock.read_octets


def _deafen(peer: Peer) -> None:
    """It reads nothing more, and goes on writing what it would."""
    peer.deaf = True
    peer.sock.window_octets = len(peer.sock.written) - peer.sock.read_octets


def _pause_before(peer: Peer) -> None:
    peer.paused = BEFORE


def _pause_after(peer: Peer) -> None:
    peer.paused = AFTER


def _cut(peer: Peer) -> None:
    """What it was about to write is lost."""
    peer.pending.clear()


def _drop_octet(peer: Peer) -> None:
    del peer.pending[:1]


def _double(peer: Peer) -> None:
    assert isinstance(peer, ReceiverPeer)
    peer.double_next = True


def _bare(peer: Peer) -> None:
    assert isinstance(peer, ReceiverPeer)
    peer.bare_next = True


def _read_on_as_commands(peer: Peer) -> None:
    assert isinstance(peer, ReceiverPeer)
    if peer.mode in ("MAIL", "CHUNK"):
        peer.mode = "LEFTOVER"


def _leave(peer: Peer) -> None:
    assert isinstance(peer, ReceiverPeer)
    peer.say(peer.numbered(b"421 4.3.0 bye"))
    peer.close()


def _alert(peer: Peer) -> None:
    """TLS ends by an alert."""
    peer.pending.clear()
    peer.silent = True
    peer.sock.peer_alert(tls_error(ssl.SSLError, "TLSV1_ALERT_INTERNAL_ERROR"))


_COMMON: Final = (
    Fault("fin", _fin),
    Fault("close", _close),
    Fault("reset", _reset),
    Fault("silence", _silence),
    Fault("stall", _stall),
    Fault("deaf", _deafen),
    Fault("pause-before-deadline", _pause_before, harmless=True),
    Fault("pause-after-deadline", _pause_after),
    Fault("cut", _cut, speaks=True),
    Fault("octet-lost", _drop_octet, speaks=True),
    Fault("octet-nul", _write(b"\0"), speaks=True),
    Fault("octet-cr", _write(b"\r"), speaks=True),
    Fault("octet-lf", _write(b"\n"), speaks=True),
    Fault("alert", _alert, tls_only=True),
)
OF_RECEIVERS: Final = (
    *_COMMON,
    Fault("says-2yz", _say(b"250 2.0.0 accepted early"), speaks=True),
    Fault("says-220", _say(b"220 hello again"), speaks=True),
    Fault("says-221", _say(b"221 2.0.0 bye"), speaks=True),
    Fault("says-334", _say(b"334 VXNlcm5hbWU6"), speaks=True),
    Fault("says-354", _say(b"354 go on"), speaks=True),
    Fault("says-421", _say(b"421 4.3.2 going"), speaks=True),
    Fault("says-4yz", _say(b"451 4.3.0 try later"), speaks=True),
    Fault("says-5yz", _say(b"552 5.3.4 too big"), speaks=True),
    Fault("says-5yz-in-lines", _say(b"552-5.3.4 too\r\n552 5.3.4 big"), speaks=True),
    Fault("says-5yz-reads-commands", _say(b"552 5.3.4 too big", then=_read_on_as_commands), speaks=True),
    Fault("says-5yz-closes", _say(b"552 5.3.4 too big", then=_close), speaks=True),
    Fault("says-5yz-resets", _say(b"552 5.3.4 too big", then=_reset), speaks=True),
    Fault("says-5yz-stalls", _say(b"552 5.3.4 too big", then=_stall), speaks=True),
    Fault("says-5yz-421-closes", _say(b"552 5.3.4 too big", then=_leave), speaks=True),
    Fault("says-2yz-closes", _say(b"250 2.0.0 accepted", then=_close), speaks=True),
    Fault("says-2yz-then-5yz", _say(b"250 2.0.0 accepted", b"554 5.6.0 no"), speaks=True),
    Fault("says-421-closes", _leave, speaks=True),
    Fault("says-half-a-5yz", _write(b"552 5.3.4 too"), speaks=True),
    Fault("says-half-a-5yz-closes", _write(b"552 5.3.4 too", then=_close), speaks=True),
    Fault("says-code-alone", _write(b"550\r\n"), speaks=True),
    Fault("says-garbage", _write(b"*** garbage ***\r\n"), speaks=True),
    Fault("says-without-end", _write(b"250-" + b"x" * 2_200), speaks=True),
    Fault("doubled-reply", _double, speaks=True),
    Fault("bare-newline", _bare, speaks=True),
)
OF_SENDERS: Final = (
    *_COMMON,
    Fault("says-noop", _write(b"NOOP\r\n"), speaks=True),
    Fault("says-rset", _write(b"RSET\r\n"), speaks=True),
    Fault("says-quit", _write(b"QUIT\r\n"), speaks=True),
    Fault("says-data", _write(b"DATA\r\n"), speaks=True),
    Fault("says-mail", _write(b"MAIL FROM:<x@y>\r\n"), speaks=True),
    Fault("says-ehlo", _write(b"EHLO again\r\n"), speaks=True),
    Fault("says-unknown", _write(b"XYZZY plugh\r\n"), speaks=True),
    Fault("says-lone-dot", _write(b".\r\n"), speaks=True),
    Fault("says-lf-dot", _write(b"\n.\n"), speaks=True),
    Fault("says-empty-line", _write(b"\r\n"), speaks=True),
    Fault("says-end-and-command", _write(b"\r\n.\r\nNOOP\r\n"), speaks=True),
    Fault("says-half-a-line-closes", _write(b"NOO", then=_close), speaks=True),
    Fault("says-long-line", _write(b"NOOP " + b"x" * 640 + b"\r\n"), speaks=True),
    Fault("says-http", _write(b"GET / HTTP/1.1\r\n"), speaks=True),
)
