"""The explorer's dialogues, a part of them; `python -m tests.explore` holds as many as there is time for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.explore import stepper, transcript
from tests.explore.__main__ import Findings, main
from tests.explore.oracle import Oracle
from tests.explore.sweep import CASES, Dialogue, PlannedFaults, Sweep
from tests.explore.world import MODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.explore.cases import Case


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with stepper.installed():
        yield


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_without_a_fault_keeps_every_guarantee_in_every_segmentation(case: Case) -> None:
    for mode in MODES:
        dialogue = Dialogue(case, mode)
        assert not dialogue.wrong(tracing=True), str(dialogue)


@pytest.mark.parametrize(
    "dialogue",
    [
        "fail-over-at-mail narrow",  # the second receiver was given what its socket took at once, and no more
        "starttls-to-receiver narrow says-half-a-5yz-closes@R0.out.76",  # written before a reset, not counted
        "commands prompt says-421-closes@R0.in.43",  # a 221 in the place of the receiver's 421 was not told
        # A chunk after a refused one was given to a fresh receiver.
        "chunks prompt says-end-and-command@S.in.148 reset@R0.in.45",
        # A mail of one chunk, whose receiver had gone before it, was not counted.
        "transcript:chunks-command-not-taken greedy says-5yz-closes@R0.in.25",
        # The oracle said so: a refusal came while the 451 for the first of three recipients was being written.
        "transcript:lmtp-one-refusal-for-all narrow pause-after-deadline@R0.out.107",
        "one-mail calm reset@S.out.25 says-421@R0.in.11",  # an error of the oracle: there was nothing to tell
        # The session waited for a leg that had been given up in the flush before, and ended by an error.
        "chunks calm says-rset@S.in.128 says-5yz-stalls@R0.in.73",
        # A sender that takes only a part of the receiver's 421 until the deadline was not told of.
        "one-mail narrow pause-after-deadline@S.in.77 says-421-closes@R0.in.31",
        # A receiver that does not take the QUIT of shimproxy's own was reset, and not told of.
        "one-mail narrow pause-after-deadline@R0.out.123 says-5yz-in-lines@R0.in.83",
        # An error of the oracle: a receiver that takes back its refusal of DATA has the next command in the mail.
        "one-mail calm says-data@S.in.92 says-code-alone@R0.in.42",
        # An error of the oracle: what comes behind a 421 is nobody's, also where the sender resets as it takes that.
        "chunks narrow says-421@R0.in.27 reset@S.in.93",
        # The same, where the receiver has not taken the whole command.
        "chunks narrow says-421-closes@R0.in.11 reset@S.in.75",
        # An error of the oracle: after a 421 as the verdict, the first of two QUITs has shimproxy's own 221.
        "one-mail never-short says-quit@S.in.117 says-421-closes@R0.in.76",
        # An error of the oracle: the sender resets while the greeting is not whole, and there is nothing to repair.
        "one-mail narrow reset@S.in.0 silence@R0.out.23",
        # An error of the oracle: a 550 that a fault writes into the text of a challenge is a part of that.
        "transcript:login-cram-md5 greedy says-code-alone@R0.out.113",
    ],
)
def test_what_was_broken_once_is_so_no_more(dialogue: str) -> None:
    assert not Dialogue.parse(dialogue).wrong(tracing=True)


@pytest.mark.parametrize("seed", range(4))
def test_no_fault_breaks_a_guarantee(seed: int) -> None:
    sweep = Sweep(CASES[seed::4], seed=seed)
    found = Findings()
    found.explore(itertools.islice(sweep.dialogues(), 500), float("inf"), most_broken=1000)
    assert {kind: str(dialogue) for kind, (_, dialogue, _) in found.broken.items()} == {}
    assert found.dialogues == 500


def test_a_dialogue_is_the_same_each_time_and_can_be_named() -> None:
    for dialogue in itertools.islice(Sweep(seed=7).dialogues(), 40):
        again = Dialogue.parse(str(dialogue))
        assert again == dialogue
        first, second = dialogue.held(), again.held()
        assert [(each.what, each.who, each.octets) for each in first.log] == [
            (each.what, each.who, each.octets) for each in second.log
        ]


def test_each_dialogue_with_one_fault_comes_once() -> None:
    case = next(case for case in CASES if case.name == "commands")
    sweep = Sweep((case,))
    singles = [str(each) for each in itertools.islice(sweep.dialogues(), 2 * sweep.singles) if len(each.faults) == 1]
    assert len(singles) == len(set(singles)) == sweep.singles == len(PlannedFaults.of(case)) * len(MODES)


def test_a_dialogue_is_printed_as_a_transcript(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--replay", "one-mail calm says-5yz-closes@R0.in.60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "R> 552 5.3.4 too big #05" in lines
    assert "S< 552 5.3.4 too big #05" in lines
    assert lines[-2].startswith("repairs:")


def test_what_is_broken_is_found_and_shrunk() -> None:
    """A dialogue whose log is changed afterwards, as if a reply had been invented."""
    dialogue = Dialogue.parse("one-mail calm close@R0.in.60")
    world = dialogue.held()
    written = next(event for event in reversed(world.log) if event.what == "SHIM_WROTE" and event.who == "S")
    written.octets = b"250 2.0.0 invented\r\n"
    wrong = Oracle(world).check()
    assert any(each.startswith("guarantee 3") for each in wrong)
    assert "# guarantee 3" in transcript.written(dialogue, world, wrong)
