"""Whether a receiver would relay for shimproxy's address: then it does so for every sender that reaches shimproxy.

It is asked with MAIL and RCPT for a domain that is not the receiver's own, then RSET and QUIT: no mail is sent. What a
receiver says to RCPT decides: RFC 5321 3.6.2 has a server that does not relay refuse there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shimproxy.admin.receiver_health import begin_asking, receivers_asked
from shimproxy.client.client import clients
from shimproxy.net.errors import DeadlinePassed, DialFailed, LegBroken, TlsFailed, TlsUnusable, reason
from shimproxy.net.places import Places
from shimproxy.session.policy import ReceiverTls
from shimproxy.smtp.command import QUIT, RESET, START_TLS
from shimproxy.smtp.shown import on_one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shimproxy.client.client import Client, Clients
    from shimproxy.config.settings import Settings
    from shimproxy.net.address import Endpoint
    from shimproxy.smtp.reply import Reply

FOREIGN_DOMAIN: Final = "example.com"
"""Asked for unless the operator names another: nobody has a mailbox there (RFC 2606, RFC 7505)."""
_SECONDS: Final = 30.0
_MOST_SHOWN: Final = 200


async def relaying(settings: Settings, domain: str) -> AsyncIterator[tuple[bool, str]]:
    """For each receiver: whether it would relay to that domain, and what it said, in words for the operator."""
    async with clients() as opened:
        for endpoint, its in receivers_asked(settings):
            yield await _of_one(opened, endpoint, its, domain)


async def _of_one(opened: Clients, endpoint: Endpoint, settings: Settings, domain: str) -> tuple[bool, str]:
    places = Places(endpoint)
    try:
        known = await places.find(_SECONDS)
        with await opened.open(known, _SECONDS, host=places.host, source=settings.source_used) as client:
            client.allow(_SECONDS, "the receiver's replies")
            await begin_asking(client, settings)
            return await _asked(client, settings, endpoint, domain)
    except (DialFailed, TlsUnusable) as error:
        why_not = str(error).removeprefix(f"{endpoint}: ")
    except (LegBroken, TlsFailed) as error:
        why_not = error.reason
    except DeadlinePassed:
        why_not = f"no reply within {_SECONDS:g} s"
    except OSError as error:
        why_not = reason(error)
    return False, f"{endpoint}: not asked whether it relays: {why_not}"


async def _asked(client: Client, settings: Settings, endpoint: Endpoint, domain: str) -> tuple[bool, str]:
    """Say what a sender says up to RCPT. Raises LegBroken, TlsFailed, TlsUnusable, DeadlinePassed."""
    hello = b"%s %s\r\n" % (b"LHLO" if settings.lmtp else b"EHLO", settings.helo_name_used.encode())
    reply = await client.next_reply()
    if _is_positive(reply):
        reply = await _said(client, hello)
    if _is_positive(reply) and settings.receiver_tls in (ReceiverTls.OPPORTUNISTIC, ReceiverTls.REQUIRED):
        answer = await _said(client, START_TLS.line)
        if _is_positive(answer) and (security := settings.receiver_security()):
            await client.secure(security)
            reply = await _said(client, hello)
        elif settings.receiver_tls is ReceiverTls.REQUIRED:
            reply = answer
    if _is_positive(reply):
        reply = await _said(client, b"MAIL FROM:<>\r\n")
    recipient = f"relay-test@{domain}"
    decides = None
    if _is_positive(reply):
        decides = reply = await _said(client, f"RCPT TO:<{recipient}>\r\n".encode())
    with suppress(LegBroken, DeadlinePassed):
        for line in (*([RESET.line] if decides else ()), QUIT.line):
            await _said(client, line)
    if decides is None:
        return False, f"{endpoint}: not asked whether it relays: it says '{_shown(reply)}' before that"
    words = f"RCPT TO:<{recipient}> gets '{_shown(decides)}'"
    if _is_positive(decides):
        return True, f"{endpoint} relays for this host: {words}"
    return False, f"{endpoint} does not relay to {domain} for this host: {words}"


async def _said(client: Client, line: bytes) -> Reply | None:
    await client.write(line)
    return await client.next_reply()


def _is_positive(reply: Reply | None) -> bool:
    return reply is not None and reply.kind == 2


def _shown(reply: Reply | None) -> str:
    return on_one_line(reply.octets)[:_MOST_SHOWN] if reply else "nothing"
