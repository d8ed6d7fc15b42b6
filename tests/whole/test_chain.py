"""HAProxy before two shims before a Postfix that takes PROXY headers: addresses, and no mail lost where a shim is.

HAProxy is told what docs/identity.md tells, but for addresses, or what it has for those without an admin port. Nothing
here goes by the clock: the next step is taken when so many mails were accepted.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import pytest

import shimproxy
from bench.programs import whole_lines
from shimproxy.faulty.client import Dialogue, Refused
from shimproxy.faulty.receiving import HOST
from shimproxy.faulty.talk import SECONDS
from tests.blocks import blocks
from tests.daemon.test_supervisor import kill_all_of
from tests.peers.postfix import MAILBOX_DOMAIN, postfix
from tests.peers.processes import accepts, end, free_port, need, poll, started, wait_for_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.peers.postfix import Postfix

pytestmark = pytest.mark.slow

ROOT: Final = Path(shimproxy.__file__).parent.parent
SENDERS: Final = [f"127.0.0.{number}" for number in range(2, 10)]
STEP_MAILS: Final = 150
MOST_ATTEMPTS: Final = 200
RETRY_SECONDS: Final = 0.02
MAILBOX: Final = "many"
NUMBERS: Final = itertools.count(1)
TOLD: Final = """
smtpd_upstream_proxy_protocol = haproxy
inet_protocols = all
mynetworks = 127.0.0.0/8 [::1]/128
"""


@attrs.define(eq=False)
class ShimOfChain:
    """A shim that can be killed, and started where it was."""

    receiver_port: int
    version: str
    log_file: Path
    port: int = attrs.field(factory=free_port)
    admin_port: int = attrs.field(factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        where = ["--listen", f"{HOST}:{self.port}", "--admin", f"{HOST}:{self.admin_port}", "--grace", "0"]
        what = ["--receiver", f"{HOST}:{self.receiver_port}", "--trust", "127.0.0.0/8", "--send-proxy", self.version]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shimproxy", "run", *where, *what],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )
        wait_for_line(self._process, self.log_file)

    def kill(self) -> None:
        """All of it, with no time for anybody to say a last word."""
        assert self._process
        kill_all_of(self._process.pid)
        end(self._process)
        self._process = None

    def end(self) -> None:
        if self._process:
            end(self._process)
        assert "Traceback" not in self.log, self.log

    @property
    def log(self) -> str:
        return "".join(f"{line}\n" for line in whole_lines(self.log_file))

    @property
    def carried(self) -> int:
        """How many sessions it has logged that came by the proxy with mail."""
        return len(re.findall(r" via=\S+ .* accepted=[1-9]", self.log))


@attrs.frozen
class Chain:
    port: int
    shims: list[ShimOfChain]
    postfix: Postfix

    @property
    def queue_is_empty(self) -> bool:
        """Whether Postfix has nothing left to deliver."""
        queues = (self.postfix.folder / "queue" / name for name in ("maildrop", "incoming", "active", "deferred"))
        return not any(path.is_file() for queue in queues for path in queue.rglob("*"))

    def mails(self) -> Counter[str]:
        """Of what Postfix has delivered, how often each, by its number and the sender that Postfix saw."""
        return Counter(
            f"{number} from {sender}" for mail in self.postfix.mailbox(MAILBOX) for sender, number in [found(mail)]
        )


def found(mail: bytes) -> tuple[str, str]:
    sender = re.search(rb"^Received: from \S+ \(unknown \[(?:IPv6:)?(\S+)\]\)", mail, re.MULTILINE)
    number = re.search(rb"^Number: (\S+)\n\nfirst line\n(?:another line\n){100}last line\n\Z", mail, re.MULTILINE)
    assert sender, mail
    assert number, "a mail that is not whole"
    return sender[1].decode(), number[1].decode()


def of_page() -> str:
    """The section of HAProxy's configuration that the page has."""
    return blocks("identity", "haproxy")["haproxy"]


def configured(section: str, port: int, *shims: ShimOfChain) -> str:
    section = section.replace("bind :25\n", f"bind {HOST}:{port}\n        bind [::1]:{port}\n")
    for number, shim in enumerate(shims, 1):
        line = f"server shim{number} 192.0.2.1{number}:2525"
        assert line in section
        own = f"server shim{number} {HOST}:{shim.port} inter 200ms"
        section = section.replace(line, own + (f" port {shim.admin_port}" if "httpchk" in section else ""))
    return section


def by_smtp(section: str, how: str) -> str:
    """What the page has for those without an admin port, and another balance."""
    section = section.replace("option httpchk GET /readyz", "option smtpchk").replace("leastconn", "roundrobin")
    return section.replace(
        "default-server send-proxy-v2 check port 8025", f"default-server {how} check check-send-proxy"
    )


WAYS: Final = {
    "as the page has it": (of_page(), "v2"),
    "version 1, checked by SMTP": (by_smtp(of_page(), "send-proxy"), "v1"),
    "version 2, checked by SMTP": (by_smtp(of_page(), "send-proxy-v2"), "v2"),
}


@pytest.fixture(params=[*WAYS.values()], ids=[*WAYS], scope="module")
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    section, version = request.param
    program, folder = need("haproxy"), tmp_path_factory.mktemp("chain")
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(postfix(more=TOLD))
        shims = [ShimOfChain(receiver.port, version, folder / f"log{number}") for number in (1, 2)]
        for shim in shims:
            stack.callback(shim.end)
            shim.start()
        port, ready = free_port(), free_port()
        file = folder / "haproxy.cfg"
        # Who asks whether it is ready is not led to a shim.
        # A check may take as long as it needs on a busy machine; without this, as long as the interval.
        section = section.replace("default-server ", "timeout check 60s\n        default-server ")
        idle = f"frontend ready\n bind {HOST}:{ready}\n mode http\n timeout client 1s\n"
        file.write_text(configured(section, port, *shims) + idle)
        stack.enter_context(started([program, "-db", "-f", str(file)], ready))
        assert accepts(shims[0].port)
        yield Chain(port, shims, receiver)


# -- a sender that tries again


@attrs.define(eq=False)
class Number:
    """What a sender knows of a mail."""

    name: str
    handed_over: int = 0
    """How often its end of mail data was written, whatever became of it."""
    unknown: int = 0
    """How often its verdict was lost."""
    accepted: int = 0


@attrs.define(eq=False)
class Mta:
    """Delivers mails from an address, one after the other, and tries again as an MTA does."""

    chain: Chain
    address: str
    mails: list[Number] = attrs.field(factory=list)
    lost: int = 0
    """How many connections were lost."""
    _dialogue: Dialogue | None = None

    def connect(self) -> Dialogue:
        if self._dialogue is None:
            host = "::1" if ":" in self.address else HOST
            sock = socket.create_connection((host, self.chain.port), SECONDS, (self.address, 0))
            self._dialogue = Dialogue(sock)
            self._dialogue.open("HELO sender.example")
        return self._dialogue

    def close(self, *, politely: bool = True) -> None:
        if self._dialogue:
            if politely:
                with contextlib.suppress(OSError, EOFError):  # it may have gone meanwhile, and nothing is lost by that
                    self._dialogue.command("QUIT")
            self._dialogue.sock.close()
            self._dialogue = None

    def begin(self, mail: Number) -> None:
        """Up to mail data, of which half is written."""
        dialogue = self.connect()
        dialogue.command("MAIL FROM:<sender@sender.example>", 250)
        dialogue.command(f"RCPT TO:<{MAILBOX}@{MAILBOX_DOMAIN}>", 250)
        dialogue.command("DATA", 354)
        dialogue.sock.sendall(b"Number: %s\r\n\r\nfirst line\r\n" % mail.name.encode() + b"another line\r\n" * 100)

    def finish(self, mail: Number) -> None:
        dialogue = self.connect()
        dialogue.sock.sendall(b"last line\r\n")
        mail.handed_over += 1
        mail.unknown += 1  # until there is a verdict
        dialogue.sock.sendall(b".\r\n")
        reply = dialogue.reply()
        mail.unknown -= 1
        if not reply.startswith(b"250"):
            raise Refused(reply)
        mail.accepted += 1

    def deliver(self, mail: Number) -> None:
        """Try until it is accepted."""
        for _ in range(MOST_ATTEMPTS):
            try:
                self.begin(mail)
                self.finish(mail)
            except (OSError, EOFError, Refused) as failed:
                self.give_up(failed)
            else:
                return
        pytest.fail(f"mail {mail.name} was not accepted")

    def give_up(self, failed: Exception) -> None:
        """What was tried has failed: the connection is no good, and the next attempt comes later."""
        if isinstance(failed, Refused):
            assert failed.args[0].startswith(b"4"), failed
        else:
            self.lost += 1
        self.close(politely=False)
        threading.Event().wait(RETRY_SECONDS)

    def new_mail(self) -> Number:
        self.mails.append(Number(str(next(NUMBERS))))
        return self.mails[-1]

    def deliver_until(self, enough: threading.Event) -> None:
        """Three mails a connection."""
        for number in itertools.count(1):
            self.deliver(self.new_mail())
            if not number % 3 or enough.is_set():
                self.close()
            if enough.is_set():
                return


# -- and what becomes of its mails


def test_postfix_sees_every_sender_as_it_is(chain: Chain) -> None:
    before = chain.mails()
    expected: Counter[str] = Counter()
    for address in [*SENDERS, "::1"] * 2:  # twice, so that both shims have each address, or nearly
        mta = Mta(chain, address)
        mail = mta.new_mail()
        mta.deliver(mail)
        mta.close()
        expected[f"{mail.name} from {address}"] += 1
    poll(lambda: chain.mails() - before == expected, f"delivered as from {expected}")
    for shim in chain.shims:
        poll(lambda: shim.carried > 0, "logged with its proxy")  # noqa: B023
        assert "WARNING" not in shim.log, "checks are no violations"


def test_a_shim_that_is_killed_costs_no_mail(chain: Chain) -> None:
    held = [Mta(chain, SENDERS[0]), Mta(chain, SENDERS[1])]
    carried = chain.shims[0].carried
    chain_mails = chain.mails()
    mtas = [Mta(chain, address) for address in SENDERS]
    enough = threading.Event()
    errors: list[BaseException] = []

    def work(mta: Mta) -> None:
        try:
            mta.deliver_until(enough)
        except BaseException as error:
            errors.append(error)

    def accepted(at_least: int) -> None:
        def is_so() -> bool:
            assert not errors, errors
            return sum(mail.accepted for mta in mtas for mail in mta.mails) >= at_least

        poll(is_so, f"{at_least} mails accepted", SECONDS)

    # Connections one after the other are one with each shim: one of these mails is cut off in its midst.
    for mta in held:
        mta.begin(mta.new_mail())
    threads = [threading.Thread(target=work, args=(mta,)) for mta in mtas]
    try:
        for thread in threads:
            thread.start()
        accepted(STEP_MAILS)
        chain.shims[0].kill()
        accepted(2 * STEP_MAILS)
        chain.shims[0].start()
        poll(lambda: chain.shims[0].carried > carried, "mail by the one that has come back", SECONDS)
        accepted(3 * STEP_MAILS)
    finally:
        enough.set()
        for thread in threads:
            thread.join(SECONDS)
        for mta in mtas:
            mta.close()
    assert errors == []
    for mta in held:
        (mail,) = mta.mails
        try:
            mta.finish(mail)
        except (OSError, EOFError) as failed:
            mta.give_up(failed)
            mta.deliver(mail)
        mta.close()
    assert [mta.lost for mta in held].count(0) == 1, "one of them was at the shim that was killed, and one was not"

    mails = {f"{mail.name} from {mta.address}": mail for mta in (*held, *mtas) for mail in mta.mails}
    assert all(mail.accepted == 1 for mail in mails.values())

    def delivered() -> Counter[str]:
        return chain.mails() - chain_mails

    poll(lambda: chain.queue_is_empty, "all delivered that Postfix has", SECONDS)
    assert delivered().keys() == mails.keys(), "by the sender that it is from"
    for name, times in delivered().items():
        mail = mails[name]
        assert 1 <= times <= mail.accepted + mail.unknown <= mail.handed_over, (name, times, mail)
