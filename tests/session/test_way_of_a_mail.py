"""The way of a mail is counted: frames from the wake to the read, objects for it, and classes that a reply crosses.

`shimproxy/docs/design.md` has the figures. Each is what a call profile sees of a session in memory.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shimproxy.net.leg import Leg
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Command
from shimproxy.smtp.reply import Reply
from tests.memory import Stage, staged, up_to_mail_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

MOST_FRAMES = 7
MOST_OBJECTS = 4
MOST_CLASSES = 5
LINE = b"sixteen octets\r\n"
OF_A_LINE = (Command, Reply)
"""There is one for each line of the dialogue, whatever becomes of it."""


@contextmanager
def profiled(see: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Have `see` called for each call and each return of this thread."""
    before = sys.getprofile()
    sys.setprofile(see)
    try:
        yield
    finally:
        sys.setprofile(before)


def coroutines_above(frame: FrameType | None) -> list[str]:
    """The coroutines of shimproxy that the call in `frame` was made from, the innermost first."""
    names = []
    while frame:
        is_ours = (
            frame.f_globals.get("__name__", "").startswith("shimproxy.") and "help" not in frame.f_code.co_filename
        )
        if is_ours and frame.f_code.co_flags & inspect.CO_COROUTINE:
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


async def up_to_the_verdict(stage: Stage, verdict: bytes) -> None:
    """Mail data in two blocks, and their reply."""
    await stage.feed(stage.sender, LINE)
    await stage.feed(stage.sender, LINE + b".\r\n")
    await stage.feed(stage.receiver, verdict)


def test_few_frames_stand_between_the_wake_and_the_read() -> None:
    """Each wake for mail data passes all of them."""
    reads: list[list[str]] = []

    def see(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is Leg.read_block_now.__code__:
            reads.append(coroutines_above(frame))

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        with profiled(see):
            await up_to_the_verdict(stage, b"250 queued\r\n")

    assert staged(script, telling=False).repaired == []
    assert len(reads) >= 2
    assert {names[-1] for names in reads} == {"run"}, "which the driver steps"
    assert max(len(names) for names in reads) <= MOST_FRAMES, reads


def test_few_objects_are_made_for_a_mail() -> None:
    """Those of the second mail of a session: what the session made for itself is there already."""
    made: Counter[str] = Counter()

    def see(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == "__init__":
            made_now = next(iter(frame.f_locals.values()))
            if type(made_now).__module__.startswith("shimproxy.") and not isinstance(made_now, OF_A_LINE):
                made[type(made_now).__name__] += 1

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await up_to_the_verdict(stage, b"250 queued\r\n")
        with profiled(see):
            for command, reply in (
                (b"MAIL FROM:<a@b>", b"250 OK"),
                (b"RCPT TO:<b@c>", b"250 OK"),
                (b"DATA", b"354 go"),
            ):
                await stage.feed(stage.sender, command + b"\r\n")
                await stage.feed(stage.receiver, reply + b"\r\n")
            await up_to_the_verdict(stage, b"250 queued\r\n")

    assert staged(script, telling=False).record.accepted == 2
    assert 0 < made.total() <= MOST_OBJECTS, made


def test_an_early_refusal_crosses_few_classes() -> None:
    """From the octets that are read to those that are written; `SessionEvents` get it where a dialogue is wanted."""
    crossed: set[str] = set()

    def holds(value: object) -> bool:
        values = value if isinstance(value, list | tuple) else [value]
        return any(isinstance(each, Reply) and each.code == 552 for each in values)

    def see(frame: FrameType, event: str, returned: object) -> None:
        there = frame.f_locals
        one_of = type(there.get("self"))
        if (
            event == "return"
            and one_of.__module__.startswith("shimproxy.session.")
            and (holds(returned) or any(holds(value) for value in there.values()))
        ):
            crossed.add(one_of.__name__)

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, LINE)
        with profiled(see):
            await stage.feed(stage.receiver, b"552 too big\r\n")
            await stage.feed(stage.sender, LINE + b".\r\n")

    stage = staged(script, telling=False)
    assert bytes(stage.sender.written) == b"552 too big\r\n"
    assert stage.repaired == [Violation.EARLY_REPLY]
    assert {"Forwarder", "Sender"} <= crossed
    assert len(crossed) <= MOST_CLASSES, crossed
