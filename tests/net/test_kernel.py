"""What the kernel is asked: which addresses are this machine's, and whose sockets."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import pytest

from shimproxy.net import kernel
from shimproxy.net.kernel import is_of_this_user, is_own
from shimproxy.net.origin import party

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.net.origin import Party

OWN = ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "0.0.0.0"]
NOT_OWN = ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "fe80::1%lo", "224.0.0.1", "255.255.255.255", "no address"]


@pytest.fixture(params=[True, False], ids=["asked", "not to be asked"])
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether it can be asked, which a sandbox may forbid."""
    if not request.param:

        def forbidden(protocol: int, kind: int, body: bytes) -> bytes | None:
            raise OSError(errno.EAFNOSUPPORT, "forbidden")

        monkeypatch.setattr(kernel, "_ask", forbidden)
    return bool(request.param)


@pytest.mark.parametrize("host", OWN)
def test_addresses_of_this_machines(host: str, asked: bool) -> None:
    assert is_own(host)


@pytest.mark.parametrize("host", NOT_OWN)
def test_addresses_of_others(host: str, asked: bool) -> None:
    """A group's address can be bound to; but nobody comes from there or connects to it."""
    assert not is_own(host) or (host.startswith(("224.", "255.")) and not asked)


@contextlib.contextmanager
def connected(family: socket.AddressFamily, host: str, *, dualstack: bool = False) -> Iterator[tuple[Party, Party]]:
    """Both ends of a connection."""
    where = "::" if dualstack else host
    with (
        socket.create_server((where, 0), family=family, dualstack_ipv6=dualstack) as listener,
        socket.create_connection((host, listener.getsockname()[1])) as sock,
        listener.accept()[0] as accepted,
    ):
        ours, theirs = party(sock.getsockname()), party(accepted.getsockname())
        assert ours
        assert theirs
        yield ours, theirs


CONNECTIONS = [
    (socket.AF_INET, "127.0.0.1", False),
    (socket.AF_INET6, "::1", False),
    (socket.AF_INET6, "127.0.0.1", True),
]


@pytest.mark.parametrize(("family", "host", "dualstack"), CONNECTIONS)
def test_a_socket_of_this_user(family: socket.AddressFamily, host: str, dualstack: bool) -> None:
    """That it is not one of another user's is seen on a gateway, where there is one."""
    with connected(family, host, dualstack=dualstack) as (ours, theirs):
        assert is_of_this_user(ours, theirs)
        assert is_of_this_user(theirs, ours)
        elsewhere = "2001:db8::1" if ":" in host else "192.0.2.1"
        assert not is_of_this_user(ours, (elsewhere, theirs[1]))
        assert not is_of_this_user((elsewhere, ours[1]), theirs)


def test_nobody_knows_where_the_kernel_may_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(socket.AF_INET, "127.0.0.1") as (ours, theirs):
        assert is_of_this_user(ours, theirs)
        monkeypatch.setattr(socket, "AF_NETLINK", 255)
        assert not is_of_this_user(ours, theirs)
