"""The words of the violations: what is said of each in the string below its entry in the catalogue.

Python does not load such strings, so that a process that serves has none of them. They are read here from the source
of the catalogue. `shimproxy.smtp.catalogue.entry` says how they are written.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.smtp.catalogue import Entries, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LABELLED: Final = re.compile(r"(Programs|Tell|Example|No peer)\b([^:\n]*):\s+(.+)", re.DOTALL)
_PROGRAM: Final = re.compile(r"(?P<program>[^,:]+)(?:, (?P<version>[^:]+))?: (?P<does>.+) \((?P<source>[^()]+)\)")


class NotAsAgreed(ValueError):
    """A string is not written as words are; the text has what stands in the way."""


@attrs.frozen(kw_only=True)
class Program:
    """A program that is known to do it."""

    program: str
    version: str = ""
    """Where it is known, or what stands for it."""
    does: str
    source: str
    """Where that is known from."""


@attrs.frozen(kw_only=True)
class Words:
    """What is said of a violation."""

    summary: str
    """One line."""
    means: str
    """What happened, and what it costs without shimproxy."""
    programs: tuple[Program, ...] = ()
    to: str
    """Whom to tell."""
    tell: str
    """What to tell them."""
    example: str
    """The transcript in which it can be seen."""
    no_peer: str = ""
    """Why no peer of `shimproxy misbehave` does it; "" if one does."""


def words() -> dict[Violation, Words]:
    """The words of every violation. Raises NotAsAgreed."""
    return {Violation[name]: words_of(text) for part in Entries.__bases__ for name, text in strings_below(part).items()}


def strings_below(of: type) -> Mapping[str, str]:
    """The attributes that a class declares in its body, each with the string below it, if there is one."""
    tree = ast.parse(inspect.getsource(sys.modules[of.__module__]))
    (body,) = [node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == of.__name__]
    found = {}
    for declared, below in itertools.pairwise(body):
        match declared, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found


def words_of(text: str) -> Words:
    """The words that a string of the catalogue has. Raises NotAsAgreed."""
    summary, *paragraphs = text.split("\n\n")
    said: dict[str, str] = {}
    programs: tuple[Program, ...] = ()
    for paragraph in paragraphs:
        if not (found := _LABELLED.fullmatch(paragraph)):
            said["means"] = f"{said.get('means', '')} {_line(paragraph)}".strip()
            continue
        label, whom, its_text = found.groups()
        match label:
            case "Programs":
                programs = tuple(_programs(its_text))
            case "Tell":
                said |= {"tell": _line(its_text)} | ({"to": whom.strip()} if whom.strip() else {})
            case _:
                said[label.lower().replace(" ", "_")] = _line(its_text)
    if missing := {"means", "to", "tell", "example"} - said.keys():
        raise NotAsAgreed(f"{summary!r}: no {' and no '.join(sorted(missing))}")
    return Words(summary=_line(summary), programs=programs, **said)


def _programs(listed: str) -> Iterator[Program]:
    for item in listed.removeprefix("- ").split("\n- "):
        if not (found := _PROGRAM.fullmatch(_line(item))):
            raise NotAsAgreed(f"{item!r}: write PROGRAM, VERSION: what it does (where that is known from)")
        yield Program(**found.groupdict(""))


def _line(text: str) -> str:
    return " ".join(text.split())
