"""What mail data and sessions cost, in instructions and system calls: `python -m tests.instructions`.

They are counted, so that the figures are the same on a busy machine. They are compared with those in figures.toml,
and one that has grown by too much fails the run. They hold for one build of Python and one C library: where
there are none for those that run, the figures are printed, and `--write` adds them to the file.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Final

from tests.instructions.counting import What
from tests.instructions.mail_data import of_mail_data
from tests.instructions.sessions import MAIL, SESSION, TOLD, of_sessions

GROWTH: Final = 0.03
"""The share by which a figure may grow."""
GROWTH_OF_SESSIONS: Final = 0.10
"""The same for a session: how often shimproxy waits for peers that come and leave depends on when they do."""
LINE: Final = "instructions of the line of a mail"
MOST_OF_A_SESSION: Final = 0.03
"""The share of the instructions of a session with one mail that the line of this may take in the log."""
_FIGURES: Final = Path(__file__).with_name("figures.toml")


def build() -> str:
    """What the figures depend on, beside the code."""
    compiler = platform.python_compiler()
    return f"Python {platform.python_version()}, {compiler}, {' '.join(platform.libc_ver())}, {platform.machine()}"


def grown(figures: dict[str, int], before: dict[str, int]) -> list[str]:
    """The kinds whose figure has grown by more than it may, or is not among those before."""
    return [kind for kind, count in figures.items() if count > before.get(kind, 0) * (1 + _growth(kind))]


def _growth(kind: str) -> float:
    return GROWTH_OF_SESSIONS if kind.endswith((" of a session", TOLD)) or kind == LINE else GROWTH


def costs_too_much(figures: dict[str, int]) -> bool:
    """Whether the line of a mail takes a larger share of its session than it may."""
    return figures[LINE] > figures[SESSION] * MOST_OF_A_SESSION


def main(arguments: list[str] | None = None) -> int:
    """Count and compare; 1 if a figure has grown by too much, or the line of a mail costs too much."""
    parser = argparse.ArgumentParser(prog="python -m tests.instructions", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures of this build in figures.toml")
    parser.add_argument("--log-level", help="count sessions that are logged at that level, and compare nothing")
    options = parser.parse_args(arguments)
    for what in What:
        if not shutil.which(what.value):
            raise SystemExit(f"{what.value} is not installed: apt-get install {what.value}")
    if options.log_level:
        for kind, count in of_sessions(What.INSTRUCTIONS, options.log_level).items():
            print(f"{count:12,}  {kind}")
        return 0
    kept = tomllib.loads(_FIGURES.read_text(encoding="utf-8"))
    figures, before = of_mail_data(), kept.get(build(), {})
    for what in What:
        figures |= _of_sessions(what, before)
    figures[LINE] = _of_line(figures, before)
    figures |= _of_sessions(What.INSTRUCTIONS, before, TOLD)
    wrong = grown(figures, before) if before else []
    for kind, count in figures.items():
        change = f"{count / before[kind] - 1:+.1%}" if kind in before else "new"
        print(f"{count:12,} {change:>7}  {kind}{_complaint(kind, before) if kind in wrong else ''}")
    share = figures[LINE] / figures[SESSION]
    print(f"the line of a mail takes {share:.1%} of its session, and may take {MOST_OF_A_SESSION:.0%}")
    if options.write:
        _write(kept | {build(): figures})
    elif not before:
        print(f"there are no figures of {build()} to compare with; --write adds them")
    return 1 if costs_too_much(figures) or (wrong and not options.write) else 0


def _of_sessions(what: What, before: dict[str, int], log: str = "") -> dict[str, int]:
    """What sessions cost; counted twice if that seems to have grown: peers that are late add something now and then."""
    figures = of_sessions(what, log)
    if before and grown(figures, before):
        again = of_sessions(what, log)
        figures = {kind: min(count, again[kind]) for kind, count in figures.items()}
    return figures


def _of_line(figures: dict[str, int], before: dict[str, int]) -> int:
    """What the line of a mail costs, beside the figures of a mail without it; counted twice as in `_of_sessions`."""
    counts: list[int] = []
    for _ in range(2):
        counts.append(of_sessions(What.INSTRUCTIONS, "info")[f"{MAIL}, log-level info"] - figures[MAIL])
        line = {LINE: min(counts)}
        if not costs_too_much(figures | line) and not (before and grown(line, before)):
            break
    return min(counts)


def _complaint(kind: str, before: dict[str, int]) -> str:
    return "  has grown by too much" if kind in before else "  has no figure to compare with; --write adds it"


def _write(kept: dict[str, dict[str, int]]) -> None:
    lines = ["# What a MiB of mail data and a session cost; `python -m tests.instructions --write` writes them.\n"]
    for name, figures in kept.items():
        lines += [f'\n["{name}"]\n', *(f'"{kind}" = {count}\n' for kind, count in figures.items())]
    _FIGURES.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
