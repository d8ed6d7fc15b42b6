"""How much of smtp/ and session/ the tests reach, by lines and branches: `python -m tests.coverage`.

It runs those tests that reach all that tests reach, and prints the figures of each file, and every place that none
reaches, with the reason for that in coverage.toml. It fails if a test does, if a figure is below its floor, if there is
no reason for a place, or if there is one for a place that a test reaches.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_ROOT: Final = Path(__file__).resolve().parents[1]
_ARGUED: Final = Path(__file__).with_suffix(".toml")
FLOORS: Final = {"smtp": 100.0, "session": 98.0}
"""The least part of its lines and branches that is reached, in per cent, by room."""
TESTS: Final = (
    "session/test_advice.py",
    "session/test_backpressure_and_time.py",
    "session/test_chunks.py",
    "session/test_coming_back.py",
    "smtp/test_command.py",
    "smtp/test_ehlo.py",
    "tools/test_explore.py::test_a_case_without_a_fault_keeps_every_guarantee_in_every_segmentation",
    "tools/test_explore.py::test_what_was_broken_once_is_so_no_more",
    "session/test_floods.py",
    "session/test_hide.py",
    "session/test_observed.py",
    "session/test_rewrite.py",
    "smtp/test_rewrite.py",
    "smtp/test_foreign.py",
    "session/test_hello.py",
    "session/test_limits.py",
    "session/test_line.py",
    "session/test_login.py",
    "smtp/test_login.py",
    "session/test_mail_account.py",
    "session/test_counted_replies.py",
    "smtp/test_mail_data.py::test_every_short_stream_ends_where_the_rfc_says_in_small_portions",
    "smtp/test_newlines.py",
    "session/test_session_events.py",
    "session/test_origin.py",
    "session/test_pipelining.py",
    "session/test_plain_turns.py",
    "session/test_proxy.py",
    "net/test_receivers.py",
    "session/test_replacement.py",
    "session/test_reply_times.py",
    "smtp/test_reply.py::test_a_cut_off_endless_reply_is_canonical",
    "smtp/test_reply.py::test_a_reply_over_its_limit_that_ends_is_followed_by_the_next",
    "smtp/test_reply.py::test_any_other_reply_without_end_accepts_nothing",
    "session/test_resume.py",
    "session/test_said_aloud.py",
    "session/test_send_proxy.py",
    "service/test_receiver_line.py",
    "service/test_serve.py",
    "observe/test_journal.py",
    "config/test_settings.py",
    "config/test_sources.py",
    "smtp/test_shown.py",
    "session/test_size.py",
    "smtp/test_stray.py",
    "smtp/test_tidy.py",
    "session/test_tls.py",
    "session/test_trace.py",
    "session/test_transcripts.py::test_the_same_where_no_read_is_ever_said_to_be_short",
    "net/test_turnstile.py",
    "session/test_unix_receivers.py",
    "session/test_unread_354.py",
    "session/test_xclient.py",
    "tools/test_adding.py::test_fields_with_labels_of_their_own_are_counted",
)
"""What reaches all places in about a minute of one core: other modules, and more of these, reach nothing else."""
_OF_PEERS: Final = ("SHIMPROXY_REQUIRE_PEERS", "SHIMPROXY_EXIM", "SHIMPROXY_OPENSMTPD")
_EXCLUDED: Final = (
    "if TYPE_CHECKING:",
    # What these state is that no test can reach them.
    r"case [\w.]+:\n\s+(raise AssertionError|assert_never)\(",
)


@attrs.frozen(order=True)
class Place:
    """What no test reaches: lines one after the other, or a way out of one."""

    file: str
    """Below shimproxy/."""
    function: str
    """Its qualified name; "" outside of all."""
    text: str
    """The line that is left, an arrow, and the one that is not come to; or the first of lines to which none leads."""

    def __str__(self) -> str:
        return f"{self.file}, {self.function or 'outside of functions'}: {self.text}"


def places(file: str, lines: Sequence[str], functions: Mapping[str, Mapping[str, Any]]) -> Iterator[Place]:
    """The places of one file, of its lines and what coverage.py's JSON says of its functions."""
    text = {number: line.strip() for number, line in enumerate(lines, 1)}
    for function, found in functions.items():
        missing = set(found["missing_lines"])
        ways = [(left, come_to) for left, come_to in found["missing_branches"] if left not in missing]
        for left, come_to in ways:
            yield Place(file, function, f"{text[left]} -> {text[come_to] if come_to > 0 else 'the end'}")
        known = {come_to for _, come_to in ways}
        reached = {found["start_line"], *found["executed_lines"]}
        for number in missing - known:
            before = number - 1
            while before not in missing and before not in reached:
                before -= 1  # blank, or a line that continues another
            if before not in missing:
                yield Place(file, function, text[number])


def argued(path: Path = _ARGUED) -> dict[Place, str]:
    """Why no test reaches a place, by place."""
    table = tomllib.loads(path.read_text())
    return {Place(each["file"], each["function"], each["text"]): each["because"] for each in table.get("place", [])}


def account(report: Mapping[str, Any], root: Path, reasons: Mapping[Place, str]) -> tuple[list[str], list[str]]:
    """The lines to print of coverage.py's JSON about files under `root`, and what is wrong, a line each."""
    printed, wrong = [], []
    missed: Counter[Place] = Counter()
    totals = {room: Counter[str]() for room in FLOORS}
    for name, found in sorted(report["files"].items()):
        file = str((root / name).resolve().relative_to(root / "shimproxy"))
        totals[file.split("/")[0]].update(found["summary"])
        if found["summary"]["num_statements"]:
            printed.append(_figures(file, found["summary"]))
        missed.update(places(file, (root / name).read_text().splitlines(), found["functions"]))
    for room, total in totals.items():
        printed.append(_figures(f"{room}/", total))
        for what in _COUNTED:
            if (reached := _percent(total, what)) < FLOORS[room]:
                wrong.append(f"{room}/: {reached:.2f} % of the {what} are reached, and not {FLOORS[room]:g} %")
    for place, times in sorted(missed.items()):
        printed.append(f"not reached: {place}\n    {reasons.get(place, 'no reason is given')}")
        if place not in reasons:
            wrong.append(f"{place}: no test reaches it; write one, or give a reason in {_ARGUED.name}")
        elif times > 1:
            wrong.append(f"{place}: {times} places of the function read so, and one reason cannot be for all of them")
    gone = sorted(reasons.keys() - missed.keys())
    wrong += [f"{place}: a test reaches it, or it is not there; remove it from {_ARGUED.name}" for place in gone]
    return printed, wrong


_COUNTED: Final = {"lines": ("covered_lines", "num_statements"), "branches": ("covered_branches", "num_branches")}


def _percent(summary: Mapping[str, int], what: str) -> float:
    covered, of = (summary[key] for key in _COUNTED[what])
    return 100 * covered / of if of else 100.0


def _figures(file: str, summary: Mapping[str, int]) -> str:
    shown = [
        f"{summary[covered]:5} of {summary[of]:4} {what} {_percent(summary, what):6.2f} %"
        for what, (covered, of) in _COUNTED.items()
    ]
    return "".join((f"{file:26}", *shown))


def main(arguments: list[str] | None = None) -> int:
    """Run the tests, and print the account; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.coverage", description=__doc__)
    parser.parse_args(arguments)
    measured = coverage.Coverage(
        data_file=None, config_file=False, branch=True, source=[f"shimproxy.{room}" for room in FLOORS]
    )
    for excluded in _EXCLUDED:
        measured.exclude(excluded)
    for name in _OF_PEERS:
        os.environ.pop(name, None)  # tests of programs reach nothing else
    with measured.collect():
        tests = [str(_ROOT / "tests" / name) for name in TESTS]
        failed = pytest.main(["-q", "-p", "no:cacheprovider", "-m", "not slow", *tests])
        for path in sorted(path for room in FLOORS for path in (_ROOT / "shimproxy" / room).glob("*.py")):
            importlib.import_module(f"shimproxy.{path.parent.name}.{path.stem}")  # some are there for types alone
    if failed not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(failed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(path))
        printed, wrong = account(json.loads(path.read_text()), _ROOT, argued())
    print(*printed, *wrong, sep="\n")
    print(f"{'some tests fail' if failed else 'no test fails'}; {len(wrong)} places or figures are wrong")
    return bool(wrong or failed)


if __name__ == "__main__":
    sys.exit(main())
