"""Another leg for a sender whose receiver leaves, or is silent, before it has accepted a MAIL.

At first it leads to another receiver. After a mail, in a session that goes on, it may lead to the same one: whether a
receiver that leaves does so just before the sender's next command or just after is a matter of chance.

Invariants:

1. Nothing is given to a second receiver of which the first has answered anything but a hello: no mail is sent twice.
   Once the first was given mail data, or a chunk, there is no second one: their octets are not kept.
2. Each receiver is tried once for what is unanswered; then the sender has its replies as it has them without others.
3. The second one is as secure, and knows as well who the sender is, as the first had to before it was given anything.

It does not know why a receiver has left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.session.receiver_connector import NoReceiver
from shimproxy.smtp.command import DATA, HELLOS, Verb

if TYPE_CHECKING:
    from shimproxy.session.pending import PendingReplies
    from shimproxy.session.receiver_connector import ReceiverConnector
    from shimproxy.smtp.command import Command

_MAY_BE_SAID_AGAIN: Final = HELLOS | {Verb.MAIL, Verb.RCPT, DATA, Verb.RSET, Verb.NOOP}
_BEGINS_ANEW: Final = HELLOS | {Verb.MAIL, Verb.RSET}
_OF_A_TRANSACTION: Final = {Verb.MAIL, Verb.RCPT, DATA}


def resumes(pending: PendingReplies) -> bool:
    """Whether a receiver that is gone may be dialled anew: not once the sender was told 421, or has logged in."""
    policy = pending.policy
    may = (
        policy.resume
        or (policy.resumes_after_refusal and pending.transaction.mail_refused)
        or (policy.fails_over and not pending.has_served)
    )
    return may and not (pending.sender.told_421 or pending.authenticated)


@attrs.define(eq=False)
class Replacement:
    """What a session's receiver was given and has not answered, until it has accepted a MAIL."""

    _connector: ReceiverConnector
    _anew: bool = False
    """Whether the same receiver may be dialled anew, once."""
    _commands: list[Command] = attrs.field(factory=list)

    def queued(self, command: Command) -> None:
        """The receiver is given a command."""
        self._commands.append(command)

    def answered(self) -> None:
        """The first of them has its reply."""
        del self._commands[0]

    @property
    def is_possible(self) -> bool:
        """Whether there is another receiver for what is unanswered: for a transaction, from its MAIL on."""
        verbs = [command.verb for command in self._commands]
        first = next((verb for verb in verbs if verb in _OF_A_TRANSACTION), Verb.MAIL)
        return self._connector.route.has_more and first is Verb.MAIL and _MAY_BE_SAID_AGAIN.issuperset(verbs)

    def _may_be_anew(self, pending: PendingReplies) -> bool:
        """Whether a receiver that knows nothing of an open transaction can be given what is unanswered."""
        verbs = [command.verb for command in self._commands]
        begins = verbs[0] in _BEGINS_ANEW or (verbs[0] is Verb.NOOP and not pending.transaction.is_open)
        return self._anew and begins and pending.hello is not None and _MAY_BE_SAID_AGAIN.issuperset(verbs)

    async def made(self, pending: PendingReplies) -> bool:
        """Give what is unanswered to another receiver, as this one was given up; whether there was one.

        Raises Interrupted.
        """
        if pending.authenticated or pending.sender.told_421:
            return False
        connector, receiver = self._connector, pending.receiver
        if self._may_be_anew(pending):
            self._anew = False
            await receiver.earlier.see_off()
            connector.was_left_by_itself(blameless=pending.is_blameless)
            connector.route.begin_anew()
        elif self.is_possible and not (pending.has_refused or pending.transaction.is_open):
            connector.was_left_by_itself(blameless=pending.is_blameless)
        else:
            return False
        # What the other one says at first answers none of them.
        outstanding, pending.outstanding[:] = [*pending.outstanding], []
        try:
            ready = await connector.another(pending, self._commands[0])
        except NoReceiver as failed:
            connector.events.ended(failed.by)
            return False
        finally:
            pending.outstanding[:] = outstanding
        if not ready:
            receiver.give_up()
            return False
        for command in self._commands:
            receiver.queue(command)
        return True
