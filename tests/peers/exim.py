"""An Exim of the tests' own: configuration, spool and mailboxes in a folder that goes with it.

As a sender it believes what its log says; each mail is delivered, or tried once, by a process in the foreground. A
recipient's domain tells it where to: `p2525.example` is port 2525 of this machine. As a receiver it takes mail for
the same mailboxes as Postfix, from everybody or from those who log in. It looks up no names: where no DNS server
answers, its EHLO reply takes at least 5 s.

Debian's package conflicts with Postfix, so that the binary may stand anywhere: SHIMPROXY_EXIM tells where. It has
the user Debian-exim built in.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.mail import SENDER, Mail
from shimproxy.faulty.outcome import Believed, Outcome
from tests.peers.postfix import MAILBOX_DOMAIN, MAILBOXES
from tests.peers.processes import free_port, missing, need_root, run, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy import Login
    from tests.peers.tls import Certificate

USER: Final = "Debian-exim"

_CONFIGURATION: Final = r"""
primary_hostname = exim.example
exim_path = {program}
spool_directory = {folder}/spool
log_file_path = {folder}/log-%s
exim_user = {user}
exim_group = {group}
never_users =
keep_environment =
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
pid_file_path = {folder}/exim.pid
tls_advertise_hosts = {tls_hosts}
tls_on_connect_ports = {tls_ports}
tls_certificate = {folder}/certificate.pem
tls_privatekey = {folder}/key.pem
tls_verify_hosts = {verified_hosts}
tls_verify_certificates = {folder}/certificate.pem
auth_advertise_hosts = {auth_hosts}
rfc1413_query_timeout = 0s
host_lookup =
helo_lookup_domains =
chunking_advertise_hosts = *
pipelining_advertise_hosts = *
smtp_accept_max = 0
smtp_accept_max_per_connection = 100000
smtp_accept_queue_per_connection = 0
message_size_limit = {size_limit_octets}
accept_8bitmime = true
bounce_return_message = false
check_spool_space = 0
check_spool_inodes = 0
acl_smtp_rcpt = {rcpt_acl}
acl_smtp_data = accept
trusted_users = root

begin acl
accept:
  accept
authenticated:
  accept authenticated = *

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_advertise_condition = {offers_password}
  server_prompts = :
  server_condition = ${{if and {{{{eq {{$auth2}}{{{login_user}}}}} {{eq {{$auth3}}{{{login_secret}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_advertise_condition = {offers_password}
  server_prompts = Username:: : Password::
  server_condition = ${{if and {{{{eq {{$auth1}}{{{login_user}}}}} {{eq {{$auth2}}{{{login_secret}}}}}}}}}
  server_set_id = $auth1
cram_md5:
  driver = cram_md5
  public_name = CRAM-MD5
  server_advertise_condition = {offers_cram_md5}
  server_secret = ${{if eq {{$auth1}}{{{login_user}}} {{{login_secret}}} fail}}
  server_set_id = $auth1
xoauth2:
  driver = plaintext
  public_name = XOAUTH2
  server_advertise_condition = {offers_xoauth2}
  server_prompts = :
  server_condition = ${{if eq {{$auth1}}{{user={login_user}\x01auth=Bearer {login_secret}\x01\x01}}}}
  server_set_id = {login_user}

begin routers
relayed:
  driver = manualroute
  condition = ${{if >{{{relay_port}}}{{0}}}}
  domains = {domain}
  route_data = 127.0.0.1::{relay_port}
  self = send
  transport = smtp
other:
  driver = manualroute
  domains = \N^p[0-9]+\.example$\N
  route_data = ${{sg{{$domain}}{{\N^p([0-9]+)\.example$\N}}{{127.0.0.1::\$1}}}}
  self = send
  transport = smtp
bounces:
  driver = redirect
  senders = :
  data = :blackhole:
sender:
  driver = redirect
  domains = sender.example
  data = :blackhole:
mailbox:
  driver = accept
  domains = {domain}
  local_parts = {mailboxes}
  transport = maildir

begin transports
smtp:
  driver = smtp
  hosts_try_chunking = *
  message_linelength_limit = 100000
  hosts_avoid_tls = *
  hosts_try_dane =
  dnssec_request_domains =
maildir:
  driver = appendfile
  maildir_format
  directory = {folder}/mail/$local_part_data
  create_directory
  user = {user}
  group = {group}
  delivery_date_add = false
  envelope_to_add = false
  return_path_add = false

begin retry
* * F,1d,1h
"""


@attrs.frozen
class Exim:
    """An Exim that can be called, and its daemon's port."""

    program: str
    folder: Path
    port: int
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)

    # -- as a sender

    def send(self, port: int, mail: Mail) -> Outcome:
        """Hand a mail to Exim for a receiver on `port`; what it believes after its first attempt."""
        recipient = f"recipient-{next(self._numbers)}@p{port}.example"
        ended = run(
            [self.program, "-C", str(self.folder / "exim.conf"), "-odf", "-oi", "-f", SENDER, recipient],
            given=mail.text,
        )
        if ended.status is None:
            return Outcome(Believed.HUNG, ended.account)
        lines = [line for line in self.log.splitlines() if recipient in line]
        for line in lines:
            if f" => {recipient} " in line:
                return Outcome(Believed.DELIVERED, line)
            if f" ** {recipient} " in line:
                return Outcome(Believed.BOUNCED, line)
            if f" == {recipient} " in line:
                return Outcome(Believed.DEFERRED, line)
        raise AssertionError(f"Exim did not try: {ended.account}\n{self.log[-2000:]}")

    @property
    def log(self) -> str:
        """Its log so far, newlines of replies made into newlines again."""
        path = self.folder / "log-main"
        return path.read_text(errors="replace").replace("\\n", " ") if path.exists() else ""

    # -- as a receiver

    def mailbox(self, name: str) -> list[bytes]:
        """The mails that it has delivered to `name`, in no order."""
        return [path.read_bytes() for path in (self.folder / "mail" / name / "new").glob("*")]

    def count(self, name: str) -> int:
        """How many those are."""
        return sum(1 for _ in (self.folder / "mail" / name / "new").glob("*"))


def _program() -> str:
    path = os.environ.get("SHIMPROXY_EXIM") or shutil.which("exim4") or shutil.which("exim4", path="/usr/sbin")
    if not path or not Path(path).exists():
        missing(
            "exim4 is not installed",
            "it conflicts with Postfix: apt-get download exim4-base exim4-daemon-light, "
            "dpkg -x each into a folder, SHIMPROXY_EXIM=FOLDER/usr/sbin/exim4",
        )
    return path


@contextlib.contextmanager
def exim(
    *,
    daemon: bool = False,
    size_limit_octets: int = 0,
    relay_port: int = 0,
    login: Login | None = None,
    certificate: Certificate | None = None,
    wants_certificate: bool = False,
    implicit_tls: bool = False,
    mechanism: str = "",
) -> Iterator[Exim]:
    """An Exim of its own, until the end of the block; with `daemon` it listens too.

    Mailboxes are its own, unless `relay_port` says where mails to them go. With `login` it takes mail only from who
    has logged in with that, and with a certificate lets them do so under TLS only. It may want one of its clients too,
    or begin with TLS. It offers that `mechanism` alone, if one is given: for XOAUTH2 the secret is the token.
    """
    program = _program()
    need_root()
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        missing(f"Exim's user {USER} does not exist", f"useradd --system {USER}")
    folder = Path(tempfile.mkdtemp(prefix="shimproxy-exim-"))
    try:
        folder.chmod(0o755)
        os.chown(folder, user.pw_uid, user.pw_gid)
        for name in ("spool", "mail"):
            (folder / name).mkdir(mode=0o755)
            os.chown(folder / name, user.pw_uid, user.pw_gid)
        port = free_port()
        configuration = folder / "exim.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                program=program,
                folder=folder,
                user=USER,
                group=user.pw_gid,
                port=port,
                domain=MAILBOX_DOMAIN,
                mailboxes=" : ".join(MAILBOXES),
                size_limit_octets=size_limit_octets,
                relay_port=relay_port,
                login_user=login.user if login else "",
                login_secret=login.secret if login else "",
                offers_password=str(not mechanism).lower(),
                offers_cram_md5=str(mechanism in ("", "CRAM-MD5")).lower(),
                offers_xoauth2=str(mechanism == "XOAUTH2").lower(),
                rcpt_acl="authenticated" if login else "accept",
                auth_hosts=("${if def:tls_in_cipher {*}}" if certificate else "*") if login else "",
                tls_hosts="*" if certificate else "",
                verified_hosts="*" if wants_certificate else "",
                tls_ports=port if implicit_tls else "",
            )
        )
        if certificate:
            # It reads them when it is root no more, who alone may enter the tests' own folders.
            shutil.copy(certificate.certificate, folder / "certificate.pem")
            shutil.copy(certificate.key, folder / "key.pem")
        running = Exim(program, folder, port)
        if daemon:
            with started([program, "-C", str(configuration), "-bdf"], port):
                yield running
        else:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)
