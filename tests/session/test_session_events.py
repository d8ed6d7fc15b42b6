"""What is told of a session: who said what, mail data as counts, each repair once, and nothing of AUTH."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from shimproxy.records.text import record_text_of
from shimproxy.session.policy import Policy, ReceiverTls, SenderTls
from shimproxy.session.record import Repair, SessionRecord
from shimproxy.session.tracer import Tracer
from shimproxy.smtp.catalogue import Violation
from tests.memory import MemoryObserver, Stage, staged, up_to_mail_data

if TYPE_CHECKING:
    from shimproxy.smtp.reply import Reply

SECRET = base64.b64encode(b"\0user\0correct horse").decode()


def all_that_was_told(stage: Stage) -> str:
    """The dialogue, the details of the repairs, and the session's file, with mail data in it."""
    repairs = [value for repair in stage.account.repairs for value in repair.detail.values()]
    assert stage.tracer
    assert stage.tracer.keeps_mail_data
    assert len(stage.tracer.notes.trace().entries) > 1
    return repr((stage.account.dialogue, repairs)) + record_text_of(stage.record)


async def greeted(stage: Stage) -> None:
    await stage.feed(stage.receiver, b"220 hello\r\n")


# -- AUTH

ECHOES = {
    "an unknown command": b'500 5.5.1 Command unrecognized: "AUTH PLAIN %s"\r\n',
    "in several lines": b"535-failed for\r\n535 %s\r\n",
    "an implausible reply": b"354 %s\r\n",
    "a malformed 334": b"334 %s\n",
    "an extra reply": b"535 no\r\n250 %s\r\n",
    "no code at all": b"%s\r\n",
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_a_receiver_that_repeats_the_secret_is_not_told_of(echo: bytes) -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, f"AUTH PLAIN {SECRET}\r\n".encode())
        await stage.feed(stage.receiver, echo % SECRET.encode())
        stage.sender.feed_fin()
        await stage.settle()

    assert SECRET not in all_that_was_told(staged(script))


def test_a_secret_is_not_told_where_the_shim_asks_the_receiver_something_before_it() -> None:
    """The first command of a session without EHLO: the shim's own EHLO goes to the receiver between it and AUTH."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, f"AUTH PLAIN {SECRET}\r\n".encode())
        await stage.feed(stage.receiver, b"250 hi\r\n")
        await stage.feed(stage.receiver, f"500 unknown: AUTH PLAIN {SECRET}\r\n".encode())
        await stage.feed(stage.sender, b"QUIT\r\n")

    stage = staged(script, policy=Policy(sender_tls=SenderTls.OFF, receiver_tls=ReceiverTls.OPPORTUNISTIC))
    assert bytes(stage.receiver.written).startswith(b"EHLO [127.0.0.1]\r\nAUTH PLAIN ")
    assert SECRET not in all_that_was_told(stage)


def test_a_secret_sent_behind_a_refused_auth_is_not_told() -> None:
    """It is forwarded as commands, as it would be without the shim, and echoed by some receivers."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, f"AUTH LOGIN\r\n{SECRET}\r\n{SECRET}\r\nQUIT\r\n".encode())
        await stage.feed(stage.receiver, b"504 no\r\n")
        await stage.feed(stage.receiver, f"500 unknown: {SECRET}\r\n".encode())
        await stage.feed(stage.receiver, f"500 unknown: {SECRET}\r\n".encode())
        await stage.feed(stage.receiver, b"221 bye\r\n")

    stage = staged(script)
    assert SECRET not in all_that_was_told(stage)
    assert ("sender", b"QUIT\r\n") in stage.account.dialogue


@pytest.mark.parametrize(
    "line", ["X-EXPS LOGIN %s\r\n", "\0AUTH PLAIN %s\r\n", "AUTH\0 PLAIN %s\r\n", " AUTH PLAIN %s\r\n"]
)
def test_a_secret_in_a_line_that_is_not_quite_auth_is_not_told(line: str) -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, (line % SECRET).encode())
        await stage.feed(stage.receiver, b"334 \r\n")
        await stage.feed(stage.sender, f"{SECRET}\r\n".encode())

    assert SECRET not in all_that_was_told(staged(script))


def test_an_exchange_of_a_thousand_rounds_is_no_trouble() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"AUTH X-LONG\r\n")
        for _ in range(1000):
            await stage.feed(stage.receiver, b"334 more\r\n")
            await stage.feed(stage.sender, b"more\r\n")
        await stage.feed(stage.receiver, b"235 welcome\r\n")

    assert bytes(staged(script).sender.written).endswith(b"334 more\r\n235 welcome\r\n")


def test_what_follows_auth_is_told_again_whether_the_dialogue_is_wanted_or_not() -> None:
    async def script(stage: Stage) -> None:
        stage.session.events.telling = False
        await greeted(stage)
        await stage.feed(stage.sender, b"AUTH PLAIN x\r\n")
        await stage.feed(stage.receiver, b"235 welcome\r\n")
        await stage.feed(stage.sender, b"NOOP\r\n")
        await stage.feed(stage.receiver, b"250\r\n")

    (repair,) = staged(script).account.repairs
    assert repair.detail == {"reply": b"250 (the receiver gave no text)\r\n"}


# -- the dialogue


def test_mail_data_are_told_as_a_count_and_every_reply_with_its_giver() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        stage.account.dialogue.clear()
        await stage.feed(stage.sender, b"Subject: private\r\n\r\n.\r\n")
        await stage.feed(stage.receiver, b"250 queued\r\n")
        await stage.feed(stage.sender, b"XCLIENT x\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"250-hi\r\n250-XEXCH50\r\n250 HELP\r\n")

    assert staged(script).account.dialogue == [
        ("sender", b"(23 octets of mail data)"),
        ("receiver", b"250 queued\r\n"),
        ("sender", b"XCLIENT (11 octets)"),
        ("shim", b"502 command not offered through this proxy\r\n"),
        ("sender", b"EHLO x\r\n"),
        ("receiver", b"250-hi\r\n250-XEXCH50\r\n250 HELP\r\n"),
        ("shim", b"250-hi\r\n250 HELP\r\n"),
    ]


def test_an_early_reply_is_told_as_the_receivers() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n421 bye\r\n")

    dialogue = staged(script).account.dialogue
    assert dialogue[-2:] == [("receiver", b"552 too big\r\n"), ("receiver", b"421 bye\r\n")]


@pytest.mark.parametrize("traced", [True, False])
def test_an_observer_that_does_not_want_the_dialogue_is_not_told_it_for_the_sake_of_a_trace(traced: bool) -> None:
    async def play(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"AUTH LOGIN\r\n")
        await stage.feed(stage.receiver, b"334 \r\n")
        await stage.feed(stage.sender, b"dXNlcg==\r\n")
        await stage.feed(stage.receiver, b"535 no\r\n")
        await stage.feed(stage.sender, b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nDATA\r\n")
        for reply in (b"250 hi", b"250 OK", b"250 OK", b"354 go"):
            await stage.feed(stage.receiver, reply + b"\r\n")
        await stage.feed(stage.sender, b"x\r\n.\r\n")
        await stage.feed(stage.receiver, b"250 queued\r\n")
        await stage.feed(stage.sender, b"XCLIENT x\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.receiver, b"250-hi\r\n250-XEXCH50\r\n250 HELP\r\n")

    stages: list[Stage] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            tracer = Tracer(keeps_mail_data=True) if traced else None
            stages.append(stage := Stage(nursery, clock, account=MemoryObserver(wants_dialogue=False), tracer=tracer))
            await stage.start()
            await play(stage)
            nursery.cancel_scope.cancel()

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)
    assert stages[0].account.dialogue == []
    assert stages[0].record.trace is None if not traced else "250 queued" in record_text_of(stages[0].record)
    assert stages[0].receiver.written.endswith(b"x\r\n.\r\nEHLO x\r\n")


# -- repairs


def test_a_refusal_for_each_line_is_one_repair_whatever_its_form() -> None:
    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x\r\n")
        await stage.feed(stage.receiver, b"552 too big\r\n" + b"500\r\n500 what?\n" * 100)
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b".\r\n")

    assert sorted(str(each) for each in staged(script).repaired) == [
        "early-reply",
        "further-reply",
        "missing-text",
        "reply-bare-newline",
    ]


def test_extra_replies_between_two_commands_are_one_repair() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        for _ in range(100):
            await stage.feed(stage.receiver, b"250\r\n")
        await stage.feed(stage.sender, b"NOOP\r\n")

    stage = staged(script)
    assert stage.repaired == [Violation.MISSING_TEXT, Violation.EXTRA_REPLY]
    assert stage.account.repairs[-1].detail["count"] == 100


def test_a_linger_that_the_shims_own_end_cuts_short_is_no_fault_of_the_peer() -> None:
    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"QUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        stage.session.stop_now()
        await stage.settle()

    stage = staged(script)
    assert stage.over
    assert stage.repaired == []


@pytest.mark.parametrize(
    "unasked", [b"250 SECRET\r\n", b"500 SECRET\n", b"500 SECRET", b"421 x\r\n500 a\r\n500 SECRET\r\n"]
)
@pytest.mark.parametrize("when", ["with the reply", "later"])
def test_what_a_receiver_says_unasked_behind_auth_is_hidden(unasked: bytes, when: str) -> None:
    """It may say there what it has heard; the next command is told again."""

    async def script(stage: Stage) -> None:
        await greeted(stage)
        await stage.feed(stage.sender, b"AUTH PLAIN SECRET\r\n")
        if when == "later":
            await stage.feed(stage.receiver, b"535 no\r\n")
            await stage.feed(stage.receiver, unasked)
        else:
            await stage.feed(stage.receiver, b"535 no\r\n" + unasked)
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        stage.receiver.feed_fin()
        await stage.pass_time(10)
        await stage.feed(stage.sender, b"QUIT\r\n")
        stage.sender.feed_fin()
        await stage.pass_time(60)

    stage = staged(script)
    assert stage.account.repairs
    assert "SECRET" not in all_that_was_told(stage)
    assert ("sender", b"MAIL FROM:<a@b>\r\n") in stage.account.dialogue


# -- a refused login


@attrs.define(eq=False)
class WithLogins(MemoryObserver):
    """An observer that wants to know of refused logins."""

    logins: list[tuple[str, int]] = attrs.field(factory=list)

    def login_refused(self, _record: SessionRecord, mechanism: str, reply: Reply) -> None:
        self.logins.append((mechanism, reply.code))


@pytest.mark.parametrize(
    ("command", "mechanism"),
    [
        (b"AUTH LOGIN", "LOGIN"),
        (b"auth plain " + SECRET.encode(), "PLAIN"),
        (b"AUTH " + SECRET.encode(), "other"),
        (b"AUTH HUNTER2", "other"),
        (b"AUTH \xff\xff", "other"),
        (b"AUTH " + b"X" * 400, "other"),
        (b"AUTH", "other"),
    ],
)
def test_a_refused_login_is_told_by_its_mechanism_alone(command: bytes, mechanism: str) -> None:
    observer = WithLogins()

    async def script(stage: Stage) -> None:
        stage.session.events.observer = observer
        await greeted(stage)
        await stage.feed(stage.sender, command + b"\r\n")
        if mechanism == "LOGIN":
            await stage.feed(stage.receiver, b"334 VXNlcm5hbWU6\r\n")
            await stage.feed(stage.sender, b"eA==\r\n")
        await stage.feed(stage.receiver, b"535 5.7.8 no\r\n")
        await stage.feed(stage.sender, b"AUTH PLAIN eA==\r\n")
        await stage.feed(stage.receiver, b"235 2.7.0 in\r\n")

    staged(script)
    assert observer.logins == [(mechanism, 535)]


@pytest.mark.parametrize("observed", [True, False])
def test_nothing_is_counted_for_all_sessions(observed: bool) -> None:
    """What those have in common of which nothing is counted is one object."""
    first, second = SessionRecord("1", "a"), SessionRecord("2", "b")
    for counted in (first.seen, first.repairs):
        with pytest.raises(AssertionError, match="for all sessions"):
            counted[Violation.EARLY_REPLY] += 1
        with pytest.raises(AssertionError, match="for all sessions"):
            counted.update([Violation.EARLY_REPLY])
    first.count(Repair(Violation.EARLY_REPLY, "DATA", {}, observed=observed))
    own, other = (first.seen, first.repairs) if observed else (first.repairs, first.seen)
    assert (own, other, second.seen, second.repairs) == ({Violation.EARLY_REPLY: 1}, {}, {}, {})
