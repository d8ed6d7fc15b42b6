"""The dialogue: which reply may answer what, and how the sender's octets are read after it (RFC 5321 4.3.2).

One table of legality. The sequence is straight-line code in session/; it asks here whether a reply is one that
can stand where it stands. What the table has no row for is implausible: the two legs are out of step.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from shimproxy.smtp.command import HELLOS, Verb

if TYPE_CHECKING:
    from shimproxy.smtp.reply import Reply


class Answers(enum.StrEnum):
    """What a reply answers."""

    GREETING = "the connection"
    COMMAND = "a command"
    DATA = "DATA"
    AUTH = "AUTH or an AUTH response"
    QUIT = "QUIT"
    STARTTLS = "STARTTLS"
    IN_MAIL_DATA = "mail data, before its end"
    END_OF_DATA = "mail data, after its end"


class Verdict(enum.Enum):
    """What becomes of the reply."""

    RELAY = "relay"
    HOLD = "hold, drain the sender, relay at the end"
    NEVER = "never relay; drain the sender, refuse at the end"
    DROP = "drop"
    OUT_OF_STEP = "421, close"


class Then(enum.Enum):
    """How the sender is read next."""

    COMMANDS = "commands"
    MAIL_DATA = "mail data"
    AUTH_RESPONSE = "an AUTH response"
    TLS = "TLS"
    DRAIN = "mail data, drained"
    CLOSE = "close"


# What every reply is held against: from their classes they take ten times as long, in Python 3.11.
RELAY: Final = Verdict.RELAY
COMMANDS: Final = Then.COMMANDS
_IN_MAIL_DATA: Final = Answers.IN_MAIL_DATA
_END_OF_DATA: Final = Answers.END_OF_DATA

Row = tuple[Verdict, Then]

OUT_OF_STEP: Final[Row] = (Verdict.OUT_OF_STEP, Then.CLOSE)
_NEXT: Final[Row] = (Verdict.RELAY, Then.COMMANDS)

# (what the reply answers, kind of reply) -> (verdict, how to read the sender next)
# A kind is the first digit of the code; a 3yz stands for itself, and so does 221, which accepts nothing: it ends
# the connection (RFC 5321 4.2.3), and behind a group it may be the reply to QUIT of a receiver that has left one out.
DIALOGUE: Final[dict[tuple[Answers, int], Row]] = {
    (Answers.GREETING, 2): _NEXT,
    (Answers.GREETING, 4): _NEXT,
    (Answers.GREETING, 5): _NEXT,
    (Answers.COMMAND, 2): _NEXT,
    (Answers.COMMAND, 221): _NEXT,
    (Answers.COMMAND, 4): _NEXT,
    (Answers.COMMAND, 5): _NEXT,
    (Answers.AUTH, 2): _NEXT,
    (Answers.AUTH, 334): (Verdict.RELAY, Then.AUTH_RESPONSE),
    (Answers.AUTH, 4): _NEXT,
    (Answers.AUTH, 5): _NEXT,
    (Answers.DATA, 354): (Verdict.RELAY, Then.MAIL_DATA),
    (Answers.DATA, 4): _NEXT,
    (Answers.DATA, 5): _NEXT,
    (Answers.IN_MAIL_DATA, 2): (Verdict.NEVER, Then.DRAIN),
    (Answers.IN_MAIL_DATA, 221): (Verdict.NEVER, Then.DRAIN),
    (Answers.IN_MAIL_DATA, 354): (Verdict.DROP, Then.MAIL_DATA),
    (Answers.IN_MAIL_DATA, 4): (Verdict.HOLD, Then.DRAIN),
    (Answers.IN_MAIL_DATA, 5): (Verdict.HOLD, Then.DRAIN),
    (Answers.END_OF_DATA, 2): _NEXT,
    (Answers.END_OF_DATA, 354): (Verdict.DROP, Then.COMMANDS),
    (Answers.END_OF_DATA, 4): _NEXT,
    (Answers.END_OF_DATA, 5): _NEXT,
    (Answers.QUIT, 2): (Verdict.RELAY, Then.CLOSE),
    (Answers.QUIT, 221): (Verdict.RELAY, Then.CLOSE),
    (Answers.QUIT, 4): _NEXT,
    (Answers.QUIT, 421): (Verdict.RELAY, Then.CLOSE),
    (Answers.QUIT, 5): _NEXT,
    (Answers.STARTTLS, 2): (Verdict.RELAY, Then.TLS),
    (Answers.STARTTLS, 4): _NEXT,
    (Answers.STARTTLS, 5): _NEXT,
}

_ANSWERS = dict.fromkeys(Verb, Answers.COMMAND) | {
    Verb.DATA: Answers.DATA,
    Verb.AUTH: Answers.AUTH,
    Verb.QUIT: Answers.QUIT,
    Verb.STARTTLS: Answers.STARTTLS,
}


def answers(verb: Verb) -> Answers:
    """What the reply to a command with this verb answers."""
    return _ANSWERS[verb]


def about_mail_data(*, ended: bool, unacknowledged_octets: int) -> Answers:
    """What a reply to mail data, or to a chunk, answers: it is early as long as any octet of them is under way.

    The segment that carries an honest reply acknowledges every octet that it is about: when that reply is read, none is
    unacknowledged. One that is read while any is was said before the receiver's host had them all.

    Args:
        ended: whether the end was written to the receiver.
        unacknowledged_octets: how many octets of these mail data the receiver's host has not acknowledged.
    """
    return _END_OF_DATA if ended and not unacknowledged_octets else _IN_MAIL_DATA


def ruling(what: Answers, reply: Reply) -> Row:
    """The table's row for `reply` where it answers `what`; OUT_OF_STEP where there is none."""
    kind = 421 if reply.code == 421 and what is Answers.QUIT else reply.kind
    return DIALOGUE.get((what, kind), OUT_OF_STEP)


def unasked(reply: Reply, *, in_transaction: bool, refused: bool) -> Verdict:
    """What becomes of a reply that comes while nothing is to be answered: one too many, or the late one to a command
    that another was taken to answer.

    Outside a transaction that makes no difference. Within one, replies to its recipients may have changed places.
    Where all of them accept, it does not matter. Where one refuses, it is not known which recipient that was, and the
    mail must not be accepted for the others. So each order of late and doubled replies ends out of step, but for those
    where every reply says the same. A reply that is missing has its command wait, and a 354 that comes one command
    early is implausible there.

    Args:
        reply: what came.
        in_transaction: whether MAIL was accepted, and mail data have no verdict yet.
        refused: whether anything in it was refused.
    """
    if reply.asks_for_data or (in_transaction and (reply.refuses or (refused and reply.code))):
        return Verdict.OUT_OF_STEP
    return Verdict.DROP


GREETED: Final = 220
"""What answers the connection, XCLIENT and STARTTLS."""


def is_greeting_again(answered: object, reply: Reply) -> bool:
    """Whether `reply`, which came where it would answer that, is the connection's greeting said once more.

    A 220 answers no HELO, EHLO or LHLO (RFC 5321 4.3.2). Taken for the answer, it would leave every reply after it to
    answer the command before its own: it is dropped, and the next one answers.
    """
    return reply.code == GREETED and answered in HELLOS
