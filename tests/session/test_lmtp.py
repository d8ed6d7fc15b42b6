"""LMTP (RFC 2033), between programs that speak it: a reply for each recipient; see also transcripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from shimproxy.faulty.fault import CLOSING, TOO_BIG
from shimproxy.faulty.outcome import Believed, Outcome
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.session.policy import Policy, Sizes
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.newlines import Newlines
from tests.memory import Stage, staged
from tests.peers.mail import LARGE, SMALL
from tests.peers.outcome import refused
from tests.peers.postfix import Postfix, postfix
from tests.peers.programs import smtp_sink, smtp_source
from tests.peers.shim import shim
from tests.peers.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.faulty.mail import Mail
    from shimproxy.faulty.talk import Talk

SECONDS = 60.0
RECIPIENTS = 3


@pytest.fixture(scope="module")
def a_postfix() -> Iterator[Postfix]:
    with postfix() as running:
        yield running


async def test_many_mails_reach_smtp_sink() -> None:
    with trio.fail_after(SECONDS), smtp_sink("-L") as port:
        async with shim(port, lmtp=True) as between:
            arguments = ("-L", "-m", "200", "-s", "10", "-r", str(RECIPIENTS), "-d")
            ended = await trio.to_thread.run_sync(smtp_source, between.port, *arguments)
            await between.watcher.sessions_ended(10)
    assert ended.status == 0, ended.account
    assert sum(record.accepted for record in between.watcher.ended_sessions) == 200
    # The last line of its LHLO reply has no text.
    assert {repair.violation for repair in between.watcher.repairs} <= {Violation.MISSING_TEXT}


async def outcomes(postfix: Postfix, receiver_port: int, mail: Mail) -> list[Outcome]:
    """What Postfix believes of each recipient of a mail, by LMTP through the shim."""
    async with shim(receiver_port, lmtp=True) as between:
        believed = await trio.to_thread.run_sync(postfix.send_by_lmtp, between.port, mail, RECIPIENTS)
        await between.watcher.sessions_ended()
    return believed


@pytest.mark.parametrize("name", ["q152940", "q152940-rst", "early-552-drains"])
async def test_postfix_learns_why_each_recipient_was_refused(name: str, a_postfix: Postfix) -> None:
    with trio.fail_after(SECONDS), TABLE[name].start() as receiver:
        believed = await outcomes(a_postfix, receiver.port, LARGE)
    assert all(refused(TOO_BIG).allows(outcome) for outcome in believed), believed
    assert receiver.seen.mails == []


@pytest.mark.parametrize("name", ["q152940", "q152940-rst", "early-552-drains"])
async def test_who_has_no_verdict_behind_a_whole_mail_is_deferred(name: str, a_postfix: Postfix) -> None:
    """As the mail was small and all of it under way, the one refusal can't be told from the first recipient's own."""
    with trio.fail_after(SECONDS), TABLE[name].start() as receiver:
        believed = await outcomes(a_postfix, receiver.port, SMALL)
    assert refused(TOO_BIG).allows(believed[0]), believed
    assert all(each.believed in (Believed.DEFERRED, Believed.BOUNCED) for each in believed), believed
    assert receiver.seen.mails == []


async def test_each_recipient_has_its_own_verdict(a_postfix: Postfix) -> None:
    def to_each_its_own(talk: Talk) -> None:
        talk.say(b"354 go on\r\n")
        talk.seen.mails.append(talk.whole())
        talk.say(b"250 2.0.0 the first has it\r\n" + b"552 5.2.2 the second is full\r\n" + CLOSING)
        talk.fin()

    with trio.fail_after(SECONDS), FaultyReceiver(to_each_its_own) as receiver:
        believed = await outcomes(a_postfix, receiver.port, SMALL)
    assert [each.believed for each in believed] == [Believed.DELIVERED, Believed.BOUNCED, Believed.DEFERRED]
    assert SMALL.is_whole(receiver.seen.mails[0])


async def up_to_mail_data_for(stage: Stage, *recipients: bytes) -> None:
    """Greeting, LHLO, MAIL, these recipients, all accepted, and DATA; forget what was written."""
    await stage.feed(stage.receiver, b"220 hello\r\n")
    commands = (b"LHLO x", b"MAIL FROM:<a@b>", *(b"RCPT TO:<%s>" % each for each in recipients))
    for command in commands:
        await stage.feed(stage.sender, command + b"\r\n")
        await stage.feed(stage.receiver, b"250 OK\r\n")
    await stage.feed(stage.sender, b"DATA\r\n")
    await stage.feed(stage.receiver, b"354 go\r\n")
    stage.sender.written.clear()


def test_nothing_is_known_of_a_recipient_that_had_no_early_verdict_where_others_had() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data_for(stage, b"one@d", b"two@d", b"three@d")
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"552 one is full\r\n552 two is full\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b".\r\n")
        assert stage.sender.written.startswith(b"552 one is full\r\n552 two is full\r\n451 ")
        assert stage.sender.written.count(b"\r\n") == 3

    staged(script, policy=Policy(lmtp=True))


def test_a_mail_has_no_more_verdicts_for_the_recipients_of_the_one_before() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data_for(stage, b"one@d", b"two@d")
        await stage.feed(stage.sender, b".\r\n")
        await stage.feed(stage.receiver, b"250 one\r\n250 two\r\n")
        # A receiver that takes mail data without a MAIL: as RFC 2033 has it, it never does.
        await stage.feed(stage.sender, b"DATA\r\n")
        await stage.feed(stage.receiver, b"354 go\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.sender, b".\r\n")
        await stage.feed(stage.receiver, b"503 no recipients\r\n")
        await stage.feed(stage.sender, b"RSET\r\n")
        assert stage.receiver.written.endswith(b"RSET\r\n")
        assert stage.sender.written == b"503 no recipients\r\n"

    staged(script, policy=Policy(lmtp=True))


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [
        (Policy(lmtp=True, sizes=Sizes(10)), b"552 message size exceeds the limit\r\n"),
        (
            Policy(lmtp=True, newlines=Newlines.REJECT),
            b"550 mail data with a bare CR, bare LF or NUL in them\r\n",
        ),
    ],
    ids=["too big", "bare newlines"],
)
def test_the_operators_refusal_is_given_for_each_recipient(policy: Policy, verdict: bytes) -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data_for(stage, b"one@d", b"two@d")
        await stage.feed(stage.sender, b"ten octets\nand more\r\n.\r\n")
        assert stage.sender.written == 2 * verdict

    staged(script, policy=policy)
