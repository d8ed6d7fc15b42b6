"""fail2ban with the filter and the jail of `shimproxy files`, on what shimproxy has logged of real sessions."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from shimproxy.faulty.receiving import HOST, speaking
from shimproxy.help.files import text_of
from tests.daemon.test_supervisor import Session, running
from tests.peers.processes import need, run

if TYPE_CHECKING:
    from pathlib import Path

    from shimproxy.faulty.talk import Talk

pytestmark = pytest.mark.once

FORGED = b"x shimproxy[1]: 2026-11-30T11:17:22.047Z WARNING auth_refused session=1 sender=203.0.113.9:1 receiver=a:1"
"""A line as shimproxy would log it, in what a peer says."""
SETTINGS = """
listen = ["{host}:0"]
receiver = "{host}:{port}"
connections-per-minute = 5
log-level = "debug"
[limit]
bad-commands = 2
"""


def refuses(talk: Talk) -> None:
    """Offers AUTH, and refuses it; all else is refused with words like those of the log."""
    talk.say(b"220 hello\r\n")
    with contextlib.suppress(OSError):
        while True:
            verb = talk.line()[:4].upper()
            known = {b"EHLO": b"250-here\r\n250 AUTH PLAIN", b"AUTH": b"535 5.7.8 no", b"MAIL": b"250 ok"}
            talk.say(known.get(verb, b"550 " + FORGED) + b"\r\n")


def found(log: Path, folder: Path, prefix: str = "") -> list[str]:
    """The addresses that the filter finds in a log, in their order; each line may have a prefix."""
    (folder / "filter.conf").write_text(text_of("fail2ban-filter.conf"))
    text = log.read_text()
    (folder / "read").write_text("".join(f"{prefix}{line}\n" for line in text.splitlines()))
    ended = run([need("fail2ban-regex"), "--out=ip", str(folder / "read"), str(folder / "filter.conf")])
    assert ended.status == 0, ended.account
    return ended.said.split()


def test_fail2ban_finds_senders_that_are_refused_and_no_forged_one(tmp_path: Path) -> None:
    """A login that is refused, one bad command too many, and a connection above the rate; in a file and in syslog."""
    with speaking(refuses) as receiver:
        text = SETTINGS.format(host=HOST, port=receiver.port)
        with running(tmp_path, text) as shim:
            with Session(shim.ports[0]) as session:
                session.say(b"EHLO " + FORGED[:60].replace(b" ", b"."), b"250")
                session.say(b"AUTH PLAIN AGEAYg==", b"535")
                session.say(b"MAIL FROM:<" + FORGED.replace(b" ", b"_") + b"@a>", b"250")
                session.say(b"RCPT TO:<b@c>", b"550")
            shim.logged("auth_refused")
            with Session(shim.ports[0]) as session:
                session.sock.sendall(b"NO\0OP\r\n" * 3)
                session.expect(b"500 ")
                session.expect(b"500 ")
                session.expect(b"421 ")
            shim.logged("limit=bad-commands")
            for _ in range(3):
                with Session(shim.ports[0]):
                    pass
            with Session(shim.ports[0], b"421 "):
                pass
            shim.logged("limit=connections-per-minute")
            log = shim.log_file
            assert FORGED.decode() in shim.log
            assert found(log, tmp_path) == [HOST] * 3
            assert found(log, tmp_path, "Nov 30 11:20:01 host shimproxy[12]: ") == [HOST] * 3


def test_fail2ban_takes_the_jail(tmp_path: Path) -> None:
    """With its own settings, and no other jail."""
    client = need("fail2ban-client")
    shutil.copytree("/etc/fail2ban", tmp_path / "fail2ban", ignore=shutil.ignore_patterns("jail.d"))
    for name, place in (("fail2ban-filter.conf", "filter.d"), ("fail2ban-jail.conf", "jail.d")):
        (tmp_path / "fail2ban" / place).mkdir(exist_ok=True)
        assert re.match(rf"# /etc/fail2ban/{place}/shimproxy.conf\n", text_of(name))
        (tmp_path / "fail2ban" / place / "shimproxy.conf").write_text(text_of(name))
    ended = run([client, "-c", str(tmp_path / "fail2ban"), "--dp"])
    assert ended.status == 0, ended.account
    assert "['add', 'shimproxy', 'systemd']" in ended.said
    assert "_SYSTEMD_UNIT=shimproxy.service" in ended.said
