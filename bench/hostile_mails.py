"""The well-behaved mails beside hostile peers, and their books: a receiver, a sender, and what they say of each mail.

Both are processes of their own, `python -m bench.hostile_mails receive FILE` and `... send PORT FILE EVERY MOST`. Each
appends a line of JSON to its FILE as soon as it knows what became of a mail.

1. Mails are due at a steady pace, whatever became of those before: a stall meets as many mails as fall into it.
2. The time of a mail is that from when it was due, which is when its sender connects, to its verdict.
3. A mail whose connection ended before the verdict is sent again, under another name. One that was refused is not.
4. The receiver enters a mail, by its name and its length, before it says 250.
5. Both have the CPU before shimproxy where root runs them, as if they were on machines of their own.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import attrs

from bench.mail_data import small_mail
from bench.peers import Cut, Receiver, ReceiverSession, SenderSession, Unexpected, have_the_cpu_first
from bench.programs import whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

EVERY_SECONDS: Final = 0.015
SOURCE: Final = "127.0.1.1"
"""Where the well-behaved sender connects from; hostile ones have another address."""
MAIL_OCTETS: Final = 1000
_MOST_ATTEMPTS: Final = 100
_PAUSE_SECONDS: Final = 0.05
"""Before another attempt."""
MOST_NAMED: Final = 3
_NAME: Final = re.compile(rb"MAIL FROM:<([^@>]*)@")


class Fate(enum.StrEnum):
    """What became of an attempt to send a mail, as its sender sees it."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    CUT = "cut"
    """Its connection ended, or was not made, before the verdict."""


@attrs.frozen
class Attempt:
    """One connection that was made for a mail."""

    name: str
    fate: Fate
    said: str = ""
    """What refused it, or how it ended."""


@attrs.frozen
class Mail:
    """A mail, as its sender sees it."""

    due: float
    """In seconds of the monotonic clock, which all processes of a machine share."""
    seconds: float
    """From then to its verdict."""
    attempts: Sequence[Attempt]

    @classmethod
    def of_json(cls, line: str) -> Mail:
        """As `send` wrote it."""
        found = json.loads(line)
        attempts = [Attempt(each["name"], Fate(each["fate"]), each["said"]) for each in found["attempts"]]
        return cls(found["due"], found["seconds"], attempts)

    @property
    def fate(self) -> Fate:
        """What became of it at last."""
        return self.attempts[-1].fate


# -- the books


@attrs.frozen
class Books:
    """All mails of a run, at their sender and at the receiver."""

    mails: Sequence[Mail]
    taken: Counter[tuple[str, int]]
    """How often the receiver has a mail of that name, with so many octets of mail data."""
    octets: int
    """Of each mail's data."""

    @property
    def broken(self) -> int:
        """How many connections ended before a verdict; their mails were sent again."""
        return sum(attempt.fate is Fate.CUT for mail in self.mails for attempt in mail.attempts)

    def lost(self) -> list[str]:
        """A line for each mail that was not delivered, is not in the receiver once, or is there changed."""
        return [*self._lost()]

    def _lost(self) -> Iterator[str]:
        copies: Counter[str] = Counter()
        for (name, octets), times in self.taken.items():
            copies[name] += times
            if octets != self.octets:
                yield f"{name} was changed: {octets} octets instead of {self.octets}"
        for mail in self.mails:
            last = mail.attempts[-1]
            if last.fate is not Fate.DELIVERED:
                yield f"{last.name} was {last.fate}: {last.said}"
            for attempt in mail.attempts:
                count = copies.pop(attempt.name, 0)
                if attempt.fate is Fate.DELIVERED and not count:
                    yield f"{attempt.name} is believed delivered and not in the receiver"
                elif attempt.fate is Fate.REFUSED and count:
                    yield f"{attempt.name} was refused and is in the receiver"
                elif count > 1:
                    yield f"{attempt.name} is in the receiver {count} times"
        yield from (f"{name} is in the receiver and from no sender" for name in copies)


def mails_in(file: Path) -> list[Mail]:
    """What the sender says so far."""
    return [Mail.of_json(line) for line in whole_lines(file)]


def taken_in(file: Path) -> Counter[tuple[str, int]]:
    """What the receiver has."""
    return Counter((name, octets) for name, octets in map(json.loads, whole_lines(file)))


# -- as processes


def _append(file: int, what: object) -> None:
    os.write(file, json.dumps(what).encode() + b"\n")


def _open(file: str) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def receive(file: str) -> None:
    """Take every mail, until killed."""
    books = _open(file)

    def enter(session: ReceiverSession) -> None:
        name = _NAME.match(session.sender)
        _append(books, [name[1].decode() if name else "", session.data_octets])

    Receiver(take=enter).serve()


def _deliver(port: int, data: bytes, number: int) -> Iterator[Attempt]:
    """Send a mail until it has its verdict; each attempt, once it is over."""
    for name in (f"mail-{number}.{attempt}" for attempt in range(1, _MOST_ATTEMPTS + 1)):
        try:
            session = SenderSession(port, source=SOURCE)
            with contextlib.closing(session):
                session.mail(data, name.encode())
                yield Attempt(name, Fate.DELIVERED)
                with contextlib.suppress(OSError):
                    session.quit()
            return
        except (OSError, Cut) as error:
            yield Attempt(name, Fate.CUT, str(error))
        except Unexpected as error:
            yield Attempt(name, Fate.REFUSED, str(error))
            return
        time.sleep(_PAUSE_SECONDS)


def send(port: int, file: str, every_seconds: float, most: int) -> None:
    """Send mails at that pace until SIGTERM; return when all that were begun have had their verdicts.

    When `most` are under way, the next one waits, and its time with it.
    """
    books, data = _open(file), small_mail(MAIL_OCTETS)
    over, slots = threading.Event(), threading.BoundedSemaphore(most)
    signal.signal(signal.SIGTERM, lambda *_: over.set())

    def mail(number: int, due: float) -> None:
        attempts: list[dict[str, Any]] = []
        seconds = 0.0
        try:
            for attempt in _deliver(port, data, number):
                seconds = time.monotonic() - due
                attempts.append(attrs.asdict(attempt))
            _append(books, {"due": due, "seconds": seconds, "attempts": attempts})
        finally:
            slots.release()

    due = time.monotonic()
    for number in itertools.count(1):
        if over.wait(max(0.0, due - time.monotonic())):
            break
        slots.acquire()
        threading.Thread(target=mail, args=(number, due)).start()
        due = max(due + every_seconds, time.monotonic())


def main(arguments: Iterable[str]) -> None:
    """Be one of the two."""
    have_the_cpu_first()
    match [*arguments]:
        case ["receive", file]:
            receive(file)
        case ["send", port, file, every_seconds, most]:
            send(int(port), file, float(every_seconds), int(most))


if __name__ == "__main__":
    main(sys.argv[1:])
