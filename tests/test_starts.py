"""Starts and upgrades that go wrong or take their time: signals are obeyed, and what served goes on serving."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from shimproxy.ops.journal import Journal
from shimproxy.ops.listener import SettingsError
from shimproxy.ops.sources import Sources
from shimproxy.ops.workers import Service, Workers
from tests.peers.processes import poll
from tests.peers.receiving import HOST, Receiver, Talk
from tests.test_supervisor import Session, running, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANGING_WORKER = """
import os, sys, time
if "shimproxy.ops.worker" in sys.orig_argv:
    time.sleep(1_000_000)
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(Talk.accept) as running:
        yield running


def changed_by(folder: Path, text: str) -> str:
    """The PYTHONPATH with which every Python begins with that text."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text)
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


# -- starts


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


# -- workers that no longer answer


def test_a_worker_that_no_longer_answers_is_replaced_and_no_other(receiver: Receiver, tmp_path: Path) -> None:
    with running(tmp_path, settings(receiver, "workers = 2\n")) as run:
        stopped, healthy = run.workers
        os.kill(stopped, signal.SIGSTOP)
        run.logged(f'what="a worker no longer answers; it is killed" pid={stopped} ')
        run.logged(f'what="a worker has ended; another starts" pid={stopped} how=SIGKILL')
        poll(lambda: len(run.workers) == 2 and stopped not in run.workers, "another worker")
        assert healthy in run.workers
        with Session(run.ports[0]) as session:
            session.mail()
