"""The programs of docs/embed.md, as they stand but for the receiver's port, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import Talk
from tests.blocks import blocks
from tests.peers.processes import missing

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS: Final = {
    **blocks("embed", "running"),
    **blocks("embed", "pytest"),
    **blocks("embed", "misbehaving"),
    **blocks("embed", "unittest"),
    **blocks("embed", "asyncio"),
}
PYTEST: Final = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "shimproxy.pytest_plugin", "-c", "/dev/null"]
MOST_LINES: Final = 8


@pytest.mark.parametrize(
    ("name", "command", "says"),
    [
        ("running", [], "accepted: 1 repaired:\n"),
        ("pytest", PYTEST, "1 passed"),
        ("misbehaving", PYTEST, "1 passed"),
        ("unittest", ["-m", "unittest"], "\nOK\n"),
        ("asyncio", [], "ended by: sender\n"),
    ],
)
def test_a_program_does_what_the_page_says(name: str, command: list[str], says: str, tmp_path: Path) -> None:
    """And nothing is left open, and nothing is printed besides."""
    if name == "asyncio" and importlib.util.find_spec("aiosmtplib") is None:
        missing("aiosmtplib is not installed", "pip install aiosmtplib")
    with FaultyReceiver(Talk.accept) as receiver:
        text = PROGRAMS[name].replace('"127.0.0.1:25"', f'"{HOST}:{receiver.port}"')
        assert text != PROGRAMS[name] or name == "misbehaving"
        (tmp_path / "test_program.py").write_text(text)
        debugging = [] if name == "asyncio" else ["-X", "dev"]  # asyncio's prints what has taken 0.1 s
        ended = subprocess.run(
            [sys.executable, *debugging, "-W", "error", *command, "test_program.py"],
            cwd=tmp_path,
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert says in said
    if not command:
        assert said == says


def test_the_first_program_is_short() -> None:
    assert len(PROGRAMS["running"].splitlines()) <= MOST_LINES
