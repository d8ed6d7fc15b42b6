"""From which of this machine's addresses legs leave, or from whose."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.origin import make_transparent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shimproxy.net.places import Sockaddr

# linux/in.h; in the socket module from Python 3.12 on. The port is chosen by connect(), which knows what it must differ
# from: an address can have more connections than it has ports.
_IP_BIND_ADDRESS_NO_PORT: Final = 24


@attrs.frozen
class Source:
    """From which addresses legs leave: any, if there are none; else those alone, with a port of the kernel's choice."""

    addresses: Mapping[socket.AddressFamily, Sockaddr] = attrs.field(factory=dict)
    foreign: bool = False
    """Whether they are not this machine's own, but a sender's."""

    def serves(self, family: socket.AddressFamily) -> bool:
        """Whether a leg of that family can leave."""
        return not self.addresses or family in self.addresses or family == socket.AF_UNIX

    def bind(self, sock: socket.socket, family: socket.AddressFamily) -> None:
        """Have a socket of that family leave from there. Raises OSError."""
        address = self.addresses.get(family)
        if address is not None:
            if self.foreign:
                make_transparent(sock)
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind(address)


ANYWHERE: Final = Source()
