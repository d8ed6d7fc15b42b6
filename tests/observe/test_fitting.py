"""Lines that are longer than a reader takes: they are shortened where they are long, and can be read all the same."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from shimproxy.observe.composites import Pairs
from shimproxy.observe.fitting import fitted
from shimproxy.observe.formats import FORMATS, formatter_of
from shimproxy.observe.lossy import log
from shimproxy.smtp.shown import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = 8096
OBJECTS = [name for name in FORMATS if name != "text"]


def record(fields: Mapping[str, object], error: BaseException | None = None) -> logging.LogRecord:
    raised = (type(error), error, error.__traceback__) if error else None
    return log.makeRecord(log.name, logging.INFO, "", 0, "mail", (), raised, extra={"fields": fields})


def line(given: logging.LogRecord, format_name: str, most: int = MOST) -> bytes:
    formatter = formatter_of(format_name)
    return fitted(given, lambda each: formatter.format(each).encode(), most)


def fields_of(octets: bytes, format_name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(octets)
    return found if format_name == "json" else found["shimproxy"]


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_fits_is_as_it_was(format_name: str) -> None:
    given = record({"reply": "x" * 1000, "count": 7})
    assert line(given, format_name) == formatter_of(format_name).format(given).encode()


@pytest.mark.parametrize("format_name", OBJECTS)
@pytest.mark.parametrize("length", [*range(395, 410), 100_000])
def test_a_long_value_is_cut_and_no_escape_in_it(format_name: str, length: int) -> None:
    """What is left of it was said as it stands there."""
    value = escaped(b"a" * (length % 4) + b"\x1b\\\n\xe9" * length)
    octets = line(record({"reply": value, "said": value, "count": 7}), format_name, 4000)
    assert len(octets) <= 4000
    found = fields_of(octets, format_name)
    assert found["count"] == 7
    assert found["reply"].endswith("...")
    kept = found["reply"].removesuffix("...")
    assert value.startswith(kept)
    assert re.fullmatch(r"(?:[^\\]|\\x[0-9a-f]{2}|\\n|\\\\)+", kept)


@pytest.mark.parametrize("format_name", OBJECTS)
def test_all_recipients_stay_for_as_long_as_they_can(format_name: str) -> None:
    def recipients(length: int) -> int:
        pairs = Pairs({"recipient": f"<{number:02}@{'r' * length}>", "reply": "x" * length} for number in range(20))
        octets = line(record({"recipient_count": 30, "recipients": pairs}), format_name)
        assert len(octets) <= MOST
        found = fields_of(octets, format_name)
        assert found["recipient_count"] == 30
        assert [each["recipient"][:3] for each in found["recipients"]] == [f"<{n:02}" for n in range(len(pairs))][
            : len(found["recipients"])
        ]
        return len(found["recipients"])

    assert recipients(50) == 20
    assert recipients(100_000) >= 10


@pytest.mark.parametrize("format_name", FORMATS)
def test_of_a_traceback_the_end_stays(format_name: str) -> None:
    """There the error stands."""
    try:
        raise ValueError("x" * 100_000 + " it is this")
    except ValueError as error:
        octets = line(record({"session": "1a2b-1"}, error), format_name)
    assert len(octets) <= MOST
    assert b" it is this" in octets
    if format_name != "text":
        found = json.loads(octets)
        assert (found["traceback"] if format_name == "json" else found["error"]["stack_trace"]).startswith("...")


def test_what_can_not_be_made_to_fit_is_cut() -> None:
    assert len(line(record({f"key{number}": "x" for number in range(10_000)}), "json")) == MOST


def test_the_record_stays_as_it_was() -> None:
    """Other handlers may have it too."""
    given = record({"reply": "x" * 100_000})
    line(given, "json")
    assert given.__dict__["fields"] == {"reply": "x" * 100_000}
