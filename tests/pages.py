"""The pages of the documentation, and what stands in them that no hand writes.

Between `<!-- made: NAME -->` and `<!-- end -->` a page has what `MADE[NAME]()` returns, which is printed from the code.
`python -m tests.pages` writes it there, and tests/tools/test_pages.py holds the pages equal to it. Between
`<!-- measured: NAME -->` and `<!-- end -->` stands what a command found out with real programs; that command calls
`write({NAME: text})`, and no test repeats it.

To add a block: write a function that returns Markdown, add it to MADE, put the two markers into a page.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

import shimproxy
from bench.figures import FIGURES
from bench.hostile_attacks import ATTACKS
from shimproxy.config.options import OPTIONS
from shimproxy.help.explain.words import strings_below
from shimproxy.help.files import READY_FILES, text_of
from shimproxy.observe.events import Event
from shimproxy.observe.keys import KEYS, json_schema
from shimproxy.observe.metrics import FAMILIES
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import DIALOGUE, NextRead, ReplyTo, Verdict
from tests.completion import write_completion
from tests.house import MAY_IMPORT, reason
from tests.peers import packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from shimproxy.config.options import Option

DOCS: Final = Path(shimproxy.__file__).parent / "docs"
SCHEMA: Final = DOCS / "log.schema.json"
README: Final = DOCS.parents[1] / "README.md"
_BLOCK: Final = re.compile(
    r"(^ *<!-- (made|measured): ([\w.-]+) -->\n)(.*?)(^ *<!-- end -->$)", re.MULTILINE | re.DOTALL
)


def pages() -> list[Path]:
    """Every page: those of the package and, where the tests run in the source tree, README.md."""
    return [*sorted(DOCS.glob("*.md")), *([README] if README.exists() else [])]


# -- Markdown


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; a cell may hold anything but a line end."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


# -- what is made from the code


def settings() -> str:
    """Every setting as `shimproxy run --help` has it, a table for each of its groups."""
    groups = dict.fromkeys(option.group for option in OPTIONS)
    made = ""
    for group in groups:
        made += f"\n### {group[0].upper()}{group[1:]}\n\n"
        rows = (
            (f"`{_setting(option)}`", ", ".join(f"`{text}`" for text in option.default), _words(option))
            for option in OPTIONS
            if option.group == group
        )
        made += table(["setting", "default", "what it does"], rows)
    return made.lstrip("\n")


def _setting(option: Option) -> str:
    if option.secret:
        return option.variable
    if option.switch:
        return f"--[no-]{option.name}"
    return f"--{option.name} {option.metavar or '|'.join(option.choices)}"


def _words(option: Option) -> str:
    return option.help + (" (repeatable)" if option.many else "")


def deadlines() -> str:
    """Every deadline of a session, with its default in seconds."""
    return _bounds(Deadlines, ["`--deadline`", "seconds", "how long shimproxy waits for"])


def limits() -> str:
    """Every limit of a session, with its default."""
    return _bounds(Limits, ["`--limit`", "default", "what it limits"])


def _bounds(of: type[Deadlines | Limits], head: Sequence[str]) -> str:
    words = {name: " ".join(text.split()) for name, text in strings_below(of).items()}
    names = (field.name for field in attrs.fields(of))
    return table(head, ((f"`{name.replace('_', '-')}`", f"{getattr(of(), name):.12g}", words[name]) for name in names))


def violations() -> str:
    """The catalogue."""
    rows = ((f"`{each}`", each.by, each.rule, each.repair) for each in Violation)
    return table(["name", "by the", "rule", "what shimproxy does"], rows)


def metrics() -> str:
    """Every family of metrics."""
    rows = (
        (f"`shimproxy_{name}`", family.kind, ", ".join(f"`{label}`" for label in family.labels), family.about)
        for name, family in FAMILIES.items()
    )
    return table(["metric", "type", "labels", "what it counts"], rows)


def events() -> str:
    """Every event of the log."""
    rows = ((f"`{each.value}`", logging.getLevelName(each.level), each.meaning) for each in Event)
    return table(["event", "level", "meaning"], rows)


def log_keys() -> str:
    """Every key of the log."""
    return table(["key", "meaning"], ((f"`{name}`", key.about) for name, key in KEYS.items()))


def schema_text() -> str:
    """The JSON Schema of a line of the log, as its file has it."""
    return json.dumps(json_schema(), indent=1) + "\n"


def apt_line() -> str:
    """The command that installs the real peers of the tests."""
    names = " ".join(packages.all_packages())
    filled = textwrap.fill(names, 100, break_on_hyphens=False).replace("\n", " \\\n    ")
    return f"```sh unrun: installs Debian packages; .ci/run does it\n{packages.APT} {filled}\n```\n"


_KINDS: Final = {2: "2yz", 221: "221", 334: "334", 354: "354", 4: "4yz", 421: "421", 5: "5yz"}
_RULINGS: Final = {
    Verdict.RELAY: "relay",
    Verdict.HOLD: "hold",
    Verdict.NEVER: "never relay",
    Verdict.DROP: "drop",
}
_NEXT: Final = {NextRead.DRAIN: "drain", NextRead.AUTH_RESPONSE: "AUTH response"}


def dialogue() -> str:
    """Which reply can answer what, and how the sender is read after it."""
    return table(
        ["the reply answers", *_KINDS.values()], ([str(what), *map(_ruling(what), _KINDS)] for what in ReplyTo)
    )


def _ruling(what: ReplyTo) -> Callable[[int], str]:
    def cell(kind: int) -> str:
        first_digit = kind if kind < 10 else kind // 100
        row = DIALOGUE.get((what, kind)) or (DIALOGUE.get((what, first_digit)) if kind == 421 else None)
        if row is None:
            return ""
        verdict, then = row
        return _RULINGS[verdict] + ("" if then is NextRead.COMMANDS else f", {_NEXT.get(then, then.value)}")

    return cell


def figures() -> str:
    """Every figure of the benchmark."""
    rows = ((f"`{each.name}`", each.better.value, each.about) for each in FIGURES.values())
    return table(["figure", "better", "what it is"], rows)


def attacks() -> str:
    """Every attack of the run with hostile peers."""
    return table(["attack", "what it is"], ((f"`{each.name}`", each.words(quick=False)) for each in ATTACKS))


def rooms() -> str:
    """Every room of the house, from the ground up."""
    rows = (
        (f"`{room}`", reason(room), ", ".join(f"`{each}`" for each in MAY_IMPORT if each in its))
        for room, its in MAY_IMPORT.items()
    )
    return table(["room", "what it is for", "imports"], rows)


FILE_BLOCKS: Final = {
    "shimproxy.socket": "ini unit-socket",
    "shimproxy-devices.socket": "ini unit-devices",
    "shimproxy.service": "ini unit-service",
    "shimproxy.toml": "toml unit-settings",
    "shimproxy-tproxy.socket": "ini socket-tproxy",
    "gateway.conf": "ini unit-gateway",
    "shimproxy.sysusers": "text",
    "user.conf": "ini unit-user",
    "compose.yaml": "yaml compose",
    "kubernetes.yaml": "yaml kubernetes",
    "kubernetes-podmonitor.yaml": "yaml unrun: tests take it from `shimproxy files`",
    "redirect.nft": "nft redirect-nftables",
    "redirect-nft-undo.sh": "sh redirect-nftables-undo",
    "redirect-iptables.sh": "sh redirect-iptables",
    "redirect-iptables-undo.sh": "sh redirect-iptables-undo",
    "tproxy-routes.sh": "sh tproxy-routes",
    "tproxy-routes-undo.sh": "sh tproxy-routes-undo",
    "tproxy.nft": "nft tproxy-nftables",
    "tproxy-nft-undo.sh": "sh tproxy-nftables-undo",
    "tproxy-iptables.sh": "sh tproxy-iptables",
    "tproxy-iptables-undo.sh": "sh tproxy-iptables-undo",
    "redirect-output.nft": "nft redirect-output-nftables",
    "redirect-output-nft-undo.sh": "sh redirect-output-nftables-undo",
    "redirect-output-iptables.sh": "sh redirect-output-iptables",
    "redirect-output-iptables-undo.sh": "sh redirect-output-iptables-undo",
    "fail2ban-filter.conf": "ini unrun: tests take it from `shimproxy files`",
    "fail2ban-jail.conf": "ini unrun: tests take it from `shimproxy files`",
    "prometheus.yml": "yaml unrun: tests take it from `shimproxy files`",
}
"""A file of `shimproxy files` that stands on a page -> the line of its fence: its language, and its name for tests."""


def file_block(name: str) -> str:
    """A file of the package, fenced."""
    return f"```{FILE_BLOCKS[name]}\n{text_of(name)}```\n"


def files() -> str:
    """Every file of `shimproxy files`."""
    rows = (
        (f"`{each.name}`", each.group, each.about, f"`{each.place}`" if each.place else "")
        for each in READY_FILES.values()
    )
    return table(["file", "for", "what it is", "its place"], rows)


MADE: Final[dict[str, Callable[[], str]]] = {
    "attacks": attacks,
    "deadlines": deadlines,
    "dialogue": dialogue,
    "figures": figures,
    "files": files,
    "events": events,
    "limits": limits,
    "log-keys": log_keys,
    "metrics": metrics,
    "packages": apt_line,
    "rooms": rooms,
    "settings": settings,
    "violations": violations,
    **{name: partial(file_block, name) for name in FILE_BLOCKS},
}


# -- into the pages


def blocks(text: str) -> dict[str, tuple[str, str]]:
    """The blocks of a page: name -> (made or measured, what stands there)."""
    return {name: (kind, inside) for _, kind, name, inside, _ in _BLOCK.findall(text)}


def rewritten(text: str, made: Mapping[str, str]) -> str:
    """The page with these blocks in it; blocks of other names stay as they are."""

    def block(found: re.Match[str]) -> str:
        begin, _, name, inside, end = found.groups()
        indent = begin[: len(begin) - len(begin.lstrip())]
        text = textwrap.indent(made.get(name, "").strip("\n"), indent)
        return begin + (f"\n{text}\n\n" if name in made else inside) + end

    return _BLOCK.sub(block, text)


def write(made: Mapping[str, str]) -> list[Path]:
    """Write these blocks into the pages that have their markers; the pages that have changed. Raises ValueError."""
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    if unknown := set(made) - {name for text in texts.values() for name in blocks(text)}:
        raise ValueError(f"no page has a block {', '.join(sorted(unknown))}: put its two markers into one")
    changed = {page: rewritten(text, made) for page, text in texts.items()}
    changed = {page: text for page, text in changed.items() if text != texts[page]}
    for page, text in changed.items():
        page.write_text(text, encoding="utf-8")
    return list(changed)


def main() -> int:
    """Write all that is made from the code."""
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    for page in write({name: make() for name, make in MADE.items()}):
        print(f"{page.name}: written anew")
    try:
        for name in write_completion():
            print(f"{name}: written anew")
    except ImportError:
        print("completion is not written: pip install -e '.[test]' installs shtab", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
