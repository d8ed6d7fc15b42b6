"""Applies each deliberate defect to a copy of shimproxy, and says what caught it: the explorer, or a named test."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.defects.patches import DEFECTS, Defect

_ROOT: Final = Path(__file__).resolve().parents[2]
_COPIED: Final = ("shimproxy", "tests", "bench", "pyproject.toml", "README.md")


def apply(defect: Defect, root: Path) -> None:
    """Put the defect into the copy at `root`. Raises ValueError where shimproxy does not read as it has to for that."""
    path = root / "shimproxy" / defect.file
    text = path.read_text()
    if text.count(defect.old) != 1:
        raise ValueError(f"{defect.name}: its text stands {text.count(defect.old)} times in {defect.file}, not once")
    text = text.replace(defect.old, defect.new)
    if "contextlib." in defect.new and "import contextlib" not in text:
        text = text.replace(
            "from __future__ import annotations\n", "from __future__ import annotations\n\nimport contextlib\n"
        )
    path.write_text(text)


def caught_by(defect: Defect, root: Path, seconds: float) -> str:
    """What has caught the defect that is in the copy at `root`; "" if nothing has."""
    if defect.test:
        run = _python(root, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *defect.test.split(" "), seconds=600)
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", run, re.MULTILINE)
        return failed[1] if failed else ""
    cases = [word for name in defect.cases for word in ("--case", name)]
    run = _python(
        root, "-m", "tests.explore", "--seconds", str(seconds), "--most-broken", "1", *cases, seconds=4 * seconds + 30
    )
    broken = re.search(r"^# (?:guarantee|record|an error|the trace).*", run, re.MULTILINE)
    return f"the explorer: {broken[0][2:]}" if broken else ""


def tried(defect: Defect, seconds: float) -> str:
    """What catches the defect, put into a copy of its own; "" if nothing does within the explorer's `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in _COPIED:
            source = _ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, root / name)
        apply(defect, root)
        return caught_by(defect, root, seconds)


def _python(root: Path, *arguments: str, seconds: float) -> str:
    try:
        run = subprocess.run(
            [sys.executable, *arguments], cwd=root, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return "# an error: it does not come to an end"
    return run.stdout + ("" if run.returncode in (0, 1) else run.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Try them; 1 if any is not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.defects", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the explorer may look for each")
    parser.add_argument("--only", default="", metavar="WORDS", help="those whose name has these words")
    parser.add_argument("--part", default="1/1", metavar="N/M", help="the N-th of M parts")
    options = parser.parse_args(arguments)
    part, parts = map(int, options.part.split("/"))
    chosen = [defect for defect in DEFECTS if options.only in defect.name][part - 1 :: parts]
    missed = []
    for defect in chosen:
        began = time.monotonic()
        catch = tried(defect, options.seconds)
        seconds = time.monotonic() - began
        print(f"{'caught' if catch else 'MISSED'}  {defect.name}  ({seconds:.0f} s)  {catch[:160]}", flush=True)
        if not catch:
            missed.append(defect.name)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} deliberate defects caught")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
