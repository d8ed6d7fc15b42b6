"""Faulty receivers whose replies are wrong in form, or stand where none may stand; see early.py.

Rows of the catalogue that concern mail data: split, cut off, bare newlines, mixed codes, further and extra replies.
"""

from __future__ import annotations

from shimproxy.faulty.fault import NO_354, TOO_BIG, fault, refuses
from shimproxy.faulty.talk import FIRST_PART_OCTETS, TAKEN, Talk
from shimproxy.smtp.catalogue import Violation

_MULTILINE = b"552-5.3.4 Requested mail action aborted\r\n552-5.3.4 exceeded\r\n552 5.3.4 storage allocation\r\n"


# -- early, in a strange form


@refuses(Violation.EARLY_REPLY, _MULTILINE)
def split_multiline_early_reply(talk: Talk, reply: bytes) -> None:
    """The receiver gives an early reply of three lines, each octet in a segment of its own."""
    talk.first_part()
    talk.early(reply, in_pieces=True)
    talk.whole()


@fault(Violation.CUT_OFF)
def no_crlf_before_fin(talk: Talk) -> None:
    """The receiver sends 552 without its CRLF, then FIN."""
    talk.first_part()
    talk.say(b"552 5.3.4 too big")
    talk.fin()
    talk.was_early()
    talk.read_on()


@fault(Violation.CUT_OFF)
def half_a_code_before_fin(talk: Talk) -> None:
    """The receiver sends two digits of a code, then FIN."""
    talk.first_part()
    talk.say(b"55")
    talk.fin()
    talk.was_early()
    talk.read_on()


@fault(Violation.REPLY_BARE_NEWLINE)
def early_bare_newline(talk: Talk) -> None:
    """The receiver ends its early 552 by LF alone."""
    talk.first_part()
    talk.early(b"552 5.3.4 too big\n")
    talk.whole()


@fault(Violation.MIXED_CODES)
def early_mixed_refusals(talk: Talk) -> None:
    """The receiver mixes 550 and 552 in the lines of one reply."""
    talk.first_part()
    talk.early(b"550-5.3.4 too\r\n552 5.3.4 big\r\n")
    talk.whole()


@fault(Violation.MIXED_CODES)
def early_refusal_mixed_with_success(talk: Talk) -> None:
    """The receiver mixes 552 and 250 in the lines of one reply."""
    talk.first_part()
    talk.early(b"552-5.3.4 too big\r\n250 Ok\r\n")
    talk.whole()


@fault(Violation.NOT_A_REPLY)
def early_nonsense(talk: Talk) -> None:
    """The receiver prints the error of a program in mid-mail, without a code, and closes."""
    talk.first_part()
    talk.early(b"panic: runtime error: index out of range\r\n")
    talk.close()


# -- around the 354


@refuses(Violation.EARLY_REPLY, TOO_BIG, not_in_chunks=NO_354)
def both_354_and_552_in_one_segment(talk: Talk, reply: bytes) -> None:
    """The receiver sends 354 and 552 in one segment."""
    talk.early(b"354 go on\r\n" + reply)
    talk.whole()


@fault(Violation.FURTHER_REPLY, replies_early=False, not_in_chunks=NO_354)
def repeated_354(talk: Talk) -> None:
    """The receiver says 354 again and again, and takes the mail."""
    talk.say(b"354 go on\r\n354 go on\r\n")
    data = talk.part(FIRST_PART_OCTETS)
    talk.say(b"354 I said go on\r\n")
    talk.seen.take(data + talk.whole())
    talk.say(b"354 still\r\n" + TAKEN * talk.verdicts)


@fault(Violation.IMPLAUSIBLE_REPLY, replies_early=False, not_in_chunks="it is the reply to a chunk")
def says_250_to_data(talk: Talk) -> None:
    """The receiver answers DATA by 250."""
    talk.say(b"250 Ok\r\n")
    talk.read_on()


# -- around the dot


@fault(Violation.EXTRA_REPLY, replies_early=False)
def says_250_twice_at_the_dot(talk: Talk) -> None:
    """The receiver accepts the mail twice."""
    talk.go_on()
    talk.seen.take(talk.whole())
    talk.verdict(TAKEN + TAKEN)


@fault(Violation.EXTRA_REPLY, replies_early=False)
def accepts_then_421(talk: Talk) -> None:
    """The receiver accepts the mail, says 421 at once and closes."""
    talk.go_on()
    talk.seen.take(talk.whole())
    talk.say(TAKEN * talk.verdicts + b"421 4.3.2 shutting down\r\n")
    talk.close()


@fault(Violation.MISSING_TEXT, replies_early=False)
def code_without_text_at_the_dot(talk: Talk) -> None:
    """The receiver refuses the mail by a bare code, without a blank or a text."""
    talk.go_on()
    talk.whole()
    talk.verdict(b"552\r\n")


@fault(Violation.IMPLAUSIBLE_REPLY, replies_early=False)
def says_334_at_the_dot(talk: Talk) -> None:
    """The receiver answers the end of mail data by 334."""
    talk.go_on()
    talk.whole()
    talk.verdict(b"334 go on\r\n")
    talk.read_on()


@fault(Violation.REPLY_LONG_LINE, replies_early=False)
def long_line_at_the_dot(talk: Talk) -> None:
    """The receiver refuses the mail by a line of 1,000 octets."""
    talk.go_on()
    talk.whole()
    talk.verdict(b"552 5.3.4 " + b"the mail is too big. ".ljust(988, b"x") + b"\r\n")


@fault(Violation.NOT_A_REPLY, replies_early=False)
def no_blank_after_the_code(talk: Talk) -> None:
    """The receiver accepts the mail by 250OK, without a blank after the code."""
    talk.go_on()
    talk.seen.take(talk.whole())
    talk.verdict(b"250OK\r\n")
