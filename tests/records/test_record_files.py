"""Records in files: what is kept and for how long, what is never in them, and how they are read back and drawn."""

from __future__ import annotations

import contextlib
import io
import os
import random
import stat
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from shimproxy import SessionRecord, Settings, SettingsError, Violation, serve
from shimproxy.cli import main
from shimproxy.faulty.client import WAIT_SECONDS
from shimproxy.faulty.sending import sender_of_1999
from shimproxy.observe.events import Event
from shimproxy.records.files import RecordFiles, name_of
from shimproxy.records.text import FIRST_LINE, NotARecord, read, record_text_of
from shimproxy.service.preflight import check_records
from shimproxy.session.trace import RECEIVER, SENDER, SHIM, Entry, Kind, Trace
from tests.observe.test_journal import NASTY
from tests.peers.mail import LARGE
from tests.peers.shim import Shim, shim
from tests.peers.table import TABLE

if TYPE_CHECKING:
    from pathlib import Path

NOON = 1_764_072_000.0
"""25 November 2025, 12:00 UTC."""
DAY_SECONDS = 86_400.0


@attrs.define(eq=False)
class Log:
    """A journal that keeps what it is told of files."""

    lines: list[tuple[Event, dict[str, object]]] = attrs.field(factory=list)

    def tell(self, event: Event, **fields: object) -> None:
        self.lines.append((event, fields))


@attrs.define(eq=False)
class Kept:
    """A directory with its files, and a clock that the test sets."""

    directory: Path
    log: Log = attrs.field(factory=Log)
    now: float = NOON
    files: RecordFiles = attrs.field(init=False)

    def open(self, **recording: Any) -> Kept:
        journal: Any = self.log
        settings = Settings(receiver="127.0.0.1:25", record=self.directory, **recording)
        check_records(settings)
        assert settings.recording
        self.files = RecordFiles(settings.recording, journal, lambda: self.now)
        return self

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "records")


def record(number: int = 1, ended_at: float = NOON, *, repaired: bool = True) -> SessionRecord:
    """The record of a session with a frame or two."""
    session = SessionRecord(f"1a2b-{number}", "192.0.2.1:4711", "192.0.2.2:25")
    session.seconds, session.ended_at = 1.5, ended_at
    session.ended_by, session.ended_in = "sender", "QUIT"
    session.trace = Trace([Entry(0.25, SENDER, SHIM, Kind.COMMAND, 8, b"HELO x")])
    if repaired:
        session.repairs = Counter({Violation.EARLY_REPLY: 1})
    return session


async def through(directory: Path, fault: str = "q152940", **recording: Any) -> Shim:
    """One mail to a fault receiver through a shim that records; the shim, which has ended."""
    with trio.fail_after(WAIT_SECONDS), TABLE[fault].start() as receiver:
        async with shim(receiver.port, TABLE[fault].deadlines, record=directory, **recording) as between:
            send = partial(sender_of_1999, early=receiver.seen.early if TABLE[fault].fault.replies_early else None)
            await trio.to_thread.run_sync(send, between.port, LARGE)
            await between.watcher.sessions_ended()
    return between


# -- the real shim


async def test_the_session_of_the_article_is_recorded_and_drawn(
    kept: Kept, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    between = await through(kept.directory)
    (path,) = kept.directory.iterdir()
    (session,) = between.watcher.ended_sessions
    text = path.read_text("ascii")
    assert path.name == name_of(session)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert text == record_text_of(session)
    assert record_text_of(read(text)) == text
    assert "The last line sent is signified" not in text, "mail data are counts"

    monkeypatch.setenv("COLUMNS", "100")
    assert main(["ladder", str(path)]) == 0
    drawing = capsys.readouterr().out
    words = " ".join(drawing.replace("|", " ").replace("--", "").split())
    for frame in (
        "- MAIL FROM:<sender@sender.example> ->",
        "<- 250 2.1.0 Ok (14), answers RCPT",
        "<- 552 Requested mail action aborted: exceeded storage allocation (64), early (before the end of mail data)",
        "* repair: early-reply, code=552",
        "<- 221 closing connection (24), shimproxy's own",
    ):
        assert frame in words, drawing
    assert max(map(len, drawing.splitlines())) <= 100
    assert drawing.count("<- 552 Requested") == 2, "held, and given once"


async def test_sessions_without_a_repair_are_kept_where_all_are(kept: Kept) -> None:
    await through(kept.directory, "well-behaved")
    assert kept.names == []
    await through(kept.directory, "well-behaved", record_what="all")
    (name,) = kept.names
    assert "250 2.0.0 Ok: taken" in (kept.directory / name).read_text()


async def test_mail_data_are_kept_where_that_was_said(kept: Kept) -> None:
    await through(kept.directory, record_mail_data=True)
    (path,) = kept.directory.iterdir()
    text = path.read_text()
    assert "            | Subject: the table\n" in text
    assert len(text) < 2 * 64 * 1024
    assert record_text_of(read(text)) == text


async def test_a_directory_that_vanishes_harms_no_session(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(WAIT_SECONDS), TABLE["q152940"].start() as receiver:
        async with shim(receiver.port, record=kept.directory) as between:
            kept.directory.rmdir()
            for count in (1, 2):
                outcome = await trio.to_thread.run_sync(sender_of_1999, between.port, LARGE)
                assert outcome.reply
                assert outcome.reply.startswith(b"552")
                await between.watcher.sessions_ended(count)
    (line,) = [each for each in caplog.records if each.message == "records"]
    fields = vars(line)["fields"]
    reason = os.strerror(2)
    assert fields == {
        "reason": "ENOENT",
        "message": f"cannot write to {kept.directory}: {reason}; sessions continue without records",
    }


async def test_a_directory_that_can_not_be_used_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    settings = Settings(listen="127.0.0.1:0", receiver="127.0.0.1:1", record=file)
    with pytest.raises(SettingsError, match=r"^record: .*file: Not a directory; give a writable directory$"):
        await serve(settings)


# -- limits


def test_a_sender_s_habit_is_no_reason_to_keep_its_session(kept: Kept) -> None:
    """Else every session of some senders would be kept, and the others would have to go."""
    session = record(repaired=False)
    session.repairs, session.minor_repairs = Counter({Violation.CLOSED_WITHOUT_QUIT: 1}), 1
    kept.open().files.keep(session)
    assert kept.names == []

    session.repairs[Violation.EARLY_REPLY] = 1
    kept.files.keep(session)
    assert kept.names == [name_of(session)]


def test_the_oldest_go_first_where_they_are_too_much(kept: Kept) -> None:
    size_octets = len(record_text_of(record()))
    kept.open(record_most_octets=3 * size_octets + 1)
    for number in range(1, 6):
        kept.files.keep(record(number, NOON + number))
    assert len(kept.names) == 5
    kept.files.prune()
    assert kept.names == [name_of(record(number, NOON + number)) for number in (3, 4, 5)]


def test_what_is_too_old_goes(kept: Kept) -> None:
    kept.open(record_days=14)
    for days in (20, 14.1, 13.9, 1):
        kept.files.keep(record(int(days), NOON - days * DAY_SECONDS))
    kept.files.prune()
    assert [name.rpartition("-")[2] for name in kept.names] == ["13.session.txt", "1.session.txt"]
    kept.now += 12 * DAY_SECONDS
    kept.files.prune()
    assert len(kept.names) == 1


def test_what_shimproxy_has_not_written_is_left_alone(kept: Kept) -> None:
    kept.open(record_most_octets=1, record_days=1)
    old = NOON - 100 * DAY_SECONDS
    ours = name_of(record(1, old))
    kept.files.keep(record(1, old))
    outside = kept.directory.parent / "outside"
    outside.write_text(record_text_of(record(2, old)))
    foreign = {
        "notes.txt": "mine",
        "x" + ours: FIRST_LINE + "\n",
        name_of(record(3, old)): "shimproxy session record 2\n",
        name_of(record(4, old)) + ".gz": FIRST_LINE + "\n",
        f".{name_of(record(5, old))}.part": "mine",
        ".notes.txt.part": FIRST_LINE + "\n",
    }
    for name, text in foreign.items():
        (kept.directory / name).write_text(text)
        os.utime(kept.directory / name, (old, old))
    (kept.directory / name_of(record(6, old))).symlink_to(outside)
    (kept.directory / name_of(record(7, old))).mkdir()
    kept.files.prune()
    assert kept.names == sorted([*foreign, name_of(record(6, old)), name_of(record(7, old))])
    assert outside.exists()


def test_what_a_killed_process_left_half_written_goes_after_an_hour(kept: Kept) -> None:
    kept.open()
    part = kept.directory / f".{name_of(record())}.part"
    part.write_text(FIRST_LINE[:10])
    for age_seconds, there in ((3500, True), (3700, False)):
        os.utime(part, (NOON - age_seconds, NOON - age_seconds))
        kept.files.prune()
        assert part.exists() is there


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.open()
    real = os.fdopen

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, os.strerror(28))

    def full(handle: int, *_: object) -> io.BytesIO:
        os.close(handle)
        return Full()

    monkeypatch.setattr(os, "fdopen", full)
    for number in range(3):
        kept.files.keep(record(number))
    assert kept.names == []
    monkeypatch.setattr(os, "fdopen", real)
    kept.files.keep(record(7))
    assert kept.names == [name_of(record(7))]
    assert [(event, fields["reason"], fields.get("lost")) for event, fields in kept.log.lines] == [
        (Event.RECORDS, "ENOSPC", None),
        (Event.RECORDS, "written_again", 3),
    ]
    assert f"cannot write to {kept.directory}: No space left on device" in str(kept.log.lines[0][1]["message"])


async def test_the_directory_is_looked_through_when_much_was_written(kept: Kept) -> None:
    kept.open(record_most_octets=len(record_text_of(record())) + 1)
    with trio.fail_after(WAIT_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.files.prune_forever)
            for number in range(3):
                kept.files.keep(record(number, NOON + number))
                while kept.names != [name_of(record(number, NOON + number))]:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


def test_a_file_goes_where_it_belongs_by_name() -> None:
    assert name_of(record(17, NOON + 1.75)) == "20251125T120000.250Z-1a2b-17.session.txt"


# -- the text


def everything() -> SessionRecord:
    """A record with every kind of entry, and with hostile text wherever a peer can put it."""
    session = record()
    session.transactions, session.accepted, session.resumed = 3, 2, 1
    session.octets_from_sender, session.octets_to_receiver = 10**12, 7
    session.sender_tls = session.receiver_tls = "TLSv1.3"
    session.sender = "/tmp/a b\n<&>\u2028.socket"
    session.repairs = session.repairs + Counter({Violation.NO_CLOSE: 2})
    entries = [Entry(0, SHIM, RECEIVER, Kind.CONNECTION, text=b"192.0.2.2:25")]
    entries += (Entry(1.5, RECEIVER, SHIM, Kind.REPLY, 9, octets, "answers RCPT") for octets in NASTY.values())
    entries += (Entry(1.5, SENDER, SHIM, Kind.COMMAND, 9, octets) for octets in NASTY.values())
    entries += (Entry(2, SHIM, SHIM, Kind.REPAIR, 0, each, "mail data", Violation.NO_CLOSE) for each in NASTY.values())
    entries += [
        Entry(3, SENDER, SHIM, Kind.MAIL_DATA, 10**12, b"", "to the end", None, 2, 4.25, 1, b"a\r\nb\nc\0\r\n\r\nd"),
        Entry(3, SENDER, SHIM, Kind.MAIL_DATA, 5, b"", "", None, 1, 3.0, 1, b"a\r\n" + FIRST_LINE.encode() + b"\r\n"),
        Entry(3, SHIM, RECEIVER, Kind.TLS, 5, blocks=1, until_seconds=3, connection=2),
        Entry(4, RECEIVER, SHIM, Kind.DROPPED, 1),
        Entry(5, SENDER, SHIM, Kind.FIN),
        Entry(5, SHIM, RECEIVER, Kind.RST, connection=12),
    ]
    session.trace = Trace(entries, 5, 1234, 56789)
    return session


def test_what_is_written_is_read_back() -> None:
    before = everything()
    text = record_text_of(before)
    after = read(text)
    assert text.isascii()
    assert all(line.isprintable() for line in text.split("\n"))
    assert record_text_of(after) == text
    assert before.trace
    assert after.trace
    assert after.trace.entries[-6:] == before.trace.entries[-6:]
    assert [each.text.replace(b"\r\n", b" / ") for each in before.trace.entries] == [
        each.text for each in after.trace.entries
    ]
    trace, trace_before = after.trace, before.trace
    assert (trace.left_out, trace.left_out_octets, trace.first_entries) == (1234, 56789, 5)
    assert trace_before.first_entries == 5
    for each in attrs.fields(SessionRecord):
        if each.name not in ("_trace", "ended_at", "sender"):
            assert getattr(before, each.name) == getattr(after, each.name)
    assert abs(before.ended_at - after.ended_at) < 0.001


def test_every_moment_is_read_back() -> None:
    """To the millisecond, whatever part of one it ends and begins with."""
    for step in range(2000):
        session = record(ended_at=NOON + step * 0.5007)
        session.seconds = step * 0.000713
        text = record_text_of(session)
        assert record_text_of(read(text)) == text


def test_a_cut_file_names_the_place_at_every_line() -> None:
    lines = record_text_of(everything()).splitlines(keepends=True)
    for count in range(len(lines)):
        with pytest.raises(NotARecord, match=rf"^line {count + 1}: the record is cut off here$"):
            read("".join(lines[:count]))


def test_a_file_cut_anywhere_is_no_record() -> None:
    text = record_text_of(record())
    for end in range(len(text)):
        with pytest.raises(NotARecord, match=r"^line \d+: "):
            read(text[:end])


def test_a_line_that_is_missing_is_found_out() -> None:
    lines = record_text_of(record()).splitlines(keepends=True)
    for number in range(len(lines)):
        with pytest.raises(NotARecord, match=r"^line \d+: "):
            read("".join(lines[:number] + lines[number + 1 :]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("record 1", "record 2"),
        ("seconds               1.5", "seconds               one"),
        ("seconds               1.5", "seconds               \u0661.5"),
        ("began                 2025", "began                 year"),
        ("began                 2025", "began                 \u0662\u0660\u0662\u0665"),
        ("  8  command", "  \u0668  command"),
        ("ended                 sender/QUIT", "ended                 sender"),
        ("early-reply:1", "made-up:1"),
        ("early-reply:1", "early-reply"),
        ("command: HELO x", "command: HELO \x1b[31m"),
        ("command: HELO x", "command: HELO \\q"),
        ("command: HELO x", "command: HELO \\u2028"),
        ("command: HELO x", "command: HELO gr\u00fc\u00df"),
        ("command: HELO x", "order: HELO x"),
        ("command: HELO x", "repair: HELO x"),
        ("sender    >>>", "sender    <<<"),
        ("0.250000", "0.25"),
        ("  8  command", "  eight  command"),
        ("seconds               1.500000", "seconds               1"),
        ("early-reply:1", "early-reply:01"),
        ("transactions          0", "transactions          0.000000"),
        ("1 entries", "2 entries"),
        ("1 entries\n", "1 entries\nand more\n"),
        ("1 entries\n", "1 entries\nand more"),
    ],
)
def test_a_file_that_was_changed_names_the_line(old: str, new: str) -> None:
    text = record_text_of(record())
    assert text.count(old) >= 1
    with pytest.raises(NotARecord, match=r"^line \d+: [ -~]+$"):
        read(text.replace(old, new, 1))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_becomes_of_a_file_it_is_read_as_written_or_refused(seed: int) -> None:
    source = random.Random(seed)
    text = record_text_of(everything())
    places = [place for place, character in enumerate(text) if not character.isalpha()]
    for _ in range(250):
        place = source.choice(places)
        piece = source.choice(["", " ", "\n", "9" * 5000, "\\", ": ", ", ", "\0", "|", text[place : place + 200]])
        changed = text[:place] + piece + text[place + source.choice((0, 1, 80)) :]
        with contextlib.suppress(NotARecord):
            assert record_text_of(read(changed)) == changed


# -- the command


def test_bad_files_are_one_line_and_exit_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.txt"
    cut.write_text(record_text_of(record())[:-40])
    image = tmp_path / "image"
    image.write_bytes(bytes(range(256)) * 100)
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    for path, reason in (
        (cut, "line 21: the record is cut off here"),
        (image, "line 1: these characters cannot be in a record"),
        (huge, "larger than any record"),
        (tmp_path, "a directory; `shimproxy records DIR` lists the files in it"),
        (tmp_path / "none", "No such file or directory; `shimproxy records DIR` lists what is there"),
    ):
        assert main(["ladder", str(path)]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err == f"shimproxy: {path}: {reason}\n"


def test_several_files_are_drawn_and_one_can_come_from_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one"
    path.write_text(record_text_of(record(1)))

    class Input:
        buffer = io.BytesIO(record_text_of(record(2)).encode())

    monkeypatch.setattr(sys, "stdin", Input)
    assert main(["ladder", str(path), "-"]) == 0
    drawing = capsys.readouterr().out
    assert drawing.index("Session 1a2b-1 of") < drawing.index("Session 1a2b-2 of")


def test_svg_is_of_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one"
    path.write_text(record_text_of(record(1)))
    assert main(["ladder", "--svg", str(path), str(path)]) == 2
    assert main(["ladder", "--svg", str(path)]) == 0
    told = capsys.readouterr()
    assert told.err == "shimproxy: --svg: an SVG holds one session; give one FILE\n"
    assert told.out.startswith("<svg ")
