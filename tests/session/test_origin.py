"""Where connections may be taken to, and which of them are shimproxy's own."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, cast

import attrs
import pytest

from shimproxy.net.errors import AddressError
from shimproxy.net.origin import Allowed, Origin, OwnLegs, party, redirected_from
from shimproxy.session.connection_origin import ConnectionOrigin, OriginPolicy
from shimproxy.session.receiver_connector import NoReceiver
from shimproxy.session.record import SessionRecord
from shimproxy.session.session_events import SessionEvents
from shimproxy.smtp.catalogue import Violation
from tests.memory import MemoryObserver, MemorySocket
from tests.net.ground import ground
from tests.net.test_net import pair

if TYPE_CHECKING:
    from shimproxy.net.origin import Party
    from shimproxy.net.receivers import Route


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


# -- what becomes of a connection that came to a gateway


@attrs.define
class Aimed:
    """A route that keeps where it was aimed at."""

    origin: Origin
    at: list[Party] = attrs.field(factory=list)

    def aim(self, destination: Party) -> None:
        self.at.append(destination)


def settled(
    sock: socket.socket | MemorySocket, sender: Party, origin_policy: OriginPolicy
) -> tuple[list[Party], MemoryObserver]:
    """Where a sender's session was aimed at, and what was told of it; see ConnectionOrigin.settle."""
    told = MemoryObserver()
    events = SessionEvents(SessionRecord("example", "-"), told)
    route = Aimed(Origin(sender, None))
    origin = ConnectionOrigin(origin_policy, sender, False, cast("Route", route), events, lambda _: None)
    with contextlib.suppress(NoReceiver):
        origin.settle(cast("socket.socket", sock))
    return route.at, told


@pytest.mark.parametrize(("allowed", "at"), [("192.0.2.0/24", [("192.0.2.3", 25)]), ("192.0.2.0/31", [])])
def test_a_sender_is_taken_where_it_wanted_to_go_if_that_is_allowed(allowed: str, at: list[Party]) -> None:
    origin_policy = OriginPolicy(original=True, tproxy=True, allowed=(Allowed.parse(allowed),))

    aimed_at, told = settled(MemorySocket(), ("192.0.2.1", 1), origin_policy)

    assert aimed_at == at
    assert [str(each.violation) for each in told.repairs] == ([] if at else ["destination-refused"])


@pytest.mark.parametrize(
    ("tproxy", "of_listener", "reason"),
    [
        (True, True, "a direct connection to the listener"),
        (False, False, "a direct connection to the listener"),
        (True, False, "a loop: the connection comes from this shimproxy"),
    ],
    ids=["to the listener", "not redirected", "its own"],
)
@pytest.mark.parametrize("known", [True, False])
def test_none_is_taken_to_shimproxy_itself(tproxy: bool, of_listener: bool, reason: str, known: bool) -> None:
    """Whether the connection is one of this process, or of another one of the same user."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as sender, listener.accept()[0] as sock:
            origin_policy = OriginPolicy(
                original=True,
                tproxy=tproxy,
                allowed=(Allowed.parse(f"127.0.0.0/8:{port}"),),
                own_legs=OwnLegs() if known else None,
                ports=frozenset({port} if of_listener else ()),
            )
            aimed_at, told = settled(sock, ("127.0.0.1", sender.getsockname()[1]), origin_policy)
    assert not aimed_at
    assert [each.violation for each in told.repairs] == [Violation.DESTINATION_REFUSED]
    assert told.repairs[0].detail["reason"] == reason
