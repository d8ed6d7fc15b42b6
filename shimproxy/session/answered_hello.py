"""A hello that was answered: what the reply means, and which other hello it answers too.

It does not know whose hello it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.smtp.command import HELLOS, Verb, name_given
from shimproxy.smtp.ehlo import keywords
from shimproxy.smtp.reply import Reply

if TYPE_CHECKING:
    from shimproxy.smtp.command import Command
    from shimproxy.smtp.ehlo import Keywords

_ALREADY_SAID: Final = 503
_UNKNOWN_WORD: Final = (500, 502, 504)


@attrs.frozen
class AnsweredHello:
    """A hello, and what the receiver has said to it."""

    hello: Command
    reply: Reply

    @property
    def is_extended(self) -> bool:
        """Whether it asks what the receiver offers."""
        return self.hello.verb is not Verb.HELO

    @property
    def offers(self) -> Keywords:
        """The extensions that the receiver has."""
        return keywords(self.reply) if self.reply.code == 250 and self.is_extended else {}

    @property
    def is_unknown_word(self) -> bool:
        """Whether the receiver knows no such command, whoever says it."""
        return self.reply.code in _UNKNOWN_WORD

    def reply_to(self, command: Command) -> Reply | None:
        """What answers this hello of the sender's, if it says the same."""
        if command.verb not in HELLOS or name_given(command) != name_given(self.hello):
            return None
        return self._reply_to(command.verb)

    def instead_of(self, refusal: Reply, verb: Verb) -> Reply:
        """What answers the sender's first hello, where the receiver has refused it for being its second."""
        return (self._reply_to(verb) if refusal.code == _ALREADY_SAID and self.reply.kind == 2 else None) or refusal

    def _reply_to(self, verb: Verb) -> Reply | None:
        if verb is self.hello.verb:
            return self.reply
        if verb is not Verb.HELO or self.reply.kind != 2:
            return None
        first = self.reply.octets.splitlines(keepends=True)[0]
        return Reply(self.reply.code, first[:3] + b" " + first[4:])
