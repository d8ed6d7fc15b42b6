"""The words of the violations: strings of the catalogue, read from its source."""

from __future__ import annotations

import re

import pytest

from shimproxy.help.explain.words import NotAsAgreed, Program, Words, strings_below, words, words_of
from shimproxy.smtp.catalogue import Violation

ALL = """The receiver hums.

It hums while it thinks. No
mail is lost.

It stops then.

Programs:
- Hummer (npm), before pull request 7: hums in C, then in G
  (issue 9)
- Buzz: hums (its source)

Tell the operator of the receiver:
Your server hums: that is against RFC 5321.
Please stop.

No peer: it takes a choir

Example: humming"""


class Declared:
    """Attributes with and without a string below them."""

    first: int = 1
    """What the first is.

    It has two paragraphs.
    """
    second = 2
    third: str
    """What the third is."""

    def method(self) -> None:
        """Do nothing."""


def test_every_violation_has_words() -> None:
    assert [*words()] == [*Violation]


def test_strings_are_found_below_what_they_tell_of() -> None:
    assert strings_below(Declared) == {
        "first": "What the first is.\n\nIt has two paragraphs.",
        "third": "What the third is.",
    }


def test_words_are_read() -> None:
    """Each part on one line, however it was wrapped; paragraphs without a label say what it means."""
    assert words_of(ALL) == Words(
        summary="The receiver hums.",
        means="It hums while it thinks. No mail is lost. It stops then.",
        programs=(
            Program(
                program="Hummer (npm)",
                version="before pull request 7",
                does="hums in C, then in G",
                source="issue 9",
            ),
            Program(program="Buzz", does="hums", source="its source"),
        ),
        to="the operator of the receiver",
        tell="Your server hums: that is against RFC 5321. Please stop.",
        no_peer="it takes a choir",
        example="humming",
    )


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        pytest.param("Example: humming", "", "'The receiver hums.': no example", id="no example"),
        pytest.param("Tell the operator", "Ask the operator", "'The receiver hums.': no tell", id="no label"),
        pytest.param("Tell the operator of the receiver:", "Tell:", "'The receiver hums.': no to", id="whom"),
        pytest.param(" (its source)", "", "'Buzz: hums': write PROGRAM, VERSION: what it does", id="no source"),
        pytest.param("Buzz: ", "Buzz ", "'Buzz hums (its source)': write PROGRAM", id="no colon"),
    ],
)
def test_what_is_missing_is_said(written: str, instead: str, said: str) -> None:
    with pytest.raises(NotAsAgreed, match=re.escape(said)):
        words_of(ALL.replace(written, instead))
