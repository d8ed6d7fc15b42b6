"""Accepting, by the driver of the sessions and by a task of trio's: on real sockets, and where descriptors run out."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from shimproxy.faulty.talk import SECONDS
from shimproxy.net.acceptor import Acceptor
from shimproxy.net.errors import ListenFailed
from shimproxy.net.listen import Spare, accept_forever, prepare, turn_away
from tests.net.ground import Ground, ground, no_descriptor_left

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@attrs.define(eq=False)
class Accepting:
    """A listening socket whose connections are accepted, and what has become of them."""

    on: Ground
    nursery: trio.Nursery
    listener: socket.socket
    by_driver: bool
    taken: list[socket.socket] = attrs.field(factory=list)
    refused: list[object] = attrs.field(factory=list)
    troubles: list[OSError] = attrs.field(factory=list)
    spare: Spare = attrs.field(factory=Spare)
    acceptor: Acceptor | None = None
    order: list[Accepting] = attrs.field(factory=list)
    """Who has taken a connection, one after the other."""

    def start(self) -> None:
        take, refuse = self._take, self._refuse
        if self.by_driver:
            watch = self.on.watchdog.watch()
            self.acceptor = Acceptor(
                self.listener, self.on.driver, watch, take, refuse, self.spare, self.troubles.append
            )
            self.acceptor.start()
        else:
            self.nursery.start_soon(accept_forever, self.listener, take, refuse, self.spare, self.troubles.append)

    def _take(self, sock: socket.socket, _: object) -> None:
        self.taken.append(sock)
        self.order.append(self)

    def _refuse(self, sock: socket.socket, peer: object) -> None:
        turn_away(sock, b"421 no\r\n")
        self.refused.append(peer)

    def connect(self) -> socket.socket:
        peer = socket.create_connection(self.listener.getsockname())
        peer.settimeout(SECONDS)
        return peer

    async def until(self, comes: Callable[[], object]) -> None:
        while not comes():
            await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def accepting(*, by_driver: bool, beside: Accepting | None = None) -> AsyncIterator[Accepting]:
    """One that is not started; with the driver of another one, if it is `beside` that."""
    async with contextlib.nullcontext(beside.on) if beside else ground() as on, trio.open_nursery() as nursery:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            prepare(listener)
            one = Accepting(on, nursery, listener, by_driver)
            yield one
            if one.acceptor:
                one.acceptor.close()
            nursery.cancel_scope.cancel()
        one.spare.close()
        for sock in one.taken:
            sock.close()


BOTH = pytest.mark.parametrize("by_driver", [True, False], ids=["by the driver", "by a task"])


@BOTH
async def test_any_number_that_connects_is_taken(by_driver: bool) -> None:
    async with accepting(by_driver=by_driver) as one:
        one.start()
        for _ in range(3):
            peers = [one.connect() for _ in range(30)]
            await one.until(lambda: len(one.taken) >= 30)
            assert {sock.getpeername() for sock in one.taken} == {peer.getsockname() for peer in peers}
            assert not any(sock.getblocking() for sock in one.taken)
            for sock in (*peers, *one.taken):
                sock.close()
            one.taken.clear()


async def test_where_many_wait_at_one_listener_another_one_has_its_turn_after_each() -> None:
    """A session starts as soon as it is taken: those of a flood in a row would keep the others waiting."""
    async with accepting(by_driver=True) as flooded, accepting(by_driver=True, beside=flooded) as other:
        peers = [one.connect() for one in (flooded, other) for _ in range(5)]
        order = other.order = flooded.order
        flooded.start()
        other.start()
        await flooded.until(lambda: len(order) >= len(peers))
        assert order == [flooded, other] * 5
        for peer in peers:
            peer.close()


@BOTH
async def test_without_a_descriptor_left_connections_are_refused_with_the_spare_one(by_driver: bool) -> None:
    async with accepting(by_driver=by_driver) as one:
        peers = [one.connect() for _ in range(3)]
        with no_descriptor_left():
            one.start()
            await one.until(lambda: len(one.refused) >= len(peers))
        assert one.refused == [peer.getsockname() for peer in peers]
        assert [peer.recv(100) for peer in peers] == [b"421 no\r\n"] * 3
        assert [peer.recv(100) for peer in peers] == [b""] * 3
        peers.append(one.connect())
        await one.until(lambda: one.taken)
        for peer in peers:
            peer.close()
    assert one.troubles == []


@BOTH
async def test_without_even_the_spare_one_it_says_so_and_goes_on(
    by_driver: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("listen", "acceptor"):
        monkeypatch.setattr(f"shimproxy.net.{module}.PAUSE_SECONDS", 0.001)
    async with accepting(by_driver=by_driver) as one:
        with one.connect():
            with no_descriptor_left():
                one.spare = Spare()
                one.start()
                await one.until(lambda: len(one.troubles) > 1)
            await one.until(lambda: one.taken)
    assert one.troubles[0].errno == errno.EMFILE


async def test_a_pause_for_want_of_descriptors_ends_with_the_acceptor() -> None:
    async with accepting(by_driver=True) as one:
        with one.connect(), no_descriptor_left():
            one.spare = Spare()
            one.start()
            await one.until(lambda: one.troubles)
            assert one.acceptor
            one.acceptor.close()
        await trio.testing.wait_all_tasks_blocked()
        one.acceptor = None
        assert not one.on.driver.runner.running


async def test_a_socket_that_another_process_has_too_is_left_to_it() -> None:
    """Closed here it is still open there, and would be an event of every round."""
    async with accepting(by_driver=True) as one:
        one.start()
        with one.connect():
            await one.until(lambda: one.taken)
        assert one.acceptor
        one.acceptor.close()
        one.acceptor = None
        with socket.socket(fileno=os.dup(one.listener.fileno())) as others, one.connect() as peer:
            one.listener.close()
            await trio.testing.wait_all_tasks_blocked()  # the driver rests
            assert select.select([others], [], [], SECONDS)[0]
            sock, where = others.accept()
            assert where == peer.getsockname()
            sock.close()
        assert len(one.taken) == 1


async def test_without_room_in_the_kernel_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shimproxy.net.driver.Driver.add", add)
    async with accepting(by_driver=True) as one:
        with pytest.raises(ListenFailed, match=r"cannot listen on 127\.0\.0\.1:\d+: .*max_user_watches"):
            one.start()
        one.acceptor = None
