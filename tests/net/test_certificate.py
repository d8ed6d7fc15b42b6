"""What a certificate says of itself is read from its octets as OpenSSL reads it, and nothing but a certificate is."""

from __future__ import annotations

import contextlib
import random
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from shimproxy.net.certificate import Certificate, CertificateInvalid
from tests.peers.tls import NAME, make_certificate

if TYPE_CHECKING:
    from pathlib import Path


def octets_of(folder: Path, *addresses: str, expired: bool = False) -> bytes:
    made = make_certificate(folder, NAME, *addresses, expired=expired)
    return ssl.PEM_cert_to_DER_cert(made.certificate.read_text())


@pytest.fixture(scope="module")
def octets(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return octets_of(tmp_path_factory.mktemp("certificate"), "127.0.0.1", "2001:db8::7")


def test_it_says_what_openssl_says(octets: bytes) -> None:
    """OpenSSL's own account is one of a CA certificate, which one that has signed itself is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=octets)
    (account,) = context.get_ca_certs()

    found = Certificate.parse(octets)

    assert found.subject == found.issuer == NAME
    assert found.names == (NAME, "127.0.0.1", "2001:db8::7")
    for ours, theirs in ((found.not_before, account["notBefore"]), (found.not_after, account["notAfter"])):
        assert ours.timestamp() == ssl.cert_time_to_seconds(str(theirs))


@pytest.mark.parametrize(
    ("after", "days"),
    [
        (timedelta(days=-30), 30),
        (timedelta(days=-1, seconds=1), 0),
        (timedelta(0), 0),
        (timedelta(seconds=1), -1),
        (timedelta(days=2), -2),
    ],
)
def test_how_many_days_are_left(octets: bytes, after: timedelta, days: int) -> None:
    found = Certificate.parse(octets)

    assert found.days_left(found.not_after + after) == days


def test_an_expired_one_is_read_too(tmp_path: Path) -> None:
    assert Certificate.parse(octets_of(tmp_path, expired=True)).days_left(datetime.now(UTC)) < 0


def test_one_that_is_cut_short_is_none(octets: bytes) -> None:
    for end in range(len(octets)):
        with pytest.raises(CertificateInvalid):
            Certificate.parse(octets[:end])


@pytest.mark.parametrize(
    "octets",
    [b"", b"\x30", b"\x30\x80", b"\x30\x85\0\0\0\0\0", b"\x1f\x01\0", b"\x30\x02\x30\x00", b"220 hello\r\n"],
)
def test_what_is_no_certificate_is_an_error(octets: bytes) -> None:
    with pytest.raises(CertificateInvalid):
        Certificate.parse(octets)


def test_no_octet_that_is_changed_breaks_more_than_the_certificate(octets: bytes) -> None:
    """It comes from a peer that may send anything."""
    chance = random.Random(7)
    for _ in range(3000):
        changed = bytearray(octets)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        with contextlib.suppress(CertificateInvalid):
            Certificate.parse(bytes(changed))
