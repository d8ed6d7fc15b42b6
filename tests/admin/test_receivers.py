"""Receivers are drained and made ready again: by `shimproxy receivers`, in all workers, and no session breaks."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

import pytest

from shimproxy.admin.receivers import receivers_of
from shimproxy.cli import main
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import Talk
from shimproxy.net.address import Address
from shimproxy.net.origin import NOBODY
from shimproxy.net.places import Places
from shimproxy.net.receiver_state import ReceiverStates
from shimproxy.net.receivers import Receivers
from tests.admin.test_admin import admin, figure, get
from tests.daemon.test_supervisor import Session, running
from tests.peers.processes import free_port, poll

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator
    from pathlib import Path

    from shimproxy.net.driver import Readiness
    from tests.daemon.test_supervisor import Run


def asked(where: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shimproxy", "receivers", *words, "--admin", where]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def changed(run: Run, method: str, path: str) -> http.client.HTTPResponse:
    with admin(run) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        return response


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Whatever is at an address: it answers a request with that, in HTTP."""
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"{HOST}:{listener.getsockname()[1]}"
        thread.join()


def test_a_drained_receiver_keeps_its_sessions_and_gets_no_new_ones(tmp_path: Path) -> None:
    """In both workers, also after a reload and an upgrade; then it gets them again."""
    with FaultyReceiver(Talk.accept) as first, FaultyReceiver(Talk.accept) as second:
        names = [f"{HOST}:{each.port}" for each in (first, second)]
        text = f'listen = "{HOST}:0"\nreceiver = {names}\nadmin = "{HOST}:{free_port()}"\nworkers = 2\n'
        with running(tmp_path, text) as run:
            where = run.ready.rpartition(", admin ")[2].strip()
            with Session(run.ports[0]) as old:
                old.mail()
                drained = asked(where, "drain", names[0])
                assert (drained.returncode, drained.stdout) == (0, f"{names[0]} gets no new sessions\n")
                for _ in range(4):
                    with Session(run.ports[0]) as new:
                        new.mail()
                old.mail()
                old.say(b"QUIT", b"221")
            assert (len(first.seen.mails), len(second.seen.mails)) == (2, 4)
            assert asked(where, "list").stdout == f"{names[0]}  draining, up\n{names[1]}  ready, up\n"
            assert f'receiver_draining{{receiver="{names[0]}"}} 1\n' in get(run, "/metrics")[1]
            run.reload(text)
            with Session(run.ports[0]) as new:
                new.mail()
            assert asked(where, "drain", names[1]).returncode == 0
            with Session(run.ports[0], b"421 "):
                pass
            run.process.send_signal(signal.SIGUSR2)
            run.logged("upgrading")
            run.logged(" start ", 3)
            with Session(run.ports[0], b"421 "):
                pass
            assert asked(where, "ready", names[0]).stdout == f"{names[0]} is ready\n"
            with Session(run.ports[0]) as new:
                new.mail()
        assert (len(first.seen.mails), len(second.seen.mails)) == (3, 5)
        assert [run.log.count(f" {event} receiver=") for event in ("receiver_drained", "receiver_ready")] == [2, 1]


def test_who_waits_for_a_receiver_that_is_drained_goes_to_the_next_one(tmp_path: Path) -> None:
    """At once; and that receiver is no worse for it, nor is it left alone once it is ready again."""
    with FaultyReceiver(Talk.accept) as first, FaultyReceiver(Talk.accept) as second:
        names = [f"{HOST}:{each.port}" for each in (first, second)]
        text = f'listen = "{HOST}:0"\nreceiver = {names}\nadmin = "{HOST}:0"\nworkers = 1\n'
        with running(tmp_path, f"{text}receiver-connections = 1\nreceiver-wait = 600\n") as run:
            where = run.ready.rpartition(", admin ")[2].strip()
            with Session(run.ports[0]) as old:
                with socket.create_connection((HOST, run.ports[0]), 30) as waiting:
                    poll(lambda: figure(run, "receiver_waiting") == 1, "a sender in the line")
                    assert asked(where, "drain", names[0]).returncode == 0
                    assert waiting.recv(4) == b"220 "
                assert asked(where, "list").stdout.splitlines()[0] == f"{names[0]}  draining, up"
                assert figure(run, "receiver_connect_failures_total") == 0
                old.mail()
                old.say(b"QUIT", b"221")
            asked(where, "ready", names[0])
            with Session(run.ports[0]) as new:
                new.mail()
    assert (len(first.seen.mails), len(second.seen.mails)) == (2, 0)


def test_what_is_no_receiver_is_refused_with_those_that_are(tmp_path: Path) -> None:
    """Whatever it is, and by whichever method."""
    with FaultyReceiver(Talk.accept) as receiver:
        name = f"{HOST}:{receiver.port}"
        with running(tmp_path, f'listen = "{HOST}:0"\nreceiver = "{name}"\nadmin = "{HOST}:0"\n') as run:
            where = run.ready.rpartition(", admin ")[2].strip()
            refused = asked(where, "drain", "x\n\x1b[31m")
            assert (refused.returncode, refused.stdout) == (1, "")
            assert refused.stderr.isprintable() is False  # its line end alone
            assert refused.stderr.rstrip("\n").isprintable()
            assert f"choose {name}" in refused.stderr
            assert changed(run, "PUT", "/receivers/" + "%00" * 1000).status == 404
            assert changed(run, "PUT", "/metrics").status == 501
            assert changed(run, "OPTIONS", f"/receivers/{name}").status == 501  # what a browser asks first
            assert changed(run, "POST", f"/receivers/{name}").status == 501
            assert '"draining": false' in get(run, "/receivers")[1]


@pytest.mark.once
@pytest.mark.parametrize("words", [("drain",), ("ready",), ("list", "x")])
def test_words_that_do_not_go_together_get_their_mend(words: tuple[str, ...]) -> None:
    refused = asked("127.0.0.1:1", *words)

    assert refused.returncode == 2
    assert "write list without a name, and drain or ready with one" in refused.stderr


@pytest.mark.once
def test_a_name_may_stand_after_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Python 3.11 takes such a word for one too many. Of two, the second is."""
    where = ["--admin", "127.0.0.1:1"]

    assert main(["receivers", "drain", *where, "192.0.2.7:25"]) == 1
    assert "no answer from 127.0.0.1:1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["receivers", "drain", *where, "192.0.2.7:25", "192.0.2.8:25"])
    assert "unrecognized arguments: 192.0.2.8:25" in capsys.readouterr().err


@pytest.mark.once
@pytest.mark.parametrize(
    "body",
    [
        b"ok\n",
        b"[1, 2]",
        b"[",
        b"7",
        b'[{"receiver": "x"}]',
        b'[{"receiver": 1, "draining": true, "up": true}]',
        b"[\\x",
    ],
)
def test_what_is_no_list_is_said_to_be_none(body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever listens at the address."""
    with answering(body) as where:
        assert main(["receivers", "list", "--admin", where]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (
        "",
        f"{where} has answered, but with no list of receivers; is this the --admin of shimproxy?\n",
    )


@pytest.mark.once
def test_a_thousand_receivers_are_listed_and_nothing_that_is_not_printable(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"mail-{number}.receiver.example:25" for number in range(1000)]
    listed = [{"receiver": name, "draining": False, "up": True} for name in [*names, "unix:/run/\x1b[31m\n"]]
    with answering(json.dumps(listed).encode()) as where:
        assert main(["receivers", "list", "--admin", where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name}  ready, up" for name in [*names, "unix:/run/\\x1b[31m\\n"]]


@pytest.mark.once
def test_a_list_that_is_too_long_is_not_shown_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(b"[" + b" " * (1 << 20) + b"]") as where:
        assert main(["receivers", "list", "--admin", where]) == 1
    assert capsys.readouterr().err == f"no answer from {where}: none within 1,048,576 octets\n"


def test_a_drained_receiver_is_in_no_new_route() -> None:
    states = ReceiverStates()
    places = [Places(Address("192.0.2.1", port)) for port in (1, 2, 3)]
    sut = Receivers(driver=cast("Readiness", None), places=places, states=states)
    states.drained = frozenset({"192.0.2.1:2"})

    assert [each.name for each in sut.in_order(NOBODY)] == ["192.0.2.1:1", "192.0.2.1:3"]


def test_a_path_that_is_no_text_is_a_receiver_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In /metrics, on the page and for the command: of such octets a stand-in is shown."""
    path = f"{tmp_path}/\udcff"
    command = [sys.executable, "-m", "shimproxy", "run", "--listen", f"{HOST}:0", "--admin", f"{HOST}:0"]
    run = subprocess.Popen([*command, "--receiver", f"unix:{path}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert run.stdout
        where = run.stdout.readline().rpartition(b", admin ")[2].strip().decode()
        for page in ("/", "/metrics"):
            with urllib.request.urlopen(f"http://{where}{page}", timeout=30) as answer:
                assert f"{tmp_path}/?" in answer.read().decode()
        assert main(["receivers", "drain", f"unix:{path}", "--admin", where]) == 0
        assert main(["receivers", "list", "--admin", where]) == 0
        assert capsys.readouterr().out.splitlines()[1:] == [f"unix:{tmp_path}/\\xff  draining, not dialled yet"]
    finally:
        run.terminate()
        run.communicate()


def test_names_come_back_as_they_were() -> None:
    figures = {'receiver_draining{receiver="unix:/run/\\"x\\\\"}': 1.0}

    assert receivers_of(figures) == [{"receiver": 'unix:/run/"x\\', "draining": True, "up": None}]
