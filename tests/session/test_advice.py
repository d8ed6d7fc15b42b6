"""What is said of a receiver that is set up for something else: once, in time, and only where something may be mended.

In memory and in virtual time. The real programs are in tests/probe/test_wants_something_else.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shimproxy.config.sources import Sources
from shimproxy.observe.journal import Journal
from shimproxy.observe.safe_observer import SafeObserver
from shimproxy.session.advice import SILENT_SECONDS, Advice, of_close, of_failed_tls, of_refused_hello, of_silence
from shimproxy.session.policy import Policy
from shimproxy.session.record import SessionRecord
from shimproxy.smtp.command import Verb
from shimproxy.smtp.reply import ReplyReader
from tests.memory import Stage, staged
from tests.observe.test_journal import lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.smtp.reply import Reply
    from tests.observe.test_journal import Lines

__all__ = ["lines"]


class Advised:
    """An observer that takes advice, before another one."""

    def __init__(self, observer: object) -> None:
        self._observer = observer
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._observer, name)

    def advised(self, record: SessionRecord, advice: Advice) -> None:
        self.seen.append(advice.seen)


def advised(script: Callable[[Stage], Awaitable[None]], policy: Policy | None = None) -> tuple[list[str], Stage]:
    """What a session is told of its receiver."""
    observers: list[Advised] = []

    async def with_observer(stage: Stage) -> None:
        observers.append(Advised(stage.session.events.observer))
        stage.session.events.observer = observers[0]
        await script(stage)

    stage = staged(with_observer, policy=policy)
    return observers[0].seen, stage


def reply(text: bytes) -> Reply:
    reader = ReplyReader()
    reader.feed(text + b"\r\n")
    made = reader.next_reply()
    assert made
    return made


# -- silence


def test_silence_is_told_of_within_five_seconds_and_the_greeting_is_still_waited_for() -> None:
    async def script(stage: Stage) -> None:
        await stage.pass_time(5)
        await stage.pass_time(200)
        await stage.feed(stage.receiver, b"220 hello at last\r\n")
        assert bytes(stage.sender.written) == b"220 hello at last\r\n"

    seen, stage = advised(script)
    assert (seen, stage.repaired) == (["silent"], [])


def test_a_silent_receiver_has_its_whole_deadline_and_no_more() -> None:
    async def script(stage: Stage) -> None:
        await stage.pass_time(stage.deadlines.greeting - 1)
        assert not stage.over
        await stage.pass_time(4)

    seen, stage = advised(script)
    assert seen == ["silent"]
    assert [str(each) for each in stage.repaired] == ["no-greeting"]


@pytest.mark.parametrize("said", [b"220 hello\r\n", b"220-hello\r\n", b"2"])
def test_a_receiver_that_has_begun_its_greeting_is_not_silent(said: bytes) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, said)
        await stage.pass_time(20)

    assert advised(script)[0] == []


@pytest.mark.parametrize("spoken_after", [0, 10])
def test_what_a_sender_says_to_a_silent_receiver_is_held_as_before(spoken_after: float) -> None:
    """Before the silence is told of, or after that."""

    async def script(stage: Stage) -> None:
        await stage.pass_time(spoken_after)
        await stage.feed(stage.sender, b"HELO x\r\n")
        await stage.pass_time(20)
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.receiver, b"250 hi\r\n")
        assert bytes(stage.sender.written) == b"220 hello\r\n250 hi\r\n"
        assert bytes(stage.receiver.written) == b"HELO x\r\n"

    seen, stage = advised(script)
    assert (seen, [str(each) for each in stage.repaired]) == (["silent"], ["early-talk"])


def test_a_receiver_that_disconnects_without_a_greeting_is_told_of() -> None:
    async def script(stage: Stage) -> None:
        stage.receiver.feed_fin()
        await stage.settle()

    seen, stage = advised(script)
    assert (seen, [str(each) for each in stage.repaired]) == (["closes"], ["no-greeting"])


# -- hellos


@pytest.mark.parametrize(
    ("dialogue", "seen"),
    [
        ([(b"EHLO x", b"500 what"), (b"HELO x", b"500 what")], ["lmtp"]),
        ([(b"EHLO x", b"502 5.5.2 use LHLO")], ["lmtp"]),
        ([(b"EHLO x", b"550 5.7.1 this is LMTP")], ["lmtp"]),
        ([(b"EHLO x", b"500 what"), (b"HELO x", b"250 hi")], []),
        ([(b"EHLO x", b"550 I do not like you"), (b"HELO x", b"550 I do not like you")], []),
        ([(b"EHLO x", b"250 hi"), (b"MAIL FROM:<lmtp@x>", b"550 no LMTP today")], []),
        ([(b"EHLO x", b"421 busy")], []),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_receiver_that_refuses_each_hello_of_smtp_may_want_lmtp(
    dialogue: list[tuple[bytes, bytes]], seen: list[str]
) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        for command, answer in dialogue:
            await stage.feed(stage.sender, command + b"\r\n")
            await stage.feed(stage.receiver, answer + b"\r\n")

    assert advised(script)[0] == seen


@pytest.mark.parametrize(("code", "seen"), [(b"500", ["smtp"]), (b"503", ["smtp"]), (b"550", []), (b"451", [])])
def test_a_receiver_that_refuses_the_hello_of_lmtp_may_want_smtp(code: bytes, seen: list[str]) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"LHLO x\r\n")
        await stage.feed(stage.receiver, code + b" no\r\n")

    assert advised(script, Policy(lmtp=True))[0] == seen


# -- words


def test_each_mend_is_a_setting() -> None:
    """With its value, as the command line takes it."""
    several = [
        of_silence("a:465", sends_header=False),
        of_silence("a:25", sends_header=False),
        of_close("a:25", sends_header=False),
        of_failed_tls("wrong version number"),
        of_refused_hello(Verb.HELO, reply(b"500 what")),
    ]
    for advice in several:
        assert advice
        for flag in advice.message.split("--")[1:]:
            name, _, value = flag.replace(";", " ").replace(",", " ").partition(" ")
            word = value.split(" ")[0]
            text = [word] if word in ("v2", "implicit", "required") else ["true"]
            Sources.gather({"listen": ["a:1"], "receiver": ["b:2"], name: text}, {}).settings()


def test_the_port_of_tls_is_enough_to_know() -> None:
    assert "PROXY" not in of_silence("192.0.2.7:465", sends_header=False).message
    assert "PROXY" in of_silence("192.0.2.7:4650", sends_header=False).message
    assert "remove --send-proxy" in of_silence("192.0.2.7:25", sends_header=True).message
    assert of_failed_tls("certificate not accepted: expired") is None
    assert of_refused_hello(Verb.MAIL, reply(b"550 LMTP")) is None
    assert SILENT_SECONDS < 5


# -- the log


def test_a_likely_mend_is_logged_once_for_each_receiver(lines: Lines) -> None:
    sut = Journal()
    observer = SafeObserver(sut, sut)
    for number in range(3):
        for receiver in ("192.0.2.7:25", "192.0.2.8:25"):
            record = SessionRecord(f"a-{number}", "192.0.2.1:1", receiver)
            observer.advised(record, of_silence(receiver, sends_header=False))
    logged = [line for line in lines.text if " likely_mend " in line]
    assert [line.split(" receiver=")[1].split(" ")[0] for line in logged] == ["192.0.2.7:25", "192.0.2.8:25"]


def test_a_flood_of_receivers_is_no_flood_of_lines(lines: Lines) -> None:
    sut = Journal()
    for number in range(5000):
        record = SessionRecord("a-1", "192.0.2.1:1", f"192.0.2.7:{number}")
        sut.advised(record, of_close(record.receiver, sends_header=False))
    assert len(lines.text) == 1000


def test_an_observer_that_takes_no_advice_is_given_none() -> None:
    class Other:
        wants_dialogue = False

    other: Any = Other()
    SafeObserver(other, Journal()).advised(SessionRecord("a", "b"), Advice("silent", ""))
