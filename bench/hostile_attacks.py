"""What is done to a shimproxy beside well-behaved mails: each attack is a row of the table.

An attack has hostile senders at a listener of its own, a hostile receiver after that listener, or something that is
done to the processes of shimproxy; or several of these.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from typing import TYPE_CHECKING, Final

import attrs

from bench.programs import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.programs import Running

    Do = Callable[[Running, int], None]
    """Given shimproxy and which time it is, from 0 on. May raise OSError for a process that has ended."""

_QUICK_SHARE: Final = 0.05
_LEAST_PEERS: Final = 3
_TLS: Final = 'sender-tls = "implicit"\ncert = "{certificate}"\nallow-clear = true'
_TRUST: Final = 'trust = ["127.0.0.0/8"]'
_RECORDS: Final = 'record = "{records}"\nrecord-what = "all"'


@attrs.frozen
class Deed:
    """Something that is done to the processes of shimproxy, again and again."""

    do: Do
    every_seconds: float
    undo: Do = lambda running, times: None
    """Done once, after the last time."""


@attrs.frozen(kw_only=True)
class Attack:
    """A row of the table."""

    name: str
    about: str
    """With `{count}` for how many peers there are."""
    senders: str = ""
    """A kind of bench.hostile_peers.SENDERS; none if empty."""
    count: int = 0
    """How many of them there are at a time."""
    receiver: str = "takes-all"
    """The kind of the receiver after their listener."""
    listener: str = ""
    """More settings of that listener, in TOML."""
    settings: str = ""
    """More settings of shimproxy."""
    open_files: int = 0
    """How many files each process of shimproxy may open, if they are few."""
    deed: Deed | None = None

    def words(self, *, quick: bool) -> str:
        """What it is in this run."""
        return self.about.format(count=self.peers(quick=quick))

    def peers(self, *, quick: bool) -> int:
        """How many senders there are in this run."""
        return max(min(_LEAST_PEERS, self.count), round(self.count * _QUICK_SHARE)) if quick else self.count

    def files(self, *, quick: bool) -> int:
        """The limit of open files in this run: in proportion to the senders, beside what each process needs."""
        return self.open_files and _NEEDED_FILES + (self.open_files - _NEEDED_FILES) * self.peers(quick=quick) // (
            self.count
        )

    def most_mails(self, *, quick: bool) -> int:
        """How many well-behaved mails are under way at a time: their network has no claim to more than a share."""
        files = self.files(quick=quick)
        return min(_MOST_MAILS, files // _FILES_FOR_A_MAIL) if files else _MOST_MAILS


_MOST_MAILS: Final = 100
_FILES_FOR_A_MAIL: Final = 10
_NEEDED_FILES: Final = 50


def _kill_worker(running: Running, times: int) -> None:
    workers = running.children()
    if workers:
        os.kill(workers[times % len(workers)], signal.SIGKILL)


def _reload(running: Running, times: int) -> None:
    running.process.send_signal(signal.SIGHUP)


def _limit_files(running: Running, octets: int) -> None:
    for pid in running.pids():
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (octets, hard))


def _fill_disk(running: Running, times: int) -> None:
    """No file can grow, as on a disk that is full: neither records nor the log."""
    _limit_files(running, 0)


def _empty_disk(running: Running, times: int) -> None:
    _limit_files(running, resource.RLIM_INFINITY)


ATTACKS: Final = (
    Attack(name="silent", about="{count:,} senders connect and say nothing", senders="silent", count=1000),
    Attack(
        name="slow-senders",
        about="{count} senders: an octet of a command or of mail data every half second",
        senders="drips",
        count=200,
    ),
    Attack(
        name="slow-readers",
        about="{count} senders pipeline RSET without end and read nothing",
        senders="reads-nothing",
        count=500,
    ),
    Attack(name="endless-lines", about="{count} senders: a line without end", senders="endless-line", count=50),
    Attack(
        name="endless-replies",
        about="{count} receivers: a multiline reply without end",
        senders="asks",
        count=20,
        receiver="never-ends-a-reply",
    ),
    Attack(
        name="reply-floods",
        about="{count} receivers: replies without end that nothing asked for",
        senders="asks",
        count=20,
        receiver="floods-replies",
    ),
    Attack(name="command-floods", about="{count} senders: pipelined commands without end", senders="floods", count=50),
    Attack(
        name="tls-noise", about="{count} senders: noise instead of TLS", senders="tls-noise", count=50, listener=_TLS
    ),
    Attack(
        name="tls-stalls",
        about="{count} senders: half of a TLS handshake",
        senders="tls-stalls",
        count=500,
        listener=_TLS,
    ),
    Attack(
        name="forged-headers",
        about="{count} senders: PROXY headers that are forged, cut short or too long",
        senders="forges",
        count=50,
        listener=_TRUST,
    ),
    Attack(name="10000-rcpt", about="{count} senders: 10,000 RCPT in a mail", senders="recipients", count=4),
    Attack(name="100000-noop", about="{count} senders: 100,000 NOOP in a session", senders="noops", count=8),
    Attack(name="large-mails", about="{count} senders: mails of 64 MiB at full speed", senders="large", count=8),
    Attack(
        name="open-and-close",
        about="{count} senders connect and leave at once, by FIN or by RST",
        senders="comes-and-leaves",
        count=50,
    ),
    Attack(
        name="killed-workers",
        about="a worker is killed (SIGKILL) every 1.5 s",
        deed=Deed(_kill_worker, 1.5),
    ),
    Attack(name="reload-storm", about="SIGHUP 20 times a second", deed=Deed(_reload, 0.05)),
    Attack(
        name="few-descriptors",
        about="{count} silent senders, and fewer open files than they need",
        senders="silent",
        count=600,
        open_files=200,
    ),
    Attack(
        name="full-disk",
        about="no file can grow: neither the log nor records; {count} senders come and leave",
        senders="comes-and-leaves",
        count=20,
        settings=_RECORDS,
        deed=Deed(_fill_disk, 0.5, _empty_disk),
    ),
)


def settings(attack: Attack, good: int, hostile: int, host: str, certificate: Path | None, folder: Path) -> str:
    """Settings of shimproxy in TOML: a listener for the well-behaved mails, and one for the hostile senders.

    Args:
        attack: what is done.
        good: the port of the well-behaved receiver.
        hostile: that of the receiver after the hostile senders' listener.
        host: the address of all of them.
        certificate: that of a listener that speaks TLS.
        folder: where records go.
    """
    places = {"certificate": certificate, "records": folder / "records"}
    return "\n".join(
        [
            f'receiver = "{host}:{good}"',
            f'admin = "{host}:0"',
            f"workers = {WORKERS}",
            'log-format = "json"',
            attack.settings.format(**places),
            "[[listener]]",
            f'listen = "{host}:0"',
            "[[listener]]",
            f'listen = "{host}:0"',
            f'receiver = "{host}:{hostile}"',
            attack.listener.format(**places),
            "",
        ]
    )


WORKERS: Final = 2


@attrs.define(eq=False)
class Doing:
    """How often a deed was done, and why it could not be."""

    times: int = 0
    trouble: str = ""


@contextlib.contextmanager
def doing(deed: Deed, running: Running) -> Iterator[Doing]:
    """Meanwhile it is done again and again: at once, and whenever its time has passed. Raises BenchError."""
    done, over = Doing(), threading.Event()

    def again() -> None:
        try:
            while True:
                with contextlib.suppress(ProcessLookupError):
                    deed.do(running, done.times)
                done.times += 1
                if over.wait(deed.every_seconds):
                    break
            deed.undo(running, done.times)
        except (OSError, BenchError) as error:
            done.trouble = str(error)

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()
    if done.trouble:
        raise BenchError(done.trouble)
