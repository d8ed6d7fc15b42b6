"""AUTH between a sender and a receiver (RFC 4954), with real programs: it passes, and nobody is told of it.

What the shim logs is read from a process of its own that logs all it can.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING, Final

import pytest

from shimproxy import Login
from shimproxy.faulty.receiving import HOST
from tests.peers.exim import Exim, exim
from tests.peers.postfix import MAILBOX_DOMAIN
from tests.peers.processes import Run, need, poll, run
from tests.peers.shim import shim_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGIN: Final = Login("user", "s3cret-w0rd")
WRONG: Final = "wr0ng-s3cret"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Exim]:
    """An Exim that takes mail from LOGIN only."""
    with exim(daemon=True, login=LOGIN) as running:
        yield running


def logs_in(port: int, mechanism: str, secret: str) -> Run:
    """swaks sends a mail if it can log in."""
    where = ["--server", HOST, "--port", str(port), "--helo", "swaks.example", "--timeout", "30"]
    what = ["--from", "a@sender.example", "--to", f"many@{MAILBOX_DOMAIN}", "--body", "text"]
    auth = ["--auth", mechanism, "--auth-user", LOGIN.user, "--auth-password", secret]
    return run([need("swaks"), *where, *what, *auth])


def refusals(ended: Run) -> list[str]:
    """What swaks was told in the end."""
    return re.findall(r"^<\S*\s+([45]\d\d[ -].*)$", ended.said, re.MULTILINE)


def secrets(ended: Run, secret: str) -> set[str]:
    """All that may not be logged: the secret, its base64 wherever it begins, and what swaks said to log in."""
    (dialogue,) = re.findall(r"^ ~?-> AUTH .*?^<\S*\s+[25]", ended.said, re.MULTILINE | re.DOTALL)
    said = {line.split()[-1] for line in re.findall(r"^ ~?-> (.*)$", dialogue, re.MULTILINE)}
    # Of the base64, the first and the last sign may hold bits of what stands beside it.
    anywhere = {b64encode(b"\0" * before + secret.encode()).decode()[4:-4] for before in range(1, 4)}
    return {secret, b64encode(secret.encode()).decode()} | anywhere | (said - {"LOGIN", "CRAM-MD5"})


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_swaks_logs_in_through_the_shim(mechanism: str, receiver: Exim, tmp_path: Path) -> None:
    """Its mail arrives; with a wrong password it hears why it does not, word for word. Neither is logged."""
    before, log = receiver.count("many"), tmp_path / "log"
    with shim_process(receiver.port, log, "--log-level", "debug") as between:
        delivered = logs_in(between.port, mechanism, LOGIN.secret)
        refused = logs_in(between.port, mechanism, WRONG)
    assert delivered.status == 0, delivered.account
    poll(lambda: receiver.count("many") > before, "a mail stored")
    taken = [line for line in receiver.log.splitlines() if " <= " in line]
    assert f" A={mechanism.lower().replace('-', '_')}:{LOGIN.user} " in taken[-1]
    assert refused.status, refused.account
    assert (
        refusals(refused) == refusals(logs_in(receiver.port, mechanism, WRONG)) == ["535 Incorrect authentication data"]
    )
    logged = log.read_text()
    assert logged.count("MAIL FROM:<a@sender.example>") == 1
    for secret in secrets(delivered, LOGIN.secret) | secrets(refused, WRONG):
        assert secret not in logged
