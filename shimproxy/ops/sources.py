"""Where an operator's settings come from: a file, the environment and flags, each going before the one before it.

Invariants:

1. An option is taken whole from one place: a list in the file is not added to by a flag.
2. Everything that is wrong is told at once, each with its place, what stands there and the mend.
3. An unknown name is an error, with the nearest one that there is; in the environment only if there is a near one, as
   other programs set variables there too.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import attrs

from shimproxy.ops.options import BY_NAME, OPTIONS
from shimproxy.ops.readers import is_on, nearest
from shimproxy.ops.settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from shimproxy.ops.options import Option
    from shimproxy.ops.readers import Values

FILE_VARIABLE: Final = "SHIMPROXY_CONFIG"
_BY_VARIABLE: Final = {option.variable: option for option in OPTIONS}
_VARIABLES: Final = [variable.partition("_")[2] for variable in (*_BY_VARIABLE, FILE_VARIABLE)]
_NEAR_VARIABLE_RATIO: Final = 0.8
_MOST_SHOWN: Final = 200
_FIELDS: Final = attrs.fields_dict(Settings)
_NEEDED: Final = {"receiver": "where mail goes", "listen": "where senders connect"}


@attrs.frozen
class Given:
    """What was given for one option."""

    texts: tuple[str, ...]
    place: str
    """Where it stands: a flag, a variable of the environment, or a key of a file."""


@attrs.define
class Sources:
    """What was given for each option, in the place that counts."""

    given: dict[str, Given] = attrs.field(factory=dict)
    """By option name."""
    problems: list[str] = attrs.field(factory=list)
    """What stands somewhere and can't be read as an option."""

    @classmethod
    def gather(cls, flags: Mapping[str, Sequence[str]], environment: Mapping[str, str], file: str = "") -> Sources:
        """From flags, by option name; from the environment; and from a file, if it or the environment names one."""
        sources = cls()
        if file := file or environment.get(FILE_VARIABLE, ""):
            sources._add_file(Path(file))
        sources._add_environment(environment)
        sources.given |= {name: Given(tuple(texts), f"--{name}") for name, texts in flags.items()}
        return sources

    @classmethod
    def of_texts(cls, texts: Mapping[str, Sequence[str]]) -> Sources:
        """What `as_texts` gave."""
        return cls({name: Given(tuple(each), "the supervisor") for name, each in texts.items()})

    def as_texts(self) -> dict[str, list[str]]:
        """All of it, secrets too, for another process."""
        return {name: list(given.texts) for name, given in self.given.items()}

    def settings(self) -> Settings:
        """What they come to. Raises SettingsError with all that can't be used."""
        problems = [*self.problems]
        values: Values = {}
        for option in OPTIONS:
            if given := self.given.get(option.name):
                values |= _values(option, given, problems)
        for name, what in _NEEDED.items():
            if name not in self.given:
                option = BY_NAME[name]
                problems.append(
                    f"{name}: say {what}: --{name} HOST:PORT, {option.variable}, or {name} in a file (--config)"
                )
        if problems:
            raise SettingsError(*problems)
        return Settings(**values)

    # -- the environment

    def _add_environment(self, environment: Mapping[str, str]) -> None:
        for variable, text in environment.items():
            prefix, _, rest = variable.partition("_")
            if prefix != "SHIMPROXY" or variable == FILE_VARIABLE:
                continue
            if option := _BY_VARIABLE.get(variable):
                if text.strip():  # to leave it empty is a container's way to leave it away
                    self.given[option.name] = Given(tuple(text.split()) if option.many else (text.strip(),), variable)
            elif near := nearest(rest, _VARIABLES, _NEAR_VARIABLE_RATIO):
                self.problems.append(f"{variable}: there is no such setting{near}")

    # -- a file

    def _add_file(self, file: Path) -> None:
        try:
            entries = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            self.problems.append(f"{file}: {error.strerror}; check the path, and who may read it")
        except UnicodeDecodeError:
            self.problems.append(f"{file}: not UTF-8; save it as such")
        except (ValueError, RecursionError) as error:  # numbers without end, lists within lists
            self.problems.append(f"{file}: not TOML: {str(error)[:_MOST_SHOWN]}")
        else:
            for name, entry in entries.items():
                self._add_entry(f"{file}: {name}", name, entry)

    def _add_entry(self, place: str, name: str, entry: object) -> None:
        option = BY_NAME.get(name)
        if option is None:
            self.problems.append(f"{place}: there is no such setting{nearest(name, [*BY_NAME])}")
            return
        try:
            self.given[name] = Given(_texts(option, entry), place)
        except (ValueError, RecursionError) as error:
            shown = "" if option.secret else f" {_shortly(json.dumps(entry, default=str, ensure_ascii=False))}:"
            self.problems.append(f"{place}:{shown} {error}")

    # -- shown

    def as_file(self) -> Iterator[str]:
        """The lines of a file that says the same, with where each stands; what is not given has its default."""
        for option in sorted(OPTIONS, key=lambda option: option.table):  # in TOML, tables are last
            given = self.given.get(option.name, Given(option.default, "default"))
            if option.table:
                changes = dict(change.split("=") for change in (*option.default, *given.texts))
                yield from ("", f"[{option.name}]  # {given.place}")
                yield from (f"{name} = {value}" for name, value in changes.items())
            elif not given.texts:
                yield f"# {option.name} is not given"
            elif option.secret:
                yield f"# {option.name} is not shown; it is from {given.place}"
            else:
                yield f"{option.name} = {_as_toml(option, given.texts)}  # {given.place}"


def _values(option: Option, given: Given, problems: list[str]) -> Values:
    """What an option comes to, nothing if it is a problem."""
    try:
        if not given.texts:
            raise ValueError("nothing is given; write a text, or leave it away")
        if any("\0" in text for text in given.texts):
            raise ValueError("there is a NUL in it; leave that out")
        return {field: _checked(field, value) for field, value in option.read(given.texts).items()}
    except SettingsError as error:
        problems += [f"{given.place}: {problem}" for problem in error.problems]
    except ValueError as error:
        shown = "" if option.secret else f" {_shortly(' '.join(map(repr, given.texts)))}:"
        problems.append(f"{given.place}:{shown} {error}")
    return {}


def _shortly(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _checked(field: str, value: object) -> object:
    """The value as Settings has it. Raises ValueError."""
    attribute = _FIELDS[field]
    try:
        if attribute.converter:
            value = cast("Callable[[object], object]", attribute.converter)(value)
        if attribute.validator:
            attribute.validator(None, attribute, value)
    except ValueError as error:
        raise SettingsError(str(error).removeprefix(f"{field}: ")) from None
    return value


def _texts(option: Option, entry: object) -> tuple[str, ...]:
    """The texts of an entry in a file. Raises ValueError with what has to be written instead."""
    if option.table:
        if not isinstance(entry, dict) or not all(map(_is_plain, entry.values())):
            raise ValueError(f"write a table: [{option.name}], and lines of NAME = NUMBER behind it")
        return tuple(f"{name}={value}" for name, value in entry.items())
    if option.switch:
        if not isinstance(entry, bool):
            raise ValueError("write true or false")
        return ("true" if entry else "false",)
    entries = entry if isinstance(entry, list) and option.many else [entry]
    if not all(map(_is_plain, entries)):
        raise ValueError("write a text in quotes, or a list of them" if option.many else "write a text in quotes")
    return tuple(map(str, entries))


def _is_plain(entry: object) -> bool:
    return isinstance(entry, str | int | float) and not isinstance(entry, bool)


def _as_toml(option: Option, texts: Sequence[str]) -> str:
    if option.switch:
        return "true" if is_on(texts[-1]) else "false"
    if option.numeric:
        return texts[-1]
    quoted = [json.dumps(text, ensure_ascii=False) for text in texts]
    return f"[{', '.join(quoted)}]" if option.many else quoted[-1]
