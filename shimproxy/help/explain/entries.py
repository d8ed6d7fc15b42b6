"""The names that can be explained, and what is said of each: violations, replies of shimproxy's own, log events.

What is said of a violation stands in the catalogue, below its entry. The replies are those of session/replies.py and
the events those of observe/events.py. Their texts are in `shimproxy/docs/explain/*.toml`, one table a name; a test
holds that none is missing.
"""

from __future__ import annotations

import enum
import re
import tomllib
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.config.parsers import nearest
from shimproxy.help.explain.words import Program, words
from shimproxy.observe.events import Event
from shimproxy.session import replies
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.reply import LocalReply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_LEAST_LETTERS: Final = 4
"""Fewer of a reply's words are no search."""
_IN_A_LINE: Final = (
    re.compile(r"\brepair\"?[=:] ?\"?([a-z0-9-]+)"),
    re.compile(r"\bevent\": ?\"([a-z_]+)"),
    re.compile(r"\b(?:debug|info|warning|error) ([a-z_]+)"),
)
"""Where a line of the log, in small letters, names what it is about, as text or as JSON: a repair before its event."""
_CODE: Final = re.compile(r"[2-5]\d\d\b")


class NameKind(enum.StrEnum):
    """What a name is."""

    VIOLATION = "violation"
    REPLY = "reply"
    EVENT = "event"


class UnknownName(ValueError):
    """Nothing is called that; the text names what is nearest, or how to list all."""


@attrs.frozen(kw_only=True)
class Explanation:
    """What is said of one name."""

    name: str
    """How it stands in the log, or on the wire."""
    kind: NameKind
    summary: str
    """One line."""
    means: str = ""
    by: str = ""
    """Of a violation: "receiver", "sender" or "receiver or sender"."""
    level: str = ""
    """Of an event: the level it is logged at."""
    rule: str = ""
    does: str = ""
    """Of a violation: what shimproxy does about it."""
    do: str = ""
    """Of an event: what to do about it."""
    violations: tuple[Explanation, ...] = ()
    """Of a reply: those that lead to it."""
    programs: tuple[Program, ...] = ()
    to: str = ""
    """Whom to tell."""
    tell: str = ""
    """What to tell them."""
    example: str = ""
    """The transcript in which it can be seen."""
    no_example: str = ""
    """Why there is none, if there is none."""
    no_peer: str = ""
    """Of a violation: why no peer of `shimproxy misbehave` does it, if none does."""
    forms: tuple[str, ...] = ()
    """Of a reply: all the ways in which it is written, in small letters."""


def violations() -> Iterator[Explanation]:
    """An entry for each violation, in the order of the catalogue."""
    said = words()
    for each in Violation:
        told = attrs.asdict(said[each], recurse=False)
        yield Explanation(
            name=each.value, kind=NameKind.VIOLATION, by=each.by, rule=each.rule, does=each.repair, **told
        )


def own_replies() -> dict[str, LocalReply]:
    """The replies of shimproxy's own, by their names in the code, by code and in the order in which they stand."""
    found = {name: own for name, own in vars(replies).items() if isinstance(own, LocalReply)}
    return dict(sorted(found.items(), key=lambda each: each[1].plain.code))


def _replies(known: dict[str, Explanation]) -> Iterator[Explanation]:
    texts = _texts("replies")
    for name, own in own_replies().items():
        told = texts[name]
        of = tuple(known[violation] for violation in told.pop("violations"))
        programs = tuple(Program(**program) for program in told.pop("programs", ()))
        rules = dict.fromkeys(each.rule for each in of)
        enhanced, plain = (form.octets.decode("ascii").strip() for form in (own.enhanced, own.plain))
        code, words = plain.split(" ", 1)
        yield Explanation(
            name=enhanced,
            kind=NameKind.REPLY,
            summary=words,
            violations=of,
            rule=told.pop("rule", "; ".join(rules)),
            programs=programs,
            forms=tuple(form.lower() for form in (enhanced, plain, enhanced.removeprefix(code + " "), words)),
            **told,
        )


def _events() -> Iterator[Explanation]:
    texts = _texts("events")
    for event in Event:
        level = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR"}[event.level]
        yield Explanation(
            name=event.value, kind=NameKind.EVENT, level=level, summary=event.meaning, **texts[event.value]
        )


def entries() -> list[Explanation]:
    """All of them: violations, then replies, then events."""
    found = list(violations())
    found += _replies({entry.name: entry for entry in found})
    return [*found, *_events()]


def _texts(name: str) -> dict[str, dict[str, Any]]:
    text = resources.files("shimproxy").joinpath("docs", "explain", f"{name}.toml").read_text(encoding="utf-8")
    return {key: _stripped(table) for key, table in tomllib.loads(text).items()}


def _stripped(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value.strip() if isinstance(value, str) else value for key, value in table.items()}


# -- finding one


def find(asked: str, known: Sequence[Explanation]) -> list[Explanation]:
    """What is called that: one entry, or all the replies that it may be. Raises UnknownName.

    A name may come as it stands in the log, in the code, or in a whole line of the log. A reply is found by its code,
    by code and enhanced code, or by its words or some of them.
    """
    word = " ".join(asked.split()).lower()
    names = [word, *(named[1] for pattern in _IN_A_LINE if (named := pattern.search(word)))]
    for each in names:
        forms = (each, each.replace("_", "-"), each.replace("-", "_"))
        if found := [entry for entry in known if entry.name in forms]:
            return found
    of_replies = [entry for entry in known if entry.kind is NameKind.REPLY]
    if found := list(_called(word, of_replies)):
        return found
    if _CODE.match(word):
        raise UnknownName(
            f"{asked!r} is not a reply of shimproxy's own, so the receiver gave it; shimproxy explain lists all"
        )
    near = nearest(
        names[1] if len(names) > 1 else word, [entry.name for entry in known if entry.kind is not NameKind.REPLY]
    )
    raise UnknownName(f"nothing is called {asked!r}{near or '; shimproxy explain lists all names'}")


def _called(word: str, of_replies: Iterable[Explanation]) -> Iterator[Explanation]:
    of_replies = list(of_replies)
    exact = [entry for entry in of_replies if word in entry.forms]
    begun = [entry for entry in of_replies if any(f"{form} ".startswith(f"{word} ") for form in entry.forms)]
    within = [entry for entry in of_replies if len(word) >= _LEAST_LETTERS and word in entry.forms[0]]
    yield from exact or begun or within
