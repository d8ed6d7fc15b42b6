"""What the probe asks aside, in its order: how each question is asked, and the words for what was seen.

A question has a connection of its own. What was seen stands in the field of the Account that has the question's name,
which is also its key in the JSON. A question that is more than one command is asked by session.py, and report.py has
its words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.probe import report
from shimproxy.probe.session import Sessions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimproxy.probe.account import Account, Aside
    from shimproxy.probe.plan import ProbePlan


@attrs.frozen
class Question:
    """One thing that is asked aside."""

    name: str
    """The field of the Account that has what was seen."""
    ask: Callable[[Sessions, Any], Awaitable[None]]
    """Asks it, and notes in that field what was seen."""
    words: Callable[[Account], list[report.Line]]
    """The lines of the report."""


def _command(
    name: str, label: str, command: Callable[[ProbePlan], str], words: Callable[[Aside, str], str]
) -> Question:
    """A question that is one command after the hello; its words are made of what was seen and of the reply in words."""

    async def ask(sessions: Sessions, seen: Aside) -> None:
        await sessions.ask_aside(seen, command(sessions.plan))

    def lines(account: Account) -> list[report.Line]:
        seen: Aside = getattr(account, name)
        if seen.left_out:
            return [(label, report.not_tried(seen.left_out))]
        return [(label, words(seen, str(seen.reply or report.no_reply(account, seen))))]

    return Question(name, ask, lines)


def _of_unknown_command(seen: Aside, reply: str) -> str:
    return f"{seen.command}: {reply}"


def _of_recipient_first(seen: Aside, reply: str) -> str:
    is_taken = seen.reply is not None and seen.reply.code // 100 == 2
    return f"RCPT before MAIL: {reply}" + ("; it needs no MAIL before" if is_taken else "")


QUESTIONS: Final = (
    Question("second_hello", Sessions.second_hello, report.of_second_hello),
    Question("early_talk", Sessions.early_talk, report.of_early_talk),
    Question("bare_newline", Sessions.bare_newline, report.of_bare_newline),
    _command("unknown_command", "Unknown", lambda _: "XSHIMPROXY", _of_unknown_command),
    _command("recipient_first", "RCPT first", lambda plan: f"RCPT TO:{plan.recipient}", _of_recipient_first),
    Question("keywords", Sessions.keywords, report.of_keywords),
    Question("chunk", Sessions.chunk, report.of_chunk),
    Question("half_close", Sessions.half_close, report.of_half_close),
)
