"""What the command lines of the benchmark take, and where their words go."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from bench.programs import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def positive(text: str) -> int:
    """A whole number from 1 on. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def number_up_to(most: float, what: str) -> Callable[[str], float]:
    """Takes a number of `what` above 0, up to `most`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what} up to {most:g}")
        return value

    return number


def put(text: str) -> None:
    """Say that on standard error, if that is still there."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def write_file(file: Path, text: str) -> None:
    """Write a report. Raises BenchError."""
    try:
        file.write_text(text)
    except OSError as error:
        raise BenchError(f"{file} can't be written: {error.strerror}") from None
