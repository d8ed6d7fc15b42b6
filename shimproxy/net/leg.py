"""A leg: one non-blocking connection, read and written without a task, an object or a cancel scope a block.

Invariants:

1. FIN and RST are values of `ended`, not exceptions, when reading: what was sent before them is read first.
2. After a write failed, or was given up half-way, nothing more is written (`broken`).
3. Every few reads there is a pause, so that one fast peer can't starve the others, nor outlast a deadline.
4. Whoever reads into the driver's one block owns it until the next await, and no longer.
5. With TLS the same holds for what it carries: an alert or a FIN that ends it is the peer's end, and a half-close says
   both, so that the peer may go on sending.

When it can be read and written, and the waits for that, are pollable.py's. It does not know what the octets mean, nor
which of the two legs it is, but for the name in its errors.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.block import LEAST_BLOCK_OCTETS
from shimproxy.net.driver import READABLE
from shimproxy.net.errors import LegBroken, TlsFailed
from shimproxy.net.pollable import Pollable
from shimproxy.net.records import WOULD_BLOCK, notify_of_close, receive_records, send_records, shake_hands, tls_reason
from shimproxy.net.tap import Ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.tap import Tap

READ_OCTETS: Final = 4096
_BLOCK_OCTETS_IN_COMPANY: Final = 256 * 1024
_OCTETS_A_STEP: Final = 32 * 1024
_STEPS_OF_A_FULL_READ: Final = 16
"""It may be full of short commands or lines: more than one of them at a stretch is too much."""
_FIN: Final = Ended.FIN  # from the class it takes ten times as long, in Python 3.11
_RESET: Final = struct.pack("ii", 1, 0)


@attrs.define(eq=False)
class Leg(Pollable):
    """One TCP connection, read and written under a watch."""

    peer: str = "?"
    host: str = ""
    """Whom the peer's certificate must name, where it was dialled by a name."""
    octets_in: int = 0
    broken: bool = False
    """Set once nothing more may be written."""
    on_close: Callable[[], None] | None = None
    """Is called once it is closed."""
    closed: bool = False
    secured: bool = False
    """Whether it carries TLS."""
    resettable: bool = True
    """Whether the peer can be told by a reset that what it has got is not all: AF_UNIX knows none."""
    tap: Tap | None = None
    """Who is told of what goes over it."""
    _finished: bool = False
    deaf: bool = False
    """Whether what comes can't be read any more, only taken, so that the peer's end is met."""
    _block_octets: int = LEAST_BLOCK_OCTETS

    # -- reading

    def look(self) -> bytes | None:
        """What lies there to be read: octets, b"" at the peer's end, None if nothing does. Never waits."""
        if self.ended:
            return b""
        try:
            octets = socket.socket.recv(self.sock, READ_OCTETS) if self.deaf else self.sock.recv(READ_OCTETS)
        except WOULD_BLOCK:
            self.readable = False
            return None
        except OSError:
            self._end(Ended.RST)
            return b""
        size_octets = len(octets)
        if size_octets == READ_OCTETS:
            self.watch.stretched(_STEPS_OF_A_FULL_READ)
        elif not size_octets:
            self._end(_FIN)
        elif not self._never_short:
            self.readable = False
        self.octets_in += size_octets
        return octets

    def peek(self, most_octets: int) -> bytes | None:
        """What lies there, as with `look`, and stays there. Not with TLS."""
        try:
            octets = b"" if self.ended else self.sock.recv(most_octets, socket.MSG_PEEK)
        except WOULD_BLOCK:
            self.readable = False
            return None
        except OSError:
            octets = b""
            self._end(Ended.RST)
        if not (octets or self.ended):
            self._end(_FIN)
        return octets

    def skip(self, octets: int) -> None:
        """Take so many octets of what `peek` has shown, which are no part of the dialogue."""
        skipped_octets = len(self.sock.recv(octets))
        self.octets_in += skipped_octets
        if self.tap:
            self.tap.skipped(skipped_octets)

    def _end(self, how: Ended) -> None:
        self.ended = how
        if self.tap:
            self.tap.peer_ended(how)

    async def read(self) -> bytes:
        """The next octets of the peer, b"" at its end. Raises DeadlinePassed, Interrupted."""
        if self.readable and self.watch.stretched():
            await self.watch.pause()
        while not self.readable or (octets := self.look()) is None:
            self.wanted = READABLE
            await self.watch.wait()
        return octets

    def read_block_now(self, most_octets: int | None = None) -> int | None:
        """Read into the driver's block, from its BLOCK_START on: how many octets, 0 at the peer's end, None if nothing
        is there. Never waits.

        How much is read at once grows with a peer that fills it; see also `slow_down`.
        """
        if self.ended:
            return 0
        if self._block_octets > LEAST_BLOCK_OCTETS:
            self._bound_blocks()
        asked_octets = self.driver.block.room_for(min(self._block_octets, most_octets or self._block_octets))
        try:
            size_octets = self._receive_block(asked_octets)
        except WOULD_BLOCK:
            self.readable = False
            return None
        except OSError:
            self._end(Ended.RST)
            return 0
        if not size_octets:
            self._end(_FIN)
        elif size_octets == asked_octets < self._block_octets:
            pass
        elif size_octets == self._block_octets:
            self._block_octets = min(2 * size_octets, self.driver.block.size_octets)
        elif not self._never_short:
            self.readable = False
        if size_octets > _OCTETS_A_STEP:
            self.watch.stretched(size_octets // _OCTETS_A_STEP)
        self.octets_in += size_octets
        return size_octets

    def _receive_block(self, asked_octets: int) -> int:
        room = self.driver.block.room
        if self.secured:
            return receive_records(self.sock, room, min(asked_octets, LEAST_BLOCK_OCTETS))
        return self.sock.recv_into(room, asked_octets)

    def slow_down(self, taken_octets: int) -> None:
        """Read blocks of about twice what the other leg takes at a time, as the rest has to be copied."""
        self._block_octets = max(LEAST_BLOCK_OCTETS, min(2 * taken_octets, self.driver.block.size_octets))

    def _bound_blocks(self) -> None:
        """Read little at once while others have something to do, too."""
        if self.watch.has_company:
            self._block_octets = min(self._block_octets, _BLOCK_OCTETS_IN_COMPANY)

    # -- writing

    def send_now(self, octets: bytes | memoryview) -> int:
        """How many of `octets` were taken at once, perhaps none. Raises LegBroken."""
        if self.broken:
            raise LegBroken(self.name, "nothing more may be written")
        try:
            taken_octets = send_records(self.sock, octets) if self.secured else self.sock.send(octets)
        except WOULD_BLOCK:
            self.writable = False
            return 0
        except OSError as error:
            self.broken = True
            raise LegBroken(self.name, error.strerror or str(error)) from error
        if taken_octets < len(octets):
            self.writable = False
        self.octets_out += taken_octets
        if self.tap:
            self.tap.sent(taken_octets)
        return taken_octets

    @property
    def unacknowledged_octets(self) -> int:
        """How much of what was written the peer's host has not acknowledged; on Unix sockets, the peer has not read.

        With TLS it counts what TLS makes of it, on Unix sockets what the kernel needs for it.
        """
        return self.driver.unacknowledged_octets(self)

    async def write(self, octets: bytes) -> None:
        """Write all of `octets`. Raises LegBroken, DeadlinePassed, Interrupted.

        The leg is broken if this ends in any other way than returning: a part may have been written.
        """
        taken_octets = self.send_now(octets)
        if taken_octets < len(octets):
            await self.write_on(octets, taken_octets)

    async def write_on(self, octets: bytes, taken_octets: int) -> None:
        """Write what `send_now` has not taken of `octets`; as `write`."""
        rest = memoryview(octets)[taken_octets:]
        while rest:
            self.broken = True  # unless what it waits for comes
            await self.takes()
            self.broken = False
            rest = rest[self.send_now(rest) :]

    # -- TLS

    async def secure(self, context: ssl.SSLContext, server_name: str | None = None) -> None:
        """Go over to TLS: as its server, or as its client if there is a `server_name` to be asked for.

        Raises TlsFailed, after which the leg can only be closed, DeadlinePassed, Interrupted.
        """
        self.broken = True  # unless all goes well
        try:
            sock = self.sock = context.wrap_socket(
                self.sock,
                server_side=server_name is None,
                server_hostname=server_name,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=True,
            )
            await shake_hands(sock, self)
        except (OSError, ValueError) as error:
            raise TlsFailed(self.name, tls_reason(error)) from error
        self.broken = False
        # What came behind the handshake has been taken from the kernel already, and reads give no more than a record.
        self.secured = self.readable = self._never_short = True

    @property
    def tls_version(self) -> str:
        """As OpenSSL calls it, as in "TLSv1.3"; "-" without TLS."""
        return (self.sock.version() if isinstance(self.sock, ssl.SSLSocket) else None) or "-"

    # -- closing

    def half_close(self) -> None:
        """Send FIN, once; nothing more is written."""
        if self._finished:
            return
        self._finished = self.broken = True
        sock = self.sock
        try:
            if isinstance(sock, ssl.SSLSocket):
                try:
                    if notify_of_close(sock, peer_has_ended=self.ended is not None):
                        self.ended = self.ended or _FIN
                except (OSError, ValueError):
                    self.deaf = True
                socket.socket.shutdown(sock, socket.SHUT_WR)
            else:
                sock.shutdown(socket.SHUT_WR)
        except OSError:  # the peer has reset it: there is nothing left to half-close, nor to wait for
            self.readable = True
        else:
            if self.tap:
                self.tap.shim_ended(Ended.FIN)

    def reset(self) -> None:
        """Send RST: the peer can't take what it has got for a whole."""
        if not self.closed:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            if self.tap and self.ended is not Ended.RST:  # nobody would be there to get it
                self.tap.shim_ended(Ended.RST)
            self.close()

    def close(self) -> None:
        """Close without ceremony; `part` (lingering.py) and `reset` are what peers are owed."""
        if not self.closed:
            self.closed = self.broken = True
            self.ended = self.ended or Ended.FIN
            self.driver.remove(self)
            self.sock.close()
            if self.on_close:
                self.on_close()
