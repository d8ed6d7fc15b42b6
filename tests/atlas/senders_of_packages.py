"""Senders that are libraries: a few lines each, the way scripts use them. A mail that fails ends them with status 1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from shimproxy.faulty.mail import RECIPIENT, SENDER
from tests.atlas.packages import HOME, PYTHON, debian, npm, pypi
from tests.atlas.senders import HOST, called, command
from tests.peers.senders import python_smtplib

if TYPE_CHECKING:
    from shimproxy.faulty.mail import Mail
    from shimproxy.faulty.outcome import Outcome
    from tests.atlas.senders import Send


def _script(*interpreter: str, text: str) -> Send:
    """A script that is told the port and the mail's file."""
    return command(*interpreter, text, "{port}", "{file}", given=False)


def _python(text: str) -> Send:
    return _script(PYTHON, "-c", text=text)


def _node(text: str) -> Send:
    given = "const [port, file] = process.argv.slice(1); const text = require('fs').readFileSync(file);"
    # Modules are looked for from the working directory on.
    return _script("env", "-C", str(HOME), "node", "-e", text=given + text)


_AIOSMTPLIB: Final = f"""
import asyncio, sys, aiosmtplib
text = open(sys.argv[2], "rb").read()
where = dict(hostname="{HOST}", port=int(sys.argv[1]))
asyncio.run(aiosmtplib.send(text, sender="{SENDER}", recipients=["{RECIPIENT}"], **where))
"""

_TWISTED: Final = f"""
import sys
from twisted.internet import task
from twisted.mail.smtp import sendmail
def main(reactor):
    file = open(sys.argv[2], "rb")
    return sendmail("{HOST}", "{SENDER}", ["{RECIPIENT}"], file, port=int(sys.argv[1]), reactor=reactor)
task.react(main)
"""

_SMTPPROTO: Final = f"""
import email, sys, anyio
from email import policy
from smtpproto.client import AsyncSMTPClient
async def main():
    message = email.message_from_binary_file(open(sys.argv[2], "rb"), policy=policy.default)
    async with AsyncSMTPClient(host="{HOST}", port=int(sys.argv[1])).connect() as session:
        await session.send_message(message)
anyio.run(main)
"""

_SLIMTA: Final = f"""
import socket, sys
from slimta.smtp.client import Client
client = Client(socket.create_connection(("{HOST}", int(sys.argv[1])), 60))
text = open(sys.argv[2], "rb").read()
replies = [client.get_banner(), client.ehlo("probe.example")]
# With PIPELINING these are empty until DATA is answered.
replies += [client.mailfrom("{SENDER}"), client.rcptto("{RECIPIENT}"), client.data()]
for reply in replies:
    if reply.code[0] not in "23": client.quit(); sys.exit(str(reply))
reply = client.send_data(text)
client.quit()
if reply.code[0] != "2": sys.exit(str(reply))
"""

_NODEMAILER: Final = f"""
const where = {{ host: "{HOST}", port: +port, secure: false, ignoreTLS: true }};
const transport = require("nodemailer").createTransport(where);
transport.sendMail({{ envelope: {{ from: "{SENDER}", to: "{RECIPIENT}" }}, raw: text }}, (error) => {{
  if (error) {{ console.error(error); process.exitCode = 1; }}
}});
"""

_EMAILJS: Final = f"""
import("emailjs").then(({{ SMTPClient }}) => {{
  const client = new SMTPClient({{ host: "{HOST}", port: +port }});
  client.send({{ from: "{SENDER}", to: "{RECIPIENT}", subject: "atlas", text: text.toString() }}, (error) => {{
    if (error) {{ console.error(error); process.exitCode = 1; }}
  }});
}});
"""

_SMTP_CLIENT: Final = f"""
const {{ SMTPClient }} = require("smtp-client");
(async () => {{
  const client = new SMTPClient({{ host: "{HOST}", port: +port }});
  await client.connect();
  await client.greet({{ hostname: "probe.example" }});
  await client.mail({{ from: "{SENDER}" }});
  await client.rcpt({{ to: "{RECIPIENT}" }});
  await client.data(text.toString());
  await client.quit();
}})().catch((error) => {{ console.error(error); process.exit(1); }});
"""

_NET_SMTP: Final = f"""
use Net::SMTP;
my ($port, $file) = @ARGV;
open(my $mail, "<", $file) or die; my $text = do {{ local $/; <$mail> }};
my $smtp = Net::SMTP->new("{HOST}", Port => $port, Timeout => 60) or die "connect: $@";
my $sent = $smtp->mail("{SENDER}") && $smtp->to("{RECIPIENT}") && $smtp->data($text);
my $words = $smtp->message;
$smtp->quit;
die $words unless $sent;
"""

_EMAIL_SENDER: Final = f"""
use Email::Sender::Simple qw(sendmail); use Email::Sender::Transport::SMTP;
my ($port, $file) = @ARGV;
open(my $mail, "<", $file) or die; my $text = do {{ local $/; <$mail> }};
my $transport = Email::Sender::Transport::SMTP->new({{ host => "{HOST}", port => $port, timeout => 60 }});
sendmail($text, {{ from => "{SENDER}", to => ["{RECIPIENT}"], transport => $transport }});
"""

_RUBY: Final = f"""
require "net/smtp"
port, file = ARGV
Net::SMTP.start("{HOST}", port.to_i, "probe.example", tls: false, starttls: false) do |smtp|
  smtp.send_message File.binread(file), "{SENDER}", "{RECIPIENT}"
end
"""

_PHPMAILER: Final = f"""
foreach (["Exception", "SMTP", "PHPMailer"] as $each) require "/usr/share/php/libphp-phpmailer/src/$each.php";
$mail = new PHPMailer\\PHPMailer\\PHPMailer(true);
$mail->isSMTP(); $mail->Host = "{HOST}"; $mail->Port = (int)$argv[1]; $mail->SMTPAutoTLS = false; $mail->Timeout = 60;
$mail->setFrom("{SENDER}"); $mail->addAddress("{RECIPIENT}"); $mail->Subject = "atlas";
$mail->Body = file_get_contents($argv[2]);
try {{ $mail->send(); }} catch (Exception $error) {{ fwrite(STDERR, $error->getMessage()); exit(1); }}
"""

_NET_SMTP_PHP: Final = f"""
require "Net/SMTP.php";
$smtp = new Net_SMTP("{HOST}", (int)$argv[1], "probe.example");
$steps = [fn() => $smtp->connect(60), fn() => $smtp->mailFrom("{SENDER}"), fn() => $smtp->rcptTo("{RECIPIENT}"),
  fn() => $smtp->data(file_get_contents($argv[2]))];
foreach ($steps as $step) if (PEAR::isError($error = $step())) {{
  fwrite(STDERR, $error->getMessage()); $smtp->disconnect(); exit(1);
}}
$smtp->disconnect();
"""

_JAKARTA: Final = f"""
import java.io.FileInputStream; import java.util.Properties;
public class Sender {{
  public static void main(String[] given) throws Exception {{
    Properties set = new Properties();
    set.put("mail.smtp.host", "{HOST}"); set.put("mail.smtp.port", given[0]); set.put("mail.smtp.from", "{SENDER}");
    javax.mail.Session session = javax.mail.Session.getInstance(set);
    javax.mail.Transport.send(new javax.mail.internet.MimeMessage(session, new FileInputStream(given[1])));
  }}
}}
"""


def _java(port: int, mail: Mail) -> Outcome:
    Path("/tmp/Sender.java").write_text(_JAKARTA)
    classes = "/usr/share/java/javax.mail.jar:/usr/share/java/javax.activation.jar"
    return command("java", "-cp", classes, "/tmp/Sender.java", "{port}", "{file}", given=False)(port, mail)


LIBRARIES: Final = (
    called("Python smtplib", debian("python3.11"), lambda port, mail: python_smtplib(port, mail)),
    called("aiosmtplib", pypi("aiosmtplib"), _python(_AIOSMTPLIB)),
    called("Twisted sendmail", pypi("twisted"), _python(_TWISTED)),
    called("smtpproto", pypi("smtpproto"), _python(_SMTPPROTO)),
    called("Slimta client", pypi("python-slimta", "zope.interface", "zope.event", "setuptools<80"), _python(_SLIMTA)),
    called("nodemailer", npm("nodemailer"), _node(_NODEMAILER)),
    called("emailjs", npm("emailjs"), _node(_EMAILJS)),
    called("smtp-client", npm("smtp-client"), _node(_SMTP_CLIENT)),
    called("Perl Net::SMTP", debian("perl-modules-5.36"), _script("perl", "-e", text=_NET_SMTP)),
    called("Perl Email::Sender", debian("libemail-sender-perl"), _script("perl", "-e", text=_EMAIL_SENDER)),
    called("Ruby Net::SMTP", debian("ruby3.1", "ruby"), _script("ruby", "-e", text=_RUBY)),
    called(
        "PHPMailer",
        debian("libphp-phpmailer", "php-cli"),
        _script("php", "-d", "memory_limit=-1", "-r", text=_PHPMAILER),
    ),
    called(
        "PEAR Net_SMTP",
        debian("php-net-smtp", "php-cli"),
        _script("php", "-d", "memory_limit=-1", "-r", text=_NET_SMTP_PHP),
    ),
    called("JavaMail", debian("libmail-java"), _java),
)
