"""The benchmark: its table, its picture, how long it says it will take, and that each measure gives its figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from bench import picture, report
from bench.figures import FIGURES, number, spread
from bench.measures import BEFORE, DIRECT, HAPROXY, MEASURES, PASSING, SHIMPROXY, Setup, Sizes
from bench.programs import find, make_certificate
from bench.progress import Progress, Reckoning, Step, duration
from bench.rounds import run_measure, step
from shimproxy.program.terminal import Screen
from shimproxy.records.svg import CHARACTER_PER_FONT, FONT, WIDTH
from tests.pages import DOCS
from tests.peers.processes import need

if TYPE_CHECKING:
    from pathlib import Path

    from bench.figures import Samples

USUAL = (DIRECT, SHIMPROXY, PASSING, HAPROXY)
EVERY = (DIRECT, SHIMPROXY, PASSING, BEFORE, HAPROXY)


def setup(folder: Path, paths: tuple[str, ...] = USUAL, rounds: int = 3) -> Setup:
    return Setup(folder=folder, rounds=rounds, sizes=Sizes(), paths=paths)


def samples(paths: tuple[str, ...] = USUAL, *values: float) -> Samples:
    return {name: {path: list(values or (90.0, 100.0, 120.0)) for path in paths} for name in FIGURES}


# -- the table


@pytest.mark.parametrize("value", [0.001234, 9.87654, 99.94, 12345.6, 654321.0])
@pytest.mark.parametrize("paths", [USUAL, EVERY], ids=["usual", "every"])
def test_the_table_is_narrower_than_110_columns(tmp_path: Path, paths: tuple[str, ...], value: float) -> None:
    lines = report.table(samples(paths, value / 3, value, value * 3), setup(tmp_path, paths))

    assert max(map(len, lines)) < 110


def test_the_usual_table_fits_into_80_columns(tmp_path: Path) -> None:
    lines = report.table(samples(), setup(tmp_path), columns=80)

    assert max(map(len, lines)) <= 80


def test_each_line_says_which_way_is_better_and_how_shimproxy_stands(tmp_path: Path) -> None:
    measured = samples()
    measured["sessions/s"] = {SHIMPROXY: [50.0, 60.0, 55.0], HAPROXY: [100.0, 120.0, 110.0]}
    heading, *lines = report.table(measured, setup(tmp_path))
    rows = {line[:24].strip(): line[24:].split() for line in lines if line}

    assert heading.split()[:2] == ["better", "direct"]
    assert {figure.short: figure.better.value for figure in FIGURES.values()} == {
        name: cells[0] for name, cells in rows.items()
    }
    assert rows["sessions/s"] == ["higher", "-", "55.0", "±9%", "-", "110", "±9%", "0.50", "x"]


def test_a_single_round_has_no_spread_and_its_legend_none(tmp_path: Path) -> None:
    one, three = (report.table(measured, setup(tmp_path)) for measured in (samples(USUAL, 5.0), samples()))

    assert "±" not in "".join([*one, report.legend(one)])
    assert "± says" in report.legend(three)


def test_a_path_that_no_measure_took_has_no_column(tmp_path: Path) -> None:
    heading, *_ = report.table(samples((SHIMPROXY, HAPROXY)), setup(tmp_path))

    assert heading.split() == ["better", "shimproxy", "haproxy", "vs", "haproxy"]


def test_spread_and_numbers() -> None:
    assert spread([90.0, 100.0, 130.0]) == pytest.approx(0.3)
    assert spread([0.0, 0.0]) == 0.0
    assert [number(value) for value in (0.12345, 12.345, 123.45)] == ["0.123", "12.3", "123"]


# -- how long it will take


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def reckoning(clock: Clock) -> Reckoning:
    return Reckoning([Step("one", "the first", 4, 10.0), Step("two", "the second", 2, 30.0)], clock)


def test_a_run_on_the_machine_that_is_known() -> None:
    clock = Clock()
    reckoned = reckoning(clock)
    seen = [(reckoned.share, reckoned.seconds_left)]
    for turns, seconds in ((4, 10.0), (2, 30.0)):
        reckoned.begin_step()
        for _ in range(turns):
            clock.seconds += seconds
            reckoned.end_turn()
            seen.append((reckoned.share, reckoned.seconds_left))

    left = [100.0, 90.0, 80.0, 70.0, 60.0, 30.0, 0.0]
    assert [seconds for _, seconds in seen] == pytest.approx(left)
    assert [share for share, _ in seen] == pytest.approx([1 - seconds / 100 for seconds in left])


def test_a_slower_machine_is_noticed_at_the_first_turn() -> None:
    clock = Clock()
    reckoned = reckoning(clock)
    reckoned.begin_step()
    clock.seconds += 20.0
    reckoned.end_turn()

    assert reckoned.position == "1 of 2"
    assert reckoned.seconds_left == pytest.approx(60.0 + 120.0)


def test_the_time_left_passes_within_a_turn_and_is_never_less_than_none() -> None:
    clock = Clock()
    reckoned = reckoning(clock)
    reckoned.begin_step()
    clock.seconds += 25.0
    assert reckoned.seconds_left == pytest.approx(75.0)
    clock.seconds += 1000.0

    assert reckoned.seconds_left == 0.0
    assert reckoned.share == 0.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "1 s"), (57.4, "57 s"), (59.6, "1 min 00 s"), (83.0, "1 min 25 s"), (597.6, "10 min"), (3600.0, "60 min")],
)
def test_a_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_file_gets_a_line_for_each_measure() -> None:
    writes: list[str] = []
    progress = Progress(reckoning(Clock()), Screen(writes.append))
    with progress.shown():
        progress.begin_step(2, ["direct", "shimproxy"])
        progress.begin_turn(1, 2, "direct")
        progress.end_turn()

    assert writes == ["bench: 1 of 2, 1 min 40 s left; one: the first (2 x direct, shimproxy)\n"]


def test_a_terminal_has_a_bar_that_fits() -> None:
    clock = Clock()
    progress = Progress(reckoning(clock), Screen(print, columns=60, live=True))
    progress.begin_step(2, ["direct", "shimproxy"])
    progress.begin_turn(2, 2, "shimproxy")
    for _ in range(2):
        clock.seconds += 10.0
        progress.end_turn()
    first, second = progress.bar()

    assert first == "[#####...................]  20%  1 of 2  1 min 20 s left"
    assert second == "one: the first; round 2 of 2, shimproxy"
    progress.screen.columns = 30
    assert max(map(len, progress.bar())) <= 30


# -- the picture


def drawn() -> ElementTree.Element:
    measured = samples()
    measured["sessions/s"] = {DIRECT: [200.0, 210.0, 190.0], SHIMPROXY: [100.0, 110.0, 90.0]}
    text = picture.drawn(measured, {"machine": "m" * 200, "Python": "3"}, USUAL, 3)
    assert text.isascii()
    return ElementTree.fromstring(text)


def test_the_picture_needs_and_runs_nothing_and_follows_the_readers_preference() -> None:
    elements = list(drawn().iter())
    style = next(element.text or "" for element in elements if element.tag.endswith("}style"))

    assert {element.tag.rpartition("}")[2] for element in elements} == {"svg", "title", "style", "rect", "text", "path"}
    assert not any("href" in name or name.startswith("on") for element in elements for name in element.attrib)
    assert "prefers-color-scheme: dark" in style
    assert not re.search("url|import|http", style)


def test_the_picture_says_all_figures_and_which_way_they_are_better() -> None:
    texts = [element.text for element in drawn().iter() if element.tag.endswith("}text")]

    for name, figure in FIGURES.items():
        assert f"{figure.better.value} is better" == texts[texts.index(name) + 1]
    assert texts[texts.index("sessions/s") + 2 :][:4] == ["direct", "200", "shimproxy", "100"]


def test_bars_begin_at_0() -> None:
    first, second, *_ = [
        float(element.attrib["width"]) for element in drawn().iter() if element.attrib.get("class") in ("bar", "own")
    ]

    assert first == pytest.approx(2 * second, rel=0.01)


def test_no_text_of_the_picture_leaves_it() -> None:
    for element in drawn().iter():
        if element.tag.endswith("}text"):
            size = float(element.attrib.get("font-size", FONT))
            width = len(element.text or "") * size * CHARACTER_PER_FONT
            x = float(element.attrib["x"])
            begin, end = (x - width, x) if element.attrib.get("text-anchor") == "end" else (x, x + width)
            assert begin >= 0, element.text
            assert end <= WIDTH, element.text


# -- JSON


def test_each_key_of_the_json_is_in_the_documentation(tmp_path: Path) -> None:
    found = report.as_json(samples(), {}, setup(tmp_path))
    page = (DOCS / "benchmark.md").read_text(encoding="utf-8")
    keys = {*found, *found["figures"]["sessions/s"][DIRECT], *found["targets"][0]}

    assert json.loads(json.dumps(found)) == found
    assert {key for key in keys if f"`{key}`" not in page} == set()
    assert found["better"]["sessions/s"] == "higher"


# -- the command


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--picture", "/nowhere/figures.svg"], "bench: /nowhere/figures.svg can't be written: No such file"),
        (["--json", "/nowhere/figures.json"], "bench: /nowhere/figures.json can't be written: No such file"),
        (["--before", "/nowhere"], "bench: --before /nowhere: there is no folder shimproxy in it"),
    ],
)
def test_what_cannot_start_is_one_line_and_two(arguments: list[str], complaint: str) -> None:
    """In a process of its own, as a run raises the limit of open files."""
    command = [sys.executable, "-m", "bench", "--only", "kept", *arguments]
    ended = subprocess.run(command, cwd=DOCS.parents[1], capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith(complaint)
    assert ended.stderr.count("\n") == 1


# -- the measures


TINY = Sizes(
    session_mails=10,
    kept_mails=10,
    mail_octets=2**20,
    serial_mails=5,
    far_mails=1,
    idle_sessions=5,
    warm_up_mails=5,
)


@pytest.mark.slow
@pytest.mark.once
def test_the_measures_give_the_figures_that_are_listed_and_no_others(tmp_path: Path) -> None:
    """With real processes; how much each figure is is no matter here."""
    need("openssl")
    setup = Setup(
        folder=tmp_path,
        rounds=1,
        sizes=TINY,
        paths=tuple(path for path in USUAL if path != HAPROXY or find("haproxy")),
        certificate=make_certificate(tmp_path),
    )
    writes: list[str] = []
    plan = [step(measure, setup, quick=True) for measure in MEASURES]
    progress = Progress(Reckoning(plan), Screen(writes.append))

    found: Samples = {}
    for measure in MEASURES:
        found.update(run_measure(measure, setup, progress))

    assert set(found) == set(FIGURES)
    assert all(len(values) == 1 for by_path in found.values() for values in by_path.values())
    assert progress.reckoning.share == pytest.approx(1.0)
    assert len(writes) == len(MEASURES)
