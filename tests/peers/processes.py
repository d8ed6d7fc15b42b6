"""Processes of the tests: found, run, waited for and ended.

1. A program that is not installed skips the test with its apt line; with SHIMPROXY_REQUIRE_PEERS=1 it fails it.
   packages.py knows what to install, and the end of the run tells it once (conftest.py).
2. A process is ended by its own pid.
3. Every run and every start has a deadline; one that passed is a value or a failure, never a hang.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import selectors
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final, NoReturn

import attrs
import pytest

from shimproxy.faulty.receiving import HOST
from tests.peers import packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

RUN_SECONDS: Final = 300.0
START_SECONDS: Final = 120.0
END_SECONDS: Final = 15.0
# Below the ports that Linux gives to outgoing connections, so that none of those takes it meanwhile.
_FREE_PORTS: Final = range(20_000, 32_000)


def missing(what: str, mend: str) -> NoReturn:
    """Skip the test, or fail it where peers are required."""
    __tracebackhide__ = True  # the place that is told is the test's
    message = f"{what}: {mend}"
    if os.environ.get("SHIMPROXY_REQUIRE_PEERS") == "1":
        pytest.fail(message)
    pytest.skip(message)


def need(program: str) -> str:
    """The path of a program that packages.py has."""
    __tracebackhide__ = True
    package = packages.PROGRAMS[program]
    path = packages.path_of(program)
    if path is None:
        missing(f"{program} is not installed", packages.line(package))
    return path


def need_perl(module: str) -> None:
    """A module that a program written in Perl loads."""
    __tracebackhide__ = True
    if not packages.has_perl(module):
        missing(f"Perl's {module} is not installed", packages.line(packages.PERL_MODULES[module]))


def need_root() -> None:
    """Some programs change to users of their own."""
    __tracebackhide__ = True
    if os.geteuid() != 0:
        missing("not root", "run the tests as root to have a Postfix, an Exim and networks of their own")


# -- running


@attrs.frozen
class Run:
    """A program that has ended, or that was ended as it did not."""

    status: int | None
    """None if its time was over."""
    said: str
    complained: str

    @property
    def account(self) -> str:
        """All that it said; and which signal ended it, if one did."""
        signalled = f"ended by {signal.Signals(-self.status).name}\n" if self.status and self.status < 0 else ""
        return f"{self.said}\n{self.complained}{signalled}"


def run(command: Sequence[str], given: bytes | None = None, seconds: float = RUN_SECONDS) -> Run:
    """Run a program to its end; what it said."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if given is None else pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    ) as process:
        try:
            said, complained = process.communicate(given, timeout=seconds)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            said, complained = process.communicate()
            status = None
    return Run(status, said.decode("latin-1"), complained.decode("latin-1"))


def end(process: subprocess.Popen[bytes]) -> None:
    """End it, if need be by SIGKILL."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_SECONDS)
    if process.stdout:
        process.stdout.close()


# -- starting


def wait_for_line(process: subprocess.Popen[bytes], log: Path) -> str:
    """The first line that a process says."""
    assert process.stdout
    said = b""
    last = time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while b"\n" not in said:
            assert selector.select(max(0.0, last - time.monotonic())), f"no ready line: {log.read_text()}"
            octets = os.read(process.stdout.fileno(), 4096)
            assert octets, f"ended with {process.wait(END_SECONDS)}: {log.read_text()}"
            said += octets
    return said.partition(b"\n")[0].decode()


def poll(ready: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Return when `ready` says so; fail after `seconds`."""
    last = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < last, f"after {seconds:g} s: not {what}"
        time.sleep(0.02)


def poll_count(count: Callable[[], int], least: int, what: str, seconds: float = START_SECONDS) -> None:
    """Return when there are `least`; fail when none has been added for `seconds`, however long all of them take."""
    reached = count()
    while reached < least:
        poll(functools.partial(_exceeds, count, reached), f"more than {reached} of {least} {what}", seconds)
        reached = count()


def _exceeds(count: Callable[[], int], most: int) -> bool:
    return count() > most


def accepts(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
        return True
    return False


def free_port() -> int:
    """A port that nobody listens on, for programs that can't take port 0."""
    for port in random.sample(_FREE_PORTS, 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    pytest.fail(f"no free port on {HOST}")


@contextlib.contextmanager
def started(command: Sequence[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs in the foreground and accepts connections on `port`."""
    with in_foreground(command, lambda: accepts(port)) as process:
        yield process


@contextlib.contextmanager
def in_foreground(command: Sequence[str], is_ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs in the foreground, once it is ready; nobody reads what it says."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def is_ready_or_ended() -> bool:
        assert process.poll() is None, f"{command[0]} has ended with status {process.returncode}"
        return is_ready()

    try:
        poll(is_ready_or_ended, f"{command[0]} ready")
        yield process
    finally:
        end(process)
