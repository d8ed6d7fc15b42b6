"""Fault receivers whose replies are wrong in form, or stand where none may stand; see faults.py.

Rows of the catalogue that concern mail data: split, cut off, bare newlines, mixed codes, further and extra replies.
"""

from __future__ import annotations

from tests.peers.outcome import NO_VERDICT, OUT_OF_STEP, accepted, refused
from tests.peers.receiving import FIRST_PART_OCTETS, TAKEN, Talk
from tests.peers.table import NO_354, QUICK_TO_RESET, TOO_BIG, fault, refuses

_MULTILINE = b"552-5.3.4 Requested mail action aborted\r\n552-5.3.4 exceeded\r\n552 5.3.4 storage allocation\r\n"


# -- early, in a strange form


@refuses(
    _MULTILINE,
    seen_in="3.3 (h): a multiline reply, octet by octet",
)
def split_multiline_early_reply(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply, in_pieces=True)
    talk.whole()


@fault("3.3 (h), cut-off: no CRLF before FIN", refused(b"552 5.3.4 too big\r\n"))
def no_crlf_before_fin(talk: Talk) -> None:
    talk.first_part()
    talk.say(b"552 5.3.4 too big")
    talk.fin()
    talk.was_early()
    talk.read_on()


@fault("cut-off: not even a whole code before FIN", NO_VERDICT)
def half_a_code_before_fin(talk: Talk) -> None:
    talk.first_part()
    talk.say(b"55")
    talk.fin()
    talk.was_early()
    talk.read_on()


@fault("reply-bare-newline", refused(b"552 5.3.4 too big\r\n"))
def early_bare_newline(talk: Talk) -> None:
    talk.first_part()
    talk.early(b"552 5.3.4 too big\n")
    talk.whole()


@fault("mixed-codes: two refusals, the last line's code counts", refused(b"552-5.3.4 too\r\n552 5.3.4 big\r\n"))
def early_mixed_refusals(talk: Talk) -> None:
    talk.first_part()
    talk.early(b"550-5.3.4 too\r\n552 5.3.4 big\r\n")
    talk.whole()


@fault("mixed-codes: a success among refusals is no usable code", NO_VERDICT, deadlines=QUICK_TO_RESET)
def early_refusal_mixed_with_success(talk: Talk) -> None:
    talk.first_part()
    talk.early(b"552-5.3.4 too big\r\n250 Ok\r\n")
    talk.whole()


@fault("not-a-reply in mail data", NO_VERDICT)
def early_nonsense(talk: Talk) -> None:
    talk.first_part()
    talk.early(b"panic: runtime error: index out of range\r\n")
    talk.close()


# -- around the 354


@refuses(
    TOO_BIG,
    seen_in="early-reply in one segment with the 354",
    not_in_chunks=NO_354,
)
def both_354_and_552_in_one_segment(talk: Talk, reply: bytes) -> None:
    talk.early(b"354 go on\r\n" + reply)
    talk.whole()


@fault("repeated 354", accepted(TAKEN), replies_early=False, not_in_chunks=NO_354)
def repeated_354(talk: Talk) -> None:
    talk.say(b"354 go on\r\n354 go on\r\n")
    data = talk.part(FIRST_PART_OCTETS)
    talk.say(b"354 I said go on\r\n")
    talk.seen.mails.append(data + talk.whole())
    talk.say(b"354 still\r\n" + TAKEN)


@fault("implausible-reply: 250 to DATA", OUT_OF_STEP, replies_early=False, not_in_chunks="it is the reply to a chunk")
def says_250_to_data(talk: Talk) -> None:
    talk.say(b"250 Ok\r\n")
    talk.read_on()


# -- around the dot


@fault("extra-reply: the verdict twice", accepted(TAKEN), replies_early=False)
def says_250_twice_at_the_dot(talk: Talk) -> None:
    talk.go_on()
    talk.seen.mails.append(talk.whole())
    talk.say(TAKEN + TAKEN)


@fault("extra-reply: 250, then 421 and FIN", accepted(TAKEN), replies_early=False)
def accepts_then_421(talk: Talk) -> None:
    talk.go_on()
    talk.seen.mails.append(talk.whole())
    talk.say(TAKEN + b"421 4.3.2 shutting down\r\n")
    talk.close()


@fault("missing-text", refused(b"552 "), replies_early=False)
def code_without_text_at_the_dot(talk: Talk) -> None:
    talk.go_on()
    talk.whole()
    talk.say(b"552\r\n")


@fault("implausible-reply to the end of mail data", NO_VERDICT, replies_early=False)
def says_334_at_the_dot(talk: Talk) -> None:
    talk.go_on()
    talk.whole()
    talk.say(b"334 go on\r\n")
    talk.read_on()
