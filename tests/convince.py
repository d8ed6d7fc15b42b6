"""The table at the top of README.md: what real senders make of a refusal in mid-mail, without shimproxy and with it.

`python -m tests.convince` plays it: each sender sends one mail of 3 MB to Postfix' `smtp-sink -A 0`, which refuses it
after its 354 and reads no more; once directly, and once through shimproxy. It writes the table where its markers are.
Postfix needs root.
"""

from __future__ import annotations

import contextlib
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.mail import Mail, lines
from shimproxy.faulty.outcome import Believed
from tests.pages import table, write
from tests.peers.postfix import postfix
from tests.peers.processes import need, run
from tests.peers.programs import curl, msmtp, smtp_sink, swaks
from tests.peers.senders import python_smtplib
from tests.peers.shim import shim_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shimproxy.faulty.outcome import Outcome

OCTETS: Final = 3_000_000
_REFUSAL: Final = "550 This violates SMTP"
_ERROR: Final = r"(?i)broken pipe|reset|SIG[A-Z]+|disconnected|lost connection|timed out"
_BELIEFS: Final = {
    Believed.DELIVERED: "delivered",
    Believed.BOUNCED: "refused",
    Believed.DEFERRED: "try again",
    Believed.HUNG: "hangs",
}
_WORDS_MOST: Final = 110


@attrs.frozen
class _Sender:
    name: str
    version: str
    send: Callable[[int, Mail], Outcome]


def _version(program: str, *arguments: str) -> str:
    ended = run([need(program), *arguments])
    found = re.search(r"\d[\w.]*", ended.said.partition("\n")[0])
    assert found, ended.account
    return found[0]


@contextlib.contextmanager
def _senders() -> Iterator[list[_Sender]]:
    with postfix() as mta:
        yield [
            _Sender("curl", _version("curl", "--version"), curl),
            _Sender("msmtp", _version("msmtp", "--version"), msmtp),
            _Sender("swaks", _version("swaks", "--version"), swaks),
            _Sender("smtplib", f"of Python {platform.python_version()}", python_smtplib),
            _Sender("Postfix", _version("postconf", "-d", "-h", "mail_version"), mta.send),
        ]


def _cell(outcome: Outcome) -> str:
    """What the sender believes, and its own words for why: the refusal if it tells it, else the first error."""
    said = [line.strip(" <*-=") for line in outcome.text.splitlines() if line.strip()]
    telling = [line for words in (_REFUSAL, _ERROR) for line in said if re.search(words, line)]
    return f"{_BELIEFS[outcome.believed]}: `{_shown((telling or said or [''])[0])}`"


def _shown(words: str) -> str:
    """Without what differs from run to run, and not too long."""
    return re.sub(r"\b127\.0\.0\.1(\[127\.0\.0\.1\])?(:\d+)?", "receiver", words)[:_WORDS_MOST]


def measured() -> str:
    """The table; each mail is sent."""
    mail = Mail("3 MB", OCTETS, lines(OCTETS))
    with (
        tempfile.TemporaryDirectory() as folder,
        smtp_sink("-A", "0") as sink,
        shim_process(sink, Path(folder) / "log") as shim,
        _senders() as senders,
    ):
        rows = [
            (f"{sender.name} {sender.version}", *(_cell(sender.send(port, mail)) for port in (sink, shim.port)))
            for sender in senders
        ]
    return table(["sender", "what it believes without shimproxy", "with shimproxy"], rows)


def main() -> int:
    """Measure, and write the table."""
    text = measured()
    print(text, end="")
    write({"convince": text})
    return 0


if __name__ == "__main__":
    sys.exit(main())
