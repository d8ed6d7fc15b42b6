"""Tidy commands: what senders of 1999 say, in the form that strict receivers want; everything else as it is."""

from __future__ import annotations

import pytest

from shimproxy import SettingsError
from shimproxy.session.policy import Policy
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import command_from_line
from shimproxy.smtp.newlines import Newlines
from shimproxy.smtp.tidy import tidied
from tests.config.test_settings import settings
from tests.memory import Stage, staged

UNTIDY = {
    b"MAIL FROM: <a@b>": b"MAIL FROM:<a@b>",
    b"MAIL FROM:a@b": b"MAIL FROM:<a@b>",
    b"mail from: a@b": b"mail from:<a@b>",
    b"MAIL  FROM : <a@b>": b"MAIL FROM:<a@b>",
    b"MAIL FROM:< a@b >": b"MAIL FROM:<a@b>",
    b"MAIL FROM:<a@b> ": b"MAIL FROM:<a@b>",
    b" MAIL FROM:<a@b>": b"MAIL FROM:<a@b>",
    b"MAIL FROM:<a@b>  SIZE=5  BODY=8BITMIME": b"MAIL FROM:<a@b> SIZE=5 BODY=8BITMIME",
    b"MAIL FROM: a@b SIZE=5": b"MAIL FROM:<a@b> SIZE=5",
    b"MAIL FROM: <>": b"MAIL FROM:<>",
    b"RCPT TO: <b@c>": b"RCPT TO:<b@c>",
    b"RCPT TO:b@c NOTIFY=NEVER": b"RCPT TO:<b@c> NOTIFY=NEVER",
    b'RCPT TO: "a b>c"@d': b'RCPT TO:<"a b>c"@d>',
    b"HELO": b"HELO mx.example",
    b"EHLO ": b"EHLO mx.example",
    b"HELO NT_SERVER": b"HELO mx.example",
    b"EHLO  host.example": b"EHLO host.example",
    b"EHLO two words": b"EHLO mx.example",
    b"HELO -x-": b"HELO mx.example",
}
TIDY = [
    b"MAIL FROM:<a@b>", b"MAIL FROM:<>", b"mail From:<a@b> SIZE=5", b'RCPT TO:<"a b"@c>', b"RCPT TO:<b@c> NOTIFY=NEVER",
    b"HELO host", b"EHLO host.example", b"EHLO [192.0.2.1]", b"EHLO [IPv6:2001:db8::1]", b"NOOP  x ", b"VRFY  a b",
    b"RCPT TO:postmaster <a@b>", b"MAIL FROM: John Smith <a@b>", b"RCPT TO: a@b, c@d",
    b"RCPT TO: a@b c@d", b'RCPT TO:"x" <a@b>', b"MAIL FROM: a@b SIZE=5\x0bX=1",
    b"MAIL FROM:", b"MAIL FROM:<a@b", b"MAIL <a@b>", b"RCPT TO:<a> b>", b"RCPT", b"X  y",
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), UNTIDY.items(), ids=repr)
def test_untidy_commands_are_put_in_order(line: bytes, expected: bytes) -> None:
    """And are then in order."""
    command, violation = tidied(command_from_line(line + b"\r\n"), b"mx.example")
    assert command.line == expected + b"\r\n"
    assert violation in (Violation.UNTIDY_PATH, Violation.IMPOSSIBLE_NAME)
    assert tidied(command, b"mx.example") == (command, None)


@pytest.mark.parametrize("line", TIDY, ids=repr)
def test_what_is_in_order_or_cannot_be_read_is_left_alone(line: bytes) -> None:
    command = command_from_line(line + b"\r\n")
    assert tidied(command, b"mx.example")[0] is command


def test_a_hello_with_a_bare_newline_that_passes_is_left_alone() -> None:
    command = command_from_line(b"HELO a\rb\r\n", Newlines.PASS)
    assert tidied(command, b"mx.example") == (command, None)


@pytest.mark.parametrize("tidy", [True, False])
def test_it_is_off_unless_asked_for(tidy: bool) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        for line in (b"HELO NT_SERVER\r\n", b"MAIL FROM: <a@b>\r\n", b"RCPT TO:<c@d> X=1\r\n"):
            await stage.feed(stage.sender, line)
            await stage.feed(stage.receiver, b"250 OK\r\n")
        assert (b"HELO mx.example\r\n" in stage.receiver.written) == tidy
        assert (b"MAIL FROM:<a@b>\r\n" in stage.receiver.written) == tidy
        assert (b"HELO NT_SERVER\r\nMAIL FROM: <a@b>\r\n" in stage.receiver.written) != tidy
        assert stage.receiver.written.endswith(b"\r\nRCPT TO:<c@d> X=1\r\n")

    stage = staged(script, policy=Policy(tidy=tidy, helo_name=b"mx.example"))
    assert stage.repaired == ([Violation.IMPOSSIBLE_NAME, Violation.UNTIDY_PATH] if tidy else [])


def test_a_name_that_cannot_be_is_no_setting() -> None:
    with pytest.raises(SettingsError, match="helo_name: 'NT_SERVER' is not a valid host name"):
        settings(helo_name="NT_SERVER")
