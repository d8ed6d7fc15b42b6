"""Whose turn it is: the sender's next command, while replies are relayed and the receiver is watched.

Invariants:

1. A sender that owes no reply to anything has its deadline; while replies are outstanding it is the receiver's.
2. What the receiver says while nothing is outstanding answers nothing.

It does not know what becomes of a command.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

import attrs

from shimproxy.net.errors import Interrupted
from shimproxy.net.tap import Ended
from shimproxy.session.closing import Closing, SessionEnded
from shimproxy.session.in_step import is_in_step, look_for_unasked
from shimproxy.session.phase import conduct
from shimproxy.session.receiver_parting import note_departure
from shimproxy.session.replies import AT_A_LIMIT
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import GROUPED, Verb

if TYPE_CHECKING:
    from shimproxy.session.pending import PendingReplies
    from shimproxy.session.policy import Policy
    from shimproxy.session.reply_waits import ReplyWaits
    from shimproxy.session.sender import Sender
    from shimproxy.session.session_events import SessionEvents
    from shimproxy.smtp.command import Command

_WITH_DATA = frozenset({Verb.DATA, Verb.BDAT})  # what lies behind these may be no command


@attrs.define(eq=False)
class CommandStream:
    """The waits of a session between its commands."""

    sender: Sender
    pending: PendingReplies
    waits: ReplyWaits
    events: SessionEvents
    policy: Policy
    ends_at: float = attrs.field(init=False)
    """When the session is to end, but for its transaction; as the watch tells it."""
    at_rest: bool = False
    """Whether the sender was given its turn, and no command since is being served."""
    _stopping: bool = False
    _pipelining_noted: bool = False

    def __attrs_post_init__(self) -> None:
        self.ends_at = self.pending.quota.ends_at

    async def next_command(self) -> Command:
        """The sender's next command. Raises SessionEnded if one of the peers has ended the session between commands.

        Raises LegBroken, DeadlinePassed, and Interrupted also if the session is asked to stop and is at rest.
        """
        leg, commands, pending = self.sender.leg, self.sender.commands, self.pending
        command = commands.next_command() if commands.ahead else None
        if not pending.outstanding:
            if not self.at_rest:
                self._give_turn()
            if command is None and pending.receiver.replies.unread:
                await self._look_behind_the_reply()
        if command is not None and leg.watch.stretched():
            await self.waits.pause()
        while command is None:
            if not pending.outstanding:
                await self._wait_at_rest()
            else:
                await self.waits.listen()
                if not pending.outstanding:
                    self._give_turn()
                    if pending.receiver.replies.unread:
                        await self._look_behind_the_reply()
            if not leg.readable:
                continue
            octets = leg.look()
            if octets is None:
                continue
            if not octets:
                if leg.ended is Ended.FIN:
                    await self.waits.settle()  # it may have closed its direction only
                self._end_without_quit()
            commands.feed(octets)
            command = commands.next_command()
        self.at_rest = False
        if (
            commands.ahead
            and command.verb not in _WITH_DATA
            and not (pending.capabilities.pipelining and command.verb in GROUPED)
        ):
            self.note_pipelining(command.verb, len(commands.ahead))
        return command

    async def auth_response(self) -> Command | None:
        """The sender's response within AUTH (RFC 4954 section 4); None if the receiver has gone.

        Raises SessionEnded if the sender has gone, LegBroken, DeadlinePassed, Interrupted.
        """
        leg, commands, receiver = self.sender.leg, self.sender.commands, self.pending.receiver
        leg.watch.allow(self.policy.deadlines.command, "an AUTH response")
        while (response := commands.next_response()) is None:
            octets = await leg.read()
            if not octets:
                self._end_without_quit()
            commands.feed(octets)
        self.pending.events.heard_response(response)
        return response if receiver.quiet or await is_in_step(receiver) else None

    async def end_at_limit(self, command: Command) -> NoReturn:
        """Give what is outstanding its reply, and this command the last one of the session.

        Raises SessionEnded, LegBroken, DeadlinePassed, Interrupted.
        """
        await self.waits.settle()
        self.events.phase = command.verb
        self.events.repaired(Violation.LIMIT_REACHED, limit=self.pending.quota.reached)
        raise SessionEnded(Closing.BY_SHIM, AT_A_LIMIT)

    def note_pipelining(self, behind: Verb, octets: int) -> None:
        """Count it once a session that the sender did not wait where it should."""
        if not self._pipelining_noted:
            self._pipelining_noted = True
            self.events.repaired(Violation.UNOFFERED_PIPELINING, behind=behind, octets=octets)

    def stop(self) -> None:
        """End the session as soon as it is at rest, without a transaction."""
        self._stopping = True
        pending = self.pending
        self.ends_at = -math.inf
        if self.at_rest and not pending.outstanding and not pending.transaction.is_open:
            self.sender.leg.watch.interrupt()

    def _give_turn(self) -> None:
        """The sender is to speak next. Raises Interrupted."""
        watch = self.sender.leg.watch
        if watch.now > self.ends_at:
            self._end_in_time()
        self.at_rest = True
        deadlines, seconds = self.policy.deadlines, self.policy.deadlines.command
        if self.sender.told_421:  # the usual phases are not looked up: that is for each command
            seconds = conduct(self.events.phase).command_seconds(deadlines)
        watch.allow(seconds, "a command")

    def _end_in_time(self) -> None:
        """The session is to end, if it has no transaction. Raises Interrupted."""
        in_transaction, quota = self.pending.transaction.is_open, self.pending.quota
        if self._stopping and not in_transaction:
            raise Interrupted
        # One that gives a recipient every few minutes is no transaction that comes to an end.
        if not in_transaction or self.sender.leg.watch.now > quota.ends_at + self.policy.limits.session_seconds:
            quota.reach("session-seconds")

    async def _look_behind_the_reply(self) -> None:
        """Drop what came with the last reply. Raises DeadlinePassed, Interrupted."""
        receiver = self.pending.receiver
        while not receiver.gone and look_for_unasked(receiver):
            await self.sender.leg.watch.pause()

    async def _wait_at_rest(self) -> None:
        """Wait for a sender that owes no reply to anything, or for its receiver to go meanwhile."""
        leg, receiver = self.sender.leg, self.pending.receiver
        if receiver.gone:
            await leg.wait_to_read()
            return
        await leg.speaks_or(receiver.leg)
        if receiver.leg.readable and not leg.readable:
            while look_for_unasked(receiver) and not leg.readable:
                await leg.watch.pause()
            if receiver.gone and conduct(self.events.phase).closing is Closing.BY_RECEIVER:
                raise SessionEnded(Closing.BY_RECEIVER)  # it has said 421 and disconnected: so does the shim

    def _end_without_quit(self) -> NoReturn:
        """The sender has gone."""
        pending = self.pending
        served = self.events.record.transactions > 0 and not pending.transaction.is_open
        note_departure(pending.receiver, self.sender.leg.ended, served=served)
        raise SessionEnded(Closing.BY_SENDER)
