"""How each receiver is started, inside its overlay: with a limit of 1,000,000 octets where that is a setting.

A receiver takes mail for one recipient at least. Nothing that it takes goes further than a folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.receiving import HOST
from tests.atlas.packages import MODULES, PYTHON, Package, debian, npm, pypi
from tests.atlas.world import HOST as NAME
from tests.peers.exim import exim
from tests.peers.postfix import MAILBOX_DOMAIN, postfix
from tests.peers.processes import accepts, end, poll
from tests.peers.programs import smtp_sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

PORT: Final = 2525
LIMIT_OCTETS: Final = 1_000_000
LOG: Final = Path("/tmp/receiver.log")
_LIMITED: Final = f"limit {LIMIT_OCTETS:,} octets"


@attrs.frozen(kw_only=True)
class Receiver:
    """A receiver: what is installed, and how it is started."""

    name: str
    package: Package
    start: Callable[[], AbstractContextManager[int]]
    """Starts it; its port."""
    recipient: str = f"postmaster@{NAME}"
    """Whom it takes mail for."""
    settings: str = ""
    base: str = ""
    """The one of these that speaks SMTP in it, if that is another one."""
    lmtp: bool = False


@contextlib.contextmanager
def serving(
    *command: str, port: int = PORT, environment: Mapping[str, str] | None = None, forks: bool = False
) -> Iterator[int]:
    """A program that accepts connections on `port`; one that `forks` goes on after its first process has ended."""
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:

        def is_ready() -> bool:
            if process.poll() is not None and not (forks and process.returncode == 0):
                raise RuntimeError(f"ended with {process.returncode}: {LOG.read_text(errors='replace')[-1500:]}")
            return accepts(port)

        poll(is_ready, f"{command[0]} accepts connections: {LOG.read_text(errors='replace')[-500:]}", 60.0)
        yield port
    finally:
        if process.poll() is None:
            end(process)


def python(text: str, *arguments: str) -> AbstractContextManager[int]:
    """A receiver that is a few lines of Python over a package."""
    return serving(PYTHON, "-c", text, *arguments)


def node(text: str) -> AbstractContextManager[int]:
    """A receiver that is a few lines for Node over a package."""
    # One that has lost a connection is to go on with the others.
    text = f"process.on('uncaughtException', () => {{}});{text}"
    return serving("node", "-e", text, environment={"NODE_PATH": str(MODULES)})


def perl(text: str) -> AbstractContextManager[int]:
    """A receiver that is a few lines of Perl over a package."""
    return serving("perl", "-e", text)


# -- mail transfer agents


@contextlib.contextmanager
def _postfix() -> Iterator[int]:
    with postfix(size_limit_octets=LIMIT_OCTETS) as receiver:
        yield receiver.port


@contextlib.contextmanager
def _exim() -> Iterator[int]:
    with exim(daemon=True, size_limit_octets=LIMIT_OCTETS) as receiver:
        yield receiver.port


@contextlib.contextmanager
def _opensmtpd() -> Iterator[int]:
    folder = Path("/tmp/opensmtpd")
    (folder / "mail").mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "mail").chmod(0o777)
    configuration = folder / "smtpd.conf"
    configuration.write_text(
        f"""smtp max-message-size "{LIMIT_OCTETS}"
table everybody {{ "@" = nobody }}
listen on {HOST} port {PORT} hostname {NAME}
action "keep" maildir "{folder}/mail" virtual <everybody>
match from any for any action "keep"
"""
    )
    with serving("smtpd", "-d", "-f", str(configuration)) as port:
        yield port


def _sendmail() -> AbstractContextManager[int]:
    options = [
        f"DaemonPortOptions=Port={PORT},Addr={HOST}",
        f"MaxMessageSize={LIMIT_OCTETS}",
        "PrivacyOptions=authwarnings",
    ]
    more = [word for option in options for word in ("-O", option)]
    return serving("/usr/sbin/sendmail-mta", "-bD", "-q1h", *more)


@contextlib.contextmanager
def _chasquid() -> Iterator[int]:
    folder = Path("/tmp/chasquid")
    domain = folder / "domains" / NAME
    domain.mkdir(parents=True)
    certificate = folder / "certs" / NAME
    certificate.mkdir(parents=True)
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={NAME}"]
    where = ["-keyout", str(certificate / "privkey.pem"), "-out", str(certificate / "fullchain.pem")]
    subprocess.run([*made, *where], check=True, capture_output=True)
    (domain / "aliases").write_text("postmaster: | /bin/true\n")
    (folder / "chasquid.conf").write_text(
        f'hostname: "{NAME}"\nsmtp_address: "{HOST}:{PORT}"\nmax_data_size_mb: 1\ndata_dir: "{folder}/data"\n'
        f'mail_delivery_agent_bin: "/bin/true"\nmail_log_path: "{folder}/log"\n'
    )
    with serving("chasquid", f"-config_dir={folder}") as port:
        yield port


@contextlib.contextmanager
def _dovecot_lmtp() -> Iterator[int]:
    folder = Path("/tmp/dovecot")
    folder.mkdir()
    configuration = folder / "dovecot.conf"
    configuration.write_text(
        f"""protocols = lmtp
base_dir = {folder}/run
log_path = {LOG}
ssl = no
hostname = {NAME}
lmtp_rcpt_check_quota = no
first_valid_uid = 1
mail_location = maildir:{folder}/mail
postmaster_address = postmaster@{NAME}
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={folder}/mail allow_all_users=yes
}}
service lmtp {{
  inet_listener lmtp {{
    address = {HOST}
    port = {PORT}
  }}
}}
"""
    )
    (folder / "mail").mkdir()
    (folder / "mail").chmod(0o777)
    with serving("dovecot", "-F", "-c", str(configuration)) as port:
        yield port


@contextlib.contextmanager
def _qpsmtpd() -> Iterator[int]:
    folder = Path("/tmp/qpsmtpd")
    folder.mkdir()
    (folder / "plugins").write_text(f"rcpt_ok\nqueue/maildir {folder}/mail\n")
    (folder / "rcpthosts").write_text(f"{NAME}\n")
    (folder / "me").write_text(f"{NAME}\n")
    (folder / "databytes").write_text(f"{LIMIT_OCTETS}\n")
    (folder / "plugin_dirs").write_text("/usr/share/qpsmtpd/plugins\n")
    (folder / "spool_dir").write_text(f"{folder}/spool\n")
    (folder / "spool").mkdir(mode=0o700)
    shutil.chown(folder / "spool", "nobody")
    (folder / "loglevel").write_text("4\n")
    folder.chmod(0o777)
    command = ["qpsmtpd-forkserver", "-p", str(PORT), "-l", HOST, "-u", "nobody"]
    with serving(*command, environment={"QPSMTPD_CONFIG": str(folder)}) as port:
        yield port


@contextlib.contextmanager
def _nginx() -> Iterator[int]:
    """Its own replies up to MAIL; from RCPT on, smtp-sink's."""
    folder = Path("/tmp/nginx")
    folder.mkdir()
    with smtp_sink() as sink:
        configuration = folder / "nginx.conf"
        configuration.write_text(
            f"""load_module /usr/lib/nginx/modules/ngx_mail_module.so;
daemon off;
pid {folder}/pid;
error_log {LOG};
events {{ }}
http {{
  access_log off;
  server {{
    listen {HOST}:8080;
    location / {{
      add_header Auth-Status OK;
      add_header Auth-Server {HOST};
      add_header Auth-Port {sink};
      return 200;
    }}
  }}
}}
mail {{
  server_name {NAME};
  auth_http {HOST}:8080/;
  server {{
    listen {HOST}:{PORT};
    protocol smtp;
    smtp_auth none;
    xclient off;
    smtp_capabilities "SIZE {LIMIT_OCTETS}" PIPELINING 8BITMIME;
  }}
}}
"""
        )
        with serving("nginx", "-c", str(configuration)) as port:
            yield port


@contextlib.contextmanager
def _proxsmtp() -> Iterator[int]:
    folder = Path("/tmp/proxsmtp")
    folder.mkdir()
    folder.chmod(0o777)
    with smtp_sink() as sink:
        configuration = folder / "proxsmtpd.conf"
        configuration.write_text(
            f"OutAddress: {HOST}:{sink}\nListen: {HOST}:{PORT}\nFilterCommand: /bin/cat\nFilterType: pipe\n"
            f"TempDirectory: {folder}\n"
        )
        with serving("proxsmtpd", "-f", str(configuration), "-d", "1") as port:
            yield port


@contextlib.contextmanager
def _haraka() -> Iterator[int]:
    folder = Path("/tmp/haraka")
    program = MODULES / ".bin" / "haraka"
    subprocess.run([program, "-i", folder], check=True, capture_output=True)
    (folder / "config" / "smtp.ini").write_text(f"listen={HOST}:{PORT}\nnodes=0\n")
    (folder / "config" / "plugins").write_text("rcpt_to.in_host_list\nqueue/test\n")
    (folder / "config" / "host_list").write_text(f"{NAME}\n")
    (folder / "config" / "me").write_text(f"{NAME}\n")
    usual = (MODULES / "Haraka" / "config" / "connection.ini").read_text()
    limited = re.sub(r"(?m)^;?bytes *=.*$", f"bytes={LIMIT_OCTETS}", usual)
    (folder / "config" / "connection.ini").write_text(limited)
    with serving("node", str(program), "-c", str(folder)) as port:
        yield port


_MTA: Final = (
    Receiver(
        name="Postfix smtpd",
        package=debian("postfix"),
        start=_postfix,
        recipient=f"contents@{MAILBOX_DOMAIN}",
        settings=_LIMITED,
    ),
    Receiver(name="Postfix smtp-sink", package=debian("postfix"), start=lambda: smtp_sink(port=PORT)),
    Receiver(
        name="Exim",
        package=debian("exim4-daemon-light"),
        start=_exim,
        recipient=f"contents@{MAILBOX_DOMAIN}",
        settings=_LIMITED,
    ),
    Receiver(name="OpenSMTPD", package=debian("opensmtpd"), start=_opensmtpd, settings=_LIMITED),
    Receiver(
        name="Sendmail",
        package=debian("sendmail-bin", "sendmail-cf", "sendmail-base", "m4"),
        start=_sendmail,
        settings=_LIMITED,
    ),
    Receiver(name="chasquid", package=debian("chasquid"), start=_chasquid, settings="limit 1 MB"),
    Receiver(name="Dovecot lmtp", package=debian("dovecot-lmtpd"), start=_dovecot_lmtp, lmtp=True),
    Receiver(name="qpsmtpd", package=debian("qpsmtpd"), start=_qpsmtpd, settings=_LIMITED),
    Receiver(
        name="nginx mail",
        package=debian("nginx", "libnginx-mod-mail", "postfix"),
        start=_nginx,
        settings=f"smtp_auth none, before Postfix' smtp-sink; {_LIMITED} told",
    ),
    Receiver(
        name="proxsmtp",
        package=debian("proxsmtp", "postfix"),
        start=_proxsmtp,
        base="Postfix smtp-sink",
        settings="before Postfix' smtp-sink",
    ),
    Receiver(name="Haraka", package=npm("Haraka"), start=_haraka, settings=_LIMITED),
)


def receivers() -> dict[str, Receiver]:
    """All of them: name -> receiver."""
    from tests.atlas.receivers_of_packages import LIBRARIES

    return {each.name: each for each in (*_MTA, *LIBRARIES)}


__all__ = [
    "HOST",
    "LIMIT_OCTETS",
    "PORT",
    "Receiver",
    "debian",
    "node",
    "npm",
    "perl",
    "pypi",
    "python",
    "receivers",
    "serving",
]
