"""The sessions of a probe after its first: each on a connection of its own, and what is asked aside in one.

1. A session begins with a greeting and a hello that are taken, or its part says in `left_out` why there was none.
2. What is asked aside may be refused: nothing that comes after it is held against the receiver.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.errors import DialFailed, TlsFailed
from shimproxy.probe.account import Denial
from shimproxy.probe.opening import welcomes
from shimproxy.probe.plan import Tls
from shimproxy.smtp.dialogue import ReplyTo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.probe.account import (
        Account,
        Aside,
        ChunkSeen,
        EarlyTalkSeen,
        KeywordsSeen,
        MailDataSeen,
        Pipelining,
    )
    from shimproxy.probe.opening import Opener
    from shimproxy.probe.plan import ProbePlan
    from shimproxy.probe.wire import ProbeConnection

    Part = Pipelining | EarlyTalkSeen | Aside | ChunkSeen | KeywordsSeen | MailDataSeen

_CHUNK: Final = b"NOOP\r\nNOOP\r\n"
"""Whoever takes it for commands does nothing."""
_OF_MAIL: Final = {
    "8BITMIME": "BODY=8BITMIME",
    "BINARYMIME": "BODY=BINARYMIME",
    "DSN": "RET=HDRS",
    "SIZE": "SIZE=1",
    "SMTPUTF8": "SMTPUTF8",
    "MT-PRIORITY": "MT-PRIORITY=0",
}
"""Keyword -> the parameter of MAIL that belongs to it."""
_OF_THEMSELVES: Final = {"HELP": "HELP", "VRFY": "VRFY postmaster"}
"""Keyword -> its command."""
_UNKNOWN: Final = frozenset({500, 501, 502, 504, 555})
"""What answers a command or a parameter that the receiver does not know (RFC 5321 4.2.2)."""
_TLS_1_3: Final = "TLSv1.3"
"""The version in which the client sends the last of a full handshake (RFC 8446 section 2), and each direction ends by
itself (section 6.1)."""


@attrs.define(eq=False)
class Sessions:
    """What opens sessions with the receiver, and asks in them what it may refuse."""

    plan: ProbePlan
    account: Account
    opener: Opener

    # -- what is asked aside

    async def early_talk(self, seen: EarlyTalkSeen) -> None:
        """The hello before the greeting."""

        async def listen(talk: ProbeConnection) -> None:
            talk.blame_nobody()
            for answers, command in ((ReplyTo.GREETING, "the connection"), (ReplyTo.COMMAND, hello)):
                heard = await talk.hear(answers, command)
                if heard is None:
                    break
                seen.replies.append(heard)
            if await talk.leave(self.plan.close_seconds) is None:
                seen.end = talk.end

        hello = self.account.dialogue.hello
        await self.converse(seen, listen, first=f"{hello} {self.plan.helo_name}\r\n".encode())

    async def bare_newline(self, seen: Aside) -> None:
        """A command that ends in LF alone."""

        async def ask(talk: ProbeConnection) -> None:
            talk.blame_nobody()
            await talk.write(b"NOOP\n")
            seen.reply = await talk.hear(ReplyTo.COMMAND, "NOOP that ends in LF")
            await self._leave_quietly(talk, seen)

        seen.command = "NOOP"
        await self.converse(seen, ask)

    async def ask_aside(self, seen: Aside, command: str) -> None:
        """One command after the hello."""
        seen.command = command
        await self.converse(seen, partial(self._ask_aside, seen))

    async def keywords(self, seen: KeywordsSeen) -> None:
        """A parameter of MAIL, or a command, for each keyword that has one; each MAIL is followed by RSET."""
        offered = [each for each in (*_OF_MAIL, *_OF_THEMSELVES) if each in self.account.dialogue.keywords]
        if not offered:
            seen.left_out = self.account.dialogue.left_out or "no keyword is offered that a short command uses"
            return
        mail = f"MAIL FROM:{self.plan.reverse_path}"

        async def ask(talk: ProbeConnection) -> None:
            talk.blame_nobody()
            plain = await talk.ask(mail)
            if plain is None or plain.code // 100 != 2:
                seen.left_out = f"{mail}: {plain or 'no reply'}"
            for keyword in () if seen.left_out else offered:
                parameter = _OF_MAIL.get(keyword)
                if parameter and await talk.ask("RSET") is None:
                    break
                command = f"{mail} {parameter}" if parameter else _OF_THEMSELVES[keyword]
                reply = await talk.ask(command)
                seen.tried.append(keyword)
                if reply is None or reply.code in _UNKNOWN:
                    seen.denied.append(Denial(keyword, command, reply))
                if reply is None:
                    break
            if await talk.leave(self.plan.close_seconds) is None:
                seen.end = talk.end

        await self.converse(seen, ask)

    async def chunk(self, seen: ChunkSeen) -> None:
        """BDAT without a mail, and whether the octets of its chunk are taken with it (RFC 3030 section 2)."""
        if "CHUNKING" not in self.account.dialogue.keywords:
            seen.left_out = self.account.dialogue.left_out or "CHUNKING is not offered"
            return

        async def ask(talk: ProbeConnection) -> None:
            talk.blame_nobody()
            await talk.write(f"{seen.command}\r\n".encode() + _CHUNK)
            for command, octets in ((seen.command, b""), ("NOOP", b"NOOP\r\n")):
                if octets:
                    await talk.write(octets)
                heard = await talk.hear(ReplyTo.COMMAND, command)
                if heard is None:
                    break
                seen.replies.append(heard)
            answers_count = talk.heard_count
            await talk.listen(self.plan.listen_seconds, "after the chunk")
            seen.further = talk.heard_count - answers_count
            if await talk.leave(self.plan.close_seconds) is None:
                seen.end = talk.end

        seen.command = f"BDAT {len(_CHUNK)}"
        await self.converse(seen, ask)

    async def half_close(self, seen: Aside) -> None:
        """A command whose sender closes its direction with it (RFC 9293 section 3.6)."""

        async def ask(talk: ProbeConnection) -> None:
            talk.blame_nobody()
            if talk.leg.secured and talk.leg.tls_version != _TLS_1_3:
                seen.left_out = f"{talk.leg.tls_version} has no half-close (RFC 5246 7.2.1)"
                return await self._leave_quietly(talk, seen)
            await talk.half_close_with(f"{seen.command}\r\n".encode())
            seen.reply = await talk.hear(ReplyTo.COMMAND, seen.command)
            await talk.listen(self.plan.close_seconds, "after a half-close")
            seen.end = talk.end

        seen.command = "NOOP"
        await self.converse(seen, ask)

    async def second_hello(self, seen: Aside) -> None:
        """The hello once more in a session."""
        await self.ask_aside(seen, f"{self.account.dialogue.hello} {self.plan.helo_name}")

    async def _ask_aside(self, seen: Aside, talk: ProbeConnection) -> None:
        seen.reply = await talk.ask(seen.command)
        talk.blame_nobody()
        await self._leave_quietly(talk, seen)

    async def larger_mail(self, seen: Aside) -> None:
        """MAIL that declares more than SIZE allows."""
        size_octets = self.account.dialogue.size_octets
        if size_octets is None:
            seen.left_out = self.account.dialogue.left_out or "without a limit"
            return
        await self.ask_aside(seen, f"MAIL FROM:{self.plan.reverse_path} SIZE={size_octets + 1}")

    async def other_hello(self, seen: Aside) -> None:
        """Whether a receiver that takes no hello speaks the other protocol."""
        dialogue = self.account.dialogue
        is_refused = dialogue.hello_reply.code // 100 == 5 if dialogue.hello_reply else bool(dialogue.end)
        if not (welcomes(dialogue.greeting) and is_refused):
            seen.left_out = dialogue.left_out or f"{dialogue.hello} was taken"
            return
        seen.command = f"{'EHLO' if self.plan.lmtp else 'LHLO'} {self.plan.helo_name}"
        if not (talk := await self._connect(seen)):
            return
        with talk:
            talk.blame_nobody()
            try:
                await self.opener.secure_at_once(talk)
            except TlsFailed as failed:
                seen.left_out = _tls_failed(failed)
                return
            if await talk.hear(ReplyTo.GREETING, "the connection"):
                seen.reply = await talk.ask(seen.command)
            await self._leave_quietly(talk, seen)

    async def _leave_quietly(self, talk: ProbeConnection, seen: Aside) -> None:
        if await talk.leave(self.plan.close_seconds) is None:
            seen.end = talk.end

    # -- sessions

    async def converse(
        self, seen: Part, dialogue: Callable[[ProbeConnection], Awaitable[None]], first: bytes = b""
    ) -> None:
        """Converse on a connection of its own: with `first` before the greeting, else after greeting and hello."""
        seen.left_out = self.account.dialogue.left_out
        if seen.left_out:
            return
        if not (talk := await self._connect(seen, speaks_first=bool(first))):
            return
        with talk:
            try:
                seen.left_out = await (self._speak_first(talk, first) if first else self.opener.begin(talk))
            except TlsFailed as failed:
                seen.left_out = _tls_failed(failed)
                return
            if seen.left_out:
                await talk.leave(self.plan.close_seconds)
            else:
                await dialogue(talk)

    async def _speak_first(self, talk: ProbeConnection, first: bytes) -> str:
        """Say something before the greeting; why that can't be, if it can't. Raises TlsFailed."""
        if self.opener.tls is Tls.IMPLICIT:
            # The receiver may greet once it has the last of the client's handshake, so that is held back until then.
            talk.hold_output(hold=True)
            await self.opener.secure(talk)
            if talk.leg.tls_version != _TLS_1_3:
                talk.hold_output(hold=False)
                talk.blame_nobody()  # its greeting has not been asked for
                return f"in {talk.leg.tls_version} the receiver ends the handshake, and may greet at once"
        await talk.write(first)
        if talk.leg.secured:
            talk.hold_output(hold=False)
        return ""

    async def _connect(self, seen: Part, *, speaks_first: bool = False) -> ProbeConnection | None:
        """A connection, or None, and why in `seen`."""
        try:
            return await self.opener.connect(speaks_first=speaks_first)
        except DialFailed as failed:
            seen.left_out = f"it refused another connection ({failed})"
            return None


def _tls_failed(failed: TlsFailed) -> str:
    return f"TLS failed this time: {failed.reason}"
