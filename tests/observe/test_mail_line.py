"""The line of a mail as nearly all are is that which any other way of making it makes, octet for octet."""

from __future__ import annotations

import logging
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from shimproxy.observe.envelope import LogEnvelope
from shimproxy.observe.events import Event
from shimproxy.observe.formats import FORMATS, field_words, formatter_of, time_text
from shimproxy.observe.journal import Journal
from shimproxy.observe.json_lines import line_json, usual_json
from shimproxy.observe.lossy import log
from shimproxy.observe.mail_line import mail_fields, usual_line, usual_of
from shimproxy.observe.text_lines import FileHandler
from shimproxy.session.mail_account import MOST_OCTETS_KEPT, MailOutcome, summary
from shimproxy.session.record import SessionRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shimproxy.session.mail_account import UsualMail

PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789.-+_=@/"
NASTY = (
    b"",
    b" ",
    b'"',
    b"\\",
    b"<",
    b">",
    b":",
    b"=",
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"\t",
    b"\x1b",
    b"\x7f",
    b"\x80",
    b"\xff",
)
NASTY_TEXTS = ("", " ", '"', "=", "é", "\\x0a")


class Making:
    """Values as peers give them, most of them plain."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def octets(self, most: int = 20) -> bytes:
        octets = bytes(self.random.choices(PLAIN, k=self.random.randrange(most)))
        return octets + self.random.choice(NASTY) + octets[:3] if self.random.random() < 0.05 else octets

    def text(self, usual: str) -> str:
        return usual + self.random.choice(NASTY_TEXTS) if self.random.random() < 0.1 else usual

    def command(self, verb: bytes) -> bytes:
        if self.random.random() < 0.05:
            return self.octets() + b"\r\n"
        most = 2 * MOST_OCTETS_KEPT if self.random.random() < 0.05 else 20
        parameters = b" SIZE=" + self.octets() if self.random.random() < 0.3 else b""
        return verb + b":<" + self.octets(most) + b"@x>" + parameters + b"\r\n"

    def reply(self) -> bytes:
        if self.random.random() < 0.1:
            return b"250-" + self.octets() + b"\r\n250 " + self.octets() + b"\r\n"
        return b"250 " + self.octets() + self.random.choice((b" ", b"")) + self.octets() + b"\r\n"

    def mail(self) -> UsualMail:
        number = self.random.randrange(50)
        record = SessionRecord(f"1a2b-{number}", f"192.0.2.1:{number}{NASTY_TEXTS[number % 17 % len(NASTY_TEXTS)]}")
        record.via = "" if number % 4 else f"unix:/run/{NASTY_TEXTS[number % len(NASTY_TEXTS)]}"
        ended_at = 1767225600 + self.random.random() * 3
        began_at = ended_at - self.random.choice((0.0, -1.0, 0.0005, self.random.random(), self.random.random() * 1000))
        others = [(self.command(b"RCPT TO"), self.reply()) for _ in range(self.random.choice((0, 0, 0, 1, 2, 19)))]
        return (
            record,
            self.text(f"192.0.2.2:{self.random.randrange(3)}"),
            self.reply(),
            self.random.randrange(10**9),
            began_at,
            ended_at,
            self.command(b"MAIL FROM"),
            1 + len(others),
            self.command(b"RCPT TO"),
            self.reply(),
            others,
        )


@pytest.mark.parametrize("batch", range(8))
def test_a_usual_line_is_that_of_the_fields(batch: int) -> None:
    """As text and as JSON; where anything has to be escaped there is none."""
    made = 0
    for seed in range(batch * 250, batch * 250 + 250):
        mail = Making(seed).mail()
        told = summary(mail)
        fields = mail_fields(told, LogEnvelope.YES)
        line, of_json = usual_line(mail), usual_json(mail)
        assert line in ("", f"{time_text(told.ended_at)} INFO mail {field_words(fields)}")
        assert of_json in ("", line_json(Event.MAIL, told.ended_at, fields))
        made += bool(line) + bool(of_json)
    assert made > 100  # or nothing is shown


@pytest.mark.parametrize("batch", range(4))
def test_so_is_the_line_of_a_mail_that_was_not_accepted(batch: int) -> None:
    """As far as it can be made at once."""
    made = 0
    for seed in range(batch * 250, batch * 250 + 250):
        making = Making(seed)
        told = summary(making.mail())
        told.outcome, told.accepted_count = making.random.choice([*MailOutcome]), making.random.randrange(3)
        told.verdict_code, told.verdict_is_own = making.random.choice((250, 451, 554)), making.random.random() < 0.5
        told.at = making.random.choice(("mail data", "RCPT", "DATA"))
        fields = mail_fields(told, LogEnvelope.YES)
        if usual := usual_of(told):
            line, of_json = usual_line(usual), usual_json(usual)
            assert line in ("", f"{time_text(told.ended_at)} INFO mail {field_words(fields)}")
            assert of_json in ("", line_json(Event.MAIL, told.ended_at, fields))
            made += bool(line) + bool(of_json)
    assert made > 100


def test_what_is_kept_of_lines_has_a_bound() -> None:
    """However many senders and recipients there are: 3,000 mails more would add some MiB."""
    tracemalloc.start()
    try:
        octets = []
        for first in (0, 3000):
            for seed in range(first, first + 3000):
                mail = Making(seed).mail()
                usual_line(mail)
                usual_json(mail)
            octets.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert octets[1] - octets[0] < 200_000


@pytest.fixture
def written(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where the log goes, in the form that the test asks for."""
    before = log.handlers[:], log.level, log.propagate
    path = tmp_path / "log"
    with path.open("w", encoding="utf-8") as stream:
        handler = FileHandler(stream)
        handler.setFormatter(formatter_of(request.param))
        log.handlers[:], log.propagate = [handler], False
        log.setLevel(logging.INFO)
        yield path
        log.handlers[:], log.propagate = before[0], before[2]
        log.setLevel(before[1])


@pytest.mark.parametrize("written", FORMATS, indirect=True)
@pytest.mark.parametrize("envelope", LogEnvelope)
def test_the_log_has_the_same_line_of_a_usual_mail_and_of_its_summary(written: Path, envelope: LogEnvelope) -> None:
    """In each form, with addresses as they are, hashed or left out."""
    mails = [Making(seed).mail() for seed in range(100)]
    sut = Journal(envelope=envelope)
    for mail in mails:
        sut.usual_mail_ended(mail)
    sut.flush()
    usual = written.read_text(encoding="utf-8")
    for mail in mails:
        sut.mail_ended(summary(mail))
    sut.flush()

    assert len(usual.splitlines()) == len(mails)
    assert written.read_text(encoding="utf-8") == usual * 2
