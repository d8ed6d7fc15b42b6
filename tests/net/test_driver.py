"""The driver has rounds of its own while events come, and trio's tasks have turns beside: on real sockets."""

from __future__ import annotations

import socket

import trio

from shimproxy.net.leg import Leg
from tests.net.ground import Ground, ground

ROUNDS = 2000
MOST_ROUNDS_FOR_A_TURN = 64


def two_legs(on: Ground, name: str) -> list[Leg]:
    """Both ends of one connection, each under a watch of its own."""
    legs = []
    for sock in socket.socketpair():
        sock.setblocking(False)
        legs.append(Leg(name, sock, on.driver, on.watchdog.watch(), name))
    return legs


async def play(leg: Leg, heard: list[int]) -> None:
    """Answer each octet by one: with such a peer the driver has an event in each round."""
    while octets := await leg.read():
        heard.append(1)
        leg.watch.renew()
        leg.send_now(octets)


async def test_other_tasks_have_turns_beside_events_that_never_end() -> None:
    async with ground() as on:
        legs, heard = two_legs(on, "player"), list[int]()
        for leg in legs:
            leg.watch.run(play(leg, heard), on.driver.runner, "player")
        legs[0].send_now(b"x")
        turns = 0
        while len(heard) < ROUNDS:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert turns > ROUNDS / MOST_ROUNDS_FOR_A_TURN
        for leg in legs:
            leg.close()


async def test_a_task_that_a_leg_has_woken_has_its_turn_before_the_next_rounds() -> None:
    async with ground() as on:
        legs, heard = two_legs(on, "player"), list[int]()
        for leg in legs:
            leg.watch.run(play(leg, heard), on.driver.runner, "player")
        mine, peer = two_legs(on, "waiter")
        legs[0].send_now(b"x")
        for _ in range(20):
            peer.send_now(b"y")
            mine.readable = False
            before = len(heard)
            assert await mine.read() == b"y"
            assert len(heard) - before <= 4
            while len(heard) < before + 10:
                await trio.lowlevel.checkpoint()
        for leg in (*legs, mine, peer):
            leg.close()
