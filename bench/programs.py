"""The processes of a run: found, started until they are ready, read from /proc, and ended.

1. A process is ended by its own pid, when its `with` block ends, whatever ended that.
2. Every start and every run has a deadline; what fails is a BenchError with one line that names the program.
3. What a process says on stderr goes to a file, as with an operator, and comes back in the error.

It does not know what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from bench.peers import HOST, READY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

START_SECONDS: Final = 15.0
RUN_SECONDS: Final = 180.0
END_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 0.001
"""What a process that has nothing to do may take of the CPU between two looks at it."""
# Below the ports that Linux gives to outgoing connections, so that none of the run's own takes it meanwhile.
FREE_PORTS: Final = range(20_000, 32_000)
CERTIFICATE_NAME: Final = "bench.example"
_READY: Final = re.compile("shimproxy ready: listening on (.+), receiver .+, admin (.+)").fullmatch
APT_PACKAGE: Final = {"smtp-source": "postfix", "smtp-sink": "postfix", "haproxy": "haproxy"}


class BenchError(Exception):
    """The run can't go on; the text is one line."""


def find(name: str) -> str | None:
    """The path of a program, looked for in sbin too."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def need(name: str) -> str:
    """The path of a program. Raises BenchError."""
    path = find(name)
    if path is None:
        raise BenchError(f"{name} is not installed: apt-get install {APT_PACKAGE.get(name, name)}")
    return path


@attrs.frozen
class Running:
    """A process that serves on a port of 127.0.0.1."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def children(self) -> list[int]:
        """The process ids of its workers. Raises BenchError."""
        pid = self.process.pid
        try:
            return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        except OSError:
            raise self.failed("has ended") from None

    def pids(self) -> list[int]:
        """The process and its workers. Raises BenchError."""
        return [self.process.pid, *self.children()]

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far, with that of its workers. Raises BenchError.

        It is the scheduler's, in nanoseconds: in clock ticks, a round of HAProxy's is told by no more than 3 %.
        """
        seconds = [cpu_seconds_of(pid) for pid in self.pids()]
        if None in seconds:
            raise self.failed("has ended")
        return sum(filter(None, seconds))

    def settled_cpu_seconds(self) -> float:
        """The same once it has stopped growing, as sessions may still be closing."""
        cpu_seconds = self.cpu_seconds
        for _ in range(20):
            time.sleep(0.03)
            before_seconds, cpu_seconds = cpu_seconds, self.cpu_seconds
            if cpu_seconds - before_seconds < IDLE_SECONDS:
                break
        return cpu_seconds

    def memory_kib(self, field: str) -> int:
        """VmRSS or VmHWM, of the largest of its processes. Raises BenchError."""
        found: list[int] = []
        with contextlib.suppress(OSError):
            for pid in self.pids():
                status = Path(f"/proc/{pid}/status").read_text().splitlines()
                found += [int(line.split()[1]) for line in status if line.startswith(f"{field}:")]
        if not found:
            raise self.failed("has ended")
        return max(found)

    def failed(self, what: str) -> BenchError:
        return BenchError(f"{self.name} {what}{_last_line(self.log)}")

    def check_runs(self) -> None:
        """Raise BenchError if it has ended."""
        if self.process.poll() is not None:
            raise self.failed(f"has ended with status {self.process.returncode}")

    def check(self) -> None:
        """Raise BenchError if it has ended, or has logged a traceback."""
        self.check_runs()
        if b"Traceback" in self.log.read_bytes():
            raise self.failed("has logged a traceback")


def whole_lines(file: Path) -> list[str]:
    """The lines of a file that a process appends to, without one that is being written; none before the file is there.

    Of a long write a reader may see the first part alone, for as long as the kernel copies the rest.
    """
    try:
        return file.read_text(errors="backslashreplace").split("\n")[:-1]
    except FileNotFoundError:
        return []


def cpu_seconds_of(pid: int) -> float | None:
    """User and system time of a process so far; None once it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        threads = [*Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return None
    if stat.rpartition(")")[2].split()[0] == "Z":  # the name before it may hold spaces
        return None
    nanoseconds = 0
    for thread in threads:
        with contextlib.suppress(OSError):  # it has ended
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last}" if last else ""


# -- certificates


def make_certificate(folder: Path) -> Path:
    """A certificate that signs itself, of P-256, for CERTIFICATE_NAME; with its key in one file. Raises BenchError."""
    file = folder / "certificate.pem"
    subject = ["-subj", f"/CN={CERTIFICATE_NAME}", "-addext", f"subjectAltName=DNS:{CERTIFICATE_NAME}"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made = run("openssl", [need("openssl"), "req", "-x509", *key, *subject, "-keyout", "-", "-out", "-"])
    file.write_text(made)
    return file


# -- starting: with a certificate, both legs of a proxy are TLS


@contextlib.contextmanager
def shimproxy(
    folder: Path,
    receiver_port: int,
    *more: str,
    certificate: Path | None = None,
    code: Path | None = None,
    name: str = "shimproxy",
) -> Iterator[Running]:
    """The shim with its default settings but for `more`; `code` is a folder that holds another copy of the package."""
    tls = []
    if certificate:
        tls = ["--sender-tls", "implicit", "--cert", str(certificate), "--receiver-tls", "implicit"]
        tls += ["--receiver-ca", str(certificate), "--receiver-name", CERTIFICATE_NAME]
    command = [
        sys.executable,
        "-m",
        "shimproxy",
        "run",
        "--listen",
        f"{HOST}:0",
        "--receiver",
        f"{HOST}:{receiver_port}",
        *tls,
        *more,
    ]
    with started(name, command, folder, cwd=code) as (process, log):
        line = _ready_line(name, process, log)
        address = line.partition("listening on ")[2].partition(",")[0]
        if not line.startswith("shimproxy ready:") or not address.rpartition(":")[2].isdigit():
            raise BenchError(f"{name}'s ready line can't be read: {line!r}")
        yield Running(name, process, int(address.rpartition(":")[2]), log)


@contextlib.contextmanager
def shimproxy_of(folder: Path, settings: Path, open_files: int = 0) -> Iterator[tuple[Running, list[int], str]]:
    """The shim with a file of settings: with the ports of its listeners, and its admin address.

    With `open_files`, each of its processes may have no more of them.
    """
    command = [sys.executable, "-m", "shimproxy", "run", "--config", str(settings)]
    if open_files:
        command = ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *command]
    with started("shimproxy", command, folder) as (process, log):
        line = _ready_line("shimproxy", process, log)
        found = _READY(line)
        if not found:
            raise BenchError(f"shimproxy's ready line can't be read: {line!r}")
        ports = [int(address.rpartition(":")[2]) for address in found[1].split(", ")]
        yield Running("shimproxy", process, ports[0], log), ports, found[2]


@contextlib.contextmanager
def haproxy(folder: Path, receiver_port: int, sessions: int, certificate: Path | None = None) -> Iterator[Running]:
    """HAProxy in tcp mode, one process, one thread, in the foreground, so that its pid is the worker's."""
    program = need("haproxy")
    sender_tls = receiver_tls = ""
    if certificate:
        sender_tls = f" ssl crt {certificate}"
        receiver_tls = f" ssl verify required ca-file {certificate} sni str({CERTIFICATE_NAME})"

    def command(port: int) -> list[str]:
        configuration = folder / f"haproxy-{port}.cfg"
        configuration.write_text(
            f"global\n  nbthread 1\n  maxconn {sessions}\n"
            "defaults\n  mode tcp\n  timeout connect 30s\n  timeout client 300s\n  timeout server 300s\n"
            f"listen bench\n  bind {HOST}:{port} backlog 1000{sender_tls}\n"
            f"  server receiver {HOST}:{receiver_port}{receiver_tls}\n"
        )
        return [program, "-db", "-f", str(configuration)]

    with _on_free_port("haproxy", command, folder) as running:
        yield running


@contextlib.contextmanager
def smtp_sink(folder: Path) -> Iterator[Running]:
    """Postfix' receiver for tests; as root it wants another user."""
    program = need("smtp-sink")
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with _on_free_port("smtp-sink", lambda port: [program, *user, f"{HOST}:{port}", "1000"], folder) as running:
        yield running


@contextlib.contextmanager
def own_receiver(folder: Path, *arguments: str) -> Iterator[Running]:
    """The receiver of bench.peers."""
    with own_peer(folder, "receiver", "bench.peers", "receive", *arguments) as running:
        yield running


@contextlib.contextmanager
def own_peer(folder: Path, name: str, module: str, *arguments: str) -> Iterator[Running]:
    """A module of the benchmark as a process whose ready line has a port."""
    with started(name, [sys.executable, "-m", module, *arguments], folder) as (process, log):
        line = _ready_line(name, process, log)
        yield Running(name, process, int(line.removeprefix(READY)), log)


@contextlib.contextmanager
def far_receiver(folder: Path, milliseconds: float) -> Iterator[Running]:
    """The receiver of bench.peers, as many milliseconds away in each direction."""
    with (
        own_receiver(folder) as receiver,
        own_peer(folder, "far", "bench.far", str(receiver.port), str(milliseconds)) as far,
    ):
        yield far


@contextlib.contextmanager
def started(
    name: str, command: Sequence[str], folder: Path, cwd: Path | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process, with the file that its standard error goes to.

    It has a process group of its own, so that what a terminal sends is not for it, but no session: among sessions each
    has the same share of the CPU, whatever the policy of its processes (sched(7), autogroup).
    """
    log = folder / f"{name}-{time.monotonic_ns()}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, cwd=cwd, process_group=0
        )
    try:
        yield process, log
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _ready_line(name: str, process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.stdout
    os.set_blocking(process.stdout.fileno(), False)
    said = b""
    end = time.monotonic() + START_SECONDS
    while b"\n" not in said:
        ended = process.poll() is not None
        said += process.stdout.read() or b""
        if b"\n" not in said:
            if ended or time.monotonic() > end:
                raise BenchError(f"{name} did not get ready{_last_line(log)}")
            time.sleep(0.01)
    return said.partition(b"\n")[0].decode()


@contextlib.contextmanager
def _on_free_port(name: str, command: Callable[[int], list[str]], folder: Path) -> Iterator[Running]:
    port = _free_port()
    with started(name, command(port), folder) as (process, log):
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
                break
            if process.poll() is not None or time.monotonic() > end:
                raise BenchError(f"{name} did not get ready{_last_line(log)}")
            time.sleep(0.01)
        yield Running(name, process, port, log)


def _free_port() -> int:
    for port in random.sample(FREE_PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise BenchError(f"no free port on {HOST}")


# -- running


def run(name: str, command: Sequence[str]) -> str:
    """What a program said on stdout, at its end. Raises BenchError."""
    with _piped(command) as process:
        try:
            said, complaint = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{name} was not done after {RUN_SECONDS:g} s") from None
    if process.returncode:
        lines = complaint.decode(errors="replace").strip().splitlines() or ["(no word of why)"]
        raise BenchError(f"{name} failed: {lines[-1]}")
    return said.decode(errors="replace")


@contextlib.contextmanager
def _piped(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def own_sender(role: str, port: int, *arguments: str) -> dict[str, float]:
    """Run a sender of bench.peers to its end; what it measured. Raises BenchError."""
    said = run("sender", [sys.executable, "-m", "bench.peers", role, str(port), *arguments])
    result: dict[str, float] = json.loads(said)
    return result
