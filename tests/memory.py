"""The stage of `shimproxy explain`, for tests: outcomes are compared, and each trace is held to what the legs count."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final

import attrs
import trio
import trio.testing

from shimproxy.help.explain import stage
from shimproxy.help.explain.stage import AMPLE_OCTETS, MemoryObserver, MemoryRoute, MemorySocket
from shimproxy.records.text import read, record_text_of
from shimproxy.session.limits import Limits
from shimproxy.session.mail_account import MailOutcome
from shimproxy.session.policy import Policy
from shimproxy.session.trace import RECEIVER, SENDER, SHIM

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.session.mail_account import MailSummary
    from shimproxy.session.record import SessionRecord

__all__ = [
    "AMPLE_OCTETS",
    "MemoryObserver",
    "MemoryRoute",
    "MemorySocket",
    "Stage",
    "offered",
    "staged",
    "up_to_mail_data",
]


_TOLD: Final = (
    "command",
    "recipients",
    "recipient_count",
    "accepted_count",
    "size",
    "verdict",
    "verdict_code",
    "verdict_is_own",
    "at",
    "verdicts",
    "outcome",
    "repairs",
)


_BEGAN: Final = re.compile(r"^began .*$", re.MULTILINE)
_NOON: Final = "began                 2025-12-01T12:00:00.000Z"


@functools.lru_cache(maxsize=256)
def check_text(text: str) -> None:
    """The text of a record can be read back. But for its moment, hundreds of segmentations have the same."""
    assert record_text_of(read(text)) == text


@attrs.define(eq=False)
class Stage(stage.Stage):
    """A stage whose outcome can be compared with another's."""

    def check_trace(self) -> None:
        """Once the session is over, its trace is whole, and its text can be read back."""
        if self.over and self.record.is_traced and self.session.events.telling:
            check_octets(self.record)
            check_text(_BEGAN.sub(_NOON, record_text_of(self.record), count=1))

    def outcome(self) -> tuple[object, ...]:
        """All that both peers saw and the record says, for comparing two runs."""
        self.check_trace()
        self.check_mails()
        sockets = [(bytes(s.written), s.got_fin, s.got_rst) for s in (self.sender, self.receiver)]
        return (*sockets, tuple(str(violation) for violation in self.repaired), self.over, *map(told, self.mails))

    def check_mails(self) -> None:
        """Once the session is over, each mail that was accepted has its line, and no other says so."""
        if self.over and self.tells_mails:
            accepted = [mail for mail in self.mails if mail.outcome in (MailOutcome.ACCEPTED, MailOutcome.PARTLY)]
            assert len(accepted) == self.record.accepted
            assert all(mail.ended_at for mail in self.mails)


def told(mail: MailSummary) -> tuple[object, ...]:
    """What is told of a mail, but for its times."""
    return tuple(getattr(mail, name) for name in _TOLD)


def staged(
    script: Callable[[Stage], Awaitable[None]],
    limits: Limits | None = None,
    policy: Policy | None = None,
    *,
    never_short: bool = False,
    telling: bool = True,
) -> Stage:
    """Run `script` on a started stage, and return the stage. Without `telling` there is its record alone."""
    clock = trio.testing.MockClock()
    stages: list[Stage] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            stage = Stage(nursery, clock, limits=limits or Limits(), policy=policy or Policy(), never_short=never_short)
            if not telling:
                stage.account.wants_dialogue, stage.tracer, stage.tells_mails = False, None, False
            stages.append(stage)
            await stage.start()
            await script(stage)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)
    stages[0].check_trace()
    stages[0].check_mails()
    return stages[0]


def check_octets(record: SessionRecord) -> None:
    """Each octet that a leg has counted is in the trace, unless it was left out there."""
    trace = record.trace
    assert trace is not None
    traced = {
        (who, whom): sum(entry.octets for entry in trace.entries if (entry.who, entry.whom) == (who, whom))
        for who, whom in ((SENDER, SHIM), (SHIM, SENDER), (RECEIVER, SHIM), (SHIM, RECEIVER))
    }
    counted = {
        (SENDER, SHIM): record.octets_from_sender,
        (SHIM, SENDER): record.octets_to_sender,
        (RECEIVER, SHIM): record.octets_from_receiver,
        (SHIM, RECEIVER): record.octets_to_receiver,
    }
    assert sum(traced.values()) + trace.left_out_octets == sum(counted.values())
    assert trace.left_out or traced == counted


MAIL = (b"MAIL FROM:<a@b>", b"250 OK")
RCPT = (b"RCPT TO:<b@c>", b"250 OK")
DATA = (b"DATA", b"354 go")


async def dialogue(stage: Stage, *said: tuple[bytes, bytes]) -> None:
    """Each command of the sender's, and the receiver's reply."""
    for command, reply in said:
        await stage.feed(stage.sender, command + b"\r\n")
        await stage.feed(stage.receiver, reply + b"\r\n")


async def up_to_mail_data(stage: Stage) -> None:
    """Greeting, HELO, MAIL, RCPT, DATA; forget what was written so far."""
    await stage.feed(stage.receiver, b"220 hello\r\n")
    await dialogue(stage, (b"HELO x", b"250 hi"), MAIL, RCPT, DATA)
    stage.sender.written.clear()
    stage.receiver.written.clear()


async def offered(stage: Stage, *keywords: bytes) -> bytes:
    """Greeting and EHLO, whose reply offers these; what the sender was given as that. Forget what was written."""
    await stage.feed(stage.receiver, b"220 hello\r\n")
    await stage.feed(stage.sender, b"EHLO x\r\n")
    stage.sender.written.clear()
    *most, last = b"hi", *keywords
    reply = b"".join(b"250-" + line + b"\r\n" for line in most) + b"250 " + last + b"\r\n"
    await stage.feed(stage.receiver, reply)
    given = bytes(stage.sender.written)
    for sock in (stage.sender, stage.receiver):
        sock.written.clear()
        sock.writes = 0
    return given
