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


class ReplyTo(enum.StrEnum):
    """What a reply answers."""

    GREETING = "the connection"
    COMMAND = "a command"
    DATA = "DATA"
    AUTH = "AUTH or an AUTH response"
    QUIT = "QUIT"
    STARTTLS = "STARTTLS"
    IN_MAIL_DATA = "mail data, before its end"
    AFTER_EARLY_REPLY = "mail data, after an early reply"
    END_OF_DATA = "mail data, after its end"


class Verdict(enum.Enum):
    """What becomes of the reply."""

    RELAY = "relay"
    HOLD = "hold, drain the sender, relay at the end"
    NEVER = "never relay; drain the sender, refuse at the end"
    DROP = "drop"
    OUT_OF_STEP = "421, close"


class NextRead(enum.Enum):
    """How the sender is read next."""

    COMMANDS = "commands"
    MAIL_DATA = "mail data"
    AUTH_RESPONSE = "an AUTH response"
    TLS = "TLS"
    DRAIN = "mail data, drained"
    CLOSE = "close"


# What every reply is held against: from their classes they take ten times as long, in Python 3.11.
RELAY: Final = Verdict.RELAY
COMMANDS: Final = NextRead.COMMANDS
MAIL_DATA: Final = NextRead.MAIL_DATA
CLOSE: Final = NextRead.CLOSE
_IN_MAIL_DATA: Final = ReplyTo.IN_MAIL_DATA
_AFTER_EARLY_REPLY: Final = ReplyTo.AFTER_EARLY_REPLY
_END_OF_DATA: Final = ReplyTo.END_OF_DATA

Ruling = tuple[Verdict, NextRead]

OUT_OF_STEP: Final[Ruling] = (Verdict.OUT_OF_STEP, NextRead.CLOSE)
_NEXT: Final[Ruling] = (Verdict.RELAY, NextRead.COMMANDS)
_HELD: Final[Ruling] = (Verdict.HOLD, NextRead.DRAIN)
_DROPPED: Final[Ruling] = (Verdict.DROP, NextRead.COMMANDS)
_DROPPED_IN_MAIL_DATA: Final[Ruling] = (Verdict.DROP, NextRead.DRAIN)
_DROPPED_AT_THE_END: Final[Ruling] = (Verdict.DROP, NextRead.CLOSE)

# (what the reply answers, kind of reply) -> (verdict, how to read the sender next)
# A kind is the first digit of the code; a 3yz stands for itself, and so does 221, which accepts nothing: it ends
# the connection (RFC 5321 4.2.3), and behind a group it may be the reply to QUIT of a receiver that has left one out.
DIALOGUE: Final[dict[tuple[ReplyTo, int], Ruling]] = {
    (ReplyTo.GREETING, 2): _NEXT,
    (ReplyTo.GREETING, 4): _NEXT,
    (ReplyTo.GREETING, 5): _NEXT,
    (ReplyTo.COMMAND, 2): _NEXT,
    (ReplyTo.COMMAND, 221): _NEXT,
    (ReplyTo.COMMAND, 4): _NEXT,
    (ReplyTo.COMMAND, 5): _NEXT,
    (ReplyTo.AUTH, 2): _NEXT,
    (ReplyTo.AUTH, 334): (Verdict.RELAY, NextRead.AUTH_RESPONSE),
    (ReplyTo.AUTH, 4): _NEXT,
    (ReplyTo.AUTH, 5): _NEXT,
    (ReplyTo.DATA, 354): (Verdict.RELAY, NextRead.MAIL_DATA),
    (ReplyTo.DATA, 4): _NEXT,
    (ReplyTo.DATA, 5): _NEXT,
    (ReplyTo.IN_MAIL_DATA, 2): (Verdict.NEVER, NextRead.DRAIN),
    (ReplyTo.IN_MAIL_DATA, 221): (Verdict.NEVER, NextRead.DRAIN),
    (ReplyTo.IN_MAIL_DATA, 354): (Verdict.DROP, NextRead.MAIL_DATA),
    (ReplyTo.IN_MAIL_DATA, 4): _HELD,
    (ReplyTo.IN_MAIL_DATA, 5): _HELD,
    # A refusal takes the place of an early 2yz, and of nothing else. A 421 speaks of the connection.
    (ReplyTo.AFTER_EARLY_REPLY, 2): _DROPPED_IN_MAIL_DATA,
    (ReplyTo.AFTER_EARLY_REPLY, 221): _DROPPED_IN_MAIL_DATA,
    (ReplyTo.AFTER_EARLY_REPLY, 354): _DROPPED_IN_MAIL_DATA,
    (ReplyTo.AFTER_EARLY_REPLY, 4): _HELD,
    (ReplyTo.AFTER_EARLY_REPLY, 421): _DROPPED_IN_MAIL_DATA,
    (ReplyTo.AFTER_EARLY_REPLY, 5): _HELD,
    (ReplyTo.END_OF_DATA, 2): _NEXT,
    (ReplyTo.END_OF_DATA, 354): _DROPPED,
    (ReplyTo.END_OF_DATA, 4): _NEXT,
    (ReplyTo.END_OF_DATA, 5): _NEXT,
    (ReplyTo.QUIT, 2): (Verdict.RELAY, NextRead.CLOSE),
    (ReplyTo.QUIT, 221): (Verdict.RELAY, NextRead.CLOSE),
    (ReplyTo.QUIT, 4): _NEXT,
    (ReplyTo.QUIT, 421): (Verdict.RELAY, NextRead.CLOSE),
    (ReplyTo.QUIT, 5): _NEXT,
    (ReplyTo.STARTTLS, 2): (Verdict.RELAY, NextRead.TLS),
    (ReplyTo.STARTTLS, 4): _NEXT,
    (ReplyTo.STARTTLS, 5): _NEXT,
}

_WITH_A_ROW_FOR_421: Final = frozenset(what for what, kind in DIALOGUE if kind == 421)
DECIDES: Final = frozenset({Verdict.HOLD, Verdict.NEVER})
"""The verdicts on replies that say before the end of mail data what becomes of the mail."""

ANSWERS: Final = dict.fromkeys(Verb, ReplyTo.COMMAND) | {
    Verb.DATA: ReplyTo.DATA,
    Verb.AUTH: ReplyTo.AUTH,
    Verb.QUIT: ReplyTo.QUIT,
    Verb.STARTTLS: ReplyTo.STARTTLS,
}
"""Verb -> what the reply to a command with it answers."""


def about_mail_data(*, ended: bool, unacknowledged_octets: int) -> ReplyTo:
    """What a reply to mail data, or to a chunk, answers: it is early as long as any octet of them is under way.

    The segment that carries an honest reply acknowledges every octet that it is about: when that reply is read, none is
    unacknowledged. One that is read while any is was said before the receiver's host had them all.

    Args:
        ended: whether the end was written to the receiver.
        unacknowledged_octets: how many octets of these mail data the receiver's host has not acknowledged.
    """
    return _END_OF_DATA if ended and not unacknowledged_octets else _IN_MAIL_DATA


def about_early_reply(reply: Reply, *, decided: int, due: int) -> ReplyTo:
    """What a reply answers that comes before the end of mail data, and may not be the first one.

    Args:
        reply: what came.
        decided: how many replies to these mail data have come that decide about them.
        due: how many there are to be: one, or with LMTP one for each recipient.
    """
    return _AFTER_EARLY_REPLY if decided and (decided >= due or reply.code == 421) else _IN_MAIL_DATA


def ruling(what: ReplyTo, reply: Reply) -> Ruling:
    """The table's row for `reply` where it answers `what`; OUT_OF_STEP where there is none."""
    kind = 421 if reply.code == 421 and what in _WITH_A_ROW_FOR_421 else reply.kind
    return DIALOGUE.get((what, kind), OUT_OF_STEP)


def unasked(reply: Reply, *, in_transaction: bool, refused: bool) -> Ruling:
    """The row for a reply that comes while nothing is to be answered: one too many, or the late one to a command
    that another was taken to answer.

    Outside a transaction that makes no difference. Within one, replies to its recipients may have changed places.
    Where all of them accept, it does not matter. Where one refuses, it is not known which recipient that was, and the
    mail must not be accepted for the others. So each order of late and doubled replies ends out of step, but for those
    where every reply says the same. A reply that is missing has its command wait, and a 354 that comes one command
    early is implausible there. A 421 ends the connection, and answers the next command.

    Args:
        reply: what came.
        in_transaction: whether MAIL was accepted, and mail data have no verdict yet.
        refused: whether anything in it was refused.
    """
    if reply.code == 421:
        return _DROPPED_AT_THE_END
    if reply.asks_for_data or (in_transaction and (reply.refuses or (refused and reply.code))):
        return OUT_OF_STEP
    return _DROPPED


GREETED: Final = 220
"""What answers the connection, XCLIENT and STARTTLS."""


def is_greeting_again(answered: object, reply: Reply) -> bool:
    """Whether `reply`, which came where it would answer that, is the connection's greeting said once more.

    A 220 answers no HELO, EHLO or LHLO (RFC 5321 4.3.2). Taken for the answer, it would leave every reply after it to
    answer the command before its own: it is dropped, and the next one answers.
    """
    return reply.code == GREETED and answered in HELLOS
