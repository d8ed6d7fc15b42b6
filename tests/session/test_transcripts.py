"""Golden transcripts: dialogues written by hand (shimproxy/transcripts), each run whole and in pieces.

Whatever the segmentation, what both legs saw, and the repairs, must be the same.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest

from shimproxy.help.explain.transcript import NotAsWritten, Transcript, play, whole
from shimproxy.session import replies
from shimproxy.smtp.reply import LocalReply
from tests.memory import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.help.explain import stage

REFUSALS = [
    reply
    for own in vars(replies).values()
    if isinstance(own, LocalReply) and own is not replies.SHUTTING_DOWN
    for reply in (own.plain, own.enhanced)
    if reply.refuses
]
TRANSCRIPTS = Transcript.all()


def outcome(
    transcript: Transcript, pieces: Callable[[bytes], list[bytes]], *, never_short: bool = False
) -> tuple[object, ...]:
    """What both legs saw of a transcript."""

    def seen(stage: stage.Stage) -> tuple[object, ...]:
        assert isinstance(stage, Stage)
        if any(own.octets in stage.sender.written for own in REFUSALS):
            assert stage.repaired, "what shimproxy refuses of its own accord is told (guarantee 11)"
        return stage.outcome()

    return play(transcript, seen, pieces=pieces, make=Stage, never_short=never_short)


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


every_transcript = pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)


@every_transcript
def test_what_both_legs_see_is_as_written_at_every_segmentation(transcript: Transcript) -> None:
    expected = outcome(transcript, whole)
    if transcript.in_one_piece:
        return
    longest = max(len(octets) for octets in transcript.fed)
    assert expected == outcome(transcript, single), "octet by octet"
    for position in range(1, min(longest, 80)):
        assert expected == outcome(transcript, cut_at(position)), f"each step cut at {position}"
    for seed in range(10):
        assert expected == outcome(transcript, at_random(seed)), f"seed {seed}"


@every_transcript
def test_the_same_where_no_read_is_ever_said_to_be_short(transcript: Transcript) -> None:
    """As with TLS: a leg counts as readable until a read finds nothing."""
    expected = outcome(transcript, whole)
    assert expected == outcome(transcript, whole, never_short=True), "whole"
    if not transcript.in_one_piece:
        assert expected == outcome(transcript, single, never_short=True), "octet by octet"


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 20


ONE_QUIT = """
R> 220 hello
S< 220 hello
S> QUIT
R< QUIT
R> 221 bye
S< 221 bye
S> [FIN]
S< [FIN]
R> [FIN]
R< [FIN]
repairs:
ended: sender/QUIT
"""


@pytest.mark.parametrize(
    ("line", "other", "said"),
    [
        pytest.param("S< 220 hello", "S< 220 hallo", "line 3: S< 220 hallo: expected b'220 hallo", id="reply"),
        pytest.param("S< 220 hello", "S< [nothing]", "line 3: S< [nothing]: expected b'', found b'220 ", id="nothing"),
        pytest.param("S< [FIN]", "S< [RST]", "line 9: S< [RST]: expected True, found False", id="end"),
        pytest.param("R< QUIT\n", "", "R got more than is written: b'QUIT", id="left over"),
        pytest.param("repairs:", "repairs: outrun", "expected ['outrun'], found []", id="repairs"),
        pytest.param("ended: sender/QUIT", "ended: shim/QUIT", "found 'sender/QUIT'", id="ended"),
        pytest.param("R< [FIN]", "redialled", "line 11: redialled: there was one connection only", id="redialled"),
    ],
)
def test_what_goes_otherwise_is_told_with_its_line(line: str, other: str, said: str) -> None:
    play(Transcript("it", tuple(ONE_QUIT.splitlines())), lambda _: None)
    changed = ONE_QUIT.replace(line, other, 1)

    with pytest.raises(NotAsWritten, match=re.escape(said)):
        play(Transcript("other", tuple(changed.splitlines())), lambda _: None)
