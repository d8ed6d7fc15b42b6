"""What systemd hands to `shimproxy run`, and what it is told; and the units that docs/install.md has.

No systemd runs here: the tests pass sockets and hear notifications as it would, and its own programs for that are used.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import attrs
import pytest

from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import SECONDS, Talk
from tests.blocks import blocks
from tests.daemon.test_supervisor import Run, Session, attended
from tests.peers.here import run_here
from tests.peers.processes import free_port, need, poll

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

pytestmark = pytest.mark.once  # about systemd and the kernel; test_supervisor.py has no such mark
BLOCKS: Final = blocks("install", "unit-*")
TPROXY_SOCKET: Final = blocks("gateway", "socket-tproxy")["socket-tproxy"]
PASS: Final = """
import os, sys
pid, names, *descriptors = sys.argv[1:sys.argv.index("--")]
descriptors = [os.dup(int(each)) for each in descriptors]  # out of the way of those that are to be
for index, descriptor in enumerate(descriptors):
    while descriptor < 3 + len(descriptors):
        descriptor = os.dup(descriptor)
    os.dup2(descriptor, 3 + index)
os.environ["LISTEN_PID"] = pid or str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(descriptors))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execv(sys.executable, [sys.executable, "-m", "shimproxy", *sys.argv[sys.argv.index("--") + 1:]])
"""
"""PID NAMES DESCRIPTOR... -- ARGUMENTS: executes shimproxy with these descriptors, from 3 on, as systemd does."""


def command(names: str, sockets: Sequence[socket.socket], *arguments: str, pid: str = "") -> list[str]:
    """To be started with the sockets' descriptors as `pass_fds`."""
    descriptors = [str(sock.fileno()) for sock in sockets]
    return [sys.executable, "-c", PASS, pid, names, *descriptors, "--", *arguments]


@contextlib.contextmanager
def running(
    folder: Path,
    text: str,
    names: str = "",
    sockets: Sequence[socket.socket] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """A `shimproxy run` with its settings in a file, that is passed these sockets, if there are any."""
    file, log_file = folder / "shimproxy.toml", folder / "log"
    file.write_text(text)
    arguments = ["run", "--config", str(file)]
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command(names, sockets, *arguments) if sockets else [sys.executable, "-m", "shimproxy", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=os.environ | (environment or {}),
            pass_fds=[sock.fileno() for sock in sockets],
        )
    with attended(Run(file, log_file, process)) as run:
        yield run


def unusable(names: str, sockets: Sequence[socket.socket], *arguments: str, pid: str = "") -> str:
    """Why it does not run."""
    done = subprocess.run(
        command(names, sockets, *arguments, pid=pid),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        pass_fds=[sock.fileno() for sock in sockets],
    )
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def receiver() -> Iterator[FaultyReceiver]:
    with FaultyReceiver(Talk.accept) as running:
        yield running


@pytest.fixture
def two() -> Iterator[list[socket.socket]]:
    """Two listening sockets."""
    with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as other:
        yield [one, other]


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def settings(receiver: FaultyReceiver, listen: str, more: str = "") -> str:
    return f'{listen}\nreceiver = "{HOST}:{receiver.port}"\n{more}'


def environment_of(pid: int) -> set[str]:
    """The names of the variables that a process was started with."""
    with open(f"/proc/{pid}/environ") as file:
        return {each.partition("=")[0] for each in file.read().split("\0")}


# -- sockets


def test_sockets_have_names_and_each_name_its_settings(
    receiver: FaultyReceiver, two: list[socket.socket], tmp_path: Path
) -> None:
    text = settings(receiver, 'listen = ["systemd:devices,lf-only-devices", "systemd:smtp"]')
    with running(tmp_path, text, "smtp:devices", two) as run:
        assert run.ports == [port_of(two[1]), port_of(two[0])]
        with Session(port_of(two[0])) as session:
            session.mail()
        with Session(port_of(two[1])) as device:
            device.say(b"MAIL FROM:<a@b>\nRCPT TO:<b@c>\nDATA", b"250")
            device.expect(b"250")
            device.expect(b"354")
            device.sock.sendall(b"text\n.\n")
            device.expect(b"250")
        assert not {each for each in environment_of(run.workers[0]) if each.startswith("LISTEN_")}


@pytest.mark.parametrize("names", ["", "a:b", "same:same"])
@pytest.mark.parametrize("listen", ["", 'listen = "systemd"'])
def test_without_names_all_are_listened_on(
    listen: str, names: str, receiver: FaultyReceiver, two: list[socket.socket], tmp_path: Path
) -> None:
    """Also where nothing says where to listen."""
    with running(tmp_path, settings(receiver, listen), names, two) as run:
        assert run.ports == [port_of(each) for each in two]
        for port in run.ports:
            with Session(port) as session:
                session.mail()


def test_what_is_said_goes_before_what_is_passed(
    receiver: FaultyReceiver, two: list[socket.socket], tmp_path: Path
) -> None:
    text = settings(receiver, 'listen = ["127.0.0.1:0", "systemd:a", "systemd:b"]')
    with running(tmp_path, text, "a:b", two) as run:
        assert len(run.ports) == 3


def test_they_outlive_every_change(receiver: FaultyReceiver, two: list[socket.socket], tmp_path: Path) -> None:
    """A reload may name them otherwise; an upgrade finds them, too; a stop leaves them to systemd."""
    by_name = settings(receiver, 'listen = ["systemd:a", "systemd:b"]')
    with running(tmp_path, settings(receiver, ""), "a:b", two) as run:
        for text in (by_name, None, settings(receiver, 'listen = "systemd"'), settings(receiver, "")):
            run.reload(text)
            for sock in two:
                with Session(port_of(sock)) as session:
                    session.mail()
            run.upgrade()
            for sock in two:
                with Session(port_of(sock)) as session:
                    session.mail()
    assert run.process.returncode == 0
    with socket.create_connection(two[0].getsockname()[:2], SECONDS):
        two[0].accept()[0].close()


def test_a_change_that_forgets_a_socket_is_not_made(
    receiver: FaultyReceiver, two: list[socket.socket], tmp_path: Path
) -> None:
    forgets = settings(receiver, 'listen = "systemd:a"')
    with running(tmp_path, settings(receiver, 'listen = "systemd"'), "a:b", two) as run:
        run.reload(forgets, "no reload: nothing has changed")
        run.upgrade("no upgrade: nothing has changed")
        assert run.log.count("a socket called 'b', but no listener uses it") == 2
        for sock in two:
            with Session(port_of(sock)) as session:
                session.mail()


def test_a_socket_in_the_file_system_stays_where_it_is(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """It is systemd's own: neither a reload nor a stop removes it."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server((HOST, 0)) as tcp:
        unix.bind(str(path))
        unix.listen()
        both = settings(receiver, "", "grace = 0\n")
        with running(tmp_path, both, "unix:tcp", [unix, tcp]) as run:
            run.reload(settings(receiver, 'listen = ["systemd:unix", "systemd:tcp"]'))
            assert path.exists()
            with socket.socket(socket.AF_UNIX) as sender, sender.makefile("rb") as file:
                sender.settimeout(SECONDS)
                sender.connect(str(path))
                assert file.readline().startswith(b"220 ")
        assert path.exists()


def test_a_socket_for_both_families_that_is_the_receiver_is_found_out() -> None:
    """systemd's are for both unless told otherwise."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        problem = unusable("", [sock], "run", "--receiver", f"127.0.0.1:{port_of(sock)}")
    assert "is an address where this shimproxy listens" in problem


@pytest.mark.parametrize("verb", ["run", "check"])
@pytest.mark.parametrize(
    ("names", "listen", "problem"),
    [
        ("a:b", ["systemd:a"], "a socket called 'b', but no listener uses it"),
        ("a:b", [f"{HOST}:0"], "a socket called 'a', but no listener uses it"),
        ("", [f"{HOST}:0"], "a socket called 'unknown', but no listener uses it"),
        ("a:b", ["systemd:a", "systemd:b", "systemd:c"], "systemd has passed 'a', 'b'; the names are those of"),
        ("a:b", ["systemd", "systemd:b"], "2 listeners share the socket called 'b'"),
        ("a:a", ["systemd:a", "systemd:a,least-tls=1.0"], "2 listeners share the socket called 'a'"),
    ],
)
def test_names_that_do_not_fit_are_told(
    verb: str, names: str, listen: list[str], problem: str, two: list[socket.socket]
) -> None:
    flags = [f"--listen={each}" for each in listen]
    assert problem in unusable(names, two, verb, "--receiver", "127.0.0.1:25", *flags)


def test_sockets_for_another_process_are_left_alone(two: list[socket.socket]) -> None:
    """LISTEN_PID says whom they are for."""
    problem = unusable("a:b", two, "run", "--receiver", "127.0.0.1:25", "--listen", "systemd", pid="1")
    assert "passed its sockets to process 1, and this is" in problem
    assert "listen: say where senders connect" in unusable("a:b", two, "run", "--receiver", "127.0.0.1:25", pid="1")


def test_without_any_it_says_so() -> None:
    problem = unusable("", [], "run", "--receiver", "127.0.0.1:25", "--listen", "systemd:smtp")
    assert problem.startswith("shimproxy: cannot listen on systemd:smtp: systemd has passed none; ")


def unbound() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def datagram() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def sequenced() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind("")
    sock.listen()
    return sock


def routing() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)


def connected() -> socket.socket:
    with socket.create_server((HOST, 0)) as listener:
        return socket.create_connection(listener.getsockname()[:2], SECONDS)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (unbound, "descriptor 3: it is a connection and does not listen; remove Accept=yes from"),
        (connected, "descriptor 3: it is a connection and does not listen; remove Accept=yes from"),
        (datagram, "descriptor 3: it is not a stream socket; use ListenStream="),
        (sequenced, "descriptor 3: it is not a stream socket; use ListenStream="),
        (routing, "descriptor 3: it is neither a TCP socket nor in the file system"),
    ],
)
def test_what_senders_cannot_connect_to_is_told(make: type, problem: str) -> None:
    with make() as sock:
        assert problem in unusable("a", [sock], "run", "--receiver", "127.0.0.1:25")


def by_shell(*arguments: str) -> list[str]:
    """With the right LISTEN_PID, and whatever else the environment has."""
    return ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', sys.executable, "-m", "shimproxy", *arguments]


def test_what_is_no_socket_or_not_open_is_told(tmp_path: Path) -> None:
    receiver = ["--receiver", "127.0.0.1:25"]
    with open(os.devnull) as file:
        problem = unusable("a", [file], "run", *receiver)  # type: ignore[list-item]
    assert "cannot listen on systemd:a, descriptor 3: it is not a socket" in problem
    done = subprocess.run(
        by_shell("run", *receiver),
        env=os.environ | {"LISTEN_FDS": "99999999999"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot listen on systemd:unknown, descriptor 3: it is no" in done.stderr


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "9" * 5000])
def test_a_count_that_is_none_passes_nothing(count: str) -> None:
    done = subprocess.run(
        by_shell("check", "--receiver=127.0.0.1:25", "--listen=systemd"),
        env=os.environ | {"LISTEN_FDS": count},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert "shimproxy: --listen: systemd: not checked" in done.stderr


def test_tproxy_on_a_socket_in_the_file_system_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        problem = unusable("a", [sock], "run", "--receiver", "127.0.0.1:25", "--listen", "systemd:a,tproxy")
    assert "cannot listen on systemd:a,tproxy: TPROXY works only with TCP; remove ',tproxy'" in problem


def test_a_check_by_hand_has_no_sockets_and_says_so() -> None:
    done = run_here("check", "--receiver=127.0.0.1:25", "--listen=systemd:a,lf-only-devices")
    assert done.returncode == 0
    told, warning = done.stderr.splitlines()
    assert told == "shimproxy: --listen: systemd:a: not checked, because systemd passes sockets only to the service"
    assert warning.startswith("shimproxy: warning: --listen: systemd:a,lf-only-devices: any sender can hide a mail")


def test_systemd_socket_activate_starts_it(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """At the first connection, which is served like all others."""
    ports = [free_port(), free_port(), free_port()]
    where = [f"--listen={HOST}:{ports[0]}", f"--listen=[::1]:{ports[1]}", f"--listen={HOST}:{ports[2]}"]
    log_file = tmp_path / "log"
    with log_file.open("w") as log:
        process = subprocess.Popen(
            [need("systemd-socket-activate"), *where, "--fdname=smtp:smtp:devices"]
            + [f"--setenv={name}={value}" for name, value in os.environ.items() if name != "LISTEN_PID"]
            + [sys.executable, "-m", "shimproxy", "run", "--receiver", f"{HOST}:{receiver.port}"]
            + ["--listen=systemd:smtp", "--listen=systemd:devices,lf-only-devices"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    run = Run(log_file, log_file, process)
    run.logged("Listening on", 3)
    first = socket.create_connection((HOST, ports[0]), SECONDS)
    with attended(run):
        assert run.ports == ports
        with first, first.makefile("rb") as file:
            assert file.readline().startswith(b"220 ")
        with Session(ports[2]) as device:
            device.mail()
        with socket.create_connection(("::1", ports[1]), SECONDS) as six, six.makefile("rb") as file:
            assert file.readline().startswith(b"220 ")
        run.upgrade()
        with Session(ports[0]) as session:
            session.mail()
    assert run.process.returncode == 0


# -- notifications


@attrs.define(eq=False)
class Notified:
    """A socket that hears what systemd would be told, in its order."""

    sock: socket.socket

    def next(self, *but: str) -> dict[str, str]:
        """The next notification that is none of those."""
        while True:
            fields = dict(line.split("=", 1) for line in self.sock.recv(65_536).decode().split("\n"))
            if not fields.keys() & set(but):
                return fields

    @property
    def is_silent(self) -> bool:
        return not select.select([self.sock], [], [], 0)[0]

    def await_silence(self) -> None:
        """Wait until nothing was told for longer than the watchdog would wait; what was under way comes first."""
        last = time.monotonic() + SECONDS
        while select.select([self.sock], [], [], 0.6)[0]:
            assert time.monotonic() < last
            self.next()


@pytest.fixture(params=["path", "abstract"])
def notified(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Notified, dict[str, str]]]:
    """With the environment that leads there."""
    name = f"{tmp_path}/notify" if request.param == "path" else f"@shimproxy-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.settimeout(SECONDS)
        yield Notified(sock), {"NOTIFY_SOCKET": name}


def test_systemd_is_told_what_goes_on(
    notified: tuple[Notified, dict[str, str]], receiver: FaultyReceiver, tmp_path: Path
) -> None:
    """READY=1 stands behind every change, whatever became of it; a STATUS says what that is."""
    heard, environment = notified
    text = settings(receiver, f'listen = "{HOST}:0"')
    with running(tmp_path, text, environment=environment) as run:
        state = f"listening on {HOST}:{run.ports[0]}, receiver {HOST}:{receiver.port}"
        assert heard.next() == {"READY": "1", "STATUS": state}
        assert "NOTIFY_SOCKET" not in environment_of(run.workers[0])

        def changed() -> str:
            reloading = heard.next()
            assert reloading["RELOADING"] == "1"
            ready = heard.next()
            assert ready["READY"] == "1"
            assert since < int(reloading["MONOTONIC_USEC"]) < now_usec()
            return ready["STATUS"]

        since = now_usec()
        run.reload()
        assert changed() == state
        run.reload("listen = 5", "no reload")
        assert changed().startswith(f"{state}; no reload: nothing has changed: ")
        run.upgrade("no upgrade")
        assert changed().startswith(f"{state}; no upgrade: nothing has changed: ")
        run.file.write_text(text)
        run.upgrade()
        assert changed() == state
        with socket.create_server((HOST, 0)) as taken:
            run.file.write_text(f"{text}admin = '{HOST}:{port_of(taken)}'\n")
            run.upgrade()
        assert changed().startswith(f"{state}; not upgraded: the old workers continue: ")
        run.reload(text)
        assert changed() == state
        assert "NOTIFY_SOCKET" not in environment_of(run.workers[-1])
        run.process.send_signal(signal.SIGTERM)
        assert heard.next()["STOPPING"] == "1"
        assert run.process.wait(SECONDS) == 0
    assert heard.is_silent


def now_usec() -> int:
    """As CLOCK_MONOTONIC has it."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_stop_in_the_midst_of_a_reload_is_the_last_word(
    notified: tuple[Notified, dict[str, str]], receiver: FaultyReceiver, tmp_path: Path
) -> None:
    heard, environment = notified
    with running(tmp_path, settings(receiver, f'listen = "{HOST}:0"'), environment=environment) as run:
        assert "READY" in heard.next()
        run.process.send_signal(signal.SIGHUP)
        assert "RELOADING" in heard.next()
        run.process.send_signal(signal.SIGTERM)
        said = heard.next()
        if "READY" in said:  # the reload was the faster
            said = heard.next()
        assert "STOPPING" in said
        assert run.process.wait(SECONDS) == 0
    assert heard.is_silent


def test_the_watchdog_hears_only_of_workers_that_answer(
    notified: tuple[Notified, dict[str, str]], receiver: FaultyReceiver, tmp_path: Path
) -> None:
    """Without an admin address too; the program after an upgrade goes on with it."""
    heard, environment = notified
    environment["WATCHDOG_USEC"] = "300000"
    text = settings(receiver, f'listen = "{HOST}:0"', "grace = 0\n[deadline]\nlinger-idle = 0.1\n")
    with running(tmp_path, text, environment=environment) as run:
        for _ in range(2):
            (worker,) = run.workers
            assert heard.next("READY", "RELOADING") == {"WATCHDOG": "1"}
            for mend in (signal.SIGCONT, signal.SIGKILL):  # the latter has another worker start
                os.kill(worker, signal.SIGSTOP)
                heard.await_silence()
                os.kill(worker, mend)
                assert heard.next() == {"WATCHDOG": "1"}
            run.upgrade()
            poll(lambda: len(run.workers) == 1, "the old worker's end")
        assert "WATCHDOG_USEC" not in environment_of(run.workers[0])


@pytest.mark.parametrize(
    "watch", [{"WATCHDOG_PID": "1", "WATCHDOG_USEC": "1000"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {}]
)
def test_a_watchdog_that_is_not_for_it_hears_nothing(
    watch: dict[str, str], notified: tuple[Notified, dict[str, str]], receiver: FaultyReceiver, tmp_path: Path
) -> None:
    heard, environment = notified
    with running(tmp_path, settings(receiver, f'listen = "{HOST}:0"'), environment=environment | watch) as run:
        assert "READY" in heard.next()
        for _ in range(2):
            run.reload()
            assert "RELOADING" in heard.next()
            assert "READY" in heard.next()


@pytest.mark.parametrize("where", ["/no/such/socket", "@shimproxy-nobody", "nonsense", "vsock:2:1", "/" + "x" * 200])
def test_nobody_who_listens_is_nobodys_trouble(where: str, receiver: FaultyReceiver, tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "200000"}
    with running(tmp_path, settings(receiver, f'listen = "{HOST}:0"'), environment=environment) as run:
        run.reload()
        with Session(run.ports[0]) as session:
            session.mail()


# -- the units that the page has


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with them, and a program where they look for shimproxy."""
    folder = tmp_path_factory.mktemp("units")
    for text in BLOCKS.values():
        if (name := text.partition("\n")[0].removeprefix("# ")).startswith("shimproxy"):
            (folder / name).write_text(text.replace("/usr/local/bin/shimproxy", sys.executable))
    assert len([*folder.iterdir()]) == 3
    return folder


@pytest.mark.parametrize("socket_for_tproxy", [False, True])
def test_systemd_finds_nothing_wrong_with_the_units(units: Path, tmp_path: Path, socket_for_tproxy: bool) -> None:
    for unit in units.glob("*.s*"):
        (tmp_path / unit.name).write_text(unit.read_text())
    if socket_for_tproxy:
        (tmp_path / "shimproxy.socket").write_text(TPROXY_SOCKET)
    done = subprocess.run(
        [need("systemd-analyze"), "verify", *tmp_path.iterdir()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_is_exposed_as_little_as_it_can_be(units: Path) -> None:
    """An exposure below 2.0; with what a gateway needs, too."""
    service = units / "shimproxy.service"
    (units / "gateway").mkdir()
    other = units / "gateway" / "shimproxy.service"
    other.write_text(service.read_text() + BLOCKS["unit-gateway"])
    for each in (service, other):
        done = subprocess.run(
            [need("systemd-analyze"), "security", "--offline=true", "--threshold=19", each],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_the_names_of_the_sockets_are_those_of_the_settings(units: Path) -> None:
    listen = re.search(r'^listen = \[("systemd.*)\]$', BLOCKS["unit-settings"], re.MULTILINE)
    assert listen
    used = set(re.findall(r'"systemd:(\w+)', listen[1]))
    assert used == {
        name
        for unit in units.glob("*.socket")
        for name in re.findall(r"^FileDescriptorName=(\w+)$", unit.read_text(), re.MULTILINE)
    }
