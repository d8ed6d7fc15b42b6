"""The Markdown of the pages, as blocks: what `shimproxy help` prints and man pages are made of.

It knows what the pages use: headings, paragraphs, lists, fenced and indented code, tables, and comments, which nobody
sees. In a line of text: `code`, **strong**, *stressed*, and links.
"""

from __future__ import annotations

import enum
import re
import textwrap
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator


class SpanStyle(enum.Enum):
    """How a span of text is set off from the text around it."""

    PLAIN = enum.auto()
    CODE = enum.auto()
    STRONG = enum.auto()
    STRESSED = enum.auto()


@attrs.frozen
class Span:
    """A piece of text in one style."""

    text: str
    style: SpanStyle = SpanStyle.PLAIN


Text = tuple[Span, ...]


@attrs.frozen
class Heading:
    """A heading; the title of a page is of level 1."""

    level: int
    text: Text


@attrs.frozen
class Paragraph:
    """Text that is filled."""

    text: Text


@attrs.frozen
class Code:
    """Lines that stand as they are."""

    lines: tuple[str, ...]
    info: str = ""
    """What stands behind the fence: a language, and what else; nothing for indented code."""


@attrs.frozen
class Table:
    """A head, and rows of as many cells."""

    head: tuple[Text, ...]
    rows: tuple[tuple[Text, ...], ...]

    def below(self, row: tuple[Text, ...]) -> list[Text]:
        """The cells of a row after its first one, for a list: the short ones in one text, each after its head.

        The last one stands alone where its column is of longer texts than the others, but not in a comparison, whose
        first column has no head.
        """
        cells = list(zip(self.head, row, strict=True))[1:]
        alone = [cells.pop()[1]] if self._ends_in_prose else []
        named = [(Span(f"{plain(head)}: "), *cell) for head, cell in cells if cell]
        joined = [named[0] + tuple(span for each in named[1:] for span in (Span("; "), *each))] if named else []
        return [text for text in (*joined, *alone) if text]

    @property
    def _ends_in_prose(self) -> bool:
        columns = [sum(len(plain(cell)) for cell in column) for column in zip(*self.rows, strict=True)]
        return len(columns) == 2 or (bool(self.head[0]) and columns[-1] > _PROSE * max(columns[1:-1], default=0))


@attrs.frozen
class Item:
    """An entry of a list; its mark is "-", or a number with a dot."""

    mark: str
    blocks: tuple[PageBlock, ...]


PageBlock = Heading | Paragraph | Code | Table | Item

_PROSE: Final = 2
"""How many times longer than any other column one is that needs no head."""
_COMMENT: Final = re.compile(r"^[ ]*<!--.*?-->[ ]*\n?", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"(#{1,6}) +(.*)").fullmatch
_FENCE: Final = re.compile(r"(```+) *(.*)").match
_ITEM: Final = re.compile(r"([-*]|\d+\.)( +)").match
_CELLS: Final = re.compile(r"(?<!\\)\|")


def parse_page(page: str) -> list[PageBlock]:
    """The blocks of a page."""
    return list(_blocks(_COMMENT.sub("", page).split("\n")))


def _blocks(lines: list[str]) -> Iterator[PageBlock]:
    at = 0
    while at < len(lines):
        line = lines[at]
        end = at + 1
        if not line.strip():
            pass
        elif fence := _FENCE(line):
            while end < len(lines) and not lines[end].startswith(fence[1]):
                end += 1
            yield Code(tuple(lines[at + 1 : end]), fence[2].strip())
            end += 1
        elif line.startswith("    "):
            end = _while_indented(lines, end, 4)
            yield Code(tuple(textwrap.dedent("\n".join(lines[at:end])).rstrip("\n").split("\n")))
        elif heading := _HEADING(line):
            yield Heading(len(heading[1]), inline(heading[2]))
        elif line.startswith("|"):
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            head, _, *rows = (_cells(each) for each in lines[at:end])
            yield Table(head, tuple(rows))
        elif item := _ITEM(line):
            indent = item.end()
            end = _while_indented(lines, end, indent)
            inside = [line[indent:], *(each[indent:] for each in lines[at + 1 : end])]
            yield Item("-" if item[1] in "-*" else item[1], tuple(_blocks(inside)))
        else:
            while end < len(lines) and lines[end].strip() and not _begins_block(lines[end]):
                end += 1
            yield Paragraph(inline(" ".join(each.strip() for each in lines[at:end])))
        at = end


def _while_indented(lines: list[str], at: int, indent: int) -> int:
    """Where lines end that are empty or as far to the right as that."""
    while at < len(lines) and (not lines[at].strip() or lines[at].startswith(" " * indent)):
        at += 1
    return at


def _begins_block(line: str) -> bool:
    return bool(_HEADING(line) or _FENCE(line) or _ITEM(line) or line.startswith("|"))


def _cells(line: str) -> tuple[Text, ...]:
    return tuple(inline(cell.strip().replace("\\|", "|")) for cell in _CELLS.split(line.strip().strip("|")))


# -- in a line of text

_INLINE: Final = re.compile(
    r"(?P<ticks>`+)(?P<code>.+?)(?P=ticks)"
    r"|\*\*(?P<strong>.+?)\*\*"
    r"|(?<!\w)\*(?P<stressed>[^*\s][^*]*)\*"
    r"|!?\[(?P<link>[^\]]*)\]\((?P<target>[^)\s]+)\)"
    r"|<(?P<url>https?://[^>\s]+)>"
)


def inline(text: str) -> Text:
    """The spans of a line; a link becomes its text, with where it leads in parentheses."""
    return tuple(span for span in _spans(text) if span.text)


def _spans(text: str) -> Iterator[Span]:
    at = 0
    for found in _INLINE.finditer(text):
        yield Span(text[at : found.start()])
        at = found.end()
        if found["code"] is not None:
            yield Span(found["code"].strip(" "), SpanStyle.CODE)
        elif found["strong"] is not None:
            yield from _styled(found["strong"], SpanStyle.STRONG)
        elif found["stressed"] is not None:
            yield Span(found["stressed"], SpanStyle.STRESSED)
        elif found["url"] is not None:
            yield Span(found["url"])
        else:
            where = _leads_to(found["target"])
            if not where:
                yield from _spans(found["link"])
            elif text[: found.start()].endswith("("):  # no parentheses within others
                yield from () if where.endswith(f" {found['link'].lower()}") else (*_spans(found["link"]), Span(": "))
                yield Span(where)
            else:
                yield from _spans(found["link"])
                yield Span(f" ({where})")
    yield Span(text[at:])


def _styled(text: str, style: SpanStyle) -> Iterator[Span]:
    for span in _spans(text):
        yield Span(span.text, style) if span.style is SpanStyle.PLAIN else span


def _leads_to(target: str) -> str:
    """What a link says where nobody can follow it."""
    if target.startswith("#"):
        return ""
    page, _, _ = target.partition("#")
    if page.startswith(("http:", "https:")) or not page.endswith(".md"):
        return target
    topic = page.rpartition("/")[2].removesuffix(".md")
    return f"shimproxy help {topic}" if topic != "README" else ""


def plain(text: Text) -> str:
    """The text without its styles."""
    return "".join(span.text for span in text)
