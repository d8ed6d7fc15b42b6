"""Parsers of an operator's texts: they return fields of Settings, or say what has to be written instead."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.config.listener import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shimproxy.session.limits import Deadlines, Limits

    Reader = Callable[[Sequence[str]], "Values"]
    """Raises ValueError, or SettingsError for several problems at once."""

Values = dict[str, Any]
"""Fields of Settings."""
_YES: Final = frozenset({"true", "yes", "on", "1"})
_NO: Final = frozenset({"false", "no", "off", "0"})
_MOST_DIGITS: Final = 18
_WHOLE: Final = re.compile(r"-?[0-9]+").fullmatch
_DECIMAL: Final = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|-?inf|nan", re.IGNORECASE).fullmatch
"""What TOML writes as well; what is no finite number is for the field to refuse."""
_MOST_CHARACTERS: Final = 10_000
"""Of a secret: more do not go into a command line."""
_UNITS: Final = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def text(field: str) -> Reader:
    """The last text."""
    return lambda texts: {field: texts[-1]}


def texts(field: str) -> Reader:
    """All texts."""
    return lambda texts: {field: tuple(texts)}


def number_of(text: str, kind: type[int] | type[float]) -> int | float:
    """The number of that kind that `text` writes in ASCII digits, and in nothing else that Python takes for some.

    Raises ValueError.
    """
    if kind is int:
        if _WHOLE(text):
            with suppress(ValueError):  # it has digits without end
                return int(text)
        raise ValueError("write a whole number")
    if not _DECIMAL(text):
        raise ValueError("write a number")
    return float(text)


def number(field: str, kind: type[int] | type[float]) -> Reader:
    """A number of that kind."""

    def read(texts: Sequence[str]) -> Values:
        return {field: number_of(texts[-1], kind)}

    return read


def switch(field: str) -> Reader:
    """Whether a switch is on."""

    def read(texts: Sequence[str]) -> Values:
        return {field: is_on(texts[-1])}

    return read


def is_on(text: str) -> bool:
    """Whether a switch is on with that. Raises ValueError."""
    word = text.lower()
    if word not in _YES | _NO:
        raise ValueError("write true or false")
    return word in _YES


def choice(field: str, choices: Sequence[str]) -> Reader:
    """One of the choices."""

    def read(texts: Sequence[str]) -> Values:
        if texts[-1] not in choices:
            raise ValueError(f"choose from {', '.join(choices)}")
        return {field: texts[-1]}

    return read


def octets_of(text: str) -> int:
    """A size with its unit, as in 10MiB, 500KiB or 1000. Raises ValueError."""
    digits = text.rstrip("KMGiB")
    unit = _UNITS.get(text[len(digits) :])
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS) or not unit or int(digits) < 1:
        raise ValueError("write a size as in 10MiB, 500KiB or 1000")
    return int(digits) * unit


def sizes(texts: Sequence[str]) -> Values:
    """SIZE in general, or DOMAIN=SIZE."""
    general: int | None = None
    by_domain: dict[str, int] = {}
    problems: list[str] = []
    for each in texts:
        domain, _, size = each.rpartition("=")
        try:
            octets = octets_of(size)
        except ValueError as error:
            problems.append(f"{each!r}: {error}, or example.com=2MiB")
            continue
        if domain:
            by_domain[domain] = octets
        else:
            general = octets
    if problems:
        raise SettingsError(*problems)
    return {"max_size": general, "max_size_by_domain": by_domain}


def size(field: str) -> Reader:
    """A size in octets; see `octets_of`."""
    return lambda texts: {field: octets_of(texts[-1])}


def workers(texts: Sequence[str]) -> Values:
    """How many workers; auto for one a CPU."""
    if texts[-1] == "auto":
        return {"workers": 0}
    with suppress(ValueError):
        if (count := number_of(texts[-1], int)) > 0:
            return {"workers": count}
    raise ValueError("write a whole number from 1 on, or auto")


def secret(texts: Sequence[str]) -> Values:
    """The secret in a file."""
    try:
        with open(texts[-1]) as file:
            secret = file.readline(_MOST_CHARACTERS).removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(getattr(error, "strerror", None) or str(error)) from None
    if not secret:
        raise ValueError("the first line is empty; write the secret there")
    return {"login_secret": secret}


def changes(field: str, defaults: Deadlines | Limits) -> Reader:
    """Reads NAME=NUMBER, as many as are given."""

    def read(texts: Sequence[str]) -> Values:
        known: dict[str, attrs.Attribute[Any]] = {
            each.name.replace("_", "-"): each for each in attrs.fields(type(defaults))
        }
        values: dict[str, Any] = {}
        problems: list[str] = []
        for change in texts:
            name, _, number = change.partition("=")
            attribute = known.get(name)
            if attribute is None:
                problems.append(f"{change!r}: no such name{nearest(name, [*known])}; there are {', '.join(known)}")
                continue
            try:
                value = values[attribute.name] = number_of(number, type(getattr(defaults, attribute.name)))
            except ValueError:
                problems.append(f"{change!r}: write {name}=NUMBER")
                continue
            problems += _problems_of(attribute.evolve(name=name), value)
        if problems:
            raise SettingsError(*problems)
        return {field: attrs.evolve(defaults, **values)}

    return read


def _problems_of(attribute: attrs.Attribute[Any], value: object) -> list[str]:
    try:
        if attribute.validator:
            attribute.validator(None, attribute, value)
    except ValueError as error:
        return [str(error)]
    return []


def nearest(word: str, known: Sequence[str], least_ratio: float = 0.6) -> str:
    """A question for the one of the `known` that is near, if there is one; else nothing."""
    import difflib  # where something is misspelt, and not in every worker

    found = difflib.get_close_matches(word, known, 1, least_ratio)
    return f", did you mean {found[0]}?" if found else ""


def with_defaults(settable: Deadlines | Limits) -> tuple[str, ...]:
    """Each name with its default, as NAME=NUMBER."""
    return tuple(
        f"{each.name.replace('_', '-')}={plainly(getattr(settable, each.name))}"
        for each in attrs.fields(type(settable))
    )


def plainly(value: object) -> str:
    """A number or text as an operator would write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
