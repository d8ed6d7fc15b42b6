"""The image: that its Dockerfile holds together, and that what it runs does its work in a container's confinement.

No engine and no registry is needed. The interpreter of the tests stands in for the image's, and namespaces of their
own for the container: the first process of its own, user 65532 without any capability, everything read-only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from shimproxy.config.options import OPTIONS
from shimproxy.config.sources import Sources
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import SECONDS, Talk
from shimproxy.net.address import Address
from tests.daemon.test_supervisor import Run, Session, attended
from tests.peers.confinement import PACKAGE, as_user, root_of, shown_from
from tests.peers.network import own_network
from tests.peers.processes import need, poll

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shimproxy import Settings

TOP: Final = PACKAGE.parent
DOCKER_STOP_SECONDS: Final = 10.0

pytestmark = pytest.mark.skipif(not (TOP / "Dockerfile").exists(), reason="installed, so that there is no Dockerfile")


# -- what the Dockerfile says


@attrs.frozen
class Dockerfile:
    """Instructions by stage, each with its argument."""

    stages: list[list[tuple[str, str]]]

    @classmethod
    def read(cls) -> Dockerfile:
        lines = [line for line in (TOP / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
        stages: list[list[tuple[str, str]]] = []
        for line in "\n".join(lines).replace("\\\n", " ").splitlines():
            word, _, rest = line.partition(" ")
            if word == "FROM":
                stages.append([])
            if word:
                stages[-1].append((word, rest.strip()))
        return cls(stages)

    def all(self, word: str) -> list[str]:
        """The arguments of such instructions in the last stage, which is the image."""
        return [rest for each, rest in self.stages[-1] if each == word]

    def the(self, word: str) -> str:
        (rest,) = self.all(word)
        return rest

    @property
    def environment(self) -> dict[str, str]:
        return dict(_pairs(self.all("ENV")))

    @property
    def command(self) -> list[str]:
        """What it runs unless told otherwise."""
        return [*_exec_form(self.the("ENTRYPOINT")), *_exec_form(self.the("CMD"))]

    @property
    def health(self) -> list[str]:
        """What asks whether it is well."""
        return _exec_form(self.the("HEALTHCHECK").partition("CMD ")[2])

    @property
    def settings(self) -> Settings:
        """What it comes to for an operator who names the receiver."""
        sources = Sources.gather({}, self.environment | {"SHIMPROXY_RECEIVER": "192.0.2.7:25"})
        return sources.settings()


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for each in shlex.split(" ".join(arguments)):
        name, _, value = each.partition("=")
        yield name, value


def _exec_form(argument: str) -> list[str]:
    """Without a shell. Raises ValueError for what a shell would have to read."""
    words = json.loads(argument)
    assert all(isinstance(word, str) for word in words)
    return list(words)


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return Dockerfile.read()


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return dict(tomllib.loads((TOP / "pyproject.toml").read_text())["project"])


def test_its_environment_is_settings(dockerfile: Dockerfile) -> None:
    """And the receiver is all that an operator has to add."""
    assert set(dockerfile.environment) <= {option.variable for option in OPTIONS}
    assert dockerfile.settings.listen


def test_it_listens_where_it_says(dockerfile: Dockerfile) -> None:
    """On one port that needs no privilege, at every address; figures and page are for the container alone."""
    (listener,) = dockerfile.settings.listen
    assert listener.address == Address("", int(dockerfile.the("EXPOSE")))
    assert int(dockerfile.the("EXPOSE")) >= 1024
    assert dockerfile.settings.admin.startswith(f"{HOST}:")


def test_its_grace_is_over_before_an_engine_kills(dockerfile: Dockerfile) -> None:
    assert 0 < dockerfile.settings.grace_seconds < DOCKER_STOP_SECONDS


def test_it_is_nobody_known(dockerfile: Dockerfile) -> None:
    """By number, as engines that want to be sure of a user who is not root ask for."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", dockerfile.the("USER"))
    words = [word for word, _ in dockerfile.stages[-1]]
    assert "RUN" not in words[words.index("USER") :]


def test_it_needs_no_shell(dockerfile: Dockerfile, project: dict[str, Any]) -> None:
    (program,) = project["scripts"]
    assert dockerfile.command == [program, "run"]
    assert dockerfile.health == [program, "health"]
    for each in dockerfile.all("RUN"):
        assert _exec_form(each)


def test_nothing_but_what_was_installed_comes_into_it(dockerfile: Dockerfile) -> None:
    """From an earlier stage, where the wheel was made."""
    assert len(dockerfile.stages) > 1
    assert dockerfile.all("COPY")
    assert all(each.startswith("--from=build ") for each in dockerfile.all("COPY"))
    assert not dockerfile.all("ADD")


def test_its_python_and_its_labels_are_the_projects(dockerfile: Dockerfile, project: dict[str, Any]) -> None:
    base = re.match(r"python:(3\.\d+)-slim\b", dockerfile.stages[0][0][1])
    assert base
    assert f"Programming Language :: Python :: {base[1]}" in project["classifiers"]
    labels = dict(_pairs(dockerfile.all("LABEL")))
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == project["name"]
    assert labels[f"{prefix}description"] == project["description"]


# -- what goes into the build


def goes_into_the_build(path: str) -> bool:
    """As .dockerignore has it: of the lines that match a path, or a directory above it, the last one counts."""
    found = True
    above = [path, *map(str, PurePosixPath(path).parents)]
    for line in (TOP / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if pattern and not line.startswith("#") and any(_matches(pattern, each) for each in above):
            found = line.startswith("!")
    return found


def _matches(pattern: str, path: str) -> bool:
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    wild = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.fullmatch("".join(wild.get(piece, re.escape(piece)) for piece in pieces), path) is not None


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".mypy_cache/3.13/shimproxy/cli.data.json",
        "tests/cli/test_cli.py",
        "bench/__main__.py",
        "build/lib/shimproxy/cli.py",
        "dist/shimproxy.whl",
        "shimproxy.egg-info/PKG-INFO",
        "shimproxy/__pycache__/cli.cpython-313.pyc",
        "shimproxy/net/__pycache__/leg.cpython-313.pyc",
        "key.pem",
    ],
)
def test_what_the_wheel_is_not_made_of_stays_out(path: str) -> None:
    assert not goes_into_the_build(path)


def test_what_the_wheel_is_made_of_goes_in(dockerfile: Dockerfile) -> None:
    copied = [
        source.rstrip("/")
        for stage in dockerfile.stages[:-1]
        for word, rest in stage
        if word == "COPY"
        for source in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "README.md", "shimproxy"} == set(copied)
    assert all(goes_into_the_build(each) for each in copied)
    for path in (*PACKAGE.rglob("*.py"), *PACKAGE.glob("docs/*.md"), PACKAGE / "py.typed"):
        assert goes_into_the_build(str(path.relative_to(TOP)))


# -- what it runs, confined as in a container


@pytest.fixture
def network() -> Iterator[None]:
    """Where the image's ports are free."""
    with own_network():
        yield


@pytest.fixture
def receiver(network: None) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(Talk.accept) as running:
        yield running


@attrs.frozen
class Container:
    """What the image runs."""

    run: Run
    dockerfile: Dockerfile
    environment: dict[str, str]
    empty: Path
    """A file in it."""

    def inside(self, *command: str, confined: bool = False) -> tuple[int, str]:
        """Run a command in it, as its own user or as root; its exit status and what it says."""
        enter = [need("nsenter"), "--target", str(self.run.pid), "--mount", "--pid", "--root", "--wd"]
        done = subprocess.run(
            [*enter, *(privileges_of(self.dockerfile) if confined else ()), *command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout

    @property
    def health(self) -> tuple[int, str]:
        return self.inside(*self.dockerfile.health, confined=True)


def privileges_of(dockerfile: Dockerfile) -> list[str]:
    user, _, group = dockerfile.the("USER").partition(":")
    return as_user(user, group)


@pytest.fixture
def container(receiver: FaultyReceiver, dockerfile: Dockerfile, tmp_path: Path) -> Iterator[Container]:
    root = tmp_path / "root"
    root.mkdir()
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir(mode=0o755)
    (bin_folder / "empty").touch(mode=0o644)
    program = bin_folder / dockerfile.command[0]
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom shimproxy.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    environment = {
        "PATH": f"{bin_folder}:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(TOP),
        **dockerfile.environment,
        "SHIMPROXY_RECEIVER": f"{HOST}:{receiver.port}",
    }
    first = ["exec", "chroot", str(root), *privileges_of(dockerfile), *dockerfile.command]
    script = "\n".join(["set -e", *map(shlex.join, [*root_of(root, shown_from(bin_folder)), first])])
    wrapper = [need("unshare"), "--mount", "--pid", "--fork", "--kill-child"]
    log_file = tmp_path / "log"
    with log_file.open("w") as log:
        process = subprocess.Popen(
            [*wrapper, "sh", "-c", script],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    with attended(Run(Path(), log_file, process, wrapped=True)) as run:
        yield Container(run, dockerfile, environment, bin_folder / "empty")


def test_the_confinement_is_one(container: Container) -> None:
    """For what the tests below show of it."""
    status = Path(f"/proc/{container.run.pid}/status").read_text()
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
    user, _, group = container.dockerfile.the("USER").partition(":")
    assert fields["NSpid"][-1] == "1"
    assert (set(fields["Uid"]), set(fields["Gid"]), fields["Groups"]) == ({user}, {group}, [])
    assert {int(fields[f"Cap{each}"][0], 16) for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert fields["NoNewPrivs"] == ["1"]
    mounts = [line.split() for line in Path(f"/proc/{container.run.pid}/mountinfo").read_text().splitlines()]
    read_only = {mount[4]: "ro" in mount[5].split(",") for mount in mounts}
    assert read_only["/"]
    assert all(is_so for path, is_so in read_only.items() if not path.startswith(("/proc", "/dev")))
    assert "WARNING" not in container.run.log


def test_it_serves_and_says_so(container: Container, receiver: FaultyReceiver) -> None:
    assert {str(port) for port in container.run.ports} == {container.dockerfile.the("EXPOSE")}
    with Session(container.run.ports[0]) as session:
        session.mail(b"text")
    assert receiver.seen.mails == [b"text\r\n"]
    assert container.health == (0, "ok\n")


def test_it_prints_its_documentation(container: Container) -> None:
    """As `docker run ... help` does: without a pager, under a read-only root."""
    program = container.dockerfile.command[0]

    status, listed = container.inside(program, "help", confined=True)
    assert (status, "  install " in listed) == (0, True)
    status, page = container.inside(program, "help", "install", confined=True)
    assert (status, "docker run" in page) == (0, True)


def test_it_is_unhealthy_while_no_worker_serves(container: Container) -> None:
    """As the code of workers is empty for a while, and the one that served has ended."""
    worker = str(PACKAGE / "daemon" / "worker.py")
    assert container.inside("mount", "--no-mtab", "--bind", str(container.empty), worker) == (0, "")
    (served,) = container.run.workers
    os.kill(served, signal.SIGKILL)
    container.run.logged("how=SIGKILL")
    assert container.health == (1, "no worker is ready\n")
    assert container.inside("umount", "--no-mtab", worker) == (0, "")
    poll(lambda: container.health == (0, "ok\n"), "healthy again")


def test_a_stop_with_a_mail_in_flight_delivers_it(container: Container, receiver: FaultyReceiver) -> None:
    with Session(container.run.ports[0]) as session:
        session.say(b"MAIL FROM:<a@b>", b"250")
        session.say(b"RCPT TO:<b@c>", b"250")
        session.say(b"DATA", b"354")
        session.sock.sendall(b"first half\r\n")
        os.kill(container.run.pid, signal.SIGTERM)
        container.run.logged(" stopping ")
        session.say(b"second half\r\n.", b"250")
        session.expect(b"421 ")
        with contextlib.closing(session.sock):
            assert session.file.read() == b""
    assert container.run.process.wait(SECONDS) == 0
    assert receiver.seen.mails == [b"first half\r\nsecond half\r\n"]
