"""Where the log goes: standard error or syslog, the same lines; and lines that repeat themselves are counted."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import pytest

from shimproxy.config.listener import SettingsError
from shimproxy.config.settings import Settings
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import SECONDS, Talk
from shimproxy.observe import log_output
from shimproxy.observe.events import Event
from shimproxy.observe.journal import Journal
from shimproxy.observe.log_output import LogUnusable
from shimproxy.observe.lossy import log
from shimproxy.observe.network_syslog import NetworkSyslog
from shimproxy.observe.repeats import MOST_KINDS, WINDOW_SECONDS, Repeats
from shimproxy.observe.text_lines import PipeHandler
from shimproxy.session.record import Repair, SessionRecord
from shimproxy.smtp.catalogue import Violation
from tests.daemon.test_supervisor import Session, running, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO


@pytest.fixture
def own_log() -> Iterator[None]:
    """The handlers and the level as they were, afterwards."""
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    yield
    for handler in log.handlers:
        if handler not in handlers:
            handler.close()
    log.handlers[:], log.level, log.propagate = handlers, level, propagate


# -- syslog


def test_syslog_gets_the_lines_with_facility_and_severity(tmp_path: Path) -> None:
    """From workers and supervisor; a reload goes on there."""
    path = tmp_path / "log-socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog, FaultyReceiver(Talk.accept) as receiver:
        syslog.bind(str(path))
        syslog.settimeout(SECONDS)
        with running(tmp_path, settings(receiver, f"log-to = 'syslog:{path}'\n")) as run:
            with Session(run.ports[0]) as session:
                session.sock.sendall(b"NOOP\n")
                session.expect(b"250")
                session.say(b"QUIT", b"221")
            lines = [syslog.recv(10_000).decode() for _ in range(3)]
            run.process.send_signal(signal.SIGHUP)
            lines.append(syslog.recv(10_000).decode())
            assert run.log == ""
    mail = 2 << 3
    assert lines[0].startswith(f"<{mail + 6}>shimproxy: INFO start sender_tls=opaque")
    assert lines[1].startswith(f"<{mail + 4}>shimproxy: WARNING repair session=")
    assert lines[2].startswith(f"<{mail + 6}>shimproxy: INFO session session=")
    assert " reloaded " in lines[3] or " start sender_tls=" in lines[3]


def test_a_syslog_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LogUnusable, match=r"log-to: no syslog at /no/socket: No such file.*; start it, name"):
        log_output.check_log("syslog:/no/socket")


@pytest.mark.usefixtures("own_log")
def test_a_syslog_that_goes_loses_lines_and_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log-socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        log_output.set_up("INFO", "json", f"syslog:{path}")
    Journal().tell(Event.LISTENER, message="nobody hears this")
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        syslog.settimeout(SECONDS)
        Journal().tell(Event.LISTENER, message="somebody hears this")
        assert b'"event": "lost", "lines": 1}' in syslog.recv(10_000)
        assert b'"message": "somebody hears this"' in syslog.recv(10_000)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("own_log")
def test_a_syslog_that_does_not_read_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "log-socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        log_output.set_up("INFO", "text", f"syslog:{path}")
        for _ in range(5000):
            Journal().tell(Event.LISTENER, message="x" * 1000)
        syslog.setblocking(False)
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while syslog.recv(10_000):
                taken += 1
        Journal().tell(Event.LISTENER, message="again")
        assert syslog.recv(10_000).endswith(b" WARNING lost lines=%d" % (5000 - taken))


# -- standard error


def test_mail_does_not_wait_for_whoever_reads_the_log(tmp_path: Path) -> None:
    """With a pipe that is full, and at the end too."""
    reading, writing = os.pipe()
    with FaultyReceiver(Talk.accept) as receiver, open(reading, "rb") as pipe:
        (tmp_path / "shimproxy.toml").write_text(settings(receiver, "log-level = 'debug'\n"))
        command = [sys.executable, "-m", "shimproxy", "run", "--config", str(tmp_path / "shimproxy.toml")]
        # Without it, standard error has a lock, which the end of the program takes too.
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writing, text=True, env=buffered)
        os.close(writing)
        assert process.stdout
        with process.stdout:
            port = int(process.stdout.readline().partition(" on 127.0.0.1:")[2].partition(",")[0])
            for _ in range(150):  # of some 1000 octets of dialogue each: more than a pipe holds
                with Session(port) as session:
                    session.mail()
                    session.say(b"QUIT", b"221")
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
        assert pipe.read().count(b" said session=") > 100
    assert len(receiver.seen.mails) == 150


# -- repeats


@attrs.define
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_the_first_lines_of_a_kind_in_a_window_are_logged_and_the_rest_is_counted() -> None:
    clock = Clock()
    sut = Repeats(3, clock)
    assert [sut.may("early-reply", "a:25") for _ in range(5)] == [True, True, True, False, False]
    assert sut.may("early-reply", "b:25")
    assert [*sut.over()] == []
    clock.seconds = WINDOW_SECONDS
    assert [*sut.over()] == [(("early-reply", "a:25"), 2)]
    assert sut.may("early-reply", "a:25")
    assert [*sut.over()] == []


def test_what_was_left_out_is_told_at_the_end() -> None:
    sut = Repeats(1, Clock())
    assert [sut.may("x"), sut.may("x")] == [True, False]
    assert [*sut.over(all_of_them=True)] == [(("x",), 1)]


def test_none_is_left_out_where_that_is_asked_for() -> None:
    sut = Repeats(0, Clock())
    assert all(sut.may("x") for _ in range(1000))


def test_the_kinds_are_bounded() -> None:
    sut = Repeats(1, Clock())
    for number in range(MOST_KINDS + 10):
        assert sut.may(str(number))
    assert sut.may("x")
    assert sut.may("x"), "a kind that is not counted is logged"


def test_repairs_are_told_by_their_number(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    journal = Journal(Repeats(2, clock))
    record = SessionRecord("1a2b-1", "192.0.2.1:4711", "192.0.2.7:25")
    with caplog.at_level(logging.INFO, "shimproxy"):
        for _ in range(5):
            journal.repaired(record, Repair(Violation.EARLY_REPLY, "mail data", {}))
        clock.seconds = WINDOW_SECONDS
        journal.tell_repeats()
    assert [line.getMessage() for line in caplog.records] == ["repair", "repair", "repeats"]
    fields = caplog.records[-1].__dict__["fields"]
    assert fields == {"repair": "early-reply", "receiver": "192.0.2.7:25", "count": 3}


# -- a syslog server (RFC 5424)

_RFC_5424 = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z) ([!-~]{1,255}) shimproxy (\d+) ([!-~]{1,32}) - (.*)",
    re.DOTALL,
)


def of_rfc_5424(message: bytes) -> tuple[int, str, bytes]:
    """PRI, MSGID and MSG."""
    found = _RFC_5424.fullmatch(message)
    assert found, message
    return int(found[1]), found[5].decode(), found[6]


def counted_message(stream: BinaryIO) -> bytes:
    """The next message of a stream, as RFC 6587 section 3.4.1 frames it."""
    length = b""
    while (octet := stream.read(1)) != b" ":
        assert octet.isdigit(), (length, octet)
        length += octet
    return stream.read(int(length))


@pytest.mark.usefixtures("own_log")
def test_lines_go_to_a_syslog_server_in_datagrams() -> None:
    """With facility mail, a severity, and the event as MSGID."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(SECONDS)
        log_output.set_up("INFO", "text", f"syslog:udp:127.0.0.1:{server.getsockname()[1]}")
        Journal().repaired(
            SessionRecord("1a2b-7", "-"),
            Repair(Violation.EARLY_REPLY, "mail data", {"reply": b"550 \x1b\r\n<1>1 - - x"}),
        )

        number, event, words = of_rfc_5424(server.recv(10_000))
    assert (number, event) == (2 << 3 | 4, "repair")
    assert words.startswith(b"WARNING repair session=")
    assert b"\n" not in words
    assert b"\x1b" not in words


@pytest.mark.usefixtures("own_log")
def test_a_syslog_server_may_come_and_go() -> None:
    """What it does not take is lost, and told of; its connection is made again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        log_output.set_up("INFO", "json", f"syslog:tcp:127.0.0.1:{port}")
        (handler,) = log.handlers
        assert isinstance(handler, NetworkSyslog)
        Journal().tell(Event.LISTENING_AGAIN, address="one")
        connection, _ = server.accept()
        connection.settimeout(SECONDS)
        with connection, connection.makefile("rb") as stream:
            assert b'"address": "one"' in of_rfc_5424(counted_message(stream))[2]
    Journal().tell(Event.LISTENING_AGAIN, address="two")
    handler.wait()
    assert handler.lost == log_output.lines_lost() == 1

    with socket.create_server(("127.0.0.1", port)) as server:
        handler._not_before = 0.0  # as a second later
        Journal().tell(Event.LISTENING_AGAIN, address="three")
        connection, _ = server.accept()
        connection.settimeout(SECONDS)
        with connection, connection.makefile("rb") as stream:
            first, second = (of_rfc_5424(counted_message(stream)) for _ in range(2))
    assert first[1] == "lost"
    assert b'"lines": 1' in first[2]
    assert b'"address": "three"' in second[2]


@pytest.mark.usefixtures("own_log")
def test_a_datagram_that_was_refused_is_counted() -> None:
    """The next one learns of it; and a line that says how many are lost counts for as many."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        address = server.getsockname()
    log_output.set_up("INFO", "json", f"syslog:udp:127.0.0.1:{address[1]}")
    (handler,) = log.handlers
    assert isinstance(handler, NetworkSyslog)
    for lost in range(1, 5):
        handler._not_before = 0.0  # as a second later
        Journal().tell(Event.LISTENING_AGAIN, address="nobody")
        handler.wait()
        assert handler.lost == (0 if lost == 1 else lost), "of the first it is not known yet"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(SECONDS)
        handler._not_before = 0.0
        Journal().tell(Event.LISTENING_AGAIN, address="somebody")
        first, second = (of_rfc_5424(server.recv(10_000)) for _ in range(2))
    assert first[1] == "lost"
    assert b'"lines": 4' in first[2]
    assert b'"address": "somebody"' in second[2]
    assert handler.lost == 4


@pytest.mark.usefixtures("own_log")
def test_a_long_line_is_json_in_syslog_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "log"))
        syslog.settimeout(SECONDS)
        log_output.set_up("INFO", "json", f"syslog:{tmp_path / 'log'}")
        Journal().tell(Event.LISTENING_AGAIN, address="x" * 10_000)
        line = syslog.recv(10_000)
    assert json.loads(line.partition(b"shimproxy: ")[2])["address"] == "x" * 400 + "..."


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("syslog:udp:127.0.0.1", "has no port"),
        ("syslog:tcp::514", "names no syslog server"),
        ("syslog:tcp:unix:/x", "names no syslog server"),
        ("syslog:sctp:127.0.0.1:514", "is none of stderr, syslog, syslog:/PATH, syslog:udp:HOST:PORT"),
    ],
)
def test_a_place_that_is_none_is_refused_with_its_mend(to: str, words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        Settings(log_to=to)


def test_check_says_that_there_is_no_syslog_server() -> None:
    """With its address, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(LogUnusable, match=rf"no syslog at 127\.0\.0\.1 port {port} \(tcp\): Connection refused"):
        log_output.check_log(f"syslog:tcp:127.0.0.1:{port}")


# -- lines of text that are taken at once


@pytest.mark.usefixtures("own_log")
def test_lines_that_no_reader_takes_are_counted_as_lines() -> None:
    """Those of sessions are taken together."""
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as stream:
        handler = PipeHandler(stream)
        handler._lines = queue.Queue(1)
        handler._lines.put(b"")
        handler.put("one\ntwo\nthree", 3)
        assert handler.lost == 3
