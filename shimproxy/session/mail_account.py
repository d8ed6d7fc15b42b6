"""What became of each mail of a session, as its sender was told: for a line of the log.

Invariants:

1. What the sender says and what it is told are paired by count, in their order: each command has one reply.
2. What is kept is bounded: the first recipients and a part of each line; the others are counted.
3. It is told once for each MAIL that the receiver, or shimproxy, has answered.
4. From a MAIL on, replies below 400 are counted, and paired when that matters: at any other reply, at any command but
   RCPT and DATA, at a repair, at the end. A mail with nothing of that is told as a `UsualMail`, which costs a third.

It does not know why a reply was given, nor how it is shown.
"""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import attrs

from shimproxy.smtp.command import HELLOS, Command, Verb, chunk_of
from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shimproxy.session.record import SessionRecord
    from shimproxy.smtp.catalogue import Violation
    from shimproxy.smtp.reply import LocalReply

    HowItEnded = tuple[str, str, str, int, bool]
    """The receiver, the outcome, what the verdict answers, its code, and whether it is shimproxy's own."""
    UsualMail = tuple[
        SessionRecord,
        str | HowItEnded,
        bytes,
        int,
        float,
        float,
        bytes,
        int,
        bytes,
        bytes,
        Sequence[tuple[bytes, bytes]],
    ]
    """A mail as nearly all are, with a verdict and without a repair: its session; how it ended, or the receiver alone
    that has accepted it with 250; the verdict, the size; when it began and ended; the MAIL command, how many recipients
    were accepted, the first RCPT command and its reply, and the others.

    It is a tuple, as to make it and to take it apart costs a tenth of what an object does.
    """

MOST_RECIPIENTS_KEPT: Final = 20
MOST_OCTETS_KEPT: Final = 500
"""Of a command or a reply."""
AT_MAIL_DATA: Final = "mail data"
_MAIL_DATA: Final = Command(Verb.OTHER, b"")
"""Stands for mail data among the commands that have no reply yet."""
# Names of the module: from the class they take ten times as long, in Python 3.11.
_MAIL: Final = Verb.MAIL
_RCPT: Final = Verb.RCPT
_DATA: Final = Verb.DATA
_BDAT: Final = Verb.BDAT
_AUTH: Final = Verb.AUTH
_ENDS: Final = HELLOS | {Verb.RSET, Verb.STARTTLS, Verb.QUIT}
_CHALLENGE: Final = 334
_TAKEN: Final = 250
_TO_MAIL: Final = Reply(_TAKEN, b"")
_TO_DATA: Final = Reply(354, b"")
"""Stand for replies that were counted: nothing of these is kept but that they were given."""
_time: Final = time.time


class MailOutcome(enum.StrEnum):
    """What became of a mail."""

    ACCEPTED = "accepted"
    """The sender was told 2yz: with LMTP, for each accepted recipient."""
    PARTLY = "partly"
    """With LMTP: 2yz for some recipients."""
    REFUSED = "refused"
    """5yz."""
    DEFERRED = "deferred"
    """4yz."""
    CUT = "cut"
    """The session ended within the mail data, or before their reply."""
    ABANDONED = "abandoned"
    """The sender ended the transaction, or the session, without mail data."""


# A name of the module: from the class it takes ten times as long, in Python 3.11.
_ACCEPTED: Final = MailOutcome.ACCEPTED


class MailSummary:
    """One mail, and what the sender was told of it."""

    # What is not set is of the class: to set all of it for each mail costs as much as the rest of the account.
    command: bytes
    """The MAIL command, or its beginning; empty if the receiver took mail data without one."""
    recipient_count: int = 0
    accepted_count: int = 0
    size: int = 0
    """In octets: mail data as the sender sent them, without their end, or the chunks that were answered."""
    verdict: bytes = b""
    """The reply that decided; empty if there is none."""
    verdict_code: int = 0
    verdict_is_own: bool = False
    """Whether the reply is shimproxy's own."""
    at: str = ""
    """What the reply answers: a verb, or "mail data"."""
    verdicts: tuple[bytes, ...] = ()
    """With LMTP, the reply for each accepted recipient; the first MOST_RECIPIENTS_KEPT."""
    verdict_count: int = 0
    """How many replies its mail data have had."""
    in_mail_data: bool = False
    """Whether the sender may send mail data, or has sent a chunk, and was told nothing after that."""
    outcome: MailOutcome = MailOutcome.ABANDONED
    receiver: str = ""
    ended_at: float = 0.0
    """When it had its outcome, in seconds since 1970."""
    repairs: Mapping[Violation, int] = {}
    """What was repaired meanwhile, and how often; once there is an outcome."""
    _accepting_count: int = 0
    _repairs_before: Mapping[Violation, int] = {}

    def __init__(self, record: SessionRecord, command: bytes, began_at: float) -> None:
        self.record = record
        self.command = command if len(command) <= MOST_OCTETS_KEPT else command[:MOST_OCTETS_KEPT]
        self.began_at = began_at
        self.recipients: list[tuple[bytes, bytes, bool]] = []
        """RCPT command, its reply, and whether that is a 2yz; the first MOST_RECIPIENTS_KEPT."""
        if record.repairs:  # few have any
            self._repairs_before = dict(record.repairs)

    @property
    def seconds(self) -> float:
        """From the MAIL command to the outcome."""
        return max(0.0, self.ended_at - self.began_at)

    def take_recipient(self, command: Command, reply: Reply, own: bool) -> None:
        """The sender was told whether a recipient is accepted."""
        self.recipient_count += 1
        accepted = reply.kind == 2
        if accepted:
            self.accepted_count += 1
        elif not self.accepted_count:
            self.decide(reply, _RCPT, own)
        if self.recipient_count <= MOST_RECIPIENTS_KEPT:
            line, octets = command.line, reply.octets
            if len(line) > MOST_OCTETS_KEPT or len(octets) > MOST_OCTETS_KEPT:
                line, octets = _kept(line), _kept(octets)
            self.recipients.append((line, octets, accepted))

    def decide(self, reply: Reply, at: str, own: bool) -> None:
        """This reply stands for the mail, unless a later one does."""
        octets = reply.octets
        self.verdict = octets if len(octets) <= MOST_OCTETS_KEPT else _kept(octets)
        self.verdict_code, self.verdict_is_own, self.at = reply.code, own, at

    def take_verdict(self, reply: Reply, own: bool) -> None:
        """The sender was told what became of its mail data, for all recipients or for the next one of LMTP."""
        self.in_mail_data = False
        if not self.verdict_count or (self.verdict_code < 400) < (reply.code < 400):
            self.decide(reply, AT_MAIL_DATA, own)
        self.verdict_count += 1
        if reply.kind == 2:
            self._accepting_count += 1

    def keep_verdict(self, reply: Reply) -> None:
        """The verdict is that of the next recipient, with LMTP."""
        if self.verdict_count <= MOST_RECIPIENTS_KEPT:
            self.verdicts = (*self.verdicts, _kept(reply.octets))

    def end(self, now: float) -> None:
        """Nothing more becomes of it."""
        self.ended_at, self.receiver = now, self.record.receiver
        if repairs := self.record.repairs:
            before = self._repairs_before
            self.repairs = {each: more for each, count in repairs.items() if (more := count - before.get(each, 0))}
        if self._accepting_count:
            self.outcome = _ACCEPTED if self._accepting_count == self.verdict_count else MailOutcome.PARTLY
        elif self.in_mail_data:
            self.outcome = MailOutcome.CUT
            self._forget_verdict()
        elif self.verdict_code >= 400 and not (self.at is _RCPT and self.accepted_count):
            self.outcome = MailOutcome.REFUSED if self.verdict_code >= 500 else MailOutcome.DEFERRED
        else:
            self._forget_verdict()

    def _forget_verdict(self) -> None:
        self.verdict, self.verdict_code, self.verdict_is_own, self.at = b"", 0, False, ""


@runtime_checkable
class MailObserver(Protocol):
    """What an observer of sessions may have besides: it is told what became of each mail."""

    @property
    def wants_mails(self) -> bool:
        """Whether `mail_ended` is to be called, asked once a session."""
        ...

    def mail_ended(self, mail: MailSummary) -> None:
        """A mail has its verdict, or is given up; `mail.record` is that of its session."""


@attrs.define(eq=False)
class MailAccount:
    """The mails of one session, one after the other."""

    record: SessionRecord
    tell: Callable[[MailSummary], None]
    lmtp: bool = False
    """Whether mail data have a reply for each accepted recipient (RFC 2033 section 4.2)."""
    tell_usual: Callable[[UsualMail], None] | None = None
    """Is told of usual mails, if that is to be another."""
    one_for_all: bool = False
    """Whether the next reply is that for all recipients, also with LMTP."""
    said: list[Command] = attrs.field(factory=list)
    """What the sender has said and is not paired with its reply, in order."""
    _taken: list[Reply] | None = None
    """The replies to RCPT among those that are counted. Most sessions are idle most of the time, and have none."""
    counts: bool = False
    """Whether replies below 400 are counted."""
    _told_before: int = 0
    """How many replies the sender was given before those that are counted."""
    octets: int = 0
    """How large the mail is, while they are counted."""
    _mail: MailSummary | None = None
    _said_at: float = 0.0
    """When the sender said MAIL last, in seconds since 1970."""

    def heard(self, command: Command) -> None:
        """The sender has given a command; RCPT and DATA may be put among what was `said` as they are."""
        said, verb = self.said, command.verb
        said.append(command)
        if verb is _MAIL:
            self._said_at = _time()
            if len(said) == 1:
                if not (self.counts or self.lmtp or self._mail):
                    self.counts, self._told_before = True, sum(self.record.replies)
                return
        elif verb is _RCPT or verb is _DATA:
            return
        self.follow()

    def recipient_answered(self, reply: Reply) -> None:
        """The sender is to be given the receiver's reply to RCPT; it `counts`."""
        taken = self._taken
        if len(reply.octets) > MOST_OCTETS_KEPT:
            self.follow()
        elif taken is None:
            self._taken = [reply]
        elif len(taken) < MOST_RECIPIENTS_KEPT:
            taken.append(reply)
        else:
            self.follow()

    def verdict(self, reply: Reply | LocalReply) -> None:
        """The sender is to be given the reply to its mail data, or to a chunk."""
        if not self.counts:
            return
        said, taken = self.said, self._taken
        if (
            taken is None
            or len(said) != len(taken) + 2
            or not isinstance(reply, Reply)
            or reply.code != _TAKEN
            or len(reply.octets) > MOST_OCTETS_KEPT
        ):
            self.follow()
            return
        recipients = len(taken)
        others = [(said[at + 1].line, taken[at].octets) for at in range(1, recipients)] if recipients > 1 else ()
        record, now = self.record, _time()
        command, recipient, first = said[0].line, said[1].line, taken[0].octets
        receiver, began_at, size = record.receiver, self._said_at, self.octets
        mail = record, receiver, reply.octets, size, began_at, now, command, recipients, recipient, first, others
        said.clear()
        self._taken = None
        self._told_before += recipients + 3  # those to MAIL, to DATA and to the mail data are the others
        self.octets = 0
        tell = self.tell_usual
        if tell is None:
            self.tell(summary(mail))
        else:
            tell(mail)

    def follow(self) -> None:
        """Pair what the sender was told by now, and each reply from here on as it is given."""
        if not self.counts:
            return
        self.counts = False
        taken = iter(self._taken or ())
        self._taken = None
        for _ in range(sum(self.record.replies) - self._told_before):
            verb = self.said[0].verb
            self._take(next(taken) if verb is _RCPT else _TO_DATA if verb is _DATA else _TO_MAIL, own=False)
        if self._mail is not None:
            self._mail.size += self.octets
        self.octets = 0

    def answered(self, reply: Reply, own: bool) -> None:
        """The sender is to be given a reply that is not counted; whether it is shimproxy's `own`."""
        if self.counts:
            self.follow()
        self._take(reply, own)

    def _take(self, reply: Reply, own: bool) -> None:
        """The first of what was said has this reply."""
        unanswered = self.said
        if not unanswered:
            return
        command, mail = unanswered.pop(0), self._mail
        verb = command.verb
        if verb is _RCPT:
            if mail is not None:
                mail.take_recipient(command, reply, own)
        elif command is _MAIL_DATA or verb is _BDAT:
            if mail is None and reply.kind == 2:  # a receiver that wants no MAIL
                mail = self._mail = MailSummary(self.record, b"", _time())
            if mail is not None and not self._has_answered(mail, command, reply, own):
                unanswered.insert(0, command)
        elif verb is _MAIL:
            self._begin(command, reply, own)
        elif verb is _DATA:
            if reply.code == 354:
                unanswered.insert(0, _MAIL_DATA)
                mail = self._mail = mail or MailSummary(self.record, b"", _time())
                mail.in_mail_data = True
            elif mail is not None and mail.accepted_count:
                mail.decide(reply, _DATA, own)
        elif verb is _AUTH:
            if reply.code == _CHALLENGE:
                unanswered.insert(0, command)  # the next reply answers the response
        elif mail is not None and verb in _ENDS and reply.severity == 2:
            self._end(mail)

    def took(self, octets: int) -> None:
        """The sender has sent mail data after DATA."""
        if self.counts:
            self.octets = octets
        elif self._mail:
            self._mail.size += octets

    def finish(self) -> None:
        """The session is over."""
        self.follow()
        if mail := self._mail:
            if self.said and self.said[0].verb is _BDAT:
                mail.in_mail_data = True
            self._end(mail)

    def _begin(self, command: Command, reply: Reply, own: bool) -> None:
        """MAIL was answered."""
        mail = MailSummary(self.record, command.line, self._said_at)
        if reply.kind == 2:
            if self._mail is not None:
                self._end(self._mail)
            self._mail = mail
        else:
            mail.decide(reply, _MAIL, own)
            mail.end(_time())
            self.tell(mail)

    def _has_answered(self, mail: MailSummary, command: Command, reply: Reply, own: bool) -> bool:
        """Take a reply to mail data, or to a chunk; whether they have no more."""
        if command is not _MAIL_DATA:
            chunk = chunk_of(command.line) if command.forwardable else None
            mail.size += chunk.size_octets if chunk else 0
            if chunk is None or not chunk.last:
                mail.in_mail_data = reply.kind == 2
                if reply.kind != 2:
                    mail.decide(reply, _BDAT, own)
                return True
        mail.take_verdict(reply, own)
        if self.lmtp:
            mail.keep_verdict(reply)
        if self.lmtp and not self.one_for_all and mail.verdict_count < mail.accepted_count:
            return False
        self.one_for_all = False
        self._end(mail)
        return True

    def _end(self, mail: MailSummary) -> None:
        self._mail = None
        mail.end(_time())
        self.tell(mail)


def summary(mail: UsualMail) -> MailSummary:
    """The same of a mail that was accepted with 250."""
    record, receiver, verdict, size, began_at, ended_at, command, _, recipient, reply, others = mail
    told = MailSummary(record, command, began_at)
    for line, octets in ((recipient, reply), *others):
        told.take_recipient(Command(_RCPT, line), Reply(_TAKEN, octets), own=False)
    told.take_verdict(Reply(_TAKEN, verdict), own=False)
    assert isinstance(receiver, str)
    told.size, told.receiver, told.ended_at, told.outcome = size, receiver, ended_at, _ACCEPTED
    return told


def _kept(octets: bytes) -> bytes:
    return octets if len(octets) <= MOST_OCTETS_KEPT else octets[:MOST_OCTETS_KEPT] + b"..."
