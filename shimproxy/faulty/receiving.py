"""A receiver on real sockets, with a thread for each connection, which has a `Talk` (talk.py).

A peer that disconnects is `Gone` in its connection's thread; any other error comes out of `Receiver.close`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Final, Self

from shimproxy.faulty.mail import PIECE_OCTETS
from shimproxy.faulty.talk import SECONDS, Gone, Seen, Talk
from shimproxy.net.address import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

HOST: Final = "127.0.0.1"
_PAUSE_SECONDS: Final = 0.05
_MOST_PEERS: Final = 10_000
# A window that shuts soon: small, but not so small against the segments that loopback crawls (design.md, Traps).
_TIGHT_BUFFER_OCTETS: Final = 32 * 1024


@contextlib.contextmanager
def full_queue() -> Iterator[Address]:
    """A listener that drops the handshake, as its queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield Address(*listener.getsockname())


def tighten(sock: socket.socket) -> None:
    """Make the receive buffer so small that its window shuts soon."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _TIGHT_BUFFER_OCTETS)
    with contextlib.suppress(OSError):  # not every kernel has it
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, PIECE_OCTETS)


class FaultyReceiver:
    """Serves connections until it is closed; `on_data` is its fault."""

    def __init__(
        self,
        on_data: Callable[[Talk], None],
        *,
        tight: bool = False,
        talk: Callable[[socket.socket, Seen], Talk] = Talk,
        listener: socket.socket | None = None,
        seen: Seen | None = None,
    ) -> None:
        self.seen = seen or Seen()
        self._talk = talk
        self._on_data = on_data
        self._listener = listener or socket.socket()
        if tight:
            tighten(self._listener)
        if not listener:
            self._listener.bind((HOST, 0))
            self._listener.listen(1000)
        self.port: int = self._listener.getsockname()[1]
        self._talks: set[Talk] = set()
        self._errors: list[BaseException] = []
        self._accepting = threading.Thread(target=self._accept, name="receiver")
        self._threads: set[threading.Thread] = set()
        self._accepting.start()

    def _accept(self) -> None:
        while not self.seen.closing.is_set():
            try:
                sock, peer = self._listener.accept()
            except OSError:  # it is being closed, or that connection's misfortune, or want of descriptors
                self.seen.closing.wait(_PAUSE_SECONDS)
                continue
            try:
                self._begin(sock, peer)
            except (OSError, RuntimeError):  # its peer has reset it, or there are no means for a thread
                sock.close()

    def _begin(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        """Serve a connection in a thread of its own. Raises OSError, RuntimeError."""
        talk = self._talk(sock, self.seen)
        sock.settimeout(talk.patience_seconds)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.seen.peers.append(peer[0])
            del self.seen.peers[:-_MOST_PEERS]
        thread = threading.Thread(target=self._serve, args=(talk,), name="receiver's connection")
        self._talks.add(talk)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._talks.discard(talk)
            self._threads.discard(thread)
            raise

    def _serve(self, talk: Talk) -> None:
        try:
            talk.serve(self._on_data)
        except Gone:
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._talks.discard(talk)
            talk.sock.close()
            self._threads.discard(threading.current_thread())

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._talks)

    def close(self) -> None:
        """End every connection and thread; raises what went wrong in one of them."""
        self.seen.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(SECONDS)
        self._listener.close()
        for talk in tuple(self._talks):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(talk.sock, socket.SHUT_RDWR)
        for thread in tuple(self._threads):
            thread.join(SECONDS)
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def speaking(dialogue: Callable[[Talk], None], listener: socket.socket | None = None) -> FaultyReceiver:
    """A receiver, or a peer of another protocol, all of whose dialogue is this."""

    class Speaking(Talk):
        def serve(self, on_data: Callable[[Talk], None]) -> None:
            dialogue(self)

    return FaultyReceiver(_never, talk=Speaking, listener=listener)


def _never(_: Talk) -> None:
    raise AssertionError("DATA")
