"""What a receiver does that wants something else, TLS from the start, LMTP or a PROXY header; and the likely mend.

Nothing is repaired here, and nothing is certain: an operator is told what to look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import attrs

from shimproxy.smtp.command import HELLOS, Verb

if TYPE_CHECKING:
    from shimproxy.session.record import SessionRecord
    from shimproxy.smtp.reply import Reply

SILENT_SECONDS: Final = 3.0
"""A receiver that has not begun its greeting after that is told of, which may be two ticks late: so before 5 s, when a
Postfix that waits for a PROXY header says 421. Its deadline is much later (RFC 5321 4.5.3.2.1)."""
_TLS_PORT: Final = "465"
"""Where a connection begins with TLS (RFC 8314 section 7.3)."""
_NO_SUCH_COMMAND: Final = (500, 502)
_OUT_OF_ORDER: Final = 503
_WORDS_OF_LMTP: Final = (b"LMTP", b"LHLO")
_NOT_TLS: Final = ("wrong version number", "record layer failure")
"""What OpenSSL says of a peer that does not speak TLS."""


@attrs.frozen
class Advice:
    """What was seen of a receiver, and what may mend it."""

    seen: str
    """A word that does not change."""
    message: str


@runtime_checkable
class AdviceObserver(Protocol):
    """An observer that is told of advice too."""

    def advised(self, record: SessionRecord, advice: Advice) -> None:
        """The receiver of a session may be set up for something else."""


def of_silence(receiver: str, *, sends_header: bool) -> Advice:
    """For a receiver, HOST:PORT, that says nothing in the clear; it may be waiting for something."""
    begins = f"the receiver has said nothing for {SILENT_SECONDS:g} s; "
    if receiver.rpartition(":")[2] == _TLS_PORT:
        return Advice("silent", f"{begins}port 465 begins with TLS: set --receiver-tls implicit")
    header = "no PROXY header: remove --send-proxy" if sends_header else "a PROXY header: set --send-proxy v2"
    return Advice(
        "silent",
        f"{begins}it may want {header}; or TLS from the start: set --receiver-tls implicit; "
        f"`shimproxy probe {receiver}` tries both",
    )


def of_close(receiver: str, *, sends_header: bool) -> Advice:
    """For a receiver, HOST:PORT, that disconnects in the clear before it has said anything."""
    header = "no PROXY header: remove --send-proxy" if sends_header else "a PROXY header: set --send-proxy v2"
    return Advice(
        "closes",
        f"the receiver disconnects without a greeting; it may want {header}; or refuse this machine's address; "
        f"`shimproxy probe {receiver}` tries a header",
    )


def of_failed_tls(reason: str) -> Advice | None:
    """For a receiver that was to begin with TLS, by what OpenSSL says of its first octets."""
    if reason not in _NOT_TLS:
        return None
    return Advice("clear", "the receiver does not begin with TLS; set --receiver-tls required, or give its TLS port")


def of_refused_hello(verb: Verb, reply: Reply) -> Advice | None:
    """For a receiver that refuses a hello as no command of its own, or says why itself; of other commands, nothing."""
    if verb not in HELLOS:
        return None
    if verb is Verb.LHLO:
        if reply.code not in (*_NO_SUCH_COMMAND, _OUT_OF_ORDER):
            return None
        return Advice("smtp", "the receiver refuses LHLO; it may speak SMTP: remove --lmtp, or give its LMTP port")
    # Old receivers refuse EHLO alone.
    is_unknown = verb is Verb.HELO and reply.code in _NO_SUCH_COMMAND
    if not (is_unknown or any(word in reply.octets.upper() for word in _WORDS_OF_LMTP)):
        return None
    return Advice(
        "lmtp",
        f"the receiver refuses {verb}; it may speak LMTP: set --lmtp if its senders do too, or give its SMTP port",
    )
