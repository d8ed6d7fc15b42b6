"""`shimproxy probe`: how a receiver behaves, before mail depends on it.

A few sessions one after the other, each on a connection of its own: a dialogue without a mail, the same commands one
by one and in one write, EHLO twice, EHLO before the greeting, a command that ends in LF alone, one that there is not,
one that comes with the end of the probe's direction; and, only if that was agreed to, a large mail (mail.py). What was
seen is in the Account; report.py puts it into words.

1. Nothing that could be delivered is sent unasked, and no mail is completed, asked or not.
2. Every wait has a deadline, whatever comes meanwhile: a receiver that hangs, or never ends, is something seen.
3. Whatever the receiver does, the probe was made; only one that can't be reached is an error.
4. What a receiver may hold against whoever asks it has a connection of its own, and what comes after it there is not
   held against the receiver: some pause for long after a command that they refuse.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.client.client import clients
from shimproxy.probe import report
from shimproxy.probe.account import Account
from shimproxy.probe.atlas import atlas, likenesses
from shimproxy.probe.first import FirstSession
from shimproxy.probe.habits import habits
from shimproxy.probe.mail import InterruptedMail
from shimproxy.probe.opening import Opener
from shimproxy.probe.plan import PATIENCE_SECONDS, ProbePlan, Tls
from shimproxy.probe.questions import QUESTIONS
from shimproxy.probe.session import Sessions
from shimproxy.program.interrupt import interruptible
from shimproxy.program.interrupting import interrupting
from shimproxy.program.process import say
from shimproxy.smtp.dialogue import ReplyTo

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.net.places import Place
    from shimproxy.probe.account import Pipelining
    from shimproxy.probe.wire import ProbeConnection

__all__ = ["PATIENCE_SECONDS", "Probe", "ProbePlan", "Tls", "run"]

MOST_OCTETS: Final = 64 * 1024 * 1024
"""What is written at most to a receiver that offers a larger SIZE, if nothing else is said."""
_OCTETS_WITHOUT_SIZE: Final = 20 * 1024 * 1024
_BEYOND_SIZE_OCTETS: Final = 256 * 1024
_MOST_COLUMNS: Final = 100


@attrs.define(eq=False)
class Probe:
    """A probe on its way; `account` is what it has seen so far."""

    plan: ProbePlan
    tell: Callable[[report.Line], None] = lambda _: None
    """Called with each line of the report, as soon as it is known."""
    place: Place | None = None
    """The address that all connections go to, if it is known before."""
    account: Account = attrs.field(init=False)
    _tls: Tls = attrs.field(init=False)
    """Where connections change to TLS."""

    @account.default
    def _new_account(self) -> Account:
        plan = self.plan
        return Account(str(plan.receiver), patience_seconds=plan.patience_seconds, helo_name=plan.helo_name)

    @_tls.default
    def _asked_for(self) -> Tls:
        return self.plan.tls

    async def without_mail(self) -> None:
        """All that needs no mail. Raises DialFailed if the receiver can't be reached, or not with TLS as asked for."""
        plan, account = self.plan, self.account
        async with clients() as opened:
            opener = Opener(plan, account, opened)
            await FirstSession(plan, account, opener).run()
            self.place, self._tls = opener.place, opener.tls
            asides = Sessions(plan, account, opener)
            await asides.other_hello(account.other_hello)
            await asides.larger_mail(account.larger_mail)
            self._tell(report.of_dialogue(account))
            await self._pipelining(asides, account.pipelining)
            self._tell(report.of_pipelining(account))
            for question in QUESTIONS:
                await question.ask(asides, getattr(account, question.name))
                self._tell(question.words(account))
        self.plan_mail()

    async def mail_data(self) -> None:
        """The large mail, which is not completed."""
        data = self.account.mail_data

        async def send(talk: ProbeConnection) -> None:
            if await InterruptedMail(talk, data, self.plan.listen_seconds, self.plan.stall_seconds).send():
                talk.blame_nobody()
                await talk.leave(self.plan.close_seconds)

        async with clients() as opened:
            opener = Opener(self.plan, self.account, opened, self.place, self._tls)
            await Sessions(self.plan, self.account, opener).converse(data, send)
        self.tell_of_mail_data()

    def tell_of_mail_data(self) -> None:
        """The report's lines on it, also if it was left out."""
        self._tell(report.of_mail_data(self.account))

    def recognise(self) -> None:
        """Compare what was seen with the atlas."""
        self.account.looks_like = likenesses(habits(self.account), atlas().receivers)
        self._tell(report.of_likeness(self.account))

    def _tell(self, lines: list[report.Line]) -> None:
        for line in lines:
            self.tell(line)

    # -- the parts

    async def _pipelining(self, asides: Sessions, seen: Pipelining) -> None:
        seen.offered = "PIPELINING" in self.account.dialogue.keywords
        # All may stand in a group (RFC 2920 3.1). None should be refused, as a receiver may pause for long after that.
        # A command comes behind a RSET without a transaction, and behind one that ends a transaction.
        mail = f"MAIL FROM:{self.plan.reverse_path}"
        seen.commands = ["RSET", mail, "RSET", mail, "RSET", "QUIT"]

        async def one_by_one(talk: ProbeConnection) -> None:
            for command in seen.commands[:-1]:
                if heard := await talk.ask(command):
                    seen.one_by_one.append(heard)
                    talk.excuse(heard)
            if heard := await talk.leave(self.plan.close_seconds):
                seen.one_by_one.append(heard)

        async def together(talk: ProbeConnection) -> None:
            await talk.write("".join(f"{command}\r\n" for command in seen.commands).encode())
            for command in seen.commands:
                answers = ReplyTo.QUIT if command == "QUIT" else ReplyTo.COMMAND
                heard = await talk.hear(answers, f"{command} in a group")
                if heard is None:
                    break
                seen.together.append(heard)
                talk.excuse(heard)
            else:
                await talk.see_off(self.plan.close_seconds)
            seen.end = talk.end

        await asides.converse(seen, one_by_one)
        if not (seen.left_out or seen.offered):
            seen.left_out = "PIPELINING is not offered"
        elif not seen.left_out:
            await asides.converse(seen, together)

    def plan_mail(self) -> None:
        """Say in the account what would be sent, by what is known so far."""
        plan, data, size_octets = self.plan, self.account.mail_data, self.account.dialogue.size_octets
        data.reverse_path, data.recipient = plan.reverse_path, plan.recipient
        planned_octets = _OCTETS_WITHOUT_SIZE if size_octets is None else size_octets + _BEYOND_SIZE_OCTETS
        data.octets_planned = plan.octets or min(planned_octets, MOST_OCTETS)
        data.left_out = self.account.dialogue.left_out


# -- the command


def run(plan: ProbePlan, *, agreed: bool = False, as_json: bool = False) -> int:
    """`shimproxy probe`: the exit status. Raises DialFailed, wrapped or not, and KeyboardInterrupt at a signal."""
    columns = min(shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns, _MOST_COLUMNS)

    def tell(line: report.Line) -> None:
        if not as_json:
            for each in report.drawn_line(line, columns):
                say(each)

    probe = Probe(plan, tell)
    interruptible(probe.without_mail)
    data = probe.account.mail_data
    if not (data.left_out or agreed or _agreed_to(probe.account)):
        data.left_out = "you did not agree to it; with --yes the probe sends it without asking"
    if data.left_out:
        probe.tell_of_mail_data()
    else:
        interruptible(probe.mail_data)
    probe.recognise()
    if as_json:
        say(json.dumps(probe.account.as_json(), indent=2))
    else:
        for text in report.of_violations(probe.account, columns):
            say(text)
    return 0


def _agreed_to(account: Account) -> bool:
    """Whether somebody at the terminal says yes; nobody there means no."""
    if sys.stdin is None or not sys.stdin.isatty() or sys.stderr is None:
        return False
    with interrupting(signal.SIGINT, signal.SIGTERM):
        print(report.question(account), end=" ", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")
