"""Certificates for tests, made by openssl, and senders that speak TLS."""

from __future__ import annotations

import contextlib
import hashlib
import smtplib
import ssl
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.client import WAIT_SECONDS
from shimproxy.faulty.mail import RECIPIENT, SENDER
from shimproxy.faulty.outcome import Believed, Outcome, believed_of
from shimproxy.faulty.receiving import HOST
from tests.peers.processes import need, run

if TYPE_CHECKING:
    from pathlib import Path

    from shimproxy.faulty.mail import Mail

NAME: Final = "mail.example"


@attrs.frozen
class Certificate:
    """A self-signed certificate for NAME and 127.0.0.1."""

    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        """Its SHA-256."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).hexdigest()

    def server(self, least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLContext:
        """A receiver's context that shows it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = least
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        """A sender's context that trusts it alone."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_certificate(folder: Path, name: str = NAME, *addresses: str, expired: bool = False) -> Certificate:
    """The line of docs/tls.md, but for the place; for 127.0.0.1 too, or for these `addresses`."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    named = "".join(f",IP:{each}" for each in addresses or (HOST,))
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}{named}"]
    files = ["-keyout", str(made.key), "-out", str(made.certificate)]
    ended = run([need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", *subject, *files])
    assert ended.status == 0, ended.account
    if expired:
        over = ["-in", str(made.certificate), "-signkey", str(made.key), "-days", "-1", "-out", str(made.certificate)]
        ended = run([need("openssl"), "x509", *over])
        assert ended.status == 0, ended.account
    made.key.chmod(0o644)  # Postfix reads it as root, Exim and the shim as whoever they are
    return made


def smtplib_over_tls(port: int, mail: Mail, context: ssl.SSLContext) -> Outcome:
    """smtplib with STARTTLS, the way scripts use it."""
    try:
        with smtplib.SMTP(HOST, port, timeout=WAIT_SECONDS) as session:
            session.starttls(context=context)
            try:
                session.sendmail(SENDER, [RECIPIENT], mail.crlf_text)
            except smtplib.SMTPResponseException as refused:
                error = refused.smtp_error
                words = error.decode("latin-1") if isinstance(error, bytes) else error
                text = "\n".join(f"{refused.smtp_code} {line}" for line in words.split("\n"))
                with contextlib.suppress(smtplib.SMTPServerDisconnected):
                    session.quit()
                return Outcome(believed_of(text.encode("latin-1")), text)
            return Outcome(Believed.DELIVERED, "sendmail() returned")
    except TimeoutError as error:
        return Outcome(Believed.HUNG, repr(error))
    except (OSError, smtplib.SMTPException) as error:
        return Outcome(Believed.DEFERRED, repr(error))
