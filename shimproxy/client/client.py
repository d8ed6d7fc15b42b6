"""A client of SMTP: one connection to a receiver, what is said on it, what it answers, and TLS.

Invariants:

1. Each wait has a deadline, which is the caller's; the DeadlinePassed that ends it names what it was allowed for.
2. The receiver's end is a value where the client reads, and LegBroken where it writes.
3. After the change to TLS nothing of the dialogue before it is left (RFC 3207 section 4.2).

It does not know what a reply means, nor which command comes after which.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self

import attrs
import trio

from shimproxy.net.block import LEAST_BLOCK_OCTETS, Block
from shimproxy.net.dial import dial
from shimproxy.net.driver import Driver
from shimproxy.net.source import ANYWHERE
from shimproxy.net.watch import Watchdog
from shimproxy.smtp.reply import ReplyReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from shimproxy.net.leg import Leg
    from shimproxy.net.places import Place
    from shimproxy.net.source import Source
    from shimproxy.net.tls import ReceiverSecurity
    from shimproxy.smtp.reply import Reply

TICK_SECONDS: Final = 0.05
"""How exact deadlines are: a wait ends up to two of these after its deadline."""


@attrs.define(eq=False)
class Client:
    """The client's side of one connection; leaving the context closes it."""

    leg: Leg
    place: Place
    """The address that the connection goes to."""
    replies: ReplyReader = attrs.field(factory=ReplyReader)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leg.close()
        self.leg.watch.close()

    def allow(self, seconds: float, doing: str) -> None:
        """Give all waits from now on so many seconds together, for what `doing` names."""
        self.leg.watch.allow(seconds, doing)

    # -- the dialogue

    def look(self) -> bytes | None:
        """Take what lies there, without waiting: octets, b"" at the receiver's end, None if there is nothing."""
        if octets := self.leg.look():
            self.replies.feed(octets)
        return octets

    async def next_reply(self) -> Reply | None:
        """The next reply; at the receiver's end what there is of one, or None. Raises DeadlinePassed."""
        while (reply := self.replies.next_reply()) is None:
            octets = await self.leg.read()
            if not octets:
                return self.replies.cut_off()
            self.replies.feed(octets)
        return reply

    async def write(self, octets: bytes) -> None:
        """Write all of `octets`. Raises LegBroken, DeadlinePassed."""
        await self.leg.write(octets)

    # -- TLS

    async def secure(self, security: ReceiverSecurity) -> None:
        """Change to TLS, as its client; what was read and not used before it is dropped.

        Raises TlsFailed, after which the client can only be closed, and DeadlinePassed.
        """
        self.replies = ReplyReader(self.replies.limit_octets)
        await security.secure(self.leg)

    @property
    def cipher(self) -> str:
        """The cipher suite, as OpenSSL calls it; empty without TLS."""
        used = self.leg.sock.cipher() if isinstance(self.leg.sock, ssl.SSLSocket) else None
        return used[0] if used else ""

    @property
    def peer_certificate(self) -> bytes:
        """The receiver's certificate in DER, whether it was verified or not; empty without TLS."""
        sock = self.leg.sock
        return (sock.getpeercert(binary_form=True) or b"") if isinstance(sock, ssl.SSLSocket) else b""


@attrs.frozen
class Clients:
    """Opens clients, each for the task that opens it; all share one driver and one watchdog."""

    _driver: Driver
    _watchdog: Watchdog

    async def open(
        self,
        places: Sequence[Place],
        seconds: float,
        *,
        host: str = "",
        source: Source = ANYWHERE,
        speaks_first: bool = False,
    ) -> Client:
        """A client of the first of `places` that answers. Raises DialFailed.

        Args:
            places: addresses of one receiver.
            seconds: how long each of them may take.
            host: whom the receiver's certificate must name, unless the settings of TLS name another.
            source: where the connection leaves from.
            speaks_first: as `dial` has it.
        """
        watch = self._watchdog.watch()
        try:
            leg, place = await dial(places, self._driver, watch, seconds, source, speaks_first=speaks_first)
        except BaseException:
            watch.close()
            raise
        leg.host = host
        return Client(leg, place)


@asynccontextmanager
async def clients(tick_seconds: float = TICK_SECONDS) -> AsyncIterator[Clients]:
    """What opens clients, until the block ends. An Exception of the block is raised as it is, in no group."""
    driver = Driver(Block(LEAST_BLOCK_OCTETS))
    watchdog = Watchdog(tick_seconds, turnstile=driver.turnstile)
    failed: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            await nursery.start(watchdog.run)
            try:
                yield Clients(driver, watchdog)
            except Exception as error:  # of any kind: it is raised again below
                failed = error
            nursery.cancel_scope.cancel()
    finally:
        driver.close()
    if failed:
        raise failed
