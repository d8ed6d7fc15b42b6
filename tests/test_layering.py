"""The house: four rooms and a hall, arrows only downward, and what each room may import."""

from __future__ import annotations

import ast
import fnmatch
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import shimproxy

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(shimproxy.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
LINES_LIMIT = 450

HALL = "hall"
HALL_MODULES = {"shimproxy", "shimproxy.__main__", "shimproxy.cli", "shimproxy._version"}
MAY_IMPORT = {
    "smtp": {"smtp"},
    "net": {"net"},
    "session": {"session", "net", "smtp"},
    "ops": {"ops", "session", "net", "smtp"},
    HALL: {HALL, "ops", "session", "net", "smtp"},
}
NOT_IN_SMTP = {"trio", "socket", "logging", "time", "ssl", "select", "selectors"}
THIRD_PARTY = {"trio", "attrs"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module of shimproxy stands in; what is in none of the four is the hall's."""
    words = module.split(".")
    return words[1] if len(words) > 1 and words[1] in MAY_IMPORT else HALL


def imported(source: str, package: str) -> Iterator[str]:
    """The full name of every module, or name of a module, that is imported anywhere in `source`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                origin = ".".join([*base, *([module] if module else [])])
                if origin == "shimproxy":
                    # `from shimproxy import net` enters a room, `from shimproxy import serve` the hall.
                    yield from (f"shimproxy.{alias.name}" for alias in names)
                else:
                    yield origin


def breaches(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Every import in `source` that the house does not allow to `module`."""
    found = []
    room = room_of(module)
    for name in imported(source, module if is_package else module.rpartition(".")[0]):
        top = name.split(".")[0]
        if top == "shimproxy":
            if room_of(name) not in MAY_IMPORT[room]:
                found.append(f"{room} imports {room_of(name)}: {name}")
        elif top == "asyncio":
            found.append(f"asyncio: {name}")
        elif top not in sys.stdlib_module_names | THIRD_PARTY:
            found.append(f"neither stdlib, trio nor attrs: {name}")
        elif room == "smtp" and top in NOT_IN_SMTP:
            found.append(f"smtp is pure: {name}")
    return found


every_module = pytest.mark.parametrize("path", MODULES, ids=[module_name(path) for path in MODULES])


def test_the_tree_was_found() -> None:
    """The rooms are where this test looks for them, so that it can't pass on nothing."""
    rooms = {room_of(module_name(path)) for path in MODULES}

    assert set(MAY_IMPORT) == rooms


def test_whatever_stands_in_no_room_is_one_of_the_halls_modules() -> None:
    """A new module, or a fifth room, has to be given its place here."""
    hall = {module_name(path) for path in MODULES if room_of(module_name(path)) == HALL}

    assert hall <= HALL_MODULES


@every_module
def test_imports_keep_to_the_house(path: Path) -> None:
    """Every import goes downward and to what the project depends on, `if TYPE_CHECKING` or not."""
    assert breaches(module_name(path), path.read_text(), is_package=path.name == "__init__.py") == []


@every_module
def test_a_module_opens_with_its_manual(path: Path) -> None:
    """Each module says what it owns."""
    assert ast.get_docstring(ast.parse(path.read_text()))


@every_module
def test_a_module_is_short(path: Path) -> None:
    """No module grows beyond what one reads in a sitting."""
    assert len(path.read_text().splitlines()) <= LINES_LIMIT


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("shimproxy.smtp.made_up", "import shimproxy.net.leg", id="smtp-net"),
        pytest.param("shimproxy.smtp.made_up", "from shimproxy.session.limits import Limits", id="smtp-session"),
        pytest.param("shimproxy.smtp.made_up", "from shimproxy import Address", id="smtp-hall"),
        pytest.param("shimproxy.smtp.made_up", "import shimproxy", id="smtp-hall-whole"),
        pytest.param("shimproxy.smtp.made_up", "from ..net import leg", id="smtp-net-relative"),
        pytest.param("shimproxy.smtp.made_up", "from .. import net", id="smtp-net-relative-name"),
        pytest.param("shimproxy.smtp.made_up", "import time", id="smtp-time"),
        pytest.param("shimproxy.smtp.made_up", "from logging import getLogger", id="smtp-logging"),
        pytest.param("shimproxy.smtp.made_up", "def f():\n    import trio.lowlevel", id="smtp-trio-in-function"),
        pytest.param("shimproxy.net.made_up", "from shimproxy.smtp.reply import Reply", id="net-smtp"),
        pytest.param("shimproxy.net.made_up", "from shimproxy import smtp", id="net-smtp-by-name"),
        pytest.param(
            "shimproxy.net.made_up",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from shimproxy.session.sender import Sender",
            id="net-session-for-types",
        ),
        pytest.param("shimproxy.session.made_up", "from shimproxy.ops.journal import Journal", id="session-ops"),
        pytest.param("shimproxy.ops.made_up", "from shimproxy.cli import main", id="ops-hall"),
        pytest.param("shimproxy.ops.made_up", "import asyncio.streams", id="asyncio"),
        pytest.param("shimproxy.cli", "import asyncio", id="asyncio-in-hall"),
        pytest.param("shimproxy.cli", "import click", id="third-party"),
        pytest.param("shimproxy.net.made_up", "import attr", id="attrs-by-its-old-name"),
    ],
)
def test_a_breach_is_caught(module: str, source: str) -> None:
    """Each rule of the house has a made-up breach that is found, once."""
    assert len(breaches(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("shimproxy.smtp.made_up", "from shimproxy.smtp.reply import Reply", id="smtp-smtp"),
        pytest.param("shimproxy.smtp.made_up", "from .reply import Reply", id="smtp-smtp-relative"),
        pytest.param("shimproxy.net.made_up", "import socket, trio, attrs", id="net-sockets"),
        pytest.param("shimproxy.session.made_up", "from shimproxy import net, smtp", id="session-net-smtp"),
        pytest.param("shimproxy.ops.made_up", "from shimproxy.session.limits import Limits", id="ops-session"),
        pytest.param("shimproxy.cli", "from shimproxy import __version__", id="hall-hall"),
    ],
)
def test_what_the_house_allows_is_no_breach(module: str, source: str) -> None:
    """Arrows downward pass."""
    assert breaches(module, source) == []


# -- the top level

ALLOWED = {"pyproject.toml", "README.md", "shimproxy", "tests", "bench", "findings", "Dockerfile"}


def test_the_top_level_holds_what_it_may_and_nothing_else() -> None:
    """Beside these there are dot-files, and what .gitignore knows to be made here."""
    top = ROOT.parent
    if not (top / "pyproject.toml").exists():
        pytest.skip("installed, so that there is no top level")
    made_here = [line.strip("/") for line in (top / ".gitignore").read_text().splitlines()]
    found = [path.name for path in top.iterdir() if not path.name.startswith(".")]
    ignored = {name for name in found for pattern in made_here if fnmatch.fnmatch(name, pattern)}

    assert set(found) - ignored <= ALLOWED
