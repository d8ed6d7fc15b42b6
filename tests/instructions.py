"""How many instructions a MiB of mail data costs in smtp/, by kind: `python -m tests.instructions`.

Callgrind counts them, so that the figures are the same on a busy machine. They are compared with those in
instructions.toml, and one that has grown by more than `GROWTH` fails the run. They hold for one build of Python and one
C library: where there are none for those that run, the figures are printed, and `--write` adds them to the file.

1. Both tests of mail data are counted, as a session calls them: where the end is, and whether anything is stray.
2. Mail data are made by the process that counts, as making them costs more than all that is counted.
3. Callgrind writes what was counted so far at each call of getppid(), which nothing else calls.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from bench.mail_data import BLOCKS, small_mail
from shimproxy.net.driver import BLOCK_START
from shimproxy.smtp.mail_data import EndOfData
from shimproxy.smtp.newlines import Normaliser

GROWTH: Final = 0.03
"""The share by which a figure may grow."""
_ROOT: Final = Path(__file__).resolve().parents[1]
_FIGURES: Final = Path(__file__).with_suffix(".toml")
_MIB: Final = 1024 * 1024
_SMALL_MAILS: Final = 100
_SMALL: Final = "2 KiB, a hundred times"


def count_in_callgrind(folder: Path) -> None:
    """Have the mail data in the folder judged, each kind between two marks, as the process that Callgrind runs."""
    for path in sorted(folder.iterdir()):
        block = bytearray(BLOCK_START) + path.read_bytes()
        times = _SMALL_MAILS if path.name.endswith(_SMALL) else 1
        _judge(block)
        os.getppid()
        for _ in range(times):
            _judge(block)
        os.getppid()


def _judge(block: bytearray) -> None:
    stop = EndOfData().feed(block, BLOCK_START, len(block))
    Normaliser().feed(block, BLOCK_START, stop or len(block), ended=stop is not None)


def counted() -> dict[str, int]:
    """The instructions of each kind, for a MiB of it or for a hundred small mails."""
    mails = {kind: make(_MIB) for kind, make in BLOCKS.items()} | {_SMALL: small_mail(2048)}
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name, "in"), Path(name, "out")
        folder.mkdir()
        for at, (kind, octets) in enumerate(mails.items()):
            (folder / f"{at} {kind}").write_bytes(octets)
        run = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={out}"),
                *(sys.executable, "-m", "tests.instructions", "--in", str(folder)),
            ],
            cwd=_ROOT,
            # A copy by one instruction would be counted as one for each octet.
            env=os.environ | {"PYTHONHASHSEED": "0", "GLIBC_TUNABLES": "glibc.cpu.x86_rep_movsb_threshold=1073741824"},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise SystemExit(f"valgrind failed: {run.stderr[-2000:]}")
        totals = [_total(Path(f"{out}.{number}")) for number in range(1, 2 * len(mails) + 1)]
    # What comes before the first of two marks is no figure.
    pairs = zip(mails.items(), totals[1::2], strict=True)
    return {kind: total if kind == _SMALL else round(total * _MIB / len(octets)) for (kind, octets), total in pairs}


def _total(path: Path) -> int:
    found = re.search(r"^(?:summary|totals): ([0-9]+)", path.read_text(), re.MULTILINE)
    assert found, path
    return int(found[1])


def build() -> str:
    """What the figures depend on, beside the code."""
    compiler = platform.python_compiler()
    return f"Python {platform.python_version()}, {compiler}, {' '.join(platform.libc_ver())}, {platform.machine()}"


def grown(figures: dict[str, int], before: dict[str, int]) -> list[str]:
    """The kinds whose figure has grown by more than it may, or is not among those before."""
    return [kind for kind, count in figures.items() if count > before.get(kind, 0) * (1 + GROWTH)]


def main(arguments: list[str] | None = None) -> int:
    """Count and compare; 1 if a figure has grown by too much."""
    parser = argparse.ArgumentParser(prog="python -m tests.instructions", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures of this build in instructions.toml")
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder:
        count_in_callgrind(options.folder)
        return 0
    if not shutil.which("valgrind"):
        raise SystemExit("valgrind is not installed: apt-get install valgrind")
    kept = tomllib.loads(_FIGURES.read_text(encoding="utf-8"))
    figures, before = counted(), kept.get(build(), {})
    wrong = grown(figures, before) if before else []
    for kind, count in figures.items():
        change = f"{count / before[kind] - 1:+.1%}" if kind in before else "new"
        print(f"{count:12,} {change:>7}  {kind}{'  has grown by too much' if kind in wrong else ''}")
    if options.write:
        _write(kept | {build(): figures})
    elif not before:
        print(f"there are no figures of {build()} to compare with; --write adds them")
    return 1 if wrong and not options.write else 0


def _write(kept: dict[str, dict[str, int]]) -> None:
    lines = ["# Instructions for a MiB of mail data; `python -m tests.instructions --write` writes them.\n"]
    for name, figures in kept.items():
        lines += [f'\n["{name}"]\n', *(f'"{kind}" = {count}\n' for kind, count in figures.items())]
    _FIGURES.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
