"""The sender's transaction at its receiver (RFC 5321 3.3, RFC 3030): recipients, size, chunks, and what was refused.

Invariants:

1. A receiver accepts MAIL, and the transaction is open until the mail has its verdict, or another one may begin.
2. What refused one chunk of a mail answers all chunks that follow, until another transaction may begin.
3. A command that was refused between two chunks may refuse the mail. The receiver is asked before the next chunk.

It does not know how replies are relayed. One object serves all transactions of a session, one after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.smtp.command import Verb

if TYPE_CHECKING:
    from shimproxy.session.size_limit import SizeLimit
    from shimproxy.smtp.command import Command
    from shimproxy.smtp.reply import LocalReply, Reply


@attrs.define(eq=False)
class Transaction:
    """What the sender has begun and not ended."""

    is_open: bool = False
    """Whether the receiver has accepted MAIL, and mail data have no verdict yet."""
    has_refusal: bool = False
    """Whether the receiver has refused anything since it accepted MAIL."""
    recipients: int = 0
    """How many the receiver has accepted."""
    size: SizeLimit | None = None
    """The size of the mail, where the operator has set limits."""
    mail_refused: bool = False
    """Whether mail data, or a chunk, had any other reply than 2yz, and no MAIL was accepted since."""
    chunks_open: bool = False
    """Whether the receiver was given a chunk of the mail, and neither the last one nor a new transaction since."""
    chunk_refusal: Reply | LocalReply | None = None
    """What refused a chunk of the mail."""
    refused_between_chunks: Reply | None = None
    """What refused a command between two chunks, while it is not known whether that refuses the mail."""
    chunks_in_doubt: bool = False
    """Whether a command is outstanding that a receiver may refuse so."""
    commands_before_chunks: int = 0
    """How many of the outstanding commands the receiver was given before the first chunk of the mail."""

    def verdicts_due(self, *, lmtp: bool) -> int:
        """How many replies the mail gets: with LMTP one for each recipient (RFC 2033 section 4.2)."""
        return self.recipients if lmtp and self.recipients else 1

    # -- what is forwarded

    def forward(self, command: Command) -> None:
        """The receiver is given a command."""
        if self.size and command.verb is Verb.RCPT:
            self.size.asked(command)
        if self.chunks_open:
            self.chunks_in_doubt = True

    def forward_chunk(self, *, last: bool, outstanding: int) -> None:
        """The receiver is given a chunk, while so many commands and chunks are outstanding."""
        if not (self.chunks_open or last):
            self.commands_before_chunks = outstanding
        self.chunks_open = not last

    # -- what is answered

    def begin(self) -> None:
        """The receiver has accepted MAIL."""
        self.is_open, self.has_refusal, self.mail_refused = True, False, False

    def answer_recipient(self, *, accepted: bool) -> None:
        """The receiver has answered RCPT."""
        self.recipients += accepted
        if self.size:
            self.size.ruled(accepted=accepted)

    def end(self) -> None:
        """The mail has its verdict, or is given up."""
        self.is_open = False
        self.recipients = 0
        if self.size:
            self.size.reset()

    def reset(self) -> None:
        """Nothing is left of what the sender has begun: another transaction may begin."""
        self.end()
        self.chunks_open, self.chunk_refusal, self.refused_between_chunks = False, None, None

    def lose(self) -> None:
        """The receiver that has accepted MAIL is given up, and another takes its place."""
        self.is_open = False
