"""The admin address: figures that are whole across workers, health that is true, a page that is safe to open."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from shimproxy import SessionRecord, Violation
from shimproxy.admin import page
from shimproxy.admin.health import ask
from shimproxy.admin.last_hour import LastHour
from shimproxy.admin.repaired import repaired_session
from shimproxy.admin.server import MOST_AWAITED
from shimproxy.admin.status import MOST_KEPT, MOST_RECENT, ServedListener, Status, Totals, ViolationCount
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import SECONDS, Talk
from shimproxy.observe import metrics
from shimproxy.observe.metrics import Metrics
from shimproxy.observe.series import MOST_RECEIVERS
from shimproxy.session.record import Repair
from tests.daemon.test_supervisor import Session, running, settings
from tests.peers.here import run_here
from tests.peers.processes import missing, need, poll, run
from tests.records.test_record_files import everything

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon.test_supervisor import Run
    from tests.peers.processes import Run as Ended

HOSTILE = b'552 <script>alert("x")</script>&amp;\'"<img src=x onerror=alert(1)>\x1b[31m\r\n'


@pytest.fixture
def receiver() -> Iterator[FaultyReceiver]:
    with FaultyReceiver(Talk.accept) as running:
        yield running


def with_admin(receiver: FaultyReceiver, more: str = "") -> str:
    return settings(receiver, f'admin = "{HOST}:0"\n{more}')


@contextlib.contextmanager
def admin(run: Run) -> Iterator[http.client.HTTPConnection]:
    found = re.search(r", admin (\S+)", run.ready)
    assert found
    connection = http.client.HTTPConnection(found[1], timeout=SECONDS)
    with contextlib.closing(connection):
        yield connection


def get(run: Run, path: str, **headers: str) -> tuple[int, str]:
    with admin(run) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def figure(run: Run, name: str) -> float:
    status, text = get(run, "/metrics")
    assert status == 200
    return sum(
        float(line.split()[-1]) for line in text.splitlines() if line.split("{")[0].split()[0] == f"shimproxy_{name}"
    )


# -- figures


@pytest.mark.slow
def test_the_figures_are_whole_across_workers_reloads_and_upgrades(receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, with_admin(receiver, "workers = 2\n")) as run:
        mails = 0
        for change in (run.reload, run.upgrade, run.reload):
            for _ in range(10):
                with Session(run.ports[0]) as session:
                    session.mail()
                    session.say(b"QUIT", b"221")
                mails += 1
            poll(lambda: figure(run, "sessions_total") == mails, f"{mails} sessions counted")  # noqa: B023
            change()
        assert figure(run, "accepted_total") == figure(run, "transactions_total") == mails
        assert figure(run, "session_seconds_count") == mails
        assert figure(run, "replies_total") == 6 * mails
        poll(lambda: figure(run, "workers") == 2, "the old workers' end")
        with Session(run.ports[0]), Session(run.ports[0]):
            poll(lambda: figure(run, "sessions_open") == 2, "two sessions")


def test_little_is_lost_with_a_worker_that_is_killed(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """It says its figures once a second, and when it is asked."""
    with running(tmp_path, with_admin(receiver)) as run:
        with Session(run.ports[0]) as session:
            session.say(b"QUIT", b"221")
        poll(lambda: figure(run, "sessions_total") == 1, "a session counted")
        os.kill(run.workers[0], signal.SIGKILL)
        run.logged("how=SIGKILL")
        assert figure(run, "sessions_total") == 1


def record(receiver: str = "192.0.2.7:25", seconds: float = 0.2) -> SessionRecord:
    made = SessionRecord("1a2b-1", "192.0.2.1:4711", receiver)
    made.repairs = Counter({Violation.EARLY_REPLY: 2})
    made.seconds = seconds
    made.replies[2] = 3
    return made


def test_the_number_of_series_is_bounded() -> None:
    sut = Metrics()
    for number in range(3 * MOST_RECEIVERS):
        sut.ended(record(f"192.0.2.7:{number}"))
    repairs = {name: value for name, value in sut.counted.items() if name.startswith("repairs_total")}
    assert len(repairs) == MOST_RECEIVERS + 1
    assert repairs['repairs_total{violation="early-reply",receiver="other"}'] == 2 * 2 * MOST_RECEIVERS
    assert sum(repairs.values()) == 2 * 3 * MOST_RECEIVERS


def test_the_number_of_series_is_bounded_over_any_number_of_workers() -> None:
    history = Totals()
    for worker in range(5):
        sut = Metrics()
        for number in range(MOST_RECEIVERS):
            sut.ended(record(f"192.0.2.{worker}:{number}"))
        history.over(sut.counted)
    repairs = {name: value for name, value in history.past.items() if name.startswith("repairs_total")}
    assert len(repairs) == MOST_RECEIVERS + 1
    assert sum(repairs.values()) == 2 * 5 * MOST_RECEIVERS


@pytest.mark.parametrize("where", ["connection", "session"])
def test_a_limit_that_is_reached_is_counted(where: str, receiver: FaultyReceiver, tmp_path: Path) -> None:
    more = "sessions = 1\n" if where == "connection" else "[limit]\nbad-commands = 1\n"
    with running(tmp_path, with_admin(receiver, more)) as run:
        if where == "connection":
            with Session(run.ports[0]), Session(run.ports[0], b"421 "):
                pass
        else:
            with Session(run.ports[0]) as session:
                session.sock.sendall(b"NO\0OP\r\n" * 2)
                session.expect(b"500 ")
                session.expect(b"421 ")
        limit = "sessions" if where == "connection" else "bad-commands"
        poll(lambda: f'limits_reached_total{{limit="{limit}"}} 1' in get(run, "/metrics")[1], "a limit counted")


def test_the_histogram_counts_what_is_at_most_its_bounds() -> None:
    sut = Metrics()
    for seconds in (0.0, 0.01, 0.02, 1.0, 4000.0):
        sut.ended(record(seconds=seconds))
    text = metrics.exposition(sut.counted, "1.2.3")
    assert 'shimproxy_build_info{version="1.2.3"} 1\n' in text
    buckets = re.findall(r'session_seconds_bucket\{le="([^"]+)"\} (\d+)', text)
    assert buckets[:4] == [("0.01", "2"), ("0.1", "3"), ("0.5", "3"), ("1", "4")]
    assert buckets[-1] == ("+Inf", "5")


def test_prometheus_own_parser_takes_the_figures(receiver: FaultyReceiver, tmp_path: Path) -> None:
    python = os.environ.get("SHIMPROXY_PROMETHEUS") or missing("prometheus_client", ".ci/run installs it for itself")
    with running(tmp_path, with_admin(receiver)) as run:
        with Session(run.ports[0]) as session:
            session.sock.sendall(b"NOOP\n")  # a repair
            session.expect(b"250")
            session.say(b"QUIT", b"221")
        poll(lambda: figure(run, "repairs_total") == 1, "a repair counted")
        _, text = get(run, "/metrics")
    script = (
        "import json, sys\n"
        "from prometheus_client.parser import text_string_to_metric_families as parse\n"
        "print(json.dumps({each.name: [each.type, len(each.samples)] for each in parse(sys.stdin.read())}))\n"
    )
    ended = run_python(python, script, text)
    families = json.loads(ended)
    assert families["shimproxy_session_seconds"] == ["histogram", len(metrics.SECONDS) + 3]
    assert families["shimproxy_repairs"] == ["counter", 1]
    assert {name for name in families if not name.startswith("shimproxy_")} == {
        "process_cpu_seconds",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    }
    assert len(families) == len(metrics.FAMILIES)


def run_python(python: str, script: str, given: str) -> str:
    ended = run([python, "-W", "error", "-c", script], given=given.encode())
    assert ended.status == 0, ended.account
    return ended.said


# -- health


def test_health_tells_the_truth(receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, with_admin(receiver)) as run:
        assert get(run, "/healthz") == get(run, "/readyz") == get(run, "/readyz?receiver") == (200, "ok\n")
        with Session(run.ports[0]) as busy:
            busy.say(b"MAIL FROM:<a@b>", b"250")
            run.process.send_signal(signal.SIGTERM)
            poll(lambda: get(run, "/readyz") == (503, "draining\n"), "not ready")
            assert get(run, "/healthz") == (200, "ok\n")
            busy.say(b"RSET", b"250")
            busy.expect(b"421 ")
        assert run.process.wait(SECONDS) == 0


@pytest.mark.slow
def test_a_worker_that_stands_still_is_not_healthy(receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, with_admin(receiver)) as run:
        (worker,) = run.workers
        os.kill(worker, signal.SIGSTOP)
        poll(lambda: get(run, "/healthz") == (503, "no worker is ready\n"), "no health", SECONDS)
        poll(lambda: get(run, "/healthz") == (200, "ok\n"), "health, by another one in its place", SECONDS)
        assert worker not in run.workers


def test_readiness_may_ask_the_receiver(tmp_path: Path) -> None:
    with FaultyReceiver(Talk.accept) as receiver:
        text = with_admin(receiver)
        with running(tmp_path, text) as run:
            receiver.close()
            status, said = get(run, "/readyz?receiver")
            assert (status, said.startswith("the receiver 127.0.0.1:"), "cannot be reached" in said) == (
                503,
                True,
                True,
            )
            assert get(run, "/readyz") == (200, "ok\n")


def test_shimproxy_health(receiver: FaultyReceiver, tmp_path: Path) -> None:
    path = tmp_path / "admin"
    text = settings(receiver, f'admin = "unix:{path}"\n')

    def health(*arguments: str, **environment: str) -> tuple[int, str]:
        done = run_here("health", *arguments, **environment)
        return done.returncode, done.stdout + done.stderr

    with running(tmp_path, text) as run:
        assert health("--admin", f"unix:{path}", "--receiver") == (0, "ok\n")
        assert health("--config", str(run.file), "--ready") == (0, "ok\n")
        assert health(SHIMPROXY_ADMIN=f"unix:{path}") == (0, "ok\n")
    status, said = health("--admin", f"unix:{path}")
    assert (status, said.startswith(f"no answer from unix:{path}: ")) == (1, True)
    status, said = health()
    assert (status, said.startswith("shimproxy: admin: no address to ask")) == (2, True)
    status, said = health("--admin", "unix:admin")
    assert (status, said.startswith("shimproxy: 'unix:admin' has no absolute path")) == (2, True)


def test_a_socket_of_one_that_has_gone_is_replaced_and_that_of_another_is_not(
    receiver: FaultyReceiver, tmp_path: Path
) -> None:
    path = tmp_path / "admin"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
        done = subprocess.run(
            [sys.executable, "-m", "shimproxy", "run", "--listen", f"{HOST}:0", "--receiver", f"{HOST}:25", "--admin",
             f"unix:{path}"],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert "another program listens there; stop it or choose another path" in done.stderr
    with running(tmp_path, settings(receiver, f'admin = "unix:{path}"\n')):
        assert ask(f"unix:{path}", "/healthz") == (True, "ok")
    assert not path.exists()


def test_the_address_is_changed_by_a_reload(receiver: FaultyReceiver, tmp_path: Path) -> None:
    path = tmp_path / "admin"
    with running(tmp_path, settings(receiver)) as run:
        assert ", admin " not in run.ready
        run.reload(settings(receiver, f'admin = "unix:{path}"\n'))
        poll(lambda: ask(f"unix:{path}", "/healthz") == (True, "ok"), "an answer")
        run.reload(settings(receiver))
        poll(lambda: not path.exists(), "the end of the socket")


# -- HTTP


def test_only_what_is_there_is_answered(receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, with_admin(receiver)) as run:
        assert get(run, "/none") == (404, "not found: choose /, /metrics, /receivers, /healthz and /readyz\n")
        with admin(run) as connection:
            for method, status in (("HEAD", 200), ("POST", 501), ("GET", 200)):
                connection.request(method, "/healthz")
                response = connection.getresponse()
                assert response.status == status
                response.read()
                assert response.headers["Content-Security-Policy"]


def test_a_reload_changes_the_names_that_the_address_is_known_by(receiver: FaultyReceiver, tmp_path: Path) -> None:
    def statuses(run: Run) -> list[int]:
        return [get(run, "/healthz", Host=host)[0] for host in ("localhost", "shim.example:8025", "evil.example")]

    with running(tmp_path, with_admin(receiver)) as run:
        assert statuses(run) == [200, 421, 421]
        run.reload(with_admin(receiver, 'admin-name = ["shim.example"]\n'))
        poll(lambda: statuses(run) == [200, 200, 421], "the new name")


def test_clients_that_never_finish_a_request_leave_room_for_health(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """More of them than it waits for, all connected at once."""
    with running(tmp_path, with_admin(receiver)) as run, contextlib.ExitStack() as clients, admin(run) as connection:
        where = connection.host, connection.port
        for number in range(2 * MOST_AWAITED):
            client = clients.enter_context(socket.create_connection(where, SECONDS))
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" * (number % 2))
        assert ask(f"{HOST}:{connection.port}", "/healthz") == (True, "ok")


# -- the page


WITH_RECORD = repaired_session(everything())


def status(**changes: Any) -> Status:
    history = Totals(started_at=1767225600.0)
    made = record()
    made.first_repairs.append(Repair(Violation.EARLY_REPLY, "mail data", {"reply": HOSTILE, "octets_forwarded": 5}))
    made.receiver = '"><script>alert(2)</script>:25'
    made.ended_at = 1767225700.0
    history.repaired(repaired_session(made))
    sut = Metrics()
    sut.ended(made)
    figures = history.figures([sut.counted, {"sessions_open": 3}])
    given = Status(
        version="1.2.3",
        receiver="192.0.2.7:25",
        listening=[
            ServedListener(("127.0.0.1:2525",), ("192.0.2.7:25",), "opaque", "off", False, ("lf-only-devices",))
        ],
        started_at=history.started_at,
        serves=True,
        stopping=False,
        workers=2,
        figures=figures,
        hour=history.hour.grown,
        recent=[*history.recent],
        habits=history.habits(figures),
    )
    return attrs.evolve(given, **changes)


def test_what_a_peer_sent_is_text_on_the_page() -> None:
    text = page.rendered(status())
    assert Counter(re.findall(r"<script", text)) == {"<script": 1}
    assert "<img" not in text
    assert "\x1b" not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:,)""", text)


def test_the_page_says_what_is_so() -> None:
    text = page.rendered(status())
    for words in ("2 workers", "127.0.0.1:2525", "2026-01-01 00:00:00 UTC", "early-reply", "octets_forwarded: 5"):
        assert words in text
    assert "Nothing yet." in page.rendered(status(recent=[], habits={}))
    assert "stopping" in page.rendered(status(stopping=True))


def test_the_page_says_where_shimproxy_observes_and_what_was_seen() -> None:
    made = record()
    made.observed, made.seen = True, Counter({Violation.EARLY_REPLY: 2})
    made.first_repairs.append(Repair(Violation.EARLY_REPLY, "mail data", {"reply": HOSTILE}, observed=True))
    sut = Metrics()
    sut.ended(made)
    history = Totals()
    history.repaired(repaired_session(made))
    listener = ServedListener(("127.0.0.1:2525",), ("192.0.2.7:25",), "opaque", "off", True, ())
    text = page.rendered(
        status(listening=[listener], figures=sut.counted, recent=[*history.recent], habits=history.habits(sut.counted))
    )
    assert "<strong>OBSERVING</strong>" in text
    assert "passed on as it came (observed)" in text
    assert "<dt>violations seen</dt><dd>2</dd>" in text
    assert "early-reply (seen)" in text
    assert "OBSERVING" in listener.words
    assert "OBSERVING" not in page.rendered(status())


def test_the_page_shows_each_listener_with_its_receivers_and_flags(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """As the start does; a secret is not shown."""
    text = (
        f'admin = "{HOST}:0"\n'
        f'[[listener]]\nlisten = "{HOST}:0,lf-only-devices"\nreceiver = "{HOST}:{receiver.port}"\ntidy = true\n'
        'max-size = "<b>=1MiB"\nlogin = "me"\nlogin-secret = "hunter2"\nlogin-in-clear = true\n'
        f'[[listener]]\nlisten = "{HOST}:0"\nreceiver = "unix:/run/other"\n'
    )
    with running(tmp_path, text) as run:
        assert run.process.stdout
        lines = [run.process.stdout.readline() for _ in range(2)]
        shown = get(run, "/")[1]
    first, second = (f"{HOST}:{port}" for port in run.ports)
    own = "lf-only-devices, tidy=true, max-size=<b>=1MiB, login=me, login-secret, login-in-clear=true"
    assert lines == [
        f"  {first}: receiver {HOST}:{receiver.port}; TLS off with senders, off with receivers; {own}\n",
        f"  {second}: receiver unix:/run/other; TLS opaque with senders, off with receivers\n",
    ]
    for words in (
        first,
        second,
        f"{HOST}:{receiver.port}",
        "unix:/run/other",
        "lf-only-devices",
        "max-size=&lt;b&gt;=1",
    ):
        assert words in shown
    assert "hunter2" not in shown


def test_the_page_is_searched_for_an_address() -> None:
    """In all repaired sessions that are kept, of which the page shows the last ones."""
    history = Totals()
    for number in range(2 * MOST_KEPT):
        history.repaired(
            attrs.evolve(WITH_RECORD, id=f"a-{number}", sender=f"192.0.2.{number % 250}:1", record=WITH_RECORD.record)
        )
    assert len(history.recent) == MOST_KEPT
    assert [bool(each.record) for each in history.recent] == [True] * MOST_RECENT + [False] * (MOST_KEPT - MOST_RECENT)
    searched = status(recent=[*history.recent])
    assert page.rendered(searched).count("<details") == MOST_RECENT
    assert page.rendered(searched, "192.0.2.249:").count("<details") == 1
    found = page.rendered(searched, "198.51.100.1")
    assert ("<details" in found, f"0 of the last {MOST_KEPT}" in found) == (False, True)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("find=192.0.2.1", "192.0.2.1"),
        ("find=%5B2001%3Adb8%3A%3A1%5D%3A25", "[2001:db8::1]:25"),
        ("find=+a%40b.example+", "a@b.example"),
        ("x=1&find=a", "a"),
        ("find=%1b%5b31m%00%ff%0d%0a", "[31m\ufffd"),
        ("find=" + "x" * 10_000, "x" * 200),
        ("&" * 10_000, ""),
        ("find", ""),
        ("", ""),
    ],
    ids=lambda value: value[:30],
)
def test_what_is_searched_for_is_short_and_printable(query: str, found: str) -> None:
    assert page.searched(query) == found


def test_what_is_searched_for_is_text_on_the_page(receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, with_admin(receiver)) as run:
        code, shown = get(run, "/?find=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert (code, shown.count("<script")) == (200, 1)
    assert 'value="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"' in shown


# -- the last hour


def test_the_last_hour_has_a_number_for_each_minute() -> None:
    """What was there before it is in none of them; what happens after the hour has pushed it out."""
    sut = LastHour()
    sut.note({"sessions_total": 5}, 60 * 1000)
    sut.note({"sessions_total": 7, 'repairs_total{violation="a",receiver="b"}': 3, "repairs_totals": 9}, 60 * 1000 + 59)
    sut.note({"sessions_total": 8}, 60 * 1002)
    assert [*sut.grown["sessions"]][-3:] == [7, 0, 1]
    assert [*sut.grown["repairs"]][-3:] == [3, 0, 0]
    sut = LastHour.of_json(json.loads(json.dumps(sut.as_json())))
    sut.note({"sessions_total": 9}, 60 * 1061)
    assert (len(sut.grown["sessions"]), [*sut.grown["sessions"]][:1], sum(sut.grown["sessions"])) == (60, [1], 2)
    sut.note({"sessions_total": 9}, 60 * 5000)
    assert sum(sut.grown["sessions"]) == 0


def test_a_clock_that_is_set_and_figures_that_are_lost_leave_the_hour_in_order() -> None:
    sut = LastHour()
    for total, now in ((5, 6000), (7, 60), (3, 6000), (4, 6060)):
        sut.note({"drains_total": total}, now)
    assert [*sut.grown["drains"]][-2:] == [7, 1]
    assert LastHour.of_json([None, {"other": [[1], 1]}]).grown == LastHour().grown


def test_a_graph_says_in_words_what_it_shows() -> None:
    text = page.rendered(status(hour={"drains": [0] * 57 + [1, 0, 1234]}))
    assert 'aria-label="drains: 1,235 in the last hour, at most 1,234 a minute"' in text
    assert "<title>1,234 in this minute</title>" in text
    assert "<title>1 2 minutes ago</title>" in text
    assert "repairs: 0 in the last hour, at most 0 a minute" in page.rendered(status(hour={"repairs": [0] * 60}))


def test_only_what_a_receiver_does_is_a_habit_of_its() -> None:
    figures = {
        'repairs_total{violation="early-reply",receiver="a:25"}': 2.0,
        'repairs_total{violation="vanished-in-data",receiver="a:25"}': 5.0,
        'repairs_total{violation="no-close",receiver="a:25"}': 3.0,
    }
    (habits,) = Totals().habits(figures).values()
    assert [(habit.violation, habit.count) for habit in habits] == [("no-close", 3), ("early-reply", 2)]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [True, False], ids=["dark", "light"])
@pytest.mark.parametrize("width", [390, 1200])
def test_chromium_shows_the_page(dark: bool, width: int, receiver: FaultyReceiver, tmp_path: Path) -> None:
    """Without an error on its console, or a request to anybody else."""

    def refuses(talk: Talk) -> None:
        talk.first_part(10)
        talk.early(HOSTILE)
        talk.fin()
        talk.stop_reading()

    need("chromium")
    with FaultyReceiver(refuses) as hostile, running(tmp_path, with_admin(hostile)) as run:
        with Session(run.ports[0]) as session:
            for command, code in ((b"MAIL FROM:<a@b>", b"250"), (b"RCPT TO:<b@c>", b"250"), (b"DATA", b"354")):
                session.say(command, code)
            session.sock.sendall(b"a line of the mail\r\n")
            assert hostile.seen.early.wait(SECONDS)
            session.say(b".", b"552")
            session.say(b"QUIT", b"221")
        poll(lambda: "early-reply" in get(run, "/")[1], "a repair on the page")
        poll(lambda: "drains: 1 in the last hour" in get(run, "/")[1], "a drain on the page")
        found = re.search(r", admin (\S+)", run.ready)
        assert found
        shown = run_chromium(f"http://{found[1]}/", dark, width, tmp_path)
        searched = run_chromium(f"http://{found[1]}/?find={HOST}", dark, width, tmp_path)
    assert "Repaired sessions with <code>127.0.0.1</code>" in searched.said
    assert "CONSOLE" not in searched.account
    assert "&lt;script&gt;alert" in shown.said
    assert "<img" not in shown.said
    assert shown.said.count("<script") == 1
    assert "<svg" in shown.said
    assert "CONSOLE" not in shown.account


@pytest.mark.slow
def test_chromium_keeps_the_page_when_the_next_answer_is_none(tmp_path: Path) -> None:
    class Once(http.server.BaseHTTPRequestHandler):
        answered = False

        def do_GET(self) -> None:
            self.send_response(503 if Once.answered else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(b"no\n" if Once.answered else page.rendered(status()).encode())
            Once.answered = True

    need("chromium")
    with http.server.ThreadingHTTPServer((HOST, 0), Once) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            shown = run_chromium(f"http://{HOST}:{server.server_port}/", True, 390, tmp_path, virtual_seconds=8).said
        finally:
            server.shutdown()
    assert "Recent repairs" in shown
    assert '<p id="stale">' in shown


FRAME = """<!DOCTYPE html><body style="margin:0">
<iframe width="390" height="2000" src="/page" style="border:0"></iframe>
<script>onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  for (const each of page.querySelectorAll("details")) each.open = true;
  const wide = [...page.querySelectorAll("body *")].filter(each => !each.closest("svg")
    && each.getBoundingClientRect().right > 390.5 && !each.closest(".ladder")).map(each => each.tagName);
  document.title = `${page.documentElement.scrollWidth} ${wide.join(" ")}`;
};</script>"""
"""Chromium's own windows are never that narrow."""


@pytest.mark.slow
@pytest.mark.once
def test_nothing_is_wider_than_a_telephone(tmp_path: Path) -> None:
    """With long names, each session open, and figures of a busy hour."""
    long = "a-host-with-a-very-long-name." * 5 + "example:25"
    listening = [
        ServedListener((long, "[::1]:25"), (long,), "starttls", "opportunistic", False, (f"max-size={'x' * 190}",))
    ]
    recent = [attrs.evolve(WITH_RECORD, sender=long, receiver=long, id=f"a-{number}") for number in range(3)]
    hour = {name: [10**6 + number for number in range(60)] for name in ("sessions", "repairs", "drains")}
    habits = {long: [ViolationCount("unoffered-pipelining", 10**9, 1767225600.0, 1767225600.0)]}
    shown = page.rendered(status(listening=listening, recent=recent, hour=hour, habits=habits))

    class Framed(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((shown if self.path == "/page" else FRAME).encode())

    need("chromium")
    with http.server.ThreadingHTTPServer((HOST, 0), Framed) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            said = run_chromium(f"http://{HOST}:{server.server_port}/", True, 500, tmp_path, virtual_seconds=2).said
        finally:
            server.shutdown()
    found = re.search(r"<title>(\d+) (.*)</title>", said)
    assert found
    assert (int(found[1]) <= 390, found[2]) == (True, "")  # without a bar to scroll by


def run_chromium(url: str, dark: bool, width: int, folder: Path, virtual_seconds: int = 0) -> Ended:
    patience = (f"--virtual-time-budget={1000 * virtual_seconds}",) if virtual_seconds else ()
    return run(
        [
            *(need("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
            *(f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={width},1000"),
            *(f"--user-data-dir={folder / 'chromium'}", *patience, "--dump-dom", url),
        ],
        seconds=60,
    )
