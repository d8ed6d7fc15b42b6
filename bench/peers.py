"""The benchmark's own peers: a receiver and senders that cost so little that the proxy is what is measured.

Each is a process of its own, `python -m bench.peers receive|send|mails|serial`. The receiver prints a ready line with
its port and runs until it is killed; a sender prints one line of JSON with what it took, and exits 1 with one line on
stderr if a reply was not the expected one.

1. All of them are in lock-step, so that mail data ends where a read ends: the receiver looks at each read's tail only.
2. Mail data is made before the clock starts; the clock runs from the first octet of it to the reply to its end.
3. Every wait of a sender has a deadline; the receiver has none, as whoever started it ends it.
4. TLS is implicit, always by the same cipher, each handshake a full one: senders keep no session, the receiver gives
   no tickets, and both fail where another cipher is agreed on.

They know nothing of proxies.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import ssl
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from bench.figures import percentile
from bench.mail_data import BLOCK_OCTETS, BLOCKS, END_OF_DATA, small_mail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOST: Final = "127.0.0.1"
READY: Final = "bench receiver ready: "


def have_the_cpu_first() -> None:
    """Have a CPU at once, as if on a machine of one's own; what the kernel lets only root do is left out."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))


def have_the_cpu_last() -> None:
    """Have a CPU only where nothing else wants it, and give it up at once (sched(7), SCHED_IDLE).

    With a mere nice value, one that has a CPU keeps it for some milliseconds when a process of shimproxy wakes.
    """
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


WAIT_SECONDS: Final = 60.0
EARLY_REPLY: Final = b"552 5.3.4 Message size exceeds fixed limit\r\n"
TLS_CIPHER: Final = "TLS_AES_256_GCM_SHA384"
"""OpenSSL's first choice, of TLS 1.3."""


class Unexpected(Exception):
    """A peer answered something else than the benchmark needs."""


class Cut(Unexpected):
    """The connection ended where a reply was due."""


def _check_cipher(sock: ssl.SSLSocket) -> None:
    cipher, *_ = sock.cipher() or ("none",)
    if cipher != TLS_CIPHER:
        raise Unexpected(f"the cipher is {cipher}, not {TLS_CIPHER}")


# -- sending


class SenderSession:
    """One session of a sender, greeted and past EHLO once it is made."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, source: str = "") -> None:
        self.sock = socket.create_connection((HOST, port), WAIT_SECONDS, (source, 0) if source else None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.sock = secured = tls.wrap_socket(self.sock)
            _check_cipher(secured)
        self._replies = self.sock.makefile("rb")
        self.expect(220, "the greeting")
        self.command(b"EHLO bench.example", 250)

    def expect(self, code: int, what: str) -> None:
        """Read one reply, which has to have this code. Raises Unexpected."""
        line = self._replies.readline()
        while line[3:4] == b"-":
            line = self._replies.readline()
        if not line.endswith(b"\n"):
            raise Cut(f"the connection ended where {what} was to be answered")
        if line[:3] != b"%d" % code:
            raise Unexpected(f"{what} was answered by {line.decode('ascii', 'replace').rstrip()!r}, not by {code}")

    def command(self, line: bytes, code: int) -> None:
        self.sock.sendall(line + b"\r\n")
        self.expect(code, line.decode())

    def envelope(self, sender: bytes = b"sender") -> None:
        """MAIL, RCPT and DATA: mail data is next."""
        self.command(b"MAIL FROM:<%s@bench.example>" % sender, 250)
        self.command(b"RCPT TO:<recipient@bench.example>", 250)
        self.command(b"DATA", 354)

    def mail(self, data: bytes, sender: bytes = b"sender") -> None:
        """One mail whose data, with its end, is small."""
        self.envelope(sender)
        self.sock.sendall(data)
        self.expect(250, "mail data")

    def group(self, data: bytes) -> None:
        """The same as a sender that pipelines: MAIL, RCPT and DATA go out together."""
        self.sock.sendall(b"MAIL FROM:<sender@bench.example>\r\nRCPT TO:<recipient@bench.example>\r\nDATA\r\n")
        for code in (250, 250, 354):
            self.expect(code, "a group")
        self.sock.sendall(data)
        self.expect(250, "mail data")

    def quit(self) -> None:
        """QUIT; whatever answers it."""
        self.sock.sendall(b"QUIT\r\n")
        self._replies.readline()
        self.close()

    def close(self) -> None:
        self._replies.close()
        self.sock.close()


def _sender_tls() -> ssl.SSLContext:
    """Takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def send(
    connect: Callable[[], SenderSession], kind: str, size_octets: int, code: int, sessions: int
) -> dict[str, float]:
    """A large mail in blocks over each of the parallel sessions, together of `size_octets`; `code` has to answer it."""
    block = BLOCKS[kind](BLOCK_OCTETS)
    count = max(1, size_octets // len(block) // sessions)
    begun: list[float] = []

    def share() -> None:
        session = connect()
        session.envelope()
        ready.wait()
        for _ in range(count):
            session.sock.sendall(block)
        session.sock.sendall(END_OF_DATA[2:])
        session.expect(code, "mail data")
        ended.append(time.perf_counter())
        session.quit()

    ended: list[float] = []
    ready = threading.Barrier(sessions, lambda: begun.append(time.perf_counter()), WAIT_SECONDS)
    _in_parallel([share] * sessions)
    return {"seconds": max(ended) - begun[0], "octets": sessions * count * len(block)}


def _in_parallel(shares: Sequence[Callable[[], None]]) -> None:
    """Call each in a thread of its own. Raises what the first that failed has raised: OSError, Unexpected."""
    failures: list[BaseException] = []

    def caught(share: Callable[[], None]) -> None:
        try:
            share()
        except (OSError, Unexpected, threading.BrokenBarrierError) as error:
            failures.append(error)

    threads = [threading.Thread(target=caught, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def send_mails(
    connect: Callable[[], SenderSession], mails: int, sessions: int, size_octets: int, kept: bool
) -> dict[str, float]:
    """Small mails over parallel sessions, one mail a session unless `kept`: for machines without smtp-source."""
    data = small_mail(size_octets)

    def share(count: int) -> None:
        session: SenderSession | None = None
        for _ in range(count):
            session = session or connect()
            session.mail(data)
            if not kept:
                session.quit()
                session = None
        if session:
            session.quit()

    shares = [mails // sessions + (number < mails % sessions) for number in range(sessions)]
    started = time.perf_counter()
    _in_parallel([partial(share, count) for count in shares])
    return {"seconds": time.perf_counter() - started}


def send_serially(
    connect: Callable[[], SenderSession], mails: int, size_octets: int, grouped: bool
) -> dict[str, float]:
    """Small mails one after the other on one kept session: how long each took, MAIL to the last reply."""
    data = small_mail(size_octets)
    session = connect()
    microseconds: list[float] = []
    for _ in range(mails):
        started = time.perf_counter()
        if grouped:
            session.group(data)
        else:
            session.mail(data)
        microseconds.append((time.perf_counter() - started) * 1e6)
    session.quit()
    return {"p50": percentile(microseconds, 50), "p99": percentile(microseconds, 99)}


# -- receiving


@attrs.define(eq=False)
class ReceiverSession:
    """One session of the receiver."""

    sock: socket.socket
    greeted: bool = False
    ahead: bytes = b""
    sender: bytes = b""
    """The last MAIL command."""
    in_data: bool = False
    discarding: bool = False
    tail: bytes = b""
    data_octets: int = 0


@attrs.define(eq=False)
class Receiver:
    """Takes any mail; or, with `refuse_after_octets`, answers mail data early and half-closes."""

    refuse_after_octets: int | None = None
    tls: ssl.SSLContext | None = None
    take: Callable[[ReceiverSession], None] = lambda session: None
    """Called for each mail that came to its end, before its 250."""
    _selector: selectors.BaseSelector = attrs.field(factory=selectors.DefaultSelector)
    _buffer: bytearray = attrs.field(factory=lambda: bytearray(2 * BLOCK_OCTETS))

    def serve(self) -> None:
        """Listen on a free port, say which, and serve until killed."""
        listener = socket.create_server((HOST, 0), backlog=1000)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        print(f"{READY}{listener.getsockname()[1]}", flush=True)
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._accept(listener)
                else:
                    try:
                        self._read(key.data)
                    except ssl.SSLWantReadError:
                        continue  # half a record, or half a handshake
                    except OSError:  # a sender that went: the next one matters
                        self._close(key.data)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            return
        session = ReceiverSession(sock)
        if not self.tls:
            self._greet(session)
        self._selector.register(sock, selectors.EVENT_READ, session)

    def _greet(self, session: ReceiverSession) -> None:
        """Once hands are shaken, if it is TLS: raises SSLWantReadError before."""
        if isinstance(session.sock, ssl.SSLSocket):
            session.sock.do_handshake()
            _check_cipher(session.sock)
        session.sock.sendall(b"220 bench.example ESMTP\r\n")
        session.greeted = True

    def _half_close(self, session: ReceiverSession) -> None:
        if isinstance(session.sock, ssl.SSLSocket):
            with contextlib.suppress(OSError):  # the peer's own end is not waited for
                session.sock.unwrap()
        session.sock.shutdown(socket.SHUT_WR)
        session.discarding = True

    def _close(self, session: ReceiverSession) -> None:
        self._selector.unregister(session.sock)
        session.sock.close()

    def _read(self, session: ReceiverSession) -> None:
        if not session.greeted:
            self._greet(session)
            return
        buffer = self._buffer
        size_octets = session.sock.recv_into(buffer)
        if not size_octets:
            self._close(session)
        elif session.in_data:
            session.data_octets += size_octets
            session.tail = (session.tail + buffer[max(0, size_octets - 5) : size_octets])[-5:]
            if session.tail == END_OF_DATA:
                session.in_data = False
                self.take(session)
                session.sock.sendall(b"250 2.0.0 taken\r\n")
            elif self.refuse_after_octets is not None and session.data_octets >= self.refuse_after_octets:
                session.in_data = False
                session.sock.sendall(EARLY_REPLY)
                self._half_close(session)
        elif not session.discarding:
            session.ahead += buffer[:size_octets]
            *lines, session.ahead = session.ahead.split(b"\r\n")
            for line in lines:
                self._answer(session, line)

    def _answer(self, session: ReceiverSession, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"MAIL":
            session.sender = line
        if verb == b"QUIT":
            session.sock.sendall(b"221 2.0.0 bye\r\n")
            self._half_close(session)
        elif verb == b"DATA":
            session.in_data, session.tail, session.data_octets = True, b"\r\n", 0
            session.sock.sendall(b"354 go on\r\n")
        elif verb == b"EHLO":
            session.sock.sendall(b"250-bench.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
        else:
            session.sock.sendall(b"250 2.0.0 ok\r\n")


def _receiver_tls(certificate: str) -> ssl.SSLContext:
    """Gives no tickets: HAProxy would resume by them, and shimproxy would not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.num_tickets = 0
    return context


# -- as a process


def main(arguments: Sequence[str] | None = None) -> int:
    """Be one of the peers."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="The benchmark's own peers.")
    roles = parser.add_subparsers(dest="role", required=True)
    role = roles.add_parser("receive")
    role.add_argument("--refuse-after", type=int, metavar="OCTETS")
    role.add_argument("--cert", metavar="FILE", help="speak TLS by this certificate, with its key")
    for name in ("send", "mails", "serial"):
        role = roles.add_parser(name)
        role.add_argument("port", type=int)
        role.add_argument("--tls", action="store_true")
        role.add_argument("--octets", type=int, default=1000)
        role.add_argument("--mails", type=int, default=1)
        role.add_argument("--kind", choices=list(BLOCKS), default="base64")
        role.add_argument("--expect", type=int, default=250, metavar="CODE")
        role.add_argument("--sessions", type=int, default=1)
        role.add_argument("--kept", action="store_true")
        role.add_argument("--grouped", action="store_true")
    options = parser.parse_args(arguments)
    try:
        if options.role == "receive":
            Receiver(options.refuse_after, _receiver_tls(options.cert) if options.cert else None).serve()
            return 0
        connect = partial(SenderSession, options.port, _sender_tls() if options.tls else None)
        if options.role == "send":
            print(json.dumps(send(connect, options.kind, options.octets, options.expect, options.sessions)))
        elif options.role == "mails":
            print(json.dumps(send_mails(connect, options.mails, options.sessions, options.octets, options.kept)))
        else:
            print(json.dumps(send_serially(connect, options.mails, options.octets, options.grouped)))
    except (OSError, Unexpected) as error:
        print(f"bench.peers {options.role}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
