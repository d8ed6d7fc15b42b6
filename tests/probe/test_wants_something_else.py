"""Real receivers that want TLS from the start, a PROXY header or LMTP: one line of the log, and one of the probe."""

from __future__ import annotations

import contextlib
import smtplib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from shimproxy.faulty.receiving import HOST
from shimproxy.faulty.talk import SECONDS
from tests.daemon.test_supervisor import running
from tests.peers.postfix import postfix
from tests.peers.processes import free_port, need, started
from tests.peers.programs import smtp_sink
from tests.peers.tls import make_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.once, pytest.mark.slow]  # real programs wait for seconds

HAPROXY = """
defaults
  mode tcp
  timeout client 60s
  timeout server 60s
  timeout connect 5s
listen it
  bind {host}:{port} {how}
  server sink {host}:{sink}
"""


@contextlib.contextmanager
def before_sink(folder: Path, how: str) -> Iterator[int]:
    """HAProxy before smtp-sink."""
    port, file = free_port(), folder / "haproxy.cfg"
    with smtp_sink() as sink:
        file.write_text(HAPROXY.format(host=HOST, port=port, how=how, sink=sink))
        with started([need("haproxy"), "-f", str(file), "-db"], port):
            yield port


@contextlib.contextmanager
def receiver_that_wants(what: str, folder: Path) -> Iterator[int]:
    """A real program; its port."""
    with contextlib.ExitStack() as stack:
        match what:
            case "tls":
                made = make_certificate(folder)
                both = folder / "both.pem"
                both.write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
                yield stack.enter_context(before_sink(folder, f"ssl crt {both}"))
            case "header":
                yield stack.enter_context(before_sink(folder, "accept-proxy"))
            case "header, and gives up":
                more = "\nsmtpd_upstream_proxy_protocol = haproxy\n"
                yield stack.enter_context(postfix(more=more)).port
            case _:
                yield stack.enter_context(smtp_sink("-L"))


@pytest.mark.parametrize(
    ("wants", "logged", "probed"),
    [
        ("tls", "seen=silent", "a connection that begins with TLS succeeds: probe it with --tls implicit"),
        ("header", "seen=silent", "it greets after a PROXY header: run shimproxy with --send-proxy v2"),
        ("header, and gives up", "seen=silent", "it greets after a PROXY header: run shimproxy with --send-proxy v2"),
        ("lmtp", "seen=lmtp", "this may be LMTP: probe it with --lmtp"),
    ],
)
def test_a_receiver_that_wants_something_else_is_told_of(wants: str, logged: str, probed: str, tmp_path: Path) -> None:
    """Two sessions, and one line; then the probe."""
    with receiver_that_wants(wants, tmp_path) as port:
        with running(tmp_path, f'listen = "{HOST}:0"\nreceiver = "{HOST}:{port}"\n') as run:
            for _ in range(2):
                with contextlib.suppress(OSError), smtplib.SMTP(HOST, run.ports[0], timeout=5.5) as sender:
                    sender.ehlo_or_helo_if_needed()
            run.logged(" likely_mend ")
        assert run.log.count(" likely_mend ") == 1
        assert logged in run.log
        assert f" receiver={HOST}:{port} " in run.log
        command = [sys.executable, "-m", "shimproxy", "probe", "--patience", "1", f"{HOST}:{port}"]
        if wants == "header, and gives up":
            command[-3:-1] = ["--patience", "8"]  # Postfix waits for five seconds
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 4, check=False)
    assert probed in " ".join(done.stdout.split())
