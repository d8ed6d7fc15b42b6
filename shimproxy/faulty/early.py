"""Faulty receivers that refuse a mail before its end, as real ones do: one function each.

Each replies after exactly the first part of the mail data, so that a sender that waits for the early reply there
knows that all it sent before was read; see sending.py.
"""

from __future__ import annotations

from shimproxy.faulty.fault import CLOSING, TOO_BIG, fault, refuses
from shimproxy.faulty.talk import FIRST_PART_OCTETS, Talk
from shimproxy.smtp.catalogue import Violation


def _refuse_and_close(talk: Talk, reply: bytes) -> None:
    """Say it after the first octets of the mail, and close with the others unread."""
    talk.first_part()
    talk.early(reply)
    talk.close()


# -- none at all


@fault(None, replies_early=False)
def well_behaved(talk: Talk) -> None:
    """The receiver does nothing wrong: it takes every mail."""
    talk.accept()


@refuses(None, TOO_BIG, replies_early=False)
def well_behaved_refuses_at_the_dot(talk: Talk, reply: bytes) -> None:
    """The receiver does nothing wrong: it refuses every mail by 552, after its end."""
    talk.go_on()
    talk.whole()
    talk.verdict(reply)


# -- a refusal, 421, and gone


@refuses(Violation.EARLY_REPLY, TOO_BIG)
def q152940(talk: Talk, reply: bytes) -> None:
    """The receiver says 552 and 421 at once, sends FIN and reads no more: Microsoft KB Q152940, 1999."""
    talk.first_part()
    talk.early(reply + CLOSING)
    talk.fin()
    talk.stop_reading()


@refuses(Violation.EARLY_REPLY, TOO_BIG)
def q152940_rst(talk: Talk, reply: bytes) -> None:
    """The receiver says 552 and 421 at once and resets the connection: the other end of KB Q152940."""
    talk.first_part()
    talk.early(reply + CLOSING)
    talk.reset()


@refuses(Violation.EARLY_REPLY, b"552 4.3.1 Session size exceeds fixed maximum session size\r\n")
def iis_reset(talk: Talk, reply: bytes) -> None:
    """The receiver says 552 and closes with octets unread, which resets: IIS and Exchange (KB 816866)."""
    talk.first_part(FIRST_PART_OCTETS - 100)
    talk.early(reply)
    talk.close()


# -- a refusal, and goes on reading


@refuses(Violation.EARLY_REPLY, TOO_BIG)
def early_552_drains(talk: Talk, reply: bytes) -> None:
    """The receiver says 552 in mid-mail and reads on to the end, which it does not answer."""
    talk.first_part()
    talk.early(reply)
    talk.whole()


@refuses(Violation.EARLY_REPLY, b"552 #5.3.4 message size exceeds limit\r\n")
def cisco_second_552_at_twice(talk: Talk, reply: bytes) -> None:
    """The receiver says 552 at its limit, and a second one at twice the limit, then closes: Cisco ESA (118546)."""
    talk.first_part()
    talk.early(reply)
    talk.part(FIRST_PART_OCTETS)
    talk.say(reply)
    talk.close()


# -- a refusal, and the rest is read as commands


@refuses(Violation.EARLY_REPLY, b"552 #5.3.4 message header size exceeds limit\r\n")
def cisco_headers(talk: Talk, reply: bytes) -> None:
    """The receiver says 552, reads the rest as commands, and after four errors says 421: Cisco ESA (118495)."""
    talk.first_part()
    talk.early(reply)
    errors = 0

    def answer(line: bytes) -> bytes | None:
        nonlocal errors
        errors += 1
        return b"500 #5.5.1 command not recognized\r\n" if errors <= 4 else None

    talk.run(answer)
    talk.say(b"421 Too many bad SMTP commands\r\n")
    talk.close()


def obeyed(line: bytes) -> bytes | None:
    """What a receiver answers that takes mail data for commands."""
    verb = line[:4].upper()
    if verb == b"QUIT":
        return None
    return b"250 Ok\r\n" if verb in (b"MAIL", b"RCPT", b"RSET", b"NOOP") else b"500 5.5.2 unrecognised command\r\n"


@refuses(Violation.EARLY_REPLY, b"552 5.3.4 Requested mail action aborted: exceeded storage allocation (10)\r\n")
def mailpit(talk: Talk, reply: bytes) -> None:
    """The receiver says 552, stays open and runs the rest of the mail as commands: Mailpit, mhale/smtpd."""
    talk.first_part()
    talk.early(reply)
    talk.run(obeyed)
    talk.close()


@refuses(Violation.EARLY_REPLY, b"552 Message too large\r\n")
def gen_smtp_size(talk: Talk, reply: bytes) -> None:
    """The receiver says 552, stays open and runs the rest of the mail as commands: gen_smtp."""
    talk.first_part()
    talk.early(reply)
    talk.run(obeyed)
    talk.close()


@refuses(Violation.EARLY_REPLY, b"451 Bare newline detected\r\n")
def gen_smtp_bare_newline(talk: Talk, reply: bytes) -> None:
    """The receiver says 451 for a bare newline and runs the rest of the mail as commands: gen_smtp."""
    talk.first_part()
    talk.early(reply)
    talk.run(obeyed)
    talk.close()


@refuses(Violation.EARLY_REPLY, b"451 Bare line-feed; see http://haraka.github.io/barelf/\r\n")
def haraka_stays_and_parses(talk: Talk, reply: bytes) -> None:
    """The receiver says 451 for a bare newline and runs the rest of the mail as commands: Haraka."""
    talk.first_part()
    talk.early(reply)
    talk.run(obeyed)
    talk.close()


@refuses(Violation.EARLY_REPLY, b"552 Requested mail action aborted: message too big\r\n")
def smtp_gated(talk: Talk, reply: bytes) -> None:
    """The receiver says 552, then waits for QUIT, which it may find in the mail: smtp-gated."""
    talk.first_part()
    talk.early(reply)
    talk.run(lambda line: None if line.upper() == b"QUIT" else b"503 Only QUIT is allowed now\r\n")
    talk.say(b"221 bye\r\n")
    talk.close()


# -- one reply, and closes


@refuses(Violation.EARLY_REPLY, b"451 4.3.0 error receiving message: message too large\r\n")
def mox_451_rst(talk: Talk, reply: bytes) -> None:
    """The receiver says 451 for a mail that is too large, and closes with octets unread, which resets: mox."""
    talk.first_part(FIRST_PART_OCTETS - 100)
    talk.early(reply)
    talk.close()


@refuses(Violation.EARLY_REPLY, b"521 5.5.2 Error reading DATA: invalid line ending\r\n")
def chasquid_521_close(talk: Talk, reply: bytes) -> None:
    """The receiver says 521 for a bare newline and closes: chasquid."""
    _refuse_and_close(talk, reply)


@refuses(Violation.EARLY_REPLY, b"500 Line too long\r\n")
def opensmtpd_500_line(talk: Talk, reply: bytes) -> None:
    """The receiver says 500 for a long line and closes: OpenSMTPD."""
    _refuse_and_close(talk, reply)


@refuses(Violation.EARLY_REPLY, b"500 5.0.0 line delimiter must be CRLF\r\n")
def james_500_end_session(talk: Talk, reply: bytes) -> None:
    """The receiver says 500 for a line without CRLF and closes: Apache James."""
    _refuse_and_close(talk, reply)


@refuses(Violation.EARLY_REPLY, b"451 See https://cr.yp.to/docs/smtplf.html.\r\n")
def qmail_451_exit(talk: Talk, reply: bytes) -> None:
    """The receiver says 451 for a bare newline and exits: qmail, notqmail."""
    _refuse_and_close(talk, reply)


@refuses(Violation.EARLY_REPLY, b"421 See http://smtpd.github.io/qpsmtpd/barelf.html\r\n")
def qpsmtpd_421(talk: Talk, reply: bytes) -> None:
    """The receiver says 421 in mid-mail and closes: qpsmtpd."""
    _refuse_and_close(talk, reply)


@refuses(Violation.EARLY_REPLY, b"554 Transaction aborted due to too many MIME parts\r\n")
def haraka_554_disconnect(talk: Talk, reply: bytes) -> None:
    """The receiver says 554 for too many MIME parts and closes: Haraka."""
    _refuse_and_close(talk, reply)


# -- more than one


@refuses(
    Violation.EARLY_REPLY,
    b"552 Error: Too much mail data\r\n",
    not_in_chunks="it reads lines to a dot: chunks have neither",
)
def aiosmtpd_552_per_line_then_250(talk: Talk, reply: bytes) -> None:
    """The receiver says 552 for each further line, and 250 at the end: aiosmtpd before 2020-12."""
    talk.first_part()
    talk.early(reply)
    while not talk.ended and talk.line() != b".":
        talk.say(reply)
    talk.say(b"250 OK\r\n")


@fault(Violation.EXTRA_REPLY, replies_early=False)
def smtpserver_two_replies_at_dot(talk: Talk) -> None:
    """The receiver gives two replies to one mail, 554 and 552: SmtpServer before PR 258."""
    talk.go_on()
    talk.whole()
    talk.verdict(b"554\r\n552 message size exceeds fixed maximum message size\r\n")
