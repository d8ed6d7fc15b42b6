"""The receivers of a soak: good ones, slow ones, every fault of shimproxy/faulty/, and TLS that fails.

1. A receiver enters a mail into the ledger when it came to its true end, before it says 250.
2. Which fault a session meets is drawn for each connection, with dice that a seed makes repeatable.
"""

from __future__ import annotations

import inspect
import re
import time
from typing import TYPE_CHECKING, ClassVar, Final

import attrs

from shimproxy.faulty.chunks import ChunkTalk
from shimproxy.faulty.fault import Fault, FaultPlace
from shimproxy.faulty.plan import WELL_BEHAVED, Plan
from shimproxy.faulty.receivers import FAULTS
from shimproxy.faulty.serving import FaultySession
from shimproxy.faulty.talk import TAKEN, Gone, Seen, Talk

if TYPE_CHECKING:
    import random
    import socket
    import ssl
    from collections.abc import Callable, Sequence

    from bench.ledger import Ledger

    Act = Callable[[Talk], None]

NAME: Final = re.compile(rb"soak-[0-9]+")
_ACCEPTS_EARLY: Final = ("early-250", "early-250-then-fin")
_SLOW_SECONDS: Final = 0.05
_SLOW_TURNS: Final = 10
_TALK_SECONDS: Final = 20.0
"""Longer than shimproxy waits for a peer on these routes."""


@attrs.define(eq=False)
class Books(Seen):
    """What a receiver has seen, for the ledger alone: mails are not kept."""

    ledger: Ledger = attrs.field(kw_only=True)
    route: str = attrs.field(kw_only=True)
    fault: str = attrs.field(default="", kw_only=True)
    """That of this connection."""

    def take(self, data: bytes) -> None:
        """Enter a mail."""
        name = NAME.search(data)
        by = f"{self.route}, {self.fault}" if self.fault else self.route
        self.ledger.take(name[0].decode() if name else "", data, by, too_early=self.fault in _ACCEPTS_EARLY)


# -- what becomes of a mail


def takes(talk: Talk) -> None:
    """Takes the mail."""
    talk.accept()


def _reads_slowly(talk: Talk) -> None:
    """Takes a mail whose beginning it reads in small parts, with a rest after each."""
    talk.go_on()
    data = b""
    for _ in range(_SLOW_TURNS):
        time.sleep(_SLOW_SECONDS)
        data += talk.part(300)
    talk.seen.take(data + talk.whole())
    talk.say(TAKEN)


def _replies_slowly(talk: Talk) -> None:
    """Takes a mail and replies octet by octet."""
    talk.go_on()
    talk.seen.take(talk.whole())
    for octet in TAKEN:
        time.sleep(_SLOW_SECONDS)
        talk.say(bytes([octet]))


def _slow(name: str, act: Act) -> Fault:
    what = " ".join((inspect.getdoc(act) or "").split())
    return Fault(
        name, None, what, {FaultPlace.DATA: act}, (), b"", tight=False, replies_early=False, not_in_chunks="", needs=""
    )


_SLOW: Final = [_slow("reads-slowly", _reads_slowly), _slow("replies-slowly", _replies_slowly)]


_PLAN: Final = Plan()


@attrs.define(eq=False)
class Faulty:
    """Makes the receiver's side of each connection, for a fault that is drawn for it; for one of three it is none."""

    dice: random.Random
    tight: bool = False
    chunked: bool = False
    _faults: list[Fault] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._faults = [
            fault
            for fault in FAULTS.values()
            if fault.tight is self.tight
            and FaultPlace.CONNECTION not in fault.acts
            and not (self.chunked and (fault.not_in_chunks or FaultPlace.DATA not in fault.acts))
        ]
        if not (self.tight or self.chunked):
            self._faults += _SLOW

    def __call__(self, sock: socket.socket, seen: Seen) -> Talk:
        fault = self.dice.choice(self._faults) if self.dice.randrange(3) else WELL_BEHAVED
        assert isinstance(seen, Books)
        seen = attrs.evolve(seen, fault=fault.name, run=[])
        if self.chunked:
            return _Chunks(sock, seen, patience_seconds=_TALK_SECONDS, fault=fault)
        return FaultySession(sock, seen, patience_seconds=_TALK_SECONDS, plan=_PLAN, fault=fault, tell=lambda _: None)


@attrs.define(eq=False)
class _Chunks(ChunkTalk):
    fault: Fault = attrs.field(kw_only=True)

    def serve(self, on_data: Act) -> None:
        super().serve(self.fault.on_data)


# -- how a connection begins


@attrs.define(eq=False)
class SoakTalk(Talk):
    """A receiver's side of one connection whose waits end before the soak does."""

    patience_seconds: float = _TALK_SECONDS


def behind_tls(context: ssl.SSLContext, faulty: Sequence[Act], dice: random.Random) -> type[Talk]:
    """A receiver that shakes hands first; one connection of three meets one of those faults instead."""

    class Secured(SoakTalk):
        def serve(self, on_data: Act) -> None:
            if faulty and dice.randrange(3) == 0:
                dice.choice(faulty)(self)
                return
            try:
                self.sock = context.wrap_socket(self.sock, server_side=True)
            except OSError as error:
                raise Gone from error
            super().serve(on_data)

    return Secured


def _answers_clear(talk: Talk) -> None:
    """A receiver that speaks no TLS."""
    talk.say(b"220 no TLS here\r\n")
    talk.read_on()


def _closes(talk: Talk) -> None:
    """One that closes when it is greeted."""
    talk.part(1)
    talk.close()


def _resets(talk: Talk) -> None:
    """One that resets when it is greeted."""
    talk.part(1)
    talk.reset()


def _says_nothing(talk: Talk) -> None:
    """One that never answers."""
    talk.read_on()


TLS_FAULTS: Final = (_answers_clear, _closes, _resets, _says_nothing)


def presents(context: ssl.SSLContext) -> Act:
    """One whose certificate nobody trusts."""

    def fault(talk: Talk) -> None:
        try:
            context.wrap_socket(talk.sock, server_side=True).close()
        except OSError as error:
            raise Gone from error

    return fault


class Moody(SoakTalk):
    """A receiver that turns every second connection away, each in another way."""

    GREETINGS: ClassVar = (b"421 4.3.2 not now\r\n", b"554 5.3.2 never\r\n", b"")
    dice: ClassVar[random.Random]

    def serve(self, on_data: Act) -> None:
        """Serve one connection to its end."""
        if self.dice.randrange(2):
            if greeting := self.dice.choice(self.GREETINGS):
                self.say(greeting)
            return
        super().serve(on_data)
