"""What `python -m tests.coverage` makes of what was measured."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.coverage import TESTS, Place, account, argued, places

pytestmark = pytest.mark.once

CODE = textwrap.dedent("""\
    def f(x):
        if x:
            return 1

            # why
            return 2
        for y in x:
            print(y)
        try:
            print(x)
        except ValueError:
            print(3)
    """)
BRANCH, RUN = Place("smtp/a.py", "f", "if x: -> return 1"), Place("smtp/a.py", "f", "except ValueError:")
END = Place("smtp/a.py", "f", "for y in x: -> the end")
FUNCTION = {
    "start_line": 1,
    "executed_lines": [1, 2, 7, 8, 9, 10],
    "missing_lines": [3, 6, 11, 12],
    "missing_branches": [[2, 3], [7, -1]],
}


def summary(covered: int, of: int) -> dict[str, int]:
    return {"covered_lines": covered, "num_statements": of, "covered_branches": covered, "num_branches": of}


def report(root: Path, code: str = CODE, covered: int = 100, **changes: Any) -> dict[str, Any]:
    """coverage.py's JSON about one file of each room."""
    files = {}
    for room, text in (("smtp", code), ("session", "")):
        path = root / "shimproxy" / room / "a.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        functions = {"f": FUNCTION | changes} if text else {}
        files[str(path)] = {"summary": summary(covered, 100), "functions": functions}
    return {"files": files}


def test_a_place_is_a_way_that_is_not_taken_or_the_first_line_that_none_leads_to() -> None:
    assert sorted(places("smtp/a.py", CODE.splitlines(), {"f": FUNCTION})) == sorted([BRANCH, RUN, END])


def test_a_place_is_the_same_wherever_its_lines_move(tmp_path: Path) -> None:
    moved: dict[str, Any] = {
        key: [[left + 2, to + 2 if to > 0 else to - 2] for left, to in lines]
        if key == "missing_branches"
        else [line + 2 for line in lines]
        for key, lines in FUNCTION.items()
        if isinstance(lines, list)
    }
    reasons = dict.fromkeys((BRANCH, RUN, END), "because")

    assert not account(report(tmp_path, "import os\n\n" + CODE, start_line=3, **moved), tmp_path, reasons)[1]


def test_what_none_reaches_needs_a_reason_and_each_reason_a_place(tmp_path: Path) -> None:
    gone = Place("smtp/a.py", "g", "return 1")

    printed, wrong = account(report(tmp_path), tmp_path, {BRANCH: "it cannot be", END: "nor can that", gone: "why"})

    assert f"not reached: {BRANCH}\n    it cannot be" in printed
    assert [line.partition(";")[0] for line in wrong] == [
        f"{RUN}: no test reaches it",
        f"{gone}: a test reaches it, or it is not there",
    ]


def test_one_reason_is_not_for_two_places(tmp_path: Path) -> None:
    twice = report(tmp_path, CODE.replace("print(3)", "x"), missing_branches=[[2, 3], [2, 3]], missing_lines=[3, 6])

    assert account(twice, tmp_path, {BRANCH: "because"})[1] == [
        f"{BRANCH}: 2 places of the function read so, and one reason cannot be for all of them"
    ]


def test_each_room_has_its_floor(tmp_path: Path) -> None:
    reasons = dict.fromkeys((BRANCH, RUN, END), "because")

    assert account(report(tmp_path, covered=98), tmp_path, reasons)[1] == [
        "smtp/: 98.00 % of the lines are reached, and not 100 %",
        "smtp/: 98.00 % of the branches are reached, and not 100 %",
    ]
    assert len(account(report(tmp_path, covered=97), tmp_path, reasons)[1]) == 4


@pytest.mark.parametrize("test", TESTS)
def test_what_is_run_is_there(test: str) -> None:
    """So that a test which is renamed is missed at once."""
    file, _, name = test.partition("::")

    assert f"def {name}(" in (Path(__file__).parents[1] / file).read_text() or not name


def test_every_reason_says_something() -> None:
    assert all(len(reason.split()) > 5 for reason in argued().values())
