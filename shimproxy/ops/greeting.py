"""Whether the receiver greets, asked so that its log has no complaint (RFC 5321 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from shimproxy.session.policy import ReceiverTls

if TYPE_CHECKING:
    from shimproxy.ops.settings import Settings

GREETING_SECONDS: Final = 5.0
_MOST_OCTETS: Final = 65_536


async def why_no_greeting(settings: Settings) -> str:
    """Why the receiver can't be said to be there, or nothing; it is heard to the end of its greeting, and told QUIT."""
    receiver = settings.receiver
    said = b""
    try:
        with trio.fail_after(GREETING_SECONDS):
            async with await trio.open_tcp_stream(receiver.host, receiver.port) as stream:
                if settings.receiver_tls is ReceiverTls.IMPLICIT:
                    return ""  # it waits for TLS, which is for the workers to make
                while not (said.endswith(b"\n") and said.splitlines()[-1][3:4] != b"-") and len(said) < _MOST_OCTETS:
                    octets = await stream.receive_some()
                    if not octets:
                        return "the receiver goes without a greeting"
                    said += octets
                await stream.send_all(b"QUIT\r\n")
                await stream.receive_some()
    except trio.TooSlowError:
        return "the receiver does not greet in time"
    except (OSError, trio.BrokenResourceError) as error:
        return f"the receiver cannot be reached: {error}"
    return "" if said.startswith(b"220") else "the receiver does not greet"
