"""Programs that send mail and say what became of it: swaks, curl, msmtp, fetchmail; and Postfix' pair for tests.

What a program believes is its exit status, or, with fetchmail, what it leaves in the mailbox; what it says of the reply
is its own account, whatever the wording.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from shimproxy.faulty.mail import RECIPIENT, SENDER, Mail
from shimproxy.faulty.outcome import Believed, Outcome, believed_of
from shimproxy.faulty.receiving import HOST
from tests.peers.pop3 import mailbox
from tests.peers.processes import Run, free_port, need, run, started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def _outcome(ended: Run, replies: Sequence[str]) -> Outcome:
    """What a program believes: delivered if its status is 0, else what the last refusal that it tells of says."""
    if ended.status is None:
        return Outcome(Believed.HUNG, ended.account)
    if ended.status == 0:
        return Outcome(Believed.DELIVERED, ended.account)
    refusals = [reply for reply in replies if reply[0] in "45"]
    # Without one it has lost the connection: something to try again.
    return Outcome(believed_of(refusals[0].encode("latin-1")) if refusals else Believed.DEFERRED, ended.account)


@contextlib.contextmanager
def _file(octets: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(octets)
        file.flush()
        yield file.name


def swaks(port: int, mail: Mail) -> Outcome:
    """Perl, reads after the final dot."""
    with _file(mail.text.removesuffix(b"\n")) as path:  # it puts a line end before the final dot
        where = ["--server", HOST, "--port", str(port), "--helo", "swaks.example", "--timeout", "30"]
        what = ["--from", SENDER, "--to", RECIPIENT, "--data", f"@{path}", "--suppress-data"]
        ended = run([need("swaks"), *where, *what])
    return _outcome(ended, re.findall(r"^<\S*\s+(\d\d\d[ -].*)$", ended.said, re.MULTILINE))


def curl(port: int, mail: Mail) -> Outcome:
    """libcurl, sends and receives on a non-blocking socket, reads the reply when all is uploaded."""
    with _file(mail.crlf_text) as path:
        where = [f"smtp://{HOST}:{port}", "--silent", "--show-error", "--verbose", "--max-time", "30"]
        what = ["--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "--upload-file", path]
        ended = run([need("curl"), *where, *what])
    return _outcome(ended, re.findall(r"^< (\d\d\d[ -].*)$", ended.complained, re.MULTILINE))


def msmtp(port: int, mail: Mail) -> Outcome:
    """stdio on a blocking socket."""
    where = ["--file=/dev/null", f"--host={HOST}", f"--port={port}", "--tls=off", "--auth=off", "--timeout=30"]
    ended = run([need("msmtp"), *where, f"--from={SENDER}", RECIPIENT], given=mail.text)
    return _outcome(ended, re.findall(r"server message: (\d\d\d[ -].*)$", ended.complained, re.MULTILINE))


# -- fetchmail, which takes its mails from a mailbox


_FETCHMAILRC = """
set no syslog
set {softbounce}softbounce
set idfile "{folder}/ids"
set pidfile "{folder}/pid"
poll {host} protocol pop3 service {pop3_port} timeout 30
  username "user" password "password"
  smtphost "{host}/{port}" smtpname "{recipient}"
  sslproto "" fetchall nokeep
"""


def fetch(port: int, mails: Sequence[bytes], *, keeps_refused: bool = True) -> tuple[Run, set[int]]:
    """One poll of a mailbox with these mails; what fetchmail said, and the numbers of those that it has deleted.

    By default fetchmail keeps what was refused for good (`softbounce`).
    """
    # To the null reverse-path nothing is bounced: fetchmail would give that to port 25 of this machine.
    fetched = [b"Return-Path: <>\r\n" + mail for mail in mails]
    with tempfile.TemporaryDirectory() as folder, mailbox(fetched) as box:
        settings = Path(folder) / "fetchmailrc"
        settings.touch(0o600)  # it reads none that others may read
        settings.write_text(
            _FETCHMAILRC.format(
                folder=folder,
                host=HOST,
                port=port,
                pop3_port=box.port,
                recipient=RECIPIENT,
                softbounce="" if keeps_refused else "no ",
            )
        )
        ended = run([need("fetchmail"), "--fetchmailrc", str(settings), "--nodetach", "--invisible", "--verbose"])
    assert "reading message" in ended.said, f"fetchmail did not try: {ended.account}"
    return ended, box.deleted


def fetchmail(port: int, mail: Mail) -> Outcome:
    """C, a blocking socket, line by line as it reads them; what was refused for good it deletes."""
    ended, deleted = fetch(port, [mail.data], keeps_refused=False)
    if ended.status is None:
        return Outcome(Believed.HUNG, ended.account)
    if not deleted:
        return Outcome(Believed.DEFERRED, ended.account)
    refused = re.search(r"SMTP error: 5\d\d", ended.complained)
    return Outcome(Believed.BOUNCED if refused else Believed.DELIVERED, ended.account)


# -- Postfix' programs for tests


@contextlib.contextmanager
def smtp_sink(*arguments: str, port: int = 0) -> Iterator[int]:
    """A receiver that takes any mail, or what its arguments say; its port. If it is given one, at all addresses."""
    where = f":{port}" if port else f"{HOST}:{(port := free_port())}"
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with started([need("smtp-sink"), *user, *arguments, where, "1000"], port):
        yield port


def smtp_source(port: int, *arguments: str, host: str = HOST) -> Run:
    """Send as its arguments say."""
    command = [need("smtp-source"), "-f", SENDER, "-t", RECIPIENT, *arguments, f"{host}:{port}"]
    return run(command, seconds=120)
