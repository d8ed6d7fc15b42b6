"""shimproxy's own login at a Postfix that asks Cyrus SASL or a Dovecot: what these take, and what they refuse.

The mails stand in the mailbox or do not; what the log and the records say is read for what must not stand there.
"""

from __future__ import annotations

import contextlib
import re
from base64 import b64encode
from typing import TYPE_CHECKING, Final

import pytest
import trio

from shimproxy import Login
from shimproxy.faulty.receiving import HOST
from tests.daemon.test_supervisor import Run, running
from tests.peers.postfix import Postfix, postfix
from tests.peers.processes import poll
from tests.peers.sasl import cyrus, dovecot
from tests.peers.tls import Certificate, make_certificate
from tests.session.test_tls import delivered, tls_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.once

SECONDS: Final = 120.0
MAILBOX: Final = "many"
ACCOUNT: Final = Login("us=er,1", "a s3cret, für Sie")
"""What a saslname escapes (RFC 5802 section 5.1), and a password that is not ASCII."""
WRONG: Final = "a wr0ng secret"
REFUSED: Final = b"421 login to the receiver failed, closing connection\r\n"
PASSWORDS: Final = [(by, mechanism) for by in ("cyrus", "dovecot") for mechanism in ("SCRAM-SHA-256", "CRAM-MD5")]
SETTINGS: Final = """
receiver = "{host}:{port}"
receiver-tls = "required"
receiver-ca = "{authority}"
log-level = "debug"
record = "{records}"
record-what = "all"
{more}
"""


@contextlib.contextmanager
def shim_before(receiver: Postfix, certificate: Certificate, folder: Path, more: str) -> Iterator[Run]:
    records = folder / "records"
    records.mkdir()
    text = SETTINGS.format(
        host=HOST,
        port=receiver.port,
        authority=certificate.certificate,
        records=records,
        more=more,
    )
    with running(folder, text) as run:
        yield run


def told(folder: Path) -> str:
    """All that shimproxy has written: its log, and a record of each session."""
    records = sorted((folder / "records").rglob("*"))
    return "".join(each.read_text() for each in (folder / "log", *records) if each.is_file())


def assert_hidden(folder: Path, *secrets: str) -> None:
    """Neither these nor their base64 stand in anything that was written, wherever they begin in what was encoded."""
    written = told(folder)
    assert written.count("220 postfix.example ") >= 2  # in the log, and in a record
    for secret in secrets:
        assert secret not in written
        for before in range(3):
            encoded = b64encode(b"x" * before + secret.encode())
            # The first and the last may share an octet with what stands beside them.
            assert encoded[4:-4].decode() not in written


def reasons(run: Run, count: int) -> list[str]:
    """Why logins failed, in order, when so many have."""
    run.logged("repair=login-refused", count)
    return re.findall(r'repair=login-refused .*reason="([^"]*)"', run.log)


@pytest.mark.parametrize(("by", "mechanism"), PASSWORDS)
async def test_a_password_that_is_right_delivers_and_a_wrong_one_does_not(
    tmp_path: Path, by: str, mechanism: str
) -> None:
    certificate = make_certificate(tmp_path)
    more = ""
    for secret in (ACCOUNT.secret, WRONG):
        file = tmp_path / secret[2]
        file.write_text(f"{secret}\n")
        more += f'[[listener]]\nlisten = "{HOST}:0"\nlogin = "{ACCOUNT.user}"\nlogin-secret-file = "{file}"\n'
    with trio.fail_after(SECONDS), contextlib.ExitStack() as stack:
        if by == "cyrus":
            sasl = stack.enter_context(cyrus(mechanism, ACCOUNT))
        else:
            sasl = stack.enter_context(dovecot(mechanism, ACCOUNT)).sasl
        receiver = stack.enter_context(postfix(more=tls_of(certificate, "may"), sasl=sasl))
        with shim_before(receiver, certificate, tmp_path, more) as run:
            verdicts = [await delivered(port, MAILBOX) for port in run.ports]
            assert reasons(run, 1) == ["reply 535"]
        poll(lambda: receiver.count(MAILBOX) == 1, "a mail stored")
        log = receiver.log
    assert verdicts[0].startswith(b"250 2.0.0 Ok: queued as ")
    assert verdicts[1] == REFUSED
    assert re.findall(r"sasl_method=(.*), sasl_username=(.*?)(?:@.*)?\n", log) == [(mechanism, ACCOUNT.user)]
    assert log.count(f"SASL {mechanism} authentication failed") == 1
    assert_hidden(tmp_path, ACCOUNT.secret, WRONG)


@pytest.mark.parametrize(
    ("mechanism", "reason"),
    [
        ("OAUTHBEARER", "reply 535: status invalid_token"),
        ("XOAUTH2", "reply 535: status 401, scope mail, schemes bearer"),
    ],
)
async def test_tokens_that_a_dovecot_validates(tmp_path: Path, mechanism: str, reason: str) -> None:
    """One that is right, also one of more than a command line; one that is expired, one of another user, one forged."""
    certificate = make_certificate(tmp_path)
    file = tmp_path / "token"
    with trio.fail_after(SECONDS), dovecot(mechanism, ACCOUNT) as provider:
        right, long = provider.token(ACCOUNT.user), provider.token(ACCOUNT.user, about="x" * 3000)
        wrong = [provider.token(ACCOUNT.user, -1), provider.token("another"), right[:-4] + "AAAA"]
        tokens = [right, wrong[0], long, *wrong[1:], right]
        verdicts = []
        with postfix(more=tls_of(certificate, "may"), sasl=provider.sasl) as receiver:
            more = f'listen = "{HOST}:0"\nlogin = "{ACCOUNT.user}"\nlogin-token-file = "{file}"\n'
            with shim_before(receiver, certificate, tmp_path, more) as run:
                for token in tokens:
                    file.write_text(f"{token}\n")
                    verdicts.append(await delivered(run.ports[0], MAILBOX))
                assert reasons(run, len(wrong)) == [reason] * len(wrong)
            poll(lambda: receiver.count(MAILBOX) == 3, "the mails stored")
            log = receiver.log
    assert [each for each in verdicts if not each.startswith(b"250 2.0.0 Ok: queued as ")] == [REFUSED] * len(wrong)
    assert [each == REFUSED for each in verdicts] == [token in wrong for token in tokens]
    assert re.findall(r"sasl_method=(.*), sasl_username=(.*)\n", log) == [(mechanism, ACCOUNT.user)] * 3
    assert log.count(f"SASL {mechanism} authentication failed") == len(wrong)
    assert_hidden(tmp_path, *tokens)
