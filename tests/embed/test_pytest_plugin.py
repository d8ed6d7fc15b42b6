"""shimproxy.pytest_plugin as its users have it: a pytest without the plugins and the settings of these tests."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

IMPORTS_NOTHING = """
import sys

def test_nothing_is_imported_yet(request):
    assert request.config.pluginmanager.has_plugin("shimproxy.pytest_plugin")
    loaded = [name for name in sys.modules if name.partition(".")[0] in ("trio", "attrs", "shimproxy")]
    assert sorted(loaded) == ["shimproxy", "shimproxy._version", "shimproxy.pytest_plugin"]

def test_a_fixture_imports_it(shimproxy):
    assert "trio" in sys.modules
"""

RUNS = """
import smtplib
import socket
import threading

import pytest

@pytest.fixture
def receiver():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet():
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    sock.sendall(b"220 hello\\r\\n")
                    sock.recv(100)
                    sock.sendall(b"221 bye\\r\\n")
                    sock.close()

        import contextlib
        threading.Thread(target=greet, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)

def quits(shim):
    with smtplib.SMTP(shim.host, shim.port) as sender:
        pass

def test_two_at_once(shimproxy, receiver):
    shims = [shimproxy(receiver=receiver), shimproxy(receiver=receiver, tidy=True)]
    for shim in shims:
        quits(shim)
        [record] = shim.wait_for()
        assert record.ended_in == "QUIT"

def test_they_have_ended():
    assert "shimproxy" not in [thread.name for thread in threading.enumerate()]

def test_an_error_of_the_thread_is_one_of_the_test(shimproxy, receiver):
    def check(record):
        raise ValueError("a bug of mine")
    quits(shimproxy(receiver=receiver, on_session=check))

def test_a_mistake_is_told(shimproxy):
    shimproxy(receiver=25)
"""


def pytest_of(text: str, folder: Path, *options: str) -> str:
    """What a pytest that has only this plugin says of a module."""
    module = folder / "test_made_up.py"
    module.write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "shimproxy.pytest_plugin", "-p", "no:cacheprovider", "-W", "error"]
    ended = subprocess.run(
        [*command, *options, "-c", str(folder / "pytest.ini"), str(module)],
        cwd=TOP,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ended.stdout + ended.stderr


def test_loaded_it_has_imported_nothing(tmp_path: Path) -> None:
    said = pytest_of(IMPORTS_NOTHING, tmp_path)
    assert "2 passed" in said, said


def test_shimproxy_runs_until_the_test_ends(tmp_path: Path) -> None:
    said = pytest_of(RUNS, tmp_path, "--tb=short")
    assert "1 failed, 3 passed, 1 error in" in said, said
    assert re.search(r"^ERROR .*::test_an_error_of_the_thread_is_one_of_the_test", said, re.MULTILINE), said
    assert "E   ValueError: a bug of mine" in said
    assert "SettingsError: receiver: 25 is not an address; write HOST:PORT" in said


def test_fixtures_are_explained(tmp_path: Path) -> None:
    said = pytest_of("", tmp_path, "--fixtures")
    assert "shimproxy -- " in said
    assert "Run shimproxy in a thread: " in said


def test_pytest_finds_it_by_itself() -> None:
    """Where the package is installed since it has one."""
    found = importlib.metadata.entry_points(group="pytest11", name="shimproxy")
    if not found:
        pytest.skip("shimproxy was installed before it had a plugin: pip install -e '.[test,lint]'")
    assert [each.value for each in found] == ["shimproxy.pytest_plugin"]
