"""The pages of the documentation: package data, so that a wheel and a container have them too."""

from __future__ import annotations

import ast
import builtins
import re
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from shimproxy.help.markdown import Heading, parse_page, plain
from shimproxy.observe.events import Event
from tests.pages import DOCS, MADE, README, blocks, pages, rewritten, table, write

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.once

TITLE_MOST_OCTETS = 56
every_page = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
every_page_of_help = pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)


def test_there_are_pages() -> None:
    """They are found where the package is, so that the tests below can't pass on nothing."""
    assert "contributing.md" in [page.name for page in pages()]


@every_page_of_help
def test_a_page_begins_with_its_title(page: Path) -> None:
    """`shimproxy help` lists it beside the page's name, in a line of 80 columns; it is the only one of its level."""
    text = page.read_text(encoding="utf-8")
    titles = [line for line in text.splitlines() if line.startswith("# ")]

    assert text.startswith("# ")
    assert len(titles[0]) <= TITLE_MOST_OCTETS


# -- links


def anchors(page: Path) -> set[str]:
    """What a link to a place on a page may name, as GitHub makes it of the headings."""
    headings = [
        plain(block.text) for block in parse_page(page.read_text(encoding="utf-8")) if isinstance(block, Heading)
    ]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading on it."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            there = page.parent / file if file else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


@pytest.mark.skipif(not README.exists(), reason="installed, so that there is no README")
def test_readme_leads_to_every_page_and_is_short() -> None:
    """At most 200 lines."""
    text = README.read_text(encoding="utf-8")

    missing = [page.name for page in DOCS.glob("*.md") if f"(shimproxy/docs/{page.name})" not in text]
    assert not missing, "add it to README.md, to the list below All pages"
    assert text.count("\n") <= 200


# -- what is named

PACKAGE = DOCS.parent
NODES = [node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
FUNCTIONS = {node.name for node in NODES if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
CLASSES = {node.name for node in NODES if isinstance(node, ast.ClassDef)}
METHODS = {
    f"{node.name}.{method.name}"
    for node in NODES
    if isinstance(node, ast.ClassDef)
    for method in node.body
    if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
}


@pytest.mark.parametrize("page", ["design.md", "adding.md", "contributing.md"])
def test_what_a_page_names_of_the_code_is_there(page: str) -> None:
    """Files, folders, classes, methods, and functions with more than one word in their names."""
    text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)

    for named in re.findall(r"`(\w[\w/.]*)`", text):
        if "/" in named or named.endswith(".py"):
            assert (PACKAGE.parent / named).exists() or [*PACKAGE.rglob(named)], named
        elif re.fullmatch(r"[A-Z]\w+\.\w+", named):
            assert named in METHODS, named
        elif re.fullmatch(r"[A-Z]+[a-z]\w*", named):
            assert named in CLASSES or hasattr(builtins, named), named
        elif re.fullmatch(r"_?[a-z]+_[a-z_]+", named):
            assert named in FUNCTIONS or named in {event.value for event in Event}, named


# -- what is made


@every_page
def test_what_is_made_from_the_code_stands_there(page: Path) -> None:
    """Each block is what the code prints; `python -m tests.pages` writes it there."""
    for name, (kind, inside) in blocks(page.read_text(encoding="utf-8")).items():
        if kind == "made":
            assert dedent(inside).strip("\n") == MADE[name]().strip("\n"), "run python -m tests.pages"


def test_every_block_that_is_made_stands_in_a_page() -> None:
    """And no marker names what nobody makes, or is without its end."""
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    found = [name for text in texts for name, (kind, _) in blocks(text).items() if kind == "made"]

    assert set(found) == set(MADE)
    assert sum(text.count("<!-- made:") for text in texts) == len(found)


def test_a_block_is_written_between_its_markers() -> None:
    """What is around it stays, and so do other blocks."""
    text = "a\n<!-- made: one -->\nold\n<!-- end -->\nb\n<!-- measured: two -->\nkept\n<!-- end -->\n"

    new = rewritten(text, {"one": "new\n"})

    assert new == text.replace("old\n", "\nnew\n\n")
    assert rewritten(new, {"one": "new\n"}) == new


def test_a_block_in_a_list_is_indented_as_its_markers_are() -> None:
    text = "- a\n\n  <!-- made: a.conf -->\n  <!-- end -->\n"

    new = rewritten(text, {"a.conf": "one\n\n two\n"})

    assert new == "- a\n\n  <!-- made: a.conf -->\n\n  one\n\n   two\n\n  <!-- end -->\n"


def test_a_block_without_markers_is_told() -> None:
    """Where no page has its markers."""
    with pytest.raises(ValueError, match="no page has a block nowhere"):
        write({"nowhere": "text"})


def test_a_cell_may_hold_what_ends_one() -> None:
    """A bar."""
    assert table(["a"], [["x|y"]]).splitlines()[-1] == r"| x\|y |"
