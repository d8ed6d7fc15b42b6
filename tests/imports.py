"""Which modules a process has imported, for tests of what it does without."""

from __future__ import annotations

import subprocess
import sys


def imported_by(code: str) -> set[str]:
    """All modules that there are in a process of Python's that has run `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {*done.stdout.split()}
