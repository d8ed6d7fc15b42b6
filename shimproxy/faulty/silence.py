"""Faulty receivers that say too much or nothing: early success, a shut window, no verdict; see early.py.

Those that disconnect without a verdict are here, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.faulty.fault import TOO_BIG, fault, refuses
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from shimproxy.faulty.talk import Talk

# -- early success, a shut window, silence


@fault(Violation.EARLY_SUCCESS)
def early_250(talk: Talk) -> None:
    """The receiver accepts the mail before its end, and reads on."""
    data = talk.first_part()
    talk.early(b"250 Ok: queued early\r\n")
    # It has the mail only if the rest still comes: then whoever takes its word is right.
    talk.seen.take(data + talk.whole())


@fault(Violation.EARLY_SUCCESS)
def early_250_then_fin(talk: Talk) -> None:
    """The receiver accepts the mail before its end, and sends FIN."""
    data = talk.first_part()
    talk.early(b"250 Ok: queued early\r\n")
    talk.fin()
    talk.seen.take(data + talk.whole())


@refuses(Violation.EARLY_REPLY, TOO_BIG, tight=True)
def early_552_shuts_its_window(talk: Talk, reply: bytes) -> None:
    """The receiver says 552 in mid-mail, reads no more and stays."""
    talk.first_part()
    talk.early(reply)
    talk.stop_reading()


@fault(Violation.STALLED_IN_DATA, tight=True, replies_early=False)
def shuts_its_window_in_silence(talk: Talk) -> None:
    """The receiver stops reading in mid-mail, says nothing and stays."""
    talk.first_part()
    talk.stop_reading()


@fault(Violation.NO_REPLY, replies_early=False)
def no_reply_at_all(talk: Talk) -> None:
    """The receiver reads all of the mail and never answers."""
    talk.go_on()
    talk.read_on()


# -- gone without a verdict


@fault(Violation.CLOSED_IN_DATA)
def fin_without_a_verdict(talk: Talk) -> None:
    """The receiver sends FIN in mid-mail, without a reply."""
    talk.first_part()
    talk.fin()
    talk.was_early()
    talk.read_on()


@fault(Violation.RESET_IN_DATA)
def rst_without_a_verdict(talk: Talk) -> None:
    """The receiver resets the connection in mid-mail, without a reply."""
    talk.first_part()
    talk.reset()
    talk.seen.early.set()  # before it, the sender might still end its chunk


@fault(Violation.CLOSED_IN_DATA, replies_early=False)
def fin_at_the_dot(talk: Talk) -> None:
    """The receiver reads all of the mail and closes without a reply."""
    talk.go_on()
    talk.whole()
    talk.close()
