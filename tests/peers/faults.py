"""The fault receivers of evidence.md 3.1, and their classes (a) to (f) of 3.3: one function each.

Each replies after exactly the first part of the mail data, so that a sender that waits for the early reply there
knows that all it sent before was read; see senders.py.
"""

from __future__ import annotations

from tests.peers.outcome import accepted, refused
from tests.peers.receiving import FIRST_PART_OCTETS, TAKEN, Talk
from tests.peers.table import CLOSING, TOO_BIG, fault, refuses

# -- none at all


@fault("a control", accepted(TAKEN), replies_early=False)
def well_behaved(talk: Talk) -> None:
    talk.accept()


@refuses(
    TOO_BIG,
    seen_in="a control",
    replies_early=False,
)
def well_behaved_refuses_at_the_dot(talk: Talk, reply: bytes) -> None:
    talk.go_on()
    talk.whole()
    talk.say(reply)


# -- 3.3 (b), (c): 5yz, 421, and gone


@refuses(
    TOO_BIG,
    seen_in="KB Q152940: 552 and 421 back to back, FIN, reading stops",
)
def q152940(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply + CLOSING)
    talk.fin()
    talk.stop_reading()


@refuses(
    TOO_BIG,
    seen_in="KB Q152940: the same, 'depending on how the target host requests the connection be closed'",
)
def q152940_rst(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply + CLOSING)
    talk.reset()


@refuses(
    b"552 4.3.1 Session size exceeds fixed maximum session size\r\n",
    seen_in="IBM swg21255392, KB 816866: 552, then RST, as octets are unread",
)
def iis_reset(talk: Talk, reply: bytes) -> None:
    talk.first_part(FIRST_PART_OCTETS - 100)
    talk.early(reply)
    talk.close()


# -- 3.3 (a), (e): 5yz, goes on reading


@refuses(
    TOO_BIG,
    seen_in="3.3 (a): one 552, stays open and drains",
)
def early_552_drains(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.whole()


@refuses(
    b"552 #5.3.4 message size exceeds limit\r\n",
    seen_in="Cisco 118546: 552 at the limit, a second one and close at twice the limit",
)
def cisco_second_552_at_twice(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.part(FIRST_PART_OCTETS)
    talk.say(reply)
    talk.close()


# -- 3.3 (d): the rest is read as commands


@refuses(
    b"552 #5.3.4 message header size exceeds limit\r\n",
    seen_in="Cisco 118495: 552 for the header, a 500 for each further line, after four a 421",
)
def cisco_headers(talk: Talk, reply: bytes) -> None:
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


@refuses(
    b"552 5.3.4 Requested mail action aborted: exceeded storage allocation (10)\r\n",
    seen_in="Mailpit, mhale/smtpd: 552, what is buffered is dropped, the rest is run",
)
def mailpit(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.run(obeyed)
    talk.close()


@refuses(
    b"552 Message too large\r\n",
    seen_in="gen_smtp: 552 for the size, stays open, the rest is run",
)
def gen_smtp_size(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.run(obeyed)
    talk.close()


@refuses(
    b"451 Bare newline detected\r\n",
    seen_in="gen_smtp: 451 for a bare newline, stays open, the rest is run",
)
def gen_smtp_bare_newline(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.run(obeyed)
    talk.close()


@refuses(
    b"451 Bare line-feed; see http://haraka.github.io/barelf/\r\n",
    seen_in="Haraka connection.js accumulate_data: 451 for '.\\n', stays open, the rest is run",
)
def haraka_stays_and_parses(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.run(obeyed)
    talk.close()


@refuses(
    b"552 Requested mail action aborted: message too big\r\n",
    seen_in="smtp-gated: 552, then waits for QUIT and finds it in the mail",
)
def smtp_gated(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.run(lambda line: None if line.upper() == b"QUIT" else b"503 Only QUIT is allowed now\r\n")
    talk.say(b"221 bye\r\n")
    talk.close()


# -- one reply, and closes


@refuses(
    b"451 4.3.0 error receiving message: message too large\r\n",
    seen_in="mox server.go: 451 for a permanent fault, panic, RST, as octets are unread (3.3 f)",
)
def mox_451_rst(talk: Talk, reply: bytes) -> None:
    talk.first_part(FIRST_PART_OCTETS - 100)
    talk.early(reply)
    talk.close()


@refuses(
    b"521 5.5.2 Error reading DATA: invalid line ending\r\n",
    seen_in="chasquid conn.go: 521 for a bare CR or LF, close",
)
def chasquid_521_close(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.close()


@refuses(
    b"500 Line too long\r\n",
    seen_in="OpenSMTPD smtp_session.c: 500 for a long line, STATE_QUIT",
)
def opensmtpd_500_line(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.close()


@refuses(
    b"500 5.0.0 line delimiter must be CRLF\r\n",
    seen_in="James DataLineJamesMessageHookHandler: 500 for a line without CRLF, end of session",
)
def james_500_end_session(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.close()


@refuses(
    b"451 See https://cr.yp.to/docs/smtplf.html.\r\n",
    seen_in="qmail-smtpd straynewline(): 451, _exit(1)",
)
def qmail_451_exit(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.close()


@refuses(
    b"421 See http://smtpd.github.io/qpsmtpd/barelf.html\r\n",
    seen_in="qpsmtpd SMTP.pm: 421 alone, disconnect",
)
def qpsmtpd_421(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.close()


@refuses(
    b"554 Transaction aborted due to too many MIME parts\r\n",
    seen_in="Haraka connection.js: 554 for too many MIME parts, disconnect",
)
def haraka_554_disconnect(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    talk.close()


# -- more than one


@refuses(
    b"552 Error: Too much mail data\r\n",
    seen_in="aiosmtpd before PR#59: 552 for each line, 250 at the dot",
    not_in_chunks="it goes by lines, to a dot: chunks have neither",
)
def aiosmtpd_552_per_line_then_250(talk: Talk, reply: bytes) -> None:
    talk.first_part()
    talk.early(reply)
    while talk.line() != b".":
        talk.say(reply)
    talk.say(b"250 OK\r\n")


@fault("SmtpServer before PR#258: '554' and '552 ...' at the dot", refused(b"554 "), replies_early=False)
def smtpserver_two_replies_at_dot(talk: Talk) -> None:
    talk.go_on()
    talk.whole()
    talk.say(b"554\r\n552 message size exceeds fixed maximum message size\r\n")
