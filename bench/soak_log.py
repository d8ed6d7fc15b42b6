"""What shimproxy has logged in a soak: its sessions, how often what has happened, and what should never happen."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.observe.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable


@attrs.frozen
class Line:
    """A session's line in the log of shimproxy."""

    session: str
    sender: str
    accepted: int
    began: float
    ended: float

    @property
    def worker(self) -> str:
        """What the ids of one worker's sessions have in common."""
        return self.session.rpartition("-")[0]

    @property
    def number(self) -> int:
        """Which of its worker's sessions it is, from 1 on."""
        return int(self.session.rpartition("-")[2])


@attrs.define(eq=False)
class Log:
    """What shimproxy has logged."""

    lines: list[Line] = attrs.field(factory=list)
    events: Counter[str] = attrs.field(factory=Counter)
    reasons: list[str] = attrs.field(factory=list)
    """Whatever no soak may bring about, in the log's words."""


_ALARMING: Final = frozenset(
    event.value
    for event in (
        Event.BUG,
        Event.OBSERVER,
        Event.LOST,
        Event.LISTENER,
        Event.RECORDS,
        Event.RELOAD_FAILED,
        Event.WORKER_KILLED,
        Event.WORKER_NOT_STARTED,
        Event.WORKER_UNREADABLE,
    )
)


def read_log(lines: Iterable[str]) -> Log:
    """What stands in a log of JSON lines."""
    log = Log()
    for each in lines:
        try:
            said: dict[str, Any] = json.loads(each)
        except ValueError:
            log.reasons.append(f"a line that is no JSON: {each[:200]}")
            continue
        event = said["event"]
        log.events[event] += 1
        if event == Event.SESSION.value:
            ended = datetime.fromisoformat(said["time"]).timestamp()
            log.lines.append(
                Line(said["session"], said["sender"], said["accepted"], ended - said["seconds"], ended),
            )
        elif event in _ALARMING:
            log.reasons.append(str(said.get("traceback") or each).strip()[-400:].replace("\n", " | "))
    return log
