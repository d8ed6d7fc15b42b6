"""The code blocks of the pages: each is taken by a test or says why not; and here those are run that are nobody else's.

They are run as they stand, in a network of their own that has the pages' addresses.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from shimproxy.config.sources import Sources
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import Talk
from tests.blocks import Block, blocks, every_block
from tests.pages import DOCS, README
from tests.peers.network import own_network
from tests.peers.processes import missing, need, need_root
from tests.peers.programs import smtp_sink

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP: Final = DOCS.parents[1]
SECONDS: Final = 120
ADDRESSES: Final = ("192.0.2.1/24", "192.0.2.7/24")
in_the_source_tree = pytest.mark.skipif(not README.exists(), reason="installed, so that there is no source tree")
every = pytest.mark.parametrize(
    "block", every_block(), ids=lambda block: f"{block.page}-{block.name or block.language}"
)


# -- all blocks


def taken() -> list[tuple[str, str]]:
    """Each page and pattern that a test asks for, by its own words."""
    found = []
    for module in Path(__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "blocks":
                texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
                found += [(str(texts[0]), str(pattern)) for pattern in texts[1:]]
    return found


TAKEN: Final = taken()


@every
def test_a_block_is_taken_by_a_test_or_says_why_not(block: Block) -> None:
    """A fence has a language; and, but for text, a name that a test asks for, or `unrun:` with a reason."""
    assert block.language, "fence it, with a language: see tests/blocks.py"
    if block.name:
        assert [page for page, pattern in TAKEN if page == block.page and fnmatch(block.name, pattern)]
    else:
        assert block.language == "text" or block.reason, "give it a name that a test takes, or say `unrun: WHY`"


def test_no_two_blocks_of_a_page_have_one_name() -> None:
    names = [(block.page, block.name) for block in every_block() if block.name]

    assert len(names) == len(set(names))


# -- settings


SETTINGS: Final = {
    **blocks("settings", "settings-*"),
    **blocks("receivers", "settings-*"),
    **blocks("install", "*-settings"),
}
MANIFESTS: Final = blocks("install", "compose", "kubernetes")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_file_of_settings_can_be_read(name: str, tmp_path: Path) -> None:
    """Without a problem, but for files of certificates that are not here."""
    file = tmp_path / "shimproxy.toml"
    file.write_text(SETTINGS[name].replace("/etc/shimproxy/", f"{tmp_path}/"))
    for path in re.findall(r"/\S+\.pem", file.read_text()):
        Path(path).touch()

    sources = Sources.gather({}, {}, str(file))

    assert sources.problems == []
    assert sources.given


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_variables_of_a_manifest_are_settings(name: str) -> None:
    """As the image has them from there."""
    pairs = re.findall(r'(SHIMPROXY_\w+)(?:, value)?: "?([^"\s}]+)', MANIFESTS[name])
    assert len(pairs) == MANIFESTS[name].count("SHIMPROXY_")

    sources = Sources.gather({}, {"SHIMPROXY_LISTEN": ":2525", **dict(pairs)}, "")

    assert sources.problems == []
    assert sources.settings().grace_seconds == 30


# -- commands


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where a reader would be: the source tree's .venv is there, and its programs are in the path."""
    programs = Path(sys.prefix) / "bin"
    if not (programs / "shimproxy").exists():
        missing("shimproxy is not installed as a command", "pip install -e .")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def network() -> Iterator[None]:
    with own_network(*ADDRESSES):
        yield


@contextlib.contextmanager
def started(script: str) -> Iterator[subprocess.Popen[str]]:
    """The script, as bash runs it, in a group of its own, which ends with the block."""
    with subprocess.Popen(
        ["bash", "-e", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def ready(process: subprocess.Popen[str]) -> str:
    """Its line that says so; what else it printed comes before."""
    assert process.stdout
    assert process.stderr
    for line in process.stdout:
        if line.startswith("shimproxy ready"):
            return line
    pytest.fail(f"not ready: {process.stderr.read()}")


RUNS: Final = {**blocks("install", "run-by-hand"), **blocks("tls", "run-tls")}


@pytest.mark.parametrize(
    ("name", "receiver", "listener"),
    [
        pytest.param("run-by-hand", ("127.0.0.1", 25), ("127.0.0.1", 2525), id="run-by-hand"),
        pytest.param("run-tls", ("192.0.2.7", 25), ("192.0.2.1", 25), id="run-tls"),
    ],
)
@pytest.mark.usefixtures("here", "network")
def test_shimproxy_serves_as_a_page_starts_it(name: str, receiver: tuple[str, int], listener: tuple[str, int]) -> None:
    """A mail goes to the receiver that the page names; SIGTERM ends it."""
    need("openssl")
    script = RUNS[name]
    listening = socket.create_server(receiver)
    with FaultyReceiver(Talk.accept, listener=listening) as there, started(script) as process:
        ready(process)
        with smtplib.SMTP(*listener, timeout=SECONDS) as session:
            session.sendmail("me@example.com", ["you@example.com"], "Subject: a mail\r\n\r\ntext\r\n")
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(SECONDS) in (0, -signal.SIGTERM)
        assert len(there.seen.mails) == 1


@pytest.mark.usefixtures("network")
def test_the_program_of_a_page_listens(here: Path) -> None:
    """It prints where; it runs until it is interrupted."""
    (here / "program.py").write_text(blocks("embed", "serve")["serve"])
    with started(f"exec {sys.executable} -u program.py") as process:
        assert process.stdout
        assert re.match(r"listening on .*127\.0\.0\.1", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.wait(SECONDS)


@pytest.mark.usefixtures("here", "network")
def test_faults_are_served_and_played_as_their_page_says() -> None:
    """swaks gets the fault that it chooses, and a faulty sender is told something."""
    need("swaks")
    scripts = blocks("misbehave", "misbehave-*")
    with (
        started(f"exec {scripts['misbehave-chosen']}") as chosen,
        started(f"exec {scripts['misbehave-as']}") as served,
    ):
        for process in chosen, served:
            assert process.stdout
            assert json.loads(process.stdout.readline())["event"] == "listening"
        by_recipient, by_hello = (
            subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=SECONDS)
            for line in scripts["misbehave-choose"].splitlines()
        )
        assert "552 Requested mail action aborted" in by_recipient.stdout
        assert "250 Ok: queued early" in by_hello.stdout
        told = subprocess.run(
            ["bash", "-c", scripts["misbehave-sender"]], capture_output=True, text=True, timeout=SECONDS, check=True
        )
        assert json.loads(told.stdout)["violation"] == "vanished-in-data"


# -- README


@in_the_source_tree
@pytest.mark.usefixtures("network")
def test_readme_runs_in_ten_lines(here: Path) -> None:
    """curl is refused, for what the receiver said, and the ladder shows that."""
    need("curl")
    need("smtp-sink")
    need_root()
    script = blocks("README", "run-it")["run-it"]
    assert script.count("\n") <= 10

    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=SECONDS, check=False, start_new_session=True
    )

    assert done.returncode == 0, done.stderr
    assert "curl: (8)" in done.stderr
    assert "early-reply" in done.stdout
    assert re.search(r"<- 550 This violates SMTP \(24\) -+\|  ", done.stdout), done.stdout


@in_the_source_tree
@pytest.mark.slow
@pytest.mark.volume
def test_readmes_two_commands_set_everything_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy of the source tree: the demo plays, and pytest finds the tests."""
    tree = tmp_path / "tree"
    shutil.copytree(TOP, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build"))
    monkeypatch.chdir(tree)
    commands = blocks("README", "set-up", "set-up-tests")

    done = bash(commands["set-up"])
    if "No matching distribution found" in done.stderr:
        missing("pip finds no package index", "run the tests where it does")
    assert done.returncode == 0, done.stderr

    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only -q")
    done = bash(commands["set-up-tests"])
    assert done.returncode == 0, done.stdout
    assert "tests/tools/test_blocks.py" in done.stdout


def bash(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=600)


# -- what a page shows


@pytest.mark.usefixtures("network")
def test_the_probe_says_what_the_page_shows(here: Path) -> None:
    """Of the same receiver, but for the version of Postfix, what its kernel acknowledges, and whether that sends RST.

    It does where smtp-sink has left octets of the mail unread as it closes.
    """
    need("smtp-sink")
    shown = blocks("probe", "probe-of-smtp-sink")["probe-of-smtp-sink"]
    with smtp_sink("-A", "0", port=2525):
        done = bash("COLUMNS=100 .venv/bin/shimproxy probe 127.0.0.1:2525 --patience 5 --yes")

    assert done.returncode == 0, done.stderr
    said = done.stdout.replace("reset-in-data", "closed-in-data")
    assert first_words(said) == first_words(shown)


def first_words(report: str) -> list[str]:
    """What each entry is about."""
    return [line.split("  ")[0] for line in report.splitlines() if re.match(r"[A-Za-z]", line)]
