"""Recorded sessions as `--record` writes them, and as `shimproxy ladder` reads and draws them (records/text.py)."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Final

from shimproxy.records import session_ladder
from shimproxy.records import text as record_text
from shimproxy.records.files import name_of
from shimproxy.records.ladder import drawn
from shimproxy.records.mermaid import mermaid
from shimproxy.records.pcapng import pcapng
from shimproxy.records.record_json import record_as_json
from shimproxy.records.text import NotARecord, read, record_text_of
from shimproxy.session.record import SessionRecord
from shimproxy.session.trace import Entry, Kind, Trace
from shimproxy.smtp.catalogue import Violation
from tests.fuzz.target import Target, joined

if TYPE_CHECKING:
    from collections.abc import Sequence


def _record(*entries: Entry) -> str:
    record = SessionRecord("26c4-1", "127.0.0.1:5000", "unix:/run/\xfc")
    record.ended_at, record.seconds = 1.75e9, 1.5
    record.transactions, record.octets_to_sender = 1, 86
    record.repairs = Counter({Violation.EARLY_REPLY: 2, Violation.LONG_LINE: 1})
    record.ended_by, record.ended_in = "sender", "QUIT"
    record.trace = Trace()
    record.trace.entries.extend(entries)
    return record_text_of(record)


def _lines() -> list[str]:
    mail = Entry(0.25, "sender", "shimproxy", Kind.MAIL_DATA, 536, content=b"Subject: a mail\r\n\r\nline\npart")
    mail.blocks, mail.until_seconds = 3, 0.5
    again = Entry(1.25, "shimproxy", "receiver", Kind.CONNECTION, 0, b"192.0.2.1:25")
    again.connection = 2
    repair = Entry(1.0, "shimproxy", "shimproxy", Kind.REPAIR, 0, b"code: 552")
    repair.violation, repair.remark = Violation.EARLY_REPLY, "mail data"
    command = Entry(0.0, "sender", "shimproxy", Kind.COMMAND, 6, b"DATA\r\n")
    reply = Entry(0.125, "receiver", "shimproxy", Kind.REPLY, 30, b"250-a\r\n250 \xff\\\r\n", remark="answers DATA")
    return [_record(), _record(command, reply, mail, repair, again, Entry(1.5, "sender", "shimproxy", Kind.FIN))]


_TEXTS: Final = [text.encode() for text in _lines()]
_WORDS = (
    *sorted({line + b"\n" for text in _TEXTS for line in text.split(b"\n") if len(line) < 200}),
    *(
        b"       ...  5 entries of 86 octets were left out\n",
        b"            | text\n",
        b"            |-part\n",
        b"\\x",
        b"\\\\",
    ),
    *(
        b"0",
        b"9" * 18,
        b".000000",
        b"1.500000",
        b"none",
        b"2024-02-30",
        b":60",
        b":61",
        b", ",
        b": ",
        b" in ",
        b"\\x0a",
    ),
    *(
        b" blocks until 1.000000",
        b"connection 2",
        b"early-reply:0",
        b"\xff",
        b"\n",
        b"\\r\\n",
        b"0000-",
        b"0001-",
        b"-00",
    ),
)


def check(octets: bytes, pieces: Sequence[bytes]) -> None:
    """What is read is written the same again, to the octet; and whatever can be read can be drawn."""
    text = octets.decode("latin-1")
    try:
        record = read(text)
    except NotARecord as error:
        if not str(error).startswith("line "):
            raise RuntimeError("the error names no line") from error
        return
    again = record_text_of(record)
    assert again == text, f"read, and written as {again!r}"
    for line in drawn(session_ladder.ladder_of(record), 80):
        assert line.isprintable() or not line, line
    name_of(record)
    for line in mermaid(record):
        assert line.isascii(), line
        assert line.isprintable(), line
    json.dumps(record_as_json(record))
    assert len(b"".join(pcapng([record]))) % 4 == 0


def _run(pieces: Sequence[bytes]) -> None:
    octets = bytes(joined(pieces))
    head, _, _ = _TEXTS[0].partition(b"\nend of record")
    for text in (octets, head + octets):
        with contextlib.suppress(NotARecord):
            read(text.decode("latin-1"))


TARGETS = (
    Target(
        name="records",
        parsers=(record_text, session_ladder),
        check=check,
        run=_run,
        words=_WORDS,
        seeds=tuple(_TEXTS),
        most_octets=3000,
    ),
)
