"""The code blocks of the pages: commands, units, settings, programs. Each is run by a test, or says why it is not.

The line of a fence has the language of the block, and then one of these:

- a name: tests take the block from there by `blocks(PAGE, NAME)`, and tests/tools/test_blocks.py holds that one does
- `unrun: REASON`

A block of `text` needs neither: it is something to look at.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.help.markdown import Code, Item, parse_page
from tests.pages import DOCS, README, pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from shimproxy.help.markdown import PageBlock

UNRUN: Final = "unrun:"


@attrs.frozen
class Block:
    """A block of code on a page."""

    page: str
    """The name of the page's file without its suffix."""
    language: str
    name: str
    """Nothing where it has none."""
    reason: str
    """Why no test runs it; nothing where one does."""
    text: str


def every_block() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in pages() for block in of_page(page)]


def of_page(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    for code in _codes(parse_page(page.read_text(encoding="utf-8"))):
        language, _, rest = code.info.partition(" ")
        reason = rest.removeprefix(UNRUN).strip() if rest.startswith(UNRUN) else ""
        name = "" if rest.startswith(UNRUN) else rest
        yield Block(page.stem, language, name, reason, "".join(f"{line}\n" for line in code.lines))


def _codes(parsed: Iterable[PageBlock]) -> Iterator[Code]:
    for block in parsed:
        if isinstance(block, Code):
            yield block
        elif isinstance(block, Item):
            yield from _codes(block.blocks)


def blocks(page: str, *patterns: str) -> dict[str, str]:
    """The blocks of a page whose names match one of the patterns, as in a shell; at least one for each pattern.

    Calls stand in the tests with texts as arguments, no variables: tests/tools/test_blocks.py reads them there.
    """
    path = README if page == "README" else DOCS / f"{page}.md"
    named = {block.name: block.text for block in of_page(path) if block.name}
    for pattern in patterns:
        assert fnmatch.filter(named, pattern), f"{path.name} has no block {pattern!r}"
    return {name: text for name, text in named.items() if any(fnmatch.fnmatch(name, each) for each in patterns)}
