"""What the supervisor is told: lines of its workers and requests to the admin address."""

from __future__ import annotations

import json
import re
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from shimproxy.admin import http_request
from shimproxy.admin.http_request import Request, RequestRefused
from shimproxy.daemon import worker_handle, workers
from shimproxy.daemon.worker_handle import Worker
from shimproxy.daemon.workers import Workers
from shimproxy.observe.journal import Journal
from tests.fuzz.target import Target, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WORDS = (
    *(
        b'{"ready": true}',
        b'{"let_go": true}',
        b'{"counted": {}, "gauges": {}}',
        b'"report": ',
        b'"x": 1',
        b"5",
        b"null",
    ),
    *(
        b'{"repaired": {}}',
        b'"counted"',
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b":",
        b",",
        b"\n",
        b"\\u",
        b"\xff",
        b"NaN",
        b"-",
    ),
    b'{"repaired": {"id": "1", "sender": "", "receiver": "", "ended_at": 1, "seconds": 1, "ended": "", "repairs": []}}',
    *(b"[" * 2000, b"1" * 5000, b" ", b"true"),
)
_SEEDS = (
    b'{"ready": true}\n{"counted": {"a": 1}, "gauges": {"b": 2.5}, "report": 7}\n',
    b'{"let_go": true}\n5\n{"counted": 5}\n',
)


def hear(pieces: Iterable[bytes]) -> tuple[object, ...]:
    """What a worker is known to have said in these pieces, and how long the lines were that were complained of."""

    async def take() -> tuple[object, ...]:
        complaints = list[int]()
        with socket.socket() as control:
            async with trio.open_nursery() as nursery:
                all_workers = Workers(nursery, Journal())
                worker = Worker(0, control)
                for piece in pieces:
                    worker.take(piece, partial(all_workers._hear, worker), complaints.append)
        all_workers.history.figures([worker.counted, worker.gauges])
        known = worker.serves, worker.let_go.is_set(), repr((worker.counted, worker.gauges)), worker.reported
        return complaints, *known, len(all_workers.history.recent), worker.unread

    return trio.run(take)


def check_lines(octets: bytes, pieces: Sequence[bytes]) -> None:
    complaints, serves, let_go, *rest_of, unread = hear([octets])
    *lines, rest = octets.split(b"\n")
    assert unread == rest
    said = [each for each in map(_object, lines) if each is not None]
    assert isinstance(complaints, list)
    assert len(complaints) >= len(lines) - len(said)
    assert serves is any("ready" in each for each in said)
    assert let_go is any("let_go" in each for each in said if "ready" in each or "let_go" in each)
    cut = hear(pieces)
    assert cut == (complaints, serves, let_go, *rest_of, unread), cut


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


# -- requests


_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


def parsed(head: bytes) -> tuple[str, str, str, bool] | int:
    """What a head asks for, or the status of the refusal."""
    try:
        found = Request.parse(head)
    except RequestRefused as refused:
        if not refused.why:
            raise RuntimeError("refused for no reason") from refused
        return int(refused.status)
    return found.method, found.target, found.host, found.keeps_open


def naive(head: bytes) -> tuple[str, str, str] | None:
    """The same without what becomes of the connection, line by line; None for what is refused."""
    line, *rest = head.replace(b"\r\n", b"\n").split(b"\n")
    words = line.split(b" ")
    if len(words) != 3 or not re.fullmatch(_TOKEN, words[0]) or not re.fullmatch(rb"HTTP/1\.[0-9]", words[2]):
        return None
    if not words[1] or any(octet < 0x21 or octet > 0x7E or octet == 0x23 for octet in words[1]):
        return None
    hosts = []
    for each in rest:
        name, colon, value = each.partition(b":")
        if not colon or not re.fullmatch(_TOKEN, name) or any((o < 32 and o != 9) or o == 127 for o in value):
            return None
        if name.lower() == b"host":
            hosts.append(value.strip(b" \t").decode("latin-1"))
        if name.lower() == b"content-length" and not value.strip(b" \t").isdigit():
            return None
    if len(hosts) > 1 or (not hosts and words[2] != b"HTTP/1.0"):
        return None
    target, host = words[1].decode(), _naive_host(hosts[0] if hosts else "")
    if whole := re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)", target):
        target, named = whole[3], _naive_host(whole[2])
        if not named or whole[1].lower() != "http" or host is None:
            return None
        host, target = named, target if target.startswith("/") else "/" + target
    if host is None:
        return None
    return words[0].decode(), target if target.startswith("/") else "", host


def _naive_host(authority: str) -> str | None:
    if authority.startswith("["):
        inside, bracket, port = authority[1:].partition("]")
        try:
            socket.inet_pton(socket.AF_INET6, inside)
        except (OSError, ValueError):
            return None
        return inside.lower() if bracket and re.fullmatch("(:[0-9]*)?", port) else None
    name, _, port = authority.partition(":")
    if not re.fullmatch("[0-9]*", port) or not re.fullmatch(r"[0-9A-Za-z._~!$&'()*+,;=%-]*", name):
        return None
    return name.lower().removesuffix(".")


def check_requests(octets: bytes, pieces: Sequence[bytes]) -> None:
    found, expected = parsed(octets), naive(octets)
    if isinstance(found, int):
        lengths = re.findall(rb"(?im)^content-length:", octets)
        assert expected is None or len(lengths) > 1, f"refused with {found}, naively {expected}"
    else:
        assert found[:3] == expected, f"{found}, naively {expected}"


def _run_requests(pieces: Sequence[bytes]) -> None:
    octets = joined(pieces)
    for head in (octets, b"GET / HTTP/1.1\r\nHost: " + octets, b"GET http://" + octets):
        parsed(head)


TARGETS = (
    Target(
        name="control-lines",
        parsers=(worker_handle, workers),
        check=check_lines,
        run=hear,
        words=_WORDS,
        seeds=_SEEDS,
        most_octets=3000,
        most_steps=2000,
    ),
    Target(
        name="requests",
        parsers=(http_request,),
        check=check_requests,
        run=_run_requests,
        words=(
            *(
                b"GET / HTTP/1.1\r\n",
                b"HEAD /metrics HTTP/1.0\r\n",
                b"Host: ",
                b"localhost",
                b"[::1]:80",
                b"evil.example",
            ),
            *(
                b"127.0.0.1",
                b"\r\n",
                b"\n",
                b"\r",
                b"\0",
                b" ",
                b":",
                b"/healthz",
                b"?receiver",
                b"Connection: keep-alive",
            ),
            *(
                b"HTTP/",
                b"1.1",
                b"9" * 30,
                b"Expect: 100-continue\r\n",
                b"Content-Length: 5\r\n",
                b"POST",
                b"\xff",
                b"//",
            ),
        ),
        seeds=(
            b"GET / HTTP/1.1\r\nHost: localhost:9025",
            b"GET http://[::1]:80/?x HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\nConnection: a, close",
            b"HEAD /healthz HTTP/1.0",
        ),
        most_steps=2000,
    ),
)
