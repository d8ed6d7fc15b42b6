"""The table of fault receivers: what each is, and what a sender must believe of it through the shim.

The decorators enter a function of a `Talk` into FAULTS. They say where the fault was seen and, as data, what must
come of it: `large` where the mail can't have reached the receiver whole, `small` where it may have. Guarantee 2 makes
both the same, but for early success.

Mail data come by DATA, or in chunks to the same fault receivers where these offer CHUNKING (RFC 3030).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, Self

import attrs

from shimproxy import Deadlines
from tests.peers.chunks import ChunkTalk
from tests.peers.outcome import Expected, refused
from tests.peers.receiving import Receiver, Talk

if TYPE_CHECKING:
    from collections.abc import Callable


@attrs.frozen
class Fault:
    """A fault receiver, and what a sender must believe of it through the shim."""

    name: str
    seen_in: str
    """Where the fault is known from."""
    on_data: Callable[[Talk], None]
    large: tuple[Expected, ...]
    small: tuple[Expected, ...]
    deadlines: Deadlines
    """The shim's; the default ones, but for what the fault makes it wait for."""
    tight: bool
    """Whether its receive buffer is so small that its window shuts."""
    replies_early: bool
    """Whether a sender may wait for its early reply."""
    not_in_chunks: str
    """Why there is no such fault with chunks, if there is none."""
    between_chunks: tuple[Expected, ...]
    """What may come of it besides `small` where its early reply is an honest one to the first of several chunks."""
    chunked: bool = False
    """Whether it offers CHUNKING and takes chunks."""

    def start(self) -> Receiver:
        """It, listening."""
        return Receiver(self.on_data, tight=self.tight, talk=ChunkTalk if self.chunked else Talk)

    def in_chunks(self) -> Self:
        """The same that offers CHUNKING."""
        assert not self.not_in_chunks, self.not_in_chunks
        return attrs.evolve(self, chunked=True, small=(*self.small, *self.between_chunks))


FAULTS: Final[dict[str, Fault]] = {}


def fault(
    seen_in: str,
    large: Expected,
    *,
    small: tuple[Expected, ...] | None = None,
    deadlines: Deadlines | None = None,
    tight: bool = False,
    replies_early: bool = True,
    not_in_chunks: str = "",
    between_chunks: tuple[Expected, ...] = (),
) -> Callable[[Callable[[Talk], None]], Callable[[Talk], None]]:
    """Enter a fault receiver into the table."""

    def enter(on_data: Callable[[Talk], None]) -> Callable[[Talk], None]:
        FAULTS[on_data.__name__] = Fault(
            on_data.__name__,
            seen_in,
            on_data,
            (large,),
            small or (large,),
            deadlines or Deadlines(),
            tight,
            replies_early,
            not_in_chunks,
            between_chunks,
        )
        return on_data

    return enter


def refuses(
    reply: bytes,
    *,
    seen_in: str,
    deadlines: Deadlines | None = None,
    tight: bool = False,
    replies_early: bool = True,
    not_in_chunks: str = "",
) -> Callable[[Callable[[Talk, bytes], None]], Callable[[Talk, bytes], None]]:
    """Enter a fault receiver into the table that gives this 4yz or 5yz, which must reach the sender word for word."""

    def enter(on_data: Callable[[Talk, bytes], None]) -> Callable[[Talk, bytes], None]:
        @functools.wraps(on_data)
        def on_data_with_reply(talk: Talk) -> None:
            on_data(talk, reply)

        add = fault(
            seen_in,
            refused(reply),
            deadlines=deadlines,
            tight=tight,
            replies_early=replies_early,
            not_in_chunks=not_in_chunks,
        )
        add(on_data_with_reply)
        return on_data

    return enter


QUICK_TO_RESET: Final = Deadlines(linger_idle=0.3, linger_total=1.0)
QUICK_TO_GIVE_UP: Final = Deadlines(
    receiver_block=0.5, end_of_data_reply=0.5, reply=1.0, linger_idle=0.3, linger_total=1.0
)

NO_354: Final = "a chunk comes with its command: there is no 354"

TOO_BIG: Final = b"552 Requested mail action aborted: exceeded storage allocation\r\n"
CLOSING: Final = b"421 Service not available, closing transmission channel\r\n"
