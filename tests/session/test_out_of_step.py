"""Replies that come late, twice or not at all: no mail is accepted of which a refusal was lost (guarantees 1 and 2)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.dialogue import NextRead, Verdict, unasked
from shimproxy.smtp.reply import Reply
from tests.memory import Stage, offered, staged

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (b"MAIL FROM:<a@b>", b"RCPT TO:<one@d>", b"RCPT TO:<two@d>", b"RCPT TO:<three@d>", b"DATA")


def replies_to(codes: Sequence[int]) -> list[bytes]:
    """What the receiver truly says to the commands; each recipient has a code."""
    return [b"250 sender\r\n", *(b"%d recipient\r\n" % code for code in codes), b"354 go\r\n"]


async def said(stage: Stage, octets: bytes) -> bytes:
    """Have the receiver say that; what the sender has got by then, since its last command."""
    if octets and not stage.receiver.closed:
        await stage.feed(stage.receiver, octets)
    return bytes(stage.sender.written)


def told(codes: Sequence[int], extra: int | None, missing: int | None, *, late: bool, group: bool) -> list[int]:
    """The codes that the sender was told, up to the verdict, of a mail to three recipients.

    Args:
        codes: the receiver's true replies to these.
        extra: to which command it gives its reply twice.
        missing: to which it gives none.
        late: whether what is extra comes only after the next command.
        group: whether the commands come together.
    """
    codes_told: list[int] = []

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING")
        stage.sender.written.clear()
        owed = b""
        if group:
            await stage.feed(stage.sender, b"".join(command + b"\r\n" for command in COMMANDS))
        for index, (command, reply) in enumerate(zip(COMMANDS, replies_to(codes), strict=True)):
            if not group:
                stage.sender.written.clear()
                await stage.feed(stage.sender, command + b"\r\n")
            got = await said(stage, owed + (b"" if index == missing else reply))
            owed = reply if index == extra else b""
            if not late:
                got, owed = await said(stage, owed), b""
            if not group:
                if not got:
                    return  # it waits for its reply
                codes_told.append(int(got[:3]))
                if codes_told[-1] == 421:
                    return
        if group:
            codes_told.extend(int(line[:3]) for line in bytes(stage.sender.written).splitlines())
        if codes_told[-1] == 354 and len(codes_told) == len(COMMANDS):
            stage.sender.written.clear()
            await stage.feed(stage.sender, b"text\r\n.\r\n")
            got = await said(stage, owed + b"250 queued\r\n")
            codes_told.extend(int(line[:3]) for line in got.splitlines())

    staged(script)
    return codes_told


@pytest.mark.parametrize("group", [False, True], ids=["one by one", "in a group"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_whoever_is_told_of_success_was_told_of_each_refusal(late: bool, group: bool) -> None:
    for codes in itertools.product((250, 550, 450), repeat=3):
        for extra, missing in [(at, None) for at in range(4)] + [(None, at) for at in range(5)] + [(None, None)]:
            heard = told(codes, extra, missing, late=late, group=group)
            if len(heard) > len(COMMANDS) and heard[len(COMMANDS)] == 250:
                case = f"{codes}, {extra=}, {missing=}: {heard}"
                for code, code_told in zip(codes, heard[1:4], strict=True):
                    assert code == 250 or code_told >= 400, case


def test_without_a_fault_every_mail_is_accepted() -> None:
    """So that the test above does not hold because nothing is."""
    for codes in itertools.product((250, 550), repeat=3):
        assert told(codes, None, None, late=False, group=True) == [250, *codes, 354, 250]
    assert told((250, 250, 250), 2, None, late=False, group=False) == [250, 250, 250, 250, 354, 250]


def test_a_refusal_that_nothing_has_asked_for_ends_a_transaction() -> None:
    async def script(stage: Stage) -> None:
        await offered(stage)
        for command in COMMANDS[:2]:
            await stage.feed(stage.sender, command + b"\r\n")
            await stage.feed(stage.receiver, b"250 OK\r\n")
        await stage.feed(stage.receiver, b"550 the first one, after all\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.sender, b"RCPT TO:<two@d>\r\n")
        assert stage.sender.written.startswith(b"421 ")
        assert stage.sender.got_fin

    assert Violation.EXTRA_REPLY in staged(script).repaired


@pytest.mark.parametrize(
    ("code", "in_transaction", "refused", "verdict"),
    [
        (250, False, False, Verdict.DROP),
        (250, False, True, Verdict.DROP),
        (250, True, False, Verdict.DROP),
        (250, True, True, Verdict.OUT_OF_STEP),
        (450, False, True, Verdict.DROP),
        (450, True, False, Verdict.OUT_OF_STEP),
        (550, False, False, Verdict.DROP),
        (550, True, False, Verdict.OUT_OF_STEP),
        (550, True, True, Verdict.OUT_OF_STEP),
        (354, False, False, Verdict.OUT_OF_STEP),
        (354, True, False, Verdict.OUT_OF_STEP),
        (421, False, False, Verdict.DROP),
        (421, True, True, Verdict.DROP),
        (0, True, True, Verdict.DROP),
    ],
)
def test_what_becomes_of_an_unasked_reply(code: int, in_transaction: bool, refused: bool, verdict: Verdict) -> None:
    reply = Reply(code, b"%d text\r\n" % code)
    ruled, then = unasked(reply, in_transaction=in_transaction, refused=refused)

    assert ruled is verdict
    assert then is (NextRead.CLOSE if code == 421 or verdict is Verdict.OUT_OF_STEP else NextRead.COMMANDS)
