"""The golden transcripts as cases: their peers say what is written there, in that order, whatever they read.

A step comes when both peers and shimproxy have nothing left to do. What the transcript says of shimproxy (`S<`, `R<`,
`repairs:`) is left to tests/session/test_transcripts.py: behind a fault it is not so, but the guarantees hold.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.help.explain.transcript import Transcript, decide, line_octets
from shimproxy.session.limits import Limits
from shimproxy.session.policy import Policy, Repairs
from tests.explore.cases import Case, Step
from tests.explore.naive import replies
from tests.explore.peers import Peer, ReceiverPeer, Said, SenderPeer

if TYPE_CHECKING:
    from tests.explore.world import World

_MOST_OCTETS: Final = 2000
"""Longer ones are about length, which is no matter of an octet."""


class ScriptedSender(SenderPeer):
    """A sender that waits for its turn in the script."""

    def more(self) -> None:
        pass

    def end_if_done(self) -> bool:
        return False

    def meet_end(self) -> None:
        if not self.stays:
            self.close()


class ScriptedReceiver(ReceiverPeer):
    """A receiver that reads commands as ever, and answers when it has its turn."""

    def put(self, reply: bytes, answers: bytes, kind: str) -> None:
        pass

    def say_in_turn(self, octets: bytes) -> None:
        """Say these, each reply with a number in it."""
        found = replies(octets)
        for reply in found.found:
            text = reply.octets
            if reply.well_formed:
                first, _, rest = text.partition(b"\r\n")
                text = b"%s #%02d\r\n%s" % (first, len(self.said), rest)
                self.said[text] = Said(text, reply.code, b"")
                self.own_said.append(self.said[text])
            self.pending += text
            last = self.lines[-1].upper() if self.lines else b""
            if reply.code == 334 and last.startswith(b"AUTH"):
                self.mode = "RESPONSE"
            elif reply.code == 354 and last == b"DATA\r\n" and not self.silent:
                self.mode = "MAIL"
        self.pending += found.rest

    def meet_end(self) -> None:
        if not self.sock.rst_arrived:
            self.fin_in = self.mode


class Script:
    """How far a script has come."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = list(steps)

    def step(self, world: World) -> bool:
        """Take the next step; whether there was one, and it may be taken."""
        if not self._steps:
            return self._end(world)
        if any(peer.paused for peer in world.peers):
            return False
        step = self._steps.pop(0)
        if step.what == "WAIT":
            world.wait(float(step.octets))
            return True
        peers: list[Peer] = [world.sender] if step.who == "S" else [*world.receivers[-1:]]
        if not peers or peers[0].closed:
            return True
        (peer,) = peers
        if step.what == "FIN":
            peer.saw_end = peer.silent = True
            peer.sock.peer_fin()
        elif step.what == "RST":
            peer.closed = True
            peer.sock.peer_rst()
        elif step.what == "STALL":
            peer.sock.window_octets = len(peer.sock.written) - peer.sock.read_octets
        elif isinstance(peer, ScriptedReceiver):
            peer.say_in_turn(step.octets)
        else:
            peer.pending += step.octets
        return True

    @staticmethod
    def _end(world: World) -> bool:
        """Behind the last step, whoever has met the end of its connection closes it, too."""
        for peer in world.peers:
            if not peer.closed and peer.saw_end and peer.sock.shim_fin:
                peer.close()
                return True
        return False


def _step(line: str) -> Step | None:
    if line.startswith("wait "):
        return Step("", "WAIT", line[5:].encode())
    if line[1:3] != "> ":
        return None
    text = line[3:]
    if text in ("[FIN]", "[RST]", "[takes nothing]", "[acknowledges nothing]"):
        return Step(line[0], text[1:-1] if text in ("[FIN]", "[RST]") else "STALL")
    return Step(line[0], "SAY", line_octets(text))


def _steps(lines: tuple[str, ...]) -> tuple[Step, ...]:
    steps: list[Step] = []
    last = ""
    for line in lines:
        if step := _step(line):
            if step.what == "SAY" and step.who == "R" and last == "R" and steps[-1].what == "SAY":
                steps[-1] = Step("R", "SAY", steps[-1].octets + step.octets)
            else:
                steps.append(step)
        last = line[:1] if line[1:3] == "> " else ""
    return tuple(steps)


def cases() -> tuple[Case, ...]:
    """One of each transcript."""
    found = []
    for transcript in Transcript.all():
        steps = _steps(transcript.lines)
        given: Any = SimpleNamespace(limits=Limits(), policy=Policy(), origin_policy=None)
        decide(given, transcript.given)
        # What a rule makes of a reply is none that a receiver has said; and what is only observed keeps no guarantee.
        judged = not (given.policy.rewrites or given.policy.observed) and given.policy.repairs is not Repairs.OBSERVE
        if given.origin_policy is None and judged and sum(len(step.octets) for step in steps) < _MOST_OCTETS:
            case = Case(
                f"transcript:{transcript.name}",
                (),
                policy=attrs.evolve(given.policy, limits=given.limits),
                own_commands=True,
                lmtp=given.policy.lmtp,
                sender_stays=True,
                script=steps,
                reachable="# unreachable" not in transcript.lines,
            )
            found.append(case)
    return tuple(found)
