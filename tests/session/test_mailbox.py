"""A mailbox of three mails whose first one is refused for good, each time it is sent: the others must not starve.

fetchmail 6.4.37 fetches them. It keeps the refused one and says RSET. Once that has 421 it gives its next mail to the
dead connection, once in each poll, so that the mail after the refused one is never delivered. That is why a session
goes on after a refusal; see docs/sessions.md, "Sessions that continue".
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
import trio

from shimproxy.faulty.client import WAIT_SECONDS
from shimproxy.faulty.fault import CLOSING, TOO_BIG
from shimproxy.faulty.mail import MIB
from shimproxy.faulty.receiving import FaultyReceiver
from shimproxy.faulty.talk import FIRST_PART_OCTETS, TAKEN, Talk
from tests.peers.mail import mail_of
from tests.peers.programs import fetch
from tests.peers.shim import shim

if TYPE_CHECKING:
    from collections.abc import Callable

SHORT = b"Subject: short\r\n\r\ntext\r\n"
LONG = mail_of("1MiB", MIB).data  # not yet at the receiver when that refuses it
MAILBOX = [LONG, SHORT, SHORT]


def reads_on(talk: Talk) -> None:
    talk.early(TOO_BIG)
    talk.whole()


def says_421_and_closes(talk: Talk) -> None:
    talk.early(TOO_BIG + CLOSING)
    talk.fin()
    talk.read_on()


def resets(talk: Talk) -> None:
    talk.early(TOO_BIG)
    talk.reset()


def refuses_in_time_and_closes(talk: Talk) -> None:
    talk.whole()
    talk.say(TOO_BIG)
    talk.close()


def refuses_in_time_says_421_and_closes(talk: Talk) -> None:
    talk.whole()
    talk.say(TOO_BIG + CLOSING)
    talk.close()


def closes_at_rset(talk: Talk) -> None:
    talk.whole()
    talk.say(TOO_BIG)
    assert talk.line() == b"RSET"
    talk.close()


def closes_at_the_next_mail(talk: Talk) -> None:
    talk.whole()
    talk.say(TOO_BIG)
    while not talk.line().startswith(b"MAIL"):
        talk.say(b"250 2.0.0 Ok\r\n")
    talk.close()


REFUSALS = (
    reads_on,
    says_421_and_closes,
    resets,
    refuses_in_time_and_closes,
    refuses_in_time_says_421_and_closes,
    closes_at_rset,
    closes_at_the_next_mail,
)


def refusing_what_is_not_short(how: Callable[[Talk], None], talk: Talk) -> None:
    first = talk.first_part(len(SHORT))
    if first == SHORT:
        talk.part(len(b".\r\n"))
        talk.seen.mails.append(first)
        talk.say(TAKEN)
    else:
        talk.part(FIRST_PART_OCTETS)
        how(talk)


async def polled(
    how: Callable[[Talk], None], *mailboxes: list[bytes], resume: bool | None
) -> tuple[list[set[int]], int]:
    """What fetchmail has deleted of each mailbox through the shim, and how many mails the receiver has."""
    with trio.fail_after(WAIT_SECONDS), FaultyReceiver(functools.partial(refusing_what_is_not_short, how)) as receiver:
        async with shim(receiver.port, resume=resume) as between:
            ends = [await trio.to_thread.run_sync(fetch, between.port, mails) for mails in mailboxes]
            await between.watcher.sessions_ended(len(mailboxes))
    assert all("SMTP error: 552 Requested mail action aborted" in ended.account for ended, _ in ends)
    return [deleted for _, deleted in ends], len(receiver.seen.mails)


@pytest.mark.parametrize("how", REFUSALS)
async def test_the_mails_after_a_refused_one_are_delivered_in_one_poll(how: Callable[[Talk], None]) -> None:
    assert await polled(how, MAILBOX, resume=None) == ([{2, 3}], 2)


@pytest.mark.parametrize("how", REFUSALS)
async def test_told_that_no_session_goes_on_the_mail_after_a_refused_one_starves(how: Callable[[Talk], None]) -> None:
    first_two = MAILBOX[:2]  # what the first poll leaves
    assert await polled(how, MAILBOX, first_two, first_two, resume=False) == ([{3}, set(), set()], 1)
