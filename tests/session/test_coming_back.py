"""What a session does where its receiver may lead back here; what is tried for that is in tests/net/test_loops.py."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
import trio
import trio.testing

from shimproxy.net.loops import Loops, Trial
from shimproxy.session.policy import Policy, Repairs
from shimproxy.smtp.catalogue import Violation
from tests.memory import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

LOOP = b"421 mail loop: the receiver's address leads back here, closing connection\r\n"


@attrs.define(eq=False)
class Given(Loops):
    """Loops that were looked for elsewhere."""

    trial: Trial | None = None
    """What the first leg was shut for."""
    stays: bool = True

    async def hold(self, *_: object) -> bool:
        return self.stays

    def trial_of(self, _: object) -> Trial | None:
        trial, self.trial = self.trial, None
        return trial


def played(
    loops: Loops,
    policy: Policy | None = None,
    *,
    sender_ends: bool = False,
    first_said: bytes = b"",
    greets: bool = False,
) -> Stage:
    """A session whose first leg was shut; afterwards the sender disconnects, or the receiver greets on another one."""
    clock = trio.testing.MockClock()

    async def main() -> Stage:
        async with trio.open_nursery() as nursery:
            stage = Stage(nursery, clock, loops=loops, policy=policy or Policy())
            await stage.start()
            if sender_ends:
                stage.sender.feed_fin()
                await stage.settle()
            leg = stage.receiver
            if first_said:
                await stage.feed(leg, first_said)
            leg.feed_fin()
            await stage.settle()
            if isinstance(loops, Given) and greets:
                await stage.feed(stage.receiver, b"220 mail.example\r\n")
            stage.sender.feed_fin()
            await stage.settle()
            nursery.cancel_scope.cancel()
        return stage

    return trio.run(main, clock=clock)


def over(*, proven: bool) -> Trial:
    trial = Trial(proven=proven)
    trial.over.set()
    return trial


@pytest.mark.parametrize("repairs", Repairs)
def test_a_sender_whose_leg_belonged_to_a_loop_gets_421(repairs: Repairs) -> None:
    stage = played(Given(trial=over(proven=True)), Policy(repairs=repairs))

    assert stage.sender.written == LOOP
    assert stage.repaired == [Violation.LOOP]
    assert stage.receiver.got_rst


@pytest.mark.parametrize("repairs", Repairs)
def test_it_is_dialled_for_again_if_there_was_no_loop(repairs: Repairs) -> None:
    stage = played(Given(trial=over(proven=False)), Policy(repairs=repairs), greets=True)

    assert stage.sender.written == b"220 mail.example\r\n"
    assert len(stage.earlier_receivers) == 1
    assert stage.earlier_receivers[0].got_rst
    assert Violation.LOOP not in stage.repaired


@pytest.mark.parametrize("said", [b"220-mail.example\r\n", b"220 mail.example\r\n"])
def test_a_greeting_that_came_while_its_leg_was_shut_is_none(said: bytes) -> None:
    """The leg is of no use: the receiver is dialled again, and no sender is refused."""
    stage = played(Given(trial=over(proven=False)), first_said=said, greets=True)

    assert stage.sender.written == b"220 mail.example\r\n"
    assert len(stage.earlier_receivers) == 1
    assert not {Violation.NO_GREETING, Violation.LOOP} & {*stage.repaired}


@pytest.mark.parametrize("proven", [True, False])
def test_a_part_of_the_loop_ends_without_a_word(*, proven: bool) -> None:
    """Its sender was another part, and has ended."""
    stage = played(Given(trial=over(proven=proven)), sender_ends=True)

    assert stage.sender.written == b""
    assert stage.repaired == []
    assert stage.record.ended_by == "sender"


@attrs.define(eq=False)
class LeadsBack(Loops):
    """As if NAT led every connection back."""

    @property
    def some_wait(self) -> bool:
        return True

    def has_come_back(self, _: object) -> bool:
        return True


@pytest.mark.parametrize("repairs", Repairs)
def test_a_connection_that_nat_has_led_back_gets_421_and_nobody_is_dialled(repairs: Repairs) -> None:
    stage = played(LeadsBack(), Policy(repairs=repairs))

    assert stage.sender.written == LOOP
    assert stage.repaired == [Violation.LOOP]
    assert stage.receiver.leg is None


@attrs.define(eq=False)
class Held(Loops):
    """A sender speaks while it is held."""

    async def hold(self, _: object, feed: Callable[[bytes], object], __: object = None) -> bool:
        feed(b"EHLO early\r\n")
        return True


def test_what_a_sender_says_while_it_is_held_passes_where_it_is_observed() -> None:
    loops = Held()
    loops.suspects[socket.AF_INET, ("192.0.2.2", 25)] = cast("Any", None)
    stage = played(loops, Policy(repairs=Repairs.OBSERVE))

    assert stage.receiver.written == b"EHLO early\r\n"


def test_one_that_has_ended_while_it_was_held_is_not_dialled_for() -> None:
    loops = Given(stays=False)
    loops.suspects[socket.AF_INET, ("192.0.2.2", 25)] = cast("Any", None)
    stage = played(loops)

    assert stage.receiver.leg is None
    assert stage.record.ended_by == "sender"


def test_an_observed_sender_that_has_spoken_too_early_is_not_dialled_for_again() -> None:
    """What it has said is gone with the leg that was shut: it sees that end, as through a plain proxy."""
    loops = Given(trial=over(proven=False))
    clock = trio.testing.MockClock()

    async def main() -> Stage:
        async with trio.open_nursery() as nursery:
            stage = Stage(nursery, clock, loops=loops, policy=Policy(repairs=Repairs.OBSERVE))
            await stage.start()
            await stage.feed(stage.sender, b"EHLO early\r\n")
            assert stage.receiver.written == b"EHLO early\r\n"
            stage.receiver.feed_fin()
            await stage.settle()
            assert stage.sender.got_fin
            nursery.cancel_scope.cancel()
        return stage

    stage = trio.run(main, clock=clock)
    assert stage.sender.written == b""
    assert stage.earlier_receivers == []
