"""The house: rooms whose arrows lead only downward, without circles, in pieces that can be read in a sitting."""

from __future__ import annotations

import ast
import fnmatch
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.house import ANYWHERE, HALL, MAY_IMPORT, ROOT, arrows, imported, in_a_circle, modules, reason, room_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.once

MODULES = modules()
LINES_LIMIT = 450
CLASS_LIMIT = 250
LARGEST_SHARE = 0.25

NAMED_ALIKE = {
    "add": "each command adds itself to the command line, and its module is called by its name",
    "run": "each command of the command line is carried out by a module that is called by its name",
}
"""What functions of several modules are called, and why a reader who meets one needs no other name."""

HALL_MODULES = {"shimproxy", "shimproxy.__main__", "shimproxy.pytest_plugin", "shimproxy._version"}
NOT_IN_SMTP = {"trio", "socket", "logging", "time", "ssl", "select", "selectors"}
THIRD_PARTY = {"trio", "attrs"}
ONLY_IN = {"shimproxy.pytest_plugin": {"pytest"}}
"""What a module imports besides, which nobody needs who does not import that module."""


def breaches(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Every import in `source` that the house does not allow to `module`."""
    found = []
    room = room_of(module)
    for name in dict.fromkeys(imported(source, module if is_package else module.rpartition(".")[0], MODULES)):
        top = name.split(".")[0]
        if top == "shimproxy":
            if room_of(name) not in {room, *MAY_IMPORT[room]} and name not in ANYWHERE:
                found.append(
                    f"{room} must not import {room_of(name)}: {name}\n  {room}: {reason(room)}\n"
                    f"  {room_of(name)}: {reason(room_of(name))}"
                )
        elif top == "asyncio":
            found.append(f"asyncio: {name}")
        elif top not in sys.stdlib_module_names | THIRD_PARTY | ONLY_IN.get(module, set()):
            found.append(f"neither stdlib, trio nor attrs: {name}")
        elif room == "smtp" and top in NOT_IN_SMTP:
            found.append(f"smtp is pure: {name}")
    return found


every_module = pytest.mark.parametrize("name", MODULES)


def test_the_tree_was_found() -> None:
    """The rooms are where this test looks for them, so that it can't pass on nothing."""
    assert set(MAY_IMPORT) == {room_of(name) for name in MODULES}


def test_whatever_stands_in_no_room_is_one_of_the_halls_modules() -> None:
    """A new module, or a new room, has to be given its place here."""
    assert {name for name in MODULES if room_of(name) == HALL} <= HALL_MODULES


def test_the_rooms_stand_on_each_other() -> None:
    """Each may import those before it alone, so that no arrow that is allowed leads upward."""
    rooms = [*MAY_IMPORT]

    assert [room for index, room in enumerate(rooms) if not MAY_IMPORT[room] <= {*rooms[:index]}] == []


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_arrow_is_allowed_that_is_not_there(room: str) -> None:
    """What a room may import, it does import: a permission goes with the last module that needs it."""
    theirs = {room_of(other) for name in MODULES if room_of(name) == room for other in arrows()[name] - ANYWHERE}

    assert MAY_IMPORT[room] <= theirs


def test_tests_stand_in_the_room_that_they_test() -> None:
    """Or in `whole`, which runs the program as its users do, or in `tools`, which tests the tools of the project."""
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(tests).as_posix() for path in tests.rglob("test_*.py")}

    assert folders - {".", "whole", "tools"} <= {*MAY_IMPORT}
    assert [path.name for path in tests.glob("test_*.py")] == ["test_layering.py"]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_says_what_it_is_for(room: str) -> None:
    """Its `__init__.py` does, in a sentence."""
    assert reason(room).endswith(".")


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_has_no_circles(room: str) -> None:
    """No module of it comes to import itself by way of others, for types alone or not."""
    within = {name: [*arrows()[name]] for name in MODULES if room_of(name) == room}

    assert in_a_circle(within) == set()


def test_a_circle_is_found() -> None:
    """Also a long one, but not what merely leads to one, or away from it."""
    assert in_a_circle({"a": "b", "b": "cd", "c": "a", "d": "e", "e": "", "f": "a"}) == {"a", "b", "c"}


def test_no_room_is_larger_than_the_house_can_bear() -> None:
    """The largest has less than a quarter of the lines."""
    lines = dict.fromkeys(MAY_IMPORT, 0)
    for name, path in MODULES.items():
        lines[room_of(name)] += len(path.read_text().splitlines())

    assert max(lines.values()) < sum(lines.values()) * LARGEST_SHARE


@every_module
def test_imports_keep_to_the_house(name: str) -> None:
    """Every import goes downward and to what the project depends on, `if TYPE_CHECKING` or not."""
    path = MODULES[name]

    assert not (found := breaches(name, path.read_text(), is_package=path.name == "__init__.py")), "\n".join(found)


@every_module
def test_a_module_opens_with_its_manual(name: str) -> None:
    """Each module says what it owns."""
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))


@every_module
def test_a_module_is_short(name: str) -> None:
    """No module grows beyond what one reads in a sitting."""
    assert len(MODULES[name].read_text().splitlines()) <= LINES_LIMIT


def test_a_class_is_short() -> None:
    """No class grows beyond what one keeps in mind."""
    large = {
        f"{name}.{node.name}": lines
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and (lines := (node.end_lineno or 0) - node.lineno + 1) > CLASS_LIMIT
    }

    assert large == {}


def given_by(tree: ast.Module) -> Iterator[str]:
    """The public names of classes, types and functions that a module gives."""
    for node in [each for top in tree.body for each in (top.body if isinstance(top, ast.If) else [top])]:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                pass
            case ast.Assign(targets=[ast.Name(id=name)]) if name[0].isupper() and not name.isupper():
                pass  # a type
            case _:
                continue
        if not name.startswith("_"):
            yield name


def named_alike(sources: dict[str, str]) -> dict[str, list[str]]:
    """Each such name that several of these modules give; and those modules."""
    homes: dict[str, list[str]] = {}
    for module, source in sources.items():
        for name in given_by(ast.parse(source)):
            homes.setdefault(name, []).append(module)
    return {name: found for name, found in homes.items() if len(found) > 1}


def test_no_two_things_have_one_name() -> None:
    """Whoever searches for a class, a type or a function finds that one alone."""
    alike = named_alike({name: path.read_text() for name, path in MODULES.items()})

    assert alike.keys() == NAMED_ALIKE.keys(), alike


def test_a_name_that_two_modules_give_is_found() -> None:
    """Not one of another kind of thing, nor one that begins with an underscore."""
    sources = {
        "a": "class Leg: ...\ndef _f(): ...\ndef g(): ...\nMOST = 1",
        "b": "class Leg: ...\ndef _f(): ...\ndef h(g): ...\nMOST = 1",
        "c": "if TYPE_CHECKING:\n    Leg = int\nasync def h(): ...",
    }

    assert named_alike(sources) == {"Leg": ["a", "b", "c"], "h": ["b", "c"]}


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
        pytest.param(
            "shimproxy.session.made_up", "from shimproxy.observe.journal import Journal", id="session-observe"
        ),
        pytest.param("shimproxy.probe.made_up", "from shimproxy.session.record import Repair", id="probe-session"),
        pytest.param("shimproxy.observe.made_up", "from shimproxy.config import settings", id="observe-config"),
        pytest.param("shimproxy.service.made_up", "from shimproxy.daemon.check import check", id="service-daemon"),
        pytest.param("shimproxy.daemon.made_up", "from shimproxy.cli import main", id="daemon-cli"),
        pytest.param("shimproxy.cli.made_up", "from shimproxy import __version__", id="cli-hall"),
        pytest.param("shimproxy.daemon.made_up", "import asyncio.streams", id="asyncio"),
        pytest.param("shimproxy", "import asyncio", id="asyncio-in-hall"),
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
        pytest.param("shimproxy.config.made_up", "from shimproxy.session.limits import Limits", id="config-session"),
        pytest.param("shimproxy.cli.made_up", "from shimproxy._version import __version__", id="cli-version"),
        pytest.param("shimproxy.pytest_plugin", "from shimproxy import running", id="hall-hall"),
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
