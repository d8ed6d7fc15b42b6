"""What is told of a mail is the same whether its replies are counted and paired later, or paired as they are given."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from shimproxy.session.mail_account import MOST_OCTETS_KEPT, MOST_RECIPIENTS_KEPT, MailAccount, summary
from shimproxy.session.policy import Policy
from tests.memory import Stage, dialogue, offered, staged, told

if TYPE_CHECKING:
    from shimproxy.session.mail_account import UsualMail
    from shimproxy.smtp.command import Command

LONG = b"x" * (MOST_OCTETS_KEPT + 1)
MAIL_REPLIES = (b"250 OK", b"250 OK", b"250 OK", b"250 " + LONG[:480], b"451 later", b"550 no")
RCPT_REPLIES = (
    b"250 OK",
    b"250 OK",
    b"250 2.1.5 fine",
    b"251 elsewhere",
    b"250-two\r\n250 lines",
    b"450 later",
    b"550 no",
)
DATA_REPLIES = (b"354 go", b"354 go", b"354 go", b"451 later", b"503 no")
VERDICTS = (
    b"250 queued as 1",
    b"250 queued as 2",
    b"250-two\r\n250 lines",
    b"251 odd",
    b"451 later",
    b"554 no",
    b"250 " + LONG,
)
BETWEEN = (
    (b"NOOP", b"250 OK"),
    (b"RSET", b"250 OK"),
    (b"EHLO x", b"250 hi"),
    (b"VRFY a", b"252 who"),
    (b"X", b"500 what"),
)


async def one_mail(stage: Stage, random: random.Random, *, pipelined: bool, lmtp: bool) -> None:
    """What a sender may say for a mail, and what a receiver may reply."""
    choose = random.choice
    recipients = choose((1, 1, 1, 1, 2, 3, MOST_RECIPIENTS_KEPT + 2))
    said = [(b"MAIL FROM:<a%d@b>" % random.randrange(9), choose(MAIL_REPLIES))]
    said += [(b"RCPT TO:<u%d@d> X=%s" % (at, choose((b"", LONG))), choose(RCPT_REPLIES)) for at in range(recipients)]
    if random.random() < 0.3:
        said.insert(random.randrange(len(said) + 1), choose(BETWEEN) if not pipelined else (b"RSET", b"250 OK"))
    goes = choose(DATA_REPLIES)
    said.append((b"DATA", goes))
    if pipelined:
        await stage.feed(stage.sender, b"".join(command + b"\r\n" for command, _ in said))
        for _, reply in said:
            await stage.feed(stage.receiver, reply + b"\r\n")
    else:
        await dialogue(stage, *said)
    if goes.startswith(b"354"):
        await stage.feed(stage.sender, b"x" * random.randrange(30) + b"\r\n" + choose((b".\r\n", b"y\n.\r\n")))
        accepted = sum(reply.startswith(b"25") for command, reply in said if command.startswith(b"RCPT"))
        for _ in range(accepted if lmtp else 1):
            await stage.feed(stage.receiver, choose(VERDICTS) + b"\r\n")
    if random.random() < 0.3:
        await dialogue(stage, choose(BETWEEN))


def mails(seed: int) -> list[tuple[object, ...]]:
    """What is told of the mails of a session."""
    generator = random.Random(seed)
    pipelined, lmtp = generator.random() < 0.4, generator.random() < 0.1

    async def script(stage: Stage) -> None:
        if lmtp:
            await stage.feed(stage.receiver, b"220 hello\r\n")
            await dialogue(stage, (b"LHLO x", b"250-hi\r\n250 PIPELINING"))
        else:
            await offered(stage, *([b"PIPELINING"] if pipelined else []))
        for _ in range(generator.randrange(1, 5)):
            await one_mail(stage, generator, pipelined=pipelined, lmtp=lmtp)
        if generator.random() < 0.5:
            stage.sender.feed_fin()
            await stage.settle()
        stage.receiver.feed_fin()
        await stage.settle()
        stage.sender.feed_fin()
        await stage.settle()

    stage = staged(script, policy=Policy(lmtp=lmtp))
    return [(mail.receiver, *told(mail)) for mail in stage.mails]


@pytest.mark.parametrize("batch", range(8))
def test_it_is_the_same_whether_replies_are_counted_or_not(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sessions as senders and receivers may have them, refusals, resets and repairs among them."""
    seeds = range(batch * 25, batch * 25 + 25)
    counted = [mails(seed) for seed in seeds]
    heard = MailAccount.heard

    def heard_and_follow(self: MailAccount, command: Command) -> None:
        heard(self, command)
        self.follow()

    monkeypatch.setattr(MailAccount, "heard", heard_and_follow)
    assert [mails(seed) for seed in seeds] == counted


def test_most_mails_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test before shows nothing."""
    followed = 0
    follow = MailAccount.follow

    def note(self: MailAccount) -> None:
        nonlocal followed
        followed += self.counts and len(self.said) > 0
        follow(self)

    async def script(stage: Stage) -> None:
        await offered(stage)
        for _ in range(3):
            await dialogue(stage, (b"MAIL FROM:<a@b>", b"250 OK"), (b"RCPT TO:<c@d>", b"250 OK"), (b"DATA", b"354 go"))
            await stage.feed(stage.sender, b"x\r\n.\r\n")
            await stage.feed(stage.receiver, b"250 queued\r\n")

    monkeypatch.setattr(MailAccount, "follow", note)
    assert len(staged(script).mails) == 3
    assert followed == 0


def test_a_mail_that_is_counted_is_told_to_whom_usual_mails_are_told() -> None:
    """It is the same mail."""
    usual: list[UsualMail] = []

    async def script(stage: Stage) -> None:
        def tell(mail: UsualMail) -> None:
            usual.append(mail)
            stage.mails.append(summary(mail))

        await offered(stage)
        for tell_usual in (None, tell):
            assert stage.session.events.mails
            stage.session.events.mails.tell_usual = tell_usual
            await dialogue(stage, (b"MAIL FROM:<a@b>", b"250 OK"), (b"RCPT TO:<c@d>", b"250 OK"), (b"DATA", b"354 go"))
            await stage.feed(stage.sender, b"x\r\n.\r\n")
            await stage.feed(stage.receiver, b"250 queued\r\n")

    first, second = staged(script).mails
    assert len(usual) == 1
    assert told(first) == told(second)


def test_a_mail_that_is_abandoned_is_told_with_the_reply_that_ends_it() -> None:
    """Not when the next one begins."""

    async def script(stage: Stage) -> None:
        await offered(stage)
        await dialogue(stage, (b"MAIL FROM:<a@b>", b"250 OK"), (b"RCPT TO:<c@d>", b"250 OK"))
        await stage.feed(stage.sender, b"RSET\r\n")
        assert not stage.mails
        await stage.feed(stage.receiver, b"250 OK\r\n")
        assert len(stage.mails) == 1

    staged(script)
