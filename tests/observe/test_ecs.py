"""The log as the Elastic Common Schema has it: each field that is not ours is one of theirs, with its type and values.

What is theirs is written down here, of what is used: https://www.elastic.co/guide/en/ecs/8.11/ecs-field-reference.html.
Elasticsearch refuses a line with a value that is not of its field's type.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from shimproxy.faulty.receiving import HOST, speaking
from shimproxy.observe.events import Event
from shimproxy.observe.formats import EcsFormatter
from shimproxy.observe.keys import json_schema
from shimproxy.observe.lossy import log
from tests.daemon.test_supervisor import Session, running
from tests.observe.test_journal import an_error
from tests.whole.test_mail_lines import breaches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shimproxy.faulty.talk import Talk

VERSION: Final = "8.11.0"
OWN: Final = "shimproxy"
"""A custom field set, which none of the schema's is called by (its "Custom Fields")."""
FIELDS: Final = {
    "@timestamp": "date",
    "message": "match_only_text",
    "ecs.version": "keyword",
    "log.level": "keyword",
    "event.kind": "keyword",
    "event.category": "keyword[]",
    "event.outcome": "keyword",
    "event.action": "keyword",
    "event.module": "keyword",
    "event.dataset": "keyword",
    "event.duration": "long",
    "service.type": "keyword",
    "source.address": "keyword",
    "source.ip": "ip",
    "source.domain": "keyword",
    "source.port": "long",
    "destination.address": "keyword",
    "destination.ip": "ip",
    "destination.domain": "keyword",
    "destination.port": "long",
    "email.from.address": "keyword[]",
    "email.to.address": "keyword[]",
    "error.stack_trace": "wildcard",
}
"""Field -> its type; with [] one of which its definition says that it is an array."""
ALLOWED: Final = {
    "event.kind": {"alert", "asset", "enrichment", "event", "metric", "state", "pipeline_error", "signal"},
    "event.category": {
        *("api", "authentication", "configuration", "database", "driver", "email", "file", "host", "iam"),
        *("intrusion_detection", "library", "malware", "network", "package", "process", "registry", "session"),
        *("threat", "vulnerability", "web"),
    },
    "event.outcome": {"failure", "success", "unknown"},
}
"""Where the schema has the values too."""
REQUIRED: Final = {"@timestamp", "message", "ecs.version", "log.level"}
"""The two of each event, by the schema's "base" and "ecs", and those of each line of a log, by ecs-logging's spec."""


def leaves(value: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Each field by its whole name: a name with dots is the same as objects in objects."""
    for name, each in value.items():
        if isinstance(each, dict) and before + name != OWN:
            yield from leaves(each, f"{before}{name}.")
        else:
            yield before + name, each


def is_of(kind: str, value: object) -> bool:
    if kind.endswith("[]"):
        return isinstance(value, list) and all(is_of(kind.removesuffix("[]"), each) for each in value)
    if kind == "long":
        return type(value) is int and -(2**63) <= value < 2**63
    if not isinstance(value, str):
        return False
    if kind == "date":
        return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value))
    if kind == "ip":
        return "%" not in value and bool(ipaddress.ip_address(value))
    return True


def faults(line: str) -> list[str]:
    """What is not as the schema has it."""
    found = json.loads(line)
    fields = dict(leaves(found))
    wrong = [f"no {name}" for name in REQUIRED - {*fields}]
    if fields["ecs.version"] != VERSION:
        wrong.append(f"version {fields['ecs.version']}")
    for name, value in fields.items():
        if name == OWN:
            if not isinstance(value, dict):
                wrong.append(f"{name} is {value!r}")
            continue
        if name not in FIELDS or not is_of(FIELDS[name], value):
            wrong.append(f"{name} is {value!r}")
        elif name in ALLOWED and not {*(value if isinstance(value, list) else [value])} <= ALLOWED[name]:
            wrong.append(f"{name} is {value!r}, which is not allowed")
    return wrong


def line(event: Event, fields: dict[str, object], error: BaseException | None = None) -> str:
    raised = (type(error), error, error.__traceback__) if error else None
    made = log.makeRecord(log.name, event.level, "", 0, event.value, (), raised, extra={"fields": fields})
    return EcsFormatter().format(made)


@pytest.mark.parametrize("event", Event)
def test_a_line_of_each_event_is_as_the_schema_has_it(event: Event) -> None:
    assert faults(line(event, {"address": "192.0.2.1:25"}, an_error())) == []
    assert faults(line(event, {})) == []


@pytest.mark.parametrize(
    ("address", "end"),
    [
        ("192.0.2.1:4711", {"address": "192.0.2.1", "ip": "192.0.2.1", "port": 4711}),
        ("[2001:db8::1]:25", {"address": "2001:db8::1", "ip": "2001:db8::1", "port": 25}),
        ("[fe80::1%eth0]:25", {"address": "fe80::1%eth0", "ip": "fe80::1", "port": 25}),
        ("mail.example:25", {"address": "mail.example", "domain": "mail.example", "port": 25}),
        ("1.2.3:25", {"address": "1.2.3", "domain": "1.2.3", "port": 25}),
        ("unix:/run/x", {"address": "unix:/run/x"}),
        ("unix:/run/x:25", {"address": "unix:/run/x:25"}),
        ("local", {"address": "local"}),
        ("-", None),
    ],
)
def test_an_end_of_a_connection_is_an_address_and_a_name_or_an_ip(address: str, end: dict[str, object] | None) -> None:
    """As the schema says of `source.address`; a scope is of no `ip`."""
    made = line(Event.SESSION, {"sender": address, "receiver": address})

    assert faults(made) == []
    assert json.loads(made).get("source") == json.loads(made).get("destination") == end


def takes_one(talk: Talk) -> None:
    """Offers AUTH and refuses it; of the recipients it takes those of one domain."""
    talk.say(b"220 hello\r\n")
    while True:
        line = talk.line().upper()
        known = {b"EHLO": b"250-here\r\n250 AUTH PLAIN", b"AUTH": b"535 5.7.8 no", b"DATA": b"354 go on"}
        talk.say((b"550 no" if b"@NO" in line else known.get(line[:4], b"250 ok")) + b"\r\n")


def test_what_a_run_logs_is_as_the_schema_has_it(tmp_path: Path) -> None:
    """A mail that is accepted and one that is not, a repair, a refused login, the dialogue, start, reload and stop."""
    with speaking(takes_one) as receiver:
        text = f'listen = "{HOST}:0"\nreceiver = "{HOST}:{receiver.port}"\nlog-level = "debug"\nlog-format = "ecs"\n'
        with running(tmp_path, text) as run:
            with Session(run.ports[0]) as session:
                session.say(b"EHLO x", b"250")
                session.say(b"AUTH PLAIN AGEAYg==", b"535")
                session.say(b"MAIL FROM:<a@b.example>", b"250")
                session.sock.sendall(b"RCPT TO:<b@no.example>\n")
                session.expect(b"550")
                session.say(b"RSET", b"250")
                session.mail()
            run.logged('"action": "session"')
            run.reload(words='"action": "reloaded"')
        lines = run.log.splitlines()
    assert [fault for each in lines for fault in faults(each)] == []
    found = [json.loads(each) for each in lines]
    actions = {each["event"]["action"] for each in found}
    assert actions >= {"mail", "session", "repair", "auth_refused", "said", "start", "reloaded", "stopping"}
    assert {each["event"]["outcome"] for each in found if each["event"]["action"] == "mail"} == {"success", "failure"}
    for each in found:
        fields = {"time": each["@timestamp"], "level": each["log.level"].upper(), "event": each["event"]["action"]}
        assert breaches(fields | each.get(OWN, {}), json_schema()) == []
