"""The journal: what a peer sent can neither make a line of its own nor fake a field in one.

The log is read back as a reader of it would: a line at a time, blank between fields, NAME=VALUE or NAME="VALUE".
"""

from __future__ import annotations

import ast
import errno
import itertools
import json
import logging
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio

from shimproxy.net.address import address_text
from shimproxy.observe import log_output, lossy
from shimproxy.observe.envelope import LogEnvelope
from shimproxy.observe.events import Event
from shimproxy.observe.formats import EcsFormatter, JsonFormatter, TextFormatter
from shimproxy.observe.journal import Journal
from shimproxy.observe.json_lines import line_json, mail_json, session_json
from shimproxy.observe.keys import KEYS, REQUIRED
from shimproxy.observe.mail_line import mail_fields, mail_text
from shimproxy.observe.repeats import Repeats
from shimproxy.observe.safe_observer import SafeObserver
from shimproxy.session.mail_account import MailOutcome, MailSummary
from shimproxy.session.record import Repair, SessionRecord
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Command, Verb
from shimproxy.smtp.reply import Reply
from shimproxy.smtp.shown import escaped
from tests.house import modules
from tests.pages import SCHEMA, schema_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

NASTY = {
    "CRLF and a line": b"x\r\n2026-01-31T12:00:00.000Z WARNING repair session=fake",
    "LF": b"a\nb",
    "CR": b"a\rb",
    "CR last": b"a\r",
    "ESC": b"\x1b[2J\x1b[31mred",
    "NUL": b"a\0b",
    "BEL and BS": b"a\x07\x08b",
    "DEL": b"a\x7fb",
    "C1 control": b"a\x9b31mb",
    "NEL": b"a\x85b",
    "UTF-8": "grüßt".encode(),
    "UTF-8 line separator": "a\u2028b".encode(),
    "UTF-8 right-to-left": "a\u202eb".encode(),
    "half of a character": b"a\xc3",
    "vertical tab, form feed": b"a\x0bb\x0cc",
    "file separators": b"a\x1cb\x1dc\x1ed",
    "tab": b"a\tb=c",
    "a field": b"x fake=1",
    "a quote and a field": b'x" fake="1',
    "a quote": b'"',
    "two quotes": b'""',
    "a quote first": b'"x',
    "a quote last": b'x"',
    "a quoted word": b'"x y"',
    "a quote without a blank": b'x"fake="1',
    "backslash last": b"x \\",
    "backslash and quote": b'x\\" fake="1',
    "two backslashes and quote": b'x\\\\" fake="1',
    "an escape spelt out": b"a\\nb",
    "equals signs": b"a=b=c",
    "blank first": b" x",
    "blank last": b"x ",
    "blanks": b"   ",
    "JSON": b'"}\n{"level": "ERROR"',
    "percent": b"%s %d %(message)s {fields}",
}

WHOSE = ("session", "sender", "receiver")
nasty = pytest.mark.parametrize("octets", [*NASTY.values()], ids=[*NASTY])

_FIELD = r' ([a-z_0-9]+)=("(?:[^"\\]|\\.)*"|(?!")[^ ]*)'
_LINE = re.compile(rf"(\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ) (DEBUG|INFO|WARNING|ERROR) (\w+)((?:{_FIELD})*)")


class Lines(logging.Handler):
    """A handler that keeps what it is given, as text and as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.json: list[str] = []
        self.ecs: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(TextFormatter().format(record))
        self.json.append(JsonFormatter().format(record))
        self.ecs.append(EcsFormatter().format(record))


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The log's lines at DEBUG; the logger is afterwards as it was."""
    log = lossy.log
    before = log.handlers[:], log.level, log.propagate
    handler = Lines()
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG)
    log.propagate = False
    yield handler
    log.handlers[:], log.propagate = before[0], before[2]
    log.setLevel(before[1])


def record() -> SessionRecord:
    return SessionRecord("1a2b-7", "192.0.2.1:4711", "127.0.0.1:25")


def fields_of(line: str) -> list[tuple[str, str]]:
    """The fields of a text line, as they stand there. Fails if it is not one line of the log's form."""
    assert line.isascii()
    assert line.isprintable()
    form = _LINE.fullmatch(line)
    assert form, f"no line of the log's form: {line}"
    return re.findall(_FIELD, form[4])


def names_of(line: str) -> list[str]:
    return [name for name, _ in fields_of(line)]


# -- escaping


@nasty
def test_what_is_escaped_is_printable_ascii(octets: bytes) -> None:
    """Nothing that a terminal, a pager or a log shipper acts upon."""
    text = escaped(octets)

    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize("octet", [bytes([value]) for value in range(256)], ids=lambda octet: octet.hex())
def test_any_single_octet_is_escaped(octet: bytes) -> None:
    """All 256: printable ASCII, and told from its own escape spelt out."""
    text = escaped(b"a" + octet + b"b")

    assert text.isascii()
    assert text.isprintable()
    assert text != escaped(b"a" + text[1:-1].encode() + b"b") or len(text) == 3


def test_what_is_printable_stays_readable() -> None:
    """Ordinary lines are as they were sent, without their line end."""
    assert escaped(b"MAIL FROM:<a@example.org> SIZE=1\r\n") == "MAIL FROM:<a@example.org> SIZE=1"
    assert escaped(b"550 5.1.1 no") == "550 5.1.1 no"
    assert escaped(b"") == ""


# -- the text form


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fields_read_back_as_they_were_given_whatever_stands_beside_them(count: int) -> None:
    """Quotes stand just where a value needs them: in those that are empty, or have a blank or a quote in them."""
    values = ["", " ", "=", "= ", " =", '"', 'a"', "a=b", "a b", "a", 7, 0.5]
    for given in itertools.product(values, repeat=count):
        fields = {f"n{index}": value for index, value in enumerate(given)}
        made = logging.makeLogRecord({"levelname": "INFO", "msg": "session", "fields": fields})
        found = [(name, text) for name, text in fields_of(TextFormatter().format(made))]
        quoted = [text for _, text in found if text.startswith('"')]
        assert [name for name, _ in found] == list(fields)
        assert [text.strip('"') if text in quoted else text for _, text in found] == [
            str(value).replace('"', '\\"').strip('"') for value in given
        ]
        needing = [value for value in given if isinstance(value, str) and (not value or " " in value or '"' in value)]
        assert len(quoted) == len(needing)


@nasty
def test_what_a_peer_said_is_one_field_of_one_line(lines: Lines, octets: bytes) -> None:
    """The session, and the peer's words under the peer's name; never a field that the peer has named."""
    words = octets.replace(b"\n", b"")
    Journal().said(record(), "sender", words + b"\r\n")

    (line,) = lines.text
    assert names_of(line) == ["session", "from", "line"]
    assert " DEBUG said session=1a2b-7 from=sender line=" in line


@nasty
def test_what_a_repair_shows_is_one_field_of_one_line(lines: Lines, octets: bytes) -> None:
    """A reply in the detail of a repair, line ends and all."""
    repair = Repair(Violation.EARLY_REPLY, "mail data", {"octets_forwarded": 17, "reply": octets, "after": "x y"})
    Journal().repaired(record(), repair)

    (line,) = lines.text
    assert names_of(line) == [*WHOSE, "repair", "phase", "octets_forwarded", "reply", "after"]
    assert ' repair=early-reply phase="mail data" octets_forwarded=17 reply=' in line
    assert line.endswith(' after="x y"')


def test_nobody_is_warned_of_a_habit(lines: Lines) -> None:
    """It is a line of INFO, and none of those that are counted instead once they are many."""
    repair = Repair(Violation.CLOSED_WITHOUT_QUIT, "between mails", {"how": "FIN"}, minor=True)
    sut = Journal(Repeats(1))
    for _ in range(3):
        sut.repaired(record(), repair)
    sut.tell_repeats(all_of_them=True)

    assert [line.split()[1:3] for line in lines.text] == [["INFO", "repair"]] * 3


def test_different_octets_are_different_in_the_log(lines: Lines) -> None:
    """Escapes are unambiguous, so that what was sent can be told from the log."""
    for octets in {words.rstrip(b"\r\n") for words in NASTY.values()}:
        Journal().repaired(record(), Repair(Violation.NOT_A_REPLY, "RCPT", {"reply": octets}))

    values = [dict(fields_of(line))["reply"] for line in lines.text]
    assert len(values) == len(set(values))


def test_lines_said_at_once_are_lines_of_the_log(lines: Lines) -> None:
    """A multiline reply is a line each, every one with its session."""
    Journal().said(record(), "receiver", b"250-mail.example\r\n250 SIZE\r\n")

    assert [fields_of(line)[1:] for line in lines.text] == [
        [("from", "receiver"), ("line", "250-mail.example")],
        [("from", "receiver"), ("line", '"250 SIZE"')],
    ]
    assert {dict(fields_of(line))["session"] for line in lines.text} == {"1a2b-7"}


def test_an_empty_line_is_said_too(lines: Lines) -> None:
    """An empty value is still a value."""
    Journal().said(record(), "sender", b"\r\n")

    (line,) = lines.text
    assert fields_of(line)[2] == ("line", '""')


# -- the JSON form


@nasty
def test_json_has_what_the_peer_sent_under_its_name(lines: Lines, octets: bytes) -> None:
    """One object on one line of ASCII, with the same fields as the text form."""
    Journal().repaired(record(), Repair(Violation.EARLY_REPLY, "mail data", {"reply": octets, "octets": 17}))

    (line,) = lines.json
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert [*found] == ["time", "level", "event", *WHOSE, "repair", "phase", "reply", "octets"]
    assert escaped(octets) == found["reply"]
    assert (
        found["level"],
        found["event"],
        found["session"],
        found["repair"],
        found["phase"],
        found["octets"],
    ) == ("WARNING", "repair", "1a2b-7", "early-reply", "mail data", 17)


@nasty
def test_json_of_what_was_said(lines: Lines, octets: bytes) -> None:
    """One object a line."""
    Journal().said(record(), "sender", octets.replace(b"\n", b"") + b"\r\n")

    (line,) = lines.json
    assert line.isprintable()
    assert [*json.loads(line)] == ["time", "level", "event", "session", "from", "line"]


# -- sessions


def ended_record() -> SessionRecord:
    session = record()
    session.transactions, session.accepted = 2, 1
    session.octets_from_sender, session.octets_to_receiver = 1000, 900
    session.octets_from_receiver, session.octets_to_sender = 300, 200
    session.repairs = Counter([Violation.EARLY_REPLY, Violation.FURTHER_REPLY, Violation.FURTHER_REPLY])
    session.ended_by, session.ended_in, session.seconds = "sender", "QUIT", 1.23456
    session.ended_at = 1767225600.25
    session.sender_tls = "TLSv1.3"
    return session


def log_session(session: SessionRecord) -> None:
    sut = Journal()
    sut.ended(session)
    sut.flush()


def test_a_session_is_one_line(lines: Lines) -> None:
    """Both peers, the figures, each repair with its count, and who ended it in which phase."""
    log_session(ended_record())

    (line,) = lines.text
    assert " INFO session " in line
    assert dict(fields_of(line)) == {
        "session": "1a2b-7",
        "sender": "192.0.2.1:4711",
        "receiver": "127.0.0.1:25",
        "transactions": "2",
        "accepted": "1",
        "octets_from_sender": "1000",
        "octets_to_receiver": "900",
        "octets_from_receiver": "300",
        "octets_to_sender": "200",
        "resumed": "0",
        "repairs": "early-reply:1,further-reply:2",
        "tls": "TLSv1.3/-",
        "ended": "sender/QUIT",
        "seconds": "1.235",
    }


@pytest.mark.parametrize("name", ["x\n2026-01-01T00:00:00.000Z INFO session", "y\\", 'z" accepted="9', "\udcff"])
def test_a_sender_in_the_file_system_is_one_field_whatever_it_is_called(lines: Lines, name: str) -> None:
    """A peer on a Unix socket may bind its own end to any path."""
    session = ended_record()
    session.sender = address_text(f"/run/{name} ")
    log_session(session)

    (line,) = lines.text
    fields = dict(fields_of(line))
    assert len(fields) == len(names_of(line)) == 14
    assert fields["accepted"] == "1"


def test_numbers_are_numbers_in_json(lines: Lines) -> None:
    """The same fields, to be summed up by whoever reads them."""
    log_session(ended_record())

    (line,) = lines.json
    found = json.loads(line)
    assert tuple(found[name] for name in ("transactions", "accepted", "octets_from_sender", "seconds")) == (
        2,
        1,
        1000,
        1.235,
    )


def test_a_session_without_repairs_says_so(lines: Lines) -> None:
    """Every session line has every field."""
    log_session(record())

    assert dict(fields_of(lines.text[0]))["repairs"] == "none"
    assert names_of(lines.text[0]) == [*json.loads(lines.json[0])][3:]


def test_a_phase_of_two_words_is_one_field(lines: Lines) -> None:
    """Quoted, as every value with a blank."""
    session = record()
    session.ended_by, session.ended_in = "receiver", "mail data"
    log_session(session)

    assert dict(fields_of(lines.text[0]))["ended"] == '"receiver/mail data"'


def test_a_session_has_the_time_at_which_it_ended(lines: Lines) -> None:
    """Whenever its line is written."""
    log_session(ended_record())

    assert lines.text[0].startswith("2026-01-01T00:00:00.250Z ")


@pytest.mark.parametrize("event", ["dialogue", "repair", "bug", "trouble"])
def test_lines_stand_in_the_order_of_events(lines: Lines, event: str) -> None:
    """A session's line waits for others, but never behind one of what came later."""
    sut = Journal()
    sut.ended(record())
    match event:
        case "dialogue":
            sut.said(record(), "sender", b"QUIT\r\n")
        case "repair":
            sut.repaired(record(), Repair(Violation.NO_221, "QUIT", {}))
        case "bug":
            sut.failed(record(), an_error())
        case _:
            sut.accept_failed(OSError(errno.EMFILE, "Too many open files"))

    assert [line.split()[2] for line in lines.text][:1] == ["session"]
    assert len(lines.text) == 2


async def test_a_line_waits_for_a_moment_only(lines: Lines, autojump_clock: MockClock) -> None:
    """Whether others come or not."""
    sut = Journal()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sut.flush_forever)
        sut.ended(record())
        assert not lines.text
        await trio.sleep(0.5)
        assert len(lines.text) == 1
        nursery.cancel_scope.cancel()


def test_many_lines_do_not_wait(lines: Lines) -> None:
    """Memory is bounded, however fast they come."""
    sut = Journal()
    for _ in range(1000):
        sut.ended(record())

    assert len(lines.text) >= 700


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR], ids=logging.getLevelName)
def test_the_embedding_program_is_told_at_any_level(lines: Lines, level: int) -> None:
    """Of each session, once, whatever is logged."""
    told: list[SessionRecord] = []
    session = ended_record()
    lossy.log.setLevel(level)
    sut = Journal()
    SafeObserver(sut, sut, told.append).ended(session)
    sut.flush()

    assert [session] == told
    assert len(lines.text) == (level <= logging.INFO)


def test_the_dialogue_is_wanted_at_debug_only(lines: Lines) -> None:
    """So that a session need not tell what nobody logs."""
    assert Journal().wants_dialogue
    lossy.log.setLevel(logging.INFO)
    assert not Journal().wants_dialogue


# -- bugs and troubles


def an_error() -> BaseException:
    try:
        raise AssertionError("never")
    except AssertionError as error:
        return error


def test_a_bug_is_logged_with_its_traceback(lines: Lines) -> None:
    """Below its line in text, within its object in JSON, with the session that it befell."""
    Journal().failed(record(), an_error())

    first, *traceback = lines.text[0].splitlines()
    assert " ERROR bug session=1a2b-7" in first
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-1] == "AssertionError: never"
    (line,) = lines.json
    assert line.isprintable()
    found = json.loads(line)
    assert (found["level"], found["event"], found["session"]) == ("ERROR", "bug", "1a2b-7")
    assert found["traceback"].endswith("AssertionError: never")


def test_a_listeners_trouble_is_a_warning(lines: Lines) -> None:
    """What befell it, in one field."""
    Journal().accept_failed(OSError(errno.EMFILE, "Too many open files"))

    assert fields_of(lines.text[0]) == [("reason", "EMFILE"), ("message", '"cannot accept: Too many open files"')]
    assert " WARNING listener " in lines.text[0]


# -- setting it up


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize("format_name", ["text", "json"])
def test_the_log_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, format_name: str
) -> None:
    """In the form and at the level that were asked for, once, however often it is set up."""
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile"):
        monkeypatch.setattr(logging, name, getattr(logging, name))  # set_up turns them off for the whole process
    log_output.set_up("DEBUG", format_name)
    log_output.set_up("WARNING", format_name)
    log_session(record())
    Journal().repaired(record(), Repair(Violation.EARLY_REPLY, "mail data", {}))

    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == ""
    if format_name == "json":
        assert json.loads(line)["repair"] == "early-reply"
    else:
        assert names_of(line) == [*WHOSE, "repair", "phase"]


def test_the_time_is_utc(lines: Lines) -> None:
    """With milliseconds and a Z, in both forms."""
    made = logging.makeLogRecord({"created": 1769860800.25, "msecs": 250.0, "levelname": "INFO", "msg": "session"})

    assert TextFormatter().format(made) == "2026-01-31T12:00:00.250Z INFO session"
    assert json.loads(JsonFormatter().format(made))["time"] == "2026-01-31T12:00:00.250Z"
    assert lines.text == []


class Away(logging.Handler):
    """A log that cannot be reached."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ConnectionError("syslog is away")


def test_a_handler_that_raises_loses_its_line_and_nothing_else() -> None:
    """Neither the session, nor those whose lines wait with it, nor `serve`."""
    before = lossy.log.handlers[:]
    away = Away()
    lossy.log.handlers[:] = [away]
    try:
        sut = Journal()
        sut.ended(record())
        sut.ended(record())
        sut.flush()
        sut.repaired(record(), Repair(Violation.NO_221, "QUIT", {}))
        sut.accept_failed(OSError(errno.EMFILE, "Too many open files"))
    finally:
        lossy.log.handlers[:] = before


def test_an_observer_that_cannot_say_what_it_wants_is_told_no_dialogue(lines: Lines) -> None:
    """And the session goes on."""

    class Raises(Journal):
        @property
        def wants_dialogue(self) -> bool:
            raise RuntimeError("none")

    assert not SafeObserver(Raises(), Journal()).wants_dialogue
    assert "RuntimeError: none" in "\n".join(lines.text)


def test_what_on_session_raises_stands_behind_the_session(lines: Lines) -> None:
    """In the order of events."""
    sut = Journal()

    def on_session(_: SessionRecord) -> None:
        raise RuntimeError("none")

    SafeObserver(sut, sut, on_session).ended(record())
    assert [line.split()[2] for line in lines.text if line.startswith("20")] == ["session", "observer"]


# -- events


def test_every_event_has_a_token_of_one_word_and_a_meaning() -> None:
    """Operators match the token, and `shimproxy explain` prints the meaning."""
    for each in Event:
        assert re.fullmatch("[a-z]+(_[a-z]+)*", each.value)
        assert re.fullmatch(r"[A-Zs].*\.", each.meaning)
        assert each.level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


# -- mails


def a_mail(**changes: object) -> MailSummary:
    """One with values of every kind."""
    mail = MailSummary(record(), b"MAIL FROM:<a@example.org> SIZE=1\r\n", 1767225600.0)
    mail.recipients.append((b"RCPT TO:<b@example.com>\r\n", b"250 2.1.5 Ok\r\n", True))
    mail.recipient_count = mail.accepted_count = 1
    mail.verdict, mail.verdict_code, mail.at = b"250 2.0.0 Ok: queued as 4XyZ\r\n", 250, "mail data"
    mail.outcome, mail.receiver, mail.ended_at, mail.size = MailOutcome.ACCEPTED, "127.0.0.1:25", 1767225600.25, 17
    for name, value in changes.items():
        setattr(mail, name, value)
    return mail


def log_mail(mail: MailSummary, envelope: LogEnvelope = LogEnvelope.YES) -> None:
    sut = Journal(envelope=envelope)
    sut.mail_ended(mail)
    sut.flush()


def test_a_mail_is_one_line(lines: Lines) -> None:
    """Which answers what became of it, and under which id its receiver knows it."""
    log_mail(a_mail())

    (line,) = lines.text
    assert line.startswith("2026-01-01T00:00:00.250Z INFO mail session=1a2b-7 sender=192.0.2.1:4711 ")
    assert dict(fields_of(line)) == {
        "session": "1a2b-7",
        "sender": "192.0.2.1:4711",
        "receiver": "127.0.0.1:25",
        "outcome": "accepted",
        "at": '"mail data"',
        "verdict_code": "250",
        "verdict": '"250 2.0.0 Ok: queued as 4XyZ"',
        "verdict_by": "receiver",
        "size": "17",
        "repairs": "none",
        "seconds": "0.25",
        "reverse_path": "<a@example.org>",
        "recipient_count": "1",
        "recipients_accepted": "1",
        "recipient": "<b@example.com>",
        "reply": '"250 2.1.5 Ok"',
    }


def test_a_mail_in_json_has_its_recipients_in_a_list(lines: Lines) -> None:
    """And with LMTP each one's own verdict."""
    mail = a_mail(verdicts=(b"250 one\r\n", b"552 two\r\n"), repairs={Violation.EARLY_REPLY: 2})
    mail.recipients += [
        (b"RCPT TO:<no@x>\r\n", b"550 no\r\n", False),
        (b"RCPT TO:<c@x>\r\n", b"250-two\r\n250 lines\r\n", True),
    ]
    log_mail(mail)

    found = json.loads(lines.json[0])
    assert found["repairs"] == {"early-reply": 2}
    assert found["recipients"] == [
        {"recipient": "<b@example.com>", "reply": "250 2.1.5 Ok", "recipient_verdict": "250 one"},
        {"recipient": "<no@x>", "reply": "550 no"},
        {"recipient": "<c@x>", "reply": "250-two / 250 lines", "recipient_verdict": "552 two"},
    ]


NASTY_MAILS = {
    "in MAIL": lambda octets: a_mail(command=b"MAIL FROM:<" + octets + b"@x>\r\n"),
    "instead of MAIL": lambda octets: a_mail(command=octets),
    "in RCPT": lambda octets: a_mail(recipients=[(b"RCPT TO:<" + octets + b">\r\n", b"250 ok\r\n", True)]),
    "instead of RCPT": lambda octets: a_mail(recipients=[(octets, b"250 ok\r\n", True)]),
    "in a reply": lambda octets: a_mail(recipients=[(b"RCPT TO:<a@b>\r\n", b"550 " + octets + b"\r\n", True)]),
    "in the verdict": lambda octets: a_mail(verdict=b"250 " + octets + b"\r\n"),
    "no line end": lambda octets: a_mail(verdict=b"250 " + octets),
}


@nasty
@pytest.mark.parametrize("where", NASTY_MAILS)
@pytest.mark.parametrize("envelope", LogEnvelope)
def test_the_line_of_a_mail_is_the_same_however_it_is_made(
    lines: Lines, octets: bytes, where: str, envelope: LogEnvelope
) -> None:
    """At once or of its fields: one line of the log's form, with no field that a peer has named."""
    mail = NASTY_MAILS[where](octets)
    log_mail(mail, envelope)

    (line,) = lines.text
    assert line.partition(" INFO mail ")[2] == mail_text(mail, envelope)
    names = names_of(line)
    assert set(names) <= {*KEYS, "recipient", "reply"}
    assert len({*names}) == len(names)
    assert json.loads(lines.json[0])["event"] == "mail"
    at_once = mail_json(mail, envelope) or line_json(Event.MAIL, mail.ended_at, mail_fields(mail, envelope))
    assert at_once == lines.json[0]


def test_a_plain_mail_is_a_line_of_json_at_once() -> None:
    """Of its fields it would cost a tenth of what the mail does."""
    assert mail_json(a_mail(), LogEnvelope.YES)


@pytest.mark.parametrize("ended_in", ["-", "QUIT", "mail data", 'X"\\é'])
@pytest.mark.parametrize("via", ["", "192.0.2.9:1", 'unix:/"\x1b\n'])
@pytest.mark.parametrize("repairs", [{}, {Violation.EARLY_REPLY: 2, Violation.NO_CLOSE: 1}], ids=["none", "some"])
def test_the_line_of_a_session_is_the_same_json_however_it_is_made(
    lines: Lines, repairs: dict[Violation, int], via: str, ended_in: str
) -> None:
    session = record()
    session.sender, session.via, session.ended_in = 'unix:/run/\x00"\\\u2028', via, ended_in
    session.sender_tls, session.seconds, session.ended_at = "TLSv1.3", 12.3456, 1767225600.25
    session.octets_from_sender, session.accepted = 10**12, 3
    session.repairs = Counter(repairs)
    for session.observed, seen in ((False, {}), (True, {}), (True, {Violation.EARLY_REPLY: 2})):
        session.seen = Counter(seen)
        sut = Journal()
        sut.ended(session)
        sut.flush()
        assert session_json(session) == lines.json[-1]
        assert ("violations_seen" in json.loads(lines.json[-1])) is session.observed


@pytest.mark.parametrize("socket_path", ["/run/x y", '/run/"x', "/run/a=b"])
def test_a_sender_in_the_file_system_has_mails_too(lines: Lines, socket_path: str) -> None:
    """Its path is one field."""
    mail = a_mail()
    mail.record.sender = address_text(socket_path)
    log_mail(mail)

    assert lines.text[0].partition(" INFO mail ")[2] == mail_text(mail, LogEnvelope.YES)
    assert mail_json(mail, LogEnvelope.YES) == lines.json[0]
    assert names_of(lines.text[0])[:3] == [*WHOSE]


def test_values_of_a_mebibyte_make_lines_of_some_kilobytes(lines: Lines) -> None:
    """Whatever a peer sends."""
    huge = b"a@" * (1 << 19)
    mail = MailSummary(record(), b"MAIL FROM:<%s>\r\n" % huge, 0.0)
    for _ in range(100):
        mail.take_recipient(Command(Verb.RCPT, b"RCPT TO:<%s>\r\n" % huge), Reply(250, b"250 %s\r\n" % huge), False)
    mail.take_verdict(Reply(250, b"250 %s\r\n" % huge), False)
    for envelope in LogEnvelope:
        log_mail(mail, envelope)

    assert max(map(len, lines.text)) < 64 * 1024


def test_hashed_addresses_are_the_same_for_the_same_address(lines: Lines) -> None:
    """In the envelope, and where a reply has them: nowhere as they are."""
    hashed = "<b4c9a289323b21a0>"  # printf %s user@example.com | sha256sum | cut -c1-16
    mail = a_mail(command=b"MAIL FROM:<User@Example.com>\r\n", verdict=b'550 <user@example.com>, "a b"@x: unknown\r\n')
    log_mail(mail, LogEnvelope.HASHED)

    fields = dict(fields_of(lines.text[0]))
    assert fields["reverse_path"] == hashed
    assert hashed in fields["verdict"]
    assert not re.search("@|user", lines.text[0])


def test_without_the_envelope_no_line_has_an_address(lines: Lines) -> None:
    """Neither of a mail, nor of what was said, nor of a repair."""
    log_mail(a_mail(verdict=b"250 kept for b@example.com\r\n"), LogEnvelope.NO)
    sut = Journal(envelope=LogEnvelope.NO)
    sut.said(record(), "sender", b"RCPT TO:<b@example.com>\r\n")
    sut.repaired(record(), Repair(Violation.EARLY_REPLY, "mail data", {"reply": b"550 b@example.com: no\r\n"}))

    assert len(lines.text) == 3
    assert not [line for line in (*lines.text, *lines.json) if "@" in line.replace("@timestamp", "")]
    assert '"550 ...: no"' in lines.text[2]


def test_a_refused_login_is_a_warning_with_the_senders_address(lines: Lines) -> None:
    """Without the receiver's words, which may have the secret in them."""
    Journal().login_refused(record(), "PLAIN", Reply(535, b"535 5.7.8 no: UGFzc3dvcmQ6\r\n"))

    assert " WARNING auth_refused " in lines.text[0]
    assert dict(fields_of(lines.text[0])) == {
        "session": "1a2b-7",
        "sender": "192.0.2.1:4711",
        "receiver": "127.0.0.1:25",
        "mechanism": "PLAIN",
        "code": "535",
        "enhanced_code": "5.7.8",
    }


# -- keys


def test_composites_are_objects_in_json(lines: Lines) -> None:
    """So that no reader has to take words apart."""
    log_session(ended_record())

    found = json.loads(lines.json[0])
    assert found["ended"] == {"by": "sender", "in": "QUIT"}
    assert found["tls"] == {"sender": "TLSv1.3", "receiver": None}
    assert found["repairs"] == {"early-reply": 1, "further-reply": 2}


def keys_in_the_code() -> set[str]:
    """The names that modules give to what they tell."""
    found: set[str] = set()
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if name in ("repaired", "repaired_a_habit") or (name == "tell" and path.parent.name != "daemon"):
                assert isinstance(node, ast.Call)
                found |= {each.arg for each in node.keywords if each.arg}
    return found


@pytest.mark.once
def test_every_key_has_its_meaning() -> None:
    """One, wherever it stands."""
    assert keys_in_the_code() <= {*KEYS}
    assert {name for names in REQUIRED.values() for name in names} <= {*KEYS}


@pytest.mark.once
def test_the_schema_is_that_of_the_code() -> None:
    """`python -m tests.pages` writes it."""
    assert SCHEMA.read_text(encoding="utf-8") == schema_text()


def test_ecs_has_the_names_of_the_schema(lines: Lines) -> None:
    """Of Elastic's; what that has no name for stands below `shimproxy`."""
    log_mail(a_mail())
    Journal().repaired(record(), Repair(Violation.EARLY_REPLY, "mail data", {"reply": b"550 x"}))
    log_session(ended_record())
    Journal().failed(record(), an_error())

    mail, repair, session, bug = [json.loads(line) for line in lines.ecs]
    assert (mail["@timestamp"], mail["log.level"]) == ("2026-01-01T00:00:00.250Z", "info")
    assert mail["source"] == {"address": "192.0.2.1", "ip": "192.0.2.1", "port": 4711}
    assert mail["email"] == {"from": {"address": ["a@example.org"]}, "to": {"address": ["b@example.com"]}}
    assert mail["event"]["outcome"] == "success"
    assert mail["event"]["duration"] == 250_000_000
    assert mail["shimproxy"]["verdict"] == "250 2.0.0 Ok: queued as 4XyZ"
    assert (repair["event"]["action"], repair["event"]["outcome"]) == ("repair", "failure")
    assert session["destination"]["port"] == 25
    assert "Traceback" in bug["error"]["stack_trace"]
