"""The catalogue of violations: one name each, and the page of violations is made of it."""

from __future__ import annotations

import inspect
import marshal
import re
import sys

import pytest

from shimproxy.smtp.catalogue import Entries, Violation

BY = {"receiver", "sender", "receiver or sender"}

every_violation = pytest.mark.parametrize("violation", Violation, ids=str)


def test_names_are_unique() -> None:
    """No two members share a name: enum would make the second an alias of the first."""
    members = Violation.__members__.values()

    assert len(members) == len({violation.value for violation in members})


@every_violation
def test_a_name_is_written_alike_everywhere(violation: Violation) -> None:
    """Kebab-case in logs, the same words in code; and the name leads back to the member."""
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", violation.value)
    assert violation.name == violation.value.upper().replace("-", "_")
    assert violation.value == str(violation)
    assert violation.value == f"{violation}"
    assert violation is Violation.__members__[violation.name]


@every_violation
def test_a_violation_says_who_what_and_how(violation: Violation) -> None:
    """Who does it, which rule it breaks, and what the shim does about it."""
    assert violation.by in BY
    assert re.match(r"(RFC \d+( |, )|PROXY protocol, section |Postfix XCLIENT_README, )", violation.rule)
    assert violation.repair.strip()
    assert "\n" not in violation.repair


@pytest.mark.parametrize("part", Entries.__bases__, ids=lambda part: part.__name__)
def test_python_does_not_load_what_only_explain_says(part: type) -> None:
    """The strings below the entries, which no process that serves should pay for; what it says, it has."""
    module = sys.modules[part.__module__]
    loaded = marshal.dumps(compile(inspect.getsource(module), part.__module__, "exec"))

    assert b"Tell the " not in loaded
    assert b"RFC 5321 " in loaded
