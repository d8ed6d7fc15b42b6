"""What the admin address takes for a request, and whom it is for (RFC 9112, RFC 9110 7.2)."""

from __future__ import annotations

import pytest

from shimproxy.admin.http_request import Request, RequestRefused

GET = b"GET /healthz HTTP/1.1\r\n"
OWN = b"Host: localhost\r\n"


def parsed(head: bytes) -> Request:
    return Request.parse(head.rstrip(b"\r\n"))


def status(head: bytes) -> int:
    try:
        parsed(head)
    except RequestRefused as refused:
        return refused.status
    return 200


@pytest.mark.parametrize(
    ("host", "known"),
    [
        (b"localhost", "localhost"),
        (b"LocalHost:8025", "localhost"),
        (b"localhost:", "localhost"),
        (b"localhost.:8025", "localhost"),
        (b"localhost..", "localhost."),
        (b"192.0.2.1:8025", "192.0.2.1"),
        (b"[::1]:8025", "::1"),
        (b"[2001:DB8::1]", "2001:db8::1"),
        (b"a_b.svc.cluster.local:8025", "a_b.svc.cluster.local"),
        (b"localhost%2eevil.example", "localhost%2eevil.example"),
        (b"127.0.0.1,evil.example", "127.0.0.1,evil.example"),
        (b"", ""),
        (b":8025", ""),
        (b"::1", None),
        (b"::1:8025", None),
        (b"[::1", None),
        (b"[::1]8025", None),
        (b"[::1]evil.example", None),
        (b"[127.0.0.1]", None),
        (b"[:::]", None),
        (b"[localhost]", None),
        (b"localhost:80x", None),
        (b"localhost:80:80", None),
        (b"localhost evil.example", None),
        (b"localhost/evil.example", None),
        (b"me@localhost", None),
        (b"localhost\\evil.example", None),
        (b"loc\xe4lhost", None),
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_host_is_a_name_or_an_address(host: bytes, known: str | None, version: bytes) -> None:
    head = b"GET / HTTP/%b\r\nAccept: */*\r\nhOST:\t%b \r\n" % (version, host)
    if known is None:
        assert status(head) == 400
    else:
        assert parsed(head).host == known


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.0\r\n", 200),
        (GET + OWN + OWN, 400),
        (GET + OWN + b"host: 127.0.0.1\r\n", 400),
        (b"GET / HTTP/1.0\r\n" + OWN + OWN, 400),
        (b"GET http://localhost/ HTTP/1.1\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\n" + OWN + OWN, 400),
    ],
)
def test_host_stands_there_once(head: bytes, expected: int) -> None:
    """Once at most in HTTP/1.0; the target's own host does not replace it (RFC 9112 3.2)."""
    assert status(head) == expected


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://shim.example/metrics?x", "/metrics?x", "shim.example"),
        (b"HTTP://Shim.Example:8025", "/", "shim.example"),
        (b"http://[::1]:8025?x", "/?x", "::1"),
        (b"/http://shim.example/", "/http://shim.example/", "localhost"),
        (b"//shim.example/", "//shim.example/", "localhost"),
        (b"*", "", "localhost"),
        (b"shim.example:8025", "", "localhost"),
    ],
)
def test_a_host_in_the_target_counts_instead(target: bytes, path: str, host: str) -> None:
    request = parsed(b"GET %b HTTP/1.1\r\n" % target + OWN)
    assert (request.target, request.host) == (path, host)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(b"http:///", 400), (b"http://me@localhost/", 400), (b"https://localhost/", 421), (b"file:///etc/passwd", 400)],
)
def test_a_target_that_is_another_servers_is_refused(target: bytes, expected: int) -> None:
    assert status(b"GET %b HTTP/1.1\r\n" % target + OWN) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET /\r\n" + OWN, 400),
        (b"GET  / HTTP/1.1\r\n" + OWN, 400),
        (b"GET / x HTTP/1.1\r\n" + OWN, 400),
        (b"GET / HTTP/1.1 \r\n" + OWN, 400),
        (b"GET / http/1.1\r\n" + OWN, 400),
        (b"G(T / HTTP/1.1\r\n" + OWN, 400),
        (b"GET /\xe4 HTTP/1.1\r\n" + OWN, 400),
        (b"GET /#x HTTP/1.1\r\n" + OWN, 400),
        (b"GET / HTTP/2.0\r\n" + OWN, 505),
        (b"PRI * HTTP/2.0\r\n", 505),
        (b"EHLO me.example\r\n", 400),
        (GET + b" Host: localhost\r\n", 400),
        (GET + b"Host : localhost\r\n", 400),
        (GET + OWN + b" evil.example\r\n", 400),
        (GET + OWN + b": x\r\n", 400),
        (GET + OWN + b"X\r\n", 400),
        (GET + OWN + b"X: a\0b\r\n", 400),
        (GET + OWN + b"X: a\rHost: evil.example\r\n", 400),
        (GET + OWN + b"Content-Length: +5\r\n", 400),
        (GET + OWN + b"Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        (GET + OWN + b"X: \t\xe4\r\nX:\r\n", 200),
        (GET.replace(b"\r", b"") + OWN.replace(b"\r", b""), 200),
    ],
)
def test_what_is_malformed_is_refused(head: bytes, expected: int) -> None:
    assert status(head) == expected


@pytest.mark.parametrize(
    ("head", "keeps_open"),
    [
        (GET + OWN, True),
        (GET + OWN + b"Connection: keep-alive\r\n", True),
        (GET + OWN + b"Connection: x, Close\r\n", False),
        (GET + OWN + b"Connection: x\r\nConnection: close\r\n", False),
        (GET + OWN + b"Content-Length: 00\r\n", True),
        (GET + OWN + b"Content-Length: 5\r\n", False),
        (GET + OWN + b"Transfer-Encoding: chunked\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", False),
    ],
)
def test_a_connection_stays_open_if_the_next_octets_are_a_request(head: bytes, keeps_open: bool) -> None:
    """No body is read, so that what stands in one is never taken for a request."""
    assert parsed(head).keeps_open == keeps_open
