"""The line of a mail, by real programs: what its sender was told, and the id by which its receiver knows it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shimproxy.faulty.receiving import HOST
from shimproxy.observe.keys import json_schema
from tests.daemon.test_supervisor import running
from tests.peers.mail import SMALL
from tests.peers.opensmtpd import opensmtpd
from tests.peers.programs import swaks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.once

_TYPES = {"string": str, "integer": int, "number": int | float, "object": dict, "array": list, "null": type(None)}


def breaches(value: Any, schema: Any, place: str = "line") -> list[str]:
    """Where a value is not as a schema has it: the part of JSON Schema that ours is made of."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    found = []
    if kinds and not any(isinstance(value, _TYPES[kind]) for kind in kinds):
        return [f"{place}: {value!r} is none of {kinds}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: {value!r} is none of {schema['enum']}")
    if isinstance(value, dict):
        found += [f"{place}: no {name}" for name in schema.get("required", []) if name not in value]
        further = schema.get("additionalProperties", {})
        for name, each in value.items():
            its = schema.get("properties", {}).get(name, further)
            found += [f"{place}: {name}"] if its is False else breaches(each, its, f"{place}.{name}")
    for each in value if isinstance(value, list) else []:
        found += breaches(each, schema.get("items", {}), f"{place}[]")
    for rule in schema.get("allOf", []):
        if value["event"] == rule["if"]["properties"]["event"]["const"]:
            found += breaches(value, rule["then"], place)
    return found


def test_the_log_has_the_queue_id_of_opensmtpd(tmp_path: Path) -> None:
    """And each line is as the JSON Schema says."""
    with opensmtpd() as receiver:
        text = f'listen = "{HOST}:0"\nreceiver = "{HOST}:{receiver.port}"\nlog-format = "json"\nlog-level = "debug"\n'
        with running(tmp_path, text) as run:
            swaks(run.ports[0], SMALL)

            def lines() -> list[dict[str, Any]]:
                return [json.loads(line) for line in run.log.splitlines()]

            run.logged('"event": "session"')
            found = lines()
    (mail,) = [each for each in found if each["event"] == "mail"]
    assert mail["outcome"] == "accepted"
    said = [each["line"] for each in found if each["event"] == "said" and each["from"] == "receiver"]
    assert mail["verdict"] in said
    assert mail["verdict"].startswith("250 2.0.0 ")
    assert " Message accepted for delivery" in mail["verdict"]
    assert mail["recipients"][0]["reply"].startswith("250 ")
    assert mail["size"] > 0
    assert [breach for each in found for breach in breaches(each, json_schema())] == []
