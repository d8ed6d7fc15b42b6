"""Starts and upgrades that go wrong or take their time: signals are obeyed, and what served goes on serving."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import attrs
import pytest
import trio
import trio.testing

import shimproxy
from shimproxy.config.listener import SettingsError
from shimproxy.config.sources import Sources
from shimproxy.daemon.signals import Changes
from shimproxy.daemon.worker_handle import Worker
from shimproxy.daemon.workers import Service, Workers
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import SECONDS, Talk
from shimproxy.observe.journal import Journal
from tests.daemon.test_supervisor import Session, children_of, running, settings, syslog_at
from tests.peers.processes import need, need_root, poll

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from shimproxy.daemon.supervisor import Supervisor

pytestmark = pytest.mark.once  # about processes; test_supervisor.py has no such mark
HANGING_WORKER = """
import os, sys, time
if "shimproxy.daemon.worker" in sys.orig_argv:
    time.sleep(1_000_000)
"""
HANGING_RESOLVER = """
import os, socket, time
found = socket.getaddrinfo

def hang(*arguments, **named):
    if named.get("flags", arguments[5] if len(arguments) > 5 else 0) & socket.AI_NUMERICHOST:
        return found(*arguments, **named)
    os.close(os.open(os.environ["ASKED"], os.O_CREAT))
    time.sleep(1_000_000)

socket.getaddrinfo = hang
"""


@pytest.fixture
def receiver() -> Iterator[FaultyReceiver]:
    with FaultyReceiver(Talk.accept) as running:
        yield running


def changed_by(folder: Path, text: str) -> str:
    """The PYTHONPATH with which every Python begins with that text."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text)
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def running_as(word: bytes, parent: int) -> int:
    """How many of its children have that word on their command line."""
    found = 0
    for pid in children_of(parent):
        with contextlib.suppress(OSError):  # it has ended
            found += word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return found


# -- starts


@pytest.mark.parametrize(("workers", "sign"), [(1, signal.SIGTERM), (2, signal.SIGTERM), (1, signal.SIGINT)])
def test_a_stop_is_obeyed_while_workers_hang_at_start(workers: int, sign: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "shimproxy.toml"
    file.write_text(f'listen = "{HOST}:0"\nreceiver = "{HOST}:25"\nworkers = {workers}\n')
    environment = os.environ | {"PYTHONPATH": changed_by(tmp_path / "hanging", HANGING_WORKER)}
    check_stopped(file, environment, lambda pid: running_as(b"shimproxy.daemon.worker", pid) == workers, sign)


def test_a_stop_is_obeyed_while_a_resolver_hangs_at_start(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    file = tmp_path / "shimproxy.toml"
    file.write_text(f'listen = "{HOST}:0"\nreceiver = "mail.example:25"\n')
    environment = os.environ | {"PYTHONPATH": changed_by(tmp_path / "hanging", HANGING_RESOLVER), "ASKED": str(asked)}
    check_stopped(file, environment, lambda _: asked.exists())


def check_stopped(
    file: Path, environment: dict[str, str], hangs: Callable[[int], bool], sign: signal.Signals = signal.SIGTERM
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "shimproxy", "run", "--config", str(file)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            poll(lambda: hangs(process.pid), "a start that hangs")
            process.send_signal(sign)
            said, errors = process.communicate(timeout=20)  # less than a start may take
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert said == ""
    assert "Traceback" not in errors


async def test_all_workers_have_one_deadline_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("PYTHONPATH", changed_by(tmp_path / "hanging", HANGING_WORKER))
    sources = Sources.gather({"listen": [f"{HOST}:0"], "receiver": [f"{HOST}:25"], "workers": ["3"]}, {})
    started_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        workers = Workers(nursery, Journal())
        with pytest.raises(SettingsError, match="did not start within 30 s"):
            await workers.started(Service(sources, sources.settings(), {f"{HOST}:0 0": []}))
        assert trio.current_time() - started_at == pytest.approx(30)
        await workers.ended()


async def test_a_worker_that_says_no_more_is_over_before_an_upgrade_leaves_anything() -> None:
    """Its socket is closed by then, and its process has not ended yet; its figures are not lost."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(["sleep", "1000000"])  # noqa: ASYNC220 - there is nothing to wait for
    process.returncode = 0  # it is waited for below
    with theirs:
        async with trio.open_nursery() as nursery:
            workers = Workers(nursery, Journal())
            worker = Worker(process.pid, ours, counted={"sessions_total": 5.0})
            workers.tend(worker)
            theirs.close()
            await trio.testing.wait_all_tasks_blocked()
            assert (worker.control.fileno(), workers.all) == (-1, {worker})
            worker.kill()
            await workers.reaped()
            assert (workers.all, workers.figures()["sessions_total"]) == (set(), 5)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"5",
        b"null",
        b'["ready"]',
        b"[" * 100_000,
        b'{"counted": 5, "gauges": {}}',
        b'{"counted": {"sessions_total": "5"}, "gauges": {}}',
        b'{"counted": {}}',
        b'{"counted": {}, "gauges": {}, "report": "last"}',
        b'{"repaired": {"of_another_version": 1}}',
        b"\xff",
    ],
    ids=lambda line: line[:40],
)
def test_a_line_of_a_worker_that_cannot_be_taken_is_told_and_no_more(line: bytes) -> None:
    """One of another version may say such after an upgrade. What it says next counts, in whatever pieces."""

    async def hear() -> tuple[list[int], float, bool]:
        ours, theirs = socket.socketpair()
        complaints: list[int] = []
        with ours, theirs:
            async with trio.open_nursery() as nursery:
                workers = Workers(nursery, Journal())
                worker = Worker(0, ours)
                for piece in (line[:3], line[3:] + b'\n{"ready": tr', b'ue}\n{"counted": {"x": 1}, "gauges": {}}\n'):
                    worker.take(piece, partial(workers._hear, worker), complaints.append)
        return complaints, worker.counted["x"], worker.serves

    assert trio.run(hear) == ([len(line)], 1, True)


@pytest.mark.parametrize(("cpus", "serving", "at_a_time"), [(2, 0, 5), (1, 1, 1), (2, 1, 1), (4, 1, 2), (64, 1, 5)])
async def test_beside_workers_that_serve_others_start_on_half_of_the_cpus(
    cpus: int, serving: int, at_a_time: int, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """So that mails under way have the other half."""
    starting: set[Worker] = set()
    most = 0

    def spawn(_: Workers, __: Service) -> Worker:
        nonlocal most
        worker = Worker(0, control)
        starting.add(worker)
        most = max(most, len(starting))
        nursery.start_soon(serve, worker)
        return worker

    async def serve(worker: Worker) -> None:
        await trio.testing.wait_all_tasks_blocked()
        starting.discard(worker)
        worker.serves = True
        worker.ready.set()

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(Workers, "_spawn", spawn)
    sources = Sources.gather({"listen": [f"{HOST}:0"], "receiver": [f"{HOST}:25"], "workers": ["5"]}, {})
    service = Service(sources, sources.settings(), {})
    with socket.socket() as control:
        workers = Workers(nursery, Journal(), current=[Worker(0, control)] * serving)
        found = await workers.started(service)

    assert len(found) == 5
    assert most == at_a_time


# -- a storm of signals


@attrs.define
class Reloading:
    """A supervisor whose reloads take so long; the times at which they began."""

    seconds: float
    began: list[float] = attrs.field(factory=list)

    async def start(self) -> None:
        pass

    async def change(self, what: Callable[[], Awaitable[None]]) -> None:
        await what()

    async def reload(self) -> None:
        self.began.append(trio.current_time())
        await trio.sleep(self.seconds)

    async def reload_certificates(self) -> None:
        raise AssertionError("nothing has asked for it")


@pytest.mark.parametrize(("seconds", "apart_seconds"), [(1.0, 3.0), (0.25, 0.75), (100.0, 102.0)])
async def test_after_a_reload_there_is_a_rest(
    seconds: float, apart_seconds: float, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The first one is made at once; one that is asked for while shimproxy rests is made after that."""
    supervisor = Reloading(seconds)
    changes = Changes(cast("Supervisor", supervisor))
    nursery.start_soon(changes.make)
    began = trio.current_time()
    for _ in range(1000):
        changes.ask_for(supervisor.reload)
        await trio.sleep(seconds / 50)
    nursery.cancel_scope.cancel()

    assert supervisor.began[0] == began
    apart = [later - earlier for earlier, later in itertools.pairwise(supervisor.began)]
    assert len(apart) >= 6
    assert apart == pytest.approx([apart_seconds] * len(apart))


# -- workers that are killed again and again


def test_a_worker_that_has_served_is_replaced_soon_however_often_it_is_killed(
    receiver: FaultyReceiver, tmp_path: Path
) -> None:
    """Else, what kills workers again and again would leave none for longer and longer."""
    admin = tmp_path / "admin"
    with running(tmp_path, settings(receiver, f"admin = 'unix:{admin}'\n")) as run:
        for times in range(1, 7):
            poll(lambda: is_ready(admin), "a worker that serves")
            os.kill(run.workers[0], signal.SIGKILL)
            run.logged("worker_ended", times)
        pauses = [float(found) for found in re.findall(r"worker_ended .* pause_seconds=([\d.]+)", run.log)]

    assert len(pauses) == 6
    assert max(pauses) == 0.5


def is_ready(admin: Path) -> bool:
    """Whether it says that a worker serves."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SECONDS)
        sock.connect(str(admin))
        sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return sock.makefile("rb").readline().split()[1] == b"200"


# -- workers that no longer answer


def test_a_worker_that_no_longer_answers_is_replaced_and_no_other(receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, settings(receiver, "workers = 2\n")) as run:
        stopped, healthy = run.workers
        os.kill(stopped, signal.SIGSTOP)
        run.logged(f"worker_killed reason=no_answer pid={stopped} ")
        run.logged(f"worker_ended pid={stopped} how=SIGKILL")
        poll(lambda: len(run.workers) == 2 and stopped not in run.workers, "another worker")
        assert healthy in run.workers
        with Session(run.ports[0]) as session:
            session.mail()


# -- PID 1


def test_the_first_process_of_a_container_reaps_orphans(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """And nothing else: workers that end, and the check before an upgrade, are waited for by whoever wants to know."""
    need_root()
    wrapper = [need("unshare"), "--pid", "--fork", "--kill-child"]
    with running(tmp_path, settings(receiver), wrapper=wrapper) as run:
        enter = [need("nsenter"), "--target", str(run.pid), "--pid"]
        for _ in range(3):
            # A parent that ends leaves its child to PID 1; that ends when its standard input does.
            subprocess.run(
                [*enter, "sh", "-c", 'sh -c "read line; exit 3" & exec sleep 0'], stdin=subprocess.DEVNULL, check=True
            )
            run.reload()
        poll(lambda: len(run.workers) == 1, "no child but the worker")
        run.file.write_text("listen = 5\n")
        run.upgrade("no upgrade: nothing has changed")
        run.file.write_text(settings(receiver))
        run.upgrade()
        os.kill(run.workers[-1], signal.SIGKILL)
        run.logged("how=SIGKILL")
        with Session(run.ports[0]) as session:
            session.mail()
        poll(lambda: len(run.workers) == 1, "no child but the worker")


# -- upgrades


@attrs.define
class Code:
    """A copy of the code, to be changed and mended."""

    folder: Path
    changed: dict[Path, str] = attrs.field(factory=dict)

    def change(self, module: str, before: str, after: str) -> None:
        file = self.folder / "shimproxy" / module
        text = file.read_text()
        assert before in text
        self.changed.setdefault(file, text)
        file.write_text(text.replace(before, after, 1))

    def mend(self) -> None:
        for file, text in self.changed.items():
            file.write_text(text)


@pytest.fixture
def code(tmp_path: Path) -> Code:
    shutil.copytree(Path(shimproxy.__file__).parent, tmp_path / "code" / "shimproxy")
    return Code(tmp_path / "code")


ADOPT = ("daemon/supervisor.py", "await self.in_force.open_admin()", 'raise RuntimeError("new and broken")')
WORKER = ("daemon/worker.py", "import json\n", 'raise RuntimeError("new and broken")\n')
OLD = (
    "daemon/supervisor.py",
    "in_force.settings = left.sources.settings()",
    'raise RuntimeError("these are old")',
)


@pytest.mark.parametrize(
    "broken",
    [[ADOPT], [WORKER], [OLD, ADOPT], [OLD, WORKER]],
    ids=["adopting", "worker", "old settings and adopting", "old settings and worker"],
)
def test_the_old_workers_go_on_whatever_is_broken_in_the_start_of_a_new_version(
    broken: list[tuple[str, str, str]], receiver: FaultyReceiver, code: Code, tmp_path: Path
) -> None:
    """What `check` does not meet; the log says why, signals are obeyed, and a mended version is gone over to."""
    text = settings(receiver, f"admin = 'unix:{tmp_path}/admin'\n")
    with running(tmp_path, text, code=code.folder) as run, Session(run.ports[0]) as old:
        before = run.workers
        for each in broken:
            code.change(*each)
        run.upgrade("not upgraded: the old workers continue")
        run.logged("new and broken" if WORKER not in broken else "a worker did not start")
        run.await_ready()
        assert run.workers == before
        old.mail()
        with Session(run.ports[0]) as new:
            new.mail()
        code.mend()
        run.process.send_signal(signal.SIGUSR2)
        run.await_ready()
        poll(lambda: before[0] not in run.workers or len(run.workers) == 2, "new workers")
        old.mail()
        old.say(b"QUIT", b"221")
        poll(lambda: before[0] not in run.workers, "the old worker's end")
        with Session(run.ports[0]) as new:
            new.mail()
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(SECONDS) == 0
        run.forget_log()  # the bug has its traceback there


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("daemon/upgrade.py", "json.load(file)", 'json.load(file)["another format"]'),
        ("admin/status.py", "def of_json(cls", "def of_another(cls"),
        ("daemon/worker_handle.py", "    unread: bytes = b", "    unheard: bytes = b"),
    ],
    ids=["format", "figures", "workers"],
)
def test_a_new_version_that_cannot_take_over_is_not_gone_over_to(
    module: str, before: str, after: str, receiver: FaultyReceiver, code: Code, tmp_path: Path
) -> None:
    """Which it finds out in its check, from a copy of what would be left to it."""
    with running(tmp_path, settings(receiver), code=code.folder) as run, Session(run.ports[0]) as old:
        workers = run.workers
        code.change(module, before, after)
        run.upgrade("no upgrade: nothing has changed")
        assert "cannot take over from the one that runs" in run.log
        old.mail()
        code.mend()
        run.upgrade()
        old.mail()
        assert workers[0] in run.workers


def test_a_stop_is_obeyed_where_a_new_version_can_use_no_settings(
    receiver: FaultyReceiver, code: Code, tmp_path: Path
) -> None:
    with running(tmp_path, settings(receiver), code=code.folder) as run, Session(run.ports[0]) as busy:
        busy.say(b"MAIL FROM:<a@b>", b"250")
        code.change(*OLD)
        code.change(*ADOPT)
        run.upgrade("not upgraded: the old workers continue")
        run.await_ready()
        run.process.send_signal(signal.SIGTERM)
        run.logged(" stopping ")
        busy.finish()
        assert run.process.wait(SECONDS) == 0
        run.forget_log()


@pytest.mark.parametrize("what", ["secret", "syslog"])
def test_an_upgrade_is_made_where_the_old_settings_cannot_be_used_any_more(
    what: str, receiver: FaultyReceiver, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    more = "login = 'user'\nlogin-in-clear = true\nlogin-secret-file = '{}'\n"
    first.write_text("secret")
    second.write_text("secret")
    before, after = more.format(first), more.format(second)
    if what == "syslog":
        before, after = f"log-to = 'syslog:{first}'\n", ""
    with (
        syslog_at(first) if what == "syslog" else contextlib.nullcontext(),
        running(tmp_path, settings(receiver, before)) as run,
        Session(run.ports[0]) as old,
    ):
        (worker,) = run.workers
        first.unlink()
        run.file.write_text(settings(receiver, after))
        run.process.send_signal(signal.SIGUSR2)
        run.await_ready()
        poll(lambda: len(run.workers) == 2, "a new worker")
        old.say(b"QUIT", b"221")
        poll(lambda: worker not in run.workers, "the old worker's end")
        with Session(run.ports[0]):
            pass
        assert "not upgraded" not in run.log


HANG = (
    "daemon/check.py",
    "    problems = [*known]\n",
    "    import time; time.sleep(1_000_000)\n    problems = []\n",
)


def test_a_check_that_hangs_keeps_no_signal_waiting(receiver: FaultyReceiver, code: Code, tmp_path: Path) -> None:
    with running(tmp_path, settings(receiver), code=code.folder) as run:
        port = run.ports[0]
        code.change(*HANG)
        run.process.send_signal(signal.SIGUSR2)
        poll(lambda: running_as(b"check", run.pid) == 1, "the check")
        run.reload(settings(receiver, "max-size = '1MiB'\n"))
        code.mend()
        run.upgrade()
        assert run.ports == [port]
        with Session(port) as session:
            session.mail()
        code.change(*HANG)
        run.process.send_signal(signal.SIGUSR2)
        poll(lambda: running_as(b"check", run.pid) == 1, "the check")
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(SECONDS) == 0


def test_a_check_that_hangs_is_killed_and_said(receiver: FaultyReceiver, code: Code, tmp_path: Path) -> None:
    code.change("daemon/upgrade.py", "_CHECK_SECONDS: Final = 30.0", "_CHECK_SECONDS: Final = 1.0")
    with running(tmp_path, settings(receiver), code=code.folder) as run:
        before = run.workers
        code.change(*HANG)
        run.upgrade("no upgrade: nothing has changed")
        assert "took over 1 s; shimproxy stopped it" in run.log
        assert run.workers == before
