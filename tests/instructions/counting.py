"""A program in Python that is counted: its instructions by Callgrind, or its system calls by strace, between marks.

A mark is a call of getppid(), which nothing else calls.
"""

from __future__ import annotations

import enum
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

_WAIT: Final = "epoll_wait("
_ROOT: Final = Path(__file__).resolve().parents[2]


class What(enum.Enum):
    """What is counted, and what counts it."""

    INSTRUCTIONS = "valgrind"
    SYSTEM_CALLS = "strace"
    """All but waits for events: while peers come and go, there are more of these where the peers are slow."""


@attrs.frozen
class Counted:
    """A process that is counted."""

    process: subprocess.Popen[str]
    what: What
    _out: Path

    def line(self) -> str:
        """The next line that it prints; "" at its end."""
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def totals(self) -> list[int]:
        """The counts before each mark, since the one before it; once the process has ended.

        Raises SystemExit where it ended with an error.
        """
        _, complained = self.process.communicate()
        if self.process.returncode:
            raise SystemExit(f"{self.what.value} ended with {self.process.returncode}: {complained[-2000:]}")
        if self.what is What.INSTRUCTIONS:
            return [*self._totals_of_instructions()]
        calls = [call for call in self._out.read_text().splitlines() if not call.startswith(_WAIT)]
        marks = [at for at, call in enumerate(calls) if "getppid()" in call]
        return [mark - before - 1 for before, mark in itertools.pairwise((-1, *marks))]

    def _totals_of_instructions(self) -> Iterator[int]:
        for number in itertools.count(1):
            path = Path(f"{self._out}.{number}")
            if not path.exists():
                return
            found = re.search(r"^(?:summary|totals): ([0-9]+)", path.read_text(), re.MULTILINE)
            assert found, path
            yield int(found[1])


@contextmanager
def counted(what: What, module: str, *arguments: str) -> Iterator[Counted]:
    """Run a module of Python's, and count."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name, "out")
        if what is What.INSTRUCTIONS:
            counter = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={out}"]
        else:
            counter = ["strace", "-qq", "-o", str(out), "-e", "signal=none"]
        process = subprocess.Popen(
            [*counter, sys.executable, "-m", module, *arguments],
            cwd=_ROOT,
            # A copy by one instruction would be counted as one for each octet.
            env=os.environ | {"PYTHONHASHSEED": "0", "GLIBC_TUNABLES": "glibc.cpu.x86_rep_movsb_threshold=1073741824"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield Counted(process, what, out)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
