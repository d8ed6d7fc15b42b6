"""The table: every fault receiver, through the shim, with every sender and both sizes of mail, by DATA and in chunks.

In each cell the guarantees must hold: no sender hangs (7, 8); it believes the mail delivered if and only if the
receiver has it whole (3, 5); a refusal reaches it word for word (2), and nothing else is invented (4); it gets one
verdict (1); and mail data never becomes commands (6). What is expected stands beside each fault receiver.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from shimproxy import Violation
from shimproxy.faulty.client import WAIT_SECONDS
from shimproxy.faulty.outcome import Believed, Outcome
from shimproxy.faulty.sending import (
    chunk_by_chunk,
    chunks_at_once,
    ignores_eof,
    never_closes,
    one_chunk,
    sender_of_1999,
)
from tests.peers.exim import Exim, exim
from tests.peers.mail import INJECTED, LARGE, SIZES, SMALL
from tests.peers.outcome import EARLY_SUCCESS, NO_VERDICT, OUT_OF_STEP, refused
from tests.peers.postfix import Postfix, postfix
from tests.peers.programs import curl, fetchmail, msmtp, smtp_sink, swaks
from tests.peers.senders import python_smtplib
from tests.peers.shim import shim
from tests.peers.table import QUICK_TO_RESET, TABLE, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shimproxy.faulty.mail import Mail
    from shimproxy.faulty.talk import Seen

CELL_SECONDS = 120.0
SMTP_SINK_REFUSES = refused(b"550 This violates SMTP\r\n")


async def cell(row: Row, mail: Mail, send: Callable[..., Outcome], *, surely_early: bool = False) -> None:
    """Send one mail through the shim to the fault receiver, and check the guarantees.

    If the reply is to be `surely_early`, the sender goes on only when the receiver has given it.
    """
    with trio.fail_after(CELL_SECONDS), row.start() as receiver:
        send = functools.partial(send, early=receiver.seen.early) if surely_early else send
        async with shim(receiver.port, row.deadlines) as between:
            outcome = await trio.to_thread.run_sync(send, between.port, mail)
            await between.watcher.sessions_ended()
    # Only now has the receiver taken note of all that it was sent.
    check(row, mail, outcome, receiver.seen, surely_early)
    check_told(row, outcome, [repair.violation for repair in between.watcher.repairs], surely_early)


async def cells(row: Row, mail: Mail, senders: Iterable[Callable[..., Outcome]], *, surely_early: bool = False) -> None:
    """The same with several senders at once."""
    async with trio.open_nursery() as nursery:
        for send in senders:
            with_this = functools.partial(cell, row, mail, send, surely_early=surely_early)
            nursery.start_soon(with_this, name=send.__name__)


NAMES_OF_NO_VERDICT = {
    Violation.CLOSED_IN_DATA,
    Violation.RESET_IN_DATA,
    Violation.STALLED_IN_DATA,
    Violation.NO_REPLY,
    Violation.IMPLAUSIBLE_REPLY,
}


def check_told(row: Row, outcome: Outcome, told: list[Violation], surely_early: bool) -> None:
    """Guarantee 11: the repair is told under its name, and where there was none, none is."""
    (expected, *_) = row.large
    case = f"{row.name}: {outcome}, told of {[str(each) for each in told]}"
    if row.name == "well-behaved":
        assert set(told) <= {Violation.NO_CLOSE}, case  # of a sender that stays
    elif expected is EARLY_SUCCESS:
        assert (Violation.EARLY_SUCCESS in told) == EARLY_SUCCESS.allows(outcome), case
    elif expected is NO_VERDICT:
        assert set(told) & NAMES_OF_NO_VERDICT, case
    elif expected is OUT_OF_STEP:
        assert Violation.IMPLAUSIBLE_REPLY in told, case
    elif surely_early:
        assert Violation.EARLY_REPLY in told, case


def check(row: Row, mail: Mail, outcome: Outcome, seen: Seen, surely_early: bool) -> None:
    """The other guarantees, for one mail."""
    # A small mail may have reached the receiver whole before it replied: then the reply was not early.
    early = surely_early or mail is LARGE
    allowed = row.large if early else row.small
    case = f"{row.name}, {mail.name}: {outcome}"
    assert outcome.believed is not Believed.HUNG, case
    assert any(expected.allows(outcome) for expected in allowed), f"{case}, not any of {allowed}"
    has_it = [mail.is_whole(data, stuffed=not row.chunked) for data in seen.mails]
    assert has_it == ([True] if outcome.believed is Believed.DELIVERED else []), case
    if outcome.parting is not None:
        assert outcome.parting.count(b"\r\n") == 1, case
        assert outcome.parting.startswith(b"221 ") or not early, case
    if early:
        assert not set(seen.run) & set(INJECTED), case
    if surely_early:
        assert seen.octets_after_early == 0, case
        assert len(set(outcome.replies)) == 1, f"{case}: {outcome.replies}"


CHUNKED = [row.in_chunks() for row in TABLE.values() if not row.fault.not_in_chunks]


def parametrized(rows: Iterable[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in rows])


every_fault = parametrized(TABLE.values())
every_early_fault = parametrized(row for row in TABLE.values() if row.fault.replies_early)
every_fault_in_chunks = parametrized(CHUNKED)
every_early_fault_in_chunks = parametrized(row for row in CHUNKED if row.fault.replies_early)
large_is_slow = pytest.mark.parametrize(
    "mail", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=[SMALL.name, LARGE.name]
)
every_size = pytest.mark.parametrize("mail", [pytest.param(mail, id=mail.name) for mail in SIZES])


@every_fault
@every_size
async def test_the_sender_of_1999_learns_what_became_of_its_mail(row: Row, mail: Mail) -> None:
    await cell(row, mail, sender_of_1999)


@every_fault
@every_size
async def test_smtplib_learns_what_became_of_its_mail(row: Row, mail: Mail) -> None:
    await cell(row, mail, python_smtplib)


@every_early_fault
@large_is_slow
async def test_after_an_early_reply_not_one_octet_goes_to_the_receiver(row: Row, mail: Mail) -> None:
    await cell(row, mail, sender_of_1999, surely_early=True)


@pytest.mark.parametrize("name", ["q152940", "q152940-rst", "early-552-drains", "well-behaved"])
@pytest.mark.parametrize("send", [never_closes, ignores_eof])
async def test_a_sender_of_1999_that_does_not_close_is_freed(name: str, send: Callable[[int, Mail], Outcome]) -> None:
    await cell(attrs.evolve(TABLE[name], deadlines=QUICK_TO_RESET), LARGE, send)


# -- in chunks


SENDERS_OF_CHUNKS = (one_chunk, chunk_by_chunk, chunks_at_once)


@every_fault_in_chunks
@every_size
async def test_senders_of_chunks_learn_what_became_of_their_mail(row: Row, mail: Mail) -> None:
    await cells(row, mail, SENDERS_OF_CHUNKS)


@every_early_fault_in_chunks
@large_is_slow
async def test_of_chunks_not_one_octet_goes_to_a_receiver_that_has_replied_early(row: Row, mail: Mail) -> None:
    await cells(row, mail, SENDERS_OF_CHUNKS, surely_early=True)


# -- without the shim: that the faults are faults


def sent_directly(row: Row, mail: Mail, patience_seconds: float = WAIT_SECONDS) -> tuple[Outcome, Seen]:
    """What the sender of 1999 believes, and what the receiver has seen, with nothing between them."""
    with row.start() as receiver:
        outcome = sender_of_1999(receiver.port, mail, patience_seconds=patience_seconds)
    return outcome, receiver.seen


@pytest.mark.parametrize("name", ["q152940", "early-552-shuts-its-window"])
def test_without_the_shim_the_sender_of_1999_blocks(name: str) -> None:
    outcome, _ = sent_directly(TABLE[name], LARGE, patience_seconds=0.5)
    assert outcome.believed is Believed.HUNG


@pytest.mark.parametrize("name", ["q152940-rst", "iis-reset", "chasquid-521-close", "no-crlf-before-fin"])
def test_without_the_shim_the_verdict_is_lost(name: str) -> None:
    outcome, _ = sent_directly(TABLE[name], LARGE, patience_seconds=5.0)
    assert outcome.believed is not Believed.BOUNCED


@pytest.mark.parametrize("name", ["mailpit", "gen-smtp-size", "haraka-stays-and-parses"])
def test_without_the_shim_mail_data_becomes_commands(name: str) -> None:
    _, seen = sent_directly(TABLE[name], SMALL)
    assert seen.run


# -- with programs


@pytest.fixture(scope="module")
def a_postfix() -> Iterator[Postfix]:
    with postfix() as running:
        yield running


@pytest.fixture(scope="module")
def an_exim() -> Iterator[Exim]:
    with exim() as running:
        yield running


@pytest.mark.slow
@pytest.mark.once
@every_size
@every_fault
async def test_programs_learn_what_became_of_their_mail(row: Row, mail: Mail) -> None:
    await cells(row, mail, (swaks, curl, msmtp, fetchmail))


@pytest.mark.slow
@pytest.mark.once
@every_size
@every_fault
async def test_postfix_learns_what_became_of_its_mail(row: Row, mail: Mail, a_postfix: Postfix) -> None:
    await cell(row, mail, a_postfix.send)


@pytest.mark.slow
@pytest.mark.once
@every_size
@every_fault
async def test_exim_learns_what_became_of_its_mail(row: Row, mail: Mail, an_exim: Exim) -> None:
    await cell(row, mail, an_exim.send)


@pytest.mark.slow
@pytest.mark.once
@every_size
@every_fault_in_chunks
async def test_exim_learns_what_became_of_its_mail_in_chunks(row: Row, mail: Mail, an_exim: Exim) -> None:
    """BDAT with the header in one group with MAIL and RCPT, then one with the body."""
    await cell(row, mail, an_exim.send)


# -- the receiver that is a program


@pytest.mark.parametrize("send", [sender_of_1999, python_smtplib, swaks, curl, msmtp, fetchmail])
@every_size
async def test_smtp_sinks_early_reply_reaches_every_sender(mail: Mail, send: Callable[[int, Mail], Outcome]) -> None:
    with trio.fail_after(CELL_SECONDS), smtp_sink("-A", "0") as port:
        async with shim(port) as between:
            outcome = await trio.to_thread.run_sync(send, between.port, mail)
            await between.watcher.sessions_ended()
    assert SMTP_SINK_REFUSES.allows(outcome), outcome
