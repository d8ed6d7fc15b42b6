"""How long certificates hold, and who gets the keys of TLS sessions."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio

from shimproxy import Settings
from shimproxy.config.listener import SettingsError
from shimproxy.net.errors import TlsUnusable
from shimproxy.net.tls import ReceiverSecurity, Verification, client_context
from shimproxy.service.certificates import SendersCertificate, certificates_of
from shimproxy.service.preflight import check_certificates, check_tls
from shimproxy.service.warnings import warnings_of
from tests.peers.shim import shim
from tests.peers.tls import Certificate, make_certificate

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def given(certificate: Certificate, **more: Any) -> Settings:
    return Settings(
        listen="127.0.0.1:2525",
        receiver="127.0.0.1:25",
        certificate=certificate.certificate,
        key=certificate.key,
        clear_allowed=True,
        **more,
    )


@pytest.mark.parametrize(
    ("holds_from", "holds_until", "problem", "warning"),
    [
        (-30, 60, "", ""),
        (-30, 14, "", ""),
        (-30, 13.9, "", "cert: c.pem: the certificate expires in 13 days, on 2026-12-14; renew it"),
        (-30, 1.5, "", "cert: c.pem: the certificate expires in 1 day, on 2026-12-02; renew it"),
        (-30, 0.2, "", "cert: c.pem: the certificate expires today, on 2026-11-30; renew it"),
        (-30, 0, "cert: c.pem: the certificate expired on 2026-11-30 at 12:00 UTC; renew it", ""),
        (
            1,
            30,
            "cert: c.pem: the certificate holds from 2026-12-01 at 12:00 UTC on; wait until then, or correct the clock",
            "",
        ),
    ],
)
def test_how_long_it_holds(tmp_path: Path, holds_from: float, holds_until: float, problem: str, warning: str) -> None:
    file = type(tmp_path)("c.pem")
    each = SendersCertificate(file, "cert", NOW + timedelta(holds_from), NOW + timedelta(holds_until))

    assert (each.problem(NOW), each.warning(NOW)) == (problem, warning)


def test_one_that_holds(certificate: Certificate) -> None:
    settings = given(certificate)
    (found,) = certificates_of(settings)
    check_certificates(settings)

    assert found.file == certificate.certificate
    assert timedelta(29) < found.not_after - found.not_before <= timedelta(30)
    assert warnings_of(settings) == []


def test_what_was_read_counts_and_not_what_the_file_has_now(certificate: Certificate, tmp_path: Path) -> None:
    over = make_certificate(tmp_path, expired=True)
    settings = given(certificate, files_read={certificate.certificate: over.certificate.read_bytes()})

    with pytest.raises(SettingsError, match=r"certificate: .*mail.example.pem: the certificate expired on "):
        check_certificates(settings)
    check_certificates(given(over, files_read={over.certificate: certificate.certificate.read_bytes()}))


def test_an_embedding_program_is_told_too(tmp_path: Path) -> None:
    over = make_certificate(tmp_path, expired=True)

    async def script() -> None:
        async with shim(9, certificate=over.certificate, key=over.key, clear_allowed=True):
            pass

    with pytest.raises(ExceptionGroup) as raised:
        trio.run(script, strict_exception_groups=True)
    error: Exception = raised.value
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, SettingsError)
    assert "the certificate expired on " in str(error)


@pytest.mark.parametrize("name", [b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE", b"CERTIFICATE"])
@pytest.mark.parametrize("before", [b"", b"from -----BEGIN CERTIFICATE----- on:\r\n"])
def test_whatever_openssl_takes_for_a_certificate_has_an_age(name: bytes, before: bytes, tmp_path: Path) -> None:
    """It shows that to senders, whatever the file has before it."""
    over = make_certificate(tmp_path, expired=True)
    octets = before + over.certificate.read_bytes().replace(b" CERTIFICATE-", b" " + name + b"-")
    settings = given(over, files_read={over.certificate: octets})

    check_tls(settings)
    with pytest.raises(SettingsError, match="the certificate expired on "):
        check_certificates(settings)


@pytest.mark.parametrize(
    "octets", [b"", b"\0" * 1_000_000, b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"]
)
def test_what_is_no_certificate_is_for_the_context_to_complain_of(certificate: Certificate, octets: bytes) -> None:
    settings = given(certificate, files_read={certificate.certificate: octets})

    assert certificates_of(settings) == []
    with pytest.raises(SettingsError, match="no certificate with its key"):
        check_tls(settings)


# -- keys


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """In memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="mail.example")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (ours, theirs, ours, theirs):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue


def test_keys_go_to_nobody_unless_the_operator_says_so(
    certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(elsewhere))
    settings = given(certificate)
    security = ReceiverSecurity.make(Verification(authorities=certificate.certificate))
    context = settings.sender_context(settings.listen[0])
    assert context
    handshake(context, security.context)

    assert not elsewhere.exists()
    assert warnings_of(settings) == ["SSLKEYLOGFILE: shimproxy does not obey it; name a file with key_log instead"]


def test_the_keys_of_both_legs_go_where_the_operator_says(certificate: Certificate, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    settings = given(certificate, key_log=file)
    context = settings.sender_context(settings.listen[0])
    assert context
    handshake(context, certificate.client())
    of_senders = file.read_text()
    security = ReceiverSecurity.make(Verification(authorities=certificate.certificate), key_log=file)
    handshake(certificate.server(), security.context)

    assert "SERVER_HANDSHAKE_TRAFFIC_SECRET " in of_senders
    assert file.read_text().count("SERVER_HANDSHAKE_TRAFFIC_SECRET ") == 2
    assert file.stat().st_mode & 0o777 == 0o600
    (warning,) = warnings_of(settings)
    assert warning.startswith(f"key_log: {file}: who reads this file can decrypt")


def test_a_key_log_that_others_can_read_is_refused(certificate: Certificate, tmp_path: Path) -> None:
    readable, link = tmp_path / "readable", tmp_path / "link"
    readable.touch(0o644)
    readable.chmod(0o644)
    link.symlink_to(tmp_path / "else")
    os.mkfifo(fifo := tmp_path / "fifo", 0o600)
    for file in (readable, link, fifo, tmp_path, tmp_path / "no" / "folder"):
        settings = given(certificate, key_log=file)
        with pytest.raises(TlsUnusable, match=str(file)):
            settings.sender_context(settings.listen[0])
        with pytest.raises(SettingsError, match=str(file)):
            check_tls(settings)
    assert not readable.read_text()


def test_a_client_checks_as_by_default() -> None:
    default, ours = ssl.create_default_context(), client_context()

    assert (ours.verify_mode, ours.check_hostname) == (default.verify_mode, default.check_hostname)
    assert (ours.verify_flags, ours.options) == (default.verify_flags, default.options)
    assert ours.minimum_version == default.minimum_version
