"""The example of an explanation: a transcript played by a real session, as a ladder and as lines of the log."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from shimproxy.help.explain.transcript import Transcript, play
from shimproxy.observe.formats import TextFormatter
from shimproxy.observe.journal import Journal
from shimproxy.observe.lossy import log
from shimproxy.records.ladder import Ladder, drawn
from shimproxy.records.session_ladder import PARTIES, frames_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shimproxy.help.explain.stage import Stage
    from shimproxy.records.ladder import Frame

_MOST_LINES = 3
"""Of the log: the beginning shows how the others look."""


@attrs.frozen(kw_only=True)
class Example:
    """What was seen of a transcript."""

    transcript: str
    caption: str
    frames: Sequence[Frame]
    log: Sequence[str]
    """What the log says of it, a line each."""

    def drawn(self, columns: int) -> list[str]:
        """Its ladder; seconds stand at the left if any have passed."""
        timed = any(frame.mark != "0.000" for frame in self.frames)
        frames = [attrs.evolve(each, mark=each.mark.partition(".")[0] if timed else "") for each in self.frames]
        title = f"{self.caption} At the left: seconds." if timed else self.caption
        return drawn(Ladder(title, PARTIES, frames), columns)


def played(name: str, event: str) -> Example:
    """The example of that name, with the log's lines of that event, a few at most."""
    transcript = Transcript.named(name)

    def seen(stage: Stage) -> Example:
        assert stage.record.trace
        frames = list(frames_of(stage.record.trace, brief=True))
        return Example(transcript=name, caption=transcript.caption, frames=frames, log=_logged(stage, event))

    return play(transcript, seen)


def _logged(stage: Stage, event: str) -> list[str]:
    journal, record = Journal(), stage.record
    with _kept() as lines:
        for who, octets in stage.account.dialogue:
            journal.said(record, who, octets)
        for repair in stage.account.repairs:
            journal.repaired(record, repair)
        if stage.over:
            journal.ended(record)
        journal.flush()
    return [line for line in lines if line.split(" ", 2)[1] == event][:_MOST_LINES]


@contextmanager
def _kept() -> Iterator[list[str]]:
    """What is logged, as text without the time, instead of where it goes."""
    lines: list[str] = []
    formatter = TextFormatter(timed=False)

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    before = log.handlers[:], log.level, log.propagate
    log.handlers[:], log.propagate = [Kept()], False
    log.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        log.handlers[:], log.propagate = before[0], before[2]
        log.setLevel(before[1])
