"""The first session of a probe: a dialogue without a mail, and where in a connection TLS begins.

1. TLS that was asked for by name and can't be had is an error, with its mend: there is nothing to probe in it.
2. `--tls auto` begins again in another way where one fails, and what was seen of that does not count.
3. Inside TLS nothing counts that was offered before it (RFC 3207 section 4.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.net.address import address_text
from shimproxy.net.errors import DialFailed, TlsFailed
from shimproxy.probe.account import DialogueSeen, TlsSeen
from shimproxy.probe.opening import STARTTLS, welcomes
from shimproxy.probe.plan import Tls
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import ReplyTo
from shimproxy.smtp.ehlo import keywords
from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from shimproxy.probe.account import Account
    from shimproxy.probe.opening import Opener
    from shimproxy.probe.plan import ProbePlan
    from shimproxy.probe.wire import ProbeConnection

_IMPLICIT_PORT: Final = 465
"""Where a connection begins with TLS (RFC 8314 section 7.3)."""
_LONG_SECONDS: Final = 4.0
"""A receiver that refuses after so long may have waited for something: a Postfix for a PROXY header takes five."""
_MAY_WANT_A_CERTIFICATE: Final = "it disconnected after the TLS handshake; it may require a client certificate"


class NoTls(DialFailed):
    """There is no TLS in the way that was tried, for a `reason`; `instead` is the way to try next."""

    def __init__(self, plan: ProbePlan, reason: str, mend: str, instead: Tls) -> None:
        super().__init__(f"no TLS with {plan.receiver}: {reason}; {mend}")
        self.reason = reason
        self.instead = instead


@attrs.define(eq=False)
class FirstSession:
    """The first session; what it has seen is in the account, and how others begin in the opener."""

    plan: ProbePlan
    account: Account
    opener: Opener

    async def run(self) -> None:
        """Converse, with TLS as it was asked for. Raises DialFailed, also for want of TLS."""
        opener, plan, account = self.opener, self.plan, self.account
        opener.tls = plan.tls
        if plan.tls is Tls.OFF:
            account.tls.left_out = "--tls was not given"
        elif plan.tls is Tls.AUTO and plan.receiver.port == _IMPLICIT_PORT:
            opener.tls = Tls.IMPLICIT
        talk, tried = await opener.first(), set[Tls]()
        account.address = address_text(talk.client.place[1])
        while failed := await self._failure(talk):
            tried.add(opener.tls)
            if plan.tls is not Tls.AUTO or failed.instead in tried:
                raise failed
            opener.tls = failed.instead
            account.dialogue, account.tls = DialogueSeen(), TlsSeen(left_out=failed.reason)
            account.violations.clear()
            if failed.instead is Tls.OFF:
                account.saw(Violation.TLS_FAILED, failed.reason)
            try:
                talk = await opener.connect()
            except DialFailed as refused:
                raise DialFailed(f"{plan.receiver} refused another connection ({refused}); probe it again") from None
        if opener.tls is Tls.AUTO:
            opener.tls = Tls.STARTTLS if account.tls.how else Tls.OFF
        if account.tls.how:
            account.tls.left_out = ""
            await opener.verify()
        else:
            account.tls.left_out = account.tls.left_out or account.dialogue.left_out

    async def _failure(self, talk: ProbeConnection) -> NoTls | None:
        with talk:
            try:
                await self._converse(talk, self.account.dialogue)
            except NoTls as failed:
                return failed
        return None

    async def _converse(self, talk: ProbeConnection, seen: DialogueSeen) -> None:
        plan = self.plan
        await self._secure_at_once(talk)
        began_at = trio.current_time()
        seen.greeting = await talk.hear(ReplyTo.GREETING, "the connection")
        if seen.greeting is None:
            await self._explain_silence(talk)
        elif not welcomes(seen.greeting) and trio.current_time() - began_at >= _LONG_SECONDS:
            await self._try_header()
        await talk.listen(plan.listen_seconds, "after the greeting")
        await self._hello(talk, seen)
        if self.opener.tls in (Tls.STARTTLS, Tls.AUTO) and welcomes(seen.greeting) and welcomes(seen.hello_reply):
            await self._start_tls(talk, seen)
        if not welcomes(seen.greeting):
            seen.left_out = "without a 220 there is no session"
        elif not welcomes(seen.hello_reply):
            seen.left_out = f"without {' or '.join(plan.hellos)} there is no session"
        else:
            seen.noop = await talk.ask("NOOP")
            seen.rset = await talk.ask("RSET")
            await talk.listen(plan.listen_seconds, "after the reply to RSET")
        seen.quit = await talk.leave(plan.close_seconds)
        seen.end, seen.without_end = talk.end, talk.without_end

    async def _hello(self, talk: ProbeConnection, seen: DialogueSeen) -> None:
        seen.keywords, seen.size_octets = {}, None
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

    # -- TLS

    async def _secure_at_once(self, talk: ProbeConnection) -> None:
        """Change to TLS if connections begin with it. Raises NoTls."""
        try:
            await self.opener.secure_at_once(talk)
        except TlsFailed as failed:
            if greeting := await self.opener.greeting_in_clear():
                reason, mend = f"it greets without TLS: {greeting}", "probe it with --tls starttls"
            else:
                reason, mend = failed.reason, "check that TLS is what this port begins with"
            raise NoTls(self.plan, reason, mend, Tls.AUTO) from failed
        if talk.leg.secured:
            self.opener.note_tls(talk, Tls.IMPLICIT)

    async def _explain_silence(self, talk: ProbeConnection) -> None:
        """Find out whether a receiver that has not greeted speaks TLS alone, or wants a header first. Raises NoTls."""
        opener = self.opener
        if opener.tls is Tls.IMPLICIT:
            if talk.end:
                raise NoTls(self.plan, _MAY_WANT_A_CERTIFICATE, "read the receiver's log", Tls.AUTO)
            return
        is_silent = talk.silent and not talk.without_end
        self.account.speaks_tls = is_silent and await opener.speaks_tls()
        if self.account.speaks_tls:
            self.account.violations.pop(Violation.NO_GREETING, None)
            if opener.tls is not Tls.OFF:
                mend = "probe it with --tls implicit"
                raise NoTls(self.plan, "it begins with TLS, without STARTTLS", mend, Tls.IMPLICIT)
        elif not talk.without_end:
            await self._try_header()

    async def _try_header(self) -> None:
        """Find out whether the receiver wants a PROXY header before it greets."""
        self.account.greets_after_header = await self.opener.greets_after_header()
        if self.account.greets_after_header:
            self.account.violations.pop(Violation.NO_GREETING, None)

    async def _start_tls(self, talk: ProbeConnection, seen: DialogueSeen) -> None:
        """Change to TLS by STARTTLS, and say hello again inside it. Raises NoTls where TLS has to be."""
        tls = self.account.tls
        if STARTTLS not in seen.keywords:
            return self._without_tls("it does not offer STARTTLS")
        try:
            tls.reply = await self.opener.start_tls(talk)
        except TlsFailed as failed:
            mend = "read the receiver's log, or probe it without --tls"
            raise NoTls(self.plan, f"the handshake failed: {failed.reason}", mend, Tls.OFF) from failed
        if not welcomes(tls.reply):
            return self._without_tls(f"STARTTLS was answered by {tls.reply or talk.nothing}")
        tls.hello_reply = seen.hello_reply
        await self._hello(talk, seen)
        if seen.hello_reply is None and talk.end:
            raise NoTls(self.plan, _MAY_WANT_A_CERTIFICATE, "read the receiver's log", Tls.OFF)
        self.opener.note_tls(talk, Tls.STARTTLS)

    def _without_tls(self, reason: str) -> None:
        """Go on in the clear where that may be. Raises NoTls."""
        if self.opener.tls is not Tls.AUTO:
            raise NoTls(self.plan, reason, "probe it without --tls", Tls.OFF)
        self.account.tls.left_out = reason
