"""What a sender has used of its session's limits.

Invariants:

1. Once a limit is reached, the sender's next command gets 421 4.7.0, unless that is QUIT.
2. Nothing that is under way is cut short by one: what was forwarded has its reply, and mail data their verdict.
3. Commands are counted from one mail to the next, so that a busy session never runs out of them.

It does not know what becomes of a command.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from shimproxy.session.limits import Limits

_BAD: Final = frozenset({500, 501, 502, 504})
"""What answers a command that nobody knows (RFC 5321 4.2.2). 503 is not among them: a pipelining sender whose MAIL was
refused gets one for each of its recipients."""


@attrs.define(eq=False)
class Quota:
    """The counts of one session."""

    _limits: Limits
    ends_at: float
    """When the session has had its time, as its watch tells it; its transaction has as much again."""
    commands_left: int = attrs.field(init=False)
    """How many commands are still served. Whoever takes one counts it here: one comparison is all that it costs."""
    reached: str = attrs.field(init=False)
    """The limit that is reached, once no commands are left."""
    _bad_left: int = attrs.field(init=False)
    _mails_left: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._mails_left = self._limits.transactions or sys.maxsize
        self._begin_anew()

    @classmethod
    def beginning(cls, now: float, limits: Limits) -> Quota:
        """That of a session which begins `now`."""
        return cls(limits, now + limits.session_seconds if limits.session_seconds else math.inf)

    def answered(self, code: int) -> None:
        """A command was refused with that code."""
        if code in _BAD:
            self._bad_left -= 1
            if not self._bad_left:
                self.reach("bad-commands")

    def passed(self, *, last: bool) -> None:
        """Mail data, or a chunk that was not empty, came to their end: with the `last`, so did their mail."""
        self._begin_anew()
        self._mails_left -= last
        if self._mails_left <= 0:
            self.reach("transactions")

    def reach(self, limit: str) -> None:
        """That limit is reached."""
        self.commands_left, self.reached = 0, limit

    def _begin_anew(self) -> None:
        limits = self._limits
        self.commands_left, self.reached = limits.commands_without_mail or sys.maxsize, "commands-without-mail"
        self._bad_left = limits.bad_commands or sys.maxsize
