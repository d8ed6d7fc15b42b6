"""`running`: shimproxy in a thread of its own, for programs that know nothing of trio.

1. When the block ends, so has the thread, and its sockets are closed.
2. An error of shimproxy, of `on_session` or of `observer` comes out of `wait_for` or of the block.
3. Several may run, also within each other's blocks; nothing is shared.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio

from shimproxy.config.parsers import nearest
from shimproxy.config.settings import Settings
from shimproxy.embed.background import Listening
from shimproxy.observe.metrics import Metrics
from shimproxy.service.serve import Stop, serve

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from shimproxy.config.converters import ReceiverAddress
    from shimproxy.config.listener import Listener
    from shimproxy.net.address import Address, BoundAddress, UnixPath
    from shimproxy.session.record import Observer, SessionRecord

_LISTEN: Final = "127.0.0.1:0"
_RESET_SECONDS: Final = 0.5
"""What sessions have after the grace until they are reset: a 421 is on its way."""
_JOIN_SECONDS: Final = 30.0


@attrs.define(eq=False, repr=False, kw_only=True)
class Running(Listening["SessionRecord"]):
    """A shimproxy that runs: where it listens, in the order of `settings.listen`, and what became of its sessions."""

    settings: Settings
    metrics: Metrics = attrs.field(factory=Metrics)
    """Its figures."""

    def _open(self) -> list[str]:
        return self.metrics.phases()

    def _in_short(self, record: SessionRecord) -> str:
        repairs = ", ".join(f"{violation} {count}" for violation, count in record.repairs.items()) or "none"
        return (
            f"{record.id} from {record.sender}: mails {record.transactions}, accepted {record.accepted}, "
            f"repairs {repairs}, ended by {record.ended_by} in {record.ended_in}"
        )


@contextlib.contextmanager
def running(
    settings: Settings | None = None,
    *,
    receiver: Sequence[ReceiverAddress | str] | ReceiverAddress | str | Listening[Any] | None = None,
    listen: Sequence[Listener | Address | UnixPath | str] | Listener | Address | UnixPath | str | None = None,
    listeners: Sequence[socket.socket] | None = None,
    on_session: Callable[[SessionRecord], None] | None = None,
    observer: Observer | None = None,
    **fields: object,
) -> Iterator[Running]:
    """Run shimproxy in a thread of its own until the block ends; connections are accepted when it begins.

    At the end of the block open transactions may go on for `grace_seconds`, none unless that is given; then the sender
    gets 421, and after half a second what is still open is reset.

    Args:
        settings: what it goes by; the others change it.
        receiver: the receiver's address, HOST:PORT, or several; or one that `running` or `misbehaving` has
            started.
        listen: where senders connect; a free port of 127.0.0.1 unless it, `settings.listen` or `listeners` says so.
        listeners: listening sockets of the caller's own, instead of `listen`; they are closed at the end.
        on_session: is called with the record of each session when it is over, in shimproxy's thread.
        observer: is told of dialogue and repairs as they happen, in shimproxy's thread, instead of the log.
        fields: other fields of `Settings`.

    Raises:
        SettingsError, AddressError, ValueError: a setting can't be used.
        TypeError: there is no such setting.
        ListenFailed, DialFailed, TlsUnusable: as `serve`.
        Exception: what went wrong in the thread, when the block ends, if `wait_for` has not raised it.
    """
    run = Running(settings=_settings(settings, receiver, listen, listeners, fields))
    thread = _Thread(run, listeners, on_session, observer)
    with run.background.ended_by(thread.stop):
        run.addresses = thread.start()
        yield run


def _settings(
    settings: Settings | None,
    receiver: Sequence[ReceiverAddress | str] | ReceiverAddress | str | Listening[Any] | None,
    listen: object,
    listeners: Sequence[socket.socket] | None,
    fields: dict[str, object],
) -> Settings:
    known = [field.name for field in attrs.fields(Settings)]
    for name in fields:
        if name not in known:
            raise TypeError(f"running: there is no setting {name}{nearest(name, known)}")
    changes: dict[str, object] = {**fields}
    if receiver is not None:
        changes["receiver"] = receiver.address if isinstance(receiver, Listening) else receiver
    if listen is not None:
        changes["listen"] = listen
    elif listeners is None and not (settings and settings.listen):
        changes["listen"] = _LISTEN
    if settings is None:
        return Settings(**cast("dict[str, Any]", {"grace_seconds": 0} | changes))
    return attrs.evolve(settings, **cast("dict[str, Any]", changes))


@attrs.define(eq=False)
class _Thread:
    """The thread, and how it is started and ended."""

    _run: Running
    _listeners: Sequence[socket.socket] | None
    _on_session: Callable[[SessionRecord], None] | None
    _observer: Observer | None
    _stop: Stop = attrs.field(factory=Stop)
    _thread: threading.Thread | None = None
    _token: trio.lowlevel.TrioToken | None = None
    _is_stopped: bool = False

    def start(self) -> list[BoundAddress]:
        """Start it; where it accepts connections. Raises what `serve` raises."""
        started: Future[list[BoundAddress]] = Future()
        # A daemon, so that a block that is never left keeps no program alive.
        self._thread = threading.Thread(target=self._work, args=(started,), name="shimproxy", daemon=True)
        self._thread.start()
        return started.result()

    def _work(self, started: Future[list[BoundAddress]]) -> None:
        background = self._run.background
        try:
            trio.run(self._serve, started)
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            if started.done():
                background.fail(error)
            else:
                started.set_exception(error)
        finally:
            background.end()

    async def _serve(self, started: Future[list[BoundAddress]]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self._is_stopped:  # before there was a token to say so by
            return
        run = self._run
        async with trio.open_nursery() as nursery:
            begin = partial(
                serve,
                run.settings,
                listeners=self._listeners,
                on_session=self._ended,
                observer=self._observer,
                on_error=run.background.fail,
                metrics=run.metrics,
                stop=self._stop,
            )
            started.set_result(await nursery.start(begin))
            await self._stop.asked()
            nursery.cancel_scope.deadline = trio.current_time() + run.settings.grace_seconds + _RESET_SECONDS

    def _ended(self, record: SessionRecord) -> None:
        self._run.background.add(record)
        if self._on_session:
            self._on_session(record)

    def stop(self) -> None:
        """End it, if it was started. Raises RuntimeError if it does not end."""
        # A program that ends within the block has no threads any more when the block is taken down.
        if self._thread is None or sys.is_finalizing():
            return
        self._is_stopped = True
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._stop.ask)
        self._thread.join(self._run.settings.grace_seconds + _JOIN_SECONDS)
        if self._thread.is_alive():
            raise RuntimeError("shimproxy's thread does not end: do on_session and observer return?")
