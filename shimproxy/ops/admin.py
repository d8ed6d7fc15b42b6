"""The admin address: figures, health and a status page over HTTP, for whoever runs shimproxy.

It runs in a thread of the supervisor's, with the standard library's server, and asks the supervisor's task for
everything that it answers. GET and HEAD only; nothing here changes anything.
"""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import socketserver
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from shimproxy.net.address import Address, UnixPath, parse_endpoint, written
from shimproxy.net.listen import close_listener, is_in_place, open_listeners, open_unix_listener
from shimproxy.ops import metrics, page

if TYPE_CHECKING:
    from shimproxy.ops.status import Status

_MODE: Final = 0o660
_ANSWER_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.2
_REQUEST_SECONDS: Final = 30.0
_MOST_CLIENTS: Final = 32
_Request = socket.socket | tuple[bytes, socket.socket]
_NO_RESOURCES: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


class Supervised(Protocol):
    """Whom the answers come from; called in trio's thread."""

    async def status(self) -> Status:
        """What is so, and what was done."""

    async def receiver_greets(self) -> str:
        """Why the receiver can't be said to be there, or nothing."""


@attrs.frozen
class Answer:
    """What a path is answered."""

    text: str
    status: HTTPStatus = HTTPStatus.OK
    kind: str = "text/plain; charset=utf-8"


async def answer(path: str, supervised: Supervised) -> Answer:
    """The answer to GET."""
    path, _, query = path.partition("?")
    match path:
        case "/":
            return Answer(page.written(await supervised.status()), kind="text/html; charset=utf-8")
        case "/metrics":
            status = await supervised.status()
            text = metrics.written(status.figures, status.version)
            return Answer(text, kind="text/plain; version=0.0.4; charset=utf-8")
        case "/healthz":
            why_not = "" if (await supervised.status()).serves else "no worker serves"
        case "/readyz":
            status = await supervised.status()
            why_not = "draining" if status.stopping else "" if status.serves else "no worker serves"
            if not why_not and query == "receiver":
                why_not = await supervised.receiver_greets()
        case _:
            return Answer("there are /, /metrics, /healthz and /readyz\n", HTTPStatus.NOT_FOUND)
    return Answer(f"{why_not}\n", HTTPStatus.SERVICE_UNAVAILABLE) if why_not else Answer("ok\n")


_NOT_HERE: Final = Answer("ask for the page by an address, or as localhost\n", HTTPStatus.MISDIRECTED_REQUEST)


_PORT: Final = re.compile(r":[0-9]+$")


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection; `server` has what it needs."""

    protocol_version = "HTTP/1.1"
    server_version = "shimproxy"
    sys_version = ""
    timeout = _ANSWER_SECONDS
    server: _Server

    def do_GET(self) -> None:
        try:
            found = self.server.ask(self.path) if self._is_meant() else _NOT_HERE
        except (trio.RunFinishedError, trio.Cancelled):
            self.close_connection = True  # it is over
            return
        body = found.text.encode()
        self.send_response(found.status)
        self.send_header("Content-Type", found.kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _NO_RESOURCES)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _is_meant(self) -> bool:
        """Whether the page may be shown: not where a foreign page has given this address a name of its own."""
        if self.path.partition("?")[0] != "/":
            return True
        host = _PORT.sub("", self.headers.get("Host", "")).lower()
        return host in ("", "localhost") or Address(host.strip("[]"), 0).is_literal

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are no news."""


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """On a socket that listens already."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = _MOST_CLIENTS

    def __init__(self, sock: socket.socket, supervised: Supervised, token: trio.lowlevel.TrioToken) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self._supervised, self._token = supervised, token
        self._clients = threading.BoundedSemaphore(_MOST_CLIENTS)

    def ask(self, path: str) -> Answer:
        return trio.from_thread.run(answer, path, self._supervised, trio_token=self._token)

    def get_request(self) -> tuple[socket.socket, str]:
        try:
            sock, _ = self.socket.accept()
        except OSError:
            time.sleep(_POLL_SECONDS)  # there may be no descriptor for it; it waits
            raise
        return sock, "admin"

    def process_request(self, request: _Request, client_address: object) -> None:
        if self._clients.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: _Request, client_address: object) -> None:
        # However slowly it comes: a request has as long as this altogether.
        timer = threading.Timer(_REQUEST_SECONDS, self._cut_off, (request,))
        timer.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._clients.release()

    @staticmethod
    def _cut_off(request: _Request) -> None:
        with contextlib.suppress(OSError):
            if isinstance(request, socket.socket):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked has gone."""


@attrs.define(eq=False)
class Admin:
    """The admin address while it is open."""

    where: str
    """HOST:PORT or unix:PATH."""
    _sockets: list[socket.socket]
    _servers: list[_Server] = attrs.field(factory=list)
    closed: trio.Event = attrs.field(factory=trio.Event)
    """Set once its address is free again."""

    @classmethod
    async def open(cls, where: str) -> Admin:
        """Listen there. Raises ListenFailed."""
        endpoint = parse_endpoint(where)
        if isinstance(endpoint, UnixPath):
            return cls(where, [open_unix_listener(endpoint.path, _MODE)])
        return cls(where, await open_listeners(endpoint))

    @property
    def in_place(self) -> bool:
        """Whether those who ask find it."""
        return all(map(is_in_place, self._sockets))

    @property
    def addresses(self) -> list[str]:
        """Where it listens indeed."""
        return [written(sock.getsockname()) for sock in self._sockets]

    def answer(self, supervised: Supervised) -> None:
        """Answer from now on."""
        token = trio.lowlevel.current_trio_token()
        for sock in self._sockets:
            server = _Server(sock, supervised, token)
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="admin", daemon=True).start()

    def close_soon(self, nursery: trio.Nursery) -> None:
        """Answer no more, presently."""
        nursery.start_soon(self.close)

    async def close(self) -> None:
        """Answer no more."""
        for server in self._servers:
            await trio.to_thread.run_sync(server.shutdown)
        for sock in self._sockets:
            close_listener(sock)
        self.closed.set()
