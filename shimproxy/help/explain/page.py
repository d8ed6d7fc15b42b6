"""An explanation on paper: blocks of text for a terminal, or one JSON object."""

from __future__ import annotations

import textwrap
from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs

from shimproxy.help.explain.entries import NameKind
from shimproxy.help.markdown import Code, Heading, Item, Paragraph, Span, SpanStyle, inline, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shimproxy.help.explain.entries import Explanation
    from shimproxy.help.explain.example import Example
    from shimproxy.help.markdown import PageBlock

_CODE_INDENT = 4
_LEVEL = 3
"""Of headings: those above are in capitals, and names are not."""
_HOW = "`shimproxy explain NAME` says what a name means, with an example. For a reply, its code or its words will do."
_NONE_IS_KNOWN = "No program is known here to do it."


def explained(entry: Explanation, example: Example | None, columns: int) -> list[PageBlock]:
    """All that is said of a name, for a page of that many columns."""
    blocks: list[PageBlock] = [_heading(f"{entry.name}: {_what(entry)}")]
    if entry.kind is not NameKind.REPLY:
        blocks.append(_text(entry.summary))
    if entry.means:
        blocks.append(_text(entry.means))
    if entry.kind is NameKind.REPLY:
        blocks.append(_text("A reply with other words is the receiver's own."))
    if entry.do:
        blocks += [_heading("What to do:"), _text(entry.do)]
    if entry.rule:
        blocks.append(_labelled("The rule", entry.rule))
    if entry.violations:
        blocks += [_heading("What leads to it:"), *(_named(each) for each in entry.violations)]
    if len(entry.violations) > 1:
        blocks.append(_text("`shimproxy explain NAME` says who does it, and what to tell the vendor."))
    for each in (entry, *entry.violations[:1]) if len(entry.violations) == 1 else (entry,):
        blocks += _about(each)
    blocks += _example(entry, example, columns - _CODE_INDENT)
    return blocks


def _what(entry: Explanation) -> str:
    match entry.kind:
        case NameKind.VIOLATION:
            return f"a violation by the {entry.by}"
        case NameKind.REPLY:
            return "a reply of shimproxy's own"
        case NameKind.EVENT:
            return f"an event of the log, at {entry.level}"


def _about(entry: Explanation) -> Iterator[PageBlock]:
    if entry.does:
        yield _labelled("What shimproxy does", entry.does)
    yield from _programs(entry)
    if entry.tell:
        yield from (_heading(f"What to tell {entry.to}:"), _text(entry.tell))


def _programs(entry: Explanation) -> Iterator[PageBlock]:
    if entry.programs or entry.kind is NameKind.VIOLATION:
        heading = "Programs that suffer from it:" if entry.kind is NameKind.REPLY else "Programs that do it:"
        yield _heading(heading)
    for each in entry.programs:
        program = ", ".join(filter(None, (each.program, each.version)))
        text = f"{program}: {each.does} ({each.source})"
        yield Item("-", (_text(text, plainly=True),))
    if entry.kind is NameKind.VIOLATION and not entry.programs:
        yield _text(_NONE_IS_KNOWN)


def _example(entry: Explanation, example: Example | None, columns: int) -> Iterator[PageBlock]:
    if example:
        if example.log:
            yield _heading("In the log:")
            yield Code(tuple(line for text in example.log for line in _folded(text, columns)))
        yield _heading("An example, played by this version:")
        yield Code(tuple(example.drawn(columns)))
    elif entry.no_example:
        yield _labelled("No example", f"{entry.no_example}.")


def _folded(text: str, columns: int) -> list[str]:
    return textwrap.wrap(
        text, max(columns, 1), subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _heading(text: str) -> Heading:
    return Heading(_LEVEL, (Span(text),))


def _labelled(label: str, text: str) -> Paragraph:
    return Paragraph((Span(f"{label}:", SpanStyle.STRONG), Span(f" {text}")))


def _text(text: str, *, plainly: bool = False) -> Paragraph:
    return Paragraph((Span(text),) if plainly else inline(text))


def _named(entry: Explanation) -> Item:
    return Item("-", (Paragraph(inline(f"`{entry.name}`: {entry.summary}")),))


# -- several


def listed(entries: Sequence[Explanation], columns: int) -> Iterator[str]:
    """The names in groups, each with its line."""
    yield from textwrap.wrap(_HOW, columns)
    for group, members in groupby(sorted(entries, key=_rank), _group):
        there = list(members)
        yield from ("", f"{group}:")
        if there[0].kind is NameKind.REPLY:
            yield from (f"  {entry.name}" for entry in there)
            continue
        width = max(len(entry.name) for entry in there)
        for entry in there:
            yield from _folded_at(f"  {entry.name:{width}}  ", plain(inline(entry.summary)), columns)


def _folded_at(name: str, text: str, columns: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(columns, 2 * len(name)),
        initial_indent=name,
        subsequent_indent=" " * len(name),
        break_on_hyphens=False,
    )


def _rank(entry: Explanation) -> tuple[bool, bool, bool, str]:
    violation = entry.kind is NameKind.VIOLATION
    return not violation, entry.kind is NameKind.EVENT, violation and " or " in entry.by, entry.by


def _group(entry: Explanation) -> str:
    match entry.kind:
        case NameKind.VIOLATION:
            return f"Violations by the {entry.by}"
        case NameKind.REPLY:
            return "Replies of shimproxy's own"
        case NameKind.EVENT:
            return "Events of the log"


def choice_of_replies(asked: str, found: Sequence[Explanation]) -> list[PageBlock]:
    """The replies that something may be, each with what it means."""
    blocks: list[PageBlock] = [
        _text(f"shimproxy gives {len(found)} replies of its own that may be {asked!r}:", plainly=True)
    ]
    for entry in found:
        blocks.append(Item("-", (_text(entry.name, plainly=True), _text(entry.means))))
    return [*blocks, _text("`shimproxy explain CODE WORDS` says more about one.")]


# -- JSON


def as_json(entry: Explanation, example: Example | None) -> dict[str, Any]:
    """All that is said of a name; what does not apply is left out."""
    said = attrs.asdict(entry, filter=lambda field, value: bool(value) and field.name not in ("forms", "violations"))
    said["kind"] = entry.kind.value
    if entry.violations:
        said["violations"] = [each.name for each in entry.violations]
    if example:
        said["log"] = list(example.log)
        said["dialogue"] = [
            {
                "seconds": float(each.mark or 0),
                "from": each.who,
                "to": each.whom,
                "what": each.what,
                "remark": each.remark,
            }
            for each in example.frames
        ]
    return said
