"""The admin address: figures, health and a status page over HTTP, for whoever runs shimproxy.

It runs in the supervisor's own task tree. Only PUT and DELETE of a receiver change anything.

1. Whatever the other clients do, a request is answered that comes soon after its connection: those that are waited for
   are bounded in number and time, and the one that was waited for longest makes room for a new one.
2. Health costs nothing: it is answered at once if all is well.
3. What costs something is made once at a time for all who ask for it, and is never older than the question.
4. A request by a name that is not this address' own gets no answer but that (DNS rebinding).
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote

import attrs
import trio

from shimproxy.admin.http_request import HEAD_END, MOST_HEAD_OCTETS, Request, RequestRefused, is_ip_address
from shimproxy.admin.receivers import receivers_of
from shimproxy.net.address import UnixPath, address_text, parse_endpoint
from shimproxy.net.listen import (
    Spare,
    accept_forever,
    close_listener,
    is_in_place,
    open_listeners,
    open_unix_listener,
    prepare,
)
from shimproxy.observe import metrics
from shimproxy.smtp.shown import escaped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from shimproxy.admin.status import Status
    from shimproxy.observe.journal import Journal

_MODE: Final = 0o660
MOST_AWAITED: Final = 128
"""Clients that are waited for, with their request or their end."""
MOST_ASKING: Final = 128
"""Clients whose answer is being made."""
MOST_UNSENT: Final = 16
"""Clients that have not taken all of their answer: each may hold a page of its own."""
REQUEST_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
"""More than receivers have to greet."""
_NO_RESOURCES: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


class Supervised(Protocol):
    """Whom the answers come from."""

    @property
    def admin_names(self) -> Collection[str]:
        """The names that the admin address is known by, in lower case."""

    def admits(self, peer: object) -> bool:
        """Whether a client with that address may ask."""

    @property
    def serves(self) -> bool:
        """Whether a worker has said of late that it serves."""

    @property
    def stopping(self) -> bool:
        """Whether no new sessions are accepted."""

    async def status(self) -> Status:
        """What is so, and what was done."""

    async def drain(self, name: str, *, ready: bool = False) -> str:
        """Give a receiver no new sessions, or `ready` again; why that can't be done, or nothing."""

    async def receiver_greets(self) -> str:
        """Why the receiver can't be said to be there, or nothing."""


@attrs.frozen
class Answer:
    """What a path is answered."""

    text: str
    status: HTTPStatus = HTTPStatus.OK
    kind: str = "text/plain; charset=utf-8"

    def octets(self, *, keeps_open: bool, only_head: bool = False) -> bytes:
        """The whole of it as it is sent."""
        body = self.text.encode(errors="replace")  # a path may have octets that are no text
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            "Server: shimproxy",
            f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime())}",
            f"Content-Type: {self.kind}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            f"Content-Security-Policy: {_NO_RESOURCES}",
            *([] if keeps_open else ["Connection: close"]),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if only_head else body)


_PATHS: Final = ("/", "/metrics", "/receivers", "/healthz", "/readyz")
_RECEIVER: Final = "/receivers/"
"""What the target of a change begins with; the name of the receiver follows, with its special characters as %XX."""
_OK: Final = Answer("ok\n")
_NOT_FOUND: Final = Answer(f"not found: choose {', '.join(_PATHS[:-1])} and {_PATHS[-1]}\n", HTTPStatus.NOT_FOUND)
_FAILED: Final = Answer("shimproxy failed; its log says why\n", HTTPStatus.INTERNAL_SERVER_ERROR)
_CHANGES: Final = ("PUT", "DELETE")
_NO_WORKER: Final = "no worker is ready"


async def _answer(target: str, supervised: Supervised) -> Answer:
    """The answer to GET one of the paths."""
    path, _, query = target.partition("?")
    match path:
        case "/":
            from shimproxy.admin import page  # with what draws ladders: a MiB that only a reader of it needs

            shown = page.rendered(await supervised.status(), page.searched(query))
            return Answer(shown, kind="text/html; charset=utf-8")
        case "/metrics":
            status = await supervised.status()
            text = metrics.exposition(status.figures, status.version)
            return Answer(text, kind="text/plain; version=0.0.4; charset=utf-8")
        case "/receivers":
            status = await supervised.status()
            return Answer(json.dumps(receivers_of(status.figures)) + "\n", kind="application/json")
        case "/healthz":
            why_not = "" if (await supervised.status()).serves else _NO_WORKER
        case _:
            status = await supervised.status()
            why_not = "draining" if status.stopping else "" if status.serves else _NO_WORKER
            if not why_not and query == "receiver":
                why_not = await supervised.receiver_greets()
    return Answer(f"{why_not}\n", HTTPStatus.SERVICE_UNAVAILABLE) if why_not else _OK


@attrs.define(eq=False)
class _Round:
    """The making of one answer, for all who wait for it."""

    over: trio.Event = attrs.field(factory=trio.Event)
    answer: Answer = _FAILED


@attrs.define(eq=False)
class _Places:
    """For clients that are waited for, so long at most; where all are taken, the oldest one is vacated for another."""

    most: int
    seconds: float
    _held: dict[trio.CancelScope, None] = attrs.field(factory=dict)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a place; what is done meanwhile is cancelled once it is lost."""
        if len(self._held) >= self.most:
            self.vacate()
        with trio.move_on_after(self.seconds) as scope:
            self._held[scope] = None
            try:
                yield
            finally:
                self._held.pop(scope, None)

    def vacate(self) -> None:
        """Have the oldest client lose its place, if there is one."""
        if self._held:
            oldest = next(iter(self._held))
            del self._held[oldest]
            oldest.cancel()


@attrs.define(eq=False)
class Server:
    """Answers the clients of all sockets of the admin address."""

    supervised: Supervised
    journal: Journal
    nursery: trio.Nursery
    awaited: _Places = attrs.field(factory=partial(_Places, MOST_AWAITED, REQUEST_SECONDS))
    asking: _Places = attrs.field(factory=partial(_Places, MOST_ASKING, ANSWER_SECONDS))
    unsent: _Places = attrs.field(factory=partial(_Places, MOST_UNSENT, ANSWER_SECONDS))
    _rounds: dict[str, _Round] = attrs.field(factory=dict)
    """Target -> what is being made for it."""

    def take(self, sock: socket.socket, peer: object) -> None:
        """Serve a connection."""
        self.nursery.start_soon(_Client(self, sock, peer).run, name="admin")

    def refuse(self, sock: socket.socket, peer: object) -> None:
        """Close a connection for which there is no file descriptor, and the oldest one to have one for the next."""
        sock.close()
        self.awaited.vacate()

    async def answer(self, request: Request) -> Answer | None:
        """The answer to a request; None if it took too long, or others have asked since. Raises Refused."""
        host, supervised = request.host, self.supervised
        if host and host not in supervised.admin_names and not is_ip_address(host):
            name = f"{host} is not a name of this address"
            mend = f"use an IP address or localhost, or start shimproxy with --admin-name {host}"
            raise RequestRefused(HTTPStatus.MISDIRECTED_REQUEST, f"{name}: {mend}")
        if request.method in _CHANGES and request.target.startswith(_RECEIVER):
            with self.asking.held():
                return await self._change(request)
            return None
        if request.method not in ("GET", "HEAD"):
            raise RequestRefused(HTTPStatus.NOT_IMPLEMENTED, "choose GET and HEAD")
        path = request.target.partition("?")[0]
        if not path:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "the target is malformed")
        target = request.target if request.target == "/readyz?receiver" or path == "/" else path
        if supervised.serves and (target == "/healthz" or (target == "/readyz" and not supervised.stopping)):
            return _OK
        if path not in _PATHS:
            return _NOT_FOUND
        with self.asking.held():
            return await self._shared(target)
        return None

    async def _change(self, request: Request) -> Answer:
        """Drain a receiver (PUT), or give it sessions again (DELETE): methods that no page of another site can use."""
        name = unquote(request.target.removeprefix(_RECEIVER), errors="surrogateescape")
        ready = request.method == "DELETE"
        if why_not := await self.supervised.drain(name, ready=ready):
            return Answer(f"{escaped(os.fsencode(why_not))}\n", HTTPStatus.NOT_FOUND)
        return Answer(f"{name} {'is ready' if ready else 'gets no new sessions'}\n")

    async def _shared(self, target: str) -> Answer:
        """The answer to a target: one that is being made already may be older than the question."""
        if under_way := self._rounds.get(target):
            await under_way.over.wait()
        if not (its := self._rounds.get(target)):
            its = self._rounds[target] = _Round()
            self.nursery.start_soon(self._make, target, its)
        await its.over.wait()
        return its.answer

    async def _make(self, target: str, its: _Round) -> None:
        try:
            its.answer = await _answer(target, self.supervised)
        except Exception as error:
            self.journal.supervisor_failed("admin", error)
        finally:
            del self._rounds[target]
            its.over.set()


class _Gone(Exception):
    """The client has ended its side, or is not waited for any longer."""


@attrs.define(eq=False)
class _Client:
    """One connection."""

    server: Server
    sock: socket.socket
    peer: object
    """The address of its other end."""
    _unread: bytes = b""

    async def run(self) -> None:
        """Serve it to its end, which this sees to."""
        with self.sock:
            try:
                with suppress(OSError, _Gone):
                    while await self._serve():
                        await trio.lowlevel.checkpoint()  # it may have sent many requests at once
                    await self._part()
            except Exception as error:
                self.server.journal.supervisor_failed("admin", error)

    async def _serve(self) -> bool:
        """Answer a request; whether there may be another. Raises OSError, _Gone."""
        head = b""
        try:
            head = await self._head()
            request = Request.parse(head)
            if not self.server.supervised.admits(self.peer):
                raise RequestRefused(HTTPStatus.FORBIDDEN, "this address may not ask: name its network (--allow-admin)")
            found = await self.server.answer(request)
            if found is None:
                raise _Gone
            await self._write(found.octets(keeps_open=request.keeps_open, only_head=request.method == "HEAD"))
            return request.keeps_open
        except RequestRefused as refused:
            self._refuse(refused, only_head=head.startswith(b"HEAD "))
            return False

    def _refuse(self, refused: RequestRefused, *, only_head: bool = False) -> None:
        """Say why. Raises OSError."""
        self._send(Answer(f"{refused.why}\n", refused.status).octets(keeps_open=False, only_head=only_head))

    async def _head(self) -> bytes:
        """The head of the next request. Raises OSError, Refused, _Gone."""
        if (head := self._read()) is None:
            with self.server.awaited.held():
                while head is None:
                    await trio.lowlevel.wait_readable(self.sock)
                    head = self._read()
            head = self._read() if head is None else head  # its end may have come as its place was lost
            if head is None:
                if self._unread:
                    self._refuse(RequestRefused(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time"))
                raise _Gone
        return head

    def _read(self) -> bytes | None:
        """The next head, if all of it has come. Raises OSError, Refused, _Gone."""
        while True:
            self._unread = self._unread.lstrip(b"\r\n")  # RFC 9112 2.2
            if found := HEAD_END(self._unread):
                head, self._unread = self._unread[: found.start()], self._unread[found.end() :]
                return head
            room_octets = MOST_HEAD_OCTETS - len(self._unread)
            if not room_octets:
                raise RequestRefused(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request has over {MOST_HEAD_OCTETS} octets"
                )
            try:
                octets = self.sock.recv(room_octets)
            except BlockingIOError:
                return None
            if not octets:
                raise _Gone
            self._unread += octets

    async def _write(self, octets: bytes) -> None:
        """Send all of it. Raises OSError, _Gone."""
        unsent = memoryview(octets)[self._send(octets) :]
        if unsent:
            with self.server.unsent.held():
                while unsent:
                    await trio.lowlevel.wait_writable(self.sock)
                    unsent = unsent[self._send(unsent) :]
            if unsent:
                raise _Gone

    def _send(self, octets: bytes | memoryview) -> int:
        """How many octets were taken at once. Raises OSError."""
        try:
            return self.sock.send(octets)
        except BlockingIOError:
            return 0

    async def _part(self) -> None:
        """Half-close, and read to the client's end: what is unread would reset the answer. Raises OSError."""
        self.sock.shutdown(socket.SHUT_WR)
        with self.server.awaited.held():
            while True:
                await trio.lowlevel.wait_readable(self.sock)
                if not self.sock.recv(MOST_HEAD_OCTETS):
                    return


@attrs.define(eq=False)
class Admin:
    """The admin address while it is open."""

    where: str
    """HOST:PORT or unix:PATH."""
    _sockets: list[socket.socket]
    closed: trio.Event = attrs.field(factory=trio.Event)
    """Set once its address is free again."""
    _answering: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _over: trio.Event | None = None
    """Set once nothing is answered any more; None if nothing ever was."""

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
        return [address_text(sock.getsockname()) for sock in self._sockets]

    def answer(self, supervised: Supervised, journal: Journal, nursery: trio.Nursery) -> None:
        """Answer from now on."""
        self._over = trio.Event()
        nursery.start_soon(self._answer, supervised, journal, self._over, name="admin")

    async def _answer(self, supervised: Supervised, journal: Journal, over: trio.Event) -> None:
        spare = Spare()
        try:
            with self._answering:
                async with trio.open_nursery() as nursery:
                    server = Server(supervised, journal, nursery)
                    for sock in self._sockets:
                        prepare(sock)
                        nursery.start_soon(
                            accept_forever, sock, server.take, server.refuse, spare, journal.accept_failed
                        )
        finally:
            spare.close()
            over.set()

    def close_soon(self, nursery: trio.Nursery) -> None:
        """Answer no more, presently."""
        nursery.start_soon(self.close)

    async def close(self) -> None:
        """Answer no more."""
        self._answering.cancel()
        if self._over is not None:
            await self._over.wait()
        for sock in self._sockets:
            close_listener(sock)
        self.closed.set()
