"""The house: its rooms from the ground up, what each may import, and how the imports are read from the code.

What a room is for, or the reason for its walls, is the first paragraph of the manual in its `__init__.py`.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Final

import shimproxy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT: Final = Path(shimproxy.__file__).parent
HALL: Final = "hall"
_OF_THE_HALL: Final = (
    "The package from outside: the names that programs import, `python -m shimproxy`, the pytest plugin."
)
ANYWHERE: Final = frozenset({"shimproxy._version"})
"""Modules of the hall that every room may import: they import nothing."""

MAY_IMPORT: Final[Mapping[str, frozenset[str]]] = {
    "smtp": frozenset(),
    "net": frozenset(),
    "program": frozenset(),
    "client": frozenset({"smtp", "net"}),
    "session": frozenset({"smtp", "net"}),
    "faulty": frozenset({"smtp", "net"}),
    "observe": frozenset({"smtp", "net", "session"}),
    "records": frozenset({"smtp", "session", "observe"}),
    "config": frozenset({"smtp", "net", "session", "observe", "records"}),
    "service": frozenset({"smtp", "net", "session", "observe", "records", "config"}),
    "embed": frozenset({"net", "session", "faulty", "observe", "config", "service"}),
    "admin": frozenset({"smtp", "net", "program", "client", "session", "observe", "records", "config"}),
    "daemon": frozenset({"net", "program", "session", "observe", "config", "service", "admin"}),
    "probe": frozenset({"smtp", "net", "program", "client"}),
    "demo": frozenset({"smtp", "net", "program", "session", "faulty", "observe", "records", "config", "service"}),
    "help": frozenset({"smtp", "net", "program", "session", "observe", "records", "config"}),
    "cli": frozenset(
        {
            "smtp",
            "net",
            "program",
            "session",
            "faulty",
            "observe",
            "records",
            "config",
            "admin",
            "daemon",
            "probe",
            "demo",
            "help",
        }
    ),
    HALL: frozenset({"smtp", "net", "session", "records", "config", "service", "embed", "cli"}),
}
"""Room -> the rooms that it may import beside itself, all of which stand before it."""


def modules() -> dict[str, Path]:
    """Every module of the package, by its name."""
    return {_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module of shimproxy stands in; what is in none of them is the hall's."""
    words = module.split(".")
    return words[1] if len(words) > 1 and words[1] in MAY_IMPORT else HALL


def reason(room: str) -> str:
    """What a room is for, as its `__init__.py` says first, on one line; that of the hall is the package's own."""
    if room == HALL:
        return _OF_THE_HALL
    manual = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text())) or ""
    return " ".join(manual.partition("\n\n")[0].split())


def imported(source: str, package: str, known: Iterable[str] = ()) -> Iterator[str]:
    """The full name of every module that is imported anywhere in `source`, for types alone or not.

    `package` is the one that relative imports begin at. A name that is imported from a module is that of a module if
    it is in `known`, or stands in the package's top.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                origin = ".".join([*base, *([module] if module else [])])
                for alias in names:
                    full = f"{origin}.{alias.name}"
                    # `from shimproxy import net` enters a room, `from shimproxy import serve` the hall.
                    yield full if origin == "shimproxy" or full in known else origin


@functools.cache
def arrows() -> Mapping[str, frozenset[str]]:
    """Module of the package -> those that it imports."""
    found = modules()
    return {
        name: frozenset(imported(path.read_text(), _package(name, path), found)) & found.keys() - {name}
        for name, path in found.items()
    }


def _package(name: str, path: Path) -> str:
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def in_a_circle(arrows: Mapping[str, Iterable[str]]) -> set[str]:
    """Those from which a way leads back to themselves."""
    return {each for each in arrows if each in _reached(each, arrows)}


def _reached(start: str, arrows: Mapping[str, Iterable[str]]) -> set[str]:
    reached: set[str] = set()
    ahead = [*arrows[start]]
    while ahead:
        each = ahead.pop()
        if each not in reached:
            reached.add(each)
            ahead += arrows.get(each, ())
    return reached
