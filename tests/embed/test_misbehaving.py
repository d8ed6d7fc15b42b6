"""`misbehaving`: a faulty receiver within a program that is tested against it."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

import shimproxy
from shimproxy import ListenFailed, TlsUnusable, Violation
from shimproxy.faulty.plan import Plan
from shimproxy.faulty.serving import FaultySession
from shimproxy.faulty.serving import serving_faults as serving
from shimproxy.faulty.talk import SECONDS
from tests.peers.tls import make_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from shimproxy import Misbehaving, Running

OCTETS = 3_000_000


def send(to: Running | Misbehaving, octets: int = 100, recipient: str = "b@receiver.example") -> None:
    with smtplib.SMTP(to.host, to.port, timeout=SECONDS) as sender:
        sender.sendmail("a@sender.example", [recipient], "Subject: s\r\n\r\n" + "x" * octets)


def test_a_sender_that_does_not_read_loses_the_reply_and_shimproxy_keeps_it() -> None:
    """What both are for, in one block."""
    with shimproxy.misbehaving("early-reply") as receiver:
        with shimproxy.running(receiver=receiver) as shim, pytest.raises(smtplib.SMTPDataError) as caught:
            send(shim, OCTETS)
        assert caught.value.smtp_code == 552
        [record] = receiver.wait_for()
        assert record["violation"] == str(Violation.EARLY_REPLY)
        assert shim.wait_for()[0].repairs[Violation.EARLY_REPLY] == 1


def test_without_a_fault_it_takes_mail() -> None:
    with shimproxy.misbehaving() as receiver:
        assert receiver.address == f"127.0.0.1:{receiver.port}"
        send(receiver)
        send(receiver)
        assert [record["believes"] for record in receiver.wait_for(2)] == ["delivered"] * 2


def test_one_that_resets_before_it_is_accepted_keeps_no_other_from_being_served() -> None:
    """By then the kernel no longer knows the peer's address."""
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname(), SECONDS) as scanner:
        scanner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    receiver = serving(Plan(), listener, lambda _: None)
    with receiver, smtplib.SMTP("127.0.0.1", receiver.port, timeout=SECONDS) as sender:
        assert sender.noop()[0] == 250


def test_want_of_threads_ends_one_connection_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def fails(thread: threading.Thread) -> None:
        if thread.name == "receiver's connection":
            raise RuntimeError("can't start new thread")
        start(thread)

    with shimproxy.misbehaving() as receiver:
        with monkeypatch.context() as patched, contextlib.suppress(ConnectionResetError):
            patched.setattr(threading.Thread, "start", fails)
            with socket.create_connection((receiver.host, receiver.port), SECONDS) as unlucky:
                assert unlucky.recv(1) == b""
        send(receiver)


def test_the_sender_may_choose() -> None:
    with shimproxy.misbehaving(chosen=True) as receiver:
        with pytest.raises(smtplib.SMTPDataError):
            send(receiver, recipient="well-behaved-refuses-at-the-dot@fault.example")
        [record] = receiver.wait_for(where=lambda record: record["chosen_by"] == "RCPT")
        assert record["believes"] == "bounced"


def test_it_listens_where_it_is_told() -> None:
    with shimproxy.misbehaving(listen="[::1]:0") as receiver:
        assert (receiver.host, str(receiver.address)) == ("::1", f"[::1]:{receiver.port}")
        send(receiver)


def test_it_offers_starttls_with_a_certificate(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    with (
        shimproxy.misbehaving(certificate=made.certificate, key=made.key) as receiver,
        smtplib.SMTP(receiver.host, receiver.port, timeout=SECONDS) as sender,
    ):
        assert sender.starttls()[0] == 220


def test_it_leaves_no_thread_and_no_socket() -> None:
    threads = threading.enumerate()
    with shimproxy.misbehaving("early-reply") as receiver:
        sender = socket.create_connection((receiver.host, receiver.port), SECONDS)
        assert sender.recv(3) == b"220"
    with sender:
        assert threading.enumerate() == threads
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((receiver.host, receiver.port), SECONDS)


def test_a_wait_that_is_too_long_says_what_became_of_the_sessions() -> None:
    with shimproxy.misbehaving() as receiver:
        with pytest.raises(TimeoutError, match="0 sessions open; no peer has connected to 127"):
            receiver.wait_for(timeout_seconds=0)
        send(receiver)
        receiver.wait_for()
        with smtplib.SMTP(receiver.host, receiver.port, timeout=SECONDS) as sender:
            sender.noop()
            with pytest.raises(TimeoutError) as caught:
                receiver.wait_for(2, timeout_seconds=0)
    assert str(caught.value).startswith("wanted 2 sessions, got 1 within 0 s; 1 session open (connected); ")
    assert "1 session over, last well-behaved to 127.0.0.1:" in str(caught.value)


class Wrong(Exception):
    """A bug of somebody's."""


def test_an_error_of_its_thread_comes_out_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def converse(_: FaultySession) -> None:
        raise Wrong("in the session")

    monkeypatch.setattr(FaultySession, "_converse", converse)
    with (
        pytest.raises(Wrong, match="in the session"),
        shimproxy.misbehaving() as receiver,
        socket.create_connection((receiver.host, receiver.port), SECONDS) as sender,
    ):
        assert sender.recv(1) == b""


@pytest.mark.parametrize(
    ("faults", "fields", "error", "problem"),
    [
        (["early-repl"], {}, ValueError, "'early-repl' is unknown; did you mean early-reply"),
        (["early-reply:200%"], {}, ValueError, "a share is a number above 0"),
        ([25], {}, TypeError, "misbehaving: 25 is not the name of a fault; write one in quotes, as in 'early-reply'"),
        ([], {"listen": "192.0.2.1:0"}, ListenFailed, "cannot listen on 192.0.2.1:0: "),
        ([], {"listen": "2525"}, ValueError, "'2525' has no port"),
        ([], {"certificate": "/nonexistent"}, TlsUnusable, "/nonexistent"),
    ],
)
def test_what_cannot_be_used_is_an_error_of_the_with_statement(
    faults: list[Any], fields: dict[str, Any], error: type[Exception], problem: str
) -> None:
    threads = threading.enumerate()
    with pytest.raises(error) as caught, shimproxy.misbehaving(*faults, **fields):
        pytest.fail("the block was entered")
    assert str(caught.value).startswith(problem)
    assert threading.enumerate() == threads
