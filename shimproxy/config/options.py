"""The settings as an operator names them, made of their declarations.

`--receiver-tls required` on the command line, `SHIMPROXY_RECEIVER_TLS=required` in the environment and
`receiver-tls = "required"` in a file are one option.

It knows their names and what each takes; what their texts come to is parsers.py's, where they stand sources.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.config import parsers
from shimproxy.config.fields import choices_of
from shimproxy.config.settings import Settings
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.setting import Group, settings_of

if TYPE_CHECKING:
    from shimproxy.config.parsers import Reader
    from shimproxy.session.setting import Setting

_SWITCHES: Final = ("bool", "bool | None")
_NUMBERS: Final[dict[str, type[int] | type[float]]] = {"int": int, "int | None": int, "float": float}
_TABLES: Final[dict[str, Deadlines | Limits]] = {"Deadlines": Deadlines(), "Limits": Limits()}
"""Annotation of a field that has fields of its own -> the defaults of these, each of which an operator can change."""


@attrs.frozen(kw_only=True)
class Option:
    """One setting as an operator gives it, in texts."""

    name: str
    """The flag without its dashes, which is also the key in a file."""
    field: str
    """The field of Settings that it sets."""
    group: str
    help: str
    read: Reader
    """What the texts come to."""
    metavar: str
    choices: tuple[str, ...]
    many: bool
    """Whether it takes any number of texts; of any other the last one counts."""
    lines: bool
    """Of several texts, whether each is a line in the environment: they have blanks in them."""
    switch: bool
    """Whether it is on or off."""
    numeric: bool
    """Whether its text is a number."""
    secret: bool
    """Whether it is never shown, and no flag, as everyone sees those."""
    file: bool
    """Whether its text is the path of a file with certificates or a key."""
    table: bool
    """Whether its texts are NAME=VALUE, and in a file a table."""
    of_listener: bool
    """Whether it can be different for a listener."""
    default: tuple[str, ...]

    @property
    def flag(self) -> str:
        """Its name on the command line; empty if it has none there."""
        return "" if self.secret else f"--{self.name}"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "SHIMPROXY_" + self.name.upper().replace("-", "_")

    @property
    def names(self) -> tuple[str, str, str]:
        """Its flag, its variable and its key."""
        return self.flag, self.variable, self.name


def _made(field: attrs.Attribute[Any], declared: Setting) -> Option:
    """The option of a declaration: what that does not say follows from the field's annotation and its default."""
    kind, choices = str(field.type), choices_of(field)
    table = _TABLES.get(kind)
    if declared.default is not None:
        default: tuple[str, ...] = (declared.default,)
    elif declared.secret or declared.read is parsers.secret:
        default = ()
    else:
        default = parsers.with_defaults(table) if table else _default(field.default)
    return Option(
        name=declared.name,
        field=field.name,
        group=declared.group.value,
        help=declared.help,
        read=declared.read or _reader(field.name, kind, choices),
        metavar=declared.metavar,
        choices=choices,
        many=declared.many or table is not None or kind.startswith("tuple["),
        lines=declared.lines,
        switch=kind in _SWITCHES,
        numeric=kind in _NUMBERS and not declared.read,
        secret=declared.secret,
        file=declared.file,
        table=table is not None,
        of_listener=declared.of_listener,
        default=default,
    )


def _default(value: object) -> tuple[str, ...]:
    """A default as an operator would write it; nothing for one that leaves a choice to shimproxy or names nothing."""
    if value is None or value == "" or isinstance(value, tuple):
        return ()
    if isinstance(value, bool):
        return ("true" if value else "false",)
    return (parsers.plainly(value),)


def _reader(name: str, kind: str, choices: tuple[str, ...]) -> Reader:
    """What reads the texts of a field that has no reader of its own."""
    if kind in _SWITCHES:
        return parsers.switch(name)
    if choices:
        return parsers.choice(name, choices)
    if kind in _NUMBERS:
        return parsers.number(name, _NUMBERS[kind])
    if kind in _TABLES:
        return parsers.changes(name, _TABLES[kind])
    return parsers.texts(name) if kind.startswith("tuple[") else parsers.text(name)


def _all() -> tuple[Option, ...]:
    """Every option by its group, as declared, but for those that are to follow another one."""
    groups = [*Group]
    declared = [(field, each) for field in attrs.fields(Settings) for each in settings_of(field)]
    declared.sort(key=lambda one: groups.index(one[1].group))
    ordered = [_made(field, each) for field, each in declared if not each.after]
    for field, each in declared:
        if each.after:
            before = next(index for index, option in enumerate(ordered) if option.name == each.after)
            ordered.insert(before + 1, _made(field, each))
    return tuple(ordered)


OPTIONS: Final = _all()
BY_NAME: Final = {option.name: option for option in OPTIONS}
