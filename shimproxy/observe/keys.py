"""The keys of the log's lines: what each means, wherever it stands, and the JSON Schema that follows from that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.observe.events import Event

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_SECONDS: Final = {"type": "number", "minimum": 0}
_COUNTS: Final = {"type": "object", "additionalProperties": _COUNT}
_SIDE: Final = {"type": ["string", "null"]}
_LEVELS: Final = ["DEBUG", "INFO", "WARNING", "ERROR"]


@attrs.frozen
class Key:
    """What a key means, and what its values are."""

    about: str
    schema: Mapping[str, object]


def _text(about: str) -> Key:
    return Key(about, _TEXT)


def _count(about: str) -> Key:
    return Key(about, _COUNT)


def _seconds(about: str) -> Key:
    return Key(about, _SECONDS)


def _sides(about: str, *names: str) -> Key:
    properties: dict[str, object] = {name: _SIDE for name in names}
    return Key(about, {"type": "object", "properties": properties, "required": [*names], "additionalProperties": False})


_RECIPIENT: Final = {
    "type": "object",
    "properties": {"recipient": _TEXT, "reply": _TEXT, "recipient_verdict": _TEXT},
    "required": ["reply"],
    "additionalProperties": False,
}

KEYS: Final[dict[str, Key]] = {
    # of every line
    "time": _text("When it was, in UTC (RFC 3339)."),
    "level": Key("How much it matters.", {"enum": _LEVELS}),
    "event": Key("What it reports.", {"enum": [each.value for each in Event]}),
    "message": _text("Words for people, which may change."),
    "traceback": _text("Where shimproxy failed."),
    # of sessions and mails
    "session": _text("The session; the same in all of its lines and in the name of its record."),
    "sender": _text("The address of the sender."),
    "via": _text("The address of the proxy that has named the sender."),
    "receiver": _text("The address of the receiver; `-` before there is a connection."),
    "transactions": _count("Mail data that got a reply."),
    "accepted": _count("Mail data that the receiver accepted."),
    "octets_from_sender": _count("Octets that came from the sender."),
    "octets_to_receiver": _count("Octets that went to the receiver."),
    "octets_from_receiver": _count("Octets that came from the receiver."),
    "octets_to_sender": _count("Octets that went to the sender."),
    "resumed": _count("Fresh connections to the receiver: by `--resume`, or to another receiver before MAIL."),
    "repairs": Key("Each violation that was repaired, and how often.", _COUNTS),
    "violations_seen": Key("Violations that were passed on as they came, by name, and how often.", _COUNTS),
    "tls": _sides("The version of TLS on both connections; `opaque` where it passes unread.", "sender", "receiver"),
    "ended": _sides("Who ended the session (sender, receiver or shim), and in which phase.", "by", "in"),
    "seconds": _seconds("How long the session or the mail took."),
    "outcome": Key(
        "What became of the mail.", {"enum": ["accepted", "partly", "refused", "deferred", "cut", "abandoned"]}
    ),
    "at": _text("The command that the reply answers, or `mail data`."),
    "verdict_code": _count("The code of the reply that decided."),
    "verdict": _text("That reply; ` / ` stands between its lines."),
    "verdict_by": Key("Who gave that reply.", {"enum": ["receiver", "shimproxy"]}),
    "size": _count("Mail data in octets, as the sender sent them, without their end."),
    "reverse_path": _text("The address in MAIL, in angle brackets."),
    "recipient_count": _count("RCPT commands that were answered."),
    "recipients_accepted": _count("Those that were answered with 2yz."),
    "recipients": Key(
        "The first 20 of them. In text each has its own `recipient`, `reply` and, with LMTP, `recipient_verdict`.",
        {"type": "array", "items": _RECIPIENT, "maxItems": 20},
    ),
    "mechanism": _text("The mechanism that AUTH named; `other` if it is not a known one."),
    "seen": _text("What was seen of a receiver that seems to want other settings, in a word."),
    "enhanced_code": _text("The enhanced status code of the reply (RFC 3463)."),
    "from": Key("Who said the line.", {"enum": ["sender", "receiver", "shimproxy"]}),
    "line": _text("What was said, escaped."),
    # of repairs
    "repair": _text("The violation, by its name in the catalogue."),
    "violation": _text("The violation that was passed on as it came, by its name."),
    "phase": _text("What the session was doing."),
    "count": _count("How often that was."),
    "code": _count("The code of the reply."),
    "reply": _text("The reply, escaped."),
    "said": _text("What the peer said, escaped."),
    "rule": _text("The rule that has corrected a reply."),
    "given": _text("The corrected reply that the sender was given, escaped."),
    "first": _text("The first of several such replies, escaped."),
    "octets": _count("The length of what the repair is about."),
    "octets_forwarded": _count("Mail data that the receiver took."),
    "octets_drained": _count("Mail data that shimproxy read and dropped."),
    "octets_taken": _count("Mail data that shimproxy had read when it refused the mail."),
    "chunk_octets": _count("The length of the chunk."),
    "bare_lf": _count("Bare LFs."),
    "bare_cr": _count("Bare CRs."),
    "nul": _count("NULs."),
    "first_octet": _count("How many octets of the mail data stand before the first of these."),
    "first_line": _count("The line of the first of these, from 1; only within the first 64 KiB."),
    "newlines": _text("The setting that says what becomes of these."),
    "early_talk": _text("The setting that says what becomes of what was said."),
    "verb": _text("The command."),
    "commands": _count("Commands that had no reply."),
    "behind": _text("The command that the sender did not wait after."),
    "to": _text("What had no reply."),
    "waited_for": _text("What did not come in time."),
    "how": _text("How it ended: FIN or RST of a connection, the status of a worker."),
    "leg": Key("Which connection.", {"enum": ["sender", "receiver"]}),
    "reason": _text("Why: a name of an error, or words."),
    "limit": _text("The limit that was reached, by its name in the settings."),
    "last_sender": _text("The address of the last sender above the limit."),
    "destination": _text("Where the sender wanted to connect."),
    "what": _text("What the sender said that is not SMTP."),
    "mend": _text("What to do about it."),
    # of the process
    "sender_tls": _text("What is done about TLS with senders."),
    "lines": _count("Lines that are missing."),
    "lost": _count("Records of sessions that were not written."),
    "address": _text("Where shimproxy listens."),
    "workers": _count("Workers that serve."),
    "retiring": _count("Workers that only finish their sessions."),
    "grace_seconds": _seconds("How long open sessions have to finish."),
    "pid": _count("The process."),
    "after_seconds": _seconds("How long it ran."),
    "pause_seconds": _seconds("When the next one starts."),
    "silent_seconds": _seconds("How long it has said nothing."),
    "while": _text("What failed: an event, or a part of the supervisor."),
}
"""Every key, in the order of the page."""

_ALWAYS: Final = ("time", "level", "event")
_OF_SESSION: Final = ("session", "sender", "receiver")
REQUIRED: Final[dict[Event, tuple[str, ...]]] = {
    Event.SAID: ("session", "from", "line"),
    Event.SESSION: (
        *_OF_SESSION,
        "transactions",
        "accepted",
        "octets_from_sender",
        "octets_to_receiver",
        "octets_from_receiver",
        "octets_to_sender",
        "resumed",
        "repairs",
        "tls",
        "ended",
        "seconds",
    ),
    Event.MAIL: (
        *_OF_SESSION,
        "outcome",
        "size",
        "repairs",
        "seconds",
        "recipient_count",
        "recipients_accepted",
    ),
    Event.AUTH_REFUSED: (*_OF_SESSION, "mechanism", "code"),
    Event.REPAIR: ("session", "repair", "phase"),
    Event.SEEN: ("session", "violation", "phase"),
    Event.REPEATS: ("repair", "receiver", "count"),
    Event.LOST: ("lines",),
}
"""What a line of an event always has, beside what every line has."""


def json_schema() -> dict[str, object]:
    """The schema of a line with `--log-format json` (JSON Schema, draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of shimproxy's log",
        "type": "object",
        "properties": {name: {"description": key.about, **key.schema} for name, key in KEYS.items()},
        "required": [*_ALWAYS],
        "additionalProperties": False,
        "allOf": [
            {"if": {"properties": {"event": {"const": event.value}}}, "then": {"required": [*names]}}
            for event, names in REQUIRED.items()
        ],
    }
