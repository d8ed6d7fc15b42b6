"""`shimproxy records`, and what `shimproxy ladder` writes for other programs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from shimproxy.cli import main
from shimproxy.records.files import name_of
from shimproxy.records.text import record_text_of
from shimproxy.session.trace import SENDER, SHIM, Entry, Kind, Trace
from tests.records.test_record_files import NOON, everything, record

if TYPE_CHECKING:
    from pathlib import Path

    from shimproxy.session.record import SessionRecord

pytestmark = pytest.mark.once


def keep(directory: Path, session: SessionRecord) -> Path:
    path = directory / name_of(session)
    path.write_text(record_text_of(session))
    return path


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A directory with three records: two days before noon, an hour before it, and at noon, which lacks a repair."""
    for number, (hours, rcpt) in enumerate(
        ((48, b"one@receiver.example"), (1, b"two@b.example"), (0, b"three@b.example"))
    ):
        session = record(number, NOON - 3600 * hours, repaired=hours > 0)
        session.trace = Trace(
            [
                Entry(0.25, SENDER, SHIM, Kind.COMMAND, 8, b"HELO %s" % rcpt),
                Entry(0.5, SENDER, SHIM, Kind.COMMAND, 33, b"RCPT TO:<%s>" % rcpt),
            ]
        )
        keep(tmp_path, session)
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """The numbers of the sessions that are listed."""
    main(["records", *map(str, arguments)])
    return [line.split()[1].split("-")[2].split(".")[0] for line in capsys.readouterr().out.splitlines()]


def test_a_line_says_when_it_was_which_file_it_is_whose_it_was_and_what_was_repaired(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["records", str(kept)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1] == (
        "2025-11-25T10:59:58.500Z  20251125T105958.500Z-1a2b-1.session.txt  192.0.2.1:4711 to 192.0.2.2:25, 1.500 s: "
        "early-reply"
    )
    assert lines[2].endswith("1.500 s: nothing was repaired")


@pytest.mark.parametrize(
    ("flags", "numbers"),
    [
        (["--since", "2025-11-25"], ["1", "2"]),
        (["--since", "2025-11-25T11:30"], ["2"]),
        (["--since", "2025-11-25T10:59:58Z"], ["1", "2"]),
        (["--since", "2025-11-25T10:59:59"], ["2"]),
        (["--until", "2025-11-25T10:59"], ["0"]),
        (["--since", "2h"], []),
        (["--since", "9999w"], ["0", "1", "2"]),
        (["--repair", "early-reply"], ["0", "1"]),
        (["--repair", "no-close"], []),
        (["--to", "@B.Example"], ["1", "2"]),
        (["--to", "one@receiver.example"], ["0"]),
        (["--to", "HELO"], []),
        (["--to", "b.example", "--repair", "early-reply"], ["1"]),
    ],
)
def test_flags_choose(flags: list[str], numbers: list[str], kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, kept, *flags) == numbers


def test_the_status_says_whether_any_is_listed(kept: Path) -> None:
    assert main(["records", str(kept), "--to", "nobody"]) == 1
    assert main(["records", str(kept), "--to", "two"]) == 0


def test_json_has_an_object_for_each(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", str(kept), "--json", "--to", "two"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(kept / "20251125T105958.500Z-1a2b-1.session.txt")
    assert (found["session"], found["repairs"], found["ended_by"]) == ("1a2b-1", {"early-reply": 1}, "sender")
    assert "frames" not in found


def test_a_file_that_is_no_record_is_said_to_be_none_and_the_others_are_listed(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is a FIFO waited for, which whoever may write there might put there."""
    (kept / "20251125T000000.000Z-evil-1.session.txt").write_bytes(b"\x1b[2Jmine" * 2**17)
    os.mkfifo(kept / "20251125T000000.000Z-evil-2.session.txt")
    (kept / "20251125T000000.000Z-evil-3.session.txt").symlink_to(kept / "nowhere")
    cut = keep(kept, record(7, NOON + 1))
    cut.write_text(cut.read_text()[:200])
    assert main(["records", str(kept)]) == 2
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3
    assert [line.partition(".session.txt: ")[2] for line in said.err.splitlines()] == [
        "line 1: these characters cannot be in a record",
        "line 7: the record is cut off here",
    ]
    assert said.err.isascii()


def test_nothing_of_a_peer_is_a_line_of_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = everything()
    session.sender = "/tmp/\x1b[2J\n2026\u2028" + "x" * 2000
    keep(tmp_path, session)
    assert main(["records", str(tmp_path), "--to", "x"]) in (0, 1)
    capsys.readouterr()
    assert main(["records", str(tmp_path)]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.isascii()
    assert line.isprintable()


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["records", "{file}"], "{file}: this is a file; `shimproxy ladder FILE` draws one"),
        (["records", "{at}/no"], "{at}/no: there is no such directory; give the one of `run --record DIR`"),
        (["records", "{at}", "--since", "now"], "--since: 'now' is not a time; write 2026-11-30, "),
        (["records", "{at}", "--until", "2026-13-01"], "--until: '2026-13-01' is not a time; write 2026-11-30, "),
        (["records", "{at}", "--repair", "early"], "--repair: 'early' is not a name of a repair"),
        (["records", "{at}", "--repair", "early-repli"], "did you mean early-reply?"),
        (["ladder", "{at}"], "{at}: a directory; `shimproxy records DIR` lists the files in it"),
        (["ladder", "{at}/no"], "{at}/no: No such file or directory; `shimproxy records DIR` lists what is there"),
        (["ladder", "--json", "{at}/notes.txt"], "{at}/notes.txt: line 1: the record is cut off here"),
        (["ladder", "--mermaid", "{file}", "{file}"], "--mermaid: a diagram holds one session; give one FILE"),
        (["ladder", "{at}/\x1b[2J\n"], "{at}/\\x1b[2J\\n: No such file"),
    ],
)
def test_what_can_not_be_read_gets_its_mend(
    arguments: list[str], mend: str, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"at": str(kept), "file": str(next(kept.glob("*-0.session.txt")))}
    assert main([each.format_map(names) for each in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert mend.format_map(names) in line


def test_each_form_is_written_to_standard_output(kept: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    files = [str(path) for path in sorted(kept.glob("*.session.txt"))]
    assert main(["ladder", "--json", *files]) == 0
    sessions = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [session["frames"][1]["text"][8:] for session in sessions] == [
        "<one@receiver.example>",
        "<two@b.example>",
        "<three@b.example>",
    ]
    assert main(["ladder", "--mermaid", files[0]]) == 0
    assert capfdbinary.readouterr().out.startswith(b"sequenceDiagram\n")
    assert main(["ladder", "--pcapng", *files]) == 0
    assert capfdbinary.readouterr().out.startswith(b"\x0a\x0d\x0d\x0a")


def test_packets_are_not_written_to_a_terminal(kept: Path) -> None:
    above, below = pty.openpty()
    file = str(next(kept.glob("*-0.session.txt")))
    done = subprocess.run(
        [sys.executable, "-m", "shimproxy", "ladder", "--pcapng", file],
        stdout=below,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(below)
    os.close(above)
    assert done.returncode == 2
    assert done.stderr == (
        "shimproxy: --pcapng: packets are nothing for a terminal; write them to a file: > session.pcapng\n"
    )


def test_standard_input_is_there_once_or_not_at_all() -> None:
    for words, before, problem in (
        ("- -", "", "-: standard input can be read once; give - once"),
        ("-", "exec <&-; ", "-: there is no standard input; give a FILE"),
    ):
        command = f"{before}exec {sys.executable} -m shimproxy ladder {words}"
        done = subprocess.run(["sh", "-c", command], input="", capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (2, f"shimproxy: {problem}\n")
