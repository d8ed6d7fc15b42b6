"""Another receiver in the midst of a session: what it is given, and what never; see also test_receivers.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs
import pytest

from shimproxy import Login
from shimproxy.session.policy import Policy, ReceiverTls, SenderTls
from shimproxy.smtp.catalogue import Violation
from tests.memory import Stage, offered, staged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.net.leg import Leg
    from shimproxy.net.tls import ReceiverSecurity
    from tests.memory import MemoryRoute, MemorySocket

OF_TWO = Policy(fails_over=True)
MAIL, RCPT = b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n"
CHUNK = b"BDAT 5 LAST\r\nhello"


def of_two(script: Callable[[Stage], Awaitable[None]], policy: Policy = OF_TWO) -> Stage:
    """Run `script` on a stage with a second receiver that was not tried yet."""

    async def with_another(stage: Stage) -> None:
        cast("MemoryRoute", stage.session.route).has_more = True
        await script(stage)

    return staged(with_another, policy=policy)


async def the_first_leaves(stage: Stage) -> None:
    """For the second one, which is the last."""
    stage.receiver.feed_fin()
    await stage.settle()
    cast("MemoryRoute", stage.session.route).has_more = False


@pytest.mark.parametrize("chunk", [CHUNK, b"BDAT 5\r\nhello"], ids=["last", "first"])
def test_what_comes_with_a_chunk_is_given_to_no_other(chunk: bytes) -> None:
    """The chunk is not kept: without it, the replies of the second receiver would answer the wrong commands."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING", b"CHUNKING")
        await stage.feed(stage.sender, MAIL + RCPT + chunk)
        assert stage.receiver.written == MAIL + RCPT + chunk
        await the_first_leaves(stage)
        assert not stage.earlier_receivers
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"451", b"451", b"421"]
        assert stage.sender.got_fin

    of_two(script)


def test_what_was_answered_with_a_chunk_that_stopped_is_not_said_again() -> None:
    """The first receiver left in the midst of a chunk, and a fresh leg at the next MAIL."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"PIPELINING", b"CHUNKING")
        await stage.feed(stage.sender, MAIL + RCPT + b"BDAT 5 LAST\r\nhel")
        stage.receiver.feed_fin()
        await stage.feed(stage.sender, b"lo")
        assert [line[:3] for line in stage.sender.written.splitlines()] == [b"451"] * 3
        stage.sender.written.clear()
        await stage.feed(stage.sender, MAIL)
        for _ in "once", "again":  # after a mail it may be dialled anew, once
            await stage.feed(stage.receiver, b"220 hello\r\n")
            await stage.feed(stage.receiver, b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
            assert stage.receiver.written == b"EHLO x\r\n" + MAIL
            await the_first_leaves(stage)
        assert stage.sender.written.startswith(b"421 ")

    of_two(script)


@pytest.mark.parametrize("octets", [CHUNK, b"text\r\n.\r\n"], ids=["BDAT", "DATA"])
def test_mail_data_without_a_mail_have_their_reply(octets: bytes) -> None:
    """A receiver may take them: that there is a second one makes no difference."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        if octets is not CHUNK:
            await stage.feed(stage.sender, b"DATA\r\n")
            await stage.feed(stage.receiver, b"354 go\r\n")
            stage.sender.written.clear()
        await stage.feed(stage.sender, octets)
        await stage.feed(stage.receiver, b"250 taken\r\n")
        assert stage.sender.written == b"250 taken\r\n"
        await stage.feed(stage.sender, b"QUIT\r\n")
        await stage.feed(stage.receiver, b"221 bye\r\n")
        assert stage.sender.written == b"250 taken\r\n221 bye\r\n"

    of_two(script)


@pytest.mark.parametrize("reply", [b"221 bye\r\n", b"451 try later\r\n"])
def test_a_transaction_goes_to_another_from_its_mail_on_or_not_at_all(reply: bytes) -> None:
    """The second receiver would be given RCPT without it."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        await stage.feed(stage.sender, MAIL)
        await stage.feed(stage.receiver, reply)
        await stage.feed(stage.sender, RCPT)
        await the_first_leaves(stage)
        assert not stage.earlier_receivers
        assert stage.sender.written.startswith(reply + b"421 ")

    of_two(script)


def test_a_sender_that_has_logged_in_is_given_to_no_other() -> None:
    """It could not log in again unasked."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"AUTH PLAIN")
        await stage.feed(stage.sender, b"AUTH PLAIN AGEAYg==\r\n")
        await stage.feed(stage.receiver, b"235 welcome\r\n")
        await stage.feed(stage.sender, MAIL)
        stage.receiver.feed_fin()
        await stage.settle()
        assert stage.sender.written.startswith(b"235 welcome\r\n421 ")
        assert not stage.earlier_receivers

    of_two(script)


# -- what the second one has to be, too

OFFER = b"250-hi\r\n250 XCLIENT ADDR\r\n"
TOLD = b"XCLIENT ADDR=192.0.2.1\r\n"


def test_the_second_one_is_told_who_the_sender_is_before_its_hello() -> None:
    """The first has gone back to its greeting, and leaves at the sender's own EHLO."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        for reply in (OFFER, b"220 hello again\r\n"):
            await stage.feed(stage.receiver, reply)
        assert stage.receiver.written == b"EHLO x\r\n" + TOLD + b"EHLO x\r\n"
        await the_first_leaves(stage)
        for reply in (b"220 hello\r\n", OFFER, b"220 hello again\r\n", OFFER):
            await stage.feed(stage.receiver, reply)
        assert stage.receiver.written == b"EHLO x\r\n" + TOLD + b"EHLO x\r\n"
        assert stage.sender.written.count(b"250 ") == 1
        await stage.feed(stage.sender, MAIL)
        assert stage.receiver.written.endswith(MAIL)

    of_two(script, Policy(fails_over=True, sender_tls=SenderTls.OFF, xclient=True))


def test_a_second_one_that_refuses_to_be_told_gets_nothing_of_the_senders() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        for reply in (OFFER, b"220 hello again\r\n"):
            await stage.feed(stage.receiver, reply)
        await the_first_leaves(stage)
        for reply in (b"220 hello\r\n", OFFER, b"550 no\r\n"):
            await stage.feed(stage.receiver, reply)
        assert stage.receiver.written == b"EHLO x\r\n" + TOLD + b"QUIT\r\n"
        assert stage.sender.written.startswith(b"220 hello\r\n421 ")

    of_two(script, Policy(fails_over=True, sender_tls=SenderTls.OFF, xclient=True))


def test_a_second_one_that_refuses_the_hello_of_the_sender_gets_nothing_else() -> None:
    """The first was given that with shimproxy's own EHLO, and leaves at the sender's."""

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        for reply in (OFFER, b"220 hello again\r\n"):
            await stage.feed(stage.receiver, reply)
        await the_first_leaves(stage)
        for reply in (b"220 hello\r\n", b"550 not you\r\n"):
            await stage.feed(stage.receiver, reply)
        assert stage.receiver.written == b"EHLO x\r\n"
        assert stage.receiver.got_fin
        assert stage.sender.written.startswith(b"220 hello\r\n421 ")

    of_two(script, Policy(fails_over=True, sender_tls=SenderTls.OFF, xclient=True))


@attrs.frozen
class InName:
    """Goes over to TLS, in name."""

    async def secure(self, leg: Leg) -> None:
        leg.secured = True


@pytest.mark.parametrize("tls_works", [True, False])
def test_a_sender_without_a_hello_finds_the_second_one_as_secure_as_the_first(tls_works: bool) -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, MAIL)
        offer = b"250-hi\r\n250 STARTTLS\r\n"
        before = (offer, b"220 go\r\n", b"250-hi\r\n250 AUTH PLAIN\r\n", b"235 welcome\r\n")
        for reply in before:
            await stage.feed(stage.receiver, reply)
        assert stage.receiver.written.endswith(MAIL)
        written = bytes(stage.receiver.written)
        await the_first_leaves(stage)
        await stage.feed(stage.receiver, b"220 hello\r\n")
        for reply in before if tls_works else (offer, b"454 not now\r\n"):
            await stage.feed(stage.receiver, reply)
        if tls_works:
            assert stage.receiver.written == written
        else:
            assert MAIL not in stage.receiver.written
            assert stage.sender.written.startswith(b"220 hello\r\n421 ")

    security = cast("ReceiverSecurity", InName())
    of_two(
        script,
        Policy(
            fails_over=True,
            sender_tls=SenderTls.OFF,
            receiver_tls=ReceiverTls.REQUIRED,
            receiver_security=security,
            login=Login("user", "secret"),
        ),
    )


@attrs.frozen
class Talkative:
    """Goes over to TLS, in name, with a receiver that says something there unasked."""

    async def secure(self, leg: Leg) -> None:
        leg.secured = True
        cast("MemorySocket", leg.sock).feed(b"220 hello inside\r\n")


def test_what_a_receiver_says_unasked_inside_tls_answers_nothing() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        for reply in (b"250-hi\r\n250 STARTTLS\r\n", b"220 go\r\n"):
            await stage.feed(stage.receiver, reply)
        assert stage.receiver.written == b"EHLO x\r\nSTARTTLS\r\nEHLO x\r\n"
        assert stage.sender.written == b"220 hello\r\n"
        await stage.feed(stage.receiver, b"250-hi\r\n250 8BITMIME\r\n")
        assert stage.sender.written == b"220 hello\r\n250-hi\r\n250 8BITMIME\r\n"

    policy = Policy(
        sender_tls=SenderTls.OFF,
        receiver_tls=ReceiverTls.REQUIRED,
        receiver_security=cast("ReceiverSecurity", Talkative()),
    )
    assert staged(script, policy=policy).repaired == [Violation.EXTRA_REPLY]


@pytest.mark.parametrize("said", [b"NOOP\r\n", RCPT])
def test_in_the_midst_of_a_mail_there_is_no_second_one_in_a_session_that_goes_on(said: bytes) -> None:
    """It would know nothing of the chunks before, and refuse the mail, or take what is left of it for all of it."""

    async def script(stage: Stage) -> None:
        await offered(stage, b"CHUNKING")
        for command in (MAIL, RCPT, b"BDAT 5\r\nhello"):
            await stage.feed(stage.sender, command)
            await stage.feed(stage.receiver, b"250 OK\r\n")
        stage.sender.written.clear()
        await stage.feed(stage.sender, said)
        await the_first_leaves(stage)
        assert not stage.earlier_receivers
        assert stage.sender.written.startswith(b"421 ")

    of_two(script, Policy(fails_over=True, resume=True))
