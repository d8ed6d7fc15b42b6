"""Where a receiver is: the socket addresses of its name, looked up again as they age.

Invariants:

1. A literal and a path are looked up once.
2. A name is looked up at most once in `_FRESH_SECONDS`, by one session; the others go on with what was found before.
3. What was found once is used until something else is: a resolver that fails takes no receiver away.
"""

from __future__ import annotations

import math
import socket
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.address import Address, UnixPath
from shimproxy.net.errors import DialFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.net.address import Endpoint

_FRESH_SECONDS: Final = 60.0
"""getaddrinfo does not say how long an answer holds; a minute is what names that move are given."""
_AGAIN_SECONDS: Final = 5.0
"""For how long a session waits for a resolver while there is an answer from before."""

Sockaddr = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes] | str
Place = tuple[socket.AddressFamily, Sockaddr]
"""A family and an address of it, as connect() takes it."""


@attrs.define(eq=False)
class Places:
    """The socket addresses of one receiver."""

    endpoint: Endpoint
    known: Sequence[Place] = ()
    """What was found last, in the order in which they are to be tried."""
    name: str = attrs.field(init=False)
    """The receiver as the operator wrote it."""
    _fresh_until: float = 0.0
    _looking: bool = False

    def __attrs_post_init__(self) -> None:
        self.name = str(self.endpoint)

    @property
    def host(self) -> str:
        """Whom a certificate of this receiver must name, unless the operator says otherwise."""
        return self.endpoint.host if isinstance(self.endpoint, Address) else "localhost"

    @property
    def is_settled(self) -> bool:
        """Whether what is known holds for ever."""
        return self._fresh_until == math.inf

    async def find(self, seconds: float) -> Sequence[Place]:
        """The socket addresses. Raises DialFailed, also after that many seconds."""
        endpoint = self.endpoint
        if self.known and (self._looking or self._fresh_until > trio.current_time()):
            return self.known
        if isinstance(endpoint, UnixPath):
            self.known, self._fresh_until = [(socket.AF_UNIX, endpoint.path)], math.inf
            return self.known
        self._looking = True
        try:
            self.known = await look_up(endpoint, min(seconds, _AGAIN_SECONDS) if self.known else seconds)
        except DialFailed:
            if not self.known:
                raise
        finally:
            self._looking = False
        self._fresh_until = math.inf if endpoint.is_literal else trio.current_time() + _FRESH_SECONDS
        return self.known


async def look_up(address: Address, seconds: float) -> list[Place]:
    """The socket addresses of a host, its families by turns. Raises DialFailed, also after that many seconds."""
    host = address.host
    try:
        with trio.fail_after(seconds):
            found = await trio.socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DialFailed(f"unknown host {host!r}; check the name, or give an address", "name") from error
    except trio.TooSlowError:
        raise DialFailed(
            f"the resolver gave no answer about host {host!r} within {seconds:g} s; check the resolver", "name"
        ) from None
    return _by_turns([(family, sockaddr) for family, _, _, _, sockaddr in found])


def _by_turns(places: Sequence[Place]) -> list[Place]:
    """The same with the families by turns, so that one which does not work delays one attempt (RFC 8305 section 4)."""
    first = [place for place in places if place[0] == places[0][0]]
    others = [place for place in places if place[0] != places[0][0]]
    return [place for place in chain.from_iterable(zip_longest(first, others)) if place]
