"""What holds for every field of settings: a value of a wrong type is refused at once, and errors name the field.

A plain field goes by its annotation; a field with a converter takes what that takes; a field with choices takes those.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from shimproxy.config.listener import SettingsError
from shimproxy.net.errors import AddressError
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.setting import settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Callable = Callable[..., Any]

_KINDS: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "bool": ((bool,), "write True or False"),
    "bool | None": ((bool, type(None)), "write True, False or None"),
    "str": ((str,), "write a text in quotes"),
    "int": ((int,), "write a whole number"),
    "int | None": ((int, type(None)), "write a whole number, or None"),
    "float": ((int, float), "write a number"),
    "Deadlines": ((Deadlines,), "write shimproxy.Deadlines(...), as in Deadlines(command=60)"),
    "Limits": ((Limits,), "write shimproxy.Limits(...), as in Limits(transactions=100)"),
    "Mapping[str, int]": ((Mapping,), "write a dict, as in {'example.com': 1_000_000}"),
    "Mapping[str, str]": ((Mapping,), "write a dict, as in {'receiver_tls': '--receiver-tls'}"),
    "Mapping[Path, bytes]": ((Mapping,), "write a dict of paths and what stands in those files"),
}
"""Annotation -> the types that a value may have, and the mend for one that has another."""


def checked(_: type, fields: Sequence[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """The fields of a class of settings, as `field_transformer` makes them; TypeError for one that takes anything."""
    return [_checked(field) for field in fields]


def choices_of(field: attrs.Attribute[Any]) -> tuple[str, ...]:
    """The only texts that a field accepts, if these are fewer than all."""
    declared = chain.from_iterable(each.choices for each in settings_of(field))
    return (*declared, *(type(field.default) if isinstance(field.default, enum.StrEnum) else ()))


def _checked(field: attrs.Attribute[Any]) -> attrs.Attribute[Any]:
    validators: list[_Callable] = []
    converter = cast("_Callable | None", field.converter)
    if kind := _KINDS.get(str(field.type)):
        validators.append(_is_one_of(*kind))
    if choices := choices_of(field):
        if converter:
            converter = _choosing(converter, choices)
        else:
            validators.append(_naming(field.name, _is_chosen(choices)))
    if field.validator:
        validators.append(_naming(field.name, field.validator))
    if not (validators or converter):
        raise TypeError(f"{field.name}: no value is refused: give it a converter or a validator")
    return field.evolve(
        converter=_naming(field.name, converter) if converter else None,
        validator=attrs.validators.and_(*validators) if validators else None,
    )


def _choosing(convert: _Callable, choices: Sequence[str]) -> _Callable:
    """The same converter, with the choices in its refusal."""

    def chosen(value: object) -> object:
        try:
            return convert(value)
        except ValueError:
            raise SettingsError(f"{value!r} is none of {', '.join(choices)}") from None

    return chosen


def _is_chosen(choices: Sequence[str]) -> _Callable:
    def check(_: object, __: attrs.Attribute[Any], value: object) -> None:
        if value not in choices:
            raise SettingsError(f"{value!r} is none of {', '.join(choices)}")

    return check


def _is_one_of(types: tuple[type, ...], mend: str) -> Callable[[object, attrs.Attribute[Any], object], None]:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        # True is an int, and no number of anything.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            shown = repr(value) if field.repr else "what is given"
            raise SettingsError(f"{field.name}: {shown} is of type {type(value).__name__}; {mend}")

    return check


def _naming(name: str, call: _Callable) -> _Callable:
    """The same converter or validator, with the field's name before what it complains of."""

    def named(*arguments: object) -> object:
        try:
            return call(*arguments)
        except SettingsError as error:
            raise SettingsError(*(_named(name, problem) for problem in error.problems)) from None
        except AddressError as error:
            raise AddressError(_named(name, str(error))) from None

    return named


def _named(name: str, problem: str) -> str:
    return problem if problem.startswith((f"{name}: ", f"{name} ")) else f"{name}: {problem}"
