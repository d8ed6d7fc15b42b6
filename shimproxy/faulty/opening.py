"""Faulty receivers that go wrong outside mail data: at the connection, the greeting, a command, or the end.

A receiver that offers a keyword and refuses what it offered is here, too.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from shimproxy.faulty.fault import CLOSING, TOO_BIG, FaultPlace, fault
from shimproxy.faulty.talk import GREETING, Gone, Talk
from shimproxy.smtp.catalogue import Violation

_READY_FOR_TLS: Final = b"220 2.0.0 Ready to start TLS\r\n"


# -- the beginning


@fault(Violation.UNREACHABLE, FaultPlace.CONNECTION)
def unreachable(talk: Talk) -> None:
    """The receiver's port is closed: each connection is refused."""
    raise AssertionError("nobody can connect")


@fault(Violation.NO_GREETING, FaultPlace.GREETING)
def never_greets(talk: Talk) -> None:
    """The receiver takes the connection and says nothing."""
    talk.read_on()


@fault(Violation.NO_GREETING, FaultPlace.GREETING)
def closes_instead_of_a_greeting(talk: Talk) -> None:
    """The receiver takes the connection and closes it without a word."""
    talk.close()


@fault(Violation.GREETING_THEN_CLOSE, FaultPlace.GREETING)
def greets_then_closes(talk: Talk) -> None:
    """The receiver sends its greeting and FIN in one segment."""
    _last_words(talk, GREETING)


def _last_words(talk: Talk, octets: bytes) -> None:
    """Send these octets and FIN in one segment, as far as the kernel goes; read until the sender is gone."""
    talk.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    talk.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    talk.say(octets)
    talk.fin()
    talk.read_on()


# -- what it offered


@fault(Violation.TLS_REFUSED, FaultPlace.STARTTLS, offers=(b"STARTTLS",), needs="--receiver-tls required")
def refuses_starttls(talk: Talk) -> None:
    """The receiver offers STARTTLS and refuses it by 454."""
    talk.say(b"454 4.7.0 TLS not available\r\n")


@fault(Violation.TLS_FAILED, FaultPlace.STARTTLS, offers=(b"STARTTLS",), needs="--receiver-tls required")
def no_handshake_after_220(talk: Talk) -> None:
    """The receiver answers STARTTLS by 220, and the TLS handshake by a line of text."""
    talk.say(_READY_FOR_TLS)
    with contextlib.suppress(Gone):
        talk.lines_there()
        talk.say(b"500 5.5.1 Command not recognized\r\n")
        talk.read_on()


@fault(Violation.PLAINTEXT_BEHIND_STARTTLS, FaultPlace.STARTTLS, offers=(b"STARTTLS",), needs="--receiver-tls required")
def another_reply_after_220(talk: Talk) -> None:
    """The receiver answers STARTTLS by 220, sends another reply in the same segment, and closes at the handshake."""
    talk.say(_READY_FOR_TLS + b"250 2.0.0 Ok\r\n")
    talk.lines_there()
    talk.close()


@fault(Violation.LOGIN_REFUSED, FaultPlace.AUTH, offers=(b"AUTH PLAIN LOGIN",), needs="--login")
def refuses_every_login(talk: Talk) -> None:
    """The receiver offers AUTH and refuses every login by 535."""
    talk.say(b"535 5.7.8 Authentication credentials invalid\r\n")


@fault(Violation.XCLIENT_REFUSED, FaultPlace.XCLIENT, offers=(b"XCLIENT NAME ADDR PORT HELO",), needs="--xclient")
def refuses_xclient(talk: Talk) -> None:
    """The receiver offers XCLIENT and refuses it by 550."""
    talk.say(b"550 5.7.0 Error: insufficient authorization\r\n")


# -- commands


@fault(Violation.CLOSED_WITH_COMMANDS_OPEN, FaultPlace.MAIL)
def closes_at_mail(talk: Talk) -> None:
    """The receiver closes when it is told MAIL, without an answer."""
    talk.fin()
    talk.read_on()


@fault(Violation.CLOSED_WITH_COMMANDS_OPEN, FaultPlace.MAIL, needs="a sender that pipelines")
def refuses_mail_then_closes(talk: Talk) -> None:
    """The receiver refuses MAIL by 550 and closes, whatever was pipelined after it."""
    _last_words(talk, b"550 5.7.1 you may not send here\r\n")


@fault(Violation.NO_REPLY, FaultPlace.MAIL)
def never_answers_mail(talk: Talk) -> None:
    """The receiver never answers MAIL."""
    talk.read_on()


@fault(Violation.IMPLAUSIBLE_REPLY, FaultPlace.RCPT)
def says_354_to_rcpt(talk: Talk) -> None:
    """The receiver answers RCPT by 354."""
    talk.say(b"354 go on\r\n")


@fault(Violation.EXTRA_REPLY, FaultPlace.RCPT)
def answers_rcpt_twice(talk: Talk) -> None:
    """The receiver answers RCPT by two replies in one segment."""
    talk.say(b"250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n")


@fault(Violation.CLOSED_WHILE_IDLE, FaultPlace.RCPT)
def closes_after_rcpt(talk: Talk) -> None:
    """The receiver accepts a recipient and sends FIN in the same segment."""
    _last_words(talk, b"250 2.1.5 Ok\r\n")


# -- the end


@fault(Violation.NO_221, FaultPlace.QUIT)
def closes_at_quit(talk: Talk) -> None:
    """The receiver answers QUIT by FIN alone."""
    talk.close()


@fault(Violation.NO_CLOSE, FaultPlace.QUIT)
def stays_after_221(talk: Talk) -> None:
    """The receiver answers QUIT by 221 and leaves the connection open, whether the sender closes or not."""
    talk.say(b"221 2.0.0 closing connection\r\n")
    talk.stay()


def _greet_the_first_time(talk: Talk) -> None:
    if talk.seen.early.is_set():
        talk.say(b"554 5.3.2 no service any more\r\n")
        talk.close()
    else:
        talk.say(GREETING)


@fault(Violation.NOT_AS_BEFORE, also={FaultPlace.GREETING: _greet_the_first_time}, needs="--resume")
def greets_once(talk: Talk) -> None:
    """The receiver says 552 and 421 in mid-mail, closes, and refuses each later connection by 554."""
    talk.first_part()
    talk.early(TOO_BIG + CLOSING)
    talk.close()
