"""How a line of the log looks: text, JSON, or JSON as the Elastic Common Schema has it.

An event has fields, which the journal gives (journal.py); their names are the keys in JSON, and do not change.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import time
from typing import TYPE_CHECKING, Final

from shimproxy.net.address import UNIX, ip_address
from shimproxy.observe.composites import field_word

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMATS: Final = ("text", "json", "ecs")
_ECS_VERSION: Final = "8.11.0"
_FAILURES: Final = frozenset({"repair", "seen", "auth_refused"})
_OUTCOMES: Final = {"accepted": "success", "partly": "unknown"}
"""Of a mail, as ECS says it; any other is a failure."""


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00Z WARNING repair session=... repair=early-reply ...`; syslog has a time of its own."""

    def __init__(self, *, timed: bool = True) -> None:
        super().__init__()
        self._timed = timed

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, if any, follows it."""
        line = f"{record.levelname} {record.getMessage()}"
        if self._timed:
            line = f"{timestamp(record)} {line}"
        if fields := getattr(record, "fields", None):
            line = f"{line} {field_words(fields)}"
        return f"{line}\n{traceback}" if (traceback := traceback_of(record)) else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] = {
            "time": timestamp(record),
            "level": record.levelname,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if traceback := traceback_of(record):
            fields["traceback"] = traceback
        return json.dumps(fields)


class EcsFormatter(logging.Formatter):
    """One JSON object a line, with the field names of the Elastic Common Schema.

    What that has no name for stands in `shimproxy`, with the names of JsonFormatter.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] = dict(getattr(record, "fields", {}))
        event = record.getMessage()
        line: dict[str, object] = {
            "@timestamp": timestamp(record),
            "log.level": record.levelname.lower(),
            "message": f"{event} {field_words(fields)}".rstrip(),
            "ecs.version": _ECS_VERSION,
            "event": {"kind": "event", "module": "shimproxy", "dataset": "shimproxy.log", "action": event},
            "service": {"type": "shimproxy"},
        }
        _put_ecs(line, event, fields)
        if fields:
            line["shimproxy"] = fields
        if traceback := traceback_of(record):
            line["error"] = {"stack_trace": traceback}
        return json.dumps(line)


def _put_ecs(line: dict[str, object], event: str, fields: dict[str, object]) -> None:
    """Move what ECS has names for."""
    told = line["event"]
    assert isinstance(told, dict)
    for key, name in (("sender", "source"), ("receiver", "destination")):
        if end := _ecs_end(str(fields.get(key, ""))):
            line[name] = end
    if isinstance(seconds := fields.get("seconds"), int | float):
        told["duration"] = int(seconds * 1_000_000_000)
    if event == "mail":
        told |= {"category": ["email"], "outcome": _OUTCOMES.get(str(fields.get("outcome")), "failure")}
        email: dict[str, object] = {}
        if path := str(fields.get("reverse_path", "")).strip("<>"):
            email["from"] = {"address": [path]}
        if isinstance(recipients := fields.get("recipients"), list):
            addresses = [each["recipient"].strip("<>") for each in recipients if "recipient" in each]
            email |= {"to": {"address": addresses}} if addresses else {}
        if email:
            line["email"] = email
    elif event in _FAILURES:
        told["outcome"] = "failure"


def _ecs_end(address: str) -> dict[str, object] | None:
    """One end of a connection, by its address in the log: HOST:PORT, [HOST]:PORT, or the path of a socket."""
    host, colon, port = address.rpartition(":")
    if not address or address == "-":
        return None
    if address.startswith(UNIX) or not (colon and port.isdecimal()):
        return {"address": address}
    host = host.removeprefix("[").removesuffix("]")
    # Without a scope: Elasticsearch takes no line with an `ip` that it can't read.
    ip = ip_address(host)
    return {"address": host, **({"ip": str(ip)} if ip else {"domain": host}), "port": int(port)}


def formatter_of(format_name: str, *, timed: bool = True) -> logging.Formatter:
    """The formatter of one of FORMATS."""
    match format_name:
        case "json":
            return JsonFormatter()
        case "ecs":
            return EcsFormatter()
        case _:
            return TextFormatter(timed=timed)


_PLAIN: Final = logging.Formatter()


def traceback_of(record: logging.LogRecord) -> str:
    """The traceback that a line has with it; empty if there is none."""
    if not record.exc_info:
        return ""
    return record.exc_text or _PLAIN.formatException(record.exc_info)


def timestamp(record: logging.LogRecord) -> str:
    """The time of a line, as in RFC 3339."""
    return time_text(record.created)


def time_text(at: float) -> str:
    """The same of a time in seconds since 1970."""
    seconds, milliseconds = divmod(math.floor(at * 1000), 1000)
    return f"{second_text(seconds)}.{milliseconds:03d}Z"


@functools.lru_cache(maxsize=2)
def second_text(seconds: int) -> str:
    """The time without what is less than a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def field_words(fields: Mapping[str, object]) -> str:
    """NAME=VALUE for each of them, with quotes where a reader needs them."""
    if "recipients" not in fields:
        text = " ".join([f"{name}={value}" for name, value in fields.items()])
        # Few lines need any, and to look for that in the whole costs a third of what it costs in each.
        if text.count(" ") < len(fields) and '"' not in text and "= " not in text and text[-1:] != "=":
            return text
    return " ".join([field_word(name, value) for name, value in fields.items()])
