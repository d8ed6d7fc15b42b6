"""Where an operator's settings come from: a file, the environment and flags, each going before the one before it.

Invariants:

1. An option is taken whole from one place: a list in the file is not added to by a flag.
2. Everything that is wrong is told at once, each with its place, what stands there and the mend.
3. What `with_files` has read is what counts: another process comes to the same settings, whatever became of the files.
4. An unknown name is an error, with the nearest one that there is; in the environment only if there is a near one, as
   other programs set variables there too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from shimproxy.config import parsers
from shimproxy.config.listener import SettingsError
from shimproxy.config.options import BY_NAME, OPTIONS
from shimproxy.config.parsers import is_on, nearest
from shimproxy.config.settings import Settings
from shimproxy.config.toml import parse_toml
from shimproxy.config.variables import FILE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from shimproxy.config.options import Option
    from shimproxy.config.parsers import Values

_BY_VARIABLE: Final = {option.variable: option for option in OPTIONS}
_VARIABLES: Final = [variable.partition("_")[2] for variable in (*_BY_VARIABLE, FILE_VARIABLE)]
_NAMES: Final = [*BY_NAME]
_OF_LISTENERS: Final = [name for name, option in BY_NAME.items() if option.of_listener]
_NEAR_VARIABLE_RATIO: Final = 0.8
_MOST_SHOWN: Final = 200
_FIELDS: Final = attrs.fields_dict(Settings)
_LISTENER: Final = "listener"
_TABLES_LAST: Final = sorted(OPTIONS, key=lambda option: option.table)
"""As TOML has it."""
_NAME_IN_A_MESSAGE: Final = re.compile(r"[\w-]+").findall
_SECRET: Final = "login-secret"
_SECRET_FILE: Final = "login-secret-file"
_MOST_OCTETS: Final = 16 * 1024 * 1024
"""Of a file with certificates; those of all authorities that browsers trust take 250 KB."""
_ANY_OCTETS: Final = "latin-1"
_NEEDED: Final = {"receiver": "where mail goes", "listen": "where senders connect"}


@attrs.frozen
class Given:
    """What was given for one option."""

    texts: tuple[str, ...]
    place: str
    """Where it stands: a flag, a variable of the environment, or a key of a file."""


_NOTHING: Final = Given((), "")


@attrs.define
class Sources:
    """What was given for each option, in the place that counts."""

    given: dict[str, Given] = attrs.field(factory=dict)
    """By option name."""
    listeners: list[dict[str, Given]] = attrs.field(factory=list)
    """The same of each listener that a file has a table for: where it listens, and what is different there."""
    problems: list[str] = attrs.field(factory=list)
    """What stands somewhere and can't be read as an option."""
    files: dict[str, bytes] = attrs.field(factory=dict, repr=False)
    """What was read of files that options name."""
    unread: frozenset[str] | None = frozenset()
    """Keys on lines of a file that can't be read, which are not missed; None if all of it may be there."""

    @classmethod
    def gather(cls, flags: Mapping[str, Sequence[str]], environment: Mapping[str, str], file: str = "") -> Sources:
        """From flags, by option name; from the environment; and from a file, if it or the environment names one."""
        sources = cls()
        if file := file or environment.get(FILE_VARIABLE, ""):
            sources._add_file(Path(file))
        sources._add_environment(environment)
        sources.given |= {name: Given(tuple(texts), f"--{name}") for name, texts in flags.items()}
        return sources

    def listen_unless_told(self, text: str, place: str) -> None:
        """Listen there if nothing else was given to listen on."""
        if "listen" not in self.given and not self.listeners:
            self.given["listen"] = Given((text,), place)

    def with_files(self) -> Sources:
        """The same with what the files that it names have now; one that can't be read stays to be complained of."""
        read = attrs.evolve(self, given={**self.given}, listeners=[{**table} for table in self.listeners], files={})
        for table in (read.given, *read.listeners):
            for name, given in [*table.items()]:
                if name == _SECRET_FILE:
                    with suppress(ValueError):
                        secret = parsers.secret(given.texts)["login_secret"]
                        table[_SECRET] = Given((secret,), given.place)
                        del table[name]
                elif BY_NAME[name].file and given.texts and (octets := _contents(given.texts[-1])) is not None:
                    read.files[given.texts[-1]] = octets
        return read

    def changed_files(self) -> dict[str, bytes]:
        """The files that have other contents now than were read, with these; one that can't be read is none."""
        now = {file: _contents(file) for file in self.files}
        return {file: octets for file, octets in now.items() if octets is not None and octets != self.files[file]}

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Sources:
        """What `as_json` gave, perhaps of another version."""
        given, *listeners = (
            {name: Given(tuple(each), "the supervisor") for name, each in table.items()} for table in told["options"]
        )
        files = {file: text.encode(_ANY_OCTETS) for file, text in told.get("files", {}).items()}
        return cls(given, listeners, files=files)

    def as_json(self) -> dict[str, Any]:
        """All of it, secrets too, for another process; that of each listener after what holds for all."""
        tables = (self.given, *self.listeners)
        return {
            "options": [{name: [*each.texts] for name, each in table.items()} for table in tables],
            "files": {file: octets.decode(_ANY_OCTETS) for file, octets in self.files.items()},
        }

    def settings(self) -> Settings:
        """What they come to. Raises SettingsError with all that can't be used."""
        settings, problems = self.as_far_as_usable()
        if problems:
            raise SettingsError(*problems)
        return settings

    def as_far_as_usable(self) -> tuple[Settings, list[str]]:
        """What they come to, and all that can't be used. If anything can't be, the settings are for trying alone."""
        problems = [*self.problems]
        values = _values_of_all(self.given, problems)
        faulty = {name for name in self.given if not _sets(name, values)} | (self.unread or set())
        for table in self.listeners:
            own = _values_of_all(table, problems)
            faulty |= {name for name in table if not _sets(name, own)}
            listeners = own.pop("listen", ())
            values["listen"] = (*values.get("listen", ()), *(attrs.evolve(each, own=own) for each in listeners))
        for name, what in _NEEDED.items():
            if name not in self.given and not (self.listeners and all(name in table for table in self.listeners)):
                faulty.add(name)
                if self.unread is None or name in self.unread:
                    continue
                option = BY_NAME[name]
                problems.append(
                    f"{name}: say {what}: --{name} HOST:PORT, {option.variable}, or {name} in a file (--config)"
                )
        names = self.names()
        values |= {"files_read": {Path(file): octets for file, octets in self.files.items()}, "names": names}
        try:
            settings = Settings(**values)
        except SettingsError as error:
            # A complaint that names a setting that could not be read may be for want of it.
            unknown = {form for name in faulty if name in BY_NAME for form in BY_NAME[name].names if form}
            problems += [each for each in error.problems if not unknown.intersection(_NAME_IN_A_MESSAGE(each))]
            return Settings.unchecked(values), problems
        return (Settings.unchecked(values) if problems else settings), problems

    def own_of_listeners(self) -> list[tuple[str, ...]]:
        """What each listener of these settings has of its own, as NAME=VALUE, in their order; a secret by its name."""
        everywhere = self.given.get("listen", _NOTHING).texts
        own: list[tuple[str, ...]] = [()] * len(everywhere)
        for table in self.listeners:
            shown = tuple(
                name if BY_NAME[name].secret else _shortly(f"{name}={' '.join(given.texts)}")
                for name, given in table.items()
                if name not in _NEEDED
            )
            own += [shown] * len(table.get("listen", _NOTHING).texts)
        return own

    def names(self) -> dict[str, str]:
        """Field of Settings -> what the operator calls it: as written, or as most of what they have written."""
        written = {name: given.place.rpartition(": ")[2] for name, given in self.given.items()}
        forms = Counter(
            option.names.index(name) for option in OPTIONS if (name := written.get(option.name)) in option.names
        )
        usual = max(range(3), key=lambda form: forms[form])
        names: dict[str, str] = {}
        for option in OPTIONS:
            if (name := written.get(option.name)) in option.names:
                names[option.field] = name
            elif usual_name := option.names[usual]:
                names.setdefault(option.field, usual_name)
        return names

    # -- the environment

    def _add_environment(self, environment: Mapping[str, str]) -> None:
        for variable, text in environment.items():
            prefix, _, rest = variable.partition("_")
            if prefix != "SHIMPROXY" or variable == FILE_VARIABLE:
                continue
            if option := _BY_VARIABLE.get(variable):
                if text.strip():  # to leave it empty is a container's way to leave it away
                    texts = text.split("\n") if option.lines else text.split() if option.many else [text]
                    self.given[option.name] = Given(tuple(each.strip() for each in texts if each.strip()), variable)
            elif near := nearest(rest, _VARIABLES, _NEAR_VARIABLE_RATIO):
                near = near.replace("did you mean ", f"did you mean {prefix}_")
                self.problems.append(f"{variable}: there is no such setting{near}")

    # -- a file

    def _add_file(self, file: Path) -> None:
        try:
            text = file.read_text("utf-8")
        except OSError as error:
            self.problems.append(f"{file}: {error.strerror}; check the path and its permissions")
            self.unread = None
            return
        except UnicodeDecodeError:
            self.problems.append(f"{file}: not UTF-8; save it as UTF-8")
            self.unread = None
            return
        parsed = parse_toml(text)
        self.problems += [f"{file}: {fault}" for fault in parsed.faults]
        self.unread = parsed.unread
        tables = parsed.entries.pop(_LISTENER, [])
        for name, entry in parsed.entries.items():
            self._add_entry(self.given, f"{file}: {name}", name, entry)
        if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
            self.problems.append(f"{file}: {_LISTENER}: write tables: [[{_LISTENER}]], and their settings behind it")
            return
        for number, table in enumerate(tables, 1):
            self._add_listener(f"{file}: {_LISTENER} {number}", table)

    def _add_listener(self, place: str, table: Mapping[str, object]) -> None:
        given: dict[str, Given] = {}
        for name, entry in table.items():
            if name in BY_NAME and not BY_NAME[name].of_listener:
                self.problems.append(f"{place}: {name} applies to all listeners; write it before their tables")
            else:
                self._add_entry(given, f"{place}: {name}", name, entry, _OF_LISTENERS)
        if "listen" not in table:
            self.problems.append(f'{place}: say where it listens: listen = "HOST:PORT"')
        self.listeners.append(given)

    def _add_entry(
        self, to: dict[str, Given], place: str, name: str, entry: object, known: Sequence[str] = _NAMES
    ) -> None:
        """Add an entry, or what is wrong with it; a name that is none of the `known` may be nearly one of them."""
        option = BY_NAME.get(name)
        if option is None:
            self.problems.append(f"{place}: there is no such setting{nearest(name, known)}")
            return
        try:
            to[name] = Given(_texts(option, entry), place)
        except ValueError as error:
            shown = "" if option.secret else _shown(entry)
            self.problems.append(f"{place}:{shown} {error}")

    # -- shown

    def as_file(self) -> Iterator[str]:
        """The lines of a file that says the same, with where each stands; what is not given has its default."""
        for option in _TABLES_LAST:
            given = self.given.get(option.name, Given(option.default, "default"))
            if given.texts or option.table:
                yield from _lines(option, given, f"[{option.name}]", option.default)
            else:
                yield f"# {option.name} is not given"
        for table in self.listeners:
            yield from ("", f"[[{_LISTENER}]]")
            for option in _TABLES_LAST:
                if option.name in table:
                    yield from _lines(option, table[option.name], f"[{_LISTENER}.{option.name}]", option.default)


def _lines(option: Option, given: Given, heading: str, default: Sequence[str]) -> Iterator[str]:
    if option.table:
        changes = dict(change.split("=") for change in (*default, *given.texts))
        yield from ("", f"{heading}  # {given.place}")
        yield from (f"{name} = {value}" for name, value in changes.items())
    elif option.secret:
        yield f"# {option.name} is not shown; it is from {given.place}"
    else:
        yield f"{option.name} = {_as_toml(option, given.texts)}  # {given.place}"


def _sets(name: str, values: Values) -> bool:
    """Whether these values have what an option sets."""
    return BY_NAME[name].field in values or (name == _SECRET_FILE and "login_secret" in values)


def _values_of_all(table: Mapping[str, Given], problems: list[str]) -> Values:
    """What the options given in a table come to; what is wrong with them is added to the problems."""
    values: Values = {}
    for option in OPTIONS:
        if given := table.get(option.name):
            values |= _values(option, given, problems)
    return values


def _values(option: Option, given: Given, problems: list[str]) -> Values:
    """What an option comes to, nothing if it is a problem."""
    try:
        if not given.texts:
            raise ValueError("it is empty; write a text, or remove it")
        if any("\0" in text for text in given.texts):
            raise ValueError("it contains a NUL; remove that")
        return {field: _checked(field, value) for field, value in option.read(given.texts).items()}
    except SettingsError as error:
        problems += [f"{given.place}: {problem}" for problem in error.problems]
    except ValueError as error:
        shown = f" {_shortly(' '.join(map(repr, given.texts)))}:" if given.texts and not option.secret else ""
        problems.append(f"{given.place}:{shown} {error}")
    return {}


def _contents(file: str) -> bytes | None:
    """What stands in a file; None if it can't be read, or is larger than such a file can be."""
    try:
        with open(file, "rb") as opened:
            octets = opened.read(_MOST_OCTETS + 1)
    except (OSError, ValueError):
        return None
    return octets if len(octets) <= _MOST_OCTETS else None


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
        # Its place is named already.
        problems = error.problems if isinstance(error, SettingsError) else (str(error),)
        raise SettingsError(
            *(problem.removeprefix(f"{field}: ").removeprefix(f"{field} ") for problem in problems)
        ) from None
    return value


def _texts(option: Option, entry: object) -> tuple[str, ...]:
    """The texts of an entry in a file. Raises ValueError with what has to be written instead."""
    if option.table:
        if not isinstance(entry, dict) or not all(map(_is_plain, entry.values())):
            raise ValueError(f"write a table: [{option.name}], and lines of NAME = NUMBER after it")
        return tuple(f"{name}={_text(value)}" for name, value in entry.items())
    if option.switch:
        if not isinstance(entry, bool):
            raise ValueError("write true or false")
        return ("true" if entry else "false",)
    entries = entry if isinstance(entry, list) and option.many else [entry]
    if not all(map(_is_plain, entries)):
        raise ValueError("write a text in quotes, or a list of them" if option.many else "write a text in quotes")
    return tuple(map(_text, entries))


def _text(entry: object) -> str:
    """A text or a number as text. Raises ValueError."""
    try:
        return str(entry)
    except ValueError:  # Python writes no number of thousands of digits, but reads one in hexadecimal
        raise ValueError("the number has too many digits; write a smaller one") from None


def _shown(entry: object) -> str:
    """An entry as JSON, with a colon; nothing where it is a number without end, or tables within tables without end."""
    try:
        return f" {_shortly(json.dumps(entry, default=str, ensure_ascii=False))}:"
    except (ValueError, RecursionError):
        return ""


def _is_plain(entry: object) -> bool:
    return isinstance(entry, str | int | float) and not isinstance(entry, bool)


def _as_toml(option: Option, texts: Sequence[str]) -> str:
    if option.switch:
        return "true" if is_on(texts[-1]) else "false"
    if option.numeric:
        return texts[-1]
    quoted = [json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007F") for text in texts]
    return f"[{', '.join(quoted)}]" if option.many else quoted[-1]
