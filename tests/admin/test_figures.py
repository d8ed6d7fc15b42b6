"""The figures for monitors: names as Prometheus wants them, and what hurts is there to be seen."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from shimproxy import SessionRecord
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import Talk
from shimproxy.net.receiver_state import MOST_STATES, OTHERS, ReceiverStates
from shimproxy.observe import metrics
from shimproxy.observe.metrics import Metrics
from shimproxy.observe.series import Series, add_figures
from shimproxy.smtp.command import Verb
from tests.admin.test_admin import get, with_admin
from tests.daemon.test_supervisor import Session, running
from tests.peers.processes import need, poll, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def receiver() -> Iterator[FaultyReceiver]:
    with FaultyReceiver(Talk.accept) as running:
        yield running


def a_bit_of_everything() -> str:
    """The figures of a process that has met trouble of every kind that is counted."""
    sut = Metrics()
    ended = SessionRecord("1a2b-7", "192.0.2.1:4711", "192.0.2.7:25")
    ended.seconds = 0.1
    sut.ended(ended)
    states = ReceiverStates()
    states.of("192.0.2.7:25").fails("refused")
    states.of('unix:/run/"x\\').serves()
    sut.receiver_states = states.all
    times = sut.reply_times.of_session()
    times.begin()
    times.note_reply(Verb.MAIL)
    times.note_reply(None)
    sut.limit_reached("sessions")
    certificate = {'certificate_expiry_timestamp_seconds{certificate="/etc/x.pem"}': 1.5e9}
    own = {"process_cpu_seconds_total": 0.5, "process_open_fds": 7.0, "config_last_reload_successful": 1.0}
    return metrics.exposition(sut.totals() | sut.gauges() | certificate | own, "1.2.3")


@pytest.mark.once
def test_promtool_has_nothing_to_say_about_the_figures() -> None:
    """Names, units and help follow Prometheus' conventions."""
    ended = run([need("promtool"), "check", "metrics"], given=a_bit_of_everything().encode())

    assert (ended.status, ended.said, ended.account) == (0, "", ended.account)


def test_a_receiver_is_up_as_a_worker_has_last_seen_it() -> None:
    text = a_bit_of_everything()

    assert 'shimproxy_receiver_up{receiver="192.0.2.7:25"} 0\n' in text
    assert 'shimproxy_receiver_up{receiver="unix:/run/\\"x\\\\"} 1\n' in text
    assert 'shimproxy_receiver_connect_failures_total{receiver="192.0.2.7:25",reason="refused"} 1\n' in text
    earlier, later = {'latest_receiver_up{receiver="a"}': 5.0}, {'latest_receiver_down{receiver="a"}': 7.0}
    both: Series = {}
    for each in (earlier, later, earlier):  # two workers
        add_figures(both, each)
    assert 'shimproxy_receiver_up{receiver="a"} 0\n' in metrics.exposition(both, "1")


def test_what_is_labelled_by_names_that_are_known_starts_at_zero() -> None:
    text = metrics.exposition({}, "1")

    assert 'shimproxy_limits_reached_total{limit="sessions"} 0\n' in text
    assert 'shimproxy_worker_exits_total{reason="crashed"} 0\n' in text
    assert 'shimproxy_reply_seconds_count{answers="mail_data"} 0\n' in text
    assert "shimproxy_log_lines_lost_total 0\n" in text


def test_figures_of_the_settings_the_processes_and_the_receiver(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """A receiver that refuses connections, one that greets, a crash, and a reload that fails."""
    more = "workers = 2\n"
    text = (
        with_admin(receiver, more)
        .replace("receiver = ", 'receiver = ["127.0.0.1:1", ')
        .replace(f'{receiver.port}"\n', f'{receiver.port}"]\n', 1)
    )
    with running(tmp_path, text) as shim:
        with Session(shim.ports[0]) as session:
            session.mail()
            session.say(b"QUIT", b"221")
        poll(lambda: 'receiver_up{receiver="127.0.0.1:1"} 0' in get(shim, "/metrics")[1], "a receiver that is down")
        poll(lambda: 'reply_seconds_count{answers="quit"} 1' in get(shim, "/metrics")[1], "a session counted")
        os.kill(shim.workers[0], signal.SIGKILL)
        shim.logged("how=SIGKILL")
        shim.file.write_text("listen = 7\n")
        shim.process.send_signal(signal.SIGHUP)
        shim.logged("reload_failed")
        poll(lambda: "config_last_reload_successful 0" in get(shim, "/metrics")[1], "a reload that has failed")
        _, text = get(shim, "/metrics")
    for words in (
        f'receiver_up{{receiver="127.0.0.1:{receiver.port}"}} 1',
        'receiver_connect_failures_total{receiver="127.0.0.1:1",reason="refused"} 1',
        'sessions_by_tls_total{leg="sender",tls="none"} 1',
        'worker_exits_total{reason="crashed"} 1',
        "config_last_reload_successful 0",
        'reply_seconds_count{answers="rcpt"} 1',
    ):
        assert words in text, words
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1]) > 0  # type: ignore[index]


def test_destinations_beyond_the_first_share_a_state() -> None:
    """Senders may choose any number of them."""
    sut = ReceiverStates()
    for number in range(2 * MOST_STATES):
        sut.of(f"192.0.2.1:{number}").fails("refused")

    assert len(sut.all()) == MOST_STATES + 1
    assert sut.of(OTHERS).failures["refused"] == MOST_STATES
