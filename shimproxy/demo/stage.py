"""A run of the demo on the screen: its ladder grows while the run is played.

A line is told once no later frame can change it. Where the cursor can be moved, what may still change is drawn anew
below, and how long nothing has moved. Frames come from the peers' threads. It judges nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.program.terminal import Style
from shimproxy.records.ladder import Drawing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from shimproxy.program.terminal import Screen
    from shimproxy.records.ladder import Arrow, Frame

QUIET_SECONDS: Final = 0.5
"""When nothing has moved for so long, it is said."""
_REDRAW_SECONDS: Final = 0.1
_OF_A_REPLY: Final = {"2": Style.GOOD, "3": Style.GOOD, "4": Style.BAD, "5": Style.BAD}


@attrs.define(eq=False)
class DemoStage:
    """Where one run is played; its trace feeds it."""

    _screen: Screen
    _title: str
    _parties: tuple[str, ...]
    _mark_columns: int
    _gives_up_seconds: float
    """How long the sender waits for a write to end."""
    _above: Sequence[str] = ()
    """Lines above the title."""
    _now: Callable[[], float] = time.monotonic
    _drawing: Drawing | None = None
    _moved_at: float = 0.0
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    @contextlib.asynccontextmanager
    async def played(self) -> AsyncIterator[None]:
        """Meanwhile what may change is drawn anew; afterwards the ladder is whole."""
        async with trio.open_nursery() as nursery:
            if self._screen.live:
                nursery.start_soon(self._keep_drawing)
            yield
            nursery.cancel_scope.cancel()
        with self._lock:
            self._screen.tell(*self._opened().finish())

    def open(self) -> None:
        """Show that the run has begun, if the first frame has not."""
        with self._lock:
            self._opened()

    def feed(self, frame: Frame) -> None:
        """Take the next frame of the run."""
        with self._lock:
            self._moved_at = self._now()
            if lines := self._opened().feed(frame):
                self._screen.tell(*lines)

    def redraw(self) -> None:
        """Show what may still change, and how long nothing has moved."""
        with self._lock:
            if self._drawing is None or self._drawing.width > self._screen.columns:
                return
            quiet_seconds = self._now() - self._moved_at
            lines = self._drawing.pending()
            if quiet_seconds >= QUIET_SECONDS:
                lines += [self._screen.paint(self._quiet(quiet_seconds)[: self._screen.columns], Style.BAD)]
            self._screen.show(*lines)

    def _quiet(self, seconds: float) -> str:
        margin = " " * (self._mark_columns + 1)
        return f"{margin}nothing moves: {seconds:.1f} s (the sender gives up after {self._gives_up_seconds:g} s)"

    def _opened(self) -> Drawing:
        if self._drawing is None:
            self._moved_at = self._now()
            self._drawing = Drawing(self._parties, self._mark_columns, self._screen.columns, self._painted)
            title = [self._screen.paint(line, Style.BOLD) for line in self._drawing.title(self._title)]
            self._screen.tell(*self._above, "", *title, *self._drawing.head())
        return self._drawing

    def _painted(self, arrow: Arrow, text: str) -> str:
        return self._screen.paint(text, *self._styles(arrow))

    def _styles(self, arrow: Arrow) -> Sequence[Style]:
        if arrow.at is not None:  # what befell the sender, what shimproxy does, what the receiver does
            last = len(self._parties) - 1
            return (Style.BOLD, {0: Style.BAD, last: Style.BAD}.get(arrow.at, Style.REPAIR))
        if arrow.mail_octets:
            return (Style.FAINT,)
        style = None if arrow.rightward else _OF_A_REPLY.get(arrow.text[:1])
        return (style,) if style else ()

    async def _keep_drawing(self) -> None:
        while True:
            self.redraw()
            await trio.sleep(_REDRAW_SECONDS)
