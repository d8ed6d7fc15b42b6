"""`running`: shimproxy in a thread, for programs that know nothing of trio."""

from __future__ import annotations

import contextlib
import gc
import smtplib
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import shimproxy
from shimproxy import Address, DialFailed, ListenFailed, SessionRecord, Settings, SettingsError, Violation
from shimproxy.faulty.receivers import FAULTS
from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import SECONDS, Talk
from shimproxy.session.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy import Repair, Running

RECIPIENT = "b@receiver.example"


@pytest.fixture
def receiver() -> Iterator[str]:
    """The address of a receiver that does as it should."""
    with FaultyReceiver(Talk.accept) as running:
        yield f"{HOST}:{running.port}"


def send(shim: Running, octets: int = 100) -> None:
    with smtplib.SMTP(shim.host, shim.port, timeout=SECONDS) as sender:
        sender.sendmail("a@sender.example", [RECIPIENT], "Subject: s\r\n\r\n" + "x" * octets)


@contextlib.contextmanager
def connected(shim: Running) -> Iterator[None]:
    """With a connection to shimproxy, which may be reset before connect() has returned."""
    with socket.socket() as sender:
        with contextlib.suppress(ConnectionResetError):
            sender.connect((shim.host, shim.port))
        yield


def open_files() -> set[str]:
    """What this process has open: each number with what it is of."""
    gc.collect()
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(f"{each.name} {each.readlink()}")
    return {each for each in found if "/proc/" not in each}


# -- what it gives


def test_a_mail_goes_through_and_its_session_has_a_record(receiver: str) -> None:
    with shimproxy.running(receiver=receiver) as shim:
        assert (shim.host, shim.port) == (shim.address.host, shim.address.port)
        assert shim.address == f"127.0.0.1:{shim.port}"
        assert shim.records == []
        send(shim)
        [record] = shim.wait_for()
        assert (record.accepted, record.repairs, record.ended_in) == (1, {}, "QUIT")
        assert shim.records == [record]


def test_a_violation_is_repaired_and_on_record() -> None:
    """What one writes a test with it for."""
    with FAULTS["early-552-drains"].start() as bad, shimproxy.running(receiver=f"{HOST}:{bad.port}") as shim:
        with pytest.raises(smtplib.SMTPDataError) as caught:
            send(shim, 3_000_000)
        assert caught.value.smtp_code == 552
        [record] = shim.wait_for(where=lambda record: Violation.EARLY_REPLY in record.repairs)
        assert record.transactions == 1


def test_addresses_are_where_it_listens(receiver: str) -> None:
    with shimproxy.running(receiver=receiver, listen=["127.0.0.1:0", "[::1]:0"]) as shim:
        assert [address.host for address in shim.addresses] == ["127.0.0.1", "::1"]
        for address in shim.addresses:
            with smtplib.SMTP(address.host, address.port, timeout=SECONDS) as sender:
                assert sender.noop()[0] == 250
        assert len(shim.wait_for(2)) == 2


def test_settings_may_be_given_and_changed(receiver: str) -> None:
    settings = Settings(receiver="192.0.2.1:25", tidy=True)
    with shimproxy.running(settings, receiver=receiver, max_size=1000) as shim:
        assert (shim.settings.tidy, shim.settings.max_size, shim.settings.grace_seconds) == (True, 1000, 30.0)
        with pytest.raises(smtplib.SMTPSenderRefused):
            send(shim, 3000)


def test_listeners_of_the_callers_own_are_closed_at_the_end(receiver: str) -> None:
    listener = socket.create_server((HOST, 0))
    with shimproxy.running(receiver=receiver, listeners=[listener]) as shim:
        assert shim.port == listener.getsockname()[1]
        send(shim)
    assert listener.fileno() == -1


def test_several_run_at_once_and_one_may_be_the_receiver_of_another(receiver: str) -> None:
    with contextlib.ExitStack() as stack:
        inner = [stack.enter_context(shimproxy.running(receiver=receiver)) for _ in range(3)]
        outer = [stack.enter_context(shimproxy.running(receiver=each)) for each in inner]
        with ThreadPoolExecutor() as pool:
            list(pool.map(send, outer))
        for each in (*inner, *outer):
            assert [record.accepted for record in each.wait_for()] == [1]


async def test_in_a_program_with_an_event_loop_it_is_waited_for_in_a_thread(receiver: str) -> None:
    with shimproxy.running(receiver=receiver) as shim:
        await trio.to_thread.run_sync(send, shim)
        assert len(await trio.to_thread.run_sync(shim.wait_for)) == 1


# -- its end


def test_it_leaves_no_thread_and_no_socket(receiver: str) -> None:
    threads, files = threading.enumerate(), open_files()
    with shimproxy.running(receiver=receiver) as shim:
        assert {thread.name for thread in threading.enumerate()} > {thread.name for thread in threads}
        address = (shim.host, shim.port)
    assert threading.enumerate() == threads
    assert open_files() == files
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, SECONDS)


def test_a_sender_that_stays_gets_421_and_does_not_hold_the_end_up(receiver: str) -> None:
    """One within a mail, too: no grace is given unless it is asked for."""
    with contextlib.ExitStack() as stack:
        with shimproxy.running(receiver=receiver) as shim:
            idle, busy = (
                stack.enter_context(contextlib.closing(socket.create_connection((shim.host, shim.port), SECONDS)))
                for _ in range(2)
            )
            files = [stack.enter_context(sock.makefile("rb")) for sock in (idle, busy)]
            assert [file.readline()[:3] for file in files] == [b"220"] * 2
            busy.sendall(b"HELO x\r\nMAIL FROM:<a@sender.example>\r\n")
            assert [files[1].readline()[:3] for _ in range(2)] == [b"250"] * 2
        assert [file.readline()[:3] for file in files] == [b"421"] * 2
        assert len(shim.records) == 2, "they can be read after the end"


def test_what_the_block_raises_comes_out_and_all_is_closed(receiver: str) -> None:
    threads = threading.enumerate()
    with pytest.raises(KeyError, match="mine"), shimproxy.running(receiver=receiver):
        raise KeyError("mine")
    assert threading.enumerate() == threads


# -- waiting


def test_a_wait_that_is_too_long_says_what_became_of_the_sessions(receiver: str) -> None:
    with shimproxy.running(receiver=receiver) as shim:
        send(shim)
        shim.wait_for()
        with smtplib.SMTP(shim.host, shim.port, timeout=SECONDS) as sender:
            sender.noop()
            with pytest.raises(TimeoutError) as caught:
                shim.wait_for(2, timeout_seconds=0)
        assert str(caught.value).startswith("wanted 2 sessions, got 1 within 0 s; 1 session open (")
        assert "; a session is over when its sender has disconnected; 1 session over, last " in str(caught.value)
        shim.wait_for(2)
        with pytest.raises(
            TimeoutError, match=r"; 2 sessions over, last .*: mails 1, accepted 1, repairs none, ended by"
        ):
            shim.wait_for(3, timeout_seconds=0)


def test_after_the_end_nothing_is_waited_for(receiver: str) -> None:
    with shimproxy.running(receiver=receiver) as shim:
        pass
    with pytest.raises(
        TimeoutError, match=r"^wanted 1 session, got 0 before the end; 0 sessions open; no peer has connected to "
    ):
        shim.wait_for()


# -- errors


@pytest.mark.parametrize(
    ("fields", "error", "problem"),
    [
        ({"receiver": "no-such-name.invalid:25"}, DialFailed, "unknown host 'no-such-name.invalid'"),
        ({"receiver": f"{HOST}:25", "listen": "192.0.2.1:0"}, ListenFailed, "cannot listen on 192.0.2.1:0"),
        ({"receiver": 25}, SettingsError, "receiver: 25 is not an address"),
        ({}, SettingsError, "receiver: missing; write HOST:PORT"),
        ({"reciever": "x"}, TypeError, "running: there is no setting reciever, did you mean receiver?"),
    ],
)
def test_what_cannot_be_used_is_an_error_of_the_with_statement(
    fields: dict[str, Any], error: type[Exception], problem: str
) -> None:
    threads = threading.enumerate()
    with pytest.raises(error) as caught, shimproxy.running(**fields):
        pytest.fail("the block was entered")
    assert str(caught.value).startswith(problem)
    assert threading.enumerate() == threads


class Wrong(Exception):
    """A bug of somebody's."""


def test_what_on_session_raises_comes_out_at_the_end_of_the_block(receiver: str) -> None:
    """As an assertion about each record may."""

    def check(record: SessionRecord) -> None:
        raise Wrong(record.ended_in)

    with pytest.raises(Wrong, match=r"^QUIT$"), shimproxy.running(receiver=receiver, on_session=check) as shim:
        send(shim)


def test_what_an_observer_raises_ends_a_wait(receiver: str) -> None:
    class Observer:
        wants_dialogue = True

        def said(self, record: SessionRecord, who: str, octets: bytes) -> None:
            raise Wrong(who)

        def repaired(self, record: SessionRecord, repair: Repair) -> None:
            pass

        def ended(self, record: SessionRecord) -> None:
            pass

        def failed(self, record: SessionRecord, error: BaseException) -> None:
            pass

    with shimproxy.running(receiver=receiver, observer=Observer()) as shim:
        send(shim)
        with pytest.raises(Wrong) as caught:
            shim.wait_for(2)
        assert "and then: Wrong(" in "".join(caught.value.__notes__)
        shim.wait_for(1)


def test_an_error_of_the_thread_is_a_note_where_the_block_has_one_already(receiver: str) -> None:
    def check(record: SessionRecord) -> None:
        raise Wrong("in the thread")

    def fail() -> None:
        with shimproxy.running(receiver=receiver, on_session=check) as shim:
            send(shim)
            while not shim.records:
                time.sleep(0)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        fail()
    assert caught.value.__notes__ == ["and shimproxy's thread failed: Wrong('in the thread')"]


def test_a_bug_in_a_session_comes_out(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def greet(_: Session) -> None:
        raise Wrong("in the session")

    monkeypatch.setattr(Session, "_greet", greet)
    with (
        pytest.raises(Wrong, match="in the session"),
        shimproxy.running(receiver=receiver) as shim,
        connected(shim),
    ):
        shim.wait_for(2)


def test_the_end_of_the_thread_ends_a_wait(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug outside of any session."""

    def begin(_: object, __: object, sock: socket.socket, ___: object) -> None:
        sock.close()
        raise Wrong("at the listener")

    monkeypatch.setattr("shimproxy.service.serve._Sessions.begin", begin)
    with (
        pytest.raises(Wrong, match="at the listener"),
        shimproxy.running(receiver=receiver) as shim,
        socket.create_connection((shim.host, shim.port), SECONDS),
    ):
        shim.wait_for()


def test_a_receiver_may_be_an_address_object(receiver: str) -> None:
    with shimproxy.running(receiver=Address.parse(receiver)) as shim:
        send(shim)
        assert shim.wait_for()[0].receiver == receiver


def test_a_program_that_never_leaves_the_block_ends_all_the_same() -> None:
    """The thread keeps no interpreter alive."""
    program = "import shimproxy; shim = shimproxy.running(receiver='127.0.0.1:1'); print(shim.__enter__().port)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=SECONDS)
    assert (ended.returncode, ended.stdout.strip().isdigit(), ended.stderr) == (0, True, b"")


def test_a_program_without_a_log_is_told_nothing_on_standard_error() -> None:
    """Python would print the message of a warning there, without what it is about."""
    program = "import logging, shimproxy.observe.lossy as output; output.log.warning('x')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=SECONDS)
    assert (ended.returncode, ended.stderr) == (0, b"")
