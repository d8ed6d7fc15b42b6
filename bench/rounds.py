"""Rounds: every path takes its turn in each of them, over processes that are started and ended here.

1. A round runs each path once, one after the other, and the next round begins with the next path: what the machine
   does meanwhile meets them all.
2. A proxy serves one measure through all of its rounds, warmed up by a few mails that are not counted; where memory is
   measured it is a fresh process each time.

It does not know what a turn measures.
"""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING, Final

from bench import programs
from bench.measures import BEFORE, DIRECT, HAPROXY, PASSING, Measure, Setup, Turn, Values, warm_up
from bench.programs import BenchError, Running
from bench.progress import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.figures import Samples
    from bench.progress import Progress

MEMORY_ROUNDS: Final = 3
"""Peak memory hardly varies: no more rounds than these."""
SPARE_FILES: Final = 100


def raise_file_limit(sessions: int) -> int:
    """Let this process and those it starts open all the files they may; how many sessions a proxy can hold then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return sessions
    return min(sessions, (hard - SPARE_FILES) // 4)  # one network has no more of shimproxy


def step(measure: Measure, setup: Setup, *, quick: bool) -> Step:
    """The measure as a step of a plan."""
    paths, rounds = _turns(measure, setup)
    return Step(measure.name, measure.about, len(paths) * rounds, measure.turn_seconds[quick])


def _turns(measure: Measure, setup: Setup) -> tuple[list[str], int]:
    """The paths that take turns, and the rounds."""
    paths = [path for path in setup.paths if path in measure.paths]
    return paths, min(setup.rounds, MEMORY_ROUNDS) if measure.fresh else setup.rounds


def run_measure(measure: Measure, setup: Setup, progress: Progress) -> Samples:
    """All rounds of one measure over those of the paths that it has. Raises BenchError."""
    paths, rounds = _turns(measure, setup)
    progress.begin_step(rounds, paths)
    samples: Samples = {}
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(measure.receiver(setup))
        lasting = (
            {}
            if measure.fresh
            else {path: stack.enter_context(_proxy(measure, setup, path, receiver)) for path in paths}
        )
        for path, proxy in lasting.items():
            _blamed(measure, path, warm_up, _turn(measure, setup, receiver, proxy))
        for number in range(rounds):
            values: dict[str, Values] = {}
            for path in _rotated(paths, number):
                progress.begin_turn(number + 1, rounds, path)
                with contextlib.ExitStack() as once:
                    proxy = lasting[path] if lasting else once.enter_context(_proxy(measure, setup, path, receiver))
                    values[path] = _blamed(measure, path, measure.take, _turn(measure, setup, receiver, proxy))
                progress.end_turn()
            _add_differences(measure.added, values)
            for path in paths:
                for figure, value in values[path].items():
                    samples.setdefault(figure, {}).setdefault(path, []).append(value)
    return samples


def _turn(measure: Measure, setup: Setup, receiver: Running, proxy: Running | None) -> Turn:
    return Turn(
        port=(proxy or receiver).port,
        proxy=proxy,
        sizes=setup.sizes,
        postfix=setup.postfix and not measure.tls,
        tls=measure.tls,
    )


def _rotated(paths: list[str], number: int) -> list[str]:
    first = number % max(1, len(paths))
    return paths[first:] + paths[:first]


def _blamed(measure: Measure, path: str, take: Callable[[Turn], Values], turn: Turn) -> Values:
    """Take the values; an error says of which measure and path it is, and what the proxy said."""
    try:
        values = take(turn)
        if turn.proxy:
            turn.proxy.check()
    except BenchError as error:
        where = f"{measure.name} over {path}: {error}"
        last = f"; {turn.proxy.failed('said last')}" if turn.proxy and turn.proxy.name not in str(error) else ""
        raise BenchError(where + last) from error
    return values


def _add_differences(names: Sequence[str], values: dict[str, Values]) -> None:
    if direct := values.get(DIRECT):
        for path, figures in values.items():
            if path != DIRECT:
                figures.update({f"added {name}": figures[name] - direct[name] for name in names})


@contextlib.contextmanager
def _proxy(measure: Measure, setup: Setup, path: str, receiver: Running) -> Iterator[Running | None]:
    certificate = setup.certificate if measure.tls else None
    if path == DIRECT:
        yield None
    elif path == HAPROXY:
        sessions = raise_file_limit(setup.sizes.idle_sessions + SPARE_FILES)
        with programs.haproxy(setup.folder, receiver.port, sessions, certificate) as running:
            yield running
    else:
        more = ("--newlines", "pass") if path == PASSING else ()
        code = setup.before if path == BEFORE else None
        with programs.shimproxy(
            setup.folder, receiver.port, *more, certificate=certificate, code=code, name=path
        ) as running:
            yield running
