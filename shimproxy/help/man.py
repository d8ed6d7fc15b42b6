"""Man pages, in roff: a page of the documentation, or the command with all its flags."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from shimproxy.help.markdown import Code, Heading, Item, Paragraph, Span, SpanStyle, Table, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from shimproxy.help.markdown import PageBlock, Text

_FONTS: Final = {SpanStyle.CODE: "B", SpanStyle.STRONG: "B", SpanStyle.STRESSED: "I"}
_ESCAPED: Final = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})


def of_page(topic: str, blocks: Sequence[PageBlock], version: str) -> list[str]:
    """The man page of a topic, in section 7: its title stands after its name."""
    title, *others = blocks
    assert isinstance(title, Heading)
    return [*_head(f"shimproxy-{topic}", 7, plain(title.text), version), *_blocks(others), *_see_also("shimproxy(1)")]


def of_command(parser: argparse.ArgumentParser, topics: Mapping[str, str], version: str) -> list[str]:
    """The man page of the command, in section 1: each subcommand with its flags, and the topics of its help."""
    lines = _head("shimproxy", 1, str(parser.description).rstrip("."), version)
    lines += [".SH SYNOPSIS", *_synopsis(["shimproxy"], "COMMAND ..."), ".SH COMMANDS"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                lines += _command(name, command)
    lines += [".SH TOPICS", ".PP", *_text((Span("shimproxy help TOPIC prints one of these:"),))]
    for topic, title in topics.items():
        lines += _tagged((Span(topic, SpanStyle.CODE),), (Span(title),))
    return [*lines, *_see_also(*(f"shimproxy-{topic}(7)" for topic in topics))]


def _head(name: str, section: int, about: str, version: str) -> list[str]:
    title = f'.TH "{_escaped(name.upper())}" {section} "" "shimproxy {_escaped(version)}" "shimproxy"'
    return [title, ".SH NAME", f"{_escaped(name)} \\- {_escaped(about)}"]


def _see_also(*names: str) -> list[str]:
    return [".SH SEE ALSO", _escaped(", ".join(names))]


def _synopsis(names: Sequence[str], rest: str) -> list[str]:
    return _text((Span(" ".join(names), SpanStyle.CODE), Span(f" {rest}")))


def _command(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    yield f".SS shimproxy {_escaped(name)}"
    yield from _text((Span(command.description or ""),))
    for group in command._action_groups:
        for action in group._group_actions:
            if action.dest == "help" or action.help is argparse.SUPPRESS:
                continue
            yield from _tagged(tuple(_flags(action)), (Span((action.help or "") % _words(action)),))
    if command.epilog:
        yield ".PP"
        yield from _text((Span(command.epilog),))


def _flags(action: argparse.Action) -> Iterator[Span]:
    value = action.metavar or action.dest.upper()
    value = value if isinstance(value, str) else " ".join(value)
    if not action.option_strings:
        yield Span(value, SpanStyle.STRESSED)
    for number, flag in enumerate(action.option_strings):
        yield Span(", " if number else "")
        yield Span(flag, SpanStyle.CODE)
        if action.nargs != 0:
            yield Span(" ")
            yield Span(value, SpanStyle.STRESSED)


def _words(action: argparse.Action) -> dict[str, object]:
    """What a help text may refer to, as in argparse."""
    return {"default": action.default, "dest": action.dest, "metavar": action.metavar}


# -- blocks


def _blocks(blocks: Iterable[PageBlock]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading(level, text):
                yield f".{'SH' if level <= 2 else 'SS'} {_escaped(plain(text).upper() if level <= 2 else plain(text))}"
            case Paragraph(text):
                yield ".PP"
                yield from _text(text)
            case Code(lines):
                yield from (".PP", ".RS 4", ".nf", *(_line(_escaped(line)) for line in lines), ".fi", ".RE")
            case Item(mark, inside):
                yield f".IP {'(bu' if mark == '-' else _escaped(mark)} 4".replace("(bu", "\\(bu")
                yield from _item(inside)
            case Table(_, rows):
                for row in rows:
                    texts = block.below(row)
                    yield from _tagged(row[0], texts[0] if texts else ())
                    for text in texts[1:]:
                        yield from (".br", *_text(text))


def _item(inside: Sequence[PageBlock]) -> Iterator[str]:
    """An entry of a list: its first paragraph beside the mark, the rest below that paragraph."""
    first, *others = inside
    yield from _text(first.text) if isinstance(first, Paragraph) else _blocks([first])
    if others:
        yield ".RS 4"
        yield from _blocks(others)
        yield ".RE"


def _tagged(tag: Text, text: Text) -> Iterator[str]:
    yield ".TP"
    yield from _text(
        tuple(Span(span.text, SpanStyle.CODE if span.style is SpanStyle.PLAIN else span.style) for span in tag)
    )
    yield from _text(text) or ["\\&"]


def _text(text: Text) -> list[str]:
    """One line of input, however long: roff fills it."""
    line = "".join(
        f"\\f{_FONTS[span.style]}{_escaped(span.text)}\\fR" if span.style in _FONTS else _escaped(span.text)
        for span in text
    ).strip()
    return [_line(line)] if line else []


def _escaped(text: str) -> str:
    return text.translate(_ESCAPED)


def _line(text: str) -> str:
    """A line of input that is no request, whatever it begins with."""
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text
