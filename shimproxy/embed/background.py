"""What goes on in another thread, for a program that waits: the sessions that it tells of, and its errors.

1. Whoever waits gets what it waits for, the thread's error, or a TimeoutError that says how far things came.
2. An error is raised once: by the wait that it ends, or when the thread is over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shimproxy.net.address import BoundAddress

WAIT_SECONDS: Final = 10.0
_MOST_SHOWN: Final = 5
_Record = TypeVar("_Record")


def counted(count: int, word: str) -> str:
    """So many of them, in words."""
    return f"{count} {word}{'' if count == 1 else 's'}"


@attrs.define(eq=False)
class Background(Generic[_Record]):
    """What a thread has told of so far, and what went wrong there."""

    _records: list[_Record] = attrs.field(factory=list)
    _errors: list[BaseException] = attrs.field(factory=list)
    _is_over: bool = False
    _changed: threading.Condition = attrs.field(factory=threading.Condition)

    # -- from the thread

    def add(self, record: _Record) -> None:
        """Tell of something that is over."""
        with self._changed:
            self._records.append(record)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Hand on an error: to who waits now, or later."""
        with self._changed:
            self._errors.append(error)
            self._changed.notify_all()

    def end(self) -> None:
        """Say that nothing more is to come."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    # -- from the program

    @property
    def records(self) -> list[_Record]:
        """A copy of what was told of so far."""
        with self._changed:
            return [*self._records]

    def wait_for(
        self,
        count: int,
        where: Callable[[_Record], bool] | None,
        timeout_seconds: float,
        account: Callable[[list[_Record]], str],
    ) -> list[_Record]:
        """The first `count` records that `where` holds for, all if it is None, once they are there.

        Raises TimeoutError with `account` of all records after `timeout_seconds`, or if no more can come; and an error
        of the thread at once.
        """
        __tracebackhide__ = True  # pytest shows the caller's line
        last = time.monotonic() + timeout_seconds
        while True:
            with self._changed:
                before, is_over = [*self._records], self._is_over
            self.raise_error()
            # Outside of the lock, as it is the program's and may take any time.
            found = [record for record in before if where is None or where(record)]
            if len(found) >= count:
                return found[:count]
            left_seconds = last - time.monotonic()
            if left_seconds <= 0 or is_over:
                wanted = f"{counted(count, 'session')}{' that `where` holds for' if where else ''}"
                when = "before the end" if is_over else f"within {timeout_seconds:g} s"
                raise TimeoutError(f"wanted {wanted}, got {len(found)} {when}; {account(before)}")
            with self._changed:
                self._changed.wait_for(lambda: self._has_changed(len(before)), left_seconds)  # noqa: B023

    def _has_changed(self, before: int) -> bool:
        return len(self._records) > before or bool(self._errors) or self._is_over

    def raise_error(self) -> None:
        """Raise the first error that was not raised yet, with those after it as notes; return if there is none."""
        __tracebackhide__ = True
        if errors := self._unraised():
            first, *others = errors
            for other in others:
                first.add_note(f"and then: {other!r}")
            raise first

    @contextlib.contextmanager
    def ended_by(self, stop: Callable[[], None]) -> Iterator[None]:
        """End the thread by `stop` when the block ends; raise its error then, or note it on that of the block."""
        try:
            yield
        except BaseException as error:
            stop()
            for each in self._unraised():
                error.add_note(f"and shimproxy's thread failed: {each!r}")
            raise
        stop()
        self.raise_error()

    def _unraised(self) -> list[BaseException]:
        with self._changed:
            errors, self._errors = self._errors, []
        return errors


@attrs.define(eq=False, repr=False)
class Listening(Generic[_Record]):
    """What listens in another thread: where, and what became of its sessions."""

    addresses: Sequence[BoundAddress] = ()
    """Where it accepts connections."""
    background: Background[_Record] = attrs.field(factory=Background)
    """The thread, as the rest of the package sees it."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {', '.join(self.addresses)}>"

    @property
    def address(self) -> BoundAddress:
        """The first address: a text, HOST:PORT, with `host` and `port`."""
        return self.addresses[0]

    @property
    def host(self) -> str:
        """The IP address of the first."""
        return self.address.host

    @property
    def port(self) -> int:
        """The port of the first."""
        return self.address.port

    @property
    def records(self) -> list[_Record]:
        """A copy of the records of all sessions that are over, in the order of their ends."""
        return self.background.records

    def wait_for(
        self,
        sessions: int = 1,
        *,
        where: Callable[[_Record], bool] | None = None,
        timeout_seconds: float = WAIT_SECONDS,
    ) -> list[_Record]:
        """Wait until that many sessions are over; their records, in the order of their ends.

        It blocks: a program with an event loop calls it in another thread (`asyncio.to_thread`).

        Args:
            sessions: how many, counted from the beginning.
            where: with it, only sessions whose record it returns true for are counted and returned.
            timeout_seconds: how long to wait.

        Raises:
            TimeoutError: there are fewer by then; the text says what became of the others.
            Exception: the thread, or what it calls, has failed; this is its error.
        """
        __tracebackhide__ = True
        return self.background.wait_for(sessions, where, timeout_seconds, self._account)

    def _account(self, over: list[_Record]) -> str:
        """What became of all sessions, in words."""
        open_now = self._open()
        parts = [counted(len(open_now), "session") + " open" + (f" ({', '.join(open_now)})" if open_now else "")]
        if open_now:
            parts.append("a session is over when its sender has disconnected")
        elif not over:
            parts.append(f"no peer has connected to {' or '.join(self.addresses)}")
        shown = "; ".join(map(self._in_short, over[-_MOST_SHOWN:]))
        parts.append(counted(len(over), "session") + " over" + (f", last {shown}" if shown else ""))
        return "; ".join(parts)

    def _open(self) -> list[str]:
        """What each open session is doing."""
        raise NotImplementedError

    def _in_short(self, record: _Record) -> str:
        """A record in a few words."""
        raise NotImplementedError
