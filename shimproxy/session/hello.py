"""The receiver is given one hello for the sender: its own, or one of shimproxy's with the same name.

RFC 5321 4.1.1.1.

Invariants:

1. A receiver that has answered EHLO is given no second one for the same sender, unless it has gone back to its
   greeting in between (STARTTLS, XCLIENT) or the sender says one more than it had to: some take one (OpenSMTPD says
   "503 Already identified").
2. What such a receiver has said to shimproxy's own EHLO answers the sender's, as it gives the same name.
3. A receiver that refuses EHLO costs a sender that says HELO nothing: it is dialled again, and given none.

It does not know what a keyword is good for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.session.answered_hello import AnsweredHello
from shimproxy.session.in_step import ask_receiver
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import hello_like, name_given
from shimproxy.smtp.dialogue import ANSWERS, RELAY, ruling

if TYPE_CHECKING:
    from shimproxy.session.policy import Policy
    from shimproxy.session.receiver import Receiver
    from shimproxy.smtp.command import Command
    from shimproxy.smtp.ehlo import Keywords
    from shimproxy.smtp.reply import Reply


@attrs.define(eq=False)
class Hellos:
    """What is said to the receivers of one session of who the sender is."""

    policy: Policy
    _refused_at: tuple[tuple[str, bytes], ...] = ()
    """Who has refused EHLO with which name, so that only the sender may say it there: a name may be the reason."""

    async def offers(
        self, receiver: Receiver, command: Command, seconds: float | None = None, *, first: bool = False
    ) -> Keywords | None:
        """What the receiver offers to the sender that has said `command`; None if it has gone.

        It is asked if it was not, and given `seconds` for its reply if that is less than it has otherwise; `first` as
        in ask_receiver. Raises DeadlinePassed, Interrupted.
        """
        hello = hello_like(command, lmtp=self.policy.lmtp)
        answered = receiver.answered_hello
        if not answered or (command.verb is hello.verb and not answered.is_extended):
            if (receiver.leg.peer, name_given(hello)) in self._refused_at and command.verb is not hello.verb:
                return {}
            reply = await ask_receiver(receiver, hello, seconds, first=first)
            if reply is None:
                return None
            if ruling(ANSWERS[hello.verb], reply)[0] is not RELAY:
                receiver.give_up_in_disorder(Violation.IMPLAUSIBLE_REPLY, reply)
                return None
            answered = receiver.answered_hello = AnsweredHello(hello, reply)
        return answered.offers

    def are_refused(self, receiver: Receiver) -> bool:
        """Whether the receiver has refused shimproxy's own hello."""
        answered = receiver.answered_hello
        return answered is not None and answered.reply.refuses

    def refusal_of(self, receiver: Receiver, command: Command) -> Reply | None:
        """That refusal, if it is one of the sender's command too."""
        answered = receiver.answered_hello
        return answered.reply_to(command) if answered and answered.reply.refuses else None

    def note_refusal(self, receiver: Receiver) -> None:
        """Give the receiver that has refused EHLO none with that name again, but the sender's own."""
        answered = receiver.answered_hello
        assert answered is not None
        self._refused_at = (*self._refused_at, (receiver.leg.peer, name_given(answered.hello)))

    def reply_to(self, receiver: Receiver, command: Command) -> Reply | None:
        """What the receiver has said already to what the sender says now, if that is a hello. A refusal counts once."""
        answered = receiver.answered_hello
        reply = answered.reply_to(command) if answered else None
        if answered and reply and reply.refuses:
            if answered.is_unknown_word:
                self.note_refusal(receiver)
            receiver.answered_hello = None
        return reply

    async def say(self, receiver: Receiver, hello: Command) -> Reply | None:
        """The receiver's reply to the sender's hello, which it is given unless it has answered it; None if it has gone.

        Raises DeadlinePassed, Interrupted.
        """
        if reply := self.reply_to(receiver, hello):
            return reply
        answered, reply = receiver.answered_hello, await ask_receiver(receiver, hello)
        if reply and reply.kind == 2:
            receiver.answered_hello = AnsweredHello(hello, reply)
        return answered.instead_of(reply, hello.verb) if answered and reply else reply
