"""What a faulty receiver is, and the table that all of them are entered into.

A faulty receiver is a function of a `Talk`; its docstring says what it does and who is known to do it. It is called at
one stage of the session, in place of the answer that is due there. A decorator enters it into FAULTS under its name,
with hyphens. `receivers.py` loads every module that has some.
"""

from __future__ import annotations

import enum
import functools
import inspect
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.chunks import ChunkTalk
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import Talk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shimproxy.smtp.catalogue import Violation

    Act = Callable[[Talk], None]

NO_354: Final = "a chunk comes with its command: there is no 354"
TOO_BIG: Final = b"552 Requested mail action aborted: exceeded storage allocation\r\n"
CLOSING: Final = b"421 Service not available, closing transmission channel\r\n"


class FaultPlace(enum.IntEnum):
    """Where in a session a fault is; the names of commands are those of their verbs."""

    CONNECTION = 0
    GREETING = 1
    EHLO = 2
    STARTTLS = 3
    AUTH = 4
    XCLIENT = 5
    MAIL = 6
    RCPT = 7
    DATA = 8
    """Where mail data begin, by DATA or by BDAT."""
    QUIT = 9


@attrs.frozen
class Fault:
    """A faulty receiver."""

    name: str
    violation: Violation | None
    """What shimproxy calls it; None of a receiver that does nothing wrong."""
    what: str
    """What it does, and who is known to do it."""
    acts: Mapping[FaultPlace, Act]
    """What it does in place of an answer."""
    offers: tuple[bytes, ...]
    """Keywords that its reply to EHLO has besides the usual ones."""
    reply: bytes
    """The 4yz or 5yz that it gives to mail data; b"" if it gives none, or not in good form."""
    tight: bool
    """Whether its receive buffer is so small that its window shuts."""
    replies_early: bool
    """Whether a sender may wait for its early reply."""
    not_in_chunks: str
    """Why there is no such fault with chunks, if there is none."""
    needs: str
    """The setting with which shimproxy sees it, if it does not do so by itself."""

    @property
    def on_data(self) -> Act:
        """What it does where mail data begin. Raises KeyError if that is nothing."""
        return self.acts[FaultPlace.DATA]

    @property
    def stage(self) -> FaultPlace:
        """Where it begins."""
        return min(self.acts, default=FaultPlace.CONNECTION)

    def start(self, *, chunked: bool = False) -> FaultyReceiver:
        """Start one that is faulty in mail data on a free port; `chunked`, it offers CHUNKING and takes chunks."""
        return FaultyReceiver(self.on_data, tight=self.tight, talk=ChunkTalk if chunked else Talk)


FAULTS: Final[dict[str, Fault]] = {}


def fault(
    violation: Violation | None,
    at: FaultPlace = FaultPlace.DATA,
    *,
    also: Mapping[FaultPlace, Act] | None = None,
    offers: tuple[bytes, ...] = (),
    reply: bytes = b"",
    tight: bool = False,
    replies_early: bool = True,
    not_in_chunks: str = "",
    needs: str = "",
) -> Callable[[Act], Act]:
    """Enter a faulty receiver into the table, which does this `at` a stage, and `also` something at others."""

    def enter(act: Act) -> Act:
        name = act.__name__.replace("_", "-")
        what = " ".join((inspect.getdoc(act) or "").split())
        acts = {at: act, **(also or {})}
        FAULTS[name] = Fault(name, violation, what, acts, offers, reply, tight, replies_early, not_in_chunks, needs)
        return act

    return enter


def refuses(
    violation: Violation | None,
    reply: bytes,
    *,
    tight: bool = False,
    replies_early: bool = True,
    not_in_chunks: str = "",
) -> Callable[[Callable[[Talk, bytes], None]], Callable[[Talk, bytes], None]]:
    """Enter a faulty receiver into the table that gives mail data this 4yz or 5yz, in good form."""

    def enter(on_data: Callable[[Talk, bytes], None]) -> Callable[[Talk, bytes], None]:
        @functools.wraps(on_data)
        def on_data_with_reply(talk: Talk) -> None:
            on_data(talk, reply)

        add = fault(violation, reply=reply, tight=tight, replies_early=replies_early, not_in_chunks=not_in_chunks)
        add(on_data_with_reply)
        return on_data

    return enter
