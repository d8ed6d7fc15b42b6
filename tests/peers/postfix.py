"""A Postfix of the tests' own: configuration, queue and mailboxes in a folder that goes with it.

As a sender it believes what its log says, and a recipient's domain tells it where to: `p2525.example` is port 2525
of this machine. As a receiver it takes mail for a few mailboxes at `mailbox.example` into maildirs.

1. One master process, in the foreground, ended by its pid; it ends its children.
2. It resolves no names, caches no connections, tries no mail a second time and bounces to nobody.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.outcome import Believed, Outcome
from shimproxy.faulty.receiving import HOST
from tests.peers.processes import free_port, need, need_root, poll, run, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.faulty.mail import Mail
    from tests.peers.sasl import Sasl

MAILBOX_DOMAIN: Final = "mailbox.example"
MAILBOXES: Final = ("contents", "large", "many", "smuggled")
_OUTCOME_SECONDS: Final = 60.0
_BELIEVED: Final = {"sent": Believed.DELIVERED, "bounced": Believed.BOUNCED, "deferred": Believed.DEFERRED}

_MAIN: Final = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
meta_directory = /etc/postfix
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
myhostname = postfix.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
smtp_dns_support_level = disabled
smtp_host_lookup = native
transport_maps = texthash:{folder}/transport
smtp_connection_cache_on_demand = no
smtp_tls_security_level = none
smtputf8_enable = no
notify_classes =
queue_run_delay = 10000s
minimal_backoff_time = 10000s
message_size_limit = {size_limit_octets}
mailbox_size_limit = 0
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/mailboxes
virtual_mailbox_limit = 0
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
{more}
"""

_MASTER: Final = """
127.0.0.1:{port} inet n - n - {smtpd}
pickup    unix  n - n 60    1 pickup
cleanup   unix  n - n -     0 cleanup
qmgr      unix  n - n 10000 1 qmgr
rewrite   unix  - - n -     - trivial-rewrite
bounce    unix  - - n -     0 bounce
defer     unix  - - n -     0 bounce
tlsmgr    unix  - - n 1000? 1 tlsmgr
trace     unix  - - n -     0 bounce
verify    unix  - - n -     1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n -     - proxymap
smtp      unix  - - n -     - smtp
lmtp      unix  - - n -     - lmtp
error     unix  - - n -     - error
retry     unix  - - n -     - error
virtual   unix  - n n -     - virtual
anvil     unix  - - n -     1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""


@attrs.frozen
class Postfix:
    """A Postfix that runs."""

    folder: Path
    port: int
    """Where its smtpd listens."""
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)

    # -- as a sender

    def send(self, port: int, mail: Mail) -> Outcome:
        """Hand a mail to Postfix for a receiver on `port`; what it believes after its first attempt."""
        (outcome,) = self._send(mail, f"recipient-{next(self._numbers)}@p{port}.example")
        return outcome

    def send_by_lmtp(self, port: int, mail: Mail, count: int) -> list[Outcome]:
        """The same for that many recipients of one mail, by LMTP, in the order in which Postfix names them."""
        return self._send(mail, *(f"recipient-{next(self._numbers):06}@l{port}.example" for _ in range(count)))

    def submit(self, *recipients: str, text: bytes) -> None:
        """Put a mail into its queue."""
        # "<>" as the reverse-path: a bounce would be one more mail in the queue.
        ended = run([need("sendmail"), "-C", str(self.folder / "etc"), "-i", "-f", "", *recipients], given=text)
        assert ended.status == 0, ended.account

    def _send(self, mail: Mail, *recipients: str) -> list[Outcome]:
        self.submit(*recipients, text=mail.text)
        return [self._outcome(recipient) for recipient in recipients]

    def _outcome(self, recipient: str) -> Outcome:
        line = re.compile(rf"^.*to=<{re.escape(recipient)}>.* status=(\w+) \((.*)\)$", re.MULTILINE)
        found: list[re.Match[str]] = []

        def is_logged() -> bool:
            found[:] = line.finditer(self.log)
            return bool(found)

        try:
            poll(is_logged, "logged by Postfix", _OUTCOME_SECONDS)
        except AssertionError:
            return Outcome(Believed.HUNG, self.log[-2000:])
        return Outcome(_BELIEVED[found[0][1]], found[0][2])

    @property
    def log(self) -> str:
        """Its log so far."""
        file = self.folder / "maillog"  # which postlogd makes with its first line
        return file.read_text(errors="replace") if file.exists() else ""

    # -- as a receiver

    def mailbox(self, name: str) -> list[bytes]:
        """The mails that it has delivered to `name`, in no order."""
        return [path.read_bytes() for path in (self.folder / "mail" / name / "new").glob("*")]

    def count(self, name: str) -> int:
        """How many those are."""
        return sum(1 for _ in (self.folder / "mail" / name / "new").glob("*"))


@contextlib.contextmanager
def postfix(
    *, size_limit_octets: int = 0, more: str = "", sasl: Sasl | None = None, smtpd: str = "200 smtpd"
) -> Iterator[Postfix]:
    """A Postfix of its own, until the end of the block; with `sasl` it takes mail only from who has logged in.

    Its `smtpd` is as many processes at most, and perhaps options of their own.
    """
    program = need("postfix")
    need_root()
    folder = Path(tempfile.mkdtemp(prefix="shimproxy-postfix-"))
    port = free_port()
    try:
        _configure(folder, port, size_limit_octets, more + (sasl.main if sasl else ""), smtpd)
        if sasl and sasl.library:
            (folder / "etc" / "sasl").mkdir()
            (folder / "etc" / "sasl" / "smtpd.conf").write_text(sasl.library)
        # "check" makes the folders; what "start" would start in the background is a child of the tests instead.
        checked = run([program, "-c", str(folder / "etc"), "check"])
        assert checked.status == 0, checked.account
        # Its default: where Postfix is installed without a configuration, there is no other.
        found = run([need("postconf"), "-d", "-h", "daemon_directory"])
        assert found.status == 0, found.account
        with started([f"{found.said.strip()}/master", "-c", str(folder / "etc"), "-s"], port):
            yield Postfix(folder, port)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, port: int, size_limit_octets: int, more: str, smtpd: str) -> None:
    folder.chmod(0o755)
    for name in ("etc", "queue", "data", "mail"):
        (folder / name).mkdir(mode=0o755)
    owner = folder / "mail"
    shutil.chown(folder / "data", "postfix")
    shutil.chown(owner, "nobody", "nogroup")
    (folder / "etc" / "main.cf").write_text(
        _MAIN.format(
            folder=folder,
            domain=MAILBOX_DOMAIN,
            size_limit_octets=size_limit_octets,
            uid=owner.stat().st_uid,
            gid=owner.stat().st_gid,
            more=more,
        )
    )
    (folder / "etc" / "master.cf").write_text(_MASTER.format(port=port, smtpd=smtpd))
    # One line for each port, as a pattern may not be used to make a transport up.
    ports = range(1024, 65536)
    ways = {"p": "smtp:", "l": "lmtp:inet:"}
    lines = (f"{letter}{each}.example {way}[{HOST}]:{each}\n" for letter, way in ways.items() for each in ports)
    (folder / "transport").write_text("".join(lines))
    (folder / "mailboxes").write_text("".join(f"{name}@{MAILBOX_DOMAIN} {name}/\n" for name in MAILBOXES))
