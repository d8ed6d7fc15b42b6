"""The readiness check in TLS: a receiver that begins with it is asked inside it, as mail would find it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import trio

from shimproxy.admin.receiver_health import why_no_greeting
from shimproxy.config.settings import Settings
from shimproxy.faulty.receiving import HOST, speaking
from tests.peers.postfix import postfix
from tests.peers.processes import poll
from tests.peers.tls import Certificate, make_certificate
from tests.session.test_tls import tls_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shimproxy.faulty.talk import Talk

SECONDS = 60.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def asking(port: int, **more: Any) -> Settings:
    """Settings with a receiver that begins with TLS."""
    return Settings(receiver=f"{HOST}:{port}", receiver_tls="implicit", **more)


@contextlib.contextmanager
def beginning_with_tls(certificate: Certificate, *to_say: bytes) -> Iterator[int]:
    """A receiver that says something inside TLS, and hears a line after each; its port."""

    def dialogue(talk: Talk) -> None:
        context = certificate.server()
        talk.sock = context.wrap_socket(talk.sock, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(OSError):
            talk.sock.do_handshake()
        for each in to_say:
            talk.say(each)
            talk.line()

    with speaking(dialogue) as receiver:
        yield receiver.port


async def test_postfix_is_asked_inside_tls_and_has_no_complaint(certificate: Certificate) -> None:
    with postfix(more=tls_of(certificate, "encrypt") + "smtpd_tls_wrappermode = yes\n") as receiver:
        with trio.fail_after(SECONDS):
            assert await why_no_greeting(asking(receiver.port, receiver_authorities=certificate.certificate)) == ""
        poll(lambda: "quit=1" in receiver.log, "the session is logged")
        (session,) = [line for line in receiver.log.splitlines() if "quit=1" in line]
    assert "commands=1" in session


@pytest.mark.parametrize(
    ("greeting", "why_not"),
    [(b"220 hello\r\n", ""), (b"554 no\r\n", "does not greet"), (b"", "disconnects without a greeting")],
)
async def test_what_is_said_inside_tls_counts(greeting: bytes, why_not: str, certificate: Certificate) -> None:
    with beginning_with_tls(certificate, *filter(None, [greeting])) as port, trio.fail_after(SECONDS):
        told = await why_no_greeting(asking(port, receiver_fingerprint=certificate.fingerprint))
    assert told == (f"the receiver {HOST}:{port} {why_not}" if why_not else "")


async def test_a_certificate_that_mail_would_not_accept_is_not_ready(certificate: Certificate) -> None:
    with beginning_with_tls(certificate, b"220 hello\r\n") as port, trio.fail_after(SECONDS):
        told = await why_no_greeting(asking(port))
        trusting = await why_no_greeting(asking(port, receiver_verified=False))
    assert told == f"the receiver {HOST}:{port} does not make TLS: certificate not accepted: self-signed certificate"
    assert trusting == ""


async def test_a_receiver_that_greets_in_the_clear_does_not_make_tls() -> None:
    with speaking(lambda talk: talk.say(b"220 hello\r\n")) as receiver, trio.fail_after(SECONDS):
        told = await why_no_greeting(asking(receiver.port))
    assert told.startswith(f"the receiver {HOST}:{receiver.port} does not make TLS: ")


async def test_a_receiver_that_is_not_there_says_why_once() -> None:
    with trio.fail_after(SECONDS):
        told = await why_no_greeting(Settings(receiver=f"{HOST}:1"))
    assert told == f"the receiver {HOST}:1 cannot be reached: Connection refused"


async def test_a_socket_in_the_file_system_is_asked(tmp_path: Path) -> None:
    with trio.fail_after(SECONDS):
        told = await why_no_greeting(Settings(receiver=f"unix:{tmp_path}/none"))
    assert told == f"the receiver unix:{tmp_path}/none cannot be reached: No such file or directory"
