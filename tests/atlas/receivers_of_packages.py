"""Receivers that are libraries or small programs for tests, of PyPI, npm and Debian."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.atlas.packages import HOME
from tests.atlas.receivers import HOST, LIMIT_OCTETS, PORT, Receiver, debian, node, npm, perl, pypi, python, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

_LIMITED: Final = f"limit {LIMIT_OCTETS:,} octets"


def _program(name: str, *arguments: str) -> AbstractContextManager[int]:
    return serving(str(HOME / "bin" / name), *arguments)


_TWISTED: Final = f"""
from twisted.internet import defer, protocol, reactor
from twisted.mail import smtp
from zope.interface import implementer

@implementer(smtp.IMessage)
class Message:
    def lineReceived(self, line): pass
    def eomReceived(self): return defer.succeed(None)
    def connectionLost(self): pass

@implementer(smtp.IMessageDelivery)
class Delivery:
    def receivedHeader(self, helo, origin, recipients): return b"Received: by host.example"
    def validateFrom(self, helo, origin): return origin
    def validateTo(self, user): return Message

class Factory(smtp.SMTPFactory):
    protocol = smtp.ESMTP
    def buildProtocol(self, address):
        protocol = smtp.SMTPFactory.buildProtocol(self, address)
        protocol.delivery = Delivery()
        return protocol

reactor.listenTCP({PORT}, Factory(), interface="{HOST}")
reactor.run()
"""

_SLIMTA: Final = f"""
from slimta.edge.smtp import SmtpEdge
from slimta.queue import Queue
from slimta.queue.dict import DictStorage

class Nowhere:
    def attempt(self, envelope, attempts): return None

queue = Queue(DictStorage(), Nowhere())
edge = SmtpEdge(("{HOST}", {PORT}), queue, max_size={LIMIT_OCTETS}, hostname="host.example")
edge.start()
edge.get()
"""

_SALMON: Final = f"""
import logging
from salmon import queue, routing, server
routing.Router.defaults(host=".+")
routing.Router.UNDELIVERABLE_QUEUE = queue.Queue("/tmp/undeliverable")
receiver = server.SMTPReceiver("{HOST}", {PORT})
receiver.start()
import threading
threading.Event().wait()
"""

_SMTPDFIX: Final = f"""
import threading
from smtpdfix import SMTPDFix
with SMTPDFix("{HOST}", {PORT}):
    threading.Event().wait()
"""

_LOCALSERVER: Final = f"""
import threading
from pytest_localserver.smtp import Server
server = Server("{HOST}", {PORT})
server.start()
threading.Event().wait()
"""

_LMTPD: Final = f"""
import asyncore, lmtpd
class Receiver(lmtpd.LMTPServer):
    def process_message(self, *_, **__): return None
Receiver(("{HOST}", {PORT}))
asyncore.loop()
"""

_SMTP_SERVER: Final = f"""
const {{ SMTPServer }} = require("smtp-server");
new SMTPServer({{
  name: "host.example", size: {LIMIT_OCTETS}, authOptional: true, disabledCommands: ["STARTTLS"],
  disableReverseLookup: true,
  onData(stream, session, done) {{
    stream.resume();
    stream.on("end", () => {{
      const error = stream.sizeExceeded && Object.assign(new Error("too large"), {{ responseCode: 552 }});
      done(error || null);
    }});
  }},
}}).listen({PORT}, "{HOST}");
"""

_SIMPLESMTP: Final = f"""
const simplesmtp = require("simplesmtp");
const set = {{ name: "host.example", maxSize: {LIMIT_OCTETS}, disableDNSValidation: true }};
simplesmtp.createServer(set).listen({PORT}, () => {{}});
"""

_SMTP_PROTOCOL: Final = f"""
require("smtp-protocol").createServer((request) => {{
  request.on("to", (to, ack) => ack.accept());
  request.on("message", (stream, ack) => {{ stream.resume(); ack.accept(); }});
}}).listen({PORT}, "{HOST}");
"""

_SMTP_TESTER: Final = f"require('smtp-tester').init({PORT});"

_SERVER_MAIL: Final = f"""
use Net::Server::Mail::ESMTP; use IO::Socket::INET;
my $listener = IO::Socket::INET->new(LocalAddr => "{HOST}", LocalPort => {PORT}, Listen => 50, ReuseAddr => 1) or die;
$SIG{{CHLD}} = "IGNORE";
while (1) {{
  my $peer = $listener->accept or next;
  if (!fork) {{
    my $receiver = Net::Server::Mail::ESMTP->new(socket => $peer) or die;
    $receiver->register("Net::Server::Mail::ESMTP::$_") for qw(8BITMIME PIPELINING);
    $receiver->set_callback(RCPT => sub {{ 1 }});
    $receiver->set_callback(DATA => sub {{ (1, 250, "message queued") }});
    $receiver->process;
    exit;
  }}
  close $peer;
}}
"""

_NET_SMTP_SERVER: Final = f"""
use Net::SMTP::Server; use Net::SMTP::Server::Client;
my $server = Net::SMTP::Server->new("{HOST}", {PORT}) or die;
$SIG{{CHLD}} = "IGNORE";
while (my $peer = $server->accept) {{
  next if fork;
  my $client = Net::SMTP::Server::Client->new($peer) or die;
  $client->process;
  exit;
}}
"""

_DUMBSTER: Final = f"""
public class Receiver {{
  public static void main(String[] none) throws Exception {{
    com.dumbster.smtp.SimpleSmtpServer.start({PORT});
    Thread.currentThread().join();
  }}
}}
"""


@contextlib.contextmanager
def _dumbster() -> Iterator[int]:
    source = Path("/tmp/Receiver.java")
    source.write_text(_DUMBSTER)
    classes = ":".join(
        str(each) for each in Path("/usr/share/java").glob("*.jar") if "dumbster" in each.name or "mail" in each.name
    )
    with serving("java", "-cp", classes, str(source)) as port:
        yield port


@contextlib.contextmanager
def _maildump() -> Iterator[int]:
    with _program(
        "maildump", "-f", "--smtp-ip", HOST, "--smtp-port", str(PORT), "--http-ip", HOST, "--http-port", "1080"
    ) as port:
        yield port


LIBRARIES: Final = (
    Receiver(
        name="aiosmtpd",
        package=pypi("aiosmtpd"),
        start=lambda: _program(
            "aiosmtpd", "-n", "-l", f"{HOST}:{PORT}", "-s", str(LIMIT_OCTETS), "-c", "aiosmtpd.handlers.Sink"
        ),
        settings=_LIMITED,
    ),
    Receiver(
        name="Python smtpd",
        package=debian("python3.11"),
        start=lambda: serving(
            "/usr/bin/python3.11",
            "-W",
            "ignore",
            "-m",
            "smtpd",
            "-n",
            "-s",
            str(LIMIT_OCTETS),
            "-c",
            "DebuggingServer",
            f"{HOST}:{PORT}",
        ),
        settings=_LIMITED,
    ),
    Receiver(name="Twisted", package=pypi("twisted"), start=lambda: python(_TWISTED)),
    Receiver(
        name="dsmtpd",
        base="aiosmtpd",
        package=pypi("dsmtpd"),
        start=lambda: _program("dsmtpd", "-i", HOST, "-p", str(PORT)),
    ),
    Receiver(
        name="fakesmtpd",
        package=pypi("fakesmtpd"),
        start=lambda: _program("fakesmtpd", "-b", HOST, "-p", str(PORT), "-o", "/dev/null"),
    ),
    Receiver(
        name="mail-devel",
        base="aiosmtpd",
        package=pypi("mail-devel"),
        start=lambda: _program("mail_devel", "--password", "password", "--host", HOST, "--smtp-port", str(PORT)),
    ),
    Receiver(name="maildump", base="Python smtpd", package=pypi("maildump"), start=_maildump),
    Receiver(
        name="maildirsink",
        base="aiosmtpd",
        package=pypi("maildirsink"),
        start=lambda: _program("maildirsink", "--host", HOST, "--port", str(PORT)),
    ),
    Receiver(name="salmon", base="Python smtpd", package=pypi("salmon-mail"), start=lambda: python(_SALMON)),
    Receiver(name="smtpdfix", base="aiosmtpd", package=pypi("smtpdfix"), start=lambda: python(_SMTPDFIX)),
    Receiver(
        name="pytest-localserver",
        base="aiosmtpd",
        package=pypi("pytest-localserver", "aiosmtpd"),
        start=lambda: python(_LOCALSERVER),
    ),
    Receiver(
        name="Slimta",
        package=pypi("python-slimta", "zope.interface", "zope.event", "setuptools<80"),
        start=lambda: python(_SLIMTA),
        settings=_LIMITED,
    ),
    Receiver(name="lmtpd", package=pypi("lmtpd"), start=lambda: python(_LMTPD), lmtp=True),
    Receiver(name="smtp-server", package=npm("smtp-server"), start=lambda: node(_SMTP_SERVER), settings=_LIMITED),
    Receiver(
        name="maildev",
        base="smtp-server",
        package=npm("maildev"),
        start=lambda: serving(str(HOME / "node_modules/.bin/maildev"), "-s", str(PORT), "--ip", HOST, "-w", "1080"),
    ),
    Receiver(name="smtp-tester", base="smtp-server", package=npm("smtp-tester"), start=lambda: node(_SMTP_TESTER)),
    Receiver(name="simplesmtp", package=npm("simplesmtp"), start=lambda: node(_SIMPLESMTP), settings=_LIMITED),
    Receiver(name="smtp-protocol", package=npm("smtp-protocol"), start=lambda: node(_SMTP_PROTOCOL)),
    Receiver(
        name="Net::Server::Mail",
        package=debian("libnet-server-mail-perl"),
        start=lambda: perl(_SERVER_MAIL),
    ),
    Receiver(name="Net::SMTP::Server", package=debian("libnet-smtp-server-perl"), start=lambda: perl(_NET_SMTP_SERVER)),
    Receiver(name="Dumbster", package=debian("libdumbster-java", "libmail-java"), start=_dumbster),
)
