"""`shimproxy probe`: how a receiver behaves, before mail depends on it.

A few sessions one after the other, each on a connection of its own: a dialogue without a mail, the same commands one
by one and in one write, EHLO twice, EHLO before the greeting, a command that ends in LF alone, one that there is not;
and, only if that was agreed to, a large mail (probe_mail.py). What was seen is in the Account; probe_report.py puts it
into words.

1. Nothing that could be delivered is sent unasked, and no mail is completed, asked or not.
2. Every wait has a deadline, whatever comes meanwhile: a receiver that hangs, or never ends, is something seen.
3. Whatever the receiver does, the probe was made; only one that can't be reached is an error.
4. What a receiver may hold against whoever asks it has a connection of its own, and what comes after it there is not
   held against the receiver: some pause for long after a command that they refuse.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.address import Address, written
from shimproxy.net.errors import AddressError, DialFailed
from shimproxy.ops import probe_report as report
from shimproxy.ops.demo_wire import path
from shimproxy.ops.interrupt import interruptible, interrupting
from shimproxy.ops.probe_account import Account, Heard
from shimproxy.ops.probe_mail import Interrupted
from shimproxy.ops.probe_wire import Place, Talk, reach
from shimproxy.ops.run import say
from shimproxy.smtp.dialogue import Answers
from shimproxy.smtp.ehlo import keywords
from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.ops.probe_account import Aside, Dialogue, EarlyTalk, MailData, Pipelining

PATIENCE_SECONDS: Final = 30.0
"""Less than RFC 5321 4.5.3.2 allows a receiver, as somebody waits."""
MOST_OCTETS: Final = 64 * 1024 * 1024
"""What is written at most to a receiver that offers a larger SIZE, if nothing else is said."""
_OCTETS_WITHOUT_SIZE: Final = 20 * 1024 * 1024
_BEYOND_SIZE_OCTETS: Final = 256 * 1024
_LISTEN_SECONDS: Final = 1.0
_STALL_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 5.0
_UNKNOWN_COMMAND: Final = "XSHIMPROXY"
_MOST_COLUMNS: Final = 100


def _helo_name(value: str | None) -> str:
    name = socket.gethostname() if value is None else value
    if not name or not (name.isascii() and name.isprintable()) or " " in name:
        raise ValueError(f"--helo-name {name!r}: write a host name, as in mail.example")
    return name


def _reachable(_: object, __: object, value: Address) -> None:
    if not (value.host and value.port):
        raise AddressError(f"{value}: write HOST:PORT, as in 127.0.0.1:25")


@attrs.frozen(kw_only=True)
class Plan:
    """What is to be probed, and how. Raises ValueError for what can't be."""

    receiver: Address = attrs.field(validator=_reachable)
    reverse_path: str = attrs.field(default="<>", converter=path)
    """Every receiver should take the null one (RFC 5321 4.5.5), and nobody could be bounced to."""
    recipient: str = attrs.field(default="<postmaster>", converter=path)
    """And that one, even without a domain (4.5.1)."""
    octets: int | None = None
    """How much mail data to write; None for a little more than the SIZE that is offered."""
    patience_seconds: float = PATIENCE_SECONDS
    """How long each wait for the receiver may be."""
    listen_seconds: float = _LISTEN_SECONDS
    """How long to listen for what comes unasked."""
    stall_seconds: float = _STALL_SECONDS
    """How long a receiver that has replied to mail data may take nothing more of it."""
    lmtp: bool = False
    """Whether it speaks LMTP (RFC 2033)."""
    helo_name: str = attrs.field(default=None, converter=_helo_name)
    """Who the probe says it is; None for this machine's name."""

    def __attrs_post_init__(self) -> None:
        if self.octets is not None and self.octets < 1:
            raise ValueError(f"--octets must be a number from 1 on, not {self.octets}")
        if not 0 < self.patience_seconds < math.inf:
            raise ValueError(f"--patience must be a number of seconds above 0, not {self.patience_seconds:g}")

    @property
    def hellos(self) -> tuple[str, ...]:
        """What is said for a hello, one after the other where they are refused."""
        return ("LHLO",) if self.lmtp else ("EHLO", "HELO")

    @property
    def close_seconds(self) -> float:
        """How long a receiver may take to close after its reply to QUIT."""
        return min(self.patience_seconds, _CLOSE_SECONDS)


@attrs.define(eq=False)
class Probe:
    """A probe on its way; `account` is what it has seen so far."""

    plan: Plan
    tell: Callable[[report.Line], None] = lambda _: None
    """Called with each line of the report, as soon as it is known."""
    place: Place | None = None
    """The address that all connections go to, once it is known."""
    account: Account = attrs.field(init=False)

    @account.default
    def _new_account(self) -> Account:
        plan = self.plan
        return Account(str(plan.receiver), patience_seconds=plan.patience_seconds)

    async def without_mail(self) -> None:
        """All that needs no mail. Raises DialFailed if the receiver can't be reached."""
        plan, account = self.plan, self.account
        try:
            sock, self.place = await reach(plan.receiver, plan.patience_seconds)
        except DialFailed as failed:
            raise DialFailed(
                f"no connection to {plan.receiver} ({failed}); see whether a receiver listens there"
            ) from None
        account.address = written(self.place.sockaddr)
        await self._dialogue(sock, account.dialogue)
        await self._other_hello(account.other_hello)
        await self._larger_mail(account.larger_mail)
        self._tell(report.of_dialogue(account))
        await self._pipelining(account.pipelining)
        self._tell(report.of_pipelining(account))
        await self._second_hello(account.second_hello)
        self._tell(report.of_second_hello(account))
        await self._early_talk(account.early_talk)
        self._tell(report.of_early_talk(account))
        await self._bare_newline(account.bare_newline)
        self._tell(report.of_bare_newline(account))
        await self._unknown_command(account.unknown_command)
        self._tell(report.of_unknown_command(account))
        self.plan_mail()

    async def mail_data(self) -> None:
        """The large mail, which is not completed."""
        data = self.account.mail_data

        async def send(talk: Talk) -> None:
            if await Interrupted(talk, data, self.plan.listen_seconds, self.plan.stall_seconds).send():
                talk.blame_nobody()
                await talk.leave(self.plan.close_seconds)

        await self._session(data, send)
        self.tell_of_mail_data()

    def tell_of_mail_data(self) -> None:
        """The report's lines on it, also if it was left out."""
        self._tell(report.of_mail_data(self.account))

    def _tell(self, lines: list[report.Line]) -> None:
        for line in lines:
            self.tell(line)

    # -- the parts

    async def _dialogue(self, sock: socket.socket, seen: Dialogue) -> None:
        plan = self.plan
        with Talk(sock, plan.patience_seconds, self.account.saw) as talk:
            seen.greeting = await talk.hear(Answers.GREETING, "the connection")
            await talk.listen(plan.listen_seconds, "after the greeting")
            await self._hello(talk, seen)
            if seen.greeting is None or seen.greeting.code // 100 != 2:
                seen.left_out = "without a 220 there is no session"
            elif seen.hello_reply is None or seen.hello_reply.code // 100 != 2:
                seen.left_out = f"without {' or '.join(plan.hellos)} there is no session"
            else:
                seen.noop = await talk.ask("NOOP")
                await talk.ask("RSET")
                await talk.listen(plan.listen_seconds, "after the reply to RSET")
            seen.quit = await talk.leave(plan.close_seconds)
            seen.end, seen.without_end = talk.end, talk.without_end

    async def _hello(self, talk: Talk, seen: Dialogue) -> None:
        for seen.hello in self.plan.hellos:
            seen.hello_reply = await talk.ask(f"{seen.hello} {self.plan.helo_name}")
            if seen.hello_reply is None or seen.hello_reply.code // 100 != 5:
                break
        if seen.hello != "HELO" and seen.hello_reply and seen.hello_reply.code == 250:
            octets = "".join(f"{line}\r\n" for line in seen.hello_reply.lines).encode()
            offered = keywords(Reply(250, octets))
            seen.keywords = {
                keyword.decode(): parameters.decode() for keyword, parameters in offered.items() if keyword
            }
            size = seen.keywords.get("SIZE", "")
            # "SIZE 0" and SIZE alone: no fixed limit (RFC 1870 section 4).
            seen.size_octets = (int(size) or None) if size.isascii() and size.isdigit() and len(size) < 20 else None

    async def _pipelining(self, seen: Pipelining) -> None:
        if "PIPELINING" not in self.account.dialogue.keywords:
            seen.left_out = self.account.dialogue.left_out or "PIPELINING is not offered"
            return
        seen.offered = True
        # All may stand in a group (RFC 2920 3.1). None should be refused, as a receiver may pause for long after that.
        # A command comes behind a RSET without a transaction, and behind one that ends a transaction.
        mail = f"MAIL FROM:{self.plan.reverse_path}"
        seen.commands = ["RSET", mail, "RSET", mail, "RSET", "QUIT"]

        async def one_by_one(talk: Talk) -> None:
            for command in seen.commands[:-1]:
                if heard := await talk.ask(command):
                    seen.one_by_one.append(heard)
                    talk.excuse(heard)
            if heard := await talk.leave(self.plan.close_seconds):
                seen.one_by_one.append(heard)

        async def together(talk: Talk) -> None:
            await talk.write("".join(f"{command}\r\n" for command in seen.commands).encode())
            for command in seen.commands:
                answers = Answers.QUIT if command == "QUIT" else Answers.COMMAND
                heard = await talk.hear(answers, f"{command} in a group")
                if heard is None:
                    break
                seen.together.append(heard)
                talk.excuse(heard)
            else:
                await talk.see_off(self.plan.close_seconds)
            seen.end = talk.end

        await self._session(seen, one_by_one)
        if not seen.left_out:
            await self._session(seen, together)

    async def _early_talk(self, seen: EarlyTalk) -> None:
        async def listen(talk: Talk) -> None:
            talk.blame_nobody()
            for answers, command in ((Answers.GREETING, "the connection"), (Answers.COMMAND, hello)):
                heard = await talk.hear(answers, command)
                if heard is None:
                    break
                seen.replies.append(heard)
            if await talk.leave(self.plan.close_seconds) is None:
                seen.end = talk.end

        hello = self.account.dialogue.hello
        await self._session(seen, listen, first=f"{hello} {self.plan.helo_name}\r\n".encode())

    async def _bare_newline(self, seen: Aside) -> None:
        async def ask(talk: Talk) -> None:
            talk.blame_nobody()
            await talk.write(b"NOOP\n")
            seen.reply = await talk.hear(Answers.COMMAND, "NOOP that ends in LF")
            await self._leave_quietly(talk, seen)

        seen.command = "NOOP"
        await self._session(seen, ask)

    async def _unknown_command(self, seen: Aside) -> None:
        seen.command = _UNKNOWN_COMMAND
        await self._session(seen, partial(self._ask_aside, seen))

    async def _second_hello(self, seen: Aside) -> None:
        seen.command = f"{self.account.dialogue.hello} {self.plan.helo_name}"
        await self._session(seen, partial(self._ask_aside, seen))

    async def _ask_aside(self, seen: Aside, talk: Talk) -> None:
        seen.reply = await talk.ask(seen.command)
        talk.blame_nobody()
        await self._leave_quietly(talk, seen)

    async def _larger_mail(self, seen: Aside) -> None:
        size_octets = self.account.dialogue.size_octets
        if size_octets is None:
            seen.left_out = self.account.dialogue.left_out or "no limit is told"
            return
        seen.command = f"MAIL FROM:{self.plan.reverse_path} SIZE={size_octets + 1}"
        await self._session(seen, partial(self._ask_aside, seen))

    async def _other_hello(self, seen: Aside) -> None:
        """Whether a receiver that takes no hello speaks the other protocol."""
        dialogue = self.account.dialogue
        is_refused = dialogue.hello_reply.code // 100 == 5 if dialogue.hello_reply else bool(dialogue.end)
        if not (_welcomes(dialogue.greeting) and is_refused):
            seen.left_out = dialogue.left_out or f"{dialogue.hello} was taken"
            return
        seen.command = f"{'EHLO' if self.plan.lmtp else 'LHLO'} {self.plan.helo_name}"
        if not (talk := await self._connect(seen)):
            return
        with talk:
            talk.blame_nobody()
            if await talk.hear(Answers.GREETING, "the connection"):
                seen.reply = await talk.ask(seen.command)
            await self._leave_quietly(talk, seen)

    async def _leave_quietly(self, talk: Talk, seen: Aside) -> None:
        if await talk.leave(self.plan.close_seconds) is None:
            seen.end = talk.end

    def plan_mail(self) -> None:
        """Say in the account what would be sent, by what is known so far."""
        plan, data, size_octets = self.plan, self.account.mail_data, self.account.dialogue.size_octets
        data.reverse_path, data.recipient = plan.reverse_path, plan.recipient
        planned_octets = _OCTETS_WITHOUT_SIZE if size_octets is None else size_octets + _BEYOND_SIZE_OCTETS
        data.octets_planned = plan.octets or min(planned_octets, MOST_OCTETS)
        data.left_out = self.account.dialogue.left_out

    # -- sessions

    async def _session(
        self,
        seen: Pipelining | EarlyTalk | Aside | MailData,
        converse: Callable[[Talk], Awaitable[None]],
        first: bytes = b"",
    ) -> None:
        """Converse on a connection of its own: with `first` at once, else after greeting and hello."""
        account, plan = self.account, self.plan
        seen.left_out = account.dialogue.left_out
        if seen.left_out:
            return
        if not (talk := await self._connect(seen, speaks_first=bool(first))):
            return
        with talk:
            if first:
                await talk.write(first)
            else:
                hello = account.dialogue.hello
                for command, heard in (
                    ("the connection", await talk.hear(Answers.GREETING, "the connection")),
                    (hello, await talk.ask(f"{hello} {plan.helo_name}")),
                ):
                    if not _welcomes(heard):
                        seen.left_out = f"{command} was answered by {heard or talk.nothing} this time"
                        talk.excuse(heard)
                        await talk.leave(plan.close_seconds)
                        return
            await converse(talk)

    async def _connect(
        self, seen: Pipelining | EarlyTalk | Aside | MailData, *, speaks_first: bool = False
    ) -> Talk | None:
        """A connection, or None, and why in `seen`."""
        plan = self.plan
        assert self.place, "the receiver is reached first"
        try:
            sock = await self.place.connect(plan.patience_seconds, speaks_first=speaks_first)
        except DialFailed as failed:
            seen.left_out = f"it let nobody connect once more ({failed})"
            return None
        return Talk(sock, plan.patience_seconds, self.account.saw)


def _welcomes(heard: Heard | None) -> bool:
    return heard is not None and heard.code // 100 == 2


# -- the command


def run(plan: Plan, *, agreed: bool = False, as_json: bool = False) -> int:
    """`shimproxy probe`: the exit status. Raises DialFailed, wrapped or not, and KeyboardInterrupt at a signal."""
    columns = min(shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns, _MOST_COLUMNS)

    def tell(line: report.Line) -> None:
        if not as_json:
            for each in report.drawn(line, columns):
                say(each)

    probe = Probe(plan, tell)
    interruptible(probe.without_mail)
    data = probe.account.mail_data
    if not (data.left_out or agreed or _agreed_to(probe.account)):
        data.left_out = "it was not agreed to; with --yes it is sent without a question"
    if data.left_out:
        probe.tell_of_mail_data()
    else:
        interruptible(probe.mail_data)
    if as_json:
        say(json.dumps(probe.account.as_json(), indent=2))
    else:
        for text in report.violations(probe.account, columns):
            say(text)
    return 0


def _agreed_to(account: Account) -> bool:
    """Whether somebody at the terminal says yes; nobody there means no."""
    if sys.stdin is None or not sys.stdin.isatty() or sys.stderr is None:
        return False
    with interrupting(signal.SIGINT, signal.SIGTERM):
        print(report.question(account), end=" ", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")
