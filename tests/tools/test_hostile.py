"""The run with hostile peers: its books, its table, and that each attack is made and costs no mail."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from bench import hostile
from bench.figures import percentile
from bench.hostile_attacks import ATTACKS, Deed, doing
from bench.hostile_mails import Attempt, Books, Fate, Mail, mails_in, taken_in
from bench.hostile_peers import RECEIVERS, SENDERS
from bench.hostile_table import BOUND, PHASES, Phase, Row, check_lines, lost_lines, middle, table
from bench.programs import BenchError, Running, whole_lines
from bench.soak_log import read_log
from tests.pages import DOCS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# -- figures


def test_four_mails_of_400_are_above_the_99th_percentile() -> None:
    values = [float(number) for number in range(400, 0, -1)]

    assert sum(value > percentile(values, 99) for value in values) == 3
    assert percentile(values, 50) == 201
    assert percentile([7.0], 99) == 7.0


# -- the books

OCTETS = 1000


def mail(*attempts: tuple[str, Fate]) -> Mail:
    return Mail(1.0, 0.5, [Attempt(name, fate, "words") for name, fate in attempts])


def books(mails: Sequence[Mail], *taken: str, octets: int = OCTETS) -> Books:
    return Books(mails, Counter((name, octets) for name in taken), OCTETS)


DELIVERED = mail(("a.1", Fate.DELIVERED))
SENT_AGAIN = mail(("a.1", Fate.CUT), ("a.2", Fate.DELIVERED))


@pytest.mark.parametrize(
    ("of", "lost"),
    [
        (books([DELIVERED], "a.1"), []),
        (books([SENT_AGAIN], "a.2"), []),
        (books([SENT_AGAIN], "a.1", "a.2"), []),
        (books([DELIVERED]), ["a.1 is believed delivered and not in the receiver"]),
        (books([DELIVERED], "a.1", "a.1"), ["a.1 is in the receiver 2 times"]),
        (books([DELIVERED], "a.1", octets=999), ["a.1 was changed: 999 octets instead of 1000"]),
        (books([SENT_AGAIN], "a.1"), ["a.2 is believed delivered and not in the receiver"]),
        (books([SENT_AGAIN], "a.1", "a.1", "a.2"), ["a.1 is in the receiver 2 times"]),
        (books([mail(("a.1", Fate.REFUSED))]), ["a.1 was refused: words"]),
        (
            books([mail(("a.1", Fate.REFUSED))], "a.1"),
            ["a.1 was refused: words", "a.1 was refused and is in the receiver"],
        ),
        (books([mail(("a.1", Fate.CUT))]), ["a.1 was cut: words"]),
        (books([], "b.1"), ["b.1 is in the receiver and from no sender"]),
    ],
)
def test_each_mail_that_is_lost_has_a_line(of: Books, lost: list[str]) -> None:
    assert of.lost() == lost


def test_connections_that_were_cut_are_counted() -> None:
    assert books([SENT_AGAIN, DELIVERED]).broken == 1


def test_a_line_that_is_not_whole_yet_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "mails"
    assert mails_in(file) == []
    line = json.dumps(attrs.asdict(SENT_AGAIN))
    file.write_text(f"{line}\n{line[:20]}")
    (tmp_path / "taken").write_text('["a.1", 1000]\n["a.1", 1000]\n["a.2"')

    assert mails_in(file) == [SENT_AGAIN]
    assert taken_in(tmp_path / "taken") == {("a.1", 1000): 2}


# -- the table


def row(name: str = "silent", before: float = 2.0, during: float = 6.0, **more: Any) -> Row:
    phases = [Phase([milliseconds, 1.0], 36.4, 0.25) for milliseconds in (before, during, before)]
    found: dict[str, Any] = {"acts": 1, "mails": 6, "broken": 0, "lost": [], "troubles": []} | more
    return Row(name, phases, **found)


def test_a_row_holds_up_to_the_bound() -> None:
    assert row(during=2.0 * BOUND).holds
    assert not row(during=2.0 * BOUND + 0.1).holds
    assert not row(lost=["a.1 was refused: words"]).holds
    assert not row(troubles=["KeyError"]).holds


def test_of_several_rounds_the_middle_one_is_shown_and_all_mails_count() -> None:
    rounds = [row(during=during, broken=1, lost=[f"{during}"]) for during in (90.0, 2.0, 4.0)]
    found = middle(rounds)

    assert (found.ratio, found.acts, found.mails, found.broken) == (2.0, 3, 18, 3)
    assert found.lost == ["90.0", "2.0", "4.0"]


def test_the_table_says_each_phase_and_what_holds() -> None:
    groups, heading, *lines = table([row(), row("slow-readers", during=900.0, broken=3, lost=["x"])])
    before, during, _ = PHASES

    assert groups.split("  ")[-1].strip() == "mails"
    assert heading.split() == ["attack", *PHASES * 2, before, during, during, "ratio", "held", "cut", "lost"]
    assert [line.split() for line in lines] == [
        ["silent", "2.0", "6.0", "2.0", "2.0", "6.0", "2.0", "36", "36", "0.2", "3.0", "yes", "0", "0"],
        ["slow-readers", "2.0", "900", "2.0", "2.0", "900", "2.0", "36", "36", "0.2", "450", "NO", "3", "1"],
    ]


@pytest.mark.parametrize("columns", [80, 109])
@pytest.mark.parametrize("during", [2.0, 12_345.6])
def test_the_table_fits(during: float, columns: int) -> None:
    rows = [row(attack.name, during=during, broken=100, lost=["x"] * 10) for attack in ATTACKS]
    lines = table(rows, columns)

    assert max(map(len, lines)) <= columns
    assert ("p50 ms" in lines[0]) is (columns == 109)


def test_the_first_lost_mails_are_named_and_the_others_counted() -> None:
    lost = [f"a.{number} was refused: words" for number in range(5)]

    assert [*lost_lines([row(lost=lost, troubles=["KeyError"])])] == [
        *(f"silent: {each}" for each in lost[:3]),
        "silent: and 2 others",
        "silent: KeyError",
    ]


def test_the_check_has_a_line_for_each_row() -> None:
    assert check_lines([row(), row("tls-noise", during=20.0)]) == [
        "   holds  silent: 3.0 x",
        "   FAILS  tls-noise: 10.0 x",
    ]


def test_each_key_of_the_json_is_in_the_documentation() -> None:
    found = row().as_json()
    page = (DOCS / "benchmark.md").read_text(encoding="utf-8")

    assert json.loads(json.dumps(found)) == found
    assert {key for key in {*found, *found["before"]} if f"`{key}`" not in page} == set()


def test_of_a_file_that_grows_whole_lines_are_read(tmp_path: Path) -> None:
    """In the midst of a write of many lines, whose last one is there in part."""
    file = tmp_path / "log"
    assert whole_lines(file) == []
    said = b'{"event": "mail"}\n{"event": "reloaded"}\n'

    for length in range(len(said) + 1):
        file.write_bytes(said[:length])
        assert whole_lines(file) == said[:length].decode().split("\n")[: said.count(b"\n", 0, length)]
        assert read_log(whole_lines(file)).reasons == []


# -- the attacks


def test_every_hostile_peer_is_in_an_attack_and_each_attack_does_something() -> None:
    assert {attack.senders for attack in ATTACKS} - {""} == set(SENDERS)
    assert {attack.receiver for attack in ATTACKS} == set(RECEIVERS)
    assert all(attack.senders or attack.deed for attack in ATTACKS)
    assert all(0 < attack.peers(quick=True) < attack.count for attack in ATTACKS if attack.senders)


def test_a_deed_is_done_and_undone_and_its_failure_is_named(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        running = Running("shimproxy", process, 1, tmp_path / "log")
        said: list[object] = []
        with doing(Deed(lambda _, times: said.append(times), 60.0, lambda _, times: said.append("undone")), running):
            pass

        def fails(running: Running, times: int) -> None:
            raise PermissionError("not you")

        with pytest.raises(BenchError, match="not you"), doing(Deed(fails, 60.0), running):
            pass

    assert said == [0, "undone"]


# -- a run


@pytest.mark.parametrize(
    "arguments",
    [["--seconds", "0"], ["--seconds", "301"], ["--seconds", "x"], ["--mails", "0"], ["--only", "nothing"]],
)
def test_a_wrong_argument_is_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        hostile.main(arguments)

    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_said_before_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert hostile.main(["--json", "/nowhere/hostile.json"]) == 2
    assert capsys.readouterr().err == "hostile: /nowhere/hostile.json can't be written: No such file or directory\n"


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("name", [attack.name for attack in ATTACKS])
def test_no_attack_costs_a_mail(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few peers and mails; how long these take is no matter here."""
    monkeypatch.setattr(hostile, "WARM_UP_MAILS", 5)
    file = tmp_path / "figures.json"
    try:
        status = hostile.main(["--quick", "--mails", "8", "--only", name, "--json", str(file)])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    found = json.loads(file.read_text())["attacks"][name]

    assert status == 0
    assert found["acts"] > 0
    assert found["lost"] == found["troubles"] == []
    assert all(found[phase]["mails"] >= 8 for phase in PHASES)
    if name != "killed-workers":
        assert found["broken"] == 0
