"""A session's record as text: for a person to read, and for `shimproxy ladder` to read back.

Invariants:

1. `read` takes what `written` makes, whole, and nothing else: what is cut or was changed is an error with its line.
2. All of it is printable ASCII; whatever a peer sent is escaped as in the log.

    shimproxy session record 1

    session               26c4-1
    ...
     seconds  from          to             octets  what

    0.000310  receiver  >>> shimproxy          46  reply, answers the connection: 220 tin.pan.alley.com ...

    end of record: 23 entries
"""

from __future__ import annotations

import re
from collections import Counter
from time import gmtime, strftime, strptime
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.session.record import SessionRecord
from shimproxy.session.trace import Entry, Kind, Trace
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.shown import escaped

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_LINE: Final = "shimproxy session record 1"
_COLUMNS: Final = "   seconds  from          to             octets  what"
COUNTS: Final = {
    "transactions": "transactions",
    "accepted": "accepted",
    "resumed": "resumed",
    "octets from sender": "octets_from_sender",
    "octets to sender": "octets_to_sender",
    "octets from receiver": "octets_from_receiver",
    "octets to receiver": "octets_to_receiver",
}
_PARTY = "sender|shimproxy|receiver"
_ENTRY = re.compile(
    rf" *(\d{{1,9}}\.\d{{6}})  ({_PARTY}) +(?:>>> ({_PARTY}))? +(\d{{1,18}})  ([^:]+)(?:: (.*))?", re.ASCII
).fullmatch
_LEFT_OUT = re.compile(r" *\.\.\.  (\d{1,18}) entries of (\d{1,18}) octets were left out", re.ASCII).fullmatch
_BLOCKS = re.compile(r"(\d{1,18}) blocks? until (\d{1,9}\.\d{6})", re.ASCII).fullmatch
_CONNECTION = re.compile(r"connection (\d{1,9})", re.ASCII).fullmatch
_ESCAPED = re.compile(r"(?:[^\\]|\\[\\nrt]|\\x[0-9a-f]{2})*").fullmatch
_CONTENT, _CONTENT_CUT = "            | ", "            |-"
_OF_VIOLATIONS: Final = frozenset({Kind.REPAIR, Kind.SEEN})
_VIOLATIONS = {str(violation): violation for violation in Violation}
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z").fullmatch
_TIME = "%Y-%m-%dT%H:%M:%S"


class NotARecord(ValueError):
    """A text is not a record, or not all of one; the text says in which line."""


def shown(text: bytes) -> str:
    """What was said, on one line of printable ASCII; a slash stands between the lines of a reply."""
    return escaped(text.removesuffix(b"\r\n").replace(b"\r\n", b" / "))


def began_at(record: SessionRecord) -> str:
    """When the session began, to the millisecond, in UTC."""
    milliseconds = round((record.ended_at - record.seconds) * 1000)
    return f"{strftime(_TIME, gmtime(milliseconds // 1000))}.{milliseconds % 1000:03d}Z"


# -- writing


def record_text_of(record: SessionRecord) -> str:
    """The text of a session that is over; its trace, if there is none, is empty."""
    trace = record.trace or Trace()
    lines = [FIRST_LINE, ""]
    lines += (f"{name:<22}{value}".rstrip() for name, value in _header(record))
    lines += ["", _COLUMNS, ""]
    for index, entry in enumerate(trace.entries):
        if trace.left_out and index == trace.first_entries:
            lines.append(f"       ...  {trace.left_out} entries of {trace.left_out_octets} octets were left out")
        lines.append(_entry_line(entry))
        lines += _content_lines(entry.content)
    lines += ["", f"end of record: {len(trace.entries)} entries", ""]
    return "\n".join(lines)


def _header(record: SessionRecord) -> Iterator[tuple[str, str]]:
    yield "session", shown_address(record.id)
    yield "began", began_at(record)
    yield "seconds", f"{record.seconds:.6f}"
    yield "sender", shown_address(record.sender)
    yield "receiver", shown_address(record.receiver)
    for name, field in COUNTS.items():
        yield name, str(getattr(record, field))
    yield "TLS", f"{record.sender_tls}/{record.receiver_tls}"
    yield "repairs", ",".join(f"{each}:{count}" for each, count in record.repairs.items()) or "none"
    if record.observed or record.seen:
        yield "seen", ",".join(f"{each}:{count}" for each, count in record.seen.items()) or "none"
    yield "ended", f"{record.ended_by}/{record.ended_in}"


def shown_address(text: str) -> str:
    """An address, which may be a path, as printable ASCII."""
    return escaped(text.encode("utf-8", "backslashreplace"))


def _entry_line(entry: Entry) -> str:
    to = f">>> {entry.whom}" if entry.who != entry.whom else ""
    what = ", ".join(_words(entry))
    text = f": {shown(entry.text)}" if entry.text else ""
    return f"{entry.seconds:10.6f}  {entry.who:<9} {to:<13} {entry.octets:>11}  {what}{text}"


def _words(entry: Entry) -> Iterator[str]:
    yield entry.kind.value
    if entry.violation:
        yield f"{entry.violation} in {entry.remark}"
    elif entry.remark:
        yield entry.remark
    if entry.blocks:
        yield f"{entry.blocks} block{'s' if entry.blocks > 1 else ''} until {entry.until_seconds:.6f}"
    if entry.connection > 1:
        yield f"connection {entry.connection}"


def _content_lines(content: bytes) -> Iterator[str]:
    *lines, last = content.split(b"\n")
    for line in lines:
        yield _CONTENT + escaped(line + b"\n")
    if last:
        yield _CONTENT_CUT + escaped(last)


# -- reading


def read(text: str) -> SessionRecord:
    """The record, with its trace. Raises NotARecord."""
    *lines, rest = text.split("\n")
    record = _Reader(lines, rest).record()
    for number, (line, own) in enumerate(zip(lines, record_text_of(record).split("\n"), strict=False), 1):
        if line != own:
            raise NotARecord(f"line {number}: not in the form of a record")
    return record


def read_head(text: str) -> SessionRecord:
    """What stands before the trace, of a record of which no more need be here. Raises NotARecord."""
    *lines, rest = text.split("\n")
    return _Reader(lines or [rest], "").head()


def moment_of(second: str) -> float:
    """A second as the name of a file has it, in seconds since 1970. Raises ValueError."""
    from calendar import timegm

    return timegm(strptime(second, "%Y%m%dT%H%M%S"))


@attrs.define(eq=False)
class _Reader:
    """Takes a text apart, line by line."""

    _lines: list[str]
    _rest: str
    """What stands behind the last line end."""
    _number: int = 0
    """Of the line that was read last, from 1 on."""

    def head(self) -> SessionRecord:
        self._expect(FIRST_LINE, "expected at the beginning of a record; is this a file from --record?")
        self._expect("")
        return self._read_header()

    def record(self) -> SessionRecord:
        record = self.head()
        for line in ("", _COLUMNS, ""):
            self._expect(line)
        record.trace = trace = self._read_entries()
        count = f"end of record: {len(trace.entries)} entries"
        self._expect(count, "entries are missing")
        if self._number < len(self._lines) or self._rest:
            self._number += 1
            raise self._wrong("there is more after the end of the record")
        return record

    def _next(self) -> str:
        if self._number == len(self._lines):
            self._number += 1
            raise self._wrong("the record is cut off here")
        line = self._lines[self._number]
        self._number += 1
        if not (line.isascii() and (line.isprintable() or not line)):
            raise self._wrong("these characters cannot be in a record")
        return line

    def _wrong(self, what: str) -> NotARecord:
        return NotARecord(f"line {self._number}: {what}")

    def _expect(self, line: str, remark: str = "") -> None:
        if self._next() != line:
            raise self._wrong(f"not {line!r}" + (f": {remark}" if remark else ""))

    def _value(self, name: str) -> str:
        line = self._next()
        value = line[22:]
        if f"{name:<22}{value}".rstrip() != line:
            raise self._wrong(f"expected '{name}' here")
        return value

    def _read_header(self) -> SessionRecord:
        session = self._value("session")
        began = self._time(self._value("began"))
        seconds = self._number_of(self._value("seconds"))
        record = SessionRecord(session, self._text(self._value("sender")), self._text(self._value("receiver")))
        record.seconds, record.ended_at = seconds, began + seconds
        for name, field in COUNTS.items():
            setattr(record, field, int(self._number_of(self._value(name))))
        record.sender_tls, record.receiver_tls = self._pair(self._value("TLS"))
        record.repairs = self._repairs(self._value("repairs"))
        if self._number < len(self._lines) and self._lines[self._number].startswith("seen "):
            record.seen, record.observed = self._repairs(self._value("seen")), True
        record.ended_by, record.ended_in = self._pair(self._value("ended"))
        return record

    def _time(self, value: str) -> float:
        try:
            if not _MOMENT(value):
                raise ValueError
            from calendar import timegm  # no worker reads records, and this comes with half a MiB

            return timegm(strptime(value[:-5], _TIME)) + int(value[-4:-1]) / 1000
        except ValueError:
            raise self._wrong(f"{value!r} is not a time") from None

    def _number_of(self, value: str) -> float:
        if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{6})?", value):
            raise self._wrong(f"{value!r} is not a number")
        return float(value) if "." in value else int(value)

    def _pair(self, value: str) -> tuple[str, str]:
        first, slash, second = value.partition("/")
        if not slash:
            raise self._wrong(f"{value!r} is not a pair")
        return first, second

    def _repairs(self, value: str) -> Counter[Violation]:
        repairs: Counter[Violation] = Counter()
        for each in value.split(",") if value != "none" else ():
            name, _, count = each.partition(":")
            repairs[self._violation(name)] = int(self._number_of(count))
        return repairs

    def _violation(self, name: str) -> Violation:
        violation = _VIOLATIONS.get(name)
        if violation is None:
            raise self._wrong(f"{name!r} is not in the catalogue; was this written by a newer shimproxy?")
        return violation

    def _text(self, value: str) -> str:
        return self._octets(value).decode("utf-8", "backslashreplace")

    def _octets(self, value: str) -> bytes:
        """What `escaped` has made this of."""
        if not _ESCAPED(value):
            raise self._wrong("a backslash without an escape")
        return value.encode("ascii").decode("unicode_escape").encode("latin-1")

    # -- entries

    def _read_entries(self) -> Trace:
        trace = Trace()
        while line := self._next():
            if line.startswith((_CONTENT, _CONTENT_CUT)) and trace.entries:
                trace.entries[-1].content += self._content(line)
            elif left_out := _LEFT_OUT(line):
                trace.first_entries = len(trace.entries)
                trace.left_out, trace.left_out_octets = int(left_out[1]), int(left_out[2])
            else:
                trace.entries.append(self._entry(line))
        return trace

    def _content(self, line: str) -> bytes:
        octets = self._octets(line[len(_CONTENT) :])
        cut = line.startswith(_CONTENT_CUT) or octets.endswith(b"\n")
        return octets if cut else octets + b"\r\n"

    def _entry(self, line: str) -> Entry:
        found = _ENTRY(line)
        kind, *words = found[5].split(", ") if found else ("",)
        if found is None or kind not in list(Kind):
            raise self._wrong("not an entry of a record")
        entry = Entry(float(found[1]), found[2], found[3] or found[2], Kind(kind), int(found[4]))
        entry.text = self._octets(found[6] or "")
        for word in words:
            if blocks := _BLOCKS(word):
                entry.blocks, entry.until_seconds = int(blocks[1]), float(blocks[2])
            elif connection := _CONNECTION(word):
                entry.connection = int(connection[1])
            elif entry.kind in _OF_VIOLATIONS:
                name, _, entry.remark = word.partition(" in ")
                entry.violation = self._violation(name)
            else:
                entry.remark = word
        if _entry_line(entry) != line or (entry.kind in _OF_VIOLATIONS) != (entry.violation is not None):
            raise self._wrong("not in the form of a record")
        return entry
