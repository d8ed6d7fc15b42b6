"""The soak: that its ledger is even after a run, and that each kind of lie makes it uneven and is named."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import attrs
import pytest

from bench import soak, soak_routes
from bench.ledger import MEMORY_KIB, Fate, Ledger, Posted, Process, State, Taken, Visit, written
from bench.soak_log import Line, read_log
from bench.soak_receivers import NAME
from shimproxy.faulty.talk import TAKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.soak_routes import Route
    from shimproxy.faulty.talk import Talk

AT_REST = State(
    (Process("supervisor", 10, 2, 1000), Process("worker", 20, 1, 1000), Process("worker", 21, 1, 1000)),
    {"sessions_open": 0, "sessions_total": 2},
)


def even() -> Ledger:
    """Two sessions with a mail each: one was delivered, one refused."""
    ledger = Ledger(before=AT_REST, after=AT_REST)
    for number, fate in enumerate((Fate.DELIVERED, Fate.BOUNCED), 1):
        began = 100.0 + number
        visit = Visit("a route", "a sender", True, False, f"127.0.1.1:{1000 + number}", began, began + 0.5)
        ledger.visits.append(visit)
        ledger.post(f"soak-{number}", b"text", visit).fate = fate
        session = f"ab12-{number}"
        ledger.log.lines.append(Line(session, visit.address, fate is Fate.DELIVERED, began, began + 0.6))
        ledger.records.add(session)
    ledger.take("soak-1", b"text", "a route")
    return ledger


def delivered(ledger: Ledger) -> Posted:
    return ledger.posted["soak-1"]


def refused(ledger: Ledger) -> Posted:
    return ledger.posted["soak-2"]


def test_an_even_ledger_has_no_difference() -> None:
    ledger = even()

    assert ledger.differences() == []
    assert written(ledger, [])[-1] == "The ledger is even."


def lost(ledger: Ledger) -> None:
    del ledger.taken["soak-1"]


def doubled(ledger: Ledger) -> None:
    ledger.take("soak-1", b"text", "a route")


def changed(ledger: Ledger) -> None:
    ledger.taken["soak-1"] = []
    ledger.take("soak-1", b"tex", "a route")


def refused_and_taken(ledger: Ledger) -> None:
    ledger.take("soak-2", b"text", "a route")


def deferred_and_taken(ledger: Ledger) -> None:
    refused(ledger).fate = Fate.AGAIN
    ledger.take("soak-2", b"text", "a route")


def unfinished_and_taken(ledger: Ledger) -> None:
    refused(ledger).fate = Fate.UNFINISHED
    ledger.visits[1].well_behaved = False
    ledger.take("soak-2", b"text", "a route")


def of_nobody(ledger: Ledger) -> None:
    ledger.take("soak-3", b"text", "a route")


def nameless(ledger: Ledger) -> None:
    ledger.take("", b"text", "a route")


def cut_off(ledger: Ledger) -> None:
    refused(ledger).fate = Fate.CUT


def not_delivered_on_a_strict_route(ledger: Ledger) -> None:
    ledger.visits[1].strict = True


def broken(ledger: Ledger) -> None:
    ledger.visits[1].broken = "ConnectionResetError"


def without_a_line(ledger: Ledger) -> None:
    ledger.log.lines.pop()
    ledger.records.discard("ab12-2")
    ledger.after = attrs.evolve(AT_REST, figures={"sessions_total": 1})


def a_gap_in_the_lines(ledger: Ledger) -> None:
    ledger.log.lines[:] = [attrs.evolve(line, session=f"ab12-{line.number + 1}") for line in ledger.log.lines]


def a_line_of_nobody(ledger: Ledger) -> None:
    ledger.log.lines.append(Line("ab12-3", "127.0.1.1:9", 0, 100.0, 101.0))


def a_line_twice(ledger: Ledger) -> None:
    ledger.log.lines.append(ledger.log.lines[0])


def accepted_more_than_believed(ledger: Ledger) -> None:
    ledger.log.lines[1] = attrs.evolve(ledger.log.lines[1], accepted=1)


def accepted_less_than_believed(ledger: Ledger) -> None:
    ledger.log.lines[0] = attrs.evolve(ledger.log.lines[0], accepted=0)


def without_a_record(ledger: Ledger) -> None:
    ledger.records.discard("ab12-2")


def a_record_of_nobody(ledger: Ledger) -> None:
    ledger.records.add("ab12-3")


def still_open(ledger: Ledger) -> None:
    ledger.after = attrs.evolve(AT_REST, figures={**AT_REST.figures, "sessions_open": 1})


def counted_wrongly(ledger: Ledger) -> None:
    ledger.after = attrs.evolve(AT_REST, figures={"sessions_total": 3})


def no_reload(ledger: Ledger) -> None:
    ledger.reloads = 1


def a_worker_ended(ledger: Ledger) -> None:
    ledger.log.events["worker_ended"] = 1


def a_worker_too_many(ledger: Ledger) -> None:
    ledger.after = attrs.evolve(AT_REST, processes=(*AT_REST.processes, AT_REST.processes[1]))


def grown(**more: int) -> Callable[[Ledger], None]:
    def lie(ledger: Ledger) -> None:
        supervisor, worker, other = AT_REST.processes
        grows = attrs.evolve(worker, **{name: getattr(worker, name) + value for name, value in more.items()})
        ledger.after = attrs.evolve(AT_REST, processes=(supervisor, grows, other))

    return lie


def a_bug(ledger: Ledger) -> None:
    ledger.log.reasons.append("KeyError: 'x'")


def a_failed_peer(ledger: Ledger) -> None:
    ledger.troubles.append("a receiver failed")


@pytest.mark.parametrize(
    ("lie", "names"),
    [
        (lost, "mail believed delivered and not in the receiver: soak-1 "),
        (doubled, "mail in the receiver more than once: soak-1 "),
        (changed, "mail changed on its way: soak-1 "),
        (refused_and_taken, "mail refused and in the receiver: soak-2 "),
        (deferred_and_taken, "mail to be sent again and in the receiver: soak-2 "),
        (unfinished_and_taken, "mail unfinished and in the receiver: soak-2 "),
        (of_nobody, "mail in the receiver and from no sender: soak-3"),
        (nameless, "mail in the receiver and from no sender: one without a name (a route)"),
        (cut_off, "mail cut off, and no worker was killed then: soak-2 "),
        (not_delivered_on_a_strict_route, "mail not delivered, and nobody misbehaved: soak-2 "),
        (broken, "connection broken, and no worker was killed then: a sender on a route, from 127.0.1.1:1002"),
        (without_a_line, "session without a line in the log, and no worker was killed then: a sender on a route"),
        (a_gap_in_the_lines, "session without a line in the log, of a worker that was not killed: ab12-1"),
        (a_line_of_nobody, "session in the log and of no sender: ab12-3 from 127.0.1.1:9"),
        (a_line_twice, "session in the log more than once: ab12-1"),
        (accepted_more_than_believed, "session of which log and sender count differently: ab12-2 "),
        (accepted_less_than_believed, "session of which log and sender count differently: ab12-1 "),
        (without_a_record, "session in the log and without a record: ab12-2"),
        (a_record_of_nobody, "session with a record, more than sessions without a line: ab12-3"),
        (still_open, "sessions_open is 1 when all senders have left"),
        (counted_wrongly, "sessions_total is 3, and the log and the records have 2 to 2"),
        (no_reload, "the log has 0 reloads, and the soak asked for 1"),
        (a_worker_ended, "1 workers have ended, and the soak has killed 0"),
        (a_worker_too_many, "processes: 3 before, 4 after"),
        (grown(descriptors=2), "worker: 21 descriptors before, 22 after"),
        (grown(threads=1), "worker: 1 threads before, 2 after"),
        (grown(memory_kib=MEMORY_KIB + 1), "worker: 1,000 KiB of memory before, 17,385 after"),
        (a_bug, "shimproxy logged: KeyError: 'x'"),
        (a_failed_peer, "the soak failed: a receiver failed"),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_a_lie_is_named(lie: Callable[[Ledger], None], names: str) -> None:
    ledger = even()
    lie(ledger)
    found = ledger.differences()

    assert [each for each in found if each.startswith(names)], found
    assert "The ledger is uneven:" in written(ledger, found)


def test_what_a_killed_worker_takes_with_it_is_no_difference() -> None:
    ledger = even()
    ledger.kills.append(102.3)
    ledger.log.events["worker_ended"] = 1
    cut_off(ledger)
    broken(ledger)
    ledger.take("soak-2", b"text", "a route")  # its verdict was on the way
    without_a_line(ledger)

    assert ledger.differences() == []


def test_a_mail_that_was_cut_off_is_in_the_receiver_once_at_most() -> None:
    ledger = even()
    ledger.kills.append(102.3)
    cut_off(ledger)
    ledger.take("soak-2", b"text", "a route")
    ledger.take("soak-2", b"text", "a route")

    assert [each.partition(" (")[0] for each in ledger.differences()] == ["mail in the receiver more than once: soak-2"]


def test_a_mail_that_was_accepted_too_early_may_come_again() -> None:
    ledger = even()
    refused(ledger).fate = Fate.AGAIN
    ledger.take("soak-2", b"text", "a route, early-250", too_early=True)

    assert ledger.differences() == []


def test_many_differences_of_a_kind_are_counted() -> None:
    ledger = even()
    ledger.taken.update({f"soak-{number}": [Taken(b"", "a route")] for number in range(10, 20)})

    assert [each for each in ledger.differences() if "from no sender" in each][-1].endswith("and 5 others")


@pytest.mark.parametrize("pause_seconds", [0.01, 1.0])
def test_one_port_that_is_used_again_is_two_sessions(pause_seconds: float) -> None:
    ledger = even()
    first, second = ledger.log.lines
    earlier, later = ledger.visits
    later.address = earlier.address
    later.began = earlier.began + pause_seconds
    ledger.log.lines[:] = [
        attrs.evolve(second, sender=first.sender, began=later.began + 0.001),
        attrs.evolve(first, began=earlier.began + 0.001),
    ]

    assert ledger.differences() == []


def test_the_log_is_read() -> None:
    session = {"session": "ab12-1", "sender": "127.0.0.1:1", "accepted": 2, "seconds": 1.5}
    lines = [
        json.dumps({"time": "1970-01-01T00:01:40.250Z", "level": "INFO", "event": "session", **session}),
        json.dumps({"time": "1970-01-01T00:01:41.000Z", "level": "ERROR", "event": "bug", "traceback": "a\nKeyError"}),
        json.dumps({"time": "1970-01-01T00:01:42.000Z", "level": "INFO", "event": "reloaded", "workers": 2}),
        "Fatal Python error",
    ]
    log = read_log(lines)

    assert log.lines == [Line("ab12-1", "127.0.0.1:1", 2, 98.75, 100.25)]
    assert log.events == {"session": 1, "bug": 1, "reloaded": 1}
    assert log.reasons == ["a | KeyError", "a line that is no JSON: Fatal Python error"]


# -- a run


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--minutes", "x"], ["--mails", "0"], ["--senders", "-1"]])
def test_a_wrong_argument_is_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        soak.main(arguments)

    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_said_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    assert soak.main(["--keep", str(tmp_path / "file" / "kept")]) == 2
    assert capsys.readouterr().err == f"soak: --keep {tmp_path}/file/kept: Not a directory\n"


@pytest.mark.slow
def test_the_ledger_of_a_short_run_is_even(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = soak.main(["--mails", "200", "--senders", "12", "--keep", str(tmp_path / "kept")])
    said = capsys.readouterr().out

    assert said.splitlines()[-1] == "The ledger is even."
    assert status == 0
    rows = said.partition("\n\n")[0].splitlines()
    figures = {line[:40].strip(): int(line[40:].replace(",", "")) for line in rows}
    assert figures["in the receiver, each once"] == figures["believed delivered"] > 100
    assert figures["reloads by SIGHUP"] == figures["workers killed by SIGKILL"] == 1
    assert list((tmp_path / "kept").glob("shimproxy-*.log"))


class Forgetful:
    """A receiver that says 250 to each mail, and loses one."""

    def __init__(self) -> None:
        self.lost: list[bytes] = []

    def __call__(self, talk: Talk) -> None:
        talk.go_on()
        data = talk.whole()
        name = NAME.search(data)
        assert name
        if self.lost:
            talk.seen.take(data)
        else:
            self.lost.append(name[0])
        talk.say(TAKEN)


@pytest.mark.slow
def test_a_receiver_that_loses_a_mail_makes_it_uneven(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forgetful = Forgetful()

    @contextlib.contextmanager
    def routes(folder: Path, certificate: Path, seed: int) -> Iterator[list[Route]]:
        with soak_routes.routes(folder, certificate, seed, forgetful) as made:
            yield made[:1]

    monkeypatch.setattr(soak, "routes", routes)
    status = soak.main(["--mails", "50", "--senders", "4"])
    said = capsys.readouterr().out

    assert status == 1
    heading, difference = said.splitlines()[-2:]
    assert heading == "The ledger is uneven:"
    name = forgetful.lost[0].decode()
    assert difference.startswith(f"  mail believed delivered and not in the receiver: {name} ("), said
