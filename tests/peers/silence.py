"""Fault receivers that say too much or nothing: early success, a shut window, no verdict. See faults.py.

Classes (g), (i) and (j) of evidence.md 3.3, and those of the catalogue that go without a verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.peers.outcome import EARLY_SUCCESS, LOST, NO_VERDICT, accepted
from tests.peers.table import QUICK_TO_GIVE_UP, TOO_BIG, fault, refuses

if TYPE_CHECKING:
    from tests.peers.receiving import Talk

# -- 3.3 (g), (i), (j)


@fault(
    "3.3 (g): 250 before the end, then all is read to the dot",
    EARLY_SUCCESS,
    small=(EARLY_SUCCESS, accepted(b"250 Ok: queued early\r\n")),
)
def early_250(talk: Talk) -> None:
    data = talk.first_part()
    talk.early(b"250 Ok: queued early\r\n")
    # It has the mail only if the rest still comes: then whoever takes its word is right.
    talk.seen.mails.append(data + talk.whole())


@fault(
    "3.3 (g): 250 before the end, FIN",
    EARLY_SUCCESS,
    small=(EARLY_SUCCESS, accepted(b"250 Ok: queued early\r\n")),
    # The reply may be that of a chunk which was whole, and others are to follow.
    between_chunks=(NO_VERDICT, LOST),
)
def early_250_then_fin(talk: Talk) -> None:
    data = talk.first_part()
    talk.early(b"250 Ok: queued early\r\n")
    talk.fin()
    talk.seen.mails.append(data + talk.whole())


@refuses(
    TOO_BIG,
    seen_in="3.3 (i): 552, then reads nothing and stays",
    deadlines=QUICK_TO_GIVE_UP,
    tight=True,
)
def early_552_shuts_its_window(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.stop_reading()


@fault(
    "stalled-in-data: reads nothing, says nothing, stays",
    NO_VERDICT,
    deadlines=QUICK_TO_GIVE_UP,
    tight=True,
    replies_early=False,
)
def shuts_its_window_in_silence(talk: Talk) -> None:
    talk.first_part()
    talk.stop_reading()


@fault("3.3 (j): reads all, says nothing", NO_VERDICT, deadlines=QUICK_TO_GIVE_UP, replies_early=False)
def no_reply_at_all(talk: Talk) -> None:
    talk.go_on()
    talk.read_on()


# -- gone without a verdict


@fault("closed-in-data", NO_VERDICT)
def fin_without_a_verdict(talk: Talk) -> None:
    talk.first_part()
    talk.fin()
    talk.was_early()
    talk.read_on()


@fault("reset-in-data", NO_VERDICT)
def rst_without_a_verdict(talk: Talk) -> None:
    talk.first_part()
    talk.reset()
    talk.seen.early.set()  # before it, the sender might still end its chunk


@fault("closed-in-data, after the end of mail data", NO_VERDICT, replies_early=False)
def fin_at_the_dot(talk: Talk) -> None:
    talk.go_on()
    talk.whole()
    talk.close()
