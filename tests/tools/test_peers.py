"""What holds for all tests: what they say of a machine that lacks something, and the marks that CI looks for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import account
from tests.peers import packages
from tests.peers.processes import need

TOP = Path(__file__).parents[2]
LACKS = """
import pytest
import trio
from tests.peers.processes import missing

async def test_plain():
    missing("one is not installed", "apt-get install one")

async def test_in_a_nursery():
    async with trio.open_nursery():
        missing("two is not installed", "apt-get install two more")

@pytest.fixture
async def fixture():
    missing("not root", "run the tests as root")
    yield

async def test_in_a_fixture(fixture):
    pass

def test_at_once():
    missing("one is not installed", "apt-get install one")
"""


def pytest_of(text: str, folder: Path, **environment: str) -> tuple[int, str]:
    """What a pytest with the tests' own conftest.py says of a module, and its status."""
    module = folder / "test_made_up.py"
    module.write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-o", "trio_mode=true", "-p", "tests.conftest"]
    command += ["-p", "no:cacheprovider", f"--rootdir={folder}", str(module)]
    given = {name: value for name, value in os.environ.items() if name != "SHIMPROXY_REQUIRE_PEERS"}
    ended = subprocess.run(command, cwd=TOP, env=given | environment, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout + ended.stderr


def test_what_is_lacking_is_told_once_and_each_test_has_its_reason(tmp_path: Path) -> None:
    status, said = pytest_of(LACKS, tmp_path)
    assert status == 0, said
    assert said.count("apt-get install") == 1 + 3  # the account's, and one for each reason
    assert re.search(
        r"^    3  packages that are not installed; .*: apt-get install .*\bmore\b.* one\b.* two\b", said, re.M
    )
    assert "    1  not root: run the tests as root\n" in said
    for line, reason in ((7, "one is not installed"), (11, "two is not"), (15, "not root"), (22, "one is not")):
        assert f"test_made_up.py:{line}: {reason}" in said, said


def test_where_peers_are_required_it_is_a_failure(tmp_path: Path) -> None:
    status, said = pytest_of(LACKS, tmp_path, SHIMPROXY_REQUIRE_PEERS="1")
    assert status == 1
    assert "4 failed" in said
    assert "that were skipped" not in said


def test_the_account_has_one_command_with_all_that_is_missing() -> None:
    """Whatever a test that wants several packages has found to be missing first."""
    apt = packages.line
    reasons = [f"Skipped: b: {apt('b')}", f"Skipped: d: {apt('d c')}", "Skipped: no root", f"Skipped: b: {apt('b')}"]
    assert account(reasons, ["a", "b"]) == [
        "    3  packages that are not installed; this installs all: apt-get install a b c d",
        "    1  no root",
    ]
    assert account(["no root"], ["a", "b"]) == ["    1  no root"]


def test_without_anything_skipped_there_is_no_account(tmp_path: Path) -> None:
    status, said = pytest_of("async def test_nothing():\n    pass\n", tmp_path)
    assert (status, account([], [])) == (0, [])
    assert "that were skipped" not in said


@pytest.mark.parametrize("name", ["slow", "volume"])
def test_a_mark_that_ci_looks_for_is_written_out(name: str, tmp_path: Path) -> None:
    """However a test comes to it: what grep does not find, no lane of CI runs."""
    hidden = f"import pytest\n\n@getattr(pytest.mark, {name!r})\ndef test_nothing():\n    pass\n"
    status, said = pytest_of(hidden, tmp_path)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert f"test_made_up.py::test_nothing: write pytest.mark.{name} in its module" in said
    status, said = pytest_of(f"{hidden}\npytestmark = pytest.mark.{name}\n", tmp_path)
    assert (status, "1 passed" in said) == (0, True), said


def test_a_program_is_found_or_skips_with_the_package_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packages.PROGRAMS, "no-such-program", "its-package")
    monkeypatch.delenv("SHIMPROXY_REQUIRE_PEERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"^no-such-program is not .*: apt-get install its-package$"):
        need("no-such-program")
    monkeypatch.setitem(packages.PROGRAMS, "sh", "dash")
    assert Path(need("sh")).exists()


def test_what_is_missing_can_be_asked_for_before_anything_is_installed(tmp_path: Path) -> None:
    """With no program in the path but Python, by a Python without packages."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(TOP)!r})\n{ASKS}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PATH": str(tmp_path)})
    assert ended.stdout.split() == packages.all_packages(), ended.stderr


ASKS = """
from tests.peers import packages
packages._SBIN = "/nonexistent"
print(*packages.missing_packages())
"""
