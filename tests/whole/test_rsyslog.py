"""The log at a real rsyslogd: what it makes of each line, what it does not get, and that this is counted."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest

from shimproxy.faulty.mail import MIB
from shimproxy.faulty.receiving import HOST, FaultyReceiver, speaking
from shimproxy.faulty.talk import Talk
from shimproxy.observe.events import Event
from shimproxy.observe.formats import formatter_of
from shimproxy.observe.keys import json_schema
from shimproxy.observe.lossy import log
from shimproxy.observe.network_syslog import NetworkSyslog, Transport
from tests.daemon.test_supervisor import Run, Session, children_of, running, settings
from tests.peers.mail import SMALL
from tests.peers.processes import poll
from tests.peers.programs import swaks
from tests.peers.rsyslog import Line, Rsyslog, rsyslog
from tests.whole.test_mail_lines import breaches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.once
SEVERITIES: Final = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "err"}
TAKEN_OCTETS: Final = 8096
"""Of a line, by an rsyslogd as Debian has it; it cuts what is longer."""
NASTY: Final = b'\x1b[31m\x00\x07\x7f\x9b<19>1 - forged shimproxy 1 mail - x\t\\\xe2\x80\xae" = '
EVERY_TRANSPORT: Final = pytest.mark.parametrize("transport", Transport)


def logging_to(server: Rsyslog, transport: Transport, format_name: str) -> str:
    """With the dialogue only where no line is lost because many come at once."""
    where = f"syslog:{transport}:{HOST}:{server.port}"
    level = "debug" if transport is Transport.TCP else "info"
    return f'log-to = "{where}"\nlog-format = "{format_name}"\nlog-level = "{level}"\n'


@EVERY_TRANSPORT
def test_a_mail_and_a_repair_come_as_fields(tmp_path: Path, transport: Transport) -> None:
    """In the header and in the JSON, of workers and of the supervisor."""
    with rsyslog() as server, FaultyReceiver(Talk.accept) as receiver:
        with running(tmp_path, settings(receiver, logging_to(server, transport, "json"))) as run:
            swaks(run.ports[0], SMALL)
            with Session(run.ports[0]) as session:
                session.sock.sendall(b"NOOP\n")
                session.expect(b"250")
                session.say(b"QUIT", b"221")
            server.wrote("session", 2)
            processes = {str(run.pid), *map(str, children_of(run.pid))}
            run.process.terminate()
            server.wrote("stopping")
            assert run.log == ""
        lines = server.lines
    [mail] = [line for line in lines if line.event == "mail"]
    assert (mail.facility, mail.severity, mail.version, mail.data, mail.by) == (
        "mail",
        "info",
        "1",
        "-",
        f"im{transport}",
    )
    assert mail.parsed["verdict"] == "250 2.0.0 Ok: taken"
    assert [each["reply"] for each in mail.parsed["recipients"]] == ["250 2.1.0 Ok"]
    [repair] = [line for line in lines if line.event == "repair"]
    assert (repair.facility, repair.severity) == ("mail", "warning")
    assert repair.parsed["repair"] == "bare-newline"
    for line in lines:
        assert breaches(line.parsed, json_schema()) == []
        assert line.parsed["event"] == line.event
        assert line.severity == SEVERITIES[line.parsed["level"]]
        assert line.time.startswith(line.parsed["time"].removesuffix("Z"))
        assert line.process in processes


def test_text_comes_as_it_is_written_elsewhere(tmp_path: Path) -> None:
    with (
        rsyslog() as server,
        FaultyReceiver(Talk.accept) as receiver,
        running(tmp_path, settings(receiver, logging_to(server, Transport.TCP, "text"))) as run,
    ):
        swaks(run.ports[0], SMALL)
        [session] = server.wrote("session")
        [mail] = server.wrote("mail")
    number = re.match(r"INFO session session=(\S+) sender=", session.text)
    assert number
    assert mail.text.startswith(f"INFO mail session={number[1]} sender={HOST}:")
    assert ' verdict="250 2.0.0 Ok: taken" ' in mail.text


# -- lines that are long, and what they are made of


def says_much(talk: Talk) -> None:
    """Refuses recipients with control characters, and says a MiB to VRFY."""
    talk.say(b"220 hello\r\n")
    with contextlib.suppress(OSError):
        while line := talk.line():
            match line[:4].upper():
                case b"RCPT":
                    talk.say(b"550 " + NASTY * 10 + b"\r\n")
                case b"VRFY":
                    talk.say(b"252 " + b"x" * MIB + b"\r\n")
                case _:
                    talk.say(b"250 ok\r\n")


def dialogue(run: Run) -> None:
    """A mail with 30 recipients, and what is long from either side."""
    with Session(run.ports[0]) as session:
        session.say(b"EHLO " + b"h" * 200, b"250")
        session.say(b"MAIL FROM:<a@b.example>", b"250")
        for number in range(30):
            session.say(b"RCPT TO:<%s%02d@c.example>" % (b"r" * 60, number), b"550")
        session.say(b"RSET", b"250")
        session.say(b"NOOP " + NASTY, b"500")
        session.say(b"NOOP " + b"z" * MIB, b"500")
        session.say(b"VRFY x", b"252")


@EVERY_TRANSPORT
@pytest.mark.parametrize("format_name", ["text", "json", "ecs"])
def test_what_is_long_is_shortened_and_comes_whole(tmp_path: Path, transport: Transport, format_name: str) -> None:
    """Each line is one, the JSON of each can be read, and no peer has made one."""
    with rsyslog() as server, speaking(says_much) as receiver:
        text = f'listen = "{HOST}:0"\nreceiver = "{HOST}:{receiver.port}"\n'
        with running(tmp_path, text + logging_to(server, transport, format_name)) as run:
            dialogue(run)
            server.wrote("session")
        lines = server.lines
        assert server.said == ""
    assert {line.event for line in lines} <= {event.value for event in Event}
    assert all(line.text.isascii() and line.text.isprintable() for line in lines)
    assert max(len(line.text) for line in lines) < TAKEN_OCTETS
    assert [line.text for line in lines if format_name != "text" and not line.parsed] == []
    [mail] = [line for line in lines if line.event == "mail"]
    counted = said_of(mail, format_name)
    assert counted == (30, [f"<{'r' * 60}{number:02}@c.example>" for number in range(len(counted[1]))])
    assert len(counted[1]) >= 10


def said_of(mail: Line, format_name: str) -> tuple[int, list[str]]:
    """How many recipients a mail had, and those that its line names."""
    if format_name == "text":
        return int(re.findall(r" recipient_count=(\d+) ", mail.text)[0]), re.findall(r" recipient=(\S+) ", mail.text)
    fields = mail.parsed if format_name == "json" else mail.parsed["shimproxy"]
    return fields["recipient_count"], [each["recipient"] for each in fields["recipients"]]


# -- a server that goes and comes


@pytest.fixture
def server() -> Iterator[Rsyslog]:
    with rsyslog() as running_server:
        yield running_server


@pytest.fixture
def handler(server: Rsyslog, transport: Transport) -> Iterator[NetworkSyslog]:
    made = NetworkSyslog(transport, HOST, server.port)
    made.setFormatter(formatter_of("json"))
    yield made
    made.close()


def tell(handler: NetworkSyslog, numbers: range) -> None:
    for number in numbers:
        fields = {"address": str(number)}
        event = Event.LISTENING_AGAIN
        handler.handle(log.makeRecord(log.name, event.level, "", 0, event.value, (), None, extra={"fields": fields}))


def numbers_of(server: Rsyslog) -> list[int]:
    return [int(line.parsed["address"]) for line in server.lines if line.event == Event.LISTENING_AGAIN.value]


def await_number(server: Rsyslog, number: int) -> None:
    poll(lambda: number in numbers_of(server), f"line {number} written")


def lost_of(server: Rsyslog) -> int:
    """How many lines are missing, as other lines say."""
    return sum(line.parsed["lines"] for line in server.lines if line.event == Event.LOST.value)


@EVERY_TRANSPORT
def test_what_comes_while_it_is_stopped_is_lost_and_counted(server: Rsyslog, handler: NetworkSyslog) -> None:
    """Each line, also those that a datagram carried to nobody; twice, with time for more tries."""
    for first in (0, 100):
        tell(handler, range(first, first + 20))
        await_number(server, first + 19)
        server.stop()
        for tried in range(first + 20, first + 50, 10):
            tell(handler, range(tried, tried + 10))
            handler.wait()
            handler._not_before = 0.0  # as a second later
        server.start()
    tell(handler, range(200, 201))
    await_number(server, 200)
    assert numbers_of(server) == [*range(20), *range(100, 120), 200]
    assert lost_of(server) == handler.lost == 60


@pytest.mark.parametrize("transport", [Transport.TCP])
def test_one_that_stops_in_a_flood_loses_what_it_has_not_read(server: Rsyslog, handler: NetworkSyslog) -> None:
    """Once, and nothing twice; the rest is counted."""
    most = 200_000
    over = threading.Event()
    written = 0

    def flood() -> None:
        nonlocal written
        while not over.is_set() and written < most:
            tell(handler, range(written, written + 10))
            written += 10
            time.sleep(0)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        poll(lambda: len(numbers_of(server)) > 100, "lines written")
        server.stop()
        server.start()
        before = len(numbers_of(server))
        handler._not_before = 0.0
        poll(lambda: len(numbers_of(server)) > before + 100, "lines written again")
    finally:
        over.set()
        thread.join()
    handler.wait()
    tell(handler, range(most, most + 1))
    await_number(server, most)
    numbers = numbers_of(server)
    assert numbers == sorted(set(numbers))
    missing = written + 1 - len(numbers)
    assert lost_of(server) == handler.lost <= missing


def test_what_it_says_of_itself_is_read(server: Rsyslog) -> None:
    """Else a line that it has cut would not be found out."""
    cut = NetworkSyslog(Transport.TCP, HOST, server.port)
    cut._write(b"%d %s" % (TAKEN_OCTETS + 1, b"<22>1 - - shimproxy - mail - ".ljust(TAKEN_OCTETS + 1, b"x")))
    server.wrote("mail")
    poll(lambda: "oversize message" in server.said, "a cut line told")
    cut.close()
