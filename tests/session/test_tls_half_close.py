"""A sender that closes its direction by FIN alone, over TLS as in the clear: it has all that it is owed.

OpenSSL calls a FIN without close_notify an error, and a connection in error is written to no more: what the sender was
owed when a read met its FIN must reach it all the same, and the shim's own end is a close_notify.
"""

from __future__ import annotations

import functools
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from shimproxy.faulty.chunks import ChunkTalk
from shimproxy.faulty.client import Dialogue, connected
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import Talk
from tests.peers.shim import shim
from tests.peers.tls import NAME, Certificate, make_certificate

if TYPE_CHECKING:
    import threading

SECONDS: Final = 60.0
RECORD_OCTETS: Final = 16 * 1024
OPENING: Final = (("EHLO x", 250), ("MAIL FROM:<a@b.example>", 250), ("RCPT TO:<c@d.example>", 250), ("DATA", 354))
VERSIONS: Final = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def terminated(certificate: Certificate) -> dict[str, Any]:
    """Settings of a shim that is TLS's server and goes on in the clear."""
    given = {"certificate": certificate.certificate, "key": certificate.key, "sender_tls": "implicit"}
    return given | {"clear_allowed": True}


def gives(verdict: bytes, talk: Talk) -> None:
    """It takes a mail to its end and gives that verdict on it."""
    talk.go_on()
    talk.seen.mails.append(talk.whole())
    talk.seen.early.set()
    talk.say(verdict)


def secured(sock: socket.socket, certificate: Certificate, version: ssl.TLSVersion | None = None) -> ssl.SSLSocket:
    """TLS with the shim, for a sender that takes no FIN for an end."""
    context = certificate.client()
    if version:
        context.minimum_version = context.maximum_version = version
    return context.wrap_socket(sock, server_hostname=NAME, suppress_ragged_eofs=False)


def fin(sock: socket.socket) -> None:
    """Close this direction, without a close_notify."""
    socket.socket.shutdown(sock, socket.SHUT_WR)


def send_and_half_close(
    certificate: Certificate, version: ssl.TLSVersion, records: list[bytes], whole: threading.Event | None, port: int
) -> tuple[bytes, bytes]:
    """Send mail data in these records, and FIN: in one segment with the last, or when the receiver has them `whole`.

    The reply to them, and what comes after it.
    """
    with connected(port) as plain, secured(plain, certificate, version) as sock:
        dialogue = Dialogue(sock)
        assert dialogue.reply().startswith(b"220")
        for line, code in OPENING:
            dialogue.command(line, code)
        if whole is None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        for record in records:
            assert sock.send(record) == len(record)
        if whole is not None:
            assert whole.wait(SECONDS)
        fin(sock)
        return dialogue.reply(), dialogue.rest()


def records_of(last_octets: int, full: int) -> list[bytes]:
    """Mail data whose end ends a record of that many octets, behind so many full ones."""
    end = b"\r\n.\r\n"
    octets = full * RECORD_OCTETS + last_octets
    data = b"x" * (octets - len(end)) + end
    records = [data[start : start + RECORD_OCTETS] for start in range(0, full * RECORD_OCTETS, RECORD_OCTETS)]
    return [*records, data[full * RECORD_OCTETS :]]


@pytest.mark.parametrize("verdict", [b"250 queued\r\n", b"552 too big\r\n"], ids=["250", "552"])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("when", ["in one segment with the dot", "later"])
@pytest.mark.parametrize(
    "records",
    [
        records_of(RECORD_OCTETS, 0),
        records_of(RECORD_OCTETS, 1),
        records_of(RECORD_OCTETS, 3),  # all that is read at once
        records_of(RECORD_OCTETS, 7),
        records_of(RECORD_OCTETS - 1, 3),
        records_of(1, 4),
        records_of(1, 0),
        records_of(5, 1),
        records_of(4096, 0),
        records_of(4096, 4),
    ],
    ids=lambda records: "+".join(str(len(record)) for record in records),
)
async def test_the_verdict_is_read(
    records: list[bytes], when: str, version: ssl.TLSVersion, verdict: bytes, certificate: Certificate
) -> None:
    with trio.fail_after(SECONDS), FaultyReceiver(functools.partial(gives, verdict)) as receiver:
        async with shim(receiver.port, **terminated(certificate)) as between:
            whole = receiver.seen.early if when == "later" else None
            send = functools.partial(send_and_half_close, certificate, version, records, whole)
            heard = await trio.to_thread.run_sync(send, between.port)
            await between.watcher.sessions_ended()
    assert heard == (verdict, b"")
    assert receiver.seen.mails == [b"".join(records)[: -len(b".\r\n")]]
    assert [str(each.violation) for each in between.watcher.repairs] == ["closed-without-quit"]


def refuses(talk: Talk) -> None:
    talk.say(b"550 no\r\n")


def takes(talk: Talk) -> None:
    talk.accept()


def say_and_half_close(
    certificate: Certificate | None, before: tuple[tuple[str, int], ...] | None, words: bytes, port: int
) -> list[int]:
    """Say what comes `before`, reply by reply, then these words and FIN in one segment; the codes of what answers them.

    With nothing before, the greeting is not waited for either.
    """
    with connected(port) as plain:
        sock = secured(plain, certificate) if certificate else plain
        with sock:
            dialogue = Dialogue(sock)
            if before is not None:
                assert dialogue.reply().startswith(b"220")
                for line, code in before:
                    dialogue.command(line, code)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            sock.sendall(words)
            fin(sock)
            lines = dialogue.rest().splitlines()
    return [int(line[:3]) for line in lines if line[3:4] != b"-"]


@pytest.mark.parametrize("over", ["clear", "TLS"])
@pytest.mark.parametrize(
    ("on_data", "before", "words", "heard"),
    [
        pytest.param(takes, None, b"EHLO x\r\nQUIT\r\n", [220, 250, 221], id="before the greeting"),
        pytest.param(takes, (), b"EHLO x\r\n", [250], id="EHLO"),
        pytest.param(takes, OPENING[:1], b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRSET\r\n", [250] * 3, id="a group"),
        pytest.param(refuses, OPENING[:3], b"DATA\r\n", [550], id="DATA refused"),
        pytest.param(takes, OPENING, b"text\r\n.\r\nQUIT\r\n", [250, 221], id="QUIT behind the dot"),
        pytest.param(takes, OPENING[:3], b"BDAT 4 LAST\r\nab\r\n", [250], id="a chunk"),
        pytest.param(takes, OPENING[:3], b"BDAT 1\r\nxBDAT 2 LAST\r\n\r\n", [250, 250], id="two chunks"),
        pytest.param(takes, (), b"QUIT\r\n", [221], id="QUIT"),
    ],
)
async def test_whatever_it_is_owed_is_read(
    over: str,
    on_data: Any,
    before: tuple[tuple[str, int], ...] | None,
    words: bytes,
    heard: list[int],
    certificate: Certificate,
) -> None:
    """A read that looks for commands may meet the FIN before they are answered."""
    given = terminated(certificate) if over == "TLS" else {}
    talk = ChunkTalk if words.startswith(b"BDAT") else Talk
    with trio.fail_after(SECONDS), FaultyReceiver(on_data, talk=talk) as receiver:
        async with shim(receiver.port, **given) as between:
            say = functools.partial(say_and_half_close, certificate if over == "TLS" else None, before, words)
            assert await trio.to_thread.run_sync(say, between.port) == heard
            await between.watcher.sessions_ended()


async def test_a_fin_in_the_handshake_is_told_as_what_it_is(certificate: Certificate) -> None:
    with trio.fail_after(SECONDS), FaultyReceiver(refuses) as receiver:
        async with shim(receiver.port, **terminated(certificate)) as between:
            with connected(between.port) as sock:
                sock.sendall(b"\x16\x03\x01")
                fin(sock)
                await between.watcher.sessions_ended()
    (repair,) = between.watcher.repairs
    assert (str(repair.violation), repair.detail["reason"]) == ("tls-failed", "the peer closed the connection")
