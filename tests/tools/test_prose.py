"""The English that people read keeps to the rules, and the rules find what breaks them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pages import pages
from tests.prose import PACKAGE, Text, faults_of, texts_of_code, texts_of_entries, texts_of_page, texts_of_transcripts

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.once

MODULES = sorted(PACKAGE.rglob("*.py"))


# -- the rules


@pytest.mark.parametrize(
    "words",
    [
        "send EHLO again behind STARTTLS",
        "the receiver goes, and the sender is drained",
        "mail goes round",
        "sessions go on without records",
        "nobody can repair that",
        "it is of no use here",
        "the shim closes the connection",
        "read the settings anew",
        "remove it, or leave it away",
        "it is no socket",
        "unless told otherwise",
        "sessions come to an end",
        " ".join(["word"] * 21),
        " ".join(["word"] * 13) + "; " + " ".join(["word"] * 13),
    ],
)
def test_what_breaks_a_rule_is_found(words: str) -> None:
    assert list(faults_of(Text("here", words)))


@pytest.mark.parametrize(
    "words",
    [
        "shimproxy runs behind a load balancer",
        "the mail goes to the next receiver",
        "the receiver disconnects after its greeting",
        "there is no log, and it is no longer necessary",
        " ".join(["word"] * 20),
        " ".join(["word"] * 12) + ": " + " ".join(["word"] * 13),
    ],
)
def test_what_keeps_to_them_is_not(words: str) -> None:
    assert not list(faults_of(Text("here", words)))


def test_a_semicolon_ends_a_sentence_of_a_message_alone() -> None:
    words = " ".join(["word"] * 13) + "; " + " ".join(["word"] * 13)

    assert not list(faults_of(Text("here", words, clauses=True)))


# -- what is read


def test_every_text_of_a_module_is_read_and_no_docstring() -> None:
    source = (
        '"""A docstring."""\n'
        "def f(x):\n"
        '    """Another one."""\n'
        "    print(f\"one {x} and {g('two words')}\"\n"
        '          " joined")\n'
        '    raise AssertionError("a bug of ours")\n'
        'A = ("oneword", "250 a reply", "<p>in a page</p>")\n'
    )

    assert [text.words for text in texts_of_code(source, "m.py")] == ["one X and X joined", "two words", "in a page"]
    assert [text.where for text in texts_of_code(source, "m.py")] == ["m.py:4", "m.py:4", "m.py:7"]


def test_every_text_of_a_page_is_read_and_no_code() -> None:
    page = (
        "# A heading\n\nOne `of code` and\n[a link](there) more.\n\n    code alone\n    more of it\n\n"
        "- an item\n- the next\n  goes over\n\n```\nfenced code\n```\n\n| a cell | and another |\n"
    )

    found = [text.words for text in texts_of_page(page, "p.md")]
    assert found == [
        "A heading",
        "One X and a link more.",
        "an item",
        "the next goes over",
        "a cell",
        "and another",
    ]


# -- all of it


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_module_says_keeps_to_the_rules(path: Path) -> None:
    faults = [fault for text in texts_of_code(path.read_text(), path.name) for fault in faults_of(text)]

    assert not faults, "\n".join(map(str, faults))


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_what_a_page_says_keeps_to_the_rules(path: Path) -> None:
    faults = [fault for text in texts_of_page(path.read_text(), path.name) for fault in faults_of(text)]

    assert not faults, "\n".join(map(str, faults))


def test_what_explain_says_keeps_to_the_rules() -> None:
    faults = [fault for text in texts_of_entries() for fault in faults_of(text)]

    assert not faults, "\n".join(map(str, faults))


def test_the_captions_of_transcripts_keep_to_the_rules() -> None:
    faults = [fault for text in texts_of_transcripts() for fault in faults_of(text)]

    assert not faults, "\n".join(map(str, faults))
