"""shimproxy's own login at a receiver (RFC 4954): with its secret, or with a token that is read for each session.

Invariant: nothing of it is told, but why it failed.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final

from shimproxy.session.in_step import ask_receiver
from shimproxy.smtp.login import AUTH, CONTINUES, DONE, LoginGivenUp, login

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shimproxy.session.policy import Login
    from shimproxy.session.receiver import Receiver

_MOST_CHARACTERS: Final = 8192
"""Of a token: an AUTH line has at most 12,288 octets (RFC 4954 section 4.5)."""
_NONCE_OCTETS: Final = 18
LOST: Final = "the connection is lost"


class TokenUnusable(Exception):
    """There is no token in the file; the text says why."""


def token_in(file: Path) -> str:
    """The token in the first line of a file, as it is now. Raises TokenUnusable."""
    try:
        # Not to wait for what may never be written to a pipe: all sessions would.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, encoding="ascii") as opened:
            token = opened.readline(_MOST_CHARACTERS + 2).strip()
    except OSError as error:
        raise TokenUnusable(f"{file}: {error.strerror}") from None
    except ValueError:
        raise TokenUnusable(f"{file}: not a token") from None
    if not token:
        raise TokenUnusable(f"{file}: its first line is empty")
    if len(token) > _MOST_CHARACTERS or not all("!" <= each <= "~" for each in token):
        raise TokenUnusable(f"{file}: not a token")
    return token


async def log_in_at(receiver: Receiver, offered: Mapping[bytes, bytes], account: Login) -> str:
    """Log in at a receiver that offers these keywords; why that failed, if it did.

    Raises DeadlinePassed, Interrupted.
    """
    try:
        token = token_in(account.token_file) if account.token_file else ""
    except TokenUnusable as error:
        return str(error)
    nonce = secrets.token_urlsafe(_NONCE_OCTETS)
    dialogue = login(offered.get(AUTH, b""), account.user, account.secret, token=token, nonce=nonce)
    if dialogue is None:
        known = "OAUTHBEARER nor XOAUTH2" if token else "PLAIN, LOGIN, SCRAM-SHA-256 nor CRAM-MD5"
        return f"neither {known} is offered"
    receiver.events.secret = True  # until the next command is forwarded
    said = dialogue.begin()
    while True:
        reply = await ask_receiver(receiver, said)
        if reply is None:
            return LOST
        if reply.code == DONE:
            return "" if dialogue.proven else "it has not shown that it knows the password"
        try:
            more = dialogue.answer(reply) if reply.code == CONTINUES else None
        except LoginGivenUp as error:
            return str(error)
        if more is None:
            return f"reply {reply.code}" + (f": {dialogue.reason}" if dialogue.reason else "")
        said = more
