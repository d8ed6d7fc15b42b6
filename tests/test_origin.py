"""Where connections may be taken to, and which of them are shimproxy's own."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import pytest

from shimproxy.net.errors import AddressError
from shimproxy.net.origin import Allowed, OwnLegs, party, redirected_from
from tests.test_net import ground, pair

if TYPE_CHECKING:
    from shimproxy.net.origin import Party


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("192.0.2.0/24", [("192.0.2.1", 25), ("192.0.2.255", 587)], [("192.0.2.1", 26), ("192.0.3.1", 25)]),
        ("192.0.2.7", [("192.0.2.7", 25)], [("192.0.2.8", 25)]),
        ("192.0.2.0/24:2525", [("192.0.2.1", 2525)], [("192.0.2.1", 25)]),
        ("2001:db8::/32", [("2001:db8::1", 25)], [("2001:db9::1", 25), ("192.0.2.1", 25)]),
        ("[2001:db8::/32]:26", [("2001:db8::1", 26)], [("2001:db8::1", 25)]),
        ("[2001:db8::1]", [("2001:db8::1", 25)], [("2001:db8::2", 25)]),
        (":465", [("192.0.2.1", 465), ("2001:db8::1", 465)], [("192.0.2.1", 25), ("127.0.0.1", 465), ("::1", 465)]),
        ("0.0.0.0/0", [("192.0.2.1", 25)], [("127.0.0.1", 25), ("127.255.0.1", 25), ("0.0.0.0", 25), ("::1", 25)]),
        ("[::/0]:25", [("2001:db8::1", 25)], [("::1", 25), ("::", 25)]),
        ("127.0.0.0/8", [("127.0.0.1", 25)], [("192.0.2.1", 25)]),
        ("2001:db8::1/128", [("2001:db8::1", 25)], [("2001:db8::2", 25)]),
        ("[::1]:2525", [("::1", 2525)], [("::1", 25)]),
    ],
)
def test_where_connections_may_be_taken_to(text: str, yes: list[Party], no: list[Party]) -> None:
    allowed = Allowed.parse(text)
    assert [each for each in (*yes, *no) if allowed.includes(each)] == yes


def test_by_default_it_is_mail_to_anywhere_but_here() -> None:
    destinations = [(host, port) for host in ("192.0.2.1", "2001:db8::1", "127.0.0.1", "::1") for port in (25, 80, 587)]
    assert [each for each in destinations if Allowed().includes(each)] == [
        ("192.0.2.1", 25),
        ("192.0.2.1", 587),
        ("2001:db8::1", 25),
        ("2001:db8::1", 587),
    ]


@pytest.mark.parametrize("text", ["", "x", "192.0.2.0/24:", "192.0.2.0/24:0", ":65536", ":", "192.0.2.1/24", "[::1]:x"])
def test_a_destination_that_cannot_be_read_has_its_mend(text: str) -> None:
    with pytest.raises(AddressError, match=r"write a network|must be a number"):
        Allowed.parse(text)


@pytest.mark.parametrize("text", ["::1", "::1:25", "2001:db8::1", "[::1"])
def test_whether_a_port_is_behind_an_address_is_never_guessed(text: str) -> None:
    with pytest.raises(AddressError, match=r"in brackets, as in \[::1\] or \[::1\]:25"):
        Allowed.parse(text)


def test_a_connection_that_was_not_redirected_has_no_other_destination() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sender:
        sock, _ = listener.accept()
        with sock:
            assert redirected_from(sock) is None
            assert party(sock.getpeername()) == sender.getsockname()


def test_nor_has_one_that_was_reset_meanwhile() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sender.close()
        sock, _ = listener.accept()
        with sock:
            with pytest.raises(OSError, match="not connected"):
                sock.getpeername()
            assert redirected_from(sock) is None


async def test_a_leg_is_known_by_both_its_ends_and_as_long_as_it_is_open() -> None:
    async with ground() as on:
        leg, peer = await pair(on)
        own_legs = OwnLegs()
        own_legs.add(leg)
        ends = party(leg.sock.getsockname()), party(leg.sock.getpeername())
        assert own_legs.has(*ends)
        assert not own_legs.has(ends[0], ("192.0.2.1", 25))
        assert not own_legs.has(("192.0.2.1", 25), ends[1])
        leg.close()
        assert not own_legs.has(*ends)
        peer.close()


async def test_a_leg_that_was_reset_at_once_comes_back_nowhere() -> None:
    async with ground() as on:
        leg, peer = await pair(on)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        OwnLegs().add(leg)
        leg.close()
