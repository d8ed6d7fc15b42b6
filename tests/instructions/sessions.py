"""What a session costs, and a mail in a session that is kept open, on real sockets.

The sender and the receiver are in another process, and wait for each other: what shimproxy is given, and when, is the
same in each run.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

import shimproxy
from bench.mail_data import small_mail
from shimproxy.faulty.client import Dialogue
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import Talk
from shimproxy.net import driver
from shimproxy.observe import journal, log_output
from shimproxy.observe.metrics import Metrics
from tests.instructions.counting import Counted, What, counted

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMES: Final = 10
_BATCHES: Final = 12
"""The first one is no figure: what is imported or made once is no part of a session. Of the others the least counts:
what is logged now and then is in the others."""
_LATE_SECONDS: Final = 0.2
_LONG_SECONDS: Final = 3600.0
_MARK: Final = signal.SIGUSR1
_MAIL: Final = small_mail(2048)


SESSION: Final = "instructions of a session"
MAIL: Final = "instructions of a further mail"
TOLD: Final = "told"
"""In place of the level of a log: with --record and --admin, and a log of JSON."""


def of_sessions(what: What, log: str = "") -> dict[str, int]:
    """What a session with one mail of 2 KiB costs, and each further mail in a session; with a `log` at that level."""
    with FaultyReceiver(Talk.accept) as receiver, counted(what, __name__, str(receiver.port), log) as run:
        pid, port = map(int, run.line().split())
        _count(run, pid, lambda: _session(port))
        with socket.create_connection((HOST, port)) as sock:
            dialogue = Dialogue(sock)
            dialogue.open("EHLO sender.example")
            _count(run, pid, lambda: _mail(dialogue))
            dialogue.quit()
        os.kill(pid, signal.SIGTERM)
        totals = run.totals()
    assert len(totals) == 2 * _BATCHES, totals
    words = what.name.lower().replace("_", " ")
    session, mail = min(totals[1:_BATCHES]), min(totals[_BATCHES + 1 :])
    with_log = f", {log}" if log == TOLD else f", log-level {log}" if log else ""
    return {
        f"{words} of a session{with_log}": session // _TIMES,
        f"{words} of a further mail{with_log}": mail // _TIMES,
    }


def _count(run: Counted, pid: int, once: Callable[[], None]) -> None:
    for _ in range(_BATCHES):
        for _ in range(_TIMES):
            once()
        os.kill(pid, _MARK)
        assert run.line() == "marked"


def _session(port: int) -> None:
    with socket.create_connection((HOST, port)) as sock:
        dialogue = Dialogue(sock)
        dialogue.open("EHLO sender.example")
        _mail(dialogue)
        dialogue.quit()


def _mail(dialogue: Dialogue) -> None:
    dialogue.command("MAIL FROM:<sender@sender.example>", 250)
    dialogue.command("RCPT TO:<recipient@receiver.example>", 250)
    dialogue.command("DATA", 354)
    dialogue.send_mail(_MAIL)
    assert dialogue.reply().startswith(b"250")


def _write_lines_together() -> None:
    """Have the log written once in a batch, as it is where there is much to write, however long the batch takes."""
    setattr(journal, "_WAIT_SECONDS", _LONG_SECONDS)  # noqa: B010
    setattr(journal, "_MOST_WAITING", _TIMES)  # noqa: B010


def _wait_for_late_peers() -> None:
    """Have the driver wait for peers that a busy machine makes late, as for those that are swift: both count alike."""
    setattr(driver, "_WAIT_SECONDS", _LATE_SECONDS)  # noqa: B010, which would have it assigned: it is Final


async def _serve(receiver_port: int, log: str) -> None:
    """Serve in this process, print its id and the port, and mark the count at each signal."""
    if log:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: ASYNC230, SIM115 - for the whole process
        log_output.set_up("INFO" if log == TOLD else log.upper(), "json" if log == TOLD else "text")
    settings = shimproxy.Settings(listen=[f"{HOST}:0"], receiver=f"{HOST}:{receiver_port}", trace=log == TOLD)
    metrics = Metrics() if log == TOLD else None
    with trio.open_signal_receiver(_MARK, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            (address, *_) = await nursery.start(
                partial(shimproxy.serve, settings, metrics=metrics, on_session=metrics.ended if metrics else None)
            )
            print(os.getpid(), address.port, flush=True)
            async for number in signals:
                if number == signal.SIGTERM:
                    nursery.cancel_scope.cancel()
                    return
                os.getppid()
                print("marked", flush=True)


if __name__ == "__main__":
    _wait_for_late_peers()
    _write_lines_together()
    trio.run(_serve, int(sys.argv[1]), sys.argv[2])
