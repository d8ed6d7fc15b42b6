"""What is told of each mail: as its sender was told it, however the mail came and whatever ended it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shimproxy.session.mail_account import MOST_OCTETS_KEPT, MOST_RECIPIENTS_KEPT, MailOutcome, MailSummary
from shimproxy.session.policy import Policy
from shimproxy.smtp.catalogue import Violation
from tests.memory import Stage, dialogue, offered, staged, up_to_mail_data

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

QUEUED = b"250 2.0.0 Ok: queued as 4XyZ\r\n"


def mails_of(
    script: Callable[[Stage], Awaitable[None]], policy: Policy | None = None, *, gone: bool = True
) -> list[MailSummary]:
    """What is told of a session that plays `script`, after which its sender disconnects."""

    async def whole(stage: Stage) -> None:
        await script(stage)
        if gone:
            stage.sender.feed_fin()
            await stage.settle()
            stage.receiver.feed_fin()
            await stage.settle()

    return staged(whole, policy=policy).mails


async def greeted(stage: Stage) -> None:
    await stage.feed(stage.receiver, b"220 hello\r\n")


def test_an_accepted_mail() -> None:
    """The words of its verdict have the receiver's queue id."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"Subject: x\r\n\r\n..hi\r\n.\r\n")
        await stage.feed(stage.receiver, QUEUED)

    (mail,) = mails_of(script)
    assert (mail.outcome, mail.at, mail.verdict, mail.verdict_is_own) == (
        MailOutcome.ACCEPTED,
        "mail data",
        QUEUED,
        False,
    )
    assert (mail.command, mail.size, mail.receiver) == (b"MAIL FROM:<a@b>\r\n", 20, "192.0.2.2:25")
    assert mail.recipients == [(b"RCPT TO:<b@c>\r\n", b"250 OK\r\n", True)]
    assert mail.repairs == {}


def test_a_mail_that_was_refused_early_has_the_receivers_words() -> None:
    """And what was repaired for it."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\r\n")
        await stage.feed(stage.receiver, b"552 5.3.4 too big\r\n")
        stage.receiver.feed_fin()
        await stage.feed(stage.sender, b"more\r\n.\r\n")

    (mail,) = mails_of(script)
    assert (mail.outcome, mail.verdict, mail.verdict_is_own) == (MailOutcome.REFUSED, b"552 5.3.4 too big\r\n", False)
    assert mail.repairs == {Violation.EARLY_REPLY: 1}
    assert mail.size == 9


def test_what_shimproxy_replied_itself_is_said_to_be_its_own() -> None:
    """The receiver had disconnected without a verdict."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\r\n.\r\n")
        stage.receiver.feed_fin()
        await stage.settle()

    (mail,) = mails_of(script)
    assert (mail.outcome, mail.verdict_code, mail.verdict_is_own) == (MailOutcome.DEFERRED, 451, True)


@pytest.mark.parametrize("end", [b"x\r\n", b""], ids=["in mail data", "after 354"])
def test_a_mail_that_its_sender_cuts(end: bytes) -> None:
    """It has no verdict."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, end)

    (mail,) = mails_of(script)
    assert (mail.outcome, mail.verdict, mail.verdict_code, mail.size) == (MailOutcome.CUT, b"", 0, len(end))


def test_a_sender_that_leaves_before_the_verdict() -> None:
    """It was told nothing."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\r\n.\r\n")
        stage.sender.feed_rst()
        await stage.settle()
        await stage.feed(stage.receiver, QUEUED)

    (mail,) = mails_of(script, gone=False)
    assert mail.outcome in (MailOutcome.CUT, MailOutcome.ACCEPTED)  # as the verdict was told before the reset is known


REFUSED_AT = {
    "MAIL": ((b"MAIL FROM:<a@b>", b"550 no"), (b"QUIT", b"221 bye")),
    "RCPT": ((b"MAIL FROM:<a@b>", b"250 OK"), (b"RCPT TO:<x@y>", b"550 no"), (b"RSET", b"250 OK")),
    "DATA": (
        (b"MAIL FROM:<a@b>", b"250 OK"),
        (b"RCPT TO:<x@y>", b"250 OK"),
        (b"DATA", b"550 no"),
        (b"RSET", b"250 OK"),
    ),
}


@pytest.mark.parametrize("at", REFUSED_AT)
def test_a_mail_that_is_refused_before_its_data(at: str) -> None:
    """It has one line, which names the command."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await dialogue(stage, (b"HELO x", b"250 hi"), *REFUSED_AT[at])

    (mail,) = mails_of(script)
    assert (mail.outcome, mail.at, mail.verdict) == (MailOutcome.REFUSED, at, b"550 no\r\n")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(((b"RSET", b"250 OK"),), id="RSET"),
        pytest.param(((b"HELO x", b"250 OK"),), id="HELO"),
        pytest.param(((b"QUIT", b"221 bye"),), id="QUIT"),
        pytest.param((), id="gone"),
        pytest.param(((b"RCPT TO:<c@d>", b"550 no"), (b"QUIT", b"221 bye")), id="one recipient refused"),
    ],
)
def test_a_mail_that_its_sender_abandons(said: Sequence[tuple[bytes, bytes]]) -> None:
    """Nothing has refused it."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await dialogue(
            stage, (b"HELO x", b"250 hi"), (b"MAIL FROM:<a@b>", b"250 OK"), (b"RCPT TO:<x@y>", b"250 OK"), *said
        )

    (mail,) = mails_of(script)
    assert (mail.outcome, mail.verdict, mail.at) == (MailOutcome.ABANDONED, b"", "")


def test_pipelined_commands_are_paired_with_their_replies() -> None:
    """Refused ones between them, and the mail after."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        for number in (b"1", b"2"):
            await stage.feed(
                stage.sender,
                b"MAIL FROM:<m%s@x>\r\nRCPT TO:<a%s@y>\r\nRCPT TO:<b%s@y>\r\nDATA\r\n" % (number, number, number),
            )
            await stage.feed(stage.receiver, b"250 m\r\n550 a\r\n250 b\r\n354 go\r\n")
            await stage.feed(stage.sender, b"x\r\n.\r\n")
            await stage.feed(stage.receiver, QUEUED)

    first, second = mails_of(script)
    assert [reply for _, reply, _ in first.recipients] == [b"550 a\r\n", b"250 b\r\n"]
    assert (first.recipient_count, first.accepted_count, first.outcome) == (2, 1, MailOutcome.ACCEPTED)
    assert second.command == b"MAIL FROM:<m2@x>\r\n"
    assert [line for line, _, _ in second.recipients] == [b"RCPT TO:<a2@y>\r\n", b"RCPT TO:<b2@y>\r\n"]


def test_a_mail_in_chunks() -> None:
    """Its size is that of all chunks."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING", b"CHUNKING")
        await stage.feed(
            stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\nx\r\nBDAT 4 LAST\r\nyz\r\nRSET\r\n"
        )
        await stage.feed(stage.receiver, b"250 m\r\n250 r\r\n250 c\r\n")
        await stage.feed(stage.receiver, QUEUED)

    (mail,) = mails_of(script)
    assert (mail.outcome, mail.verdict, mail.size, mail.at) == (MailOutcome.ACCEPTED, QUEUED, 7, "mail data")


def test_a_refused_chunk_refuses_the_mail() -> None:
    """Whether the sender sends the others or gives up."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        await dialogue(stage, (b"MAIL FROM:<a@b>", b"250 OK"), (b"RCPT TO:<x@y>", b"250 OK"))
        await stage.feed(stage.sender, b"BDAT 3\r\nx\r\n")
        await stage.feed(stage.receiver, b"552 full\r\n")
        await stage.feed(stage.sender, b"RSET\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n")

    (mail,) = mails_of(script)
    assert (mail.outcome, mail.verdict_code, mail.at) == (MailOutcome.REFUSED, 552, "BDAT")


def test_lmtp_has_a_verdict_for_each_accepted_recipient() -> None:
    """And is partly accepted if they differ."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await dialogue(
            stage,
            (b"LHLO x", b"250 hi"),
            (b"MAIL FROM:<a@b>", b"250 OK"),
            (b"RCPT TO:<one@y>", b"250 OK"),
            (b"RCPT TO:<two@y>", b"550 unknown"),
            (b"RCPT TO:<three@y>", b"250 OK"),
            (b"DATA", b"354 go"),
        )
        await stage.feed(stage.sender, b"x\r\n.\r\n")
        await stage.feed(stage.receiver, b"552 full\r\n250 stored\r\n")
        await dialogue(stage, (b"MAIL FROM:<second@b>", b"250 OK"), (b"RSET", b"250 OK"))

    mail, second = mails_of(script, Policy(lmtp=True))
    assert (mail.outcome, mail.verdicts) == (MailOutcome.PARTLY, (b"552 full\r\n", b"250 stored\r\n"))
    assert (mail.verdict_code, mail.verdict_count) == (250, 2)
    assert second.command == b"MAIL FROM:<second@b>\r\n"


def test_what_is_kept_is_bounded() -> None:
    """Many recipients, each of them long, with long replies."""
    count = MOST_RECIPIENTS_KEPT + 5

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await dialogue(stage, (b"HELO x", b"250 hi"), (b"MAIL FROM:<%s@b>" % (b"a" * 1500), b"250 OK"))
        for _ in range(count):
            await dialogue(stage, (b"RCPT TO:<%s@b>" % (b"r" * 1500), b"250-%s\r\n250 OK" % (b"o" * 400) * 9))

    (mail,) = mails_of(script)
    assert mail.recipient_count == mail.accepted_count == count
    assert len(mail.recipients) == MOST_RECIPIENTS_KEPT
    assert max(len(each) for line, reply, _ in mail.recipients for each in (line, reply)) <= MOST_OCTETS_KEPT + 3


def test_a_response_within_auth_takes_no_other_commands_reply() -> None:
    """Nor does a mail after it have one of AUTH's."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"AUTH LOGIN")
        await dialogue(
            stage,
            (b"AUTH LOGIN", b"334 VXNlcm5hbWU6"),
            (b"eA==", b"334 UGFzc3dvcmQ6"),
            (b"eA==", b"235 in"),
            (b"MAIL FROM:<a@b>", b"250 m"),
            (b"RCPT TO:<x@y>", b"450 later"),
            (b"QUIT", b"221 bye"),
        )

    (mail,) = mails_of(script)
    assert (mail.outcome, mail.verdict, mail.at) == (MailOutcome.DEFERRED, b"450 later\r\n", "RCPT")


def test_a_mail_ends_where_the_receiver_takes_another_mail_command() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await dialogue(stage, (b"HELO x", b"250 hi"), (b"MAIL FROM:<a@b>", b"250 OK"), (b"MAIL FROM:<c@d>", b"250 OK"))

    first, second = mails_of(script)
    assert (first.command, first.outcome) == (b"MAIL FROM:<a@b>\r\n", MailOutcome.ABANDONED)
    assert (second.command, second.outcome) == (b"MAIL FROM:<c@d>\r\n", MailOutcome.ABANDONED)


def test_lmtp_has_the_verdicts_of_the_first_recipients_and_a_count_of_all() -> None:
    count = MOST_RECIPIENTS_KEPT + 3

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await dialogue(stage, (b"LHLO x", b"250 hi"), (b"MAIL FROM:<a@b>", b"250 OK"))
        for number in range(count):
            await dialogue(stage, (b"RCPT TO:<u%d@d>" % number, b"250 OK"))
        await dialogue(stage, (b"DATA", b"354 go"))
        await stage.feed(stage.sender, b"x\r\n.\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n" * count)

    (mail,) = mails_of(script, Policy(lmtp=True))
    assert (len(mail.verdicts), mail.verdict_count) == (MOST_RECIPIENTS_KEPT, count)
    assert mail.outcome is MailOutcome.ACCEPTED
