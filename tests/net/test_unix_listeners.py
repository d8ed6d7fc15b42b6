"""Sockets in the file system: shimproxy takes its own away at the end, never another's, and makes again what has gone.

Another's is whatever stands at the path by then: a successor's socket, above all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

import shimproxy
from shimproxy import Settings, Stop
from shimproxy.admin.health import ask
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import SECONDS, Talk
from shimproxy.net.errors import ListenFailed
from shimproxy.net.listen import close_listener, is_in_place, open_unix_listener, taken_over
from tests.daemon.test_supervisor import Run, running
from tests.peers.here import run_here
from tests.peers.processes import poll
from tests.service.test_serve import Lines, polite
from tests.service.test_serve import receiver as receiver_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODE = 0o600


def connects(path: Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True


# -- one listener


def test_what_has_taken_its_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    first = open_unix_listener(str(path), MODE)
    path.unlink()
    second = open_unix_listener(str(path), MODE)
    assert not is_in_place(first)
    assert is_in_place(second)
    close_listener(first)
    assert connects(path)
    close_listener(second)
    assert not path.exists()
    close_listener(second)


@pytest.mark.parametrize("what", ["a file", "a link to it", "another name of it", "nothing"])
def test_nor_is_what_is_no_listener_at_all(what: str, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "smtp", tmp_path / "elsewhere"
    listener = open_unix_listener(str(path), MODE)
    path.rename(elsewhere)
    match what:
        case "a file":
            path.touch()
        case "a link to it":
            path.symlink_to(elsewhere)
        case "another name of it":
            os.link(elsewhere, path)
    its_own = what == "another name of it"
    assert is_in_place(listener) is its_own
    close_listener(listener)
    assert os.path.lexists(path) is (what not in ("nothing", "another name of it"))
    assert elsewhere.exists()


def test_one_that_cannot_listen_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: str, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.chmod", forbidden)
    path = tmp_path / "smtp"
    with pytest.raises(ListenFailed, match="Operation not permitted"):
        open_unix_listener(str(path), MODE)
    assert not path.exists()


@pytest.mark.parametrize("is_told", [True, False])
def test_one_that_was_left_by_an_older_version(is_told: bool, tmp_path: Path) -> None:
    """Which may not tell what file it bound: then it is the one that is there."""
    path = tmp_path / "smtp"
    first = open_unix_listener(str(path), MODE)
    file = first.file if is_told else None
    second = taken_over(first.detach(), file)
    assert is_in_place(second)
    close_listener(second)
    assert not path.exists()
    close_listener(taken_over(open_unix_listener(str(path), MODE).detach(), (0, 0)))
    assert path.exists(), "it was another's before it was taken over"


# -- in a program


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
async def test_one_serve_leaves_the_next_one_its_listener(how: str, tmp_path: Path) -> None:
    """Also where it has one before its own sessions have come to their end."""
    path = tmp_path / "smtp"
    stop, ended = Stop(), trio.Event()
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            settings = Settings(listen=f"unix:{path}", receiver=await receiver_of(polite, nursery))
            cancelled = trio.CancelScope()

            async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
                with cancelled:
                    await shimproxy.serve(settings, stop=stop, task_status=task_status)
                ended.set()

            await nursery.start(serve)
            first = Lines(await trio.open_unix_socket(path))
            await first.line()
            await first.says(b"MAIL FROM:<a@b>")
            if how == "stopped":
                stop.ask()
                while path.exists() and connects(path):
                    await trio.lowlevel.checkpoint()
            else:
                path.unlink()
            await nursery.start(partial(shimproxy.serve, settings))
            await first.says(b"RSET", b"QUIT")
            await first.stream.aclose()
            if how == "cancelled":
                cancelled.cancel()
            await ended.wait()
            second = Lines(await trio.open_unix_socket(path))
            assert await second.line() == b"220 hello\r\n"
            await second.stream.aclose()
            nursery.cancel_scope.cancel()
    assert not path.exists()


# -- `shimproxy run`


@pytest.fixture
def receiver() -> Iterator[FaultyReceiver]:
    with FaultyReceiver(Talk.accept) as running_one:
        yield running_one


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """A listener's and the admin address'."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder / "smtp socket", folder / "admin"


def settings(receiver: FaultyReceiver, paths: tuple[Path, Path]) -> str:
    smtp, admin = paths
    return f'listen = "unix:{smtp}"\nadmin = "unix:{admin}"\nreceiver = "{HOST}:{receiver.port}"\ngrace = 0\n'


def assert_serves(paths: tuple[Path, Path]) -> None:
    smtp, admin = paths
    with socket.socket(socket.AF_UNIX) as sender, sender.makefile("rb") as file:
        sender.settimeout(SECONDS)
        sender.connect(str(smtp))
        assert file.readline().startswith(b"220 ")
    poll(lambda: ask(f"unix:{admin}", "/healthz") == (True, "ok"), "health")


def test_a_reload_makes_again_what_has_gone_and_says_so(
    receiver: FaultyReceiver, paths: tuple[Path, Path], tmp_path: Path
) -> None:
    with running(tmp_path, settings(receiver, paths)) as run:
        assert_serves(paths)
        run.reload()
        assert "listening_again" not in run.log
        for path in paths:
            path.unlink()
        run.reload()
        for path in paths:
            line = f'listening_again address="unix:{path}"'
            assert line in run.log.replace(f"address=unix:{path}", f'address="unix:{path}"')
        assert_serves(paths)
        run.reload()
        assert run.log.count("listening_again") == 2
        assert_serves(paths)
    assert not any(path.exists() for path in paths)


def test_a_reload_that_finds_anothers_there_changes_nothing_and_says_so(
    receiver: FaultyReceiver, paths: tuple[Path, Path], tmp_path: Path
) -> None:
    with running(tmp_path, settings(receiver, paths)) as run, contextlib.ExitStack() as stack:
        paths[0].unlink()
        successor = stack.enter_context(socket.socket(socket.AF_UNIX))
        successor.bind(str(paths[0]))
        successor.listen()
        run.reload(words="no reload: nothing has changed")
        assert (
            f"cannot listen on unix:{paths[0]}: another program listens there; stop it or choose another path"
            in run.log
        )
    assert paths[0].exists()
    assert not paths[1].exists()


@pytest.mark.parametrize("upgraded", [False, True])
def test_a_stop_leaves_the_successor_its_sockets(
    upgraded: bool, receiver: FaultyReceiver, paths: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "successor"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        with running(tmp_path, settings(receiver, paths)) as run:
            if upgraded:
                run.upgrade()
                assert_serves(paths)
            for path in paths:
                path.unlink()
            stack.enter_context(running(folder, settings(receiver, paths)))
        assert_ended(run)
        assert_serves(paths)
    assert not any(path.exists() for path in paths)


def test_an_upgraded_one_takes_its_own_sockets_away(
    receiver: FaultyReceiver, paths: tuple[Path, Path], tmp_path: Path
) -> None:
    with running(tmp_path, settings(receiver, paths)) as run:
        run.upgrade()
        run.upgrade()
        assert_serves(paths)
    assert not any(path.exists() for path in paths)


def assert_ended(run: Run) -> None:
    assert run.process.poll() in (0, -signal.SIGTERM)


def test_a_check_leaves_what_is_there(receiver: FaultyReceiver, paths: tuple[Path, Path], tmp_path: Path) -> None:
    """And takes away what it has made to see whether it can."""
    with running(tmp_path, settings(receiver, paths)) as run:
        assert run_here("check", "--config", str(run.file)).returncode == 0
        assert_serves(paths)
    assert run_here("check", "--config", str(run.file)).returncode == 0
    assert not any(path.exists() for path in paths)
