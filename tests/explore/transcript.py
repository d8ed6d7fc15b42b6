"""A dialogue of the explorer as a transcript, in the form of the golden ones (tests/session/test_transcripts.py)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.explore.sweep import Dialogue
    from tests.explore.world import World

_ENDS = {"PEER_FIN": ">", "PEER_RST": ">", "SHIM_FIN": "<", "SHIM_RST": "<"}


def written(dialogue: Dialogue, world: World, wrong: list[str]) -> str:
    """The transcript of a dialogue that is over, with what is wrong in it as comments."""
    return "\n".join((f"# {dialogue}", *(f"# {each}" for each in wrong), *_lines(world), *_last_lines(world))) + "\n"


def _lines(world: World) -> Iterator[str]:
    events = [event for event in world.log if event.what not in ("PEER_READ", "SHIM_READ")]
    for (what, who), group in itertools.groupby(events, key=lambda event: (event.what, event.who)):
        same = list(group)
        if what == "TIME":
            # A deadline is met up to two seconds late, and `wait` allows for that.
            yield f"wait {max(0, sum(event.unread_octets for event in same) - 2)}"
        elif what == "DIALLED":
            if who != "R0":
                yield "redialled"
        elif what in _ENDS:
            yield f"{who[0]}{_ENDS[what]} [{what[-3:]}]"
        else:
            direction = ">" if what == "PEER_SENT" else "<"
            for line in b"".join(event.octets for event in same).splitlines(keepends=True):
                yield f"{who[0]}{direction} {_escaped(line)}"


def _escaped(line: bytes) -> str:
    whole = line.endswith(b"\r\n")
    text = line.removesuffix(b"\r\n") if whole else line
    return text.decode("latin-1").encode("unicode_escape").decode() + ("" if whole else "\\")


def _last_lines(world: World) -> Iterator[str]:
    yield f"repairs: {', '.join(world.repair_names)}".rstrip()
    for record in world.account.records:
        yield f"ended: {record.ended_by}/{record.ended_in}"
