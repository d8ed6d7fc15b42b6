"""The figures: what is sent to whom, over which paths, and what is read off the proxy around it.

1. CPU is the proxy process's own user and system time around one path's turn, in clock ticks: 10 ms as a rule.
2. Small mails are sent and taken by Postfix' test programs where both are installed, else by the benchmark's own peers;
   large ones, those whose latency counts, and those in TLS, by its own.
3. TLS is implicit on both legs, as HAProxy knows no STARTTLS, and the receiver's certificate is verified.
4. A sender that is not answered as it expects ends the run: a figure never comes from a failure.

It does not know what the figures ought to be, in which order turns are taken, nor how they are shown.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

import attrs

from bench import peers, programs
from bench.programs import BenchError, Running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

DIRECT: Final = "direct"
SHIMPROXY: Final = "shimproxy"
PASSING: Final = "passing"
"""shimproxy that passes newlines as they are."""
BEFORE: Final = "before"
HAPROXY: Final = "haproxy"

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
SMALL_MAIL_OCTETS: Final = 1000
PARALLEL_SESSIONS: Final = 10
PARALLEL_MAILS: Final = 4
"""Large ones, which together are as large as one alone."""
ROUND_TRIP_MILLISECONDS: Final = 20
REFUSE_AFTER_OCTETS: Final = 64 * 1024

Values = dict[str, float]
"""Figure, value, of one turn."""


@attrs.frozen(kw_only=True)
class Sizes:
    """How much a round sends."""

    session_mails: int = 2000
    kept_mails: int = 5000
    mail_octets: int = GIB
    serial_mails: int = 1000
    far_mails: int = 25
    idle_sessions: int = 2000
    warm_up_mails: int = 50


FULL: Final = Sizes()
QUICK: Final = Sizes(
    session_mails=400,
    kept_mails=1000,
    mail_octets=64 * MIB,
    serial_mails=200,
    far_mails=10,
    idle_sessions=500,
    warm_up_mails=20,
)


@attrs.frozen(kw_only=True)
class Setup:
    """What a run is made with."""

    folder: Path
    rounds: int
    sizes: Sizes
    paths: tuple[str, ...]
    """In the order of the report."""
    certificate: Path | None = None
    """With its key; made if a measure is of TLS."""
    before: Path | None = None
    """The folder of another copy of the package, measured as the path `before`."""

    @property
    def postfix(self) -> bool:
        """Whether Postfix' test programs send and take the small mails."""
        return bool(programs.find("smtp-source") and programs.find("smtp-sink"))


@attrs.frozen(kw_only=True)
class Turn:
    """One path's turn in a round: where to send, and the proxy that is measured, if there is one."""

    port: int
    proxy: Running | None
    sizes: Sizes
    postfix: bool
    tls: bool

    def own_sender(self, role: str, *arguments: str) -> Values:
        """Run a sender of bench.peers to its end; what it measured. Raises BenchError."""
        return programs.own_sender(role, self.port, *(["--tls"] if self.tls else []), *arguments)

    def cpu_around(self, send: Callable[[], Values]) -> tuple[Values, float | None]:
        """What `send` measured, and the proxy's CPU seconds meanwhile."""
        if self.proxy is None:
            return send(), None
        before_seconds = self.proxy.settled_cpu_seconds()
        values = send()
        return values, self.proxy.settled_cpu_seconds() - before_seconds

    @property
    def watched(self) -> Running:
        """The proxy, where only proxies are measured."""
        assert self.proxy
        return self.proxy


@attrs.frozen(kw_only=True)
class Measure:
    """Some figures that one kind of traffic gives."""

    name: str
    about: str
    take: Callable[[Turn], Values]
    receiver: Callable[[Setup], AbstractContextManager[Running]]
    turn_seconds: tuple[float, float]
    """About how long a turn takes, as it is and with --quick, with its share of what is started before."""
    paths: frozenset[str] = frozenset((DIRECT, SHIMPROXY, BEFORE, HAPROXY))
    fresh: bool = False
    tls: bool = False
    """Whether both legs are TLS; the receiver has to be, too."""
    added: Sequence[str] = ()
    """Figures that are also given less those of the direct path, as "added NAME"."""


# -- receivers


def _any_receiver(setup: Setup) -> AbstractContextManager[Running]:
    return programs.smtp_sink(setup.folder) if setup.postfix else programs.own_receiver(setup.folder)


def _own_receiver(setup: Setup) -> AbstractContextManager[Running]:
    return programs.own_receiver(setup.folder)


def refusing_receiver(setup: Setup) -> AbstractContextManager[Running]:
    return programs.own_receiver(setup.folder, "--refuse-after", str(REFUSE_AFTER_OCTETS))


def _far_receiver(setup: Setup) -> AbstractContextManager[Running]:
    return programs.far_receiver(setup.folder, ROUND_TRIP_MILLISECONDS / 2)


def _tls_receiver(setup: Setup) -> AbstractContextManager[Running]:
    return programs.own_receiver(setup.folder, "--cert", str(setup.certificate))


# -- small mails


def warm_up(turn: Turn) -> Values:
    """A few mails that count for nothing; short ones pass the refusing receiver too."""
    return turn.own_sender("mails", "--mails", str(turn.sizes.warm_up_mails), "--sessions", "5")


def _send_small(turn: Turn, mails: int, kept: bool) -> Values:
    count, octets, sessions = str(mails), str(SMALL_MAIL_OCTETS), str(PARALLEL_SESSIONS)
    if not turn.postfix:
        flag = ["--kept"] if kept else []
        return turn.own_sender("mails", "--mails", count, "--octets", octets, "--sessions", sessions, *flag)
    command = [programs.need("smtp-source"), "-s", sessions, "-m", count, "-l", octets, *(["-d"] if kept else [])]
    started = time.perf_counter()
    programs.run("smtp-source", [*command, f"{peers.HOST}:{turn.port}"])
    return {"seconds": time.perf_counter() - started}


def _small_figures(turn: Turn, mails: int, kept: bool, rate: str, cost: str) -> Values:
    values, cpu_seconds = turn.cpu_around(lambda: _send_small(turn, mails, kept))
    figures = {rate: mails / values["seconds"]}
    if cpu_seconds is not None:
        figures[cost] = cpu_seconds / mails * 1000
    return figures


def _sessions(turn: Turn) -> Values:
    return _small_figures(turn, turn.sizes.session_mails, False, "sessions/s", "CPU s/1000 sessions")


def _kept(turn: Turn) -> Values:
    return _small_figures(turn, turn.sizes.kept_mails, True, "kept mails/s", "CPU s/1000 kept mails")


def _latency(turn: Turn) -> Values:
    values = turn.own_sender("serial", "--mails", str(turn.sizes.serial_mails), "--octets", str(SMALL_MAIL_OCTETS))
    return {f"latency {name} us": microseconds for name, microseconds in values.items()}


def _far(turn: Turn) -> Values:
    values = turn.own_sender("serial", "--mails", str(turn.sizes.far_mails), "--grouped")
    return {"pipelined mail, receiver 20 ms away, ms": values["p50"] / 1000}


# -- mail data


def _send_large(turn: Turn, kind: str, code: int, sessions: int = 1) -> Values:
    octets, parallel = str(turn.sizes.mail_octets), str(sessions)
    return turn.own_sender("send", "--octets", octets, "--kind", kind, "--expect", str(code), "--sessions", parallel)


def _large_figures(turn: Turn, name: str, kind: str, code: int = 250, sessions: int = 1) -> Values:
    values, cpu_seconds = turn.cpu_around(lambda: _send_large(turn, kind, code, sessions))
    figures = {f"{name} MiB/s": values["octets"] / MIB / values["seconds"]}
    if cpu_seconds is not None:
        figures[f"{name} CPU s/GiB"] = cpu_seconds / (values["octets"] / GIB)
    return figures


def _mixed(turn: Turn) -> Values:
    alone = _large_figures(turn, "mixed", "mixed")
    return alone | _large_figures(turn, f"{PARALLEL_MAILS} x mixed", "mixed", sessions=PARALLEL_MAILS)


# -- TLS


def _tls(turn: Turn) -> Values:
    sessions = _small_figures(turn, turn.sizes.session_mails, False, "TLS sessions/s", "CPU s/1000 TLS sessions")
    return sessions | _large_figures(turn, "TLS base64", "base64")


# -- memory


def _peak(turn: Turn, name: str, code: int) -> Values:
    _send_large(turn, "base64", code)
    return {f"peak MiB, {name}": turn.watched.memory_kib("VmHWM") / 1024}


def _idle(turn: Turn) -> Values:
    warm_up(turn)  # what is made once, at the first session, is no session's
    count = turn.sizes.idle_sessions
    before_kib = turn.watched.memory_kib("VmRSS")
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            try:
                stack.callback(peers.SenderSession(turn.port).close)
            except (OSError, peers.Unexpected) as error:
                raise BenchError(f"{turn.watched.name} did not take {count} idle sessions: {error}") from error
        time.sleep(0.2)  # for what the proxy still does about the last of them
        after_kib = turn.watched.memory_kib("VmRSS")
    return {"idle session KiB": (after_kib - before_kib) / count}


ALL: Final = frozenset((DIRECT, SHIMPROXY, PASSING, BEFORE, HAPROXY))
ALONE: Final = frozenset((SHIMPROXY, BEFORE))
PROXIES: Final = frozenset((SHIMPROXY, BEFORE, HAPROXY))
MEASURES: Final = (
    Measure(
        name="sessions",
        about="a session for each small mail",
        take=_sessions,
        receiver=_any_receiver,
        turn_seconds=(1.7, 0.4),
    ),
    Measure(
        name="kept",
        about="small mails on kept sessions",
        take=_kept,
        receiver=_any_receiver,
        turn_seconds=(1.4, 0.3),
    ),
    Measure(
        name="mixed",
        about="a large mail of headers, text, quoted-printable and base64, then four such mails at a time",
        take=_mixed,
        receiver=_own_receiver,
        turn_seconds=(3.0, 0.65),
    ),
    Measure(
        name="base64",
        about="a large mail of base64",
        take=lambda turn: _large_figures(turn, "base64", "base64"),
        receiver=_own_receiver,
        turn_seconds=(1.2, 0.3),
        paths=ALL,
    ),
    Measure(
        name="prose",
        about="a large mail of prose, with dots",
        take=lambda turn: _large_figures(turn, "prose", "prose"),
        receiver=_own_receiver,
        turn_seconds=(2.2, 0.5),
        paths=ALL,
    ),
    Measure(
        name="quoted-printable",
        about="a large mail in quoted-printable",
        take=lambda turn: _large_figures(turn, "quoted-printable", "quoted-printable"),
        receiver=_own_receiver,
        turn_seconds=(2.2, 0.45),
    ),
    Measure(
        name="long-lines",
        about="a large mail of HTML in long lines",
        take=lambda turn: _large_figures(turn, "long lines", "long-lines"),
        receiver=_own_receiver,
        turn_seconds=(1.9, 0.45),
    ),
    Measure(
        name="drain",
        about="a large mail that is answered early",
        take=lambda turn: _large_figures(turn, "drain", "base64", 552),
        receiver=refusing_receiver,
        turn_seconds=(1.6, 0.4),
        paths=ALONE,
    ),
    Measure(
        name="tls",
        about="TLS on both legs: a session for each small mail, then a large mail of base64",
        take=_tls,
        receiver=_tls_receiver,
        turn_seconds=(6.0, 1.1),
        tls=True,
    ),
    Measure(
        name="latency",
        about="small mails one by one on a kept session",
        take=_latency,
        receiver=_own_receiver,
        turn_seconds=(0.7, 0.25),
        added=("latency p50 us", "latency p99 us"),
    ),
    Measure(
        name="far",
        about="small mails of a pipelining sender to a receiver 20 ms away",
        take=_far,
        receiver=_far_receiver,
        turn_seconds=(2.0, 0.7),
    ),
    Measure(
        name="peak-pass",
        about="peak memory while a large mail passes",
        take=lambda turn: _peak(turn, "mail passes", 250),
        receiver=_own_receiver,
        turn_seconds=(2.0, 0.7),
        paths=PROXIES,
        fresh=True,
    ),
    Measure(
        name="peak-drain",
        about="peak memory while a large mail is drained",
        take=lambda turn: _peak(turn, "mail drained", 552),
        receiver=refusing_receiver,
        turn_seconds=(2.0, 0.8),
        paths=ALONE,
        fresh=True,
    ),
    Measure(
        name="idle",
        about="memory of open sessions",
        take=_idle,
        receiver=_own_receiver,
        turn_seconds=(2.2, 0.7),
        paths=PROXIES,
        fresh=True,
    ),
)
