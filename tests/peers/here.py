"""Commands of shimproxy that are run to their end in this process.

One in a process of its own takes half a second of the processor to load what this process has already. Tests of
signals, of closed outputs and of what a start loads have such a process all the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
from typing import Final

from shimproxy.cli import main

_FILES: Final = resource.RLIMIT_NOFILE


def run_here(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a command prints where its output is no terminal, and its exit status.

    It finds these variables in the environment, which is as it was afterwards, as is how many files may be open.
    """
    output, errors = io.StringIO(), io.StringIO()
    variables, files = os.environ.copy(), resource.getrlimit(_FILES)
    os.environ.update(environment)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                status = main(arguments)
            except SystemExit as left:  # argparse
                status = int(left.code or 0)
    finally:
        os.environ.clear()
        os.environ.update(variables)
        resource.setrlimit(_FILES, files)
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())
