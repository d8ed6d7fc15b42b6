"""`shimproxy help`: the pages of the documentation, which are part of the package, in a terminal or as man pages."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from importlib import resources
from typing import TYPE_CHECKING, Final

from shimproxy.config.parsers import nearest
from shimproxy.help import man as help_man
from shimproxy.help.markdown import Heading, parse_page, plain
from shimproxy.help.text import Layout
from shimproxy.program.process import say
from shimproxy.program.terminal import has_colours, is_live, size_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from shimproxy.help.markdown import PageBlock

_MOST_COLUMNS: Final = 100
"""Of text: longer lines are hard to read."""
_GROUPS: Final = {
    "Set it up": ("install", "gateway", "receivers", "identity", "tls", "newlines", "sessions", "settings", "limits"),
    "Run it": ("operate", "log", "records", "metrics", "violations", "security"),
    "Test with it": ("probe", "misbehave", "atlas", "embed", "testing", "benchmark"),
    "Understand and change it": ("guarantees", "design", "contributing", "adding", "changes"),
}


class UnknownTopic(ValueError):
    """No page is called that, and no command."""


def topics() -> dict[str, str]:
    """The name of each page, and its title, in the order in which they are listed."""
    found = {
        page.name.removesuffix(".md"): page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        for page in resources.files("shimproxy").joinpath("docs").iterdir()
        if page.name.endswith(".md")
    }
    ranks = [name for group in _GROUPS.values() for name in group]
    return {name: found[name] for name in sorted(found, key=lambda name: (_rank(name, ranks), name))}


def _rank(name: str, ranks: Sequence[str]) -> int:
    return ranks.index(name) if name in ranks else len(ranks)


def page(topic: str) -> list[PageBlock]:
    """The page of a topic. Raises UnknownTopic, which names where to look."""
    known = topics()
    name = topic.lower().removesuffix(".md")
    if name not in known:
        raise UnknownTopic(f"no page is called {topic!r}{_elsewhere(name, known)}; shimproxy help lists all")
    return _parsed(name)


def _parsed(name: str) -> list[PageBlock]:
    return parse_page(resources.files("shimproxy").joinpath("docs", f"{name}.md").read_text(encoding="utf-8"))


def _elsewhere(word: str, known: Mapping[str, str]) -> str:
    """Which page has a heading with that word, or is called nearly so."""
    found = [
        (block.level, name, plain(block.text))
        for name in known
        for block in _parsed(name)
        if isinstance(block, Heading) and word in plain(block.text).lower().split()
    ]
    if found:
        _, name, heading = min(found)
        return f"; {name} has {heading!r}"
    return nearest(word, list(known))


# -- what is printed


def run(topic: str | None, parser: argparse.ArgumentParser, version: str, *, man: bool = False) -> Callable[[], int]:
    """What prints the page of a topic, the help of a command, or what there is. Raises UnknownTopic."""
    commands = _commands(parser)
    if man:
        if topic is None:
            return lambda: _show_man(help_man.of_command(parser, topics(), version))
        roff = help_man.of_page(topic.lower().removesuffix(".md"), page(topic), version)
        return lambda: _show_man(roff)
    if topic is None:
        return lambda: show(lambda _: _listed(topics()))
    if topic in commands and topic not in topics():
        return lambda: show(lambda _: commands[topic].format_help().splitlines())
    blocks = page(topic)
    return lambda: show(lambda layout: layout.drawn(blocks))


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(dict(action.choices) for action in parser._actions if isinstance(action.choices, dict))


def _listed(known: Mapping[str, str]) -> list[str]:
    width = max(map(len, known), default=0)
    lines = ["shimproxy help TOPIC prints a page; shimproxy COMMAND --help the flags of a command."]
    named = {name for group in _GROUPS.values() for name in group}
    for group, names in {**_GROUPS, "More": tuple(name for name in known if name not in named)}.items():
        if there := [name for name in names if name in known]:
            lines += ["", f"{group}:", *(f"  {name:{width}}  {known[name]}" for name in there)]
    return lines


def show(drawn: Callable[[Layout], list[str]]) -> int:
    """Print lines; on a terminal, by its pager. 0."""
    pager = _pager()
    columns = min(size_of(sys.stdout, os.environ).columns, _MOST_COLUMNS)
    lines = drawn(Layout(columns=columns, styled=pager is not None and _has_styles()))
    if pager is None or not _piped(["sh", "-c", pager], lines):
        for line in lines:
            say(line)
    return 0


def _show_man(roff: Sequence[str]) -> int:
    """Print a man page; on a terminal, as `man` shows it. 0."""
    if not (is_live(sys.stdout, os.environ) and shutil.which("man") and _piped(["man", "-l", "-"], roff)):
        for line in roff:
            say(line)
    return 0


def _pager() -> str | None:
    """The command that shows text by the screen; None where what is printed goes elsewhere, or there is none."""
    if not is_live(sys.stdout, os.environ):
        return None
    pager = os.environ.get("PAGER", "less").strip()
    return pager if pager and shutil.which(pager.split()[0]) else None


def _has_styles() -> bool:
    """Whether bold reaches the screen: less shows escape sequences as text unless its options say otherwise."""
    pager = os.environ.get("PAGER", "less").split()
    options = os.environ.get("LESS", "R") + " ".join(pager[1:])
    return has_colours(sys.stdout, os.environ) and (os.path.basename(pager[0]) != "less" or "r" in options.lower())


def _piped(command: Sequence[str], lines: Sequence[str]) -> bool:
    """Give lines to a program that shows them; whether it has. An interrupt is the program's."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # SIG_IGN would be inherited
    try:
        with contextlib.suppress(OSError):
            shown = subprocess.run(
                command,
                input="".join(f"{line}\n" for line in lines).encode(),
                env={"LESS": "FRX", **os.environ},
                check=False,
            )
            return shown.returncode not in (126, 127)
        return False
    finally:
        signal.signal(signal.SIGINT, before)
