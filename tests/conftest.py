"""What holds for all tests: a reason for each that is skipped, and one account of what this machine lacks."""

from __future__ import annotations

import re
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.peers import packages

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path


def pytest_configure() -> None:
    """Hear SIGINT, as do the programs that tests start: a shell has what it starts in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Give an async test that is skipped its reason again: pytest-trio raises a Skipped of its own, with none."""
    try:
        return (yield)
    except pytest.skip.Exception as error:
        for each in _leaves(error.__context__):
            if isinstance(each, pytest.skip.Exception):
                raise each from None
        raise


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    elif error is not None:
        yield error


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hold that a module with tests of these marks writes them out: `.ci/run` looks for that, and collects no other."""
    said: dict[tuple[Path, str], bool] = {}
    for item in items:
        for name in {mark.name for mark in item.iter_markers()} & {"slow", "volume"}:
            where = item.path, name
            if where not in said:
                said[where] = re.search(rf"pytest\.mark\.{name}\b", item.path.read_text(encoding="utf-8")) is not None
            if not said[where]:
                raise pytest.UsageError(
                    f"{item.nodeid}: write pytest.mark.{name} in its module, where .ci/run finds it"
                )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell once what the skipped tests want, with one command for all packages."""
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])]
    if reasons:
        terminalreporter.section("tests that were skipped")
        for line in account(reasons, packages.missing_packages()):
            terminalreporter.write_line(line)


def account(reasons: Iterable[str], missing: Iterable[str]) -> list[str]:
    """The lines of that, made of what each skipped test gave as its reason and of all packages that are missing.

    A test that wants several gives the first alone.
    """
    counted = Counter(reason.removeprefix("Skipped: ") for reason in reasons)
    wanted = packages.packages_in(counted)
    lines = [f"{count:5}  {reason}" for reason, count in counted.most_common() if packages.APT not in reason]
    if wanted:
        count = sum(count for reason, count in counted.items() if packages.APT in reason)
        command = packages.line(" ".join(sorted({*wanted, *missing})))
        lines.insert(0, f"{count:5}  packages that are not installed; this installs all: {command}")
    return lines
