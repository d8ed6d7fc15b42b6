"""Legs, dialling and accepting on real sockets: what the kernel does with FIN, RST, full tables and dead addresses."""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from shimproxy.faulty.receiving import full_queue
from shimproxy.faulty.talk import SECONDS, wait_for_reset
from shimproxy.net.address import Address, UnixPath
from shimproxy.net.block import Block
from shimproxy.net.driver import Driver
from shimproxy.net.errors import DialFailed, ListenFailed, NoMeans
from shimproxy.net.leg import Leg
from shimproxy.net.lingering import Parted, part
from shimproxy.net.listen import close_listener, open_unix_listener
from shimproxy.net.places import Places
from shimproxy.net.receivers import Receivers, Route
from shimproxy.net.tap import Ended
from tests.net.ground import Ground, ground, no_descriptor_left

if TYPE_CHECKING:
    from pathlib import Path


async def pair(on: Ground) -> tuple[Leg, socket.socket]:
    """A leg, and its peer's end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    sock.setblocking(False)
    watch = on.watchdog.watch()
    watch.allow(SECONDS, "a test")
    return Leg("peer", sock, on.driver, watch), peer


# -- the end of a leg


async def fill(leg: Leg) -> int:
    """Write until the peer, which reads nothing, has room for nothing more; how much that was."""
    octets = 0
    while taken := leg.send_now(bytes(64 * 1024)):
        octets += taken
    return octets


async def test_a_peer_that_has_sent_fin_and_reads_no_more_is_reset() -> None:
    """Our FIN would wait for room in its window for many minutes, and its program with it."""
    async with ground() as on:
        leg, peer = await pair(on)
        with peer:
            await fill(leg)
            peer.shutdown(socket.SHUT_WR)
            assert await part(leg, 0.2, SECONDS, discards=True) is Parted.CLOSED
            assert wait_for_reset(peer, SECONDS)


@pytest.mark.parametrize("heard", [True, False], ids=["heard before", "heard meanwhile"])
async def test_a_peer_that_has_sent_fin_and_reads_on_has_all_and_our_fin(heard: bool) -> None:
    async with ground() as on, trio.open_nursery() as nursery:
        leg, peer = await pair(on)
        peer.settimeout(SECONDS)
        with peer:
            octets = leg.send_now(bytes(256 * 1024))  # more than its window, and not so much that loopback crawls
            peer.shutdown(socket.SHUT_WR)
            if heard:
                while not leg.readable:
                    await trio.lowlevel.checkpoint()
            nursery.start_soon(functools.partial(part, leg, SECONDS, SECONDS, discards=True))
            got = 0
            while part_of_it := await trio.to_thread.run_sync(peer.recv, 1024 * 1024):
                got += len(part_of_it)
            assert got == octets


@pytest.mark.parametrize("how", ["octets", "block"])
async def test_fin_in_one_segment_with_the_last_octets_is_noticed_at_once(how: str) -> None:
    """The edge for both is one: after a read that came back short there is still something to read."""
    async with ground() as on:
        leg, peer = await pair(on)
        with peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            peer.sendall(b"the last")
            peer.shutdown(socket.SHUT_WR)
            while not leg.readable:
                await trio.lowlevel.checkpoint()
            if how == "octets":
                assert [await leg.read(), await leg.read()] == [b"the last", b""]
            else:
                assert [leg.read_block_now(), leg.read_block_now()] == [8, 0]
            assert leg.ended is Ended.FIN
            leg.close()


async def test_what_was_sent_before_a_reset_is_read_first() -> None:
    async with ground() as on:
        leg, peer = await pair(on)
        leg.send_now(b"unread")
        peer.sendall(b"552 too big\r\n")
        peer.close()  # with octets unread: RST
        assert await leg.read() == b"552 too big\r\n"
        assert await leg.read() == b""
        assert leg.ended is Ended.RST
        leg.close()


async def test_a_peer_that_has_reset_is_not_waited_for() -> None:
    """Before the driver has told of it: the half-close finds out."""
    async with ground() as on:
        leg, peer = await pair(on)
        leg.send_now(b"unread")
        peer.close()
        with pytest.raises(StopIteration) as parted:
            part(leg, SECONDS, SECONDS).send(None)
        assert parted.value.value is Parted.RESET_BY_PEER
        assert leg.closed


async def test_that_a_peer_takes_octets_wakes_the_driver_only_where_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    notice = Leg.notice

    def counted(leg: Leg, events: int) -> None:
        told.append(bool(events & select.EPOLLOUT))
        notice(leg, events)

    def fill(leg: Leg) -> int:
        written = 0
        while taken := leg.send_now(bytes(1024 * 1024)):
            written += taken
        return written

    def drain(peer: socket.socket, octets: int) -> None:
        while octets:
            octets -= len(peer.recv(octets))

    async def drain_later(peer: socket.socket, octets: int) -> None:
        await trio.testing.wait_all_tasks_blocked()
        drain(peer, octets)

    monkeypatch.setattr(Leg, "notice", counted)
    async with ground() as on:
        leg, peer = await pair(on)
        with peer:
            for _ in range(3):
                written = fill(leg)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(drain_later, peer, written)
                    await leg.takes()
                told.clear()
                for _ in range(5):
                    drain(peer, fill(leg))
                    await trio.testing.wait_all_tasks_blocked()
                assert sum(told) <= 1
            leg.close()


async def test_two_drivers_share_no_buffer() -> None:
    """They may be two threads', which take turns in the midst of any line."""
    first, second = Driver(Block(65_536)), Driver(Block(65_536))
    first.block.view[:] = b"x" * len(first.block.view)
    assert not any(second.block.buffer)
    first.close()
    second.close()


# -- dialling


def route(on: Ground, address: Address) -> Route:
    """The way to one receiver."""
    return Receivers(driver=on.driver, places=[Places(address)]).route()


async def test_all_addresses_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ground() as on:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.2", 0)) as closed:
            port = listener.getsockname()[1]
            dead_port = closed.getsockname()[1]
            closed.close()

            async def found(*_: object, **__: object) -> list[tuple[object, ...]]:
                dead, alive = ("127.0.0.2", dead_port), ("127.0.0.1", port)
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in (dead, alive)]

            monkeypatch.setattr(trio.socket, "getaddrinfo", found)
            leg = await route(on, Address("mail.example", port)).dial(on.watchdog.watch(), 5.0)
            assert leg.peer == f"127.0.0.1:{port}"
            leg.close()


async def test_an_address_that_does_not_answer_is_given_up_after_the_deadline() -> None:
    """A listener whose queue is full drops the handshake."""
    async with ground() as on:
        with full_queue() as full, pytest.raises(DialFailed, match=r"no connection within 0\.2 s"):
            await route(on, full).dial(on.watchdog.watch(), 0.2)


async def test_nor_keeps_that_the_others_from_being_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the deadline is shorter than the quarter of a second after which the next one begins."""
    async with ground() as on:
        with full_queue() as full, socket.create_server(("127.0.0.2", 0)) as listener:

            async def found(*_: object, **__: object) -> list[tuple[object, ...]]:
                return [
                    (socket.AF_INET, socket.SOCK_STREAM, 6, "", each)
                    for each in ((full.host, full.port), listener.getsockname())
                ]

            monkeypatch.setattr(trio.socket, "getaddrinfo", found)
            leg = await route(on, Address("mail.example", 25)).dial(on.watchdog.watch(), 0.05)
            assert leg.sock.getpeername() == listener.getsockname()
            leg.close()


@pytest.mark.parametrize("room_comes", [True, False])
async def test_a_full_queue_in_the_file_system_is_waited_for(tmp_path: Path, room_comes: bool) -> None:
    """There, connect() does not begin anything where the queue is full: it fails."""
    path = str(tmp_path / "smtp")
    async with ground() as on:
        with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
            listener.bind(path)
            listener.listen(0)
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
            to_it = Receivers(driver=on.driver, places=[Places(UnixPath(path))]).route()
            if not room_comes:
                with pytest.raises(DialFailed, match=r"no connection within 0\.2 s"):
                    await to_it.dial(on.watchdog.watch(), 0.2)
                return
            async with trio.open_nursery() as nursery:

                async def makes_room() -> None:
                    await trio.testing.wait_all_tasks_blocked()
                    listener.accept()[0].close()

                nursery.start_soon(makes_room)
                leg = await to_it.dial(on.watchdog.watch(), SECONDS)
            assert leg.peer == f"unix:{path}"
            leg.close()


async def test_a_look_up_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio.socket, "getaddrinfo", never)
    async with ground():
        with pytest.raises(DialFailed, match=r"no answer about host 'mail\.example' within 0\.1 s"):
            await Places(Address("mail.example", 25)).find(0.1)


# -- accepting


async def test_a_dial_without_a_descriptor_left_is_not_the_receivers_fault() -> None:
    async with ground() as on:
        places = Places(Address("127.0.0.1", 25))
        await places.find(SECONDS)
        receivers = Receivers(driver=on.driver, places=[places])
        with no_descriptor_left(), pytest.raises(NoMeans, match=r"127\.0\.0\.1:25: Too many open files"):
            await receivers.route().dial(on.watchdog.watch(), SECONDS)


async def test_urgent_data_hide_nothing_that_lies_behind_them() -> None:
    """A read stops at their mark; what is behind it is read all the same (RFC 9293 3.8.5)."""
    async with ground() as on:
        leg, peer = await pair(on)
        leg.watch.allow(1.0, "the rest")
        peer.sendall(b"NO")
        peer.send(b"!", socket.MSG_OOB)
        peer.sendall(b"OP")
        octets = b""
        while len(octets) < 4:
            octets += await leg.read()
        assert octets == b"NOOP"
        leg.close()
        peer.close()


def test_a_path_whose_listener_is_stuck_is_taken(tmp_path: Path) -> None:
    """To connect to one whose queue is full would wait until it accepts."""

    def listen() -> None:
        try:
            open_unix_listener(path, 0o600)
        except ListenFailed as error:
            refusals.append(str(error))

    path, refusals = str(tmp_path / "smtp"), list[str]()
    with contextlib.ExitStack() as stack:
        stuck = stack.enter_context(socket.socket(socket.AF_UNIX))
        stuck.bind(path)
        stuck.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        trying = threading.Thread(target=listen, daemon=True)
        trying.start()
        trying.join(SECONDS)
    assert "another program listens there" in refusals.pop()


def test_a_listener_may_be_closed_twice_and_goes_from_the_file_system_once(tmp_path: Path) -> None:
    """As by a second signal to stop; whose path it is by then is not known."""
    path = tmp_path / "smtp"
    listener = open_unix_listener(str(path), 0o600)
    close_listener(listener)
    assert not path.exists()
    path.touch()
    close_listener(listener)
    assert path.exists()
