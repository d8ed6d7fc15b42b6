"""The admin address among clients that hold on to it: health is answered, and none of them stays for ever.

Clients are the other ends of socket pairs, and time is virtual: none of it passes while somebody can go on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from shimproxy.admin.server import ANSWER_SECONDS, MOST_ASKING, MOST_AWAITED, MOST_UNSENT, REQUEST_SECONDS, Server
from shimproxy.observe.journal import Journal
from shimproxy.observe.series import MOST_RECEIVERS, series
from tests.admin.test_admin import status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from trio.testing import MockClock

    from shimproxy.admin.status import Status
    from shimproxy.observe.series import Series

HOST: Final = b"Host: localhost\r\n"
HALF: Final = b"GET /healthz HTTP/1.1\r\n" + HOST
HEALTH: Final = HALF + b"\r\n"
METRICS: Final = b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n"
CLOSE: Final = HALF + b"Connection: close\r\n\r\n"
MORE_THAN_ALL: Final = MOST_AWAITED + MOST_ASKING + MOST_UNSENT + 20
DRIP_SECONDS: Final = 0.5


@attrs.define(eq=False)
class Supervised:
    """What is so here."""

    admin_names: Collection[str] = ("localhost", "shim.example")
    serves: bool = True
    stopping: bool = False
    asked: int = 0
    answers: trio.Event = attrs.field(factory=trio.Event)
    """Set if the status is told."""
    fails: bool = False
    receivers: int = 1
    """How many have figures."""
    refused: Collection[str] = ()
    """Hosts that may not ask."""

    def __attrs_post_init__(self) -> None:
        self.answers.set()

    def admits(self, peer: object) -> bool:
        return not (isinstance(peer, tuple) and peer[0] in self.refused)

    async def status(self) -> Status:
        self.asked += 1
        asked = self.asked
        await self.answers.wait()
        if self.fails:
            raise ZeroDivisionError
        figures: Series = {"sessions_total": asked}
        for number in range(self.receivers):
            figures[series("repairs_total", violation="early-reply", receiver=f"{'x' * 10_000}{number}")] = 1
        return status(figures=figures, serves=self.serves, stopping=self.stopping)

    async def drain(self, name: str, *, ready: bool = False) -> str:
        return ""

    async def receiver_greets(self) -> str:
        return ""


@attrs.define(eq=False)
class Admin:
    """The server, and clients of it."""

    nursery: trio.Nursery
    clients: contextlib.ExitStack
    supervised: Supervised = attrs.field(factory=Supervised)
    server: Server = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.server = Server(self.supervised, Journal(), self.nursery)

    def connect(self, said: bytes = b"", peer: object = "") -> trio.SocketStream:
        """A client that has said this before it is accepted."""
        ours, its = socket.socketpair()
        ours.sendall(said)
        self.clients.enter_context(ours)
        its.setblocking(False)
        self.server.take(its, peer)
        return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    async def ask(self, request: bytes) -> bytes:
        """All that a client is answered that then says no more."""
        client = self.connect()
        await client.send_all(request)
        await client.send_eof()
        return await all_of(client)

    async def status(self, request: bytes) -> int:
        return status_of(await self.ask(request))

    async def health(self) -> tuple[int, float]:
        """The status that a new client gets which asks for health, and after how many seconds."""
        began = trio.current_time()
        return await self.status(HEALTH), trio.current_time() - began


AT_ONCE: Final = (200, 0.0)


@pytest.fixture
async def admin(nursery: trio.Nursery) -> AsyncIterator[Admin]:
    with contextlib.ExitStack() as clients:
        yield Admin(nursery, clients)


async def all_of(client: trio.SocketStream) -> bytes:
    """What comes until the connection ends."""
    octets = b""
    while more := await client.receive_some():
        octets += more
    return octets


def status_of(octets: bytes) -> int:
    return int(octets.split(None, 2)[1])


# -- health has room


async def says(octets: bytes, client: trio.SocketStream) -> None:
    await client.send_all(octets)
    await wait_all_tasks_blocked()


async def drips(client: trio.SocketStream) -> None:
    """A header line each half second."""
    while True:
        await client.send_all(b"X: y\r\n")
        await trio.sleep(DRIP_SECONDS)


async def pipelines(client: trio.SocketStream) -> None:
    """As many requests as are taken, and reads no answer."""
    with trio.move_on_after(DRIP_SECONDS):
        while True:
            await client.send_all(HEALTH * 100)


@pytest.mark.parametrize(
    "hold",
    [
        pytest.param(partial(says, b""), id="silent"),
        pytest.param(partial(says, HALF), id="half a request"),
        pytest.param(drips, id="a line each half second"),
        pytest.param(partial(says, HEALTH), id="answered"),
        pytest.param(partial(says, METRICS), id="not yet answered"),
        pytest.param(partial(says, METRICS * 2 + HALF), id="reads no large answer"),
        pytest.param(partial(says, CLOSE), id="does not end"),
        pytest.param(pipelines, id="many requests"),
    ],
)
@pytest.mark.parametrize("answers", [True, False])
async def test_health_is_answered_at_once_whatever_others_do(
    hold: Callable[[trio.SocketStream], Awaitable[None]], answers: bool, admin: Admin, autojump_clock: MockClock
) -> None:
    admin.supervised.receivers = MOST_RECEIVERS  # a MB of figures
    if not answers:
        admin.supervised.answers = trio.Event()
    async with trio.open_nursery() as clients:
        for _ in range(MORE_THAN_ALL):
            clients.start_soon(unless_ended, hold, admin.connect())
        await trio.sleep(2 * DRIP_SECONDS)
        assert await admin.health() == AT_ONCE
        clients.cancel_scope.cancel()


async def unless_ended(hold: Callable[[trio.SocketStream], Awaitable[None]], client: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # it has made room
        await hold(client)


async def test_a_request_that_is_there_at_once_needs_no_room(admin: Admin, autojump_clock: MockClock) -> None:
    """However many connect with it, or after it, in one go."""
    clients = [admin.connect(CLOSE) for _ in range(MORE_THAN_ALL)]
    for each in clients:
        assert status_of(await all_of(each)) == 200


async def test_the_client_that_was_waited_for_longest_makes_room(admin: Admin, autojump_clock: MockClock) -> None:
    held = []
    for _ in range(MOST_AWAITED):
        held.append(admin.connect())
        await wait_all_tasks_blocked()
    await held[0].send_all(HALF)
    await held[1].send_all(HEALTH)
    await wait_all_tasks_blocked()
    await held[1].receive_some()  # it is waited for anew
    for _ in range(2):
        admin.connect()
        await wait_all_tasks_blocked()
    assert status_of(await all_of(held[0])) == 408
    assert await all_of(held[2]) == b""
    for each in (held[1], *held[3:]):
        await each.send_all(CLOSE)
        assert status_of(await all_of(each)) == 200


async def test_a_request_that_comes_as_room_is_made_is_answered(admin: Admin, autojump_clock: MockClock) -> None:
    oldest = admin.connect()
    for _ in range(MOST_AWAITED - 1):
        await wait_all_tasks_blocked()
        admin.connect()
    await wait_all_tasks_blocked()
    admin.connect()
    await trio.lowlevel.checkpoint()  # in this turn, that one takes the place
    os.write(oldest.socket.fileno(), CLOSE)
    assert status_of(await all_of(oldest)) == 200


async def test_want_of_file_descriptors_makes_room_too(admin: Admin, autojump_clock: MockClock) -> None:
    oldest, refused = admin.connect(), socket.socket()
    await wait_all_tasks_blocked()
    began = trio.current_time()
    admin.server.refuse(refused, "")
    assert await all_of(oldest) == b""
    assert (refused.fileno(), trio.current_time()) == (-1, began)
    admin.server.refuse(socket.socket(), "")
    assert await admin.health() == AT_ONCE


async def test_one_that_asks_without_end_leaves_others_their_turn(admin: Admin, autojump_clock: MockClock) -> None:
    client = admin.connect(HEALTH * 100)
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    said = await client.receive_some()
    assert 0 < said.count(b"HTTP/1.1 200 ") <= 10


async def test_those_that_never_finish_do_not_displace_one_that_has_asked(
    admin: Admin, autojump_clock: MockClock
) -> None:
    admin.supervised.answers = trio.Event()
    scrape = admin.connect()
    await scrape.send_all(METRICS.replace(HOST, HOST + b"Connection: close\r\n"))
    await wait_all_tasks_blocked()
    for _ in range(2 * MOST_AWAITED):
        admin.connect()
        await wait_all_tasks_blocked()
    admin.supervised.answers.set()
    assert status_of(await all_of(scrape)) == 200


# -- none stays for ever


@pytest.mark.parametrize(
    ("sent", "hold", "answer"),
    [(b"", None, b""), (HALF, None, b"HTTP/1.1 408 "), (HALF, drips, b"HTTP/1.1 408 ")],
    ids=["silent", "half a request", "a line each half second"],
)
async def test_a_request_has_its_time(
    sent: bytes,
    hold: Callable[[trio.SocketStream], Awaitable[None]] | None,
    answer: bytes,
    admin: Admin,
    autojump_clock: MockClock,
) -> None:
    client, began = admin.connect(), trio.current_time()
    await client.send_all(sent)
    async with trio.open_nursery() as dripping:
        if hold:
            dripping.start_soon(unless_ended, hold, client)
        with trio.move_on_after(2 * REQUEST_SECONDS):
            said = await client.receive_some()
        assert said.startswith(answer)
        assert trio.current_time() - began == pytest.approx(REQUEST_SECONDS)
        dripping.cancel_scope.cancel()


async def test_an_answer_has_its_time(admin: Admin, autojump_clock: MockClock) -> None:
    """However the client reads it: here a little in each second."""
    admin.supervised.receivers = MOST_RECEIVERS
    client, began = admin.connect(), trio.current_time()
    await client.send_all(METRICS)
    octets = 0
    with trio.move_on_after(2 * ANSWER_SECONDS):
        while trio.current_time() - began <= ANSWER_SECONDS:
            octets += len(await client.receive_some(10_000))
            await trio.sleep(1)
        octets += len(await all_of(client))
    whole = len(await admin.ask(METRICS))
    assert octets < whole
    assert trio.current_time() - began < 2 * ANSWER_SECONDS


async def test_a_client_that_takes_its_answer_in_time_gets_all_of_it(admin: Admin, autojump_clock: MockClock) -> None:
    admin.supervised.receivers = MOST_RECEIVERS
    client = admin.connect()
    await client.send_all(METRICS)
    await client.send_eof()
    await trio.sleep(ANSWER_SECONDS / 2)
    head, body = (await all_of(client)).split(b"\r\n\r\n", 1)
    assert b"Content-Length: %d" % len(body) in head
    assert len(body) > MOST_RECEIVERS * 10_000


# -- what costs something is shared


async def test_a_flood_of_questions_is_answered_together(admin: Admin, autojump_clock: MockClock) -> None:
    admin.supervised.answers = trio.Event()
    clients = [admin.connect() for _ in range(MOST_ASKING)]
    for each in clients:
        await each.send_all(METRICS)
        await each.send_eof()
    await wait_all_tasks_blocked()
    admin.supervised.answers.set()
    for each in clients:
        assert status_of(await all_of(each)) == 200
    assert admin.supervised.asked <= 2


async def test_no_figure_is_older_than_its_question(admin: Admin, autojump_clock: MockClock) -> None:
    admin.supervised.answers = trio.Event()
    clients = []
    for _ in range(3):
        clients.append(admin.connect())
        await clients[-1].send_all(METRICS)
        await clients[-1].send_eof()
        await wait_all_tasks_blocked()
    admin.supervised.answers.set()
    figures = [(await all_of(each)).partition(b"\nshimproxy_sessions_total ")[2].split()[0] for each in clients]
    assert figures == [b"1", b"2", b"2"]


async def test_a_bug_is_logged_and_costs_its_answer_alone(
    admin: Admin, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    admin.supervised.fails = True
    assert await admin.status(METRICS) == 500
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert line.exc_info
    admin.supervised.fails = False
    assert await admin.status(METRICS) == 200


# -- what is answered


@pytest.mark.parametrize("path", [b"/", b"/metrics", b"/healthz", b"/readyz", b"/readyz?receiver", b"/none", b"*"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
async def test_no_foreign_page_reads_anything(
    path: bytes, method: bytes, admin: Admin, autojump_clock: MockClock
) -> None:
    """By giving this address a name of its own (DNS rebinding)."""
    said = await admin.ask(b"%b %b HTTP/1.1\r\nHost: evil.example:8025\r\n\r\n" % (method, path))
    assert status_of(said) == 421
    assert (b"--admin-name evil.example" in said) == (method != b"HEAD")


@pytest.mark.parametrize("host", [b"shim.example", b"SHIM.example.:8025", b"192.0.2.1:8025", b"[2001:db8::1]", b""])
@pytest.mark.parametrize("path", [b"/", b"/metrics", b"/healthz", b"/readyz", b"/readyz?receiver"])
async def test_whoever_knows_it_by_its_own_name_is_answered(
    host: bytes, path: bytes, admin: Admin, autojump_clock: MockClock
) -> None:
    assert await admin.status(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (path, host)) == 200


@pytest.mark.parametrize(
    ("serves", "stopping", "healthz", "readyz"),
    [(True, False, 200, 200), (False, False, 503, 503), (True, True, 200, 503), (False, True, 503, 503)],
)
async def test_health_and_readiness(
    serves: bool, stopping: bool, healthz: int, readyz: int, admin: Admin, autojump_clock: MockClock
) -> None:
    """Sessions that come to their end are nothing to be killed for."""
    admin.supervised.serves, admin.supervised.stopping = serves, stopping
    assert await admin.status(HEALTH) == healthz
    for path in (b"/readyz", b"/readyz?receiver", b"/readyz?verbose"):
        assert await admin.status(b"GET %b HTTP/1.0\r\n\r\n" % path) == readyz


async def test_a_request_may_come_in_pieces(admin: Admin, autojump_clock: MockClock) -> None:
    client = admin.connect()
    for octet in CLOSE:
        await client.send_all(bytes([octet]))
        await wait_all_tasks_blocked()
    assert status_of(await all_of(client)) == 200


async def test_requests_may_come_together(admin: Admin, autojump_clock: MockClock) -> None:
    head = HEALTH.replace(b"GET", b"HEAD")
    said = await admin.ask(HEALTH + b"\r\n\r\n" + head + METRICS + CLOSE + METRICS)
    assert said.count(b"HTTP/1.1 200 OK\r\n") == 4
    assert said.count(b"\r\n\r\nok\n") == 2
    assert said.count(b"# HELP shimproxy_workers ") == 1


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"POST /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 90\r\n\r\n" + METRICS, 501),
        (b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 90\r\n\r\n" + METRICS, 200),
        (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n" + METRICS, 400),
        (HALF + HOST + b"\r\n" + METRICS, 400),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000, 431),
        (b"\x16\x03\x01" * 10_000, 431),
        (b"\r\n" * 100_000 + CLOSE, 200),
    ],
    ids=["POST", "a body", "no path", "two hosts", "many headers", "no line end", "empty lines"],
)
async def test_after_what_is_not_read_further_the_connection_ends(
    request_: bytes, answer: int, admin: Admin, autojump_clock: MockClock
) -> None:
    """Without a reset, which may reach the client before its answer does; what is left is discarded."""
    client = admin.connect()
    await client.send_all(request_)
    said = await all_of(client)
    assert (status_of(said), said.count(b"HTTP/1.1 ")) == (answer, 1)
    assert b"\r\nConnection: close\r\n" in said
    await client.send_all(METRICS)


async def test_half_a_request_at_the_end_is_no_request(admin: Admin, autojump_clock: MockClock) -> None:
    assert await admin.ask(HALF) == b""


async def test_a_client_from_elsewhere_may_not_ask(admin: Admin) -> None:
    """Whatever it asks, health too; it is told the mend."""
    admin.supervised.refused = ("192.0.2.9",)
    refused, taken = admin.connect(HEALTH, ("192.0.2.9", 1)), admin.connect(HEALTH, ("192.0.2.8", 1))
    for client in (refused, taken):
        await client.send_eof()

    said = await all_of(refused)
    assert status_of(said) == 403
    assert said.endswith(b"(--allow-admin)\n")
    assert status_of(await all_of(taken)) == 200
