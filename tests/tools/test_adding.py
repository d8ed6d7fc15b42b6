"""What is declared once is found everywhere: settings in every place, keywords and counters where they work.

And the recipes of docs/adding.md name files that are there.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest

from shimproxy.cli.parser import parser_of
from shimproxy.config.listener import Listener
from shimproxy.config.options import OPTIONS
from shimproxy.config.settings import Settings
from shimproxy.config.sources import Sources
from shimproxy.help.explain.transcript import Transcript
from shimproxy.help.explain.words import words
from shimproxy.net.address import Address
from shimproxy.net.receiver_state import ReceiverStates
from shimproxy.observe.metrics import FAMILIES, Metrics, exposition
from shimproxy.probe.account import Account
from shimproxy.probe.questions import QUESTIONS
from shimproxy.service.wiring import listener_contexts
from shimproxy.session.capabilities import Capabilities
from shimproxy.session.counter import counters_of
from shimproxy.session.keywords import KEYWORDS
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.policy import EarlyTalk, ReceiverTls, Repairs, SessionSettings
from shimproxy.session.record import SessionRecord
from shimproxy.session.setting import settings_of
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.ehlo import NEVER_OFFERED
from shimproxy.smtp.newlines import Newlines
from tests.pages import DOCS

if TYPE_CHECKING:
    from shimproxy.config.options import Option
    from shimproxy.net.driver import Readiness

ADDING = (DOCS / "adding.md").read_text(encoding="utf-8")
ROOT = DOCS.parents[1]
RECIPES = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", ADDING, re.MULTILINE | re.DOTALL))
MOST_FILES = 3


# -- the recipes


def test_there_are_recipes() -> None:
    assert {*RECIPES} == {"A setting", "A counter", "An EHLO keyword", "A question of the probe", "A violation"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_takes_three_files_at_most_and_they_are_there(recipe: str) -> None:
    steps = re.findall(r"^\d\. .*(?:\n   .*)*", RECIPES[recipe], re.MULTILINE)

    assert 1 <= len(steps) <= MOST_FILES
    for path in re.findall(r"`((?:shimproxy|tests)/[\w./]+)`", RECIPES[recipe]):
        assert (ROOT / path).exists(), path


# -- settings

NOT_AN_OPERATORS = {"max_size_by_domain", "trace", "files_read", "names"}
"""Fields of Settings that have no setting of their own: `max-size` sets the first, only programs set the others."""
every_option = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)


def test_every_field_that_an_operator_may_set_is_declared() -> None:
    undeclared = {field.name for field in attrs.fields(Settings) if not settings_of(field)}
    assert undeclared == NOT_AN_OPERATORS


@every_option
def test_a_setting_is_in_every_place(option: Option) -> None:
    """A flag of `run`, a variable, a key of a file, and a row of the page; a secret is no flag."""
    parser = parser_of(["run"])
    (commands,) = [each for each in parser._actions if each.choices]
    flags = {flag for action in cast("Any", commands.choices)["run"]._actions for flag in action.option_strings}
    shown = "\n".join(Sources.gather({}, {}).as_file())
    page = (DOCS / "settings.md").read_text(encoding="utf-8")

    assert (f"--{option.name}" in flags) is not option.secret
    assert Sources.gather({}, {option.variable: "x"}).given.keys() == {option.name}
    assert re.search(rf"^(# |\[)?{option.name}\b", shown, re.MULTILINE)
    assert re.search(rf"`({option.variable}|--(\[no-\])?{option.name})[ `]", page)


def test_a_setting_of_sessions_comes_to_every_policy_as_it_was_given() -> None:
    """None of them is copied by its name."""
    given: dict[str, Any] = {
        "deadlines": Deadlines(reply=7),
        "limits": Limits(transactions=7),
        "early_talk": EarlyTalk.REFUSE,
        "newlines": Newlines.PASS,
        "receiver_tls": ReceiverTls.REQUIRED,
        "repairs": Repairs.REPAIR,  # for it is the receiver's TLS that can't be observed
    }
    for field in attrs.fields(SessionSettings):
        if field.name not in given:
            given[field.name] = not field.default
    with socket.socket() as sock:
        found = listener_contexts(
            Settings(receiver="127.0.0.1:25", **given),
            {sock: Listener(Address("", 0))},
            cast("Readiness", None),
            ReceiverStates(),
        )

    assert {name: getattr(found[sock].policy, name) for name in given} == given


# -- counters


@pytest.mark.parametrize("name", counters_of(SessionRecord))
def test_a_field_that_is_declared_to_count_is_counted(name: str) -> None:
    """Its family is known, and has the number of the field."""
    metrics, record = Metrics(), SessionRecord("1", "192.0.2.1:1", "192.0.2.2:25")
    counter = counters_of(SessionRecord)[name]
    if counter.labelled is None:
        setattr(record, name, 7)
        metrics.ended(record)
        labels = ",".join(f'{label}="{value}"' for label, value in zip(counter.labels, counter.values, strict=True))
        said = exposition(metrics.counted, "1")
        assert f"shimproxy_{counter.family}{'{' + labels + '}' if labels else ''} 7\n" in said
    assert FAMILIES[counter.family].labels == counter.labels


def test_fields_with_labels_of_their_own_are_counted() -> None:
    metrics, record = Metrics(), SessionRecord("1", "192.0.2.1:1", "192.0.2.2:25")
    record.replies[2] = 7
    record.repairs = Counter({Violation.EARLY_REPLY: 3})
    metrics.ended(record)

    said = exposition(metrics.counted, "1").splitlines()
    assert 'shimproxy_replies_total{code="2xx"} 7' in said
    assert 'shimproxy_repairs_total{violation="early-reply",receiver="192.0.2.2:25"} 3' in said


# -- questions of the probe


@pytest.mark.parametrize("name", [question.name for question in QUESTIONS])
def test_what_a_question_has_seen_is_in_the_account_and_its_json(name: str) -> None:
    account = Account("192.0.2.1:25")
    assert name in {field.name for field in attrs.fields(Account)}
    assert "left_out" in account.as_json()[name]


# -- keywords


def test_a_keyword_has_one_entry() -> None:
    names = [keyword.name for keyword in KEYWORDS]
    assert len({*names}) == len(names)
    assert not NEVER_OFFERED & {*names}
    assert all(name == name.upper() for name in names)


@pytest.mark.parametrize("switch", [keyword.switches for keyword in KEYWORDS if keyword.switches])
def test_what_a_keyword_switches_is_there(switch: str) -> None:
    assert hasattr(Capabilities, switch)


# -- violations

WORDS = words()
PLACES = "\n".join(
    path.read_text(encoding="utf-8")
    for room in ("smtp", "session")
    for path in sorted((ROOT / "shimproxy" / room).rglob("*.py"))
)


@pytest.mark.parametrize("violation", Violation, ids=str)
def test_a_violation_is_an_entry_a_place_that_sees_it_and_a_dialogue(violation: Violation) -> None:
    """The entry leads to the dialogue, which tests/help and tests/session play; and the page has its line."""
    page = (DOCS / "violations.md").read_text(encoding="utf-8")

    assert re.search(rf"\bViolation\.{violation.name}\b", PLACES)
    assert f"\n| `{violation}` | {violation.by} | {violation.rule} | " in page
    assert Transcript.named(WORDS[violation].example).caption
