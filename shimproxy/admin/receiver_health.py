"""Whether a receiver greets, asked so that its log has no complaint (RFC 5321 3.1).

It is asked for GREETING_SECONDS at most and heard for _MOST_OCTETS, however its greeting comes. A receiver that begins
with TLS is asked inside it, and its certificate is checked as for mail.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from shimproxy.client.client import clients
from shimproxy.net import proxy_header
from shimproxy.net.errors import DeadlinePassed, DialFailed, LegBroken, TlsFailed, TlsUnusable, reason
from shimproxy.net.origin import party
from shimproxy.net.places import Places
from shimproxy.session.policy import ReceiverTls
from shimproxy.smtp.command import QUIT

if TYPE_CHECKING:
    from shimproxy.client.client import Client, Clients
    from shimproxy.config.settings import Settings
    from shimproxy.net.address import Endpoint

GREETING_SECONDS: Final = 5.0
_QUIT_SECONDS: Final = 1.0
_MOST_OCTETS: Final = 65_536
_LATE: Final = "does not greet in time"


async def why_no_greeting(settings: Settings) -> str:
    """Why no receiver can be said to be there, or nothing: so it is where one of them greets, or none is known."""
    reasons: list[str] = []

    async def ask(opened: Clients, endpoint: Endpoint, its: Settings) -> None:
        if why_not := await _why_not(opened, endpoint, its):
            reasons.append(f"the receiver {endpoint} {why_not}")

    asked = receivers_asked(settings)
    try:
        async with clients() as opened, trio.open_nursery() as nursery:
            for endpoint, its in asked:
                nursery.start_soon(ask, opened, endpoint, its)
    except OSError as error:  # no means for an epoll
        return f"the receivers cannot be asked: {reason(error)}"
    return "; ".join(reasons) if len(reasons) == len(asked) else ""


def receivers_asked(settings: Settings) -> list[tuple[Endpoint, Settings]]:
    """Each receiver, once for each way in which listeners have connections to it begin, with the settings for that."""
    found: dict[tuple[object, ...], tuple[Endpoint, Settings]] = {}
    for its in (settings, *(settings.of(listener) for listener in settings.listen if listener.own)):
        checks = (its.receiver_name, its.receiver_authorities, its.receiver_fingerprint, its.receiver_verified)
        tls = (its.receiver_tls, checks if its.receiver_tls is ReceiverTls.IMPLICIT else None)
        for endpoint in its.endpoints:
            found.setdefault((endpoint, its.send_proxy, its.source, *tls), (endpoint, its))
    return [*found.values()]


async def _why_not(opened: Clients, endpoint: Endpoint, settings: Settings) -> str:
    """Why a receiver does not greet, or nothing; it is heard to the end of its greeting, and told QUIT."""
    why_not = _LATE
    places = Places(endpoint)
    with trio.move_on_after(GREETING_SECONDS):
        try:
            known = await places.find(GREETING_SECONDS)
            with await opened.open(known, GREETING_SECONDS, host=places.host, source=settings.source_used) as client:
                client.allow(GREETING_SECONDS, "the greeting")
                await begin_asking(client, settings)
                why_not = await _why_not_heard(client)
                # What becomes of QUIT says nothing about the greeting.
                with suppress(DeadlinePassed, LegBroken):
                    client.allow(_QUIT_SECONDS, "QUIT")
                    await client.write(QUIT.line)
                    await client.leg.read()
        except DialFailed as error:
            return f"cannot be reached: {str(error).removeprefix(f'{endpoint}: ')}"
        except LegBroken as error:
            return f"cannot be reached: {error.reason}"
        except TlsFailed as error:
            return f"does not make TLS: {error.reason}"
        except TlsUnusable as error:
            return f"cannot be asked: {error}"
        except DeadlinePassed:
            pass
    return why_not


async def begin_asking(client: Client, settings: Settings) -> None:
    """Do what comes before the greeting. Raises LegBroken, TlsFailed, TlsUnusable, DeadlinePassed."""
    sock = client.leg.sock
    if settings.send_proxy:
        own, peer = party(sock.getsockname()), party(sock.getpeername())
        await client.write(proxy_header.local(settings.send_proxy, own, peer))
    if settings.receiver_tls is ReceiverTls.IMPLICIT and (security := settings.receiver_security()):
        await client.secure(security)


async def _why_not_heard(client: Client) -> str:
    """Why what the receiver says first is not a greeting, or nothing. Raises DeadlinePassed."""
    while not (reply := client.replies.next_reply()):
        if client.leg.octets_in >= _MOST_OCTETS:
            return f"does not finish its greeting within {_MOST_OCTETS:,} octets"
        await client.leg.wait_to_read()
        if client.look() == b"":
            return "disconnects without a greeting"
    return "" if reply.code == 220 else "does not greet"
