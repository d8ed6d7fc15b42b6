"""An OpenSMTPD of the tests' own: configuration, queue and maildir in a folder that goes with it.

It takes one EHLO or HELO until it is back at its greeting, and says "503 Already identified" to the next.

Debian's package conflicts with Postfix, so that the binary may stand anywhere: SHIMPROXY_OPENSMTPD tells where. Its
users, its queue and its helpers have places built in; it has them in a mount namespace of its own.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.receiving import HOST
from tests.peers.processes import free_port, missing, need_root, poll, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.peers.tls import Certificate

_USERS: Final = ("opensmtpd", "opensmtpq")
_FIRST_ID: Final = 64_100
_PLACES: Final = ("/run", "/var/lib", "/var/spool")
_QUEUE: Final = "/var/spool/smtpd"
_ROOT: Final = "/var/lib/opensmtpd/empty"

_CONFIGURATION: Final = """
table everybody {{ "@" = nobody }}
{more}
listen on {host} port {port} hostname opensmtpd.example {how}
action "keep" maildir "{folder}/mail" virtual <everybody>
match from any for any action "keep"
"""


@attrs.frozen
class OpenSmtpd:
    """An OpenSMTPD that accepts connections, and what it has delivered."""

    port: int
    _folder: Path

    @property
    def count(self) -> int:
        """How many mails it has delivered."""
        return sum(1 for _ in (self._folder / "mail" / "new").glob("*"))


def _program() -> Path:
    path = os.environ.get("SHIMPROXY_OPENSMTPD")
    if not path or not Path(path).exists():
        missing(
            "OpenSMTPD is not installed",
            "it conflicts with Postfix: apt-get download opensmtpd, dpkg -x it into a folder, "
            "SHIMPROXY_OPENSMTPD=FOLDER/usr/sbin/smtpd",
        )
    return Path(path)


def _in_its_place(program: Path, folder: Path) -> str:
    """The shell's lines that give it users, a queue and helpers, and begin it."""
    lines = ["set -e"]
    for name, line in (("passwd", "{0}:x:{1}:{1}::/:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")):
        given = Path("/etc", name).read_text()
        for number, user in enumerate(_USERS, _FIRST_ID):
            given += "" if f"\n{user}:" in given else line.format(user, number)
        (folder / name).write_text(given)
        lines.append(f"mount --bind {folder / name} /etc/{name}")
    lines += [f"mount -t tmpfs own {place}" for place in _PLACES]
    lines.append(f"mkdir -p {_ROOT}")
    lines.append(f"mkdir -m 711 {_QUEUE}")
    lines.append(f"mount --bind {shlex.quote(str(program.parents[1] / 'libexec'))} /usr/libexec")
    lines.append(f"exec {shlex.quote(str(program))} -d -f {folder / 'smtpd.conf'}")
    return "\n".join(lines)


@contextlib.contextmanager
def opensmtpd(*, certificate: Certificate | None = None) -> Iterator[OpenSmtpd]:
    """An OpenSMTPD of its own, until the end of the block, that takes mail for everybody.

    With a certificate it offers STARTTLS. What that is worth depends: Debian 12's 6.8.0 can't, with OpenSSL 3 ("missing
    private key").
    """
    program = _program()
    need_root()
    folder = Path(tempfile.mkdtemp(prefix="shimproxy-opensmtpd-"))
    try:
        folder.chmod(0o755)
        (folder / "mail").mkdir()
        shutil.chown(folder / "mail", "nobody")
        more = how = ""
        if certificate:
            for name, file in (("cert", certificate.certificate), ("key", certificate.key)):
                shutil.copy(file, folder / name)
                (folder / name).chmod(0o600)
                more += f'pki own {name} "{folder / name}"\n'
            how = "tls pki own"
        port = free_port()
        text = _CONFIGURATION.format(more=more, host=HOST, port=port, how=how, folder=folder)
        (folder / "smtpd.conf").write_text(text)
        command = ["unshare", "--mount", "--propagation=private", "sh", "-c", _in_its_place(program, folder)]
        with started(command, port):
            yield OpenSmtpd(port, folder)
    finally:
        # Those of its children who deliver end a little after it, and write until then.
        poll(lambda: _is_removed(folder), "the folder of an OpenSMTPD removed")


def _is_removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
