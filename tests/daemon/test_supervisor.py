"""Workers, as an operator has them: reload, upgrade, crash and stop, with mail going on.

Nothing here waits for time: every step follows from what was heard, logged or counted before it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs
import pytest

import shimproxy
from shimproxy.admin import health
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import SECONDS, Talk
from tests.peers.processes import need, need_root, poll
from tests.peers.tls import make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@attrs.define(eq=False)
class Run:
    """A `shimproxy run` with its settings in a file."""

    file: Path
    log_file: Path
    process: subprocess.Popen[str]
    ports: list[int] = attrs.field(factory=list)
    wrapped: bool = False
    """Whether it is the child of another program."""
    ready: str = ""
    """What it said when it was ready."""
    _log: str = ""
    _log_octets: int = 0

    @property
    def log(self) -> str:
        """Its whole lines so far. It grows to megabytes and is asked for again and again: each line is read once."""
        with self.log_file.open("rb") as file:
            file.seek(self._log_octets)
            more = file.read()
        more = more[: more.rfind(b"\n") + 1]
        self._log_octets += len(more)
        self._log += more.decode(errors="backslashreplace")
        return self._log

    def forget_log(self) -> None:
        """Its process has ended, and what it has logged was to be expected."""
        self._log, self._log_octets = "", self.log_file.stat().st_size

    @property
    def workers(self) -> list[int]:
        return children_of(self.pid)

    @property
    def pid(self) -> int:
        """The supervisor's, as seen from here."""
        return children_of(self.process.pid)[0] if self.wrapped else self.process.pid

    def logged(self, words: str, times: int = 1) -> None:
        """Wait until that was logged so often."""
        counted = looked_at = 0

        def is_logged() -> bool:
            nonlocal counted, looked_at
            log = self.log  # of whole lines, and the words stand in one
            counted += log.count(words, looked_at)
            looked_at = len(log)
            return counted >= times

        poll(is_logged, f"{words!r} logged")

    def reload(self, text: str | None = None, words: str = " reloaded ") -> None:
        """Change the file, and wait until it was read anew, or the `words` are logged."""
        times = self.log.count(words) + 1
        if text is not None:
            self.file.write_text(text)
        os.kill(self.pid, signal.SIGHUP)
        self.logged(words, times)

    def upgrade(self, words: str = "INFO upgrading") -> None:
        os.kill(self.pid, signal.SIGUSR2)
        self.logged(words)
        if words == "INFO upgrading":
            self.await_ready()

    def await_ready(self) -> None:
        assert self.process.stdout
        while (line := self.process.stdout.readline()).startswith("  "):
            pass  # each listener, as the program before an upgrade showed it
        assert line.startswith("shimproxy ready: listening on "), (line, self.log)
        self.ready = line
        addresses = line.partition(" on ")[2].partition(", receiver ")[0]
        tcp = (address for address in addresses.split(", ") if not address.startswith("unix:"))
        self.ports[:] = [int(address.rpartition(":")[2]) for address in tcp]


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [int(each) for each in children.read().split()]


def kill_all_of(supervisor: int) -> None:
    """It and its workers, with no time for anybody to say a last word; all their sockets are closed then."""
    os.kill(supervisor, signal.SIGSTOP)  # else it replaces its workers; were it killed first, they would have time
    with contextlib.ExitStack() as stack:
        for pid in (*children_of(supervisor), supervisor):
            end = os.pidfd_open(pid)
            stack.callback(os.close, end)
            signal.pidfd_send_signal(end, signal.SIGKILL)
            assert select.select([end], [], [], SECONDS)[0]


@contextlib.contextmanager
def running(
    folder: Path, text: str, *arguments: str, code: Path | None = None, wrapper: Sequence[str] = ()
) -> Iterator[Run]:
    """With the `code` of a folder, if one is given; as a child of the `wrapper`, if there is one."""
    file, log_file = folder / "shimproxy.toml", folder / "log"
    file.write_text(text)
    command = [*wrapper, sys.executable, "-m", "shimproxy", "run", "--config", str(file), *arguments]
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True, cwd=code
        )
    with attended(Run(file, log_file, process, wrapped=bool(wrapper))) as run:
        yield run


@contextlib.contextmanager
def attended(run: Run) -> Iterator[Run]:
    """From when it is ready to its end."""
    process = run.process
    try:
        run.await_ready()
        yield run
    finally:
        with contextlib.suppress(OSError, IndexError):  # it has ended
            if process.poll() is None:
                os.kill(run.pid, signal.SIGTERM)
                os.kill(run.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS)
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    assert "Traceback" not in run.log, run.log


class Session:
    """A sender's session by hand."""

    def __init__(self, port: int, greeting: bytes = b"220") -> None:
        self.sock = socket.create_connection((HOST, port), SECONDS)
        self.file = self.sock.makefile("rb")
        try:
            self.expect(greeting)
        except BaseException:
            self.__exit__()
            raise

    def expect(self, code: bytes) -> bytes:
        reply = self.file.readline()
        while reply[3:4] == b"-":
            reply = self.file.readline()
        assert reply.startswith(code), reply
        return reply

    def say(self, line: bytes, code: bytes) -> bytes:
        self.sock.sendall(line + b"\r\n")
        return self.expect(code)

    def mail(self, text: bytes = b"text") -> None:
        for command, code in (
            (b"MAIL FROM:<a@b>", b"250"),
            (b"RCPT TO:<b@c>", b"250"),
            (b"DATA", b"354"),
            (text + b"\r\n.", b"250"),
        ):
            self.say(command, code)

    def finish(self) -> None:
        """Go on behind MAIL, and leave when the mail is accepted and the session over."""
        for command, code in ((b"RCPT TO:<a@b>", b"250"), (b"DATA", b"354"), (b"text\r\n.", b"250")):
            self.say(command, code)
        self.expect(b"421 ")
        self.__exit__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()


@pytest.fixture
def receiver() -> Iterator[FaultyReceiver]:
    with FaultyReceiver(Talk.accept) as running:
        yield running


def settings(receiver: FaultyReceiver, more: str = "") -> str:
    return f'listen = "{HOST}:0"\nreceiver = "{HOST}:{receiver.port}"\n{more}'


# -- reload


def test_a_reload_is_for_new_sessions_and_breaks_no_old_one(receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, settings(receiver)) as run:
        with Session(run.ports[0]) as old:
            assert b"SIZE 0" in offered(old)
            run.reload(settings(receiver, "max-size = '1MiB'\n"))
            poll(lambda: b"SIZE 1048576" in offered_at(run.ports[0]), "the new limit")
            with Session(run.ports[0]) as new:
                new.mail()
            assert b"SIZE 0" in offered(old)
            old.mail()
            assert len(run.workers) == 2
            old.say(b"QUIT", b"221")
        poll(lambda: len(run.workers) == 1, "the old worker's end")


def offered_at(port: int) -> bytes:
    with Session(port) as session:
        return offered(session)


def offered(session: Session) -> bytes:
    session.sock.sendall(b"EHLO x\r\n")
    lines = [session.file.readline()]
    while lines[-1][3:4] == b"-":
        lines.append(session.file.readline())
    return b"".join(lines)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("recever = 1\n", "did you mean receiver?"),
        ("cert = '/no/cert.pem'\nreceiver-tls = 'required'\n", "/no/cert.pem: No such file"),
        ("receiver = ", "not TOML"),
        ("x = " + "[" * 5000 + "\n", "not TOML"),
        ("sessions = " + "9" * 5000 + "\n", "not TOML"),
        ("cert = 'a\\u0000b'\n".replace("'", '"'), "it contains a NUL; remove that"),
        (f"listen = ['{HOST}:0', '192.0.2.1:0']\n", "this machine has no such address"),
    ],
)
def test_a_bad_file_changes_nothing_and_says_so(
    bad: str, problem: str, receiver: FaultyReceiver, tmp_path: Path
) -> None:
    with running(tmp_path, settings(receiver)) as run:
        before = run.workers
        with Session(run.ports[0]) as old:
            given = settings(receiver)
            text = bad if bad.startswith(("receiver", "listen")) else given + bad
            text = text if "receiver" in text or bad.startswith("receiver") else text + given.splitlines()[1]
            run.reload(text, "no reload: nothing has changed")
            assert problem in run.log
            old.mail()
        with Session(run.ports[0]) as new:
            new.mail()
        assert run.workers == before


def test_addresses_come_and_go(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """A connection to one that stays waits for no reload, nor is it refused."""
    with running(tmp_path, settings(receiver)) as run:
        first = run.ports[0]
        with socket.create_server((HOST, 0)) as free:
            second = free.getsockname()[1]
        both = settings(receiver).replace(f'"{HOST}:0"', f'["{HOST}:0", "{HOST}:{second}"]')
        run.reload(both)
        for port in (first, second):
            with Session(port) as session:
                session.mail()
        run.reload(settings(receiver).replace(f"{HOST}:0", f"{HOST}:{second}"))
        with Session(second) as session:
            session.mail()
        poll(lambda: len(run.workers) == 1, "the old workers' end")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, first), SECONDS)


def test_an_address_that_was_taken_out_can_be_put_back_at_once(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """Although workers that retire have listened there until just now."""
    with socket.create_server((HOST, 0)) as free:
        second = free.getsockname()[1]
    one = settings(receiver)
    both = one.replace(f'"{HOST}:0"', f'["{HOST}:0", "{HOST}:{second}"]')
    with running(tmp_path, both) as run:
        for _ in range(5):
            old = run.workers[-1]
            os.kill(old, signal.SIGSTOP)
            run.reload(one)
            run.file.write_text(both)
            times = run.log.count(" reloaded ") + 1
            run.process.send_signal(signal.SIGHUP)
            os.kill(old, signal.SIGCONT)
            run.logged(" reloaded ", times)
            with Session(second) as session:
                session.mail()
        assert "no reload" not in run.log


@pytest.mark.parametrize("where", ["HOST", "unix"])
def test_an_admin_address_that_was_taken_out_can_be_put_back_at_once(
    where: str, receiver: FaultyReceiver, tmp_path: Path
) -> None:
    with socket.create_server((HOST, 0)) as free:
        address = f"{HOST}:{free.getsockname()[1]}" if where == "HOST" else f"unix:{tmp_path}/admin"
    with_admin = settings(receiver, f'admin = "{address}"\n')
    with running(tmp_path, with_admin) as run:
        for _ in range(5):
            run.reload(settings(receiver))
            run.reload(with_admin)
            assert health.ask(address, "/healthz") == (True, "ok")
        assert "no reload" not in run.log


def test_a_certificate_is_read_anew(receiver: FaultyReceiver, tmp_path: Path) -> None:
    def shown(port: int) -> str:
        with Session(port) as session:
            session.say(b"EHLO x", b"250")
            session.say(b"STARTTLS", b"220")
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(session.sock) as secured:
                return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"")

    old = make_certificate(tmp_path)
    pem = old.certificate.read_text()
    more = f"cert = '{old.certificate}'\nkey = '{old.key}'\nallow-clear = true\n"
    with running(tmp_path, settings(receiver, more)) as run:
        assert shown(run.ports[0]) in pem
        new = make_certificate(tmp_path)
        assert new.certificate == old.certificate
        assert new.certificate.read_text() != pem
        run.reload()
        poll(lambda: shown(run.ports[0]) in new.certificate.read_text(), "the new certificate")


def test_the_log_level_and_the_number_of_workers_are_changed_by_a_reload(
    receiver: FaultyReceiver, tmp_path: Path
) -> None:
    with running(tmp_path, settings(receiver, "log-level = 'warning'\n")) as run:
        with Session(run.ports[0]) as session:
            session.say(b"QUIT", b"221")
        run.process.send_signal(signal.SIGHUP)
        run.file.write_text(settings(receiver, "log-level = 'debug'\nworkers = 3\n"))
        run.reload()
        poll(lambda: len(run.workers) == 3, "three workers")
        with Session(run.ports[0]) as session:
            session.say(b"NOOP", b"250")
            session.say(b"QUIT", b"221")
        run.logged("from=sender line=NOOP")


# -- crash, upgrade, stop


def test_a_worker_that_was_killed_is_replaced_and_no_connection_refused(
    receiver: FaultyReceiver, tmp_path: Path
) -> None:
    with running(tmp_path, settings(receiver)) as run:
        (before,) = run.workers
        os.kill(before, signal.SIGKILL)
        with Session(run.ports[0]) as session:
            session.mail()
        run.logged("how=SIGKILL")
        (after,) = run.workers
        assert after != before


def needing(what: str, folder: Path) -> tuple[str, list[Path]]:
    """Settings for which something has to be there, and where that is."""
    there = folder / what
    match what:
        case "certificate":
            made = make_certificate(folder)
            text = f"cert = '{made.certificate}'\nkey = '{made.key}'\nallow-clear = true\n"
            return text, [made.certificate, made.key]
        case "authorities":
            made = make_certificate(folder)
            return f"receiver-tls = 'opportunistic'\nreceiver-ca = '{made.certificate}'\n", [made.certificate]
        case "secret":
            there.write_text(f"{SECRET}\nand more\n")
            return f"login = 'user'\nlogin-secret-file = '{there}'\nlogin-in-clear = true\n", [there]
        case "records":
            there.mkdir()
            return f"record = '{there}'\n", [there]
        case _:
            return f"log-to = 'syslog:{there}'\n", [there]


SECRET = "a secret that nobody reads"
NEEDED = ["certificate", "authorities", "secret", "records", "syslog"]


@contextlib.contextmanager
def syslog_at(path: Path) -> Iterator[None]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        yield


@pytest.mark.parametrize("what", NEEDED)
def test_a_killed_worker_is_replaced_whatever_has_gone_meanwhile(
    what: str, receiver: FaultyReceiver, tmp_path: Path
) -> None:
    """With what the supervisor has read, which is on no command line and in no environment."""
    more, files = needing(what, tmp_path)
    with contextlib.ExitStack() as stack:
        if what == "syslog":
            stack.enter_context(syslog_at(files[0]))
        run = stack.enter_context(running(tmp_path, settings(receiver, more)))
        for file in files:
            file.rename(f"{file}.gone")
        if what == "records":
            files[0].write_text("no directory")
        os.kill(run.workers[0], signal.SIGKILL)
        with Session(run.ports[0]):
            (worker,) = run.workers
            for shown in ("cmdline", "environ"):
                assert SECRET.encode() not in Path(f"/proc/{worker}/{shown}").read_bytes()


def test_an_upgrade_is_the_same_process_with_new_workers(receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, settings(receiver)) as run:
        (before,) = run.workers
        port = run.ports[0]
        with Session(port) as old:
            old.say(b"EHLO x", b"250")
            run.upgrade()
            assert run.ports == [port]
            with Session(port) as new:
                new.mail()
            old.mail()
            old.say(b"QUIT", b"221")
        poll(lambda: before not in run.workers, "the old worker's end")
        assert len(run.workers) == 1
        run.reload()
        with Session(port) as new:
            new.mail()


def test_an_upgrade_goes_over_to_the_code_that_is_installed_now(receiver: FaultyReceiver, tmp_path: Path) -> None:
    code = tmp_path / "code"
    shutil.copytree(Path(shimproxy.__file__).parent, code / "shimproxy")
    replies = code / "shimproxy" / "session" / "replies.py"
    with running(tmp_path, settings(receiver), code=code) as run:
        with Session(run.ports[0]) as old:
            replies.write_text(
                replies.read_text().replace("command not offered through", "the new code has nothing of")
            )
            assert b"command not offered through" in old.say(b"XCLIENT x", b"502")
            run.upgrade()
            assert b"command not offered through" in old.say(b"XCLIENT x", b"502")

        def is_new() -> bool:  # a connection may still be the old worker's, until that has heard that it retires
            with Session(run.ports[0]) as new:
                return b"the new code has nothing of" in new.say(b"XCLIENT x", b"502")

        poll(is_new, "the new code")


def test_the_same_holds_as_the_first_process_of_a_container(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """With one worker, and signals that the kernel keeps from a first process which does not ask for them."""
    need_root()
    wrapper = [need("unshare"), "--pid", "--fork", "--kill-child"]
    with running(tmp_path, settings(receiver), wrapper=wrapper) as run, Session(run.ports[0]) as old:
        run.reload()
        run.upgrade()
        os.kill(run.workers[-1], signal.SIGKILL)
        run.logged("how=SIGKILL")
        with Session(run.ports[0]) as new:
            new.mail()
        old.mail()
        os.kill(run.pid, signal.SIGTERM)
        old.expect(b"421 ")
        old.__exit__()
        assert run.process.wait(SECONDS) == 0


def test_an_upgrade_that_would_fail_is_not_made(receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, settings(receiver)) as run:
        before = run.workers
        run.file.write_text("listen = 5\n")
        run.upgrade("no upgrade: nothing has changed")
        with Session(run.ports[0]) as session:
            session.mail()
        assert run.workers == before


def taken_by_another(receiver: FaultyReceiver, what: str, sock: socket.socket) -> str:
    address = f"{HOST}:{sock.getsockname()[1]}"
    if what == "admin":
        return settings(receiver, f"admin = '{address}'\n")
    return settings(receiver).replace(f'"{HOST}:0"', f'["{HOST}:0", "{address}"]')


@pytest.mark.parametrize("what", ["admin", "listen"])
def test_an_upgrade_to_what_cannot_be_used_leaves_all_as_it_was(
    what: str, receiver: FaultyReceiver, tmp_path: Path
) -> None:
    """Although only the new program finds that out."""
    with (
        socket.create_server((HOST, 0)) as taken,
        running(tmp_path, settings(receiver)) as run,
        Session(run.ports[0]) as old,
    ):
        before = run.workers
        run.file.write_text(taken_by_another(receiver, what, taken))
        run.process.send_signal(signal.SIGUSR2)
        run.logged('upgrade_unfinished message="not upgraded: the old workers continue: ')
        assert run.workers == before
        old.mail()
        with Session(run.ports[0]) as new:
            new.mail()
        run.reload(settings(receiver))
        with Session(run.ports[0]) as new:
            new.mail()


@pytest.mark.parametrize("mails", [0, 20, 60, 120, 200, 300])
def test_a_stop_in_the_midst_of_an_upgrade_is_a_stop(mails: int, receiver: FaultyReceiver, tmp_path: Path) -> None:
    """Whether it comes before the new program, in its beginning or when it obeys."""
    with running(tmp_path, settings(receiver, "log-level = 'warning'\n")) as run:
        run.process.send_signal(signal.SIGUSR2)
        for _ in range(mails):  # so much later
            with Session(run.ports[0]) as session:
                session.mail()
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(SECONDS) == 0


@pytest.mark.once
def test_a_reload_switches_to_repair_and_an_observed_session_keeps_what_it_began_with(
    receiver: FaultyReceiver, tmp_path: Path
) -> None:
    """XCLIENT ends a session that is observed, and is refused within one that is repaired."""

    def repairs() -> bool:
        with Session(run.ports[0]) as session:
            session.sock.sendall(b"XCLIENT ADDR=192.0.2.1\r\n")
            return session.file.readline().startswith(b"502 ")

    with running(tmp_path, settings(receiver, 'repairs = "observe"\n')) as run, Session(run.ports[0]) as observed:
        assert "octets pass as they come" in run.log
        assert "OBSERVING" in run.log or not repairs()
        run.reload(settings(receiver))
        poll(repairs, "a session that is repaired")
        observed.mail()
        observed.say(b"XCLIENT ADDR=192.0.2.1", b"421")


@pytest.mark.parametrize("change", [signal.SIGHUP, signal.SIGUSR2], ids=["reload", "upgrade"])
def test_nothing_is_changed_during_a_stop(change: signal.Signals, receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, settings(receiver)) as run, Session(run.ports[0]) as busy:
        busy.say(b"MAIL FROM:<a@b>", b"250")
        run.process.send_signal(signal.SIGTERM)
        run.logged(" stopping ")
        run.process.send_signal(change)
        busy.finish()
        assert run.process.wait(SECONDS) == 0


@pytest.mark.parametrize(("signals", "grace"), [(1, 0), (2, 1000)])
def test_a_worker_that_does_not_end_is_killed(
    signals: int, grace: int, receiver: FaultyReceiver, tmp_path: Path
) -> None:
    """With the grace over, or at the second signal."""
    with running(tmp_path, settings(receiver, f"grace = {grace}\n[deadline]\nlinger-idle = 0.1\n")) as run:
        os.kill(run.workers[0], signal.SIGSTOP)
        run.process.send_signal(signal.SIGTERM)
        if signals == 2:
            run.logged(" stopping ")
            run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(SECONDS) == 0
        assert "worker_killed reason=grace_exceeded pid=" in run.log


def test_a_second_signal_finds_sockets_of_the_file_system_closed(receiver: FaultyReceiver, tmp_path: Path) -> None:
    listen, admin = tmp_path / "listen", tmp_path / "admin"
    text = settings(receiver, f'admin = "unix:{admin}"\n').replace(f"{HOST}:0", f"unix:{listen}")
    with running(tmp_path, text) as run, socket.socket(socket.AF_UNIX) as busy, busy.makefile("rb") as replies:
        busy.settimeout(SECONDS)
        busy.connect(str(listen))
        assert replies.readline().startswith(b"220 ")
        busy.sendall(b"MAIL FROM:<a@b>\r\n")
        assert replies.readline().startswith(b"250 ")
        for times in (1, 2):
            run.process.send_signal(signal.SIGTERM)
            run.logged(" stopping ", times)
        assert run.process.wait(SECONDS) == 0
    assert not listen.exists()
    assert not admin.exists()


def test_a_stop_reaches_every_worker(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """Also one that a reload has replaced: the idle are told, and a transaction comes to its end."""
    with running(tmp_path, settings(receiver, "workers = 2\n")) as run, contextlib.ExitStack() as stack:
        old = stack.enter_context(Session(run.ports[0]))
        run.reload()
        idle = [stack.enter_context(Session(run.ports[0])) for _ in range(6)]
        busy = stack.enter_context(Session(run.ports[0]))
        busy.say(b"MAIL FROM:<a@b>", b"250")
        run.process.send_signal(signal.SIGTERM)
        for session in (old, *idle):
            session.expect(b"421 ")
            session.__exit__()
        busy.finish()
        assert run.process.wait(SECONDS) == 0


def test_workers_do_not_outlive_their_supervisor(receiver: FaultyReceiver, tmp_path: Path) -> None:
    """They end in good order."""
    with running(tmp_path, settings(receiver, f"workers = 2\nadmin = '{HOST}:0'\n")) as run:
        workers = [os.pidfd_open(pid) for pid in run.workers]
        with Session(run.ports[0]) as idle, Session(run.ports[0]) as busy:
            busy.say(b"MAIL FROM:<a@b>", b"250")
            run.process.kill()
            idle.expect(b"421 ")
            busy.say(b"RCPT TO:<a@b>", b"250")
            busy.say(b"DATA", b"354")
            busy.say(b"text\r\n.", b"250")
        for worker in workers:
            poll(lambda worker=worker: is_over(worker), "the end of a worker")  # type: ignore[misc]
            os.close(worker)


def is_over(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def test_a_worker_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "shimproxy.toml"
    file.write_text(f'listen = "{HOST}:0"\nreceiver = "{HOST}:25"\n')
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import os, sys\nif 'shimproxy.daemon.worker' in sys.orig_argv:\n    os._exit(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "shimproxy", "run", "--config", str(file)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(broken), *sys.path[:1]])},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert "a worker did not start" in done.stderr
    assert "Traceback" not in done.stderr


# -- under load


@attrs.define(eq=False)
class Load:
    """Senders that send one mail after the other, each on a connection of its own, and count what they believe."""

    port: int
    believed: list[bytes] = attrs.field(factory=list)
    refused: int = 0
    broken: int = 0
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)
    _changed: threading.Condition = attrs.field(factory=threading.Condition)
    _ends: bool = False

    def send(self) -> None:
        while not self._ends:
            name = b"mail-%d" % next(self._numbers)
            try:
                with Session(self.port) as session:
                    session.say(b"EHLO x", b"250")
                    session.mail(name)
                    with self._changed:
                        self.believed.append(name)
                        self._changed.notify_all()
                    session.say(b"QUIT", b"221")
            except ConnectionRefusedError:
                self.refused += 1
            except (OSError, AssertionError):  # a session that was cut off ends with an empty line
                self.broken += 1

    def reached(self, count: int) -> None:
        """Wait until so many mails are believed delivered."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.believed) >= count, SECONDS)

    @contextlib.contextmanager
    def by(self, senders: int) -> Iterator[None]:
        threads = [threading.Thread(target=self.send) for _ in range(senders)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ends = True
            for thread in threads:
                thread.join(SECONDS)


def check_counts(load: Load, receiver: FaultyReceiver) -> None:
    """Every mail that is believed delivered is there once; no connection was refused."""
    has = [data.removesuffix(b"\r\n") for data in receiver.seen.mails]
    assert len(set(has)) == len(has)
    assert set(load.believed) <= set(has)
    # What was there and is not believed is of sessions that were cut off before the verdict was relayed.
    assert len(has) - len(load.believed) <= load.broken
    assert load.refused == 0


@pytest.mark.slow
@pytest.mark.volume
@pytest.mark.parametrize("change", [Run.reload, lambda run: run.upgrade()], ids=["reload", "upgrade"])
def test_under_load_no_session_is_broken_by_a_change(
    change: Callable[[Run], None], receiver: FaultyReceiver, tmp_path: Path
) -> None:
    with running(tmp_path, settings(receiver, "workers = 2\nlog-level = 'warning'\n"), "--log-level", "info") as run:
        load = Load(run.ports[0])
        with load.by(6):
            for count in range(100, 900, 200):
                load.reached(count)
                change(run)
            load.reached(1000)
    check_counts(load, receiver)
    assert load.broken == 0
    assert len(load.believed) == len(receiver.seen.mails)


@pytest.mark.slow
@pytest.mark.volume
def test_under_load_killed_workers_cost_their_own_sessions_only(receiver: FaultyReceiver, tmp_path: Path) -> None:
    with running(tmp_path, settings(receiver, "workers = 2\n")) as run:
        load = Load(run.ports[0])
        kills = 0
        with load.by(6):
            for step in range(1, 16):  # some seconds each, and a kill in every five
                load.reached(500 * step)
                if 2 * step % 5 < 2:
                    os.kill(run.workers[-1], signal.SIGKILL)
                    kills += 1
                run.reload()
    check_counts(load, receiver)
    assert kills == 6
    assert load.broken <= 6 * kills
