"""Keywords that the operator hides: they are not offered, and what belongs to them is refused."""

from __future__ import annotations

import re

import pytest
import trio

from shimproxy import Violation
from shimproxy.faulty.receiving import HOST
from shimproxy.session.policy import Policy, Sizes
from shimproxy.smtp.ehlo import Hidden, HiddenKeyword
from tests.memory import Stage, offered, staged
from tests.peers.postfix import MAILBOX_DOMAIN, postfix
from tests.peers.processes import need, poll, run
from tests.peers.shim import shim

SECONDS = 60.0


def hiding(*texts: str, **more: object) -> Policy:
    return Policy(hidden=Hidden.of([HiddenKeyword.parse(text) for text in texts]), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("octets", [0, 5, 200_000])
def test_the_octets_of_a_hidden_bdat_are_taken(octets: int) -> None:
    """Whatever is in them, and however long they are; none reaches the receiver."""

    async def script(stage: Stage) -> None:
        assert await offered(stage, b"CHUNKING") == b"250 hi\r\n"
        await stage.feed(stage.sender, b"BDAT %d LAST\r\n" % octets)
        await stage.feed(stage.sender, (b"QUIT\r\n" * octets)[:octets], 50_000)
        await stage.feed(stage.sender, b"NOOP\r\n")

    stage = staged(script, policy=hiding("CHUNKING"))
    assert bytes(stage.sender.written) == b"502 command not offered through this proxy\r\n"
    assert bytes(stage.receiver.written) == b"NOOP\r\n"
    assert stage.repaired == [Violation.WITHHELD_COMMAND]


def test_a_hidden_size_is_not_offered_where_the_operator_has_a_limit() -> None:
    async def script(stage: Stage) -> None:
        assert await offered(stage, b"SIZE 1000", b"DSN") == b"250-hi\r\n250 DSN\r\n"

    staged(script, policy=hiding("SIZE", sizes=Sizes(500)))


def test_commands_that_were_pipelined_before_a_hidden_one_are_answered_first() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING", b"ETRN")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nETRN x\r\nRSET\r\n")
        await stage.feed(stage.receiver, b"250 1\r\n250 2\r\n")
        await stage.feed(stage.receiver, b"250 3\r\n")

    stage = staged(script, policy=hiding("ETRN"))
    refusal = b"502 command not offered through this proxy\r\n"
    assert bytes(stage.sender.written) == b"250 1\r\n250 2\r\n" + refusal + b"250 3\r\n"
    assert bytes(stage.receiver.written) == b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nRSET\r\n"


def test_what_stands_after_a_hidden_mechanism_is_told_nobody() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage, b"AUTH PLAIN XOAUTH2")
        await stage.feed(stage.sender, b"AUTH XOAUTH2 c2VjcmV0\r\n")
        await stage.feed(stage.sender, b"QUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        stage.sender.feed_fin()
        stage.receiver.feed_fin()
        await stage.settle()

    stage = staged(script, policy=hiding("AUTH:XOAUTH2"))
    assert b"504 AUTH mechanism not offered through this proxy\r\n" in stage.sender.written
    assert b"c2VjcmV0" not in stage.receiver.written
    assert b"c2VjcmV0" not in b"".join(octets for _, octets in stage.account.dialogue)
    assert stage.record.trace
    assert b"c2VjcmV0" not in b"".join(entry.text for entry in stage.record.trace.entries)


@pytest.mark.once
async def test_swaks_is_not_offered_what_is_hidden_and_its_mail_arrives() -> None:
    with trio.fail_after(SECONDS), postfix() as receiver:
        before = receiver.count("contents")
        async with shim(receiver.port, hide="SMTPUTF8,VRFY,CHUNKING") as between:
            where = ["--server", HOST, "--port", str(between.port), "--helo", "swaks.example"]
            what = ["--from", "a@sender.example", "--to", f"contents@{MAILBOX_DOMAIN}"]
            ended = await trio.to_thread.run_sync(run, [need("swaks"), *where, *what])
        poll(lambda: receiver.count("contents") > before, "a mail stored")
    assert ended.status == 0, ended.account
    keywords = {*re.findall(r"^<-  250[- ]([A-Z0-9]+)", ended.said, re.MULTILINE)}
    assert {"PIPELINING", "SIZE"} <= keywords, ended.said
    assert not keywords & {"SMTPUTF8", "VRFY", "CHUNKING"}
