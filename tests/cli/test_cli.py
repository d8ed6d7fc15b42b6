"""The command line as an operator meets it: its two outputs, its signals, its exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from shimproxy.cli import main
from shimproxy.cli.parser import COMMANDS, parser_of
from shimproxy.config.options import OPTIONS
from shimproxy.faulty.talk import SECONDS
from shimproxy.help.command import _commands
from shimproxy.records.text import record_text_of
from tests.peers.here import run_here
from tests.peers.processes import free_port, poll
from tests.records.test_record_files import everything

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = (sys.executable, "-m", "shimproxy", "run")


@contextmanager
def running(receiver_port: int, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """A shimproxy, its ready line, and its port on 127.0.0.1."""
    command = (*RUN, "--listen", "127.0.0.1:0", "--receiver", f"127.0.0.1:{receiver_port}", *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            ready = process.stdout.readline()
            yield process, ready, int(ready.split("127.0.0.1:")[1].split(",")[0])
        finally:
            process.kill()


class Peer:
    """One end of a connection, read by the line."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(SECONDS)
        self.file = sock.makefile("rwb")

    def says(self, line: bytes) -> None:
        self.file.write(line + b"\r\n")
        self.file.flush()

    def hears(self) -> bytes:
        return self.file.readline()

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@contextmanager
def session(shim_port: int, listener: socket.socket) -> Iterator[tuple[Peer, Peer]]:
    """A sender and a receiver with the shim between them, the greeting relayed."""
    sender = Peer(socket.create_connection(("127.0.0.1", shim_port), SECONDS))
    receiver = Peer(listener.accept()[0])
    try:
        receiver.says(b"220 hello")
        assert sender.hears() == b"220 hello\r\n"
        yield sender, receiver
    finally:
        sender.close()
        receiver.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(SECONDS)
        yield sock


def exchange(sender: Peer, receiver: Peer, command: bytes, reply: bytes) -> None:
    sender.says(command)
    assert receiver.hears() == command + b"\r\n"
    receiver.says(reply)
    assert sender.hears() == reply + b"\r\n"


def test_sigterm_says_421_to_the_idle_and_lets_a_transaction_finish(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with running(port) as (process, ready, shim_port):
        assert ready == f"shimproxy ready: listening on 127.0.0.1:{shim_port}, receiver 127.0.0.1:{port}\n"
        with session(shim_port, listener) as (idle, its_receiver), session(shim_port, listener) as (busy, receiver):
            exchange(busy, receiver, b"MAIL FROM:<a@b>", b"250 OK")
            process.send_signal(signal.SIGTERM)
            assert idle.hears() == b"421 service shutting down\r\n"
            assert its_receiver.hears() == b"QUIT\r\n"
            idle.close()
            its_receiver.close()
            exchange(busy, receiver, b"RCPT TO:<b@c>", b"250 OK")
            exchange(busy, receiver, b"DATA", b"354 go")
            exchange(busy, receiver, b".", b"250 queued")
            assert busy.hears() == b"421 service shutting down\r\n"
        assert process.wait(SECONDS) == 0


def test_a_second_signal_ends_at_once_and_accepts_nothing(listener: socket.socket) -> None:
    with (
        running(listener.getsockname()[1]) as (process, _, shim_port),
        session(shim_port, listener) as (sender, receiver),
    ):
        exchange(sender, receiver, b"DATA", b"354 go")
        sender.says(b"first line")
        assert receiver.hears() == b"first line\r\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        with pytest.raises(ConnectionResetError):
            receiver.hears()


def test_the_log_has_a_line_a_repair_and_a_line_a_session_and_never_a_secret(listener: socket.socket) -> None:
    options = ("--log-level", "debug", "--log-format", "json")
    with running(listener.getsockname()[1], *options) as (process, _, shim_port):
        with session(shim_port, listener) as (sender, receiver):
            exchange(sender, receiver, b"AUTH PLAIN c2VjcmV0", b"235 OK")
            exchange(sender, receiver, b"AUTH LOGIN", b"334 c2VjcmV0")
            exchange(sender, receiver, b"c2VjcmV0", b"235 OK")
            sender.file.write(b"AUTH PLAIN c2VjcmV0\n")
            sender.file.flush()
            assert receiver.hears() == b"AUTH PLAIN c2VjcmV0\r\n"
            receiver.says(b"503 \x1b[31mno")
            assert sender.hears() == b"503 \x1b[31mno\r\n"
            exchange(sender, receiver, b"QUIT", b"221 bye")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        assert process.stderr
        log = process.stderr.read()
    assert "c2VjcmV0" not in log
    assert "\x1b" not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert [(line["event"], line.get("repair")) for line in lines if line["level"] == "WARNING"] == [
        ("repair", "bare-newline"),
        ("auth_refused", None),
    ]
    (record,) = [line for line in lines if line["event"] == "session"]
    assert (record["level"], record["repairs"]) == ("INFO", {"bare-newline": 1})
    assert record["ended"] == {"by": "sender", "in": "QUIT"}


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["--listen", "127.0.0.1:{taken}"], "the port is taken"),
        (["--listen", "2525"], "write HOST:PORT"),
        (["--listen", "::1:25"], "in brackets, as in [::1]:25"),
        (["--listen", "192.0.2.1:0"], "this machine has no such address"),
        (["--listen", "127.0.0.1:0", "--receiver", "no.such.host.invalid:25"], "check the name, or give an address"),
        (["--listen", "127.0.0.1:0", "--receiver", ":25"], "write HOST:PORT"),
        ([], "--listen HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--deadline", "greetings=1"], "there are connect, greeting,"),
        (["--listen", "127.0.0.1:0", "--deadline", "reply=0"], "reply must be a number above 0"),
        (["--listen", "127.0.0.1:0", "--limit", "held-octets=many"], "write held-octets=NUMBER"),
        (["--listen", "127.0.0.1:0", "--sessions", "0"], "--sessions: must be a whole number from 1 on"),
        (["--listen", "127.0.0.1:0", "--early-success", "250 OK"], "write a code and a text"),
        (["--listen", "127.0.0.1:0", "--max-size", "10XB"], "--max-size: '10XB': write a size as in 10MiB"),
        (["--listen", "127.0.0.1:0", "--cert", "/none.pem", "--receiver-tls", "required"], "/none.pem: No such file"),
        (["--listen", "127.0.0.1:0", "--receiver", "a..b:25"], "check the name, or give an address"),
        (["--listen", "127.0.0.1:0", "--receiver", "a" * 64 + ".example:25"], "check the name, or give an address"),
        (["--listen", "\u00fc..\u00fc:0"], "give an address of this machine"),
        (["--listen", "127.0.0.1:0", "--grace", "soon"], "--grace: 'soon': write a number"),
        (["--listen", "127.0.0.1:0", "--grace", "1_0"], "--grace: '1_0': write a number"),
        (["--listen", "127.0.0.1:0", "--log-level", "loud"], "choose from debug, info"),
        (["--listen", "127.0.0.1:0", "--recever-tls=off"], "did you mean --receiver-tls?"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_the_mend(
    arguments: list[str], mend: str, listener: socket.socket
) -> None:
    taken = str(listener.getsockname()[1])
    done = run_here("run", "--receiver", "127.0.0.1:25", *(each.replace("{taken}", taken) for each in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("shimproxy: ")
    assert mend in line


@pytest.mark.once
def test_no_name_of_a_file_is_a_command_of_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In errors, and in what `check` warns of."""
    monkeypatch.chdir(tmp_path)
    odd = "x\x1b[31m\x9b\x85"
    addresses = ["--listen", "127.0.0.1:0", "--receiver", "127.0.0.1:1"]
    for flags in (["--cert", odd, "--key", odd], ["--config", odd], ["--key-log", odd]):
        main(["check", *addresses, *flags])
        shown = capsys.readouterr().err
        assert r"x\x1b[31m\x9b\x85" in shown
        assert all(line.isprintable() for line in shown.split("\n"))


@pytest.mark.once
def test_a_name_that_is_no_text_is_printed_as_it_is(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    flags = ["--listen", "127.0.0.1:0", "--receiver", "127.0.0.1:1", "--key-log", odd]
    ran = subprocess.run(
        [sys.executable, "-m", "shimproxy", "check", *flags],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert os.fsencode(odd) in ran.stdout


def test_help_names_every_deadline_and_limit_with_its_default() -> None:
    words = "".join(run_here("run", "--help").stdout.split())
    for each in ("greeting=300", "data-reply=120", "end-of-data-reply=600", "command-octets=12288"):
        assert each in words


@pytest.mark.parametrize("arguments", [[], ["walk"]], ids=["none", "unknown"])
def test_a_command_that_there_is_not_is_one_line(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shimproxy", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("shimproxy: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([":2525", "127.0.0.1:25"], "no command is given; write shimproxy run --listen :2525 --receiver 127.0.0.1:25"),
        ([":2525"], "no command is given; write shimproxy run --listen :2525 --receiver HOST:PORT"),
        (["--receiver", "a:25"], "no command is given; write shimproxy run --receiver a:25 --listen HOST:PORT"),
        (
            ["run", ":2525", "a:25", "--tidy"],
            "unrecognized arguments: :2525 a:25; write shimproxy run --listen :2525 --receiver a:25 --tidy; see "
            "shimproxy run --help",
        ),
        (["check", "--listen", ":2525", "a:25"], "unrecognized arguments: a:25; write shimproxy check --listen :2525 "),
        (["runn", "--listen", ":2525"], "'runn' is not a command, did you mean run?; see shimproxy --help"),
        (["Check"], "'Check' is not a command, did you mean check?; see shimproxy --help"),
        (["version"], "'version' is not a command, did you mean --version?; see shimproxy --help"),
        ([], "say what to do: run, check, health, "),
        (["\x1b[31m"], "'\\x1b[31m' is not a command; choose from run, "),
        (["x" * 1_000_000], "'xxx"),
        ([":25", "x" * 1_000_000], "':25' is not a command; choose from run, "),
        (["run", "\x1b[31m"], "unrecognized arguments: \\x1b[31m; see"),
        (["run", ":1", "a:1", "--listen", ":2", "--receiver", "b:2"], "unrecognized arguments: :1 a:1; see"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_was_meant_is_proposed(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line of bounded length and printable characters, whatever was given."""
    try:
        status = main(arguments)
    except SystemExit as left:
        status = int(left.code or 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert (status, line[: len("shimproxy: ") + len(said)]) == (2, f"shimproxy: {said}")
    assert len(line) < 1000
    assert line.isprintable()


@pytest.mark.parametrize("arguments", [[":2525", "127.0.0.1:25"], ["check", ":2525", "a:25", "--tidy"], [":0"]])
def test_what_is_proposed_is_taken(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By `check`, with an address in the place of HOST:PORT."""
    with suppress(SystemExit):
        main(arguments)
    proposed = capsys.readouterr().err.partition("; write shimproxy ")[2].partition(";")[0].strip()
    words = proposed.replace("HOST:PORT", "127.0.0.1:25").replace("a:25", "127.0.0.1:25").split()
    assert words[0] in ("run", "check")
    assert main(["check", *words[1:]]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_the_nearest_flag_is_one_of_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag of another command would be refused."""
    flags = set(_commands(parser_of(COMMANDS))[command]._option_string_actions)
    positional = {"probe": ["a:25"], "ladder": ["x"], "records": ["x"], "explain": [], "help": []}.get(command, [])
    for option in OPTIONS:
        if f"--{option.name}" not in flags:
            with pytest.raises(SystemExit):
                main([command, *positional, f"--{option.name}=x"])
            for proposed in re.findall(r"did you mean (\S+)\?", capsys.readouterr().err):
                assert proposed in flags


@pytest.mark.parametrize("flag", ["--receiver=127.0.0.1:25", "--octets=5", "--patience=1", "--svg=demo.svg"])
def test_demo_serve_takes_no_flag_that_it_would_ignore(flag: str) -> None:
    done = run_here("demo", "--serve", flag)
    assert done.returncode == 2
    assert "has no effect; remove it" in done.stderr


def test_nobody_need_listen_to_standard_output(listener: socket.socket) -> None:
    """Closed, it is None in Python."""
    (port,) = free_ports(1)
    receiver = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [*RUN, "--listen", f"127.0.0.1:{port}", "--receiver", receiver]
    script = 'exec "$@" >&-'
    with subprocess.Popen(["sh", "-c", script, "sh", *command], stderr=subprocess.PIPE, text=True) as process:
        try:
            sender = connect_when_ready(port, process)
            receiver_sock, _ = listener.accept()
            receiver_sock.sendall(b"220 hello\r\n")
            assert sender.recv(100) == b"220 hello\r\n"
            sender.close()
            receiver_sock.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; the kernel does not give them out again soon."""
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in socks]


def connect_when_ready(port: int, process: subprocess.Popen[str]) -> socket.socket:
    """A connection, as soon as there can be one."""
    while process.poll() is None:
        with suppress(ConnectionRefusedError):
            sock = socket.create_connection(("127.0.0.1", port), SECONDS)
            sock.settimeout(SECONDS)
            return sock
    assert process.stderr
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("flag", ["--octets", "--patience"])
@pytest.mark.parametrize("command", [["demo"], ["probe", "127.0.0.1:25"]], ids=["demo", "probe"])
@pytest.mark.parametrize("text", ["1_0", "\u0663", "+1", "many"], ids=ascii)
def test_numbers_of_other_commands_are_ascii_digits_too(
    command: list[str], flag: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command, flag, text])
    assert left.value.code == 2
    number = "a whole number" if flag == "--octets" else "a number"
    assert f"argument {flag}: {text!r}: write {number}; see" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--admin", "unix:/no/such/folder/admin"],
        ["--admin", "192.0.2.1:8025"],
        ["--admin", "127.0.0.1:{taken}"],
        ["--limit", f"block-octets={10**15}"],
        ["--limit", f"block-octets={10**30}"],
        ["--log-to", "syslog:/no/such/socket"],
        ["--record", "/dev/null/records"],
        ["--cert", "/no/such.pem", "--allow-clear"],
        ["--receiver", "127.0.0.1:{taken}", "--listen", "127.0.0.1:{taken}"],
        ["--listen", "192.0.2.1:0"],
    ],
    ids=lambda arguments: arguments[1],
)
def test_check_says_what_run_says(arguments: list[str], listener: socket.socket) -> None:
    """In the same words, and neither with anything after them."""
    taken = str(listener.getsockname()[1])
    given = ["--listen", "127.0.0.1:0", "--receiver", "127.0.0.1:25", *(a.replace("{taken}", taken) for a in arguments)]
    said = {}
    for name in ("run", "check"):
        done = run_here(name, *given)
        assert name == "check" or done.returncode == 2
        said[name] = done.stderr.splitlines()
        assert all(line.startswith("shimproxy: ") for line in said[name]), done.stderr
        # What listens there may be a shimproxy that is to be reloaded: then check remarks on it.
        assert done.returncode == 2 or (name == "check" and "is taken" in done.stderr)
    assert set(said["run"]) <= set(said["check"])


# -- where the output goes


@pytest.fixture
def nowhere() -> Iterator[int]:
    """A pipe whose reader has had enough."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "one.session.txt"
    path.write_text(record_text_of(everything()))
    return path


@pytest.mark.parametrize("both", [False, True], ids=["output", "output and errors"])
@pytest.mark.parametrize(
    ("command", "statuses"),
    [
        ("check --listen 127.0.0.1:0 --receiver 127.0.0.1:25", {141}),
        ("check --listen nowhere", {2, 141}),
        ("ladder {recorded}", {0, 141}),
        ("ladder --svg {recorded}", {0, 141}),
        ("demo --octets 100000 --patience 0.1", {0, 1, 141}),
        ("probe --patience 1 127.0.0.1:{free}", {2, 141}),
        ("health --admin 127.0.0.1:{free}", {1, 141}),
        ("--help", {0, 141}),
        ("run --help", {0, 141}),
        ("check --no-such-flag", {2, 141}),
    ],
)
def test_a_reader_that_has_had_enough_sees_no_traceback(
    command: str, statuses: set[int], both: bool, nowhere: int, recorded: Path
) -> None:
    words = command.format(recorded=recorded, free=free_port()).split()
    done = subprocess.run(
        [sys.executable, "-m", "shimproxy", *words],
        stdin=subprocess.DEVNULL,
        stdout=nowhere,
        stderr=nowhere if both else subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in statuses, done.stderr
    assert both or all(line.startswith(("shimproxy: ", "no answer")) for line in done.stderr.splitlines())


def test_run_goes_on_though_nobody_reads_what_it_says(nowhere: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*RUN, "--receiver", "127.0.0.1:25", "--listen", f"127.0.0.1:{(port := free_port())}"],
            stdout=nowhere,
            stderr=errors,
        )
    try:
        poll(lambda: is_open(port), "a listener")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
    assert "BrokenPipeError" not in log.read_text()


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_output_for_which_there_is_no_room_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "shimproxy", "check", "--listen", "127.0.0.1:0", "--receiver", "127.0.0.1:25"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == (
        "shimproxy: cannot write the output: No space left on device; free some space, or write it elsewhere\n"
    )


def test_a_command_loads_nothing_of_the_others() -> None:
    """A shimproxy that runs for months holds no probe and no demonstration in its memory."""
    program = (
        "import sys; from shimproxy.cli.parser import COMMANDS, parser_for; parser_for(['run']);"
        "print([name for name in COMMANDS if f'shimproxy.cli.{name}' in sys.modules]);"
        "print([name for name in sys.modules if name.startswith(('shimproxy.probe', 'shimproxy.faulty'))])"
    )

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert shown.stdout == "['run']\n[]\n"
