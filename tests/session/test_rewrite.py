"""Refusals that a rule corrects: what the sender is given, what shimproxy then does, and what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from shimproxy import Violation
from shimproxy.config.sources import Sources
from shimproxy.faulty.outcome import Believed
from shimproxy.records.session_ladder import ladder_of
from shimproxy.records.text import read, record_text_of
from shimproxy.session.limits import Limits
from shimproxy.session.policy import Policy
from shimproxy.smtp.reply import Reply
from shimproxy.smtp.rewrite import Rewrite
from tests.blocks import blocks
from tests.memory import MAIL, RCPT, Stage, dialogue, offered, staged, up_to_mail_data
from tests.peers.mail import LARGE
from tests.peers.postfix import postfix
from tests.peers.programs import curl, swaks
from tests.peers.shim import shim
from tests.peers.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shimproxy.faulty.mail import Mail
    from shimproxy.faulty.outcome import Outcome

SECONDS = 120.0
TOO_BIG = "end-of-data: 451 .* too big => 552 5.3.4"


def ruled(*rules: str) -> Policy:
    return Policy(rewrites=tuple(map(Rewrite.parse, rules)))


def test_the_reply_as_it_was_is_in_the_log_the_record_and_the_ladder() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n.\r\n")
        await stage.feed(stage.receiver, b"451 4.3.0 it is too big\r\n")
        await stage.feed(stage.sender, b"QUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        stage.sender.feed_fin()
        stage.receiver.feed_fin()
        await stage.settle()

    stage = staged(script, policy=ruled(TOO_BIG))
    (repair,) = stage.account.repairs
    given = b"552 5.3.4 it is too big\r\n"
    assert repair.detail == {"rule": TOO_BIG, "reply": b"451 4.3.0 it is too big\r\n", "given": given}
    assert repair.phase == "end of mail data"
    assert ("shim", given) in stage.account.dialogue
    assert (stage.record.transactions, stage.record.accepted, stage.record.replies[4]) == (1, 0, 0)
    frames = [(frame.who, frame.what) for frame in ladder_of(read(record_text_of(stage.record))).frames]
    assert ("Receiver", "451 4.3.0 it is too big (25)") in frames
    assert ("shimproxy", "repair: rewritten-reply") in frames
    assert ("shimproxy", "552 5.3.4 it is too big (25)") in frames


def test_after_a_chunk_that_is_refused_for_good_by_rule_the_others_get_the_same() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        await dialogue(stage, MAIL, RCPT)
        stage.sender.written.clear()
        await stage.feed(stage.sender, b"BDAT 3\r\na\r\n")
        await stage.feed(stage.receiver, b"451 it is too big\r\n")
        await stage.feed(stage.sender, b"BDAT 3 LAST\r\nb\r\n")

    stage = staged(script, policy=ruled(TOO_BIG))
    assert bytes(stage.sender.written) == b"552 it is too big\r\n" * 2


def test_a_verdict_that_is_held_is_corrected_for_a_sender_that_does_not_end_its_mail() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n")
        await stage.feed(stage.receiver, b"451 it is too big\r\n")
        await stage.pass_time(1000)
        await stage.pass_time(1000)

    stage = staged(script, policy=ruled(TOO_BIG))
    assert bytes(stage.sender.written) == b"552 it is too big\r\n"
    assert {Violation.EARLY_REPLY, Violation.REWRITTEN_REPLY} <= {*stage.repaired}


@pytest.mark.parametrize(("rule", "ends"), [("rcpt: 4.*unknown => 500", True), ("rcpt: 5.*unknown => 450", False)])
def test_a_refusal_counts_as_the_sender_was_given_it(rule: str, ends: bool) -> None:
    """So many commands that are unknown or malformed end a session, whoever says so."""

    async def script(stage: Stage) -> None:
        await offered(stage)
        for _ in range(3):
            await stage.feed(stage.sender, b"RCPT TO:<b@c>\r\n")
            await stage.feed(stage.receiver, b"450 unknown\r\n" if ends else b"500 unknown\r\n")

    stage = staged(script, Limits(bad_commands=2), ruled(rule))
    assert (b"421" in stage.sender.written) is ends


def test_a_reply_of_shimproxys_own_and_a_421_are_left_alone() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"text\r\n.\r\n")
        await stage.feed(stage.receiver, b"421 too busy\r\n")
        stage.receiver.feed_fin()
        await stage.settle()

    stage = staged(script, policy=ruled("end-of-data: .* => 552", "data: .* => 552"))
    assert bytes(stage.sender.written).startswith(b"421 too busy\r\n")
    assert Violation.REWRITTEN_REPLY not in stage.repaired


def test_the_rules_of_the_page_are_what_it_says_of_them(tmp_path: Path) -> None:
    file = tmp_path / "shimproxy.toml"
    file.write_text(blocks("sessions", "settings-file")["settings-file"])
    rules = Sources.gather({"receiver": ["a:1"], "listen": ["127.0.0.1:1"]}, {}, str(file)).settings().rewrite
    greylisted = Reply(550, b"550 5.7.1 Greylisted for a minute\r\n")
    assert [rule.applied(greylisted, enhanced=True) for rule in rules] == [
        None,
        Reply(450, b"450 4.7.1 Greylisted for a minute\r\n"),
    ]


@pytest.mark.once
@pytest.mark.parametrize("send", [swaks, curl])
async def test_a_program_gives_a_mail_up_that_mox_says_to_try_again(send: Callable[[int, Mail], Outcome]) -> None:
    row = TABLE["mox-451-rst"]
    with trio.fail_after(SECONDS), row.start() as receiver:
        async with shim(receiver.port, row.deadlines, rewrite="end-of-data: 451 => 552 5.3.4") as between:
            outcome = await trio.to_thread.run_sync(send, between.port, LARGE)
            await between.watcher.sessions_ended()
    assert outcome.believed is Believed.BOUNCED, outcome
    assert [repair.violation for repair in between.watcher.repairs] == [
        Violation.EARLY_REPLY,
        Violation.REWRITTEN_REPLY,
    ]


@pytest.mark.once
async def test_postfix_bounces_a_mail_at_once_that_mox_says_to_try_again() -> None:
    row = TABLE["mox-451-rst"]
    believed = []
    with trio.fail_after(SECONDS), postfix() as sender:
        for rule in ([], ["end-of-data: 451 => 552 5.3.4"]):
            with row.start() as receiver:
                async with shim(receiver.port, row.deadlines, rewrite=rule) as between:
                    outcome = await trio.to_thread.run_sync(sender.send, between.port, LARGE)
            believed.append(outcome.believed)
    assert believed == [Believed.DEFERRED, Believed.BOUNCED]
