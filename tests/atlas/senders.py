"""How each sender is called, inside its overlay, to send one mail, and what it believes then."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.mail import RECIPIENT, SENDER, Mail
from shimproxy.faulty.outcome import Believed, Outcome
from shimproxy.faulty.receiving import HOST
from tests.atlas.packages import Package, debian
from tests.atlas.world import HOST as NAME
from tests.peers import programs
from tests.peers.exim import exim
from tests.peers.postfix import postfix
from tests.peers.processes import Run, end, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Send = Callable[[int, Mail], Outcome]

_SECONDS: Final = 70.0


@attrs.frozen(kw_only=True)
class Sender:
    """A sender: what is installed, and how a mail is given to it."""

    name: str
    package: Package
    start: Callable[[], AbstractContextManager[Send]]
    """What sends one mail."""
    queues: bool = False
    """Whether it keeps a mail that is to be tried again."""


def believed(ended: Run, *, log: str = "") -> Outcome:
    """What a program believes whose exit status tells it."""
    text = f"{ended.account}\n{log}"
    if ended.status is None:
        return Outcome(Believed.HUNG, text)
    return Outcome(Believed.DELIVERED if ended.status == 0 else Believed.DEFERRED, text)


def called(name: str, package: Package, send: Send, *, queues: bool = False) -> Sender:
    """A sender that needs no preparation."""
    return Sender(name=name, package=package, start=lambda: contextlib.nullcontext(send), queues=queues)


def command(*words: str, given: bool = True) -> Send:
    """A command line that is given the mail; {port} and {file} stand for the port and for the mail as a file."""

    def send(port: int, mail: Mail) -> Outcome:
        path = Path("/tmp/mail")
        path.write_bytes(mail.text)
        filled = [word.replace("{port}", str(port)).replace("{file}", str(path)) for word in words]
        return believed(run(filled, mail.text if given else None, _SECONDS))

    return send


def configured(path: str, text: str, *words: str) -> Send:
    """The same with a file of settings, in which {port} stands for the port."""

    def send(port: int, mail: Mail) -> Outcome:
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("{port}", str(port)))
        file.chmod(0o644)
        return command(*words)(port, mail)

    return send


# -- mail transfer agents


@contextlib.contextmanager
def _postfix() -> Iterator[Send]:
    with postfix() as sender:
        yield sender.send


@contextlib.contextmanager
def _exim() -> Iterator[Send]:
    with exim() as sender:
        yield sender.send


def _opensmtpd(port: int, mail: Mail) -> Outcome:
    folder = Path("/tmp/opensmtpd")
    folder.mkdir(exist_ok=True)
    configuration, log = folder / "smtpd.conf", folder / "log"
    configuration.write_text(
        f'listen on socket\naction "relay" relay host "smtp://{HOST}:{port}"\nmatch from local for any action "relay"\n'
    )
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["smtpd", "-d", "-f", str(configuration)], stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        _wait(lambda: Path("/run/smtpd.sock").exists() or Path("/var/run/smtpd.sock").exists(), 10)
        given = run(["/usr/sbin/sendmail", "-f", SENDER, RECIPIENT], mail.text, _SECONDS)
        return _logged(lambda: log.read_text(errors="replace"), r"result=\"?(\w+)", given)
    finally:
        end(process)


_OF_A_LOG: Final = {
    "ok": Believed.DELIVERED,
    "sent": Believed.DELIVERED,
    "permfail": Believed.BOUNCED,
    "bounced": Believed.BOUNCED,
    "tempfail": Believed.DEFERRED,
    "deferred": Believed.DEFERRED,
}


def _wait(ready: Callable[[], bool], seconds: float) -> bool:
    last = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > last:
            return False
        time.sleep(0.1)
    return True


def _logged(log: Callable[[], str], result: str, given: Run) -> Outcome:
    """What the first result in a log says."""
    if not _wait(lambda: bool(re.search(result, log())), _SECONDS):
        return Outcome(Believed.HUNG, given.account + log())
    (found,) = re.search(result, log()).groups()  # type: ignore[union-attr]
    return Outcome(_OF_A_LOG.get(found.lower(), Believed.DEFERRED), log())


def _sendmail(port: int, mail: Mail) -> Outcome:
    folder = Path("/tmp/sendmail")
    folder.mkdir(exist_ok=True)
    (folder / "sendmail.mc").write_text(
        "include(`/usr/share/sendmail/cf/m4/cf.m4')\nOSTYPE(`debian')\n"
        f"define(`SMART_HOST', `esmtp:[{HOST}]')\ndefine(`ESMTP_MAILER_ARGS', `TCP $h {port}')\n"
        "define(`confTO_INITIAL', `30s')\ndefine(`confMIN_QUEUE_AGE', `1h')\nFEATURE(`nocanonify')\n"
        "MAILER(`smtp')\n"
    )
    made = run(["m4", str(folder / "sendmail.mc")])
    (folder / "sendmail.cf").write_text(made.said)
    queue = folder / "queue"
    queue.mkdir(exist_ok=True, mode=0o700)
    options = ["-O", f"QueueDirectory={queue}", "-O", "HostStatusDirectory="]
    words = ["-C", str(folder / "sendmail.cf"), *options, "-Am", "-odi", "-oi", "-v", "-f", SENDER, RECIPIENT]
    ended = run(["/usr/sbin/sendmail-mta", *words], mail.text, _SECONDS)
    if ended.status is None:
        return Outcome(Believed.HUNG, ended.account)
    # What becomes of a notice to postmaster is not asked.
    fates = re.findall(rf"^{re.escape(RECIPIENT)}\.\.\. (Sent|Deferred)", ended.account, re.MULTILINE)
    belief = {"Sent": Believed.DELIVERED, "Deferred": Believed.DEFERRED}.get(
        fates[-1] if fates else "", Believed.BOUNCED
    )
    return Outcome(belief, ended.account)


def _nullmailer(port: int, mail: Mail) -> Outcome:
    Path("/etc/nullmailer/remotes").write_text(f"{HOST} smtp --port={port}\n")
    Path("/etc/nullmailer/sendtimeout").write_text("60\n")
    log = Path("/tmp/nullmailer.log")
    run(["sh", "-c", "rm -f /var/spool/nullmailer/queue/* /var/spool/nullmailer/failed/*"])
    given = run(["nullmailer-inject", "-f", SENDER, RECIPIENT], mail.text)
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["nullmailer-send"], stdin=subprocess.DEVNULL, stdout=file, stderr=file, user="mail", group="mail"
        )
    try:
        outcome = _logged(lambda: log.read_text(errors="replace"), r"(Sent|Sending failed|Failed)", given)
    finally:
        end(process)
    if outcome.believed is Believed.DEFERRED and any(Path("/var/spool/nullmailer/failed").iterdir()):
        return attrs.evolve(outcome, believed=Believed.BOUNCED)
    return outcome


def _is_connected(port: int) -> bool:
    """Whether anybody is connected to it: the one network here is its own."""
    established = f":{port:04X} 01 "
    return any(established in " ".join(line.split()[2:5]) for line in Path("/proc/net/tcp").read_text().splitlines())


def _dma(port: int, mail: Mail) -> Outcome:
    """It logs to syslog alone: what it believes is what lies in its queue, and in the mailbox of who has sent it."""
    Path("/etc/dma/dma.conf").write_text(f"SMARTHOST {HOST}\nPORT {port}\nMAILNAME {NAME}\nFULLBOUNCE\n")
    box = Path("/var/mail/root")
    run(
        [
            "sh",
            "-c",
            "rm -rf /var/spool/dma/[A-Z]*; : >/var/mail/root; chgrp mail /var/mail/root; chmod 660 /var/mail/root",
        ]
    )
    # It stays, and tries again: only one that stays connected waits for the receiver.
    dma = ["/usr/sbin/dma", "-D", "-f", "root", RECIPIENT]
    with subprocess.Popen(dma, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            process.communicate(mail.text, _SECONDS / 2)
        except subprocess.TimeoutExpired:
            waits = _is_connected(port)
            process.kill()
            if waits:
                return Outcome(Believed.HUNG, "")
    if box.stat().st_size:
        return Outcome(Believed.BOUNCED, box.read_text(errors="replace"))
    queued = [each for each in Path("/var/spool/dma").iterdir() if each.name[:1] in "QM"]
    return Outcome(Believed.DEFERRED if queued else Believed.DELIVERED, "")


_MTA: Final = (
    Sender(name="Postfix smtp", package=debian("postfix"), start=_postfix, queues=True),
    Sender(name="Exim smtp", package=debian("exim4-daemon-light"), start=_exim, queues=True),
    called("OpenSMTPD relay", debian("opensmtpd"), _opensmtpd, queues=True),
    called("Sendmail smtp", debian("sendmail-bin", "sendmail-cf", "sendmail-base", "m4"), _sendmail, queues=True),
    called("nullmailer", debian("nullmailer"), _nullmailer, queues=True),
    called("dma", debian("dma"), _dma, queues=True),
    called(
        "ssmtp",
        debian("ssmtp"),
        configured(
            "/etc/ssmtp/ssmtp.conf", f"mailhub={HOST}:{{port}}\nhostname={NAME}\n", "/usr/sbin/ssmtp", RECIPIENT
        ),
    ),
    called(
        "esmtp",
        debian("esmtp"),
        configured("/etc/esmtprc", f"hostname = {HOST}:{{port}}\n", "/usr/bin/esmtp", "-f", SENDER, RECIPIENT),
    ),
    called("msmtp", debian("msmtp"), programs.msmtp),
    called("curl", debian("curl"), programs.curl),
    called("swaks", debian("swaks"), programs.swaks),
    called("fetchmail", debian("fetchmail"), programs.fetchmail, queues=True),
    called(
        "smtp-source",
        debian("postfix"),
        lambda port, mail: believed(programs.smtp_source(port, "-l", str(len(mail.data)))),
    ),
    called(
        "s-nail",
        debian("s-nail"),
        command(
            *("s-nail", "-n", "-S", "v15-compat", "-S", f"mta=smtp://{HOST}:{{port}}", "-S", "smtp-auth=none"),
            *("-S", "sendwait", "-r", SENDER, "-s", "atlas", RECIPIENT),
        ),
    ),
    called(
        "mailutils mail",
        debian("mailutils"),
        command("mail", "-E", f"set sendmail=smtp://{HOST}:{{port}}", "-r", SENDER, "-s", "atlas", RECIPIENT),
    ),
    called(
        "mutt",
        debian("mutt"),
        command(
            *(
                "mutt",
                "-n",
                "-F",
                "/dev/null",
                "-e",
                f"set smtp_url=smtp://{HOST}:{{port}} ssl_starttls=no ssl_force_tls=no",
            ),
            *("-e", f"set from={SENDER} use_envelope_from=yes copy=no", "-s", "atlas", "--", RECIPIENT),
        ),
    ),
    called(
        "sendEmail",
        debian("sendemail"),
        command(
            *("sendemail", "-f", SENDER, "-t", RECIPIENT, "-u", "atlas", "-s", f"{HOST}:{{port}}"),
            *("-o", "tls=no", "-o", "message-file={file}"),
            given=False,
        ),
    ),
)


def senders() -> dict[str, Sender]:
    """All of them: name -> sender."""
    from tests.atlas.senders_of_packages import LIBRARIES

    return {each.name: each for each in (*_MTA, *LIBRARIES)}


__all__ = ["HOST", "Sender", "called", "command", "debian", "os", "senders"]
