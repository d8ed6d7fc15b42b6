"""Golden transcripts: dialogues written by hand, each run whole and in pieces.

A line of `tests/transcripts/*.txt` begins with who and which way:

    S> text     the sender sends the line, and CRLF; \\r \\n \\0 \\xNN are escapes; a final \\ means: no CRLF
    S< text     the sender has got exactly this line next
    R> text     the receiver sends; R< text: it has got
    S> [FIN]    also [RST]; S< [FIN], S< [RST]: what the shim did; S< [nothing]: nothing more has come
    S> [x * N]  N times "x" and CRLF; R< [x * N] likewise
    redialled   the shim has opened another connection to the receiver: R is that one from here on
    wait N      N seconds pass
    repairs: a, b    the repairs so far, by name, in any order
    ended: who/phase the session is over and its record says so
    #           a comment
    # with NAME that switch of the policy is on; # without NAME: it is off

Whatever the segmentation, what both legs saw, and the repairs, must be the same.
"""

from __future__ import annotations

import pathlib
import random
import re
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from shimproxy.session import replies
from shimproxy.session.policy import Policy
from shimproxy.smtp.reply import Own
from tests.memory import MemorySocket, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSALS = [
    reply
    for own in vars(replies).values()
    if isinstance(own, Own) and own is not replies.SHUTTING_DOWN
    for reply in (own.plain, own.enhanced)
    if reply.refuses
]
TRANSCRIPTS = sorted((pathlib.Path(__file__).parent / "transcripts").glob("*.txt"))


def octets_of(text: str) -> bytes:
    if repeated := re.fullmatch(r"\[(.+) \* (\d+)\]", text):
        return octets_of(repeated[1]) * int(repeated[2])
    open_ended = text.endswith("\\") and not text.endswith("\\\\")
    raw = text.removesuffix("\\") if open_ended else text
    return raw.encode().decode("unicode_escape").encode("latin-1") + (b"" if open_ended else b"\r\n")


async def perform(lines: list[str], stage: Stage, pieces: Callable[[bytes], list[bytes]]) -> tuple[object, ...]:
    """Play a transcript; what both legs saw."""
    seen = {"S": 0, "R": 0}
    await stage.start()
    for number, line in enumerate(lines, 1):
        where = f"line {number}: {line}"
        if not line.strip() or line.startswith("#"):
            continue
        if line == "redialled":
            (*_, before) = stage.earlier_receivers
            assert bytes(before.written[seen["R"] :]) == b"", where
            seen["R"] = 0
        elif line.startswith("wait "):
            await stage.pass_time(float(line[5:]))
        elif line.startswith("repairs:"):
            expected = sorted(name.strip() for name in line[8:].split(",") if name.strip())
            assert expected == sorted(str(each) for each in stage.repaired), where
        elif line.startswith("ended:"):
            assert stage.over, where
            record = stage.notes.records[0]
            assert line[6:].strip() == f"{record.ended_by}/{record.ended_in}", where
        else:
            sock, text = (stage.sender if line[0] == "S" else stage.receiver), line[3:]
            if line[1] == ">":
                await _send(stage, sock, text, pieces)
            else:
                _check(sock, text, seen, line[0], where)
    for who, sock in ("S", stage.sender), ("R", stage.receiver):
        assert bytes(sock.written[seen[who] :]) == b"", f"{who} got more than the transcript says"
    if any(own.octets in stage.sender.written for own in REFUSALS):
        assert stage.repaired, "what shimproxy refuses of its own accord is told (guarantee 11)"
    return stage.outcome()


async def _send(stage: Stage, sock: MemorySocket, text: str, pieces: Callable[[bytes], list[bytes]]) -> None:
    if text == "[FIN]":
        sock.feed_fin()
        await stage.settle()
    elif text == "[RST]":
        sock.feed_rst()
        await stage.settle()
    elif text == "[takes nothing]":
        sock.room_octets = 0
    else:
        for piece in pieces(octets_of(text)):
            await stage.feed(sock, piece)


def _check(sock: MemorySocket, text: str, seen: dict[str, int], who: str, where: str) -> None:
    if text == "[FIN]":
        assert sock.got_fin, where
    elif text == "[RST]":
        assert sock.got_rst, where
    elif text == "[open]":
        ended = sock.got_fin or sock.got_rst or sock.closed
        assert not ended, where
    else:
        expected = b"" if text == "[nothing]" else octets_of(text)
        end = seen[who] + len(expected) if expected else None
        assert expected == bytes(sock.written[seen[who] : end]), where
        seen[who] += len(expected)


def whole(octets: bytes) -> list[bytes]:
    return [octets]


def single(octets: bytes) -> list[bytes]:
    return [octets[i : i + 1] for i in range(len(octets))]


def cut_at(position: int) -> Callable[[bytes], list[bytes]]:
    return lambda octets: [octets[:position], octets[position:]] if position < len(octets) else [octets]


def at_random(seed: int) -> Callable[[bytes], list[bytes]]:
    source = random.Random(seed)

    def pieces(octets: bytes) -> list[bytes]:
        cuts = sorted(source.sample(range(1, len(octets)), min(3, len(octets) - 1))) if len(octets) > 1 else []
        return [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]

    return pieces


def play(
    path: pathlib.Path, pieces: Callable[[bytes], list[bytes]], *, never_short: bool = False
) -> tuple[object, ...]:
    lines = path.read_text().splitlines()
    clock = trio.testing.MockClock()

    async def main() -> tuple[object, ...]:
        async with trio.open_nursery() as nursery:
            switches: dict[str, Any] = {line[7:]: True for line in lines if line.startswith("# with ")}
            switches |= {line[10:]: False for line in lines if line.startswith("# without ")}
            stage = Stage(
                nursery,
                clock,
                policy=Policy(**switches),
                reachable="# unreachable" not in lines,
                never_short=never_short,
            )
            outcome = await perform(lines, stage, pieces)
            nursery.cancel_scope.cancel()
        return outcome

    return trio.run(main, clock=clock)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_what_both_legs_see_is_as_written_at_every_segmentation(path: pathlib.Path) -> None:
    expected = play(path, whole)
    longest = max(len(octets_of(line[3:])) for line in path.read_text().splitlines() if line[1:3] == "> ")
    assert expected == play(path, single), "octet by octet"
    for position in range(1, min(longest, 80)):
        assert expected == play(path, cut_at(position)), f"each step cut at {position}"
    for seed in range(10):
        assert expected == play(path, at_random(seed)), f"seed {seed}"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_same_where_no_read_is_ever_said_to_be_short(path: pathlib.Path) -> None:
    """As with TLS: a leg counts as readable until a read finds nothing."""
    expected = play(path, whole)
    assert expected == play(path, whole, never_short=True), "whole"
    assert expected == play(path, single, never_short=True), "octet by octet"


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 20
